"""Closing an fd through a ring waits for all that was asked of it before, and nobody ever reads the wrong file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioring
from aioring.testing import Scripted
from tests.conftest import close_quietly, pattern
from tests.harness import SOON, Held, all_over, begin, ticks

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


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def own(path: Path) -> Iterator[int]:
    """An fd that the test gives away."""
    fd = os.open(path, os.O_RDWR)
    yield fd
    close_quietly(fd)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another file, as long as `path`, with other content at every offset."""
    file = tmp_path / "other"
    file.write_bytes(bytes(byte ^ 0xFF for byte in WHOLE))
    return file


# --- what a close waits for -------------------------------------------------------------------------------------------


async def test_a_close_waits_for_reads_that_wait_for_their_turn(ring: aioring.Ring, own: int) -> None:
    """Far more cached reads than one tick's budget: most of them are parked when the close is asked."""
    order: list[int] = []

    async def read(i: int) -> bytes:
        order.append(i)
        return await ring.read(own, i * 100, 100)

    async def close() -> None:
        while len(order) < 500:
            await checkpoint()
        await ring.close(own)

    async with anyio.create_task_group() as group:
        reads = [begin(group, read, i) for i in range(500)]
        closed = begin(group, close)
        await all_over(closed, *reads)
    assert [one.value for one in reads] == [WHOLE[i * 100 : i * 100 + 100] for i in range(500)]
    assert closed.error is None
    assert not is_open(own)
    await settled(ring)


async def test_a_close_waits_for_parked_reads_of_what_is_not_cached(ring: aioring.Ring, own: int) -> None:
    """They wait for their turn, miss the page cache, and only then are staged: the close must not come between."""
    os.fsync(own)
    os.posix_fadvise(own, 0, 0, os.POSIX_FADV_DONTNEED)
    engine = ring._started
    assert engine is not None
    asked = 0

    async def read(i: int) -> bytes:
        nonlocal asked
        asked += 1
        engine.budget.left = 0  # others have spent it in this tick
        return await ring.read(own, i * 4096, 4096)

    async def close() -> None:
        while asked < 20:
            await checkpoint()
        await ring.close(own)

    async with anyio.create_task_group() as group:
        reads = [begin(group, read, i) for i in range(20)]
        closed = begin(group, close)
        await all_over(closed, *reads)
    assert [one.error for one in reads] == [None] * 20
    assert [one.value for one in reads] == [WHOLE[i * 4096 : i * 4096 + 4096] for i in range(20)]
    assert closed.error is None


async def test_a_close_waits_for_what_is_staged(ring: aioring.Ring, own: int) -> None:
    reads = [ring.start_read(own, i * 1000, 1000) for i in range(50)]
    write = ring.start_write(own, 0, b"new")
    with anyio.fail_after(SOON):
        await ring.close(own)
        assert [await read for read in reads[1:]] == [WHOLE[i * 1000 : i * 1000 + 1000] for i in range(1, 50)]
        assert (await reads[0])[3:] == WHOLE[3:1000]
        assert await write == 3
    assert not is_open(own)
    await settled(ring)


async def test_a_close_waits_for_what_has_no_slot_yet(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, own: int
) -> None:
    async with make_ring(depth=1) as ring:
        reads = [ring.start_read(own, i * 1000, 1000) for i in range(50)]
        with anyio.fail_after(SOON):
            await ring.close(own)
            assert [await read for read in reads] == [WHOLE[i * 1000 : i * 1000 + 1000] for i in range(50)]
        assert not is_open(own)
        await settled(ring)


@pytest.mark.parametrize("seed", range(20))
async def test_a_close_waits_between_two_transfers(anyio_backend: Any, own: int, seed: int) -> None:
    async with aioring.Ring(method=Scripted(seed, short=0.9, soft=0.3), depth=4) as ring:
        reads = [ring.start_read(own, i * 1000, 1000) for i in range(10)]
        write = ring.start_write(own, 50_000, b"abc" * 100)
        await ticks(seed % 5)
        with anyio.fail_after(SOON):
            await ring.close(own)
            assert [await read for read in reads] == [WHOLE[i * 1000 : i * 1000 + 1000] for i in range(10)]
            assert await write == 300
        await settled(ring)
    assert not is_open(own)


