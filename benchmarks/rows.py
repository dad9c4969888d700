"""The rows of `ring_read.py`: what is read, by how many tasks, and what is looked at."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from measure import Lag, Read, Table, drive
from peers import AIOFILES, ALL, BLOCK, OURS, PLAIN, POOL, THREADS, Peer, works

import aioring

HOT = 64 << 20  # bytes that are kept in the page cache
LARGE = 256 << 20


async def measure(table: Table, setting: str, path: str, rounds: int, seconds: float, only: str) -> None:
    peers = []
    for peer in ALL:
        if only and only not in peer.name and peer is not PLAIN:
            continue
        why = await works(peer, path)
        if why is None:
            peers.append(peer)
        else:
            table.note(f"{peer.name}: {why}")
    for _ in range(rounds):
        for tasks in (1, 32, 128):
            for peer in peers:
                await cached(table, peer, path, tasks, seconds)
        for peer in peers:
            if peer is not PLAIN:
                await cold(table, peer, path, seconds)
        for tasks in (1, 32, 128):
            await direct(table, setting, path, tasks, seconds)
    for column in ("1 task", "32 tasks", "128 tasks"):
        table.base[column] = PLAIN.name
    if setting != "busy":
        await lag(table, path, seconds)
        await large(table, path, peers)
    if setting == "idle":
        await memory(table)


def _anywhere(size: int) -> list[int]:
    """Offsets of blocks, each once, in no order."""
    return random.sample(range(0, size, BLOCK), size // BLOCK)


def _warm(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    for offset in range(0, HOT, 1 << 20):
        os.pread(fd, 1 << 20, offset)
    os.close(fd)


async def cached(table: Table, peer: Peer, path: str, tasks: int, seconds: float) -> None:
    _warm(path)
    offsets = _anywhere(HOT)
    async with peer.open(path) as readers:
        each = readers(tasks)
        await drive(each, offsets, seconds / 10)
        await table.timed(peer.name, f"{tasks} task{'s' if tasks > 1 else ''}", drive(each, offsets, seconds))


async def cold(table: Table, peer: Peer, path: str, seconds: float) -> None:
    offsets = _anywhere(os.path.getsize(path))
    async with peer.open(path) as readers:
        each = readers(128)
        drop(path)
        await table.timed(peer.name, "cold, 128", drive(each, offsets, seconds))


def drop(path: str) -> None:
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.close(fd)


async def direct(table: Table, setting: str, path: str, tasks: int, seconds: float) -> None:
    """O_DIRECT into aligned buffers; nobody but us and plain threads can."""
    drop(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        table.note(f"O_DIRECT ({error})")
        return
    buffers = [aioring.alloc(BLOCK) for _ in range(tasks)]
    offsets = _anywhere(os.path.getsize(path))
    column = f"direct {tasks}"
    try:
        for method in ("io_uring", "linux_aio"):
            if method == "io_uring" and setting in ("refused", "overlay"):
                continue
            async with aioring.Ring(method=method) as ring:
                each = [lambda o, b=buffer, r=ring: r.readinto(fd, o, b) for buffer in buffers]
                await drive(each, offsets, seconds / 10)
                await table.timed(f"aioring, {method}, O_DIRECT", column, drive(each, offsets, seconds))
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(THREADS) as pool:
            threads = [lambda o, b=buffer: loop.run_in_executor(pool, os.preadv, fd, (b,), o) for buffer in buffers]
            await table.timed(f"{POOL.name}, O_DIRECT", column, drive(threads, offsets, seconds))
    finally:
        os.close(fd)


async def lag(table: Table, path: str, seconds: float) -> None:
    """A task that wants to run every millisecond, beside hits and beside cold reads."""
    ours = OURS[0]
    for tasks in (128, 1000):
        _warm(path)
        async with ours.open(path) as readers:
            await _late(table, f"hits of {tasks:,} tasks", readers(tasks), _anywhere(HOT), seconds * 10)
    for peer in (ours, AIOFILES):
        if await works(peer, path) is None:
            async with peer.open(path) as readers:
                each = readers(128)
                drop(path)
                offsets = _anywhere(os.path.getsize(path))
                await _late(table, f"128 cold reads, {peer.name}", each, offsets, seconds * 3)  # not all of the file


async def _late(table: Table, beside: str, each: list[Read], offsets: list[int], seconds: float) -> None:
    """For longer than a cell: of the last of each hundred there must be more than a few."""
    async with Lag() as late:
        await drive(each, offsets, seconds)
    table.line(f"lag beside {beside}: p99 {late.p99 * 1e3:.1f} ms, worst {late.worst * 1e3:.1f} ms")


async def large(table: Table, path: str, peers: list[Peer]) -> None:
    """One read of 256 MiB from the page cache: how long, and how late the loop."""
    fd = os.open(path, os.O_RDONLY)
    for offset in range(0, LARGE, 1 << 20):
        os.pread(fd, 1 << 20, offset)
    names = {peer.name for peer in peers}

    async def ring() -> bytes:
        async with aioring.Ring() as ring:
            return await ring.read(fd, 0, LARGE)

    async def turbofile() -> Any:
        import turbofile

        async with turbofile.open(path, "rb") as file:
            return await file.read_at(0, LARGE)

    async def urio() -> Any:
        from urio.backend import get_backend

        return await get_backend().read(fd, 0, LARGE)

    async def aiofiles() -> Any:
        import aiofiles

        async with aiofiles.open(path, "rb") as file:
            return await file.read(LARGE)

    async def pool() -> bytes:
        return await asyncio.to_thread(os.pread, fd, LARGE, 0)

    for name, read in (
        ("aioring", ring), ("turbofile", turbofile), ("urio", urio), ("aiofiles", aiofiles), (POOL.name, pool),
    ):  # fmt: skip
        if name not in names:
            continue
        times, worst = [], 0.0
        for _ in range(5):
            async with Lag() as late:
                start = time.perf_counter()
                data = await read()
                times.append(time.perf_counter() - start)
            worst = max(worst, late.worst)
            assert len(data) == LARGE
            del data  # giving 65,536 pages back takes 20 ms, on the loop's thread whoever read them
        times.sort()
        table.line(f"one cached read of 256 MiB, {name}: {times[2] * 1e3:.0f} ms, the loop {worst * 1e3:.1f} ms late")
    os.close(fd)


async def memory(table: Table) -> None:
    """Bytes of a read that waits, its task included, its buffer not."""
    gc.collect()
    n = 10_000
    fd = os.memfd_create("waiting")
    os.truncate(fd, BLOCK)
    buffers = [bytearray(16) for _ in range(n)]
    async with aioring.Ring(depth=1, page_cache_first=False) as ring:
        gate = asyncio.get_running_loop().create_future()

        async def wait(buffer: bytearray) -> None:
            await gate
            await ring.readinto(fd, 0, buffer)

        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(wait(buffer)) for buffer in buffers]
        await asyncio.sleep(0)
        gate.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        each = (tracemalloc.get_traced_memory()[0] - before) / n
        tracemalloc.stop()
        await asyncio.gather(*tasks)
    os.close(fd)
    table.line(f"memory of a read that waits, its task included: {each:,.0f} bytes")
