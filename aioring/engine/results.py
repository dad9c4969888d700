"""What a completion comes to, and what its I/O gives: short transfers, EINTR, EAGAIN, and the result or the error.

Part of `Engine`; written once for all methods, which hand over what a CQE carries and nothing more.
"""

from __future__ import annotations

import errno
import logging
from time import perf_counter
from typing import Any

from ..errors import RingClosedError, os_error
from ..handle import COMPLETE, Handle
from ..kernel.abi import MAX_OFFSET
from ..kernel.statx import UNKNOWN, direct_alignment
from ..methods import Method
from ..methods.worker import Worker
from ..observe import slow
from ..observe.counters import Counters
from ..operations import READ, is_direct
from .fences import Fences

__all__ = ["TRIES", "Results"]

logger = logging.getLogger("aioring")

TRIES = 8  # EINTR or EAGAIN answers before the blocking equivalent is asked instead


class Results(Fences):
    """See the module."""

    open: bool
    method: Method
    workers: Worker
    counters: Counters
    _again = False  # a direct read is to be asked once more, into other memory

    def settle(self, handle: Handle, res: int) -> int | None:
        """What a completion comes to: the handle's result, or None if it has to go once more.

        It goes once more after a short transfer (a read goes on until `length` or end of file, a write until all is
        written: invariant 2), and after EINTR and EAGAIN.
        """
        operation = handle.operation
        stop = handle.cancelling or not self.open
        if res > 0 and operation.transfers:
            handle.done = handle.before + res  # not `+=`: struck by KeyboardInterrupt, this is computed again
            if handle.done >= handle.length:
                return res
            if stop:
                return -errno.ECANCELED
            self.counters.of[operation].short += 1
            handle.again += 1
            if handle.offset == MAX_OFFSET:
                handle.offset = 0  # the rest; only O_APPEND is asked so, and overrules it
            return None
        if res >= 0:
            if res == 0 and operation.transfers and not operation.reads and handle.done < handle.length:
                return -errno.EIO  # a write that moves nothing would be asked for ever
            return res
        if stop:
            return -errno.ECANCELED if res in (-errno.EINTR, -errno.EAGAIN, -512) else res
        if res == -errno.EINTR and operation.retries:
            self._once_more(handle)
            return None
        if res == -errno.EAGAIN and operation.retries and handle.served_by != self.workers.name:
            self._once_more(handle)  # from the blocking equivalent EAGAIN is the answer: O_NONBLOCK, a lease
            return None
        if res == -errno.EINVAL and operation is READ and handle.view is None and is_direct(handle.fd):
            handle.direct, handle.address = True, 0  # bytes are not aligned, but by chance: into other memory
            self._again = True
            handle.again += 1
            return None
        if res == -errno.EINVAL and operation.reads and handle.done and _within_a_block(handle.fd, handle.done):
            return 0  # a direct read that stopped inside a block has met end of file: it can't go on from there
        return res

    def _once_more(self, handle: Handle) -> None:
        handle.tries += 1
        handle.again += 1
        self.counters.of[handle.operation].retries += 1

    def take(self, handle: Handle) -> Any:
        """The result of a COMPLETE handle, or its error, raised."""
        if handle.exception is not None:
            try:
                raise handle.exception
            finally:
                del handle
        res = handle.res
        if res >= 0:
            return handle.operation.result(handle, res)
        if res == -errno.ECANCELED and (handle.shut or (not self.open and handle.link is None)):
            closed = RingClosedError(f"the ring was closed before this was done ({handle.describe(handle.served_by)})")
            closed.begun = handle.begun
            try:
                raise closed
            finally:
                del closed
        error = os_error(-res, handle.name, handle.name2, handle.describe(handle.served_by or "none"), handle.link)
        if res == -errno.EINVAL and handle.operation.transfers and is_direct(handle.fd):
            error.add_note(_what_direct_needs(handle.fd))
        try:
            raise error
        finally:
            del error  # an exception must not hold the frame that holds it

    def finish(self, handle: Handle) -> None:
        raise AssertionError("the engine does")  # pragma: no cover

    def _break(self, token: int, error: Exception) -> None:
        """Its completion could not be dealt with."""
        handle = self.live.get(token)
        if handle is None:
            logger.error("a completion could not be dealt with", exc_info=error)
            return
        if handle.state == COMPLETE:  # its result is known: whoever waits is to have it
            logger.error("a completion could not be told in full", exc_info=error.with_traceback(None))
            try:
                self.finish(handle)
            except Exception as again:
                # Whoever is to be called raises whenever it is: not once more, or nothing behind it would ever be told.
                logger.error("a completion could not be told at all", exc_info=again.with_traceback(None))
                handle.on_done = None
                self.finish(handle)
            return
        handle.exception = error.with_traceback(None)
        handle.res = -errno.ENOMEM
        if handle.chain is not None:
            handle.chain.arrived(handle, handle.res)
            self.live.pop(token, None)
        else:
            handle.state = COMPLETE
            self.finish(handle)

    def book(self, handle: Handle) -> None:
        """Count what is COMPLETE, but for what `_complete_all` and `begin` count themselves."""
        handle.booked = True
        count = self.counters.of[handle.operation]
        if handle.token or handle.again:
            count.done += 1
        else:
            count.untold += 1
        count.bytes += handle.done
        if self.counters.inline and handle.since == self.counters.inline:
            count.inline += 1
        if handle.res == -errno.ECANCELED:
            count.cancelled += 1
        elif handle.res < 0 or handle.exception is not None:
            count.errors += 1
        if handle.since and (count.waited is not None or slow.watchers):
            now = perf_counter()
            if count.waited is not None:
                count.waited.add(now - handle.since)
            if slow.watchers:
                slow.report(handle, self.counters.label, now)


def _within_a_block(fd: int, n: int) -> bool:
    found = direct_alignment(fd) if is_direct(fd) else (1, 1)
    return bool(n % (found[1] or 1 if found else UNKNOWN))


def _what_direct_needs(fd: int) -> str:
    found = direct_alignment(fd)
    memory, offset = found or (UNKNOWN, UNKNOWN)
    said = "" if found else "; the kernel does not say what this file needs, and that suits every device"
    return (
        f"fd {fd} has O_DIRECT: the buffer's address must be a multiple of {memory} bytes (aioring.alloc), "
        f"offset and length of {offset}{said}"
    )
