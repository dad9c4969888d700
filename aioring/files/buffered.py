"""The buffered layer: CPython's C `io.BufferedReader`, `BufferedWriter` and `BufferedRandom`, over an awaited raw file.

The states and their names are those of Modules/_io/bufferedio.c (3.11 to 3.14), and so is every step, since all of it can
be observed: what reaches the file when, what `tell` says, what a read beside a write gives. It does no I/O of its own and
never asks who runs it: over a raw file that does not suspend it can be driven by `send(None)`.

Two things are its own, since a call may be cancelled at each `await`:

* No byte is in a local across an `await`. What a `read(n)` or `readline` has gathered so far lies in `gathered`, and goes
  back into the buffer when the call ends without having returned it.
* What a write has moved is told by `landed`, which the raw file calls when the transfer is over, whether or not its caller
  is still there.

Called by `file.py`, one call at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .arguments import as_view, off_t, untold

if TYPE_CHECKING:
    from .raw import Raw

__all__ = ["Buffered"]

_NOTHING = bytearray()


def _ask(buffered: Any, *calls: tuple[Any, ...]) -> bytes:
    """What two calls bring onto the raw file: CPython's answer differs by version, and bug fixes are carried back."""
    raw = io.BytesIO()
    file = buffered(raw, 2)
    for name, *args in calls:
        getattr(file, name)(*args)
    return raw.getvalue()


_KEEPS = _ask(io.BufferedWriter, ("write", b"xx")) == b""  # what just fits an empty buffer is kept there (to 3.12)
_READ1_FLUSHES = _ask(io.BufferedRandom, ("write", b"x"), ("read1",)) != b""  # (from 3.13)


