"""Whole files, durable writes and trees: read_file, write_file and Path beside the built-in, threads and every peer.

    python benchmarks/whole.py [--rounds 9] [--seconds 0.3] [--loop asyncio|uvloop] [--only cold] [--write]
    python benchmarks/whole.py --million        # list a folder of a million names, and say how much memory it took

How they are compared is in contest.py. Peers come with the extra `bench`; the built-in stands for itself, on the loop's
thread, and blocks it. "cold" drops the page cache before each turn: /proc/sys/vm/drop_caches, which only root may write.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # aioring from this checkout

from contest import Contest, Row, main  # noqa: E402

FILES, COLD, LARGE, DURABLE = 64, 2000, 256 << 20, 4096
FOLDERS, IN_EACH = 200, 100
LIBRARIES = {
    "built-in": "", "aiofiles": "aiofiles", "aioring": "", "turbofile": "turbofile", "py-asyncfiles": "py-asyncfiles",
    "urio": "urio", "threads": "", "32 threads": "", "anyio": "anyio",
}  # fmt: skip
PEERS = ("aiofiles", "turbofile", "py-asyncfiles", "urio")
READERS = ("built-in", "aioring", *PEERS)


def plain_read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def plain_durable(path: str, data: bytes) -> None:
    """What `write_file(durable=True)` does, by the built-in."""
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Work:
    """One library, and the folder of files."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.paths = [str(folder / f"{i}") for i in range(FILES)]
        self.cold_paths = [str(folder / "cold" / f"{i}") for i in range(COLD)]
        self.large = str(folder / "large")
        self.tree = str(folder / "tree")
        self.threads: ThreadPoolExecutor | None = None
        self.read: Callable[[str], Awaitable[bytes]] = getattr(self, "_" + name.replace("-", "_"), self._built_in)
        if name in ("aiofiles", "py-asyncfiles", "urio"):
            opener = importlib.import_module({"py-asyncfiles": "asyncfiles"}.get(name, name)).open

            async def read(path: str) -> bytes:
                async with opener(path, "rb") as file:
                    return await file.read()  # type: ignore[no-any-return]

            self.read = read
        elif name == "turbofile":
            self.read = importlib.import_module("turbofile").read_bytes
        elif name == "aioring":
            self.read = importlib.import_module("aioring").read_file

    async def _built_in(self, path: str) -> bytes:
        return plain_read(path)

    async def cached(self, seconds: float, tasks: int) -> float:
        """4 KiB files that are cached."""
        paths, read, plain, done = self.paths, self.read, self.name == "built-in", 0
        start = time.perf_counter()
        end = start + seconds

        async def one(i: int) -> None:
            nonlocal done
            while time.perf_counter() < end:
                if plain:
                    with open(paths[i % FILES], "rb") as file:  # in a plain loop: no coroutine to pay for
                        file.read()
                else:
                    await read(paths[i % FILES])
                i, done = i + 1, done + 1

        await asyncio.gather(*[one(i) for i in range(tasks)])
        return done / (time.perf_counter() - start)

    async def cold(self, seconds: float, tasks: int = 64) -> float:
        """4 KiB files, once each, from the disk."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        await self.read(self.paths[0])  # what the library itself has on the disk
        left = iter(self.cold_paths)
        start = time.perf_counter()

        async def one() -> None:
            for path in left:
                if len(await self.read(path)) != 4096:
                    raise AssertionError(path)

        await asyncio.gather(*[one() for _ in range(tasks)])
        return COLD / (time.perf_counter() - start)

    async def whole_large(self, seconds: float) -> float:
        """256 MiB, cached."""
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds or not done:
            data = await self.read(self.large)
            done += 1
            del data
        return done / (time.perf_counter() - start)

    async def without_a_stall(self, seconds: float) -> float:
        """The same beside a ticker: 1 over the longest that the loop stood still, in seconds."""
        worst = 0.0

        async def tick() -> None:
            nonlocal worst
            while True:
                due = time.perf_counter() + 0.001
                await asyncio.sleep(0.001)
                worst = max(worst, time.perf_counter() - due)

        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        worst = 0.0
        data = await self.read(self.large)  # (freeing it takes a while, too, and is not part of reading it)
        await asyncio.sleep(0.003)
        ticker.cancel()
        del data
        return 1 / worst

    async def durable(self, seconds: float, tasks: int = 64) -> float:
        """4 KiB, in a file of its own for each task, fsync of file and folder."""
        data, done, start = os.urandom(DURABLE), 0, time.perf_counter()
        write: Callable[[str, bytes], Awaitable[Any]]
        if self.name == "aioring":
            write = functools.partial(importlib.import_module("aioring").write_file, durable=True)
        else:
            loop = asyncio.get_running_loop()
            if self.name == "32 threads":
                self.threads = self.threads or ThreadPoolExecutor(32)
            write = functools.partial(loop.run_in_executor, self.threads, plain_durable)
        folder = self.folder / f"durable by {self.name}"
        folder.mkdir(exist_ok=True)

        async def one(i: int) -> None:
            nonlocal done
            while time.perf_counter() - start < seconds:
                await write(str(folder / f"{i}"), data)
                done += 1

        await asyncio.gather(*[one(i) for i in range(tasks)])
        return done / (time.perf_counter() - start)

    async def walk(self, seconds: float) -> float:
        """`walk` and `stat` of every file."""
        start, size = time.perf_counter(), 0
        if self.name == "built-in":
            for folder, _, files in os.walk(self.tree):
                for name in files:
                    size += os.stat(os.path.join(folder, name)).st_size
        else:
            path = importlib.import_module(self.name).Path
            async for root, _, files in path(self.tree).walk():
                for name in files:
                    size += (await (root / name).stat()).st_size
        if size != FOLDERS * IN_EACH * 10:
            raise AssertionError(size)
        return FOLDERS * IN_EACH / (time.perf_counter() - start)

    async def check(self, paths: list[str]) -> bool:
        return [await self.read(path) for path in paths] == [plain_read(path) for path in paths]

    async def check_durable(self) -> bool:
        await self.durable(0.3)
        written = list((self.folder / f"durable by {self.name}").iterdir())
        return len(written) == 64 and all(len(plain_read(str(path))) == DURABLE for path in written)

    async def check_walk(self) -> bool:
        return await self.walk(0) > 0


def _cached(tasks: int, aiofiles: float) -> Row:
    return Row(
        lambda work, seconds: work.cached(seconds, tasks),
        lambda work: work.check(work.paths),
        {"aioring / built-in": 1.3, "aioring / turbofile": 0.7, "aioring / aiofiles": aiofiles},
        {"aioring / turbofile": 0.6, "aioring / built-in": 100},
        READERS,
    )


ROWS = {
    "read_file, 4 KiB, cached, 1 task": _cached(1, 12),
    "read_file, 4 KiB, cached, 64 tasks": _cached(64, 6),
    "read_file, 256 MiB, cached": Row(
        Work.whole_large,
        lambda work: work.check([work.large]),
        {"aioring / built-in": 1.0, "aioring / fastest peer": 1.0},
        None,
        READERS,
    ),
    "1 / longest stall (s) of the loop meanwhile": Row(
        Work.without_a_stall,
        lambda work: work.check([]),
        {"aioring / built-in": 0, "aioring / aiofiles": 0},
        None,
        READERS,
    ),
    "write_file, durable, 64 tasks": Row(
        Work.durable,
        Work.check_durable,
        {"aioring / threads": 1.2, "aioring / 32 threads": 0},
        None,
        ("aioring", "threads", "32 threads"),
        0.5,
    ),
    "walk and stat, 20,000 files": Row(
        Work.walk,
        Work.check_walk,
        {"aioring / anyio": 8, "aioring / built-in": 0.9},
        None,
        ("built-in", "aioring", "anyio"),
    ),
}
if os.access("/proc/sys/vm/drop_caches", os.W_OK):
    ROWS["read_file, 4 KiB, cold, 64 tasks"] = Row(
        Work.cold,
        lambda work: work.check(work.cold_paths[:100]),
        {"aioring / aiofiles": 3, "aioring / fastest peer": 1.0},
        None,
        READERS,
    )
if sys.version_info < (3, 12):
    ROWS.pop("walk and stat, 20,000 files")  # anyio has no walk before


def prepare(folder: Path) -> None:
    for i in range(FILES):
        (folder / f"{i}").write_bytes(os.urandom(4096))
    (folder / "cold").mkdir()
    for i in range(COLD):
        (folder / "cold" / f"{i}").write_bytes(os.urandom(4096))
    with open(folder / "large", "wb") as large:
        for _ in range(LARGE >> 20):
            large.write(os.urandom(1 << 20))
    for i in range(FOLDERS):
        below = folder / "tree" / f"{i // 20:02}" / f"{i:03}"
        below.mkdir(parents=True)
        for j in range(IN_EACH):
            (below / f"file{j:04}.txt").write_bytes(b"0123456789")


def million() -> None:
    """On tmpfs, where a million files are made in seconds."""
    import aioring

    top = f"/dev/shm/aioring-million-{os.getpid()}"
    os.mkdir(top)
    try:
        for i in range(1_000_000):
            os.mknod(f"{top}/name{i:07}")

        async def main() -> None:
            names = aioring.Path(top).iterdir()
            await anext(names)
            tracemalloc.start()
            start, n, longest = time.perf_counter(), 1, 0.0
            last = start
            async for _ in names:
                n += 1
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
            took, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
            print(
                f"{n:,} names in {took:.1f} s (traced); at most {peak / 1e3:.0f} kB at a time; "
                f"{longest * 1e3:.1f} ms between two"
            )

        asyncio.run(main())
    finally:
        subprocess.run(["rm", "-rf", top], check=False)
        shutil.rmtree(top, ignore_errors=True)


CONTEST = Contest(
    script=__file__,
    about=__doc__ or "",
    title="Whole files and trees",
    heading="medians of alternating rounds, and in brackets the ratio to aiofiles (the median of the rounds' own). The "
    "built-in runs on the loop's thread, and blocks it.",
    libraries=LIBRARIES,
    peers=PEERS,
    rows=ROWS,
    make=Work,
    prepare=prepare,
    notes=(
        "aiofiles, py-asyncfiles and urio open, read and close a file; turbofile has `read_bytes`. The durable writes of "
        "`threads` are the same system calls by asyncio's own executor (6 threads here). `walk and stat` awaits each "
        "`(root / name).stat()`; the built-in is os.walk and os.stat.",
    ),
    deadline=60.0,
)

if __name__ == "__main__":
    if "--million" in sys.argv:
        million()
    else:
        main(CONTEST)
