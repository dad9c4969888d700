"""What a power cut and a kill leave of a log: all that was acknowledged, nothing that was not appended, in order; and a log
that goes on. And that the tools find the bugs that they are for."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring import Log
from aioring.streams import log_file
from aioring.streams.commits import Commits
from aioring.testing import Cut, Disk, Trace, assert_synced, check
from tests.testing.test_power_cuts import REAL, record

SYNCS = ("open_datasync", "fdatasync")
ANY = [*REAL, 1]


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cut leaves is computed: to open a log there needs no disk that syncs."""
    if os.path.isdir("/dev/shm"):
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")


Program = Callable[[aioring.Ring, Trace, Path], Awaitable[None]]


def data_of(name: int, number: int) -> bytes:
    """No two alike, and not one within another: `assert_synced` finds the write that has it."""
    return b"<%d.%d>" % (name, number) * random.Random(name * 100 + number).choice((1, 2, 90, 300))


async def append_all(log: Log, trace: Trace, names: range, numbers: range) -> None:
    """Tasks that append one record after the other."""

    async def one(name: int) -> None:
        for number in numbers:
            data = data_of(name, number)
            trace.note("asked", data)
            try:
                await log.append(data)
            except OSError:
                continue
            trace.note("ack", data)

    await asyncio.gather(*map(one, names))


async def appends(ring: aioring.Ring, trace: Trace, folder: Path, *, sync: Any, preallocate: int = 2000) -> None:
    async with Log(folder / "log", sync=sync, preallocate=preallocate, ring=ring) as log:
        await append_all(log, trace, range(4), range(3))
    async with Log(folder / "log", sync=sync, preallocate=preallocate, ring=ring) as log:
        await append_all(log, trace, range(2), range(3, 5))


def records_of(*paths: Path, more: bytes | None = None) -> list[bytes]:
    """What is in logs, one after the other; to the last `more` is appended first."""

    async def main() -> list[bytes]:
        found = []
        async with aioring.Ring(method="sync") as ring:
            for path in paths:
                async with Log(path, preallocate=0, ring=ring) as log:
                    if more is not None and path == paths[-1]:
                        await log.append(more)
                    found += [record async for record in log]
        return found

    return asyncio.run(main())


def is_right(found: list[bytes], acknowledged: list[bytes], asked: list[bytes]) -> None:
    lost = set(acknowledged) - set(found)
    assert not lost, f"lost, though it was acknowledged: {lost.pop()!r:.30}"
    assert len(set(found)) == len(found), "a record is there twice"
    assert set(found) <= set(asked), "a record that nobody has appended"
    for name in {one.split(b".")[0] for one in found}:
        of_one = [one for one in found if one.startswith(name + b".")]
        assert of_one == sorted(of_one, key=asked.index), "the records of a task are not in its order"


def stands(folder: Path, cut: Cut) -> None:
    asked = cut.noted("asked")
    # (Between two steps of a rotation the file has both names.)
    logs = [path for path in sorted(folder.glob("log.*")) if not path.samefile(folder / "log")]
    found = records_of(*logs, folder / "log")
    is_right(found, cut.noted("ack"), asked)
    # It goes on, and what was torn does not come back behind what is appended in its place.
    again = records_of(*logs, folder / "log", more=asked[len(found)] if len(found) < len(asked) else b"new")
    assert again[:-1] == found


# --- the proof --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("method", ANY)
def test_no_cut_loses_what_was_acknowledged(method: str | int, sync: str, tmp_path: Path) -> None:
    trace = record(partial(appends, sync=sync), tmp_path, method)
    assert trace.count("ack") == 16
    assert check(trace, Disk(sector=512, samples=2), stands) > 20
    covered = assert_synced(trace, "ack")
    assert len(covered) == 16
    assert all(promise.by for promise in covered)


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("seed", range(2))
def test_whatever_the_size_of_a_sector_and_of_what_is_allocated(seed: int, sync: str, tmp_path: Path) -> None:
    program = partial(appends, sync=sync, preallocate=(0, 300)[seed])
    assert check(record(program, tmp_path, seed), Disk(sector=64, samples=4), stands, seed) > 20


