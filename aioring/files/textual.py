"""Text files, as people hold them: `TextFile`, which is `io.TextIOWrapper`.

As a binary file it keeps no more than its raw file until something is asked of it that needs a decoder.
"""

from __future__ import annotations

import codecs
import io
import locale
import sys
from asyncio.events import _get_running_loop
from collections.abc import Iterable
from itertools import chain
from time import perf_counter
from typing import Any

from ..ring import Ring
from .arguments import optional_size
from .binary import BinaryFile
from .buffered import Buffered
from .file import LONG, File
from .raw import Raw
from .text import CHUNK, Text

__all__ = ["TextFile", "resolve", "resolved"]

Codec = tuple[str, str, bool]


_WHOLE = ("utf-8", "ascii", "iso8859-1")  # a text in one piece is what its bytes decode to in one go
_LINES = 64  # between two looks at the clock
_PIECE = 1 << 16  # characters cut at a time, of a file that nothing else is done with
_NO_LINES: list[str] = []  # replaced, never changed
_known: dict[tuple[Any, ...], Codec] = {}


def resolve(encoding: str | None, errors: str | None, newline: str | None) -> Codec:
    """The encoding and the error handler that `io.TextIOWrapper` would use, or its error; and whether a text in one piece
    needs no decoder."""
    probe = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    codec = probe.encoding, probe.errors or "strict", codecs.lookup(probe.encoding).name in _WHOLE
    if encoding != "locale" and len(_known) < 64:
        _known[encoding, errors, newline, encoding is None and locale.getencoding()] = codec
    return codec


def resolved(encoding: Any, errors: Any, newline: Any) -> Codec | None:
    """`resolve`, if it was asked before, and says nothing else now."""
    try:
        if encoding is None:
            if sys.flags.warn_default_encoding:
                return None
            return _known.get((None, errors, newline, locale.getencoding()))
        return _known.get((encoding, errors, newline, False))
    except TypeError:
        return None  # not even hashable: `resolve` says what is wrong


