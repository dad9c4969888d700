"""Folders and trees: what `Path.iterdir` and `Path.walk` run on workers.

`walk` gives what a scan at that moment would give: who iterates may make and remove folders meanwhile, and change the list
of those that it is to go into. But a hop to a worker for each folder costs as much as reading it. So a worker reads on,
into folders that come later, for a few milliseconds, and keeps when each was changed last; when its turn comes, one stat in
place says whether it has been changed since: its status time, which moves with every name in it and which nobody can set
back. What cannot be told so (it was changed within two seconds before it was read, which is as coarse as some disks keep
times; it is not in the kernel's caches) is read again, and where not all file systems are local, or on one that keeps no
such times (/proc), nothing is read ahead.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..kernel import mounts
from ..ring import Ring
from .jobs import Jobs

__all__ = ["Walk", "join", "names_in"]

_AHEAD = 4096  # names that are read ahead at most
_LONG = 0.005  # seconds of reading ahead at most
_COARSE = 2_100_000_000  # nanoseconds: some file systems keep times of whole seconds
_KEEP_TIMES = frozenset(("ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs", "overlay"))


def join(folder: str, name: str) -> str:
    """As pathlib joins them: "." is nothing."""
    if folder == ".":
        return name
    return folder + name if folder[-1:] == "/" else f"{folder}/{name}"


def names_in(folder: str) -> Iterator[str]:
    """On a worker, in bounded memory: the folder may have a million names."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


@dataclass(slots=True)
class _Scan:
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    error: OSError | None = None
    as_of: tuple[int, ...] | None = None  # None: it must be read when its turn comes


def _as_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _scan(path: str, follow: bool, device: int = -1) -> _Scan:
    """`device`: the one that it has to be on to be read ahead. `OSError`: it is on another."""
    scan = _Scan()
    if device >= 0:
        now, status = time.time_ns(), os.stat(path)
        if status.st_dev != device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        if now - max(status.st_mtime_ns, status.st_ctime_ns) > _COARSE:  # then what changes from now on changes this
            scan.as_of = _as_of(status)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    folder = entry.is_dir(follow_symlinks=follow)
                except OSError:
                    folder = False
                (scan.folders if folder else scan.files).append(entry.name)
    except OSError as error:
        scan.error = error.with_traceback(None)
    return scan


def _scan_ahead(path: str, later: list[str], seconds: float) -> dict[str, _Scan]:
    """On a worker: `path`, and what comes after it; `later`: what there is besides what is in it, last first."""
    found = {path: _scan(path, False)}
    try:
        device = os.stat(path).st_dev
    except OSError:
        return found
    if mounts.kind_of(device) not in _KEEP_TIMES:
        return found
    todo = [*later, *(join(path, name) for name in reversed(found[path].folders))]
    names, until = len(found[path].files), time.perf_counter() + seconds
    while todo and names < _AHEAD and time.perf_counter() < until:
        another = todo.pop()
        try:
            scan = _scan(another, False, device)
        except OSError:
            continue  # its turn says what is wrong, if it still is
        if scan.error is None:
            found[another] = scan
            names += len(scan.files) + len(scan.folders)
            todo += [join(another, name) for name in reversed(scan.folders)]
    return found


class Walk(Jobs[Any]):
    """`(root, folders, files)` for each folder, as `pathlib.Path.walk` has it on every Python; `make` makes the root."""

    def __init__(
        self,
        ring: Ring | None,
        top: str,
        top_down: bool,
        on_error: Callable[[OSError], object] | None,
        follow: bool,
        make: Callable[[str], Any],
    ) -> None:
        super().__init__(ring)
        self._top_down, self._on_error, self._follow, self._make = top_down, on_error, follow, make
        self._todo: list[Any] = [top]  # last first; tuples: folders whose insides have been given
        self._given: tuple[str, list[str]] | None = None  # its list may have been changed by who has it
        self._known: dict[str, _Scan] = {}
        self._now: str | None = None  # read for its turn, which is now
        self._ahead = _LONG  # seconds of reading ahead: less where it was for nothing

    def _next(self) -> Iterator[Any]:
        if self._given is not None:
            (root, folders), self._given = self._given, None
            self._todo += [join(root, name) for name in reversed(folders)]
        todo = self._todo
        while todo:
            path = todo[-1]
            if path.__class__ is tuple:
                todo.pop()
                yield self._make(path[0]), path[1], path[2]
                return
            scan = self._known.pop(path, None)
            if scan is None or (path != self._now and not self._holds(path, scan)):
                return  # to be read
            todo.pop()
            self._now = None
            if scan.error is not None:
                if self._on_error is not None:
                    try:
                        self._on_error(scan.error)
                    except BaseException:
                        todo.clear()
                        raise
                continue
            if self._top_down:
                self._given = path, scan.folders
                yield self._make(path), scan.folders, scan.files
                return
            todo.append((path, scan.folders, scan.files))
            todo += [join(path, name) for name in reversed(scan.folders)]

    def _holds(self, path: str, scan: _Scan) -> bool:
        """Whether a folder that was read ahead is as it was."""
        here = self._here
        if here is None or scan.as_of is None:
            self._ahead /= 4
            return False
        status = here._stat_here(path, True)
        holds = status is not None and scan.as_of == _as_of(status)
        self._ahead = min(_LONG, self._ahead * 2 + 1e-4) if holds else self._ahead / 4
        return holds

    def _begin(self) -> Callable[[], Any] | None:
        if not self._todo:
            return None
        path: str = self._todo[-1]
        self._known.clear()
        here = self._here
        if here is None or not here._at_once or self._follow or not mounts.all_local():
            return lambda: {path: _scan(path, self._follow)}  # what was read ahead could not be checked
        later = [other for other in self._todo[:-1] if other.__class__ is str][-64:]
        return partial(_scan_ahead, path, later, self._ahead)

    def _arrived(self, result: dict[str, _Scan]) -> None:
        self._known = result
        self._now = next(iter(result))

    async def aclose(self) -> None:
        """Iterating further ends at once."""
        await super().aclose()
        self._todo.clear()
        self._known.clear()
        self._given = None
