"""`get_ring()`: one ring for each running loop, made on first use and closed with its loop."""

from __future__ import annotations

import os
import threading
import weakref

from ..loops import current
from . import Ring

__all__ = ["get_ring"]

_here = threading.local()


def get_ring() -> Ring:
    """The ring of the loop that runs here: made on first use, closed when the loop is.

    It takes its settings from the environment (`AIORING_METHOD`, `AIORING_WORKERS`, `AIORING_DEPTH`,
    `AIORING_LIBURING`). Where io_uring cannot be had it falls back to worker threads and says so once, at INFO, on the
    logger `aioring`; it never raises for lack of a ring. In a forked child it makes a new one.

    Raises:
        WrongLoopError: no event loop runs in this thread.
    """
    loop = current()
    known: tuple[int, weakref.ref[object], Ring] | None = getattr(_here, "known", None)
    if known is not None:
        pid, key, ring = known
        if key() is loop.key and pid == os.getpid() and not ring.closed:
            return ring
    ring = Ring()
    ring._of_loop = True
    ring._start()
    _here.known = (os.getpid(), weakref.ref(loop.key), ring)
    return ring
