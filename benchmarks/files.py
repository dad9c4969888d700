"""Whole files, lines and small writes: aioring.open beside the built-in and aiofiles, turn by turn.

    python benchmarks/files.py [--rounds 5] [--seconds 0.3] [--loop asyncio|uvloop] [--write]

Each row does the same work on the same files, one after the other in an order that changes, `rounds` times; printed are
medians of operations a second, and in brackets the ratio to aiofiles. The last rows run beside one thread that runs Python,
in a process of their own. aiofiles is installed by `.[bench]`; the built-in stands for itself, on the loop's thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from measure import be_busy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import aioring  # noqa: E402 - from this checkout

try:
    import aiofiles
except ImportError:
    aiofiles = None  # type: ignore[assignment]

FILES, LINES = 64, 20_000
Work = Callable[[Path, float], Awaitable[float]]
OPENS: dict[str, Any] = {"built-in": None, "aiofiles": aiofiles.open if aiofiles else None, "aioring": aioring.open}


async def whole(name: str, folder: Path, seconds: float, tasks: int) -> float:
    """`open`, `read`, `close` of cached 4 KiB files."""
    paths = [str(folder / f"{i}") for i in range(FILES)]
    open_it, end, done = OPENS[name], time.perf_counter() + seconds, 0

    async def one(first: int) -> None:
        nonlocal done
        i = first
        while time.perf_counter() < end:
            if name == "built-in":
                with open(paths[i % FILES], "rb") as plain:
                    plain.read()
            else:
                async with open_it(paths[i % FILES], "rb") as file:
                    await file.read()
            i, done = i + 1, done + 1

    start = time.perf_counter()
    await asyncio.gather(*[one(i) for i in range(tasks)])
    return done / (time.perf_counter() - start)


async def lines(name: str, folder: Path, seconds: float) -> float:
    """`async for line in file`, text, utf-8."""
    path, start, done = folder / "lines", time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        if name == "built-in":
            with open(path, encoding="utf-8") as plain:
                for _ in plain:
                    done += 1
        else:
            async with OPENS[name](path, encoding="utf-8") as file:
                async for _ in file:
                    done += 1
                    if not done % 64 and time.perf_counter() - start > seconds:
                        break
    return done / (time.perf_counter() - start)


async def writes(name: str, folder: Path, seconds: float) -> float:
    """1,000 x 64 bytes to one file, its opening and closing included."""
    path, part, start, done = folder / "written", b"x" * 64, time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        if name == "built-in":
            with open(path, "wb") as plain:
                for _ in range(1000):
                    plain.write(part)
        else:
            async with OPENS[name](path, "wb") as file:
                for _ in range(1000):
                    await file.write(part)
        done += 1000
    return done / (time.perf_counter() - start)


ROWS: dict[str, Callable[[str, Path, float], Awaitable[float]]] = {
    "open, read, close of 4 KiB, 1 task": lambda name, folder, seconds: whole(name, folder, seconds, 1),
    "open, read, close of 4 KiB, 64 tasks": lambda name, folder, seconds: whole(name, folder, seconds, 64),
    "lines of text": lines,
    "writes of 64 bytes": writes,
}


async def measure(folder: Path, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {row: {} for row in ROWS}
    names = [name for name, open_it in OPENS.items() if open_it is not None or name == "built-in"]
    for number in range(rounds + 1):
        for row, work in ROWS.items():
            for name in random.sample(names, len(names)):
                rate = await work(name, folder, seconds)
                if number:  # the first warms up
                    found[row].setdefault(name, []).append(rate)
    return found


def run(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    with tempfile.TemporaryDirectory(prefix="aioring-files-", dir="/var/tmp") as name:
        folder = Path(name)
        for i in range(FILES):
            (folder / f"{i}").write_bytes(os.urandom(4096))
        (folder / "lines").write_text("".join(f"this is line number {i} of them\n" for i in range(LINES)), "utf-8")
        if args.busy:
            be_busy()
        work = measure(folder, args.rounds, args.seconds)
        if args.loop == "uvloop":
            import uvloop

            return uvloop.run(work)
        return asyncio.run(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)  # one process's part, as JSON
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/files.md")
    args = parser.parse_args()
    if args.busy:
        json.dump(run(args), sys.stdout)
        return
    found = run(args)
    command = [sys.executable, __file__, "--busy", "--loop", args.loop, "--rounds", str(args.rounds)]
    command += ["--seconds", str(max(args.seconds, 1.0))]
    busy = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found |= {f"{row}, beside a busy thread": rates for row, rates in busy.items()}
    text = [f"| operations a second, {args.loop} | " + " | ".join(OPENS) + " |", "| --- |" + " ---: |" * len(OPENS)]
    for row, rates in found.items():
        base = statistics.median(rates["aiofiles"]) if "aiofiles" in rates else 0.0
        cells = []
        for name in OPENS:
            rate = statistics.median(rates[name]) if name in rates else 0.0
            cells.append(f"{rate:,.0f} ({rate / base:.1f})" if base else f"{rate:,.0f}")
        text.append(f"| {row} | " + " | ".join(cells) + " |")
    text.append(
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {aioring.__version__}, {args.rounds} rounds."
    )
    print("\n".join(text))
    if args.write:
        head = (
            "# Files\n\nMade by `python benchmarks/files.py --write`: medians, and in brackets the ratio to aiofiles. The "
            "built-in runs on the loop's thread, and blocks it.\n\n"
        )
        target = HERE.parent / "docs" / "benchmarks" / "files.md"
        target.write_text(head + "\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
