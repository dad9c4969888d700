"""`open_file`, `wrap_file` and `AsyncFile`, in anyio's dialect.

A file of somebody else's is anyio's business: its threads, its limiter, with the calls put in order. A file that is opened
here is aioring's own, with what the dialect has other words for: `aclose` closes, `close`, `detach`, `peek`, `readall`,
`buffer` and `raw` are those of the blocking file behind it (`wrapped`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from asyncio.events import _get_running_loop
from collections.abc import Callable
from os import PathLike
from typing import IO, TYPE_CHECKING, Any, AnyStr, TypeVar, cast, overload

import anyio
from anyio import CapacityLimiter, to_thread

from ..files import BinaryFile, File, RawFile, TextFile
from ..files.blocking import Absent, blocking, detached
from ..files.here import Kinds
from ..files.opening import Opening

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

__all__ = ["KINDS", "AsyncFile", "OpenRaw", "OpenReader", "OpenText", "OpenWriter", "open_file", "wrap_file"]

T = TypeVar("T")


class _Call:
    """One call on a thread. anyio's cancel waits for it; asyncio's own does not, and then the next call does."""

    def __init__(self, release: Callable[[], Any]) -> None:
        self._release = release
        self._guard = threading.Lock()
        self._begun = self._left = False
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, func: Callable[..., T], *args: Any) -> T | None:
        """On the thread."""
        with self._guard:
            if self._left:
                return None  # nobody waits for it, and it may be another's turn
            self._begun = True
        try:
            return func(*args)
        finally:
            with self._guard:
                self._over = True
            if self._left:
                self._release_late()

    def leave(self) -> None:
        """On the loop: who has called goes."""
        with self._guard:
            self._left = True
            if self._begun and not self._over:
                self._loop = _get_running_loop()
                return
        self._release()

    def _release_late(self) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._release)
        except RuntimeError:
            self._release()  # the loop is closed: nobody waits


class AsyncFile(anyio.AsyncFile[AnyStr]):
    """anyio's `AsyncFile`, whose calls run one after another, in the order in which they were made."""

    _turn: Any

    def __init__(self, fp: IO[AnyStr], *, limiter: CapacityLimiter | None = None) -> None:
        super().__init__(fp, limiter=limiter)  # type: ignore[arg-type]
        self._turn = anyio.Semaphore(1, fast_acquire=True)

    async def _run(self, func: Callable[..., Any], *args: Any) -> Any:
        """On a thread of anyio's, in its turn."""
        await self._turn.acquire()
        call = _Call(self._turn.release)
        try:
            return await to_thread.run_sync(call.run, func, *args, limiter=self._limiter)
        finally:
            call.leave()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} of {self._fp!r}>"


def _in_order(method: Callable[..., Any]) -> Any:
    name, parameters = method.__name__, inspect.signature(method)

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs)
        given.apply_defaults()
        file, *values = given.args
        return await file._run(getattr(file._fp, name), *values)

    return call


for _name in (
    "read", "read1", "readline", "readlines", "readinto", "readinto1", "write", "writelines", "truncate", "seek", "tell",
    "flush",
):  # fmt: skip
    setattr(AsyncFile, _name, _in_order(getattr(anyio.AsyncFile, _name)))


class _Dialect(File[Any]):
    """What all files that are opened here have."""

    _limiter: CapacityLimiter | None = None

    @property
    def _fp(self) -> Any:
        return blocking(self)

    @property
    def wrapped(self) -> Any:
        """The blocking file behind it."""
        return blocking(self)

    @property
    def limiter(self) -> CapacityLimiter | None:
        """As it was given; no thread is used that it could limit."""
        return self._limiter

    aclose = File.close

    def close(self) -> None:  # type: ignore[override]
        """Close it here and now, blocking; `aclose` is awaited."""
        blocking(self).close()

    async def __aexit__(self, *raised: object) -> None:
        if not self._close_here():
            await self.aclose()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class OpenText(_Dialect, TextFile, AsyncFile[str]):  # type: ignore[misc]
    """A text file."""

    read1: Any = Absent()
    readinto: Any = Absent()
    readinto1: Any = Absent()
    write_through = False

    @property
    def buffer(self) -> Any:
        return self._fp.buffer

    def detach(self) -> Any:
        return detached(self)


class OpenReader(_Dialect, BinaryFile, AsyncFile[bytes]):  # type: ignore[misc]
    """A buffered binary file that is read, or read and written."""

    @property
    def raw(self) -> Any:
        return self._fp.raw

    async def readinto(self, b: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - anyio's word
        return await BinaryFile.readinto(self, b)

    async def readinto1(self, b: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return await BinaryFile.readinto1(self, b)

    def peek(self, size: int = 0, /) -> Any:
        return self._fp.peek(size)

    def detach(self) -> Any:
        return detached(self)


class OpenWriter(_Dialect, BinaryFile, AsyncFile[bytes]):  # type: ignore[misc]
    """A buffered binary file that is only written."""

    peek: Any = Absent()

    @property
    def raw(self) -> Any:
        return self._fp.raw

    def detach(self) -> Any:
        return detached(self)


class OpenRaw(_Dialect, RawFile, AsyncFile[bytes]):  # type: ignore[misc]
    """A binary file without a buffer."""

    read1: Any = Absent()
    readinto1: Any = Absent()
    detach: Any = Absent()

    async def readinto(self, b: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - anyio's word
        return await RawFile.readinto(self, b)

    def readall(self) -> Any:
        return self._fp.readall()


KINDS = Kinds(OpenRaw, OpenReader, OpenWriter, OpenText)


@overload
async def open_file(
    file: str | PathLike[str] | int,
    mode: OpenBinaryMode,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
    *,
    limiter: CapacityLimiter | None = ...,
) -> AsyncFile[bytes]: ...
@overload
async def open_file(
    file: str | PathLike[str] | int,
    mode: OpenTextMode = ...,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
    *,
    limiter: CapacityLimiter | None = ...,
) -> AsyncFile[str]: ...
async def open_file(
    file: str | PathLike[str] | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    limiter: CapacityLimiter | None = None,
) -> AsyncFile[Any]:
    """Open a file, as `anyio.open_file`: `async with await open_file(path) as f`.

    Its reads and writes go to the running loop's ring. `limiter` is kept (`f.limiter`); no thread is used that it could
    limit. Cancelling and errors as of `aioring.open`.
    """
    if limiter is not None and not isinstance(limiter, CapacityLimiter):
        raise TypeError(f"limiter must be a CapacityLimiter or None, not {limiter.__class__.__name__}")
    found: Any = await Opening(None, KINDS, file, mode, buffering, encoding, errors, newline, closefd, opener)
    if limiter is not None:
        found._limiter = limiter
    return cast("AsyncFile[Any]", found)


def wrap_file(file: IO[AnyStr], *, limiter: CapacityLimiter | None = None) -> AsyncFile[AnyStr]:
    """A blocking file object as an asynchronous one, as `anyio.wrap_file`: on anyio's threads, in order of the calls."""
    return AsyncFile(file, limiter=limiter)
