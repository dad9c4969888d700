"""struct statx, as io_uring's STATX fills it, made into what `os.stat` gives."""

from __future__ import annotations

import os

from . import abi

__all__ = ["stat_result"]


def stat_result(statx: bytes) -> os.stat_result:
    """An `os.stat_result` with every field, computed from struct statx as CPython computes it from struct stat."""
    f = abi.unpack_statx(statx)
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
