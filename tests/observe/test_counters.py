"""What a ring counts, beside what was really asked of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop

import aioring
from aioring.methods.sync import Sync
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import Held

WHOLE = pattern(100_000)


async def test_everything_is_counted_once_on_every_method(ring: aioring.Ring, fd: int, path: Path) -> None:
    buffer = bytearray(50)
    for i in range(10):
        assert len(await ring.read(fd, i * 100, 100)) == 100
    assert len(await ring.read(fd, 99_990, 100)) == 10  # end of file
    await ring.readinto(fd, 0, buffer)
    await ring.readv(fd, 0, [bytearray(10), bytearray(20)])
    await ring.write(fd, 0, b"x" * 70)
    await ring.writev(fd, 0, [b"a" * 30, b"b" * 10])
    await ring.fsync(fd)
    await ring.stat(fd)
    await ring.run(len, "")
    other = await ring.open(path, os.O_RDONLY)
    await ring.close(other)
    with pytest.raises(FileNotFoundError):
        await ring.open(path.with_name("nothing"), os.O_RDONLY)
    stats = ring.stats()
    counts = {name: (one.count, one.bytes, one.errors) for name, one in stats.operations.items()}
    assert counts == {
        "read": (11, 1010, 0),
        "readinto": (1, 50, 0),
        "readv": (1, 30, 0),
        "write": (1, 70, 0),
        "writev": (1, 40, 0),
        "fsync": (1, 0, 0),
        "stat": (1, 0, 0),
        "run": (1, 0, 0),
        "open": (2, 0, 1),
        "close": (1, 0, 0),
    }
    assert (stats.method, stats.ring) == (ring.method, f"{ring.method}-{ring._number}")
    hits = sum(one.page_cache for one in stats.operations.values())
    if not ring._page_cache_first or ring.method == "scripted":
        assert hits == 0
    elif ring._cache.on:
        assert stats.operations["read"].page_cache == 11
        assert stats.operations["readinto"].page_cache == 1
    assert stats.completions == sum(one.count for one in stats.operations.values()) - hits
    assert 0 < stats.submissions <= stats.completions + 10
    assert stats.completions_per_submission == stats.completions / stats.submissions
    assert all(one.waited is None for one in stats.operations.values())
    assert json.loads(json.dumps(stats.as_dict()))["operations"]["read"]["count"] == 11
    if ring.method == "worker":
        assert stats.operations["write"].workers == 1
    if ring.method == "io_uring":
        assert stats.operations["write"].workers == 0


async def test_what_was_asked_again_is_one_io(anyio_backend: Any, fd: int) -> None:
    method = Scripted(7, short=0.5, soft=0.3)
    async with aioring.Ring(method=method) as ring:
        for i in range(50):
            assert await ring.read(fd, i * 1000, 1000) == WHOLE[i * 1000 : i * 1000 + 1000]
        read = ring.stats().operations["read"]
    assert (read.count, read.bytes, read.errors) == (50, 50_000, 0)
    assert read.short > 10
    assert read.retries > 5


async def test_failures_and_cancels(anyio_backend: Any, fd: int) -> None:
    method = Held(1, faults={("read", 1): errno.EIO}, soft=0.0)
    async with aioring.Ring(method=method, depth=2) as ring:
        async with anyio.create_task_group() as group:

            async def fails() -> None:
                with pytest.raises(OSError, match="Input/output"):
                    await ring.read(fd, 0, 10)

            group.start_soon(fails)
            await anyio.sleep(0.01)
            with anyio.move_on_after(0.01):
                await ring.read(fd, 0, 10)
            with anyio.move_on_after(0.01):  # waits for a slot, and was never told
                await ring.read(fd, 0, 10)
            method.let_go()
        read = ring.stats().operations["read"]
    assert read.errors == 1
    assert read.cancelled + read.count - read.errors >= 2
    assert read.count == 3
    assert read.slot_waits == 1


async def test_back_pressure_and_depth(make_ring: Any, anyio_backend: Any, fd: int) -> None:
    async with make_ring(depth=4, page_cache_first=False) as ring:
        reads = [ring.start_read(fd, i, 1) for i in range(20)]
        for read in reads:
            await read
        stats = ring.stats()
    assert stats.operations["read"].slot_waits >= 1
    assert stats.operations["read"].count == 20
    assert 1 <= stats.deepest <= 4


async def test_what_waits_for_a_peer_is_counted_too(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(ring.read, pipe[0], -1, 100)
        await anyio.sleep(0.01)
        assert await ring.write(pipe[1], -1, b"four") == 4
    with anyio.move_on_after(0.01):
        await ring.read(pipe[0], -1, 100)
    read, write = ring.stats().operations["read"], ring.stats().operations["write"]
    assert (read.count, read.bytes, read.cancelled, read.errors) == (2, 4, 1, 0)
    assert (write.count, write.bytes) == (1, 4)
    pending = ring.start_read(pipe[0], -1, 3)
    await ring.write(pipe[1], -1, b"abc")
    assert await pending == b"abc"
    assert ring.stats().operations["read"].count == 3
    assert ring.stats().operations["read"].bytes == 7


async def test_a_reset_begins_from_zero(ring: aioring.Ring, fd: int) -> None:
    await ring.read(fd, 0, 10)
    await ring.write(fd, 0, b"x")
    ring.reset_stats()
    stats = ring.stats()
    assert stats.operations == {}
    assert (stats.submissions, stats.deepest, stats.page_cache_changes) == (0, 0, 0)
    assert stats.completions_per_submission == 0.0
    await ring.read(fd, 0, 10)
    assert ring.stats().operations["read"].count == 1


async def test_stats_before_and_after_the_ring_was_open(make_ring: Any, anyio_backend: Any, fd: int) -> None:
    ring = make_ring()
    assert ring.stats().operations == {}
    async with ring:
        await ring.read(fd, 0, 10)
    assert ring.stats().operations["read"].count == 1


async def test_time_waited_is_kept_where_it_is_asked_for(anyio_backend: Any, fd: int) -> None:
    method = Held(1, short=0.0, soft=0.0)
    async with aioring.Ring(method=method, track_timing=True) as ring:
        async with anyio.create_task_group() as group:
            group.start_soon(ring.read, fd, 0, 10)
            await anyio.sleep(0.05)
            method.let_go()
        await ring.fsync(fd)
        read, fsync = ring.stats().operations["read"].waited, ring.stats().operations["fsync"].waited
        assert read is not None
        assert fsync is not None
        assert (read.count, fsync.count) == (1, 1)
        assert 0.04 <= read.total < 10
        assert read.p50 == pytest.approx(read.worst, rel=0.04)
        assert fsync.worst < read.worst
        ring.reset_stats()
        await ring.read(fd, 0, 10)
        again = ring.stats().operations["read"].waited
        assert again is not None
        assert again.count == 1


async def test_hits_of_the_page_cache_book_no_time(anyio_backend: Any, fd: int) -> None:
    os.pread(fd, 10, 0)
    async with aioring.Ring(track_timing=True) as ring:
        await ring.read(fd, 0, 10)
        read = ring.stats().operations["read"]
    if read.page_cache:
        assert read.waited is not None
        assert read.waited.count == 0


async def test_timing_by_the_environment(anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIORING_TRACK_TIMING", "1")
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        await ring.read(fd, 0, 10)
        waited = ring.stats().operations["read"].waited
    assert waited is not None
    assert waited.count == 1
    assert waited.total > 0
    monkeypatch.setenv("AIORING_TRACK_TIMING", "perhaps")
    with pytest.raises(ValueError, match="AIORING_TRACK_TIMING='perhaps'"):
        aioring.Ring()
    assert aioring.Ring(track_timing=False).stats().operations == {}  # a keyword argument wins


def test_seconds_run_from_the_reset() -> None:
    ring = aioring.Ring()
    time.sleep(0.01)
    before = ring.stats().seconds
    assert 0.01 <= before < 5
    ring.reset_stats()
    assert ring.stats().seconds < before


async def test_opens_by_either_call_are_one_operation(ring: aioring.Ring, path: Path) -> None:
    for resolve in (0, aioring.RESOLVE_NO_SYMLINKS, 0, aioring.RESOLVE_NO_SYMLINKS):
        await ring.close(await ring.open(path, os.O_RDONLY, resolve=resolve))
    stats = ring.stats()
    assert (stats.operations["open"].count, stats.operations["close"].count) == (4, 4)


class Told(Sync):
    """How often it is told of something."""

    times = 0

    def submit(self, staged: Any) -> None:
        self.times += bool(staged)
        super().submit(staged)


async def test_every_telling_is_a_submission(anyio_backend: Any, fd: int) -> None:
    method = Told()

    async def read() -> None:
        for i in range(50):
            await ring.read(fd, i, 10)

    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(read)
        stats = ring.stats()
    assert stats.submissions == method.times
    assert stats.completions == 2000
    assert type(stats.deepest) is int


async def test_what_completes_in_the_flush_that_submits_it_is_inline(anyio_backend: Any, fd: int) -> None:
    """However many: more than are told in one tick."""
    async with aioring.Ring(method=Sync(), page_cache_first=False) as ring:
        for read in [ring.start_read(fd, i, 1) for i in range(100)]:
            await read
        assert ring.stats().operations["read"].inline == 100


async def test_an_open_that_waits_for_a_fifos_reader_is_one(ring: aioring.Ring, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened: list[int] = []

    async def write() -> None:
        opened.append(await ring.open(fifo, os.O_WRONLY))

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.sleep(0.1)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    count = ring.stats().operations["open"]
    assert (count.count, count.errors, count.cancelled) == (1, 0, 0)
    for fd in (reader, *opened):
        os.close(fd)


async def test_a_bad_fd_is_an_error_of_its_operation(ring: aioring.Ring, fd: int) -> None:
    with pytest.raises(OSError, match="Bad file"):
        await ring.read(1 << 20, 0, 10)
    with pytest.raises(OSError, match="Bad file"):
        await ring.write(1 << 20, 0, b"x")
    with pytest.raises(OSError, match="Bad file"):
        await ring.start_read(1 << 20, 0, 10)
    read, write = ring.stats().operations["read"], ring.stats().operations["write"]
    assert (read.count, read.errors, write.count, write.errors) == (2, 2, 1, 1)


async def test_a_wait_that_the_close_of_its_pipe_ends_was_cancelled(ring: aioring.Ring) -> None:
    read, write = os.pipe()
    async with anyio.create_task_group() as group:

        async def waits() -> None:
            with pytest.raises(OSError, match="ancel"):
                await ring.read(read, -1, 10)

        group.start_soon(waits)
        await anyio.sleep(0.01)
        await ring.close(read)
    os.close(write)
    count = ring.stats().operations["read"]
    assert (count.count, count.cancelled, count.errors) == (1, 1, 0)
    if ring.method == "worker":
        assert count.workers == 0


async def test_what_a_ring_gives_up_at_its_end_is_counted(anyio_backend: Any, fd: int) -> None:
    method = Held(1, cancel="loses")
    ring = aioring.Ring(method=method)
    await ring.start()
    read = ring.start_read(fd, 0, 10)
    await anyio.sleep(0.01)
    with pytest.warns(ResourceWarning):
        await ring.aclose(timeout=0.01)
    with pytest.raises(aioring.RingClosedError):
        await read
    assert ring.stats().operations["read"].cancelled == 1


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_page_cache_steps_changes_and_what_a_reset_leaves_alone(run: Any, fd: int) -> None:
    """The step goes by misses in a row, and hits are what parts them."""

    async def main() -> None:
        async with aioring.Ring() as ring:
            cache = ring._cache
            cache.asking = cache.on = True
            cache.views[10] = cache._cut(10)
            cache.preadv = lambda *_: 10  # as if all were cached
            for _ in range(15):
                cache.miss()
            await ring.read(fd, 0, 10)
            ring.reset_stats()
            cache.miss()
            assert cache.asking
            assert ring.stats().page_cache_changes == 0
            for _ in range(15):
                cache.miss()
            assert not cache.asking
            assert ring.stats().page_cache_changes == 1
            for _ in range(512):
                cache.skip()
            assert cache.asking
            assert ring.stats().page_cache_changes == 2
            ring.reset_stats()
            assert ring.stats().page_cache_changes == 0

    run(main())


def test_seconds_begin_with_the_ring_and_not_with_its_object(fd: int) -> None:
    async def main() -> float:
        ring = aioring.Ring()
        time.sleep(0.1)
        async with ring:
            return ring.stats().seconds

    assert asyncio.run(main()) < 0.1
