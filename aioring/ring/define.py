"""From arguments to a handle: what `read(fd, offset, n)` and its siblings ask for, checked.

Used by the methods of `Ring`, by `start_read` and `start_write`, and by chains, so that all three say the same of the
same bad argument. Nothing here touches the kernel.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from operator import index
from typing import Any

from .. import operations as op
from ..buffers import Memory, lent_bytes, lent_writable
from ..errors import os_error
from ..handle import Handle
from ..kernel import abi
from ..methods.slots import LINKS

__all__ = [
    "StrOrBytesPath", "advise", "allocate", "close", "fsync", "into", "link", "mkdir", "open_", "read", "read_file",
    "readinto", "readv", "rename", "rmdir", "stat", "symlink", "sync_range", "truncate", "unlink", "write", "writev",
]  # fmt: skip

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_IOV_MAX = os.sysconf("SC_IOV_MAX")


def descriptor(fd: Any) -> int:
    """An fd, or what has one (`fileno()`), as `os.fsync` takes it."""
    if type(fd) is not int:
        fd = index(fd) if hasattr(fd, "__index__") or not hasattr(fd, "fileno") else index(fd.fileno())
    if not -(1 << 31) <= fd < 1 << 31:
        raise OverflowError("fd is less than minimum" if fd < 0 else "fd is greater than maximum")
    return int(fd)


def _offset(offset: int) -> int:
    offset = index(offset)
    if offset < 0:
        raise ValueError(
            f"offset {offset}: must not be negative; -1, at the file's own position, is for what cannot seek only"
            if offset == -1
            else f"offset {offset}: must not be negative"
        )
    if offset > abi.OFF_MAX:
        raise OverflowError(f"offset {offset}: too large for off_t")
    return offset


def _number(value: int, name: str) -> int:
    """A C int, as `os` takes flags and modes."""
    value = index(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError(f"{name} {value}: does not fit a C int")
    return value


def _audited(handle: Handle, event: str, *args: Any) -> Handle:
    """What `os` raises on the audit hooks for the same call."""
    handle.audit = (event, *args)
    return handle


def _or_default(dir_fd: int | None) -> int:
    return -1 if dir_fd is None else dir_fd


def _views(buffers: Iterable[Any], lent: Callable[[Any], memoryview]) -> list[memoryview]:
    views = [lent(buffer) for buffer in buffers]
    if len(views) > _IOV_MAX:
        raise os_error(errno.EINVAL, note=f"aioring: {len(views)} buffers at once; the kernel takes {_IOV_MAX}")
    return views


def _size(n: int, name: str = "n") -> int:
    n = index(n)
    if n < 0:
        raise ValueError(f"{name} {n}: must not be negative")
    if n > sys.maxsize:
        raise OverflowError(f"{name} {n}: too large for ssize_t")
    return n


def path_of(path: Any) -> tuple[str | bytes, bytes]:
    """A path as the caller gave it, and as the kernel takes it: encoded, with a NUL."""
    name = os.fspath(path)
    raw = os.fsencode(name)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return name, raw + b"\0"


def _directory(dir_fd: int | None) -> int:
    return abi.AT_FDCWD if dir_fd is None else descriptor(dir_fd)


def _named(operation: Any, path: Any, dir_fd: int | None = None) -> Handle:
    handle = Handle(operation)
    handle.name, handle.path = path_of(path)
    handle.fd = _directory(dir_fd)
    return handle


def _two_named(operation: Any, src: Any, dst: Any, src_dir_fd: int | None, dst_dir_fd: int | None) -> Handle:
    handle = _named(operation, src, src_dir_fd)
    handle.name2, handle.path2 = path_of(dst)
    handle.fd2 = _directory(dst_dir_fd)
    return handle


def _transfer(operation: Any, fd: Any, offset: int) -> Handle:
    handle = Handle(operation)
    handle.fd = descriptor(fd)
    handle.offset = _offset(offset)
    return handle


def read(fd: Any, offset: int, n: int) -> Handle:
    handle = _transfer(op.READ, fd, offset)
    handle.length = _size(n)
    return handle


def readinto(fd: Any, offset: int, buffer: Any) -> Handle:
    handle = _transfer(op.READINTO, fd, offset)
    handle.view = view = lent_writable(buffer)
    handle.length = view.nbytes
    return handle


def into(memory: Memory, slot: int, fd: int, offset: int, n: int) -> Handle:
    """A read of `n` bytes into a pool's memory, of which the handle has a view until it is complete; `slot`: where that is
    registered with the kernel, or -1. For who has looked at the rest."""
    handle = Handle(op.READINTO if slot < 0 else op.READ_FIXED, fd, offset, n)
    handle.view = memory.view(n)
    if slot >= 0:
        handle.slot = slot
    return handle


def readv(fd: Any, offset: int, buffers: Iterable[Any]) -> Handle:
    handle = _transfer(op.READV, fd, offset)
    handle.views = views = _views(buffers, lent_writable)
    handle.length = sum(view.nbytes for view in views)
    return handle


def write(fd: Any, offset: int, data: Any) -> Handle:
    handle = _transfer(op.WRITE, fd, offset)
    handle.view = data if type(data) is bytes else lent_bytes(data)
    handle.length = len(handle.view)
    return handle


def writev(fd: Any, offset: int, buffers: Iterable[Any]) -> Handle:
    handle = _transfer(op.WRITEV, fd, offset)
    handle.views = views = _views(buffers, lent_bytes)
    handle.length = sum(view.nbytes for view in views)
    return handle


def fsync(fd: Any, data_only: bool) -> Handle:
    handle = Handle(op.FSYNC)
    handle.fd = descriptor(fd)
    if handle.fd < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")  # as os.fsync says it
    handle.flags = abi.FSYNC_DATASYNC if data_only else 0
    return handle


def sync_range(fd: Any, offset: int, n: int, flags: int) -> Handle:
    handle = _transfer(op.SYNC_RANGE, fd, offset)
    handle.length, handle.flags = _size(n), _number(flags, "flags")
    return handle


def open_(path: Any, flags: int, mode: int, dir_fd: int | None, resolve: int) -> Handle:
    handle = _named(op.OPENAT2 if resolve else op.OPEN, path, dir_fd)
    handle.flags = _number(flags, "flags") | os.O_CLOEXEC
    handle.mode = _number(mode, "mode")
    if resolve:
        # openat2(2) refuses a mode where nothing is made, and the bits that open(2) ignores.
        makes = handle.flags & os.O_CREAT or handle.flags & os.O_TMPFILE == os.O_TMPFILE
        handle.mode = handle.mode & 0o7777 if makes else 0
        handle.resolve = index(resolve)
        if not 0 <= handle.resolve < 1 << 64:
            raise OverflowError(f"resolve {resolve}: does not fit 64 bits")
    return handle


def read_file(path: Any, flags: int) -> Handle:
    """Never waits for a FIFO's peer, and brings along an fd with O_NONBLOCK of what is no small regular file."""
    handle = _named(op.READ_FILE, path)
    handle.flags = flags | os.O_CLOEXEC | os.O_NONBLOCK
    handle.together = LINKS
    return handle


