"""A file's transfers by the blocking calls, here and now: for what has to be finished when there is no ring any more.

`drive` runs to its end a coroutine that never suspends, as the layers do over `IN_PLACE`: a file that is collected, or
whose loop ends, writes what it accepted. The tests drive the layers by it, too.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..buffers import alloc
from .direct import size_of
from .raw import Raw
from .sectors import widened

__all__ = ["IN_PLACE", "DirectInPlace", "InPlace", "drive"]

T = TypeVar("T")
_GRACE = 1.0  # seconds
_PIECE = 1 << 20  # bytes


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a layer over IN_PLACE was suspended")


def _ready(fd: int) -> int:
    """How much a pipe surely takes without waiting. For who reads from it a second is waited, and no longer: it may be the
    very loop that ends here."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(_GRACE * 1000):
        raise BlockingIOError(errno.EAGAIN, "nobody reads what is to be written to it")
    return select.PIPE_BUF


class InPlace:
    """See the module."""

    async def read(self, raw: Raw, n: int) -> bytes | None:
        try:
            return os.read(raw.fd, n) if raw.streams else os.pread(raw.fd, n, raw.position)
        except BlockingIOError:
            return None

    def rest_here(self, raw: Raw) -> bytes | None:
        return None

    async def rest(self, raw: Raw) -> bytes:
        parts, at = [], raw.position
        while part := os.pread(raw.fd, 1 << 20, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        if raw.streams:
            n = os.write(raw.fd, data[: _ready(raw.fd)])
        elif raw.appends:
            n = os.write(raw.fd, data)
            raw.position = os.lseek(raw.fd, 0, os.SEEK_CUR)
        else:
            n = os.pwrite(raw.fd, data, raw.position)
            raw.position += n
        landed(n)
        return n

    async def size(self, raw: Raw) -> int:
        return os.fstat(raw.fd).st_size

    async def truncate(self, raw: Raw, size: int) -> None:
        os.ftruncate(raw.fd, size)

    async def find(self, raw: Raw, offset: int, whence: int) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = offset + raw.position, os.SEEK_SET
        return os.lseek(raw.fd, offset, whence)

    async def close(self, raw: Raw, fd: int) -> None:
        if raw.known is not None:
            with suppress(Exception):
                raw.known.close()
        os.close(fd)


class DirectInPlace(InPlace):
    """The same past the page cache, which takes whole sectors only: see `direct_io.py`, `rewrite.py`."""

    def __init__(self, sector: int) -> None:
        self._sector = sector

    async def read(self, raw: Raw, n: int) -> bytes | None:
        return self._read(raw.fd, raw.position, min(n, _PIECE))

    def _read(self, fd: int, offset: int, n: int) -> bytes:
        low, high = widened(offset, offset + n, self._sector)
        memory = alloc(high - low, self._sector)
        got = os.preadv(fd, (memory,), low)
        return memory[offset - low : min(got, offset - low + n)].tobytes()

    async def rest(self, raw: Raw) -> bytes:
        parts, at = [], raw.position
        while part := self._read(raw.fd, at, _PIECE):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        at = 0
        while at < len(data) and (n := self._part(raw, data[at : at + _PIECE])):
            landed(n)
            at += n
        return at

    def _part(self, raw: Raw, data: bytes) -> int:
        fd, size = raw.fd, size_of(raw.fd, os.fstat(raw.fd))
        start = size if raw.appends else raw.position
        low, high = widened(start, start + len(data), self._sector)
        memory = alloc(high - low, self._sector)
        for at in {low, high - self._sector}:
            if start > at or start + len(data) < at + self._sector:
                had = self._read(fd, at, self._sector)
                memory[at - low : at - low + len(had)] = had
        memory[start - low : start - low + len(data)] = data
        until = low + os.pwrite(fd, memory, low)
        n = max(min(until, start + len(data)) - start, 0)
        cut = max(size, start + n) if n else size
        if raw.regular and until > cut:
            os.ftruncate(fd, cut)
        if n:
            raw.position = start + n
        return n


IN_PLACE = InPlace()
