"""A disk that forgets: what of a trace is on it at each step, and what may be.

What is promised is what Linux and POSIX promise, and no more (fsync(2), rename(2), open(2), T. Pillai et al., "All File
Systems Are Not Created Equal", OSDI 2014):

* All that was there before the trace is on the disk.
* A write may reach the disk from the moment it is submitted on, or never, each of its sectors for itself and in any order.
* fsync(2) or fdatasync(2) that succeeds covers, of its file, the writes that were complete when it was submitted and those
  that were linked before it; so does O_SYNC or O_DSYNC the write itself. sync_file_range(2) covers nothing.
* fsync(2) that fails covers nothing, and what was waiting for it then is covered by no later one: the kernel takes those
  pages for clean (PostgreSQL's fsync affair of 2018). Only writing it again helps.
* A new name, a rename or a removal is there or not, never half; it is covered by an fsync of each folder concerned, not by
  one of the file. In which order names reach the disk nobody says; `names="ordered"` has them in the order in which they
  were asked for, as file systems with a journal do.
* The length of a file may have grown where its new bytes have not come (they read as zeros).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..methods.trace import Effect, Entry, Event, Identity, Trace

__all__ = ["Change", "Disk", "Kept", "Node", "Replay"]

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
_SYNC = os.O_SYNC | getattr(os, "O_DSYNC", 0)
_DATA = frozenset(("write", "writev", "truncate", "allocate"))
_CHANGES = _DATA | {"open", "rename", "link", "unlink", "rmdir", "mkdir", "symlink"}

Kept = bool | str | frozenset[int]  # of a change: all (True), the new "length" alone, or these sectors


@dataclass(frozen=True, slots=True)
class Disk:
    """`sector`: what is written whole or not at all, in bytes. `names`: see the module. `samples`: how many random subsets
    of what is not synced are tried at each step, besides those that are tried always."""

    sector: int = 512
    names: Literal["any", "ordered"] = "any"
    samples: int = 8

    def __post_init__(self) -> None:
        if self.sector < 1:
            raise ValueError(f"a sector of {self.sector} bytes: at least 1")
        if self.names not in ("any", "ordered"):
            raise ValueError(f"names={self.names!r}: 'any' or 'ordered'")


@dataclass(slots=True, eq=False)
class Node:
    """A file, folder or symbolic link, whatever its names are."""

    kind: Literal["file", "folder", "link"]
    base: bytes = b""  # what is on the disk for good; what a link leads to
    changes: list[Change] = field(default_factory=list)  # what came after, in order
    size: int = 0  # with all that came after
    path: str = ""  # of a folder, where the trace met it; of a file, for people

    def image(self, kept: dict[Change, Kept], sector: int) -> bytes:
        """What a reader finds if of what is not durable only `kept` reached the disk."""
        if not self.changes:
            return self.base
        data = bytearray(self.base)
        for change in self.changes:
            how: Kept | None = True if change.durable else kept.get(change)
            if how is not None:
                change.put(data, how, sector)
        return bytes(data)


@dataclass(slots=True, eq=False)
class Change:
    """One operation's effect: on the bytes of `node`, or on names."""

    step: int  # of the trace, at which it was submitted
    number: int  # the I/O's
    what: str  # "write", "truncate", "zero", "grow" of a node; or the operation on names
    node: Node | None = None
    offset: int = 0
    data: bytes = b""
    length: int = 0  # where there is no data: how far
    names: dict[tuple[Node, bytes], Node | None] = field(default_factory=dict)
    over: int | None = None  # the step at which it was complete
    append: bool = False  # its place is the end, which is known when it is complete
    durable: bool = False
    by: int = 0  # the I/O that made it durable
    forsaken: bool = False  # an fsync that was to cover it failed
    sync: bool = False  # O_SYNC
    grows: bool = False  # a zeroed range, past the end too
    chain: tuple[int, int] | None = None
    unsynced: set[Node] = field(default_factory=set)  # folders

    def sectors(self, sector: int) -> range:
        """The sectors that a write touches, numbered from the start of the file."""
        if self.what != "write" or not self.data:
            return range(0)
        return range(self.offset // sector, (self.offset + len(self.data) - 1) // sector + 1)

    def put(self, image: bytearray, how: Kept, sector: int) -> None:
        end = self.offset + (len(self.data) if self.what == "write" else self.length)
        if self.what == "truncate":
            if len(image) > self.length:
                del image[self.length :]
            image.extend(bytes(self.length - len(image)))
        elif self.what == "zero":
            if self.grows:
                image.extend(bytes(max(0, end - len(image))))
            upto = min(end, len(image))
            image[self.offset : upto] = bytes(max(0, upto - self.offset))
        elif self.what == "grow":
            image.extend(bytes(max(0, end - len(image))))
        elif how is True or how == "length":
            if self.data:
                image.extend(bytes(max(0, end - len(image))))
            if how is True:
                image[self.offset : end] = self.data
        else:
            assert isinstance(how, frozenset)
            for number in sorted(how):
                low, high = max(number * sector, self.offset), min((number + 1) * sector, end)
                image.extend(bytes(max(0, high - len(image))))
                image[low:high] = self.data[low - self.offset : high - self.offset]

    def __str__(self) -> str:
        if self.node is not None:
            if self.what == "write":
                what = f"write of {len(self.data)} bytes at {self.offset}"
            elif self.what == "truncate":
                what = f"truncate to {self.length} bytes"
            else:
                what = f"{self.what} of {self.length} bytes at {self.offset}"
            return f"{what} of {self.node.path or 'a file without a name'!r} (I/O {self.number})"
        to = {name: node for (_, name), node in self.names.items()}
        new = [os.fsdecode(name) for name, node in to.items() if node is not None]
        old = [os.fsdecode(name) for name, node in to.items() if node is None]
        between = " -> ".join(repr(name) for name in (*old, *new))
        return f"{self.what} {between} (I/O {self.number})"


class Replay:
    """Goes through a trace; at every step knows what is on the disk and what may be."""

    def __init__(self, trace: Trace, disk: Disk) -> None:
        if trace.seen is None:
            raise ValueError("this trace kept no data: Trace(), not Trace(data=False), and give it to Scripted(trace=)")
        self.trace, self.disk = trace, disk
        self.names: dict[tuple[Node, bytes], Node | None] = {}  # on the disk for good
        self.latest: dict[tuple[Node, bytes], Node | None] = {}  # as a program sees them
        self.pending: list[Change] = []  # on names or nodes, in order of submission
        self.notes: list[Event] = []  # so far
        self._ids: dict[Identity, Node] = {}
        self._flying: dict[int, list[Change]] = {}  # by number
        self._fsyncs: dict[int, tuple[Node, list[Change]]] = {}
        self._ends = self._outcomes()
        self._base()
        self.root = self._find_root()

    def _outcomes(self) -> dict[int, Event]:
        """By the step of each submission: how it ended. What fails never happens; which file an open led to is known only
        by this, where several go on at once."""
        ends: dict[int, Event] = {}
        open_: dict[int, list[int]] = {}
        for step, event in enumerate(self.trace):
            if event.what == "submitted":
                open_.setdefault(event.number, []).append(step)
            elif event.what == "completed":
                for begun in open_.pop(event.number, ()):
                    ends[begun] = event
        return ends

    def _base(self) -> None:
        seen = self.trace.seen
        assert seen is not None
        for identity, path in seen.folders.items():
            self._ids[identity] = Node("folder", path=path)
        for identity, data in seen.files.items():
            self._ids[identity] = Node("file", data, size=len(data))
        for identity, data in seen.links.items():
            self._ids[identity] = Node("link", data)
        for (folder, name), found in seen.names.items():
            node = None if found is None else self._ids.get(found)
            if node is not None:
                above = self._ids[folder]
                self.names[(above, name)] = self.latest[(above, name)] = node
                node.path = node.path or os.path.join(above.path, os.fsdecode(name))

    def _find_root(self) -> Node:
        """The folder that is asked for, or the deepest that holds everything the trace touched."""
        seen = self.trace.seen
        assert seen is not None
        wanted = self.trace.folder
        if wanted is None:
            touched = {entry[0] for e in self.trace for entry in _entries(e.effect)}
            named = {found: entry[0] for entry, found in seen.names.items() if found is not None}
            for event in self.trace:
                file = None if event.effect is None else event.effect.file
                if file in seen.folders:
                    touched.add(file)
                elif file in named:
                    touched.add(named[file])
            paths = [seen.folders[identity] for identity in touched if identity in seen.folders]
            if not paths:
                return Node("folder", path="/")
            wanted = os.path.commonpath(paths)
        found = (self._ids[identity] for identity, path in seen.folders.items() if path == wanted)
        return next(found, None) or Node("folder", path=wanted)

    def changes_of(self, number: int) -> list[Change]:
        """What an I/O that has been submitted, and is not complete, may change."""
        return self._flying.get(number, [])

    # --- going on -----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[int, Event | None]]:
        """Every step before which a cut may find something else than before the last, and the end."""
        moved = True  # the very beginning
        for step, event in enumerate(self.trace):
            if moved:
                yield step, event
            moved = self.apply(step, event)
        if moved:
            yield len(self.trace), None

    def loose(self) -> list[Change]:
        """What may be on the disk or not, in order of submission."""
        return [c for c in self.pending if not c.durable]

    def names_with(self, kept: dict[Change, Kept]) -> dict[tuple[Node, bytes], Node | None]:
        names = dict(self.names)
        for change in self.pending:
            if change.names and (change.durable or change in kept):
                for entry, node in change.names.items():
                    if node is not None and node.kind == "folder":  # which has one name
                        for old in [other for other, named in names.items() if named is node]:
                            del names[old]
                    names[entry] = node
        return names

    def apply(self, step: int, event: Event) -> bool:
        """Whether there is more that a cut may keep or lose."""
        if event.what == "submitted":
            if event.operation == "fsync" and event.effect is not None and event.effect.file is not None:
                node = self._ids.get(event.effect.file)
                if node is not None:
                    self._fsyncs.setdefault(event.number, (node, self._covered_by(node, event.effect)))
                return False
            if event.operation in _CHANGES and event.effect is not None and event.number not in self._flying:
                self._flying[event.number] = made = self._changes(step, event, event.effect)
                return bool(made)
        elif event.what == "completed":
            return self._completed(step, event)
        elif event.what not in ("staged", "cancelled"):
            self.notes.append(event)
            return True
        return False

    def _covered_by(self, node: Node, effect: Effect) -> list[Change]:
        def linked(change: Change) -> bool:
            return (
                change.chain is not None
                and effect.chain is not None
                and change.chain[0] == effect.chain[0]
                and change.chain[1] < effect.chain[1]
            )

        if node.kind == "folder":
            return [c for c in self.pending if node in c.unsynced and c.over is not None and not c.forsaken]
        return [c for c in self.pending if c.node is node and (c.over is not None or linked(c)) and not c.forsaken]

    def _completed(self, step: int, event: Event) -> bool:
        res = 0 if event.res is None else event.res
        if event.number in self._fsyncs:
            node, covered = self._fsyncs.pop(event.number)
            for change in covered:
                if res < 0:
                    # Cancelled or asked again: it may not have run, and covers nothing; but nothing failed.
                    change.forsaken = change.forsaken or res not in _NOT_RUN
                else:
                    change.unsynced.discard(node)
                    change.durable = not change.unsynced
                    change.by = event.number
            if self.disk.names == "ordered":
                last = max((i for i, c in enumerate(self.pending) if c.names and c.durable), default=-1)
                for change in self.pending[: last + 1]:
                    change.durable = change.durable or bool(change.names and change.over is not None)
            self._fold()
            return bool(covered) and res >= 0
        changes = self._flying.pop(event.number, [])
        moved = False
        for change in changes:
            change.over = step
            if res == -errno.EIO and change.node is not None:
                change.forsaken = True  # it, or some of it, may be there all the same
            elif res < 0:
                self._drop(change)
                moved = True
            elif change.what == "write":
                if change.append and change.node is not None:
                    change.offset = change.node.size
                if res < len(change.data) or change.append:
                    change.data = change.data[:res]
                    self._measure(change.node)
                    moved = True
                change.durable, change.by = change.sync, event.number
                moved = moved or change.sync
        self._fold()
        return moved

    def _drop(self, change: Change) -> None:
        """It has not happened."""
        if change in self.pending:
            self.pending.remove(change)
        if change.node is not None and change in change.node.changes:
            change.node.changes.remove(change)
            self._measure(change.node)
        if change.names:
            self.latest = dict(self.names)
            for other in self.pending:
                self.latest.update(other.names)

    def _measure(self, node: Node | None) -> None:
        if node is not None:
            placed = [c for c in node.changes if not c.append or c.over is not None]
            node.size = len(node.image(dict.fromkeys(placed, True), self.disk.sector))
            for change in node.changes:
                if change.append and change.over is None:
                    change.offset = node.size

    def _fold(self) -> None:
        """What is durable, and has nothing before it that is not, is simply what is there."""
        self.pending = [c for c in self.pending if not (c.durable and c.node is not None and self._folded(c))]
        while True:
            first = next((c for c in self.pending if c.names), None)
            if first is None or not first.durable:
                return
            self.names.update(first.names)
            self.pending.remove(first)

    def _folded(self, change: Change) -> bool:
        node = change.node
        assert node is not None
        if change not in node.changes:
            return True
        data = None
        while node.changes and node.changes[0].durable:
            data = bytearray(node.base) if data is None else data
            node.changes.pop(0).put(data, True, self.disk.sector)
        if data is not None:
            node.base = bytes(data)
        return change not in node.changes

    # --- what an operation changes ------------------------------------------------------------------------------------

    def _changes(self, step: int, event: Event, effect: Effect) -> list[Change]:
        end = self._ends.get(step)
        if end is not None and end.res is not None and end.res < 0 and end.res != -errno.EIO:
            return []  # it has not happened (of what fails with EIO a part may have)
        made = self._on_data(step, event, effect) if event.operation in _DATA else self._on_names(step, event, effect)
        for change in made:
            if change.what == "create":
                continue  # without a name nobody finds it
            self.pending.append(change)
            if change.node is None:
                change.unsynced = {folder for folder, _ in change.names}
                self.latest.update(change.names)
            else:
                change.node.changes.append(change)
        return made

    def _on_data(self, step: int, event: Event, effect: Effect) -> list[Change]:
        node = None if effect.file is None else self._ids.get(effect.file)
        if node is None:
            return []
        change = Change(step, event.number, "write", node, chain=effect.chain, sync=bool(effect.flags & _SYNC))
        if event.operation == "truncate":
            change.what, change.length, node.size = "truncate", event.length, event.length
        elif event.operation == "allocate":
            mode = effect.flags
            change.offset, change.length = event.offset, event.length
            if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE):
                raise ValueError(f"step {step}: fallocate(2) with mode {mode:#x} moves bytes, which is not modelled")
            change.what = "zero" if mode & (_PUNCH_HOLE | _ZERO_RANGE) else "grow"
            if mode == _KEEP_SIZE:
                return []
            change.grows = not mode & _KEEP_SIZE
            if change.grows:
                node.size = max(node.size, change.offset + change.length)
        else:
            if not effect.data:
                return []
            change.data, change.append = effect.data, effect.offset < 0
            change.offset = node.size if change.append else effect.offset
            if not change.append:
                node.size = max(node.size, change.offset + len(effect.data))
        return [change]

    def _on_names(self, step: int, event: Event, effect: Effect) -> list[Change]:
        what, number = event.operation, event.number
        end = self._ends.get(step)
        if end is not None and end.res is not None and end.res < 0:
            return []  # a name is changed or it is not
        came_of_it = None if end is None or end.effect is None else end.effect.file
        if what == "open":
            return self._on_open(step, number, effect, came_of_it)
        entry = None if effect.entry is None else self._entry(effect.entry)
        entry2 = None if effect.entry2 is None else self._entry(effect.entry2)
        new: Node | None
        if what in ("unlink", "rmdir"):
            assert entry is not None
            return [] if self.latest.get(entry) is None else [Change(step, number, what, names={entry: None})]
        if what in ("mkdir", "symlink"):
            assert entry is not None
            new = Node("folder" if what == "mkdir" else "link", effect.data)
            new.path = os.path.join(entry[0].path, os.fsdecode(entry[1]))
            if came_of_it is not None:
                self._ids[came_of_it] = new
            return [Change(step, number, what, names={entry: new})]
        assert entry2 is not None
        path = os.path.join(entry2[0].path, os.fsdecode(entry2[1]))
        if what == "link":
            new = None if effect.file is None else self._ids.get(effect.file)
            if new is None:
                return []
            new.path = new.path or path
            return [Change(step, number, what, names={entry2: new})]
        assert entry is not None
        new = self.latest.get(entry)
        if new is None or new is self.latest.get(entry2):
            return []  # rename(2): two names of one file, nothing is done
        return [Change(step, number, what, names={entry: None, entry2: new})]

    def _on_open(self, step: int, number: int, effect: Effect, came_of_it: Identity | None) -> list[Change]:
        entry = None if effect.entry is None else self._entry(effect.entry)
        there = None if entry is None else self.latest.get(entry)
        known = None if came_of_it is None else self._ids.get(came_of_it)
        if there is None and known is not None and not effect.fresh:
            there = known  # its name is being changed by another
        if there is not None and (came_of_it is None or known is there):
            if not effect.flags & os.O_TRUNC or effect.flags & os.O_EXCL:
                return []
            there.size = 0
            return [Change(step, number, "truncate", there)]
        if not effect.fresh and not effect.flags & os.O_CREAT:
            return []
        new = Node("file")
        if came_of_it is not None:
            self._ids[came_of_it] = new
        if entry is None:
            return [Change(step, number, "create", new)]
        new.path = os.path.join(entry[0].path, os.fsdecode(entry[1]))
        return [Change(step, number, "open", names={entry: new})]

    def _entry(self, entry: Entry) -> tuple[Node, bytes]:
        return self._ids[entry[0]], entry[1]


_NOT_RUN = (-errno.EINTR, -errno.EAGAIN, -errno.ECANCELED)


def _entries(effect: Effect | None) -> Iterator[Entry]:
    if effect is not None:
        if effect.entry is not None:
            yield effect.entry
        if effect.entry2 is not None:
            yield effect.entry2
