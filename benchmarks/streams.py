"""Read streams beside fio, cat, plain pread, threads and aiofiles; what writes (writing.py) beside fio, dd and cp.

    python benchmarks/streams.py [--rounds 7] [--size 2048] [--only cached] [--write]      # docs/benchmarks/streams.md
    python benchmarks/streams.py --page writing [--rounds 5] [--write]                     # docs/benchmarks/writing.md

Each reads the same file in a process of its own, in turns whose order changes; MB/s are taken inside, without its start.
Printed are medians, and ratios as medians of the rounds' own. "cold" has the page cache forget the file first
(posix_fadvise(2), after fsync(2)). Needs fio for its rows, and aiofiles (the extra `bench`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # aioring from this checkout

import writing  # noqa: E402

import aioring  # noqa: E402

BLOCK, PIECE, THREADS = 8192, 128 << 10, 32
PAGES = HERE.parent / "docs" / "benchmarks"
DIRECT, COLD, CACHED = "sequential, direct", "sequential, cold", "sequential, cached"
RUNS, RANDOM = "sorted runs of 16 blocks, a quarter of the file, direct", "random single blocks, direct"


def cold(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def runs(path: str) -> list[int]:
    """A quarter of its blocks, in runs of 16."""
    n = os.path.getsize(path) // BLOCK
    return [block for start in range(0, n - 16, 64) for block in range(start, start + 16)]


def singles(path: str) -> list[int]:
    n = os.path.getsize(path) // BLOCK
    return random.Random(1).sample(range(n), min(n, 20_000))


# --- the ways: each says how many bytes it read -----------------------------------------------------------------------


async def streamed(path: str, blocks: Iterable[int] | None = None, **options: Any) -> int:
    n = 0
    async with aioring.read_stream(path, blocks, **options) as stream:  # type: ignore[arg-type]
        async for block in stream:
            n += len(block.data)
    return n


async def in_batches(path: str, **options: Any) -> int:
    n = 0
    async with aioring.read_stream(path, **options) as stream:
        async for batch in stream.batches():
            for block in batch:
                n += len(block.data)
    return n


async def by_aiofiles(path: str, size: int, most: int = 1 << 40) -> int:
    import aiofiles

    n = 0
    async with aiofiles.open(path, "rb") as file:
        while n < most and (data := await file.read(size)):
            n += len(data)
    return n


async def sliced(path: str) -> int:
    """os.pread of 128 KiB in a plain loop, cut into blocks."""
    n, fd = 0, os.open(path, os.O_RDONLY)
    for at in range(0, os.path.getsize(path), PIECE):
        piece = memoryview(os.pread(fd, PIECE, at))
        for start in range(0, len(piece), BLOCK):
            n += len(piece[start : start + BLOCK])
    os.close(fd)
    return n


async def by_threads(path: str, blocks: list[int]) -> int:
    """A pool of 32 threads, each reading one block at a time into aligned memory of its own."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffers = [aioring.alloc(BLOCK) for _ in range(THREADS)]

    def read(block: int) -> int:
        buffer = buffers.pop()
        got = os.preadv(fd, [buffer], block * BLOCK)
        buffers.append(buffer)
        return got

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:
        left, n = iter(blocks), 0

        async def one() -> None:
            nonlocal n
            for block in left:
                got = await loop.run_in_executor(pool, read, block)
                n += got

        await asyncio.gather(*[one() for _ in range(THREADS)])
    os.close(fd)
    return n


async def by_cat(path: str) -> int:
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["cat", path], stdout=nowhere, check=True)
    return os.path.getsize(path)


async def by_fio(path: str, **options: Any) -> float:
    """MB/s, by its own clock."""
    command = ["fio", "--name=x", f"--filename={path}", "--direct=1", "--ioengine=io_uring", "--readonly"]
    command += [f"--{name}={value}" for name, value in options.items()]
    found = subprocess.run([*command, "--output-format=json"], capture_output=True, text=True, check=True).stdout
    return float(json.loads(found[found.index("{") :])["jobs"][0]["read"]["bw_bytes"]) / 1e6


Way = Callable[[str], Awaitable[float]]
ROWS: dict[str, tuple[dict[str, Way], dict[str, float]]] = {
    DIRECT: (
        {
            "fio, 1 MiB, depth 4": lambda path: by_fio(path, rw="read", bs="1M", iodepth=4),
            "aioring": lambda path: streamed(path, direct=True),
            "aioring, batches": lambda path: in_batches(path, direct=True),
            "aiofiles, 64 KiB, buffered": lambda path: by_aiofiles(path, 65_536, 512 << 20),
        },
        {
            "aioring / fio, 1 MiB, depth 4": 0.9,
            "aioring, batches / fio, 1 MiB, depth 4": 0.95,
            "aioring / aiofiles, 64 KiB, buffered": 3,
        },
    ),
    COLD: (
        {"cat": by_cat, "aioring": streamed, "aiofiles, 64 KiB": lambda path: by_aiofiles(path, 65_536, 512 << 20)},
        {"aioring / cat": 0.9, "aioring / aiofiles, 64 KiB": 2},
    ),
    CACHED: (
        {
            "os.pread, sliced": sliced,
            "aioring": streamed,
            "aioring, batches": in_batches,
            "aiofiles, 8 KiB": lambda path: by_aiofiles(path, BLOCK, 64 << 20),
        },
        {
            "aioring / os.pread, sliced": 0.55,
            "aioring, batches / os.pread, sliced": 0.75,
            "aioring / aiofiles, 8 KiB": 10,
        },
    ),
    RUNS: (
        {
            "aioring": lambda path: streamed(path, runs(path), direct=True),
            "aioring, not combined": lambda path: streamed(path, runs(path), direct=True, combine_limit=BLOCK),
            "32 threads": lambda path: by_threads(path, runs(path)),
        },
        {"aioring / aioring, not combined": 4, "aioring / 32 threads": 4},
    ),
    RANDOM: (
        {
            "fio, depth 64": lambda path: by_fio(path, rw="randread", bs="8k", iodepth=64, io_size=20_000 * BLOCK),
            "aioring, max_ios=64": lambda path: streamed(path, singles(path), direct=True, max_ios=64),
            "32 threads": lambda path: by_threads(path, singles(path)),
        },
        {"aioring, max_ios=64 / fio, depth 64": 0.7, "aioring, max_ios=64 / 32 threads": 3.5},
    ),
}


