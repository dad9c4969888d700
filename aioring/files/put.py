"""Writing a whole file where it is: `write_file` without `atomic`, and `append_file`.

    open  write -> fsync -> close (one chain)  fsync of the folder (one for all who wait: folders.py)

What is no regular file, or is to have a mode of its own, is written as an open file is.
"""

from __future__ import annotations

import errno
import os
import sys
from inspect import isasyncgen
from typing import Any, Self

from ..buffers import lent_bytes
from ..kernel import at_once
from ..ring import Pending, Ring
from . import modes
from .binary import RawFile
from .folders import folder_of, sync_folder
from .here import NOT_TRIED, Kinds
from .opening import open_file
from .raw import KIND, REGULAR
from .ring_io import close_fd

__all__ = ["Pieces", "bytes_of", "named", "put"]

_LINKS = 3  # of the chain: a ring of fewer slots takes them one by one
_KINDS = Kinds(RawFile, RawFile, RawFile, RawFile)


def named(error: OSError, name: Any) -> OSError:
    """The same with the file name, where what failed knew but an fd."""
    if error.filename is None:
        error.filename = name
    return error


class Pieces:
    """What is to be written: `only` one view, or what an async iterable gives. (No async generator: trio warns of those
    that are left early.)"""

    def __init__(self, data: Any) -> None:
        self._source = aiter(data) if hasattr(data, "__aiter__") else None
        self.only = None if self._source is not None else bytes_of(data)
        self._given = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        if self._source is not None:
            return bytes_of(await anext(self._source))
        if self._given or self.only is None:
            raise StopAsyncIteration
        self._given = True
        return self.only

    async def aclose(self) -> None:
        """End a generator that was not run to its end; nobody else has it."""
        if isasyncgen(self._source):
            await self._source.aclose()


def bytes_of(data: Any) -> memoryview:
    if isinstance(data, str):
        raise TypeError(
            "a bytes-like object is required, not 'str': encode it, or write it with `aioring.open(path, 'w')`"
        )
    return lent_bytes(data)


# Hot path: once per file; measured in benchmarks/whole.py.


async def put(ring: Ring, name: Any, how: str, pieces: Pieces, durable: bool, mode: int | None) -> int:
    """Returns how many bytes were written. The caller's memory is lent to the kernel by `Ring.write` and the chain, which
    return, cancelled or not, when it is done with it (invariant 1)."""
    if mode is not None or b"\0" in os.fsencode(name):
        return await _as_file(ring, NOT_TRIED, name, how, pieces, durable, mode)
    flags, folder = modes.parse(how).flags, os.path.dirname(name)
    sys.audit("open", name, how, flags)
    try:
        # What is no symbolic link has its name in the folder that its path says.
        fd = await ring._open_file(name, flags | os.O_NOFOLLOW if durable else flags)
    except OSError as error:
        if not durable or error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
        fd, folder = await ring._open_file(name, flags), None
    shape = at_once.shape_of(fd)
    if shape is None or shape[2] & KIND != REGULAR:
        return await _as_file(ring, fd, name, how, pieces, durable, mode)
    closing: Pending[None] | None = None
    asked = False  # to close it in any case
    size, only = 0, pieces.only
    try:
        if only is None:
            async for view in pieces:  # (an OSError of its own is no news of this file)
                try:
                    size += await ring.write(fd, size, view)
                except OSError as error:
                    raise named(error, name) from None
        try:
            if ring._engine.depth >= _LINKS:
                async with ring.chain() as chain:
                    if only:
                        chain.write(fd, 0, only)
                        size = len(only)
                    if durable:
                        chain.fsync(fd)
                    closing = chain.close(fd)
            else:
                if only:
                    size = await ring.write(fd, 0, only)
                if durable:
                    await ring.fsync(fd)
                asked = True
                await close_fd(ring, fd)
        except OSError as error:
            raise named(error, name) from None
    except BaseException:
        if not asked and (closing is None or closing._handle.res == -errno.ECANCELED):
            await close_fd(ring, fd)  # the kernel has not come to it
        raise
    if durable:
        await sync_folder(ring, await ring.run(folder_of, name) if folder is None else folder)
    return size


async def _as_file(ring: Ring, tried: int, name: Any, how: str, pieces: Pieces, durable: bool, mode: int | None) -> int:
    opener = None if mode is None else _opener(mode)
    file: Any = await open_file(ring, _KINDS, tried, name, how, 0, None, None, None, True, opener)
    try:
        size = 0
        async for view in pieces:
            try:
                done = 0
                while done < len(view):
                    done += await file.write(view[done:])
            except OSError as error:
                raise named(error, name) from None
            size += done
        if durable:
            try:
                await ring.fsync(file.fileno())
            except OSError as error:
                raise named(error, name) from None
    finally:
        await file.close()
    if durable:
        await sync_folder(ring, await ring.run(folder_of, name))
    return size


def _opener(mode: int) -> Any:
    def opener(path: Any, flags: int) -> int:
        fd = os.open(path, flags, mode)
        try:
            os.fchmod(fd, mode)
        except BaseException:
            os.close(fd)
            raise
        return fd

    return opener
