"""Calls into the C library that Python's `os` does not have, and the few that must keep the GIL.

A call through `PyDLL` keeps the GIL and may therefore only be one that never waits (invariant 9): letting the GIL go
hands it to whatever other thread runs Python, and it may come back 5 ms later. A call through `CDLL` lets it go and
may wait; those run on worker threads.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import stat
import struct
from functools import lru_cache
from typing import Any

from . import abi
from .abi import INT_MAX, LINUX, OPEN_HOW_BYTES, RESOLVE_CACHED, SYS_OPENAT2, pack_open_how
from .mounts import all_local, kind, statx_here
from .statx import stat_result

__all__ = [
    "Iovec2", "address_of", "blocking_again", "close_here", "close_read_only", "fallocate", "flags_of", "get_errno",
    "is_memory", "missing", "open_cached", "openat", "openat2", "preadv2", "preadv2_into", "rename_to_nothing", "seeks",
    "shape_of", "small_size", "stat_cached", "stat_here", "stat_of_fd", "sync_file_range", "tee",
]  # fmt: skip

_keeping_the_gil = ctypes.PyDLL(None, use_errno=True)
_letting_it_go = ctypes.CDLL(None, use_errno=True)


_openat2: Any = ctypes.PyDLL(None).syscall


def _raise() -> None:
    errno = ctypes.get_errno()
    raise OSError(errno, os.strerror(errno))


Iovec2 = ctypes.c_uint64 * 4  # struct iovec[2]
address_of = ctypes.addressof

get_errno = ctypes.get_errno

# preadv2(2), keeping the GIL: with RWF_NOWAIT, or for what was found to be in memory. -1 where it fails. None where the C
# library has none.
preadv2: Any = getattr(_keeping_the_gil, "preadv2", None)
if preadv2 is not None:
    preadv2.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_int]
    preadv2.restype = ctypes.c_ssize_t


def preadv2_into(fd: int, view: memoryview, offset: int, flags: int) -> int:
    """preadv2(2) into one writable buffer, keeping the GIL: for what cannot wait. Raises `OSError`."""
    iovec = Iovec2(ctypes.addressof(ctypes.c_char.from_buffer(view)), len(view))
    got: int = preadv2(fd, iovec, 1, offset, flags)
    if got < 0:
        _raise()
    return got


_fcntl: Any = ctypes.PyDLL(None).fcntl
_preadv: Any = getattr(ctypes.PyDLL(None), "preadv", None)
_others = _thread._count  # threads of Python besides the main one


def seeks(fd: int) -> bool:
    """Whether `fd`, which fits a C int, can surely be read at an offset. False: ask again, slowly.

    preadv(2) of no buffers: ESPIPE is said before anything else is looked at, and nothing is read. lseek(2) would wait for
    whoever is in read(2) on the same open file. Where there is another thread that might take the GIL it is kept.
    """
    if _others() and _preadv is not None:
        return bool(_preadv(fd, None, 0, 0) == 0)
    try:
        return os.preadv(fd, (), 0) == 0
    except OSError:
        return False


def flags_of(fd: int) -> int:
    """How `fd` was opened (fcntl(2), F_GETFL), asked with the GIL in hand; -1: it is none."""
    flags: int = _fcntl(fd, 3) if 0 <= fd <= INT_MAX else -1
    return flags


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), every mode. Waits for the disk: for worker threads."""
    call: Any = _letting_it_go.fallocate
    if call(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)) < 0:
        _raise()


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> None:
    """sync_file_range(2). Waits for the disk: for worker threads."""
    call: Any = _letting_it_go.sync_file_range
    if call(fd, ctypes.c_longlong(offset), ctypes.c_longlong(length), flags) < 0:
        _raise()


