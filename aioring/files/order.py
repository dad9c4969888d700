"""Calls on one file run in the order in which they were made, whatever tasks they come from.

A file's layers keep what they have in hand (buffers, positions) between two transfers, so only one call at a time may be
inside. Who comes while another is stands in line; a call that nobody else hinders takes no more than a flag.

A write that its caller has been cancelled out of goes on (`raw.py`): the file is handed to the next when it has landed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..loops import Loop

__all__ = ["Order"]


class _Turn:
    """One call that waits."""

    __slots__ = ("come", "gone", "shielded", "waiter")

    def __init__(self, shielded: bool) -> None:
        self.come = self.gone = False
        self.shielded = shielded
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.come


class Order:
    """One file's. `busy` is read and set by the hot path; all else is for when there is somebody else.

    (One is made for each file: what is seldom set is a default of the class, which costs nothing to make.)
    """

    busy = False
    flights = 0  # transfers whose caller is gone
    left = False  # he has left, and the file is the transfer's
    then: Callable[[], Any] | None = None  # when no transfer is left: for a file that nobody holds any more
    waiting: deque[tuple[Loop, _Turn]] | None = None

    async def join(self, loop: Loop, shielded: bool = False) -> None:
        """Wait for one's turn; on return the file is the caller's until `leave`.

        Cancelling takes the caller out of the line; `shielded`, it is raised when its turn has come, which it then has
        (`busy` is set): who was first to be cancelled still closes the file.
        """
        if not self.busy:
            self.busy = True
            return
        if self.waiting is None:
            self.waiting = deque()
        turn = _Turn(shielded)
        self.waiting.append((loop, turn))
        try:
            await loop.park(turn, self._give_up)
        except BaseException:
            if turn.come and not shielded:
                self.leave()  # it came, and was cancelled in the same tick
            raise

    @staticmethod
    def _give_up(turn: _Turn) -> bool:
        if turn.shielded:
            return False
        turn.gone = True
        return True

    def leave(self) -> None:
        """Let the next one in: at once, or when what is in flight has landed (`landed`)."""
        if self.flights:
            self.left = True
            return
        while self.waiting:
            loop, turn = self.waiting.popleft()
            if not turn.gone:
                turn.come = True  # `busy` stays: the file is theirs
                if turn.waiter is not None:
                    loop.wake(turn.waiter)
                return
        self.busy = False

    def took_off(self) -> None:
        """The caller of a transfer is about to leave, the transfer is not over."""
        self.flights += 1

    def landed(self) -> None:
        """Such a transfer is over."""
        self.flights -= 1
        if self.flights:
            return
        if self.left:
            self.left = False
            self.leave()
        if self.then is not None:
            then, self.then = self.then, None
            then()
