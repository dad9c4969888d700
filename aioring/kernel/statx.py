"""struct statx, as io_uring's STATX fills it, made into what `os.stat` gives; and what it alone knows of O_DIRECT."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from . import abi

__all__ = ["UNKNOWN", "direct_alignment", "sector", "stat_result", "statx"]

statx: Any = getattr(ctypes.PyDLL(None), "statx", None)
UNKNOWN = 4096  # bytes: what O_DIRECT needs where nobody says it; suits every device seen so far
_LEAST = 512
_STATX_DIOALIGN = 0x2000  # linux/stat.h, since 6.1
_unpack_mask = struct.Struct("<I").unpack_from
_unpack_dio = struct.Struct("<II").unpack_from  # stx_dio_mem_align, stx_dio_offset_align, at 152


def direct_alignment(fd: int) -> tuple[int, int] | None:
    """What O_DIRECT needs of this file, in bytes: of the buffer's address, and of offset and length. None: not known;
    zeros: it takes the flag, and goes through the page cache."""
    if statx is None:
        return None
    found = ctypes.create_string_buffer(abi.STATX_BYTES)
    if statx(fd, b"", abi.AT_EMPTY_PATH | abi.AT_STATX_DONT_SYNC, ctypes.c_uint(_STATX_DIOALIGN), found) < 0:
        return None
    memory, offset = _unpack_dio(found, 152)
    return (memory, offset) if _unpack_mask(found)[0] & _STATX_DIOALIGN else None


def sector(fd: int, unknown: int = UNKNOWN) -> int:
    """What offsets, lengths and addresses all have to be multiples of with O_DIRECT, in bytes; 0: it does nothing here."""
    found = direct_alignment(fd)
    if found is None:
        return unknown
    return max(*found, _LEAST) if all(found) else 0


def stat_result(filled: bytes) -> os.stat_result:
    """An `os.stat_result` with every field, computed from struct statx as CPython computes it from struct stat."""
    f = abi.unpack_statx(filled)
    times = [(f[i], f[i + 1]) for i in (12, 21, 18)]  # atime, mtime, ctime; in the struct: atime, btime, ctime, mtime
    return os.stat_result(
        (
            f[6],  # st_mode
            f[8],  # st_ino
            os.makedev(f[26], f[27]),
            f[3],  # st_nlink
            f[4],  # st_uid
            f[5],  # st_gid
            f[9],  # st_size
            *(s for s, _ in times),
            *(s + 1e-9 * ns for s, ns in times),
            *(s * 1_000_000_000 + ns for s, ns in times),
            f[1],  # st_blksize
            f[10],  # st_blocks
            os.makedev(f[24], f[25]),  # st_rdev
        )
    )
