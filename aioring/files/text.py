"""The text layer: CPython's C `io.TextIOWrapper`, over the buffered layer.

The states are those of Modules/_io/textio.c (3.11 to 3.14): what has been decoded and how much of it is used up, a
snapshot of the decoder before it was (for `tell`), and what is encoded and still to be handed down. The codecs and
`io.IncrementalNewlineDecoder` are the standard library's; like the buffered layer it does no I/O of its own.

Its own, since a call may be cancelled at each `await`:

* A call that takes several chunks keeps them (`_trail`) with the snapshot that it began at. Interrupted, it puts them
  together to one, as if they had come as one: what was read is there to be read, and `tell` says where that is.
* What is handed down leaves `pending` as it is taken (`_taken`), which may be after its caller is gone.

Called by `textual.py`, one call at a time.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from .buffered import Buffered
from .cookies import Cookie, find, set_decoder

__all__ = ["CHUNK", "Text"]

CHUNK = 8192


def _concatenates() -> bool:
    """Whether two texts that are together more than a chunk are handed down in one: CPython's answer differs by version."""
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii")
    for _ in range(2):
        text.write("x" * (CHUNK // 2 + 1))
    return len(raw.getvalue()) > CHUNK


_CONCATENATES = _concatenates()  # from 3.13
_STATELESS = ("utf-8", "ascii", "iso8859-1", "utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le")
_ORDER = "-le" if sys.byteorder == "little" else "-be"


def _direct(codec: str) -> tuple[str, str] | None:
    """How the first text of a file is encoded, and what comes after it, where that needs no encoder (`encodefuncs`)."""
    if codec in _STATELESS:
        return codec, codec
    return (codec, codec + _ORDER) if codec in ("utf-16", "utf-32") else None


class Text:
    """See the module."""

    __slots__ = (
        "_base", "_direct", "_far", "_fresh", "_trail", "buffer", "decoded", "decoder", "encoder", "encoding", "errors",
        "line_buffering", "pending", "pending_count", "plain", "ratio", "read_newline", "seekable", "snapshot", "telling",
        "translate", "universal", "used", "write_newline",
    )  # fmt: skip

    def __init__(
        self, buffer: Buffered, encoding: str, errors: str, newline: str | None, line_buffering: bool, position: int
    ) -> None:
        self.buffer = buffer
        self.encoding = encoding
        self.errors = errors
        self.line_buffering = line_buffering
        self.universal = newline is None or newline == ""
        self.translate = newline is None
        self.read_newline = newline or "\n"
        self.write_newline = newline if newline in ("\r", "\r\n") else None
        self.decoded = ""
        self.used = 0
        self.snapshot: tuple[int, bytes] | None = None  # the decoder's flags, and what it was fed since
        self.ratio = 0.0  # bytes a character, in the last chunk
        self.pending: list[bytes] = []
        self.pending_count = 0
        self._base: tuple[tuple[int, bytes] | None, str, int] | None = None
        self._trail: list[tuple[bytes, str]] = []
        codec = codecs.lookup(encoding)
        self.decoder: Any = None
        self.encoder: Any = None
        if buffer.readable:
            self.decoder = codecs.getincrementaldecoder(encoding)(errors)
            if self.universal:
                self.decoder = io.IncrementalNewlineDecoder(self.decoder, self.translate)
        if buffer.writable:
            self.encoder = codecs.getincrementalencoder(encoding)(errors)
        self._direct = _direct(codec.name)
        # Where it reads further ahead than io, a chunk is as long as a buffer.
        self._far = buffer.buffer_size if buffer.raw.ahead and codec.name in _STATELESS else 0
        self.seekable = self.telling = buffer.raw.seekable
        # How the second text and all after it are encoded, where that is all that is done to them.
        plain = self._direct is not None and self.decoder is None and not line_buffering and self.write_newline is None
        self.plain = self._direct[1] if plain and self._direct is not None else None
        self._fresh = self.seekable  # whether the next text begins a file, and takes a BOM
        if self.seekable and self.encoder is not None and position != 0:
            self._set_encoder(False)

    def _set_encoder(self, at_start: bool) -> None:
        if at_start:
            self.encoder.reset()
        else:
            self.encoder.setstate(0)
        self._fresh = at_start

    def check(self) -> None:
        self.buffer.raw.check("I/O operation on closed file.")

    @property
    def newlines(self) -> Any:
        return getattr(self.decoder, "newlines", None)

    def dirty(self) -> bool:
        return bool(self.pending) or self.buffer.dirty()

    def drop(self) -> None:
        """The file is closed: what could not be written is lost."""
        self.pending, self.pending_count = [], 0
        self.buffer.drop()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {'None' if text is None else type(text).__name__}")
        self.check()
        if self.encoder is None:
            raise io.UnsupportedOperation("not writable")
        n, lines = len(text), self.line_buffering or self.write_newline is not None
        has_newline = lines and "\n" in text
        if has_newline and self.write_newline is not None:
            text = text.replace("\n", self.write_newline)
        flushes = self.line_buffering and (has_newline or "\r" in text)
        before, fresh = None, self._fresh
        if self._direct is not None:
            self._fresh = False  # (as in C, also where it cannot be encoded)
            data = text.encode(self._direct[not fresh], self.errors)
        else:
            before = self.encoder.getstate()
            data = self.encoder.encode(text)
        if self.pending and (len(data) if _CONCATENATES else self.pending_count + len(data) - 1) >= CHUNK:
            try:
                await self._hand_down()
            except BaseException:
                # None of this text has been taken.
                self._fresh = fresh
                if before is not None:
                    self.encoder.setstate(before)
                raise
        self.pending.append(data)
        self.pending_count += len(data)
        # It is accepted. (In C this comes last; here nothing may be between it and the awaits.)
        if self.snapshot is not None:
            self._set_decoded("")
            self.snapshot = None
        if self.decoder is not None:
            self.decoder.reset()
        if self.pending_count >= CHUNK or flushes:
            await self._hand_down()
        if flushes:
            await self.buffer.flush()
        return n

    async def _hand_down(self) -> None:
        """_textiowrapper_writeflush."""
        if self.pending:
            data = b"".join(self.pending)
            self.pending = [data]
            await self.buffer.write(data, self._taken)

    def _taken(self, n: int) -> None:
        if n:
            rest = self.pending[0][n:]
            self.pending = [rest] if rest else []
            self.pending_count = len(rest)

    async def flush(self) -> None:
        self.check()
        self.telling = self.seekable
        await self._hand_down()
        await self.buffer.flush()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _set_decoded(self, text: str) -> None:
        self.decoded, self.used = text, 0

    def _take(self, n: int) -> str:
        text, used = self.decoded, self.used
        available = len(text) - used
        if n < 0 or n > available:
            n = available
        self.used = used + n
        return text[used : used + n] if used or n < available else text

    async def _read_chunk(self, hint: int) -> bool:
        """Decode the next chunk into `decoded`. False: end of file."""
        if self.decoder is None:
            raise io.UnsupportedOperation("not readable")
        size = max(CHUNK, int(max(self.ratio, 1.0) * hint)) if hint > 0 else CHUNK
        buffered, flags = state = self.decoder.getstate()
        data = await self.buffer.read1(max(size, self._far))
        try:
            text = self.decoder.decode(data, not data)
        except UnicodeError:
            if len(data) <= size:
                raise
            # Only what io would have taken: the error is io's, and what stands before it is read.
            self.decoder.setstate(state)
            self.buffer.unread(data[size:])
            data = data[:size]
            text = self.decoder.decode(data)
        if self._base is not None:
            if self._base[0] is None:
                self._base = (flags, buffered), "", 0  # nothing was decoded before
            self._trail.append((data, text))
        self._set_decoded(text)
        self.ratio = len(data) / len(text) if text else 0.0
        self.snapshot = flags, buffered + data
        return bool(data) or bool(text)

    def _begin(self) -> None:
        self._base, self._trail = (self.snapshot, self.decoded, self.used), []

    def _settle(self, returned: bool) -> None:
        """The end of a call that may have taken several chunks: one that did not return puts them together to one."""
        base, trail = self._base, self._trail
        self._base, self._trail = None, []
        if returned or base is None:
            return
        snapshot, text, self.used = base
        if snapshot is not None:
            snapshot = snapshot[0], snapshot[1] + b"".join(chunk for chunk, _ in trail)
        self.snapshot = snapshot
        self.decoded = text + "".join(part for _, part in trail)

    async def read(self, n: int) -> str:
        self.check()
        if self.decoder is None:
            raise io.UnsupportedOperation("not readable")
        await self._hand_down()
        if n < 0:
            data = await self.buffer.read(-1)
            if data is None:
                raise TypeError("a bytes-like object is required, not 'NoneType'")
            text: str = self._take(-1) + self.decoder.decode(data, True)
            if self.snapshot is not None:
                self._set_decoded("")
                self.snapshot = None
            return text
        self._begin()
        returned = False
        try:
            parts = [self._take(n)]
            left = n - len(parts[0])
            while left > 0 and await self._read_chunk(left):
                part = self._take(left)
                parts.append(part)
                left -= len(part)
            returned = True
            return "".join(parts) if len(parts) > 1 else parts[0]
        except UnicodeError:
            returned = True  # as in C, where what had been decoded is gone with it
            raise
        finally:
            self._settle(returned)

    def _line_end(self, text: str, start: int) -> tuple[int, int]:
        """_PyIO_find_line_ending: where the line ends, or -1 and up to where there can be no line end."""
        if self.translate:
            return text.find("\n", start) + 1 or -1, len(text)
        if self.universal:
            feed, back = text.find("\n", start), text.find("\r", start)
            if back < 0 or (0 <= feed < back):
                return (feed + 1, 0) if feed >= 0 else (-1, len(text))
            return (back + 2 if text.startswith("\n", back + 1) else back + 1), 0
        newline = self.read_newline
        end = text.find(newline, start)
        if end >= 0:
            return end + len(newline), 0
        if len(newline) == 2 and text.endswith("\r") and len(text) > start:
            return -1, len(text) - 1
        return -1, len(text)

    async def readline(self, limit: int) -> str:
        self.check()
        await self._hand_down()
        if self.decoded and self.used < len(self.decoded):
            # Mostly the line lies in the chunk that is there.
            used = self.used
            end, _ = self._line_end(self.decoded, used)
            if end >= 0 and (limit < 0 or end - used <= limit):
                self.used = end
                return self.decoded[used:end]
        self._begin()
        returned = False
        try:
            line = await self._readline(limit)
            returned = True
            return line
        except UnicodeError:
            returned = True
            raise
        finally:
            self._settle(returned)

    async def readlines(self, hint: int, breathe: Callable[[], Awaitable[None]]) -> list[str]:
        """In one piece: interrupted, its lines are to be read again. Now and then it lets others run (`breathe`)."""
        self.check()
        self.telling = False  # as io's, which iterates; where that fails it stays so
        self._begin()
        returned = False
        lines: list[str] = []
        try:
            length = 0
            while line := await self._line():
                lines.append(line)
                if not len(lines) % 64:
                    await breathe()
                if hint > 0:
                    if len(line) > hint - length:
                        break
                    length += len(line)
            else:
                self.snapshot = None
                self.telling = self.seekable
            returned = True
            return lines
        except UnicodeError:
            returned = True
            raise
        except OSError:
            raise
        except BaseException:
            self.telling = self.seekable  # cancelled
            raise
        finally:
            self._settle(returned)

    async def _line(self) -> str:
        await self._hand_down()
        return await self._readline(-1)

    async def _readline(self, limit: int) -> str:
        chunks: list[str] = []
        chunked, remaining = 0, ""
        while True:
            more = True
            while not self.decoded:
                more = await self._read_chunk(0)
                if not more:
                    break
            if not more:
                self._set_decoded("")
                self.snapshot = None
                return "".join(chunks) + remaining
            start = 0 if remaining else self.used
            offset, line = len(remaining), remaining + self.decoded if remaining else self.decoded
            remaining = ""
            end, consumed = self._line_end(line, start)
            if end < 0:
                end = consumed
                if not (limit >= 0 and end - start + chunked >= limit):
                    if end > start:
                        chunks.append(line[start:end])
                        chunked += end - start
                    remaining = line[end:]
                    self._set_decoded("")
                    continue
            if limit >= 0 and end - start + chunked >= limit:
                end = start + limit - chunked
            self.used = end - offset
            chunks.append(line[start:end])
            return "".join(chunks)

    # --- seek and tell ------------------------------------------------------------------------------------------------

    async def tell(self) -> int:
        self.check()
        if not self.seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if not self.telling:
            raise OSError("telling position disabled by next() call")
        await self._hand_down()
        await self.flush()
        position = self.buffer.tell()
        if self.decoder is None or self.snapshot is None:
            return position
        flags, fed = self.snapshot
        position -= len(fed)
        if self.used == 0:
            return Cookie(position, flags).pack()
        return find(self.decoder, position, flags, fed, self.used, self.ratio).pack()

    async def seek(self, cookie: Any, whence: int) -> int:
        self.check()
        if not self.seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if whence == 1:
            if cookie != 0:
                raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
            cookie = await self.tell()
        elif whence == 2:
            if cookie != 0:
                raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
            await self.flush()
            position = await self.buffer.seek(0, 2)
            self._set_decoded("")
            self.snapshot = None
            if self.decoder is not None:
                self.decoder.reset()
            if self.encoder is not None:
                self._set_encoder(position == 0)
            return position
        elif whence != 0:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie!r}")
        await self.flush()
        place = Cookie.unpack(cookie)
        await self._go_to(place)
        return int(cookie)

    async def _go_to(self, place: Cookie) -> None:
        """Back to the safe start point, and from there on as `read(skip)` would."""
        await self.buffer.seek(place.start, 0)
        self._set_decoded("")
        self.snapshot = None
        if self.decoder is not None:
            set_decoder(self.decoder, place.start, place.flags)
        if place.skip and self.decoder is not None:
            data = await self.buffer.read(place.feed) or b""
            self.snapshot = place.flags, data
            self._set_decoded(self.decoder.decode(data, place.end))
            if len(self.decoded) < place.skip:
                raise OSError("can't restore logical file position")
            self.used = place.skip
        else:
            self.snapshot = place.flags, b""
        if self.encoder is not None:
            self._set_encoder(place.start == 0 and place.flags == 0)

    async def truncate(self, size: Any) -> int:
        await self.flush()
        return await self.buffer.truncate(size)
