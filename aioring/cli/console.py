"""How the commands speak: by rich where it is installed and somebody looks at a terminal, else in plain text; errors in one
line. Into a pipe go lines that are whole, without colours, whatever is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TextIO

__all__ = [
    "FILLED", "Column", "Failure", "console", "count", "cut", "fail", "number", "plain", "printable", "reason_of", "say",
    "seconds", "show_table", "sized", "table", "whole",
]  # fmt: skip


_ADVICE = re.compile(r"aioring: (?!.*(, by \w+|from the kernel's cache)$)")  # not: which operation it was


FILLED: set[int] = set()
"""Which of 0, 1 and 2 were closed from the start."""


class Failure(Exception):
    """What a command says, in one line, before it ends with status 2."""


def fail(message: str) -> NoReturn:
    """Made printable where it is said."""
    raise Failure(message)


def reason_of(error: Exception) -> str:
    """One line: the name, what was wrong, and what to do."""
    notes = [note.removeprefix("aioring: ") for note in getattr(error, "__notes__", ()) if _ADVICE.match(note)]
    if isinstance(error, OSError) and error.strerror:
        given = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        names = " to ".join(os.fsdecode(name) or repr(name) for name in given)
        said = f"{names}: {error.strerror}" if names else error.strerror
    else:
        said = str(error)
    return "; ".join(printable(part) for part in (said, *notes))


def printable(text: str) -> str:
    """Text of somebody else's, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def console(stream: TextIO | None = None) -> Any:
    """A rich Console on stdout, or on `stream`; None where rich is missing, or nobody looks at a terminal."""
    shown: TextIO = stream or sys.stdout
    if not shown.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise  # as print() does; rich's own ends the program with status 1

    return Ours(file=shown, highlight=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """A paragraph."""
    here = console()
    if here is None:
        print(text)
    else:
        from rich.text import Text

        here.print(Text(text, style=style))


class Column(NamedTuple):
    title: str
    right: bool = True  # numbers
    keep: int = 0  # the lowest go first where there is no room for all
    cut: str = ""  # text that may be cut: its "start" is what is left, or its "end" (of a path)


def sized(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], list[int]]:
    """Which columns there is room for, and how wide they are; a terminal of 20 columns still has some. `width`: 0: any."""
    natural = [max([len(column.title), *(len(row[n]) for row in rows)]) for n, column in enumerate(columns)]
    least = [
        min(natural[n], max(len(column.title), 8)) if column.cut else natural[n] for n, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if not width:
        return shown, natural
    while len(shown) > 1 and sum(least[n] + 2 for n in shown) - 2 > width:
        shown.remove(min(reversed(shown), key=lambda n: columns[n].keep))
    widths = [least[n] for n in shown]
    left = width - sum(widths) - 2 * (len(shown) - 1)
    for place, n in enumerate(shown):
        more = min(natural[n] - widths[place], max(left, 0))
        widths[place] += more
        left -= more
    return shown, [min(size, width) for size in widths]


def plain(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int = 0) -> list[str]:
    """A table as lines; none where there is no row."""
    shown, widths = sized(columns, rows, width)
    lines = []
    for row in ([column.title for column in columns], *rows) if rows else ():
        cells = []
        for n, size in zip(shown, widths, strict=True):
            text = cut(row[n], size, columns[n].cut)
            cells.append(text.rjust(size) if columns[n].right else text.ljust(size))
        lines.append("  ".join(cells).rstrip())
    return lines


def cut(text: str, size: int, keeps: str = "start") -> str:
    if len(text) <= size:
        return text
    return "…" + text[len(text) - size + 1 :] if keeps == "end" else text[: size - 1] + "…"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Any:
    """The same for rich, with titles that stand out."""
    from rich.text import Text

    lines = plain(columns, rows, width)
    return Text("\n").join(Text(line, style="" if n else "underline", no_wrap=True) for n, line in enumerate(lines))


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    here = console()
    if here is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        print("\n".join(plain(columns, rows, width)))
    else:
        here.print(table(columns, rows, here.width))


def count(n: float) -> str:
    """Five letters at most: 1234567 is 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if n >= size:
            value = n / (1e3 if unit == "k" else size)
            return f"{value:.0f}{unit}" if value >= 99.5 else f"{value:.1f}{unit}"
    return f"{n:.0f}"


def seconds(value: float | None) -> str:
    """A time that somebody waited."""
    if value is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.0f} {unit}" if value / size >= 99.5 else f"{value / size:.1f} {unit}"
    return f"{value * 1e6:.1f} us" if value else "0"


def whole(what: str, low: int, high: int) -> Callable[[str], int]:
    """For argparse: a whole number."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: {what}, a whole number from {low} to {high}")
        return int(text)

    return parse


def number(what: str, low: float, high: float) -> Callable[[str], float]:
    """For argparse: a number."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: {what}, from {low:g} to {high:g}")
        return value

    return parse
