"""The read stream: every block, in order, with no more I/O than it takes; whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import mmap
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring import AioringError, Block, BlockBeyondEndError, buffers, read_stream
from aioring.testing import Recording, Scripted, Trace
from tests.conftest import open_fds, pattern
from tests.harness import SOON, all_over, begin, cancelled_again_and_again, ticks

LIGHT = True  # see conftest.py

pytestmark = [pytest.mark.anyio]

SIZE = 1_000_000  # 122 blocks of 8 KiB, and a part of one
BLOCK = 8192


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(pattern(SIZE))
    return path


WHOLE = pattern(SIZE)


def part(offset: int, n: int = BLOCK) -> bytes:
    return WHOLE[offset : offset + n]


async def all_of(stream: aioring.ReadStream[Any]) -> list[Block[Any]]:
    return [block async for block in stream]


def ios(trace: Trace) -> list[int]:
    """The bytes of each I/O, in the order of their submission."""
    return [event.length for event in trace if event.what == "submitted" and event.operation == "readinto"]


# --- what it gives ----------------------------------------------------------------------------------------------------


async def test_a_whole_file_comes_in_order(ring: aioring.Ring, large: Path) -> None:
    stream = read_stream(large, ring=ring)
    blocks = await all_of(stream)
    assert [block.offset for block in blocks] == list(range(0, SIZE, BLOCK))
    assert [block.item for block in blocks] == list(range(123))
    assert [len(block) for block in blocks] == [BLOCK] * 122 + [SIZE - 122 * BLOCK]
    assert b"".join(bytes(block) for block in blocks) == WHOLE
    assert blocks[0].data.readonly
    assert stream.stats.prefetch_count == 123
    assert await all_of(stream) == []  # it is over


async def test_any_blocks_of_any_size_in_any_order(ring: aioring.Ring, large: Path) -> None:
    rng = random.Random(3)
    for size in (1, 100, 4096, BLOCK, 300_000, SIZE + 1):
        last = -(-SIZE // size)
        asked = [rng.randrange(last) for _ in range(30)]
        for start in [rng.randrange(last) for _ in range(4)]:
            asked += range(start, min(start + 12, last))
        async with read_stream(large, asked, block_size=size, ring=ring) as stream:
            blocks = await all_of(stream)
        assert [block.item for block in blocks] == asked
        assert all(bytes(block) == part(block.offset, size) for block in blocks)
        assert all(block.offset == block.item * size for block in blocks)


async def test_ranges_of_bytes_overlapping_and_not(ring: aioring.Ring, large: Path) -> None:
    rng = random.Random(4)
    asked: list[Any] = [(rng.randrange(SIZE), rng.choice((1, 10, 5000, 200_000))) for _ in range(60)]
    asked += [(0, 10), (10, 20), (30, 5), (5, 10), (5, 10), (5, 11), 7, 8, (9 * BLOCK, 100), (SIZE - 1, 50)]
    blocks = await all_of(read_stream(large, iter(asked), ring=ring))
    assert [block.item for block in blocks] == asked
    for block in blocks:
        offset, n = block.item if isinstance(block.item, tuple) else (block.item * BLOCK, BLOCK)
        assert (block.offset, bytes(block)) == (offset, part(offset, n))


async def test_a_key_says_where_any_element_lies(ring: aioring.Ring, large: Path) -> None:
    rows = [{"at": 100, "n": 50}, {"at": 7, "n": 3}, {"at": 150, "n": 1}]
    stream = read_stream(large, rows, key=lambda row: (row["at"], row["n"]), ring=ring)
    assert [(block.item, bytes(block)) async for block in stream] == [(row, part(row["at"], row["n"])) for row in rows]
    blocks = await all_of(read_stream(large, range(5), key=lambda number: 2 * number, ring=ring))
    assert [block.offset for block in blocks] == [2 * BLOCK * i for i in range(5)]


async def test_a_file_may_be_a_path_an_fd_or_open(ring: aioring.Ring, large: Path) -> None:
    fd = os.open(large, os.O_RDONLY)
    async with aioring.open(large, "rb", ring=ring) as ours, aioring.open(large, ring=ring, encoding="latin-1") as text:
        with open(large, "rb") as plain:
            for file in (str(large), os.fsencode(large), fd, plain, ours, text):
                assert bytes((await all_of(read_stream(file, [2, 1], ring=ring)))[1]) == part(BLOCK)
            assert await ours.read(10) == part(0, 10)  # at its own position, which nobody has moved
    os.close(fd)
    with pytest.raises(ValueError, match="closed file"):
        await all_of(read_stream(ours, ring=ring))


async def test_an_empty_file_and_no_blocks_give_nothing(ring: aioring.Ring, tmp_path: Path, large: Path) -> None:
    (tmp_path / "empty").touch()
    assert await all_of(read_stream(tmp_path / "empty", ring=ring)) == []
    assert await all_of(read_stream(large, [], ring=ring)) == []
    assert await all_of(read_stream(large, range(5, 5), ring=ring)) == []
    assert [block.item for block in await all_of(read_stream(large, range(9, 1, -3), ring=ring))] == [9, 6, 3]


async def test_batches_are_what_is_ready(ring: aioring.Ring, large: Path) -> None:
    async with read_stream(large, ring=ring) as stream:
        first = await anext(stream)
        batches = [batch async for batch in stream.batches()]
    assert all(batches)
    blocks = [first, *(block for batch in batches for block in batch)]
    assert b"".join(bytes(block) for block in blocks) == WHOLE
    assert stream.stats.prefetch_count == 123
    assert len(batches) < 60


async def test_kept_views_stay_true_and_their_memory_is_not_used_again(ring: aioring.Ring, large: Path) -> None:
    rng = random.Random(6)
    asked = [rng.randrange(122) for _ in range(400)]
    for limit in (None, 1, 200_000):
        kept = []
        async with read_stream(large, asked, max_bytes=limit, ring=ring) as stream:
            async for block in stream:
                kept.append((block.item, block.data if rng.random() < 0.7 else block.detach().data))
        gc.collect()
        await all_of(read_stream(large, ring=ring))  # somebody else reads into what is free
        assert all(data == part(number * BLOCK) for number, data in kept)


async def test_memory_is_bounded_and_given_back(ring: aioring.Ring, large: Path) -> None:
    await all_of(read_stream(large, ring=ring))
    pool = ring._memory
    assert pool is not None
    for _ in range(3):
        made = pool.made
        async for block in read_stream(large, ring=ring):
            assert len(block)
        del block
    assert pool.made - made <= 2
    kept: list[Any] = []
    stream = read_stream(large, max_bytes=131_072, ring=ring)
    async for block in stream:
        kept.append(block)
        assert stream._ahead is not None
        assert stream._ahead._held <= 2 * 131_072
        assert sum(memory.size for memory in stream._ahead.lent if not memory.free()) <= 3 * 131_072


ASKED = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.tuples(st.integers(0, 30_000), st.integers(1, 9_000)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "sync", "scripted"])
@given(
    size=st.integers(0, 30_000),
    asked=ASKED,
    block_size=st.sampled_from([1, 512, 1000, 4096, 8192]),
    max_ios=st.integers(0, 5),
    combine=st.integers(1, 40_000),
    limit=st.one_of(st.none(), st.integers(1, 50_000)),
    full=st.booleans(),
    cached=st.booleans(),
    batches=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_any_file_is_what_pread_gives(
    tmp_path: Path, method: str, size: int, asked: list[Any], block_size: int, max_ios: int, combine: int,
    limit: int | None, full: bool, cached: bool, batches: bool,
) -> None:  # fmt: skip
    path = tmp_path / "any"
    path.write_bytes(WHOLE[:size])
    if not cached and method == "io_uring":
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    async def main() -> None:
        made = Scripted(size, short=0.3) if method == "scripted" else method
        async with aioring.Ring(method=made, page_cache_first=cached) as ring:
            stream = read_stream(
                path, asked, block_size=block_size, max_ios=max_ios, combine_limit=combine, max_bytes=limit, full=full,
                errors="yield", ring=ring,
            )  # fmt: skip
            blocks: list[Block[Any]] = []
            if batches:
                async for batch in stream.batches():
                    blocks += batch
            else:
                blocks = await all_of(stream)
        assert [block.item for block in blocks] == asked
        with open(path, "rb") as file:
            for block in blocks:
                offset, n = block.item if isinstance(block.item, tuple) else (block.item * block_size, block_size)
                data = os.pread(file.fileno(), n, offset)
                assert (block.offset, bytes(block)) == (offset, data)
                assert isinstance(block.error, BlockBeyondEndError) is not bool(data)
        assert stream.stats.prefetch_count == len(asked)

    anyio.run(main)


# --- how much I/O it takes --------------------------------------------------------------------------------------------


class Slow(Scripted):
    """No I/O is complete when it is first asked about: it is waited for, or the consumer takes its time."""

    def __init__(self, seed: int = 1, **options: Any) -> None:
        super().__init__(seed, short=0.0, soft=0.0, **options)
        self._turn = False

    def poll(self) -> None:
        self._turn = not self._turn
        if self._turn and self._due:
            self._doorbell.ring()
        else:
            super().poll()


async def test_misses_issue_1_2_4_8_16_16(anyio_backend: Any, large: Path) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        stream = read_stream(large, ring=ring)
        assert b"".join([bytes(block) async for block in stream]) == WHOLE
    sizes = [-(-n // BLOCK) for n in ios(method.trace)]
    assert sizes[:6] == [1, 2, 4, 8, 16, 16]
    assert sum(sizes[:-1]) == 123  # the last is continued, to see that there is no more
    stats = stream.stats
    assert (stats.io_count, stats.io_nblocks, stats.hit_count) == (len(sizes) - 1, 123, 0)
    assert stats.wait_count >= 5


async def test_full_begins_with_a_whole_one(anyio_backend: Any, large: Path) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        await all_of(read_stream(large, full=True, ring=ring))
    assert [n // BLOCK for n in ios(method.trace)[:7]] == [16] * 7


async def test_what_is_cached_takes_no_io(
    make_ring: Callable[..., aioring.Ring], large: Path, combination: Any
) -> None:
    if not combination[1]:
        pytest.skip("the page cache is not asked")
    large.read_bytes()
    async with make_ring() as ring:
        stream = read_stream(large, ring=ring)
        assert len(await all_of(stream)) == 123
        assert (stream.stats.io_count, stream.stats.hit_nblocks) == (0, 123)
        assert stream.stats.hit_count < 20
        assert "readinto" not in ring.stats().operations


async def test_random_blocks_reach_max_ios_and_no_more_in_few_submissions(anyio_backend: Any, large: Path) -> None:
    rng = random.Random(8)
    asked = [2 * rng.randrange(61) for _ in range(2000)]
    deepest = 0
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        stream = read_stream(large, iter(asked), max_ios=8, max_bytes=1 << 22, ring=ring)
        async for block in stream:
            assert bytes(block) == part(block.offset)
            assert stream._ahead is not None
            deepest = max(deepest, stream._ahead._ios)
        stats = ring.stats()
    assert deepest == 8
    assert stats.submissions < 0.6 * stream.stats.io_count


async def test_a_consumer_that_is_slower_than_the_disk_stops_the_growth(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method=Slow(), page_cache_first=False) as ring:
        stream = read_stream(large, iter(range(0, 120, 2)), ring=ring)
        async for _ in stream:
            while ring.in_flight():
                await checkpoint()
        # The first was waited for: nothing could be read ahead of it.
        assert stream.stats.wait_count == 1
        assert stream.stats.distance_max <= 2


async def test_on_sync_nothing_is_read_far_ahead(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method="sync", page_cache_first=False) as ring:
        stream = read_stream(large, iter(range(0, 120, 2)), ring=ring)
        assert len(await all_of(stream)) == 60
        assert (stream.stats.wait_count, stream.stats.distance_max) == (0, 1)


async def test_max_ios_of_0_reads_what_is_wanted_when_it_is_wanted(ring: aioring.Ring, large: Path) -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in range(0, 120, 2):
            taken += 1
            yield number

    stream = read_stream(large, source(), max_ios=0, ring=ring)
    handed = 0
    async for block in stream:
        handed += 1
        assert bytes(block) == part(block.offset)
        assert taken <= handed + 2
    assert stream.stats.io_in_progress == stream.stats.io_count


async def test_a_combine_limit_below_a_block_combines_nothing(anyio_backend: Any, large: Path) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        blocks = await all_of(read_stream(large, block_size=100_000, combine_limit=10, ring=ring))
    assert b"".join(map(bytes, blocks)) == WHOLE
    assert ios(method.trace) == [100_000] * 10


# 004_read_stream of PostgreSQL 19's test_aio: the same block twice, there and back.
@pytest.mark.parametrize(
    ("asked", "reads"),
    [
        ([0, 0], 1),
        ([3, 3, 3, 4, 4], 2),
        ([0, 2, 0, 2], 2),
        ([0, 2, 4, 2, 0], 3),
        ([0, 1, 2, 3, 2, 1, 0], 3),
    ],
    ids=str,
)
async def test_a_block_that_is_in_the_window_is_not_read_twice(
    anyio_backend: Any, large: Path, asked: list[int], reads: int
) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        blocks = await all_of(read_stream(large, asked, full=True, ring=ring))
    assert [bytes(block) for block in blocks] == [part(number * BLOCK) for number in asked]
    assert len(ios(method.trace)) <= reads


async def test_explain_says_what_postgresql_says(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method=Slow(), page_cache_first=False) as ring:
        stream = read_stream(large, iter([5, 9, 13]), ring=ring)
        assert str(stream.stats).splitlines() == [
            "Prefetch: avg=0.000 max=0 capacity=272",
            "I/O: count=0 waits=0 size=0.000 in-progress=0.000",
        ]
        await all_of(stream)
        assert str(stream.stats).splitlines()[0].endswith("capacity=272")
        assert "I/O: count=3 waits=" in str(stream.stats)
        assert " size=1.000 in-progress=" in str(stream.stats)


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_what_makes_no_sense_says_so_at_once(large: Path) -> None:
    for options in ({"block_size": 0}, {"max_ios": -1}, {"combine_limit": 0}, {"max_bytes": 0}, {"errors": "ignore"}):
        with pytest.raises(ValueError, match="must be"):
            read_stream(large, **options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not iterable"):
        read_stream(large, 5)  # type: ignore[call-overload]


async def test_what_cannot_be_streamed_says_why(ring: aioring.Ring, tmp_path: Path, pipe: tuple[int, int]) -> None:
    before = open_fds()
    for file, code in ((tmp_path, errno.EISDIR), (tmp_path / "missing", errno.ENOENT), (pipe[0], errno.ESPIPE)):
        with pytest.raises(OSError) as raised:
            await all_of(read_stream(file, ring=ring))
        assert raised.value.errno == code
    with pytest.raises(TypeError):
        await all_of(read_stream(1.5, ring=ring))
    with anyio.fail_after(SOON):
        while [fd for fd in open_fds() - before if os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path)]:
            await anyio.sleep(0.001)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (-1, ValueError),
        ((-1, 5), ValueError),
        ((5, 0), ValueError),
        ((1, 2, 3), TypeError),
        ("x", TypeError),
        (1 << 60, OverflowError),
        (None, TypeError),
    ],
    ids=str,
)
async def test_an_element_that_is_no_block_raises_at_its_place(
    ring: aioring.Ring, large: Path, wrong: Any, kind: type[Exception]
) -> None:
    stream = read_stream(large, [1, 2, 3, 9, wrong, 4], ring=ring)
    items = []
    with pytest.raises(kind):
        async for block in stream:
            items.append(block.item)
    assert items == [1, 2, 3, 9]
    assert await all_of(stream) == []


async def test_what_a_source_raises_comes_behind_all_that_it_asked_for(ring: aioring.Ring, large: Path) -> None:
    class Own(Exception):
        pass

    def source() -> Iterator[int]:
        yield from (5, 6, 50, 7)
        raise Own

    stream, items = read_stream(large, source(), ring=ring), []
    with pytest.raises(Own):
        async for block in stream:
            items.append(block.item)
    assert items == [5, 6, 50, 7]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_blocks_beyond_the_end_raise_at_their_places(ring: aioring.Ring, large: Path) -> None:
    asked = [121, 122, 123, 124, 0, 500, 1]
    stream = read_stream(large, asked, full=True, ring=ring)
    got: list[Any] = []
    while True:
        try:
            got.append((await anext(stream)).item)
        except BlockBeyondEndError as error:
            assert "beyond the end" in str(error)
            assert str(large) in str(error)
            got.append(None)
        except StopAsyncIteration:
            break
    assert got == [121, 122, None, None, 0, None, 1]
    yielded = [block async for block in read_stream(large, asked, errors="yield", full=True, ring=ring)]
    assert [block.item for block in yielded] == asked
    assert [isinstance(block.error, EOFError) for block in yielded] == [False, False, True, True, False, True, False]


@pytest.mark.parametrize("errors", ["raise", "yield"])
async def test_of_a_combined_io_that_fails_the_good_blocks_are_handed_out(
    anyio_backend: Any, large: Path, errors: Any
) -> None:
    """EIO at one block: PostgreSQL's test_inject, for what a stream combines."""

    class Bad(Slow):
        def _carry_out(self, handle: Any) -> int:
            if handle.operation.name == "readinto" and handle.offset <= 20 * BLOCK < handle.offset + handle.length:
                return -errno.EIO
            return super()._carry_out(handle)

    async with aioring.Ring(method=Bad(), page_cache_first=False) as ring:
        stream, got = read_stream(large, range(40), errors=errors, ring=ring), []
        while True:
            try:
                block = await anext(stream)
            except StopAsyncIteration:
                break
            except OSError as error:
                assert (error.errno, error.filename) == (errno.EIO, str(large))
                assert str(20 * BLOCK) in error.__notes__[0]
                got.append(-1)
                continue
            if block.error is not None:
                assert isinstance(block.error, OSError)
                assert (block.offset, len(block)) == (20 * BLOCK, 0)
                got.append(-1)
                continue
            assert bytes(block) == part(block.offset)
            got.append(block.item)
        assert got == [*range(20), -1, *range(21, 40)]


