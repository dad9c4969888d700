"""The worker pool: it grows, shrinks, never blocks the loop, and one hung call holds up no other."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import aioring
from aioring.handle import Handle
from aioring.methods.worker import Worker
from aioring.operations import READ

pytestmark = [pytest.mark.timeout(20), pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


def worker_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("aioring-worker")]


async def until(condition: Callable[[], Any]) -> None:
    import anyio

    while not condition():
        await anyio.sleep(0.002)


async def test_no_thread_exists_before_there_is_work_and_all_are_daemons(anyio_backend: str, fd: int) -> None:
    before = set(worker_threads())
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        assert set(worker_threads()) == before
        await ring.read(fd, 0, 10)
        mine = set(worker_threads()) - before
        assert 1 <= len(mine) <= 2
        assert all(t.daemon for t in mine)


async def test_a_read_never_uses_the_loops_default_executor(anyio_backend: str, fd: int) -> None:
    before = set(threading.enumerate())
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        for i in range(20):
            await ring.read(fd, i, 10)
        names = {t.name.rstrip("0123456789") for t in set(threading.enumerate()) - before}
        # anyio's test runner runs trio as a guest, whose wait for events is a thread of trio's.
        assert names - ({"Trio thread "} if anyio_backend == "trio" else set()) == {"aioring-worker-"}


async def test_hung_calls_hold_up_no_read_while_a_worker_can_be_started(anyio_backend: str, fd: int) -> None:
    import anyio

    gate = threading.Event()
    async with aioring.Ring(method="worker", workers=4, page_cache_first=False) as ring:
        try:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(ring.run, gate.wait)
                await until(lambda: ring._started.workers.threads() >= 3)
                for i in range(50):
                    assert len(await ring.read(fd, i, 10)) == 10
                gate.set()
        finally:
            gate.set()


async def test_a_pool_whose_workers_all_hang_grows_for_one_waiting_job(anyio_backend: str, fd: int) -> None:
    # No submission follows that could notice: the loop's timer has to.
    import anyio

    gate = threading.Event()
    async with aioring.Ring(method="worker", workers=3, page_cache_first=False) as ring:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ring.run, gate.wait)
                group.start_soon(ring.run, gate.wait)
                await until(lambda: ring._started.workers.threads() == 2 and not ring._started.workers._queue)
                with anyio.fail_after(5):
                    assert len(await ring.read(fd, 0, 10)) == 10
                assert ring._started.workers.threads() == 3
                gate.set()
        finally:
            gate.set()


async def test_the_pool_never_exceeds_its_workers(anyio_backend: str, fd: int) -> None:
    import anyio

    at_once, most = 0, 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.001)
        with lock:
            at_once -= 1

    async with aioring.Ring(method="worker", workers=3) as ring, anyio.create_task_group() as group:
        for _ in range(300):
            group.start_soon(ring.run, job)
    assert 1 <= most <= 3


async def test_idle_workers_leave_down_to_the_least(anyio_backend: str, fd: int) -> None:
    import anyio

    pool = Worker(6, idle_timeout=0.05)
    gate = threading.Event()
    async with aioring.Ring(method=pool) as ring:
        try:
            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(ring.run, gate.wait)
                await until(lambda: pool.threads() == 6)
                gate.set()
        finally:
            gate.set()
        await until(lambda: pool.threads() == 2)
        assert len(await ring.read(fd, 0, 10)) == 10


async def test_a_queued_job_that_is_cancelled_never_runs(anyio_backend: str, fd: int) -> None:
    import anyio

    gate, ran = threading.Event(), []
    async with aioring.Ring(method="worker", workers=1) as ring:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ring.run, gate.wait)
                await until(lambda: ring._started.workers.threads() == 1 and not ring._started.workers._queue)
                with anyio.move_on_after(0.02) as scope:
                    await ring.run(ran.append, 1)
                assert scope.cancelled_caught
                gate.set()
        finally:
            gate.set()
        await ring.run(ran.append, 2)
    assert ran == [2]


async def test_the_loop_ticks_while_workers_are_slow(anyio_backend: str, fd: int) -> None:
    import anyio

    ticks = 0
    async with aioring.Ring(method="worker", workers=2) as ring, anyio.create_task_group() as group:

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.001)
                ticks += 1

        group.start_soon(tick)
        await ring.run(time.sleep, 0.1)
        group.cancel_scope.cancel()
    assert ticks > 10


async def test_two_loops_in_two_threads_have_pools_of_their_own(anyio_backend: str, fd: int) -> None:
    results: list[bytes] = []

    def other() -> None:
        async def main() -> None:
            async with aioring.Ring(method="worker", page_cache_first=False) as ring:
                for i in range(50):
                    results.append(await ring.read(fd, i, 4))

        asyncio.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        for i in range(50):
            assert await ring.read(fd, i, 4) == os.pread(fd, 4, i)
    thread.join()
    assert results == [os.pread(fd, 4, i) for i in range(50)]


def hanging_read(fd: int, gate: threading.Event) -> Handle:
    """A read of 4 bytes that hangs, as on a mount whose server is gone, until the gate opens."""

    def blocking(request: Any, most: int) -> int:
        gate.wait()
        outcome: int = READ.blocking(request, most)
        return outcome

    return Handle(replace(READ, blocking=blocking), fd, 0, 4)


async def quick(ring: aioring.Ring, fd: int) -> None:
    """So many reads of what is cached that the pool has taken it for granted."""
    workers = ring._started.workers  # type: ignore[union-attr]
    while workers._slow:
        for i in range(50):
            await ring.read(fd, i, 4)


class AllQuick(Worker):
    """No read counts as slow, and none as hung: on a crowded machine any may seem so, and then others rightly help."""

    _slow = property(lambda self: 0, lambda self, reads: None)  # type: ignore[assignment]
    calls_for_help = wakes_beside_a_reader = 0

    def tend(self) -> None:
        if self._completed:
            self._ring()

    def _get_help(self) -> None:
        self.calls_for_help += 1
        super()._get_help()

    def _wake_one(self) -> None:
        self.wakes_beside_a_reader += bool(self._readers)
        super()._wake_one()


@pytest.mark.parametrize("before", [0, 1, 40])
@pytest.mark.parametrize("behind", [0, 1, 40])
async def test_a_read_that_hangs_among_quick_ones_holds_up_none(
    anyio_backend: str, fd: int, before: int, behind: int
) -> None:
    gate = threading.Event()
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        try:
            hanging = []
            for _ in range(7):  # of 8 workers: a read can hardly hang more often
                await quick(ring, fd)
                first = [ring.start_read(fd, i, 4) for i in range(before)]
                hanging.append(hanging_read(fd, gate))
                ring._started.ask(hanging[-1])  # type: ignore[union-attr]
                last = [ring.start_read(fd, i, 4) for i in range(behind)]
                for i, read in [*enumerate(first), *enumerate(last)]:
                    assert await read == os.pread(fd, 4, i)
            assert not any(handle.finished() for handle in hanging)
            assert await ring.read(fd, 9, 4) == os.pread(fd, 4, 9)
        finally:
            gate.set()
        await until(lambda: all(handle.finished() for handle in hanging))
        assert [handle.res for handle in hanging] == [4] * 7
        await quick(ring, fd)  # and it is as before


async def test_quick_reads_are_the_work_of_one_worker(anyio_backend: str, fd: int) -> None:
    pool = AllQuick(8)
    async with aioring.Ring(method=pool, page_cache_first=False, depth=64) as ring:
        for _ in range(20):
            reads = [ring.start_read(fd, i, 4) for i in range(200)]
            for i, read in enumerate(reads):
                assert await read == os.pread(fd, 4, i)
        assert pool.calls_for_help == 0
        assert pool.wakes_beside_a_reader < 10  # none but for a worker that begins between the loop's look and its call
        assert pool.threads() <= 2


async def test_calls_that_take_long_are_not_queued_behind_each_other(anyio_backend: str, fd: int) -> None:
    """Whatever reads were before."""
    import anyio

    barrier = threading.Barrier(8)
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        await quick(ring, fd)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ring.run, barrier.wait)


async def test_cancelled_reads_leave_nobody_waiting_for_the_bell(anyio_backend: str, fd: int) -> None:
    """A worker rings when its queue is empty: also where the last in it were cancelled."""
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        await quick(ring, fd)
        for n in range(200):
            first = [ring.start_read(fd, i, 4) for i in range(4)]
            last = [ring.start_read(fd, i, 4) for i in range(4)]
            if n % 2:
                ring._started.flush()  # type: ignore[union-attr]
            for read in last:
                read.cancel()
            for i, read in enumerate(first):
                assert await read == os.pread(fd, 4, i)
