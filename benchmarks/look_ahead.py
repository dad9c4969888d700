"""Look-ahead that can be watched: how far a read stream runs ahead, and how many I/Os are in flight, block by block.

    python benchmarks/look_ahead.py [--file FILE] [--write]      # docs/benchmarks/look_ahead.png

Scans of one file, by 8 KiB blocks: cold, cached and mixed (every other MiB is cached) through the page cache, where the
kernel reads ahead by itself; cold in random order, where it cannot; direct; direct under a slow consumer. Needs
matplotlib (the extra `bench`). To drop a file from the page cache takes no rights, only that nothing of it is dirty.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]  # aioring from this checkout

import aioring  # noqa: E402

BLOCK, MIB = 8192, 1 << 20
PICTURE = HERE.parent / "docs" / "benchmarks" / "look_ahead.png"


class Scan:
    """One: what was seen as each block was handed out."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.at: list[float] = []  # ms
        self.ahead: list[int] = []  # blocks
        self.in_flight: list[int] = []  # I/Os
        self.said = ""


def forget(path: str, every: int = 0) -> None:
    """Have the page cache forget a file; but `every` other so many bytes."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    size = os.fstat(fd).st_size
    if every:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # nothing beyond what is asked for
        for at in range(0, size, 2 * every):
            os.pread(fd, every, at)
    os.close(fd)


async def scan(ring: aioring.Ring, path: str, title: str, pause: float = 0.0, **options: Any) -> Scan:
    seen, start = Scan(title), time.perf_counter()
    async with aioring.read_stream(path, ring=ring, **options) as stream:
        async for _ in stream:
            look_ahead = stream._ahead
            assert look_ahead is not None
            seen.at.append((time.perf_counter() - start) * 1000)
            seen.ahead.append(look_ahead.distance.ahead)
            seen.in_flight.append(sum(not piece.finished() for piece in look_ahead.line))
            if pause:
                await asyncio.sleep(pause)
    seen.said = str(stream.stats)
    return seen


async def all_scans(path: str) -> list[Scan]:
    scans: list[Scan] = []
    shuffled = list(range(os.path.getsize(path) // BLOCK))
    random.Random(1).shuffle(shuffled)
    async with aioring.Ring() as ring:
        rows: tuple[tuple[str, int, dict[str, Any]], ...] = (
            ("cold", 0, {}),
            ("cached", -1, {}),
            ("mixed: every other MiB is cached", MIB, {}),
            ("cold, in random order", 0, {"blocks": shuffled}),
            ("direct", 0, {"direct": "try"}),
            ("direct, 1 ms of work a block", 0, {"direct": "try", "pause": 0.001, "blocks": range(1000)}),
        )
        for title, every, options in rows:
            if every < 0:
                Path(path).read_bytes()
            else:
                forget(path, every)
            scans.append(await scan(ring, path, title, **options))
    return scans


def draw(scans: list[Scan]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, rows = plt.subplots(len(scans), 1, figsize=(8, 2.2 * len(scans)), layout="constrained")
    for axes, seen in zip(rows, scans, strict=True):
        axes.step(seen.at, seen.ahead, where="post", color="#1f77b4", label="distance (blocks)")
        axes.set_ylabel("blocks ahead", color="#1f77b4")
        axes.set_title(f"{seen.title}: {seen.said.splitlines()[1]}", fontsize=9, loc="left")
        other = axes.twinx()
        other.fill_between(seen.at, seen.in_flight, step="post", color="#ff7f0e", alpha=0.45, linewidth=0)
        other.set_ylabel("I/Os in flight", color="#ff7f0e")
        other.set_ylim(0, 17)
        axes.set_ylim(0, 290)
    rows[-1].set_xlabel("ms since the scan began")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    print(f"wrote {PICTURE}")


def main() -> None:
    parser = argparse.ArgumentParser(description="How far a read stream runs ahead, block by block.")
    parser.add_argument("--file", help="what is read; by default 32 MiB that are made for it")
    parser.add_argument("--write", action="store_true", help=f"draw {PICTURE.relative_to(HERE.parent)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = options.file
        if path is None:
            path = os.path.join(folder, "file")
            with open(path, "wb") as file:
                for _ in range(32):
                    file.write(os.urandom(MIB))
                os.fsync(file.fileno())
        scans = asyncio.run(all_scans(path))
    for seen in scans:
        print(f"{seen.title}\n  " + seen.said.replace("\n", "\n  "))
        print(f"  distance at most {max(seen.ahead)}, in flight at most {max(seen.in_flight)}, {seen.at[-1]:.1f} ms")
    if options.write:
        draw(scans)


if __name__ == "__main__":
    main()
