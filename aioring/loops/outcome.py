"""What several tasks wait for, and what goes on whatever becomes of those who wait."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..errors import RingClosedError
from . import Loop, Waitable, at_once

__all__ = ["Outcome", "begun"]

T = TypeVar("T")


class _Waiting:
    __slots__ = ("outcome", "waiter")

    def __init__(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.outcome.over


class Outcome(Generic[T]):
    """What will come of something. `set` it, of which the first time counts; until then tasks wait for it, as many as
    like. `what` it is: for the error where the loop ends before."""

    def __init__(self, loop: Loop, what: str) -> None:
        self._loop, self._what = loop, what
        self._waiting: set[_Waiting] = set()
        self.over = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def set(self, value: T | None, error: BaseException | None = None) -> None:
        """None and None: the loop has ended it."""
        if value is None and error is None:
            error = RingClosedError(f"the loop ended before this was done: {self._what}")
        if not self.over:
            self.over, self.value, self.error = True, value, error
        for waiting in self._waiting:
            if waiting.waiter is not None:
                self._loop.wake(waiting.waiter)

    async def wait(self, on_cancel: Callable[[Waitable], bool] = at_once) -> None:
        """Until it is there. A cancel is delivered at once, or as `on_cancel` says."""
        waiting = _Waiting(self)
        self._waiting.add(waiting)
        try:
            await self._loop.park(waiting, on_cancel)
        finally:
            self._waiting.discard(waiting)

    async def result(self) -> T:
        """What came of it, or the error. A cancel is delivered then, and not before."""
        await self.wait(_at_the_end)
        error = self.error
        try:
            if error is not None:
                raise error
        finally:
            del error  # it holds this frame
        return self.value  # type: ignore[return-value]


def _at_the_end(_: Waitable) -> bool:
    return False


def begun(loop: Loop, body: Callable[[], Coroutine[Any, Any, T]], what: str) -> Outcome[T]:
    """Run `body` to its end, whatever becomes of who waits for it."""
    outcome: Outcome[T] = Outcome(loop, what)
    loop.spawn(body, outcome.set)
    return outcome
