"""Whole files, lines and small writes: aioring.open and its drop-in beside the built-in, aiofiles and every peer.

    python benchmarks/files.py [--rounds 9] [--seconds 0.3] [--loop asyncio|uvloop] [--only lines] [--write]

Each library has a process of its own and does the same work on the same files when its turn comes: nobody suffers from
the threads of another, and who hangs or crashes is killed, is said so, and stops nobody else. Before anything is measured
each is compared with the built-in; who gives wrong bytes is left out of that row. Turns come in an order that changes,
`rounds` times; printed are medians of operations a second, in brackets the ratio to aiofiles, and below the table what we
wanted and what it came to. A ratio is the median of the rounds' own: a machine that is shared runs at half its speed for
some seconds, and then all of a round do. The last rows run beside one thread that runs Python, in processes of their own.
Peers come with the extra `bench`; the built-in stands for itself, on the loop's thread, and blocks it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # aioring from this checkout

FILES, LINES, WRITES = 64, 20_000, 1000
PART = 64  # bytes a write
DEADLINE = 15.0  # seconds for one answer: a turn of 64 tasks on threads, beside a busy one, takes two or three
BUSY = ", beside a busy thread"
Rates = dict[str, dict[str, list[float]]]  # by row, by library
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
        async def one(first: int) -> bool:
            for path in self.paths[first::tasks]:
                async with self.open(path, "rb") as file:
                    if await file.read() != Path(path).read_bytes():
                        return False
            return True

        return all(await asyncio.gather(*[one(i) for i in range(tasks)]))

    async def check_lines(self) -> bool:
        with open(self.lines_path, encoding="utf-8") as plain:
            right = list(plain)
        async with self.open(self.lines_path, **self.text) as file:
            return [line async for line in file] == right

    async def check_writes(self) -> bool:
        parts = [b"%064d" % i for i in range(WRITES)]
        async with self.open(self.written, "wb") as file:
            for part in parts:
                await file.write(part)
        return Path(self.written).read_bytes() == b"".join(parts)


@contextlib.contextmanager
def time_is_up(seconds: float) -> Iterator[list[bool]]:
    """A list that is empty until then: to look at it costs a few nanoseconds a line, where a clock would cost fifty."""
    over: list[bool] = []
    timer = asyncio.get_running_loop().call_later(seconds, over.append, True)
    try:
        yield over
    finally:
        timer.cancel()


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """One more thread, which runs Python and nothing else. Here for a turn: who is not measured must not be busy."""
    ended = threading.Event()

    def spin() -> None:
        x = 0
        while not ended.is_set():
            x += 1

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Row(NamedTuple):
    work: Callable[[Work, float], Awaitable[float]]
    check: Callable[[Work], Awaitable[bool]]
    wanted: dict[str, float]  # what a ratio is to come to
    wanted_busy: dict[str, float]


def _wanted(aiofiles: float, peer: float) -> dict[str, float]:
    ours = {"aioring / aiofiles": aiofiles, "aioring / fastest peer": peer}
    return ours | {"drop-in / aiofiles": aiofiles, "drop-in / fastest peer": peer}


BESIDE = {"aioring / aiofiles": 20.0, "drop-in / aiofiles": 20.0}
RATIOS = (*_wanted(0, 0), "aioring / built-in")
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
        {"aioring / aiofiles": 100, "aioring / fastest peer": 2, "aioring / built-in": 0.3},
        BESIDE,
    ),
    "writes of 64 bytes": Row(
        Work.writes, Work.check_writes, {"aioring / aiofiles": 20, "aioring / fastest peer": 1}, BESIDE
    ),
}


def serve(name: str, loop: str, folder: str, busy: bool) -> None:
    """A library's process: a line of JSON for each that comes, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a peer prints is no answer
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    work: Work | None = None
    for question in sys.stdin:
        what, row, seconds = json.loads(question)
        answer: dict[str, Any] = {}
        try:
            work = work or Work(name, Path(folder))
            if what == "version":
                answer["is"] = version(name)
            elif what == "check":
                answer["is"] = work.plain or runner.run(_run(ROWS[row].check(work)))
            else:
                with busy_thread() if busy else contextlib.nullcontext():
                    answer["is"] = runner.run(_run(ROWS[row].work(work, seconds)))
        except Exception as error:
            answer["failed"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer) + "\n")


