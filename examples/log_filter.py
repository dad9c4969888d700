"""Filter a large log line by line through aioring, beside aiofiles and the blocking built-in.

The part to copy comes first: `filter_log` reads a text file by `async for` and writes what it keeps, and everybody else's
tasks run meanwhile, on every loop and method. Below stands what only the comparison needs: a log to filter, the same loop
twice more, and a task that wants to run every millisecond and sees how late it comes.
"""

from __future__ import annotations

import argparse
import filecmp
import functools
import importlib
import itertools
import os
import random
import re
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import aioring

aioring.open  # noqa: B018 - imported when it is first asked for, which takes some 50 ms: not while a loop runs

PIECE = 10_000  # lines for aiofiles: a call on a thread for each line, so all of a large log takes minutes
Search = Callable[[str], object]  # of a compiled pattern: true if the line is kept
Counts = tuple[int, int]  # lines read, lines kept

# --- the part to copy -------------------------------------------------------------------------------------------------


async def filter_log(ring: aioring.Ring, search: Search, source: str, target: str) -> Counts:
    read = kept = 0
    # Line ends are the built-in's: \r\n and \r are read as \n. `newline=""` on both files would leave them alone.
    async with (
        aioring.open(source, encoding="utf-8", ring=ring) as log,
        aioring.open(target, "w", encoding="utf-8", ring=ring) as out,
    ):
        async for line in log:  # from the buffer, without suspending; after 2 ms others have their turn
            read += 1
            if search(line):
                kept += 1
                await out.write(line)  # into the buffer, too; what is left there is written when `out` is closed
    return read, kept


# --- the comparison ---------------------------------------------------------------------------------------------------


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


aiofiles = optional("aiofiles")
say = functools.partial(print, flush=True)


async def filter_with_aiofiles(search: Search, source: str, target: str) -> Counts:
    read = kept = 0
    async with (
        aiofiles.open(source, encoding="utf-8") as log,
        aiofiles.open(target, "w", encoding="utf-8") as out,
    ):
        async for line in log:
            read += 1
            if search(line):
                kept += 1
                await out.write(line)
    return read, kept


def filter_blocking(search: Search, source: str, target: str) -> Counts:
    read = kept = 0
    with open(source, encoding="utf-8") as log, open(target, "w", encoding="utf-8") as out:
        for line in log:
            read += 1
            if search(line):
                kept += 1
                out.write(line)
    return read, kept


async def filter_on_the_loop(search: Search, source: str, target: str) -> Counts:
    return filter_blocking(search, source, target)


class Run(NamedTuple):
    counts: Counts
    seconds: float
    late: float  # how late the ticker came at worst, in seconds


class Contender(NamedTuple):
    name: str
    filter_it: Callable[[str, str], Awaitable[Counts]]  # from where, to where
    source: str
    target: str
    runs: list[Run]


async def timed(each: Contender) -> Run:
    """One run, beside a task that wants to run every millisecond."""
    late = 0.0
    failed: OSError | UnicodeDecodeError | None = None

    async def tick() -> None:
        nonlocal late
        while True:
            due = time.perf_counter() + 0.001
            await anyio.sleep(0.001)
            late = max(late, time.perf_counter() - due)

    counts, seconds = (0, 0), 0.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await anyio.sleep(0.005)
        late, began = 0.0, time.perf_counter()
        try:
            counts = await each.filter_it(each.source, each.target)
        except (OSError, UnicodeDecodeError) as error:  # raised in here, it would come out in an ExceptionGroup
            failed = error
        seconds = time.perf_counter() - began
        await anyio.sleep(0.002)  # the tick that the work has held up
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return Run(counts, max(seconds, 1e-6), late)


