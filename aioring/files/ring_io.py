"""A file's transfers by a ring: what every open file does its I/O by.

Some facts about cancelling
---------------------------
* A read that is cancelled has moved nothing: the position is moved by `Raw`, when the bytes are there. What cannot seek is
  waited for by readiness, which takes nothing.
* A write that is cancelled belongs to the file. Its bytes are aioring's own (an immutable `bytes` object, in the handle,
  and so in `live`, until its CQE: invariant 1), so the CancelledError is delivered at once; nobody else has the file until
  the kernel is done with them, and then the position and the buffer are where they should be (`Flight`).
* While the file is being closed (`Raw.shielded`) a cancel is delivered when the transfer is over.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from ..engine import Engine
from ..errors import RingClosedError, os_error
from ..handle import Handle
from ..kernel import at_once
from ..kernel.abi import MAX_OFFSET
from ..operations import CLOSE, WRITE
from ..ring import Ring
from ..ring.known import Known
from ..ring.page_cache import SMALL
from ..ring.unseekable import MOST
from .raw import Raw

__all__ = ["Flight", "NonBlockingIo", "RingIo", "close_fd", "drop_fd", "in_its_thread"]

_MOST = 1 << 30  # bytes: of one read, on the way to the end of a file


class Flight:
    """A write under way. `landed` is called once, by the completion."""

    __slots__ = ("engine", "gone", "handle", "landed", "over", "raw", "waiter")

    def __init__(self, raw: Raw, engine: Engine, landed: Callable[[int], None]) -> None:
        self.raw, self.engine = raw, engine
        self.landed: Callable[[int], None] | None = landed
        self.handle: Handle | None = None  # what the method carries out for it
        self.waiter: Any = None
        self.gone = False  # its caller is
        self.over = False

    def finished(self) -> bool:
        return self.over

    def cancelled(self, _: Any) -> bool:
        if self.raw.shielded:
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Its caller is gone. What the kernel has not begun is taken back; what it has goes on."""
        if not self.gone and not self.over:
            self.gone = True
            self.raw.order.took_off()
            self.take_back()

    def take_back(self) -> None:
        if self.handle is not None:
            self.engine.cancel(self.handle)

    def land(self, n: int) -> None:
        """It is over: so much of it has been written. Harmless when done twice."""
        landed, self.landed = self.landed, None
        try:
            if landed is not None:
                self.raw.under_way -= 1
                if n:
                    landed(n)
        finally:
            if self.waiter is not None:
                self.engine.loop.wake(self.waiter)
            if self.gone and landed is not None:
                self.raw.order.landed()


class _Write(Flight):
    """One I/O."""

    __slots__ = ()

    def arrived(self, handle: Handle) -> None:
        """`on_done`: the method is done with the bytes. Harmless when done twice."""
        raw, n, before = self.raw, handle.done, self.over
        self.over = True
        try:
            if n and not before:
                raw.position += n
                if raw.appends and raw.fd >= 0:
                    # Where the kernel put it: without an offset it moves the fd's position. (But the rest of a short write
                    # goes to an offset, which O_APPEND overrules, and moves nothing.)
                    raw.position = os.fstat(raw.fd).st_size if handle.again else os.lseek(raw.fd, 0, os.SEEK_CUR)
        except OSError:
            pass  # somebody has closed the fd: the next call says so
        finally:
            self.land(n)


async def close_fd(ring: Ring, fd: int) -> None:
    """Close what was opened here; in place, where the ring is closed. Once asked for it goes on, cancelled or not."""
    try:
        await ring.close(fd)
    except RingClosedError as error:
        if not error.begun:  # else its number may be somebody else's by now
            os.close(fd)


def in_its_thread(engine: Engine, call: Callable[[], Any]) -> None:
    """Whoever held something was dropped, in whatever thread the garbage is collected: call in the loop's, whether it runs
    or not, or leave it to that."""
    if engine.doorbell.thread == threading.get_ident() or engine.ended or not engine.workers.hand_over(call):
        call()