async def test_a_close_waits_for_what_is_in_flight(anyio_backend: Any, own: int, path: Path) -> None:
    for seed in range(10):
        fd, method = os.open(path, os.O_RDWR), Held(seed)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            asked = [
                begin(group, ring.read, fd, 500, 1000),
                begin(group, ring.write, fd, 0, b"abc"),
                begin(group, ring.fsync, fd),
                begin(group, ring.stat, fd),
                begin(group, ring.truncate, fd, 90_000),
                begin(group, ring.allocate, fd, 0, 4096),
            ]
            await ticks(5)
            closed = begin(group, ring.close, fd)
            await ticks(10)
            assert not closed.done
            assert is_open(fd)
            method.let_go()
            await all_over(closed, *asked)
            assert [one.error for one in (closed, *asked)] == [None] * 7
            assert asked[0].value == WHOLE[500:1500]
            assert not is_open(fd)
            await settled(ring)


async def test_a_close_waits_for_cold_reads(ring: aioring.Ring, path: Path) -> None:
    for _ in range(5):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        async with anyio.create_task_group() as group:
            asked: list[int] = []

            async def read(i: int, fd: int = fd, asked: list[int] = asked) -> bytes:
                asked.append(i)
                return await ring.read(fd, i * 4096, 4096)

            reads = [begin(group, read, i) for i in range(20)]
            while len(asked) < 20:
                await checkpoint()
            closed = begin(group, ring.close, fd)
            await all_over(closed, *reads)
        assert [one.value for one in reads] == [WHOLE[i * 4096 : i * 4096 + 4096] for i in range(20)]
        assert closed.error is None


async def test_a_close_waits_for_a_direct_write(ring: aioring.Ring, path: Path) -> None:
    fd = await ring.open(path, os.O_RDWR | os.O_DIRECT)
    block = aioring.alloc(8192)
    block[:] = b"d" * 8192
    writes = [ring.start_write(fd, i * 8192, block) for i in range(8)]
    with anyio.fail_after(SOON):
        await ring.close(fd)
    assert path.read_bytes()[:65536] == b"d" * 65536
    assert [await write for write in writes] == [8192] * 8


@pytest.mark.parametrize("which", ["directory", "source", "destination"])
async def test_a_directory_is_held_by_what_goes_through_it(anyio_backend: Any, tmp_path: Path, which: str) -> None:
    for seed in range(10):
        folder = tmp_path / f"folder{seed}"
        folder.mkdir()
        (folder / "name").write_bytes(b"x")
        directory, method = os.open(folder, os.O_RDONLY), Held(seed)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:

            async def go(directory: int = directory, folder: Path = folder, ring: aioring.Ring = ring) -> Any:
                if which == "directory":
                    return await ring.stat("name", dir_fd=directory)
                if which == "source":
                    return await ring.rename("name", tmp_path / "there", src_dir_fd=directory)
                return await ring.link(folder / "name", "there", dst_dir_fd=directory)

            asked = begin(group, go)
            await ticks(3)
            closed = begin(group, ring.close, directory)
            await ticks(3)
            assert not closed.done
            method.let_go()
            await all_over(closed, asked)
        assert asked.error is None
        assert closed.error is None


# --- what comes after a close -----------------------------------------------------------------------------------------


async def test_what_is_asked_after_a_close_comes_after_it(anyio_backend: Any, own: int) -> None:
    for cached in (False, True):
        method = Held(1)
        fd = os.dup(own)
        async with aioring.Ring(method=method, page_cache_first=cached) as ring, anyio.create_task_group() as group:
            before = begin(group, ring.read, fd, 0, 100)
            await ticks(3)
            closed = begin(group, ring.close, fd)
            await ticks(1)
            after = [
                begin(group, ring.read, fd, 0, 100),
                begin(group, ring.readinto, fd, 0, bytearray(100)),
                begin(group, ring.write, fd, 0, b"never"),
                begin(group, ring.fsync, fd),
                begin(group, ring.stat, fd),
                begin(group, ring.truncate, fd, 0),
                begin(group, ring.close, fd),
            ]
            await ticks(5)
            assert not closed.done
            assert not any(one.done for one in after)
            method.let_go()
            await all_over(before, closed, *after)
            assert before.value == WHOLE[:100]
            assert closed.error is None
            assert [one.errno for one in after] == [errno.EBADF] * len(after)
            await settled(ring)
    assert os.pread(own, 100, 0) == WHOLE[:100]
    assert os.fstat(own).st_size == len(WHOLE)


