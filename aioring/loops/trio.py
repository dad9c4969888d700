"""trio: a doorbell is a system task in `wait_readable`, a waiter a task that waits to be rescheduled.

No other event loop and no helper thread exists under `trio.run` on io_uring.

Some facts about trio
---------------------
An exception in a system task ends the whole run with TrioInternalError, so callbacks must not raise. Cancelling
`wait_readable` takes effect only when that task runs again, and an fd that is closed before then makes it fail: close
an fd only when `unwatched()` has returned. System tasks are cancelled after the main task has ended: that is where a
ring that nobody closed is closed. An `outcome` is single-use, so each wake makes a new one (trio.lowlevel does when
given none).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, cast

import trio

from . import Over, Waitable

__all__ = ["TrioLoop"]


_kept: trio.lowlevel.RunVar[Any] = trio.lowlevel.RunVar("aioring", default=None)


class _Waiter:
    """One task parked on one thing."""

    __slots__ = ("parked", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.parked = True

    def done(self) -> bool:
        return not self.parked

    def set_result(self, _: None) -> None:
        self.parked = False
        trio.lowlevel.reschedule(self.task)


class TrioLoop:
    """A trio run. Every method but `running_here` is for the run's own thread."""

    kind = "trio"
    checks = True
    create_future: Callable[[], Any] | None = None

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.key = token
        self._watches: dict[int, trio.CancelScope] = {}
        self._leaving = 0
        self._left: trio.Event | None = None
        self._soon: list[Callable[[], Any]] = []
        self._ticker: trio.lowlevel.Task | None = None
        self._ticking = False
        self._closer: weakref.WeakMethod[Any] | None = None
        self._guarded = trio.CancelScope()
        self._ending = False

    def running_here(self) -> bool:
        try:
            return trio.lowlevel.current_trio_token() is self.key
        except RuntimeError:
            return False

    # --- once a tick: a system task that sleeps until it is rescheduled costs no system call --------------------------

    @trio.lowlevel.enable_ki_protection
    def call_soon(self, callback: Callable[[], Any]) -> None:
        self._soon.append(callback)
        if self._ticker is not None:
            ticker, self._ticker = self._ticker, None
            trio.lowlevel.reschedule(ticker)
        elif not self._ticking:
            self._ticking = True
            trio.lowlevel.spawn_system_task(self._tick, name="aioring tick")

    async def _tick(self) -> None:
        def abort(_: Any) -> trio.lowlevel.Abort:
            self._ticker = None
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            while not self._ending or self._soon:
                callbacks, self._soon = self._soon, []
                for callback in callbacks:
                    callback()
                self._ticker = trio.lowlevel.current_task()
                if self._soon:
                    self._ticker = None
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    await trio.lowlevel.checkpoint_if_cancelled()
                    continue
                await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._ticking = False

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Callable[[], Any]:
        scope = trio.CancelScope()

        async def later() -> None:
            with scope:
                await trio.sleep(delay)
                callback()

        trio.lowlevel.spawn_system_task(later, name="aioring timer")
        return scope.cancel

    # --- doorbells ----------------------------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callable[[], Any]) -> None:
        scope = self._watches[fd] = trio.CancelScope()
        self._leaving += 1

        async def watching() -> None:
            try:
                with scope:
                    # The fd may be closed, and its number reused, as soon as the watch is off: ask before each use.
                    while self._watches.get(fd) is scope:
                        await trio.lowlevel.wait_readable(fd)
                        if self._watches.get(fd) is scope:
                            callback()
            finally:
                self._leaving -= 1
                if self._left is not None and not self._leaving:
                    self._left.set()
                    self._left = None

        trio.lowlevel.spawn_system_task(watching, name="aioring doorbell")

    def unwatch(self, fd: int) -> None:
        scope = self._watches.pop(fd, None)
        if scope is not None:
            scope.cancel()

    async def unwatched(self) -> None:
        with trio.CancelScope() as scope:
            scope.shield = True
            while self._leaving:
                if self._left is None:
                    self._left = trio.Event()
                await self._left.wait()

    # --- waiters ------------------------------------------------------------------------------------------------------

    def wake(self, waiter: _Waiter) -> None:
        if waiter.parked:
            waiter.set_result(None)

    @trio.lowlevel.enable_ki_protection
    async def park(
        self, thing: Waitable, on_cancel: Callable[[Any], bool], struck: BaseException | None = None
    ) -> None:
        cancelled = False

        def abort(_: Any) -> trio.lowlevel.Abort:
            nonlocal cancelled
            # Not parked while `on_cancel` looks at it: what ends the thing there and then would wake us a second time.
            waiter.parked = False
            if on_cancel(thing):
                return trio.lowlevel.Abort.SUCCEEDED
            waiter.parked = True
            cancelled = True
            return trio.lowlevel.Abort.FAILED

        if thing.finished():
            # A checkpoint all the same, and no cancellation between a result and its return.
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not thing.finished():
            waiter = thing.waiter = _Waiter()
            try:
                await trio.lowlevel.wait_task_rescheduled(abort)
            except BaseException:
                if waiter.parked:  # GeneratorExit, or struck before it lay down: nobody may reschedule this task
                    waiter.parked = False
                    on_cancel(thing)
                raise
        if cancelled:
            await trio.lowlevel.checkpoint_if_cancelled()

    def spawn(self, body: Callable[[], Coroutine[Any, Any, Any]], over: Over) -> Callable[[], Any]:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                try:
                    value = await body()
                except trio.Cancelled:
                    over(None, None)
                    raise
                except BaseException as error:
                    over(None, error)  # in a system task it would end the run
                else:
                    over(value, None)

        trio.lowlevel.spawn_system_task(run, name="aioring operation")
        return scope.cancel

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    # --- the end of the run -------------------------------------------------------------------------------------------

    def at_close(self, callback: Callable[[], Any]) -> None:
        self._closer = weakref.WeakMethod(cast("MethodType", callback))
        trio.lowlevel.spawn_system_task(self._guard, name="aioring guard")

    async def _guard(self) -> None:
        try:
            with self._guarded:
                await trio.sleep_forever()
        finally:
            closer = self._closer() if self._closer is not None else None
            if closer is not None:
                closer()

    def done(self) -> None:
        self._closer = None
        self._ending = True
        try:
            self._guarded.cancel()
            if self._ticker is not None:
                ticker, self._ticker = self._ticker, None
                trio.lowlevel.reschedule(ticker)
        except RuntimeError:
            pass  # the run is over, and its tasks with it

    def keep(self, thing: Any) -> None:
        _kept.set(thing)

    def kept(self) -> Any:
        return _kept.get()