async def demo(options: argparse.Namespace, search: Search, log: str, folder: Path) -> int:
    try:
        ring = aioring.Ring(method=options.method)
        await ring.start()
    except (aioring.RingUnavailableError, ValueError) as error:
        return complain(str(error))
    async with ring:
        say(f"method: {ring.method}" + (f" (not io_uring: {ring.fallback_reason})" if ring.fallback_reason else ""))
        try:
            piece = str(folder / "piece")
            await ring.run(cut, log, piece)
            output = options.output or str(folder / "aioring")
            contenders = [Contender("aioring", functools.partial(filter_log, ring, search), log, output, [])]
            if options.compare and (aiofiles is None or options.loop == "trio"):
                reason = "does not run on trio" if aiofiles else "is not installed (pip install aiofiles)"
                say(f"aiofiles {reason}: going on without it")
            elif options.compare:
                work = functools.partial(filter_with_aiofiles, search)
                contenders.append(Contender("aiofiles", work, piece, str(folder / "aiofiles"), []))
            if options.compare:
                work = functools.partial(filter_on_the_loop, search)
                contenders.append(Contender("built-in", work, log, str(folder / "built-in"), []))
            for _ in range(options.runs):
                for each in contenders:
                    each.runs.append(await timed(each))
            report(contenders)
            return await verify(ring, contenders, search, folder) if options.compare else 0
        except UnicodeDecodeError as error:
            complain(f"{printable(log)}: {await ring.run(undecodable, log) or error}")
        except OSError as error:
            where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
            complain(f"{where}{error.strerror}")  # a full disk has no name
        return 1


def cut(log: str, piece: str) -> None:
    """The first lines of the log, for aiofiles; all of it is read, so that everybody finds it in the page cache."""
    with open(log, "rb") as source:
        with open(piece, "wb") as target:
            target.writelines(itertools.islice(source, PIECE))
        while source.read(1 << 20):
            pass


