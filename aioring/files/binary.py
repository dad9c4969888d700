"""Binary files, as people hold them: `RawFile` without a buffer, `BinaryFile` with one.

A binary file keeps no more than its raw file until something unusual is asked of it: reading all of it, which is what most
are opened for, needs no buffer. `BinaryFile` makes its buffered layer on the first call that does.
"""

from __future__ import annotations

import io
from asyncio.events import _get_running_loop
from typing import Any

from ..ring import Ring
from .arguments import as_view, optional_size, untold
from .buffered import Buffered
from .file import File
from .raw import Raw

__all__ = ["READ_AHEAD", "BinaryFile", "RawFile"]

READ_AHEAD = 1 << 16  # bytes: of a file that is only read, where nothing was said of buffering


class RawFile(File[bytes]):
    """A binary file without a buffer (`buffering=0`), as `io.FileIO`: each call is one transfer, which may be short."""

    async def read(self, size: int | None = -1) -> bytes:
        """What one transfer of `size` bytes brings, which may be less; without `size` all there is."""
        data: Any = await self._call(self._read, optional_size(size))
        return data  # type: ignore[no-any-return]

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
        if not self._raw.streams:
            self._raw.position -= sum(map(len, lines))
        else:
            self._raw.held = [*lines, *self._raw.held]

    async def readall(self) -> bytes:
        """All there is."""
        data: Any = await self._call(self._read, -1)
        return data  # type: ignore[no-any-return]

    async def readinto(self, buffer: Any) -> int:
        """As `read`, into a writable buffer; who is cancelled finds it as it was."""
        n: Any = await self._call(self._readinto, writable_view(buffer))
        return n  # type: ignore[no-any-return]

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
        raw.adopt()
        if not raw.streams:
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
        raw.held = parts = list(raw.held)
        line = b"".join(parts)  # what a call that was cancelled has read already
        end = line.find(b"\n") + 1
        if end or 0 < size <= len(line):
            cut = min(end or size, size if size > 0 else len(line))
            raw.held = [line[cut:]] if cut < len(line) else []
            return line[:cut]
        while not line.endswith(b"\n") and (size < 0 or len(line) < size):
            byte = await raw.io.read(raw, 1)
            if not byte:
                break
            parts.append(byte)
            line += byte
        raw.held = []
        return line

    async def write(self, data: Any, /) -> int:
        """Write a part of `data`, or all: how many bytes."""
        n: Any = await self._call(self._write, data)
        return n  # type: ignore[no-any-return]

    async def _write(self, data: Any) -> int | None:
        raw, view = self._raw, data if type(data) is bytes else bytes(as_view(data))
        raw.check()
        if not raw.mode.writing:
            raise io.UnsupportedOperation("File not open for writing")
        raw.adopt()
        try:
            n = await raw.write(view, untold)
        except BlockingIOError:
            return None  # O_NONBLOCK
        raw.share(self._position)
        return n

    async def seek(self, offset: int, whence: int = 0) -> int:
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

    async def truncate(self, size: int | None = None) -> int:
        self._raw.check()
        self._raw.adopt()
        return await self._call(self._raw.truncate, size)


