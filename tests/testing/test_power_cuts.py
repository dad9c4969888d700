"""What a power cut leaves of atomic and durable writes: the old content or the new, whole, in every state that is possible;
and, after the promise, the new. And that the tool finds the bugs that it is for."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring import append_file, write_file
from aioring.handle import Handle
from aioring.methods.sync import Sync
from aioring.testing import Cut, Disk, Recording, Scripted, Trace, check, power_cuts

REAL = ("io_uring", "linux_aio", "worker", "sync")
OLD, NEW = b"old " * 700, b"NEW." * 1100

Program = Callable[[aioring.Ring, Trace, Path], Awaitable[None]]


def record(program: Program, folder: Path, method: str | int = "sync", faults: Any = None) -> Trace:
    """`method` by name, or the seed of a scripted one."""
    trace = Trace(folder)
    made: Any = Recording(method, trace) if isinstance(method, str) else None
    if made is None:
        assert isinstance(method, int)
        made = Scripted(method, faults=faults, trace=trace)

    async def main() -> None:
        async with aioring.Ring(method=made, page_cache_first=False) as ring:
            await program(ring, trace, folder)

    asyncio.run(main())
    return trace


def old_or_new(folder: Path, cut: Cut, *, may_be_missing: bool = False) -> None:
    path = folder / "state"
    got = path.read_bytes() if path.exists() or not may_be_missing else None
    assert got in (OLD, NEW) or (may_be_missing and got is None), f"neither old nor new, but {got!r:.60}"
    if cut.noted("ack"):
        assert got == NEW, "what was promised is not there"


# --- the proof --------------------------------------------------------------------------------------------------------


async def replaces(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
    await write_file(folder / "state", NEW, atomic=True, durable=True, ring=ring)
    trace.note("ack")


@pytest.mark.parametrize("method", [*REAL, *range(12)])
def test_an_atomic_durable_write_stands_every_cut(method: str | int, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(OLD)
    stood = check(record(replaces, tmp_path, method), Disk(samples=30), old_or_new)
    assert stood >= 4  # before; with a name of its own; renamed; promised
    new = tmp_path / "new"
    new.mkdir()
    assert check(record(replaces, new, method), None, partial(old_or_new, may_be_missing=True)) >= 4


@pytest.mark.parametrize("seed", range(6))
def test_where_the_file_system_has_no_files_without_names_too(seed: int, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(OLD)
    trace = record(replaces, tmp_path, seed, {("open", 1): errno.EOPNOTSUPP})
    assert trace.count("completed", "link") == 0
    assert check(trace, Disk(samples=30), old_or_new) >= 10  # its data under a name, in every state of incompleteness


@pytest.mark.parametrize("step", [("write", 1), ("fsync", 1), ("link", 1), ("rename", 1), ("fsync", 2)])
def test_a_write_that_fails_leaves_the_old_file_or_the_new(step: tuple[str, int], tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(OLD)

    async def fails(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        with pytest.raises(OSError):
            await replaces(ring, trace, folder)

    trace = record(fails, tmp_path, 1, {step: errno.EIO})
    assert check(trace, None, old_or_new) >= 1
    assert not [event for event in trace if event.what == "ack"]


@pytest.mark.parametrize("method", [*REAL, *range(6)])
def test_a_symbolic_link_leads_to_the_old_file_or_the_new(method: str | int, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "kept").mkdir(parents=True)
    (top / "kept" / "file").write_bytes(OLD)
    (top / "state").symlink_to(top / "kept" / "file")  # absolute: it has to lead into the cut
    trace = record(replaces, top, method)
    for link in (top / "kept" / "file", top / "state"):
        link.unlink()
    assert check(trace, None, old_or_new) >= 4


@pytest.mark.parametrize("method", [*REAL, *range(6)])
def test_of_writers_at_once_one_is_there_whole(method: str | int, tmp_path: Path) -> None:
    contents = [bytes([65 + i]) * (900 * (i + 1)) for i in range(5)]

    async def race(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async def one(data: bytes) -> None:
            await write_file(folder / "state", data, atomic=True, durable=True, ring=ring)
            trace.note("ack", data)

        await asyncio.gather(*map(one, contents))

    def whole(folder: Path, cut: Cut) -> None:
        path = folder / "state"
        if cut.noted("ack"):
            assert path.exists()
        if path.exists():
            assert path.read_bytes() in contents

    assert check(record(race, tmp_path, method), Disk(samples=2), whole) > 8


@pytest.mark.parametrize("method", [*REAL, *range(6)])
def test_what_was_appended_durably_stays(method: str | int, tmp_path: Path) -> None:
    records = [bytes([48 + i]) * 300 for i in range(6)]

    async def appends(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        for record_ in records:
            await append_file(folder / "log", record_, durable=True, ring=ring)
            trace.note("ack", record_)

    def in_order(folder: Path, cut: Cut) -> None:
        promised = b"".join(cut.noted("ack"))
        got = (folder / "log").read_bytes() if promised else b""
        assert got[: len(promised)] == promised
        assert len(got) <= len(promised) + 300

    assert check(record(appends, tmp_path, method), None, in_order) > 20


@pytest.mark.parametrize("method", [*REAL, *range(6)])
def test_what_was_written_durably_in_place_stays(method: str | int, tmp_path: Path) -> None:
    async def writes(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        await write_file(folder / "state", NEW, durable=True, ring=ring)
        trace.note("ack")

    def promised(folder: Path, cut: Cut) -> None:
        assert not cut.noted("ack") or (folder / "state").read_bytes() == NEW

    (tmp_path / "state").write_bytes(OLD)
    trace = record(writes, tmp_path, method)
    assert check(trace, None, promised) > 5
    with pytest.raises(AssertionError, match="neither old nor new"):  # that is what `atomic` is for
        check(trace, None, old_or_new)
    new = tmp_path / "new"
    new.mkdir()
    assert check(record(writes, new, method), None, promised) > 5


# --- kills: what a process leaves whose machine goes on ---------------------------------------------------------------


class _Deadly(Recording):
    """Dies at the n-th submission: before the method has been told of it, or after."""

    def __init__(self, method: str, at: int, after: bool) -> None:
        super().__init__(method, Trace(data=False))
        self.left, self.after = [at], after

    def around(self, workers: Any) -> Any:
        made = super().around(workers)
        submit = made.submit
        made.submit = lambda staged: self._die_in(submit, staged)
        return made

    def submit(self, staged: deque[Handle]) -> None:
        self._die_in(super().submit, staged)

    def _die_in(self, submit: Callable[[deque[Handle]], None], staged: deque[Handle]) -> None:
        self.left[0] -= len(staged)
        if self.left[0] <= 0 and staged:
            if self.after:
                submit(staged)
            os.kill(os.getpid(), signal.SIGKILL)
        submit(staged)


def _in_a_child(body: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        try:
            body()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", REAL)
def test_killed_at_each_submission_it_leaves_the_old_file_or_the_new(method: str, after: bool, tmp_path: Path) -> None:
    path = tmp_path / "state"
    new = found_new = 0
    for at in range(1, 100):
        path.write_bytes(OLD)

        async def program(at: int = at) -> None:
            async with aioring.Ring(method=_Deadly(method, at, after), page_cache_first=False) as ring:
                await write_file(path, NEW, atomic=True, durable=True, ring=ring)

        ended = _in_a_child(lambda program=program: asyncio.run(program()))  # type: ignore[misc]
        assert ended in (0, -signal.SIGKILL)
        assert path.read_bytes() in (OLD, NEW)
        found_new += path.read_bytes() == NEW
        others = {other.name for other in tmp_path.iterdir()} - {"state"}
        assert all(name.startswith(".aioring-") and len(name) == 25 for name in others)
        assert len(others) <= 1
        for name in others:
            (tmp_path / name).unlink()
        if not ended:
            new = at
            break
    assert new > 8  # it did die at each of so many, and lived at last
    assert 1 < found_new < new  # before the rename and behind it


# --- what the tool is for ---------------------------------------------------------------------------------------------


async def naive(ring: aioring.Ring, trace: Trace, folder: Path, *, sync: bool = True, folders: bool = True) -> None:
    """What people write by hand, with all it takes, or not."""
    fd = await ring.open(folder / "state.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    await ring.write(fd, 0, NEW)
    if sync:
        await ring.fsync(fd)
    await ring.close(fd)
    await ring.rename(folder / "state.tmp", folder / "state")
    if folders:
        fd = await ring.open(folder, os.O_RDONLY)
        await ring.fsync(fd)
        await ring.close(fd)
    trace.note("ack")


@pytest.mark.parametrize("method", [*REAL, *range(4)])
def test_a_missing_fsync_is_found(method: str | int, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(OLD)
    assert check(record(naive, tmp_path, method), None, old_or_new) >= 9
    (tmp_path / "state").write_bytes(OLD)
    with pytest.raises(AssertionError) as caught:
        check(record(partial(naive, sync=False), tmp_path, method), None, old_or_new, seed=7)
    said = str(caught.value)
    assert "neither old nor new" in said
    assert re.search(r"lost: write of \d+ bytes at \d+ of 'state.tmp'", said)
    assert "kept: rename 'state.tmp' -> 'state'" in said
    assert "seed 7" in said
    assert said.count("lost") == 1  # no more than it takes
    (tmp_path / "state").write_bytes(OLD)
    with pytest.raises(AssertionError, match=r"what was promised is not there(.|\n)*lost: rename"):
        check(record(partial(naive, folders=False), tmp_path, method), None, old_or_new)


def test_a_promise_at_the_completion_of_the_write_is_found(tmp_path: Path) -> None:
    async def hasty(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await ring.open(folder / "log", os.O_WRONLY)
        for number in range(3):
            await ring.write(fd, number * 10, b"%10d" % number)
            trace.note("ack", number)
            await ring.fsync(fd)
        await ring.close(fd)

    def kept(folder: Path, cut: Cut) -> None:
        for number in cut.noted("ack"):
            assert (folder / "log").read_bytes()[number * 10 :][:10] == b"%10d" % number, f"record {number} is lost"

    (tmp_path / "log").touch()
    with pytest.raises(AssertionError, match=r"record 0 is lost(.|\n)*before I/O 3"):
        check(record(hasty, tmp_path), None, kept)


def test_an_fsync_that_was_submitted_before_the_write_was_complete_covers_nothing(tmp_path: Path) -> None:
    async def overlapping(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await ring.open(folder / "log", os.O_WRONLY)
        await asyncio.gather(ring.write(fd, 0, b"record"), ring.fsync(fd))
        trace.note("ack")
        await ring.close(fd)

    def kept(folder: Path, cut: Cut) -> None:
        assert not cut.noted("ack") or (folder / "log").read_bytes() == b"record", "lost"

    async def chained(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await ring.open(folder / "log", os.O_WRONLY)
        async with ring.chain() as chain:
            chain.write(fd, 0, b"record")
            chain.fsync(fd)
        trace.note("ack")
        await ring.close(fd)

    for method in ("io_uring", "worker", 1):
        (tmp_path / "log").write_bytes(b"")
        with pytest.raises(AssertionError, match="lost: write"):
            check(record(overlapping, tmp_path, method), None, kept)
        (tmp_path / "log").write_bytes(b"")
        assert check(record(chained, tmp_path, method), None, kept) >= 3


def test_after_an_fsync_that_failed_another_helps_nothing(tmp_path: Path) -> None:
    """PostgreSQL's fsync affair: the kernel takes the pages that it could not write for clean."""

    async def tries_again(ring: aioring.Ring, trace: Trace, folder: Path, *, write_again: bool) -> None:
        fd = await ring.open(folder / "state", os.O_WRONLY)
        await ring.write(fd, 0, NEW)
        with pytest.raises(OSError):
            await ring.fsync(fd)
        if write_again:
            await ring.write(fd, 0, NEW)
        await ring.fsync(fd)
        trace.note("ack")
        await ring.close(fd)

    def kept(folder: Path, cut: Cut) -> None:
        assert not cut.noted("ack") or (folder / "state").read_bytes() == NEW, "lost"

    for seed in range(5):
        (tmp_path / "state").write_bytes(OLD)
        faults = {("fsync", 1): errno.EIO}
        with pytest.raises(AssertionError, match="lost: write"):
            check(record(partial(tries_again, write_again=False), tmp_path, seed, faults), None, kept)
        (tmp_path / "state").write_bytes(OLD)
        assert check(record(partial(tries_again, write_again=True), tmp_path, seed, faults), None, kept)


