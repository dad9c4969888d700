"""What a read stream has done: the counters of PostgreSQL 19's `read_stream_count_*`, and its line of EXPLAIN."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StreamStats"]


@dataclass(slots=True)
class StreamStats:
    """Counts in blocks and I/Os, since the stream was made. `str()` is the line that EXPLAIN (ANALYZE, IO) prints.

    `prefetch_count`: blocks that were handed out. `distance_sum`, `distance_max`: over them, how many were pinned (asked
    for and not handed out yet, itself included). `distance_capacity`: the most that may be. `io_count`, `io_nblocks`: I/Os,
    and the blocks in them. `io_in_progress`: summed up as each I/O began, itself included. `wait_count`: those that the
    consumer had to wait for. `hit_count`, `hit_nblocks`: runs that the page cache had, and the blocks in them: no I/O.
    """

    distance_capacity: int
    prefetch_count: int = 0
    distance_sum: int = 0
    distance_max: int = 0
    io_count: int = 0
    io_nblocks: int = 0
    io_in_progress: int = 0
    wait_count: int = 0
    hit_count: int = 0
    hit_nblocks: int = 0

    def began(self, nblocks: int, in_progress: int) -> None:
        """An I/O; `in_progress` with it."""
        self.io_count += 1
        self.io_nblocks += nblocks
        self.io_in_progress += in_progress

    def began_several(self, n: int, before: int) -> None:
        """I/Os of one block each, one after the other; `before`: how many were in progress."""
        self.io_count += n
        self.io_nblocks += n
        self.io_in_progress += n * before + n * (n + 1) // 2

    def handed_out(self, n: int, pinned: int) -> None:
        """`n` blocks, one after the other; `pinned` before the first."""
        self.prefetch_count += n
        self.distance_sum += n * pinned - n * (n - 1) // 2
        if pinned > self.distance_max:
            self.distance_max = pinned

    def __str__(self) -> str:
        prefetch = self.distance_sum / self.prefetch_count if self.prefetch_count else 0.0
        size = self.io_nblocks / self.io_count if self.io_count else 0.0
        deep = self.io_in_progress / self.io_count if self.io_count else 0.0
        return (
            f"Prefetch: avg={prefetch:.3f} max={self.distance_max} capacity={self.distance_capacity}\n"
            f"I/O: count={self.io_count} waits={self.wait_count} size={size:.3f} in-progress={deep:.3f}"
        )
