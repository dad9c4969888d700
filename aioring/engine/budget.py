"""One budget a tick of the loop, for all tasks: how much may be done in place before others get their turn.

A page-cache hit resolves an `await` without suspending, and so does what the ring completes at once; a task that only
hits would never let the loop run. Who finds the budget spent parks in order, and one callback in the next tick refills
it and wakes the first of them. (A budget that each task refills for itself makes the loop late by the number of tasks
times its size: 27 ms at 128 tasks of 64 each.)

Parking costs as much as one or two hits, so who is woken gets a share that pays for it: 8 of them are woken in a tick,
with 32 units each. Where they leave half of it unused (tasks that read once now and then), twice as many are woken in
the next, until one unit is left for each. (Waking all who wait, with a unit each: 128 tasks parked every other hit.)

Nothing refills it before somebody finds it spent: taking a unit is one subtraction, and a tick never sees more than one
budget's worth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..loops import Loop

__all__ = ["INLINE", "SIZE", "Budget"]

SIZE = 256  # a hit of 4 KiB takes 3 us, so a tick 0.8 ms
_FEW = 8  # how many of those who wait are woken in a tick, at least
INLINE = 64 << 10  # bytes: a larger copy in place would make the loop late


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
    """`left` is read by the hot path as its one guard: not above 0 when spent, and for good once the ring is closed.

    Who has seen `left > 0` takes a unit by subtracting 1.
    """

    def __init__(self, loop: Loop) -> None:
        self.left = SIZE
        self.on_refill: Callable[[], Any] | None = None
        self._reserve = 0  # units of this tick that nobody has been given yet
        self._share = 0  # what each who is woken gets of it
        self._at_once = _FEW  # how many are woken in a tick
        self._loop = loop
        self._parked: deque[_Turn] = deque()
        self._scheduled = False
        self._closed = False

    async def turn(self) -> None:
        """Take one unit, of a later tick if this one's is spent, in order of arrival.

        Cancelling takes the task out of the line. When the ring is closed everybody returns, with nothing.
        """
        if self.left > 0 and not self._parked:
            self.left -= 1
            return
        if self._closed:
            return
        turn = _Turn()
        self._parked.append(turn)
        if not self._scheduled:
            self._schedule()
        future = self._loop.create_future
        if future is None:
            await self._loop.park(turn, self._give_up)
        else:
            turn.waiter = future()  # what `park` begins with, here: one coroutine less
            try:
                await turn.waiter
            except BaseException as error:
                await self._loop.park(turn, self._give_up, error)
        share = min(self._share, self._reserve)
        self._reserve -= share
        self.left += share

    def end(self) -> None:
        """What was done in place took as long as a tick may, whatever is left of it."""
        self.left = self._reserve = 0

    def spent(self) -> None:
        """Somebody found it spent and went another way."""
        if not self._scheduled and not self._closed:
            self._schedule()

    def close(self) -> None:
        self._closed = True
        self.left = self._reserve = 0
        while self._parked:
            self._wake(self._parked[0])
            self._parked.popleft()

    def close_quietly(self) -> None:
        """In a forked child: nobody is woken, the loop is the parent's."""
        self._closed = True
        self.left = self._reserve = 0
        self._parked.clear()

    @staticmethod
    def _give_up(turn: _Turn) -> bool:
        turn.gone = True  # `_refill` passes over it; if its turn had come, the unit goes unused
        return True

    def _schedule(self) -> None:
        self._loop.call_soon(self._refill)
        self._scheduled = True

    def _refill(self) -> None:
        try:
            self._scheduled = False
            if not self._closed:
                self._fill()
        except BaseException:
            self._schedule()  # struck by KeyboardInterrupt: the next tick goes on
            raise

    def _fill(self) -> None:
        parked, unused = self._parked, self.left + self._reserve
        self._at_once = min(self._at_once * 2, SIZE) if unused > SIZE // 2 else max(self._at_once // 2, _FEW)
        woken = 0
        while parked and woken < self._at_once:
            if not parked[0].gone:
                woken += 1
                self._wake(parked[0])
            parked.popleft()
        if woken:
            # Each has the unit that it parked for; the rest is shared out as they come.
            self.left, self._reserve, self._share = 0, SIZE - woken, SIZE // woken
        else:
            self.left, self._reserve = SIZE, 0
        if parked:
            self._schedule()
        # Else the next who parks schedules it, a tick later than this would: so who parks again is seen waiting by what
        # else runs in between. (anyio's cancel scopes pass over tasks whose future is done already.)
        if self.on_refill is not None:
            self.on_refill()

    def _wake(self, turn: _Turn) -> None:
        turn.come = True  # and woken again, if struck before it was woken: it stays first in the line until then
        if turn.waiter is not None:
            self._loop.wake(turn.waiter)
