"""Every state that a power cut could leave of a recorded run, and a check that a program's recovery stands all of them.

A random kill proves nothing: the page cache outlives the process, and a log without any fsync passes twenty of those. What
a cut leaves is decided by what had been synced (`disk.py` says by which rules), so it is computed from the trace instead.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from ..methods.trace import Event, Trace
from .disk import Change, Disk, Kept, Node, Replay

__all__ = ["Cut", "check", "power_cuts"]

_EXHAUSTIVE = 4  # so many changes that are not synced: all subsets of them are tried

Choice = dict[Change, Kept]


class Cut:
    """What a power cut leaves: `files` (path to bytes), `links` and `folders`, by paths relative to the trace's folder.

    `step` is the number of events of the trace that had happened, `lost` and `kept` say of what was not synced what did not
    reach the disk and what did.
    """

    def __init__(self, replay: Replay, step: int, choice: Choice) -> None:
        self.step = step
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.folders: list[str] = []
        self._notes = [(event.what, event.value) for event in replay.notes]
        following = replay.trace.events[step] if step < len(replay.trace) else None
        self._next = "at the end" if following is None else f"before {_name(following)}"
        self._same: dict[Node, list[str]] = {}  # files that have several names
        self._root = replay.root.path
        loose = replay.loose()
        self._choice = choice
        self.kept = [self._tell(c, choice[c], replay.disk) for c in loose if c in choice]
        self.lost = [self._tell(c, True, replay.disk) for c in loose if choice.get(c) is not True]
        self._fill(replay, choice)

    def _fill(self, replay: Replay, choice: Choice) -> None:
        within: dict[Node, list[tuple[str, Node]]] = {}
        for (above, raw), inside in replay.names_with(choice).items():
            if inside is not None:
                within.setdefault(above, []).append((os.fsdecode(raw), inside))
        todo, been = [("", replay.root)], {replay.root}
        while todo:
            path, folder = todo.pop()
            for name, node in sorted(within.get(folder, ()), key=lambda item: item[0]):
                below = f"{path}/{name}" if path else name
                if node.kind == "folder":
                    if node not in been:
                        been.add(node)
                        self.folders.append(below)
                        todo.append((below, node))
                elif node.kind == "link":
                    self.links[below] = os.fsdecode(node.base)
                else:
                    self.files[below] = node.image(choice, replay.disk.sector)
                    self._same.setdefault(node, []).append(below)

    def noted(self, what: str) -> list[Any]:
        """The values of `trace.note(what, value)` that came before the cut: what the program had promised."""
        return [value for name, value in self._notes if name == what]

    def mount(self, folder: str | os.PathLike[str]) -> Path:
        """Make it real, in `folder`, which is made if need be and has to be empty. Links into the trace's folder lead into
        this one. Owners, modes and attributes are not modelled.

        Raises:
            FileExistsError: there is something in `folder`.
        """
        top = Path(folder)
        top.mkdir(parents=True, exist_ok=True)
        if any(top.iterdir()):
            raise FileExistsError(errno.EEXIST, "a cut is mounted in an empty folder", os.fspath(folder))
        for path in sorted(self.folders):
            (top / path).mkdir()
        for paths in self._same.values():
            (top / paths[0]).write_bytes(self.files[paths[0]])
            for other in paths[1:]:
                os.link(top / paths[0], top / other)
        for path, to in self.links.items():
            inside = to == self._root or to.startswith(self._root.rstrip("/") + "/")
            (top / path).symlink_to(f"{top.absolute()}{to[len(self._root.rstrip('/')) :]}" if inside else to)
        return top

    def _tell(self, change: Change, how: Kept, disk: Disk) -> str:
        what = str(change).replace(self._root.rstrip("/") + "/", "")
        if how is True:
            return what
        if how == "length":
            return f"only the length of the {what}"
        assert isinstance(how, frozenset)
        return f"of the {what} only the sectors at {', '.join(str(number * disk.sector) for number in sorted(how))}"

    def __str__(self) -> str:
        lines = [f"power cut at step {self.step}, {self._next}; of what was not synced"]
        lines += [f"  lost: {what}" for what in self.lost] or ["  nothing was lost"]
        lines += [f"  kept: {what}" for what in self.kept] or ["  nothing was kept"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Cut step={self.step} lost={len(self.lost)} kept={len(self.kept)}>"

    def _fingerprint(self) -> Any:
        files = tuple((path, data) for path, data in sorted(self.files.items()))
        return len(self._notes), files, tuple(sorted(self.links.items())), tuple(sorted(self.folders))


def _name(event: Event) -> str:
    return f"I/O {event.number} was {event.what} ({event.operation})" if event.number else f"the note {event.what!r}"


def power_cuts(trace: Trace, disk: Disk | None = None, seed: int = 0) -> Iterator[Cut]:
    """Every state that a cut could leave, from before the first event of `trace` to after its last.

    At every step at which something changes, of what is then not synced: everything reached the disk; nothing; everything
    but the first, but the last, the first alone, the last alone; names without data and data without names; lengths without
    data; writes torn between sectors; and `disk.samples` random subsets, by `seed`. Of up to 4 changes all subsets are
    tried. A state that was given before, with as many notes, is not given again.

    The first cut is what was there before the trace began.
    """
    disk = Disk() if disk is None else disk
    chance = random.Random(seed)
    replay = Replay(trace, disk)
    given: set[int] = set()
    for step, _ in replay.steps():
        for choice in _choices(replay.loose(), disk, chance):
            cut = Cut(replay, step, choice)
            mark = hash(cut._fingerprint())
            if mark not in given:
                given.add(mark)
                yield cut


def _choices(loose: list[Change], disk: Disk, chance: random.Random) -> Iterator[Choice]:
    """Which of `loose` reached the disk."""
    everything: Choice = dict.fromkeys(loose, True)
    writes = [c for c in loose if c.what == "write"]
    torn = [(c, how) for c in writes for how in _torn(c, disk, chance)]
    yield dict(everything)
    if loose:
        always: list[Choice] = [
            {},
            dict.fromkeys(loose[1:], True),
            dict.fromkeys(loose[:-1], True),
            {loose[0]: True},
            {loose[-1]: True},
            dict.fromkeys((c for c in loose if c.names), True),
            dict.fromkeys((c for c in loose if not c.names), True),
            _with(everything, dict.fromkeys(writes, "length")),
            *(_with(everything, {c: how}) for c, how in torn),
            *(_with({}, {c: how}) for c, how in torn),
        ]
        for choice in always:
            yield _in_order(choice, loose, disk)
    if 2 < len(loose) <= _EXHAUSTIVE:
        for bits in product((False, True), repeat=len(loose)):
            yield _in_order({c: True for c, bit in zip(loose, bits, strict=True) if bit}, loose, disk)
    if len(loose) > _EXHAUSTIVE or torn:
        for _ in range(disk.samples):
            sample: Choice = {c: True for c in loose if chance.random() < 0.5}
            for c in sample:
                numbers = c.sectors(disk.sector)
                if len(numbers) > 1 and chance.random() < 0.33:
                    sample[c] = frozenset(n for n in numbers if chance.random() < 0.5)
            yield _in_order(sample, loose, disk)


def _with(choice: Choice, more: Choice) -> Choice:
    return {**choice, **more}


def _torn(change: Change, disk: Disk, chance: random.Random) -> Iterator[Kept]:
    numbers = change.sectors(disk.sector)
    if len(numbers) > 1:
        yield frozenset(numbers[:1])
        yield frozenset(numbers[1:])
        yield frozenset(numbers[: chance.randrange(1, len(numbers))])


def _in_order(choice: Choice, loose: list[Change], disk: Disk) -> Choice:
    """Where a journal keeps names in order, none comes before those that were complete before it was asked for."""
    if disk.names == "any":
        return choice
    lost = [c for c in loose if c.names and c not in choice]
    for change in loose:
        if change.names and any(other.over is not None and other.over < change.step for other in lost):
            choice.pop(change, None)
            lost.append(change)
    return choice


def check(trace: Trace, disk: Disk | None, recover: Callable[[Path, Cut], object], seed: int = 0) -> int:
    """Mount every cut in a folder of its own and call `recover(folder, cut)`, which raises if it finds what must not be:
    anything that `cut.noted(...)` promised is missing, say, or a file is neither the old one nor the new one. Returns how
    many cuts it stood.

    Raises:
        AssertionError: what `recover` raised, as its cause, at the earliest step at which one was found, with as little
            lost as it takes; its text says step, seed and what was lost.
    """
    disk = Disk() if disk is None else disk
    stood = 0
    with tempfile.TemporaryDirectory(prefix="aioring-cuts-") as top:
        for cut in power_cuts(trace, disk, seed):
            error = _try(recover, cut, Path(top))
            if error is not None:
                least, error = _shrink(trace, disk, cut, recover, Path(top), error)
                text = f"{type(error).__name__}: {error}\n{least}\n(seed {seed}; {stood} cuts before it stood)"
                raise AssertionError(text) from error
            stood += 1
    return stood


def _try(recover: Callable[[Path, Cut], object], cut: Cut, top: Path) -> Exception | None:
    with tempfile.TemporaryDirectory(dir=top) as folder:
        try:
            recover(cut.mount(folder), cut)
        except Exception as error:
            return error
    return None


def _shrink(
    trace: Trace, disk: Disk, cut: Cut, recover: Callable[[Path, Cut], object], top: Path, error: Exception
) -> tuple[Cut, Exception]:
    """The same step, with as little lost as still breaks it."""
    replay = Replay(trace, disk)
    for step, _ in replay.steps():
        if step == cut.step:
            break
    loose = replay.loose()
    # (The changes of this replay are other objects than those of the cut.)
    by_place = {(c.step, c.number): how for c, how in cut._choice.items()}
    choice: Choice = {c: by_place[(c.step, c.number)] for c in loose if (c.step, c.number) in by_place}
    for change in loose:
        if choice.get(change) is True:
            continue
        more = _in_order(_with(choice, {change: True}), loose, disk)
        found = _try(recover, Cut(replay, cut.step, more), top)
        if found is not None:
            choice, error = more, found
    return Cut(replay, cut.step, choice), error
