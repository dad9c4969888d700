"""What a write stream has under way: writes in flight, in order; their pace to the disk; and the error that ends it.

* Of a stream that is durable 32 MiB at most are on their way from the page cache to the disk (sync_file_range(2),
  PostgreSQL's `backend_flush_after`, but with waiting), so that its fsync has little to do; of another they are only
  started, so that the kernel need not write all of it at some moment of its own. An error of theirs is one of the stream:
  the kernel tells each fd once (`file_check_and_advance_wb_err`), and fsync would not say it again.
* Completions tell it, not a task. Each can be told twice: KeyboardInterrupt may strike between any two steps.

Part of `WriteStream`, whose module says why the memory outlives the completion.
"""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from typing import Any

from .. import loops
from ..buffers import Memory
from ..engine import Engine
from ..errors import again
from ..files.direct_io import given_back
from ..files.folders import sync_folder
from ..files.put import named
from ..handle import Handle
from ..kernel import abi
from ..loops.outcome import Outcome, begun
from ..ring import Ring, define
from .written import Written

__all__ = ["Piece", "WriteBehind"]

_WINDOW = 16 << 20  # bytes that are written between two calls of sync_file_range(2)
_SYNCING = 2  # of them at most are waited for at a time
_START = abi.SYNC_FILE_RANGE_WRITE
_WAIT = abi.SYNC_FILE_RANGE_WAIT_BEFORE | abi.SYNC_FILE_RANGE_WRITE | abi.SYNC_FILE_RANGE_WAIT_AFTER
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP)


class Piece:
    """One write under way, or done while one before it is not."""

    __slots__ = ("end", "handle", "memory", "over")

    def __init__(self, handle: Handle, end: int, memory: Memory | None) -> None:
        self.handle, self.end, self.memory = handle, end, memory
        self.over = False


class WriteBehind:
    """See the module."""

    _ring: Ring | None = None

    def __init__(self, file: Written, durable: bool) -> None:
        self._file, self._durable = file, durable
        self._fd = -1
        self._sector = 0  # of O_DIRECT; 0: through the page cache
        self._error: BaseException | None = None
        self._in_flight: set[Piece] = set()
        self._line: deque[Piece] = deque()  # in order, so that it is known how far all is written
        self._written = self._paced = 0  # all below has been written; handed to sync_file_range(2)
        self._syncing: set[Handle] = set()
        self._syncing_all: Outcome[bool] | None = None
        self._paces = True
        self.waiter: Any = None
        self._most = 0  # so many writes may be in flight for the waiter to go on

    def _landed(self, piece: Piece, handle: Handle) -> None:
        """`on_done`. Harmless when done twice."""
        self._in_flight.discard(piece)
        piece.over = True
        if handle.res < 0 or handle.exception is not None:
            self._fail(handle)
        line = self._line
        while line and line[0].over:
            self._written = line[0].end
            line.popleft()
        if self._written - self._paced >= _WINDOW and not self._sector:
            self._pace()
        self._wake()
        memory, piece.memory = piece.memory, None
        assert self._ring is not None
        if memory is not None:
            given_back(self._ring._memory_pool(), memory, handle)  # last: it will not be told again

    def _fail(self, handle: Handle) -> None:
        try:
            self._ring._started.take(handle)  # type: ignore[union-attr]
        except Exception as error:
            if self._error is None:
                if isinstance(error, OSError):
                    named(error, self._file.path)
                self._error = error.with_traceback(None)

    def _pace(self) -> None:
        engine = self._ring._started if self._ring is not None else None
        if engine is None or not engine.open or not self._paces or self._error is not None:
            return
        if self._syncing and not self._durable:
            return  # it is only to be begun, and the next is of all that has come meanwhile
        n, flags = self._written - self._paced, _WAIT if self._durable else _START
        handle = define.sync_range(self._fd, self._paced, n, flags)
        handle.on_done = self._synced
        self._paced += n
        try:
            self._syncing.add(handle)
            engine.ask(handle)
        except BaseException:
            engine.forsake(handle)  # struck by KeyboardInterrupt: nobody is to wait for what was not asked
            raise

    def _synced(self, handle: Handle) -> None:
        """`on_done`. Harmless when done twice."""
        self._syncing.discard(handle)
        if handle.res < 0:
            if -handle.res in _NOT_HERE:
                self._paces = False
            elif -handle.res != errno.ECANCELED:  # it was not carried out, and has told nobody of an error
                self._fail(handle)
        self._wake()

    def _check(self) -> None:
        if self._error is not None:
            try:
                raise again(self._error)
            finally:
                del self

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

    async def _sync(self) -> None:
        """fsync(2) serves what was complete when it was submitted; its error is told once, and must not be lost with a
        caller who was cancelled."""
        ring, job = self._ring, self._syncing_all
        assert ring is not None
        if job is not None:
            await job.wait()
        self._check()
        self._syncing_all = job = begun(ring._engine.loop, partial(self._sync_all, ring), "fsync of a write stream")
        await job.wait()
        self._check()

    async def _sync_all(self, ring: Ring) -> bool:
        try:
            await ring.fsync(self._fd)
            if self._file.folder is not None:
                await sync_folder(ring, self._file.folder)
        except Exception as error:
            if isinstance(error, OSError):
                named(error, self._file.path)
            self._error = self._error or error.with_traceback(None)
        return True
