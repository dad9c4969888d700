"""Reading and writing: what people await most. The hot read stands here.

One read walks straight down from here: `read` (page cache) -> `define.read` (a handle) -> `engine.transfer` (at once on an
idle ring, else staged and flushed) -> a method (an SQE) -> and back up through the doorbell, `engine._complete_all` and
the task's waiter.
"""

from __future__ import annotations

import weakref
from asyncio.events import _get_running_loop  # C, no exception where none runs
from collections.abc import Iterable
from typing import Any

from ..buffers import Pool, lent_bytes, lent_writable, view_address
from ..engine import Engine
from ..handle import Handle
from ..kernel import mounts
from ..kernel.abi import INT_MAX, OFF_MAX
from ..kernel.at_once import seeks
from ..operations import CLOSE, OPEN, READ, READINTO, READV, STAT, WRITE, WRITEV, is_direct
from . import define, large
from .known import Known
from .page_cache import NEVER, NOWAIT, SMALL, PageCache
from .unseekable import MOST, Unseekable, reader

__all__ = ["Data"]

_join = b"".join
_KEPT = 16 << 20  # bytes of aligned memory that a ring keeps when nobody uses it


class _NoBudget:
    left = 0


class Data(Unseekable):
    """The part of `Ring` that moves bytes."""

    _budget: Any = _NoBudget  # closed, forked and unstarted rings have nothing left: the one guard of the hot path
    _loop_here: Any = None
    _closing: Any = ()
    _transfer: Any = None
    _reads: Any = None  # their counts
    _readintos: Any = None
    _opens: Any = None
    _closes: Any = None
    _stats: Any = None
    _memory: Pool | None = None  # aligned, for read streams and files past the page cache; once somebody needs it
    _sectors: Any = None  # by device and inode, who uses which sectors of what is open past it (files/sectors.py)
    # By the id of a caller's memoryview: itself, its address, its size.
    _lent: dict[int, tuple[weakref.ref[memoryview], int, int]]

    def _memory_pool(self) -> Pool:
        pool = self._memory
        if pool is None:
            pool = self._memory = Pool(_KEPT, getattr(self._engine.method, "fixed", None))
        return pool

    def _opened(self, engine: Engine) -> None:
        mounts.all_local()  # opens the mount table now: later, it might get the number of an fd that was just closed
        self._at_once = self._page_cache_first and engine.method.at_once
        counts = engine.counters.of
        self._reads, self._readintos = counts[READ], counts[READINTO]
        self._opens, self._closes, self._stats = counts[OPEN], counts[CLOSE], counts[STAT]
        self._cache = PageCache(self._at_once, engine.budget)
        self._lent = {}
        self._closing = engine.closing
        engine.budget.on_refill = self._cache.tick
        if engine.loop.kind == "asyncio":
            self._loop_here = engine.loop.key
            self._budget = engine.budget
            self._transfer = engine.transfer

    # Hot path: `read` and `readinto` run once per I/O, so what a page-cache hit needs stands in them, in a straight line;
    # measured in benchmarks/ring_read.py.

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
            and type(offset) is int
            and 0 <= offset <= OFF_MAX
        ):
            cache = self._cache
            known = False  # whether the kernel has said that it can seek
            if cache.asking:
                views = cache.views.get(n) if type(n) is int else None
                if views is None:
                    got = cache.ask(fd, offset, n)  # the first of its size
                else:
                    try:
                        got = cache.preadv(fd, views, offset, NOWAIT)
                        if got == n:
                            self._budget.left -= 1
                            cache.hits += 1
                            cache.hit_bytes += n  # count
                            return _join(views)
                        got = cache.ended(fd, offset, n, got)
                    except BlockingIOError:
                        cache.miss()
                        got, known = -1, True
                    except (OSError, TypeError, OverflowError) as error:
                        got = cache.refused(error, fd, offset, n)
                if got >= 0:
                    self._budget.left -= 1
                    self._reads.cached += 1  # count
                    self._reads.cached_bytes += got  # count
                    return cache.taken(got, n)
                if got == NEVER:
                    # FUSE among others: io_uring would wait for its server in here.
                    handle = Handle(READ, fd, offset, n)
                    handle.by_workers = True
                    data: bytes = await self._engine.do(handle)
                    return data
            else:
                cache.skip()
            if type(n) is int is type(fd) and 0 < n <= SMALL and 0 <= fd <= INT_MAX and (known or seeks(fd)):
                data = await self._transfer(Handle(READ, fd, offset, n))
                return data
        return await self._read(fd, offset, n)

    async def _read_known(self, known: Known, offset: int, n: int) -> bytes:
        """`read` for who owns the fd, and has learned of its file; see `known.py`."""
        if (
            self._budget.left > 0
            and _get_running_loop() is self._loop_here
            and (not self._closing or known.fd not in self._closing)
            and type(offset) is int
            and 0 <= offset <= OFF_MAX
            and type(n) is int
            and 0 < n <= SMALL
            and known.regular
        ):
            got = known.ask(self._cache, offset, n)
            if got >= 0:
                self._budget.left -= 1
                self._reads.cached += 1  # count
                self._reads.cached_bytes += got  # count
                return self._cache.taken(got, n)
            handle = Handle(READ, known.fd, offset, n)
            if got == NEVER:
                handle.by_workers = True
                data: bytes = await self._engine.do(handle)
            else:
                data = await self._transfer(handle)
            return data
        return await self._read(known.fd, offset, n, known)

    def _rest_at_hand(self, fd: int, offset: int, size: int, known: Known | None) -> bytes | None:
        """All of a small regular file from `offset` on, if it can be had without suspending; `size` is what it has at this
        moment, or -1. The caller has paid for it, and is on our loop."""
        if fd not in self._closing:
            cache = self._cache
            got = cache.rest(fd, offset, size) if known is None else known.rest(cache, offset, size)
            if got >= 0:
                reads = self._reads
                reads.cached += 1
                reads.cached_bytes += got
                return cache.short(got)
        return None

    async def _read(self, fd: Any, offset: int, n: int, known: Known | None = None) -> bytes:
        """All that is unusual: another loop, a budget that is spent, a closed ring, arguments that are not plain."""
        engine = self._engine
        if engine.loop.checks:
            await engine.loop.checkpoint()
        handle: Handle | None = None
        paid = False
        plain = type(n) is int is type(fd) and type(offset) is int and 0 <= offset <= OFF_MAX and 0 <= fd <= INT_MAX
        if plain and self._late(engine, fd, n):
            handle = Handle(READ, fd, offset, n)
            got, paid = await self._turn(engine, handle, known), True
            if got >= 0:
                return self._cache.taken(got, n)
        try:
            if self._waits(READ, fd, offset):
                # A read of no bytes is answered by the kernel at once: nothing is waited for.
                size = min(define.read(fd, 0, n).length, MOST)
                memory = bytearray(size)
                got = await self._moved(READ, define.descriptor(fd), reader((memory,)), size)
                return bytes(memory[:got])
            if handle is None:
                handle = define.read(fd, offset, n)
                if handle.length >= large.LARGE and not is_direct(handle.fd):
                    await self._unseekable.fenced(handle.fd)
                    return await large.read(engine, handle.fd, handle.offset, handle.length)
                if known is not None and handle.length > SMALL:
                    known.by_a_kernel_thread(handle)
            result: bytes = await (engine.do(handle) if handle.by_workers else engine.transfer(handle, paid))
        except BaseException:
            if handle is not None:
                engine.give_up(handle)  # it may have been parked, and struck by KeyboardInterrupt before that began
            raise
        return result

    def _late(self, engine: Engine, fd: int, n: int) -> bool:
        """Whether a unit of the budget has to be waited for, to be served from the page cache: it is spent, or this is
        trio, where nothing has been asked yet."""
        budget = engine.budget
        if budget.left > 0 and self._budget is budget:
            return False
        if self._cache.asking and 0 < n <= SMALL and fd not in engine.closing:
            return True
        self._cache.skip()
        if budget.left <= 0:
            budget.spent()
        return False

    async def _turn(self, engine: Engine, handle: Handle, known: Known | None = None) -> int:
        """Wait for a unit, then ask the page cache: what was had, or -1, with the fd still held."""
        # Parked is in use: a close that is asked meanwhile waits for us, also if this comes to nothing and we go on.
        got = -2
        try:
            engine.hold(handle.fd, handle)
            await engine.budget.turn()
            engine.check()
            if known is None:
                got = self._cache.ask(handle.fd, handle.offset, handle.length)
            else:
                got = known.ask(self._cache, handle.offset, handle.length)
            if got == NEVER:
                got, handle.by_workers = -1, True
            elif got >= 0:
                engine.counters.of[handle.operation].had(got)
            return got
        finally:
            if got != -1:
                engine.release(handle.fd, handle)

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
        if (
            self._budget.left > 0
            and _get_running_loop() is self._loop_here
            and (not self._closing or fd not in self._closing)
            and type(offset) is int
            and 0 <= offset <= OFF_MAX
        ):
            known = self._lent.get(id(buffer))
            if known is not None and known[0]() is buffer and buffer is not None:
                view = memoryview(buffer)  # a new export: it holds the memory, and raises where `buffer` was released
                address, n = known[1], known[2]
            else:
                view = lent_writable(buffer)
                address, n = 0, view.nbytes
                if type(buffer) is memoryview and n and buffer.format == "B" and buffer.ndim == 1:
                    self._remember(buffer, view)
            got = self._cache.ask(fd, offset, n)
            if got >= 0:
                self._budget.left -= 1
                self._readintos.cached += 1  # count
                self._readintos.cached_bytes += got  # count
                self._cache.fill(view, got)
                return got
            if got == NEVER:
                handle = Handle(READINTO, fd, offset, n)
                handle.view, handle.by_workers = view, True
                return await self._engine.do(handle)  # type: ignore[no-any-return]
            if type(fd) is int and 0 < n < large.LARGE and 0 <= fd <= INT_MAX and seeks(fd):
                handle = Handle(READINTO, fd, offset, n)
                handle.view, handle.address = view, address
                return await self._transfer(handle)  # type: ignore[no-any-return]
        engine = self._engine
        if self._waits(READINTO, fd, offset):
            view = lent_writable(buffer)
            return await self._moved(READINTO, define.descriptor(fd), reader((view,)), view.nbytes)
        handle = define.readinto(fd, offset, buffer)
        if engine.loop.checks:
            await engine.loop.checkpoint()
        if handle.length >= large.LARGE and not is_direct(handle.fd):
            assert isinstance(handle.view, memoryview)
            await self._unseekable.fenced(handle.fd)
            return await large.readinto(engine, handle.fd, handle.offset, handle.view)
        paid = False
        if self._late(engine, handle.fd, handle.length):
            got, paid = await self._turn(engine, handle), True
            if got >= 0:
                assert isinstance(handle.view, memoryview)
                self._cache.fill(handle.view, got)
                return got
        try:
            return await (engine.do(handle) if handle.by_workers else engine.transfer(handle, paid))  # type: ignore[no-any-return]
        except BaseException:
            engine.give_up(handle)
            raise

    def _remember(self, buffer: memoryview, view: memoryview) -> None:
        """Where a flat memoryview's memory lies. It does not move while the object lives, unless it is released, which a
        new export of it finds out; finding the address costs as much as the rest of a read."""
        key, lent = id(buffer), self._lent
        lent[key] = (weakref.ref(buffer, lambda _: lent.pop(key, None)), view_address(view), view.nbytes)

    async def readv(self, fd: int, offset: int, buffers: Iterable[Any]) -> int:
        """Read at `offset` into several buffers in turn, like preadv(2), and return the number of bytes.

        At most 1,024 buffers (IOV_MAX), as the kernel says it. Buffers and cancelling as `readinto`; errors as there.
        """
        engine = self._engine
        if self._waits(READV, fd, offset):
            views = [lent_writable(buffer) for buffer in buffers]
            return await self._moved(READV, define.descriptor(fd), reader(views), sum(view.nbytes for view in views))
        handle = define.readv(fd, offset, buffers)
        handle.by_workers = large.for_a_worker(engine, handle)
        done: int = await self._do_here(engine, handle)
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
        if self._waits(WRITE, fd, offset):
            return await self._counted(WRITE, self._write_all(define.descriptor(fd), [lent_bytes(data)]))
        done: int = await self._do_here(engine, define.write(fd, offset, data))
        return done

    async def writev(self, fd: int, offset: int, buffers: Iterable[Any]) -> int:
        """Write all of several buffers in turn at `offset`, like pwritev(2), and return the number of bytes.

        At most 1,024 buffers (IOV_MAX). Cancelling and errors as `write`.
        """
        engine = self._engine
        if self._waits(WRITEV, fd, offset):
            views = [lent_bytes(buffer) for buffer in buffers]
            return await self._counted(WRITEV, self._write_all(define.descriptor(fd), views))
        done: int = await self._do_here(engine, define.writev(fd, offset, buffers))
        return done

    @staticmethod
    async def _do_here(engine: Engine, handle: Handle) -> Any:
        await engine.loop.checkpoint()
        return await engine.do(handle)
