"""A trace: what a ring was asked, told and answered, and enough of the files beneath to say what a power cut would leave.

`Recording` and `Scripted` write it, `testing/` reads it. Of every operation that changes a file or a name it keeps an
`Effect`: the bytes (copied: the buffer is its owner's again after the `await`), and which file and folder they went to, by
device and inode, since an fd or a path names another file a moment later. What stood there before is kept when it is first
touched: all that was there before the trace is taken to be on the disk.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..handle import Handle
from ..kernel import abi
from ..operations import rest_of

__all__ = ["Effect", "Event", "Identity", "Seen", "Trace"]

Identity = tuple[int, int]  # st_dev, st_ino
Entry = tuple[Identity, bytes]  # a folder, and a name in it

_TMPFILE = getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY
_NAMES = frozenset(("rename", "link", "unlink", "rmdir", "mkdir", "symlink"))
_DATA = frozenset(("write", "writev", "truncate", "allocate", "fsync"))


@dataclass(frozen=True, slots=True)
class Effect:
    """What an operation does to files and names. Of "completed": which file or folder came of it."""

    file: Identity | None = None  # the fd's; of a link its source
    data: bytes = b""  # what is written, or what a symbolic link leads to
    offset: int = 0  # -1: at the end, whatever that is
    entry: Entry | None = None  # the name; of a rename or link the old one
    entry2: Entry | None = None  # the new one
    flags: int = 0  # of the open, or of the fd
    fresh: bool = False  # an open makes a file
    chain: tuple[int, int] | None = None  # which chain, and which link of it


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace. `number` is the I/O's, counted from 1 in the order of staging."""

    what: str  # "staged", "submitted", "completed", "cancelled" (asked for), or what `note` was given
    number: int
    operation: str
    fd: int
    offset: int
    length: int
    res: int | None = None
    value: Any = None
    effect: Effect | None = field(default=None, compare=False, repr=False)


class Trace:
    """The events of one ring, in order. Compare two to see whether two runs were the same.

    `folder`: what is in it now is kept as well, touched or not, and `power_cuts` gives the whole of it; without, what the
    ring touches, beneath the folder that all of it is in. `data=False` keeps no bytes: enough to count and compare.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, data: bool = True) -> None:
        self.events: list[Event] = []
        self.seen: Seen | None = Seen() if data else None
        self.folder = None if folder is None else os.path.realpath(folder)
        self._numbers = 0
        self._chains: dict[int, int] = {}
        self._held: list[Any] = []  # chains, so that no other has their id()
        if self.folder is not None:
            if self.seen is None:
                raise ValueError("a trace without data keeps no folder")
            self.seen.tree(self.folder)

    def note(self, what: str, value: Any = None) -> None:
        """Put an event of the program's own between those of the ring: a promise that it made to somebody, say."""
        self.events.append(Event(what, 0, "", -1, 0, 0, None, value))

    def add(self, what: str, handle: Handle, res: int | None = None) -> None:
        if not handle.number:
            self._numbers += 1
            handle.number = self._numbers
        offset, length = handle.offset + handle.done, handle.length - handle.done
        effect = None
        if self.seen is not None:
            if what == "submitted":
                effect = self.seen.submitted(handle, self._link_of(handle))
            elif what == "completed":
                effect = self.seen.completed(handle, res)
        event = Event(what, handle.number, handle.operation.name, handle.fd, offset, length, res, None, effect)
        self.events.append(event)

    def _link_of(self, handle: Handle) -> tuple[int, int] | None:
        if handle.chain is None or handle.link is None:
            return None
        if id(handle.chain) not in self._chains:
            self._chains[id(handle.chain)] = len(self._chains)
            self._held.append(handle.chain)
        return self._chains[id(handle.chain)], handle.link

    def count(self, what: str, operation: str | None = None) -> int:
        """How many events of a kind there are."""
        return sum(1 for e in self.events if e.what == what and (operation is None or e.operation == operation))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __str__(self) -> str:
        return "\n".join(
            f"{e.what:10} {e.number:5} {e.operation:10} fd {e.fd} offset {e.offset} length {e.length}"
            + ("" if e.res is None else f" res {e.res}")
            for e in self.events
        )


