"""The file of a log: found or made, locked, read to its end, and made sure of.

    open  flock  read the header | all records  ->  what may not be on the disk is written again  cut  fsync  fsync(folder)

Why it is written again: after an fsync that failed the page cache shows what the disk may have lost, and takes it for
clean; another fsync would say that all is well (PostgreSQL panics, and replays, for the same reason). Only who writes it
again makes it sure. What is below the last record's `durable` has been on the disk before, and is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary
from zlib import crc32

import anyio

from ..errors import LogDamagedError, os_error
from ..files.atomic import remove
from ..files.folders import folder_of, sync_folder
from ..files.put import named
from ..files.ring_io import close_fd
from ..loops.outcome import begun
from ..ring import Ring
from .read_stream import read_stream
from .records import CLOSED, HEADER, MAGIC, RECORD, End, Recovery, head, read_header, write_header

__all__ = ["PORTION", "LogFile", "mark_closed", "next_archive", "open_log", "replaced", "takes_long"]

PORTION = 64 << 10  # bytes that are read and looked through at once: about half a millisecond
_REWRITE = 1 << 20
_BUSY = (errno.EAGAIN, errno.EACCES)
_TRIES, _PAUSE = 50, 0.02  # of the lock of what is not open in this process; seconds between two

_open_here: WeakValueDictionary[tuple[int, int], LogFile] = WeakValueDictionary()


@dataclass(slots=True, weakref_slot=True, eq=False)
class LogFile:
    """One that is open. `end`: behind its last record; all below it is on the disk, but where it is only read. `path`:
    where it is, absolute and without links; `name`: what it was called by, for people."""

    fd: int
    name: Any
    path: Any
    log: int
    end: int
    closed: bool  # the last record says so
    damage: int | None = None  # where a record was, of one that is only read
    pid: int = field(default_factory=os.getpid)

    def let_go(self) -> int:
        """The fd, to be closed. The lock is taken off: forked children, and who still reads it, have fds that share it."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and self.pid == os.getpid():
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
        return fd

    def __del__(self) -> None:
        fd = self.let_go()
        if fd >= 0:  # a loop that ended at the wrong moment
            os.close(fd)


async def open_log(ring: Ring, name: Any, readonly: bool, how: int) -> LogFile:
    """What is at `name`, or a new one. `how`: O_DSYNC, or 0."""
    while True:
        path = await ring.run(os.path.realpath, name)
        fd, made = await _open(ring, name, os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT | how)
        file = LogFile(fd, name, path, 0, HEADER, False)
        ours = False
        try:
            status = await ring.stat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "a log is a regular file", name)
            await _locked(ring, file, readonly, (status.st_dev, status.st_ino))
            ours = made
            if await ring.run(_leads_to, path, status):
                await _begin(ring, file, readonly)
                return file
        except GeneratorExit:
            raise
        except BaseException as error:
            # Nothing is in it. (Were its folder's fsync what failed, another would not make its name durable.)
            await _undo(ring, file, path if ours else None)
            if isinstance(error, OSError):
                named(error, name)
            raise
        await _undo(ring, file, None)  # it was rotated away before it was locked


async def _open(ring: Ring, name: Any, flags: int) -> tuple[int, bool]:
    """The fd, and whether it was made."""
    if flags & os.O_CREAT:
        try:
            return await ring._create(name, flags, 0o666), True
        except FileExistsError:
            pass  # or it is a link that leads nowhere, and makes a file
    return await ring.open(name, flags, 0o666), False


async def _undo(ring: Ring, file: LogFile, path: Any) -> None:
    """Close what is not to be used after all, and remove it; whatever becomes of the caller."""

    async def body() -> bool:
        try:
            if path is not None:
                await remove(ring, path)
        finally:
            await close_fd(ring, file.let_go())
        return True

    await begun(ring._started.loop, body, "close of a log").result()  # type: ignore[union-attr]


async def _locked(ring: Ring, file: LogFile, readonly: bool, identity: tuple[int, int]) -> None:
    """Lock it. Of a process that was killed the kernel may still be ending the I/O, and has the lock so long."""
    other = _open_here.get(identity)
    patience = 1 if other is not None and other.fd >= 0 else _TRIES
    for left in reversed(range(patience)):
        try:
            await ring._run_out(_lock, file, readonly)
            _open_here[identity] = file
            return
        except BlockingIOError:
            if not left:
                raise
        await anyio.sleep(_PAUSE)


def _lock(file: LogFile, readonly: bool) -> None:
    try:
        fcntl.flock(file.fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            note = "aioring: the log is to be locked by flock(2)"
            raise os_error(error.errno or errno.EIO, file.name, note=note) from None
        raise os_error(
            errno.EAGAIN,
            file.name,
            note="aioring: this log is open already, in this process or another (flock): one at a time appends to it, or "
            "any number read it with readonly=True",
        ) from None


def _leads_to(path: Any, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


async def _begin(ring: Ring, file: LogFile, readonly: bool) -> None:
    first = await ring.read(file.fd, 0, HEADER)
    try:
        log = read_header(first)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), file.name) from None
    if log is None:
        if await _had_no_header(ring, file.fd, first):
            if not readonly:
                await _make_new(ring, file)
                await sync_folder(ring, os.path.dirname(file.path))
            return
        if first.startswith(MAGIC):
            raise LogDamagedError("its header is damaged", file.name, 0)
        raise OSError(errno.EINVAL, "this file is not a log of aioring's", file.name)
    end = await _read_through(ring, file.fd, log)
    file.log, file.end, file.closed, file.damage = log, end.offset, end.closed, end.damage
    if readonly:
        return
    if end.damage is not None:
        raise LogDamagedError("a record that was durable is not there any more", file.name, end.damage)
    await _make_sure(ring, file, end.durable if end.durable >= HEADER else 0)


