"""Reading a log: its records in order, as far as they are durable, while others are appended."""

from __future__ import annotations

from collections import deque
from typing import Self

from ..errors import LogDamagedError
from ..files.ring_io import close_fd, drop_fd
from ..ring import Ring
from .log_file import PORTION, LogFile, feed
from .read_stream import ReadStream, read_stream
from .records import Recovery

__all__ = ["Entries", "Records", "read_one"]

_FIRST, _LARGE = 4096, 1 << 20  # bytes: of the first read of one record; of those of a large one


class Entries:
    """An async iterator over offset and bytes of each record. It has an fd of its own, closed at its end, by `aclose`, or
    when it is dropped."""

    def __init__(self, ring: Ring, fd: int, file: LogFile, start: int) -> None:
        self._ring, self._fd, self._file = ring, fd, file
        self._recovery = Recovery(file.log, start)
        self._at = self._until = start  # what has been read; what will be by the stream
        self._found: deque[tuple[int, bytes]] = deque()
        self._stream: ReadStream[int] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        while not self._found:
            if self._fd < 0:
                raise StopAsyncIteration
            await self._more()
        return self._found.popleft()

    async def _more(self) -> None:
        end = self._file.end  # below it nothing changes any more
        if self._recovery.bad or self._at >= end:
            await self._finish(end)
            return
        stream = self._stream
        if stream is None:
            self._until = end
            blocks = range(self._at // PORTION, -(-end // PORTION))
            stream = self._stream = read_stream(self._fd, blocks, block_size=PORTION, ring=self._ring)
        async for block in stream:
            portion = block.data[self._at - block.offset : self._until - block.offset]
            self._at += len(portion)
            self._found.extend(await feed(self._ring, self._recovery, portion))
            return
        self._stream = None
        await stream.aclose()
        if self._at < self._until:
            await self._finish(end)  # the file is shorter than that

    async def _finish(self, end: int) -> None:
        await self.aclose()
        found, lost = self._recovery.end().offset, self._file.damage
        if found < end or lost is not None:
            raise damaged(self._file, found if lost is None else lost)

    async def aclose(self) -> None:
        """Iterating further ends."""
        self._found.clear()
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                await stream.aclose()
        finally:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                await close_fd(self._ring, fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self._stream = None  # ends what it has in flight
            drop_fd(self._ring._started, self._fd)


class Records:
    """The same without the offsets: what `async for record in log` goes through."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return (await anext(self._entries))[1]

    async def aclose(self) -> None:
        """Iterating further ends."""
        await self._entries.aclose()


async def read_one(ring: Ring, fd: int, file: LogFile, offset: int) -> bytes:
    """The record there. `fd` is closed."""
    recovery, at, n = Recovery(file.log, offset), offset, _FIRST
    try:
        while at < file.end and not recovery.bad:
            portion = await ring.read(fd, at, min(n, file.end - at))
            found = await feed(ring, recovery, memoryview(portion))
            if found and found[0][0] == offset:
                return found[0][1]
            if found or not portion:
                break  # what stands there was no record of the user's
            at += len(portion)
            n = PORTION if n < PORTION else _LARGE
    finally:
        await close_fd(ring, fd)
    raise damaged(file, offset)


def damaged(file: LogFile, offset: int) -> LogDamagedError:
    return LogDamagedError("no whole record stands where one should be", file.name, offset)
