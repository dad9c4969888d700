"""Pipes, FIFOs, ttys and sockets: which of `data.py`'s calls mean them, and the transfers that they turn into.

Called by `data.py` and `start.py`; the waiting itself is `readiness.py`'s.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Iterable
from typing import Any

from ..errors import os_error
from ..kernel import at_once
from ..kernel.abi import INT_MAX
from ..operations import READ, WRITE, Operation, rest_of
from ..readiness import READ as TO_READ, WRITE as TO_WRITE, Attempt, Readiness
from . import define
from .lifetime import Lifetime

__all__ = ["MOST", "Unseekable", "reader"]

MOST = 1 << 20  # bytes: one transfer from what cannot seek


class Unseekable(Lifetime):
    """The part of `Ring` that tells what cannot seek from what can."""

    @property
    def _unseekable(self) -> Readiness:
        assert self._readiness is not None
        return self._readiness

    def _waits(self, operation: Operation, fd: Any, offset: int) -> bool:
        """Whether this is to be waited for by readiness: the fd cannot seek, and the offset says so.

        Raises `OSError` (EBADF; ESPIPE for an offset where there is none) and `ValueError` (-1 where one can seek).
        """
        try:
            return self._cannot_seek(fd, offset)
        except OSError as error:
            count = self._counters.of[operation]
            count.untold += 1
            count.failed(error)
            raise

    @staticmethod
    def _cannot_seek(fd: Any, offset: int) -> bool:
        if fd.__class__ is not int:
            fd = define.descriptor(fd)
        if 0 <= fd <= INT_MAX and offset != -1 and at_once.seeks(fd):
            return False
        try:
            os.lseek(fd, 0, os.SEEK_CUR)
            # An eventfd and its kin take an lseek and stay where they are: anonymous inodes, files of no type.
            return offset == -1 and not stat.S_IFMT(os.fstat(fd).st_mode)
        except OSError as error:
            if error.errno == errno.ESPIPE:
                if offset == -1:
                    return True
                if offset < 0:
                    raise ValueError(f"offset {offset}: must not be negative; what cannot seek takes -1") from None
                note = f"aioring: offset {offset} of fd {fd}, which cannot seek: give -1"
                raise os_error(errno.ESPIPE, note=note) from None
            raise os_error(
                error.errno or errno.EBADF, note=f"aioring: transfer at offset {offset} of fd {fd}"
            ) from None

    async def _moved(self, operation: Operation, fd: int, attempt: Attempt, n: int) -> int:
        """A read of `n` bytes at most, waited for and counted: how many came."""
        return await self._counted(operation, self._unseekable.transfer(fd, TO_READ, attempt, n=n))

    async def _receive(self, fd: int, memory: bytearray) -> int:
        """What is there, once there is something, for a file's raw layer: one transfer into `memory`."""
        self._engine  # noqa: B018 - whether it may be used here and now
        return await self._moved(READ, fd, reader((memory,)), len(memory))

    def _end_waits(self, fd: int) -> None:
        """Whoever waits for `fd` gets ECANCELED: it is about to be closed."""
        if self._readiness is not None:
            self._readiness.cancel_fd(fd)

    async def _send(self, fd: int, data: memoryview) -> int:
        """One transfer of what is taken, once something is. Cancelled, nothing was."""
        self._engine  # noqa: B018
        transfer = self._unseekable.transfer(fd, TO_WRITE, writer([data]), n=len(data))
        return await self._counted(WRITE, transfer)

    async def _counted(self, operation: Operation, transfer: Awaitable[int]) -> int:
        # Nothing is awaited between the transfer's result and the return (invariant 6).
        count = self._counters.of[operation]
        moved = 0
        try:
            moved = await transfer
        except BaseException as error:
            count.failed(error)
            raise
        finally:
            count.untold += 1
            count.bytes += moved
        return moved

    async def _write_all(self, fd: int, views: list[memoryview], user: object = None, file: Any = None) -> int:
        """Transfer after transfer, on what the fd meant when this was asked, and holding it all the while."""
        ready, closing = self._unseekable, self._engine.closing
        if user is None:
            await ready.fenced(fd)
            user = object()
            file = ready.begin(fd, user)
        try:
            total, done = sum(view.nbytes for view in views), 0
            while True:
                attempt = writer(rest_of(views, done, MOST))
                done += await ready.transfer(fd, TO_WRITE, attempt, object(), file.shared(), total - done)
                if done >= total:
                    return done
                if fd in closing:
                    raise os_error(errno.ECANCELED, note=f"aioring: fd {fd} was closed with {done} of {total} written")
        finally:
            ready.leave(fd, user, file)


def reader(buffers: Iterable[Any]) -> Attempt:
    lent = list(buffers)

    def attempt(fd: int, flags: int) -> int:
        return os.preadv(fd, lent, -1, flags) if flags else os.readv(fd, lent)

    return attempt


def writer(buffers: list[memoryview]) -> Attempt:
    def attempt(fd: int, flags: int) -> int:
        return os.pwritev(fd, buffers, -1, flags) if flags else os.writev(fd, buffers)

    return attempt
