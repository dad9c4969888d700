"""Reading and writing: every byte, every bound, on every method and loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import aioring
from tests.conftest import pattern

pytestmark = pytest.mark.core
WHOLE = pattern(100_000)


@pytest.mark.parametrize(
    ("offset", "n"), [(0, 100), (0, 4096), (99_990, 100), (100_000, 10), (1 << 40, 10), (0, 0), (5, 1), (0, 200_000)]
)
async def test_a_read_returns_what_pread_returns(ring: aioring.Ring, fd: int, offset: int, n: int) -> None:
    assert await ring.read(fd, offset, n) == os.pread(fd, n, offset)


async def test_a_read_of_one_byte_leaves_the_shared_bytes_alone(ring: aioring.Ring, fd: int) -> None:
    for offset in range(64):
        assert await ring.read(fd, offset, 1) == WHOLE[offset : offset + 1]
    assert [bytes([i]) for i in range(256)] == [i.to_bytes(1, "little") for i in range(256)]
    assert bytes(0) == b""


async def test_readinto_fills_the_buffer_in_place(ring: aioring.Ring, fd: int) -> None:
    buffer = bytearray(70_000)
    assert await ring.readinto(fd, 1000, buffer) == 70_000
    assert buffer == WHOLE[1000:71_000]
    small = bytearray(b"x" * 100)
    assert await ring.readinto(fd, 99_950, small) == 50
    assert small == WHOLE[99_950:] + b"x" * 50
    assert await ring.readinto(fd, 0, bytearray()) == 0


async def test_readv_and_writev_go_through_the_buffers_in_turn(ring: aioring.Ring, fd: int) -> None:
    buffers = [bytearray(10), bytearray(0), bytearray(5000), bytearray(3)]
    assert await ring.readv(fd, 7, buffers) == 5013
    assert b"".join(buffers) == WHOLE[7:5020]
    parts = [b"abc", b"", bytearray(b"defg"), memoryview(b"hi")]
    assert await ring.writev(fd, 50, parts) == 9
    assert os.pread(fd, 9, 50) == b"abcdefghi"


@pytest.mark.parametrize(
    "data", [b"", b"z", b"hello" * 40_000, bytearray(b"ab" * 5000), memoryview(b"0123456789")[2:7]]
)
async def test_a_write_writes_all_of_it(ring: aioring.Ring, fd: int, data: bytes) -> None:
    assert await ring.write(fd, 123, data) == len(data)
    assert os.pread(fd, len(data) or 1, 123)[: len(data)] == bytes(data)


async def test_a_thousand_started_reads_need_no_thousand_tasks(ring: aioring.Ring, fd: int) -> None:
    started = [ring.start_read(fd, i * 100, 100) for i in range(1000)]
    assert b"".join([await one for one in started]) == WHOLE
    writes = [ring.start_write(fd, i * 100, bytes([i % 256]) * 100) for i in range(1000)]
    assert [await one for one in writes] == [100] * 1000
    assert os.pread(fd, 100_000, 0) == b"".join(bytes([i % 256]) * 100 for i in range(1000))


async def test_direct_reads_work_into_bytes_and_into_aligned_memory(ring: aioring.Ring, path: Path) -> None:
    fd = await ring.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        assert await ring.read(fd, 4096, 8192) == WHOLE[4096 : 4096 + 8192]
        assert await ring.read(fd, 98_304, 8192) == WHOLE[98_304:]
        buffer = aioring.alloc(16384)
        assert await ring.readinto(fd, 90_112, buffer) == 100_000 - 90_112
        assert buffer[: 100_000 - 90_112] == WHOLE[90_112:]
        with pytest.raises(OSError, match="Invalid argument"):
            await ring.read(fd, 100, 512)
    finally:
        await ring.close(fd)


async def test_a_view_that_was_read_into_before_is_checked_again(ring: aioring.Ring, fd: int) -> None:
    """Where a memoryview's memory lies is remembered; that it is still there is asked each time."""
    memory = bytearray(8192)
    view = memoryview(memory)
    for at in (0, 100, 4096):
        assert await ring.readinto(fd, at, view) == 8192
        assert memory == os.pread(fd, 8192, at)
    part = view[:100]
    for _ in range(3):
        assert await ring.readinto(fd, 7, part) == 100
    assert memory[:100] == os.pread(fd, 100, 7)
    part.release()
    view.release()
    for released in (view, part):
        with pytest.raises(ValueError, match="released"):
            await ring.readinto(fd, 0, released)
    memory.append(1)  # nothing holds it any more
    for _ in range(200):  # views come and go, and their ids are used again
        memory = bytearray(os.urandom(64))
        view = memoryview(memory)
        assert await ring.readinto(fd, 50, view) == 64
        assert memory == os.pread(fd, 64, 50)
        del view
    engine: Any = ring._started
    assert not engine.live


async def test_a_read_only_view_is_refused_each_time(ring: aioring.Ring, fd: int) -> None:
    view = memoryview(bytes(10))
    for _ in range(3):
        with pytest.raises(BufferError, match="not writable"):
            await ring.readinto(fd, 0, view)
