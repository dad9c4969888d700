"""A progress bar on the terminal that stderr is: rich's, or a line of our own; nothing where it is none. What else is said
meanwhile goes past it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from .. import errors
from .console import console, printable, reason_of

__all__ = ["WRONG", "Trouble", "above_the_bar", "bar"]

WRONG = (OSError, ValueError, EOFError, errors.AioringError)  # with one file, which is no reason not to read the next
Shown = Callable[[int, int | None], None]
_live: list[Any] = []  # the console, or line, whose bar stands there


@contextmanager
def bar(title: str, wanted: bool, unit: str = "bytes") -> Iterator[Shown]:
    """Gives a function that is told how many of them are done, of how many (None: nobody knows)."""
    screen = console(sys.stderr) if wanted else None
    if screen is not None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        name, counted = TextColumn("{task.description}", markup=False), (DownloadColumn(), TransferSpeedColumn())
        columns: tuple[Any, ...] = (name, BarColumn(), *(counted if unit == "bytes" else (MofNCompleteColumn(),)))
        if screen.width < 60:
            columns = (BarColumn(None),)
        # What is printed is for whoever reads standard output, not for rich.
        with Progress(
            *columns, console=screen, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as progress:
            task = progress.add_task(title, total=None)
            _live.append(screen)
            try:
                yield lambda done, total: progress.update(task, completed=done, total=total)
            finally:
                _live.remove(screen)
    elif wanted and sys.stderr.isatty():
        line = _Line(title, unit)
        _live.append(line)
        try:
            yield line.tell
        finally:
            _live.remove(line)
            line.clear()
    else:
        yield lambda done, total: None


class _Line:
    """Where rich is missing."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._next, self._width = title, unit, 0.0, 0

    def tell(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            share = f"{done / total:4.0%}" if total else ""
            so_far = f"{done / 1e6:,.0f} MB" if self._unit == "bytes" else f"{done} {self._unit}"
            text = f"{self._title}: {so_far} {share}"
            self._width = max(self._width, len(text))
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)

    def print(self, text: str, **_: Any) -> None:
        """As rich's console has it."""
        self.clear()
        print(text, file=sys.stderr)


def above_the_bar(text: str, stream: TextIO) -> None:
    """A line for a terminal, past the bar if one stands there."""
    if _live:
        _live[-1].print(text, markup=False, soft_wrap=True)
    else:
        print(text, file=stream)


class Trouble:
    """What went wrong with some of the files, each in one line on stderr, and so in the exit status."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def with_one(self, error: Exception, name: Any = None) -> None:
        self._arguments.status = 1
        said = reason_of(error)
        if name is not None and not (isinstance(error, OSError) and error.filename):
            said = f"{printable(str(name)) or repr(name)}: {said.removeprefix(': ')}"
        self.warn(said)

    def warn(self, text: str) -> None:
        with suppress(OSError):  # nobody may be listening: the exit status says it as well
            above_the_bar(f"aioring {self._arguments.command}: {text}", sys.stderr)
