"""Copying a file: by the kernel where it does it, else by a read stream into a write stream.

    share the blocks (FICLONE)   or   each extent of data:  copy_file_range(2)   or   read_stream -> write_stream

The copy is made beside its target, without a name where that can be, and takes its place when it is whole
(files/atomic.py): who is cancelled, or fails, leaves the target as it was, and nothing else.

What the kernel does is done on one of the ring's workers, some megabytes at a time: so it can be cancelled, and tell how
far it is. Holes are found by lseek(2) with SEEK_DATA, and stay holes since nothing is written there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from ..errors import about, os_error
from ..files import direct as past
from ..files.atomic import Dup, dress, on_worker, plan_of, put_in_place
from ..files.put import named
from ..files.ring_io import close_fd
from ..kernel import abi
from ..ring import Ring, get_ring
from .read_stream import read_stream
from .write_stream import WriteStream

__all__ = ["Copying", "Elsewhere", "Progress", "Told", "copy_file", "dress_as"]

Progress = Callable[[int, int], Any]

_FICLONE = 0x40049409  # linux/fs.h
_CHUNK = 32 << 20  # bytes that the kernel copies in one go
_PIECE = 1 << 20  # bytes of one I/O of the streams
# Of the streams. More of them crowd two cores with the kernel's workers (io-wq), and the loop waits for its turn.
_READS, _WRITES = 4, 2
_CANNOT = (
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
)


class Elsewhere(Exception):
    """An error that is no news of the target: of the source, which it names, or of who is told how far it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Told:
    """How far a copy is, for who wants to know. Bytes; holes are counted as they are passed."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def begin(self) -> None:
        self.more(0)

    def more(self, n: int) -> None:
        self._done += n
        if self._progress is not None:
            try:
                self._progress(self._done, max(self._total, self._done))
            except Exception as error:
                self._progress = None  # once is enough
                raise Elsewhere(error) from None


class Copying:
    """What `copy_file` and `copy_tree` were asked for, and one file's content."""

    def __init__(
        self, ring: Ring, direct: bool | str, reflink: str | bool, sparse: bool, preserve: bool, durable: bool
    ) -> None:
        self.ring = ring
        self.direct: Any = past.check(direct)
        if reflink not in ("auto", "always", "never", True, False):
            raise ValueError(f"reflink {reflink!r}: must be 'auto', 'always' or 'never' (True, False)")
        self.reflink = reflink if isinstance(reflink, str) else "always" if reflink else "never"
        self.sparse, self.preserve, self.durable = bool(sparse), bool(preserve), bool(durable)
        if self.reflink == "always" and (self.direct or not sparse):
            raise ValueError("reflink='always' shares blocks, holes among them: it is none of direct or sparse=False")
        self.clones = self.reflink == "always" or (self.reflink == "auto" and not self.direct and self.sparse)

    async def content(self, source: int, name: Any, target: int, status: os.stat_result, told: Told) -> int:
        """From one fd to the other, which is an empty file's: how many bytes. `name`: of the source, for errors."""
        size, ring = status.st_size, self.ring
        if self.clones and (size or self.reflink == "always"):
            try:
                await on_worker(ring, _clone, Dup(source), Dup(target))
            except OSError as error:
                if self.reflink == "always":
                    error.add_note(
                        "aioring: reflink='always': this file system cannot share blocks between these files"
                    )
                    raise
                if error.errno not in _CANNOT:
                    raise
            else:
                size = (await ring.stat(target)).st_size
                told.more(size)
                return size
        if not size:
            return await self._to_its_end(source, name, target, told)
        extents = [(0, size)]
        if self.sparse and status.st_blocks * 512 < size:
            extents = await on_worker(ring, _extents, Dup(source), size)
        end = -1
        if not self.direct and self.reflink != "never":
            end = await self._by_the_kernel(source, target, extents, size, told)
        if end < 0:
            end = await self._by_streams(source, name, target, extents, size, told)
        if extents != [(0, size)]:
            end = min(end, (await ring.stat(source)).st_size)  # it has become shorter, where it seemed to have a hole
        if (await ring.stat(target)).st_size != end:
            await ring.truncate(target, end)  # there is a hole at its end
        return end

    def small(self, source: int, target: int, status: os.stat_result) -> int:
        """The same of a small file, on a worker and in one go."""
        size = status.st_size
        if size and self.clones:
            try:
                fcntl.ioctl(target, _FICLONE, source)
                return os.fstat(target).st_size
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
        sparse = self.sparse and status.st_blocks * 512 < size
        at, until = 0, size
        for start, end in _data_in(source, size) if sparse else [(0, sys.maxsize)]:
            at = start
            while at < end and (data := os.pread(source, min(end - at, _PIECE), at)):
                done = 0
                while done < len(data):
                    done += os.pwrite(target, data[done:], at + done)
                at += len(data)
            if at < end and sparse:
                until = at
                break  # it has become shorter
        if sparse:
            at = min(until, os.fstat(source).st_size)
            os.ftruncate(target, at)  # there is a hole at its end, or it has become shorter where it seemed to have one
        return at

    async def _by_the_kernel(
        self, source: int, target: int, extents: list[tuple[int, int]], size: int, told: Told
    ) -> int:
        """How long the copy is; -1: the kernel does not copy between these."""
        if not hasattr(os, "copy_file_range"):
            return -1
        first = extents[0][0] if extents else 0
        before = 0
        for start, end in extents:
            told.more(start - before)
            at = before = start
            while at < end:
                try:
                    n = await on_worker(self.ring, _copy_range, Dup(source), Dup(target), min(end - at, _CHUNK), at)
                except OSError as error:
                    if at == first and error.errno in _CANNOT:
                        return -1
                    raise
                if not n:
                    # It has become shorter; but /proc makes up what it has as it is read, and says nothing here.
                    return at if at > first else -1
                if self.durable:  # so that the last fsync is short
                    await self.ring.sync_range(target, at, n, abi.SYNC_FILE_RANGE_WRITE)
                at = before = at + n
                told.more(n)
        told.more(size - before)
        return size

    async def _by_streams(
        self, source: int, name: Any, target: int, extents: list[tuple[int, int]], size: int, told: Told
    ) -> int:
        """How long the copy is."""
        out = WriteStream(target, self.direct, _PIECE, _WRITES, self.durable, self.ring)
        blocks = read_stream(
            source,
            _pieces(extents),
            block_size=_PIECE,
            max_ios=_READS,
            combine_limit=_PIECE,
            direct=self.direct,
            full=True,
            errors="yield",
            ring=self.ring,
        )
        before = 0
        try:
            async with blocks:
                async for block in blocks:
                    if isinstance(block.error, EOFError):
                        size = block.offset
                        break  # it has become shorter
                    if isinstance(block.error, OSError):
                        raise Elsewhere(named(block.error, name))
                    if block.error is not None:
                        raise block.error
                    await out._skip_to(block.offset)
                    n = await out.write(block.data)
                    told.more(block.offset + n - before)
                    before = block.offset + n
                    if n < block.item[1]:
                        size = before
                        break
        except BaseException:
            await out.abort()
            raise
        await out.aclose()
        told.more(size - before)
        return size

    async def _to_its_end(self, source: int, name: Any, target: int, told: Told) -> int:
        """Of a file that says it has no bytes, and may have some (/proc)."""
        at = 0
        while True:
            try:
                data = await self.ring.read(source, at, _PIECE)
            except OSError as error:
                raise Elsewhere(named(error, name)) from None
            if not data:
                return at
            await self.ring.write(target, at, data)
            at += len(data)
            told.more(len(data))


