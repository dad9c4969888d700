"""Making names durable: one fsync(2) of a folder for all who wait for one.

It serves those whose names were there when it was submitted (fsync(2) says nothing of what comes later), so who comes while
one runs has the next, together with all others who came meanwhile: PostgreSQL's rule for its log (xlog.c, XLogFlush).
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from ..loops.outcome import Outcome
from ..ring import Ring
from .ring_io import close_fd

__all__ = ["folder_of", "sync_folder"]


_WHAT = "fsync of a folder"


class _Folder:
    """`running` has been submitted, or may have been; `next` has not."""

    def __init__(self, ring: Ring, path: str) -> None:
        self.loop = ring._engine.loop
        self.path = path
        self.running: Outcome[bool] | None = None
        self.next: Outcome[bool] | None = None

    def join(self, ring: Ring) -> Outcome[bool]:
        if self.running is None:
            batch: Outcome[bool] = Outcome(self.loop, _WHAT)
            self.begin(ring, batch)
            self.running = batch
        else:
            if self.next is None:
                self.next = Outcome(self.loop, _WHAT)
            batch = self.next
        return batch

    def begin(self, ring: Ring, batch: Outcome[bool]) -> None:
        self.loop.spawn(partial(_sync, ring, self.path), partial(self.ended, ring, batch))

    def ended(self, ring: Ring, batch: Outcome[bool], value: bool | None, error: BaseException | None) -> None:
        """Harmless when done twice."""
        batch.set(value, error)
        if self.running is not batch:
            return
        if self.next is None:
            _folders.get(ring, {}).pop(self.path, None)
        else:
            self.begin(ring, self.next)
        self.running, self.next = self.next, None


_folders: WeakKeyDictionary[Ring, dict[str, _Folder]] = WeakKeyDictionary()


async def sync_folder(ring: Ring, path: Any) -> None:
    """Return when all names that are in the folder now are on the disk. Cancelling returns at once.

    Raises:
        OSError: as open(2) and fsync(2), with the folder's name: what is on the disk is not known.
        RingClosedError, WrongLoopError: as every operation of a ring.
    """
    engine, key = ring._engine, _key(path)
    await engine.loop.checkpoint()
    folders = _folders.setdefault(ring, {})
    folder = folders.get(key)
    if folder is None:
        folder = folders[key] = _Folder(ring, key)
    batch = folder.join(ring)
    await batch.wait()
    error = batch.error
    try:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path)  # each has its own: it is raised in many places
        if error is not None:
            raise error.with_traceback(None)
    finally:
        del error


def _key(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # (asks for the current folder at most)


async def _sync(ring: Ring, path: str) -> bool:
    fd = await ring.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await ring.fsync(fd)
    finally:
        await close_fd(ring, fd)
    return True


def folder_of(path: Any) -> Any:
    """On a worker: where the name of the file is that `path` leads to."""
    return os.path.dirname(os.path.realpath(path))
