"""The file that is read: PATH itself, or one that is made in the folder PATH and has no name, so that nothing of it can be
left over. It is opened once, and again by its fd only: PATH may come to mean another file, or a FIFO that waits for its
peer. What can be measured on it is tried, not concluded.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Self

import aioring

from ...kernel.residency import Residency
from ..console import fail, reason_of
from ..doctor import place

__all__ = ["BLOCK", "Target"]

BLOCK = 4096  # bytes of a read
_PIECE = 1 << 20
_LEAST = 256 * BLOCK
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class Target:
    """`path`: any of the libraries can open it. `memory`: the file system, where it is no disk's. `cold`, `direct`: why
    not, or an empty string."""

    def __init__(self, path: str, size: int) -> None:
        """`size`: bytes of a file that has to be made, and that are read at most of one that is there. Ends in `Failure`
        where there is nothing to read."""
        self.given = path
        try:
            if os.path.isdir(path):
                self._fd, self.made = _made(path, size), True
            else:
                self._fd, self.made = os.open(path, os.O_RDONLY | os.O_NONBLOCK), False
        except OSError as error:
            fail(_said(path, error, size))
        try:
            self.path = f"/proc/self/fd/{self._fd}"
            self.whole = _size(self._fd)
            self.size = min(self.whole, size)
            if self.size < _LEAST:
                fail(f"{path}: give a regular file of at least {_LEAST >> 20} MiB, or a folder to make one in")
            self.blocks = self.size // BLOCK
            self.looked = place.look(path)
            kind = "" if stat.S_ISBLK(os.fstat(self._fd).st_mode) else self.looked.get("file_system")
            self.memory = kind if kind in ("tmpfs", "ramfs") else ""
            self.direct = self._try_direct()
            self.cold = self._try_cold()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def cool(self) -> None:
        """None of what is read is in the page cache."""
        os.posix_fadvise(self._fd, 0, self.size, os.POSIX_FADV_DONTNEED)

    def check(self) -> None:
        """Ends in `Failure` where it has become shorter: reads behind its end cost nothing."""
        if _size(self._fd) < self.size:
            fail(f"{self.given}: it became shorter while it was read: nothing is concluded from that")

    def warm(self) -> None:
        buffer = bytearray(_PIECE)
        for at in range(0, self.size, _PIECE):
            os.preadv(self._fd, [buffer], at)

    def _try_direct(self) -> str:
        """On this very file, by what will be read: the doctor tries it in the folder."""
        try:
            fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT)
        except (OSError, AttributeError) as error:
            return f"O_DIRECT is refused here ({error.strerror})" if isinstance(error, OSError) else "no O_DIRECT here"
        try:
            os.preadv(fd, [aioring.alloc(BLOCK)], 0)
        except OSError as error:
            return f"O_DIRECT reads of {BLOCK} bytes are refused here ({error.strerror})"
        finally:
            os.close(fd)
        return ""

    def _try_cold(self) -> str:
        """Whether any of some blocks is not in the page cache when it has been emptied of the file."""
        try:
            self.cool()
            some = range(0, self.size - BLOCK + 1, max(self.size // 16 // BLOCK * BLOCK, BLOCK))
            if all(self._is_cached(at) for at in some):
                return "what is here lies in memory, or others use it: the page cache does not let go of it"
        except (OSError, AttributeError):
            return "this file system cannot be asked what the page cache has of it"
        return ""

    def _is_cached(self, at: int) -> bool:
        try:
            return os.preadv(self._fd, [bytearray(BLOCK)], at, _NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return Residency(self._fd, BLOCK).resident(at, BLOCK)  # overlayfs


def _said(path: str, error: OSError, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path}: no space for a file of {size >> 20} MiB: say a smaller --size, or give a file"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and os.path.isdir(path):
        return f"{path}: {error.strerror}: no file can be made here to be read: give one that is there"
    return reason_of(OSError(error.errno, error.strerror, path))


def _size(fd: int) -> int:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return 0
    return os.lseek(fd, 0, os.SEEK_END)


def _made(folder: str, size: int) -> int:
    """A file of random bytes, on the disk, which nobody else sees."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < size + (1 << 20) and found.f_blocks:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
    fd = _nameless(folder)
    try:
        left = size
        while left:
            left -= os.write(fd, os.urandom(min(left, _PIECE)))
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _nameless(folder: str) -> int:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
    except (AttributeError, IsADirectoryError):  # an old kernel takes it for O_DIRECTORY
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    path = os.path.join(folder, f".aioring-bench-{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return fd
