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
from functools import partial
from typing import Any

from ..buffers import bytes_view, new_bytes
from ..engine import Engine
from ..handle import COMPLETE, Handle
from ..kernel import at_once
from ..operations import READ, READINTO, Operation, is_direct

__all__ = ["LARGE", "for_a_worker", "read", "readinto"]

LARGE = 256 << 10  # bytes; a copy of less takes 50 us at most
PIECE = 1 << 20
AT_ONCE = 4  # of one read; the other workers are for others
_TAIL = 256 << 10
# Into aioring's own memory: a cancel need not wait for it.
_OWN = replace(READINTO, name="read", settles=False)


def for_a_worker(engine: Engine, handle: Handle) -> bool:
    """Whether one call of a worker is to carry a read out whole, since its copy is too large for the loop's thread."""
    return handle.length >= LARGE and engine.method.pieces and not is_direct(handle.fd)


async def read(engine: Engine, fd: int, offset: int, n: int) -> bytes:
    """All `n` bytes at `offset`, fewer at end of file."""
    with _Holding(engine, fd) as holding:
        size = await _hint(engine, fd, offset, n)
        parts: list[bytes] = []
        if size:
            memory = new_bytes(size)
            got = await _all(holding, _cut(engine, _OWN, fd, offset, bytes_view(memory)[:size], memory))
            parts.append(memory if got == len(memory) else memory[:got])
            if got < size:
                return parts[0]
        # What lies behind the size that the file had is asked for as well: it may have grown, and /proc says 0.
        while size < n:
            more = Handle(READ, fd, offset + size, min(n - size, _TAIL))
            holding.ask(more)
            part: bytes = await holding.wait(more)
            if part:
                parts.append(part)
            size += len(part)
            if len(part) < more.length:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def readinto(engine: Engine, fd: int, offset: int, view: memoryview) -> int:
    """Fill `view` from `offset`: the number of bytes."""
    with _Holding(engine, fd) as holding:
        return await _all(holding, _cut(engine, READINTO, fd, offset, view, None))


async def _hint(engine: Engine, fd: int, offset: int, n: int) -> int:
    """How much of `n` there is as far as the file's size tells: no memory for more is made in advance."""
    found = at_once.stat_of_fd(fd)
    if found is None:
        try:
            found = await engine.run(partial(os.fstat, fd))  # a server may have to be asked
        except OSError:
            return n  # the read says what is wrong
    return min(n, max(found.st_size - offset, 0)) if stat.S_ISREG(found.st_mode) else n


def _cut(engine: Engine, operation: Operation, fd: int, offset: int, view: memoryview, keep: Any) -> list[Handle]:
    pieces = []
    for at in range(0, view.nbytes, PIECE):
        part = view[at : at + PIECE]
        piece = Handle(operation, fd, offset + at, part.nbytes)
        piece.view, piece.keep, piece.by_workers = part, keep, engine.method.pieces
        pieces.append(piece)
    return pieces


class _Holding:
    """An fd, held from the first piece to the last: a close that is asked meanwhile comes after all of them."""

    def __init__(self, engine: Engine, fd: int) -> None:
        self.engine, self.fd = engine, fd

    def __enter__(self) -> _Holding:
        self.engine.hold(self.fd, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.release(self.fd, self)

    def ask(self, handle: Handle) -> None:
        self.engine.check()
        self.engine.vouch(self.fd, self, handle)
        self.engine.ask(handle)

    async def wait(self, handle: Handle) -> Any:
        try:
            await self.engine.loop.park(handle, self.engine.cancel)
            return self.engine.take(handle)
        except BaseException:
            self.engine.forsake(handle)
            raise


async def _all(holding: _Holding, pieces: list[Handle]) -> int:
    """Have the pieces carried out, some at once: how many bytes came one after the other."""
    engine = holding.engine
    total = asked = 0
    try:
        for i, piece in enumerate(pieces):
            while asked < len(pieces) and asked < i + AT_ONCE:
                asked += 1
                holding.ask(pieces[asked - 1])
            await holding.wait(piece)
            total += piece.done
            if piece.done < piece.length:
                break  # end of file, before where it was
    except GeneratorExit:
        for piece in pieces[:asked]:
            engine.forsake(piece)
        raise  # nobody may await any more
    except BaseException:
        await _end(engine, pieces[:asked])
        raise
    if total < sum(piece.length for piece in pieces):
        await _end(engine, pieces[:asked])
    return total


async def _end(engine: Engine, asked: list[Handle]) -> None:
    """It failed, was cancelled, or met end of file: end the other pieces, and wait for those that write into the caller's
    memory. Raises the cancel that came meanwhile, if one did."""
    struck: BaseException | None = None
    for piece in asked:
        if piece.state != COMPLETE:
            engine.cancel(piece)
    for piece in asked:
        while piece.operation.settles and piece.state != COMPLETE and not engine.ended:
            try:
                await engine.loop.park(piece, lambda _: False)
            except GeneratorExit:
                raise
            except BaseException as error:
                struck = error
        engine.forsake(piece)
    try:
        if struck is not None:
            raise struck
    finally:
        del struck  # an exception must not hold the frame that holds it
