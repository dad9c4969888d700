"""What a ring has done, counted: `ring.stats()`, after PostgreSQL 18's `pg_stat_io`.

Some facts about what is counted
--------------------------------
* One I/O is one: a short transfer that is continued, or EINTR, makes no second one of it. It is counted when its outcome is
  known, failed and cancelled ones too, with the bytes that it moved. (A large read is as many as it has pieces.)
* Counting is always on: it costs a hit of the page cache 1 to 2 % and an I/O through the ring 2 to 3. Looking at the clock
  costs another 1, so time waited is kept only where `track_timing` asks for it. As in PostgreSQL it is the time of those
  that had to wait: what was had in place books none.
* The loop's thread counts, any thread may look. What is read while it counts may be one I/O old.

Lines that end in `# count` are the price: benchmarks/counting.py measures the library without them.
"""

from __future__ import annotations

import errno
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..operations import READ, TABLE, Operation
from .histogram import Histogram, Waited

__all__ = ["Count", "Counters", "OperationStats", "RingStats"]


class Count:
    """One operation on one ring."""

    __slots__ = (
        "alone", "bytes", "cached", "cached_bytes", "cancelled", "done", "errors", "inline", "retries", "short",
        "slot_waits", "untold", "waited", "workers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waited: Histogram | None = None
        self.reset()

    def had(self, nbytes: int = 0) -> None:
        """One was served in place. (The hot read does it itself.)"""
        self.cached += 1
        self.cached_bytes += nbytes

    def failed(self, error: BaseException) -> None:
        """One ended so, by an errno or by a cancel; that it did end is counted by who calls."""
        if isinstance(error, OSError) and error.errno != errno.ECANCELED:
            self.errors += 1
        else:
            self.cancelled += 1

    def reset(self) -> None:
        self.cached = self.cached_bytes = 0  # served in place from what the kernel has cached
        self.alone = 0  # submitted alone, on an idle ring, and complete at once
        self.untold = 0  # no method was told: cancelled before, or waited for by readiness and done in place
        self.done = self.bytes = 0  # all others; the bytes of all but what was cached
        self.inline = 0  # of the others: complete as soon as they were submitted
        self.workers = self.slot_waits = self.short = self.retries = self.errors = self.cancelled = 0
        if self.waited is not None:
            self.waited = Histogram()


@dataclass(frozen=True, slots=True)
class OperationStats:
    """One operation on one ring, since the ring was started or `ring.reset_stats()` was called."""

    count: int  # I/Os whose outcome is known, failed and cancelled ones included
    bytes: int  # that they moved
    errors: int  # failed with an errno
    cancelled: int  # ended by a cancel, a timeout, the close of their ring, or the failure of a link before them
    short: int  # transfers that stopped short and were continued
    retries: int  # EINTR and EAGAIN answers that were asked again
    page_cache: int  # served in place from what the kernel has cached (`open` and `stat`: the path)
    inline: (
        int  # complete as soon as they were submitted (at least: what is told after the next flush is not looked at)
    )
    workers: int  # told to the ring's worker threads
    slot_waits: int  # waited for one of the ring's `depth` slots
    waited: Waited | None  # from being asked to being complete, of those that waited; None without `track_timing`


@dataclass(frozen=True, slots=True)
class RingStats:
    """What a ring has done since it was started, or since `ring.reset_stats()`."""

    ring: str  # as in `ring.in_flight()`
    method: str
    seconds: float  # how long that is
    operations: dict[str, OperationStats]  # by name ("read", "fsync" ...): those that occurred
    submissions: int  # how often the method was told of something; all that is staged in a tick is one
    completions: int  # I/Os that came back from it
    completions_per_submission: float
    deepest: int  # in flight at once, at most
    cq_overflows: int  # how often the completion queue was found full; the kernel keeps the rest (IORING_FEAT_NODROP)
    page_cache_changes: int  # the page-cache step stopped asking, or asked again; kept the GIL, or let it go again

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts and numbers: for JSON."""
        return asdict(self)


class _ByOperation(dict[Operation, Count]):
    """Rows of one name share a count: `open` by openat(2) and openat2(2), and those that differ in how they deliver."""

    def __init__(self, track_timing: bool) -> None:
        super().__init__()
        self._track_timing = track_timing
        for operation in TABLE:
            self.__missing__(operation)

    def __missing__(self, operation: Operation) -> Count:
        same = (count for other, count in self.items() if other.name == operation.name)
        count = self[operation] = next(same, None) or Count()
        if self._track_timing and count.waited is None:
            count.waited = Histogram()
        return count


class Counters:
    """One ring's, and what the engine keeps to count by."""

    def __init__(self, *, track_timing: bool = False) -> None:
        self.track_timing = track_timing
        self.label = ""  # of the ring, once it has a method
        self.moment = 0.0  # when this tick's flush was scheduled: `since` of what was asked for in it
        self.inline = 0.0  # while what a flush found complete is told: the `since` of what it submitted
        self.found = 0  # how much of that has not been told
        self.of: dict[Operation, Count] = _ByOperation(track_timing)
        self.submissions = self.deepest = 0
        self.others: dict[str, int] = {}  # what the others had counted at the last reset
        self._since = time.monotonic()

    def reset(self, others: dict[str, int]) -> None:
        for count in set(self.of.values()):
            count.reset()  # in place: the hot path holds on to some of them
        self.submissions = self.deepest = 0
        self.others = others
        self._since = time.monotonic()

    def run(self, operation: Operation, n: int, nbytes: int, since: float, now: float) -> None:
        """So many, asked for at `since`, are complete; `now`: 0.0 where nobody looks at the clock."""
        count = self.of[operation]
        count.done += n
        count.bytes += nbytes
        if since:
            if since == self.inline:
                count.inline += n
            if now and count.waited is not None:
                count.waited.add(now - since, n)

    def started(self) -> None:
        self._since = time.monotonic()

    def stats(self, ring: str, method: str, others: dict[str, int]) -> RingStats:
        """`others`: what is counted elsewhere, without end: "cq_overflows", "page_cache_changes", and of the hot read
        "hits" and "hit_bytes"."""
        operations: dict[str, OperationStats] = {}
        since_reset = {name: value - self.others.get(name, 0) for name, value in others.items()}
        hits, hit_bytes = since_reset.pop("hits"), since_reset.pop("hit_bytes")
        completions, submissions = 0, self.submissions
        for operation, count in list(self.of.items()):
            if operation.name in operations:
                continue
            alone, done, cached, cached_bytes = count.alone, count.alone + count.done, count.cached, count.cached_bytes
            if operation is READ:
                cached, cached_bytes = cached + hits, cached_bytes + hit_bytes
            if not (done or cached or count.untold):
                continue
            completions += done
            submissions += alone
            by_workers = method == "worker"
            operations[operation.name] = OperationStats(
                count=done + cached + count.untold,
                bytes=count.bytes + cached_bytes,
                errors=count.errors,
                cancelled=count.cancelled,
                short=count.short,
                retries=count.retries,
                page_cache=cached,
                inline=0 if by_workers else count.inline + alone,  # a thread that was quick is none
                workers=done if by_workers else count.workers,
                slot_waits=count.slot_waits,
                waited=None if count.waited is None else count.waited.summary(),
            )
        return RingStats(
            ring=ring,
            method=method,
            seconds=time.monotonic() - self._since,
            operations=operations,
            submissions=submissions,
            completions=completions,
            completions_per_submission=completions / submissions if submissions else 0.0,
            deepest=max(self.deepest, int(submissions > 0)),  # what was submitted alone, at once, is not looked at
            **since_reset,
        )