def child(row: str, way: str, path: str) -> None:
    """One turn: prints MB/s, or what its row says."""
    if row in writing.ROWS:
        writing.prepare(row, path)
        print(asyncio.run(writing.ROWS[row][0][way](path)))
        return
    if row == CACHED:
        Path(path).read_bytes()
    else:
        cold(path)
    start = time.perf_counter()
    found = asyncio.run(ROWS[row][0][way](path))  # type: ignore[arg-type]
    print(found if way.startswith("fio") else found / (time.perf_counter() - start) / 1e6)


def measure(row: str, rounds: int, path: str, late: dict[str, list[float]]) -> dict[str, list[float]]:
    """`late`: how late the loop was, where a way says so (ms, 99th percentile)."""
    ways = [way for way in ALL[row][0] if not way.startswith("fio") or shutil.which("fio")]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            command = [sys.executable, __file__, "--child", row, way, path]
            *lag, rate = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
            rates[way].append(float(rate))
            for line in lag:
                late.setdefault(way, []).append(float(line.removeprefix("lag ")))
    return rates


def report(row: str, rates: dict[str, list[float]], late: dict[str, list[float]]) -> list[str]:
    unit = "a second" if row == writing.APPENDS else "MB/s"
    head = f"| | {unit} | the loop was late, 99 %, ms |" if late else f"| | {unit} |"
    lines = [f"## {row[0].upper()}{row[1:]}", "", head, "| --- |" + " --- |" * (2 if late else 1)]
    for way, found in rates.items():
        lag = f" {statistics.median(late[way]):.1f} |" if way in late else ""
        lines.append(f"| {way} | {statistics.median(found):,.0f} |{lag}")
    if row == writing.APPENDS and writing.FIO in rates:
        rates = {**rates, "1 / (1/f + b c)": writing.model(rates)}
        lines.append(f"| 1 / (1/f + b c), appends | {statistics.median(rates['1 / (1/f + b c)']):,.0f} |")
    lines += ["", "| ratio | wanted | came to |", "| --- | --- | --- |"]
    for ratio, wanted in ALL[row][1].items():
        ours, theirs = ratio.split(" / ", 1)
        if ours in rates and theirs in rates:
            found = statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
            came = f"{found:.2f}" if found >= wanted else f"**{found:.2f}**"
            lines.append(f"| {ratio} | {wanted} | {came} |")
    return [*lines, ""]


ALL: dict[str, tuple[dict[str, Any], dict[str, float]]] = {**ROWS, **writing.ROWS}


def file_for(row: str, folder: str, size: int) -> str:
    """What is read, or copied; what is written is made by who writes it."""
    if row in writing.ROWS and row != writing.COPY:
        return os.path.join(folder, "written")
    megabytes = {CACHED: 256, writing.COPY: 1024}.get(row, size)
    path = os.path.join(folder, f"file-{megabytes}")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
    return path


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description="Streams beside fio, cat, dd, cp, threads and aiofiles.")
    parser.add_argument("--page", choices=("streams", "writing"), default="streams", help="what reads, or what writes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--size", type=int, default=2048, help="MiB of the file that is read past the page cache, and cold"
    )
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--write", action="store_true", help="write the page in docs/benchmarks")
    options = parser.parse_args()
    made = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs, asyncio"
    reading = options.page == "streams"
    lines = [
        "# Read streams" if reading else "# Writing", "",
        f"Written by `benchmarks/streams.py {'' if reading else '--page writing '}--write`: {made};",
        f"{options.rounds} rounds, alternating, medians" + (
            f"; 8 KiB blocks of a file of {options.size} MiB (cached: 256 MiB)." if reading else "."
        ) + " Bold: short of what was wanted.", "",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        for row in ROWS if reading else writing.ROWS:
            if options.only not in row:
                continue
            late: dict[str, list[float]] = {}
            rates = measure(row, options.rounds, file_for(row, folder, options.size), late)
            lines += report(row, rates, late)
            print("\n".join(lines), flush=True)
    if options.write:
        page = PAGES / f"{options.page}.md"
        page.write_text("\n".join(lines), encoding="utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
