"""Standard output, written through the ring: who does not read holds up nobody, and can be cancelled."""

from __future__ import annotations

import os
import sys
from typing import Any

import aioring

from ..console import printable
from ..progress import above_the_bar

__all__ = ["Lines", "Output", "Unwritable"]

_MUCH = 32 << 10  # bytes of lines that are written together


class Unwritable(Exception):
    """The output cannot be written, which is no fault of what was read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Output:
    """An fd that is written on from where it is: a pipe, a terminal or a file, which may be open for appending."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._at = os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:
            self._at = -1  # it cannot seek

    def is_of(self, status: os.stat_result) -> bool:
        """Whether it is this file that is written."""
        mine = os.fstat(self._fd)
        return self._at >= 0 and (mine.st_dev, mine.st_ino) == (status.st_dev, status.st_ino)

    async def write(self, data: Any) -> None:
        """Raises `Unwritable`."""
        try:
            n = await aioring.get_ring().write(self._fd, self._at, data)
        except OSError as error:
            raise Unwritable(error) from None
        if self._at >= 0:
            self._at += n

    def leave(self) -> None:
        """Whoever writes to it next goes on behind us."""
        if self._at >= 0:
            os.lseek(self._fd, self._at, os.SEEK_SET)


class Lines:
    """Lines of output: byte by byte; to a terminal with nothing in them that it would obey."""

    def __init__(self) -> None:
        self._out = Output(sys.stdout.fileno())
        self._shown = sys.stdout.isatty()
        self._gathered = bytearray()

    async def put(self, line: bytes) -> None:
        if self._shown:
            above_the_bar(printable(os.fsdecode(line)), sys.stdout)
            return
        self._gathered += line + b"\n"
        if len(self._gathered) >= _MUCH:
            await self.flush()

    async def flush(self) -> None:
        if self._gathered:
            data, self._gathered = bytes(self._gathered), bytearray()
            await self._out.write(data)

    def leave(self) -> None:
        self._out.leave()
