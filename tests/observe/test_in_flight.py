"""What is in flight, seen from the loop, from another thread, and from a signal handler."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioring
from tests.conftest import pattern
from tests.harness import Held

WHOLE = pattern(100_000)


@pytest.fixture
def many_pipes() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe() for _ in range(100)]
    yield pipes
    for pipe in pipes:
        for end in pipe:
            os.close(end)


async def seen(ring: aioring.Ring, wanted: int) -> list[aioring.InFlight]:
    """What another thread sees, as soon as it sees so many."""
    found: list[aioring.InFlight] = []
    with anyio.fail_after(10):
        while len(found) < wanted or any(record.state == "staged" for record in found):
            await anyio.sleep(0.002)
            thread = threading.Thread(target=lambda: found.__setitem__(slice(None), ring.in_flight()))
            thread.start()
            thread.join()
    return found


async def test_100_pipe_reads_and_100_file_reads_from_another_thread(
    anyio_backend: Any, fd: int, path: Path, many_pipes: list[tuple[int, int]]
) -> None:
    """The file's completions are held back, as those of a slow disk: nothing else tells them from cold reads."""
    method = Held(1)
    got: list[bytes] = []

    async def read(fd: int, offset: int, n: int) -> None:
        got.append(await ring.read(fd, offset, n))

    async with aioring.Ring(method=method) as ring:
        async with anyio.create_task_group() as group:
            for i in range(100):
                group.start_soon(read, many_pipes[i][0], -1, 10, name=f"pipe {i}")
                group.start_soon(read, fd, i * 100, 100, name=f"disk {i}")
            found = await seen(ring, 200)
            everywhere = aioring.in_flight()
            for pipe in many_pipes:
                os.write(pipe[1], b"x")
            method.let_go()
        assert ring.in_flight() == []
    assert len(got) == 200
    assert {record.id for record in everywhere} == {record.id for record in found}
    pipes = [record for record in found if record.state == "waiting"]
    disk = [record for record in found if record.state == "submitted"]
    assert (len(pipes), len(disk)) == (100, 100)
    assert sorted(record.fd or -1 for record in pipes) == sorted(pipe[0] for pipe in many_pipes)
    assert all(record.target.startswith("pipe:[") and record.method is None for record in pipes)
    assert {record.target for record in disk} == {str(path)}
    assert sorted(record.offset or 0 for record in disk) == [i * 100 for i in range(100)]
    for record in found:
        kind, number = str(record.task).split()
        assert (kind == "pipe") == (record.state == "waiting")
        assert record.coroutine is not None
        assert record.coroutine.endswith("read")
        if kind == "disk":
            assert record.offset == int(number) * 100
        assert record.operation == "read"
        assert record.length == (10 if kind == "pipe" else 100)
        assert record.result is None
        assert 0 < record.age < 60e6
        assert record.flags == (() if kind == "pipe" else ("buffered",))
    assert len({record.id for record in found}) == 200
    assert [record.age for record in found] == sorted((record.age for record in found), reverse=True)


async def test_100_cold_reads_on_every_method(make_ring: Any, anyio_backend: Any, path: Path) -> None:
    """Between being asked for and the end of the tick all of them stand there, however fast the disk is."""
    async with make_ring(page_cache_first=False) as ring:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        reads = [ring.start_read(fd, i * 100, 100) for i in range(100)]
        found = ring.in_flight()
        assert [await read for read in reads] == [WHOLE[i * 100 : i * 100 + 100] for i in range(100)]
        assert ring.in_flight() == []
        os.close(fd)
    assert {(record.operation, record.length, record.target) for record in found} == {("read", 100, str(path))}
    assert len(found) == 100
    assert {record.state for record in found} <= {"staged", "submitted", "complete"}
    assert {record.ring for record in found} == {f"{ring.method}-{ring._number}"}
    assert {record.method for record in found} <= {ring.method, "worker"}


async def test_who_waits_for_a_slot_or_a_close_is_seen_as_well(anyio_backend: Any, path: Path) -> None:
    method = Held(1)
    fd = os.open(path, os.O_RDONLY)
    async with aioring.Ring(method=method, depth=2) as ring:
        async with anyio.create_task_group() as group:
            for i in range(5):
                group.start_soon(ring.read, fd, i, 10)
            await seen(ring, 5)
            group.start_soon(ring.close, fd)
            found = await seen(ring, 6)
            states = sorted((record.operation, record.state) for record in found)
            method.let_go()
    assert states == [("close", "defined"), *[("read", "defined")] * 3, *[("read", "submitted")] * 2]


async def test_opens_show_their_path_and_chains_all_their_links(anyio_backend: Any, fd: int, path: Path) -> None:
    method = Held(1, short=0.0, soft=0.0)
    opened: list[int] = []

    async def open_it() -> None:
        opened.append(await ring.open(path, os.O_RDONLY))

    async def chain() -> None:
        async with ring.chain() as chain:
            chain.write(fd, 0, b"four")
            chain.fsync(fd)

    async with aioring.Ring(method=method) as ring:
        async with anyio.create_task_group() as group:
            group.start_soon(open_it, name="opener")
            group.start_soon(chain, name="chainer")
            found = {record.operation: record for record in await seen(ring, 3)}
            method.let_go()
        await ring.close(opened[0])
    assert found["open"].target == str(path)
    assert (found["open"].fd, found["open"].offset, found["open"].length) == (None, None, None)
    assert found["write"].flags == ("buffered", "linked")
    assert found["fsync"].flags == ("linked",)
    assert found["write"].task == found["fsync"].task == "chainer"
    assert (found["write"].state, found["fsync"].state) == ("submitted", "defined")
    assert str(found["write"]).startswith(
        f"scripted-{ring._number} #{found['write'].id}: write of 4 bytes at 0 of {path}"
    )


