"""Reading and writing: what people await most. The hot read stands here.

One read walks straight down from here: `read` (page cache) -> `define.read` (a handle) -> `engine.do` (staged, flushed)
-> a method (an SQE) -> and back up through the doorbell, `engine._complete` and the task's waiter.
"""

from __future__ import annotations

import errno
import os
import stat
from asyncio.events import _get_running_loop  # C, no exception where none runs
from collections.abc import Callable, Iterable
from typing import Any

from ..buffers import lent_bytes, lent_writable
from ..engine import Engine
from ..errors import os_error
from ..handle import COMPLETE, Handle
from ..operations import READ, is_direct, rest_of
from ..readiness import READ as TO_READ, WRITE as TO_WRITE, Attempt, Readiness
from . import define
from .lifetime import Lifetime
from .page_cache import SMALL, PageCache
from .pending import Pending

__all__ = ["Data"]

_MOST = 1 << 20  # bytes: one transfer from what cannot seek


class _NoBudget:
    left = 0


class Data(Lifetime):
    """The part of `Ring` that moves bytes."""

    _budget: Any = _NoBudget  # closed, forked and unstarted rings have nothing left: the one guard of the hot path
    _loop_here: Any = None
    _closing: Any = ()

    def _opened(self, engine: Engine) -> None:
        self._page_cache_first = self._page_cache_first and engine.method.at_once
        self._cache = PageCache(self._page_cache_first)
        self._closing = engine.closing
        if engine.loop.kind == "asyncio":
            self._loop_here = engine.loop.key
            if self._cache.on:
                self._budget = engine.budget

    # Hot path: `read` runs once per I/O; measured in benchmarks/ring_read.py.

    async def read(self, fd: int, offset: int, n: int) -> bytes:
        """Read `n` bytes at `offset`, like pread(2), without blocking the loop.

        Fewer than `n` bytes mean end of file; short reads from the kernel are continued. `offset` and `n` are in bytes.
        What cannot seek (pipes, FIFOs, ttys, sockets) takes offset -1 and returns after the first transfer, as read(2)
        does; waiting for it holds no slot of `depth`.

        Small reads (64 KiB or less) of what is in the page cache return without suspending (preadv2(2), RWF_NOWAIT),
        within a budget per tick of the loop.

        Cancelling sends IORING_OP_ASYNC_CANCEL and returns at once: the buffer is aioring's own, and the handle holds
        it until its CQE. A read of what cannot seek that was cancelled has taken no byte.

        Raises:
            OSError: as pread(2): EBADF, EISDIR, EINVAL, EIO, ESPIPE ... with a note of what was asked.
            ValueError: `offset` or `n` is negative (but -1, see above).
            RingClosedError, WrongLoopError: the ring is closed, or belongs to another loop, thread or process.
        """
        if (
            self._budget.left > 0
            and _get_running_loop() is self._loop_here
            and (not self._closing or fd not in self._closing)  # what is asked of a closing fd comes after the close
            and offset.__class__ is int
            and offset >= 0
        ):
            got = self._cache.ask(fd, offset, n)
            if got >= 0:
                self._budget.spend()
                return self._cache.taken(got, n)
        return await self._read(fd, offset, n)

    async def _read(self, fd: Any, offset: int, n: int) -> bytes:
        """What the page cache cannot serve at once, and everything unusual."""
        engine = self._engine
        if self._waits(fd, offset):
            # A read of no bytes is answered by the kernel at once: nothing is waited for.
            size = min(define.read(fd, 0, n).length, _MOST)
            memory = bytearray(size)
            got = await self._unseekable.transfer(define.descriptor(fd), TO_READ, _reader((memory,)))
            return bytes(memory[:got])
        handle = define.read(fd, offset, n)
        if (self._page_cache_first or engine.loop.checks) and await self._hit_later(engine, handle):
            return self._cache.taken(handle.done, handle.length)
        handle.direct = is_direct(handle.fd)
        result: bytes = await engine.do(handle)
        return result

    async def _hit_later(self, engine: Engine, handle: Handle) -> bool:
        """Try the page cache when the budget of this tick is spent, or on trio: a unit of a later tick is waited for."""
        await engine.loop.checkpoint()
        if not self._cache.on or not 0 < handle.length <= SMALL or handle.fd in engine.closing:
            return False
        budget = engine.budget
        if self._budget is budget and budget.left > 0:
            return False  # it was asked a moment ago
        # Parked is in use: a close that is asked meanwhile waits for us, also if this comes to nothing and we go on.
        got = -2
        try:
            engine.hold(handle.fd, handle)
            await budget.turn()
            engine.check()
            got = self._cache.ask(handle.fd, handle.offset, handle.length)
        finally:
            if got != -1:
                engine.release(handle.fd, handle)
        handle.done = max(got, 0)
        return got >= 0

    async def readinto(self, fd: int, offset: int, buffer: Any) -> int:
        """Read into `buffer` at `offset`, and return the number of bytes: all of `buffer`, fewer only at end of file.

        `buffer` is any writable contiguous buffer (bytearray, memoryview, numpy array, `aioring.alloc`); it is filled in
        place and held, so that it cannot be resized, until the kernel is done with it. What cannot seek takes offset -1.

        Cancelling asks the kernel to stop and is delivered only when the kernel is done with `buffer`: its contents do
        not change any more after the `await` has returned.

        Raises:
            BufferError: `buffer` is read-only or not contiguous.
            TypeError: `buffer` is no buffer.
            OSError, ValueError, RingClosedError, WrongLoopError: as `read`.
        """
        engine = self._engine
        if self._waits(fd, offset):
            view = lent_writable(buffer)
            return await self._unseekable.transfer(define.descriptor(fd), TO_READ, _reader((view,)))
        handle = define.readinto(fd, offset, buffer)
        if 0 < handle.length <= SMALL:
            assert isinstance(handle.view, memoryview)
            got = -1
            if self._budget.left > 0 and handle.fd not in engine.closing:
                got = self._cache.ask(handle.fd, handle.offset, handle.length)
                if got >= 0:
                    self._budget.spend()
            if got >= 0 or await self._hit_later(engine, handle):
                got = max(got, handle.done)
                self._cache.fill(handle.view, got)
                return got
        else:
            await engine.loop.checkpoint()
        done: int = await engine.do(handle)
        return done

    async def readv(self, fd: int, offset: int, buffers: Iterable[Any]) -> int:
        """Read at `offset` into several buffers in turn, like preadv(2), and return the number of bytes.

        At most 1,024 buffers (IOV_MAX), as the kernel says it. Buffers and cancelling as `readinto`; errors as there.
        """
        engine = self._engine
        if self._waits(fd, offset):
            views = [lent_writable(buffer) for buffer in buffers]
            return await self._unseekable.transfer(define.descriptor(fd), TO_READ, _reader(views))
        done: int = await self._do_here(engine, define.readv(fd, offset, buffers))
        return done

    async def write(self, fd: int, offset: int, data: Any) -> int:
        """Write all of `data` at `offset`, like pwrite(2), and return its size in bytes; short writes are continued.

        `data` is any contiguous buffer and is held until the kernel is done with it. On a file opened with O_APPEND the
        bytes are appended whatever the offset. What cannot seek takes offset -1: the write waits for room, and goes on
        until all is written. Nothing is durable before `fsync`.

        Cancelling is delivered when the kernel is done with `data`; a part may have been written then.

        Raises:
            OSError: as pwrite(2): EBADF, ENOSPC, EFBIG, EDQUOT, EPIPE ... A part may have been written.
            BufferError, TypeError: `data` is not contiguous, or no buffer.
            ValueError, RingClosedError, WrongLoopError: as `read`.
        """
        engine = self._engine
        if self._waits(fd, offset):
            return await self._write_all(define.descriptor(fd), [lent_bytes(data)])
        done: int = await self._do_here(engine, define.write(fd, offset, data))
        return done

    async def writev(self, fd: int, offset: int, buffers: Iterable[Any]) -> int:
        """Write all of several buffers in turn at `offset`, like pwritev(2), and return the number of bytes.

        At most 1,024 buffers (IOV_MAX). Cancelling and errors as `write`.
        """
        engine = self._engine
        if self._waits(fd, offset):
            return await self._write_all(define.descriptor(fd), [lent_bytes(buffer) for buffer in buffers])
        done: int = await self._do_here(engine, define.writev(fd, offset, buffers))
        return done

    @staticmethod
    async def _do_here(engine: Engine, handle: Handle) -> Any:
        await engine.loop.checkpoint()
        return await engine.do(handle)

    # --- staged now, awaited later ------------------------------------------------------------------------------------

    def start_read(self, fd: int, offset: int, n: int) -> Pending[bytes]:
        """A `read` that is staged now: an awaitable for its bytes. A thousand need no thousand tasks.

        Arguments, errors and cancelling as `read`; bad arguments are raised here, an `OSError` at the `await`. One that
        fails and is never awaited is logged on the logger `aioring`.
        """
        return self._begin(fd, offset, lambda at: define.read(fd, at, n))

    def start_write(self, fd: int, offset: int, data: Any) -> Pending[int]:
        """A `write` that is staged now: an awaitable for the number of bytes. As `start_read`."""
        return self._begin(fd, offset, lambda at: define.write(fd, at, data))

    def _begin(self, fd: Any, offset: int, make: Callable[[int], Handle]) -> Pending[Any]:
        engine = self._engine
        try:
            waits = self._waits(fd, offset)
        except OSError as error:
            handle = make(0)
            handle.exception, handle.res, handle.state = error, -(error.errno or errno.EIO), COMPLETE
            return Pending(self, engine, handle)
        handle = make(0 if waits else offset)
        if not waits:
            handle.direct = handle.operation is READ and is_direct(handle.fd)
            try:
                engine.ask(handle)
                return Pending(self, engine, handle)
            except BaseException:
                engine.forsake(handle)
                raise

        # What cannot seek is waited for by a task of its own: there is nothing that could be staged. What the fd means is
        # held from now on.
        user = object()
        try:
            file = self._unseekable.begin(handle.fd, user)
        except OSError as error:
            handle.exception, handle.res, handle.state = error, -(error.errno or errno.EIO), COMPLETE
            return Pending(self, engine, handle)

        begun = False

        async def background() -> Any:
            nonlocal begun
            begun = True
            if handle.operation is READ:
                memory = bytearray(min(handle.length, _MOST))
                got = await self._unseekable.transfer(handle.fd, TO_READ, _reader((memory,)), user, file)
                return bytes(memory[:got])
            assert handle.view is not None
            return await self._write_all(handle.fd, [lent_bytes(handle.view)], user, file)

        def over(value: Any, error: BaseException | None) -> None:
            if not begun:
                self._unseekable.leave(handle.fd, user, file)
            handle.value, handle.exception = value, error
            handle.res = 0 if value is not None else -errno.ECANCELED
            handle.operation = _BACKGROUND
            handle.state = COMPLETE
            engine.finish(handle)

        stop = engine.loop.spawn(background, over)

        def cancel(_: Handle) -> bool:
            stop()
            return True

        return Pending(self, engine, handle, cancel)

    # --- what cannot seek ---------------------------------------------------------------------------------------------

    @property
    def _unseekable(self) -> Readiness:
        assert self._readiness is not None
        return self._readiness

    @staticmethod
    def _waits(fd: Any, offset: int) -> bool:
        """Whether this is to be waited for by readiness: the fd cannot seek, and the offset says so.

        Raises `OSError` (EBADF; ESPIPE for an offset where there is none) and `ValueError` (-1 where one can seek).
        """
        if fd.__class__ is not int:
            fd = define.descriptor(fd)
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
                attempt = _writer(rest_of(views, done, _MOST))
                done += await ready.transfer(fd, TO_WRITE, attempt, object(), file.shared())
                if done >= total:
                    return done
                if fd in closing:
                    raise os_error(errno.ECANCELED, note=f"aioring: fd {fd} was closed with {done} of {total} written")
        finally:
            ready.leave(fd, user, file)


def _reader(buffers: Iterable[Any]) -> Attempt:
    lent = list(buffers)

    def attempt(fd: int, flags: int) -> int:
        return os.preadv(fd, lent, -1, flags) if flags else os.readv(fd, lent)

    return attempt


def _writer(buffers: list[memoryview]) -> Attempt:
    def attempt(fd: int, flags: int) -> int:
        return os.pwritev(fd, buffers, -1, flags) if flags else os.writev(fd, buffers)

    return attempt


_BACKGROUND = READ._replace(name="transfer", result=lambda handle, _: handle.value)
