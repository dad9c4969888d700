"""Temporary files: aiofiles' `tempfile`. With an `executor` they are the standard library's, as there, else aioring's.

The parameters are those of aiofiles on the running Python: `delete_on_close` came with 3.12.
"""

from __future__ import annotations

import sys
import tempfile
from asyncio import AbstractEventLoop
from functools import partial, singledispatch
from io import BufferedRandom, BufferedReader, BufferedWriter, FileIO, TextIOBase
from typing import Any

from ...files.here import Kinds
from ...files.temporary import Named, open_named, open_unnamed
from ..base import AiofilesContextManager, call
from ..threadpool.binary import AsyncBufferedIOBase, AsyncBufferedReader, AsyncFileIO
from ..threadpool.ring_files import KINDS, OpenRaw, OpenReader, OpenText, OpenWriter
from ..threadpool.text import AsyncTextIOWrapper
from .temptypes import AsyncSpooledTemporaryFile, AsyncTemporaryDirectory, RingSpooledTemporaryFile, Spool

__all__ = ["NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory"]

_ON_CLOSE = sys.version_info >= (3, 12)  # `delete_on_close`


class _NamedText(Named, OpenText):  # type: ignore[misc]
    """A text file with a name."""


class _NamedReader(Named, OpenReader):  # type: ignore[misc]
    """A binary one."""


class _NamedWriter(Named, OpenWriter):  # type: ignore[misc]
    """A binary one that is only written."""


class _NamedRaw(Named, OpenRaw):  # type: ignore[misc]
    """A binary one without a buffer."""


_NAMED = Kinds(_NamedRaw, _NamedReader, _NamedWriter, _NamedText)


class _TemporaryContextManager(AiofilesContextManager[Any]):
    """What a temporary file's making gives: at the end of its block the name goes, too. (A spooled one of aioring's own is
    closed here, by the ring, where it may be on disk.)"""

    __slots__ = ()

    async def __aexit__(self, *raised: Any) -> None:
        obj = self._obj
        try:
            if isinstance(obj, RingSpooledTemporaryFile):
                await obj.close()
                self._obj = None
            else:
                await super().__aexit__(*raised)
        finally:
            if isinstance(obj, Named):
                await obj.remove()


if sys.version_info >= (3, 12):

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        delete: bool = True,
        delete_on_close: bool = True,
        loop: AbstractEventLoop | None = None,
        executor: Any = None,
    ) -> AiofilesContextManager[Any]:
        """A temporary file with a name (`f.name`), which goes when the file is closed, as `tempfile.NamedTemporaryFile`."""
        affixes = suffix, prefix, dir
        making = _named(mode, buffering, encoding, newline, affixes, delete, delete_on_close, loop, executor)
        return _TemporaryContextManager(making)

else:

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        delete: bool = True,
        loop: AbstractEventLoop | None = None,
        executor: Any = None,
    ) -> AiofilesContextManager[Any]:
        """A temporary file with a name (`f.name`), which goes when the file is closed, as `tempfile.NamedTemporaryFile`."""
        affixes = suffix, prefix, dir
        return _TemporaryContextManager(
            _named(mode, buffering, encoding, newline, affixes, delete, True, loop, executor)
        )


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[Any]:
    """A temporary file without a name, as `tempfile.TemporaryFile`."""
    return AiofilesContextManager(_unnamed(mode, buffering, encoding, newline, (suffix, prefix, dir), loop, executor))


def SpooledTemporaryFile(
    max_size: int = 0,
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[AsyncSpooledTemporaryFile]:
    """A temporary file that is kept in memory up to `max_size` bytes, as `tempfile.SpooledTemporaryFile`."""
    affixes = suffix, prefix, dir
    return _TemporaryContextManager(_spooled(max_size, mode, buffering, encoding, newline, affixes, loop, executor))


def TemporaryDirectory(
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManagerTempDir:
    """A temporary folder; entering it gives its path, as of `tempfile.TemporaryDirectory`."""
    return AiofilesContextManagerTempDir(_directory(suffix, prefix, dir, loop, executor))


async def _named(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    affixes: tuple[Any, Any, Any],
    delete: bool,
    delete_on_close: bool,
    loop: AbstractEventLoop | None,
    executor: Any,
) -> Any:
    if executor is None:
        return await open_named(_NAMED, mode, buffering, encoding, None, newline, affixes, delete, delete_on_close)
    further: dict[str, Any] = {"delete": delete}
    if _ON_CLOSE:
        further["delete_on_close"] = delete_on_close
    making = partial(tempfile.NamedTemporaryFile, mode, buffering, encoding, newline, *affixes, **further)
    file = await call(loop, executor, making)
    found = wrap(file.file, file, loop=loop, executor=executor)
    found.delete = delete
    return found


async def _unnamed(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    affixes: tuple[Any, Any, Any],
    loop: AbstractEventLoop | None,
    executor: Any,
) -> Any:
    if executor is None:
        return await open_unnamed(KINDS, mode, buffering, encoding, None, newline, affixes)
    making = partial(tempfile.TemporaryFile, mode, buffering, encoding, newline, *affixes)
    file: Any = await call(loop, executor, making)
    return wrap(file, file, loop=loop, executor=executor)


async def _spooled(
    max_size: int,
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    affixes: tuple[Any, Any, Any],
    loop: AbstractEventLoop | None,
    executor: Any,
) -> AsyncSpooledTemporaryFile:
    if executor is None:
        return RingSpooledTemporaryFile(Spool(KINDS, max_size, mode, buffering, encoding, None, newline, affixes))
    making = partial(tempfile.SpooledTemporaryFile, max_size, mode, buffering, encoding, newline, *affixes)
    file: Any = await call(loop, executor, making)
    return AsyncSpooledTemporaryFile(file, loop=loop, executor=executor)


async def _directory(
    suffix: Any, prefix: Any, dir: Any, loop: AbstractEventLoop | None, executor: Any
) -> AsyncTemporaryDirectory:
    folder = await call(loop, executor, partial(tempfile.TemporaryDirectory, suffix, prefix, dir))
    return AsyncTemporaryDirectory(folder, loop=loop, executor=executor)


class AiofilesContextManagerTempDir(AiofilesContextManager[Any]):
    """Entering it gives the folder's path, not the object, as of the blocking one."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return (await self).name


@singledispatch
def wrap(base_io_obj: Any, file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> Any:
    """The awaited form of `file`, by the type of the object below it."""
    raise TypeError(f"Unsupported IO type: {base_io_obj}")


@wrap.register(TextIOBase)
def _(_: Any, file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncTextIOWrapper:
    return AsyncTextIOWrapper(file, loop=loop, executor=executor)


@wrap.register(BufferedWriter)
def _(_: Any, file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncBufferedIOBase:
    return AsyncBufferedIOBase(file, loop=loop, executor=executor)


@wrap.register(BufferedReader)
@wrap.register(BufferedRandom)
def _(_: Any, file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncBufferedReader:
    return AsyncBufferedReader(file, loop=loop, executor=executor)


@wrap.register(FileIO)
def _(_: Any, file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncFileIO:
    return AsyncFileIO(file, loop=loop, executor=executor)
