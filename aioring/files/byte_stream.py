"""A file as a stream of bytes, in the shape that others take: httpx, aiohttp, asyncpg's COPY, aioboto3.

They want an async iterable of `bytes`, or an `aread(n)` (httpx asks for that first), and know nothing of aioring.
"""

from __future__ import annotations

import os
from typing import Any, Self

from ..ring import Ring
from .chunks import CHUNK
from .whole import NOT_TRIED, StrOrBytesPath, begin

__all__ = ["ByteStream", "stream"]


class _Reader:
    """One pass over a file, which is open from the first piece to the end."""

    def __init__(self, path: Any, chunk: int, ring: Ring | None) -> None:
        self._path, self._chunk, self._ring = path, chunk, ring
        self._file: Any = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read(self._chunk)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self, n: int) -> bytes:
        if self._over:
            return b""
        if self._file is None:
            self._file = await begin(self._ring, self._path, NOT_TRIED)
        data: bytes = await (self._file.read(n) if n >= 0 else self._file.readall())
        if n and not data:
            await self.aclose()  # (not before: nothing is awaited between what was read and its return)
        return data

    async def aclose(self) -> None:
        self._over = True
        if self._file is not None:
            await self._file.close()

    def __del__(self) -> None:
        file = self.__dict__.get("_file")
        if file is not None and not file.closed:
            file._close_in_place()  # who leaves an `async for` has no way to say so


class ByteStream:
    """What `aioring.stream` gives. Each `async for` reads the file from its start, and so may be sent again."""

    def __init__(self, path: StrOrBytesPath, chunk: int, ring: Ring | None) -> None:
        self._path = os.fspath(path)
        self._chunk = chunk
        self._ring = ring
        self._reader: _Reader | None = None

    def __aiter__(self) -> _Reader:
        return _Reader(self._path, self._chunk, self._ring)

    async def aread(self, n: int = -1) -> bytes:
        """The next `n` bytes at most, or all that is left; b"" at the end. (After that it begins at the start again: httpx,
        which is sent elsewhere, sends all of it there.)"""
        reader = self._reader
        if reader is None:
            reader = self._reader = _Reader(self._path, self._chunk, self._ring)
        data = await reader.read(n)
        if n and not data:
            self._reader = None
        return data

    async def aclose(self) -> None:
        """Close what `aread` has open."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()


def stream(path: StrOrBytesPath, chunk: int = CHUNK, *, ring: Ring | None = None) -> ByteStream:
    """A file as an async iterable of `bytes`, `chunk` of them at a time, fewer in the last: for `httpx.post(content=...)`,
    aiohttp's `data=`, asyncpg's `copy_to_table(source=...)`.

    Nothing is opened before the first piece is asked for; the file is closed behind the last, or where the iterator is
    dropped. Cancelling loses no byte. `ring`: by default that of the loop that iterates.

    Raises (as it is iterated):
        OSError: as `read_file`.
        ValueError: `chunk` is not positive (at once); `path` has a NUL in it.
        RingClosedError, WrongLoopError: as `read_file`.
    """
    if chunk < 1:
        raise ValueError(f"chunk {chunk}: must be at least 1")
    return ByteStream(path, chunk, ring)