async def test_an_id_stays_and_a_generation_counts_submissions(anyio_backend: Any, fd: int) -> None:
    """Every transfer is cut short: the same I/O comes back again and again."""
    method = Held(3, short=1.0, soft=0.0)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        group.start_soon(ring.read, fd, 0, 5000)
        ids, generations, done = set(), [], []
        (first,) = await seen(ring, 1)
        method.let_go()
        while found := ring.in_flight():
            ids.add(found[0].id)
            generations.append(found[0].generation)
            done.append(found[0].done)
            await anyio.lowlevel.checkpoint()
    assert first.generation == 0
    assert ids == {first.id}
    assert generations == sorted(generations)
    assert generations[-1] >= 2
    assert done == sorted(done)
    assert done[-1] > 0


async def test_a_signal_handler_may_ask_in_the_middle_of_a_tick(anyio_backend: Any, fd: int) -> None:
    """Struck at every turn while reads go on: nothing is raised, and no read is harmed."""
    looks: list[int] = []
    failures: list[BaseException] = []

    def look(*_: object) -> None:
        try:
            looks.append(len(aioring.in_flight()))
            ring.stats()
        except BaseException as error:
            failures.append(error)

    async def read(number: int) -> None:
        for i in range(200):
            offset = (number * 200 + i) * 10
            assert await ring.read(fd, offset, 10) == WHOLE[offset : offset + 10]

    async with aioring.Ring(page_cache_first=False) as ring:
        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            async with anyio.create_task_group() as group:
                for number in range(32):
                    group.start_soon(read, number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert failures == []
    assert max(looks) > 0


async def test_another_thread_may_ask_all_the_time(ring: aioring.Ring, fd: int) -> None:
    over = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        while not over.is_set():
            try:
                for record in aioring.in_flight():
                    assert record.operation == "read"
                ring.stats()
            except BaseException as error:
                failures.append(error)
                return

    async def read(number: int) -> None:
        for i in range(20):
            offset = (number * 20 + i) * 10
            assert await ring.read(fd, offset, 10) == WHOLE[offset : offset + 10]

    thread = threading.Thread(target=look)
    thread.start()
    try:
        async with anyio.create_task_group() as group:
            for number in range(64):
                group.start_soon(read, number)
    finally:
        over.set()
        thread.join()
    assert failures == []


async def test_a_ring_that_is_not_started_or_closed_has_nothing_in_flight(make_ring: Any, anyio_backend: Any) -> None:
    ring = make_ring()
    assert ring.in_flight() == []
    assert ring not in aioring.rings()
    async with ring:
        assert ring in aioring.rings()
    assert ring.in_flight() == []
    assert ring not in aioring.rings()


def test_two_loops_of_two_threads_are_seen_together(fd: int) -> None:
    here, there = Held(1), Held(2)
    ready, over = threading.Event(), threading.Event()

    async def other() -> None:
        async with aioring.Ring(method=there) as ring:
            task = asyncio.create_task(ring.read(fd, 7, 70), name="there")
            await asyncio.sleep(0.01)
            ready.set()
            await asyncio.to_thread(over.wait, 10)
            there.let_go()
            await task

    async def main() -> None:
        thread = threading.Thread(target=asyncio.run, args=(other(),))
        thread.start()
        async with aioring.Ring(method=here) as ring:
            task = asyncio.create_task(ring.read(fd, 8, 80), name="here")
            await asyncio.to_thread(ready.wait, 10)
            found = {record.task: record for record in aioring.in_flight()}
            over.set()
            here.let_go()
            await task
        thread.join()
        assert set(found) == {"here", "there"}
        assert found["here"].ring != found["there"].ring
        assert (found["here"].offset, found["there"].offset) == (8, 7)

    asyncio.run(main())


async def test_what_a_ring_waits_for_that_is_being_closed(anyio_backend: Any, fd: int) -> None:
    method = Held(1, cancel="loses")
    ring = aioring.Ring(method=method)
    await ring.start()
    read = ring.start_read(fd, 0, 10)
    await seen(ring, 1)  # submitted: what is only staged is not waited for
    async with anyio.create_task_group() as group:
        group.start_soon(ring.aclose)
        await anyio.sleep(0.02)
        assert ring not in aioring.rings()
        assert [(record.operation, record.flags[-1]) for record in aioring.in_flight()] == [("read", "cancelling")]
        method.let_go()
    try:
        assert await read == WHOLE[:10]
    except aioring.RingClosedError:
        pass  # it was cut short, and was not continued


async def test_an_age_counts_from_when_it_was_asked_for(anyio_backend: Any, path: Path) -> None:
    """Also behind a close's users, and behind the links before it."""
    method = Held(1, short=0.0, soft=0.0)
    fd, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)

    async def chain() -> None:
        async with ring.chain() as chain:
            chain.fsync(other)
            chain.write(other, 0, b"x")

    async with aioring.Ring(method=method) as ring:
        async with anyio.create_task_group() as group:
            group.start_soon(ring.read, fd, 0, 10)
            await anyio.sleep(0.01)
            group.start_soon(ring.close, fd)
            group.start_soon(chain)
            await anyio.sleep(0.05)
            ages = {record.operation: record.age for record in ring.in_flight()}
            method.let_go()
    os.close(other)
    assert set(ages) == {"read", "close", "fsync", "write"}
    assert all(40_000 < age < 10_000_000 for age in ages.values()), ages
