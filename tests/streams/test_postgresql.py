"""PostgreSQL's own cases, by their names (src/test/modules/test_aio, 001 to 004), for a read stream and its ring.

Each runs on every method. What they inject into shared memory comes here through the method seam (`Scripted`).
"""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring import BlockBeyondEndError, read_stream
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import SOON, Held, all_over, begin, ticks

pytestmark = pytest.mark.anyio

BLOCK, BLOCKS = 8192, 60
WHOLE = pattern(BLOCK * BLOCKS)


@pytest.fixture
def relation(tmp_path: Path) -> Path:
    path = tmp_path / "relation"
    path.write_bytes(WHOLE)
    return path


def block_of(number: int) -> bytes:
    return WHOLE[number * BLOCK : (number + 1) * BLOCK]


async def all_of(stream: aioring.ReadStream[Any]) -> list[bytes]:
    return [bytes(block) async for block in stream]


class Injecting(Scripted):
    """Rewrites what reads come to (`inj_io_short_read_attach`): `what(handle)` gives a result, or None to leave it."""

    def __init__(self, what: Any) -> None:
        super().__init__(1, short=0.0, soft=0.0)
        self.what = what

    def _carry_out(self, handle: Any) -> int:
        res = super()._carry_out(handle)
        if handle.operation.name != "readinto" or res < 0:
            return res
        injected = self.what(handle)
        return res if injected is None else int(injected)


async def test_handle(ring: aioring.Ring, relation: Path) -> None:
    """Handles that nobody waits for, an error between asking and waiting: none is lost to the ring."""
    fd = os.open(relation, os.O_RDONLY)
    try:
        for _ in range(3 * ring.depth):
            stream = read_stream(fd, [1, 5, 9], ring=ring)
            await anext(stream)
            del stream
        ring.start_read(fd, 0, 100)
        with pytest.raises(ZeroDivisionError):
            async with read_stream(fd, ring=ring) as stream:
                await anext(stream)
                raise ZeroDivisionError
        with anyio.fail_after(SOON):
            while ring.in_flight():
                await anyio.sleep(0.001)
        assert await all_of(read_stream(fd, [7], ring=ring)) == [block_of(7)]
    finally:
        os.close(fd)


async def test_batchmode(ring: aioring.Ring, relation: Path) -> None:
    """A batch that an exception leaves is submitted all the same; a stream inside one is none the worse."""
    fd = os.open(relation, os.O_RDONLY)
    try:
        with pytest.raises(ZeroDivisionError), ring.batch():
            pending = ring.start_read(fd, 0, 100)
            raise ZeroDivisionError
        assert await pending == WHOLE[:100]
        with ring.batch():
            assert await all_of(read_stream(fd, [3, 4], ring=ring)) == [block_of(3), block_of(4)]
    finally:
        os.close(fd)


async def test_io_error(anyio_backend: Any, relation: Path) -> None:
    """An I/O fails at its block, is reported there, and again when it is asked for again."""
    bad = Injecting(lambda handle: -errno.EIO if handle.offset == 20 * BLOCK else None)
    async with aioring.Ring(method=bad, page_cache_first=False) as ring:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                await all_of(read_stream(relation, [20], ring=ring))
        bad.what = lambda _: None
        assert await all_of(read_stream(relation, [20], ring=ring)) == [block_of(20)]


