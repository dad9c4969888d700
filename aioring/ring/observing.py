"""Seeing what a ring does, and what all rings of the process do. Any thread may ask, and so may a signal handler."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import asdict
from heapq import nsmallest
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..engine.chains import Chain
from ..handle import Handle
from ..observe.counters import RingStats
from ..observe.in_flight import InFlight, copied, of_handle, of_wait
from ..observe.serving import Told, on_demand, told_by
from ..readiness import READ as TO_READ, WRITE as TO_WRITE
from .data import Data

if TYPE_CHECKING:
    from . import Ring

__all__ = ["Observing", "in_flight", "rings"]

_rings: dict[int, weakref.ref[Observing]] = {}  # by their number


class Observing(Data):
    """The part of `Ring` that tells what it does."""

    def _opened(self, engine: Any) -> None:
        super()._opened(engine)
        number = self._number
        _rings[number] = weakref.ref(self, lambda _: _rings.pop(number, None))
        on_demand()

    @property
    def _label(self) -> str:
        return f"{self.method}-{self._number}"

    def in_flight(self) -> list[InFlight]:
        """What was asked of this ring and is not over, after PostgreSQL 18's `pg_aios`: one `InFlight` each, oldest first.

        A snapshot without a lock, of lines that go on changing: callable from any thread and from a signal handler. Names
        of tasks and files are looked up now and cost the I/O nothing. What was served in place was never in flight. A ring
        that is not started, or closed, has none.
        """
        return self._oldest(self._handles())[0]

    def _handles(self) -> list[Handle]:
        """Of what was asked for and is not over."""
        engine = self._started
        return [] if engine is None or engine.ended else _handles(engine)

    def _oldest(
        self, handles: list[Handle], most: int | None = None, until: float | None = None
    ) -> tuple[list[InFlight], int]:
        """So many records (None: all), of what was asked for by then, and how many there are of any time."""
        engine = self._started
        if engine is None or engine.ended:
            return [], 0
        ring, now = self._label, perf_counter()
        results = dict(copied(lambda: engine.completed))
        total = len(handles)
        if until is not None:
            handles = [handle for handle in handles if 0 < handle.since <= until]
        found = [record for handle in handles if (record := of_handle(handle, ring, results, now)) is not None]
        total -= len(handles) - len(found)  # complete by now
        ready = self._readiness
        if ready is not None:
            for file in copied(ready.files):
                for way, name in ((TO_READ, "read"), (TO_WRITE, "write")):
                    waits = copied(lambda: file.lines[way])  # noqa: B023 - called at once
                    found += [of_wait(wait, ring, name, file.asked, now) for wait in waits[:most]]
                    total += len(waits)
        return sorted(found, key=lambda record: -record.age)[:most], total

    def stats(self) -> RingStats:
        """What this ring has done since it was started or `reset_stats` was called, after PostgreSQL's `pg_stat_io`.

        Counting is always on; time waited is kept where the ring was made with `track_timing`. Callable from any thread,
        and after the ring was closed.
        """
        return self._counters.stats(self._label, self.method, self._counted_elsewhere())

    def reset_stats(self) -> None:
        """Count from zero again. What another thread counts in the same moment may be lost, or kept."""
        self._counters.reset(self._counted_elsewhere())

    def _counted_elsewhere(self) -> dict[str, int]:
        engine, cache = self._started, getattr(self, "_cache", None)
        return {
            "cq_overflows": 0 if engine is None else getattr(engine.method, "overflows", 0),
            "page_cache_changes": 0 if cache is None else cache.changes,
            "hits": 0 if cache is None else cache.hits,
            "hit_bytes": 0 if cache is None else cache.hit_bytes,
        }


def _handles(engine: Any) -> list[Handle]:
    lines: list[Iterable[Handle | Chain]] = [
        copied(lambda: engine.live.values()),
        copied(lambda: engine.staged),
        copied(lambda: engine.for_workers),
        copied(lambda: engine.backlog),
    ]
    for fence in copied(lambda: engine.closing.values()):
        lines.append([fence.owner, *copied(lambda: fence.after)])  # noqa: B023 - called at once
    found: dict[int, Handle] = {}
    for line in lines:
        for what in line:
            chain = what if isinstance(what, Chain) else what.chain
            for handle in [what] if isinstance(what, Handle) and chain is None else chain.links:
                found[id(handle)] = handle
    return list(found.values())


def rings() -> list[Ring]:
    """The open rings of this process, of all threads, oldest first."""
    return [ring for ring in _all() if not ring.closed]  # type: ignore[misc]


def in_flight() -> list[InFlight]:
    """`Ring.in_flight` of all rings of this process; of those as well that are being closed, and wait for what it shows."""
    return sorted((record for ring in _all() for record in ring.in_flight()), key=lambda record: -record.age)


def _all() -> list[Observing]:
    return [ring for find in copied(lambda: _rings.values()) if (ring := find()) is not None]


def _snapshot(most: int) -> Told:
    """What a peer is told (observe/serving.py): records are made of those that are told only."""
    here = _all()
    told = [
        {**ring.stats().as_dict(), "depth": ring.depth, "fallback_reason": ring.fallback_reason}
        for ring in here
        if not ring.closed
    ]
    handles = [ring._handles() for ring in here]
    asked = [handle.since for some in handles for handle in some if handle.since]
    until = nsmallest(most, asked)[-1] if len(asked) > most else None
    seen = [ring._oldest(some, most, until) for ring, some in zip(here, handles, strict=True)]
    found = sorted((record for records, _ in seen for record in records), key=lambda record: -record.age)
    return told[:most], [asdict(record) for record in found[:most]], sum(total for _, total in seen)


told_by(_snapshot)