@pytest.mark.parametrize("seed", range(12))
async def test_short_and_failing_reads_of_a_scripted_disk_change_no_byte(
    anyio_backend: Any, large: Path, seed: int
) -> None:
    rng = random.Random(seed)
    asked = [rng.randrange(123) for _ in range(60)] + list(range(30, 60))
    faults = {("readinto", rng.randrange(1, 20)): errno.EIO for _ in range(3)}
    async with aioring.Ring(method=Scripted(seed, short=0.4, faults=faults)) as ring:
        blocks = await all_of(read_stream(large, asked, errors="yield", max_ios=5, ring=ring))
    assert [block.item for block in blocks] == asked
    assert sum(block.error is not None for block in blocks) <= 3
    assert all(block.error is not None or bytes(block) == part(block.offset) for block in blocks)


async def test_a_file_that_shrinks_or_is_replaced_meanwhile(ring: aioring.Ring, large: Path) -> None:
    stream = read_stream(large, ring=ring)
    first = await anext(stream)
    os.truncate(large, 50 * BLOCK + 100)
    rest = []
    beyond = 0
    while True:
        try:
            rest.append(await anext(stream))
        except BlockBeyondEndError:
            beyond += 1
        except StopAsyncIteration:
            break
    assert 1 + len(rest) + beyond == 123
    assert all(bytes(block) == part(block.offset)[: len(block)] for block in (first, *rest))
    assert len(rest) >= 50
    large.write_bytes(WHOLE)
    async with read_stream(large, ring=ring) as stream:
        await anext(stream)
        large.unlink()
        large.write_bytes(b"another")
        assert b"".join([bytes(block) async for block in stream]) == WHOLE[BLOCK:]  # the one that it has open


