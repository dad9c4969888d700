"""The file that a stream writes: a path, an fd, or an open file, through the page cache or past it."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

from ..errors import os_error
from ..files import BinaryFile, RawFile, TextFile, direct as past, modes
from ..files.folders import folder_of
from ..files.opening import open_raw
from ..files.raw import Raw
from ..files.ring_io import close_fd, drop_fd
from ..ring import Ring
from ..ring.define import descriptor

__all__ = ["Written"]

_FILES = (BinaryFile, RawFile)
_MODE = modes.parse("wb")


class Written:
    """`fd`: of a path, opened here; of what was given, another one, so that its number cannot come to mean another file."""

    __slots__ = ("_file", "_given", "_ring", "fd", "folder", "path", "raw", "sector")

    def __init__(self, file: Any) -> None:
        self._file = file
        self._ring: Any = None
        self._given = -1  # shares its position with what was given
        self.fd = -1
        self.raw: Raw | None = None
        self.path: Any = None
        self.folder: Any = None  # of a path, to be synced
        self.sector = 0  # bytes, of O_DIRECT; 0: through the page cache

    async def open(self, ring: Ring, direct: Any, durable: bool) -> int:
        """Where to begin. Raises `OSError` as open(2); ESPIPE for what cannot be written at an offset."""
        file, start = self._file, 0
        self._ring = ring
        if isinstance(file, (str, bytes, os.PathLike)):
            self.path = path = os.fspath(file)
            raw = await open_raw(ring, path, _MODE, True, None, False, direct)
        else:
            raw, start = await self._another(ring, file, direct)
        self.raw, self.fd = raw, raw.fd
        try:
            if not raw.seekable or raw.streams:
                raise os_error(errno.ESPIPE, self.path, note="aioring: a write stream writes what can seek")
            if self.path is not None and durable:
                self.folder = await ring.run(folder_of, self.path)
        except BaseException:
            self.drop()
            raise
        self.sector = 0 if raw.direct is None else raw.direct.sector
        return start

    async def _another(self, ring: Ring, file: Any, direct: Any) -> tuple[Raw, int]:
        if isinstance(file, TextFile):
            raise TypeError("a write stream writes bytes: open the file with 'b' in its mode")
        fd = descriptor(file)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            raise os_error(errno.EINVAL, note="aioring: to an fd with O_APPEND nothing can be written at an offset")
        if isinstance(file, _FILES):
            await file.flush()
            start = await file.tell()
        else:
            start = os.lseek(fd, 0, os.SEEK_CUR)
        given = mine = os.dup(fd)
        try:
            if past.sector_of(given):
                direct = True
            elif direct:
                # Once more: its flags are its owner's, too.
                flags = fcntl.fcntl(given, fcntl.F_GETFL) & os.O_ACCMODE
                found = await past.open_if_taken(ring, f"/proc/self/fd/{given}", flags)
                if found < 0 and direct != "try":
                    raise past.refused(None)
                mine, direct = (found, True) if found >= 0 else (given, False)
            raw = await open_raw(ring, mine, _MODE, True, None, True, direct)
        except BaseException:
            for left in {given, mine}:
                os.close(left)
            raise
        self._given = given
        return raw, start

    async def close(self, position: int, whole: bool) -> None:
        """`position`: where what was given is left, if `whole` is written."""
        raw, ring = self.raw, self._ring
        if raw is None or raw.fd < 0:
            return
        fd, raw.fd, self.fd = raw.fd, -1, -1
        given, self._given = self._given, -1
        try:
            if given >= 0 and whole:
                os.lseek(given, position, os.SEEK_SET)
                if isinstance(self._file, _FILES) and not self._file.closed:
                    await self._file.seek(position)
        finally:
            if given not in (-1, fd):
                os.close(given)
            await close_fd(ring, fd)

    def drop(self) -> None:
        """Nobody can close it in the proper way."""
        raw, engine = self.raw, None if self._ring is None else self._ring._started
        if raw is not None and raw.fd >= 0:
            fds = {raw.fd, self._given} - {-1}
            raw.fd = self.fd = self._given = -1
            for fd in fds:
                drop_fd(engine, fd)
