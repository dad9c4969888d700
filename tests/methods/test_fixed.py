"""Registered buffers: what is read into them is right, and what cannot be registered is read all the same."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring import read_stream
from aioring.kernel import abi
from aioring.methods.io_uring import IoUring
from tests.conftest import pattern

MIB = 1 << 20
WHOLE = pattern(9 * MIB + 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(WHOLE)
    return path


def fixed(ring: aioring.Ring) -> int:
    count = ring.stats().operations.get("read_fixed")
    return 0 if count is None else count.count


async def scan(ring: aioring.Ring, path: Path, keep: bool = False) -> list[Any]:
    kept = []
    at = 0
    async with read_stream(path, block_size=MIB, max_ios=4, combine_limit=MIB, direct=True, ring=ring) as stream:
        async for block in stream:
            assert bytes(block) == WHOLE[at : at + len(block)]
            at += len(block)
            if keep:
                kept.append(block)
    assert at == len(WHOLE)
    return kept


async def test_large_direct_reads_land_in_them(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        await scan(ring, path)
        assert fixed(ring) == 10
        async with aioring.open(path, "rb", direct=True, ring=ring) as file:
            assert await file.read() == WHOLE
        assert fixed(ring) >= 19
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(scan, ring, path)


async def test_small_ones_do_not(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        async with read_stream(path, direct=True, ring=ring) as stream:
            assert b"".join([bytes(block) async for block in stream]) == WHOLE
        assert fixed(ring) == 0


async def test_memory_that_is_kept_stays_true_and_its_slot_is_free_again(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        table: Any = ring._engine.method.fixed  # type: ignore[attr-defined]
        kept = []
        for _ in range(8):  # more than the pool keeps
            kept += await scan(ring, path, keep=True)
        assert b"".join(map(bytes, kept[:10])) == WHOLE
        assert b"".join(map(bytes, kept[-10:])) == WHOLE
        assert ring._memory is not None
        ring._memory.sweep()
        del kept
        gc.collect()
        await scan(ring, path)
        ring._memory.sweep()
        memories = [memory for line in ring._memory._free.values() for memory in line]
        used = [memory.slot for memory in memories if memory.slot is not None and memory.slot >= 0]
        assert len(used) == len(set(used))
        assert not set(used) & set(table._free)


async def test_streams_that_end_early_give_their_slots_back(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        table: Any = ring._engine.method.fixed  # type: ignore[attr-defined]
        options: dict[str, Any] = {"block_size": MIB, "max_ios": 2, "direct": True}
        for i in range(70):
            stream = read_stream(path, ring=ring, **options)
            async for block in stream:
                assert bytes(block) == WHOLE[:MIB]
                break
            if i % 3 == 0:
                await stream.aclose()
            elif i % 3 == 1:
                await stream.reset()
                await stream.aclose()
            del stream, block
            if i % 3 == 2:
                gc.collect()
        while ring._engine.live:  # those that were dropped
            await anyio.sleep(0.001)
        assert ring._memory is not None
        ring._memory.sweep()
        kept = [memory for line in ring._memory._free.values() for memory in line]
        assert len(table._free) + sum(memory.slot is not None and memory.slot >= 0 for memory in kept) == 64
        assert fixed(ring) > 70


async def test_what_is_too_large_keeps_nothing_else_from_being_registered(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        async with read_stream(path, block_size=8 * MIB, direct=True, ring=ring) as stream:
            assert b"".join([bytes(block) async for block in stream]) == WHOLE
        assert fixed(ring) == 0
        await scan(ring, path)
        assert fixed(ring) == 10


@pytest.mark.parametrize("which", [abi.REGISTER_BUFFERS2, abi.REGISTER_BUFFERS_UPDATE])
async def test_where_it_is_refused_memory_is_used_as_it_is(anyio_backend: Any, path: Path, which: int) -> None:
    """As where RLIMIT_MEMLOCK is reached."""
    async with aioring.Ring(method="io_uring") as ring:
        method: Any = ring._engine.method
        register, asked = method._queues.mapped.register, []

        def refuse(opcode: int, argument: Any, n: int) -> int:
            asked.append(opcode)
            return -errno.ENOMEM if opcode == which else int(register(opcode, argument, n))

        method._queues.mapped.register = refuse
        await scan(ring, path)
        assert fixed(ring) == 0
        assert asked.count(which) == 1  # nothing is tried again


async def test_where_a_sandbox_refuses_it_they_are_plain_reads(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method=IoUring(refuse=frozenset({abi.OP_READ_FIXED}))) as ring:
        await scan(ring, path)
        assert fixed(ring) == 0


async def test_a_ring_that_is_closed_leaves_the_number_of_its_fd_alone(anyio_backend: Any, path: Path) -> None:
    async with aioring.Ring(method="io_uring") as ring:
        kept = await scan(ring, path, keep=True)
        pool, method = ring._memory, ring._engine.method
    assert pool is not None
    method._queues.mapped.register = None  # type: ignore[attr-defined]
    del kept
    pool._most = 0
    pool.sweep()
    assert not pool._kept or pool._free