@pytest.mark.parametrize("method", ["io_uring", "worker", 1, 2])
def test_no_cut_loses_what_was_acknowledged_before_a_rotation(method: str | int, tmp_path: Path) -> None:
    async def rotates(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async with Log(folder / "log", preallocate=500, ring=ring) as log:
            for part in range(3):
                await append_all(log, trace, range(2), range(part * 2, part * 2 + 2))
                await log.rotate()
                trace.note("rotated", part)

    def stands_rotated(folder: Path, cut: Cut) -> None:
        stands(folder, cut)
        assert len(list(folder.glob("log.*"))) >= len(cut.noted("rotated"))

    trace = record(rotates, tmp_path, method)
    assert check(trace, Disk(samples=1), stands_rotated) > 20
    assert len(assert_synced(trace, "ack")) == 12
    assert len(assert_synced(trace, "rotated")) == 3


async def life_with_faults(ring: aioring.Ring, trace: Trace, folder: Path, *, sync: Any) -> None:
    """Reopened whenever it has failed, by a program that goes on all the same."""
    for life in range(4):
        try:
            async with Log(folder / "log", sync=sync, preallocate=1000, ring=ring) as log:
                for number in range(2):
                    await append_all(log, trace, range(life * 3, life * 3 + 3), range(number, number + 1))
        except OSError:
            continue


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("operation", ["fsync", "write", "writev"])
def test_each_fsync_and_each_write_may_fail(operation: str, sync: str, tmp_path: Path) -> None:
    """Whichever it is: what was acknowledged stays, also what was acknowledged after the log was opened again."""
    for at in range(1, 6):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        code = errno.EIO if at % 3 else errno.ENOSPC
        trace = record(partial(life_with_faults, sync=sync), folder, at, {(operation, at): code})
        assert trace.count("ack") > 3
        assert check(trace, Disk(samples=0), stands, at) > 10
        assert_synced(trace, "ack")


# --- kills ------------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, os, signal, sys
import aioring
from aioring.testing import Recording, Trace

where, method, sync, at, rotate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "rotate"

class Deadly(Recording):
    left = at
    def submit(self, staged):
        if at:
            for n, handle in enumerate(list(staged)):
                Deadly.left -= 1
                if Deadly.left == 0:
                    if at % 2:
                        super().submit(staged)
                    os.kill(os.getpid(), signal.SIGKILL)
        super().submit(staged)

async def main():
    async with aioring.Ring(method=Deadly(method, Trace(data=False)), page_cache_first=False) as ring:
        async with aioring.Log(where, sync=sync, preallocate=2000, ring=ring) as log:
            async def one(name):
                for number in range(6 if at else 1 << 30):
                    data = b"<%d.%d>" % (name, number) * (number * 7 % 40 + 1)
                    os.write(1, b"asked " + data + b"\\n")
                    await log.append(data)
                    os.write(1, b"ack " + data + b"\\n")
                    if rotate and name == 0 and number % 3 == 2:
                        await log.rotate()
            await asyncio.gather(*map(one, range(4)))

asyncio.run(main())
"""


def look_after(where: Path, said: bytes) -> int:
    lines = said.split(b"\n")
    acknowledged = [line[4:] for line in lines[:-1] if line.startswith(b"ack ")]
    asked = [line[6:] for line in lines if line.startswith(b"asked ")]
    archives = [path for path in sorted(where.parent.glob("log.*")) if not path.samefile(where)]
    found = records_of(*archives, where)
    is_right(found, acknowledged, asked)
    return len(acknowledged)


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("method", ["io_uring", "worker"])
def test_killed_at_each_submission_it_has_what_was_acknowledged(method: str, sync: str, tmp_path: Path) -> None:
    acknowledged = at = 0
    ended = -signal.SIGKILL
    while ended:
        at += 1
        where = tmp_path / f"{at}" / "log"
        where.parent.mkdir()
        pid, reader = forked(where, method, sync, at, "rotate" if sync == "fdatasync" else "")
        with os.fdopen(reader, "rb") as said:
            text = said.read()
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended in (0, -signal.SIGKILL)
        acknowledged += look_after(where, text)
    assert at > 10
    assert acknowledged > 50


@pytest.mark.timeout(120)
def test_killed_at_random_it_has_what_was_acknowledged(tmp_path: Path) -> None:
    """200 times: it proves little (the page cache outlives the process), and is what a user would try first."""
    chance, acknowledged, where = random.Random(1), 0, tmp_path / "log"
    for number in range(200):
        for left in tmp_path.iterdir():
            left.unlink()
        method, sync = ("io_uring", "worker")[number % 2], SYNCS[number // 2 % 2]
        pid, reader = forked(where, method, sync, 0, "rotate" if number % 5 == 0 else "")
        with os.fdopen(reader, "rb") as said:
            first = said.readline()
            assert first
            time.sleep(chance.random() * 0.02)
            os.kill(pid, signal.SIGKILL)
            text = first + said.read()
        os.waitpid(pid, 0)
        acknowledged += look_after(where, text)
    assert acknowledged > 500


def forked(where: Path, *args: object) -> tuple[int, int]:
    """A child that has imported all it needs (a new interpreter takes longer than it is to live), and what it says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(writer, 1)
            os.close(reader)
            os.close(writer)
            sys.argv = ["-c", str(where), *map(str, args)]
            exec(compile(CHILD, "child", "exec"), {"__name__": "__main__"})
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    return pid, reader


# --- what the tools are for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["io_uring", "worker", 1])
def test_an_acknowledgement_at_the_completion_of_the_write_is_found(
    method: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Commits.__init__

    def hasty(self: Commits, *args: Any) -> None:
        begin(self, *args)
        self._synchronous = True  # which it is not: it does not wait for an fsync, and there is none

    monkeypatch.setattr(Commits, "__init__", hasty)
    trace = record(partial(appends, sync="fdatasync"), tmp_path, method)
    with pytest.raises(AssertionError, match=r"lost, though it was acknowledged(.|\n)*lost: write"):
        check(trace, None, stands)
    with pytest.raises(AssertionError, match=r"nothing covers the promise(.|\n)*write of"):
        assert_synced(trace, "ack")


@pytest.mark.parametrize("missing", ["the folder", "the header", "what was open"])
def test_a_missing_fsync_when_it_is_opened_is_found(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        return None

    program: Program = partial(appends, sync="open_datasync")
    if missing == "the folder":
        monkeypatch.setattr(log_file, "sync_folder", nothing)
    elif missing == "the header":

        async def unsynced(ring: aioring.Ring, file: Any) -> None:
            file.log = 7
            plain = await ring.open(file.path, os.O_WRONLY)
            await ring.write(plain, 0, log_file.write_header(7))
            await ring.close(plain)

        monkeypatch.setattr(log_file, "_make_new", unsynced)
    else:
        # What an fsync that failed has left is believed: it is acknowledged by who reads it.
        monkeypatch.setattr(log_file, "_make_sure", nothing)

        async def believes(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
            async with Log(folder / "log", sync="fdatasync", preallocate=0, ring=ring) as log:
                trace.note("asked", b"<0.0>")
                with pytest.raises(OSError, match="Input/output"):
                    await log.append(b"<0.0>")
            async with Log(folder / "log", sync="fdatasync", preallocate=0, ring=ring) as log:
                assert [record async for record in log] == [b"<0.0>"]
                trace.note("ack", b"<0.0>")

        program = believes
    faults = {("fsync", 3): errno.EIO} if missing == "what was open" else None
    trace = record(program, tmp_path, 5, faults)
    with pytest.raises(AssertionError):
        check(trace, None, stands)
    if missing != "the header":  # (which has none of the bytes that are promised)
        with pytest.raises(AssertionError, match="nothing covers"):
            assert_synced(trace, "ack")


def test_what_an_fsync_that_failed_has_left_is_made_sure_before_it_is_read(tmp_path: Path) -> None:
    async def reads(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async with Log(folder / "log", sync="fdatasync", ring=ring) as log:
            trace.note("asked", b"<0.0>")
            with pytest.raises(OSError, match="Input/output"):
                await log.append(b"<0.0>")
        async with Log(folder / "log", sync="fdatasync", ring=ring) as log:
            for found in [record async for record in log]:
                trace.note("ack", found)

    trace = record(reads, tmp_path, 5, {("fsync", 3): errno.EIO})
    assert [event.value for event in trace if event.what == "ack"] == [b"<0.0>"]
    assert check(trace, None, stands) > 5
    assert_synced(trace, "ack")


def test_assert_synced_says_what_is_wrong(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await ring.open(folder / "file", os.O_WRONLY)
        await ring.write(fd, 0, b"one")
        await ring.fsync(fd)
        trace.note("right", b"one")
        trace.note("unknown", b"other")
        await asyncio.gather(ring.write(fd, 10, b"two"), ring.fsync(fd))
        trace.note("early", b"two")
        trace.note("all")
        await ring.fsync(fd)
        trace.note("early, mended", b"two")
        async with ring.chain() as chain:
            chain.write(fd, 20, b"linked")
            chain.fsync(fd)
        trace.note("linked", b"linked")
        made = await ring.open(folder / "made", os.O_WRONLY | os.O_CREAT, 0o600)
        await ring.write(made, 0, b"three")
        await ring.fsync(made)
        await ring.close(made)
        trace.note("no folder", b"three")
        await ring.close(fd)

    (tmp_path / "file").touch()
    trace = record(program, tmp_path, "sync")
    (promise,) = assert_synced(trace, "right")
    assert promise.value == b"one"
    fsyncs = [event.number for event in trace if event.what == "submitted" and event.operation == "fsync"]
    assert promise.by == (fsyncs[0],)
    assert assert_synced(trace, "early, mended")[0].by == (fsyncs[2],)
    assert assert_synced(trace, "linked")
    with pytest.raises(
        AssertionError, match=r"b'two' at step \d+: write of 3 bytes at 10 of .*file'.*before it was complete"
    ):
        assert_synced(trace, "early")
    with pytest.raises(AssertionError, match="nothing covers"):
        assert_synced(trace, "all")
    assert assert_synced(trace, "all", lambda event, _: event.offset == 0)
    with pytest.raises(AssertionError, match="is about no write"):
        assert_synced(trace, "unknown")
    with pytest.raises(AssertionError, match=r"open 'made'.*no fsync of the folder"):
        assert_synced(trace, "no folder")
    with pytest.raises(ValueError, match="no note 'nothing'"):
        assert_synced(trace, "nothing")
    with pytest.raises(ValueError, match=r"Trace\(\)"):
        assert_synced(Trace(data=False), "right")


def test_assert_synced_knows_what_was_written_over(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await ring.open(folder / "file", os.O_WRONLY)
        await ring.write(fd, 0, b"promised")
        await ring.fsync(fd)
        await ring.write(fd, 4, b"XXXX")
        trace.note("gone", b"promised")
        await ring.write(fd, 0, b"promised!")
        await ring.fsync(fd)
        await ring.write(fd, 8, b"?")
        trace.note("there", b"promised")
        with pytest.raises(OSError, match="Input/output"):
            await ring.fsync(fd)
        await ring.write(fd, 0, b"prom")
        await ring.write(fd, 4, b"ised?")
        await ring.fsync(fd)
        trace.note("in two halves")
        await ring.write(fd, 100, b"cut")
        await ring.fsync(fd)
        await ring.truncate(fd, 101)
        trace.note("cut", b"cut")
        await ring.close(fd)

    (tmp_path / "file").touch()
    trace = record(program, tmp_path, 9, {("fsync", 3): errno.EIO})
    with pytest.raises(AssertionError, match=r"nothing covers|written over"):
        assert_synced(trace, "gone")
    assert assert_synced(trace, "there")
    assert assert_synced(trace, "in two halves")
    with pytest.raises(AssertionError, match="nothing covers"):
        assert_synced(trace, "cut")
