"""4 KiB reads of cached pages: the ring, with and without the page-cache step, beside `os.pread` and aiofiles.

    python benchmarks/ring_read.py [--loop asyncio|uvloop] [--reads 20000] [--rounds 5]

Rows alternate within one process, medians of the rounds are printed, as rates and as ratios of `os.pread` in a plain
loop. Machines are shared and noisy: read the ratios. The benchmark against every peer, beside a busy thread and on cold
files, comes with the next issue.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aioring

BLOCK = 4096
SIZE = 16 << 20


async def drive(read: Callable[[int], Awaitable[Any]], offsets: list[int], tasks: int) -> None:
    todo = iter(offsets)

    async def one() -> None:
        for offset in todo:
            assert len(await read(offset)) == BLOCK

    await asyncio.gather(*[one() for _ in range(tasks)])


async def main(reads: int, rounds: int) -> None:
    rng = random.Random(1)
    offsets = [rng.randrange(SIZE // BLOCK) * BLOCK for _ in range(reads)]
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        fd = file.fileno()
        rates: dict[str, list[float]] = {}

        async def timed(label: str, work: Callable[[], Awaitable[None]], n: int = reads) -> None:
            start = time.perf_counter()
            await work()
            rates.setdefault(label, []).append(n / (time.perf_counter() - start))

        async def plain() -> None:
            for offset in offsets:
                os.pread(fd, BLOCK, offset)

        async with (
            aioring.Ring(method="auto") as cached,
            aioring.Ring(method="auto", page_cache_first=False) as alone,
            aioring.Ring(method="worker", page_cache_first=False) as worker,
        ):
            few = offsets[: reads // 5]
            for _ in range(rounds):
                await timed("os.pread in a plain loop", plain)
                for tasks in (1, 32):
                    label = f"{tasks} task{'s' if tasks > 1 else ''}"
                    await timed(
                        f"page cache first, {label}",
                        lambda t=tasks: drive(lambda o: cached.read(fd, o, BLOCK), offsets, t),
                    )
                    await timed(
                        f"{alone.method} alone, {label}",
                        lambda t=tasks: drive(lambda o: alone.read(fd, o, BLOCK), offsets, t),
                    )
                    await timed(
                        f"worker alone, {label}",
                        lambda t=tasks: drive(lambda o: worker.read(fd, o, BLOCK), few, t),
                        len(few),
                    )
                try:
                    import aiofiles
                except ImportError:
                    continue
                async with aiofiles.open(file.name, "rb") as f:

                    async def seek_and_read(f: Any = f) -> None:
                        for offset in few[:500]:
                            await f.seek(offset)
                            assert len(await f.read(BLOCK)) == BLOCK

                    await timed("aiofiles, 1 task", seek_and_read, min(len(few), 500))
    base = statistics.median(rates["os.pread in a plain loop"])
    for label, found in rates.items():
        rate = statistics.median(found)
        print(f"{label:36} {rate:10,.0f} /s   {rate / base:6.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.loop == "uvloop":
        import uvloop

        uvloop.run(main(args.reads, args.rounds))
    else:
        asyncio.run(main(args.reads, args.rounds))
