"""What the figures mean for somebody who wonders whether to use aioring here. Pure: from `Results` to sentences."""

from __future__ import annotations

from collections.abc import Iterator

from .measure import CACHED, COLD, DIRECT, Column, Results
from .ways import AIOFILES, SYNC, THREADS, ours

__all__ = ["verdict"]

GAIN, LOSS = 1.25, 0.8  # what is between is the same: rounds differ by as much
_PAGES = {CACHED: "from the page cache", COLD: "from the disk", DIRECT: "past the page cache"}


def ratios(results: Results, method: str, to: str) -> dict[Column, float]:
    """aioring's rate by that of another way, where there are both."""
    found = {}
    for column in results.columns:
        mine, other = results.rate(ours(method), column), results.rate(to, column)
        if mine and other:
            found[column] = mine / other
    return found


def verdict(results: Results, method: str, reason: str | None, memory: str = "") -> list[str]:
    """`method`, `reason`: what aioring chooses here, and why not io_uring. `memory`: the file system, if it is one."""
    found = [*_beside_threads(results, method, memory), *_beside_sync(results, method, memory)]
    if reason is not None:
        found.append(f"aioring uses {method} here, not io_uring: {reason}. `aioring doctor` says what to change.")
    for pages, why in results.missing.items():
        if pages in _PAGES:
            found.append(f"Nothing can be said of reads {_PAGES[pages]}: {why}.")
    return found


def _beside_threads(results: Results, method: str, memory: str) -> Iterator[str]:
    pool = ratios(results, method, THREADS)
    if not pool:
        yield f"Nothing can be said of {method}, which is what AIORING_METHOD asks for: it is not among what was measured."
        return
    idle = {column: ratio for column, ratio in pool.items() if not column.busy}
    busy = {column: ratio for column, ratio in pool.items() if column.busy}
    if all(ratio < GAIN for ratio in pool.values()):
        why = _why_not(results, method, memory, pool)
        yield f"Your workload gains nothing, because {why}: {_span(pool)} as much as with threads."
    else:
        for name, some in (("Beside threads", idle), ("With a thread that runs Python beside it", busy)):
            if some:
                yield f"{name} aioring reads {_span(some)} as much: {_listed(some)}."
    if found := ratios(results, method, AIOFILES):
        yield f"Beside aiofiles it reads {_span(found)} as much."
    if worse := {column: ratio for column, ratio in pool.items() if ratio < LOSS}:
        yield f"It loses to a thread pool in: {_listed(worse)}."


def _why_not(results: Results, method: str, memory: str, pool: dict[Column, float]) -> str:
    """For somebody whose ratios are all below `GAIN`."""
    if max(pool.values()) < LOSS:
        return "threads are faster here"
    if min(pool.values()) >= LOSS and not memory and _at_its_limit(results, method):
        return "this disk is the limit, whoever asks it"
    return "threads are as quick here, or quicker"


def _at_its_limit(results: Results, method: str) -> bool:
    """Whether asking the disk for more than one thing at a time brings nothing, whichever way."""
    waiting = [column for column in results.columns if column.pages != CACHED and not column.busy and column.tasks > 1]
    most = [max((_to_sync(results, way, column) for way in results.ways), default=0.0) for column in waiting]
    mine = [_to_sync(results, ours(method), column) for column in waiting]
    return bool(waiting) and all(ratio < GAIN for ratio in most) and all(ratio >= LOSS for ratio in mine)


def _to_sync(results: Results, way: str, column: Column) -> float:
    rate, sync = results.rate(way, column), results.rate(SYNC, column)
    return rate / sync if rate and sync else 0.0


def _beside_sync(results: Results, method: str, memory: str) -> Iterator[str]:
    found = ratios(results, method, SYNC)
    quicker = {column: 1 / ratio for column, ratio in found.items() if column.pages == CACHED and ratio < LOSS}
    if quicker:
        yield (
            f"Plain blocking reads are {_span(quicker)} as fast where the page cache has everything: {_listed(quicker)}. "
            "If that is all that you read, your workload gains nothing, because there is nothing to wait for. As soon as "
            "one read has to wait for the disk they hold up everybody else."
        )
    if memory:
        yield f"This is memory ({memory}): there is no disk to wait for. Measure a folder that is on one."
        return
    if _at_its_limit(results, method):
        yield (
            "From the disk nobody reads faster than one blocking read after the other: this disk does not do more when it "
            "is asked for more. What is gained is that the loop goes on meanwhile."
        )


def _span(found: dict[Column, float]) -> str:
    low, high = min(found.values()), max(found.values())
    if low >= 100 or f"{low:.1f}" == f"{high:.1f}":
        return f"{_times(low)} times"
    return f"{_times(low)} to {_times(high)} times"


def _times(value: float) -> str:
    if value >= 100:
        return "over 100"  # of a rate that hardly is one: another run says another thousand
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _listed(found: dict[Column, float]) -> str:
    return "; ".join(f"{_times(ratio)} {column.title}" for column, ratio in found.items())
