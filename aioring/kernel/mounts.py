"""Whether a file is on a file system that never asks anybody: what may be done in place, on the loop's thread.

Opening, fstat(2) and fstatfs(2) on FUSE, NFS and their kin may wait for a server; with the GIL in hand, for a server in
this very process, for ever. So the mount table is read (proc_pid_mountinfo(5)), again whenever poll(2) says that it
changed, and a file's device is asked of statx(2) with AT_STATX_DONT_SYNC, which no file system asks a server for. Where
every mount is local, as in most containers, nothing has to be asked of the file at all.

Called by `at_once.py`. What is not known is not local: a file system that was detached, or a machine without /proc.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from contextlib import suppress
from time import perf_counter
from typing import Any

from . import abi
from .statx import statx as _statx

__all__ = ["all_local", "kind", "kind_of", "statx_here"]

_NAMES = """
autofs bfs binfmt_misc bpf btrfs cgroup cgroup2 configfs cramfs debugfs devpts devtmpfs efivarfs erofs exfat ext2 ext3 ext4
f2fs fusectl hfs hfsplus hugetlbfs iso9660 jfs mqueue msdos nilfs2 nsfs ntfs3 overlay proc pstore ramfs resctrl romfs rootfs
rpc_pipefs securityfs selinuxfs squashfs sysfs tmpfs tracefs udf vfat xfs zfs
"""
_LOCAL = frozenset(_NAMES.split())
_unpack_dev = struct.Struct("<II").unpack_from  # stx_dev_major, stx_dev_minor, at 136
_flags = abi.AT_EMPTY_PATH | abi.AT_STATX_DONT_SYNC
_POLLPRI = 2  # poll.h
_NEWS = 0.005  # seconds: how old what `all_local` says may be; asking costs as much as a small read
_poll: Any = ctypes.PyDLL(None).poll  # not `select.poll`, which lets the GIL go


class _PollFd(ctypes.Structure):  # struct pollfd, poll(2)
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _Scratch(threading.local):
    """What a call fills: each thread its own, since another may run between the call and the look at what it said."""

    def __init__(self) -> None:
        self.statx = ctypes.create_string_buffer(abi.STATX_BYTES)


class _Table:
    """The mounts of this process, as of the last look."""

    def __init__(self) -> None:
        self.fd = -1
        self.kinds: dict[tuple[int, int], str] = {}
        self.all_local = False
        self.until = 0.0  # when it is time to look again
        self._asked: Any = None

    def look(self) -> _Table:
        if self.fd < 0:
            self._open()
        elif _poll(ctypes.byref(self._asked), 1, 0):  # it says of each change, once, that there was one
            self._read()
        return self

    def _open(self) -> None:
        try:
            self.fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # nothing is known, and nothing is local
        self._asked = _PollFd(self.fd, _POLLPRI, 0)
        _poll(ctypes.byref(self._asked), 1, 0)
        self._read()

    def _read(self) -> None:
        parts: list[bytes] = []
        at = 0
        while part := os.pread(self.fd, 1 << 16, at):
            parts.append(part)
            at += len(part)
        kinds: dict[tuple[int, int], str] = {}
        for line in b"".join(parts).decode(errors="replace").splitlines():
            # 36 35 98:0 /root /mount options ... - type source options
            fields, _, rest = line.partition(" - ")
            major, minor = fields.split(" ", 3)[2].split(":")
            kinds[int(major), int(minor)] = rest.split(" ", 1)[0]
        self.kinds, self.all_local = kinds, all(name in _LOCAL for name in kinds.values())


_scratch = _Scratch()
_table = _Table()


def all_local() -> bool:
    """Whether every file system that is mounted here is local."""
    table, now = _table, perf_counter()
    if now > table.until:
        table.look().until = now + _NEWS
    return table.all_local


def statx_here(fd: int, mask: int) -> Any:
    """struct statx of an fd, asking no server and keeping the GIL, in memory that the next call fills again; or None."""
    found = _scratch.statx
    return None if _statx is None or _statx(fd, b"", _flags, mask, found) < 0 else found


def kind(fd: int) -> str:
    """The type of the file system that `fd` is on, if it is local and known; else ""."""
    kinds = _table.look().kinds
    found = statx_here(fd, 0) if 0 <= fd <= abi.INT_MAX else None
    if found is None:
        return ""
    name = kinds.get(_unpack_dev(found, 136), "")
    return name if name in _LOCAL else ""


def kind_of(device: int) -> str:
    """The type of the file system that has this `st_dev`, as it was when it was last looked; "": not known."""
    return _table.kinds.get((os.major(device), os.minor(device)), "")


def _forget() -> None:
    """In a forked child: it shares the open file, and with it the news of changes, with its parent."""
    global _table
    with suppress(OSError):
        if _table.fd >= 0:
            os.close(_table.fd)
    _table = _Table()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
