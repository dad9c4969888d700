"""An open file, as people hold it: the order of its calls, the way round for what is unusual, and its end.

A binary file keeps no more than its raw file until something unusual is asked of it: reading all of it, which is what most
are opened for, needs no buffer. `BinaryFile` makes its buffered layer on the first call that does; `RawFile`
(`buffering=0`) has none.

Every call goes in through `_enter` (or the two lines that stand for it in the hot calls): it waits for its turn, and takes
a unit of the tick's budget, since a call that is served from a buffer never suspends.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from asyncio.events import _get_running_loop
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, AnyStr, Generic, TypeVar

from anyio import CancelScope, get_cancelled_exc_class

from ..ring import Ring
from .buffered import Buffered, as_view, optional_size
from .in_place import IN_PLACE, drive
from .raw import Raw

__all__ = ["BinaryFile", "File", "RawFile"]

T = TypeVar("T")
Self = TypeVar("Self", bound="File[Any]")

logger = logging.getLogger("aioring")
READ_AHEAD = 1 << 16  # bytes: of a file that is only read, where nothing was said of buffering


class File(Generic[AnyStr]):
    """An open file, in anyio's dialect: what does I/O is awaited, what asks about the file is not.

    Made by `aioring.open`. Calls on one file run in the order in which they were made, whatever tasks make them;
    `pread` and `pwrite` run beside them, and leave the position alone. Use it from the loop that it was opened on.

    Cancelling a read loses nothing: the next one gives the bytes. Cancelling a write is delivered at once; what of it the
    kernel has begun goes on, and `tell` says, in its turn, how much of it was taken. No byte is written twice.
    """

    __slots__ = ("__weakref__", "_order", "_owner", "_raw", "_ring")

    def __init__(self, raw: Raw, ring: Ring, owner: File[Any] | None = None) -> None:
        self._raw = raw
        self._ring = ring
        self._order = raw.order
        self._owner = owner  # of whom this is another view, and who closes the file

    # --- who is next --------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Wait for one's turn, and take a unit of the budget. The caller leaves by `self._order.leave()`."""
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

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """As it was given to `open`: a path, or an fd."""
        return self._raw.name

    @property
    def mode(self) -> str:
        return self._raw.mode.name

    @property
    def closed(self) -> bool:
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
        self._raw.check(self._closed_message)
        return os.isatty(self._raw.fd)

    def readable(self) -> bool:
        self._raw.check(self._closed_message)
        return self._raw.mode.reading

    def writable(self) -> bool:
        self._raw.check(self._closed_message)
        return self._raw.mode.writing

    def seekable(self) -> bool:
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
        return await self._ring.read(self._raw.fd, offset, n)

    async def pwrite(self, data: Any, offset: int, /) -> int:
        """Write all of `data` at `offset`, like pwrite(2), beside other calls and past the buffer. Cancelling and errors as
        `Ring.write`. (On a file opened for appending the kernel puts it at the end.)"""
        self._raw.check("write to closed file")
        if not self._raw.mode.writing:
            raise io.UnsupportedOperation("not writable")
        return await self._ring.write(self._raw.fd, offset, data)

    # --- lines --------------------------------------------------------------------------------------------------------

    async def readline(self, size: int | None = -1, /) -> AnyStr:
        """One line, with its end, or what there is of it within `size`; empty at end of file."""
        return await self._call(self._readline, optional_size(size))

    async def readlines(self, hint: int | None = -1, /) -> list[AnyStr]:
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
                if hint > 0:
                    if len(line) > hint - length:
                        break
                    length += len(line)
            return lines
        except BaseException:
            self._unread(lines)
            raise

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

    async def writelines(self, lines: Iterable[Any], /) -> None:
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
        if ring._started is None or not ring._started.open:
            self._close_in_place()
            return
        if not order.busy and not self._dirty() and ring._budget.left > 0 and _get_running_loop() is ring._loop_here:
            order.busy = True
            try:
                await raw.close()
            finally:
                self._drop()
                order.leave()
            return
        if self._dirty() or order.busy:
            with CancelScope(shield=True):
                await self._close_shielded()
        else:
            await self._close_shielded()

    aclose = close

    async def _close_shielded(self) -> None:
        """Whoever is cancelled meanwhile still closes the file, and is told afterwards."""
        raw, order, struck = self._raw, self._order, None
        cancelled = get_cancelled_exc_class()
        try:
            await order.join(self._ring._engine.loop, shielded=True)
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

    def _finish(self, why: str) -> None:
        """Write what was accepted, and close, here and now: nobody else will."""
        if self._raw.fd < 0:
            return
        engine, order, said = self._ring._started, self._order, f"unclosed file {self!r}: {why}"
        if order.flights and engine is not None and not engine.ended:
            order.then = lambda: self._finish(why)  # a cancelled write is still under way
            return
        try:
            self._close_in_place()
        finally:
            if engine is None or engine.ended != "forked":
                warnings.warn(said, ResourceWarning, source=self, stacklevel=3)

    def _close_in_place(self) -> None:
        raw, engine = self._raw, self._ring._started
        raw.io = IN_PLACE
        try:
            if self._order.flights:
                logger.error("a write of %r did not end before its ring had to: it may not hold all it accepted", self)
            elif engine is None or engine.ended != "forked":  # what a forked child has is a copy: its parent writes it
                drive(self._flush())
        finally:
            try:
                drive(raw.close())
            finally:
                self._drop()

    def __del__(self) -> None:
        raw: Raw | None = getattr(self, "_raw", None)
        if raw is not None and raw.fd >= 0 and self._owner is None:
            self._finish("nobody can close it any more")

    def __repr__(self) -> str:
        if self._raw.fd < 0:
            return f"<aioring.{type(self).__name__} [closed]>"
        return f"<aioring.{type(self).__name__} name={self.name!r} mode={self.mode!r}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