def close(fd: Any) -> Handle:
    handle = Handle(op.CLOSE)
    handle.fd = descriptor(fd)
    return handle


def stat(path: Any, dir_fd: int | None, follow_symlinks: bool) -> Handle:
    if isinstance(path, int):
        if dir_fd is not None:
            raise ValueError("stat: can't specify dir_fd without matching path")
        if not follow_symlinks:
            raise ValueError("stat: cannot use fd and follow_symlinks together")
        handle = Handle(op.STAT)
        handle.fd, handle.path = max(descriptor(path), -1), b"\0"  # -100 would be the working directory
        handle.flags = abi.AT_EMPTY_PATH
        return handle
    handle = _named(op.STAT, path, dir_fd)
    handle.flags = abi.AT_NO_AUTOMOUNT | (0 if follow_symlinks else abi.AT_SYMLINK_NOFOLLOW)
    return handle


def truncate(fd: Any, n: int) -> Handle:
    handle = Handle(op.TRUNCATE)
    handle.fd, handle.length = descriptor(fd), _size(n)
    return _audited(handle, "os.truncate", handle.fd, n)


def allocate(fd: Any, offset: int, n: int, mode: int) -> Handle:
    handle = _transfer(op.ALLOCATE, fd, offset)
    handle.length, handle.mode = _size(n), _number(mode, "mode")
    return handle


def advise(fd: Any, offset: int, n: int, advice: int) -> Handle:
    handle = _transfer(op.ADVISE, fd, offset)
    handle.length, handle.flags = _size(n), _number(advice, "advice")
    return handle


def rename(src: Any, dst: Any, src_dir_fd: int | None, dst_dir_fd: int | None) -> Handle:
    handle = _two_named(op.RENAME, src, dst, src_dir_fd, dst_dir_fd)
    where = _or_default(src_dir_fd), _or_default(dst_dir_fd)
    return _audited(handle, "os.rename", handle.name, handle.name2, *where)


def link(src: Any, dst: Any, src_dir_fd: int | None, dst_dir_fd: int | None, follow_symlinks: bool) -> Handle:
    handle = _two_named(op.LINK, src, dst, src_dir_fd, dst_dir_fd)
    # As CPython: without dir_fds, following is left to link(2), and Linux's does not follow.
    if follow_symlinks and (src_dir_fd is not None or dst_dir_fd is not None):
        handle.flags = abi.AT_SYMLINK_FOLLOW
    where = _or_default(src_dir_fd), _or_default(dst_dir_fd)
    return _audited(handle, "os.link", handle.name, handle.name2, *where)


def symlink(src: Any, dst: Any, dir_fd: int | None) -> Handle:
    handle = Handle(op.SYMLINK)
    handle.name, handle.path = path_of(src)
    handle.name2, handle.path2 = path_of(dst)
    handle.fd = _directory(dir_fd)
    return _audited(handle, "os.symlink", handle.name, handle.name2, _or_default(dir_fd))


def unlink(path: Any, dir_fd: int | None) -> Handle:
    handle = _named(op.UNLINK, path, dir_fd)
    return _audited(handle, "os.remove", handle.name, _or_default(dir_fd))


def rmdir(path: Any, dir_fd: int | None) -> Handle:
    handle = _named(op.RMDIR, path, dir_fd)
    return _audited(handle, "os.rmdir", handle.name, _or_default(dir_fd))


def mkdir(path: Any, mode: int, dir_fd: int | None) -> Handle:
    handle = _named(op.MKDIR, path, dir_fd)
    handle.mode = _number(mode, "mode")
    return _audited(handle, "os.mkdir", handle.name, mode, _or_default(dir_fd))
