"""What the figures mean for somebody who wonders whether to use aioring here. Pure: from `Results` to sentences."""

from __future__ import annotations

from collections.abc import Iterator

from .measure import CACHED, COLD, DIRECT, Column, Results
from .ways import AIOFILES, SYNC, THREADS

__all__ = ["ours", "ratios", "verdict"]

GAIN, LOSS = 1.25, 0.8  # what is between is the same: rounds differ by as much
_PAGES = {CACHED: "from the page cache", COLD: "from the disk", DIRECT: "past the page cache"}


def ours(method: str) -> str:
    """The way that a program gets which says nothing."""
    return f"aioring, {method}"


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
    found = list(_beside_threads(results, method))
    found += _beside_sync(results, method, memory)
    if reason is not None:
        found.append(f"aioring uses {method} here, not io_uring: {reason}. `aioring doctor` says what to change.")
    for pages, why in results.missing.items():
        if pages in _PAGES:
            found.append(f"Nothing can be said of reads {_PAGES[pages]}: {why}.")
    return found


def _beside_threads(results: Results, method: str) -> Iterator[str]:
    to = AIOFILES if AIOFILES in results.ways else THREADS
    pool = ratios(results, method, THREADS)
    if not pool:
        yield "Your workload gains nothing that could be measured: there is no rate of aioring's to compare."
        return
    idle = {column: ratio for column, ratio in pool.items() if not column.busy}
    busy = {column: ratio for column, ratio in pool.items() if column.busy}
    if all(ratio < GAIN for ratio in pool.values()):
        why = "this disk is the limit, whoever asks it" if _limited(results, method) else "threads are as quick here"
        yield f"Your workload gains nothing, because {why}: at most {max(pool.values()):.1f} times a thread pool's reads."
    else:
        for name, some in (("Beside threads", idle), ("With a thread that runs Python beside it", busy)):
            if some:
                yield f"{name} aioring reads {_span(list(some.values()))} as much: {_listed(some)}."
    if to == AIOFILES:
        found = ratios(results, method, AIOFILES)
        if found:
            yield f"Beside aiofiles it reads {_span(list(found.values()))} as much."
    worse = {column: ratio for column, ratio in pool.items() if ratio < LOSS}
    if worse:
        yield f"It loses to a thread pool in: {_listed(worse)}."


def _beside_sync(results: Results, method: str, memory: str) -> Iterator[str]:
    found = ratios(results, method, SYNC)
    alone = {column: ratio for column, ratio in found.items() if column.pages == CACHED and column.tasks == 1}
    idle = [ratio for column, ratio in alone.items() if not column.busy]
    if idle and idle[0] < LOSS:
        yield (
            f"Plain blocking reads are {1 / idle[0]:.1f} times as fast where the page cache has everything and one task "
            "reads: if that is all that you do, your workload gains nothing, because there is nothing to wait for. "
            "As soon as one read has to wait for the disk they hold up everybody else."
        )
    if memory:
        yield f"This is memory ({memory}): there is no disk to wait for. Measure a folder that is on one."
        return
    waiting = {column: ratio for column, ratio in found.items() if column.pages != CACHED and not column.busy}
    if waiting and all(ratio < GAIN for ratio in waiting.values()):
        yield (
            "Nor does it read faster from the disk than one blocking read after the other: this disk does one thing at a "
            "time. What is gained is that the loop goes on meanwhile."
        )


def _limited(results: Results, method: str) -> bool:
    """Whether those who wait for the disk all come to the same."""
    return any(column.pages != CACHED for column in results.columns) and all(
        LOSS < ratio < GAIN
        for column, ratio in ratios(results, method, SYNC).items()
        if column.pages != CACHED and not column.busy
    )


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    if f"{low:.1f}" == f"{high:.1f}":
        return f"{_times(low)} times"
    return f"{_times(low)} to {_times(high)} times"


def _times(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _listed(found: dict[Column, float]) -> str:
    return "; ".join(f"{_times(ratio)} {column.title}" for column, ratio in found.items())
