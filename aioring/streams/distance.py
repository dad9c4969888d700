"""How far a read stream runs ahead of its consumer. Pure: it counts blocks, and does no I/O.

PostgreSQL 19's `read_stream.c`, which keeps two distances:

* `ahead` (readahead_distance): how many blocks may be under way, or wait to be handed out. It doubles when the consumer has
  had to wait, up to `capacity`: I/O that is complete before anybody asks is far enough ahead.
* `combine` (combine_distance): how many neighbours make one I/O. It doubles after every I/O, waited for or not, up to
  `combine_limit`.

Both shrink by one block at each hit once `holdoff` hits have gone by since the last I/O. A stream has no buffer cache of
its own, so that a hit is one of two things here. A run of blocks that the page cache had (RWF_NOWAIT) only doubles
`combine`: taken block by block, as PostgreSQL's rule says it, cached scans came to a third, and the kernel's own read-ahead
held the distance at 1. A block that is in the window already, asked for twice, is a hit as PostgreSQL knows it.
"""

from __future__ import annotations

__all__ = ["Distance"]


class Distance:
    """See the module. All are numbers of blocks, but `max_ios` and `ios`, which are I/Os.

    `capacity`: the most that may be pinned (asked for and not handed out). `full`: begin with one whole combined I/O.
    """

    __slots__ = ("ahead", "capacity", "combine", "combine_limit", "full", "holdoff", "max_ios")

    def __init__(self, capacity: int, combine_limit: int, max_ios: int, full: bool = False) -> None:
        self.capacity, self.max_ios, self.full = capacity, max_ios, full
        self.combine_limit = min(combine_limit, capacity)
        self.ahead = self.combine = self.holdoff = 0
        self.restart()

    def restart(self) -> None:
        """As at the start of a stream (read_stream_reset)."""
        self.ahead = self.combine = self.combine_limit if self.full else 1
        self.holdoff = 0

    def end(self) -> None:
        """No more blocks come: what is pending is issued as it is."""
        self.ahead = self.combine = 0

    # Hot path: once per run of blocks; measured in benchmarks/streams.py.

    def room(self, ios: int, pinned: int, pending: int) -> int:
        """How many blocks to look ahead for now, at most (read_stream_should_look_ahead, for as many as it says yes)."""
        if not self.ahead or ios >= self.max_ios:
            return 0
        room = self.combine - pending
        if pinned:
            # Build a large read even where little is read ahead, but only while nothing is waiting to be handed out.
            room = min(room, self.ahead - pinned - pending)
        elif not pending:
            room = max(room, 1)
        return max(room, 0)

    def issue(self, ios: int, pinned: int, pending: int) -> bool:
        """Whether what is pending is to be read now (read_stream_should_issue_now)."""
        if not pending or ios >= self.max_ios:
            return False
        return not self.ahead or pending >= self.combine or (not pinned and not self.room(ios, pinned, pending))

    def done(self, waited: bool) -> None:
        """The first block of an I/O is handed out; `waited`: it was not complete when it was asked for."""
        if waited and self.ahead:
            self.ahead = min(2 * self.ahead, self.capacity)
        self.holdoff = self.capacity
        self._combine_more()

    def cached(self) -> None:
        """The page cache had a whole run."""
        self._combine_more()

    def shared(self, ios: int) -> None:
        """A block is asked for that is in the window already."""
        if ios or not self.ahead:
            return
        if self.holdoff:
            self.holdoff -= 1
        else:
            self.ahead, self.combine = max(self.ahead - 1, 1), max(self.combine - 1, 1)

    def _combine_more(self) -> None:
        if self.combine < self.combine_limit:
            self.combine = min(2 * self.combine, self.combine_limit)
