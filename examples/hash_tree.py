"""Hash every file of a tree through aioring, and see what that comes to beside aiofiles. `make demo` runs this.

The part to copy comes first: `hash_file` (one file), `hash_all` (many at once, never more than N), `walk` (a blocking
call on worker threads); it runs unchanged on every loop and method. Below stands what only the comparison needs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import aioring

CHUNK = 64 << 10  # bytes held of a file at a time: memory is bounded by CHUNK * concurrency, however large files are
Hashed = tuple[str, int]  # hex digest, size in bytes
Errors = dict[str, OSError]
Step = Callable[[], None]  # one file is done

# --- the part to copy -------------------------------------------------------------------------------------------------


async def hash_file(ring: aioring.Ring, path: str) -> Hashed:
    # O_NOFOLLOW and O_NONBLOCK: if what was a file in the walk is a symlink or a FIFO by now, fail instead of waiting.
    fd = await ring.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        hashed, size = hashlib.sha256(), 0
        while True:
            data = await ring.read(fd, size, CHUNK)
            hashed.update(data)
            size += len(data)
            if len(data) < CHUNK:  # `Ring.read` returns less than was asked for at end of file only
                return hashed.hexdigest(), size
    finally:
        await ring.close(fd)  # also when we are cancelled: a close goes on


async def hash_all(
    hash_one: Callable[[str], Awaitable[Hashed]], paths: list[str], concurrency: int, errors: Errors, step: Step
) -> dict[str, Hashed]:
    """At most `concurrency` files at once. What cannot be read goes to `errors`; the rest goes on."""
    done: dict[str, Hashed] = {}
    # One iterator, shared: a task takes its next path when it is done with the last. N tasks in all, not one a file:
    # nothing is queued, and no more than N files are open. One thread runs all tasks, so no lock is needed.
    todo = iter(paths)

    async def work() -> None:
        for path in todo:
            try:
                done[path] = await hash_one(path)
            except OSError as error:  # no permission, vanished since the walk ...: an OSError of the right subclass
                errors[path] = error
            step()

    async with anyio.create_task_group() as tasks:
        for _ in range(min(concurrency, len(paths))):
            tasks.start_soon(work)
    return done


async def walk(ring: aioring.Ring, root: str, limit: int, errors: Errors) -> tuple[list[str], bool]:
    """The regular files below `root`, in order, `limit` at most (0: all), and whether there are more."""
    files: list[str] = []
    folders = [root]
    while folders and (not limit or len(files) <= limit):
        folder = folders.pop()
        try:
            # io_uring has no operation for reading directories. `run` takes any blocking call.
            found, deeper = await ring.run(list_folder, folder)
        except OSError as error:
            errors[folder] = error
            continue
        files += found
        folders += reversed(deeper)
    return files[: limit or None], 0 < limit < len(files)


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Files and folders in one folder. Symlinks are not followed, so there are no loops; FIFOs and the like are left."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    files = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    return files, [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


# --- the comparison ---------------------------------------------------------------------------------------------------


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


aiofiles, rich = optional("aiofiles"), optional("rich")
say = functools.partial(print, flush=True)


async def hash_with_aiofiles(path: str) -> Hashed:
    hashed, size = hashlib.sha256(), 0
    async with aiofiles.open(path, "rb") as file:
        while True:
            data = await file.read(CHUNK)
            hashed.update(data)
            size += len(data)
            if len(data) < CHUNK:
                return hashed.hexdigest(), size


class Contender(NamedTuple):
    name: str
    method: str
    hash_one: Callable[[str], Awaitable[Hashed]]
    seconds: list[float]  # of each run
    results: list[dict[str, Hashed]]


async def demo(options: argparse.Namespace) -> int:
    try:
        ring = aioring.Ring(method=options.method)
        await ring.start()
    except (aioring.RingUnavailableError, ValueError) as error:
        return complain(str(error))
    say(f"method: {ring.method}" + (f" (not io_uring: {ring.fallback_reason})" if ring.fallback_reason else ""))
    async with ring, aioring.Ring(method="worker") as worker_ring:
        errors: Errors = {}
        started = time.time_ns()
        paths, more = await walk(ring, options.root, options.limit, errors)
        capped = " (the first; --limit 0 takes all)" if more else ""
        say(f"{printable(options.root)}: {len(paths):,} files{capped}, {options.concurrency} at once")
        contenders = [Contender("aioring", ring.method, functools.partial(hash_file, ring), [], [])]
        if options.compare and (aiofiles is None or options.loop == "trio"):
            reason = "does not run on trio" if aiofiles else "is not installed (pip install aiofiles)"
            say(f"aiofiles {reason}: going on without it")
        elif options.compare:
            contenders.append(Contender("aiofiles", "threads", hash_with_aiofiles, [], []))
        if options.compare and ring.method != "worker":  # what people get where io_uring is refused
            contenders.append(Contender("aioring", "worker", functools.partial(hash_file, worker_ring), [], []))
        await compare(contenders, paths, options, errors)
        report(contenders, errors)
        return await verify(ring, contenders, started)


async def compare(contenders: list[Contender], paths: list[str], options: argparse.Namespace, errors: Errors) -> None:
    """Fill in times and results. Files, chunks, hash, loop and concurrency are the same for all, who run in turns."""
    with progress(options.progress) as begin:
        if options.compare:
            # Untimed: all find the page cache warm, and what cannot be read is left out of what is timed.
            step = begin("warming up the page cache", len(paths))
            paths = list(await hash_all(contenders[0].hash_one, paths, options.concurrency, errors, step))
        runs = 3 if options.compare else 1
        for number in range(1, runs + 1):
            for each in contenders:
                step = begin(f"{each.name} ({each.method}), run {number} of {runs}", len(paths))
                began = time.perf_counter()
                each.results.append(await hash_all(each.hash_one, paths, options.concurrency, errors, step))
                each.seconds.append(time.perf_counter() - began)


async def verify(ring: aioring.Ring, contenders: list[Contender], started: int) -> int:
    """A sample against hashlib over plain reads, and every run against the first. 0, or 1 if anything differs."""
    right = contenders[0].results[0]
    wrong: dict[str, str] = {}
    for each in contenders:
        for result in each.results:
            differ = [path for path in right.keys() | result.keys() if result.get(path) != right.get(path)]
            wrong |= dict.fromkeys(differ, f"{each.name} ({each.method}) differs from the first run")
    sample = {*list(right)[::50], *sorted(right, key=lambda path: right[path][1])[-1:]}
    for path in sample:
        try:
            if hashlib.sha256(await ring.run(Path(path).read_bytes)).hexdigest() != right[path][0]:
                wrong[path] = "differs from hashlib over a plain read"
        except OSError as error:
            wrong[path] = str(error)
    for path in list(wrong):
        with suppress(OSError):  # Changed by others while we read: nobody's mistake. File times lag by a tick, 10 ms.
            if os.lstat(path).st_ctime_ns < started - 10_000_000:
                continue
        say(f"changed meanwhile, so not compared: {printable(path)} ({wrong.pop(path)})")
    if wrong:
        some = "".join(f"\n  {printable(path)}: {wrong[path]}" for path in list(wrong)[:5])
        complain(f"{len(wrong):,} of {len(right):,} files came out WRONG. This is a bug: please report it{some}")
        return 1
    say(f"verified: {len(sample):,} files against hashlib over plain reads; all runs agree on {len(right):,} digests")
    return 0


def complain(text: str) -> int:
    print(f"hash_tree: {text}", file=sys.stderr, flush=True)
    return 2


def printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def progress(wanted: bool) -> Iterator[Callable[[str, int], Step]]:
    """Gives `begin(text, total)`, which gives a `Step`. Bars (no thread that redraws disturbs the timing), or lines."""
    bars = optional("rich.progress").Progress(auto_refresh=False) if rich and wanted and sys.stdout.isatty() else None

    def begin(text: str, total: int) -> Step:
        count, shown, pause = 0, time.monotonic(), 0.1 if bars else 2.0
        bar = bars.add_task(text, total=total) if bars else None
        if wanted and not bars:
            say(text)

        def step() -> None:
            nonlocal count, shown
            count += 1
            if wanted and ((bars and count == total) or time.monotonic() - shown > pause):
                shown = time.monotonic()
                if bars:
                    bars.update(bar, completed=count, refresh=True)
                else:
                    say(f"{text}: {count:,} of {total:,} files")

        return step

    with bars or nullcontext():
        yield begin


def report(contenders: list[Contender], errors: Errors) -> None:
    """The table (medians), and what could not be read."""
    medians = [max(statistics.median(each.seconds), 1e-6) for each in contenders]
    peer = next((median for each, median in zip(contenders, medians, strict=True) if each.name == "aiofiles"), 0.0)
    rows = [["", "method", "files", "bytes", "seconds", "files/s", "MB/s", "ratio"]]
    for each, median in zip(contenders, medians, strict=True):
        files, size = len(each.results[0]), sum(size for _, size in each.results[0].values())
        row = [each.name, each.method, f"{files:,}", f"{size:,}", f"{median:.3f}", f"{files / median:,.0f}"]
        rows.append([*row, f"{size / median / 1e6:,.0f}", f"{peer / median:.2f}" if peer else "-"])
    title = "medians of 3 runs, page cache warm; ratio: to aiofiles" if len(contenders[0].seconds) > 1 else "one run"
    if rich:
        table = optional("rich.table").Table(title=title, box=optional("rich.box").SIMPLE, pad_edge=False)
        for number, name in enumerate(rows[0]):
            table.add_column(name, justify="left" if number < 2 else "right")
        for row in rows[1:]:
            table.add_row(*row)
        optional("rich.console").Console().print(table)
    else:
        say(f"rich is not installed: going on without it (pip install rich)\n{title}")
        for row in rows:
            say("".join(f"{cell:<13}" for cell in row[:2]) + "".join(f"{cell:>13}" for cell in row[2:]))
    if len(contenders) > 1:
        say("what the page cache has is read in place, whatever the method; for the disk itself try `aioring bench`")
    some = "".join(f"\n  {printable(path)}: {error.strerror}" for path, error in list(errors.items())[:5])
    say(f"{len(errors):,} could not be read{some}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hash every file of a tree through aioring, beside aiofiles.")
    add = parser.add_argument
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    add("root", nargs="?", default=stdlib, metavar="ROOT", help="default: this Python's own files")
    add(
        "--method", choices=["auto", "io_uring", "linux_aio", "worker", "sync"], help="default: AIORING_METHOD, or auto"
    )
    add("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    add("--concurrency", type=int, default=64, metavar="N", help="files at once (default: 64)")
    add("--limit", type=int, default=4000, metavar="N", help="files at most (default: 4000; 0: all)")
    add("--no-compare", dest="compare", action="store_false", help="one run by aioring, no other")
    add("--no-progress", dest="progress", action="store_false")
    options = parser.parse_args()
    if options.concurrency < 1 or options.limit < 0:
        parser.error("--concurrency is at least 1, --limit at least 0")
    return options


def main() -> int:
    options = parse()
    try:
        os.scandir(options.root).close()
    except OSError as error:
        return complain(f"{printable(options.root)}: {error.strerror}")
    if options.loop != "asyncio" and optional(options.loop) is None:
        return complain(f"{options.loop} is not installed: pip install {options.loop}")
    backend = "trio" if options.loop == "trio" else "asyncio"
    settings = {"use_uvloop": True} if options.loop == "uvloop" else {}
    status = 130
    try:
        status = anyio.run(demo, options, backend=backend, backend_options=settings)
    except* KeyboardInterrupt:  # with a star: trio hands it on inside the groups of the tasks that it ended
        complain("interrupted")
    return status


if __name__ == "__main__":
    sys.exit(main())