class RawFile(File[bytes]):
    """A binary file without a buffer (`buffering=0`), as `io.FileIO`: each call is one transfer, which may be short."""

    __slots__ = ()

    async def read(self, size: int | None = -1, /) -> bytes | None:
        return await self._call(self._read, optional_size(size))

    async def _read(self, size: int) -> bytes | None:
        raw = self._raw
        self._check_readable()
        raw.adopt()
        data = await (raw.readall() if size < 0 else raw.read(size) if size else _nothing())
        raw.share(self._position)
        return data

    def _check_readable(self) -> None:
        self._raw.check()
        if not self._raw.mode.reading:
            raise io.UnsupportedOperation("File not open for reading")

    def _unread(self, lines: list[bytes]) -> None:
        if self._raw.seekable:
            self._raw.position -= sum(map(len, lines))
        else:
            self._raw.held[:0] = lines

    async def readall(self) -> bytes | None:
        return await self._call(self._read, -1)

    async def readinto(self, buffer: Any, /) -> int | None:
        """As `read`, into a writable buffer; who is cancelled finds it as it was."""
        return await self._call(self._readinto, writable_view(buffer))

    async def _readinto(self, target: memoryview) -> int | None:
        data = await self._read(len(target))
        if data is None:
            return None
        target[: len(data)] = data
        return len(data)

    async def _readline(self, size: int) -> bytes:
        """io.IOBase reads it byte by byte. What can seek is looked at in larger pieces: its position moves by the line."""
        raw = self._raw
        if size == 0:
            return b""
        self._check_readable()
        parts: list[bytes] = raw.held
        raw.adopt()
        if raw.seekable:
            line, at = b"", raw.position
            try:
                while size < 0 or len(line) < size:
                    n = 8192 if size < 0 else min(size - len(line), 8192)
                    part = await raw.io.read(raw, n) or b""
                    end = part.find(b"\n") + 1
                    line += part[: end or None]
                    if end or not part:
                        break
                    raw.position += len(part)
            except BaseException:
                raw.position = at
                raise
            raw.position = at + len(line)
            raw.share(self._position)
            return line
        line = b"".join(parts)
        while not line.endswith(b"\n") and (size < 0 or len(line) < size):
            byte = await raw.io.read(raw, 1)
            if not byte:
                break
            parts.append(byte)
            line += byte
        raw.held = []
        return line

    async def write(self, data: Any, /) -> int | None:
        return await self._call(self._write, data)

    async def _write(self, data: Any) -> int | None:
        raw, view = self._raw, data if type(data) is bytes else bytes(as_view(data))
        raw.check()
        if not raw.mode.writing:
            raise io.UnsupportedOperation("File not open for writing")
        raw.adopt()
        n = await raw.write(view, _untold)
        raw.share(self._position)
        return n

    async def seek(self, offset: int, whence: int = 0, /) -> int:
        return await self._call(self._seek, offset, whence)

    async def _seek(self, offset: int, whence: int) -> int:
        self._raw.adopt()
        found = await self._raw.seek(offset, whence)
        self._raw.share(self._position)
        return found

    async def tell(self) -> int:
        return await self._call(self._tell)

    async def _tell(self) -> int:
        self._raw.check()
        self._raw.adopt()
        return self._raw.tell()

    async def truncate(self, size: int | None = None, /) -> int:
        self._raw.check()
        self._raw.adopt()
        return await self._call(self._raw.truncate, size)

    async def flush(self) -> None:
        await self._call(self._flush)