def openat(dir_fd: int, path: bytes, flags: int, mode: int) -> int:
    """openat(2), without the audit event that `os.open` raises: `ring/files.py` raises it, once, on every method.

    May wait: for worker threads.
    """
    call: Any = _letting_it_go.openat
    fd: int = call(dir_fd, path, flags, ctypes.c_uint(mode))
    if fd < 0:
        _raise()
    return fd


_O_PATH = getattr(os, "O_PATH", 0)
_NO_READ_ONLY = os.O_WRONLY | os.O_RDWR | _O_PATH
_close: Any = ctypes.PyDLL(None).close
_open_how_bytes = ctypes.c_size_t(OPEN_HOW_BYTES)


def _is_local(dir_fd: int, path: bytes, flags: int) -> bool:
    """Whether a path leads to a local file system, as far as the kernel's caches tell: O_PATH opens nothing."""
    fd = open_cached(dir_fd, path, _O_PATH | flags & (os.O_NOFOLLOW | os.O_DIRECTORY))
    if fd < 0:
        return False
    try:
        return bool(kind(fd))
    finally:
        _close(fd)


def open_cached(dir_fd: int, path: bytes, flags: int) -> int:
    """Open what can be opened without waiting: openat2(2) with RESOLVE_CACHED, since Linux 5.12. -1: it cannot.

    For flags that make nothing. O_NONBLOCK is added: on a FIFO without a peer RESOLVE_CACHED alone blocks. Keeps the
    GIL: it never waits. (io_uring's own first attempt is the same call, inside io_uring_enter.)
    """
    if not flags & _O_PATH:  # which opens nothing, asks nobody, and takes no such flag
        if not all_local() and not _is_local(dir_fd, path, flags):
            return -1  # opening it may wait for a server
        flags |= os.O_NONBLOCK
    fd: int = _openat2(SYS_OPENAT2, dir_fd, path, _how(flags), _open_how_bytes)
    return fd


@lru_cache(maxsize=64)
def _how(flags: int) -> bytes:
    return pack_open_how((flags | os.O_CLOEXEC) & 0xFFFFFFFF, 0, RESOLVE_CACHED)


def blocking_again(fd: int, flags: int) -> None:
    """Take off the O_NONBLOCK that `open_cached` put on (fcntl(2), F_SETFL)."""
    _fcntl(fd, 4, flags)


_SMALL = 1 << 16
_unpack_shape = struct.Struct("<4xI8xI8xH10xQ").unpack_from  # stx_blksize, stx_nlink, stx_mode, stx_size


def shape_of(fd: int) -> tuple[int, int, int, int] | None:
    """The block size, links, mode and size of what is open on a local file system, asked with the GIL in hand (`os.fstat`
    lets it go); None: ask again, slowly."""
    found = statx_here(fd, abi.STATX_BASIC_STATS)
    return _unpack_shape(found) if found is not None else None


def small_size(fd: int) -> int:
    """The size of a regular file on a local file system, where it is none of those that have to be read to the end to be
    known (/proc says 0), and small; else 0."""
    shape = shape_of(fd) if all_local() or kind(fd) else None
    return shape[3] if shape is not None and stat.S_ISREG(shape[2]) and shape[3] < _SMALL else 0


def close_here(fd: int, small: bool = False) -> bool:
    """`close_read_only` of what is known to be such a file, if it still has a name, or is known to be `small`."""
    if not small:
        shape = shape_of(fd)
        if shape is None or not shape[1]:
            return False
    return bool(_close(fd) == 0)


def close_read_only(fd: int) -> bool:
    """close(2) where it cannot wait: of what was opened for reading only, on a local file system, as a regular file. False:
    it might, or anything is wrong. (A written file's may start to write it out; a socket's may linger.)"""
    flags = flags_of(fd)
    if flags == -1 or flags & _NO_READ_ONLY or not (all_local() or kind(fd)):
        return False
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_nlink:
            return False  # the last close of what has no name frees it: 220 ms for 1 GB on tmpfs
    except OSError:
        return False
    return bool(_close(fd) == 0)


