"""The raw layer: one open file, its position and what may be done with it; what CPython's C `io.FileIO` is.

The position is kept here and not by the kernel, so that reads and writes can say where they go (pread(2), pwrite(2)) and a
cancelled read has moved nothing. Where others share the fd's own position (`fileno()` was handed out, or the file was
opened on an fd), it is looked up before a buffer is begun (`adopt`) and put where the file is after each `flush`, `seek`
and `truncate` (`share`).

The transfers themselves are made by `io`: by a ring (`ring_io.py`; past the page cache `direct_io.py`) or in place
(`in_place.py`), which never suspends.
"""

from __future__ import annotations

import errno
import io as _io
import os
from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import os_error
from ..kernel import at_once
from ..kernel.abi import OFF_MAX
from .modes import Mode
from .order import Order

if TYPE_CHECKING:
    from .direct_io import DirectIo

__all__ = ["KIND", "REGULAR", "Gone", "Io", "Raw"]

KIND, REGULAR = 0o170000, 0o100000  # inode(7): S_IFMT, S_IFREG
_CHUNK = 1 << 16  # bytes: one read of what cannot seek, on the way to its end


class Io(Protocol):
    """How a file's transfers are made. None of these moves the position, but `write`."""

    async def read(self, raw: Raw, n: int) -> bytes | None:
        """`n` bytes at most, as read(2): b"" at end of file, None where nothing is there yet (O_NONBLOCK)."""
        ...

    async def rest(self, raw: Raw) -> bytes:
        """All from the position to the end, of what can seek."""
        ...

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        """`data`, or a part of it. Before anything else is done with the file, `landed` has been called with the number of
        bytes and the position has moved, whatever became of the caller."""
        ...

    def rest_here(self, raw: Raw) -> bytes | None:
        """`rest` where it does not suspend; None: ask."""
        ...

    async def size(self, raw: Raw) -> int: ...

    async def truncate(self, raw: Raw, size: int) -> None: ...

    async def find(self, raw: Raw, offset: int, whence: int) -> int:
        """lseek(2) for SEEK_DATA, SEEK_HOLE, and for the end of what is no regular file."""
        ...

    async def close(self, raw: Raw, fd: int) -> None: ...


class Gone:
    """In the place of a raw file that was detached: whatever is asked of it is refused."""

    __slots__ = ("_message", "order")

    def __init__(self, message: str) -> None:
        self._message = message
        self.order = Order()

    def __getattr__(self, name: str) -> Any:
        raise ValueError(self._message)


