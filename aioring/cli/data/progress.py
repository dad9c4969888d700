"""A progress bar on the terminal that stderr is: rich's, or a line of our own; nothing where it is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..console import console, printable, reason_of

__all__ = ["Trouble", "bar"]

Shown = Callable[[int, int | None], None]


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
        with Progress(*columns, console=screen, transient=True) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    elif wanted and sys.stderr is not None and sys.stderr.isatty():
        yield _Line(title, unit).tell
        print("\r\x1b[K" if _understands() else "", end="", file=sys.stderr, flush=True)
    else:
        yield lambda done, total: None


def _understands() -> bool:
    import os

    return os.environ.get("TERM", "dumb") != "dumb"


class _Line:
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._next = title, unit, 0.0

    def tell(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            share = f"{done / total:4.0%}" if total else ""
            so_far = f"{done / 1e6:,.0f} MB" if self._unit == "bytes" else f"{done} {self._unit}"
            print(f"\r{self._title}: {so_far} {share} ", end="", file=sys.stderr, flush=True)


class Trouble:
    """What went wrong with some of the files, each in one line on stderr. `status` of the command."""

    def __init__(self, command: str) -> None:
        self._command, self.status = command, 0

    def with_one(self, error: OSError | ValueError, name: Any = None) -> None:
        said = reason_of(error)
        if name is not None and not isinstance(error, OSError):
            said = f"{printable(str(name))}: {said}"
        print(f"aioring {self._command}: {said}", file=sys.stderr)
        self.status = 1