def is_memory(fd: int) -> bool:
    """Whether it is a file on tmpfs."""
    try:
        return kind(fd) == "tmpfs" and stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def stat_of_fd(fd: int) -> os.stat_result | None:
    """fstat(2) where it cannot wait; None where it might, or where anything is wrong."""
    if not kind(fd):
        return None
    try:
        return os.fstat(fd)
    except OSError:
        return None


def stat_cached(dir_fd: int, path: bytes, follow_symlinks: bool) -> os.stat_result | None:
    """stat(2) of what the kernel has in its caches: openat2(2) with O_PATH and RESOLVE_CACHED, fstat(2), close(2).

    None: it might wait, or something is wrong. 3 us, where io_uring's STATX always goes to a kernel thread: 50.
    """
    fd = open_cached(dir_fd, path, _O_PATH | (0 if follow_symlinks else os.O_NOFOLLOW))
    if fd < 0:
        return None
    try:
        return stat_of_fd(fd)
    finally:
        _close(fd)


_openat2_errno: Any = _keeping_the_gil.syscall
_SURE = frozenset({2, 20})  # ENOENT, ENOTDIR


def missing(dir_fd: int, path: bytes, follow_symlinks: bool) -> int:
    """ENOENT or ENOTDIR, if the kernel's caches say that there is nothing; else 0. What they do not know is EAGAIN
    (RESOLVE_CACHED), what a server knows as well: its answers have to be asked for again."""
    flags = _how(_O_PATH | (0 if follow_symlinks else os.O_NOFOLLOW))
    fd: int = _openat2_errno(SYS_OPENAT2, dir_fd, path, flags, _open_how_bytes)
    if fd >= 0:
        _close(fd)
        return 0
    code = ctypes.get_errno()
    return code if code in _SURE else 0


_FOLLOWING, _NOT_FOLLOWING = _how(_O_PATH), _how(_O_PATH | os.O_NOFOLLOW)


def stat_here(path: bytes, follow_symlinks: bool, holding: bool) -> os.stat_result | None:
    """`stat_cached` where all file systems are local; `holding`: with the GIL in hand all the time, which takes longer."""
    fd: int = _openat2(
        SYS_OPENAT2, abi.AT_FDCWD, path, _FOLLOWING if follow_symlinks else _NOT_FOLLOWING, _open_how_bytes
    )
    if fd < 0:
        return None
    try:
        if holding and (found := statx_here(fd, abi.STATX_BASIC_STATS)) is not None:
            return stat_result(found)
        return os.fstat(fd)
    except OSError:
        return None
    finally:
        _close(fd)


def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2) by its number (glibc has no wrapper). May wait: for worker threads."""
    if not LINUX:
        raise OSError(38, os.strerror(38))
    call: Any = _letting_it_go.syscall
    call.restype = ctypes.c_long
    how = pack_open_how(flags, mode, resolve)
    fd: int = call(SYS_OPENAT2, dir_fd, path, how, ctypes.c_size_t(OPEN_HOW_BYTES))
    if fd < 0:
        _raise()
    return fd


def tee(source: int, target: int, n: int) -> int:
    """tee(2) with SPLICE_F_NONBLOCK: looks into a pipe without taking anything out of it; never waits."""
    call: Any = _keeping_the_gil.tee
    call.restype = ctypes.c_ssize_t
    got: int = call(source, target, ctypes.c_size_t(n), 2)
    if got < 0:
        _raise()
    return got


_renameat2: Any = getattr(_letting_it_go, "renameat2", None)


def rename_to_nothing(source: bytes, target: bytes) -> None:
    """renameat2(2) with RENAME_NOREPLACE: EEXIST where there is something. Waits: for a worker. ENOSYS where the C library
    has none, EINVAL where the file system cannot."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(abi.AT_FDCWD, source, abi.AT_FDCWD, target, 1) != 0:
        _raise()