async def test_a_cached_read_that_is_asked_after_a_close_comes_after_it(ring: aioring.Ring, own: int) -> None:
    """A hit in the page cache must not slip in front of a close that waits."""
    os.pread(own, 100_000, 0)
    write = ring.start_write(own, 99_000, b"under way")  # staged: the close has to wait
    async with anyio.create_task_group() as group:
        order = []

        async def close() -> None:
            order.append("close")
            await ring.close(own)

        async def read() -> bytes:
            while not order:
                await checkpoint()
            order.append("read")
            order.append("closed already" if closed.done else "close under way")
            return await ring.read(own, 0, 100)

        after = begin(group, read)
        closed = begin(group, close)
        await all_over(closed, after)
    assert await write == 9
    assert closed.error is None
    assert after.errno == errno.EBADF, order


async def test_operations_asked_in_one_go_keep_their_order(ring: aioring.Ring, own: int) -> None:
    """In the same tick, without a look at the loop between: read, close, read."""
    before = ring.start_read(own, 0, 100)
    async with anyio.create_task_group() as group:
        closed = begin(group, ring.close, own)
        with anyio.fail_after(SOON):
            while own not in ring._started.closing and not closed.done:  # type: ignore[union-attr]
                await checkpoint()
            after = ring.start_read(own, 0, 100)
            await closed.over.wait()
            assert await before == WHOLE[:100]
            with pytest.raises(OSError) as caught:
                await after
    assert caught.value.errno == errno.EBADF


async def test_a_reused_number_never_shows_the_wrong_file(ring: aioring.Ring, path: Path, other: Path) -> None:
    """Eight tasks open, read and close two files as fast as they can: each number is given to the other file at once."""
    contents = (WHOLE, other.read_bytes())
    wrong = 0

    async def storm(task: int) -> None:
        nonlocal wrong
        for i in range(250):
            which = (task + i) % 2
            fd = await ring.open((path, other)[which], os.O_RDONLY)
            offsets = [(task * 1000 + i * 37 + k * 20_000) % 90_000 for k in range(3)]
            reads = [ring.start_read(fd, offset, 500) for offset in offsets]
            await ring.close(fd)
            for offset, read in zip(offsets, reads, strict=True):
                wrong += await read != contents[which][offset : offset + 500]

    with anyio.fail_after(8):
        async with anyio.create_task_group() as group:
            for task in range(8):
                group.start_soon(storm, task)
    assert wrong == 0
    await settled(ring)


@pytest.mark.parametrize("seed", range(40))
async def test_a_reused_number_never_shows_the_wrong_file_in_any_order(
    anyio_backend: Any, path: Path, other: Path, seed: int
) -> None:
    contents = (WHOLE, other.read_bytes())
    wrong: list[tuple[int, int]] = []
    async with aioring.Ring(method=Scripted(seed, short=0.5), depth=1 + seed % 7) as ring:

        async def storm(task: int) -> None:
            for i in range(4):
                which = (task + i) % 2
                fd = await ring.open((path, other)[which], os.O_RDONLY)
                with anyio.move_on_after(0 if seed % 3 == 2 and i == 1 else None):
                    await ring.read(fd, 0, 10)  # now and then cancelled, and in flight when the close is asked
                reads = [ring.start_read(fd, k * 1000, 50) for k in range(3)]
                await ring.close(fd)
                for k, read in enumerate(reads):
                    if await read != contents[which][k * 1000 : k * 1000 + 50]:
                        wrong.append((task, i))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for task in range(5):
                    group.start_soon(storm, task)
        assert wrong == []
        await settled(ring)


# --- cancelled and failed closes --------------------------------------------------------------------------------------


async def test_a_cancelled_close_still_closes(ring: aioring.Ring, path: Path) -> None:
    for after in range(5):
        for busy in (False, True):
            fd = os.open(path, os.O_RDONLY)
            read = ring.start_read(fd, 0, 70_000) if busy else None
            async with anyio.create_task_group() as group:
                asked = anyio.Event()

                async def close(fd: int = fd, asked: anyio.Event = asked) -> None:
                    asked.set()
                    await ring.close(fd)

                closed = begin(group, close)
                await asked.wait()
                await ticks(after)
                closed.scope.cancel()
                await all_over(closed)
            assert closed.error is None
            if read is not None:
                assert await read == WHOLE[:70_000]
            await settled(ring)
            assert not is_open(fd), (after, busy)


