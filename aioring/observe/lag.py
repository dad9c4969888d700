"""`aioring.loop_lag(threshold)`: who held up the event loop, by name; and if it was an I/O, which.

The loop's thread is never asked. It moves a mark now and then (a timer of the loop); a thread of our own looks at the mark,
and when it stands still for longer than it may, at the Python frames in which the loop's thread is held up just then. So
the price is two timers in each threshold, and nothing on the way of an I/O.

What can hold a loop up in here: a read that was thought to be in memory and is not, io_uring_enter(2), in which the kernel
carries out what it can, `method="sync"`. Most often it is none of these, but code of the application's own, and that is
named as well: the innermost line of it.
"""

from __future__ import annotations

import linecache
import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from ..handle import Handle
from ..loops import current
from .in_flight import target_of
from .watching import Watching, seconds_of

__all__ = ["LoopLag", "loop_lag"]

logger = logging.getLogger("aioring.lag")
_PACKAGE = __name__.partition(".")[0]
# Where a loop runs its callbacks: who gets here without meeting anybody's code is in none of them.
_LOOPS = {
    ("asyncio.base_events", "_run_once"), ("asyncio.base_events", "run_forever"), ("asyncio.runners", "run"),
    ("uvloop", "run"), ("trio._core._run", "unrolled_run"),
}  # fmt: skip
_DEEP = 200  # frames
_STILL = 1.0  # seconds after which a loop that still stands still is logged


class LoopLag(Watching):
    """What `loop_lag` gives: `close` it, or leave its `with` block, to end it. It ends with its loop, too."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._every = threshold / 2
        self._loop = current()
        self._thread = threading.get_ident()
        self._over = threading.Event()
        self._late: deque[float] = deque()
        self._take_back: Any = None
        self._mark = time.monotonic()
        self._who: str | None = None
        self._said = False
        self._loop.at_close(self.close)
        self._move()
        # By a weak reference: a loop that is dropped is not to be kept by who watches it.
        watching = partial(_watch, weakref.ref(self), self._over, min(self._every / 2, _STILL))
        threading.Thread(target=watching, name="aioring-lag", daemon=True).start()

    def close(self) -> None:
        """Twice is harmless."""
        if self._over.is_set():
            return
        self._over.set()
        if self._take_back is not None and self._loop.running_here():
            self._take_back()
        self._loop.done()

    def _move(self) -> None:
        """On the loop."""
        now = time.monotonic()
        late, self._mark = now - self._mark - self._every, now
        if late > self.threshold:
            self._late.append(late)
        if not self._over.is_set():
            self._take_back = self._loop.call_later(self._every, self._move)

    def look(self) -> None:
        """On our own thread."""
        while self._late:
            self._log("was late by %.0f ms: %s", self._late.popleft())
            self._who, self._said = None, False
        late = time.monotonic() - self._mark - self._every
        if late <= self.threshold or self._over.is_set():
            return
        if not self._runs():
            self._mark, self._who, self._said = time.monotonic(), None, False  # nobody runs it just now
        elif self._who is None:
            self._who = _who(_places_of(self._thread))
        elif late > _STILL and not self._said:
            self._said = True
            self._log("has stood still for %.0f ms, and still does: %s", late)

    def _runs(self) -> bool:
        runs = getattr(self._loop.key, "is_running", None)
        return bool(runs()) if runs is not None else True

    def _log(self, text: str, late: float) -> None:
        blamed = self._who or "by what, is not known (whoever it was kept the GIL)"
        fields = {"ms": round(late * 1000, 1), "by": self._who}
        with suppress(Exception):  # a handler of somebody's own
            logger.warning("the event loop " + text, late * 1000, blamed, extra={"aioring": fields})


def _watch(find: weakref.ref[LoopLag], over: threading.Event, pause: float) -> None:
    while not over.wait(pause):
        lag = find()
        if lag is None:
            return
        lag.look()
        del lag
    lag = find()
    if lag is not None:
        lag.look()


@dataclass(frozen=True, slots=True)
class _Place:
    """What is kept of a frame: no object of the application's, so that none is kept alive, or ends in our thread."""

    module: str
    function: str
    qualname: str
    file: str
    line: int
    io: tuple[str, Any, int, int | None, int] | None  # operation, path, fd, offset, length

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.qualname}"


def _places_of(thread: int) -> list[_Place]:
    """Where the thread is, from the innermost frame outwards, as far as the loop that runs it."""
    found: list[_Place] = []
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None and len(found) < _DEEP:
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        io = _io(frame.f_locals) if _top(module) == _PACKAGE else None
        found.append(_Place(module, code.co_name, code.co_qualname, code.co_filename, frame.f_lineno, io))
        if (module, code.co_name) in _LOOPS:
            break
        frame = frame.f_back
    return found


def _io(names: Mapping[str, Any]) -> tuple[str, Any, int, int | None, int] | None:
    """The I/O that a frame of aioring's own is at, by what it calls its variables."""
    for name in ("handle", "r"):
        handle = names.get(name)
        if isinstance(handle, Handle):
            offset = handle.offset if handle.operation.transfers else None
            return handle.operation.name, handle.name, handle.fd, offset, handle.length
    fd, offset, n = names.get("fd"), names.get("offset"), names.get("n")
    if type(fd) is int and type(offset) is int and type(n) is int:
        return "read", None, fd, offset, n
    return None


def _who(places: list[_Place]) -> str | None:
    """Whom to name, in words."""
    if not places:
        return None
    # json, ssl, pathlib ...: on behalf of whom?
    theirs = [number for number, place in enumerate(places) if not _is_library(place.module)]
    if not theirs and (places[-1].module, places[-1].function) in _LOOPS:
        return "by nobody's code: the loop's thread waits for the GIL, or for a CPU, that others have"
    number = theirs[0] if theirs else 0
    place = places[number]
    if _top(place.module) != _PACKAGE:
        line = linecache.getline(place.file, place.line).strip()
        return f"not by an I/O of aioring: {place}" + (f": {line}" if line else "")
    what = "aioring"
    for inner in places[number:]:
        if _top(inner.module) != _PACKAGE:
            break
        if inner.io is not None:
            what = _words(*inner.io)
            break
    inside = "io_uring_enter(2), with " if place.function in ("_enter", "now", "get_events") else ""
    return f"in {inside}{what} ({place})"


def _words(operation: str, path: Any, fd: int, offset: int | None, length: int) -> str:
    target = path if path is not None else target_of(fd)
    return (
        f"a {operation} of {target}" if offset is None else f"a {operation} of {length} bytes at {offset} of {target}"
    )


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_library(module: str) -> bool:
    return _top(module) in sys.stdlib_module_names or _top(module) in ("anyio", "trio", "uvloop")


def loop_lag(threshold: float = 0.05) -> LoopLag:
    """Log whenever the event loop that runs here is late by more than `threshold` seconds, and who held it up.

    At WARNING on the logger `aioring.lag`: by how much, and by which I/O of aioring on which file, or by which line of
    whose code. `record.aioring` has the same as a dict. It goes on until what is returned is closed, or the loop is:

        with aioring.loop_lag(0.1): ...

    A thread looks four times in each threshold, so what is late by less than a quarter more may go without a name.

    Raises:
        ValueError: `threshold` is not above 0, or no number.
        WrongLoopError: no event loop runs here.
    """
    seconds = seconds_of(threshold)
    if not seconds:
        raise ValueError(f"threshold {threshold!r}: must be above 0")
    return LoopLag(seconds)
