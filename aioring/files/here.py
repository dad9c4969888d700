"""Opening in place what is only read and asks for nothing unusual: most files, and all of it in one straight line.

Called by `opening.py`, which goes on where this gives up. Nothing here suspends, so nothing can be cancelled, and an fd is
in nobody's hands but this function's until its file has it.
"""

from __future__ import annotations

import os
import sys
from asyncio.events import _get_running_loop
from time import perf_counter
from typing import Any, NamedTuple

from ..kernel import at_once
from ..ring import Ring, get_ring
from . import modes
from .binary import READ_AHEAD
from .raw import KIND, REGULAR, Raw
from .ring_io import RingIo
from .textual import resolved

__all__ = ["NOT_TRIED", "SPENT", "TRIED", "Kinds", "open_here"]

SPENT, NOT_TRIED, TRIED = -3, -2, -1
_FRESH = 0.005  # seconds for which a file is taken to have the size that it was opened with
_PLAIN = {mode: modes.parse(mode) for mode in ("rb", "br", "r", "rt", "tr")}


class Kinds(NamedTuple):
    """The classes of one dialect's files."""

    raw: Any
    reader: Any  # binary, with a buffer
    writer: Any  # the same, of a file that is only written
    text: Any
    nonblocking: bool = False  # whether an fd with O_NONBLOCK is not waited for, as io's files do not
    direct: bool | str = False  # past the page cache


# Hot path: once per file; measured in benchmarks/files.py.


def open_here(
    ring: Ring | None,
    kinds: Kinds,
    file: Any,
    mode: Any,
    buffering: Any,
    encoding: Any,
    errors: Any,
    newline: Any,
    closefd: Any,
    opener: Any,
    paid: bool = False,
) -> Any:
    """The file; or `NOT_TRIED`; or `SPENT`: the tick's budget is (`paid`: a unit was waited for); or `TRIED`: it is not at
    hand, and audit hooks have been told; or, as `TRIED`, the fd of what is no regular file, with O_NONBLOCK on it."""
    if buffering.__class__ is not int or buffering != -1 or closefd is not True or opener is not None or kinds.direct:
        return NOT_TRIED
    parsed = _PLAIN.get(mode) if mode.__class__ is str else None
    if parsed is None:
        return NOT_TRIED
    codec = None
    if not parsed.binary:
        codec = resolved(encoding, errors, newline)
        if codec is None:
            return NOT_TRIED
    elif encoding is not None or errors is not None or newline is not None:
        return NOT_TRIED
    name = file
    if name.__class__ is not str:
        if not isinstance(file, os.PathLike):
            return NOT_TRIED
        name = os.fspath(file)
    if ring is None:
        ring = get_ring()
    running = _get_running_loop()
    if running is None or running is not ring._loop_here or not ring._at_once:
        return NOT_TRIED
    if ring._budget.left <= 0 and not paid:
        return SPENT
    sys.audit("open", name, parsed.raw, parsed.flags)
    fd = ring._open_here(name, parsed.flags)
    if fd < 0:
        return TRIED
    raw: Raw | None = None
    try:
        shape = at_once.shape_of(fd)
        if shape is None or shape[2] & KIND != REGULAR:
            return fd
        blksize = shape[0]
        raw = Raw(fd, parsed, name, True, RingIo(ring), shape[2], blksize)
        raw.opened_here = raw.prepaid = True
        raw.size = shape[3]
        now = perf_counter()
        raw.fresh = now + _FRESH
        ring._cache.late(now)
        size = READ_AHEAD if blksize < READ_AHEAD else blksize
        if codec is None:
            return kinds.reader(raw, ring, size)
        raw.ahead = True
        return kinds.text(raw, ring, size, codec, newline, False)
    except BaseException:
        if raw is None:
            os.close(fd)
        elif raw.fd >= 0:  # else KeyboardInterrupt struck when it was made, and whoever had it has closed it
            raw.fd = -1
            os.close(fd)
        raise
