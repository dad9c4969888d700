"""A file in pieces of a megabyte, as `cat` and `sum` want it."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aioring

__all__ = ["PIECE", "pieces", "size_of"]

PIECE = 1 << 20


def size_of(path: Any) -> int | None:
    """None where it has none to speak of: a pipe, a terminal, a file of /proc. Raises `OSError`."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, os.strerror(21), path)
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_size else None


async def pieces(path: Any, direct: bool) -> AsyncGenerator[Any]:
    """A read stream of what can seek; else one piece after the other. What is given is good until the next one."""
    if size_of(path) is None:
        async with aclosing(aioring.stream(path, PIECE)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    async with aioring.read_stream(path, block_size=PIECE, direct="try" if direct else False, full=True) as blocks:
        async for block in blocks:
            yield block.data
