"""What every file object of the drop-in is, and what `open` gives: aiofiles' `base`."""

from __future__ import annotations

import functools
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, AnyStr, Generic, ParamSpec, TypeVar

from ..files.file import File
from ..files.wrapped import InOrder
from ..ring import get_ring

__all__ = ["AiofilesContextManager", "AsyncBase", "AsyncIndirectBase", "call", "wrap"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Self = TypeVar("Self", bound="AsyncBase[Any]")
P = ParamSpec("P")


async def call(loop: AbstractEventLoop | None, executor: Any, func: Callable[[], T]) -> T:
    """A blocking call: in `executor`, if one was given, or else on the workers of the running loop's ring."""
    if executor is None:
        return await get_ring().run(func)
    return await (loop or get_running_loop()).run_in_executor(executor, func)


def wrap(func: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """An `async def` of a blocking function, with `loop` and `executor` as further keywords."""

    @functools.wraps(func)
    async def run(*args: Any, loop: AbstractEventLoop | None = None, executor: Any = None, **kwargs: Any) -> T:
        return await call(loop, executor, functools.partial(func, *args, **kwargs))

    return run


class AsyncBase(Generic[AnyStr]):
    """A blocking file object, awaited: every call goes to the object, on a worker, in the order of the calls.

    (Files that `open` has opened itself are subclasses of these classes, and go to the ring: `threadpool/ring_files.py`.)
    """

    def __init__(self, file: Any, loop: AbstractEventLoop | None, executor: Any) -> None:
        self._file = file
        self._executor = executor
        self._ref_loop = loop
        self._calls = InOrder()

    @property
    def _loop(self) -> AbstractEventLoop:
        return self._ref_loop or get_running_loop()

    async def _delegate(self, func: Callable[[], Any]) -> Any:
        if self._executor is None:
            return await self._calls.call(func)
        return await self._loop.run_in_executor(self._executor, func)

    def __aiter__(self: Self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"{super().__repr__()} wrapping {self._file!r}"

    async def __anext__(self) -> AnyStr:
        line: AnyStr = await self.readline()  # type: ignore[attr-defined]
        if line:
            return line
        raise StopAsyncIteration


class AsyncIndirectBase(AsyncBase[AnyStr]):
    """The same of an object that is looked up at each call: what `sys.stdout` is just now."""

    def __init__(self, name: str, loop: AbstractEventLoop | None, executor: Any, indirect: Callable[[], Any]) -> None:
        self._indirect = indirect
        self._name = name
        super().__init__(None, loop, executor)

    @property
    def _file(self) -> Any:
        return self._indirect()

    @_file.setter
    def _file(self, value: Any) -> None:
        pass

    async def _delegate(self, func: Callable[[], Any]) -> Any:
        # Loops come and go, in any thread, and the object with them: there is no order to keep.
        return await call(self._ref_loop, self._executor, func)


class AiofilesContextManager(Awaitable[T_co], AbstractAsyncContextManager[T_co]):
    """What `open` gives: await it for the file, or enter it. Nothing is opened before."""

    __slots__ = ("_coro", "_obj")

    def __init__(self, coro: Any) -> None:
        self._coro = coro
        self._obj: Any = None

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self._obj is None:
            self._obj = yield from self._coro.__await__()
        return self._obj  # type: ignore[no-any-return]

    async def __aenter__(self) -> T_co:
        return await self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        obj = self._obj
        if isinstance(obj, File):
            if not obj._close_here():
                await obj.close()
        else:
            end = functools.partial(obj._file.__exit__, exc_type, exc_val, exc_tb)
            await call(None, getattr(obj, "_executor", None), end)
        self._obj = None
