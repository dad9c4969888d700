"""The read stream: PostgreSQL's `read_stream.c`, for an `async for`. What people hold; `look_ahead.py` does the work.

Cancelling: nothing leaves the line while something is awaited, so that a cancelled `anext()` loses no block.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from operator import length_hint
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from ..buffers import Pool
from ..engine import Engine
from ..errors import AioringError
from ..handle import Handle
from ..operations import CLOSE
from ..ring import Ring, get_ring
from .blocks import Block, Source
from .look_ahead import LookAhead
from .pieces import Piece
from .settings import Settings
from .stats import StreamStats
from .target import Target

__all__ = ["Batches", "ReadStream", "read_stream"]

T = TypeVar("T")

_KEPT = 16 << 20  # bytes of memory that a ring keeps for its next streams


class ReadStream(Generic[T]):
    """What `read_stream` gives: an async iterator over `Block`s, and an async context manager.

    One task at a time may iterate. `stats` says what it has done; `str(stream.stats)` is PostgreSQL's line of EXPLAIN.
    """

    def __init__(self, file: Any, settings: Settings, ring: Ring | None) -> None:
        self._settings = settings
        self._given_ring = ring
        self._target = Target(file)
        self._ahead: LookAhead | None = None
        self._blocks: Iterator[Block[T]] = iter(())  # of the piece that is being handed out
        self._piece: Piece | None = None
        self._counted = 0  # how many of its blocks `_stats` knows
        self._before = 0  # what was pinned before it
        self._busy = self._over = self._paused = self._closed = False
        self._stats = StreamStats(settings.distance().capacity)

    def __aiter__(self) -> Self:
        return self

    # Hot path: once per block; measured in benchmarks/streams.py. All blocks of a piece are made when it is reached.

    async def __anext__(self) -> Block[T]:
        for block in self._blocks:
            return block
        self._blocks = blocks = iter(await self._next())
        return next(blocks)

    def batches(self) -> Batches[T]:
        """The blocks as lists of those that are ready, one at least: for who would rather loop than await each."""
        return Batches(self)

    @property
    def stats(self) -> StreamStats:
        """What the stream has done so far."""
        piece = self._piece
        if piece is not None:
            n = len(piece.items) - length_hint(self._blocks) - self._counted
            if n:
                self._stats.handed_out(n, self._before - self._counted)
                self._counted += n
        return self._stats

    async def __aenter__(self) -> Self:
        if self._ahead is None:
            await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def pause(self) -> None:
        """Ask for no more blocks: what is under way is handed out, then iterating ends, until `resume`. (For a source that
        depends on what has been read: PostgreSQL's `read_stream_pause`.)"""
        self._paused = True
        if self._ahead is not None:
            self._ahead.paused = True

    def resume(self) -> None:
        """Go on after `pause`: iterate again."""
        self._paused = False
        if self._ahead is not None:
            self._ahead.paused = False

    async def reset(self, blocks: Any = None) -> None:
        """Discard all that has not been handed out, without reading it, and begin anew, with other blocks, as at the start.

        `blocks` as in `read_stream`. Waits for what is in flight. Raises as `read_stream`.
        """
        self._check_idle()
        self._busy = True
        try:
            await self._discard()
            old = self._settings
            self._settings = Settings(
                blocks,
                old.key,
                old.size,
                old.max_ios,
                old.combine * old.size,
                old.max_bytes,
                old.direct,
                old.full,
                old.raises,
            )
            self._over = self._closed = False
            self.resume()
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """Discard what is pending without reading it, end what is in flight and wait for that, and close the file if the
        stream has opened it. Blocks that were handed out stay true. Cancelled, it goes on in the background.
        """
        self._over = self._closed = True
        await self._discard()

    # --- handing out --------------------------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        if self._busy:
            raise AioringError("this read stream is iterated by another task at this moment: give each task its own")

    async def _next(self) -> list[Block[T]]:
        """The blocks of the next piece, one at least."""
        self._check_idle()
        if self._over:
            raise StopAsyncIteration
        self._busy = True
        try:
            self._settle()
            ahead = self._ahead or await self._start()
            engine = ahead.engine
            engine.check()
            await engine.loop.checkpoint()
            while not ahead.line:
                piece = ahead.straight()
                if piece is not None:
                    self._piece, self._before, self._counted = piece, piece.units, 0
                    return piece.blocks(ahead.keeps_too_much())
                ahead.go()
                if ahead.line:
                    break
                source = ahead.source
                if ahead.spent:
                    await engine.budget.turn()
                    engine.check()
                elif source.ended:
                    await self._end(source)
                elif self._paused:
                    raise StopAsyncIteration
                else:
                    await source.wait()
            return self._hand_out(ahead, await ahead.ready())
        finally:
            self._busy = False

    def _hand_out(self, ahead: LookAhead, waited: bool) -> list[Block[T]]:
        error = ahead.error_of(ahead.line[0])
        before = ahead.pinned
        piece = ahead.take(waited)
        self._piece, self._before, self._counted = piece, before, 0
        self._blocks = iter(())
        ahead.further()
        if error is None:
            return piece.blocks(ahead.keeps_too_much())
        if not self._settings.raises:
            return [piece.bad(error)]
        try:
            raise error
        finally:
            del error  # it holds this frame

    def _settle(self) -> None:
        """All of the piece has been handed out."""
        piece, ahead = self._piece, self._ahead
        if piece is None or ahead is None:
            return
        self._blocks = iter(())
        self._stats.handed_out(len(piece.items) - self._counted, self._before - self._counted)
        self._piece = None
        ahead.settle(piece)

    async def _start(self) -> LookAhead:
        if self._closed:
            raise AioringError("this read stream is closed")
        ring: Any = get_ring() if self._given_ring is None else self._given_ring
        engine: Engine = ring._engine
        settings, target = self._settings, self._target
        await target.open(ring, settings.direct)
        pool = ring._stream_memory
        if pool is None:
            pool = ring._stream_memory = Pool(_KEPT)
        source = settings.source(target.size, engine.loop)
        self._ahead = ahead = LookAhead(engine, pool, ring._cache, target, source, settings, self._stats)
        ahead.paused = self._paused
        return ahead

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _end(self, source: Source) -> None:
        """No more blocks: of an error of the source, say so."""
        self._over = True
        error, source.failed = source.failed, None
        await self._discard()
        try:
            raise error or StopAsyncIteration
        finally:
            del error

    async def _discard(self) -> None:
        ahead, self._ahead = self._ahead, None
        self._blocks, self._piece = iter(()), None
        if ahead is None:
            return
        ahead.source.close()
        engine = ahead.engine
        try:
            if engine.open:
                for piece in ahead.discard():
                    await engine.loop.park(piece, _at_once)
        finally:
            await self._target.close()

    def __del__(self) -> None:
        ahead = self.__dict__.get("_ahead")
        if ahead is None:
            return
        ahead.source.close()
        engine, fd = ahead.engine, self._target.let_go()
        if not engine.ended and engine.loop.running_here():
            under_way = ahead.discard() if engine.open else []
            if under_way and fd >= 0:
                close = Handle(CLOSE, fd)  # behind what is in flight
                close.orphan = True
                engine.ask(close)
                return
        if fd >= 0:
            os.close(fd)


def _at_once(_: Any) -> bool:
    return True


class Batches(Generic[T]):
    """What `ReadStream.batches` gives."""

    def __init__(self, stream: ReadStream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Block[T]]:
        stream = self._stream
        return list(stream._blocks) or await stream._next()


@overload
def read_stream(
    file: Any,
    blocks: range | None = None,
    *,
    key: None = None,
    block_size: int = 8192,
    max_ios: int = 16,
    combine_limit: int = 128 << 10,
    max_bytes: int | None = None,
    direct: bool | Literal["try"] = False,
    full: bool = False,
    errors: Literal["raise", "yield"] = "raise",
    ring: Ring | None = None,
) -> ReadStream[int]: ...
@overload
def read_stream(
    file: Any,
    blocks: Iterable[T] | AsyncIterable[T],
    *,
    key: Callable[[T], int | tuple[int, int]] | None = None,
    block_size: int = 8192,
    max_ios: int = 16,
    combine_limit: int = 128 << 10,
    max_bytes: int | None = None,
    direct: bool | Literal["try"] = False,
    full: bool = False,
    errors: Literal["raise", "yield"] = "raise",
    ring: Ring | None = None,
) -> ReadStream[T]: ...
def read_stream(
    file: Any,
    blocks: Any = None,
    *,
    key: Any = None,
    block_size: int = 8192,
    max_ios: int = 16,
    combine_limit: int = 128 << 10,
    max_bytes: int | None = None,
    direct: bool | Literal["try"] = False,
    full: bool = False,
    errors: Literal["raise", "yield"] = "raise",
    ring: Ring | None = None,
) -> ReadStream[Any]:
    """Read blocks in the order in which `blocks` names them, with look-ahead: `async for block in read_stream(file)`.

    The stream asks `blocks` for what will be wanted, makes one I/O of neighbours, and has as many of them in flight as the
    consumer needs in order not to wait, and no more: PostgreSQL 19's read stream (`read_stream.c`). What the page cache has
    is taken from there, without any I/O.

    `file`: a path, which the stream opens and closes; an fd, anything with `fileno()`, or an open file of aioring's, which
    stay open as long as somebody iterates. What an open file has not flushed is not seen. `blocks`: any iterable or async
    iterable of block numbers, or of pairs of offset and length in bytes; None: the whole file, as large as it is at the
    start. `key` maps any other element to one of these; `block.item` is the element.

    `block_size`: bytes of a numbered block. `max_ios`: I/Os in flight at most; 0: one at a time, only when it is wanted.
    `combine_limit`: bytes of one I/O at most, but for a larger block. `max_bytes`: of all memory under way (default: what
    `max_ios` and `combine_limit` come to), and of memory that the consumer keeps: beyond, blocks come as copies (default: 4
    times as much). `direct`: past the page cache (O_DIRECT): the device is the limit, and what is read leaves the cache of
    others alone. Offsets, block sizes and the file's end need no alignment: whole sectors are read, and cut. "try" goes
    through the page cache where the file system refuses. An fd without O_DIRECT is opened once more for it. `full`: begin
    with one I/O of `combine_limit` instead of one block.

    `errors`: "raise" raises what went wrong with a block at its place, and the next `anext()` goes on behind it; "yield"
    gives a block with `error` set and no data.

    `async with` closes it: who leaves the loop early uses that. One task at a time may iterate. Cancelling loses no block.

    Raises:
        ValueError, TypeError: an argument makes no sense (at once); an element is no block (at its place).
        BlockBeyondEndError: the file has no byte of a block.
        OSError: as open(2) and pread(2), with the file name; ESPIPE for what cannot seek.
        AioringError: two tasks iterate at once.
        RingClosedError, WrongLoopError: as `Ring.read`.
        Exception: whatever `blocks` or `key` raises, behind all blocks that were asked for before; it ends the stream.
    """
    if errors not in ("raise", "yield"):
        raise ValueError(f"errors {errors!r}: must be 'raise' or 'yield'")
    settings = Settings(blocks, key, block_size, max_ios, combine_limit, max_bytes, direct, full, errors == "raise")
    return ReadStream(file, settings, ring)
