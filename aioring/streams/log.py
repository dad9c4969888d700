"""The log: records appended with group commit, durable when `append` returns. What people hold.

`commits.py` makes batches durable, `log_file.py` opens and makes sure, `log_reader.py` reads, `records.py` is the format.
"""

from __future__ import annotations

import errno
import io
import os
import warnings
from asyncio.events import _get_running_loop  # C, no exception where none runs
from functools import partial
from operator import index
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self
from zlib import crc32

from ..buffers import lent_bytes
from ..errors import AioringError, RingClosedError, os_error
from ..files.ring_io import close_fd, drop_fd, in_its_thread
from ..loops.outcome import Outcome, begun
from ..ring import Ring, get_ring
from .commits import NO_ROOM, O_DSYNC, Append, Commits
from .log_file import LogFile, mark_closed, next_archive, open_log, replaced
from .log_reader import Entries, Records, read_one
from .records import HEADER, MOST

__all__ = ["Log"]

StrOrBytesPath = str | bytes | PathLike[str] | PathLike[bytes]


class Log:
    """A file that records are appended to: `async with Log(path) as log: offset = await log.append(b"...")`.

    `append` returns when its record is on the disk; those that come at the same time share one write and one fdatasync
    (group commit). `async for record in log` gives what is in it. One `Log` at a time has a file (flock(2)), or any number
    with `readonly=True`.

    `preallocate`: so many bytes are allocated at once, as zeros, so that appending overwrites (bytes; 0: it grows).
    Closing cuts off what was not used. `ring`: by default the running loop's own (`get_ring`).

    Opening makes the file where there is none. After a crash it ends behind the last record that is whole; a batch that
    was torn was acknowledged to nobody, and is cut. What may not be on the disk is written and synced again before anything
    is given out. (With `readonly=True` nothing is written: what is given behind the last record's `durable` may still be
    lost by a power cut.)

    Raises, on entering:
        BlockingIOError: the log is open already (by another process: after a second of trying).
        LogDamagedError: a record is not there that was durable; `offset` says where.
        OSError: as open(2), read(2), write(2), fsync(2), with the file name; EINVAL: this is no log.
        ValueError: `preallocate` is negative, or more than 1 GiB.
    """

    def __init__(
        self,
        path: StrOrBytesPath,
        *,
        preallocate: int = 1 << 20,
        sync: Literal["open_datasync", "fdatasync"] = "open_datasync",
        readonly: bool = False,
        ring: Ring | None = None,
    ) -> None:
        if not 0 <= preallocate <= 1 << 30:
            raise ValueError(f"preallocate {preallocate}: must be from 0 to 1 GiB")
        self._path = os.fspath(path)
        if sync not in ("open_datasync", "fdatasync"):
            raise ValueError(f"sync {sync!r}: must be 'open_datasync' or 'fdatasync'")
        self._step = preallocate
        self._how = O_DSYNC if sync == "open_datasync" else 0
        self._readonly = bool(readonly)
        self._given_ring = ring
        self._ring: Ring | None = None
        self._file: LogFile | None = None
        self._commits: Commits | None = None
        self._state = "new"
        self._closing: Outcome[bool] | None = None
        self._rotating: Outcome[Any] | None = None

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | bytes:
        """The path that it was given."""
        return self._path

    @property
    def closed(self) -> bool:
        """Whether it takes no more records."""
        return self._state == "closed"

    @property
    def end(self) -> int:
        """The offset behind the last record that is durable, in bytes."""
        return self._check().end

    def __repr__(self) -> str:
        return f"<aioring.Log {self._path!r}, {self._state}>"

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise AioringError("a log is entered once; make another")
        ring = self._ring = get_ring() if self._given_ring is None else self._given_ring
        engine = ring._engine
        await engine.loop.checkpoint()
        self._state = "opening"
        try:
            file = await open_log(ring, self._path, self._readonly, self._how)
        except BaseException:
            self._state = "closed"
            raise
        self._file = file
        if self._state != "opening":
            self._let_go()
            raise ValueError("I/O operation on closed log")
        if not self._readonly:
            self._commits = Commits(engine, file, self._step)
        self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Make durable what is on its way, write that the log was closed, cut what was allocated ahead, and close the file.
        Twice is harmless. Cancelled, it goes on to its end first.

        Raises:
            OSError: as write(2) and fsync(2); the file is closed all the same, and what was acknowledged is on the disk.
                (Not for lack of space: the last record says that all is well, and is not needed.)
        """
        self._state = "closed"
        ring = self._ring
        if ring is None or ring.closed:
            self._let_go()
            return
        if self._closing is None and self._file is not None:
            self._closing = begun(ring._engine.loop, partial(self._close, ring), "close of a log")
        if self._closing is not None:
            await self._closing.result()

    async def _close(self, ring: Ring) -> bool:
        commits = self._commits
        try:
            if self._rotating is not None:
                await self._rotating.wait()
            if commits is not None:
                await commits.quiet(False)
                if commits.error is None and not commits.file.closed:
                    await mark_closed(ring, commits.file)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
        finally:
            file, self._file = self._file, None
            if file is not None:
                await close_fd(ring, file.let_go())
        return True

    def _let_go(self) -> None:
        """Nobody can close it in the proper way any more."""
        file, self._file, commits = self._file, None, self._commits
        engine = None if self._ring is None else self._ring._started
        if file is None:
            return
        if commits is None or engine is None or engine.ended:
            drop_fd(engine, file.let_go())
        else:
            in_its_thread(engine, commits.abandon)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._let_go()
            warnings.warn(f"unclosed log {self!r}", ResourceWarning, source=self, stacklevel=2)

    def _check(self) -> LogFile:
        if self._state == "new":
            raise AioringError("this log was not opened: use `async with Log(path) as log`")
        if self._state != "open" or self._file is None:
            raise ValueError("I/O operation on closed log")
        return self._file

    # --- appending ----------------------------------------------------------------------------------------------------

    # Hot path: once per record; measured in benchmarks/streams.py.

    async def append(self, record: Any) -> int:
        """Append a record, any contiguous buffer of 0 bytes to 2 GiB, and return its offset once it is on the disk.

        What is appended at the same time is committed together, in the order of the calls; their number in one batch is
        bounded by 8 MiB. `record` is copied, unless it is `bytes`.

        Cancelling before it was submitted takes it back. After that its outcome is unknown: it may be in the log or not,
        and a later `append` that returns is behind it.

        Raises:
            OSError: as write(2) and fdatasync(2), with the file name. Where there is no room (ENOSPC, EDQUOT, EFBIG)
                nothing of the batch is in the log, and it can go on. After any other error the log takes nothing more:
                what is on the disk is not known before it was closed and opened again.
            io.UnsupportedOperation: it was opened with `readonly=True`.
            ValueError: it is closed, or `record` is too large.
            TypeError, BufferError: `record` is no buffer, or not contiguous.
            RingClosedError, WrongLoopError: as every operation of a ring.
        """
        commits = self._commits
        if commits is None or self._state != "open":
            self._check()
            raise io.UnsupportedOperation("append to a log that was opened with readonly=True")
        engine = commits.engine
        if _get_running_loop() is not engine.loop.key or not engine.open:
            engine.check()  # which says what is wrong; on trio it is asked each time
        data: Any = record if type(record) is bytes else lent_bytes(record)
        if len(data) > MOST:
            raise ValueError(f"a record of {len(data)} bytes: at most {MOST}")
        if data is not record:
            data = bytes(data)
        if engine.loop.checks:
            await engine.loop.checkpoint()
            self._check()
        if commits.error is not None:
            raise commits.poison()
        item = Append(data)
        if item.crc is None:
            # Its place is taken now; its CRC is reckoned by a worker.
            self._reckon(item)
        return await commits.append(item)

    def _reckon(self, item: Append) -> None:
        ring = self._ring
        assert ring is not None

        async def body() -> int:
            return await ring.run(crc32, item.data)

        ring._engine.loop.spawn(body, partial(self._reckoned, item))

    def _reckoned(self, item: Append, value: int | None, error: BaseException | None) -> None:
        item.crc = crc32(item.data) if value is None else value
        if self._commits is not None:
            self._commits.commit_soon()

    # --- reading ------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Records:
        """The records, from the first to the last that is durable when this comes to it, as `bytes`."""
        return Records(self._entries(None))

    def entries(self, offset: int | None = None) -> Entries:
        """The same as pairs: a record's offset, as `append` has returned it, and its bytes. `offset`: where to begin.

        Raises, while iterating:
            LogDamagedError: there is no whole record where one should be.
        """
        return self._entries(offset)

    def _entries(self, offset: int | None) -> Entries:
        file = self._check()
        assert self._ring is not None
        start = HEADER if offset is None else index(offset)
        if start < HEADER:
            raise ValueError(f"offset {offset}: no record stands there")
        return Entries(self._ring, os.dup(file.fd), file, start)

    async def read(self, offset: int) -> bytes:
        """The record whose offset `append` has returned.

        Raises:
            LogDamagedError: there is no whole record at `offset`.
            ValueError: `offset` is behind what is durable.
        """
        file, ring = self._check(), self._ring
        assert ring is not None
        if not HEADER <= index(offset) < file.end:
            raise ValueError(f"offset {offset}: the records are from {HEADER} to {file.end}")
        await ring._engine.loop.checkpoint()
        return await read_one(ring, os.dup(file.fd), file, index(offset))

    # --- rotating -----------------------------------------------------------------------------------------------------

    async def rotate(self, archive: StrOrBytesPath | None = None) -> str | bytes:
        """Give the file another name, and begin a new one under the log's: the archive's path is returned. By default it is
        the log's with a number: `log.000001`.

        What was appended before is in the archive, what is appended later in the new file, whose offsets begin anew; both
        are durable when this returns. A power cut leaves the log as it was, or the archive and an empty log or, in between,
        the old file under both names (`os.path.samefile`). An iteration that has begun goes on to the end of the archive.
        Cancelling is delivered when it is done.

        Raises:
            FileExistsError: there is something at `archive`.
            OSError: as link(2), rename(2), open(2) ..., and the log goes on as it was; ESTALE: its file was moved away, or
                replaced. (Where that cannot be undone, and after a failed fsync of the log, it takes nothing more, as after
                one of `append`.)
        """
        self._check()
        commits, ring = self._commits, self._ring
        if commits is None or ring is None:
            raise io.UnsupportedOperation("rotate a log that was opened with readonly=True")
        engine = ring._engine
        if commits.error is not None:
            raise commits.poison()
        if self._rotating is not None and not self._rotating.over:
            raise AioringError("this log is being rotated by another task")
        await engine.loop.checkpoint()
        to = None if archive is None else os.fspath(archive)
        self._rotating = begun(engine.loop, partial(self._rotate, ring, commits, to), "rotation of a log")
        made: str | bytes = await self._rotating.result()
        return made

    async def _rotate(self, ring: Ring, commits: Commits, archive: Any) -> Any:
        file = commits.file
        try:
            await commits.quiet(True)
            if commits.error is not None:
                raise commits.poison()
            if archive is None:
                archive = await ring.run(next_archive, file.path)
            elif await ring.run(os.path.lexists, archive):
                raise os_error(errno.EEXIST, archive)
            try:
                await mark_closed(ring, file)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    commits.poisoned(error)
                raise
            self._file = await replaced(ring, file, archive, self._how, commits.poisoned)
        except (OSError, ValueError):
            if self._file is None:  # who closed the log, when its ring had ended, has let go of the file
                raise RingClosedError("the ring was closed before this was done: rotation of a log") from None
            raise
        finally:
            now = self._file
            commits.go_on(file if now is None else now)  # None: the ring has ended; who waits is told so
            if now is not file and (fd := file.let_go()) >= 0:
                await close_fd(ring, fd)
        return archive
