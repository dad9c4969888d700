"""How a read stream ends: closed, reset, dropped, its ring or its file closed, by its own task or another's; and what its
source may do to it. Each of these went wrong once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioring
from aioring import AioringError, read_stream
from aioring.buffers import Pool
from aioring.loops.asyncio import AsyncioLoop
from tests.conftest import open_fds, pattern
from tests.harness import SOON, Held, all_over, begin, ticks

pytestmark = pytest.mark.anyio

SIZE, BLOCK = 1_000_000, 8192
WHOLE = pattern(SIZE)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(WHOLE)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other"
    path.write_bytes(b"B" * SIZE)
    return path


async def all_of(stream: aioring.ReadStream[Any]) -> list[aioring.Block[Any]]:
    return [block async for block in stream]


async def outcomes(stream: aioring.ReadStream[Any], most: int = 100) -> list[Any]:
    """Items, and the names of what was raised, to the end."""
    got: list[Any] = []
    for _ in range(most):
        try:
            got.append((await anext(stream)).item)
        except StopAsyncIteration:
            return got
        except BaseException as error:
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
                raise
            got.append(type(error).__name__)
    raise AssertionError(f"no end: {got}")


# --- the page cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1000, 5000, 8192, 100_000])
async def test_what_is_cached_in_part_is_not_the_end_of_the_file(
    anyio_backend: Any, large: Path, block_size: int
) -> None:
    rng = random.Random(block_size)
    fd = os.open(large, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    async with aioring.Ring() as ring:
        for _ in range(6):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(40):
                os.pread(fd, 4096 * rng.randrange(1, 6), 4096 * rng.randrange(240))
            asked: list[Any] = [(rng.randrange(SIZE // 2), rng.randrange(1, 200_000)) for _ in range(20)]
            for block in await all_of(read_stream(fd, asked, ring=ring)):
                assert bytes(block) == WHOLE[block.offset : block.offset + block.item[1]]
            blocks = await all_of(read_stream(fd, block_size=block_size, ring=ring))
            assert b"".join(map(bytes, blocks)) == WHOLE
    os.close(fd)


# --- closed by another task -------------------------------------------------------------------------------------------


async def test_closed_while_another_task_waits_for_its_turn_it_reads_no_other_file(
    ring: aioring.Ring, large: Path, other: Path
) -> None:
    for after in range(30):
        stream = read_stream(large, max_ios=1, combine_limit=BLOCK, ring=ring)
        got = []

        async def consume(stream: Any = stream, got: list[bytes] = got) -> None:
            async for block in stream:
                got.append(bytes(block))

        async with anyio.create_task_group() as group:
            consumer = begin(group, consume)
            await ticks(after)
            await stream.aclose()
            fd = os.open(other, os.O_RDONLY)
            await all_over(consumer)
            os.close(fd)
        assert consumer.error is None
        assert b"".join(got) == WHOLE[: len(b"".join(got))]


async def test_closed_while_another_task_waits_for_a_block_that_task_is_at_the_end(
    anyio_backend: Any, large: Path
) -> None:
    for close in ("aclose", "reset"):
        method = Held(1)
        method.held = False
        async with aioring.Ring(method=method, page_cache_first=False) as ring:
            stream = read_stream(large, ring=ring)
            await stream.__aenter__()
            method.held = True
            async with anyio.create_task_group() as group:
                waits = begin(group, anext, stream, None)
                await ticks(5)
                if close == "aclose":
                    closes = begin(group, stream.aclose)
                    await ticks(5)
                    method.let_go()
                    await all_over(waits, closes)
                    assert (waits.value, waits.error, closes.error) == (None, None, None)
                else:
                    with pytest.raises(AioringError, match="another task"):
                        await stream.reset([1])
                    method.let_go()
                    await all_over(waits)
                    assert waits.value.offset == 0
            await stream.aclose()


async def test_closed_while_it_is_being_opened_it_opens_nothing(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        await all_of(read_stream(large, [1], ring=ring))
        before = open_fds()
        for turns in range(6):
            stream = read_stream(large, ring=ring)
            async with anyio.create_task_group() as group:
                first = begin(group, anext, stream, None)
                await ticks(turns)
                await stream.aclose()
                await all_over(first)
            assert first.error is None or isinstance(first.error, AioringError)
        entered = read_stream(large, ring=ring)
        async with anyio.create_task_group() as group:
            both = [begin(group, entered.__aenter__) for _ in range(2)]
            await all_over(*both)
        assert sorted(type(one.error).__name__ for one in both) == ["AioringError", "NoneType"]
        await entered.aclose()
        with anyio.fail_after(SOON):
            while open_fds() - before:
                await anyio.sleep(0.001)


# --- its ring, its loop, its file -------------------------------------------------------------------------------------


async def test_a_ring_that_is_closed_in_the_middle_ends_it(anyio_backend: Any, large: Path) -> None:
    started = anyio.Event()

    async def later() -> AsyncIterator[int]:
        await started.wait()
        yield 1

    for source, full in ((later(), False), (range(100), True), (None, False)):
        method = Held(2, cancel="loses")
        method.held = False
        ring = aioring.Ring(method=method, page_cache_first=False)
        await ring.start()
        stream = read_stream(large, source, full=full, ring=ring)
        await stream.__aenter__()
        method.held = True
        async with anyio.create_task_group() as group:
            waits = begin(group, anext, stream)
            await ticks(5)
            with warnings.catch_warnings(action="ignore"):
                await ring.aclose(timeout=0.05)
            started.set()
            await all_over(waits)
        assert isinstance(waits.error, aioring.RingClosedError)
        with pytest.raises(aioring.RingClosedError):
            await anext(stream)
        method.let_go()
        del stream
        gc.collect()


async def test_a_file_that_is_closed_meanwhile_is_not_read_by_its_number(
    ring: aioring.Ring, large: Path, other: Path
) -> None:
    file = await aioring.open(large, "rb", ring=ring)
    stream = read_stream(file, iter(range(0, 120, 2)), ring=ring)
    got = [bytes(await anext(stream))]
    await file.aclose()
    fd = os.open(other, os.O_RDONLY)
    with pytest.raises(ValueError, match="closed file"):
        async for block in stream:
            got.append(bytes(block))
    assert all(data == WHOLE[2 * BLOCK * i : 2 * BLOCK * i + BLOCK] for i, data in enumerate(got))
    await stream.aclose()
    os.close(fd)


def test_dropped_in_another_thread_it_reads_no_other_file(large: Path) -> None:
    async def main() -> None:
        async with aioring.Ring(method="io_uring", page_cache_first=False, depth=1) as ring:
            for _ in range(5):
                held = [read_stream(large, iter(range(0, 120, 2)), direct=True, ring=ring)]
                for _ in range(40):
                    await anext(held[0])
                thread = threading.Thread(target=held.clear)
                thread.start()
                thread.join()
                read, write = os.pipe()
                os.write(write, b"precious")
                os.set_blocking(read, False)
                await asyncio.sleep(0.02)
                assert os.read(read, 100) == b"precious"
                os.close(read)
                os.close(write)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_dropped_when_its_loop_is_closed_it_leaves_no_fd(large: Path) -> None:
    before = open_fds()

    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(100)

    async def first() -> aioring.ReadStream[int]:
        stream = read_stream(large, source())
        await anext(stream)
        return stream

    for drop_in in ("here", "a thread"):
        held = [asyncio.run(first())]
        if drop_in == "here":
            held.clear()
        else:
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
    gc.collect()
    assert not [fd for fd in open_fds() - before if os.readlink(f"/proc/self/fd/{fd}") == str(large)]


# --- its source -------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


async def test_whatever_is_raised_comes_at_its_place_and_loses_no_block(ring: aioring.Ring, large: Path) -> None:
    def stops() -> Iterator[int]:
        yield from (0, 2, 4, 5, 6, 50)
        raise Stop

    assert await outcomes(read_stream(large, stops(), full=True, ring=ring)) == [0, 2, 4, 5, 6, 50, "Stop"]
    for full in (False, True):
        huge: list[Any] = [0, 1, (0, 1 << 50), 2]
        got = await outcomes(read_stream(large, huge, full=full, ring=ring))
        assert got[:2] + got[3:] == [0, 1, 2]
        assert got[2] in ("OSError", "MemoryError", "OverflowError")
        assert await outcomes(read_stream(large, range(2**60, 2**60 + 2), full=full, ring=ring)) == ["OverflowError"]
    yielded = [block async for block in read_stream(large, huge, errors="yield", ring=ring)]
    assert [block.error is None for block in yielded] == [True, True, False, True]

    class Falsy(Exception):
        def __bool__(self) -> bool:
            return False

    def falsy() -> Iterator[int]:
        yield 1
        raise Falsy

    assert await outcomes(read_stream(large, falsy(), ring=ring)) == [1, "Falsy"]

    def key(number: int) -> int:
        if number == 3:
            raise StopAsyncIteration
        return number

    assert await outcomes(read_stream(large, iter(range(5)), key=key, ring=ring)) == [0, 1, 2, "RuntimeError"]


async def test_an_async_source_that_is_cancelled_says_so(anyio_backend: Any, large: Path) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("there nothing can be cancelled from within")

    async def source() -> AsyncIterator[int]:
        yield 1
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        yield 2

    async with aioring.Ring() as ring:
        assert await outcomes(read_stream(large, source(), ring=ring)) == [1, "AioringError"]


async def test_an_error_of_the_source_is_not_lost_with_a_cancelled_anext(anyio_backend: Any, large: Path) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError

    for turns in range(6):
        async with aioring.Ring(method="worker", page_cache_first=False) as ring:
            stream = read_stream(large, source(), ring=ring)
            await anext(stream)
            async with anyio.create_task_group() as group:
                first = begin(group, anext, stream)
                await ticks(turns)
                first.scope.cancel()
            if not isinstance(first.error, KeyError):
                with pytest.raises(KeyError):
                    await anext(stream)


async def test_a_source_or_a_key_may_pause_the_stream(ring: aioring.Ring, large: Path) -> None:
    asked = []

    def key(number: int) -> int:
        asked.append(number)
        if number in (10, 20):
            stream.pause()
        return number

    stream = read_stream(large, iter(range(30)), key=key, full=True, ring=ring)
    first = [block.item for block in await all_of(stream)]
    assert (first, asked[-1]) == (list(range(11)), 10)
    stream.resume()
    assert [block.item for block in await all_of(stream)] == list(range(11, 21))
    stream.resume()
    assert [block.item for block in await all_of(stream)] == list(range(21, 30))


async def test_an_async_source_has_ended_when_the_stream_is_closed(ring: aioring.Ring, large: Path) -> None:
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(10_000):
                yield number
        finally:
            ended.append(True)

    async with read_stream(large, source(), ring=ring) as stream:
        await anext(stream)
    assert ended == [True]

    async def closes_it() -> AsyncIterator[int]:
        yield 1
        await stream.aclose()
        yield 2

    stream = read_stream(large, closes_it(), ring=ring)
    with anyio.fail_after(SOON):
        await all_of(stream)


# --- starting over ----------------------------------------------------------------------------------------------------


async def test_a_reset_is_of_the_same_file_and_holds_or_leaves_all_as_it_was(
    ring: aioring.Ring, large: Path, other: Path
) -> None:
    async with read_stream(large, iter(range(50)), ring=ring) as stream:
        assert [(await anext(stream)).item for _ in range(5)] == list(range(5))
        with pytest.raises(TypeError):
            await stream.reset(5)
        assert (await anext(stream)).item == 5
        os.replace(other, large)
        await stream.reset([1, 2])
        assert [bytes(block) for block in await all_of(stream)] == [
            WHOLE[BLOCK : 2 * BLOCK],
            WHOLE[2 * BLOCK :][:BLOCK],
        ]


async def test_a_cancelled_reset_has_been_done(anyio_backend: Any, large: Path) -> None:
    method = Held(2, cancel="loses")
    method.held = False
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        stream = read_stream(large, iter(range(100)), ring=ring)
        for _ in range(5):
            await anext(stream)
        method.held = True
        async with anyio.create_task_group() as group:
            reset = begin(group, stream.reset, [50, 51])
            await ticks(4)
            reset.scope.cancel()
        method.let_go()
        assert [block.item for block in await all_of(stream)] == [50, 51]


async def test_what_was_handed_out_is_counted_however_it_ends(ring: aioring.Ring, large: Path) -> None:
    async with read_stream(large, full=True, ring=ring) as stream:
        for _ in range(10):
            await anext(stream)
    assert stream.stats.prefetch_count == 10
    assert stream.stats.distance_max >= 1


# --- memory, and the loop ---------------------------------------------------------------------------------------------


async def test_who_keeps_nothing_gets_no_copies(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring() as ring:
        stream = read_stream(large, [i % 120 for i in range(5000)], max_ios=4, ring=ring)
        async for _ in stream:
            ahead = stream._ahead
            assert ahead is not None
            assert not ahead.keeps_too_much()
            assert len(ahead.lent) < 100


def test_a_pool_keeps_no_more_than_it_may() -> None:
    pool = Pool(1 << 20)
    held = []
    for _ in range(20):
        memory = pool.take(1 << 18)
        held.append((memory, memory.view(10)))
    while held:
        memory, view = held.pop()
        pool.give(memory)
    assert pool._back_bytes <= 1 << 20
    del memory, view
    pool.sweep()
    assert pool._kept <= 1 << 20
    assert not pool._back
    taken = [pool.take(1 << 18) for _ in range(4)]
    assert pool.made == 20
    assert len({id(memory) for memory in taken}) == 4


async def test_ios_that_complete_at_once_leave_the_loop_its_turns(anyio_backend: Any, large: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with aioring.Ring(method="io_uring", page_cache_first=False) as ring, anyio.create_task_group() as group:
        group.start_soon(others)
        await ticks(2)
        before = turns
        async for _ in read_stream(large, [i % 120 for i in range(20_000)], ring=ring):
            pass
        assert turns - before > 20
        group.cancel_scope.cancel()


async def test_a_file_that_is_closed_is_never_another(ring: aioring.Ring, tmp_path: Path) -> None:
    """Its number is given to the next that is opened, in the middle of a cached scan."""
    (tmp_path / "a").write_bytes(b"a" * (4 << 20))
    (tmp_path / "b").write_bytes(b"b" * (4 << 20))
    for ours in (False, True):
        file: Any = await aioring.open(tmp_path / "a", "rb", ring=ring) if ours else open(tmp_path / "a", "rb")
        other: Any = None
        got = []
        with pytest.raises(ValueError, match="closed file"):
            async for block in read_stream(file, ring=ring):
                got.append(bytes(block)[:1])
                if len(got) == 20:
                    number = file.fileno()
                    await file.close() if ours else file.close()
                    other = open(tmp_path / "b", "rb")
                    assert other.fileno() == number
        other.close()
        assert set(got) == {b"a"}


@pytest.mark.parametrize("block_size", [1 << 20, 2 << 20])
async def test_large_cached_blocks_are_copied_one_by_one(anyio_backend: Any, tmp_path: Path, block_size: int) -> None:
    """Several would keep the loop for as many times as long."""
    path = tmp_path / "cached"
    path.write_bytes(bytes(8 << 20))
    async with aioring.Ring(method="io_uring") as ring:
        async with read_stream(path, block_size=block_size, combine_limit=block_size, ring=ring) as stream:
            assert len([len(block) async for block in stream]) == (8 << 20) // block_size
        assert stream.stats.hit_count == stream.stats.hit_nblocks


@pytest.mark.parametrize("what", ["look_ahead.py", "direct_io.py"])
def test_an_interrupt_as_somebody_is_told_that_it_is_there_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between the stores of a completion: it is dealt with once more."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    wake, struck = AsyncioLoop.wake, []

    def interrupted(self: AsyncioLoop, waiter: Any) -> None:
        caller = sys._getframe(1).f_code
        if not struck and caller.co_name == "_arrived" and caller.co_filename.endswith(what):
            struck.append(what)
            raise KeyboardInterrupt  # as a signal does that comes in its first line
        wake(self, waiter)

    async def main() -> int:
        async with aioring.Ring(method="io_uring") as ring:
            if what == "direct_io.py":
                async with aioring.open(path, "rb", direct=True, ring=ring) as file:
                    return len(await file.read())
            blocks = range(0, 250, 3)
            async with read_stream(path, blocks, block_size=4096, direct=True, full=True, ring=ring) as stream:
                return sum([len(block) async for block in stream])

    monkeypatch.setattr(AsyncioLoop, "wake", interrupted)
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.wait_for(main(), SOON))
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_forever()
    assert struck
    assert task.result() == (1 << 20 if what == "direct_io.py" else 84 * 4096)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
