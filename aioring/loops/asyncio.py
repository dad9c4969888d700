"""asyncio and uvloop: a doorbell is a reader, a waiter is a Future, a tick's end is a `call_soon`."""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import CancelledError
from asyncio.events import _get_running_loop  # C, no exception where none runs
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from types import MethodType
from typing import Any, cast

from . import Over, Waitable

__all__ = ["AsyncioLoop"]


class AsyncioLoop:
    """An asyncio event loop. Every method but `running_here` is for the loop's own thread."""

    kind = "asyncio"
    checks = False
    call_soon: Callable[..., Any]
    create_future: Callable[[], Any] | None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = loop
        self._loop = loop
        self.call_soon = loop.call_soon
        self.create_future = loop.create_future
        self._hooked: weakref.WeakMethod[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def running_here(self) -> bool:
        return _get_running_loop() is self._loop

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Callable[[], Any]:
        return self._loop.call_later(delay, callback).cancel

    def watch(self, fd: int, callback: Callable[[], Any]) -> None:
        self._loop.add_reader(fd, callback)

    def unwatch(self, fd: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(fd)

    async def unwatched(self) -> None:
        return None

    def wake(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def park(
        self, thing: Waitable, on_cancel: Callable[[Any], bool], struck: BaseException | None = None
    ) -> None:
        cancelled: CancelledError | None = None
        try:
            while True:
                if struck is not None:
                    # GeneratorExit: the coroutine is being closed, nobody will come back for the result.
                    if on_cancel(thing) or not isinstance(struck, CancelledError):
                        raise struck
                    # The first is raised in the end: anyio knows its own by it.
                    cancelled, struck = cancelled or struck, None
                if thing.finished():
                    break
                thing.waiter = self._loop.create_future()
                try:
                    await (thing.waiter if cancelled is None else _out_of_reach(thing.waiter))
                except BaseException as error:
                    struck = error
            if cancelled is not None:
                raise cancelled
        finally:
            struck = cancelled = None  # an exception must not hold the frame that holds it

    def spawn(self, body: Callable[[], Coroutine[Any, Any, Any]], over: Over) -> Callable[[], Any]:
        task = self._loop.create_task(body())
        self._tasks.add(task)  # the loop itself holds tasks weakly

        def done(task: asyncio.Task[Any]) -> None:
            try:
                self._tasks.discard(task)
                if task.cancelled():  # perhaps before its first step
                    over(None, None)
                elif task.exception() is not None:
                    over(None, task.exception())
                else:
                    over(task.result(), None)
            except KeyboardInterrupt:
                self._loop.call_soon(done, task)  # whoever waits is to be told
                raise

        task.add_done_callback(done)
        return task.cancel

    async def checkpoint(self) -> None:
        return None

    def at_close(self, callback: Callable[[], Any]) -> None:
        # Weak: a ring that its user has dropped is to be collected, not kept by its loop.
        self._hooked = weakref.WeakMethod(cast("MethodType", callback))
        _CloseHook.of(self._loop).callbacks.append(self._hooked)

    def done(self) -> None:
        hook = self._loop.__dict__.get("close")
        if isinstance(hook, _CloseHook) and self._hooked is not None and self._hooked in hook.callbacks:
            hook.callbacks.remove(self._hooked)
            if not hook.callbacks:
                del self._loop.__dict__["close"]

    def keep(self, thing: Any) -> None:
        _CloseHook.of(self._loop).kept = thing

    def kept(self) -> Any:
        hook = self._loop.__dict__.get("close")
        return hook.kept if isinstance(hook, _CloseHook) else None


async def _out_of_reach(waiter: asyncio.Future[None]) -> None:
    """Wait for what has to come first. A cancelled scope of anyio's tells its tasks so in every tick of the loop until they
    are out of it: that would take a whole core, and the GIL from the worker who is to bring about the end."""
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)
    if scope is None:  # then nobody has any
        await waiter
    else:
        with scope(shield=True):
            await waiter


class _CloseHook:
    """Stands in for `loop.close` on one loop object, so that a ring never outlives its loop.

    asyncio has no hook for this: `shutdown_asyncgens` is called by `asyncio.run` and not by a bare `loop.close()`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.callbacks: list[weakref.WeakMethod[Any]] = []
        self.kept: Any = None
        self._loop = weakref.ref(loop)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _CloseHook:
        hook = loop.__dict__.get("close")
        if not isinstance(hook, cls):
            hook = cls(loop)
            loop.close = hook  # type: ignore[method-assign]
        return hook

    def __call__(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        if not loop.is_running():  # a running loop refuses to close: let it say so
            callbacks, self.callbacks = self.callbacks, []
            loop.__dict__.pop("close", None)
            with ExitStack() as stack:  # one that raises (a warning that is an error) keeps neither others nor the loop
                stack.callback(type(loop).close, loop)
                for find in callbacks:
                    callback = find()
                    if callback is not None:
                        stack.callback(callback)
            self.kept = None
            return
        type(loop).close(loop)
