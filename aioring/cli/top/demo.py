"""A program to be watched: some tasks read a file at random, with pauses, past the page cache where that can be had; one
appends to a log. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile

import aioring

_SIZE, _PIECE = 64 << 20, 64 << 10  # bytes


async def reader(fd: int, number: int) -> None:
    ring, chance, buffer = aioring.get_ring(), random.Random(number), aioring.alloc(_PIECE)
    while True:
        for _ in range(16):
            await ring.readinto(fd, chance.randrange(_SIZE // _PIECE) * _PIECE, buffer)
        await asyncio.sleep(chance.random() / 50)


async def writer(path: str) -> None:
    async with aioring.Log(path) as log:
        while True:
            await log.append(b"seen" * 64)
            await asyncio.sleep(0.01)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="aioring-demo-") as folder:
        data = os.path.join(folder, "data.bin")
        async with aioring.write_stream(data) as out:
            for _ in range(_SIZE >> 20):
                await out.write(bytes(1 << 20))
        ring = aioring.get_ring()
        try:
            fd = await ring.open(data, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
        except OSError:  # a tmpfs has none
            fd = await ring.open(data, os.O_RDONLY)
        tasks = [asyncio.create_task(reader(fd, n), name=f"reader {n}") for n in range(8)]
        tasks.append(asyncio.create_task(writer(os.path.join(folder, "demo.log")), name="writer"))
        print("begun", flush=True)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), over.set)
        await over.wait()
        loop.remove_reader(sys.stdin.fileno())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ring.close(fd)


if __name__ == "__main__":
    asyncio.run(main())
