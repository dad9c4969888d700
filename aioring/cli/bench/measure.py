"""Rates: every way in turn, round after round, and the median of the rounds. A machine that changes its speed meanwhile
changes it for all.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .target import BLOCK, Target
from .ways import Read, Way

__all__ = ["CACHED", "COLD", "DIRECT", "ROUNDS", "Column", "Results", "columns", "measure"]

CACHED, COLD, DIRECT = "cached", "cold", "direct"
ROUNDS = 3
_LOOK = 16  # reads between two looks at the clock


class Column(NamedTuple):
    """What all ways are measured in."""

    pages: str  # cached, cold, direct
    busy: bool  # beside a thread that runs Python
    tasks: int

    @property
    def title(self) -> str:
        return f"{self.pages}, {self.tasks} task{'s' if self.tasks > 1 else ''}{', busy' if self.busy else ''}"


class Results(NamedTuple):
    rates: dict[tuple[str, Column], list[float]]  # reads a second; by way
    columns: list[Column]
    missing: dict[str, str]  # ways, and pages, that could not be measured, and why

    @property
    def ways(self) -> list[str]:
        """Those that have been measured."""
        return list(dict.fromkeys(name for name, _ in self.rates))

    def rate(self, way: str, column: Column) -> float | None:
        found = self.rates.get((way, column))
        return statistics.median(found) if found else None


def columns(tasks: int) -> list[Column]:
    return [
        Column(pages, busy, n)
        for pages in (CACHED, COLD, DIRECT)
        for n in ((1, tasks) if pages == CACHED and tasks > 1 else (tasks,))
        for busy in (False, True)
    ]


async def measure(
    target: Target, ways: list[Way], tasks: int, seconds: float, shown: Callable[[int, int | None], None]
) -> Results:
    """`seconds`: for all of it, about. `shown`: is told how many turns are over, of how many."""
    missing = {way.name: way.missing for way in ways if way.missing}
    missing |= {pages: why for pages, why in ((COLD, target.cold), (DIRECT, target.direct)) if why}
    wanted = [column for column in columns(tasks) if column.pages not in missing]
    turns = [
        (column, [way for way in ways if not way.missing and (way.direct or column.pages != DIRECT)])
        for column in wanted
    ]
    total = ROUNDS * sum(len(able) for _, able in turns)
    each = max(seconds / max(total, 1), 0.02)
    # In the order of the ways; the turns have another.
    rates: dict[tuple[str, Column], list[float]] = {(way.name, column): [] for column, able in turns for way in able}
    done = 0
    chance = random.Random(18)
    for column, able in turns:
        if column.pages == CACHED:
            target.warm()
        for _ in range(ROUNDS):
            for way in chance.sample(able, len(able)):
                rates[way.name, column].append(await _turn(target, way, column, each, chance))
                done += 1
                shown(done, total)
    return Results(rates, wanted, missing)


async def _turn(target: Target, way: Way, column: Column, seconds: float, chance: random.Random) -> float:
    offsets = _offsets(target, column, chance)
    async with way.open(target.path, column.pages == DIRECT, column.tasks) as reads:
        await _drive(reads, iter([0] * (2 * column.tasks)), seconds)  # threads are started, and code is warm
        if column.pages == COLD:
            target.cool()
        with _busy_thread(column.busy):
            begun = time.perf_counter()
            n = await _drive(reads, offsets, seconds)
            rate = n / (time.perf_counter() - begun)
    target.check()
    return rate


def _offsets(target: Target, column: Column, chance: random.Random) -> Iterator[int]:
    """At random; without an end, but for cold pages, which are cold once."""
    blocks = range(target.blocks)
    if column.pages == COLD:
        return iter([block * BLOCK for block in chance.sample(blocks, len(blocks))])
    some = [block * BLOCK for block in chance.choices(blocks, k=min(len(blocks), 20_000))]
    return _without_end(some)


def _without_end(offsets: list[int]) -> Iterator[int]:
    while True:
        yield from offsets


async def _drive(reads: list[Read], offsets: Iterator[int], seconds: float) -> int:
    """One task for each of `reads`. How many they read together, until the time is up or the offsets are."""
    end, done = time.perf_counter() + seconds, 0

    async def one(read: Read) -> None:
        nonlocal done
        n = 0
        for offset in offsets:
            await read(offset)
            n += 1
            looks = not n % _LOOK or n < _LOOK or len(reads) > _LOOK  # the slow ones come to a few reads in all
            if looks and time.perf_counter() >= end:
                break
        done += n

    await asyncio.gather(*map(one, reads))
    return done


@contextmanager
def _busy_thread(wanted: bool) -> Iterator[None]:
    over = False

    def work() -> None:
        while not over:
            sum(range(100))

    thread = threading.Thread(target=work, daemon=True)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over = True
        if wanted:
            thread.join()
