"""A file in pieces of a megabyte, as `cat` and `sum` want it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aioring

from ..console import FILLED

__all__ = ["STDIN", "pieces", "size_of"]

STDIN = "-"
_PIECE = 1 << 20


def size_of(path: Any) -> int | None:
    """None where it has none to speak of: a pipe, a terminal, a file of /proc. Raises `OSError`."""
    if path == STDIN and 0 in FILLED:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), path)
    status = os.fstat(0) if path == STDIN else os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_size else None


async def pieces(path: Any, direct: bool) -> AsyncGenerator[Any]:
    """A read stream of what can seek; else one piece after the other. What is given is good until the next one."""
    size = size_of(path)
    if path == STDIN:
        async with aclosing(_standard_input()) as given:
            async for piece in given:
                yield piece
        return
    if size is None:
        async with aclosing(aioring.stream(path, _PIECE)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    ring = aioring.get_ring()
    fd = await ring.open(path, os.O_RDONLY | os.O_NONBLOCK)  # if it is a FIFO by now nobody waits for its writer
    try:
        if not stat.S_ISREG((await ring.stat(fd)).st_mode):
            raise OSError(errno.EINVAL, "it is no file any more", path)
        async with aioring.read_stream(fd, block_size=_PIECE, direct="try" if direct else False, full=True) as blocks:
            async for block in blocks:
                yield block.data
    finally:
        await ring.close(fd)


async def _standard_input() -> AsyncGenerator[bytes]:
    """From where it is, not from the beginning: others may have read some of it, and may go on behind us."""
    ring = aioring.get_ring()
    try:
        at = os.lseek(0, 0, os.SEEK_CUR)
    except OSError:
        at = -1  # it cannot seek
    try:
        while data := await ring.read(0, at, _PIECE):
            at += len(data) if at >= 0 else 0
            yield data
    finally:
        if at >= 0:
            os.lseek(0, at, os.SEEK_SET)
