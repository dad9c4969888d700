"""Back-pressure: `depth` bounds what is in flight, everybody else waits in order and in constant memory."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioring
from aioring.engine.budget import SIZE
from aioring.testing import Recording, Trace

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("name", ["io_uring", "worker"])
async def test_100_000_reads_finish_in_order_of_arrival(anyio_backend: Any, fd: int, name: str) -> None:
    trace = Trace()
    done = 0
    async with aioring.Ring(method=Recording(name, trace), depth=256, page_cache_first=False) as ring:
        engine = ring._started
        assert engine is not None
        # As many on one loop; the trace takes most of the time.
        n = 100_000 if name == "io_uring" and anyio_backend[0] == "trio" else 20_000
        reads = [ring.start_read(fd, i % 1000, 1) for i in range(n)]
        assert len(engine.live) + len(engine.staged) <= 256
        for read in reads:
            done += len(await read)
            assert len(engine.live) + len(engine.staged) <= 256
        assert engine.workers.threads() <= 8
        if name == "io_uring":
            assert not ring._started.method.inner._queues.overflowed()  # type: ignore[union-attr]
    assert done == n
    submitted = [e.number for e in trace.events if e.what == "submitted"]
    assert submitted == sorted(submitted)
    assert len(submitted) == n


async def test_tasks_beyond_depth_all_finish(ring: aioring.Ring, fd: int) -> None:
    got: list[bytes] = []

    async def one(i: int) -> None:
        got.append(await ring.read(fd, i * 4, 4))

    async with anyio.create_task_group() as group:
        for i in range(2000):
            group.start_soon(one, i)
    assert sorted(got) == sorted(i.to_bytes(4, "little") for i in range(2000))


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
async def test_a_ring_of_any_depth_serves_all(make_ring: Any, anyio_backend: Any, fd: int, depth: int) -> None:
    async with make_ring(depth=depth) as ring:
        reads = [ring.start_read(fd, i * 4, 4) for i in range(200)]
        assert [await read for read in reads] == [i.to_bytes(4, "little") for i in range(200)]


async def test_who_waits_holds_no_buffer(anyio_backend: Any, fd: int) -> None:
    async with aioring.Ring(method="io_uring", depth=4, page_cache_first=False) as ring:
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            reads = [ring.start_read(fd, 0, 50_000) for _ in range(1000)]
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < 1000 * 2048, held  # 50 MB if each had its buffer
        for read in reads:
            await read


async def test_cancelled_waiters_leave_the_line(anyio_backend: Any, fd: int) -> None:
    gate = threading.Event()
    async with aioring.Ring(method="worker", depth=1, workers=1, page_cache_first=False) as ring:
        engine = ring._started
        assert engine is not None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ring.run, gate.wait)  # the one worker is busy
                await anyio.sleep(0.01)
                first = ring.start_read(fd, 0, 4)  # the one slot is taken
                for _ in range(5):
                    line = [ring.start_read(fd, 0, 4) for _ in range(1000)]
                    for read in line:
                        read.cancel()
                    assert len(engine.backlog) < 200
                last = ring.start_read(fd, 4, 4)
                gate.set()
                assert await first == (0).to_bytes(4, "little")
                assert await last == (1).to_bytes(4, "little")
        finally:
            gate.set()


async def test_a_ticker_runs_between_page_cache_hits(anyio_backend: Any, fd: int) -> None:
    """One budget a tick for all tasks: a task that only hits does not starve the loop."""
    async with aioring.Ring(method="worker") as ring:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.lowlevel.checkpoint()
                ticks += 1

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            for _ in range(SIZE * 20):
                assert await ring.read(fd, 0, 4) == os.pread(fd, 4, 0)
            group.cancel_scope.cancel()
        assert ticks >= 10


async def test_many_completions_at_once_do_not_make_one_long_tick(
    make_ring: Any, anyio_backend: Any, path: Path
) -> None:
    """Each resumes a task. 300 that are there at once are told a few a tick, and all of them are told. (Writes: a read may
    be served in place, for a unit of the budget.)"""
    told, before, most = 0, 0, 0
    fd = os.open(path, os.O_RDWR)

    async def one(number: int) -> None:
        nonlocal told
        assert await ring.write(fd, number * 4, b"past") == 4
        told += 1

    async def tick() -> None:
        nonlocal before, most
        while told < 300:
            most, before = max(most, told - before), told
            await anyio.lowlevel.checkpoint()

    async with make_ring(depth=512) as ring, anyio.create_task_group() as group:
        group.start_soon(tick)
        for number in range(300):
            group.start_soon(one, number)
    assert told == 300
    assert os.pread(fd, 1201, 0) == b"past" * 300 + os.pread(fd, 1, 1200)
    os.close(fd)
    assert most <= 4 * 16  # trio runs its tasks in any order: turns may be seen in one look; all at once: 200 and more


async def test_tasks_that_only_hit_the_page_cache_are_cancelled_by_a_scope(anyio_backend: Any, fd: int) -> None:
    """anyio passes over a task whose future is done: who parks again and again must be seen waiting in between."""
    hits = 0

    async def hit_for_ever() -> None:
        nonlocal hits
        while True:
            await ring.read(fd, 0, 4)
            hits += 1

    async with aioring.Ring(method="worker") as ring:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(hit_for_ever)
            while hits < 1000:
                await anyio.lowlevel.checkpoint()
            before = hits
            group.cancel_scope.cancel()
        assert hits - before < 1000
