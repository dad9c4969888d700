"""Cancelling: at every await of every operation, by every means there is. Nothing leaks, nothing changes afterwards."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

import aioring
from aioring.testing import Scripted
from tests.conftest import LOOPS, open_fds, pattern
from tests.harness import SOON, Held, Outcome, all_over, begin, ticks

pytestmark = pytest.mark.timeout(10)

WHOLE = pattern(100_000)


async def settled(ring: aioring.Ring) -> None:
    """Until the ring has nothing under way any more; then it must have forgotten everything."""
    engine = ring._started
    assert engine is not None
    with anyio.fail_after(SOON):
        while engine.busy():
            await anyio.sleep(0.0005)
    assert (engine.live, engine.held, engine.closing) == ({}, {}, {})
    assert engine.runs == 0


# --- every operation, at every await ----------------------------------------------------------------------------------


class Scene:
    """A folder with a file in it, for one operation to be cancelled on."""

    def __init__(self, ring: aioring.Ring, folder: Path) -> None:
        self.ring = ring
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.file = folder / "file"
        self.file.write_bytes(WHOLE)
        (folder / "old").write_bytes(b"old")
        (folder / "dir").mkdir()
        os.mkfifo(folder / "fifo")
        self.fd = os.open(self.file, os.O_RDWR)
        self.reader, self.writer = os.pipe()
        self.buffer = bytearray(50_000)
        self.ran = 0

    def state(self) -> Any:
        """All that an operation could change."""
        names = sorted((entry.name, entry.stat(follow_symlinks=False).st_size) for entry in os.scandir(self.folder))
        return names, self.file.read_bytes(), bytes(self.buffer), self.ran

    def close(self) -> None:
        for fd in (self.fd, self.reader, self.writer):
            os.close(fd)
        for name in ("new", "linked"):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("file", "old", "fifo"):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("dir", "made"):
            if (self.folder / name).exists():
                (self.folder / name).rmdir()
        self.folder.rmdir()


async def _chain(s: Scene) -> None:
    async with s.ring.chain() as chain:
        chain.write(s.fd, 0, b"one")
        chain.write(s.fd, 10, b"two")
        chain.fsync(s.fd)
        chain.read(s.fd, 0, 20)


async def _run(s: Scene) -> int:
    def call() -> int:
        s.ran += 1
        return s.ran

    return await s.ring.run(call)


async def _started(s: Scene) -> bytes:
    return await s.ring.start_read(s.fd, 0, 70_000)


async def _started_write(s: Scene) -> int:
    return await s.ring.start_write(s.fd, 100, b"w" * 50_000)


Action = Callable[[Scene], Awaitable[Any]]
OPERATIONS: dict[str, Action] = {
    "read": lambda s: s.ring.read(s.fd, 100, 4096),
    "read much": lambda s: s.ring.read(s.fd, 0, 100_000),
    "readinto": lambda s: s.ring.readinto(s.fd, 0, memoryview(s.buffer)[:4096]),
    "readinto much": lambda s: s.ring.readinto(s.fd, 0, s.buffer),
    "readv": lambda s: s.ring.readv(s.fd, 5, [memoryview(s.buffer)[:10], memoryview(s.buffer)[10:]]),
    "write": lambda s: s.ring.write(s.fd, 5, b"z" * 30_000),
    "writev": lambda s: s.ring.writev(s.fd, 5, [b"z" * 30_000, b"", b"y" * 100]),
    "start_read": _started,
    "start_write": _started_write,
    "fsync": lambda s: s.ring.fsync(s.fd),
    "fdatasync": lambda s: s.ring.fsync(s.fd, data_only=True),
    "sync_range": lambda s: s.ring.sync_range(s.fd, 0, 4096),
    "open": lambda s: s.ring.open(s.file, os.O_RDONLY),
    "open resolved": lambda s: s.ring.open(s.file, os.O_RDWR, resolve=0x02),
    "stat": lambda s: s.ring.stat(s.file),
    "stat of an fd": lambda s: s.ring.stat(s.fd),
    "truncate": lambda s: s.ring.truncate(s.fd, 50_000),
    "allocate": lambda s: s.ring.allocate(s.fd, 0, 200_000),
    "advise": lambda s: s.ring.advise(s.fd, 0, 0, os.POSIX_FADV_WILLNEED),
    "rename": lambda s: s.ring.rename(s.folder / "old", s.folder / "new"),
    "unlink": lambda s: s.ring.unlink(s.folder / "old"),
    "mkdir": lambda s: s.ring.mkdir(s.folder / "made"),
    "rmdir": lambda s: s.ring.rmdir(s.folder / "dir"),
    "symlink": lambda s: s.ring.symlink("old", s.folder / "linked"),
    "link": lambda s: s.ring.link(s.folder / "old", s.folder / "linked"),
    "chain": _chain,
    "run": _run,
    "read of a pipe": lambda s: s.ring.read(s.reader, -1, 10),
    "write to a full pipe": lambda s: s.ring.write(s.writer, -1, bytes(200_000)),
    "open of a fifo to read": lambda s: s.ring.open(s.folder / "fifo", os.O_RDONLY),
    "open of a fifo to write": lambda s: s.ring.open(s.folder / "fifo", os.O_WRONLY),
}
NEVER_ENDS = ("read of a pipe", "write to a full pipe", "open of a fifo to read", "open of a fifo to write")
UNSETTLED = ("run",)  # may begin and end after the await has returned: what it returns is dropped


async def cancel_after(ring: aioring.Ring, folder: Path, name: str, k: int) -> None:
    """Run one operation, cancel it after `k` turns of the loop, and see that nothing of it stays."""
    scene = Scene(ring, folder)
    try:
        async with anyio.create_task_group() as group:
            one = begin(group, OPERATIONS[name], scene)
            await ticks(k)
            one.scope.cancel()
            await all_over(one)
        assert one.error is None, (name, k)
        if name in NEVER_ENDS:
            assert one.value is None
        if name.startswith("open") and one.value is not None:
            os.close(one.value)
        before = scene.state()
        scene.buffer[:] = b"\xaa" * len(scene.buffer)  # what is written there from now on shows
        await settled(ring)
        after = scene.state()
        assert after[2].count(0xAA) == len(scene.buffer), (name, k, "the buffer changed after the await had returned")
        if name not in UNSETTLED:
            assert before[:2] == after[:2], (name, k, "the files changed after the await had returned")
    finally:
        scene.close()


async def test_a_cancel_after_any_number_of_turns_leaves_nothing(ring: aioring.Ring, tmp_path: Path) -> None:
    fds = open_fds()
    for name in OPERATIONS:
        for k in range(7):
            await cancel_after(ring, tmp_path / "scene", name, k)
        extra = open_fds() - fds  # readiness makes its epoll on first use, and keeps it
        assert len(extra) <= 1, name


@pytest.mark.parametrize("seed", range(21))
async def test_a_cancel_races_with_any_completion(anyio_backend: Any, tmp_path: Path, seed: int) -> None:
    cancel: Literal["either", "wins", "loses"] = ("either", "wins", "loses")[seed % 3]  # type: ignore[assignment]
    async with aioring.Ring(method=Scripted(seed, cancel=cancel, short=0.5), depth=4 + seed % 5) as ring:
        for i, name in enumerate(OPERATIONS):
            await cancel_after(ring, tmp_path / str(i), name, (seed + i) % 9)


@pytest.mark.parametrize("seed", range(5))
async def test_many_operations_are_cancelled_together(anyio_backend: Any, tmp_path: Path, seed: int) -> None:
    async with aioring.Ring(method=Scripted(seed, short=0.5), depth=4) as ring:
        scenes = [Scene(ring, tmp_path / str(i)) for i in range(len(OPERATIONS))]
        outcomes: list[Outcome] = []
        try:
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as group:
                    outcomes = [
                        begin(group, action, scene) for scene, action in zip(scenes, OPERATIONS.values(), strict=True)
                    ]
                    await ticks(seed)
                    group.cancel_scope.cancel()
            await settled(ring)
            for name, one in zip(OPERATIONS, outcomes, strict=True):
                assert one.error is None
                if name.startswith("open") and one.value is not None:
                    os.close(one.value)
            assert await ring.read(scenes[0].fd, 0, 10) == WHOLE[:10]
        finally:
            for scene in scenes:
                scene.close()


async def test_a_cancel_that_was_pending_before_the_call_ends_it(ring: aioring.Ring, tmp_path: Path) -> None:
    for name, action in OPERATIONS.items():
        scene = Scene(ring, tmp_path / "scene")
        value: Any = None
        try:
            with anyio.fail_after(SOON), anyio.CancelScope() as scope:
                scope.cancel()
                value = await action(scene)
            if name.startswith("open") and value is not None:
                os.close(value)
            if name in NEVER_ENDS:
                assert value is None
            before = scene.state()
            await settled(ring)
            if name not in UNSETTLED:
                assert scene.state() == before, name
        finally:
            scene.close()


# --- opens ------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_open_leaves_no_fd(ring: aioring.Ring, path: Path) -> None:
    fds = open_fds()
    for i in range(200):
        async with anyio.create_task_group() as group:
            opened = [begin(group, ring.open, path, os.O_RDONLY) for _ in range(3)]
            await ticks(i % 8)
            for one in opened:
                one.scope.cancel()
        for one in opened:
            assert one.error is None
            if one.value is not None:
                os.close(one.value)
        if i % 20 == 19:
            await settled(ring)
            assert open_fds() == fds
    await settled(ring)


@pytest.mark.parametrize("cancel", ["wins", "loses"])
async def test_an_open_whose_cancel_comes_too_late_is_closed(
    anyio_backend: Any, path: Path, cancel: Literal["wins", "loses"]
) -> None:
    for seed in range(10):
        method = Held(seed, cancel=cancel)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            fds = open_fds()
            opened = [begin(group, ring.open, path, os.O_RDONLY) for _ in range(4)]
            await ticks(5)
            for one in opened:
                one.scope.cancel()
            await all_over(*opened)  # at once, though nothing is known yet
            assert all(one.value is None for one in opened)
            method.let_go()
            await settled(ring)
            assert open_fds() == fds


async def test_a_ring_that_is_closed_closes_what_cancelled_opens_bring(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, path: Path
) -> None:
    for k in range(6):
        fds = open_fds()
        async with make_ring() as ring, anyio.create_task_group() as group:
            opened = [begin(group, ring.open, path, os.O_RDONLY) for _ in range(5)]
            await ticks(k)
            group.cancel_scope.cancel()
        for one in opened:
            if one.value is not None:
                os.close(one.value)
        assert open_fds() == fds


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
async def test_a_cancelled_readinto_never_touches_its_buffer_afterwards(
    ring: aioring.Ring, path: Path, direct: bool
) -> None:
    path.write_bytes(WHOLE[:98_304] * 10)
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    canary = b"\xaa" * 98_304
    try:
        os.fsync(fd)
        for k in range(12):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            buffers = [aioring.alloc(98_304) for _ in range(8)]
            async with anyio.create_task_group() as group:

                async def read(i: int, buffers: list[memoryview] = buffers) -> int:
                    try:
                        return await ring.readinto(fd, i * 98_304, buffers[i])
                    finally:
                        buffers[i][:] = canary

                reads = [begin(group, read, i) for i in range(8)]
                await ticks(k)
                for one in reads:
                    one.scope.cancel()
            await settled(ring)
            for one, buffer in zip(reads, buffers, strict=True):
                assert one.error is None
                if one.value is not None or one.scope.cancelled_caught:
                    # Never begun: never stamped.
                    assert buffer == canary or bytes(buffer) == bytes(98_304), k
    finally:
        os.close(fd)


async def test_a_buffer_is_free_again_when_the_cancelled_readinto_has_returned(ring: aioring.Ring, fd: int) -> None:
    """Without the help of the garbage collector: no exception, frame or queue may go on holding a view of it."""
    gc.collect()
    gc.disable()
    try:
        for k in range(8):
            buffer = bytearray(70_000)
            async with anyio.create_task_group() as group:
                read = begin(group, ring.readinto, fd, 0, buffer)
                await ticks(k)
                read.scope.cancel()
                await all_over(read)
            await settled(ring)
            del read
            free = False
            with anyio.move_on_after(0.5):
                while not free:
                    try:
                        buffer.extend(b"x")
                        free = True
                    except BufferError:
                        await anyio.sleep(0.001)  # a worker may just be looking at it
            assert free, f"cancelled after {k} turns, the buffer is held for good"
    finally:
        gc.enable()


async def test_the_buffer_of_a_cancelled_readinto_is_free_although_all_workers_hang(
    anyio_backend: Any, fd: int
) -> None:
    go, buffer = threading.Event(), bytearray(70_000)
    async with aioring.Ring(method="worker", workers=1, page_cache_first=False) as ring:
        try:
            async with anyio.create_task_group() as group:
                hangs = begin(group, ring.run, go.wait, 5)
                await ticks(3)
                read = begin(group, ring.readinto, fd, 0, buffer)
                await ticks(3)
                read.scope.cancel()
                await all_over(read)
                del read
                gc.collect()
                try:
                    buffer.extend(b"x")
                    free = True
                except BufferError:
                    free = False
                hangs.scope.cancel()
        finally:
            go.set()
        assert free


async def test_a_cancelled_write_is_settled_when_the_await_returns(ring: aioring.Ring, path: Path, fd: int) -> None:
    for k in range(10):
        data = bytes([65 + k]) * 90_000
        async with anyio.create_task_group() as group:
            write = begin(group, ring.write, fd, 0, data)
            await ticks(k)
            write.scope.cancel()
            await all_over(write)
            then = path.read_bytes()
        await settled(ring)
        assert path.read_bytes() == then


async def test_cancels_of_what_lends_memory_wait_for_the_kernel(anyio_backend: Any, fd: int) -> None:
    """And those of what lends none do not."""
    for seed in range(5):
        method = Held(seed, cancel="loses")
        buffer = bytearray(100)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            lends = [
                begin(group, ring.readinto, fd, 0, buffer),
                begin(group, ring.readv, fd, 0, [bytearray(5)]),
                begin(group, ring.write, fd, 0, WHOLE[:10]),
                begin(group, ring.writev, fd, 0, [WHOLE[:10]]),
                begin(group, ring.truncate, fd, 100_000),
            ]
            free = [
                begin(group, ring.read, fd, 0, 100),
                begin(group, ring.stat, fd),
                begin(group, ring.fsync, fd),
                begin(group, ring.open, "/", os.O_RDONLY),
            ]
            await ticks(5)
            for one in (*lends, *free):
                one.scope.cancel()
            await all_over(*free)
            await ticks(5)
            assert not any(one.done for one in lends)
            method.let_go()
            await all_over(*lends)
            assert all(one.scope.cancelled_caught for one in (*lends, *free))
            await settled(ring)


# --- at once, although the I/O hangs ----------------------------------------------------------------------------------


async def test_a_cancelled_read_returns_at_once_although_its_worker_hangs(anyio_backend: Any, fd: int) -> None:
    go = threading.Event()
    async with aioring.Ring(method="worker", workers=1, page_cache_first=False) as ring:
        try:
            async with anyio.create_task_group() as group:
                hangs = begin(group, ring.run, go.wait, 5)
                await ticks(3)
                queued = [begin(group, ring.read, fd, 0, 100) for _ in range(5)]
                lending = begin(group, ring.readinto, fd, 0, bytearray(100))
                await ticks(5)
                assert not any(one.done for one in (hangs, lending, *queued))
                for one in (lending, *queued):
                    one.scope.cancel()
                await all_over(lending, *queued)  # none was begun: they are taken out of the queue
                hangs.scope.cancel()
                await all_over(hangs)
        finally:
            go.set()
        await settled(ring)


async def test_a_read_in_flight_is_cancelled_at_once(anyio_backend: Any, fd: int) -> None:
    for cancel in ("wins", "loses"):
        method = Held(1, cancel=cancel)  # type: ignore[arg-type]
        async with aioring.Ring(method=method) as ring:
            with anyio.fail_after(SOON), anyio.move_on_after(0.005) as limit:
                await ring.read(fd, 0, 100)
            assert limit.cancelled_caught
            method.let_go()
            await settled(ring)


async def test_who_waits_for_a_slot_is_cancelled_at_once(anyio_backend: Any, fd: int) -> None:
    method = Held(1)
    async with aioring.Ring(method=method, depth=1) as ring, anyio.create_task_group() as group:
        first = begin(group, ring.read, fd, 0, 100)
        await ticks(3)
        waiting = [begin(group, ring.readinto, fd, 0, bytearray(100)) for _ in range(200)]
        last = begin(group, ring.read, fd, 100, 100)
        await ticks(5)
        for one in waiting:
            one.scope.cancel()
        await all_over(*waiting)
        assert not first.done
        method.let_go()
        await all_over(first, last)
        assert (first.value, last.value) == (WHOLE[:100], WHOLE[100:200])
        await settled(ring)
        assert not ring._started.backlog  # type: ignore[union-attr]


# --- run --------------------------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_before_it_began_is_never_run(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any
) -> None:
    go, ran = threading.Event(), []
    async with make_ring(workers=1) as ring:
        try:
            async with anyio.create_task_group() as group:
                hangs = begin(group, ring.run, go.wait, 5)
                await ticks(3)
                queued = [begin(group, ring.run, ran.append, i) for i in range(5)]
                await ticks(3)
                for one in queued[:4]:
                    one.scope.cancel()
                await all_over(*queued[:4])
                go.set()
                await all_over(hangs, queued[4])
        finally:
            go.set()
        await settled(ring)
        assert ran == [4]
        assert hangs.value is True


async def test_a_call_that_has_begun_runs_to_its_end_and_is_dropped(ring: aioring.Ring) -> None:
    begun, go, ended = threading.Event(), threading.Event(), []

    def call() -> None:
        begun.set()
        go.wait(5)
        ended.append(1)

    try:
        async with anyio.create_task_group() as group:
            one = begin(group, ring.run, call)
            with anyio.fail_after(SOON):
                while not begun.is_set():
                    await checkpoint()
            one.scope.cancel()
            await all_over(one)
            assert not ended
    finally:
        go.set()
    await settled(ring)
    assert ended == [1]


# --- begun now, awaited later -----------------------------------------------------------------------------------------


async def test_a_started_read_gives_its_result_as_often_as_it_is_awaited(ring: aioring.Ring, fd: int) -> None:
    read = ring.start_read(fd, 0, 1000)
    assert await read == WHOLE[:1000]
    assert await read == WHOLE[:1000]
    failed = ring.start_read(fd, 0, 1000)
    os.close(fd)
    outcomes: list[Any] = []
    for _ in range(2):
        try:
            outcomes.append(await failed)
        except OSError as error:
            outcomes.append(error.errno)
    assert outcomes[0] == outcomes[1]


async def test_two_tasks_may_not_await_one_started_read(anyio_backend: Any, fd: int) -> None:
    method = Held(1)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        read = ring.start_read(fd, 0, 1000)

        async def wait() -> bytes:
            return await read

        one, two = begin(group, wait), begin(group, wait)
        await ticks(5)
        assert sorted([one.done, two.done]) == [False, True]
        refused, waits = (one, two) if one.done else (two, one)
        assert isinstance(refused.error, RuntimeError)
        method.let_go()
        await all_over(waits)
        assert waits.value == WHOLE[:1000]
        assert await read == WHOLE[:1000]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("cancel", ["wins", "loses"])
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_started_io_that_was_cancelled_can_still_be_awaited(
    anyio_backend: Any, fd: int, held: bool, cancel: Literal["wins", "loses"], kind: str
) -> None:
    for k in range(4):
        method = Held(k, cancel=cancel)
        if not held:
            method.held = False
        async with aioring.Ring(method=method) as ring:
            one: Any = ring.start_read(fd, 0, 100) if kind == "read" else ring.start_write(fd, 0, WHOLE[:100])
            await ticks(k)
            one.cancel()
            one.cancel()
            if held:
                method.let_go()
            result: Any = None
            with anyio.move_on_after(1) as limit:
                try:
                    result = await one
                except OSError as error:
                    result = error.errno
            assert not limit.cancelled_caught, f"cancelled after {k} turns, it never ends"
            assert result in (errno.ECANCELED, WHOLE[:100], 100)
            assert one.done()
            await settled(ring)


async def test_a_started_read_can_be_awaited_after_another_task_was_cancelled_over_it(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int
) -> None:
    async with make_ring(page_cache_first=False) as ring:
        for k in range(5):
            read = ring.start_read(fd, 0, 80_000)

            async def wait(read: Any = read) -> bytes:
                return await read

            async with anyio.create_task_group() as group:
                one = begin(group, wait)
                await ticks(k)
                one.scope.cancel()
                await all_over(one)
            result: Any = None
            with anyio.move_on_after(1) as limit:
                try:
                    result = await read
                except OSError as error:
                    result = error.errno
            assert not limit.cancelled_caught, f"cancelled after {k} turns, the read never ends for anybody else"
            assert result in (WHOLE[:80_000], errno.ECANCELED)
            await settled(ring)


async def test_a_started_read_that_nobody_awaits_is_forgotten(
    ring: aioring.Ring, fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "aioring"):
        for _ in range(5):
            ring.start_read(fd, 0, 1000)
        ring.start_write(fd, 0, WHOLE[:10])
        await settled(ring)
        gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("dropped_first", [True, False])
async def test_a_started_io_that_failed_and_nobody_awaits_is_logged(
    ring: aioring.Ring, path: Path, caplog: pytest.LogCaptureFixture, dropped_first: bool
) -> None:
    readonly = os.open(path, os.O_RDONLY)
    try:
        with caplog.at_level(logging.DEBUG, "aioring"):
            write: Any = ring.start_write(readonly, 0, b"refused")
            if dropped_first:
                del write
            await settled(ring)
            if not dropped_first:
                assert write.done()
                del write
            gc.collect()
        [record] = [record for record in caplog.records if record.name == "aioring"]
        assert record.levelno == logging.ERROR
        assert "never awaited" in record.getMessage()
        assert "Bad file descriptor" in record.getMessage()
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "aioring"):
            with pytest.raises(OSError):
                await ring.start_write(readonly, 0, b"refused")
            cancelled = ring.start_write(readonly, 0, b"refused")
            cancelled.cancel()
            del cancelled
            await settled(ring)
            gc.collect()
        assert [record for record in caplog.records if record.name == "aioring"] == []
    finally:
        os.close(readonly)


# --- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_links_of_a_cancelled_chain_that_had_not_run_do_not_run(
    anyio_backend: Any, path: Path, fd: int, seed: int
) -> None:
    async with aioring.Ring(method=Scripted(seed, short=0.3), depth=8) as ring:

        async def chained() -> None:
            async with ring.chain() as chain:
                for i in range(8):
                    chain.write(fd, i * 100, bytes([i + 1]) * 100)

        path.write_bytes(bytes(1000))
        async with anyio.create_task_group() as group:
            one = begin(group, chained)
            await ticks(seed)
            one.scope.cancel()
            await all_over(one)
            then = path.read_bytes()
        assert one.error is None
        await settled(ring)
        await ticks(10)
        assert path.read_bytes() == then
        written = [then[i * 100 : i * 100 + 100].count(i + 1) for i in range(8)]
        # All, then perhaps a part of one, then nothing: a chain is never carried out with a hole in it.
        assert written == sorted(written, reverse=True)
        assert sum(0 < n < 100 for n in written) <= 1


@pytest.mark.parametrize("waits_for", ["a slot", "a close"])
async def test_a_chain_that_was_not_begun_is_cancelled_at_once(
    anyio_backend: Any, path: Path, fd: int, waits_for: str
) -> None:
    """On trio such a cancel once woke a task twice, which ended the run with TrioInternalError."""
    method, other = Held(1), os.dup(fd)
    async with aioring.Ring(method=method, depth=3) as ring:

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.write(fd, 0, b"never")
                chain.read(fd, 0, 10)
                if waits_for == "a close":
                    chain.close(other)

        async with anyio.create_task_group() as group:
            before = [begin(group, ring.read, other, i, 100) for i in range(3)]
            await ticks(3)
            one = begin(group, chained)
            await ticks(3)
            one.scope.cancel()
            await all_over(one)
            assert one.error is None
            method.let_go()
            await all_over(*before)
        assert [read.value for read in before] == [WHOLE[i : i + 100] for i in range(3)]
        await settled(ring)
        await ring.close(other)
    assert path.read_bytes() == WHOLE


async def test_results_of_a_cancelled_chain_say_what_ran(anyio_backend: Any, fd: int) -> None:
    for seed in range(10):
        method = Held(seed, short=0)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            links: list[Any] = []

            async def chained(ring: aioring.Ring = ring, links: list[Any] = links) -> None:
                async with ring.chain() as chain:
                    links += [chain.write(fd, 0, WHOLE[:10]), chain.write(fd, 10, WHOLE[10:20]), chain.fsync(fd)]

            one = begin(group, chained)
            await ticks(5)
            one.scope.cancel()
            await ticks(3)
            method.let_go()
            await all_over(one)
            results = []
            for link in links:
                assert link.done()
                try:
                    results.append(await link)
                except OSError as error:
                    results.append(error.errno)
            assert results[1:] == [errno.ECANCELED] * 2
            assert results[0] in (10, errno.ECANCELED)
            await settled(ring)


# --- the ways of asyncio ----------------------------------------------------------------------------------------------


class TestAsyncio:
    """What only asyncio and uvloop have: `Task.cancel` sends one cancel, where anyio repeats until it is heard."""

    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
        return LOOPS[request.param]

    async def test_timeout_ends_what_waits(self, ring: aioring.Ring, pipe: tuple[int, int], tmp_path: Path) -> None:
        reader, writer = pipe
        os.mkfifo(tmp_path / "fifo")
        waits: list[Callable[[], Awaitable[Any]]] = [
            lambda: ring.read(reader, -1, 10),
            lambda: ring.start_read(reader, -1, 10),
            lambda: ring.write(writer, -1, bytes(200_000)),
            lambda: ring.open(tmp_path / "fifo", os.O_RDONLY),
            lambda: ring.open(tmp_path / "fifo", os.O_WRONLY),
        ]
        for wait in waits:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await settled(ring)

    async def test_timeout_of_what_lends_memory_is_a_timeout(self, fd: int, anyio_backend: Any) -> None:
        method = Held(1, cancel="loses")
        async with aioring.Ring(method=method) as ring:
            asyncio.get_running_loop().call_later(0.02, method.let_go)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await ring.readinto(fd, 0, bytearray(100))
            await settled(ring)

    async def cancel(self, ring: aioring.Ring, folder: Path, name: str, k: int, again_after: int | None) -> None:
        scene = Scene(ring, folder)
        try:

            async def call() -> Any:
                return await OPERATIONS[name](scene)

            task = asyncio.create_task(call())
            await ticks(k)
            task.cancel("first")
            if again_after is not None:
                await ticks(again_after)
                task.cancel("second")
            async with asyncio.timeout(SOON):
                await asyncio.wait([task])
            if not task.cancelled():
                value = task.result()
                assert name not in NEVER_ENDS
                if name.startswith("open"):
                    os.close(value)
            await settled(ring)
        finally:
            scene.close()

    async def test_one_cancel_of_the_task_is_enough(self, ring: aioring.Ring, tmp_path: Path) -> None:
        for name in OPERATIONS:
            for k in range(7):
                await self.cancel(ring, tmp_path / "scene", name, k, None)

    async def test_two_cancels_are_as_good_as_one(self, ring: aioring.Ring, tmp_path: Path) -> None:
        for name in OPERATIONS:
            for k in range(1, 4):
                for again_after in (0, 1):
                    await self.cancel(ring, tmp_path / "scene", name, k, again_after)

    async def test_a_double_cancel_does_not_free_lent_memory(self, fd: int, anyio_backend: Any) -> None:
        method = Held(1, cancel="loses")
        async with aioring.Ring(method=method) as ring:
            task = asyncio.create_task(ring.readinto(fd, 0, bytearray(100)))
            await ticks(3)
            for _ in range(5):
                task.cancel()
                await ticks(2)
            assert not task.done()
            method.let_go()
            async with asyncio.timeout(SOON):
                await asyncio.wait([task])
            assert task.cancelled()
            await settled(ring)

    async def test_a_failing_task_group_ends_its_io(self, ring: aioring.Ring, fd: int, pipe: tuple[int, int]) -> None:
        reader, writer = pipe
        for k in range(6):

            async def fail(k: int = k) -> None:
                await ticks(k)
                raise ValueError("told to")

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.timeout(SOON), asyncio.TaskGroup() as group:
                    group.create_task(ring.read(reader, -1, 10))
                    group.create_task(ring.write(writer, -1, bytes(100_000)))
                    for i in range(20):
                        group.create_task(ring.readinto(fd, i, bytearray(70_000)))
                        group.create_task(ring.read(fd, i, 70_000))
                    group.create_task(fail())
            assert [type(error) for error in caught.value.exceptions] == [ValueError]
            await settled(ring)

    async def test_wait_for_gives_what_arrived_or_a_timeout(self, ring: aioring.Ring, fd: int) -> None:
        for i in range(30):
            try:
                assert await asyncio.wait_for(ring.read(fd, 0, 70_000), i * 1e-5) == WHOLE[:70_000]
            except TimeoutError:
                pass
        await settled(ring)

    async def test_gather_that_is_cancelled_ends_all(self, ring: aioring.Ring, fd: int) -> None:
        for k in range(6):
            together = asyncio.gather(*(ring.read(fd, i * 10, 70_000) for i in range(50)))
            await ticks(k)
            together.cancel()
            try:
                assert await together == [WHOLE[i * 10 : i * 10 + 70_000] for i in range(50)]
            except asyncio.CancelledError:
                pass
            await settled(ring)

    async def test_a_coroutine_that_is_closed_lets_its_io_go(self, ring: aioring.Ring, fd: int, path: Path) -> None:
        """`GeneratorExit`: as when a loop ends with tasks in it."""
        calls: list[Callable[[], Any]] = [
            lambda: ring.read(fd, 0, 80_000),
            lambda: ring.readinto(fd, 0, bytearray(80_000)),
            lambda: ring.open(path, os.O_RDONLY),
            lambda: ring.fsync(fd),
        ]
        for call in calls:
            coroutine = call()
            try:
                coroutine.send(None)
                coroutine.close()
            except StopIteration as at_once:
                if isinstance(at_once.value, int) and at_once.value != 80_000:
                    os.close(at_once.value)
            await settled(ring)


# --- the ways of trio -------------------------------------------------------------------------------------------------


class TestTrio:
    """What only trio has: level-triggered cancels, shields, and deadlines."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return LOOPS["trio"]

    async def test_fail_after_ends_what_waits(self, ring: aioring.Ring, pipe: tuple[int, int]) -> None:
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.005):
                await ring.read(pipe[0], -1, 10)
        await settled(ring)

    async def test_a_shield_keeps_a_cancel_out(self, ring: aioring.Ring, fd: int) -> None:
        with trio.CancelScope() as outer:
            outer.cancel()
            with trio.CancelScope(shield=True):
                assert await ring.read(fd, 0, 70_000) == WHOLE[:70_000]
                assert await ring.write(fd, 0, WHOLE[:10]) == 10
            await ring.read(fd, 0, 70_000)
            pytest.fail("a read is a checkpoint")
        await settled(ring)

    async def test_a_cancel_that_comes_while_lent_memory_settles_is_heard(self, anyio_backend: Any, fd: int) -> None:
        method = Held(1, cancel="loses")
        async with aioring.Ring(method=method) as ring, trio.open_nursery() as nursery:
            after = False

            async def read(scope: trio.CancelScope) -> None:
                nonlocal after
                with scope:
                    await ring.readinto(fd, 0, bytearray(100))
                    after = True

            scope = trio.CancelScope()
            nursery.start_soon(read, scope)
            await ticks(4)
            scope.cancel()
            await ticks(4)
            waits_for_the_kernel = not scope.cancelled_caught
            assert waits_for_the_kernel
            method.let_go()
            with trio.fail_after(SOON):
                while not scope.cancelled_caught and not after:
                    await trio.lowlevel.checkpoint()
            assert not after
            await settled(ring)


async def test_a_cancel_that_has_to_wait_takes_no_time_of_the_processor(
    anyio_backend: Any, path: Path, fd: int
) -> None:
    """A cancelled scope of anyio's on asyncio would tell its task in every tick of the loop."""
    method = Held(1, cancel="loses")
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        one = begin(group, ring.readinto, fd, 0, bytearray(100))
        await ticks(3)
        one.scope.cancel()
        begun = time.process_time()
        await anyio.sleep(0.3)
        assert not one.done
        assert time.process_time() - begun < 0.1
        method.let_go()


def test_a_timeout_of_asyncio_inside_a_cancelled_scope_of_anyio() -> None:
    """Both cancel who waits for what has to come first; each knows its own again."""

    async def main() -> None:
        async with aioring.Ring() as ring:
            task = asyncio.current_task()
            assert task is not None
            with anyio.move_on_after(0.01) as scope:
                async with asyncio.timeout(0.02):
                    await ring._run_out(time.sleep, 0.05)
            assert scope.cancelled_caught
            assert task.cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    with anyio.move_on_after(0.02):
                        await ring._run_out(time.sleep, 0.05)
            assert task.cancelling() == 0

    asyncio.run(main())
