"""Calls into the C library that Python's `os` does not have, and the few that must keep the GIL.

A call through `PyDLL` keeps the GIL and may therefore only be one that never waits (invariant 9): letting the GIL go
hands it to whatever other thread runs Python, and it may come back 5 ms later. A call through `CDLL` lets it go and
may wait; those run on worker threads.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from .abi import LINUX, OPEN_HOW_BYTES, SYS_OPENAT2, pack_open_how

__all__ = ["fallocate", "openat2", "sync_file_range", "tee"]

_keeping_the_gil = ctypes.PyDLL(None, use_errno=True)
_letting_it_go = ctypes.CDLL(None, use_errno=True)


def _raise() -> None:
    errno = ctypes.get_errno()
    raise OSError(errno, os.strerror(errno))


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
