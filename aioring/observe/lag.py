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
from collections import deque
from types import FrameType, TracebackType
from typing import Any, Self

from ..handle import Handle
from ..loops import current
from .in_flight import target_of
from .slow import seconds_of

__all__ = ["LoopLag", "loop_lag"]

logger = logging.getLogger("aioring.lag")
_PACKAGE = __name__.partition(".")[0]
# Where a loop runs its callbacks: who gets here without meeting anybody's code is in none of them.
_LOOPS = {
    ("asyncio.base_events", "_run_once"), ("asyncio.base_events", "run_forever"), ("asyncio.runners", "run"),
    ("uvloop", "run"), ("trio._core._run", "unrolled_run"),
}  # fmt: skip
_STILL = 1.0  # seconds after which a loop that still stands still is logged


class LoopLag:
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
        self._loop.at_close(self.close)
        self._move()
        threading.Thread(target=self._watch, name="aioring-lag", daemon=True).start()

    def close(self) -> None:
        """Twice is harmless."""
        if self._over.is_set():
            return
        self._over.set()
        if self._take_back is not None and self._loop.running_here():
            self._take_back()
        self._loop.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move(self) -> None:
        """On the loop."""
        now = time.monotonic()
        late, self._mark = now - self._mark - self._every, now
        if late > self.threshold:
            self._late.append(late)
        if not self._over.is_set():
            self._take_back = self._loop.call_later(self._every, self._move)

    def _watch(self) -> None:
        """On our own thread."""
        who: str | None = None
        said = False
        while not self._over.wait(self._every / 2):
            while self._late:
                self._log("was late by %.0f ms: %s", self._late.popleft(), who)
                who, said = None, False
            late = time.monotonic() - self._mark - self._every
            if late <= self.threshold:
                continue
            if not self._runs():
                self._mark = time.monotonic()  # nobody runs it just now
            elif who is None:
                who = self._who()
            elif late > _STILL and not said:
                said = True
                self._log("has stood still for %.0f ms, and still does: %s", late, who)
        while self._late:
            self._log("was late by %.0f ms: %s", self._late.popleft(), who)
            who = None

    def _runs(self) -> bool:
        runs = getattr(self._loop.key, "is_running", None)
        return bool(runs()) if runs is not None else True

    def _log(self, text: str, late: float, who: str | None) -> None:
        blamed = who or "by what, is not known (whoever it was kept the GIL)"
        fields = {"ms": round(late * 1000, 1), "by": who}
        logger.warning("the event loop " + text, late * 1000, blamed, extra={"aioring": fields})

    def _who(self) -> str | None:
        frame = sys._current_frames().get(self._thread)
        try:
            return None if frame is None else who(frame)
        finally:
            del frame  # it would keep all of the stack's objects alive


def who(frame: FrameType) -> str:
    """What the thread is at whose innermost frame this is."""
    at: FrameType | None = frame
    while at is not None and _is_library(at):
        if (_module(at), at.f_code.co_name) in _LOOPS:
            return "by nobody's code: the loop's thread waits for the GIL, or for a CPU, that others have"
        at = at.f_back  # json, ssl, pathlib ...: on behalf of whom?
    at = at or frame
    if _module(at).partition(".")[0] == _PACKAGE:
        return f"in {_io(at) or 'aioring'} ({_place(at)})"
    line = linecache.getline(at.f_code.co_filename, at.f_lineno).strip()
    return f"not by an I/O of aioring: {_place(at)}" + (f": {line}" if line else "")


def _io(frame: FrameType) -> str | None:
    """The I/O that these frames of aioring are at, by what they call their variables."""
    inside = "io_uring_enter(2), with " if frame.f_code.co_name in ("_enter", "now", "get_events") else ""
    at: FrameType | None = frame
    while at is not None and _module(at).partition(".")[0] == _PACKAGE:
        names = at.f_locals
        for name in ("handle", "r"):
            handle = names.get(name)
            if isinstance(handle, Handle):
                return inside + _of(handle)
        fd, offset, n = names.get("fd"), names.get("offset"), names.get("n")
        if isinstance(fd, int) and isinstance(offset, int) and isinstance(n, int):
            return f"a read of {n} bytes at {offset} of {target_of(fd)}"
        at = at.f_back
    return None


def _of(handle: Handle) -> str:
    target = handle.name if handle.name is not None else target_of(handle.fd)
    if handle.operation.transfers:
        return f"a {handle.operation.name} of {handle.length} bytes at {handle.offset} of {target}"
    return f"a {handle.operation.name} of {target}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    name = _module(frame).partition(".")[0]
    return name in sys.stdlib_module_names or name in ("anyio", "trio", "uvloop")  # "__main__" is in neither


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


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
