"""Files that are opened: aioring.open and its drop-in beside the built-in, aiofiles and every peer.

    python benchmarks/files.py [--rounds 9] [--seconds 0.3] [--loop asyncio|uvloop] [--only lines] [--write]

How they are compared is in contest.py. Peers come with the extra `bench`; the built-in stands for itself, on the loop's
thread, and blocks it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # aioring from this checkout

from contest import Contest, Row, main, time_is_up  # noqa: E402

FILES, LINES, WRITES = 64, 20_000, 1000
PART = 64  # bytes a write
Open = Callable[..., Any]


class Library(NamedTuple):
    module: str  # empty: the built-in
    call: str
    distribution: str
    text: dict[str, str]  # what makes it read utf-8


UTF8 = {"encoding": "utf-8"}
LIBRARIES = {
    "built-in": Library("", "open", "", UTF8),
    "aiofiles": Library("aiofiles", "open", "aiofiles", UTF8),
    "aioring": Library("aioring", "open", "", UTF8),
    "drop-in": Library("aioring.aiofiles", "open", "", UTF8),
    "py-asyncfiles": Library("asyncfiles", "open", "py-asyncfiles", {}),  # always utf-8
    "urio": Library("urio", "open", "urio", UTF8),
    "turbofile": Library("turbofile", "open", "turbofile", UTF8),
    "aiofile": Library("aiofile", "async_open", "aiofile", UTF8),
}
PEERS = ("aiofiles", "py-asyncfiles", "urio", "turbofile", "aiofile")
NOTE = (
    "The built-in, aiofiles and both of ours gather small writes; py-asyncfiles, urio, turbofile and aiofile hand each to "
    "the kernel, and aiofile waits for the disk (fdatasync) when it closes a file that was written. Who is slow is stopped "
    "within a file when the time is up."
)

# --- the work, as each process does it --------------------------------------------------------------------------------


class Work:
    """One library, and the folder of files."""

    def __init__(self, name: str, folder: Path) -> None:
        library = LIBRARIES[name]
        self.plain = not library.module
        self.open: Open = open if self.plain else getattr(importlib.import_module(library.module), library.call)
        self.text = library.text
        self.paths = [str(folder / f"{i}") for i in range(FILES)]
        self.lines_path = str(folder / "lines")
        self.written = str(folder / f"written by {name}")

    async def whole(self, seconds: float, tasks: int) -> float:
        """`open`, `read`, `close` of cached 4 KiB files."""
        paths, open_it, done = self.paths, self.open, 0
        start = time.perf_counter()
        end = start + seconds

        async def one(i: int) -> None:
            nonlocal done
            while time.perf_counter() < end:
                if self.plain:
                    with open(paths[i % FILES], "rb") as plain:
                        plain.read()
                else:
                    async with open_it(paths[i % FILES], "rb") as file:
                        await file.read()
                i, done = i + 1, done + 1

        await asyncio.gather(*[one(i) for i in range(tasks)])
        return done / (time.perf_counter() - start)

    async def lines(self, seconds: float) -> float:
        """`async for line in file`, text, utf-8. The same few bytecodes a line for all; whole files for who is fast."""
        path, open_it, done, start = self.lines_path, self.open, 0, time.perf_counter()
        with time_is_up(seconds) as over:
            while time.perf_counter() - start < seconds:
                if self.plain:
                    with open(path, encoding="utf-8") as plain:
                        for _ in plain:
                            done += 1
                            if over:
                                break
                else:
                    async with open_it(path, **self.text) as file:
                        async for _ in file:
                            done += 1
                            if over:
                                break
        return done / (time.perf_counter() - start)

    async def writes(self, seconds: float) -> float:
        """1,000 x 64 bytes to one file, its opening and closing included."""
        path, part, open_it, done, start = self.written, b"x" * PART, self.open, 0, time.perf_counter()
        with time_is_up(seconds) as over:
            while time.perf_counter() - start < seconds:
                if self.plain:
                    with open(path, "wb") as plain:
                        for _ in range(WRITES):
                            plain.write(part)
                            done += 1
                            if over:
                                break
                else:
                    async with open_it(path, "wb") as file:
                        for _ in range(WRITES):
                            await file.write(part)
                            done += 1
                            if over:
                                break
        return done / (time.perf_counter() - start)

    async def check_whole(self, tasks: int) -> bool:
        if self.plain:
            return True

        async def one(first: int) -> bool:
            for path in self.paths[first::tasks]:
                async with self.open(path, "rb") as file:
                    if await file.read() != Path(path).read_bytes():
                        return False
            return True

        return all(await asyncio.gather(*[one(i) for i in range(tasks)]))

    async def check_lines(self) -> bool:
        if self.plain:
            return True
        with open(self.lines_path, encoding="utf-8") as plain:
            right = list(plain)
        async with self.open(self.lines_path, **self.text) as file:
            return [line async for line in file] == right

    async def check_writes(self) -> bool:
        if self.plain:
            return True
        parts = [b"%064d" % i for i in range(WRITES)]
        async with self.open(self.written, "wb") as file:
            for part in parts:
                await file.write(part)
        return Path(self.written).read_bytes() == b"".join(parts)


def _wanted(aiofiles: float, peer: float) -> dict[str, float]:
    ours = {"aioring / aiofiles": aiofiles, "aioring / fastest peer": peer}
    return ours | {"drop-in / aiofiles": aiofiles, "drop-in / fastest peer": peer}


BESIDE = {"aioring / aiofiles": 20.0, "drop-in / aiofiles": 20.0}
ROWS = {
    "open, read, close of 4 KiB, 1 task": Row(
        lambda work, seconds: work.whole(seconds, 1), lambda work: work.check_whole(1), _wanted(12, 1.3), BESIDE
    ),
    "open, read, close of 4 KiB, 64 tasks": Row(
        lambda work, seconds: work.whole(seconds, 64), lambda work: work.check_whole(64), _wanted(6, 1.3), BESIDE
    ),
    "lines of text": Row(
        Work.lines,
        Work.check_lines,
        _wanted(0, 0) | {"aioring / aiofiles": 100, "aioring / fastest peer": 2, "aioring / built-in": 0.3},
        BESIDE,
    ),
    "writes of 64 bytes": Row(
        Work.writes,
        Work.check_writes,
        _wanted(0, 0) | {"aioring / aiofiles": 20, "aioring / fastest peer": 1},
        BESIDE,
    ),
}


def prepare(folder: Path) -> None:
    for i in range(FILES):
        (folder / f"{i}").write_bytes(os.urandom(4096))
    (folder / "lines").write_text("".join(f"this is line number {i} of them\n" for i in range(LINES)), "utf-8")


CONTEST = Contest(
    script=__file__,
    about=__doc__ or "",
    title="Files",
    heading="medians of alternating rounds, and in brackets the ratio to aiofiles (the median of the rounds' own). The "
    "built-in runs on the loop's thread, and blocks it; the drop-in is `aioring.aiofiles`.",
    libraries={name: library.distribution for name, library in LIBRARIES.items()},
    peers=PEERS,
    rows=ROWS,
    make=Work,
    prepare=prepare,
    notes=(NOTE,),
)

if __name__ == "__main__":
    main(CONTEST)
