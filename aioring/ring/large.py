"""Large buffered reads: in pieces, by the ring's workers, so that no copy of megabytes runs on the loop's thread.

A read of what is in the page cache is a copy, and io_uring makes it inside io_uring_enter(2): 256 MiB stop the loop for 130
ms. Cut into pieces that several workers copy at once, into slices of one buffer, it is also faster. Called by `data.py` for
what is `LARGE` and not O_DIRECT. Methods without `pieces` (sync, scripted) carry the pieces out themselves.

Why workers and not IOSQE_ASYNC: with that flag the kernel looks the fd's number up when a kernel thread gets to it, and
what it means by then may be another file (invariant 7). A dup would pin the file, but closing any dup of it drops the
POSIX locks that the process holds on it (fcntl_locking(2)).

The handles of all pieces hold the buffer until their completions (invariant 1): through the view they were given, and where
the buffer is aioring's own, through `keep`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import Any

from ..buffers import bytes_view, new_bytes
from ..engine import Engine
from ..engine.results import TRIES
from ..handle import COMPLETE, Handle
from ..operations import READ, READINTO, Operation

__all__ = ["LARGE", "read", "readinto"]

LARGE = 256 << 10  # bytes; a copy of less takes 50 us at most
PIECE = 1 << 20
AT_ONCE = 4  # of one read; the other workers are for others
_TAIL = 256 << 10
# Into aioring's own memory: a cancel need not wait for it.
_OWN = replace(READINTO, name="read", settles=False)


async def read(engine: Engine, fd: int, offset: int, n: int) -> bytes:
    """All `n` bytes at `offset`, fewer at end of file."""
    size = _hint(fd, offset, n)
    memory = new_bytes(size)
    # What lies behind the size that the file had is asked for as well: it may have grown, and /proc says 0.
    tail = Handle(READ, fd, offset + size, min(n - size, _TAIL)) if size < n else None
    pieces = _cut(engine, _OWN, fd, offset, bytes_view(memory)[:size], memory) if size else []
    got = await _all(engine, fd, pieces, tail)
    if got < size or tail is None:
        return memory if got == len(memory) else memory[:got]
    parts, more = [memory[:size] if size != len(memory) else memory], tail
    while more.done:
        parts.append(engine.take(more))
        size += more.done
        if more.done < more.length or size >= n:
            break
        more = Handle(READ, fd, offset + size, min(n - size, PIECE))
        await engine.do(more)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def readinto(engine: Engine, fd: int, offset: int, view: memoryview) -> int:
    """Fill `view` from `offset`: the number of bytes."""
    return await _all(engine, fd, _cut(engine, READINTO, fd, offset, view, None), None)


def _hint(fd: int, offset: int, n: int) -> int:
    """How much of `n` there is as far as the file's size tells: no memory for more is made in advance."""
    try:
        found = os.fstat(fd)
    except OSError:
        return n  # the read says what is wrong
    return min(n, max(found.st_size - offset, 0)) if stat.S_ISREG(found.st_mode) else n


def _cut(engine: Engine, operation: Operation, fd: int, offset: int, view: memoryview, keep: Any) -> list[Handle]:
    pieces, tries = [], TRIES + 1 if engine.method.pieces else 0  # so many: for the workers
    for at in range(0, view.nbytes, PIECE):
        part = view[at : at + PIECE]
        piece = Handle(operation, fd, offset + at, part.nbytes)
        piece.view, piece.keep, piece.tries = part, keep, tries
        pieces.append(piece)
    return pieces


async def _all(engine: Engine, fd: int, pieces: list[Handle], tail: Handle | None) -> int:
    """Have the pieces carried out, some at once, and then the tail: how many bytes came one after the other."""
    line = pieces if tail is None else [*pieces, tail]
    total = asked = 0
    try:
        # All use the fd from now on: a close that is asked meanwhile comes after them.
        for handle in line:
            engine.hold(fd, handle)
        for i, handle in enumerate(line):
            while asked < len(line) and asked < i + AT_ONCE and (line[asked] is not tail or asked == i):
                engine.ask(line[asked])
                asked += 1
            await engine.loop.park(handle, engine.cancel)
            if handle is tail:
                if handle.res < 0:
                    engine.take(handle)
                break
            engine.take(handle)
            total += handle.done
            if handle.done < handle.length:
                break  # end of file, before where it was
        return total
    except GeneratorExit:
        raise  # nobody may await any more
    except BaseException:
        await _wait_for_the_rest(engine, line[:asked])
        raise
    finally:
        for handle in line:
            if handle.state != COMPLETE:
                engine.forsake(handle)
            engine.release(fd, handle)


async def _wait_for_the_rest(engine: Engine, asked: list[Handle]) -> None:
    """One failed or the task was cancelled: end the others, and wait for those that write into the caller's memory."""
    for handle in asked:
        if handle.state != COMPLETE:
            engine.cancel(handle)
    for handle in asked:
        while handle.operation.settles and handle.state != COMPLETE and not engine.ended:
            try:
                await engine.loop.park(handle, lambda _: False)
            except BaseException:
                continue  # one more cancel; the first is on its way already