class BinaryFile(File[bytes]):
    """A buffered binary file: `io.BufferedReader`, `BufferedWriter` or `BufferedRandom`, by its mode."""

    _layer: Buffered | None = None

    def __init__(self, raw: Raw, ring: Ring, size: int, owner: File[Any] | None = None) -> None:
        # Once per file: `File.__init__`, without calling it.
        self._raw = raw
        self._ring = ring
        self._order = raw.order
        self._size = size  # of the buffer
        if owner is not None:
            self._owner = owner

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
        """Whether it was opened for reading. Raises `ValueError` on a closed file."""
        return self._raw.mode.reading and super().readable()  # a writer says no also when it is closed

    def writable(self) -> bool:
        """Whether it was opened for writing. Raises `ValueError` on a closed file."""
        return self._raw.mode.writing and super().writable()

    @property
    def raw(self) -> RawFile:
        """The same file without its buffer, as `io`'s attribute of this name."""
        return RawFile(self._raw, self._ring, self)

    # Hot path: once per read.

    async def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, or all there is: fewer only at end of file. What cannot seek is waited for until there are so many.

        Cancelling loses nothing: what was read comes with the next call. Raises `OSError` as read(2),
        `io.UnsupportedOperation` for a file that is only written, `ValueError` for a closed one.
        """
        order, ring = self._order, self._ring
        if order.busy or _get_running_loop() is not ring._loop_here:
            await self._enter()
        elif self._raw.prepaid:
            order.busy = True
            self._raw.prepaid = False
        elif ring._budget.left <= 0:
            await self._enter()
        else:
            order.busy = True
            ring._budget.left -= 1
        try:
            layer = self._layer
            if layer is None:
                raw = self._raw
                if (size is None or size == -1) and raw.fd >= 0 and raw.mode.reading:
                    if raw.told is not None:
                        raw.adopt()
                    data = raw.io.rest_here(raw)
                    if data is None:
                        rest: Any = await raw.readall()
                        return rest  # type: ignore[no-any-return]
                    raw.position += len(data)
                    return data
                layer = self._buffered()
            elif type(size) is int and 0 < size <= layer.read_end - layer.pos and layer.readable:
                return layer.take(size)
            if not layer.readable:
                raise io.UnsupportedOperation("read")
            data = await layer.read(size if type(size) is int else optional_size(size))
            return data  # type: ignore[return-value]
        finally:
            order.leave()

    async def read1(self, size: int = -1) -> bytes:
        """What the buffer has, `size` bytes at most, or else what one transfer brings."""
        return await self._call(self._reading("read1").read1, size)

    async def readinto(self, buffer: Any) -> int:
        """As `read`, into a writable buffer; who is cancelled finds it as it was."""
        n: Any = await self._call(self._reading("read").readinto, writable_view(buffer))
        return n  # type: ignore[no-any-return]

    async def readinto1(self, buffer: Any) -> int:
        """As `read1`, into a writable buffer."""
        n: Any = await self._call(self._reading("read1").readinto, writable_view(buffer), True)
        return n  # type: ignore[no-any-return]

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

    # Hot path: once per line; measured in benchmarks/files.py. What is in the buffer is taken without a turn and without a
    # unit of the budget; every 64 lines the clock is looked at, and after 2 ms others run.

    async def __anext__(self) -> bytes:
        layer = self._layer
        if layer is not None and self._lines > 0 and not self._order.busy and layer.readable:
            pos = layer.pos
            end = layer.buffer.find(b"\n", pos, max(layer.read_end, pos)) + 1
            if end > 0:
                self._lines -= 1
                layer.pos = end
                return layer.view[pos:end].tobytes()
        if self._lines <= 0:
            await self._breathe()
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def _unread(self, lines: list[bytes]) -> None:
        if self._layer is not None:
            self._layer.unread(b"".join(lines))

    async def write(self, data: Any, /) -> int:
        """Take all of `data` (a bytes-like object): into the buffer, or through it. The number of bytes.

        Cancelled, it says nothing of how much was taken: `tell` does. Raises `OSError` as write(2).
        """
        order, ring, layer = self._order, self._ring, self._layer
        budget = ring._budget
        if order.busy or budget.left <= 0 or _get_running_loop() is not ring._loop_here:
            await self._enter()
        else:
            budget.left -= 1
            if layer is not None and data.__class__ is bytes and layer.write_end == layer.pos and not layer.readable:
                # Behind what is in the buffer already, of a file that is only written: `Buffered.put` comes to this.
                pos = layer.pos
                end = pos + len(data)
                if pos > 0 and end <= layer.buffer_size:
                    layer.buffer[pos:end] = data
                    layer.pos = layer.write_end = end
                    return end - pos
            order.busy = True
        try:
            return await self._write(data)
        finally:
            order.leave()

    async def _write(self, data: Any) -> int:
        layer = self._layer or self._buffered()
        if not layer.writable:
            raise io.UnsupportedOperation("write")
        return await layer.write(data)

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Move to `offset` from the start (0), from here (1) or from the end (2): the position."""
        return await self._call((self._layer or self._buffered()).seek, offset, whence)

    async def tell(self) -> int:
        """The position. (In its turn: behind the calls that were made before.)"""
        return await self._call(self._tell)

    async def _tell(self) -> int:
        return (self._layer or self._buffered()).tell()

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file to `size`, or where the position is; the position stays."""
        return await self._call((self._layer or self._buffered()).truncate, size)

    async def _flush(self) -> None:
        await (self._layer or self._buffered()).flush()

    def _part(self) -> RawFile:
        below = RawFile(self._raw, self._ring)
        self._layer = None
        self._let_go(below, "raw stream has been detached")
        return below


def writable_view(buffer: Any) -> memoryview:
    view = as_view(buffer)
    if view.readonly:
        raise TypeError(f"read-write bytes-like object expected, not {type(buffer).__name__}")
    return view


async def _nothing() -> bytes:
    return b""