async def test_startwait_io(anyio_backend: Any, relation: Path) -> None:
    """A block that is on its way is waited for, not read again; where that fails, who shares it reads it itself."""
    for fails in (0, 1, 2):
        reads: list[int] = []

        def what(handle: Any, fails: int = fails, reads: list[int] = reads) -> int | None:
            reads.append(handle.offset // BLOCK)
            return -errno.EIO if len(reads) <= fails else None

        async with aioring.Ring(method=Injecting(what), page_cache_first=False) as ring:
            stream = read_stream(relation, [9, 9], full=True, errors="yield", ring=ring)
            blocks = [block async for block in stream]
        assert [block.error is None for block in blocks] == [fails < 1, fails < 2]
        assert all(bytes(block) in (b"", block_of(9)) for block in blocks)
        assert reads == [9] * (1 if fails == 0 else 2)


async def test_complete_foreign(anyio_backend: Any, relation: Path) -> None:
    """Whoever asked is gone while the I/O is in flight: others on the ring are served, and its memory is not reused."""
    method = Held(3, cancel="loses")
    method.held = False
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        gone, stays = (read_stream(relation, full=True, ring=ring) for _ in range(2))
        await anext(gone)
        await anext(stays)
        method.held = True
        async with anyio.create_task_group() as group:
            first = begin(group, gone.__anext__)
            second = begin(group, all_of, stays)
            await ticks(3)
            first.scope.cancel()
            closing = begin(group, gone.aclose)
            await ticks(3)
            method.let_go()
            await all_over(first, second, closing)
        assert (second.error, closing.error) == (None, None)
        assert b"".join(second.value) == WHOLE[BLOCK:]


async def test_close_fd(ring: aioring.Ring, relation: Path) -> None:
    """Closing the fd through the ring, while reads of a stream are staged or in flight, waits for them."""
    for turns in range(6):
        fd = os.open(relation, os.O_RDONLY)
        stream = read_stream(fd, range(0, 60, 2), ring=ring)
        await anext(stream)
        async with anyio.create_task_group() as group:
            reads = begin(group, all_of, stream)
            await ticks(turns)
            await ring.close(fd)
            await all_over(reads)
        got = reads.value or []
        assert got == [block_of(number) for number in range(2, 60, 2)][: len(got)]
        assert reads.error is None or reads.errno == errno.EBADF
        await stream.aclose()


@pytest.mark.parametrize("short", [17, 4096, BLOCK, 2 * BLOCK], ids=str)
async def test_inject(anyio_backend: Any, relation: Path, short: int) -> None:
    """Short reads of part of a block, of one block and of two are continued; EROFS and EIO are said; then it recovers."""
    injected: list[int] = []

    def what(handle: Any) -> int | None:
        if handle.length - handle.done > short and len(injected) < 5:
            injected.append(handle.offset)
            return short
        return None

    method = Injecting(what)
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        assert b"".join(await all_of(read_stream(relation, full=True, ring=ring))) == WHOLE
        assert len(injected) == 5
        for code in (errno.EROFS, errno.EIO):
            method.what = lambda handle, code=code: -code
            with pytest.raises(OSError, match=os.strerror(code)) as raised:
                await all_of(read_stream(relation, [5], ring=ring))
            assert (raised.value.errno, raised.value.filename) == (code, str(relation))
        method.what = lambda _: None
        assert await all_of(read_stream(relation, [5], ring=ring)) == [block_of(5)]


async def test_inject_worker(anyio_backend: Any, relation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker can be started: the reads say so, and the next, when one can, are served."""

    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    fd = os.open(relation, os.O_RDONLY)
    try:
        async with aioring.Ring(method="worker", page_cache_first=False) as ring:
            with monkeypatch.context() as patched:
                patched.setattr(threading.Thread, "start", refuse)
                with pytest.raises(OSError, match="Resource temporarily unavailable"):
                    await all_of(read_stream(fd, [5], ring=ring))
            assert await all_of(read_stream(fd, [5], ring=ring)) == [block_of(5)]
    finally:
        os.close(fd)


async def test_invalidate(ring: aioring.Ring, relation: Path) -> None:
    """The relation is truncated, or dropped, with outstanding I/O."""
    stream = read_stream(relation, range(0, 60, 2), ring=ring)
    got = [bytes(await anext(stream))]
    relation.unlink()
    got += await all_of(stream)
    assert got == [block_of(number) for number in range(0, 60, 2)]
    relation.write_bytes(WHOLE)
    stream = read_stream(relation, range(0, 60, 2), errors="yield", ring=ring)
    await anext(stream)
    os.truncate(relation, 0)
    blocks = [block async for block in stream]
    assert len(blocks) == 29
    for block in blocks:
        # What had been read of it by then, perhaps a part; else it says why not.
        assert block_of(block.item).startswith(bytes(block))
        assert bytes(block) or isinstance(block.error, BlockBeyondEndError)


@pytest.mark.parametrize(
    ("cached", "asked", "reads"),
    [
        ([], [0, 1, 2, 3], [4]),  # misses are combined
        ([0, 1, 2, 3], [0, 1, 2, 3], []),  # hits are no I/O
        ([0], [0, 1, 2, 3], [3]),  # a hit at the start splits
        ([3], [0, 1, 2, 3], [4]),
        ([0, 1], [0, 1, 9, 10], [2]),
        ([], [0, 1, 7, 8, 9], [2, 3]),
        ([], list(range(20)), [16, 4]),  # the limit is kept
    ],
    ids=str,
)
async def test_read_buffers(
    anyio_backend: Any, relation: Path, cached: list[int], asked: list[int], reads: list[int]
) -> None:
    """What is combined, and where a hit splits it. (`cached` blocks are touched, the others forgotten. A kernel that begins
    to read for who asks with RWF_NOWAIT, as 6.18 does, may be done by the next question: then it takes less I/O.)"""
    fd = os.open(relation, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for number in cached:
            os.pread(fd, BLOCK, number * BLOCK)
        async with aioring.Ring(method="worker") as ring:
            stream = read_stream(fd, asked, full=True, ring=ring)
            assert await all_of(stream) == [block_of(number) for number in asked]
        stats = stream.stats
        assert stats.io_nblocks + stats.hit_nblocks == len(asked)
        assert stats.hit_nblocks >= len(cached) * (cached[:1] == asked[:1])
        assert stats.io_nblocks <= sum(reads)
        if not cached:
            async with aioring.Ring(method="worker", page_cache_first=False) as ring:
                stream = read_stream(fd, asked, full=True, ring=ring)
                assert await all_of(stream) == [block_of(number) for number in asked]
            assert (stream.stats.io_count, stream.stats.io_nblocks) == (len(reads), sum(reads))
    finally:
        os.close(fd)


async def test_002_io_workers(anyio_backend: Any, relation: Path) -> None:
    """Pools from 1 thread to 32, under the same load."""
    rng = random.Random(2)
    asked = [rng.randrange(BLOCKS) for _ in range(200)]
    for workers in (1, 2, 4, 32):
        async with aioring.Ring(method="worker", workers=workers, page_cache_first=False) as ring:
            assert await all_of(read_stream(relation, asked, ring=ring)) == [block_of(number) for number in asked]


async def test_003_initdb(ring: aioring.Ring, tmp_path: Path) -> None:
    """Every method can do what a cluster needs: made, written, synced, read back. (A real one: test_pg_scan.py.)"""
    for name in ("base", "global", "pg_wal"):
        await ring.mkdir(tmp_path / name)
        await aioring.write_file(tmp_path / name / "1", WHOLE, durable=True, ring=ring)
        assert b"".join(await all_of(read_stream(tmp_path / name / "1", ring=ring))) == WHOLE


@pytest.mark.parametrize("full", [False, True])
async def test_004_read_stream(ring: aioring.Ring, relation: Path, full: bool) -> None:
    """The same block twice in a row, there and back, and far apart, whether it was a hit or a miss."""
    there_and_back = [*range(20), *reversed(range(20))]
    for asked in ([0, 0], [5, 5, 5, 6, 6], [0, 2, 2, 4, 4], [0, 2, 0, 2, 0], there_and_back, [7, 50, 7, 50, 8, 7]):
        assert await all_of(read_stream(relation, asked, full=full, ring=ring)) == [block_of(n) for n in asked]