class Raw:
    """See the module. `fd` is -1 once it is closed.

    (One is made for each file: what is seldom set is a default of the class, which costs nothing to make.)
    """

    position = 0
    told: int | None = None  # where the fd's own position was put last, if others look at it
    held: Sequence[bytes] = ()  # read from what cannot seek, and not given to anybody
    shielded = False  # it is being closed: a cancel waits for its transfers
    under_way = 0  # writes, whoever waits for them
    # It is read and written where it stands, when it is ready: what cannot seek, and eventfds and their kin, which take an
    # lseek and stay where they are.
    streams = False
    known: Any = None  # for `io`
    opened_here = (
        False  # by it, in place, for reading only: it can be closed so, and has O_NONBLOCK, which means nothing
    )
    ahead = False  # it is read further ahead than io does
    prepaid = False  # its opening has paid for its first read
    size = -1  # what the file had when it was opened, which is true until `fresh`
    fresh = 0.0
    direct: DirectIo | None = None  # past the page cache; it is `io`, until the ring ends

    def __init__(
        self, fd: int, mode: Mode, name: Any, closefd: bool, io: Io, st_mode: int = 0, st_blksize: int = 0
    ) -> None:
        self.fd = fd
        self.mode = mode
        self.name = name
        self.closefd = closefd
        self.io = io
        self.order = Order()
        self.blksize = st_blksize if st_blksize > 1 else _io.DEFAULT_BUFFER_SIZE
        self.appends = mode.appending  # what is written goes to the end (by O_APPEND, but past the page cache)
        self.regular = self.seekable = st_mode & KIND == REGULAR
        if not self.regular:
            try:
                self.position = os.lseek(fd, 0, os.SEEK_CUR)
                self.seekable = True
                self.streams = not st_mode & KIND  # an eventfd, a timerfd ...
            except OSError:
                self.streams = True

    def starts_where_it_is(self) -> None:
        """It was opened on an fd, whose position others may share."""
        if self.seekable:
            self.position = self.told = os.lseek(self.fd, 0, os.SEEK_CUR)

    def check(self, message: str = "I/O operation on closed file") -> None:
        if self.fd < 0:
            raise ValueError(message)

    # --- transfers ----------------------------------------------------------------------------------------------------

    async def read(self, n: int) -> bytes | None:
        if self.held:
            first, *rest = self.held
            self.held = [first[n:], *rest] if len(first) > n else rest
            return first[:n]
        data = await self.io.read(self, n)
        if data and not self.streams:
            self.position += len(data)
        return data

    async def readall(self) -> bytes | None:
        if not self.streams:
            data = await self.io.rest(self)
            self.position += len(data)
            return data
        self.held = held = list(self.held)
        while more := await self.io.read(self, _CHUNK):
            held.append(more)  # who is cancelled leaves it to the next call
        self.held = ()
        return b"".join(held) if held else more

    async def write(self, data: bytes, landed: Callable[[int], None]) -> int:
        return await self.io.write(self, data, landed)

    # --- the position -------------------------------------------------------------------------------------------------

    def tell(self) -> int:
        self.check()
        if not self.seekable:
            raise os_error(errno.ESPIPE)
        return self.position

    def move(self, offset: int, whence: int) -> int:
        """`seek` from the start (0) or from here (1): no I/O."""
        self.check()
        if not self.seekable:
            raise os_error(errno.ESPIPE)
        target = offset + self.position if whence else offset
        if not 0 <= target <= OFF_MAX:
            raise os_error(errno.EINVAL)
        self.position = target
        return target

    async def seek(self, offset: int, whence: int) -> int:
        self.check()
        if not self.seekable:
            raise os_error(errno.ESPIPE)
        if whence == os.SEEK_END and self.regular:
            offset += await self.io.size(self)
            whence = 0
        if whence in (0, 1):
            return self.move(offset, whence)
        self.position = await self.io.find(self, offset, whence)
        return self.position

    async def truncate(self, size: Any) -> int:
        self.check()
        if not self.mode.writing:
            raise _io.UnsupportedOperation("File not open for writing")
        found = self.tell() if size is None else index(size)
        if not -(1 << 63) <= found < 1 << 63:
            raise OverflowError("Python int too large to convert to C long")
        if found < 0:
            raise os_error(errno.EINVAL)
        await self.io.truncate(self, found)
        return found

    def adopt(self) -> None:
        """Nothing is buffered: somebody else may have moved the fd's position, and goes on from where they left it."""
        if self.told is not None:
            now = os.lseek(self.fd, 0, os.SEEK_CUR)
            if now != self.told:
                self.position = self.told = now

    def share(self, position: Callable[[], int]) -> None:
        """Put the fd's own position where the file is, if others look at it."""
        if self.told is not None and self.fd >= 0:
            self.told = os.lseek(self.fd, max(position(), 0), os.SEEK_SET)

    def fileno(self, position: Callable[[], int]) -> int:
        self.check()
        if self.seekable:
            self.told = os.lseek(self.fd, max(position(), 0), os.SEEK_SET)
        if self.opened_here:
            at_once.blocking_again(self.fd, self.mode.flags)
        return self.fd

    # --- the end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """The fd is gone, whatever this raises."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self.closefd:
            await self.io.close(self, fd)
        elif self.told is not None:
            os.lseek(fd, self.position, os.SEEK_SET)

    def __repr__(self) -> str:
        if self.fd < 0:
            return "<aioring raw file [closed]>"
        return f"<aioring raw file name={self.name!r} mode={self.mode.name!r} closefd={self.closefd}>"