async def test_a_close_by_a_task_that_is_cancelled_already_still_closes(ring: aioring.Ring, own: int) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ring.close(own)
    await settled(ring)
    assert not is_open(own)


async def test_a_cancelled_close_returns_at_once(anyio_backend: Any, own: int) -> None:
    method = Held(1)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        read = begin(group, ring.read, own, 0, 100)
        await ticks(3)
        closed = begin(group, ring.close, own)
        await ticks(3)
        closed.scope.cancel()
        await all_over(closed)
        assert is_open(own)
        method.let_go()
        await all_over(read)
        assert read.value == WHOLE[:100]
        await settled(ring)
        assert not is_open(own)


async def test_a_close_with_a_cancelled_follower_leaves_nothing_behind(anyio_backend: Any, own: int) -> None:
    for seed in range(5):
        method, fd = Held(seed), os.dup(own)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            read = begin(group, ring.read, fd, 0, 100)
            await ticks(3)
            closed = begin(group, ring.close, fd)
            await ticks(3)
            followers = [
                begin(group, ring.read, fd, 0, 100),
                begin(group, ring.readinto, fd, 0, bytearray(10)),
                begin(group, ring.write, fd, 0, b"never"),
                begin(group, ring.fsync, fd),
            ]
            await ticks(3)
            for follower in followers:
                follower.scope.cancel()
            await all_over(*followers)
            assert [one.error for one in followers] == [None] * 4
            assert not closed.done
            method.let_go()
            await all_over(closed, read)
            assert closed.error is None
            assert read.value == WHOLE[:100]
            await settled(ring)
    assert os.pread(own, 5, 0) == WHOLE[:5]


async def test_a_cancelled_read_that_the_kernel_still_holds_holds_the_close(anyio_backend: Any, own: int) -> None:
    for seed in range(5):
        method, fd = Held(seed, cancel="loses"), os.dup(own)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            read = begin(group, ring.read, fd, 0, 100)
            await ticks(3)
            read.scope.cancel()
            await all_over(read)
            closed = begin(group, ring.close, fd)
            await ticks(5)
            assert not closed.done
            assert is_open(fd)
            method.let_go()
            await all_over(closed)
            assert closed.error is None
            await settled(ring)


async def test_a_close_of_a_bad_fd_says_so(ring: aioring.Ring, own: int) -> None:
    os.close(own)
    for fd in (own, -1, 1 << 30):
        with anyio.fail_after(SOON), pytest.raises(OSError) as caught:
            await ring.close(fd)
        assert caught.value.errno == errno.EBADF
    await settled(ring)


async def test_the_second_of_two_closes_fails(ring: aioring.Ring, own: int) -> None:
    async with anyio.create_task_group() as group:
        first = begin(group, ring.close, own)
        second = begin(group, ring.close, own)
        await all_over(first, second)
    assert sorted([first.errno or 0, second.errno or 0]) == [0, errno.EBADF]
    with pytest.raises(OSError) as caught:
        await ring.close(own)
    assert caught.value.errno == errno.EBADF
    await settled(ring)


async def test_a_close_that_failed_lets_its_followers_go(anyio_backend: Any, own: int) -> None:
    method = Held(1, faults={("close", 1): errno.EIO})
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        closed = begin(group, ring.close, own)
        await ticks(3)
        after = begin(group, ring.stat, own)
        await ticks(3)
        assert not after.done
        method.let_go()
        await all_over(closed, after)
        assert closed.errno == errno.EIO
        assert after.errno == errno.EBADF  # it was asked; close(2) gives the fd up, whatever it says
        await settled(ring)


async def test_closing_the_ring_still_carries_out_a_close_that_was_asked(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, path: Path
) -> None:
    for after in range(4):
        fd = os.open(path, os.O_RDONLY)
        ring = make_ring()
        await ring.start()
        read = ring.start_read(fd, 0, 1000)
        asked = anyio.Event()

        async def close(fd: int = fd, ring: aioring.Ring = ring, asked: anyio.Event = asked) -> None:
            asked.set()
            await ring.close(fd)

        async with anyio.create_task_group() as group:
            closed = begin(group, close)
            await asked.wait()
            await ticks(after)
            with anyio.fail_after(SOON):
                await ring.aclose()
            await all_over(closed)
        assert not is_open(fd)
        assert closed.error is None
        try:
            assert await read == WHOLE[:1000]
        except aioring.RingClosedError:
            pass


