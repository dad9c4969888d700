"""`aioring bench [PATH]`: what would be gained on this machine, on this disk, in less than a minute.

`target` is the file, `ways` are those who read it, `measure` drives them in turns, `verdict` says what the figures mean,
and `page` makes one of HTML of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from typing import Any

import aioring

from ..console import Column as Shown, console, count, fail, number, printable, reason_of, say, show_table, whole
from ..progress import bar
from .measure import Results, measure
from .page import page, plotting
from .target import Target
from .verdict import verdict
from .ways import AIOFILES, SYNC, THREADS, ours, ways

__all__ = ["add_to"]

_SECONDS = 36.0  # of measuring; with the making of the file less than a minute
_EPILOG = """Reads of 4 KiB at random, by plain blocking calls, by threads, by aiofiles if it is there, and by each of
aioring's methods; cached, cold (the page cache is emptied of this file, and only of it) and past the page cache; idle, and
beside a thread that runs Python. Each way has its turn in each of three rounds, and the median counts.

examples:
  aioring bench                          makes a file in this folder; nothing of it is left, whatever happens
  aioring bench /srv/tiles/0.bin         reads a file that is there
  aioring bench /srv --html report.html  with plots, in one page
"""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="what would be gained on this machine and this disk",
        description="Measure reads on this machine and this disk, beside blocking calls, threads and aiofiles, and say "
        "what would be gained.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", nargs="?", default=".", metavar="PATH", help="file, or folder to make one in; default: here"
    )
    parser.add_argument(
        "--size", type=_size, default=256 << 20, metavar="N", help="of what is made or read; default: 256M"
    )
    parser.add_argument(
        "--tasks", type=whole("tasks", 1, 256), default=32, metavar="N", help="that read at once; default: 32"
    )
    parser.add_argument(
        "--seconds",
        type=number("seconds", 0.1, 3600),
        default=_SECONDS,
        metavar="S",
        help="to measure for; default: 36",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with plots, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}


def _size(text: str) -> int:
    lower = text.lower().removesuffix("b").removesuffix("i")
    number, unit = (lower[:-1], lower[-1:]) if lower[-1:] in ("k", "m", "g") else (lower, "")
    if not number.isascii() or not number.isdigit() or int(number) << _UNITS[unit] < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r}: a size of at least 1M, such as 64M")
    return (int(number) << _UNITS[unit]) // (1 << 20) * (1 << 20)


def run(arguments: argparse.Namespace) -> None:
    if not hasattr(os, "posix_fadvise"):
        fail("not on this platform: the page cache cannot be emptied (posix_fadvise)")
    pyplot = plotting() if arguments.html else None
    if arguments.html:
        _look_at(arguments.html, arguments.path)
    with Target(arguments.path, arguments.size) as target:
        facts = _facts(target)
        try:
            with bar("measuring", not arguments.json, "turns") as shown:
                results, method, reason = asyncio.run(_measured(target, arguments, shown))
        except OSError as error:
            fail(reason_of(OSError(error.errno, error.strerror, arguments.path)))  # EIO of a bad disk, say
        said = verdict(results, method, reason, target.memory)
    facts.append(("method", method if reason is None else f"{method}: {reason}"))
    if arguments.json:
        print(json.dumps(_as_dict(facts, said, results), indent=2))
    else:
        _show(facts, said, results, method)
    if pyplot is not None:  # last: if it cannot be written, the figures stand there
        heading = f"aioring bench of {printable(os.path.abspath(arguments.path))}"
        _write(arguments.html, page(pyplot, heading, facts, said, _table(results), results))


def _look_at(path: str, read: str) -> None:
    """Before a minute is spent on what cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        fail(f"{path}: there is no such folder")
    if os.path.realpath(folder).startswith(("/dev", "/proc", "/sys")):
        fail(f"{path}: the page is not written there")
    if os.path.exists(path) and (not os.path.isfile(path) or os.path.samefile(path, read)):
        fail(f"{path}: the page is not written over {'what is read' if os.path.isfile(path) else 'this'}")
    if not os.access(folder, os.W_OK):
        fail(f"{path}: nothing can be written in that folder")


def _write(path: str, text: str) -> None:
    """In one step: what is there stays there until all of it is."""
    try:
        asyncio.run(aioring.write_file(path, text.encode(), atomic=True))
    except OSError as error:
        fail(reason_of(error))


async def _measured(target: Target, arguments: argparse.Namespace, shown: Any) -> tuple[Results, str, str | None]:
    async with aioring.Ring() as ring:
        method, reason = ring.method, ring.fallback_reason
    return await measure(target, await ways(), arguments.tasks, arguments.seconds, shown), method, reason


def _facts(target: Target) -> list[tuple[str, str]]:
    looked = target.looked
    device = looked.get("device")
    where = f"{looked.get('file_system')} on {device['name'] if device else looked.get('source')}"
    made = "made for this, and gone" if target.made else "was there"
    if target.size < target.whole:
        made += f"; the first of {target.whole >> 20:,} MiB"
    return [
        ("aioring", f"{aioring.__version__}, {platform.python_implementation()} {platform.python_version()}"),
        ("machine", f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"),
        ("path", f"{printable(os.path.abspath(target.given))} ({where})"),
        ("file", f"{target.size >> 20} MiB, {made}"),
        ("when", time.strftime("%Y-%m-%d %H:%M")),
    ]


def _table(results: Results, exact: bool = True) -> list[list[str]]:
    """By column of results a row: a terminal has more lines than letters."""
    names = results.ways
    rows = [["4 KiB reads a second" if exact else "reads/s", *(name if exact else _short(name) for name in names)]]
    for column in results.columns:
        base = results.rate(THREADS, column)
        cells = (_cell(results.rate(name, column), base if name != THREADS else None, exact) for name in names)
        rows.append([column.title if exact else column.title.replace(" tasks", "").replace(" task", ""), *cells])
    return rows


def _short(name: str) -> str:
    return "threads" if name == THREADS else name.removeprefix("aioring, ")


def _cell(rate: float | None, base: float | None, exact: bool) -> str:
    if rate is None:
        return "-"
    said = f"{rate:,.0f}" if exact else count(rate)
    return f"{said} ({_ratio(rate / base)})" if base else said


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _show(facts: list[tuple[str, str]], said: list[str], results: Results, method: str) -> None:
    for name, value in facts:
        say(f"{name}: {value}")
    print()
    here = console()
    exact = here is None or here.width >= 120
    head, *rows = _table(results, exact)
    keep = {ours(method): 9, THREADS: 7, SYNC: 6, AIOFILES: 5}
    columns = [Shown(title, keep=keep.get(name, 4)) for title, name in zip(head[1:], results.ways, strict=True)]
    show_table([Shown(head[0], False, 8, "start"), *columns], rows)
    say("(in brackets: by the thread pool's" + (")" if exact else "; the last columns are aioring's methods)"))
    for name, why in results.missing.items():
        say(f"not measured: {name}: {why}")
    print()
    for sentence in said:
        say(sentence, "bold")


def _as_dict(facts: list[tuple[str, str]], said: list[str], results: Results) -> dict[str, Any]:
    rates = [
        {"way": name, **column._asdict(), "reads_per_second": results.rate(name, column), "rounds": found}
        for (name, column), found in results.rates.items()
    ]
    return {**dict(facts), "rates": rates, "missing": results.missing, "verdict": said}