async def _had_no_header(ring: Ring, fd: int, first: bytes) -> bool:
    """Whether it was made by touch(1), or a crash came before its header was on the disk: which may be torn, but behind
    which there is nothing yet; or which is all zeros, as far as space was allocated."""
    if not any(first):
        return await _all_zeros(ring, fd)
    size = (await ring.stat(fd)).st_size
    return size <= HEADER and all(found in (0, ours) for found, ours in zip(first, MAGIC, strict=False))


async def _make_new(ring: Ring, file: LogFile) -> None:
    file.log = int.from_bytes(os.urandom(8), "little")
    await ring.write(file.fd, 0, write_header(file.log))
    await ring.truncate(file.fd, HEADER)
    await ring.fsync(file.fd)


async def _all_zeros(ring: Ring, fd: int) -> bool:
    async with read_stream(fd, block_size=PORTION, ring=ring) as blocks:
        async for block in blocks:
            if any(block.data):
                return False
    return True


async def _read_through(ring: Ring, fd: int, log: int) -> End:
    recovery, skip = Recovery(log, keep=False), HEADER
    async with read_stream(fd, block_size=PORTION, ring=ring) as blocks:
        async for block in blocks:
            portion, skip = block.data[skip:], 0
            if takes_long(recovery, portion):
                await ring.run(recovery.feed, bytes(portion))
            else:
                recovery.feed(portion)
    return recovery.end()


def takes_long(recovery: Recovery, portion: memoryview | bytes) -> bool:
    """Whether it completes a large record, whose CRC takes longer than a loop should wait."""
    return recovery.held > _REWRITE and recovery.wants <= len(portion)


async def _make_sure(ring: Ring, file: LogFile, begin: int) -> None:
    """All from there to the end, and the name."""
    fd, at = file.fd, begin
    while at < file.end:
        data = await ring.read(fd, at, min(_REWRITE, file.end - at))
        if not data:
            raise os_error(errno.EIO, file.name, note="aioring: the log has become shorter while it was read")
        at += await ring.write(fd, at, data)
    await ring.truncate(fd, file.end)
    await ring.fsync(fd)
    await sync_folder(ring, os.path.dirname(file.path))


async def mark_closed(ring: Ring, file: LogFile) -> None:
    """Nobody appends: write that it was closed, and cut what was allocated ahead."""
    try:
        await ring.write(file.fd, file.end, head(0, crc32(b""), file.end, file.end, file.log, CLOSED))
        await ring.truncate(file.fd, file.end + RECORD)
        await ring.fsync(file.fd)
    except OSError as error:
        raise named(error, file.name) from None
    file.end, file.closed = file.end + RECORD, True


async def replaced(ring: Ring, file: LogFile, archive: Any, how: int, poisoned: Callable[[OSError], None]) -> LogFile:
    """Give the file that name, and put a new one in its place.

        make, lock, header, fsync   link   fsync(folder)   rename over the log   fsync(folder)

    The old file has both names before the new one has its own: a power cut at any moment leaves it under one of them, and
    the log's name always leads to a log. (If it leads to the old one, that has two names, and goes on.)
    """
    folder = os.path.dirname(file.path)
    folders = {await ring.run(folder_of, archive), folder}
    status = os.fstat(file.fd)
    if not await ring.run(_leads_to, file.path, status):
        raise OSError(errno.ESTALE, "the log's file is not at its path any more", file.name)
    made, new = await _make_beside(ring, file, folder, how)
    linked = renamed = False
    try:
        await ring.link(file.path, archive)
        linked = True
        for place in folders:
            await sync_folder(ring, place)
        await ring.rename(new, file.path)
        renamed = True
        await sync_folder(ring, folder)
        return made
    except GeneratorExit:
        raise
    except BaseException:
        if renamed:
            try:
                await ring.rename(archive, file.path)
                for place in folders:
                    await sync_folder(ring, place)
            except OSError as error:
                poisoned(error)  # which of them a power cut leaves at the log's name, nobody knows
        elif linked:
            with suppress(OSError):
                await ring.unlink(archive)
        await _undo(ring, made, None if renamed else new)
        raise


async def _make_beside(ring: Ring, file: LogFile, folder: Any, how: int) -> tuple[LogFile, Any]:
    """A new log, locked and on the disk, under a name that is to be another."""
    name: Any = f".aioring-{os.urandom(8).hex()}"
    new = os.path.join(folder, os.fsencode(name) if isinstance(folder, bytes) else name)
    fd = await ring._create(new, os.O_RDWR | how, 0o600)
    made = LogFile(fd, file.name, file.path, 0, HEADER, False)
    try:
        await ring._run_out(_lock, made, False)
        status = os.fstat(fd)
        _open_here[status.st_dev, status.st_ino] = made
        await ring._run_out(_dress, fd, os.fstat(file.fd))
        await _make_new(ring, made)
    except GeneratorExit:
        raise
    except BaseException:
        await _undo(ring, made, new)
        raise
    return made, new


def _dress(fd: int, old: os.stat_result) -> None:
    """Who may read the old one may read the new one, and nobody else."""
    with suppress(OSError):
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))


def next_archive(path: Any) -> Any:
    """On a worker: `path` with the first free number."""
    folder, name = os.path.split(os.fsdecode(path))
    taken = [int(rest) for other in os.listdir(folder) if (rest := _number_of(other, name))]
    made = f"{os.fsdecode(path)}.{max(taken, default=0) + 1:06d}"
    return os.fsencode(made) if isinstance(path, bytes) else made


def _number_of(other: str, name: str) -> str:
    rest = other.removeprefix(name + ".")
    return rest if rest != other and rest.isascii() and rest.isdigit() else ""
