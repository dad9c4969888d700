"""A program to be watched: some tasks read a file at random, with pauses, past the page cache where that can be had; one
appends to a log. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from contextlib import suppress

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
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), over.set)
    with tempfile.TemporaryDirectory(prefix="aioring-demo-") as folder:
        work = asyncio.create_task(_work(folder))
        await asyncio.wait([work, asyncio.create_task(over.wait())], return_when=asyncio.FIRST_COMPLETED)
        loop.remove_reader(sys.stdin.fileno())
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def _work(folder: str) -> None:
    ring, data = aioring.get_ring(), os.path.join(folder, "data.bin")
    async with aioring.write_stream(data) as out:
        for _ in range(_SIZE >> 20):
            await out.write(bytes(1 << 20))
    try:
        fd = await ring.open(data, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError:  # the file system has none
        fd = await ring.open(data, os.O_RDONLY)
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(reader(fd, number), name=f"reader {number}")
            tasks.create_task(writer(os.path.join(folder, "demo.log")), name="writer")
            print("begun", flush=True)
    finally:
        await ring.close(fd)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    try:
        asyncio.run(main())
    except* (OSError, ValueError, aioring.AioringError) as errors:
        sys.exit(f"{errors.exceptions[0]}")
