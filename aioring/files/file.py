"""An open file, as people hold it: the order of its calls, the way round for what is unusual, and its end.

Every call goes in through `_enter` (or the few lines that stand for it in the hot calls of `binary.py`): it waits for its
turn, and takes a unit of the tick's budget, since a call that is served from a buffer never suspends.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from asyncio.events import _get_running_loop
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, AnyStr, Generic, TypeVar

from anyio import CancelScope, get_cancelled_exc_class
from anyio.lowlevel import checkpoint

from ..errors import RingClosedError
from ..loops import Loop
from ..ring import Ring
from ..ring.page_cache import SMALL
from .arguments import optional_size
from .chunks import CHUNK, Chunks
from .ending import look_after
from .in_place import IN_PLACE, drive
from .raw import Gone, Raw

__all__ = ["LONG", "File"]

T = TypeVar("T")
Self = TypeVar("Self", bound="File[Any]")

logger = logging.getLogger("aioring")
_LINES = 64  # how many are taken from a buffer between two looks at the clock
LONG = 0.002  # seconds, after which others run


class File(Generic[AnyStr]):
    """An open file, in anyio's dialect: what does I/O is awaited, what asks about the file is not.

    Made by `aioring.open`. Calls on one file run in the order in which they were made, whatever tasks make them;
    `pread` and `pwrite` run beside them, and leave the position alone. Use it from the loop that it was opened on.

    Cancelling a read loses nothing: the next one gives the bytes. Cancelling a write is delivered at once; what of it the
    kernel has begun goes on, and `tell` says, in its turn, how much of it was taken. No byte is written twice.
    """

    # One is made for each file: what is seldom set is a default of the class, which costs nothing to make.
    _owner: File[Any] | None = None  # of whom this is another view, and who closes the file
    _lines = 0  # how many may be taken from the buffer before the clock is looked at
    _yielded = 0.0
    _end = -1  # where what a text file has cut into lines ends; -1: nothing is

    def __init__(self, raw: Raw, ring: Ring, owner: File[Any] | None = None) -> None:
        self._raw = raw
        self._ring = ring
        self._order = raw.order
        self._owner = owner

    # --- who is next --------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Wait for one's turn, and take a unit of the budget. The caller leaves by `self._order.leave()`."""
        if self._end >= 0:
            self._fold()
        ring, order = self._ring, self._order
        if ring._started is None or ring._started.ended == "closed":
            self._raw.check("I/O operation on closed file.")
        engine = ring._engine
        await engine.loop.checkpoint()
        await order.join(engine.loop)
        try:
            if engine.budget.left > 0:
                engine.budget.left -= 1
            else:
                await engine.budget.turn()
            if engine.open:
                engine.check()
        except BaseException:
            order.leave()
            raise

    async def _call(self, method: Callable[..., Awaitable[T]], *args: Any) -> T:
        """One call of a layer, in its turn."""
        await self._enter()
        try:
            return await method(*args)
        finally:
            self._order.leave()

    def _fold(self) -> None:
        """What was cut into lines, and given to nobody, is to be read."""

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """As it was given to `open`: a path, or an fd."""
        return self._raw.name

    @property
    def mode(self) -> str:
        """As the built-in file has it: `rb+` for `r+b`."""
        return self._raw.mode.name

    @property
    def closed(self) -> bool:
        """Whether it has been closed, or detached."""
        return self._raw.fd < 0

    @property
    def closefd(self) -> bool:
        """Whether closing the file closes its fd."""
        return self._raw.closefd

    def fileno(self) -> int:
        """Its fd. The fd's own position is put where the file is, and kept there by later calls of `flush`, `seek` and
        `truncate`: who shares it (a child) goes on from there. Flush before you share it."""
        return self._raw.fileno(self._position)

    def isatty(self) -> bool:
        """Whether it is a terminal. Raises `ValueError` on a closed file."""
        self._raw.check(self._closed_message)
        return os.isatty(self._raw.fd)

    def readable(self) -> bool:
        """Whether it was opened for reading. Raises `ValueError` on a closed file."""
        self._raw.check(self._closed_message)
        return self._raw.mode.reading

    def writable(self) -> bool:
        """Whether it was opened for writing. Raises `ValueError` on a closed file."""
        self._raw.check(self._closed_message)
        return self._raw.mode.writing

    def seekable(self) -> bool:
        """Whether it has positions: a pipe has none. Raises `ValueError` on a closed file."""
        self._raw.check(self._closed_message)
        return self._raw.seekable

    _closed_message = "I/O operation on closed file"

    def _position(self) -> int:
        return self._raw.position

    # --- at an offset -------------------------------------------------------------------------------------------------

    async def pread(self, n: int, offset: int, /) -> bytes:
        """Read `n` bytes at `offset`, like pread(2): fewer only at end of file. Runs beside other calls, leaves the
        position alone, and sees what is on the file, not what waits in its buffer. Cancelling and errors as `Ring.read`.
        """
        self._raw.check("read of closed file")
        if not self._raw.mode.reading:
            raise io.UnsupportedOperation("not readable")
        if self._raw.direct is not None:
            return await self._raw.direct.pread(self._raw, n, offset)
        return await self._ring.read(self._raw.fd, offset, n)

    async def pwrite(self, data: Any, offset: int, /) -> int:
        """Write all of `data` at `offset`, like pwrite(2), beside other calls and past the buffer. Cancelling and errors as
        `Ring.write`. (On a file opened for appending the kernel puts it at the end.)"""
        self._raw.check("write to closed file")
        if not self._raw.mode.writing:
            raise io.UnsupportedOperation("not writable")
        if self._raw.direct is not None:
            return await self._raw.direct.pwrite(self._raw, data, offset)
        return await self._ring.write(self._raw.fd, offset, data)

    # --- what every file does; its class says more --------------------------------------------------------------------

    async def read(self, size: int | None = -1) -> AnyStr:
        """`size` bytes or characters, or all there is."""
        raise NotImplementedError

    async def write(self, data: Any, /) -> int:
        """Take bytes or text: how much."""
        raise NotImplementedError

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position: where that is."""
        raise NotImplementedError

    async def tell(self) -> int:
        """The position."""
        raise NotImplementedError

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file to `size` bytes, or where the position is: the size."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Write what is buffered. (It is not durable yet: `Ring.fsync`.)"""
        await self._call(self._flush)

    def iter_chunks(self, n: int = CHUNK, /) -> Chunks[AnyStr]:
        """What is left, in pieces of `n` bytes or characters, fewer in the last: an async iterator, with an `aread(n)` for
        those who look for one. It does not close the file."""
        if n < 1:
            raise ValueError(f"iter_chunks({n}): must be at least 1")
        return Chunks(self, n)

    # --- lines --------------------------------------------------------------------------------------------------------

    async def readline(self, size: int | None = -1) -> AnyStr:
        """One line, with its end, or what there is of it within `size`; empty at end of file."""
        return await self._call(self._readline, optional_size(size))

    async def readlines(self, hint: int | None = -1) -> list[AnyStr]:
        """Lines until their sizes are over `hint`, or all of them."""
        return await self._call(self._readlines, optional_size(hint))

    async def _readline(self, size: int) -> AnyStr:
        raise NotImplementedError

    async def _readlines(self, hint: int) -> list[AnyStr]:
        self._raw.check("I/O operation on closed file.")
        lines: list[AnyStr] = []
        length = 0
        try:
            while line := await self._readline(-1):
                lines.append(line)
                self._lines -= 1
                if self._lines <= 0:
                    await self._breathe()
                if hint > 0:
                    if len(line) > hint - length:
                        break
                    length += len(line)
            return lines
        except BaseException:
            self._unread(lines)
            raise

    async def _breathe(self) -> None:
        """So many lines have been taken from a buffer: let others run, if it took long."""
        self._lines = _LINES
        now = perf_counter()
        if now - self._yielded > LONG:
            if self._yielded:
                await checkpoint()
                now = perf_counter()
            self._yielded = now

    def _unread(self, lines: list[AnyStr]) -> None:
        """Lines that a cancelled call had read already."""
        raise NotImplementedError

    def __aiter__(self: Self) -> Self:
        self._raw.check("I/O operation on closed file.")
        return self

    async def __anext__(self) -> AnyStr:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of `lines`, adding nothing. In one turn: no other call comes between them."""
        await self._call(self._writelines, lines)

    async def _writelines(self, lines: Iterable[Any]) -> None:
        self._raw.check("I/O operation on closed file.")
        for line in lines:
            await self._write(line)

    async def _write(self, data: Any) -> int | None:
        raise NotImplementedError

    # --- the end ------------------------------------------------------------------------------------------------------

    def _dirty(self) -> bool:
        """Whether something that was accepted has not been written."""
        return False

    async def _flush(self) -> None:
        self._raw.check("I/O operation on closed file.")

    def _drop(self) -> None:
        """The file is closed: let go of buffers."""

    # Hot path: once per file.

    def _close_here(self) -> bool:
        """`close` of what was opened in place and has nothing to say, where it does not suspend."""
        raw, ring = self._raw, self._ring
        if (
            not raw.opened_here
            or self._order.busy
            or raw.told is not None
            or raw.fd < 0
            or _get_running_loop() is not ring._loop_here
        ):
            return False
        fd, raw.fd = raw.fd, -1
        # The end of a large file without a name takes long.
        if not ring._close_here(fd, raw.size < SMALL and perf_counter() < raw.fresh):
            raw.fd = fd
            return False
        if raw.known is not None:
            raw.known.close()
        self._drop()
        return True

    async def close(self) -> None:
        """Write what is buffered and close the file. Twice is harmless.

        Cancelling does not stop it: it is delivered when all is written and the file is closed. (A file with nothing to
        write is closed at once.)

        Raises:
            OSError: what was buffered cannot be written (ENOSPC, EIO ...), or as close(2). The file is closed all the
                same, and what could not be written is lost.
            RingClosedError, WrongLoopError: as every call.
        """
        raw = self._raw
        if raw.fd < 0:
            return
        ring, order = self._ring, self._order
        engine = ring._started
        if engine is None or engine.ended:
            self._close_in_place()
            return
        if order.busy and raw.streams and not raw.mode.writing:
            ring._end_waits(raw.fd)  # as `Ring.close` does: a read that waits for a peer would keep the file for ever
        if (
            not order.busy
            and engine.open
            and not self._dirty()
            and ring._budget.left > 0
            and _get_running_loop() is ring._loop_here
        ):
            order.busy = True
            try:
                if raw.told is not None:
                    await self._flush()  # nothing is written: the fd's own position is put where the file is
            finally:
                try:
                    await raw.close()
                finally:
                    self._drop()
                    order.leave()
            return
        if not engine.loop.running_here():
            engine.check()
        with CancelScope(shield=True):
            await self._close_shielded(engine.loop)

    aclose = close

    async def _close_shielded(self, loop: Loop) -> None:
        """Whoever is cancelled meanwhile still closes the file, and is told afterwards."""
        raw, order, struck = self._raw, self._order, None
        cancelled = get_cancelled_exc_class()
        try:
            await order.join(loop, shielded=True)
        except cancelled as error:
            struck = error
        try:
            raw.shielded = True
            while raw.fd >= 0:
                try:
                    await self._flush()
                    break
                except cancelled as error:
                    struck = error  # what it flushed has landed: the rest
                except RingClosedError:
                    self._close_in_place()
        finally:
            try:
                await raw.close()
            finally:
                self._drop()
                order.leave()
        if struck is not None:
            try:
                raise struck
            finally:
                del struck

    async def __aenter__(self: Self) -> Self:
        self._raw.check("I/O operation on closed file.")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- the file below -----------------------------------------------------------------------------------------------

    async def detach(self) -> File[Any]:
        """Flush, and give the file below: a `BinaryFile` of a text file, a `RawFile` of a buffered one, which is then to
        be closed in its place. Every later call on this one raises `ValueError`.

        Cancelling leaves it as it was. Raises `OSError` as `flush`, `io.UnsupportedOperation` where nothing is below.
        """
        order = self._order
        await self._enter()
        try:
            await self._flush()
            return self._part()
        finally:
            order.leave()

    def _part(self) -> File[Any]:
        """Let go of the file below."""
        raise io.UnsupportedOperation("detach")

    def _parted(self) -> bool:
        held: object = self._raw
        return isinstance(held, Gone)

    def _let_go(self, below: File[Any], message: str) -> None:
        gone: Any = Gone(message)
        below._owner = None
        if self._raw.mode.writing and self._raw.fd >= 0:
            look_after(below._ring, below)
        self._raw, self._order = gone, gone.order

    def _finish(self, why: str) -> None:
        """Write what was accepted, and close, here and now: nobody else will."""
        if self._parted() or self._raw.fd < 0:
            return
        engine, order, said = self._ring._started, self._order, f"unclosed file {self!r}: {why}"
        if order.flights and engine is not None and not engine.ended:
            order.then = lambda: self._finish(why)  # a cancelled write is still under way
            return
        direct = self._raw.direct
        if direct is not None and direct.sectors.written() and engine is not None and not engine.ended:
            # By another file: it would undo what we write. (Soon, not there and then: it may raise what warnings are made.)
            direct.sectors.when_not_written(partial(engine.loop.call_soon, partial(self._finish, why)))
            return
        loses = self._raw.closefd or self._dirty()
        try:
            self._close_in_place()
        finally:
            if loses and (engine is None or engine.ended != "forked"):
                warnings.warn(said, ResourceWarning, source=self, stacklevel=3)

    def _close_in_place(self) -> None:
        raw, engine = self._raw, self._ring._started
        raw.io = IN_PLACE if raw.direct is None else raw.direct.in_place
        if engine is not None and engine.ended == "forked":
            # What a forked child has is a copy: its parent writes it, and shares the fd's position with it.
            raw.told = None
            self._drop()
        elif raw.under_way:
            # The method may still be about to write: by the fd's number, which must not come to mean another file.
            logger.error("a write of %r did not end before its ring had to: it may not hold all it accepted", self)
            raw.closefd = False
        try:
            if self._dirty() and not raw.under_way:
                drive(self._flush())
        finally:
            try:
                drive(raw.close())
            finally:
                self._drop()

    def __del__(self) -> None:
        raw: Raw | None = getattr(self, "_raw", None)
        if raw is not None and not self._parted() and raw.fd >= 0 and self._owner is None:
            self._finish("nobody can close it any more")

    def __repr__(self) -> str:
        if self._parted():
            return f"<aioring.{type(self).__name__} [detached]>"
        if self._raw.fd < 0:
            return f"<aioring.{type(self).__name__} [closed]>"
        return f"<aioring.{type(self).__name__} name={self.name!r} mode={self.mode!r}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")
