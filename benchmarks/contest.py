"""How libraries are compared: each in a process of its own, in turns whose order changes.

Each does the same work on the same files when its turn comes: nobody suffers from the threads of another, and who hangs or
crashes is killed, is said so, and stops nobody else. Before anything is measured each is compared with the built-in; who
gives wrong bytes is left out of that row. Printed are medians of operations a second, in brackets the ratio to the first
peer, and below the table what we wanted and what it came to. A ratio is the median of the rounds' own: a machine that is
shared runs at half its speed for some seconds, and then all of a round do. Some rows run beside one thread that runs Python
as well, in processes of their own. A contest (files.py, whole.py) says who takes part, in what.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
BUSY = ", beside a busy thread"
Rates = dict[str, dict[str, list[float]]]  # by row, by library


class Row(NamedTuple):
    work: Callable[[Any, float], Awaitable[float]]  # operations a second
    check: Callable[[Any], Awaitable[bool]]
    wanted: dict[str, float]  # what a ratio is to come to: "aioring / aiofiles", "aioring / fastest peer"
    wanted_busy: dict[str, float] | None = None  # None: it is not run beside a busy thread
    who: tuple[str, ...] | None = None  # None: everybody
    least: float = 0.0  # seconds a turn takes at least


class Contest(NamedTuple):
    script: str
    about: str
    title: str
    heading: str  # of the page, behind what made it
    libraries: dict[str, str]  # and their distributions; empty: the built-in, or our own
    peers: tuple[str, ...]  # the first is what all are compared with
    rows: dict[str, Row]
    make: Callable[[str, Path], Any]  # the work of a library
    prepare: Callable[[Path], None]
    notes: tuple[str, ...]
    deadline: float = 15.0  # seconds for one answer


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


def serve(contest: Contest, name: str, loop: str, folder: str, busy: bool) -> None:
    """A library's process: a line of JSON for each that comes, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a peer prints is no answer
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    work: Any = None
    for question in sys.stdin:
        what, row, seconds = json.loads(question)
        answer: dict[str, Any] = {}
        try:
            work = work or contest.make(name, Path(folder))
            if what == "version":
                answer["is"] = version(contest, name)
            elif what == "check":
                answer["is"] = runner.run(_run(contest.rows[row].check(work)))
            else:
                with busy_thread() if busy else contextlib.nullcontext():
                    answer["is"] = runner.run(_run(contest.rows[row].work(work, seconds)))
        except Exception as error:
            answer["failed"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer) + "\n")


async def _run(work: Awaitable[Any]) -> Any:
    return await work


def version(contest: Contest, name: str) -> str:
    distribution = contest.libraries[name]
    if distribution:
        return importlib.metadata.version(distribution)
    return (
        str(importlib.import_module("aioring").__version__)
        if "aioring" in name or name == "drop-in"
        else platform.python_version()
    )


# --- who asks them ----------------------------------------------------------------------------------------------------


class Failed(Exception):
    """Why a library did not do what it was asked."""


