"""Opening, closing, asking about and shaping files, and making them durable."""

from __future__ import annotations

import errno
import fcntl
import os
import stat as _stat
import sys
from dataclasses import replace
from typing import Any

from ..engine import Engine
from ..handle import COMPLETE, Handle
from ..kernel import abi, at_once, mounts
from ..operations import CLOSE, ELSEWHERE, NO_SLOT, OPEN
from ..readiness import is_fifo
from . import define
from .define import StrOrBytesPath
from .lifetime import Lifetime

__all__ = ["Files"]

_UTF8 = sys.getfilesystemencoding() == "utf-8" and sys.getfilesystemencodeerrors() == "surrogateescape"
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_NEVER_WAITS = os.O_NONBLOCK | getattr(os, "O_PATH", 0)
_CREATE = replace(OPEN, settles=True)
_FILE = 5  # units of the budget: a file's opening, first read and closing take as long as so many small reads
_NOT_SMALL = 16  # where one was large, the next are: a trip in vain costs as much as the two that follow it
_FIFO_DELAY = 0.02  # seconds: see readiness.py, why a FIFO's peer has to be asked for


class Files(Lifetime):
    """The part of `Ring` that works on whole files."""

    _budget: Any
    _loop_here: Any
    _closing: Any
    _opens: Any = None  # their counts
    _closes: Any = None
    _stats: Any = None
    _cache: Any = None
    _not_small = 0  # how many files are still to be opened and read in two trips

    async def open(
        self, path: StrOrBytesPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None, resolve: int = 0
    ) -> int:
        """Open `path` and return an fd, like `os.open`. The fd is always O_CLOEXEC (not inheritable).

        `resolve` takes openat2(2)'s RESOLVE_* flags (`aioring.RESOLVE_BENEATH` ...) and needs Linux 5.6. Opening a FIFO
        waits until its other end is opened, as open(2) does, without holding a worker or a slot.

        What makes nothing and whose path is in the kernel's cache is opened in place, without suspending, within the
        budget of a tick (openat2(2), RESOLVE_CACHED).

        Cancelling is delivered at once; if the kernel opens the file nevertheless, its fd is closed.

        Raises:
            OSError: as open(2), with the file name.
            ValueError: `path` has a NUL in it.
            RingClosedError, WrongLoopError: the ring is closed, or belongs to another loop, thread or process.
        """
        handle = define.open_(path, flags, mode, dir_fd, resolve)
        engine = self._engine
        sys.audit("open", handle.name, None, flags)  # as os.open raises it; none of the ways below does
        try:
            return await self._open(engine, handle, path, flags, mode, dir_fd, resolve)
        finally:
            engine.give_up(handle)  # its directory, which it held while it was parked

    async def _open_file(self, path: StrOrBytesPath, flags: int) -> int:
        """`open` for a file object, which raises the audit event of the built-in `open` itself."""
        return await self._open(self._engine, define.open_(path, flags, 0o666, None, 0), path, flags, 0o666, None, 0)

    async def _create(self, path: StrOrBytesPath, flags: int, mode: int) -> int:
        """`open` of a name that must not be there, for who has to remove it again: a cancel is delivered when the outcome
        is known, and the fd closed, so that nothing comes after the removal."""
        handle = define.open_(path, flags | os.O_CREAT | os.O_EXCL, mode, None, 0)
        handle.operation = _CREATE
        try:
            return int(await self._do(handle))
        except BaseException:
            if handle.state == COMPLETE and handle.res >= 0:
                os.close(handle.res)
            raise

    async def _open_cold(self, path: str | bytes, flags: int) -> int:
        """`_open_file` of what was not to be had in place a moment ago. The fd has O_NONBLOCK on it, whatever it is of. -1:
        open it as anything else is."""
        if b"\0" in os.fsencode(path):
            return -1
        engine = self._engine
        handle = define.open_(path, flags | os.O_NONBLOCK, 0o666, None, 0)
        if engine.method.by_opcode and not mounts.all_local():
            handle.by_workers = True
        try:
            return int(await self._do(handle))
        except BlockingIOError:
            return -1  # a lease

    async def _read_small(self, path: str | bytes, flags: int) -> bytes | int:
        """All of a small regular file, opened, read and closed in one submission; or an fd of what is none, with O_NONBLOCK
        on it, as `_open_cold`; or `ELSEWHERE`: nobody can tell, or has been asked."""
        if self._not_small:
            self._not_small -= 1
            return ELSEWHERE
        engine, handle = self._engine, define.read_file(path, flags)
        method = engine.method
        if method.by_opcode:
            # Alone on an idle loop two trips are quicker: a chain's links come back to the loop one by one, three of them.
            if not (engine.live or engine.staged or self._cache.holding):
                return ELSEWHERE
            # io_uring, too, opens in place what is cached, and waits for FUSE's server.
            if not (mounts.all_local() and method.takes(handle)):
                return ELSEWHERE
        try:
            found: bytes | int = await self._do(handle)
        except BlockingIOError:
            found = ELSEWHERE  # a lease
        if found == NO_SLOT:
            return ELSEWHERE
        if found.__class__ is int:
            self._not_small = _NOT_SMALL
        return found

    # Hot path: once per file; measured in benchmarks/files.py. What stands here in a straight line is `open` and `close`
    # for who owns the fd: no handle is made, and what the fd is is known.

    def _open_here(self, path: str | bytes, flags: int) -> int:
        """`_open_file` of what can be had at once: a regular file, that is, or what else comes without waiting, with
        O_NONBLOCK on it. -1: it has to be asked for, which says what is wrong as well. The caller has looked at the budget,
        and is on our loop."""
        if not self._at_once:
            return -1
        raw = path.encode("utf-8", "surrogateescape") if _UTF8 and type(path) is str else os.fsencode(path)
        if b"\0" in raw:
            return -1
        self._budget.left -= _FILE
        fd = at_once.open_cached(abi.AT_FDCWD, raw + b"\0", flags)
        if fd in self._closing:
            os.close(fd)  # a close of this number, asked for by us, is on its way: the number is not to be had yet
            return -1
        if fd >= 0:
            self._opens.cached += 1
        else:
            self._budget.left += _FILE - 1  # it has found out that it would have to wait, and no more
        return fd

    def _close_here(self, fd: int, small: bool) -> bool:
        """`close` of a regular file on a local file system that was opened for reading only; `small`: its end may take
        nobody long. False: it has to be asked for. (Its open has paid for it.)"""
        engine = self._started
        if (
            not self._at_once
            or engine is None
            or not engine.open
            or (
                (engine.live or engine.staged or engine.closing or engine.held or engine.for_workers or engine.backlog)
                and engine.uses(fd)
            )
        ):
            return False
        closed = at_once.close_here(fd, small)
        self._closes.cached += closed
        return closed

    def _stat_here(self, path: str, follow_symlinks: bool) -> os.stat_result | None:
        """`stat` of what the kernel has in its caches, in a straight line; None: it has to be asked for, which says what is
        wrong as well. The caller is on our loop; the budget may be overdrawn by it."""
        if not self._at_once or not mounts.all_local() or "\0" in path:
            return None
        self._budget.left -= 1
        raw = path.encode("utf-8", "surrogateescape") if _UTF8 else os.fsencode(path)
        found = at_once.stat_here(raw, follow_symlinks, self._cache._holding_for > 0)
        if found is not None:
            self._stats.cached += 1
        return found

    async def _open(
        self,
        engine: Engine,
        handle: Handle,
        path: StrOrBytesPath,
        flags: int,
        mode: int,
        dir_fd: int | None,
        resolve: int,
    ) -> int:
        found: int | None = await self._in_place(engine, handle)
        if found is not None:
            engine.give_up(handle)  # before it waits for a FIFO's peer
            return await self._opened_for(found, flags)
        if engine.method.by_opcode and not mounts.all_local():
            handle.by_workers = True  # io_uring, too, opens in place what is cached, and waits for FUSE's server
        if flags & _NEVER_WAITS or flags & _ACCESS == os.O_RDWR:
            return int(await self._do(handle))
        # O_NONBLOCK keeps an open from waiting for a FIFO's peer in a worker, which nothing could end. It means nothing
        # to a regular file, and is taken off again below.
        handle.flags |= os.O_NONBLOCK
        try:
            fd = int(await self._do(handle))
        except BlockingIOError:
            # A lease that somebody holds: wait for it, as was asked.
            return int(await self._do(define.open_(path, flags, mode, dir_fd, resolve)))
        except OSError as error:
            if error.errno != errno.ENXIO or not await self._is_fifo(path, dir_fd):
                raise
            fd = await self._open_for_reader(handle, path, flags, mode, dir_fd, resolve)
        return await self._opened_for(fd, flags)

    async def _opened_for(self, fd: int, flags: int) -> int:
        """What was opened with O_NONBLOCK, as it was asked for. No await before the return, but for a FIFO."""
        if flags & _NEVER_WAITS:
            return fd
        try:
            os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:
            if is_fifo(fd) and flags & _ACCESS == os.O_RDONLY:
                try:
                    assert self._readiness is not None
                    await self._readiness.fifo_has_writer(fd)
                except BaseException:
                    os.close(fd)
                    raise
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def _is_fifo(self, path: StrOrBytesPath, dir_fd: int | None) -> bool:
        try:
            return _stat.S_ISFIFO((await self.stat(path, dir_fd=dir_fd)).st_mode)
        except OSError:
            return False

    async def _open_for_reader(
        self, asked: Handle, path: StrOrBytesPath, flags: int, mode: int, dir_fd: int | None, resolve: int
    ) -> int:
        """Open a FIFO for writing as soon as somebody reads it: until then the kernel says ENXIO."""
        assert self._readiness is not None
        delay = 0.001
        count = self._counters.of[asked.operation]
        count.errors -= 1  # that there is nobody yet is no failure; it is one open, however often it is tried
        try:
            while True:
                await self._readiness.sleep(delay)
                delay = min(delay * 2, _FIFO_DELAY)
                attempt = define.open_(path, flags | os.O_NONBLOCK, mode, dir_fd, resolve)
                attempt.booked = True
                try:
                    return int(await self._do(attempt))
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
        except BaseException as error:
            count.failed(error)
            raise

    async def close(self, fd: int) -> None:
        """Close `fd`, after every operation on it that was asked before through this ring.

        Waits on what cannot seek are cancelled with ECANCELED. Operations asked meanwhile come after the close.

        Of a regular file on a local file system that was opened for reading only, nothing waits: it is closed in place,
        within the budget of a tick, where nothing else is under way on it.

        Cancelling returns at once and does not stop the close: an fd that was given up does not stay open.

        Raises:
            OSError: as close(2): EBADF, EIO ... The fd is gone all the same, except after EBADF.
            RingClosedError, WrongLoopError: as `open`.
        """
        # No checkpoint before, and no waiting for a unit: a task that is cancelled already closes, too.
        engine, handle = self._engine, define.close(fd)
        if self._at_once and engine.budget.left > 0 and not engine.uses(handle.fd):
            engine.budget.left -= 1
            if CLOSE.at_once is not None and CLOSE.at_once(handle):
                engine.counters.of[CLOSE].had()
                return
        await engine.do(handle)

    async def stat(
        self, path: StrOrBytesPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        """What `os.stat` gives for a path or an fd, with every field (statx(2)).

        What is in the kernel's caches, on a local file system, is had in place, within the budget of a tick. Cancelling
        is delivered at once.

        Raises:
            OSError: as stat(2), with the file name.
            ValueError: an fd with `dir_fd` or without `follow_symlinks`, or a NUL in the path.
            RingClosedError, WrongLoopError: as `open`.
        """
        handle = define.stat(path, dir_fd, follow_symlinks)
        engine = self._engine
        try:
            found = await self._in_place(engine, handle)
            result: os.stat_result = await engine.do(handle) if found is None else found
        finally:
            engine.give_up(handle)  # its fd, which it held if it was parked
        return result

    async def _in_place(self, engine: Engine, handle: Handle) -> Any:
        """What of its row can be had at once, at the price of a unit of the budget; None: it has to be asked for.

        Parked until there is a unit, its fd is in use and, for a close, stays so until the caller gives it up.
        """
        await engine.loop.checkpoint()
        at_once = handle.operation.at_once
        if at_once is None or not self._at_once or handle.fd in engine.closing:
            return None
        await self._unit(engine, handle)
        found = at_once(handle)
        if found is not None:
            engine.counters.of[handle.operation].had()
        return found

    @staticmethod
    async def _unit(engine: Engine, handle: Handle) -> None:
        if engine.budget.left > 0:
            engine.budget.left -= 1
            return
        if handle.fd >= 0:
            engine.hold(handle.fd, handle)
        await engine.budget.turn()
        engine.check()

    async def truncate(self, fd: int, n: int) -> None:
        """Cut the file to `n` bytes, or extend it with a hole, like `os.ftruncate`.

        Cancelling is delivered when the outcome is known. Raises `OSError` as ftruncate(2), `ValueError` where `n` is
        negative, and the ring's own errors as `open`.
        """
        await self._do(define.truncate(fd, n))

    async def allocate(self, fd: int, offset: int, n: int, mode: int = 0) -> None:
        """Allocate disk space for `n` bytes at `offset`, like fallocate(2); `mode` takes all its FALLOC_FL_* flags.

        Cancelling is delivered when the outcome is known. Raises `OSError` as fallocate(2) (EOPNOTSUPP, ENOSPC, EINVAL
        for `n` of 0 ...), `ValueError` for negative numbers, and the ring's own errors as `open`.
        """
        await self._do(define.allocate(fd, offset, n, mode))

    async def advise(self, fd: int, offset: int, n: int, advice: int) -> None:
        """Tell the kernel how `n` bytes at `offset` will be used, like `os.posix_fadvise`; `n` of 0: to the end.

        Cancelling is delivered at once. Raises `OSError` as posix_fadvise(2), `ValueError` for negative numbers, and the
        ring's own errors as `open`.
        """
        await self._do(define.advise(fd, offset, n, advice))

    # --- durability ---------------------------------------------------------------------------------------------------

    async def fsync(self, fd: int, *, data_only: bool = False) -> None:
        """Make the file durable, like fsync(2); `data_only`: as fdatasync(2), without times and the like.

        It serves writes that completed before it was asked for, no others: await the write first, or use a chain.

        Cancelling is delivered at once and leaves open whether the data is durable. Raises `OSError` as fsync(2) (after
        EIO, what was not written is lost for good: write it again), and the ring's own errors as `open`.
        """
        await self._do(define.fsync(fd, data_only))

    async def sync_range(
        self,
        fd: int,
        offset: int,
        n: int,
        flags: int = abi.SYNC_FILE_RANGE_WAIT_BEFORE | abi.SYNC_FILE_RANGE_WRITE | abi.SYNC_FILE_RANGE_WAIT_AFTER,
    ) -> None:
        """Write `n` bytes at `offset` out to the disk and wait, like sync_file_range(2); `n` of 0: to the end.

        It syncs no metadata and no disk cache: it evens out writing, and is no replacement for `fsync`.

        Cancelling is delivered at once. Raises `OSError` as sync_file_range(2), `ValueError` for negative numbers, and
        the ring's own errors as `open`.
        """
        await self._do(define.sync_range(fd, offset, n, flags))
