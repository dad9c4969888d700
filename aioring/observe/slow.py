"""`aioring.slow_io(threshold)`: one line in the log for each I/O that took longer, with its task and its file.

The engines look at `limit` once a turn; while nobody watches nothing is measured.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import asdict

from ..handle import Handle
from .in_flight import InFlight, context_of, record
from .watching import Watching, seconds_of

__all__ = ["SlowIo", "report", "slow_io", "watchers"]

logger = logging.getLogger("aioring.slow")
Report = Callable[[InFlight, "Context | None"], object]
watchers: tuple[SlowIo, ...] = ()
_lock = threading.Lock()
limit = math.inf  # the lowest threshold of any of them, in seconds


class SlowIo(Watching):
    """What `slow_io` gives: `close` it, or leave its `with` block, and nothing is logged any more."""

    def __init__(self, threshold: float, report: Report) -> None:
        self.threshold = threshold
        self.report = report

    def close(self) -> None:
        """Twice is harmless."""
        _watch(less=self)

    def __repr__(self) -> str:
        return f"<aioring.slow_io({self.threshold!r}){'' if self in watchers else ', closed'}>"


def slow_io(threshold: float, *, report: Report | None = None) -> SlowIo:
    """Log each I/O of this process that takes `threshold` seconds or longer, from being asked for to being complete.

    One line an I/O, at WARNING on the logger `aioring.slow`, as `key=value`: what it was, of which file, for how long, on
    whose behalf, and what it came to. The same is on the record as the dict `record.aioring`, for handlers that write
    JSON. It holds for all rings and threads, those made later included, until what is returned is closed:

        with aioring.slow_io(0.1): ...

    `report`: called instead, on the loop's thread, with the record (its `age` is how long it took) and the context of the
    task that awaits it, if one does. What it raises is logged and ends nothing.

    What waits for a pipe's or terminal's peer is not slow and is not logged; nor is what is had in place, which takes no
    time or makes the loop late: see `loop_lag`. What never completes is never logged: see `in_flight`.

    Raises:
        ValueError: `threshold` is negative, or no number.
    """
    watcher = SlowIo(seconds_of(threshold), report or _log)
    _watch((watcher,))
    return watcher


def _watch(more: tuple[SlowIo, ...] = (), less: SlowIo | None = None) -> None:
    global watchers, limit
    with _lock:  # of those who change it; who looks takes the tuple as it is
        watchers = tuple(watcher for watcher in (*watchers, *more) if watcher is not less)
        limit = min((watcher.threshold for watcher in watchers), default=math.inf)


def report(handle: Handle, ring: str, now: float) -> None:
    """The handle is complete, `now`. Called before who awaits it is woken: only then is its name to be had. Nothing that
    goes wrong in here may keep anybody from being woken."""
    seconds = now - handle.since
    interested = [watcher for watcher in watchers if seconds >= watcher.threshold]
    if not interested or not handle.since:
        return
    result = handle.done if handle.operation.transfers and handle.res >= 0 else handle.res
    try:
        seen, context = record(handle, ring, result, now), context_of(handle)
    except Exception as error:  # a Task class of somebody's own, say
        _failed(error)
        return
    for watcher in interested:
        _tell(watcher, seen, context)


def _tell(watcher: SlowIo, seen: InFlight, context: Context | None) -> None:
    try:
        watcher.report(seen, context)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # CancelledError, too: it is not the loop's task that was cancelled
        _failed(error)


def _failed(error: BaseException) -> None:
    # As text: a record may be kept, and with an exception its frames, and in them the handle and its buffer.
    with suppress(Exception):  # a handler of somebody's own may be what failed
        logger.error("the report of a slow I/O failed: %s", "".join(traceback.format_exception(error)).strip())


def _log(seen: InFlight, _: Context | None) -> None:
    fields = {name: value for name, value in asdict(seen).items() if value is not None and name != "state"}
    fields["ms"] = round(fields.pop("age") / 1000, 1)
    words = (f"{name}={_word(value)}" for name, value in fields.items())
    logger.warning("slow_io %s", " ".join(words), extra={"aioring": fields})


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "'\"=" for c in text) else text
