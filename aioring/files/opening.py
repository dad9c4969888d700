"""`aioring.open`: from what the built-in `open` takes to an open file.

What is refused is refused in the built-in's order and words (`modes.py`); the fd is asked of the ring, or of `opener` on
the ring's workers. Between an fd's arrival and the file that owns it nothing is awaited, so that no cancel can lose it;
what has to be awaited in between (fstat(2) on a file system that may wait) closes it on the way out.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import warnings
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import os_error
from ..kernel import at_once
from ..ring import Ring, get_ring
from . import direct, modes
from .binary import READ_AHEAD
from .direct_io import DirectIo
from .ending import look_after
from .file import File
from .here import NOT_TRIED, SPENT, TRIED, Kinds, open_here
from .modes import Mode
from .raw import Raw
from .ring_io import NonBlockingIo, RingIo, close_fd
from .textual import resolve

__all__ = ["Opening", "open_file"]

F = TypeVar("F", bound=File[Any], covariant=True)
_DIRECT = 1 << 18  # bytes: the buffer of a file that the kernel does not read ahead of


class Opening(Generic[F]):
    """What `aioring.open` gives: await it for the file, or enter it (`async with`) to have the file closed at the end.

    Nothing is opened before. Awaited again, it gives the same file.
    """

    __slots__ = ("_asked", "_file", "_kinds", "_ring", "_under_way")

    def __init__(self, ring: Ring | None, kinds: Kinds, *asked: Any) -> None:
        self._ring = ring
        self._kinds = kinds
        self._asked = asked  # file, mode, buffering, encoding, errors, newline, closefd, opener
        self._file: Any = None
        self._under_way = False

    # Hot path: once per file. `open_here` is no coroutine: what it opens is opened without suspending.

    async def __aenter__(self) -> F:
        if self._file is None and not self._under_way:
            found = open_here(self._ring, self._kinds, *self._asked)
            if found.__class__ is not int:
                self._file = found
            else:
                return await self._opened(found)
        return await self._opened() if self._file is None else self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file = self._file
        if file is not None and not file._close_here():
            await file.close()

    def __await__(self) -> Generator[Any, None, F]:
        return self.__aenter__().__await__()

    async def _opened(self, tried: int = NOT_TRIED) -> F:
        if self._under_way:
            raise RuntimeError("this file is being opened by another task already")
        self._under_way = True
        try:
            file: Any = await open_file(self._ring, self._kinds, tried, *self._asked)
            self._file = file
        finally:
            self._under_way = False
        return file  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: `await aioring.open(...)` gives the file, or use "
            "`async with`"
        )


async def open_file(
    ring: Ring | None,
    kinds: Kinds,
    tried: int,
    file: Any,
    mode: Any,
    buffering: Any,
    encoding: Any,
    errors: Any,
    newline: Any,
    closefd: Any,
    opener: Any,
) -> File[Any]:
    """`open`, awaited; `tried`: what `open_here` has come to."""
    here = get_ring() if ring is None else ring
    if tried == SPENT:
        await here._engine.budget.turn()
        asked = file, mode, buffering, encoding, errors, newline, closefd, opener
        found = open_here(here, kinds, *asked, paid=True)
        if found.__class__ is not int:
            return found  # type: ignore[no-any-return]
        tried = NOT_TRIED if found == SPENT else found
    if tried != NOT_TRIED:
        parsed, name = modes.parse(mode), os.fspath(file)
        if tried == TRIED:
            here._engine  # noqa: B018 - whether it may be used here and now
            if b"\0" in os.fsencode(name):
                raise ValueError("embedded null byte")
            fd = await here._open_file(name, parsed.flags)
        else:
            fd = await here._opened_for(tried, parsed.flags)
        raw = await _raw_over(here, fd, name, parsed, True, True)
    else:
        number = _is_number(file)
        name = file if number else os.fspath(file)
        parsed = modes.check(mode, buffering, encoding, errors, newline)
        raw = await open_raw(here, name, parsed, bool(closefd), opener, number, direct.check(kinds.direct))
    try:
        return _dressed(here, kinds, raw, parsed, buffering, encoding, errors, newline)
    except BaseException:
        await raw.close()
        raise


def _is_number(file: Any) -> bool:
    return hasattr(file, "__index__") or hasattr(file, "__float__")


def _dressed(
    ring: Ring, kinds: Kinds, raw: Raw, mode: Mode, buffering: int, encoding: Any, errors: Any, newline: Any
) -> File[Any]:
    """The file over the raw one, by `mode` and `buffering`."""
    if kinds.nonblocking and raw.streams and at_once.flags_of(raw.fd) & os.O_NONBLOCK:
        raw.io = NonBlockingIo(ring)
    size = buffering
    lines = not mode.binary and (buffering == 1 or (buffering < 0 and not raw.regular and os.isatty(raw.fd)))
    if buffering < 0 or buffering == 1:
        size = raw.blksize
    if buffering < 0 and mode.raw == "r":
        size = max(size, READ_AHEAD)
        raw.ahead = True
    if raw.direct is not None and buffering < 0:
        size = max(size, _DIRECT)
    if size == 0:
        if not mode.binary:
            raise ValueError("can't have unbuffered text I/O")
        file: File[Any] = kinds.raw(raw, ring)
    else:
        if mode.updating and not raw.seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        if mode.binary:
            file = (kinds.reader if mode.reading else kinds.writer)(raw, ring, size)
        else:
            file = kinds.text(raw, ring, size, resolve(encoding, errors, newline), newline, lines)
    if mode.writing:
        look_after(ring, file)
    return file


async def open_raw(
    ring: Ring, name: Any, mode: Mode, closefd: bool, opener: Any, number: bool, past: bool | str
) -> Raw:
    """What io.FileIO does when it is made."""
    ring._engine  # noqa: B018 - whether it may be used here and now
    if isinstance(name, bool):
        warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=2)
    fd = _fd_of(name) if number else -1
    if fd < 0 and number:
        # Too large for a C int, or a float: as io.FileIO, which then takes it for a path.
        raise TypeError(f"expected str, bytes or os.PathLike object, not {type(name).__name__}")
    path: Any = name
    modes.exactly_one(mode)
    own = fd < 0
    if own:
        if b"\0" in os.fsencode(path):
            raise ValueError("embedded null byte")
        sys.audit("open", name, mode.raw, mode.flags)
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
        if opener is not None:
            fd = await _by_opener(ring, opener, name, mode)
        else:
            fd = await (direct.open_direct(ring, path, mode, past) if past else ring._open_file(path, mode.flags))
    else:
        sys.audit("open", name, mode.raw, mode.flags)
    raw = await _raw_over(ring, fd, name, mode, closefd, own, shared=not own or opener is not None)
    if past:
        try:
            await _past_the_cache(ring, raw, past, own, opener is not None)
        except BaseException:
            if own:
                await close_fd(ring, fd)
            raise
    return raw


async def _past_the_cache(ring: Ring, raw: Raw, past: bool | str, own: bool, by_opener: bool) -> None:
    may = True
    if by_opener or not own:
        may = direct.set_direct(raw.fd, raw.mode, own)
        if not may and past != "try":
            raise direct.refused(raw.name)
    sector = direct.sector_of(raw.fd) if may else 0
    if sector and not raw.streams:
        raw.io = raw.direct = DirectIo(ring, raw.fd, sector)
        raw.appends = raw.mode.appending
        if raw.appends:
            raw.position = await raw.direct.size(raw)
    if own and not by_opener and raw.mode.flags & os.O_TRUNC and raw.regular and await raw.io.size(raw):
        await raw.io.truncate(raw, 0)


async def _raw_over(ring: Ring, fd: int, name: Any, mode: Mode, closefd: bool, own: bool, shared: bool = False) -> Raw:
    """The raw file over an fd; `own`: it was opened here, and is closed where this fails."""
    try:
        status = at_once.stat_of_fd(fd)
        if status is None:
            status = await ring.stat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise os_error(errno.EISDIR, name)
        raw = Raw(fd, mode, name, closefd, RingIo(ring), status.st_mode, status.st_blksize)
        if shared:
            raw.appends = bool(at_once.flags_of(fd) & os.O_APPEND)
        if mode.appending and raw.seekable:
            # As io.FileIO, which asks where the end is; the fd's own position moves with it, for what is shared.
            raw.position = status.st_size
            if shared or not raw.regular:
                raw.position = await ring.run(os.lseek, fd, 0, os.SEEK_END)
            if not own:
                raw.told = raw.position
        elif shared:
            raw.starts_where_it_is()
        return raw
    except BaseException:
        if own:
            await close_fd(ring, fd)
        raise


def _fd_of(number: Any) -> int:
    try:
        fd = number.__index__()
    except AttributeError:
        return -1
    if fd < -(1 << 31) or fd >= 1 << 31:
        return -1
    if fd < 0:
        raise ValueError("negative file descriptor")
    return int(fd)


async def _by_opener(ring: Ring, opener: Any, name: Any, mode: Mode) -> int:
    """User code: on a worker thread. It says the fd; a cancelled one that comes nevertheless is closed."""

    def call() -> int:
        fd = opener(name, mode.flags)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
        handed.append(fd)
        return fd

    handed: list[int] = []
    try:
        return await ring.run(call)
    except BaseException:
        # Cancelled: it may still be running, and open one.
        if handed:
            os.close(handed[0])
        else:
            handed = _Closes()
        raise


class _Closes(list[int]):
    """Takes the place of the list that an opener's fd is put into, when nobody waits for it any more."""

    def append(self, fd: int) -> None:
        os.close(fd)