class BinaryFile(File[bytes]):
    """A buffered binary file: `io.BufferedReader`, `BufferedWriter` or `BufferedRandom`, by its mode."""

    __slots__ = ("_layer", "_size")

    def __init__(self, raw: Raw, ring: Ring, size: int) -> None:
        super().__init__(raw, ring)
        self._size = size  # of the buffer
        self._layer: Buffered | None = None

    def _buffered(self) -> Buffered:
        mode = self._raw.mode
        self._layer = Buffered(self._raw, self._size, mode.reading, mode.writing)
        return self._layer

    def _position(self) -> int:
        return self._raw.position if self._layer is None else self._layer.position()

    def _dirty(self) -> bool:
        return self._layer is not None and self._layer.dirty()

    def _drop(self) -> None:
        if self._layer is not None:
            self._layer.drop()

    def readable(self) -> bool:
        return self._raw.mode.reading and super().readable()  # a writer says no also when it is closed

    def writable(self) -> bool:
        return self._raw.mode.writing and super().writable()

    @property
    def raw(self) -> RawFile:
        """The same file without its buffer, as `io`'s attribute of this name."""
        return RawFile(self._raw, self._ring, self)

    # Hot path: once per read.

    async def read(self, size: int | None = -1, /) -> bytes | None:
        """`size` bytes, or all there is: fewer only at end of file. What cannot seek is waited for until there are so many.

        Cancelling loses nothing: what was read comes with the next call. Raises `OSError` as read(2),
        `io.UnsupportedOperation` for a file that is only written, `ValueError` for a closed one.
        """
        order, ring = self._order, self._ring
        if order.busy or ring._budget.left <= 0 or _get_running_loop() is not ring._loop_here:
            await self._enter()
        else:
            order.busy = True
            ring._budget.left -= 1
        try:
            layer = self._layer
            if layer is None:
                raw = self._raw
                if (size is None or size == -1) and raw.fd >= 0 and raw.mode.reading:
                    raw.adopt()
                    return await raw.readall()
                layer = self._buffered()
            if not layer.readable:
                raise io.UnsupportedOperation("read")
            return await layer.read(size if type(size) is int else optional_size(size))
        finally:
            order.leave()

    async def read1(self, size: int = -1, /) -> bytes:
        """What the buffer has, `size` bytes at most, or else what one transfer brings."""
        return await self._call(self._reading("read1").read1, size)

    async def readinto(self, buffer: Any, /) -> int | None:
        """As `read`, into a writable buffer; who is cancelled finds it as it was."""
        return await self._call(self._reading("read").readinto, writable_view(buffer))

    async def readinto1(self, buffer: Any, /) -> int | None:
        """As `read1`, into a writable buffer."""
        return await self._call(self._reading("read1").readinto, writable_view(buffer), True)

    async def peek(self, size: int = 0, /) -> bytes:
        """What the next read would give, without moving the position: what the buffer has, or else one transfer."""
        if not self._raw.mode.reading:  # io.BufferedWriter has none
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'peek'")
        return await self._call(self._reading("peek").peek)

    def _reading(self, what: str) -> Buffered:
        layer = self._layer or self._buffered()
        if not layer.readable:
            raise io.UnsupportedOperation(what)
        return layer

    async def _readline(self, size: int) -> bytes:
        if size == 0 and not self._raw.mode.reading:
            return b""  # io.IOBase, which reads nothing then
        return await self._reading("read").readline(size)

    def _unread(self, lines: list[bytes]) -> None:
        if self._layer is not None:
            self._layer.unread(b"".join(lines))

    async def write(self, data: Any, /) -> int:
        """Take all of `data` (a bytes-like object): into the buffer, or through it. The number of bytes.

        Cancelled, it says nothing of how much was taken: `tell` does. Raises `OSError` as write(2).
        """
        order, ring = self._order, self._ring
        if order.busy or ring._budget.left <= 0 or _get_running_loop() is not ring._loop_here:
            await self._enter()
        else:
            order.busy = True
            ring._budget.left -= 1
        try:
            return await self._write(data)
        finally:
            order.leave()

    async def _write(self, data: Any) -> int:
        layer = self._layer or self._buffered()
        if not layer.writable:
            raise io.UnsupportedOperation("write")
        return await layer.write(data)

    async def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to `offset` from the start (0), from here (1) or from the end (2): the position."""
        return await self._call((self._layer or self._buffered()).seek, offset, whence)

    async def tell(self) -> int:
        """The position. (In its turn: behind the calls that were made before.)"""
        return await self._call(self._tell)

    async def _tell(self) -> int:
        return (self._layer or self._buffered()).tell()

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut the file to `size`, or where the position is; the position stays."""
        return await self._call((self._layer or self._buffered()).truncate, size)

    async def flush(self) -> None:
        """Write what is buffered. (It is not durable yet: `Ring.fsync`.)"""
        await self._call(self._flush)

    async def _flush(self) -> None:
        await (self._layer or self._buffered()).flush()


def writable_view(buffer: Any) -> memoryview:
    view = as_view(buffer)
    if view.readonly:
        raise TypeError(f"read-write bytes-like object expected, not {type(buffer).__name__}")
    return view


def _untold(_: int) -> None:
    return None


async def _nothing() -> bytes:
    return b""
