"""Which fsync covers each promise, told from the trace alone: no state of the disk is tried.

`power_cuts` finds what is lost; this says why: which write a promise was made for, and what made it durable, or did not.
The rules are `disk.py`'s: an fsync that succeeded covers what was complete when it was submitted, and what was linked
before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..methods.trace import Event, Trace
from .disk import Change, Disk, Node, Replay

__all__ = ["Synced", "assert_synced"]


@dataclass(frozen=True, slots=True)
class Synced:
    """A promise, and what covers it: `step`, the index of the note in the trace; its `value`; `by`, the numbers of the I/Os
    (fsyncs, or writes by O_DSYNC) that made durable what it is about."""

    step: int
    value: Any
    by: tuple[int, ...]


def assert_synced(
    trace: Trace, what: str, concerns: Callable[[Event, Any], bool] | None = None, disk: Disk | None = None
) -> list[Synced]:
    """Check that all a promise is about was durable when it was made: each `trace.note(what, value)`, in order.

    `concerns(event, value)`: whether a promise is about the I/O whose submission `event` is. By default, where `value` is
    bytes, about the writes that have those bytes in them, of which one has to be durable, and about the names and lengths
    of their files; else about all that was complete when it was made. What a later one that is durable has replaced does
    not matter, nor what was done to files that have no name any more.

    Raises:
        AssertionError: nothing covers it, which says what; or a promise of bytes is about no write at all.
        ValueError: the trace has no such note.
    """
    replay = Replay(trace, Disk() if disk is None else disk)
    asked = _about if concerns is None else concerns
    begun: dict[int, _Io] = {}
    fsyncs: list[tuple[int, Event]] = []
    found: list[Synced] = []
    for step, event in enumerate(trace):
        replay.apply(step, event)
        if event.what == "submitted":
            io = begun.setdefault(event.number, _Io(event, []))  # a short transfer is submitted again, for the rest
            io.changes += [change for change in replay.changes_of(event.number) if change.step == step]
        if event.operation == "fsync" and event.what in ("submitted", "completed"):
            fsyncs.append((step, event))
        if event.what == what and not event.number:
            named = {node for node in replay.latest.values() if node is not None}
            there = [io for io in begun.values() if all(c.node is None or c.node in named for c in io.changes)]
            found.append(_look(step, event.value, there, asked, fsyncs))
    if not found:
        raise ValueError(f"the trace has no note {what!r}")
    return found


@dataclass
class _Io:
    """One, and what it changes."""

    event: Event
    changes: list[Change]

    @property
    def durable(self) -> bool:
        return all(change.durable for change in self.changes)


def _about(event: Event, value: Any) -> bool:
    if not isinstance(value, (bytes, bytearray, memoryview)) or event.operation not in ("write", "writev"):
        return True
    return event.effect is not None and bytes(value) in event.effect.data


def _look(
    step: int, value: Any, begun: list[_Io], asked: Callable[[Event, Any], bool], fsyncs: list[tuple[int, Event]]
) -> Synced:
    promise = f"the promise {value!r:.60} at step {step}"
    by: set[int] = set()
    open_: list[Change] = []
    of_bytes = asked is _about and isinstance(value, (bytes, bytearray, memoryview))
    # Writes that have those bytes: one that is durable is enough, what failed may be written again.
    writes = [
        io for io in begun if of_bytes and io.changes and io.changes[0].what == "write" and asked(io.event, value)
    ]
    files = {io.changes[0].node for io in writes}
    for number, io in enumerate(begun):
        if io in writes or not io.changes or not asked(io.event, value) or (of_bytes and not _leads_to(io, files)):
            continue
        later = [change for other in begun[number + 1 :] for change in other.changes]
        for change in io.changes:
            if change.durable:
                by.add(change.by)
            elif change.over is not None and change.what != "create" and not _undone(change, later):
                open_.append(change)
    if of_bytes:
        if not writes:
            raise AssertionError(f"{promise} is about no write: none before it has these bytes")
        there = [io for io in writes if io.durable and not _replaced(io, value, begun)]
        by.update(change.by for io in there for change in io.changes)
        open_ += [change for change in writes[-1].changes if not there and not change.durable]
        if not there and not open_:
            raise AssertionError(f"nothing covers {promise}: something else was written over these bytes")
    for change in open_:
        raise AssertionError(f"nothing covers {promise}: {change}: {_why(change, fsyncs)}")
    return Synced(step, value, tuple(sorted(by)))


def _leads_to(io: _Io, files: set[Node | None]) -> bool:
    """Whether it is about the length of one of these, or a name that leads there."""
    for change in io.changes:
        if change.node is not None:
            if change.what != "write" and change.node in files:
                return True
        elif any(node is not None and (node in files or node.kind == "folder") for node in change.names.values()):
            return True
    return False


def _replaced(io: _Io, value: Any, begun: list[_Io]) -> bool:
    """Whether something else was written over the bytes later on."""
    assert io.event.effect is not None
    data, start = bytes(value), io.changes[0].offset + io.event.effect.data.find(bytes(value))
    end = start + len(data)
    for later in begun[begun.index(io) + 1 :]:
        for change in later.changes:
            if change.node is not io.changes[0].node:
                continue
            if change.what == "truncate" and change.length < end:
                return True
            if change.what == "zero" and change.offset < end and start < change.offset + change.length:
                return True
            if change.what == "write":
                low, high = max(start, change.offset), min(end, change.offset + len(change.data))
                if (
                    low < high
                    and change.data[low - change.offset : high - change.offset] != data[low - start : high - start]
                ):
                    return True
    return False


def _undone(change: Change, later: list[Change]) -> bool:
    """Whether it does not matter any more what became of `change`: later ones that are durable are in its place."""
    left = [(change.offset, change.offset + len(change.data))]
    for other in later:
        if not other.durable:
            continue
        if change.names:
            if set(change.names) <= set(other.names):
                return True
        elif other.node is not change.node:
            continue
        elif other.what == "truncate":
            if other.length <= (change.length if change.what == "truncate" else change.offset):
                return True
        elif change.what == other.what == "write":
            low, high = other.offset, other.offset + len(other.data)
            left = [
                (begin, end)
                for one in left
                for begin, end in ((one[0], min(one[1], low)), (max(one[0], high), one[1]))
                if begin < end
            ]
            if not left:
                return True
    return False


def _why(change: Change, fsyncs: list[tuple[int, Event]]) -> str:
    if change.over is None:
        return "it was not even complete"
    if change.forsaken:
        return "an fsync that was to cover it failed, and a later one does not help: only writing it again does"
    if change.node is None:
        folders = ", ".join(repr(folder.path) for folder in change.unsynced)
        return f"no fsync of the folder {folders} was submitted after it was complete"
    early = [e.number for step, e in fsyncs if e.what == "submitted" and change.step < step < change.over]
    if early:
        return f"the fsync (I/O {early[-1]}) was submitted before it was complete"
    return "no fsync of its file was submitted after it was complete, or none has succeeded"
