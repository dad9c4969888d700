"""Reads from many places under one handle, and the streams of random blocks that are read so."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring import BlockBeyondEndError, read_stream
from aioring.handle import Handle
from aioring.kernel.liburing import find_route
from aioring.kernel.rings import WORD
from aioring.methods.io_uring import IoUring
from aioring.methods.scattered import MOST
from aioring.operations import READ_SCATTERED
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import all_over, begin, ticks

BLOCKS = 500
SIZE = 4096
WHOLE = pattern(BLOCKS * SIZE)


class Scattering(Scripted):
    scatters = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "blocks"
    path.write_bytes(WHOLE)
    return path


@pytest.fixture
def direct(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    yield fd
    os.close(fd)


def asks_for(fd: int, blocks: list[int]) -> Handle:
    handle = Handle(READ_SCATTERED, fd, blocks[0] * SIZE, len(blocks) * SIZE)
    handle.view = aioring.alloc(len(blocks) * SIZE)
    handle.offsets, handle.together = [block * SIZE for block in blocks], len(blocks)
    return handle


def block(i: int) -> bytes:
    return WHOLE[i * SIZE : (i + 1) * SIZE]


def scattered(ring: aioring.Ring) -> int:
    """How many handles of the kind there have been."""
    count = ring.stats().operations.get("read_scattered")
    return 0 if count is None else count.count


def lone(n: int, seed: int) -> list[int]:
    """Blocks at random, none twice, neighbours perhaps."""
    return random.Random(seed).sample(range(BLOCKS), n)


# --- one handle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 4, 64, 256])
async def test_all_of_them_come_each_to_its_place(anyio_backend: Any, direct: int, depth: int) -> None:
    async with aioring.Ring(method="io_uring", depth=depth) as ring:
        engine = ring._engine
        most = min(MOST, ring._engine.method._queues.sq_entries)  # type: ignore[attr-defined]

        async def one(seed: int) -> None:
            blocks = lone(1 + seed % most, seed)
            handle = asks_for(direct, blocks)
            assert await engine.do(handle) == len(blocks) * SIZE
            assert bytes(handle.view or b"") == b"".join(map(block, blocks))

        async with anyio.create_task_group() as group:
            for seed in range(100):
                group.start_soon(one, seed)
                group.start_soon(ring.read, direct, 0, SIZE)  # others' completions come in between
        assert not engine.live
        assert not engine.method._scattered.under_way  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["worker", "sync", "linux_aio", "scripted"])
async def test_every_method_carries_it_out(anyio_backend: Any, direct: int, method: str) -> None:
    async with aioring.Ring(method=Scripted(1) if method == "scripted" else method) as ring:
        handle = asks_for(direct, [5, 3, 400])
        assert await ring._engine.do(handle) == 3 * SIZE
        assert bytes(handle.view or b"") == block(5) + block(3) + block(400)


@pytest.mark.parametrize("method", ["io_uring", "worker"])
async def test_one_that_is_not_whole_fails_all(anyio_backend: Any, direct: int, method: str) -> None:
    async with aioring.Ring(method=method) as ring:
        with pytest.raises(OSError, match="No data") as raised:
            await ring._engine.do(asks_for(direct, [1, BLOCKS, 2]))
        assert raised.value.errno == errno.ENODATA
        handle = asks_for(direct, [3, 5, 2])
        handle.offsets = [3 * SIZE, 5 * SIZE + 1, 2 * SIZE]
        with pytest.raises(OSError, match="Invalid") as raised:
            await ring._engine.do(handle)
        assert raised.value.errno == errno.EINVAL
        with pytest.raises((OSError, struct.error)):
            await ring._engine.do(asks_for(direct, [3, -1, 2]))
        assert not ring._engine.live


async def test_cancelled_at_any_moment_its_memory_is_kept_until_all_have_come(anyio_backend: Any, direct: int) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        engine = ring._engine
        for seed in range(200):
            handle = asks_for(direct, lone(16, seed))
            async with anyio.create_task_group() as group:
                asked = begin(group, engine.do, handle)
                await ticks(seed % 5)
                asked.scope.cancel()
                await all_over(asked)
            assert handle.finished()  # a cancel is delivered when the kernel is done
            if asked.value is not None:
                assert bytes(handle.view or b"") == b"".join(map(block, lone(16, seed)))
        assert not engine.live
        assert not engine.method._scattered.under_way  # type: ignore[attr-defined]


@pytest.mark.parametrize("taken", [0, 1, 7])
async def test_what_the_kernel_does_not_take_is_taken_back(anyio_backend: Any, direct: int, taken: int) -> None:
    """It takes a part of them, and then refuses to be entered, once."""
    async with aioring.Ring(method=IoUring(find_route("none"))) as ring:  # liburing submits all or nothing
        engine = ring._engine
        method: Any = engine.method
        queues, state = method._queues, []
        submit = queues.mapped.submit

        def partly() -> int:
            staged = queues.staged()
            if len(state) == 2 or not method._scattered.under_way:
                return int(submit(staged))
            upto = (min(method._scattered.under_way) - queues.sq_head[0] + taken) & WORD
            state.append(upto)
            return int(submit(upto)) if upto and len(state) == 1 else -errno.EBADR

        queues.submit = partly
        with pytest.raises(OSError, match="request descriptor") as raised:
            await engine.do(asks_for(direct, lone(10, 1)))
        assert raised.value.errno == errno.EBADR
        state[:] = [0, 0]
        handle = asks_for(direct, lone(10, 2))
        assert await engine.do(handle) == 10 * SIZE
        assert bytes(handle.view or b"") == b"".join(map(block, lone(10, 2)))
        assert not engine.live
        assert not method._scattered.under_way


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["io_uring", "scripted"])
def ring_of(request: pytest.FixtureRequest) -> Callable[..., aioring.Ring]:
    def make(seed: int = 1, **options: Any) -> aioring.Ring:
        return aioring.Ring(method=Scattering(seed, **options) if request.param == "scripted" else "io_uring")

    return make


async def test_random_blocks_are_read_so_and_counted_one_by_one(
    anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    asked = [number for number in lone(400, 1) if number % 2]  # no neighbours
    async with ring_of() as ring:
        async with read_stream(path, asked, block_size=SIZE, max_ios=64, direct=True, full=True, ring=ring) as stream:
            deepest = 0
            got = []
            async for one in stream:
                got.append((one.item, one.offset, bytes(one)))
                assert stream._ahead is not None
                deepest = max(deepest, stream._ahead._ios)
        assert got == [(number, number * SIZE, block(number)) for number in asked]
        assert stream.stats.io_count == stream.stats.io_nblocks == len(asked)
        assert deepest <= 64
        assert ring.stats().submissions < len(asked) / 3
        assert scattered(ring) > len(asked) / 20


async def test_neighbours_are_combined_as_ever(
    anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    starts = sorted(random.Random(3).sample(range(0, BLOCKS, 20), 20))
    asked = [start + i for start in starts for i in range(16)]
    async with ring_of() as ring:
        options: dict[str, Any] = {"combine_limit": 16 * SIZE, "direct": True, "full": True}
        async with read_stream(path, asked, block_size=SIZE, ring=ring, **options) as stream:
            assert [bytes(one) async for one in stream] == list(map(block, asked))
        assert stream.stats.io_count == 20
        assert scattered(ring) == 0


async def test_who_pauses_from_its_key_is_asked_for_no_more(
    anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    asked: list[int] = []

    def key(number: int) -> int:
        asked.append(number)
        if number == 80:
            stream.pause()
        return number

    async with ring_of() as ring:
        options: dict[str, Any] = {"block_size": SIZE, "max_ios": 64, "direct": True, "full": True}
        stream = read_stream(path, range(0, 200, 2), key=key, ring=ring, **options)
        got = [one.item async for one in stream]
        assert asked[-1] <= 82
        stream.resume()
        got += [one.item async for one in stream]
        assert got == list(range(0, 200, 2))
        await stream.aclose()


@given(
    asked=st.lists(
        st.one_of(
            st.integers(0, BLOCKS + 5),
            st.integers(0, 12),
            st.tuples(st.integers(0, BLOCKS * SIZE + 100), st.integers(1, 3 * SIZE)),
            st.tuples(st.integers(0, BLOCKS).map(lambda i: i * 512), st.just(SIZE)),
        ),
        max_size=60,
    ),
    max_ios=st.sampled_from([8, 16, 64]),
    seed=st.integers(0, 1000),
    key=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_sequence_gives_what_pread_gives(
    anyio_backend: Any,
    path: Path,
    ring_of: Callable[..., aioring.Ring],
    asked: list[Any],
    max_ios: int,
    seed: int,
    key: bool,
) -> None:
    options: dict[str, Any] = {"max_ios": max_ios, "errors": "yield", "direct": True, "full": True, "block_size": SIZE}
    if key:
        options["key"] = lambda item: item
    async with ring_of(seed) as ring:
        got = [(one.item, one.offset, bytes(one)) async for one in read_stream(path, asked, ring=ring, **options)]
        assert not ring._engine.live
    wanted = [(item, *(item if isinstance(item, tuple) else (item * SIZE, SIZE))) for item in asked]
    assert got == [(item, offset, WHOLE[offset : offset + n]) for item, offset, n in wanted]


async def test_a_bad_one_is_found_and_the_others_are_delivered(anyio_backend: Any, path: Path) -> None:
    asked = list(range(0, 400, 2))
    for faults, bad in (
        ({("read_scattered", 2): errno.EIO}, 0),
        ({("read_scattered", 2): errno.EIO, ("readinto", 5): errno.EIO}, 1),
    ):
        async with aioring.Ring(method=Scattering(1, soft=0, faults=faults)) as ring:
            options: dict[str, Any] = {"max_ios": 64, "errors": "yield", "direct": True, "full": True}
            got = [one async for one in read_stream(path, asked, block_size=SIZE, ring=ring, **options)]
            assert [one.item for one in got] == asked
            failed = [one for one in got if one.error is not None]
            assert len(failed) == bad
            assert all(getattr(one.error, "errno", None) == errno.EIO for one in failed)
            assert all(bytes(one) == block(one.item) for one in got if one.error is None)


async def test_a_file_that_is_cut_meanwhile_ends_where_it_ends(
    anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    asked = [number for number in lone(300, 5) if number % 2]
    async with ring_of() as ring:
        options: dict[str, Any] = {"max_ios": 64, "direct": True, "full": True, "errors": "yield"}
        async with read_stream(path, asked, block_size=SIZE, ring=ring, **options) as stream:
            n = 0
            async for one in stream:
                n += 1
                if n == 30:
                    os.truncate(path, 100 * SIZE + 1000)
                if one.error is None:
                    assert bytes(one) == block(one.item)[: len(one)]
                else:
                    assert n > 30
                    assert isinstance(one.error, BlockBeyondEndError)
                    assert one.item > 100
        assert n == len(asked)


@pytest.mark.parametrize("batches", [False, True])
async def test_who_stops_early_leaves_nothing(
    anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring], batches: bool
) -> None:
    asked = [number for number in lone(300, 6) if number % 2]
    async with ring_of() as ring:
        for stop in range(1, 120, 7):
            options: dict[str, Any] = {"max_ios": 32, "direct": True, "full": True}
            kept = []
            async with read_stream(path, asked, block_size=SIZE, ring=ring, **options) as stream:
                async for one in stream.batches() if batches else stream:
                    kept += one if isinstance(one, list) else [one]
                    if len(kept) >= stop:
                        break
            assert [bytes(one) for one in kept] == [block(one.item) for one in kept]
            del kept, one
        assert not ring._engine.live
        assert ring._memory is not None
        ring._memory.sweep()
        assert not ring._memory._back  # nobody holds any of it


async def test_what_is_kept_stays_true(anyio_backend: Any, path: Path, ring_of: Callable[..., aioring.Ring]) -> None:
    asked = [number for number in lone(400, 7) if number % 2]
    async with ring_of() as ring:
        options: dict[str, Any] = {"max_ios": 16, "direct": True, "full": True, "max_bytes": 64 * SIZE}
        kept = [one async for one in read_stream(path, asked, block_size=SIZE, ring=ring, **options)]
        again = [one async for one in read_stream(path, asked, block_size=SIZE, ring=ring, **options)]
        assert [bytes(one) for one in kept] == [bytes(one) for one in again] == list(map(block, asked))