class TextFile(File[str]):
    """A text file: decoded and encoded as it goes, with universal newlines, and cookies for positions."""

    _layer: Text | None = None
    _ended = False  # whether `_rest_here` has seen a line end
    _more: list[list[str]] = []  # noqa: RUF012

    def __init__(
        self, raw: Raw, ring: Ring, size: int, encoding: Codec, newline: str | None, line_buffering: bool
    ) -> None:
        # Once per file: `File.__init__`, without calling it.
        self._raw = raw
        self._ring = ring
        self._order = raw.order
        self._size = size
        self._encoding = encoding  # and what is done about errors, and whether `_rest_here` may be asked
        self._newline = newline
        self._line_buffering = line_buffering
        self._start = raw.position
        self._ready: list[str] = _NO_LINES  # see `__anext__`, which is slower (by 15 %) where this is the class's

    def _text(self) -> Text:
        """The layer, as it is when nothing is cut."""
        if self._layer is None:
            mode = self._raw.mode
            buffered = Buffered(self._raw, self._size, mode.reading, mode.writing)
            encoding, errors, _ = self._encoding
            self._layer = Text(buffered, encoding, errors, self._newline, self._line_buffering, self._start)
            if self._ended:
                self._layer.decoder.decode(b"\n")  # what it would have seen
        elif self._end >= 0:
            self._fold()
        return self._layer

    @property
    def mode(self) -> str:
        """As it was given to `open`."""
        return self._raw.mode.given

    def readable(self) -> bool:
        """Whether it was opened for reading. Raises `ValueError` on a closed file."""
        return self._raw.mode.reading and super().readable()

    def writable(self) -> bool:
        """Whether it was opened for writing. Raises `ValueError` on a closed file."""
        return self._raw.mode.writing and super().writable()

    @property
    def encoding(self) -> str:
        """The encoding's name, as it was given or found."""
        return self._encoding[0]

    @property
    def errors(self) -> str:
        """What is done about what cannot be encoded or decoded: `strict`, `ignore` ..."""
        return self._encoding[1]

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The line ends that have been read so far."""
        if self._layer is None:
            return "\n" if self._ended else None
        found: str | tuple[str, ...] | None = self._layer.newlines
        return found

    @property
    def line_buffering(self) -> bool:
        """Whether a line end that is written is written through."""
        return self._line_buffering

    @property
    def buffer(self) -> BinaryFile:
        """The same file as bytes, as `io`'s attribute of this name. What is decoded already has been read from it."""
        view = BinaryFile(self._raw, self._ring, self._size, self)
        view._layer = self._text().buffer
        return view

    def _position(self) -> int:
        return self._raw.position if self._layer is None else self._layer.buffer.position()

    def _dirty(self) -> bool:
        return self._layer is not None and self._layer.dirty()

    def _drop(self) -> None:
        if self._layer is not None:
            self._ready, self._more, self._end = [], [], -1
            self._layer.drop()

    # Hot path: once per call.

    async def read(self, size: int | None = -1) -> str:
        """`size` characters, or all there are: fewer only at end of file. What cannot seek is waited for.

        Cancelling loses nothing. Raises `OSError` as read(2), `UnicodeDecodeError`, `io.UnsupportedOperation` for a file
        that is only written, `ValueError` for a closed one.
        """
        order, ring = self._order, self._ring
        if order.busy or self._end >= 0 or _get_running_loop() is not ring._loop_here:
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
            if self._layer is None and (size is None or size == -1) and self._encoding[2]:
                text = self._rest_here()
                if text is not None:
                    return text
            return await self._text().read(optional_size(size))
        finally:
            order.leave()

    def _rest_here(self) -> str | None:
        """All of a small file, decoded in one go, where it does not suspend and no line end has to be translated."""
        raw = self._raw
        if raw.fd < 0 or not raw.mode.reading:
            return None
        if raw.told is not None:
            raw.adopt()
        data = raw.io.rest_here(raw)
        if data is None or (b"\r" in data and not self._newline):
            return None
        raw.position += len(data)
        text = str(data, self._encoding[0], self._encoding[1])
        if not self._newline and b"\n" in data:
            self._ended = True
        return text

    async def _readline(self, size: int) -> str:
        return await self._text().readline(size)

    async def _readlines(self, hint: int) -> list[str]:
        return await self._text().readlines(hint, self._breathe)

    # Once per line. A chunk is cut into lines at once; `_ready` are those up to the next look at the clock, the next one
    # last, and `_more` lists as it, with those behind them. They are out only while no call is in the file: each puts them
    # back as it comes (`_enter`), before it waits for its turn, so that the order of calls is kept without a look at
    # `_order` a line.

    async def __anext__(self) -> str:
        ready = self._ready
        if ready:
            return ready.pop()
        if self._more and perf_counter() - self._yielded < LONG:
            self._ready = ready = self._more.pop()
            return ready.pop()
        return await self._next_line()

    async def _next_line(self) -> str:
        if self._lines <= 0 or self._more:
            await self._breathe()
        if not self._ready and not self._more and self._end >= 0:
            self._fold()
            self._cut(_PIECE)
        if not self._ready and self._more:
            self._ready = self._more.pop()
        if self._ready:  # (or another task, which iterates too, was first while this one waited)
            return self._ready.pop()
        layer = self._layer
        if layer is not None and layer.translate and not layer.pending and not self._order.busy and self._raw.fd >= 0:
            # One of what could not be cut (`_cut`).
            self._text()
            used = layer.used
            end = layer.decoded.find("\n", used) + 1
            if end > 0:
                self._lines -= 1
                layer.used = end
                return layer.decoded[used:end]
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        self._lines -= 1
        self._cut(CHUNK)
        return line

    def _cut(self, most: int) -> None:
        """Cut what is decoded, `most` characters at most, into lines, if nothing else is in it that `str.splitlines` takes
        for the end of one."""
        layer = self._layer
        if layer is None or self._end >= 0 or layer.read_newline != "\n" or layer.pending or self._order.busy:
            return
        decoded, used = layer.decoded, layer.used
        stop = used + most
        stop += decoded.startswith("\n", stop)  # never between "\r" and "\n"
        whole = decoded.rfind("\n", used, stop) + 1
        carriage = layer.universal and not layer.translate
        if carriage:
            whole = max(whole, decoded.rfind("\r", used, stop) + 1)
        text = decoded[used:whole]
        if (
            "\v" in text or "\f" in text or "\x1c" in text or "\x1d" in text or "\x1e" in text
            or ("\r" in text and not carriage)
            or (not text.isascii() and ("\x85" in text or "\u2028" in text or "\u2029" in text))
        ):  # fmt: skip
            return
        lines = text.splitlines(True)
        if lines:
            lines.reverse()
            self._end = whole
            self._more = [lines[i : i + _LINES] for i in range(0, len(lines), _LINES)]

    def _fold(self) -> None:
        """Put back what was cut: `_end` is where it ends, in the layer's text."""
        assert self._layer is not None
        self._layer.used = self._end - sum(map(len, chain(self._ready, *self._more)))
        self._ready, self._more, self._end = [], [], -1

    async def write(self, text: str, /) -> int:
        """Take all of `text`, into the buffer or through it: the number of characters.

        Cancelled, it says nothing of how much was taken: `tell` does. Raises `OSError` as write(2),
        `UnicodeEncodeError`, `io.UnsupportedOperation` for a file that is only read.
        """
        order, ring, layer = self._order, self._ring, self._layer
        budget = ring._budget
        if order.busy or self._end >= 0 or budget.left <= 0 or _get_running_loop() is not ring._loop_here:
            await self._enter()
        else:
            budget.left -= 1
            if layer is not None and layer.pending and layer.plain and text.__class__ is str:
                # To what waits to be handed down already, of a file that is only written: `Text.write` comes to this.
                encoded = text.encode(layer.plain, layer.errors)
                if layer.pending_count + len(encoded) < CHUNK:
                    layer.pending.append(encoded)
                    layer.pending_count += len(encoded)
                    return len(text)
            order.busy = True
        try:
            return await self._text().write(text)
        finally:
            order.leave()

    async def _write(self, data: Any) -> int:
        return await self._text().write(data)

    async def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`, adding nothing. In one turn: no other call comes between them."""
        await self._call(self._writelines, lines)

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place that `tell` gave, to the start (0), or with `whence` 2 to the end."""
        return await self._call(self._text().seek, offset, whence)

    async def tell(self) -> int:
        """The place where the file is: a cookie for `seek`."""
        return await self._call(self._text().tell)

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file to `size` bytes, or where its buffer is."""
        return await self._call(self._text().truncate, size)

    async def _flush(self) -> None:
        await self._text().flush()

    def _part(self) -> BinaryFile:
        below = BinaryFile(self._raw, self._ring, self._size)
        below._layer = self._text().buffer
        self._layer = None
        self._let_go(below, "underlying buffer has been detached")
        return below