class Seen:
    """What was there when a trace first touched it, and who is who. Asked on the loop's thread, by blocking calls: this is
    for tests."""

    def __init__(self) -> None:
        self.folders: dict[Identity, str] = {}  # and their paths
        self.names: dict[Entry, Identity | None] = {}
        self.files: dict[Identity, bytes] = {}
        self.links: dict[Identity, bytes] = {}
        self._made: set[Identity] = set()  # since the trace began

    # --- what was there -----------------------------------------------------------------------------------------------

    def tree(self, folder: str) -> None:
        for path, folders, files in os.walk(folder):
            here = self.folder(path)
            for name in (*folders, *files):
                self._look((here, os.fsencode(name)), os.path.join(path, name))

    def folder(self, path: str) -> Identity:
        """A folder and all that it is in. `path` is absolute and has no links in it."""
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity not in self.folders:
            self.folders[identity] = path
            above, name = os.path.split(path)
            if name and identity not in self._made:
                self.names.setdefault((self.folder(above), os.fsencode(name)), identity)
        return identity

    def _look(self, entry: Entry, path: str) -> bool:
        """Whether anything is there now; what was there at first is kept."""
        try:
            status = os.lstat(path)
        except OSError:
            self.names.setdefault(entry, None)
            return False
        identity = (status.st_dev, status.st_ino)
        if entry not in self.names:
            self.names[entry] = identity
            if identity in self._made:
                return True
            if stat.S_ISDIR(status.st_mode):
                self.folder(os.path.realpath(path))
            elif stat.S_ISLNK(status.st_mode):
                self.links[identity] = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                self._keep(identity, path)
        return True

    def _keep(self, identity: Identity, path: str) -> None:
        if identity not in self.files and identity not in self._made:
            try:
                with open(path, "rb") as file:
                    self.files[identity] = file.read()
            except OSError:  # not ours to read: its length is all that can be said
                self.files[identity] = bytes(os.stat(path).st_size)

    def _of_fd(self, fd: int) -> Identity | None:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        if identity in self._made or identity in self.files:
            return identity
        path = f"/proc/self/fd/{fd}"
        if stat.S_ISDIR(status.st_mode):
            self.folder(os.path.realpath(path))
        elif stat.S_ISREG(status.st_mode):
            real = os.path.realpath(path)  # opened before the trace began
            above, name = os.path.split(real)
            if os.path.isdir(above):
                self._look((self.folder(above), os.fsencode(name)), real)
            self._keep(identity, path)
        else:
            return None
        return identity

    # --- what is done -------------------------------------------------------------------------------------------------

    def submitted(self, handle: Handle, chain: tuple[int, int] | None) -> Effect | None:
        """None: it changes nothing, or fails."""
        name = handle.operation.name
        try:
            if name == "open":
                return self._open(handle)
            if name in _DATA:
                return self._data(handle, chain)
            if name in _NAMES:
                return self._names(handle)
        except OSError:
            pass
        return None

    def _open(self, handle: Handle) -> Effect | None:
        flags = handle.flags
        if not flags & (os.O_CREAT | os.O_TRUNC | _TMPFILE):
            return None
        if flags & _TMPFILE:
            return Effect(flags=flags, fresh=True)
        path = _absolute(handle.fd, handle.name)
        entry, there = self._entry(_parent_real(path) if flags & os.O_EXCL else os.path.realpath(path))
        return Effect(entry=entry, flags=flags, fresh=not there)

    def _data(self, handle: Handle, chain: tuple[int, int] | None) -> Effect | None:
        file = self._of_fd(handle.fd)
        if file is None:
            return None
        flags, offset, data = fcntl.fcntl(handle.fd, fcntl.F_GETFL), handle.offset + handle.done, b""
        if handle.operation.transfers:
            if flags & os.O_APPEND:
                offset = -1  # pwrite(2), BUGS: wherever it was told to write
            elif handle.offset == abi.MAX_OFFSET:
                offset = os.lseek(handle.fd, 0, os.SEEK_CUR)
            if handle.views is not None:
                data = b"".join(rest_of(handle.views, handle.done, abi.MAX_TRANSFER))
            elif handle.view is not None:
                data = bytes(memoryview(handle.view)[handle.done : handle.length])
        if handle.operation.name == "allocate":
            flags = handle.mode
        return Effect(file=file, data=data, offset=offset, flags=flags, chain=chain)

    def _names(self, handle: Handle) -> Effect | None:
        name = handle.operation.name
        if name == "symlink":
            entry, _ = self._entry(_parent_real(_absolute(handle.fd, handle.name2)))
            return Effect(entry=entry, data=os.fsencode(handle.name))
        if name in ("mkdir", "unlink", "rmdir"):
            return Effect(entry=self._entry(_parent_real(_absolute(handle.fd, handle.name)))[0])
        entry2, _ = self._entry(_parent_real(_absolute(handle.fd2, handle.name2)))
        path = _absolute(handle.fd, handle.name)
        if name == "link":
            status = os.stat(path) if handle.flags & abi.AT_SYMLINK_FOLLOW else os.lstat(path)
            file = (status.st_dev, status.st_ino)
            if status.st_nlink and not path.startswith("/proc/"):
                self._entry(_parent_real(path))
            return Effect(file=file, entry2=entry2)
        return Effect(entry=self._entry(_parent_real(path))[0], entry2=entry2)

    def _entry(self, path: str) -> tuple[Entry, bool]:
        above, name = os.path.split(path)
        entry = self.folder(above), os.fsencode(name)
        return entry, self._look(entry, path)

    def completed(self, handle: Handle, res: int | None) -> Effect | None:
        if res is None or res < 0:
            return None
        try:
            if handle.operation.name == "open" and handle.flags & (os.O_CREAT | os.O_TRUNC | _TMPFILE):
                status = os.fstat(res)
                if not stat.S_ISREG(status.st_mode):
                    return None
            elif handle.operation.name == "mkdir":
                path = _parent_real(_absolute(handle.fd, handle.name))
                status = os.lstat(path)
                self.folders.setdefault((status.st_dev, status.st_ino), path)
            elif handle.operation.name == "symlink":
                status = os.lstat(_parent_real(_absolute(handle.fd, handle.name2)))
            else:
                return None
        except OSError:
            return None
        identity = (status.st_dev, status.st_ino)
        if identity not in self.files or handle.operation.name != "open":
            self._made.add(identity)
        return Effect(file=identity)


def _absolute(dir_fd: int, name: Any) -> str:
    path = os.fsdecode(name)
    if os.path.isabs(path):
        return path
    return os.path.join(os.getcwd() if dir_fd == abi.AT_FDCWD else os.path.realpath(f"/proc/self/fd/{dir_fd}"), path)


def _parent_real(path: str) -> str:
    above, name = os.path.split(path.rstrip("/"))
    return os.path.join(os.path.realpath(above or "/"), name)
