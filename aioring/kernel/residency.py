"""Which pages of a file are in the page cache: mincore(2), for file systems whose reads know no RWF_NOWAIT (overlayfs).

Who has opened a file keeps a mapping of it here, of which no byte is ever touched: making one for each question costs
33 us, asking one that stands a microsecond. The mapping pins the file, so it must go when the file is closed.

mincore(2) tells the truth to the file's owner and to who may write to it, and says to others that every page is there.
Which of the two it does is found out by asking: the mapping ends beyond the end of the file, where no page can be.

What it cannot know: a page may leave between the answer and the read, which then waits for the disk; and a file of
overlayfs that is copied up by a writer is another one from then on, while the mapping shows the old one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from typing import Any

from .mounts import kind

__all__ = ["Residency"]

_PAGE = mmap.PAGESIZE
_BEYOND = 4 << 20  # bytes: more than a folio that holds the last byte can reach
_MAP_SHARED, _FAILED = 1, ctypes.c_void_p(-1).value

# Not `mmap.mmap`: it dups the fd, and closing a dup drops the process's POSIX locks on the file (fcntl_locking(2)).
_libc: Any = ctypes.PyDLL(None)
_mmap: Any = getattr(_libc, "mmap64", None) or _libc.mmap
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_mmap.restype = ctypes.c_void_p
_munmap: Any = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_mincore: Any = getattr(_libc, "mincore", None)
if _mincore is not None:
    _mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class Residency:
    """Of one open file, while its fd is open.

    Raises `OSError` where none can be had: it cannot be mapped, may ask a server, or mincore(2) does not tell.
    """

    def __init__(self, fd: int, most: int) -> None:
        self._fd, self._at, self._size = fd, 0, 0
        self._answer = bytearray(most // _PAGE + 2)  # one byte a page, 1 or 0, for `most` bytes anywhere
        self._filled = ctypes.addressof(ctypes.c_char.from_buffer(self._answer))  # for good: nobody resizes it
        self._most = most
        if _mincore is None or not kind(fd) or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("mincore(2) is no help with it")
        self._map()

    def _map(self) -> None:
        self.close()
        size = os.fstat(self._fd).st_size
        mapped = (size * 2 + _BEYOND + _PAGE) // _PAGE * _PAGE  # room to grow
        at = _mmap(None, mapped, mmap.PROT_READ, _MAP_SHARED, self._fd, 0)
        if at == _FAILED:
            raise OSError("it cannot be mapped")
        self._at, self._size = at, mapped
        if _mincore(at + mapped - _PAGE, _PAGE, self._filled) or self._answer[0]:
            self.close()
            raise OSError("mincore(2) does not tell the truth about it")

    # Hot path: once a read of such a file.

    def resident(self, offset: int, n: int) -> bool:
        """Whether all that a read of `n` bytes at `offset` would bring is in memory: `n` bytes, or those up to end of file.

        Never waits. Raises `OSError` as the constructor, where the file has grown.
        """
        if not 0 < n <= self._most:
            return False
        if offset + n > self._size - _PAGE and not self._reaches(offset + n):
            return False
        first = offset & -_PAGE
        pages = (offset + n - first + _PAGE - 1) // _PAGE
        if _mincore(self._at + first, pages * _PAGE, self._filled):
            return False
        missing = self._answer.find(0, 0, pages)
        # A page that is not there may be the end of the file: what lies behind it is in no page.
        return missing < 0 or first + missing * _PAGE >= os.fstat(self._fd).st_size

    def _reaches(self, end: int) -> bool:
        if os.fstat(self._fd).st_size > self._size - _BEYOND:
            self._map()
        return end <= self._size - _PAGE

    def close(self) -> None:
        at, self._at, size = self._at, 0, self._size
        self._size = 0
        if at:
            _munmap(at, size)

    def __del__(self) -> None:
        self.close()
