"""What counting costs: the library as it is, beside a copy of it without the lines that end in `# count`.

    python benchmarks/counting.py [--processes 8] [--turns 40] [--milliseconds 20] [--loop asyncio] [--write]

Both are imported into one process, and take turns of 20 ms, in an order that changes: what else the machine does in the
meantime hits both. Where their objects happen to lie makes one of them up to 2 % faster for as long as the process lives,
so several processes measure, and every other one imports the copy first. Printed are the median of the ratios of two turns
that stand beside each other, and in brackets its quartiles: 0.99 means that 99 reads are made in the time of 100. Beside
it: what `track_timing` and `slow_io` add.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
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
from pathlib import Path
from typing import Any

from measure import drive

HERE = Path(__file__).resolve().parent
MARK = "# count"
WITHOUT = "aioring_without_counting"
BLOCK = 4096
SIZE = 16 << 20
WORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "hits of the page cache, 1 task": (1, {}),
    "hits of the page cache, 32 tasks": (32, {}),
    "ring alone, 1 task": (1, {"page_cache_first": False}),
    "ring alone, 32 tasks": (32, {"page_cache_first": False}),
    "ring alone, 128 tasks": (128, {"page_cache_first": False}),
}
VARIANTS = ("as it is", "track_timing", "slow_io(1.0)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--turns", type=int, default=40, help="in each process")
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/counting.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one process's part: where the copy lies
    parser.add_argument("--copy-first", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        one(args)
        return
    found: dict[str, dict[str, list[float]]] = {name: {variant: [] for variant in VARIANTS} for name in WORKS}
    with tempfile.TemporaryDirectory(prefix="aioring-counting-") as folder:
        removed = copy_without(Path(folder))
        for number in range(args.processes):
            print(f"process {number + 1} of {args.processes}", file=sys.stderr)
            command = [sys.executable, __file__, "--one", folder, "--loop", args.loop, "--turns", str(args.turns)]
            command += ["--milliseconds", str(args.milliseconds), *["--copy-first"] * (number % 2)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            for name in WORKS:
                for variant in VARIANTS:
                    found[name][variant] += told[name][variant]
    text = [f"| reads in the time of one that is not counted, {args.loop} | " + " | ".join(VARIANTS) + " |"]
    text.append("| --- |" + " ---: |" * len(VARIANTS))
    for name, ratios in found.items():
        cells = []
        for variant in VARIANTS:
            low, middle, high = statistics.quantiles(ratios[variant], n=4)
            cells.append(f"{middle:.3f} ({low:.2f} to {high:.2f})")
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    text.append(
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, "
        f"{args.processes} processes, {args.turns} turns in each; {removed} lines count."
    )
    print("\n".join(text))
    if args.write:
        target = HERE.parent / "docs" / "benchmarks" / "counting.md"
        head = (
            "# What counting costs\n\nMade by `python benchmarks/counting.py --write`: the library beside a copy of it "
            "without the lines that count, turn by turn in one process after the other; medians and quartiles.\n\n"
        )
        target.write_text(head + "\n".join(text) + "\n", encoding="utf-8")


def one(args: argparse.Namespace) -> None:
    """What one process measures, as JSON on standard output."""
    sys.path[:0] = [str(HERE.parent), args.one]
    for name in ("aioring", WITHOUT)[:: -1 if args.copy_first else 1]:
        importlib.import_module(name)
    work = measure(args.turns, args.milliseconds / 1000)
    if args.loop == "uvloop":
        import uvloop

        found = uvloop.run(work)
    else:
        found = asyncio.run(work)
    json.dump(found, sys.stdout)


def copy_without(folder: Path) -> int:
    """The package under another name, without the lines that count: how many there were."""
    shutil.copytree(HERE.parent / "aioring", folder / WITHOUT, ignore=shutil.ignore_patterns("__pycache__"))
    removed = 0
    for path in folder.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.rstrip().endswith(MARK)]
        removed += len(lines) - len(kept)
        path.write_text("".join(kept), encoding="utf-8")
    if not removed:
        raise SystemExit(f"no line ends in {MARK!r}: there is nothing to compare")
    return removed


async def measure(turns: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """By work and variant: the ratios of its turns to those of the copy that stand beside them."""
    aioring, without = importlib.import_module("aioring"), importlib.import_module(WITHOUT)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        fd, offsets = file.fileno(), random.sample(range(0, SIZE, BLOCK), SIZE // BLOCK)
        for name, (tasks, options) in WORKS.items():
            async with (
                without.Ring(**options) as plain,
                aioring.Ring(**options) as counting,
                aioring.Ring(**options, track_timing=True) as timing,
            ):
                rings = dict(zip(VARIANTS, (counting, timing, counting), strict=True))

                async def turn(ring: Any, slow: bool = False, tasks: int = tasks) -> float:
                    reads = [lambda offset: ring.read(fd, offset, BLOCK)] * tasks
                    watcher = aioring.slow_io(1.0) if slow else None
                    start = time.perf_counter()
                    n = await drive(reads, offsets, seconds)
                    rate = n / (time.perf_counter() - start)
                    if watcher is not None:
                        watcher.close()
                    return rate

                ratios = found[name] = {variant: [] for variant in VARIANTS}
                for number in range(turns + 2):
                    for variant in random.sample(VARIANTS, len(VARIANTS)):
                        slow = variant.startswith("slow_io")
                        if random.random() < 0.5:
                            base = await turn(plain)
                            rate = await turn(rings[variant], slow)
                        else:
                            rate = await turn(rings[variant], slow)
                            base = await turn(plain)
                        if number >= 2:  # the first warm up
                            ratios[variant].append(rate / base)
    return found


if __name__ == "__main__":
    main()