class Buffered:
    """See the module. `readable` and `writable` say which of the three classes it is."""

    __slots__ = (
        "buffer", "buffer_size", "gathered", "pos", "raw", "raw_pos", "read_end", "readable", "view", "writable",
        "write_end", "write_pos",
    )  # fmt: skip

    def __init__(self, raw: Raw, buffer_size: int, readable: bool, writable: bool) -> None:
        self.raw = raw
        self.buffer_size = buffer_size
        self.readable = readable
        self.writable = writable
        self.buffer = _NOTHING  # made when it is needed
        self.view = memoryview(_NOTHING)
        self.pos = 0  # the position in the buffer
        self.raw_pos = 0  # where in the buffer the raw file stands
        self.read_end = -1  # end of what was read into it; -1: nothing was
        self.write_pos = 0  # begin and end of what is to be written
        self.write_end = -1
        self.gathered: list[bytes] = []

    # --- where it stands ----------------------------------------------------------------------------------------------

    def ahead(self) -> int:
        """READAHEAD: how many bytes can be read from the buffer."""
        return self.read_end - self.pos if self.readable and self.read_end != -1 else 0

    def raw_offset(self) -> int:
        """RAW_OFFSET: how far the raw file is ahead of the logical position."""
        if self.raw_pos < 0 or not (
            (self.readable and self.read_end != -1) or (self.writable and self.write_end != -1)
        ):
            return 0
        return self.raw_pos - self.pos

    def dirty(self) -> bool:
        """Whether it holds what has not been written."""
        return self.writable and self.write_end != -1 and self.write_pos < self.write_end

    def position(self) -> int:
        """The logical position, without asking anybody."""
        return self.raw.position - self.raw_offset()

    def take(self, n: int) -> bytes:
        pos = self.pos
        self.pos = pos + n
        return self.view[pos : pos + n].tobytes()

    def _adjust(self, pos: int) -> None:
        self.pos = pos
        if self.readable and self.read_end != -1 and self.read_end < pos:
            self.read_end = pos

    def _room(self) -> None:
        size, old = self.buffer_size, self.buffer
        if len(old) < size or (len(old) > size and self.read_end == -1):
            self.buffer = bytearray(size)
            self.buffer[: min(len(old), size)] = old[:size]
            self.view = memoryview(self.buffer)

    def _put_back(self) -> None:
        """What was gathered, and not returned, is to be read again."""
        gathered, self.gathered = self.gathered, []
        if not gathered:
            return
        rest = self.view[self.pos : self.read_end] if self.ahead() > 0 else b""
        self.buffer = bytearray(b"".join([*gathered, rest]))  # larger than `buffer_size`, until it has been read
        self.view = memoryview(self.buffer)
        self.pos, self.read_end = 0, len(self.buffer)
        self.raw_pos = self.read_end

    def unread(self, data: bytes) -> None:
        """What a call had read, and could not return because it was cancelled, is to be read again."""
        if data and self.writable and self.write_end != -1:
            self.pos -= len(data)  # nothing was filled since: it would have been flushed first
        elif data:
            self.gathered.append(data)
            self._put_back()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, n: int) -> bytes | None:
        """`n` of -1: all there is. None: nothing is there, and the fd was opened with O_NONBLOCK."""
        if n < -1:
            raise ValueError("read length must be non-negative or -1")
        self.raw.check("read of closed file")
        if n == -1:
            return await self._read_all()
        if n <= self.ahead():
            return self.take(n)
        try:
            return await self._read_generic(n)
        finally:
            self._put_back()

    async def _gather_ahead(self) -> int:
        """Begin a read that the buffer is not enough for: gather what it has, and be done with it. How much that was.

        What is unwritten goes out first: should this be left, putting back replaces the buffer that it lies in.
        """
        if self.writable:
            await self._flush_writes()
        if ahead := self.ahead():
            self.gathered.append(self.take(ahead))
        if self.writable:
            await self._flush_and_rewind()
        self.read_end = -1
        return ahead

    async def _read_all(self) -> bytes | None:
        try:
            await self._gather_ahead()
            rest = await self.raw.readall()
            gathered, self.gathered = self.gathered, []
            if not gathered:
                return rest
            return b"".join([*gathered, rest or b""])
        finally:
            self._put_back()

    async def _read_generic(self, n: int) -> bytes | None:
        gathered, size = self.gathered, self.buffer_size
        remaining = n - await self._gather_ahead()
        while whole := remaining - remaining % size:
            # Whole blocks, so that the last one is read into the buffer.
            data = await self.raw.read(whole)
            if not data:
                return self._gathered_or(data)
            gathered.append(data)
            remaining -= len(data)
        self.pos = self.raw_pos = self.read_end = 0
        while remaining > 0 and self.read_end < size:
            got = await self._fill()
            if got <= 0:
                return self._gathered_or(b"" if got == 0 else None)
            part = min(remaining, got)
            gathered.append(self.take(part))
            remaining -= part
        self.gathered = []
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    def _gathered_or(self, nothing: bytes | None) -> bytes | None:
        gathered, self.gathered = self.gathered, []
        return b"".join(gathered) if gathered else nothing

    async def _fill(self) -> int:
        """_bufferedreader_fill_buffer: how many bytes came; 0 at end of file, -2 where there is nothing yet."""
        start = self.read_end if self.read_end != -1 else 0
        if start == 0:
            self.raw.adopt()
        data = await self.raw.read(self.buffer_size - start)
        if data is None:
            return -2
        n = len(data)
        if n:
            self._room()
            self.buffer[start : start + n] = data
            self.read_end = self.raw_pos = start + n
        return n

    async def read1(self, n: int) -> bytes:
        if n < 0:
            n = self.buffer_size
        self.raw.check("read of closed file")
        if n == 0:
            return b""
        if (ahead := self.ahead()) > 0:
            return self.take(min(ahead, n))
        if self.writable and _READ1_FLUSHES:
            await self._flush_and_rewind()
        self.read_end = -1
        return await self.raw.read(n) or b""

    async def readinto(self, target: memoryview, once: bool = False) -> int | None:
        """Into `target` in one go, at the end: who is cancelled finds it as it was, and the bytes in the buffer."""
        self.raw.check("readinto of closed file")
        size = len(target)
        if size <= self.ahead() > 0:
            target[:] = self.view[self.pos : self.pos + size]
            self.pos += size
            return size
        try:
            data = await self._gather_for(size, once)
            if data is None:
                return None
            target[: len(data)] = data
            return len(data)
        finally:
            self._put_back()

    async def _gather_for(self, size: int, once: bool) -> bytes | None:
        """_buffered_readinto_generic, up to the copy."""
        gathered = self.gathered
        remaining = size - await self._gather_ahead()
        self.pos = 0
        while remaining > 0:
            if remaining > self.buffer_size:
                data = await self.raw.read(remaining)
                if not data:
                    return self._gathered_or(data)
                gathered.append(data)
                remaining -= len(data)
                if once:
                    break
            elif once and gathered:
                break
            else:
                got = await self._fill()
                if got <= 0:
                    return self._gathered_or(b"" if got == 0 else None)
                part = min(got, remaining)
                gathered.append(self.take(part))
                remaining -= part
        return self._gathered_or(b"")

    async def peek(self) -> bytes:
        self.raw.check("peek of closed file")
        if self.writable:
            await self._flush_and_rewind()
        if (ahead := self.ahead()) > 0:
            return self.view[self.pos : self.pos + ahead].tobytes()
        self.read_end = -1
        got = await self._fill()
        self.pos = 0
        return self.view[: max(got, 0)].tobytes()

    async def readline(self, limit: int) -> bytes:
        self.raw.check("readline of closed file")
        pos, n = self.pos, self.ahead()
        if 0 <= limit < n:
            n = limit
        end = self.buffer.find(b"\n", pos, pos + n)
        if end >= 0:
            return self.take(end + 1 - pos)
        if n == limit:
            return self.take(n)
        try:
            return await self._line_from_raw(limit)
        finally:
            self._put_back()

    async def _line_from_raw(self, limit: int) -> bytes:
        gathered, n = self.gathered, await self._gather_ahead()
        if limit >= 0:
            limit -= n
        while True:
            self.read_end = -1
            n = await self._fill()
            if n <= 0:
                break
            self.pos = 0
            if 0 <= limit < n:
                n = limit
            end = self.buffer.find(b"\n", 0, n)
            gathered.append(self.take(n if end < 0 else end + 1))
            if end >= 0 or n == limit:
                break
            if limit >= 0:
                limit -= n
        self.gathered = []
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, data: Any, taken: Callable[[int], Any] | None = None) -> int:
        """`taken` is called with how much of `data` has been taken, as it is: in the end with all of it."""
        view = data if type(data) is bytes else as_view(data)
        self.raw.check("write to closed file")
        n = len(view)
        if self.put(view, n):
            if taken is not None:
                taken(n)
            return n
        await self._write_through(view if type(view) is bytes else bytes(view), taken or untold)
        return n

    def put(self, data: bytes | memoryview, n: int) -> bool:
        """Take `data`, which is `n` bytes, into the buffer, if it fits."""
        if self.write_end == -1 and not (self.readable and self.read_end != -1):
            self.pos = self.raw_pos = 0
            self.raw.adopt()
        pos = self.pos
        end = pos + n
        if end > self.buffer_size or n >= self.buffer_size + _KEEPS:
            return False
        if len(self.buffer) != self.buffer_size:
            self._room()
        self.buffer[pos:end] = data
        if self.write_end == -1 or self.write_pos > pos:
            self.write_pos = pos
        self._adjust(end)
        if end > self.write_end:
            self.write_end = end
        return True

    async def _write_through(self, data: bytes, taken: Callable[[int], Any]) -> None:
        """What does not fit: first what is there, then whole blocks of `data` itself, then the rest into the buffer."""
        try:
            if self.raw.direct is not None and (n := self._up_to_a_sector(self.raw.direct.sector)):
                await self._flush_with(data[:n], n, taken)
                data = data[n:]
            await self._flush_writes()
        except BlockingIOError:
            self._keep_what_fits(data)
            return
        self.raw.check("write to closed file")  # its ring may have ended meanwhile, and taken it along
        if offset := self.raw_offset():
            self.raw.move(-offset, 1)
            self.raw_pos -= offset
        # (In C at the end. Here nobody is to find it stale when this is cancelled.)
        self.read_end = -1
        written, n, size = 0, len(data), self.buffer_size
        while n - written >= size + _KEEPS:
            try:
                written += await self.raw.write(data[written:] if written else data, taken)
            except BlockingIOError:
                self._room()
                self.buffer[:] = data[written : written + size]
                self.raw_pos, self.write_pos = 0, 0
                self._adjust(size)
                self.write_end = size
                raise _would_block(written + size) from None
        self.raw.check("write to closed file")
        rest = n - written
        self._room()
        self.buffer[:rest] = data[written:] if written else data
        self.write_pos, self.write_end = 0, rest
        self._adjust(rest)
        self.raw_pos = 0
        taken(rest)

    def _up_to_a_sector(self, sector: int) -> int:
        """How much more fits of what is written one after the other, so that it ends with a sector: else that would be
        read back, and the file cut, each time that the buffer is full."""
        if not self.dirty() or self.pos != self.write_end:
            return 0
        room = self.buffer_size - self.pos
        return max(room - (self.position() + room) % sector, 0)

    async def _flush_with(self, more: bytes, n: int, taken: Callable[[int], Any]) -> None:
        """Flush what is there and `n` bytes `more`, which fit."""
        self.put(more, n)
        try:
            await self._flush_writes()
        except OSError:
            if self.write_end - self.write_pos < n:
                taken(n)
            else:
                self.pos = self.write_end = self.write_end - n  # none of it has been written, and its caller keeps it
            raise
        except BaseException:
            taken(n)  # it goes on
            raise
        taken(n)

    def _keep_what_fits(self, data: bytes) -> None:
        """The raw file takes nothing now (O_NONBLOCK)."""
        self.read_end = -1
        left = self.view[self.write_pos : self.write_end].tobytes()
        self.buffer[: len(left)] = left
        self.write_end -= self.write_pos
        self.raw_pos -= self.write_pos
        self.pos -= self.write_pos
        self.write_pos = 0
        room = min(self.buffer_size - self.write_end, len(data))
        self.buffer[self.write_end : self.write_end + room] = data[:room]
        self.write_end += room
        self.pos += room
        if room < len(data):
            raise _would_block(room) from None

    async def _flush_writes(self) -> None:
        """_bufferedwriter_flush_unlocked."""
        if self.dirty():
            rewind = self.raw_offset() + (self.pos - self.write_pos)
            if rewind:
                self.raw.move(-rewind, 1)
                self.raw_pos -= rewind
            while self.write_pos < self.write_end:
                await self.raw.write(self.view[self.write_pos : self.write_end].tobytes(), self._landed)
        if self.writable:
            self.write_pos, self.write_end = 0, -1

    def _landed(self, n: int) -> None:
        """So many bytes of what is to be written have been; also when who flushed has been cancelled."""
        self.write_pos += n
        self.raw_pos = self.write_pos

    async def _flush_and_rewind(self) -> None:
        await self._flush_writes()
        if self.readable:
            # The raw file's position becomes the logical one.
            offset = self.raw_offset()
            self.read_end = -1
            self.raw.move(-offset, 1)

    async def flush(self) -> None:
        self.raw.check("flush of closed file" if self.writable else "I/O operation on closed file.")
        if self.writable:
            await self._flush_and_rewind()
        self.raw.share(self.position)

    # --- where it is --------------------------------------------------------------------------------------------------

    def tell(self) -> int:
        offset = self.raw_offset()
        if not offset:
            self.raw.adopt()
        return self.raw.tell() - offset

    async def seek(self, target: Any, whence: int) -> int:
        if whence not in (0, 1, 2, *_HOLES):
            raise ValueError(f"whence value {whence} unsupported")
        self.raw.check("seek of closed file")
        if not self.raw.seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        target = off_t(target)
        if whence in (0, 1) and self.readable:
            current, ahead = self.raw.position, self.ahead()
            if ahead > 0:
                offset = target - (current - self.raw_offset()) if whence == 0 else target
                if -self.pos <= offset <= ahead:
                    self.pos += offset
                    self.raw.share(self.position)
                    return int(current - ahead + offset)
        if self.writable:
            await self._flush_writes()
        if whence == 1:
            target -= self.raw_offset()
        found = await self.raw.seek(target, whence)
        self.raw_pos = -1
        if self.readable:
            self.read_end = -1
        self.raw.share(self.position)
        return found

    async def truncate(self, size: Any) -> int:
        self.raw.check("truncate of closed file")
        if not self.writable:
            raise io.UnsupportedOperation("truncate")
        await self._flush_and_rewind()
        found = await self.raw.truncate(size)
        self.raw.share(self.position)
        return found

    def drop(self) -> None:
        """The file is closed."""
        self.buffer, self.view = _NOTHING, memoryview(_NOTHING)
        self.pos = self.write_pos = 0
        self.read_end = self.write_end = -1
        self.gathered = []


_HOLES = (3, 4)  # SEEK_DATA, SEEK_HOLE: linux/fs.h


def _would_block(n: int) -> BlockingIOError:
    return BlockingIOError(11, "write could not complete without blocking", n)
