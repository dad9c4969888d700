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
    found = [*_beside_threads(results, method), *_beside_sync(results, method, memory)]
    if reason is not None:
        found.append(f"aioring uses {method} here, not io_uring: {reason}. `aioring doctor` says what to change.")
    for pages, why in results.missing.items():
        if pages in _PAGES:
            found.append(f"Nothing can be said of reads {_PAGES[pages]}: {why}.")
    return found


def _beside_threads(results: Results, method: str) -> Iterator[str]:
    pool = ratios(results, method, THREADS)
    if not pool:
        yield f"Nothing can be said of {method}, which is what AIORING_METHOD asks for: it is not among what was measured."
        return
    idle = {column: ratio for column, ratio in pool.items() if not column.busy}
    busy = {column: ratio for column, ratio in pool.items() if column.busy}
    if all(ratio < GAIN for ratio in pool.values()):
        yield f"Your workload gains nothing, because {_why_not(pool)}: {_span(pool)} as much as with threads."
    else:
        for name, some in (("Beside threads", idle), ("With a thread that runs Python beside it", busy)):
            if some:
                yield f"{name} aioring reads {_span(some)} as much: {_listed(some)}."
    if found := ratios(results, method, AIOFILES):
        yield f"Beside aiofiles it reads {_span(found)} as much."
    if worse := {column: ratio for column, ratio in pool.items() if ratio < LOSS}:
        yield f"It loses to a thread pool in: {_listed(worse)}."


def _why_not(pool: dict[Column, float]) -> str:
    """For somebody whose ratios are all below `GAIN`."""
    if max(pool.values()) < LOSS:
        return "threads are faster here"
    alike = [ratio >= LOSS for column, ratio in pool.items() if column.pages != CACHED]
    if alike and all(alike) and min(pool.values()) >= LOSS:
        return "this disk is the limit, whoever asks it"
    return "threads are as quick here, or quicker"


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
    waiting = {column: ratio for column, ratio in found.items() if column.pages != CACHED and not column.busy}
    if waiting and all(column.tasks > 1 and ratio < GAIN for column, ratio in waiting.items()):
        yield (
            f"From the disk it reads {_span(waiting)} as much as one blocking read after the other: this disk does not do "
            "more when it is asked for more. What is gained is that the loop goes on meanwhile."
        )


def _span(found: dict[Column, float]) -> str:
    low, high = min(found.values()), max(found.values())
    if low >= 100:
        return f"{_times(low)} times"
    if f"{low:.1f}" == f"{high:.1f}":
        return f"{_times(low)} times"
    return f"{_times(low)} to {_times(high)} times"


def _times(value: float) -> str:
    if value >= 100:
        return "over 100"  # of a rate that hardly is one: another run says another thousand
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _listed(found: dict[Column, float]) -> str:
    return "; ".join(f"{_times(ratio)} {column.title}" for column, ratio in found.items())