async def _run(work: Awaitable[Any]) -> Any:
    return await work


def version(name: str) -> str:
    library = LIBRARIES[name]
    if library.distribution:
        return importlib.metadata.version(library.distribution)
    return platform.python_version() if not library.module else str(importlib.import_module("aioring").__version__)


# --- who asks them ----------------------------------------------------------------------------------------------------


class Failed(Exception):
    """Why a library did not do what it was asked."""


class Worker:
    """A library's process, seen from here. Killed when it does not answer, and started again when it is asked again."""

    def __init__(self, name: str, loop: str, folder: Path, busy: bool) -> None:
        child = json.dumps([name, loop, str(folder), busy])
        self.command = [sys.executable, __file__, "--child", child]
        self.process: subprocess.Popen[str] | None = None

    def ask(self, what: str, row: str = "", seconds: float = 0.0) -> Any:
        process = self.process
        if process is None:
            pipe = subprocess.PIPE
            process = self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([what, row, seconds]) + "\n")
            process.stdin.flush()
        if not select.select([process.stdout], [], [], DEADLINE)[0]:
            self.kill()
            raise Failed(f"no answer in {DEADLINE:.0f} s")
        line = process.stdout.readline()
        if not line:
            self.kill()
            raise Failed(f"its process ended with {process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["is"]

    def kill(self) -> None:
        """It has nothing to lose, and to be asked to end is too much for some."""
        if self.process is not None:
            self.process.kill()
            with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                self.process.communicate()
            self.process = None


class Comparison:
    """What is found in all rounds, and who was left out of which row, and why."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.found: Rates = {}
        self.able: dict[str, list[str]] = {}  # row: who does it right
        self.versions: dict[str, str] = {}
        self.left_out: list[str] = []

    def run(self) -> None:
        only, seconds = self.options.only, self.options.seconds
        idle = [row for row in ROWS if only in row]
        busy = [row for row in ROWS if only in row + BUSY]
        with self.workers(busy=False) as workers:
            self.check(workers, [row for row in ROWS if row in idle or row in busy])
            self.measure(workers, idle, "", seconds)
        with self.workers(busy=True) as workers:
            # A thread that runs Python gives the interpreter up every 5 ms: a short turn sees a few dozen operations.
            self.measure(workers, busy, BUSY, max(seconds, 0.7) if seconds >= 0.3 else seconds)

    @contextlib.contextmanager
    def workers(self, busy: bool) -> Iterator[dict[str, Worker]]:
        workers = {name: Worker(name, self.options.loop, self.folder, busy) for name in LIBRARIES}
        try:
            yield workers
        finally:
            for worker in workers.values():
                worker.kill()

    def check(self, workers: dict[str, Worker], rows: list[str]) -> None:
        for name, worker in workers.items():
            try:
                self.versions[name] = worker.ask("version")
            except Failed as why:
                self.left_out.append(f"{name}: cannot be imported ({why})")
                continue
            for row in rows:
                try:
                    if not worker.ask("check", row):
                        raise Failed("wrong bytes")
                    self.able.setdefault(row, []).append(name)
                except Failed as why:
                    self.left_out.append(f"{name}, {row}: {why}")

    def measure(self, workers: dict[str, Worker], rows: list[str], suffix: str, seconds: float) -> None:
        names = {row: list(self.able.get(row, [])) for row in rows}
        for number in range(self.options.rounds + 1):
            for row in rows:
                found = self.found.setdefault(row + suffix, {})
                for name in random.sample(names[row], len(names[row])):
                    try:
                        rate = workers[name].ask("measure", row, seconds if number else seconds / 3)
                    except Failed as why:
                        self.left_out.append(f"{name}, {row}{suffix}: {why} in round {number}")
                        names[row].remove(name)
                        found.pop(name, None)
                        continue
                    if number:  # the first warms up
                        found.setdefault(name, []).append(rate)

    def __str__(self) -> str:
        out = [f"| operations a second, {self.options.loop} | " + " | ".join(LIBRARIES) + " |"]
        out.append("| --- |" + " ---: |" * len(LIBRARIES))
        verdicts = []
        for row, rates in self.found.items():
            rates = {name: found for name, found in rates.items() if found}
            cells = []
            for name in LIBRARIES:
                ratio = (
                    f" ({in_short(times(rates, name, 'aiofiles'))})" if name in rates and "aiofiles" in rates else ""
                )
                cells.append(f"{statistics.median(rates[name]):,.0f}{ratio}" if name in rates else "-")
            out.append(f"| {row} | " + " | ".join(cells) + " |")
            verdicts.append(f"* {row}: {verdict(row, rates)}.")
        out += ["", "Against what was wanted:", "", *verdicts]
        if self.left_out:
            out += ["", "Left out:", "", *(f"* {line}" for line in self.left_out)]
        names = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        out += [
            "",
            NOTE,
            "",
            f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores, ",
        ]
        out[-1] += f"{self.options.rounds} rounds: {names}."
        return "\n".join(out)


def times(rates: dict[str, list[float]], mine: str, theirs: str) -> float:
    """How many times as fast `mine` was."""
    return statistics.median(a / b for a, b in zip(rates[mine], rates[theirs], strict=True))


def verdict(row: str, rates: dict[str, list[float]]) -> str:
    """Each ratio that concerns this row, and whether it is what was wanted."""
    base = ROWS[row.removesuffix(BUSY)]
    wanted = base.wanted_busy if row.endswith(BUSY) else base.wanted
    fastest = max(
        (name for name in PEERS if name in rates), key=lambda name: statistics.median(rates[name]), default=""
    )
    said = []
    for ratio in RATIOS:
        mine, other = ratio.split(" / ")
        theirs = fastest if other == "fastest peer" else other
        if other == "built-in" and base.work is not Work.lines:
            continue
        if mine not in rates or theirs not in rates:
            said.append(f"{ratio} not measured")
            continue
        value = times(rates, mine, theirs)
        text = f"{ratio} ({theirs})" if other == "fastest peer" else ratio
        text += f" {in_short(value)}"
        if ratio in wanted:
            text += f" (wanted {wanted[ratio]:g}: {'yes' if value >= wanted[ratio] else 'NO'})"
        said.append(text)
    return ", ".join(said)


def in_short(ratio: float) -> str:
    return f"{ratio:,.1f}" if ratio >= 10 else f"{ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn; beside a busy thread at least 0.7")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/files.md, or files-uvloop.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(*json.loads(options.child))
        return
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds is at least 1, --seconds more than 0")
    if options.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        parser.error("uvloop is not installed: pip install uvloop")
    if not any(options.only in row + BUSY for row in ROWS):
        parser.error(f"no row has {options.only!r} in it: {'; '.join(ROWS)}")
    with tempfile.TemporaryDirectory(prefix="aioring-files-", dir="/var/tmp") as name:
        folder = Path(name)
        for i in range(FILES):
            (folder / f"{i}").write_bytes(os.urandom(4096))
        (folder / "lines").write_text("".join(f"this is line number {i} of them\n" for i in range(LINES)), "utf-8")
        comparison = Comparison(folder, options)
        comparison.run()
    print(comparison)
    if options.write:
        head = (
            "# Files\n\nMade by `python benchmarks/files.py --write`: medians of alternating rounds, and in brackets the "
            "ratio to aiofiles (the median of the rounds' own). The built-in runs on the loop's thread, and blocks it; "
            "the drop-in is "
            "`aioring.aiofiles`.\n\n"
        )
        name = "files.md" if options.loop == "asyncio" else f"files-{options.loop}.md"
        target = HERE.parent / "docs" / "benchmarks" / name
        target.write_text(f"{head}{comparison}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
