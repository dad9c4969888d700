"""Temporary files: made by the standard library's `tempfile`, on a worker (its names, folders, modes and audit events), and
from then on aioring's files.

Used by the drop-ins for aiofiles and anyio, each with its own classes (`Kinds`).
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..ring import Ring, get_ring
from . import modes
from .blocking import blocking
from .file import File
from .here import NOT_TRIED, Kinds
from .opening import open_file
from .textual import TextFile

__all__ = ["Named", "Spooled", "open_named", "open_unnamed"]


class Named(File[Any]):
    """A file whose name goes with it: mixed into a dialect's classes."""

    __slots__ = ()
    delete: bool
    delete_on_close: bool
    _path: Any = None  # what is still to be removed

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self.delete_on_close:
                await self.remove()

    aclose = close

    async def remove(self) -> None:
        """Remove the name, if that is still to be done: after `close` (`delete_on_close`), or at the end of the block."""
        path, self._path = self._path, None
        if path is not None and self.delete:
            await self._ring.unlink(path)

    def _close_here(self) -> bool:
        return False

    def _close_in_place(self) -> None:
        try:
            super()._close_in_place()
        finally:
            path, self._path = self._path, None
            engine = self._ring._started
            if path is not None and self.delete and (engine is None or engine.ended != "forked"):
                with suppress(FileNotFoundError):
                    os.unlink(path)


async def open_named(
    kinds: Kinds,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    affixes: tuple[Any, Any, Any],  # suffix, prefix, dir
    delete: bool,
    delete_on_close: bool,
    ring: Ring | None = None,
) -> Any:
    """As `tempfile.NamedTemporaryFile`; `kinds` are subclasses of `Named`."""
    made: list[Any] = []

    def make(_: Any, flags: int) -> int:
        fd, path = tempfile.mkstemp(*affixes)
        made.append(path)
        return int(fd)

    here = get_ring() if ring is None else ring
    try:
        file: Any = await open_file(
            here, kinds, NOT_TRIED, affixes[2] or ".", mode, buffering, encoding, errors, newline, True, make
        )
    except BaseException:
        for path in made:
            with suppress(OSError):
                os.unlink(path)
        raise
    file._raw.name = file._path = made[0]
    file.delete, file.delete_on_close = delete, delete and delete_on_close
    return file


async def open_unnamed(
    kinds: Kinds,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    affixes: tuple[Any, Any, Any],
    ring: Ring | None = None,
) -> Any:
    """As `tempfile.TemporaryFile`: it has no name, and is gone with its fd."""

    def make(_: Any, flags: int) -> int:
        suffix, prefix, folder = affixes
        with tempfile.TemporaryFile("w+b", 0, suffix=suffix, prefix=prefix, dir=folder) as file:
            return os.dup(file.fileno())

    here = get_ring() if ring is None else ring
    file = await open_file(
        here, kinds, NOT_TRIED, affixes[2] or ".", mode, buffering, encoding, errors, newline, True, make
    )
    file._raw.name = file._raw.fd
    return file


class Spooled:
    """As `tempfile.SpooledTemporaryFile`: in memory up to `max_size` (0: for good), then a temporary file.

    `settings` are `open_unnamed`'s, from `mode` on.
    """

    def __init__(self, kinds: Kinds, max_size: int, *settings: Any) -> None:
        self._kinds = kinds
        self._max_size = max_size
        self._settings = settings
        mode, buffering, encoding, errors, newline, _ = settings
        memory = io.BytesIO()
        self._file: Any = memory
        if "b" not in mode:
            encoding = io.text_encoding(encoding)
            self._file = io.TextIOWrapper(memory, encoding=encoding, errors=errors, newline=newline)
        elif encoding is not None or errors is not None or newline is not None:
            modes.check(mode, buffering, encoding, errors, newline)  # which says what is wrong
        self._rolled = False

    async def rollover(self) -> None:
        """Put it on disk, if it is not there yet. Cancelled, it still is in memory."""
        if self._rolled:
            return
        memory = self._file
        disk = await open_unnamed(self._kinds, *self._settings)
        try:
            position = memory.tell()
            if isinstance(memory, io.TextIOWrapper):
                memory.flush()
                below: Any = TextFile.buffer.__get__(disk)  # whatever a dialect gives for it
                await below.write(memory.buffer.getvalue())
            else:
                await disk.write(memory.getvalue())
            await disk.seek(position)
        except BaseException:
            await disk.close()
            raise
        if self._rolled:  # another task's was first
            await disk.close()
            return
        self._file, self._rolled = disk, True
        memory.close()

    async def ask(self, name: str, *args: Any) -> Any:
        """A method of the file: at once while it is in memory."""
        found = getattr(self._file, name)(*args)
        return await found if self._rolled else found

    async def write(self, data: Any) -> int:
        n: int = await self.ask("write", data)
        await self._check()
        return n

    async def writelines(self, lines: Iterable[Any]) -> None:
        if self._rolled:
            await self._file.writelines(lines)
            return
        for line in lines:
            await self.write(line)

    async def truncate(self, size: int | None = None) -> int:
        if size is not None and size > self._max_size:
            await self.rollover()
        n: int = await self.ask("truncate", size)
        return n

    async def _check(self) -> None:
        if not self._rolled and self._max_size and self._file.tell() > self._max_size:
            await self.rollover()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    @property
    def mode(self) -> str:
        return str(getattr(self._file, "mode", self._settings[0]))

    @property
    def name(self) -> Any:
        return getattr(self._file, "name", None)

    def blocking(self) -> Any:
        """What it is kept in, as a blocking file."""
        return blocking(self._file) if self._rolled else self._file
