"""How the units of a tick are shared among tasks that wait for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

import aioring
from aioring.engine.budget import SIZE, Budget
from tests.conftest import pattern


class Ticks:
    """What a task that runs every tick sees."""

    def __init__(self, *, at_each: Any) -> None:
        self._at_each = at_each
        self.count = 0

    async def run(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.count += 1
            self._at_each()


@pytest.mark.parametrize("tasks", [1, 7, 8, 9, 32, 300])
async def test_no_tick_has_more_than_one_budget_and_all_get_their_turn(anyio_backend: Any, fd: int, tasks: int) -> None:
    hits: Counter[int] = Counter()
    most, before = 0, 0

    def look() -> None:
        nonlocal most, before
        most, before = max(most, hits.total() - before), hits.total()

    async def hit(number: int, count: int) -> None:
        for _ in range(count):
            assert await ring.read(fd, number % 64, 1) == pattern(64)[number % 64 :][:1]
            hits[number] += 1

    ticks = Ticks(at_each=look)
    async with aioring.Ring(method="worker") as ring, anyio.create_task_group() as ticking:
        ticking.start_soon(ticks.run)
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(hit, number, 200)
            while len(hits) < tasks:
                await anyio.lowlevel.checkpoint()
            assert max(hits.values()) <= 2 * SIZE  # nobody is kept waiting until others have had all they want
        ticking.cancel_scope.cancel()
    assert hits == dict.fromkeys(range(tasks), 200)
    # What was left of one budget may be seen in the same look as the next, and trio runs its tasks in any order.
    assert most <= (3 if anyio_backend[0] == "trio" else 2) * SIZE


async def test_many_who_read_once_do_not_wait_for_a_tick_each(anyio_backend: Any, fd: int) -> None:
    """256 units are for 256 tasks then, not for the first 8 of them."""
    done = 0

    async def read_once(number: int) -> None:
        nonlocal done
        await ring.read(fd, number % 64, 1)
        done += 1

    ticks = Ticks(at_each=lambda: None)
    async with aioring.Ring(method="worker") as ring, anyio.create_task_group() as ticking:
        ticking.start_soon(ticks.run)
        started: Any = ring._started  # type: ignore[attr-defined]
        async with anyio.create_task_group() as group:
            started.budget.left = 0  # others have spent it in this tick
            for number in range(1000):
                group.start_soon(read_once, number)
        ticking.cancel_scope.cancel()
    assert done == 1000
    assert ticks.count < 100  # 8, 16, 32 ... 256 of them a tick


async def test_who_is_cancelled_in_the_line_keeps_nobody_waiting(anyio_backend: Any, fd: int) -> None:
    cancelled = done = 0
    scopes = [anyio.CancelScope() for _ in range(100)]

    async def read_once(number: int) -> None:
        nonlocal cancelled, done
        with scopes[number] as scope:
            assert await ring.read(fd, number % 64, 1) == pattern(64)[number % 64 :][:1]
            done += 1
        cancelled += scope.cancelled_caught

    async with aioring.Ring(method="worker") as ring:
        budget: Budget = ring._started.budget  # type: ignore[attr-defined]
        async with anyio.create_task_group() as group:
            budget.left = 0  # others have spent it in this tick
            for number in range(100):
                group.start_soon(read_once, number)
            while not budget._parked:
                await anyio.lowlevel.checkpoint()
            for scope in scopes[::2]:
                scope.cancel()
        assert cancelled > 0
        assert cancelled + done == 100
        assert not budget._parked
