"""Whole files in one call: `read_file`, `read_text`, `write_file`, `append_file`.

A small file whose path and bytes are in memory is had by three calls that never wait (openat2, preadv2, close), one whose
are not by one submission (open, read and close, linked: methods/slots.py) or two trips (`read_there`), all in a straight
line and without a file object; all else goes through `aioring.open`'s raw file. Writing is done in `put.py`, and in one
step in `atomic.py`.
"""

from __future__ import annotations

import io
import os
import sys
from asyncio.events import _get_running_loop
from collections.abc import Awaitable, Callable
from os import PathLike
from time import perf_counter
from typing import Any

from ..kernel import at_once
from ..operations import ELSEWHERE, WHOLE
from ..ring import Ring, define, get_ring
from ..ring.page_cache import NEVER
from . import modes
from .atomic import replace
from .binary import RawFile
from .here import NOT_TRIED, TRIED, Kinds
from .opening import open_file
from .put import Pieces, bytes_of, named, put
from .raw import KIND, REGULAR
from .ring_io import close_fd
from .textual import resolve, resolved

__all__ = [
    "NOT_TRIED", "StrOrBytesPath", "append_file", "begin", "named", "read_file", "read_here", "read_text", "read_there",
    "write_file",
]  # fmt: skip

StrOrBytesPath = str | bytes | PathLike[str] | PathLike[bytes]
_KINDS = Kinds(RawFile, RawFile, RawFile, RawFile)
_FLAGS = modes.parse("rb").flags


async def read_file(path: StrOrBytesPath, *, ring: Ring | None = None) -> bytes:
    """All bytes of a file, as `pathlib.Path.read_bytes` gives them: up to the end that it has when this comes to it.

    A large one is read in parallel pieces into one buffer. What cannot seek (a FIFO, a tty) is read until its end.
    `ring`: by default the running loop's own (`get_ring`).

    Cancelling is delivered at once; what was read of a FIFO until then is lost.

    Raises:
        OSError: as open(2) and read(2), with the file name; `IsADirectoryError` for a directory.
        TypeError: `path` is an fd: `aioring.open(fd, "rb", closefd=False)` reads one.
        ValueError: `path` has a NUL in it.
        RingClosedError, WrongLoopError: the ring is closed, or belongs to another loop, thread or process.
    """
    here = get_ring() if ring is None else ring
    name = path if path.__class__ is str else os.fspath(path)
    running, tried = _get_running_loop(), NOT_TRIED
    if running is not None and running is here._loop_here and here._at_once:
        if here._budget.left <= 0:  # spent, or the ring is closed, or a forked child's
            await here._engine.budget.turn()
        if here._engine.open:
            found = read_here(here, name)
            if found.__class__ is not int:
                return found  # type: ignore[no-any-return]
            tried = found
    return await read_there(here, name, tried)


# Hot path: once per file that is not cached; measured in benchmarks/whole.py. One trip where the ring can; else two,
# an open and a read, with nothing but fds and sizes between them: as an open file it took five times as long.


async def read_there(ring: Ring, name: Any, tried: int, room: Callable[[int], Awaitable[None]] | None = None) -> bytes:
    """What `read_here` could not give; `tried`: what it has come to. `room` is awaited with the size before it is read.

    The fd is in nobody's hands but ours. While a read of it is in flight `close_fd` waits for that, in the background; the
    bytes that it fills belong to its handle (invariant 1), or to a slot of the ring's, which is not used again before all
    CQEs have come.
    """
    if tried < 0:
        if tried == NOT_TRIED:
            sys.audit("open", name, "rb", _FLAGS)
        if room is not None:
            await room(WHOLE)  # nobody knows its size yet
        small: Any = await ring._read_small(name, _FLAGS)
        if small.__class__ is not int:
            return small  # type: ignore[no-any-return]
        tried = TRIED if small == ELSEWHERE else small
    fd = await ring._open_cold(name, _FLAGS) if tried == TRIED else tried
    size = at_once.small_size(fd) if fd >= 0 else 0
    if size:
        data = b""
        try:
            if room is not None:
                await room(size)
                room = None  # it has been had
            # It may have come meanwhile; it may be of a kind that the ring is no help for.
            cache = ring._cache
            got = cache.rest(fd, 0, size)
            if got >= 0:
                data = cache.short(got)
            elif got == NEVER:
                size = 0
            else:
                at_once.blocking_again(fd, _FLAGS)
                data = await ring._engine.transfer(define.read(fd, 0, size))
        except BaseException as error:
            if isinstance(error, OSError):
                named(error, name)
            await close_fd(ring, fd)
            raise
        if size:
            at_once.close_here(fd, True)
            ring._closes.cached += 1
            return data
    file = await begin(ring, name, fd if fd >= 0 else tried)
    try:
        if room is not None:
            raw = file._raw
            await room(await raw.io.size(raw) if raw.regular else 0)
        return await file.readall()  # type: ignore[no-any-return]
    except OSError as error:
        raise named(error, name) from None
    finally:
        await file.close()