async def test_two_tasks_cannot_share_one(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method=Slow(), page_cache_first=False) as ring:
        stream = read_stream(large, ring=ring)
        async with anyio.create_task_group() as group:
            first = begin(group, anext, stream)
            second = begin(group, anext, stream)
            await all_over(first, second)
        assert {type(first.error), type(second.error)} == {type(None), AioringError}
        assert "another task" in str(first.error or second.error)
        assert len(await all_of(stream)) == 122


async def test_a_closed_ring_says_so(make_ring: Callable[..., aioring.Ring], large: Path) -> None:
    ring = make_ring()
    await ring.start()
    stream = read_stream(large, ring=ring)
    await anext(stream)
    await ring.aclose()
    with pytest.raises(aioring.RingClosedError):
        await all_of(stream)
    del stream
    gc.collect()


# --- cancelling, leaving, starting over -------------------------------------------------------------------------------


async def test_a_cancelled_anext_loses_no_block(ring: aioring.Ring, large: Path) -> None:
    rng = random.Random(9)
    asked = [rng.randrange(122) for _ in range(80)]
    stream, got = read_stream(large, iter(asked), ring=ring), []

    async def some() -> None:
        async for block in stream:
            got.append((block.item, bytes(block)))

    await cancelled_again_and_again(some, 40, 7)
    await some()
    assert got == [(number, part(number * BLOCK)) for number in asked]


