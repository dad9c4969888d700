"""`aioring.open`: from what the built-in `open` takes to an open file.

What is refused is refused in the built-in's order and words (`modes.py`); the fd is asked of the ring, or of `opener` on
the ring's workers. Between an fd's arrival and the file that owns it nothing is awaited, so that no cancel can lose it;
what has to be awaited in between (fstat(2) on a file system that may wait) closes it on the way out.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import sys
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..engine import Engine
from ..errors import RingClosedError, os_error
from ..kernel import at_once
from ..ring import Ring, get_ring
from . import modes
from .binary import READ_AHEAD, BinaryFile, RawFile
from .file import File
from .modes import Mode
from .raw import Raw
from .ring_io import RingIo
from .textual import TextFile, resolve

__all__ = ["Opening", "open_file"]

F = TypeVar("F", bound=File[Any], covariant=True)

logger = logging.getLogger("aioring")


class Opening(Generic[F]):
    """What `aioring.open` gives: await it for the file, or enter it (`async with`) to have the file closed at the end.

    Nothing is opened before. Awaited again, it gives the same file.
    """

    __slots__ = ("_file", "_open", "_under_way")

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, F]]) -> None:
        self._open = open_it
        self._file: F | None = None
        self._under_way = False

    async def _opened(self) -> F:
        if self._file is None:
            if self._under_way:
                raise RuntimeError("this file is being opened by another task already")
            self._under_way = True
            try:
                self._file = await self._open()
            finally:
                self._under_way = False
        return self._file

    def __await__(self) -> Generator[Any, None, F]:
        return self._opened().__await__()

    async def __aenter__(self) -> F:
        return await self._opened()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            await self._file.close()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: `await aioring.open(...)` gives the file, or use "
            "`async with`"
        )


def open_file(
    file: Any,
    mode: Any,
    buffering: Any,
    encoding: Any,
    errors: Any,
    newline: Any,
    closefd: Any,
    opener: Any,
    ring: Ring | None,
) -> Opening[Any]:
    """`open`, without its overloads."""

    async def open_it() -> File[Any]:
        here = get_ring() if ring is None else ring
        if encoding is None and errors is None and newline is None and opener is None and closefd is True:
            ready = _ready(file, mode, buffering)
            if ready is not None:
                name, parsed = ready
                raw = await _open_cached(here, name, parsed)
                return _dressed(here, raw, parsed, buffering, None, None, None)
        number = _is_number(file)
        name = file if number else os.fspath(file)
        parsed = modes.check(mode, buffering, encoding, errors, newline)
        raw = await _open_raw(here, name, parsed, bool(closefd), opener, number)
        try:
            return _dressed(here, raw, parsed, buffering, encoding, errors, newline)
        except BaseException:
            await raw.close()
            raise

    return Opening(open_it)


# Hot path: once per file; measured in benchmarks/files.py.


def _ready(file: Any, mode: Any, buffering: Any) -> tuple[Any, Mode] | None:
    """The name and mode of a binary file that is only read and asks for nothing unusual."""
    if buffering.__class__ is not int or buffering == 1 or not -2 < buffering < 1 << 31 or mode not in ("rb", "br"):
        return None
    if file.__class__ is str:
        return file, modes.parse(mode)
    return (os.fspath(file), modes.parse(mode)) if isinstance(file, os.PathLike) else None


async def _open_cached(ring: Ring, name: Any, mode: Mode) -> Raw:
    """`_open_raw` for these: in place, where the path is cached."""
    sys.audit("open", name, mode.raw, mode.flags)
    fd = ring._open_here(name, mode.flags)
    if fd < 0:
        ring._engine  # noqa: B018 - whether it may be used here and now
        if b"\0" in os.fsencode(name):
            raise ValueError("embedded null byte")
        return await _raw_over(ring, await ring._open_file(name, mode.flags), name, mode, True, True)
    try:
        status = os.fstat(fd)  # of a local file system
        if not stat.S_ISREG(status.st_mode):
            fd, held = -1, fd
            return await _raw_over(ring, await ring._opened_for(held, mode.flags), name, mode, True, True)
        at_once.blocking_again(fd, mode.flags)
        raw = Raw(fd, mode, name, True, RingIo(ring), status)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    raw.opened_here = True
    return raw


def _is_number(file: Any) -> bool:
    return hasattr(file, "__index__") or hasattr(file, "__float__")


def _dressed(ring: Ring, raw: Raw, mode: Mode, buffering: int, encoding: Any, errors: Any, newline: Any) -> File[Any]:
    """The file over the raw one, by `mode` and `buffering`."""
    size = buffering
    lines = not mode.binary and (buffering == 1 or (buffering < 0 and not raw.regular and os.isatty(raw.fd)))
    if buffering < 0 or buffering == 1:
        size = raw.blksize
    if buffering < 0 and mode.raw == "r":
        size = max(size, READ_AHEAD)
    if size == 0:
        if not mode.binary:
            raise ValueError("can't have unbuffered text I/O")
        file: File[Any] = RawFile(raw, ring)
    else:
        if mode.updating and not raw.seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        if mode.binary:
            file = BinaryFile(raw, ring, size)
        else:
            file = TextFile(raw, ring, size, resolve(encoding, errors, newline), newline, lines)
    if mode.writing:
        _look_after(ring, file)
    return file


async def _open_raw(ring: Ring, name: Any, mode: Mode, closefd: bool, opener: Any, number: bool) -> Raw:
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
        fd = (
            await _by_opener(ring, opener, name, mode)
            if opener is not None
            else await ring._open_file(path, mode.flags)
        )
    else:
        sys.audit("open", name, mode.raw, mode.flags)
    return await _raw_over(ring, fd, name, mode, closefd, own, shared=not own or opener is not None)


async def _raw_over(ring: Ring, fd: int, name: Any, mode: Mode, closefd: bool, own: bool, shared: bool = False) -> Raw:
    """The raw file over an fd; `own`: it was opened here, and is closed where this fails."""
    try:
        status = at_once.stat_of_fd(fd)
        if status is None:
            status = await ring.stat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise os_error(errno.EISDIR, name)
        raw = Raw(fd, mode, name, closefd, RingIo(ring), status)
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
            try:
                await ring.close(fd)
            except RingClosedError:
                os.close(fd)
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


# --- the end of the ring ----------------------------------------------------------------------------------------------

_written: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[File[Any]]] = weakref.WeakKeyDictionary()


def _look_after(ring: Ring, file: File[Any]) -> None:
    """When the ring ends while the file is open, what it has accepted is written first."""
    engine = ring._engine
    files = _written.get(engine)
    if files is None:
        files = _written[engine] = weakref.WeakSet()
        engine.at_end.append(lambda: _finish_all(files))
    files.add(file)


def _finish_all(files: weakref.WeakSet[File[Any]]) -> None:
    said: Warning | None = None  # where warnings are errors: after all have been finished
    for file in list(files):
        try:
            file._finish("its ring, or its loop, was closed before it")
        except Warning as warning:
            said = said or warning
        except Exception as error:
            logger.error("what %r had accepted could not be written: %s", file, error, exc_info=error)
    if said is not None:
        raise said