def _pieces(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in extents:
        at = start
        while at < end:
            n = min(end - at, _PIECE - at % _PIECE)
            yield at, n
            at += n


# --- on a worker ------------------------------------------------------------------------------------------------------


def _clone(source: Dup, target: Dup) -> None:
    with source as from_, target as to:
        fcntl.ioctl(to, _FICLONE, from_)


def _copy_range(source: Dup, target: Dup, n: int, at: int) -> int:
    with source as from_, target as to:
        return os.copy_file_range(from_, to, n, at, at)


def _extents(source: Dup, size: int) -> list[tuple[int, int]]:
    with source as from_:
        return _data_in(from_, size)


def _data_in(source: int, size: int) -> list[tuple[int, int]]:
    """Where there is data, as pairs of offsets."""
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole from here on, or it has become shorter
            return [(0, size)]  # the file system does not say
        found.append((start, end))
        at = end
    return found


def dress_as(source: int, status: os.stat_result, own: Dup) -> None:
    """Give the copy what its source has, as cp -p: owner, mode, times, extended attributes (ACLs among them)."""
    with own as fd:
        _dress_as(source, status, fd)


def _dress_as(source: int, status: os.stat_result, fd: int) -> None:
    bits = stat.S_IMODE(status.st_mode)
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except OSError:
            bits &= ~(stat.S_ISUID | stat.S_ISGID)  # not for somebody else's account
            with suppress(OSError):
                os.fchown(fd, -1, status.st_gid)
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(source):
                with suppress(OSError):  # not ours to read, or to set, or none that the target's file system knows
                    os.setxattr(fd, name, os.getxattr(source, name))
    with suppress(PermissionError):  # a file system without modes
        os.fchmod(fd, bits)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _distinct(source: Any, target: Any, status: os.stat_result, plan: Any) -> None:
    if plan.status is not None and os.path.samestat(status, plan.status):
        raise shutil.SameFileError(errno.EINVAL, "source and target are the same file", source, None, target)


async def copy_file(
    source: Any,
    target: Any,
    *,
    progress: Progress | None = None,
    direct: bool | Literal["try"] = False,
    reflink: Literal["auto", "always", "never"] | bool = "auto",
    sparse: bool = True,
    preserve: bool = True,
    durable: bool = False,
    ring: Ring | None = None,
) -> int:
    """Copy a regular file, and return its size in bytes: `await copy_file("data", "copy")`.

    Whoever opens `target` sees what it was before or the whole copy, never a part: it is made beside it and takes its place
    by a rename. Through symbolic links on both sides; a link at `target` stays one.

    `progress(done, total)`: called on the loop, with bytes, as the copy goes on; what it raises ends it. `direct`: past the
    page cache (O_DIRECT). `reflink`: share the blocks where the file system can (btrfs, xfs), which takes no time and no
    space: "auto"; else by the kernel (copy_file_range(2)), which may share them, too. "always": or fail. "never": bytes are
    read and written. `sparse`: holes stay holes; else the copy has none. `preserve`: owner, mode, times and extended
    attributes are the source's, as far as that is allowed; else the target keeps its mode, and a new one has that of
    `open`. `durable`: it returns when all of it, and its name, is on the disk (fsync(2)).

    `ring`: by default the running loop's own (`get_ring`).

    Cancelled, or with an error, it leaves `target` as it was, and nothing else (at the last moment, when it is being put
    there, perhaps the whole copy). What is written to the source meanwhile is in the copy or not.

    Raises:
        OSError: as open(2), read(2), write(2), rename(2) ..., with the file name; EINVAL: one of them is no regular file;
            EOPNOTSUPP ...: `reflink="always"` cannot be had.
        shutil.SameFileError: both are the same file.
        ValueError, TypeError: an argument makes no sense, or `reflink="always"` stands beside `direct` or `sparse=False`.
        RingClosedError, WrongLoopError: as every operation of a ring.
        Exception: what `progress` raises.
    """
    here = get_ring() if ring is None else ring
    copying = Copying(here, direct, reflink, sparse, preserve, durable)
    name, to = os.fspath(source), os.fspath(target)
    fd = await here.open(name, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for its writer
    try:
        status = await here.stat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise os_error(errno.EISDIR, name)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "only a regular file can be copied", name)
        plan = await here.run(plan_of, to)
        _distinct(name, to, status, plan)
        told = Told(progress, status.st_size)
        dressing = partial(dress_as, fd, status) if preserve else partial(dress, plan, None)

        async def fill(made: int) -> int:
            told.begin()
            return await copying.content(fd, name, made, status, told)

        try:
            return await put_in_place(here, plan, fill, dressing, durable)
        except OSError as error:
            about(error, to)  # whatever was done it with
            raise
        except Elsewhere as elsewhere:
            raise elsewhere.error from elsewhere.error.__cause__
    finally:
        await close_fd(here, fd)