class Worker:
    """A library's process, seen from here. Killed when it does not answer, and started again when it is asked again."""

    def __init__(self, contest: Contest, name: str, loop: str, folder: Path, busy: bool) -> None:
        child = json.dumps([name, loop, str(folder), busy])
        self.command = [sys.executable, contest.script, "--child", child]
        self.deadline = contest.deadline
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
        if not select.select([process.stdout], [], [], self.deadline)[0]:
            self.kill()
            raise Failed(f"no answer in {self.deadline:.0f} s")
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

    def __init__(self, contest: Contest, folder: Path, options: argparse.Namespace) -> None:
        self.contest = contest
        self.folder = folder
        self.options = options
        self.found: Rates = {}
        self.able: dict[str, list[str]] = {}  # row: who does it right
        self.versions: dict[str, str] = {}
        self.left_out: list[str] = []

    def run(self) -> None:
        only, seconds, rows = self.options.only, self.options.seconds, self.contest.rows
        idle = [row for row in rows if only in row]
        busy = [row for row in rows if rows[row].wanted_busy is not None and only in row + BUSY]
        with self.workers(busy=False) as workers:
            self.check(workers, [row for row in rows if row in idle or row in busy])
            self.measure(workers, idle, "", seconds)
        with self.workers(busy=True) as workers:
            # A thread that runs Python gives the interpreter up every 5 ms: a short turn sees a few dozen operations.
            self.measure(workers, busy, BUSY, max(seconds, 0.7) if seconds >= 0.3 else seconds)

    @contextlib.contextmanager
    def workers(self, busy: bool) -> Iterator[dict[str, Worker]]:
        workers = {
            name: Worker(self.contest, name, self.options.loop, self.folder, busy) for name in self.contest.libraries
        }
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
                if name not in (self.contest.rows[row].who or self.contest.libraries):
                    continue
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
                        rate = workers[name].ask(
                            "measure", row, max(seconds if number else seconds / 3, self.contest.rows[row].least)
                        )
                    except Failed as why:
                        self.left_out.append(f"{name}, {row}{suffix}: {why} in round {number}")
                        names[row].remove(name)
                        found.pop(name, None)
                        continue
                    if number:  # the first warms up
                        found.setdefault(name, []).append(rate)

    def __str__(self) -> str:
        libraries, first = self.contest.libraries, self.contest.peers[0]
        out = [f"| operations a second, {self.options.loop} | " + " | ".join(libraries) + " |"]
        out.append("| --- |" + " ---: |" * len(libraries))
        verdicts = []
        for row, rates in self.found.items():
            rates = {name: found for name, found in rates.items() if found}
            cells = []
            for name in libraries:
                if name not in rates:
                    cells.append("-")
                    continue
                ratio = f" ({in_short(times(rates, name, first))})" if first in rates else ""
                median = statistics.median(rates[name])
                cells.append((f"{median:,.0f}" if median >= 10 else f"{median:.2f}") + ratio)
            out.append(f"| {row} | " + " | ".join(cells) + " |")
            verdicts.append(f"* {row}: {verdict(self.contest, row, rates)}.")
        out += ["", "Against what was wanted:", "", *verdicts]
        if self.left_out:
            out += ["", "Left out:", "", *(f"* {line}" for line in self.left_out)]
        names = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        out += [
            "",
            *(line for note in self.contest.notes for line in (note, "")),
            f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores, ",
        ]
        out[-1] += f"{self.options.rounds} rounds: {names}."
        return "\n".join(out)


def times(rates: dict[str, list[float]], mine: str, theirs: str) -> float:
    """How many times as fast `mine` was."""
    return statistics.median(a / b for a, b in zip(rates[mine], rates[theirs], strict=True))


def verdict(contest: Contest, row: str, rates: dict[str, list[float]]) -> str:
    """Each ratio that concerns this row, and whether it is what was wanted."""
    base = contest.rows[row.removesuffix(BUSY)]
    wanted = (base.wanted_busy or {}) if row.endswith(BUSY) else base.wanted
    fastest = max(
        (name for name in contest.peers if name in rates), key=lambda name: statistics.median(rates[name]), default=""
    )
    said = []
    for ratio in dict.fromkeys((*wanted, *base.wanted)):
        mine, other = ratio.split(" / ")
        theirs = fastest if other == "fastest peer" else other
        if mine not in rates or theirs not in rates:
            said.append(f"{ratio} not measured")
            continue
        value = times(rates, mine, theirs)
        text = f"{ratio} ({theirs})" if other == "fastest peer" else ratio
        text += f" {in_short(value)}"
        if wanted.get(ratio):
            text += f" (wanted {wanted[ratio]:g}: {'yes' if value >= wanted[ratio] else 'NO'})"
        said.append(text)
    return ", ".join(said)


def in_short(ratio: float) -> str:
    return f"{ratio:,.1f}" if ratio >= 10 else f"{ratio:.2f}"


def main(contest: Contest) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=contest.about, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn; beside a busy thread at least 0.7")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write the page in docs/benchmarks")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(contest, *json.loads(options.child))
        return
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds is at least 1, --seconds more than 0")
    if options.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        parser.error("uvloop is not installed: pip install uvloop")
    if not any(options.only in row + BUSY for row in contest.rows):
        parser.error(f"no row has {options.only!r} in it: {'; '.join(contest.rows)}")
    script = Path(contest.script)
    with tempfile.TemporaryDirectory(prefix=f"aioring-{script.stem}-", dir="/var/tmp") as name:
        folder = Path(name)
        contest.prepare(folder)
        comparison = Comparison(contest, folder, options)
        comparison.run()
    print(comparison)
    if options.write:
        loop = "" if options.loop == "asyncio" else f" --loop {options.loop}"
        head = f"# {contest.title}\n\nMade by `python benchmarks/{script.name}{loop} --write`: {contest.heading}\n\n"
        target = HERE.parent / "docs" / "benchmarks" / (script.stem + loop.replace(" --loop ", "-") + ".md")
        target.write_text(f"{head}{comparison}\n", encoding="utf-8")
