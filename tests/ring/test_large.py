"""Large buffered reads: cut into pieces, carried out off the loop's thread, and whole all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.ring.large import LARGE, PIECE
from tests.conftest import pattern
from tests.harness import all_over, begin

LIGHT = True  # see conftest.py

SIZE = 5 * PIECE + 12_345
WHOLE = pattern(SIZE)


@pytest.fixture(scope="module")
def large_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large"
    path.write_bytes(WHOLE)
    return path


@pytest.fixture
def large(large_path: Path) -> Iterator[int]:
    fd = os.open(large_path, os.O_RDONLY)
    yield fd
    try:
        os.close(fd)
    except OSError:
        pass  # a test closed it


def engine_of(ring: aioring.Ring) -> Any:
    return ring._started


SPANS = [
    (0, LARGE - 1), (0, LARGE), (1, LARGE + 1), (0, PIECE), (7, PIECE + 1), (0, SIZE), (0, SIZE - 1), (0, SIZE + 1),
    (0, SIZE + PIECE), (SIZE - 100, PIECE), (SIZE - LARGE, LARGE), (SIZE - LARGE, LARGE + 1), (SIZE, PIECE),
    (SIZE + 5, PIECE), (PIECE, 3 * PIECE), (0, 1 << 40),
]  # fmt: skip


async def test_every_span_is_what_pread_gives(ring: aioring.Ring, large: int) -> None:
    for offset, n in SPANS:
        assert await ring.read(large, offset, min(n, 1 << 32)) == WHOLE[offset : offset + n], (offset, n)


async def test_every_span_fills_a_buffer_and_nothing_beyond_it(ring: aioring.Ring, large: int) -> None:
    for offset, n in SPANS[:-1]:
        buffer = bytearray(b"?" * (n + 8))
        with memoryview(buffer) as view:
            got = await ring.readinto(large, offset, view[4 : n + 4])
        part = WHOLE[offset : offset + n]
        assert got == len(part), (offset, n)
        assert buffer == b"????" + part + b"?" * (len(buffer) - 4 - len(part)), (offset, n)


async def test_read_more_than_there_is_takes_no_memory_for_it(ring: aioring.Ring, large: int) -> None:
    assert await ring.read(large, 0, 1 << 45) == WHOLE


async def test_a_file_that_says_it_has_no_size_is_read_to_its_end(ring: aioring.Ring) -> None:
    fd = os.open("/proc/self/maps", os.O_RDONLY)
    try:
        got = await ring.read(fd, 0, 1 << 20)
    finally:
        os.close(fd)
    assert got.count(b"\n") > 20
    assert got.endswith(b"\n")


async def test_vectors_and_started_reads_too(ring: aioring.Ring, large: int) -> None:
    buffers = [bytearray(PIECE), bytearray(PIECE + 1)]
    assert await ring.readv(large, 3, buffers) == 2 * PIECE + 1
    assert b"".join(buffers) == WHOLE[3 : 2 * PIECE + 4]
    started = [ring.start_read(large, i * PIECE, PIECE) for i in range(6)]
    assert b"".join([await one for one in started]) == WHOLE


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
async def test_no_large_copy_is_made_on_the_loops_thread(anyio_backend: Any, large: int, method: str) -> None:
    async with aioring.Ring(method=method) as ring:
        workers = engine_of(ring).workers
        assert await ring.read(large, 0, SIZE) == WHOLE
        assert workers.carried_out == 6
        await ring.readinto(large, 0, bytearray(PIECE))
        await ring.readv(large, 0, [bytearray(PIECE), bytearray(PIECE)])
        await ring.start_read(large, 0, PIECE)
        assert workers.carried_out == 9


async def test_direct_reads_stay_whole_and_with_the_method(anyio_backend: Any, large_path: Path) -> None:
    fd = os.open(large_path, os.O_RDONLY | os.O_DIRECT)
    try:
        for method in ("io_uring", "linux_aio"):
            async with aioring.Ring(method=method) as ring:
                await ring.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                before = engine_of(ring).workers.carried_out
                assert await ring.read(fd, 0, 2 * PIECE) == WHOLE[: 2 * PIECE]
                assert engine_of(ring).workers.carried_out == before
    finally:
        os.close(fd)


async def test_an_error_is_raised_once_and_nothing_is_left(ring: aioring.Ring, large_path: Path) -> None:
    fd = os.open(large_path, os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file") as caught:
            await ring.read(fd, 0, SIZE)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="Bad file"):
            await ring.readinto(fd, 0, bytearray(SIZE))
    finally:
        os.close(fd)
    assert not engine_of(ring).held


async def test_a_close_comes_after_all_its_pieces(ring: aioring.Ring, large_path: Path) -> None:
    fd = await ring.open(large_path, os.O_RDONLY)
    async with anyio.create_task_group() as group:
        read = begin(group, ring.read, fd, 0, SIZE + 1)
        while not (read.done or engine_of(ring).held or engine_of(ring).live):
            await anyio.lowlevel.checkpoint()
        await ring.close(fd)
        await all_over(read)
    assert read.value == WHOLE, read.error
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


async def test_a_cancelled_one_changes_no_memory_afterwards(ring: aioring.Ring, large: int) -> None:
    for ticks in range(12):
        buffer = bytearray(SIZE)
        async with anyio.create_task_group() as group:
            read = begin(group, ring.readinto, large, 0, buffer)
            own = begin(group, ring.read, large, 0, SIZE)
            for _ in range(ticks):
                await anyio.lowlevel.checkpoint()
            read.scope.cancel()
            own.scope.cancel()
            await all_over(read, own)
        assert read.error is None
        buffer[:] = bytes(SIZE)  # BufferError, if anything still held it for writing
        await anyio.lowlevel.checkpoint()
        assert buffer == bytes(SIZE)
        buffer.append(0)
    assert not engine_of(ring).held
    assert await ring.read(large, 0, SIZE) == WHOLE


async def test_it_takes_its_turn_on_a_ring_of_one(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, large: int
) -> None:
    async with make_ring(depth=1, workers=1) as ring:
        async with anyio.create_task_group() as group:
            reads = [begin(group, ring.read, large, i * 1000, SIZE) for i in range(3)]
        for i, read in enumerate(reads):
            assert read.value == WHOLE[i * 1000 :]


async def test_a_ring_that_closes_meanwhile_says_so(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, large: int
) -> None:
    ring = make_ring(workers=1)
    await ring.start()
    async with anyio.create_task_group() as group:
        reads = [begin(group, ring.read, large, 0, SIZE) for _ in range(4)]
        await anyio.lowlevel.checkpoint()
        await ring.aclose()
    for read in reads:
        assert read.value == WHOLE or isinstance(read.error, aioring.RingClosedError), read.error