# --- in chains --------------------------------------------------------------------------------------------------------


async def test_a_chain_ends_with_a_close(ring: aioring.Ring, own: int, path: Path) -> None:
    async with ring.chain() as chain:
        write = chain.write(own, 10, b"in a chain")
        chain.fsync(own)
        close = chain.close(own)
    assert await write == 10
    assert await close is None
    assert not is_open(own)
    assert path.read_bytes()[10:20] == b"in a chain"
    await settled(ring)


async def test_a_close_in_a_chain_waits_and_is_waited_for(anyio_backend: Any, own: int) -> None:
    for seed in range(5):
        method, fd = Held(seed), os.dup(own)
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:

            async def chained(ring: aioring.Ring = ring, fd: int = fd) -> Any:
                async with ring.chain() as chain:
                    write = chain.write(fd, 0, WHOLE[:3])
                    chain.close(fd)
                return await write

            before = begin(group, ring.read, fd, 0, 1000)
            await ticks(3)
            inside = begin(group, chained)
            await ticks(3)
            after = begin(group, ring.read, fd, 0, 1000)
            await ticks(3)
            assert not inside.done
            assert is_open(fd)
            method.let_go()
            await all_over(before, inside, after)
            assert before.value == WHOLE[:1000]
            assert inside.value == 3, inside.error
            assert after.errno == errno.EBADF
            await settled(ring)


async def test_a_chain_that_breaks_before_its_close_does_not_close(ring: aioring.Ring, own: int, path: Path) -> None:
    readonly = os.open(path, os.O_RDONLY)
    try:
        with anyio.fail_after(SOON), pytest.raises(OSError) as caught:
            async with ring.chain() as chain:
                chain.read(own, 0, 10)
                chain.write(readonly, 0, b"refused")
                chain.close(own)
        assert caught.value.errno == errno.EBADF
        assert is_open(own)
        with anyio.fail_after(SOON):
            assert await ring.read(own, 0, 10) == WHOLE[:10]
            await ring.close(own)
        await settled(ring)
    finally:
        os.close(readonly)


async def test_a_chain_with_a_close_that_is_cancelled_while_it_waits_lets_others_go(
    anyio_backend: Any, own: int
) -> None:
    method, fd = Held(1), os.dup(own)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.write(fd, 0, b"never")
                chain.close(fd)

        before = begin(group, ring.read, fd, 0, 100)
        await ticks(3)
        inside = begin(group, chained)
        await ticks(3)
        after = begin(group, ring.stat, fd)
        await ticks(3)
        inside.scope.cancel()
        await all_over(inside)
        method.let_go()
        await all_over(before, after)
        assert before.value == WHOLE[:100]
        assert after.error is None
        assert after.value.st_size == len(WHOLE)
        await ring.close(fd)
        await settled(ring)


async def test_two_chains_that_close_each_others_files_do_not_wait_for_each_other(anyio_backend: Any, own: int) -> None:
    method = Held(1)
    one, two = os.dup(own), os.dup(own)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:

        async def chained(*fds: int) -> None:
            async with ring.chain() as chain:
                for fd in fds:
                    chain.close(fd)

        reading = begin(group, ring.read, one, 0, 100)
        await ticks(3)
        first = begin(group, chained, one, two)
        await ticks(3)
        second = begin(group, chained, two, one)
        await ticks(3)
        method.let_go()
        with anyio.move_on_after(1):
            await all_over(reading, first, second)
        stuck = [name for name, outcome in (("first", first), ("second", second)) if not outcome.done]
        group.cancel_scope.cancel()
    close_quietly(one)
    close_quietly(two)
    assert stuck == []
    assert sorted([first.errno or 0, second.errno or 0]) == [0, errno.EBADF]


async def test_a_read_that_was_parked_and_then_had_at_once_holds_up_no_close(ring: aioring.Ring, path: Path) -> None:
    """What the ring completes in place is counted off as well: a close waited for it for ever."""
    fd = await ring.open(path, os.O_RDONLY)
    for n in (10, 70_000, 10):
        ring._started.budget.left = 0
        assert len(await ring.read(fd, 0, n)) == n
        ring._started.budget.left = 0
        assert await ring.readinto(fd, 0, bytearray(n)) == n
    assert not ring._started.held
    with anyio.fail_after(3):
        await ring.close(fd)