def undecodable(log: str) -> str:
    """Where it is: the error knows the place in a buffer only."""
    with open(log, "rb") as source:
        for number, line in enumerate(source, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return f"line {number:,}, byte {error.start + 1}: {byte:#04x} is not UTF-8 ({error.reason})"
    return ""


def report(contenders: list[Contender]) -> None:
    """Medians, but the worst of all lateness, and what follows for all of the log."""
    say(f"{'':<12}{'lines read':>12}{'kept':>12}{'seconds':>10}{'lines/s':>14}{'loop late at worst':>20}")
    rates = {}
    for each in contenders:
        read, kept = each.runs[0].counts
        seconds = statistics.median(run.seconds for run in each.runs)
        late = max(run.late for run in each.runs) * 1e3
        rates[each.name] = rate = read / seconds
        say(f"{each.name:<12}{read:>12,}{kept:>12,}{seconds:>10.3f}{rate:>14,.0f}{late:>17,.1f} ms")
    lines, ours = contenders[0].runs[0].counts[0], rates["aioring"]
    for name, rate in rates.items():
        if name == "aiofiles" and rate:
            read = contenders[1].runs[0].counts[0]
            piece = f"at its rate over the first {read:,} lines" if read < lines else "in all"
            say(f"aiofiles: {lines / rate:,.1f} s {piece}; aioring reads {ours / rate:,.1f} times as many lines/s")
        elif name == "built-in" and rate:
            say(f"built-in: nobody else runs meanwhile; aioring reads {ours / rate:.2f} times as many lines/s")


async def verify(ring: aioring.Ring, contenders: list[Contender], search: Search, folder: Path) -> int:
    """Every output against the built-in's of the same lines. 0, or 1 if anything differs."""
    *others, plain = contenders
    wrong = [each.name for each in contenders if len({run.counts for run in each.runs}) > 1]
    for each in others:
        expected, counts = plain.target, plain.runs[0].counts
        if each.source != plain.source:
            expected = str(folder / "expected")
            counts = await ring.run(filter_blocking, search, each.source, expected)
        if each.runs[0].counts != counts or not await ring.run(filecmp.cmp, each.target, expected, False):
            wrong.append(each.name)
    if wrong:
        names = " and ".join(dict.fromkeys(wrong))
        complain(f"what {names} wrote is WRONG, if nobody changed the log meanwhile. This is a bug: please report it")
        return 1
    say(f"verified: the built-in wrote the same {os.path.getsize(plain.target):,} bytes, and the same of a piece")
    return 0


def complain(text: str) -> int:
    print(f"log_filter: {text}", file=sys.stderr, flush=True)
    return 2


def printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_log(path: str, lines: int) -> None:
    """A web server's, as it were: the same one for the same number of lines."""
    chance = random.Random(18)
    names = ("ada", "bob", "chloé", "dmitri", "Эмма")
    statuses = ("200",) * 17 + ("404", "500", "503")
    with open(path, "w", encoding="utf-8") as log:
        for number in range(lines):
            hours, seconds = divmod(number // 20, 3600)
            status, name = chance.choice(statuses), chance.choice(names)
            when = f"2026-01-{1 + hours // 24 % 31:02}T{hours % 24:02}:{seconds // 60:02}:{seconds % 60:02}Z"
            level, item = "ERROR" if status[0] == "5" else "INFO", number * 7919 % 99_991
            log.write(f"{when} {level} GET /item/{item} status={status} user={name}\n")


def refused(log: str, output: str | None) -> str:
    """Why this log cannot be filtered into that output, or nothing."""
    try:
        if not stat.S_ISREG(os.stat(log).st_mode):
            return f"{printable(log)}: not a regular file"  # it is read several times
        open(log, "rb").close()
        if output and os.path.exists(output):
            if os.path.samefile(log, output):
                return f"{printable(output)}: the output would take the place of the log"
            if not stat.S_ISREG(os.stat(output).st_mode):
                return f"{printable(output)}: not a regular file"  # it is compared
        if output:
            open(output, "ab").close()
    except OSError as error:
        return f"{printable(os.fsdecode(error.filename))}: {error.strerror}"
    return ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Filter a log through aioring, beside aiofiles and the built-in.")
    add = parser.add_argument
    add("log", nargs="?", metavar="LOG", help="a text file, utf-8 (default: one is made)")
    add("--pattern", default=r"ERROR|user=chlo\w", help="lines in which this is found are kept (default: %(default)s)")
    add("--output", metavar="FILE", help="where aioring writes them (default: a temporary file)")
    add("--lines", type=int, default=300_000, metavar="N", help="of the log that is made (default: 300000)")
    add("--runs", type=int, default=3, metavar="N", help="of each, in turns (default: 3)")
    add(
        "--method", choices=["auto", "io_uring", "linux_aio", "worker", "sync"], help="default: AIORING_METHOD, or auto"
    )
    add("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    add("--no-compare", dest="compare", action="store_false", help="aioring alone")
    options = parser.parse_args()
    if options.lines < 1 or options.runs < 1:
        parser.error("--lines and --runs are at least 1")
    return options


def main() -> int:
    options = parse()
    try:
        search = re.compile(options.pattern).search
    except re.error as error:
        return complain(f"--pattern {options.pattern!r}: {error}")
    if options.loop != "asyncio" and optional(options.loop) is None:
        return complain(f"{options.loop} is not installed: pip install {options.loop}")
    backend = "trio" if options.loop == "trio" else "asyncio"
    settings = {"use_uvloop": True} if options.loop == "uvloop" else {}
    status = 130
    with tempfile.TemporaryDirectory(prefix="log_filter-") as name:
        try:
            log = options.log or os.path.join(name, "log")
            if options.log is None:
                make_log(log, options.lines)
            reason = refused(log, options.output)
            if reason:
                return complain(reason)
            say(f"{printable(log)}: {os.path.getsize(log):,} bytes; kept is what has {options.pattern!r} in it")
            status = anyio.run(demo, options, search, log, Path(name), backend=backend, backend_options=settings)
        except* KeyboardInterrupt:  # with a star: trio hands it on inside the groups of the tasks that it ended
            complain("interrupted")
    return status


if __name__ == "__main__":
    sys.exit(main())
