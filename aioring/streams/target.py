"""The file that a stream reads: a path, an fd, or an open file, through the page cache or past it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from ..errors import os_error
from ..files import direct as past
from ..files.ring_io import close_fd
from ..kernel import at_once
from ..ring.define import descriptor

__all__ = ["Target"]


class Target:
    """`fd`: -1 where none is open. `own`: it was opened here. `align`: of O_DIRECT, in bytes; 0: it is not used."""

    __slots__ = ("_file", "_ring", "align", "fd", "name", "own", "size")

    def __init__(self, file: Any) -> None:
        self._file = file
        self._ring: Any = None
        self.fd, self.own = -1, False
        self.name: Any = None
        self.size = self.align = 0  # bytes

    async def open(self, ring: Any, direct: bool | str) -> None:
        """Raises `OSError` as open(2); ESPIPE, EISDIR for what cannot be read at an offset."""
        self._ring = ring
        await self._open(ring, direct)
        try:
            self.size = await self._measure()
            self.align = past.sector_of(self.fd)
        except BaseException:
            await self.close()
            raise

    async def _open(self, ring: Any, direct: bool | str) -> None:
        file = self._file
        fd = -1
        path: Any = None
        if isinstance(file, (str, bytes, os.PathLike)):
            self.name = path = os.fspath(file)
        else:
            raw = getattr(file, "_raw", None)  # an open file of ours, in whatever dialect
            if raw is None:
                fd = descriptor(file)
            else:
                raw.check("I/O operation on closed file.")
                fd, self.name = raw.fd, raw.name
            if not direct or past.sector_of(fd):
                self.fd = fd
                return
        flags = os.O_RDONLY | os.O_CLOEXEC
        if direct:
            # An fd once more: to change its own flags would change what others read by it.
            again = f"/proc/self/fd/{fd}" if path is None else path
            self.fd = await past.open_if_taken(ring, again, flags)
            if self.fd < 0 and direct != "try":
                raise past.refused(self.name)
        if self.fd < 0:
            self.fd = fd if path is None else await ring._open_file(path, flags)
            self.own = path is not None
        else:
            self.own = True

    async def _measure(self) -> int:
        status = at_once.stat_of_fd(self.fd)
        if status is None:
            status = await self._ring.stat(self.fd)
        if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
            return past.size_of(self.fd, status)
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.ESPIPE
        raise os_error(code, self.name, note="aioring: a read stream reads a regular file, or a block device")

    def check(self) -> None:
        """Whether what was given is still open: its number may be another file's by now. (Of a bare fd nobody can tell.)"""
        if not self.own and self._file.__class__ is not int:
            raw = getattr(self._file, "_raw", None)
            if (raw.fd if raw is not None else descriptor(self._file)) != self.fd:
                raise ValueError("I/O operation on closed file.")

    def let_go(self) -> int:
        """The fd, if it is to be closed; else -1."""
        fd, self.fd = self.fd, -1
        own, self.own = self.own, False
        return fd if own else -1

    async def close(self) -> None:
        fd = self.let_go()
        if fd >= 0:
            await close_fd(self._ring, fd)
