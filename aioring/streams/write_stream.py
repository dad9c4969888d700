"""The write stream: write-behind. What is written is gathered into large I/Os, several of which are in flight while the
next is gathered; whoever writes faster than the disk takes waits.

    write -> gathered (combine_limit) -> WRITE, WRITE, ... (max_ios) -> SYNC_RANGE of each 16 MiB -> flush, close: fsync

* What is held is bounded: `max_ios` I/Os of `combine_limit` bytes, and what is being gathered.
* An error is the stream's from then on: the next call raises it, and so does `aclose`. What is in flight is waited for.
* What is under way, and how it is paced, is in write_behind.py.
* Past the page cache whole sectors are written. What is not one, at the start, at the end and where `flush` is asked, is
  written by `DirectIo` (files/rewrite.py), and stays in the buffer, so that the next I/O begins with a sector again.
  Whoever writes the same file by something else meanwhile may have his part of such a sector undone.

Kernel memory: what is gathered lies in memory of the ring's pool; its handle has a view of it, and stands in the engine's
`live` until its completion, whatever becomes of the stream (invariant 1). It goes back to the pool then. `bytes` of the
caller's, which nobody can change, are written from where they are, and held by the handle's view in the same way.
"""

from __future__ import annotations

import errno
import warnings
from contextlib import suppress
from functools import partial
from operator import index
from types import TracebackType
from typing import Any, Literal, Self

from .. import loops
from ..buffers import Memory, lent_bytes
from ..engine import Engine
from ..errors import RingClosedError, os_error
from ..files import direct as past
from ..files.order import Order
from ..files.put import named
from ..handle import Handle
from ..loops.outcome import Outcome, begun
from ..operations import WRITE
from ..ring import Ring, get_ring
from .write_behind import Piece, WriteBehind
from .written import Written

__all__ = ["WriteStream", "write_stream"]

_UNIT = 64 << 10  # bytes that are gathered for one unit of the tick's budget


