"""`open`, `wrap` and the standard streams: aiofiles' `threadpool`.

What `open` opens goes to the ring. To a worker, and to the built-in `open`, goes what a user wants there: a file with an
`executor` of its own, and everything while `sync_open` (the hook that aiofiles documents for tests) or the built-in `open`
itself (pyfakefs) is not what it was.
"""

from __future__ import annotations

import builtins
import sys
from asyncio import AbstractEventLoop
from functools import partial, singledispatch
from io import BufferedIOBase, BufferedRandom, BufferedReader, BufferedWriter, FileIO, TextIOBase
from typing import TYPE_CHECKING, Any, Literal, overload

from ...files.here import open_here
from ...files.opening import open_file
from ..base import AiofilesContextManager, call
from .binary import AsyncBufferedIOBase, AsyncBufferedReader, AsyncFileIO, AsyncIndirectBufferedIOBase
from .ring_files import KINDS
from .text import AsyncTextIndirectIOWrapper, AsyncTextIOWrapper

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from _typeshed import (
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
    )

    FileDescriptorOrPath = int | str | bytes | PathLike[str] | PathLike[bytes]
    Opener = Callable[[str, int], int]

__all__ = ("open", "stdin", "stdout", "stderr", "stdin_bytes", "stdout_bytes", "stderr_bytes")

sync_open: Any = builtins.open
_builtin = builtins.open


class _Opening(AiofilesContextManager[Any]):
    """`open` by the ring."""

    __slots__ = ("_asked", "_executor", "_ref_loop")

    def __init__(self, loop: AbstractEventLoop | None, executor: Any, *asked: Any) -> None:
        self._coro = None
        self._obj = None
        self._ref_loop = loop
        self._executor = executor
        self._asked: tuple[Any, ...] | None = asked  # None: it has been

    # Hot path: once per file, as that of aioring.open's `Opening`.

    async def __aenter__(self) -> Any:
        if self._obj is None:
            asked = self._asked
            if asked is None:
                raise RuntimeError("cannot reuse already awaited coroutine")  # aiofiles', which awaits one
            self._asked = None
            if self._executor is not None or sync_open is not _builtin or builtins.open is not _builtin:
                self._obj = await _elsewhere(self._ref_loop, self._executor, *asked)
            else:
                found = open_here(None, KINDS, *asked)
                self._obj = await open_file(None, KINDS, found, *asked) if found.__class__ is int else found
        return self._obj

    def __await__(self) -> Any:
        return self.__aenter__().__await__()


@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[AsyncTextIOWrapper]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[AsyncFileIO]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeReading | OpenBinaryModeUpdating,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[AsyncBufferedReader]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[AsyncBufferedIOBase]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[Any]: ...
def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> AiofilesContextManager[Any]:
    """Open a file, as `aiofiles.open`: await what this gives, or enter it with `async with`.

    Reads, writes and all else go to the running loop's ring. A file with an `executor` is carried out by it, with the
    built-in `open`, and by nothing else; `loop` is taken for compatibility.

    Raises (at the `await`) what `aioring.open` raises, in the built-in's words.
    """
    return _Opening(loop, executor, file, mode, buffering, encoding, errors, newline, closefd, opener)


async def _open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Any = None,
) -> Any:
    return await _Opening(loop, executor, file, mode, buffering, encoding, errors, newline, closefd, opener)


class _Late:
    """A file that is opened on a worker, and perhaps for nobody: who asked for it may be cancelled meanwhile."""

    def __init__(self, open_it: Any) -> None:
        self._open_it = open_it
        self._file: Any = None
        self._gone = False

    def opened(self) -> Any:
        self._file = file = self._open_it()
        if self._gone:
            file.close()
        return file

    def forsake(self) -> None:
        self._gone = True
        if self._file is not None:
            self._file.close()


async def _elsewhere(
    loop: AbstractEventLoop | None,
    executor: Any,
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Any,
) -> Any:
    """By the built-in `open`, or what stands in its place."""
    how = {"mode": mode, "buffering": buffering, "encoding": encoding, "errors": errors, "newline": newline}
    chosen = sync_open if sync_open is not _builtin else builtins.open
    late = _Late(partial(chosen, file, **how, closefd=closefd, opener=opener))
    try:
        opened = await call(loop, executor, late.opened)
    except BaseException:
        late.forsake()
        raise
    return wrap(opened, loop=loop, executor=executor)


@singledispatch
def wrap(file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> Any:
    """The awaited form of a file object that is open already, by its type; `wrap.register` adds types."""
    raise TypeError(f"Unsupported io type: {file}.")


@wrap.register(TextIOBase)
def _(file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncTextIOWrapper:
    return AsyncTextIOWrapper(file, loop=loop, executor=executor)


@wrap.register(BufferedWriter)
@wrap.register(BufferedIOBase)
def _(file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncBufferedIOBase:
    return AsyncBufferedIOBase(file, loop=loop, executor=executor)


@wrap.register(BufferedReader)
@wrap.register(BufferedRandom)
def _(file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncBufferedReader:
    return AsyncBufferedReader(file, loop=loop, executor=executor)


@wrap.register(FileIO)
def _(file: Any, *, loop: AbstractEventLoop | None = None, executor: Any = None) -> AsyncFileIO:
    return AsyncFileIO(file, loop=loop, executor=executor)


stdin = AsyncTextIndirectIOWrapper("sys.stdin", None, None, indirect=lambda: sys.stdin)
stdout = AsyncTextIndirectIOWrapper("sys.stdout", None, None, indirect=lambda: sys.stdout)
stderr = AsyncTextIndirectIOWrapper("sys.stderr", None, None, indirect=lambda: sys.stderr)
stdin_bytes = AsyncIndirectBufferedIOBase("sys.stdin.buffer", None, None, indirect=lambda: sys.stdin.buffer)
stdout_bytes = AsyncIndirectBufferedIOBase("sys.stdout.buffer", None, None, indirect=lambda: sys.stdout.buffer)
stderr_bytes = AsyncIndirectBufferedIOBase("sys.stderr.buffer", None, None, indirect=lambda: sys.stderr.buffer)
