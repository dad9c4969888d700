"""Opening past the page cache: which files take O_DIRECT, what they want of offsets and lengths, and how it is refused.

A file system refuses by EINVAL at open(2) (/proc, tmpfs before 6.6), or takes the flag and goes through the page cache all
the same (ext4 with data=journal ...): then statx(2) says alignments of 0, and it counts as refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import os_error
from ..kernel import at_once
from ..kernel.statx import sector

if TYPE_CHECKING:
    from ..ring import Ring
    from .modes import Mode

__all__ = ["O_DIRECT", "check", "open_direct", "open_if_taken", "refused", "sector_of", "set_direct", "size_of"]

O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_TAKE_IT = (stat.S_IFREG, stat.S_IFBLK)
_BLKGETSIZE64 = 0x80081272  # linux/fs.h


def check(direct: Any) -> bool | str:
    if direct not in (True, False, "try"):
        raise ValueError(f"direct {direct!r}: must be True, False or 'try'")
    return direct if direct == "try" else bool(direct)


def sector_of(fd: int) -> int:
    """What offsets, lengths and addresses have to be multiples of, in bytes (statx(2), STATX_DIOALIGN); 0: O_DIRECT is not
    set on it, or does nothing."""
    return sector(fd) if O_DIRECT and at_once.flags_of(fd) & O_DIRECT else 0


def refused(name: Any) -> OSError:
    return os_error(
        errno.EINVAL,
        name,
        note="aioring: O_DIRECT is refused here (by the file system, or since this is no file on a disk, or an fd with "
        "O_APPEND); direct='try' goes through the page cache then",
    )


async def open_direct(ring: Ring, name: Any, mode: Mode, direct: bool | str) -> int:
    """The fd of a path, with O_DIRECT where it can be had. It never has O_APPEND then: where the file ends is no offset
    that O_DIRECT takes, so `DirectIo` sees to it. (Without O_DIRECT, it has.) What "w" finds in a file is still to be cut.

    open(2) makes a file first and refuses O_DIRECT then. What it found is as it was; what it made stays, but under "x",
    which could not be tried again. What is neither a regular file nor a block device is not tried: a FIFO would lose its
    peer.
    """
    if mode.creating:
        fd = await _open_it(ring, name, mode.flags)
        with _closed_where_it_fails(fd):
            if not set_direct(fd, mode, own=True) and direct != "try":
                await ring.unlink(name)
                raise refused(name)
        return fd
    flags = mode.flags & ~os.O_TRUNC
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT((await ring.stat(name)).st_mode)
        if kind == stat.S_IFDIR:
            raise os_error(errno.EISDIR, name)
        if kind not in _TAKE_IT:
            return await _without(ring, name, flags, direct)
    try:
        fd = await open_if_taken(ring, name, flags & ~os.O_APPEND)
    except OSError as error:
        # (EPERM: one that may only be appended to, chattr(1).)
        if not (error.errno == errno.EPERM and mode.appending and direct == "try"):
            raise
        fd = -1
    return fd if fd >= 0 else await _without(ring, name, flags, direct)


async def open_if_taken(ring: Ring, path: Any, flags: int) -> int:
    """The fd of what is there, with O_DIRECT; -1: the file system refuses."""
    if not O_DIRECT:
        return -1
    try:
        fd = await _open_it(ring, path, flags | O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return -1
    if not sector_of(fd):
        os.close(fd)
        return -1
    return fd


async def _without(ring: Ring, name: Any, flags: int, direct: bool | str) -> int:
    if direct != "try":
        raise refused(name)
    return await ring._open_file(name, flags)


async def _open_it(ring: Ring, name: Any, flags: int) -> int:
    """For reading, too, if that may be: to write a part of a sector is to read it."""
    if flags & os.O_ACCMODE == os.O_WRONLY:
        with suppress(PermissionError):
            return await ring._open_file(name, flags & ~os.O_ACCMODE | os.O_RDWR)
    return await ring._open_file(name, flags)


@contextmanager
def _closed_where_it_fails(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def set_direct(fd: int, mode: Mode, own: bool) -> bool:
    """Set O_DIRECT on an fd; False: it stays as it is, since the file system refuses. O_APPEND is taken off what is `own`
    (see above): of another's fd it is a promise to whoever shares it."""
    if not O_DIRECT or stat.S_IFMT(os.fstat(fd).st_mode) not in _TAKE_IT:
        return False  # (to a pipe O_DIRECT means packets)
    flags = at_once.flags_of(fd)
    if flags & os.O_APPEND and not own and mode.writing:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND | O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    if sector_of(fd):
        return True
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return False


def size_of(fd: int, status: os.stat_result) -> int:
    """In bytes, of a regular file or a block device."""
    if not stat.S_ISBLK(status.st_mode):
        return status.st_size
    (size,) = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
    return int(size)
