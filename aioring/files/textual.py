"""Text files, as people hold them: `TextFile`, which is `io.TextIOWrapper`.

As a binary file it keeps no more than its raw file until something is asked of it that needs a decoder.
"""

from __future__ import annotations

import io
from asyncio.events import _get_running_loop
from collections.abc import Iterable
from typing import Any

from ..ring import Ring
from .binary import BinaryFile
from .buffered import Buffered, optional_size
from .file import File
from .raw import Raw
from .text import Text

__all__ = ["TextFile", "resolve"]


def resolve(encoding: str | None, errors: str | None, newline: str | None) -> tuple[str, str]:
    """The encoding and the error handler that `io.TextIOWrapper` would use, or its error."""
    probe = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    return probe.encoding, probe.errors or "strict"


class TextFile(File[str]):
    """A text file: decoded and encoded as it goes, with universal newlines, and cookies for positions."""

    __slots__ = ("_encoding", "_layer", "_line_buffering", "_newline", "_size", "_start")

    def __init__(
        self, raw: Raw, ring: Ring, size: int, encoding: tuple[str, str], newline: str | None, line_buffering: bool
    ) -> None:
        super().__init__(raw, ring)
        self._size = size
        self._encoding = encoding  # and what is done about errors
        self._newline = newline
        self._line_buffering = line_buffering
        self._start = raw.position
        self._layer: Text | None = None

    def _text(self) -> Text:
        mode = self._raw.mode
        buffered = Buffered(self._raw, self._size, mode.reading, mode.writing)
        encoding, errors = self._encoding
        self._layer = Text(buffered, encoding, errors, self._newline, self._line_buffering, self._start)
        return self._layer

    @property
    def mode(self) -> str:
        """As it was given to `open`."""
        return self._raw.mode.given

    def readable(self) -> bool:
        return self._raw.mode.reading and super().readable()

    def writable(self) -> bool:
        return self._raw.mode.writing and super().writable()

    @property
    def encoding(self) -> str:
        return self._encoding[0]

    @property
    def errors(self) -> str:
        return self._encoding[1]

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The line ends that have been read so far."""
        found: str | tuple[str, ...] | None = None if self._layer is None else self._layer.newlines
        return found

    @property
    def line_buffering(self) -> bool:
        """Whether a line end that is written is written through."""
        return self._line_buffering

    @property
    def buffer(self) -> BinaryFile:
        """The same file as bytes, as `io`'s attribute of this name. What is decoded already has been read from it."""
        view = BinaryFile(self._raw, self._ring, self._size, self)
        view._layer = (self._layer or self._text()).buffer
        return view

    def _position(self) -> int:
        return self._raw.position if self._layer is None else self._layer.buffer.position()

    def _dirty(self) -> bool:
        return self._layer is not None and self._layer.dirty()

    def _drop(self) -> None:
        if self._layer is not None:
            self._layer.buffer.drop()

    # Hot path: once per call.

    async def read(self, size: int | None = -1, /) -> str:
        """`size` characters, or all there are: fewer only at end of file. What cannot seek is waited for.

        Cancelling loses nothing. Raises `OSError` as read(2), `UnicodeDecodeError`, `io.UnsupportedOperation` for a file
        that is only written, `ValueError` for a closed one.
        """
        return await self._call(self._read, optional_size(size))

    async def _read(self, size: int) -> str:
        return await (self._layer or self._text()).read(size)

    async def _readline(self, size: int) -> str:
        return await (self._layer or self._text()).readline(size)

    async def _readlines(self, hint: int) -> list[str]:
        return await (self._layer or self._text()).readlines(hint, self._breathe)

    async def __anext__(self) -> str:
        layer = self._layer
        if layer is not None and self._lines > 0 and not self._order.busy and layer.translate and self._raw.fd >= 0:
            used = layer.used
            end = layer.decoded.find("\n", used) + 1
            if end > 0 and not layer.pending:
                self._lines -= 1
                layer.used = end
                return layer.decoded[used:end]
        if self._lines <= 0:
            await self._breathe()
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def write(self, text: str, /) -> int:
        """Take all of `text`, into the buffer or through it: the number of characters.

        Cancelled, it says nothing of how much was taken: `tell` does. Raises `OSError` as write(2),
        `UnicodeEncodeError`, `io.UnsupportedOperation` for a file that is only read.
        """
        order, ring = self._order, self._ring
        if order.busy or ring._budget.left <= 0 or _get_running_loop() is not ring._loop_here:
            await self._enter()
        else:
            order.busy = True
            ring._budget.left -= 1
        try:
            return await (self._layer or self._text()).write(text)
        finally:
            order.leave()

    async def _write(self, data: Any) -> int:
        return await (self._layer or self._text()).write(data)

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write each of `lines`, adding nothing. In one turn: no other call comes between them."""
        await self._call(self._writelines, lines)

    async def seek(self, cookie: int, whence: int = 0, /) -> int:
        """Go to a place that `tell` gave, to the start (0), or with `whence` 2 to the end."""
        return await self._call((self._layer or self._text()).seek, cookie, whence)

    async def tell(self) -> int:
        """The place where the file is: a cookie for `seek`."""
        return await self._call((self._layer or self._text()).tell)

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut the file to `size` bytes, or where its buffer is."""
        return await self._call((self._layer or self._text()).truncate, size)

    async def _flush(self) -> None:
        await (self._layer or self._text()).flush()