class WriteStream(WriteBehind):
    """What `write_stream` gives: an async context manager with `write`, `flush`, `tell` and `aclose`."""

    def __init__(
        self, file: Any, direct: bool | str, combine_limit: int, max_ios: int, durable: bool, ring: Ring | None
    ) -> None:
        self._direct = past.check(direct)
        for value, name in ((combine_limit, "combine_limit"), (max_ios, "max_ios")):
            if index(value) < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        super().__init__(Written(file), bool(durable))
        self._combine, self._max_ios = index(combine_limit), index(max_ios)
        self._target = file
        self._given_ring = ring
        self._state = "new"
        self._order = Order()
        self._closing: Outcome[bool] | None = None
        self._budget: Any = None
        # What is gathered: `_fill` bytes of the buffer, which begins at `_base`, of which the file has `_old` already.
        self._memory: Memory | None = None
        self._view: Any = None
        self._base = self._fill = self._old = 0

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """The path, or what was given."""
        return self._target

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._state == "closed"

    def tell(self) -> int:
        """The offset in the file behind all that was taken, in bytes."""
        return self._base + self._fill

    def __repr__(self) -> str:
        return f"<aioring.WriteStream {self._target!r}, {self._state}, at {self.tell()}>"

    # --- writing ------------------------------------------------------------------------------------------------------

    # Hot path: once per call; measured in benchmarks/streams.py.

    async def write(self, data: Any) -> int:
        """Take all of `data`, any contiguous buffer, and return its size in bytes. It is written behind the caller's back;
        the caller has its memory again when this returns.

        Waits while `max_ios` I/Os are in flight. Several tasks may write: each call's data stays together, in the order of
        the calls. Cancelled, a part of `data` from its beginning may have been taken; `tell` says how much.

        Raises:
            OSError: what was written before could not be: EIO, ENOSPC, EDQUOT ..., with the file name, as every call from
                then on. At the first call, as open(2).
            TypeError, BufferError: `data` is no buffer, or not contiguous.
            ValueError: the stream is closed.
            RingClosedError, WrongLoopError: as every operation of a ring.
        """
        view = lent_bytes(data)
        try:
            n = view.nbytes
            fill, room, budget = self._fill, self._view, self._budget
            if (
                room is not None
                and n < len(room) - fill
                and budget.left
                > 0  # it suspends nowhere: the tick's share is spent some time, and a closed ring has none
                and self._error is None
                and self._state == "open"
                and not self._order.busy
            ):
                budget.left -= 1
                room[fill : fill + n] = view
                self._fill = fill + n
                return n
            engine = await self._enter()
            try:
                await engine.loop.checkpoint()
                self._check()
                await self._put(engine, view, type(data) is bytes and not self._sector)
            finally:
                self._order.leave()
            return n
        finally:
            del view, data  # an exception holds this frame: it must not hold the caller's memory

    async def _put(self, engine: Engine, view: memoryview, lasting: bool) -> None:
        """`lasting`: nobody can change it."""
        at, n, budget = 0, view.nbytes, engine.budget
        try:
            while at < n:
                into = self._view
                if into is None:
                    await self._wait(engine, self._max_ios - 1)
                    await budget.turn()
                    budget.left -= self._combine // _UNIT
                    if lasting and n - at >= self._combine:
                        self._ask_write(engine, view[at : at + self._combine], None)
                        at += self._combine
                        continue
                    into = self._begin()
                fill = self._fill
                more = min(len(into) - fill, n - at)
                into[fill : fill + more] = view[at : at + more]
                self._fill = fill + more
                at += more
                if self._fill == len(into):
                    if self._base % (self._sector or 1):
                        await self._write_odd()
                        self._let_go_of_buffer()
                    else:
                        self._ask_buffer(engine)
            if budget.left <= 0:
                await budget.turn()
        finally:
            del view

    def _begin(self) -> Any:
        """Gather anew, where the last I/O ended: past the page cache to the end of that sector first."""
        assert self._ring is not None
        sector = self._sector or 1
        memory = self._ring._memory_pool().take(self._combine)
        view = memory.view(sector - self._base % sector if self._base % sector else self._combine)
        self._old = self._fill = 0
        self._memory, self._view = memory, view
        return view

    def _ask_buffer(self, engine: Engine) -> None:
        """Write what is gathered."""
        if self._memory is not None and self._fill > self._old:
            self._ask_write(engine, self._view[: self._fill], self._memory)

    def _ask_write(self, engine: Engine, view: memoryview, memory: Memory | None) -> None:
        engine.check()
        n = view.nbytes
        handle = Handle(WRITE, self._fd, self._base, n)
        handle.view = view
        piece = Piece(handle, self._base + n, memory)
        handle.on_done = partial(self._landed, piece)
        in_flight, line = self._in_flight, self._line
        # Stores: struck by KeyboardInterrupt before them, it is still gathered, and behind them, it fails.
        self._base, self._fill, self._old = self._base + n, 0, 0
        if memory is not None:
            self._memory = self._view = None
        try:
            in_flight.add(piece)
            line.append(piece)
            engine.ask(handle)
            engine.flush()  # it need not wait until its writer waits
        except BaseException:
            engine.forsake(handle)
            raise

    def _let_go_of_buffer(self) -> None:
        """It has been written otherwise, up to `_fill`."""
        memory, ring = self._memory, self._ring
        self._base, self._fill, self._old = self._base + self._fill, 0, 0
        self._memory = self._view = None
        if memory is not None and ring is not None:
            ring._memory_pool().give(memory)

    async def flush(self) -> None:
        """Wait until all that was taken has been written, to the page cache or, with `direct`, to the disk. Of a durable
        stream it is on the disk then (fsync(2)), and the name of a file that was given as a path, too.

        Cancelling is delivered at once, and what is in flight goes on. Errors as `write`.
        """
        engine = await self._enter()
        try:
            await engine.loop.checkpoint()
            await self._flush(engine)
            if self._durable:
                await self._sync()
        finally:
            self._order.leave()

    async def _flush(self, engine: Engine) -> None:
        self._check()
        if self._sector:
            await self._flush_sectors(engine)
        else:
            self._ask_buffer(engine)
        await self._wait(engine, 0)

    async def _skip_to(self, offset: int) -> None:
        """Go on there, further behind: what is between is a hole. (Of a file that had nothing there.)"""
        if offset == self.tell() and self._state == "open":
            return
        engine = await self._enter()
        try:
            if offset != self.tell():
                await self._flush(engine)
                self._let_go_of_buffer()
                self._base = offset
        finally:
            self._order.leave()

    async def _flush_sectors(self, engine: Engine) -> None:
        """Whole sectors as ever; then what is behind the last of them, by who can, which stays here as well: the next I/O
        is to begin with a sector again."""
        fill = self._fill
        rest = 0 if self._base % self._sector else fill % self._sector
        if fill == self._old or self._memory is None:
            return
        if rest and rest < fill:
            memory = self._memory
            assert self._ring is not None
            next_ = self._ring._memory_pool().take(self._combine)
            view = next_.view(self._combine)
            view[:rest] = self._view[fill - rest : fill]
            whole = self._view[: fill - rest]
            self._fill = fill - rest
            try:
                self._ask_write(engine, whole, memory)
            finally:
                self._memory, self._view, self._fill = next_, view, rest
        elif not rest and not self._base % self._sector:
            self._ask_buffer(engine)
            return
        await self._wait(engine, 0)  # nothing else is to make the file longer meanwhile
        await self._write_odd()

    async def _write_odd(self) -> None:
        """What is gathered and is no whole sector: read, changed and written by `DirectIo`, who keeps others away."""
        raw, old, fill = self._file.raw, self._old, self._fill
        assert raw is not None
        assert raw.direct is not None
        try:
            await raw.direct.pwrite(raw, bytes(self._view[old:fill]), self._base + old)
        except OSError as error:
            self._error = self._error or named(error, self._file.path).with_traceback(None)
            self._check()
        self._old = fill

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._enter()
        self._order.leave()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
            return
        # What was taken is written, as far as that goes: the error that is under way says more than one of the closing.
        self._durable = False
        with suppress(OSError, RingClosedError):
            await self.aclose()

    async def aclose(self) -> None:
        """Write all that was taken, make it durable if it is to be, and close the file, if the stream has opened it. Twice
        is harmless. A cancel is delivered at the end.

        Raises:
            OSError: as `write` and fsync(2): not all of it is in the file. It is closed all the same.
        """
        await self._end(abort=False)

    async def abort(self) -> None:
        """Close the file without writing what has not been: what is in flight is cancelled and waited for. The file has
        some part of what was written."""
        await self._end(abort=True)

    async def _end(self, abort: bool) -> None:
        ring, closing = self._ring, self._closing
        if closing is None:
            if self._state == "new" or ring is None or self._file.fd < 0:
                self._state = "closed"  # whoever is opening it sees that
                return
            if ring.closed:
                self._state = "closed"
                self._file.drop()
                if not abort and (self._fill > self._old or self._error is not None or self._durable):
                    raise RingClosedError("the ring was closed before this was done: writing a stream to its end")
                return
            closing = begun(ring._engine.loop, partial(self._close, ring._engine, abort), "close of a write stream")
            self._closing, self._state = closing, "closed"
        elif closing.over:
            return
        if abort and ring is not None and not ring.closed:
            self._error = self._error or os_error(errno.ECANCELED, self._file.path)
            for piece in list(self._in_flight):
                ring._engine.cancel(piece.handle)
            with suppress(OSError):
                await closing.result()
        else:
            await closing.result()

    async def _close(self, engine: Engine, abort: bool) -> bool:
        try:
            await self._order.join(engine.loop)
            try:
                if not abort:
                    await self._flush(engine)
                    if self._durable:
                        await self._sync()
            finally:
                self._order.leave()
        finally:
            self._view = None
            memory, self._memory = self._memory, None
            if memory is not None and self._ring is not None:
                self._ring._memory_pool().give(memory)
            self._most = 0
            if not self.finished():
                await engine.loop.park(self, loops.at_once)
            await self._file.close(self.tell(), whole=self._error is None)
        return True

    async def _enter(self) -> Engine:
        """Wait for one's turn, which is the caller's until `self._order.leave()`, and open the file if nobody has."""
        if self._state == "closed":
            raise ValueError("I/O operation on closed write stream")
        ring = self._ring
        if ring is None:
            ring = self._ring = get_ring() if self._given_ring is None else self._given_ring
        engine = ring._engine
        await self._order.join(engine.loop)
        try:
            if self._state == "new":
                await self._open(ring)
            elif self._state == "closed":
                raise ValueError("I/O operation on closed write stream")
        except BaseException:
            self._order.leave()
            raise
        return engine

    async def _open(self, ring: Ring) -> None:
        file = self._file
        start = await file.open(ring, self._direct, self._durable)
        self._fd, self._sector = file.fd, file.sector
        if self._sector:
            self._combine = -(-self._combine // self._sector) * self._sector
        self._base = self._written = self._paced = start
        self._budget = ring._engine.budget
        if self._state == "closed":
            file.drop()
            raise ValueError("I/O operation on closed write stream")
        self._state = "open"

    def __del__(self) -> None:
        if getattr(self, "_state", "") == "open":
            self._state = "closed"
            self._file.drop()
            lost = self._fill - self._old
            words = f", and {lost} bytes that were not written are lost" if lost else ""
            warnings.warn(f"unclosed write stream {self._target!r}{words}", ResourceWarning, source=self, stacklevel=2)


def write_stream(
    file: Any,
    *,
    direct: bool | Literal["try"] = False,
    combine_limit: int = 1 << 20,
    max_ios: int = 8,
    durable: bool = False,
    ring: Ring | None = None,
) -> WriteStream:
    """Write a file from its start to its end, write-behind: `async with write_stream(path) as out: await out.write(data)`.

    What is written is gathered into I/Os of `combine_limit` bytes, of which up to `max_ios` are in flight; `write` waits
    when there are more, so that the stream holds `(max_ios + 1) * combine_limit` bytes at most.

    `file`: a path, which is made, or cut to nothing, and closed by the stream; an fd, anything with `fileno()`, or an open
    file of aioring's, which are written from their position on, and stay open, their position behind what was written.

    `direct`: past the page cache (O_DIRECT), whatever the sizes; "try": where the file system takes it. (An fd is opened
    once more for it.)

    `durable`: `flush` and closing return when all of it is on the disk (fsync(2), and of a path's folder). While it is
    written the kernel is kept busy writing it out, so that the last fsync is short.

    `ring`: by default the running loop's own (`get_ring`), when the stream is first used.

    Leaving the block with an error writes what was taken, too, as the built-in `open` does, but makes nothing durable.

    Raises, at first use:
        OSError: as open(2), with the file name; EINVAL: O_DIRECT is refused, or the fd has O_APPEND; ESPIPE: it cannot
            seek.
        ValueError, TypeError: here, where an argument makes no sense.
    """
    return WriteStream(file, direct, combine_limit, max_ios, durable, ring)
