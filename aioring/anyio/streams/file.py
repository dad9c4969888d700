"""Byte streams from and to a file: `anyio.streams.file`, whose `from_path` opens by the ring.

A stream over a file object of somebody else's is anyio's own.
"""

from __future__ import annotations

import os
from os import PathLike
from typing import IO, Any, TypeVar

import anyio.streams.file
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.file import FileStreamAttribute

from ...files import BinaryFile
from ..files import open_file

__all__ = ["FileReadStream", "FileStreamAttribute", "FileWriteStream"]

R = TypeVar("R", bound="FileReadStream")
W = TypeVar("W", bound="FileWriteStream")


class FileReadStream(anyio.streams.file.FileReadStream):
    """`anyio.streams.file.FileReadStream`."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._opened: Any = None  # the ring's, if it was opened here; `_file` then is its blocking form

    @classmethod
    async def from_path(cls: type[R], path: str | PathLike[str]) -> R:
        """Open `path` for reading, by the ring."""
        file: Any = await open_file(os.fspath(path), "rb")
        stream = cls(file.wrapped)
        stream._opened = file
        return stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """`max_bytes` bytes, or what is left of them; raises `EndOfStream` at the end."""
        if self._opened is None:
            return await super().receive(max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        try:
            data: bytes = await BinaryFile.read(self._opened, max_bytes)
        except ValueError:
            raise ClosedResourceError from None
        except OSError as error:
            raise BrokenResourceError from error
        if data:
            return data
        raise EndOfStream

    async def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if self._opened is None:
            return await super().seek(position, whence)
        found: int = await self._opened.seek(position, whence)
        return found

    async def tell(self) -> int:
        if self._opened is None:
            return await super().tell()
        found: int = await self._opened.tell()
        return found

    async def aclose(self) -> None:
        await _aclose(self._opened, super().aclose)


class FileWriteStream(anyio.streams.file.FileWriteStream):
    """`anyio.streams.file.FileWriteStream`."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._opened: Any = None

    @classmethod
    async def from_path(cls: type[W], path: str | PathLike[str], append: bool = False) -> W:
        """Open `path` for writing, by the ring: at its end, or cut to nothing."""
        file: Any = await open_file(os.fspath(path), "ab" if append else "wb")
        stream = cls(file.wrapped)
        stream._opened = file
        return stream

    async def send(self, item: bytes) -> None:
        """Write all of `item`."""
        if self._opened is None:
            await super().send(item)
            return
        try:
            await BinaryFile.write(self._opened, item)
        except ValueError:
            raise ClosedResourceError from None
        except OSError as error:
            raise BrokenResourceError from error

    async def aclose(self) -> None:
        await _aclose(self._opened, super().aclose)


async def _aclose(opened: Any, otherwise: Any) -> None:
    if opened is None:
        await otherwise()
        return
    await opened.aclose()
    await checkpoint_if_cancelled()
