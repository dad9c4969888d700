"""Who reads and writes which sectors of a file that is used past the page cache (O_DIRECT).

A write that does not begin and end with a sector has to read the sectors at its ends, change them and write them back: of
two of them in one sector the later would bring back what the earlier has replaced. And what grows a file by less than a
sector has it too long for a moment, until it is cut: nobody is to read there meanwhile, nor to ask how long it is. So each
call claims its range of bytes first. A claim waits for those that it clashes with, and for those that wait since before it.

There is one table for each file that a ring has open so (by device and inode), whatever it is opened by. Pure: nothing here
does I/O, and nothing asks which loop runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["END", "GROWS", "READS", "WRITES", "Claim", "Sectors", "widened"]

READS, WRITES, GROWS = range(3)
END = 1 << 63  # bytes: behind all that a file can have


def widened(start: int, end: int, sector: int) -> tuple[int, int]:
    """The whole sectors that these bytes lie in."""
    return start - start % sector, -(-end // sector) * sector


class Claim:
    """A range of bytes, from when it is asked for until it is released. `then` is called when it is held, unless it was at
    once; `waiter` is for who awaits it."""

    __slots__ = ("end", "held", "kind", "start", "then", "waiter")

    def __init__(self, kind: int, start: int, end: int, then: Callable[[Claim], Any]) -> None:
        self.kind, self.start, self.end, self.then = kind, start, end, then
        self.held = False
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.held

    def covers(self, start: int, end: int) -> bool:
        return self.start <= start and end <= self.end

    def clashes(self, other: Claim) -> bool:
        """Whether not both may be under way at a time."""
        if self.start >= other.end or other.start >= self.end:
            return False
        if self.kind == READS or other.kind == READS:
            return GROWS in (self.kind, other.kind)
        return True


class Sectors:
    """The table of one file."""

    __slots__ = ("__weakref__", "_granted", "_held", "_later", "_telling", "_waiting")

    def __init__(self) -> None:
        self._held: list[Claim] = []
        self._waiting: list[Claim] = []
        self._granted: deque[Claim] = deque()  # who has to be told that they hold theirs
        self._telling = False
        self._later: list[Callable[[], Any]] = []

    def __len__(self) -> int:
        return len(self._held) + len(self._waiting)

    def claim(self, claim: Claim) -> bool:
        """Whether it is held at once; else it is told."""
        if any(map(claim.clashes, self._held)) or any(map(claim.clashes, self._waiting)):
            self._waiting.append(claim)
        else:
            claim.held = True
            self._held.append(claim)
        return claim.held

    def release(self, claim: Claim) -> None:
        """It is done, or given up. Harmless when done twice."""
        for line in (self._held, self._waiting):
            if claim in line:
                line.remove(claim)
                claim.held = False
                break
        else:
            self._tell()  # KeyboardInterrupt may have struck when it was released
            return
        free: list[Claim] = []
        still: list[Claim] = []
        for waiting in self._waiting:
            if any(map(waiting.clashes, self._held)) or any(map(waiting.clashes, still)):
                still.append(waiting)
            else:
                waiting.held = True
                self._held.append(waiting)
                free.append(waiting)
        self._waiting = still
        self._granted.extend(free)
        self._tell()
        if self._later and not self.written():
            later, self._later = self._later, []
            for callback in later:
                callback()

    def _tell(self) -> None:
        """Whoever is told may be done at once, and release theirs: one after the other, however many they are."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._granted:
                claim = self._granted[0]
                if claim.held:
                    claim.then(claim)
                self._granted.popleft()  # last: struck by KeyboardInterrupt before, it is told once more
        finally:
            self._telling = False

    def written(self) -> bool:
        """Whether somebody writes, or waits in order to."""
        return any(claim.kind != READS for line in (self._held, self._waiting) for claim in line)

    def when_not_written(self, callback: Callable[[], Any]) -> None:
        """Call back, once, when nobody writes any more."""
        self._later.append(callback)

    def shut(self) -> None:
        """The ring takes no more: who waits is told, too, and has to look."""
        for claim in list(self._waiting):
            claim.then(claim)
