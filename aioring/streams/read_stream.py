"""The read stream: PostgreSQL's `read_stream.c`, for an `async for`. What people hold; `look_ahead.py` does the work.

Cancelling: nothing leaves the line while something is awaited, so that a cancelled `anext()` loses no block.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from functools import partial
from operator import length_hint
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from .. import loops
from ..engine import Engine
from ..errors import AioringError
from ..files.ring_io import drop_fd, in_its_thread
from ..handle import Handle
from ..ring import Ring, get_ring
from .blocks import Block
from .look_ahead import Last, LookAhead
from .pieces import Piece
from .settings import Settings
from .stats import StreamStats
from .target import Target

__all__ = ["Batches", "ReadStream", "read_stream"]

T = TypeVar("T")


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
        self._error: BaseException | None = None  # of the source: raised behind all blocks
        self._stats = StreamStats(settings.distance().capacity)

    def __aiter__(self) -> Self:
        return self

    # Hot path: once per block; measured in benchmarks/streams.py. All blocks of a piece are made when it is reached.

    async def __anext__(self) -> Block[T]:
        for block in self._blocks:
            return block
        self._blocks = blocks = iter(await self._more())
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
        if self._ahead is None and not self._over:
            self._check_idle()
            self._busy = True
            try:
                await self._start()
            finally:
                self._busy = False
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
            self._ahead.paused = self._ahead.source.paused = True

    def resume(self) -> None:
        """Go on after `pause`: iterate again."""
        self._paused = False
        if self._ahead is not None:
            self._ahead.paused = self._ahead.source.paused = False

    async def reset(self, blocks: Any = None) -> None:
        """Discard all that has not been handed out, without reading it, and begin anew, as at the start, with other blocks
        of the same open file (at its end the stream has closed a path's: that is opened again).

        `blocks` as in `read_stream`. Waits for what is in flight; cancelled, it has been done all the same. Raises as
        `read_stream`, and then the stream is as it was.
        """
        self._check_idle()
        self._check_loop()
        self._settings = self._settings.with_blocks(blocks)
        self._over = self._closed = False
        self._error = None
        self.resume()
        self._busy = True
        try:
            await self._discard()
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """Discard what is pending without reading it, end what is in flight and wait for that, and close the file if the
        stream has opened it. Blocks that were handed out stay true; another task that waits for one is at the end.
        Cancelled, it goes on in the background.
        """
        self._check_loop()
        self._over = self._closed = True
        self._error = None
        try:
            await self._discard()
        finally:
            await self._target.close()

    # --- handing out --------------------------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        if self._busy:
            raise AioringError("this read stream is iterated by another task at this moment: give each task its own")

    def _check_loop(self) -> None:
        ahead = self._ahead
        if ahead is not None and ahead.engine.open:
            ahead.engine.check()

    # Hot path: once per piece; measured in benchmarks/streams.py.

    async def _more(self) -> list[Block[T]]:
        """The blocks of the next piece, one at least."""
        found = self._at_hand()
        return found or await self._next(found is not None)

    def _at_hand(self) -> list[Block[T]] | None:
        """What `_next` comes to where nothing is under way and the page cache has what is next. Empty: it has been asked,
        and has not; None: it has not been asked."""
        ahead = self._ahead
        if self._busy or self._over or ahead is None or ahead.line or not ahead.here():
            return None
        self._settle()
        piece = ahead.straight()
        return [] if piece is None else self._handed(piece, piece.units, ahead)

    async def _next(self, asked: bool) -> list[Block[T]]:
        """The same where it may take waiting; `asked`: the page cache has been. Nothing leaves the line while something is
        awaited."""
        self._check_idle()
        if self._over:
            self._raise_the_end()
        self._busy = True
        try:
            self._settle()
            ahead = self._ahead or await self._start()
            engine = ahead.engine
            engine.check()
            await engine.loop.checkpoint()
            while not ahead.line:
                if ahead.over:
                    raise StopAsyncIteration  # closed meanwhile, by another task
                engine.check()
                if ahead.asks and engine.budget.left <= 0:
                    await engine.budget.turn()
                    asked = False
                    continue
                piece = None if asked else ahead.straight()
                asked = False
                if piece is not None:
                    return self._handed(piece, piece.units, ahead)
                ahead.go()
                if ahead.line:
                    break
                source = ahead.source
                if ahead.spent:
                    await engine.budget.turn()
                elif source.ended:
                    self._over, self._error, source.failed = True, source.failed, None
                    await self._end()
                elif self._paused:
                    raise StopAsyncIteration
                else:
                    await source.wait()
            waited = await ahead.ready()
            if not waited and engine.budget.left <= 0:
                await engine.budget.turn()  # it has suspended nowhere, and somebody else may want the loop
            if ahead.over:
                raise StopAsyncIteration
            return self._hand_out(ahead, waited)
        finally:
            self._busy = False

    def _hand_out(self, ahead: LookAhead, waited: bool) -> list[Block[T]]:
        error = ahead.error_of(ahead.line[0])
        before = ahead.pinned
        piece = ahead.take(waited)
        if error is None:
            blocks = self._handed(piece, before, ahead)
        else:
            self._piece, self._before, self._counted = piece, before, 0
            blocks = [] if self._settings.raises else [piece.bad(error)]
        self._blocks = iter(blocks)  # before anything is asked of the source: whatever it raises, they are had
        ahead.further()
        if blocks:
            return blocks
        assert error is not None
        try:
            raise error
        finally:
            del error  # it holds this frame

    def _handed(self, piece: Piece, before: int, ahead: LookAhead) -> list[Block[T]]:
        blocks = piece.blocks(ahead.keeps_too_much())
        self._piece, self._before, self._counted = piece, before, 0
        return blocks

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
        if target.fd < 0:
            await target.open(ring, settings.direct)
            if self._closed:
                await target.close()
                raise StopAsyncIteration
        source = settings.source(target.size, engine.loop)
        self._ahead = ahead = LookAhead(engine, ring._memory_pool(), ring._cache, target, source, settings, self._stats)
        ahead.paused = source.paused = self._paused
        return ahead

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """No more blocks come."""
        await self._discard()
        await self._target.close()
        self._raise_the_end()

    def _raise_the_end(self) -> None:
        """What the source has raised, once; else the end."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            raise StopAsyncIteration
        finally:
            del error

    async def _discard(self) -> None:
        self.stats  # noqa: B018 - counts what was handed out of the last piece
        ahead, self._ahead = self._ahead, None
        piece, self._piece, self._blocks = self._piece, None, iter(())
        if ahead is None:
            return
        if piece is not None:
            ahead.give_back(piece)
        engine = ahead.engine
        if engine.open:
            last = Last(engine.loop, ahead.discard())
            await engine.loop.park(last, loops.at_once)
            await ahead.source.closed()
        else:
            ahead.over = True
            ahead.source.close()

    def __del__(self) -> None:
        ahead, target = self.__dict__.get("_ahead"), self.__dict__.get("_target")
        fd = -1 if target is None else target.let_go()
        if ahead is None:
            if fd >= 0:
                os.close(fd)
            return
        in_its_thread(ahead.engine, partial(_abandon, ahead, self._piece, fd))


def _abandon(ahead: LookAhead, piece: Piece | None, fd: int) -> None:
    """Nobody holds the stream any more: end what it has under way; its file is closed behind that."""
    engine = ahead.engine
    in_flight: list[Handle] = []
    if piece is not None:
        ahead.give_back(piece)
    try:
        if engine.open and not engine.ended:
            in_flight = ahead.discard()
    finally:
        if fd >= 0:
            if in_flight:
                drop_fd(engine, fd)
            else:
                os.close(fd)


class Batches(Generic[T]):
    """What `ReadStream.batches` gives."""

    def __init__(self, stream: ReadStream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Block[T]]:
        stream = self._stream
        blocks = list(stream._blocks) or await stream._more()
        stream._blocks = iter(())
        return blocks


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