async def test_who_leaves_early_leaves_nothing(ring: aioring.Ring, large: Path) -> None:
    for leave in range(4):
        before = open_fds()
        for n in (0, 1, 3, 30):
            stream = read_stream(large, iter(range(0, 120, 2)), ring=ring)
            for _ in range(n):
                await anext(stream)
            if leave == 0:
                await stream.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            elif leave == 1:
                async with stream:
                    pass
            elif leave == 2:
                await stream.aclose()
                await stream.aclose()
            del stream
            gc.collect()
        with anyio.fail_after(SOON):
            while ring.in_flight() or open_fds() - before:
                await anyio.sleep(0.001)


async def test_closing_reads_nothing_that_is_pending(anyio_backend: Any, large: Path) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        stream = read_stream(large, ring=ring)
        for _ in range(10):
            await anext(stream)
        asked = len(ios(method.trace))
        await stream.aclose()
        assert len(ios(method.trace)) == asked
        assert not ring.in_flight()


async def test_reset_starts_anew_with_other_blocks(anyio_backend: Any, large: Path) -> None:
    method = Slow()
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        stream = read_stream(large, iter(range(100)), ring=ring)
        for _ in range(20):
            await anext(stream)
        before = len(ios(method.trace))
        await stream.reset(iter(range(50, 90)))
        assert len(ios(method.trace)) == before  # what was pending is discarded, not read
        blocks = await all_of(stream)
        assert [block.item for block in blocks] == list(range(50, 90))
        assert [n // BLOCK for n in ios(method.trace)[before:]][:3] == [1, 2, 4]
        await stream.reset([3])
        assert [bytes(block) for block in await all_of(stream)] == [part(3 * BLOCK)]
        await stream.aclose()
        await stream.reset()
        assert len(await all_of(stream)) == 123


async def test_a_stream_that_follows_what_it_reads(ring: aioring.Ring, tmp_path: Path) -> None:
    """Each block says which is the next, as in a list or a tree."""
    path, order = tmp_path / "list", [0, 7, 3, 9, 1, 2, 8, 4, 5, 6]
    links = bytearray(10 * 4096)
    for here, there in zip(order, [*order[1:], 255], strict=True):
        links[here * 4096] = there
    path.write_bytes(links)
    followed = []
    async with read_stream(path, [0], block_size=4096, ring=ring) as stream:
        following = 0
        while following != 255:
            block = await anext(stream)
            followed.append(block.item)
            following = block.data[0]
            await stream.reset([following])
    assert followed == order


async def test_pausing_hands_out_what_is_under_way_and_goes_on_after(ring: aioring.Ring, large: Path) -> None:
    stream = read_stream(large, iter(range(0, 60, 2)), ring=ring)
    items = [(await anext(stream)).item for _ in range(9)]
    stream.pause()
    items += [block.item for block in await all_of(stream)]
    assert len(items) < 30
    assert await all_of(stream) == []
    stream.resume()
    items += [block.item for block in await all_of(stream)]
    assert items == list(range(0, 60, 2))


# --- async sources ----------------------------------------------------------------------------------------------------


async def test_an_async_source_is_read_ahead_and_never_waited_for_while_there_is_a_block(
    ring: aioring.Ring, large: Path
) -> None:
    more = anyio.Event()

    async def source() -> AsyncIterator[int]:
        for number in (4, 5, 6, 90):
            yield number
        await more.wait()
        yield 7

    async with read_stream(large, source(), ring=ring) as stream:
        with anyio.fail_after(SOON):
            assert [(await anext(stream)).item for _ in range(4)] == [4, 5, 6, 90]
            with anyio.move_on_after(0.01):
                await anext(stream)
            more.set()
            assert [bytes(block) async for block in stream] == [part(7 * BLOCK)]


async def test_what_an_async_source_raises_comes_behind_its_blocks(ring: aioring.Ring, large: Path) -> None:
    ended = []

    async def source(n: int) -> AsyncIterator[int]:
        try:
            for number in range(n):
                await checkpoint()
                yield number
            raise KeyError("own")
        finally:
            ended.append(n)

    stream, items = read_stream(large, source(100), ring=ring), []
    with pytest.raises(KeyError, match="own"):
        async for block in stream:
            items.append(block.item)
    assert items == list(range(100))
    for leave in ("aclose", "drop"):
        stream = read_stream(large, source(10_000), ring=ring)
        await anext(stream)
        if leave == "aclose":
            await stream.aclose()
        del stream
        gc.collect()
        with anyio.fail_after(SOON):
            while len(ended) < (2 if leave == "aclose" else 3):
                await anyio.sleep(0.001)
    await ticks(3)


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
async def test_recorded_it_asks_for_every_byte_once(anyio_backend: Any, large: Path, method: str) -> None:
    trace = Trace(data=False)
    async with aioring.Ring(method=Recording(method, trace), page_cache_first=False) as ring:
        assert b"".join([bytes(block) async for block in read_stream(large, ring=ring)]) == WHOLE
    # The last reads up to the end of its block, and once more to see that there is no more.
    assert sum(ios(trace)) in (123 * BLOCK, 123 * BLOCK + (123 * BLOCK - SIZE))


# --- direct -----------------------------------------------------------------------------------------------------------


def resident(path: Path) -> int:
    """How many pages of it are in the page cache (mincore(2))."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        view = memoryview(mapped)
        at = buffers.view_address(view)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(at), ctypes.c_size_t(len(mapped)), pages) == 0
        view.release()
        return sum(page & 1 for page in pages)


def uncached(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_direct_reads_past_the_page_cache_whatever_is_aligned(ring: aioring.Ring, large: Path) -> None:
    uncached(large)
    before = resident(large)
    asked: list[Any] = [0, 5, 6, 7, 122, (100, 5), (8191, 2), (SIZE - 1, 1), (SIZE - 10_000, 50_000), 3, 3]
    async with read_stream(large, asked, direct=True, ring=ring) as stream:
        assert fcntl.fcntl(stream._target.fd, fcntl.F_GETFL) & os.O_DIRECT
        for block in await all_of(stream):
            offset, n = block.item if isinstance(block.item, tuple) else (block.item * BLOCK, BLOCK)
            assert (block.offset, bytes(block)) == (offset, part(offset, n))
    for size in (1, 1000, 4096, 100_000):
        blocks = await all_of(read_stream(large, range(7), block_size=size, direct=True, ring=ring))
        assert b"".join(map(bytes, blocks)) == WHOLE[: 7 * size]
    assert b"".join([bytes(block) async for block in read_stream(large, direct=True, ring=ring)]) == WHOLE
    assert resident(large) == before
    assert stream.stats.hit_count == 0
    with pytest.raises(BlockBeyondEndError):
        await all_of(read_stream(large, [200], direct=True, ring=ring))


async def test_direct_over_what_is_open_leaves_its_flags_alone(ring: aioring.Ring, large: Path) -> None:
    fd = os.open(large, os.O_RDONLY)
    direct = os.open(large, os.O_RDONLY | os.O_DIRECT)
    async with read_stream(fd, direct=True, ring=ring) as stream:
        assert b"".join([bytes(block) async for batch in stream.batches() for block in batch]) == WHOLE
    async with read_stream(direct, block_size=1000, ring=ring) as stream:
        assert stream._target.fd == direct
        assert b"".join([bytes(block) async for block in stream]) == WHOLE
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    os.close(fd)
    os.close(direct)


async def test_where_direct_is_refused_it_says_so_or_reads_buffered(ring: aioring.Ring, overlay: Path) -> None:
    refused = "/proc/self/status"
    with pytest.raises(OSError, match="Invalid argument") as raised:
        await all_of(read_stream(refused, [0], direct=True, ring=ring))
    assert "direct='try'" in "".join(raised.value.__notes__)
    blocks = await all_of(read_stream(refused, [0], direct="try", ring=ring))
    assert bytes(blocks[0]).startswith(b"Name:")
    with open(refused, "rb") as file:
        assert len(await all_of(read_stream(file, [0], direct="try", ring=ring))) == 1
    with pytest.raises(ValueError, match="direct"):
        read_stream(refused, direct="maybe")  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "sync", "scripted"])
@given(size=st.integers(0, 30_000), asked=ASKED, block_size=st.sampled_from([1, 512, 1000, 4096]), full=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_direct_is_what_pread_gives(
    tmp_path: Path, method: str, size: int, asked: list[Any], block_size: int, full: bool
) -> None:
    path = tmp_path / "any"
    path.write_bytes(WHOLE[:size])

    async def main() -> None:
        made = Scripted(size, short=0.3) if method == "scripted" else method
        async with aioring.Ring(method=made) as ring:
            stream = read_stream(path, asked, block_size=block_size, full=full, direct=True, errors="yield", ring=ring)
            for block in await all_of(stream):
                offset, n = block.item if isinstance(block.item, tuple) else (block.item * block_size, block_size)
                assert (block.offset, bytes(block)) == (offset, WHOLE[offset : min(offset + n, size)])
        assert stream.stats.prefetch_count == len(asked)

    anyio.run(main)