async def begin(ring: Ring | None, name: Any, tried: int) -> Any:
    """The file, of what could not be had at once; `tried`: what `read_here` has come to."""
    return await open_file(ring, _KINDS, tried, name, "rb", 0, None, None, None, True, None)


# Hot path: once per file. Nothing here suspends.


def read_here(ring: Ring, name: Any) -> Any:
    """The bytes; or, as `open_here` says it, `TRIED`, or an fd with O_NONBLOCK on it."""
    sys.audit("open", name, "rb", _FLAGS)
    fd = ring._open_here(name, _FLAGS)
    if fd < 0:
        return TRIED
    try:
        cache, size = ring._cache, -1
        if cache.holding:
            # Looking behind a page's edge for more would let the GIL go; asking for the size does not.
            shape = at_once.shape_of(fd)
            if shape is None or shape[2] & KIND != REGULAR:
                return fd
            size = shape[3]
        got = cache.rest(fd, 0, size)  # (what cannot seek refuses it)
        if got < 0:
            return fd
        data = cache.short(got)
    except BaseException:
        os.close(fd)
        raise
    # It has been in nobody's hands but ours, on a local disk, for reading only, and was small a moment ago: nothing waits.
    at_once.close_here(fd, True)
    ring._closes.cached += 1
    reads = ring._reads
    reads.cached += 1
    reads.cached_bytes += got
    cache.late(perf_counter())
    return data


async def read_text(
    path: StrOrBytesPath,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    ring: Ring | None = None,
) -> str:
    """All text of a file, as `aioring.open(path, encoding=..., errors=..., newline=...)` reads it: by default in the
    locale's encoding, every line end as "\\n".

    Cancelling and errors as `read_file`; `LookupError` and `ValueError` for an encoding or a newline that is none, and
    `UnicodeDecodeError`, as the built-in `open`.
    """
    codec = resolved(encoding, errors, newline) or resolve(encoding, errors, newline)
    data = await read_file(path, ring=ring)
    if codec[2] and (newline or b"\r" not in data):
        return str(data, codec[0], codec[1])
    return io.TextIOWrapper(io.BytesIO(data), codec[0], codec[1], newline).read()


async def write_file(
    path: StrOrBytesPath,
    data: Any,
    *,
    atomic: bool = False,
    durable: bool = False,
    mode: int | None = None,
    ring: Ring | None = None,
) -> int:
    """Make `data`, any contiguous buffer, all that a file has; returns its size in bytes. An async iterable of buffers is
    written as it comes, in constant memory: an upload, say; what it raises is raised here.

    `atomic`: whoever opens the file sees what it had before or all of `data`, never a part, and so does who comes after a
    crash of this process. `data` is written to a file without a name in the same folder (O_TMPFILE; where the file system
    has none, under a name that begins with ".aioring-"), readable by nobody else (0600) until it takes the place of the
    old one by a rename. The new file has the mode, the extended attributes and, where that is allowed, the owner of the
    old one. Through a symbolic link, what it points to is replaced, and the link stays. Hard links keep the old file.

    `durable`: returns when `data` and the file's name are on the disk (fsync(2) of the file, and of its folder after that).
    Together with `atomic`, a power cut leaves the old file or the new one, whole.

    `mode`: the permission bits that the file is given, whatever the umask; by default those it has, or those that `open`
    gives a new one.

    Without `atomic`, cancelled or with an error, the file may have a part of `data`. With it, a cancel is delivered when
    the file is as it was or has been replaced, and nothing else is left.

    Raises:
        OSError: as open(2), write(2), rename(2) and fsync(2), with the file name. With `atomic` a file that may not be
            written is not replaced either (EACCES), nor is what is no regular file (EINVAL).
            Where the fsync of the folder fails, the file has been replaced, but that may not be durable.
        TypeError, BufferError: `data` is text, or not contiguous; `path` is an fd.
        ValueError: `path` has a NUL in it.
        RingClosedError, WrongLoopError: as `read_file`.
    """
    here = get_ring() if ring is None else ring
    name, pieces = os.fspath(path), Pieces(data)
    try:
        if not atomic:
            return await put(here, name, "wb", pieces, durable, mode)
        sys.audit("open", name, "wb", modes.parse("wb").flags)
        return await replace(here, name, pieces, durable, mode)
    finally:
        await pieces.aclose()


async def append_file(
    path: StrOrBytesPath, data: Any, *, durable: bool = False, mode: int | None = None, ring: Ring | None = None
) -> int:
    """Put `data`, any contiguous buffer, at the end of a file, which is made where there is none; returns its size.

    It is one write(2) with O_APPEND: what others append at the same time comes before or behind it. (A short one, on a
    disk that gets full, is continued.) `durable`, `mode` and errors as `write_file`; cancelled, a part may be there.
    """
    here = get_ring() if ring is None else ring
    return await put(here, os.fspath(path), "ab", Pieces(bytes_of(data)), durable, mode)
