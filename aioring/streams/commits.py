"""Group commit: appends that come while others are being made durable share one write and one fdatasync.

    append     queue  ->  batch  ->  WRITE  ->  FSYNC (data only)  ->  wake all of the batch  ->  next batch
    (a tick)                          its CQE has come before          (the next tick: they may append again first)

* One batch at a time. An fsync serves a write that was complete when it was submitted (PostgreSQL 18 xlog.c, XLogFlush,
  and IORING_OP_FSYNC in io_uring_enter(2): unordered with anything in flight), so it is submitted at the write's
  completion, and whoever comes meanwhile is of the next batch. (Linked to the write it was slower: a link is carried out
  by the kernel's own workers from the start.)
* `durable` of a batch's records is where the batch begins: all before it has been synced.
* Space is allocated by writing zeros behind a batch, in the same write, a megabyte at a time: no write is ever in flight
  beside another, and to overwrite is quicker than to grow (1.1 to 1.4 times).
* An fsync that failed poisons: the kernel takes the pages that it could not write for clean, and says so once (the fsync
  affair of 2018). A write that failed for lack of space is undone (cut, and that synced) and the log goes on.
* The steps are told by completions, not by a task. Each can be taken twice, and stores before it asks: KeyboardInterrupt
  may strike between any two of them.

Kernel memory: what is written is `bytes` of ours or immutable ones of the caller's, held by the handle, and so by the
engine's `live`, until its completion (invariant 1): a cancelled append is delivered at once, whatever the kernel does.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from ..engine import Engine
from ..errors import RingClosedError, again, os_error
from ..files.ring_io import drop_fd
from ..handle import COMPLETE, DEFINED, Handle
from ..kernel import at_once
from ..loops.outcome import Outcome
from ..operations import WRITE, WRITEV
from ..ring import define
from .log_file import LogFile
from .records import DATA, RECORD, pack_crc, pack_fields

__all__ = ["NO_ROOM", "Append", "Commits"]

O_DSYNC: int = getattr(os, "O_DSYNC", 0)
_LARGE = 256 << 10  # bytes: the CRC of so much is not reckoned on the loop, nor is it copied into the batch
_MOST = 8 << 20  # bytes of a batch, but for its first record
_PARTS = 512  # records of a batch: writev(2) takes 1,024 pieces, and a large record is one, with a header before it
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Append:
    """A record on its way. `crc` of None: it is being reckoned, and who comes behind it waits.

    (One is made for each record: what is set later is a default of the class, which costs nothing to make.)
    """

    offset = -1
    over = sent = False
    error: BaseException | None = None
    waiter: Any = None

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.crc: int | None = None if len(data) >= _LARGE else crc32(data)

    def finished(self) -> bool:
        return self.over


class Commits:
    """The end of a log, and who appends to it. `file.end`: all below it is durable."""

    def __init__(self, engine: Engine, file: LogFile, step: int) -> None:
        self.engine, self.file = engine, file
        self.queue: deque[Append] = deque()
        self.error: OSError | None = None  # it is poisoned
        self._step = step  # bytes that are allocated at once; 0: none
        self._zeros = memoryview(bytes(step))
        self._allocated = file.end  # it has been as far as here
        self._synchronous = bool(O_DSYNC and at_once.flags_of(file.fd) & O_DSYNC)
        self._paused = False
        self._batch: list[Append] = []
        self._until = 0  # where the batch under way ends
        self._handle: Handle | None = None  # what the method carries out for the batch under way; None: there is none
        self._then: Callable[[Handle], None] = self._wrote
        self._soon = False
        self._quiet: list[Outcome[bool]] = []
        self._refused: BaseException | None = None  # there is no room for the batch, and it is being undone
        self._abandoned = False

    # Hot path: `append` once a record, the rest once a batch; measured in benchmarks/streams.py.

    async def append(self, item: Append) -> int:
        """Its offset, once it is durable. A cancel takes it back if it has not been sent."""
        self.queue.append(item)
        if not self._soon and self._handle is None:
            self.commit_soon()
        loop = self.engine.loop
        if loop.create_future is None:
            await loop.park(item, self._cancelled)
        else:
            item.waiter = loop.create_future()  # what `park` of asyncio begins with, here: one coroutine less, twice
            try:
                await item.waiter
            except BaseException as error:
                await loop.park(item, self._cancelled, error)
        if item.error is not None:
            try:
                raise item.error
            finally:
                item.error = None
        return item.offset

    def _cancelled(self, item: Append) -> bool:
        if not item.sent:
            item.over = True  # and left out, when its turn comes
            self._commit_surely()
        return True

    def commit_soon(self) -> None:
        """In the next tick: who was woken in this one may append first."""
        if not self._soon and self._handle is None and (self.queue or self._quiet or self._batch):
            self.engine.loop.call_soon(self._commit)
            self._soon = True

    def _commit_surely(self) -> None:
        """Once too often does no harm. (One that KeyboardInterrupt has struck at its very entry is lost, and still due.)"""
        self.engine.loop.call_soon(self._commit)

    def _commit(self) -> None:
        try:
            self._soon = False
            if self._handle is not None:
                if self._handle.state == DEFINED:
                    self._ask(self._handle, self._then)  # struck when it was to be asked: twice in a line is harmless
                return
            self._put_back()  # what KeyboardInterrupt has left of a batch
            if self._paused:
                self._tell_quiet()
                return
            if self.error is not None or not self.engine.open:
                self._fail_all()
                return
            self._send()
            if self._batch:
                self.engine.flush()  # now, not at the end of the tick: all that it serves is in it
            elif not self.queue:
                self._tell_quiet()
        except BaseException:
            self._commit_surely()  # struck by KeyboardInterrupt: the next tick goes on with it
            raise

    def _put_back(self) -> None:
        """The batch into the queue, from which it came."""
        queue, batch = self.queue, self._batch
        if batch:
            if queue and queue[0] is batch[-1]:
                queue.popleft()
            while batch:
                queue.appendleft(batch[-1])
                batch.pop()

    def _send(self) -> None:
        """What is next of the queue, in one write."""
        file, queue, batch = self.file, self.queue, self._batch
        begin = at = file.end
        parts: list[Any] = []
        log = file.log
        while queue and len(batch) < _PARTS:
            item = queue[0]
            if not item.over:
                data = item.data
                n = len(data)
                if item.crc is None or (at + n > begin + _MOST and batch):
                    break
                item.sent = True
                item.offset = at
                fields = pack_fields(item.crc, n, DATA, at, begin, log)
                parts += (pack_crc(crc32(fields)), fields, data)
                at += RECORD + n
                batch.append(item)
            queue.popleft()
        if not batch:
            return
        self._until, size = at, at - begin
        if self._step and at > self._allocated:
            self._allocated = at - at % self._step + self._step
            parts.append(self._zeros[: self._allocated - at])
            size = self._allocated - begin
        if size <= _LARGE:
            handle = Handle(WRITE, file.fd, begin, size)
            handle.view = b"".join(parts)
        else:
            handle = Handle(WRITEV, file.fd, begin, size)
            handle.views = [memoryview(part) for part in _joined(parts)]
        self._ask(handle, self._wrote)

    # --- from step to step --------------------------------------------------------------------------------------------

    def _ask(self, handle: Handle, then: Callable[[Handle], None]) -> None:
        handle.on_done = self._arrived
        self._then = then
        self._handle = handle
        if self.engine.open:
            self.engine.ask(handle)
        else:
            self._over(_closed())

    def _arrived(self, handle: Handle) -> None:
        """`on_done` of each."""
        now = self._handle
        if handle is now:
            self._then(handle)
        elif now is None:
            self._rest()  # struck by KeyboardInterrupt before it was told in full
        elif now.state == DEFINED:
            self._ask(now, self._then)  # struck when it was to be asked

    def _wrote(self, handle: Handle) -> None:
        if handle.res >= 0 and handle.exception is None:
            if self._synchronous:
                self._synced(handle)
                return
            self._ask(define.fsync(self.file.fd, True), self._synced)
            return
        error = self._error_of(handle)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            # What is there of it must not be taken for records behind the next batch. (Is there room for it, if not for
            # zeros behind it?)
            self._refused = error if self._allocated <= self._until or not self._step else None
            self._step = 0
            self._ask(define.truncate(self.file.fd, self.file.end), self._cut)
        else:
            self._over(error)

    def _synced(self, handle: Handle) -> None:
        if handle.res < 0 or handle.exception is not None:
            self._over(self._error_of(handle))
            return
        file = self.file
        file.end, file.closed = self._until, False
        self._tell(None)
        self._rest()

    def _cut(self, handle: Handle) -> None:
        self._allocated = self.file.end
        if handle.res < 0:
            self._over(self._error_of(handle))
        else:
            self._ask(define.fsync(self.file.fd, False), self._cut_for_good)

    def _cut_for_good(self, handle: Handle) -> None:
        if handle.res < 0:
            self._over(self._error_of(handle))
        else:
            if self._refused is not None:
                self._tell(self._refused)  # now it is true that nothing of it is there
            self._put_back()
            self._rest()

    def _error_of(self, handle: Handle) -> BaseException:
        assert handle.state == COMPLETE
        try:
            self.engine.take(handle)
        except BaseException as error:
            if isinstance(error, OSError):
                error.filename = self.file.name
            return error.with_traceback(None)
        raise AssertionError("it has not failed")  # pragma: no cover

    def _tell(self, error: BaseException | None) -> None:
        """All of the batch. Each has an error of its own: it is raised in many places."""
        wake = self.engine.loop.wake
        for item in self._batch:
            if error is not None:
                item.error = again(error)
            item.over = True
            if item.waiter is not None:
                wake(item.waiter)
        self._batch.clear()

    def _over(self, error: BaseException) -> None:
        """What is on the disk is not known, and will not be before the log is opened again."""
        if not isinstance(error, RingClosedError):
            self.poisoned(error if isinstance(error, OSError) else os_error(errno.ENOMEM, self.file.name))
        self._tell(error)
        self._fail_all()
        self._rest()

    def _fail_all(self) -> None:
        while self.queue:
            item = self.queue[0]
            item.error, item.over = self.poison() if self.error is not None else _closed(), True
            if item.waiter is not None:
                self.engine.loop.wake(item.waiter)
            self.queue.popleft()
        self._tell_quiet()

    def _rest(self) -> None:
        self._handle = None
        if self._abandoned:
            drop_fd(self.engine, self.file.let_go())
        self.commit_soon()

    # --- for who closes and rotates -----------------------------------------------------------------------------------

    async def quiet(self, pause: bool) -> None:
        """Until nothing is under way: all that was asked is durable; or with `pause`: all that was sent is, and nothing
        more is, until `go_on`."""
        self._paused = self._paused or pause
        outcome: Outcome[bool] = Outcome(self.engine.loop, "a log's commits")
        self._quiet.append(outcome)
        self._commit_surely()
        await outcome.wait()

    def _tell_quiet(self) -> None:
        for outcome in self._quiet:
            outcome.set(True)
        self._quiet.clear()

    def abandon(self) -> None:
        """Nobody holds the log any more: close its file behind what is under way."""
        if self._handle is not None and not self.engine.ended:
            self._abandoned = True
        else:
            drop_fd(self.engine, self.file.let_go())

    def go_on(self, file: LogFile) -> None:
        """After `quiet(True)`, with this file."""
        self.file, self._allocated = file, file.end
        self._step = len(self._zeros)
        self._paused = False
        self.commit_soon()

    def poisoned(self, error: OSError) -> None:
        self.error = self.error or error

    def poison(self) -> OSError:
        """For who comes when it is poisoned."""
        assert self.error is not None
        error = again(self.error)
        assert isinstance(error, OSError)
        error.add_note(
            "aioring: this log could not be made durable before, and takes nothing more: what is on the disk is not known. "
            "Close it and open it again, which writes and syncs again all that may not be there"
        )
        return error


def _closed() -> RingClosedError:
    return RingClosedError("the ring was closed before this was done: append to a log")


def _joined(parts: list[Any]) -> list[Any]:
    """What is small in one piece."""
    found: list[Any] = []
    small: list[Any] = []
    for part in parts:
        if len(part) <= _LARGE:
            small.append(part)
            continue
        found += (b"".join(small), part)
        small = []
    return [*found, b"".join(small)] if small else found
