"""Opening past the page cache: which files take O_DIRECT, what they want of offsets and lengths, and how it is refused.

A file system refuses by EINVAL at open(2) (/proc, tmpfs before 6.6), or takes the flag and goes through the page cache all
the same (ext4 with data=journal ...): then statx(2) says alignments of 0, and it counts as refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import os_error
from ..kernel import at_once
from ..kernel.statx import direct_alignment

if TYPE_CHECKING:
    from ..ring import Ring
    from .modes import Mode

__all__ = ["O_DIRECT", "check", "open_direct", "refused", "sector_of", "set_direct"]

O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_UNKNOWN = 4096  # bytes: suits every device seen so far
_LEAST = 512


def check(direct: Any) -> bool | str:
    if direct not in (True, False, "try"):
        raise ValueError(f"direct {direct!r}: must be True, False or 'try'")
    return direct if direct == "try" else bool(direct)


def sector_of(fd: int) -> int:
    """What offsets, lengths and addresses have to be multiples of, in bytes (statx(2), STATX_DIOALIGN); 0: O_DIRECT is not
    set on it, or does nothing."""
    if not O_DIRECT or not at_once.flags_of(fd) & O_DIRECT:
        return 0
    found = direct_alignment(fd)
    if found is None:
        return _UNKNOWN
    return max(*found, _LEAST) if all(found) else 0


def refused(name: Any) -> OSError:
    return os_error(
        errno.EINVAL, name, note="aioring: O_DIRECT is refused here; direct='try' goes through the page cache then"
    )


async def open_direct(ring: Ring, name: Any, mode: Mode, direct: bool | str) -> int:
    """The fd of a path, with O_DIRECT where it can be had. It never has O_APPEND: where the file ends is no offset that
    O_DIRECT takes, so `DirectIo` sees to it. (Without O_DIRECT, it has.)

    open(2) makes a file first and refuses O_DIRECT then. What it found is as it was: "w" cuts it when all is well. What it
    made stays, but under "x", which could not be tried again.
    """
    if not O_DIRECT:
        if direct != "try":
            raise refused(name)
        return await ring._open_file(name, mode.flags)
    if mode.creating:
        fd = await _open_it(ring, name, mode.flags)
        with _closed_where_it_fails(fd):
            if not set_direct(fd, mode) and direct != "try":
                await ring.unlink(name)
                raise refused(name)
        return fd
    try:
        fd = await _open_it(ring, name, mode.flags & ~(os.O_APPEND | os.O_TRUNC) | O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if direct == "try":
            return await ring._open_file(name, mode.flags)
        if stat.S_ISDIR((await ring.stat(name)).st_mode):
            raise os_error(errno.EISDIR, name) from None
        raise refused(name) from None
    with _closed_where_it_fails(fd):
        if not sector_of(fd):
            if direct != "try":
                raise refused(name)
            fcntl.fcntl(fd, fcntl.F_SETFL, mode.flags)
        if mode.flags & os.O_TRUNC and os.fstat(fd).st_size:
            await ring.truncate(fd, 0)
    return fd


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


def set_direct(fd: int, mode: Mode) -> bool:
    """Set O_DIRECT on an fd (and take O_APPEND off one that was opened for appending, see above); False: it stays as it is,
    since the file system refuses."""
    if not O_DIRECT or stat.S_IFMT(os.fstat(fd).st_mode) not in (stat.S_IFREG, stat.S_IFBLK):
        return False  # (to a pipe O_DIRECT means packets)
    flags = at_once.flags_of(fd)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~(os.O_APPEND if mode.appending else 0) | O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    if sector_of(fd):
        return True
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return False
