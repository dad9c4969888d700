"""What is left of an open file, in pieces: `File.iter_chunks`."""

from __future__ import annotations

from typing import Any, AnyStr, Generic, Self

__all__ = ["CHUNK", "Chunks"]

CHUNK = 256 << 10  # bytes, or characters


class Chunks(Generic[AnyStr]):
    """An async iterator, which does not close the file."""

    __slots__ = ("_file", "_size")

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyStr:
        chunk: AnyStr = await self._file.read(self._size)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aread(self, n: int = -1) -> AnyStr:
        """The next piece, of `n` at most; without `n` all that is left. Empty at the end."""
        data: AnyStr = await self._file.read(n)
        return data
