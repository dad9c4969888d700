"""Cancelling: what the task that awaits an I/O may do at once, and what has to wait for the kernel.

Part of `Engine`. The memory of a handle that is in flight is kept by `live` until its completion has come, whoever awaits
it and whatever happens to them (invariant 1); docs/decisions/0004 says what a cancel waits for.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from ..handle import COMPLETE, DEFINED, SUBMITTED, Handle
from ..operations import CLOSE
from .chains import Chain
from .results import Results

__all__ = ["Cancelling"]


class Cancelling(Results):
    """See the module."""

    _dead = 0  # cancelled handles that still stand in the backlog
    _flush_at_the_end_of_the_tick: Callable[[], Any]

    def cancel(self, handle: Handle) -> bool:
        """The task that awaits the handle was cancelled. True: that may be delivered at once.

        The handle keeps its memory until its completion has come, whoever awaits it (invariant 1).
        """
        state = handle.state
        if state == COMPLETE:
            self.dispose(handle)
            return True
        if self.ended:
            return True  # the loop of a forked child is torn down: what is in flight is the parent's
        if handle.operation is CLOSE:
            handle.orphan = True  # a close goes on: an fd that was given up must not stay open
            return True
        if state != SUBMITTED and self.live.get(handle.token) is not handle:
            # Not told, or between two transfers: no memory is in anybody's hands.
            handle.res = -errno.ECANCELED
            handle.state = COMPLETE
            self.finish(handle)
            if state == DEFINED:
                self._sweep()
            return True
        self.ask_cancel(handle)
        if handle.operation.settles or handle.settles:
            return False
        handle.orphan = True
        return True

    def cancel_links(self, links: list[Handle]) -> None:
        for link in links:
            if link.state == SUBMITTED:
                self.ask_cancel(link)

    def _sweep(self) -> None:
        """Cancelled handles leave the backlog when their turn comes, or when they have become most of it."""
        self._dead += 1
        if self._dead > 64 and self._dead > len(self.backlog) // 2:
            self._dead = 0
            self.backlog = deque(
                what
                for what in self.backlog
                if (not what.finished() if isinstance(what, Chain) else what.state == DEFINED)
            )

    def ask_cancel(self, handle: Handle) -> None:
        handle.cancelling = True
        (self.method if handle.served_by == self.method.name else self.workers).cancel(handle)
        self._flush_at_the_end_of_the_tick()

    def dispose(self, handle: Handle) -> None:
        """Nobody will take this result: an fd in it must be closed."""
        handle.orphan = False
        fd = handle.brought(handle.res)
        if fd >= 0:
            handle.res = -errno.ECANCELED
            if self.ended:
                os.close(fd)
                return
            close = Handle(CLOSE)
            close.fd, close.orphan = fd, True
            self.ask(close)

    def forsake(self, handle: Handle) -> None:
        """Whoever asked is gone, by a cancel (which was dealt with) or by KeyboardInterrupt (which was not)."""
        handle.exception = None
        if handle.state == COMPLETE:
            self.release(handle.fd, handle)  # struck before it was
            self.dispose(handle)
            return
        handle.orphan = True
        if handle.state == SUBMITTED or self.ended:
            return
        if handle.operation is not CLOSE:
            self.cancel(handle)
        elif handle.state == DEFINED:
            fence = self.closing.get(handle.fd)
            if fence is not None and fence.owner is handle:
                self._go_if_free(handle, [handle.fd])  # struck before it could stand in line
