"""`get_ring()`: one ring for each running loop, made on first use and closed with its loop."""

from __future__ import annotations

import threading
import weakref
from asyncio.events import _get_running_loop

from ..loops import current
from . import Ring

__all__ = ["get_ring"]

_here = threading.local()  # `ring`: what was given last in this thread


def get_ring() -> Ring:
    """The ring of the loop that runs here: made on first use, closed when the loop is.

    It takes its settings from the environment (`AIORING_METHOD`, `AIORING_WORKERS`, `AIORING_DEPTH`,
    `AIORING_LIBURING`). Where io_uring cannot be had it falls back to the kernel's older AIO, or to worker threads, and
    says so once, at INFO, on the logger `aioring`; it never raises for lack of a ring. In a forked child it makes a new
    one.

    Raises:
        WrongLoopError: no event loop runs in this thread.
    """
    find: weakref.ref[Ring] | None = getattr(_here, "ring", None)
    ring = find() if find is not None else None
    if ring is not None:
        # Of asyncio's running loop, and open: what `_usable` would say, at half the price.
        running, engine = _get_running_loop(), ring._started
        if running is not None and ring._loop_here is running and engine is not None and engine.open:
            return ring
    if ring is None or not _usable(ring):
        # Another loop ran in this thread meanwhile, or this is the first call.
        loop = current()
        ring = loop.kept()
        if ring is None or not _usable(ring):
            ring = Ring()
            ring._of_loop = True
            ring._start()
            loop.keep(ring)
        _here.ring = weakref.ref(ring)
    return ring


def _usable(ring: Ring) -> bool:
    engine = ring._started
    return engine is not None and engine.open and engine.loop.running_here()
