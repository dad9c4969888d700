"""Reading a log: its records in order, as far as they are durable, while others are appended."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Self

from ..errors import LogDamagedError, again
from ..files.ring_io import close_fd, drop_fd
from ..loops.outcome import Outcome, begun
from ..ring import Ring
from .log_file import PORTION, LogFile, takes_long
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
        self._job: Outcome[list[tuple[int, bytes]]] | None = None  # a large record is looked at by a worker
        self._over = False
        self._error: LogDamagedError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        while not self._found:
            if self._over:
                await self._close()
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            await self._more()
        return self._found.popleft()

    # A cancelled `anext()` loses nothing: what has left the stream has been fed before anything is awaited, or is a job's,
    # for which the next one waits.

    async def _more(self) -> None:
        if self._job is not None:
            await self._worked(self._job)
            return
        end = self._file.end  # below it nothing changes any more
        if self._recovery.bad or self._at >= end:
            self._finish(end)
            return
        stream = self._stream
        if stream is None:
            self._until = end
            blocks = range(self._at // PORTION, -(-end // PORTION))
            stream = self._stream = read_stream(self._fd, blocks, block_size=PORTION, ring=self._ring)
        async for block in stream:
            portion = block.data[self._at - block.offset : self._until - block.offset]
            self._at += len(portion)
            if takes_long(self._recovery, portion):
                self._job = begun(self._ring._engine.loop, partial(self._feed, bytes(portion)), "a record's CRC")
            else:
                self._found.extend(self._recovery.feed(portion))
            return
        if self._at < self._until:
            self._finish(end)  # the file is shorter than that
        self._stream = None
        await stream.aclose()

    async def _feed(self, portion: bytes) -> list[tuple[int, bytes]]:
        return await self._ring.run(self._recovery.feed, portion)

    async def _worked(self, job: Outcome[list[tuple[int, bytes]]]) -> None:
        await job.wait()
        if job.error is not None:
            raise again(job.error)
        self._found.extend(job.value or ())
        self._job = None

    def _finish(self, end: int) -> None:
        found, lost = self._recovery.end().offset, self._file.damage
        if found < end or lost is not None:
            self._error = damaged(self._file, found if lost is None else lost)
        self._over = True

    async def aclose(self) -> None:
        """Iterating further ends."""
        self._found.clear()
        self._over, self._error = True, None
        await self._close()

    async def _close(self) -> None:
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
            if takes_long(recovery, portion):
                found = await ring.run(recovery.feed, portion)
            else:
                found = recovery.feed(portion)
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
