"""A file's transfers past the page cache, whatever their offsets and lengths: `aioring.open(path, direct=True)`.

O_DIRECT takes whole sectors, in memory that is aligned. So a read is widened and cut, and a write is taken apart:

    read   [offset, offset + n)  ->  whole sectors into the ring's pool, up to `_DEEP` pieces in flight  ->  bytes
    write  whole sectors from a sector's beginning: as they are, where their memory is aligned, else by a copy
           anything else: the sectors at its ends are read, changed, and written back (`rewrite.py`)

Kernel memory: a piece's memory is the pool's. Its handle has a view of it, and stands in the engine's `live`, from its
submission to its completion, whatever becomes of the caller (invariant 1). It goes back to the pool then. Where the ring
had to end before, the handle (`shut`) keeps its view for good, and the pool gives nobody memory of which a view lives.

Who else writes to the file, not by this ring, within one sector of ours at the same moment may undo it, and be undone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from .. import loops
from ..buffers import Memory, Pool, bytes_view, new_bytes
from ..engine import Engine
from ..handle import COMPLETE, Handle
from ..kernel import at_once
from ..ring import Ring, define
from .arguments import untold
from .direct import size_of
from .in_place import DirectInPlace
from .raw import Raw
from .rewrite import Rewrite
from .ring_io import RingIo
from .sectors import END, GROWS, READS, Claim, Sectors, widened

__all__ = ["DirectIo", "given_back"]

_PIECE = 1 << 20  # bytes of one I/O
_DEEP = 4  # how many of them are in flight


class _Piece:
    """One I/O of a read."""

    __slots__ = ("done", "handle", "length", "memory", "offset", "over", "waiter")

    def __init__(self, offset: int, length: int, memory: Memory) -> None:
        self.offset, self.length, self.memory = offset, length, memory
        self.handle: Handle
        self.done = 0
        self.over = False
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.over


class DirectIo(RingIo):
    """One file's. `sector`: what offsets, lengths and addresses have to be multiples of, in bytes."""

    __slots__ = ("in_place", "sector", "sectors")

    def __init__(self, ring: Ring, fd: int, sector: int) -> None:
        super().__init__(ring)
        self.sector = sector
        self.in_place = DirectInPlace(sector)
        tables: WeakValueDictionary[tuple[int, int], Sectors] | None = ring._sectors
        if tables is None:
            tables = ring._sectors = WeakValueDictionary()
            ring._engine.at_shut.append(partial(_shut, tables))
        status = os.fstat(fd)
        self.sectors = tables.setdefault((status.st_dev, status.st_ino), Sectors())

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, raw: Raw, n: int) -> bytes | None:
        return await self._read(raw, raw.position, n)

    def rest_here(self, raw: Raw) -> bytes | None:
        return None

    async def rest(self, raw: Raw) -> bytes:
        parts, at = [], raw.position
        while True:
            n = max(await self.size(raw) - at, _PIECE)
            part = await self._read(raw, at, n)
            parts.append(part)
            at += len(part)
            if len(part) < n:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pread(self, raw: Raw, n: int, offset: int) -> bytes:
        """All of `n` bytes, fewer only at end of file. Beside other calls: `raw`'s position is left alone."""
        asked = define.read(raw.fd, offset, n)
        await self.ring._engine.loop.checkpoint()
        raw.check("read of closed file")
        return await self._read(raw, asked.offset, asked.length)

    async def _read(self, raw: Raw, offset: int, n: int) -> bytes:
        engine, fd = self.ring._engine, raw.fd
        if n > _PIECE and raw.regular:
            n = min(n, max(await self.size(raw) - offset, _PIECE))
        if n <= 0:
            return b""
        end = offset + n
        at, stop = widened(offset, end, self.sector)
        claim = Claim(READS, at, stop, partial(_tell, engine.loop))
        engine.hold(fd, claim)  # between two pieces, too, its number is to mean this file
        line: deque[_Piece] = deque()
        try:
            await self._claimed(engine, claim)
            several = stop - at > _PIECE
            whole = new_bytes(n) if several else b""
            parts, had = bytes_view(whole) if several else None, 0
            while True:
                while at < stop and len(line) < _DEEP:
                    length = min(_PIECE, stop - at)
                    line.append(self._ask(engine, fd, claim, at, length, not line))
                    at += length
                if not line:
                    break
                piece = line[0]
                if len(line) > 1 and not piece.over:
                    engine.flush()
                await engine.loop.park(piece, loops.at_once)  # the memory stays with the handle until its completion
                if piece.handle.res < 0:
                    engine.take(piece.handle)
                first = max(offset - piece.offset, 0)
                last = min(piece.done, end - piece.offset)
                if last > first:
                    if parts is None:
                        return piece.memory.view(last)[first:].tobytes()
                    parts[had : had + last - first] = piece.memory.view(last)[first:]
                    had += last - first
                self._give_back(line.popleft())
                if piece.done < piece.length:
                    break
            return whole if had == n else whole[:had]
        finally:
            for piece in line:
                if piece.over:
                    self._give_back(piece)
                else:
                    piece.handle.on_done = partial(given_back, self.ring._memory_pool(), piece.memory)
                    engine.cancel(piece.handle)
            self.sectors.release(claim)
            engine.release(fd, claim)

    def _give_back(self, piece: _Piece) -> None:
        given_back(self.ring._memory_pool(), piece.memory, piece.handle)

    def _ask(self, engine: Engine, fd: int, claim: Claim, offset: int, length: int, first: bool) -> _Piece:
        pool = self.ring._memory_pool()
        piece = _Piece(offset, length, pool.take(length))
        piece.handle = handle = define.into(piece.memory, pool.slot(piece.memory), fd, offset, length)
        handle.on_done = partial(_arrived, engine.loop, piece)
        engine.vouch(fd, claim, handle)
        if first:
            engine.begin(handle)  # at once, where nothing else is under way
            if handle.state == COMPLETE:
                _arrived(engine.loop, piece, handle)
        else:
            engine.ask(handle)
        return piece

    async def _claimed(self, engine: Engine, claim: Claim) -> None:
        if not self.sectors.claim(claim):
            await engine.loop.park(claim, self._give_up)
            engine.check()

    def _give_up(self, claim: Claim) -> bool:
        self.sectors.release(claim)
        return True

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        # All of it, as a file on a disk takes it: few look at what `io.FileIO.write` returns.
        if not data:
            return 0
        return await Rewrite(self, raw, data, None if raw.appends else raw.position, landed).done()

    async def pwrite(self, raw: Raw, data: Any, offset: int) -> int:
        """All of `data`, beside other calls. Cancelling is delivered when the kernel is done with it."""
        asked = define.write(raw.fd, offset, data)
        await self.ring._engine.loop.checkpoint()
        raw.check("write to closed file")
        if not asked.length:
            return 0
        where = None if raw.appends else asked.offset
        return await Rewrite(self, raw, asked.view or b"", where, untold, moves=False).done()

    async def truncate(self, raw: Raw, size: int) -> None:
        engine = self.ring._engine
        await engine.loop.checkpoint()
        claim = Claim(GROWS, size - size % self.sector, END, partial(_tell, engine.loop))
        try:
            await self._claimed(engine, claim)
            await super().truncate(raw, size)
        finally:
            self.sectors.release(claim)

    async def size(self, raw: Raw) -> int:
        """How long it is, when nobody makes it longer for a moment."""
        engine = self.ring._engine
        claim = Claim(READS, END - 1, END, partial(_tell, engine.loop))
        try:
            await self._claimed(engine, claim)
            status = at_once.stat_of_fd(raw.fd)
            return size_of(raw.fd, await self.ring.stat(raw.fd) if status is None else status)
        finally:
            self.sectors.release(claim)


def _tell(loop: loops.Loop, claim: Claim) -> None:
    if claim.waiter is not None:
        loop.wake(claim.waiter)


def _arrived(loop: loops.Loop, piece: _Piece, handle: Handle) -> None:
    piece.done, piece.over = handle.done, True
    if piece.waiter is not None:
        loop.wake(piece.waiter)
    handle.on_done = None  # they would hold each other. Last: struck by KeyboardInterrupt before, this is done again


def given_back(pool: Pool, memory: Memory, handle: Handle) -> None:
    """Nobody reads it any more. (What the ring's end has given up the kernel may still write to: that handle is kept for
    good, and its view with it, so that the pool gives the memory to nobody.)"""
    handle.on_done = None
    if not handle.shut:
        handle.view = None
    pool.give(memory)


def _shut(tables: WeakValueDictionary[tuple[int, int], Sectors]) -> None:
    for sectors in list(tables.values()):
        sectors.shut()
