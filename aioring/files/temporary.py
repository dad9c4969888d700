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

from anyio import CancelScope

from ..errors import RingClosedError
from ..ring import Ring, get_ring
from .blocking import blocking
from .file import File
from .here import NOT_TRIED, Kinds
from .opening import open_file
from .order import Order
from .textual import TextFile

__all__ = ["Named", "Spooled", "adopt", "open_named", "open_unnamed"]


class Named(File[Any]):
    """A file whose name goes with it: mixed into a dialect's classes."""

    __slots__ = ()
    delete: bool
    delete_on_close: bool
    _path: Any = None  # what is still to be removed

    async def close(self) -> None:
        try:
            await File.close(self)  # whatever a dialect means by that name
        finally:
            if self.delete_on_close:
                await self.remove()

    aclose = close

    async def remove(self) -> None:
        """Remove the name, if that is still to be done: after `close` (`delete_on_close`), or at the end of the block.

        Who is cancelled has removed it, too: nobody else will. Its user may have been first.
        """
        path = self._path
        if path is None or not self.delete:
            return
        try:
            with CancelScope(shield=True):
                await self._ring.unlink(path)
            self._path = None
        except FileNotFoundError:
            self._path = None
        except RingClosedError:
            self._remove_in_place()
        except BaseException:
            self._remove_in_place()
            raise

    def _remove_in_place(self) -> None:
        path, self._path = self._path, None
        engine = self._ring._started
        if path is not None and self.delete and (engine is None or engine.ended != "forked"):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _close_here(self) -> bool:
        return False

    def _close_in_place(self) -> None:
        try:
            super()._close_in_place()
        finally:
            if self.delete_on_close:
                self._remove_in_place()

    def _finish(self, why: str) -> None:
        try:
            super()._finish(why)
        finally:
            self._remove_in_place()

    def __del__(self) -> None:
        try:
            super().__del__()
        finally:
            self._remove_in_place()  # closed already, and kept (`delete_on_close=False`) for somebody who is gone


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
    gone = False

    def make(_: Any, flags: int) -> int:
        fd, path = tempfile.mkstemp(*affixes)
        made.append(path)
        if gone:  # who asked for it was cancelled meanwhile
            with suppress(OSError):
                os.unlink(path)
        return int(fd)

    here = get_ring() if ring is None else ring
    try:
        file: Any = await open_file(
            here, kinds, NOT_TRIED, affixes[2] or ".", mode, buffering, encoding, errors, newline, True, make
        )
    except BaseException:
        gone = True
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


async def adopt(
    kinds: Kinds,
    fd: int,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    ring: Ring | None = None,
) -> Any:
    """The file over the fd of a temporary file that the standard library has made of the same arguments."""
    return await open_file(ring, kinds, NOT_TRIED, fd, mode, buffering, encoding, errors, newline, True, None)


class Spooled:
    """As `tempfile.SpooledTemporaryFile`: in memory up to `max_size` (0: for good), then a temporary file.

    `settings` are `open_unnamed`'s, from `mode` on.
    """

    def __init__(self, kinds: Kinds, max_size: int, *settings: Any) -> None:
        self._kinds = kinds
        self._max_size = max_size
        self._settings = settings
        mode, _, encoding, errors, newline, _ = settings
        memory = io.BytesIO()
        self._file: Any = memory
        if "b" not in mode:
            encoding = io.text_encoding(encoding)
            self._file = io.TextIOWrapper(memory, encoding=encoding, errors=errors, newline=newline)
        self._rolled = False
        self._order = Order()  # of who puts it on disk and who calls meanwhile; `disk` keeps its own

    async def _join(self) -> None:
        await self._order.join(get_ring()._engine.loop)

    async def rollover(self) -> None:
        """Put it on disk, if it is not there yet. Cancelled, it still is in memory."""
        if self._rolled:
            return
        await self._join()
        try:
            if not self._rolled:  # another task's was first
                await self._roll_over()
        finally:
            self._order.leave()

    async def _roll_over(self) -> None:
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
        self._file, self._rolled = disk, True
        memory.close()

    async def ask(self, name: str, *args: Any) -> Any:
        """A method of the file: at once while it is in memory. While it is on its way to the disk, behind that: what was
        put into memory now would be lost."""
        if self._order.busy:
            await self._join()
            self._order.leave()
        found = getattr(self._file, name)(*args)
        return await found if self._rolled else found

    async def write(self, data: Any) -> int:
        n: int = await self.ask("write", data)
        await self._check()
        return n

    async def writelines(self, lines: Iterable[Any]) -> None:
        await self.ask("writelines", lines)
        await self._check()

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
