"""One budget a tick of the loop, for all tasks: how much may be done in place before others get their turn.

A page-cache hit resolves an `await` without suspending, so a task that only hits would never let the loop run. Who
finds the budget spent parks in order, and one callback a tick refills it and wakes as many as it has units for. (A
budget that each task refills for itself makes the loop late by the number of tasks times its size: 27 ms at 128 tasks.)
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..loops import Loop

__all__ = ["SIZE", "Budget"]

SIZE = 64


class _Turn:
    """One task that waits for the next tick."""

    __slots__ = ("come", "gone", "waiter")

    def __init__(self) -> None:
        self.come = False
        self.gone = False  # cancelled
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.come


class Budget:
    """`left` is read by the hot path as its one guard: 0 when spent, and for good once the ring is closed."""

    def __init__(self, loop: Loop) -> None:
        self.left = SIZE
        self._loop = loop
        self._parked: deque[_Turn] = deque()
        self._scheduled = False
        self._closed = False

    def spend(self) -> None:
        """Take one unit; the caller has seen `left > 0`."""
        self.left -= 1
        if not self._scheduled:
            self._schedule()

    async def turn(self) -> None:
        """Take one unit of a later tick, in order of arrival. Returns at once if there is one left in this tick.

        Cancelling takes the task out of the line. When the ring is closed everybody returns, with nothing.
        """
        if self.left > 0 and not self._parked:
            self.spend()
            return
        if self._closed:
            return
        turn = _Turn()
        self._parked.append(turn)
        self._schedule()
        await self._loop.park(turn, self._give_up)

    def close(self) -> None:
        self._closed = True
        self.left = 0
        while self._parked:
            self._wake(self._parked[0])
            self._parked.popleft()

    def close_quietly(self) -> None:
        """In a forked child: nobody is woken, the loop is the parent's."""
        self._closed = True
        self.left = 0
        self._parked.clear()

    @staticmethod
    def _give_up(turn: _Turn) -> bool:
        turn.gone = True  # `_refill` passes over it; if its turn had come, the unit goes unused
        return True

    def _schedule(self) -> None:
        self._loop.call_soon(self._refill)
        self._scheduled = True

    def _refill(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        left, parked = SIZE, self._parked
        try:
            while parked and left:
                if not parked[0].gone:
                    left -= 1
                    self._wake(parked[0])
                parked.popleft()
        except BaseException:
            self._schedule()  # struck by KeyboardInterrupt: the next tick goes on
            raise
        self.left = left
        if parked:
            self._schedule()
        # Else the next who spends or parks schedules it, a tick later than this would: so who parks again is seen waiting
        # by what else runs in between. (anyio's cancel scopes pass over tasks whose future is done already.)

    def _wake(self, turn: _Turn) -> None:
        turn.come = True  # and woken again, if struck before it was woken: it stays first in the line until then
        if turn.waiter is not None:
            self._loop.wake(turn.waiter)