def test_the_same_seed_gives_the_same_cuts(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(OLD)
    trace = record(naive, tmp_path)
    first, again = ([str(cut) for cut in power_cuts(trace, Disk(), seed)] for seed in (3, 3))
    assert first == again
    assert len(first) >= 9


def test_what_dies_by_itself_is_no_finding_of_a_cut(tmp_path: Path) -> None:
    """Only what `recover` raises as an Exception counts; Ctrl-C ends the check."""

    def interrupted(folder: Path, cut: Cut) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(record(naive, tmp_path), None, interrupted)


def test_a_method_that_keeps_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Trace\(\)"):
        list(power_cuts(Trace(data=False)))
    with pytest.raises(ValueError, match="keeps no folder"):
        Trace(tmp_path, data=False)
    with pytest.raises(ValueError, match="at least 1"):
        Disk(sector=0)
    with pytest.raises(ValueError, match="'any' or 'ordered'"):
        Disk(names="some")  # type: ignore[arg-type]
    assert Recording(Sync(), Trace()).name == "sync"


@pytest.mark.parametrize("method", [*REAL, *range(6)])
def test_writers_who_share_the_fsync_of_a_folder_all_keep_their_files(method: str | int, tmp_path: Path) -> None:
    async def together(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async def one(number: int) -> None:
            await write_file(folder / f"{number}", b"%d" % number * 300, durable=True, ring=ring)
            trace.note("ack", number)

        await asyncio.gather(*map(one, range(12)))

    def kept(folder: Path, cut: Cut) -> None:
        for number in cut.noted("ack"):
            assert (folder / f"{number}").read_bytes() == b"%d" % number * 300

    trace = record(together, tmp_path, method)
    assert trace.count("submitted", "fsync") - 12 < 8  # of the folder
    assert check(trace, Disk(samples=1), kept) > 20


# --- past the page cache ----------------------------------------------------------------------------------------------

RECORDS = [bytes([65 + i]) * n for i, n in enumerate((100, 900, 512, 1500, 3, 4096, 700))]


async def appends_directly(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
    """Each record rewrites the sector that the one before it ends in: what that holds was promised already."""
    async with aioring.open(folder / "log", "ab", 0, direct=True, ring=ring) as file:
        for record_ in RECORDS:
            await file.write(record_)
            await ring.fsync(file.fileno())
            trace.note("ack", record_)


def all_promised(folder: Path, cut: Cut) -> None:
    data = (folder / "log").read_bytes()
    promised = b"".join(cut.noted("ack"))
    assert data.startswith(promised), f"{len(data)} bytes, not {len(promised)} that were promised"
    # What is behind it is of the record that was being written, or zeros: the last sector is cut after it is written.
    following = b"".join(RECORDS)[len(promised) :]
    rest = data[len(promised) :]
    assert all(byte in (0, following[i] if i < len(following) else 0) for i, byte in enumerate(rest))


@pytest.mark.parametrize("method", [*REAL, 1, 2])
def test_what_was_promised_survives_the_rewriting_of_its_sector(tmp_path: Path, method: str | int) -> None:
    (tmp_path / "log").touch()
    trace = record(appends_directly, tmp_path, method)
    assert check(trace, Disk(sector=512), all_promised, seed=1) > 20


def test_a_direct_append_that_is_not_synced_is_found(tmp_path: Path) -> None:
    async def promises_too_early(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async with aioring.open(folder / "log", "ab", 0, direct=True, ring=ring) as file:
            for record_ in RECORDS:
                await file.write(record_)
                trace.note("ack", record_)

    (tmp_path / "log").touch()
    with pytest.raises(AssertionError, match="promised"):
        check(record(promises_too_early, tmp_path), Disk(sector=512), all_promised, seed=1)