def drop_fd(engine: Engine | None, fd: int) -> None:
    """Whoever had it was dropped: close it behind what is in flight on it."""
    if engine is None or engine.ended:
        os.close(fd)
    else:
        in_its_thread(engine, partial(_ask_close, engine, fd))


def _ask_close(engine: Engine, fd: int) -> None:
    if engine.ended:
        os.close(fd)
    else:
        close = Handle(CLOSE, fd)
        close.orphan = True
        engine.ask(close)


class RingIo:
    """One file's, and its hold on the ring."""

    __slots__ = ("ring",)

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    async def read(self, raw: Raw, n: int) -> bytes | None:
        if not raw.streams:
            known = raw.known or self._know(raw)
            return await self.ring._read_known(known, raw.position, n)
        memory = bytearray(min(n, MOST))
        got = await self.ring._receive(raw.fd, memory)
        return bytes(memory[:got])

    def _know(self, raw: Raw) -> Known:
        raw.known = Known(raw.fd, raw.regular)
        return raw.known  # type: ignore[no-any-return]

    def rest_here(self, raw: Raw) -> bytes | None:
        """`rest` of a small file, where it does not suspend."""
        if not raw.regular:
            return None
        size = raw.size if raw.size >= 0 and perf_counter() < raw.fresh else -1
        return None if size >= SMALL else self.ring._rest_at_hand(raw.fd, raw.position, size, raw.known)

    async def rest(self, raw: Raw) -> bytes:
        found = self.rest_here(raw)
        if found is not None:
            return found
        ring, known, at = self.ring, raw.known or self._know(raw), raw.position
        # Its size is a first guess: /proc has none, and files grow. Fewer bytes than were asked for mean end of file.
        size = await self.size(raw) if raw.regular else 0
        parts: list[bytes] = []
        while True:
            n = min(size - at, _MOST) if size > at else SMALL
            part = await ring._read_known(known, at, n)
            if part:
                parts.append(part)
                at += len(part)
            if len(part) < n:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        ring = self.ring
        if raw.streams:
            n = await ring._send(raw.fd, memoryview(data)[:MOST])
            landed(n)
            return n
        engine = ring._engine
        handle = Handle(WRITE, raw.fd, MAX_OFFSET if raw.appends else raw.position, len(data))
        handle.view = data
        flight = _Write(raw, engine, landed)
        flight.handle, handle.on_done = handle, flight.arrived
        raw.under_way += 1
        try:
            engine.ask(handle)
            await engine.loop.park(flight, flight.cancelled)
        except BaseException:
            flight.abandon()
            raise
        if handle.done:
            return handle.done  # the error behind a part of it is said by the next
        result: int = engine.take(handle)
        return result

    async def size(self, raw: Raw) -> int:
        status = at_once.stat_of_fd(raw.fd)  # where it might wait: None
        if status is None:
            status = await self.ring.stat(raw.fd)
        return status.st_size

    async def truncate(self, raw: Raw, size: int) -> None:
        await self.ring.truncate(raw.fd, size)

    async def find(self, raw: Raw, offset: int, whence: int) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = offset + raw.position, os.SEEK_SET
        try:
            return await self.ring.run(os.lseek, raw.fd, offset, whence)
        except OverflowError:
            raise os_error(errno.EINVAL) from None

    async def close(self, raw: Raw, fd: int) -> None:
        if raw.known is not None:
            raw.known.close()
        if raw.opened_here and self.ring._close_here(fd, False):
            return
        if self.ring.closed:
            os.close(fd)
        else:
            await self.ring.close(fd)


class NonBlockingIo(RingIo):
    """The same of an fd that cannot seek and was given O_NONBLOCK, for who wants what `io`'s files do with it: what is not
    there yet is not waited for."""

    __slots__ = ()

    async def read(self, raw: Raw, n: int) -> bytes | None:
        try:
            return os.read(raw.fd, n)
        except BlockingIOError:
            return None

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        try:
            n = os.write(raw.fd, data)
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0) from None
        landed(n)
        return n
