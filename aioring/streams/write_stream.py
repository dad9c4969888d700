"""The write stream: write-behind. What is written is gathered into large I/Os, several of which are in flight while the
next is gathered; whoever writes faster than the disk takes waits.

    write -> gathered (combine_limit) -> WRITE, WRITE, ... (max_ios) -> SYNC_RANGE of each 16 MiB -> flush, close: fsync

* What is held is bounded: `max_ios` I/Os of `combine_limit` bytes, and what is being gathered.
* An error is the stream's from then on: the next call raises it, and so does `aclose`. What is in flight is waited for.
* Of a stream that is durable 32 MiB at most are on their way from the page cache to the disk (sync_file_range(2),
  PostgreSQL's `backend_flush_after`, but with waiting), so that its fsync has little to do; of another they are only
  started, so that the kernel need not write all of it at some moment of its own. An error of theirs is one of the stream:
  the kernel tells each fd once (`file_check_and_advance_wb_err`), and fsync would not say it again.
* Past the page cache whole sectors are written. What is not one, at the end of the file and where `flush` is asked, is
  written by `DirectIo` (files/rewrite.py), and stays in the buffer, so that the next I/O begins with a sector again.

Kernel memory: what is gathered lies in memory of the ring's pool; its handle has a view of it, and stands in the engine's
`live` until its completion, whatever becomes of the stream (invariant 1). It goes back to the pool then. `bytes` of the
caller's, which nobody can change, are written from where they are, and held by the handle's view in the same way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections import deque
from contextlib import suppress
from functools import partial
from operator import index
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from .. import loops
from ..buffers import Memory, lent_bytes
from ..engine import Engine
from ..errors import RingClosedError, again, os_error
from ..files import BinaryFile, RawFile, TextFile, direct as past, modes
from ..files.direct_io import given_back
from ..files.folders import folder_of, sync_folder
from ..files.opening import open_raw
from ..files.put import named
from ..files.raw import Raw
from ..files.ring_io import close_fd, drop_fd
from ..handle import Handle
from ..kernel import abi
from ..loops.outcome import Outcome, begun
from ..operations import WRITE
from ..ring import Ring, define, get_ring
from ..ring.define import descriptor

__all__ = ["WriteStream", "write_stream"]

_WINDOW = 16 << 20  # bytes that are written between two calls of sync_file_range(2)
_SYNCING = 2  # of them at most are waited for at a time
_START = abi.SYNC_FILE_RANGE_WRITE
_WAIT = abi.SYNC_FILE_RANGE_WAIT_BEFORE | abi.SYNC_FILE_RANGE_WRITE | abi.SYNC_FILE_RANGE_WAIT_AFTER
_FILES = (BinaryFile, RawFile)
_MODE = modes.parse("wb")
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP)


class _Piece:
    """One write under way, or done while one before it is not."""

    __slots__ = ("end", "handle", "memory", "over")

    def __init__(self, handle: Handle, end: int, memory: Memory | None) -> None:
        self.handle, self.end, self.memory = handle, end, memory
        self.over = False


class WriteStream:
    """What `write_stream` gives: an async context manager with `write`, `flush`, `tell` and `aclose`."""

    def __init__(
        self, file: Any, direct: bool | str, combine_limit: int, max_ios: int, durable: bool, ring: Ring | None
    ) -> None:
        self._direct = past.check(direct)
        for value, name in ((combine_limit, "combine_limit"), (max_ios, "max_ios")):
            if index(value) < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        self._combine, self._max_ios, self._durable = index(combine_limit), index(max_ios), bool(durable)
        self._target = file
        self._given_ring = ring
        self._state = "new"
        self._lock = anyio.Lock()
        self._closing: Outcome[bool] | None = None
        self._error: BaseException | None = None
        # The file.
        self._raw: Raw | None = None
        self._fd = -1
        self._path: Any = None  # of what is to be closed here
        self._sector = 0  # of O_DIRECT; 0: through the page cache
        # What is gathered: `_fill` bytes of the buffer, which begins at `_base`, of which the file has `_old` already.
        self._memory: Memory | None = None
        self._view: Any = None
        self._base = self._fill = self._old = 0
        # What is under way.
        self._in_flight: set[_Piece] = set()
        self._line: deque[_Piece] = deque()  # in order, so that it is known how far all is written
        self._written = self._paced = 0  # all below has been written; handed to sync_file_range(2)
        self._syncing: set[Handle] = set()
        self._paces = True
        self.waiter: Any = None
        self._most = 0  # so many writes may be in flight for the waiter to go on

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """The path, or what was given."""
        return self._target

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._state == "closed"

    def tell(self) -> int:
        """The offset in the file behind all that was taken, in bytes."""
        return self._base + self._fill

    def __repr__(self) -> str:
        return f"<aioring.WriteStream {self._target!r}, {self._state}, at {self.tell()}>"

    # --- writing ------------------------------------------------------------------------------------------------------

    # Hot path: once per call; measured in benchmarks/streams.py.

    async def write(self, data: Any) -> int:
        """Take all of `data`, any contiguous buffer, and return its size in bytes. It is written behind the caller's back;
        the caller has its memory again when this returns.

        Waits while `max_ios` I/Os are in flight. Several tasks may write: each call's data stays together, in the order of
        the calls. Cancelled, a part of `data` from its beginning may have been taken; `tell` says how much.

        Raises:
            OSError: what was written before could not be: EIO, ENOSPC, EDQUOT ..., with the file name, as every call from
                then on. At the first call, as open(2).
            TypeError, BufferError: `data` is no buffer, or not contiguous.
            ValueError: the stream is closed.
            RingClosedError, WrongLoopError: as every operation of a ring.
        """
        view = lent_bytes(data)
        n = view.nbytes
        fill = self._fill
        room = self._view
        if room is not None and n < len(room) - fill and self._state == "open" and not self._lock.locked():
            room[fill : fill + n] = view
            self._fill = fill + n
            return n
        async with self._lock:
            engine = await self._ready()
            await engine.loop.checkpoint()
            self._check()
            await self._put(engine, data, view)
        return n

    async def _put(self, engine: Engine, data: Any, view: memoryview) -> None:
        at, n = 0, view.nbytes
        lasting = type(data) is bytes and not self._sector
        while at < n:
            into = self._view
            if into is None:
                await self._wait(engine, self._max_ios - 1)
                if lasting and n - at >= self._combine:
                    self._ask_write(engine, view[at : at + self._combine], None)
                    at += self._combine
                    continue
                into = self._begin()
            fill = self._fill
            part = view[at : at + len(into) - fill]
            into[fill : fill + len(part)] = part
            self._fill = fill + len(part)
            at += len(part)
            if self._fill == len(into):
                self._ask_buffer(engine)

    def _begin(self, old: bytes = b"") -> Any:
        """Gather anew, where the last I/O ended; `old`: what the file has from there on already."""
        assert self._ring is not None
        self._memory = memory = self._ring._memory_pool().take(self._combine)
        self._view = view = memory.view(self._combine)
        view[: len(old)] = old
        self._fill = self._old = len(old)
        return view

    def _ask_buffer(self, engine: Engine) -> None:
        """Write what is gathered."""
        memory, fill = self._memory, self._fill
        if memory is None or fill == self._old:
            return
        view, self._view, self._memory, self._old = self._view[:fill], None, None, 0
        self._ask_write(engine, view, memory)

    def _ask_write(self, engine: Engine, view: memoryview, memory: Memory | None) -> None:
        n = view.nbytes
        handle = Handle(WRITE, self._fd, self._base, n)
        handle.view = view
        self._base, self._fill = self._base + n, 0
        piece = _Piece(handle, self._base, memory)
        handle.on_done = partial(self._landed, piece)
        self._in_flight.add(piece)
        self._line.append(piece)
        engine.ask(handle)
        engine.flush()  # it need not wait until its writer waits

    def _landed(self, piece: _Piece, handle: Handle) -> None:
        """`on_done`. Harmless when done twice."""
        self._in_flight.discard(piece)
        piece.over = True
        if handle.res < 0 or handle.exception is not None:
            self._fail(handle)
        memory, piece.memory = piece.memory, None
        assert self._ring is not None
        if memory is not None:
            given_back(self._ring._memory_pool(), memory, handle)
        line = self._line
        while line and line[0].over:
            self._written = line[0].end
            line.popleft()
        if self._written - self._paced >= _WINDOW and not self._sector:
            self._pace()
        self._wake()

    def _fail(self, handle: Handle) -> None:
        try:
            self._ring._started.take(handle)  # type: ignore[union-attr]
        except BaseException as error:
            if self._error is None:
                if isinstance(error, OSError):
                    named(error, self._path)
                self._error = error.with_traceback(None)

    def _pace(self) -> None:
        engine = self._ring._started if self._ring is not None else None
        if engine is None or not engine.open or not self._paces or self._error is not None:
            return
        n, flags = self._written - self._paced, _WAIT if self._durable else _START
        handle = define.sync_range(self._fd, self._paced, n, flags)
        handle.on_done = self._synced
        self._syncing.add(handle)
        self._paced += n
        engine.ask(handle)

    def _synced(self, handle: Handle) -> None:
        """`on_done`. Harmless when done twice."""
        self._syncing.discard(handle)
        if handle.res < 0:
            if -handle.res in _NOT_HERE:
                self._paces = False
            else:
                self._fail(handle)
        self._wake()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Whether who waits may go on."""
        return len(self._in_flight) <= self._most and len(self._syncing) <= (_SYNCING if self._most else 0)

    def _wake(self) -> None:
        if self.waiter is not None and self.finished():
            self._ring._started.loop.wake(self.waiter)  # type: ignore[union-attr]

    async def _wait(self, engine: Engine, most: int) -> None:
        """Until no more writes than so many are in flight."""
        self._most = most
        if not self.finished():
            await engine.loop.park(self, loops.at_once)
        engine.check()
        self._check()

    async def flush(self) -> None:
        """Wait until all that was taken has been written, to the page cache or, with `direct`, to the disk. Of a durable
        stream it is on the disk then (fsync(2)), and the name of a file that was given as a path, too.

        Cancelling is delivered at once, and what is in flight goes on. Errors as `write`.
        """
        async with self._lock:
            engine = await self._ready()
            await engine.loop.checkpoint()
            await self._flush(engine)
            if self._durable:
                await self._sync()

    async def _flush(self, engine: Engine) -> None:
        self._check()
        if self._sector:
            await self._flush_sectors(engine)
        else:
            self._ask_buffer(engine)
        await self._wait(engine, 0)

    async def _skip_to(self, offset: int) -> None:
        """Go on there, further behind: what is between is a hole. (Of a file that had nothing there.)"""
        if offset == self.tell() and self._state == "open":
            return
        async with self._lock:
            engine = await self._ready()
            if offset != self.tell():
                await self._flush(engine)
                memory, self._memory, self._view = self._memory, None, None
                if memory is not None and self._ring is not None:
                    self._ring._memory_pool().give(memory)
                self._base, self._fill, self._old = offset, 0, 0
                if self._sector:
                    await self._begin_with_a_sector(offset)

    async def _flush_sectors(self, engine: Engine) -> None:
        """Whole sectors as ever; then what is behind the last of them, by who can, which stays here as well."""
        fill = self._fill
        rest = fill % self._sector
        if fill == self._old:
            return
        tail = bytes(self._view[fill - rest : fill])
        if rest < fill:
            self._fill -= rest
            self._ask_buffer(engine)
            self._begin(tail)
            self._old = 0
        if rest:
            await self._wait(engine, 0)  # nothing else is to make the file longer meanwhile
            raw, old = self._raw, self._old
            assert raw is not None
            assert raw.direct is not None
            try:
                await raw.direct.pwrite(raw, tail[old:], self._base + old)
            except OSError as error:
                self._error = named(error, self._path).with_traceback(None)
                self._check()
            self._old = rest

    async def _sync(self) -> None:
        ring = self._ring
        assert ring is not None
        try:
            await ring.fsync(self._fd)
            if self._path is not None:
                await sync_folder(ring, await ring.run(folder_of, self._path))
        except OSError as error:
            self._error = self._error or named(error, self._path).with_traceback(None)
            raise

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with self._lock:
            await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
            return
        # What was taken is written, as far as that goes: the error that is under way says more than one of the closing.
        self._durable = False
        with suppress(OSError, RingClosedError):
            await self.aclose()

    async def aclose(self) -> None:
        """Write all that was taken, make it durable if it is to be, and close the file, if the stream has opened it. Twice
        is harmless. A cancel is delivered at the end.

        Raises:
            OSError: as `write` and fsync(2): not all of it is in the file. It is closed all the same.
        """
        await self._end(abort=False)

    async def abort(self) -> None:
        """Close the file without writing what has not been: what is in flight is cancelled and waited for. The file has
        some part of what was written."""
        await self._end(abort=True)

    async def _end(self, abort: bool) -> None:
        ring, closing = self._ring, self._closing
        if closing is None:
            was, self._state = self._state, "closed"
            if was != "open" or ring is None:
                return
            if ring.closed:
                self._drop()
                if not abort and (self._fill > self._old or self._error is not None or self._durable):
                    raise RingClosedError("the ring was closed before this was done: writing a stream to its end")
                return
            closing = begun(ring._engine.loop, partial(self._close, ring._engine, abort), "close of a write stream")
            self._closing = closing
        elif closing.over:
            return
        await closing.result()

    async def _close(self, engine: Engine, abort: bool) -> bool:
        try:
            if abort:
                self._error = self._error or os_error(errno.ECANCELED, self._path)
                for piece in list(self._in_flight):
                    engine.cancel(piece.handle)
            async with self._lock:
                if not abort:
                    await self._flush(engine)
                    if self._durable:
                        await self._sync()
        finally:
            self._view = None
            memory, self._memory = self._memory, None
            if memory is not None and self._ring is not None:
                self._ring._memory_pool().give(memory)
            self._most = 0
            if not self.finished():
                await engine.loop.park(self, loops.at_once)
            await self._close_file()
        return True

    async def _close_file(self) -> None:
        """Ours; of another's the position is left behind what was written."""
        raw, ring = self._raw, self._ring
        assert raw is not None
        assert ring is not None
        fd, raw.fd = raw.fd, -1
        if self._path is not None:
            await close_fd(ring, fd)
        elif self._error is None:
            with suppress(OSError, ValueError):  # it has been closed
                if isinstance(self._target, _FILES):
                    await self._target.seek(self.tell())
                else:
                    os.lseek(fd, self.tell(), os.SEEK_SET)

    def _drop(self) -> None:
        """Nobody can close it in the proper way."""
        raw = self._raw
        if raw is not None and raw.fd >= 0:
            fd, raw.fd = raw.fd, -1
            if self._path is not None:
                drop_fd(None if self._ring is None else self._ring._started, fd)

    async def _ready(self) -> Engine:
        """The engine of a stream that is open."""
        if self._state == "closed":
            raise ValueError("I/O operation on closed write stream")
        if self._state == "new":
            await self._open()
        assert self._ring is not None
        return self._ring._engine

    def _check(self) -> None:
        if self._error is not None:
            try:
                raise again(self._error)
            finally:
                del self

    _ring: Ring | None = None

    async def _open(self) -> None:
        ring = self._ring = get_ring() if self._given_ring is None else self._given_ring
        target, start, direct = self._target, 0, self._direct
        if isinstance(target, (str, bytes, os.PathLike)):
            self._path = path = os.fspath(target)
            raw = await open_raw(ring, path, _MODE, True, None, False, direct)
        else:
            if isinstance(target, TextFile):
                raise TypeError("a write stream writes bytes: open the file with 'b' in its mode")
            fd = descriptor(target)
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
                raise os_error(errno.EINVAL, note="aioring: to an fd with O_APPEND nothing can be written at an offset")
            if isinstance(target, _FILES):
                await target.flush()
                start = await target.tell()
            else:
                start = os.lseek(fd, 0, os.SEEK_CUR)
            raw = await open_raw(ring, fd, _MODE, False, None, True, direct)
        self._raw, self._fd = raw, raw.fd
        try:
            if not raw.seekable or raw.streams:
                raise os_error(errno.ESPIPE, self._path, note="aioring: a write stream writes what can seek")
            self._sector = 0 if raw.direct is None else raw.direct.sector
            self._base = self._written = self._paced = start
            if self._sector:
                await self._begin_with_a_sector(start)
        except BaseException:
            self._state = "closed"
            self._drop()
            raise
        self._state = "open"

    async def _begin_with_a_sector(self, start: int) -> None:
        """Past the page cache what stands before the start, in its sector, is written with it."""
        sector = self._sector
        self._combine = -(-self._combine // sector) * sector
        before = start % sector
        if before:
            self._base = start - before
            raw: Any = self._raw
            self._begin((await raw.direct.pread(raw, before, self._base)).ljust(before, b"\0"))

    def __del__(self) -> None:
        if getattr(self, "_state", "") == "open":
            self._state = "closed"
            self._drop()
            lost = self._fill - self._old
            words = f", and {lost} bytes that were not written are lost" if lost else ""
            warnings.warn(f"unclosed write stream {self._target!r}{words}", ResourceWarning, source=self, stacklevel=2)


def write_stream(
    file: Any,
    *,
    direct: bool | Literal["try"] = False,
    combine_limit: int = 1 << 20,
    max_ios: int = 8,
    durable: bool = False,
    ring: Ring | None = None,
) -> WriteStream:
    """Write a file from its start to its end, write-behind: `async with write_stream(path) as out: await out.write(data)`.

    What is written is gathered into I/Os of `combine_limit` bytes, of which up to `max_ios` are in flight; `write` waits
    when there are more, so that the stream holds `(max_ios + 1) * combine_limit` bytes at most.

    `file`: a path, which is made, or cut to nothing, and closed by the stream; an fd, anything with `fileno()`, or an open
    file of aioring's, which are written from their position on, and stay open, their position behind what was written.

    `direct`: past the page cache (O_DIRECT), whatever the sizes; "try": where the file system takes it. (It is set on an fd
    that is given, and stays.)

    `durable`: `flush` and closing return when all of it is on the disk (fsync(2), and of a path's folder). While it is
    written the kernel is kept busy writing it out, so that the last fsync is short.

    `ring`: by default the running loop's own (`get_ring`), when the stream is first used.

    Leaving the block with an error writes what was taken, too, as the built-in `open` does, but makes nothing durable.

    Raises, at first use:
        OSError: as open(2), with the file name; EINVAL: O_DIRECT is refused, or the fd has O_APPEND; ESPIPE: it cannot
            seek.
        ValueError, TypeError: here, where an argument makes no sense.
    """
    return WriteStream(file, direct, combine_limit, max_ios, durable, ring)
