"""The log: what was appended is there, in order, whoever appended it and whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring import AioringError, Log, LogDamagedError, RingClosedError
from aioring.streams.records import HEADER, RECORD, head, write_header
from aioring.testing import Recording, Scripted, Trace
from tests.conftest import ONCE
from tests.harness import SOON, Held, all_over, begin, cancelled_again_and_again, open_in, small_disk, ticks

LIGHT = True  # see conftest.py
SYNCS = ("open_datasync", "fdatasync")


# A log is not asked for in the page cache: once for each method is enough.
@pytest.fixture(params=ONCE, ids=[method for method, _ in ONCE])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "log"


async def contents(log: Log) -> list[bytes]:
    return [record async for record in log]


async def found_in(place: Path, ring: aioring.Ring, **options: Any) -> list[bytes]:
    async with Log(place, ring=ring, **options) as log:
        return await contents(log)


async def together(log: Log, records: list[bytes]) -> list[int]:
    offsets: dict[int, int] = {}

    async def one(number: int) -> None:
        offsets[number] = await log.append(records[number])

    async with anyio.create_task_group() as group:
        for number in range(len(records)):
            group.start_soon(one, number)
    return [offsets[number] for number in range(len(records))]


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", SYNCS)
async def test_what_was_appended_is_there_in_order(ring: aioring.Ring, place: Path, sync: Any) -> None:
    records = [b"first", b"", b"x" * 5000, "später".encode()]
    async with Log(place, sync=sync, ring=ring) as log:
        assert not log.closed
        assert log.name == str(place)
        assert await contents(log) == []
        offsets = [await log.append(record) for record in records]
        assert offsets == sorted(offsets)
        assert log.end == offsets[-1] + RECORD + len(records[-1])
        assert await contents(log) == records
        assert [await log.read(offset) for offset in offsets] == records
        assert [entry async for entry in log.entries()] == list(zip(offsets, records, strict=True))
        assert [entry async for entry in log.entries(offsets[2])] == list(zip(offsets, records, strict=True))[2:]
    assert log.closed
    assert await found_in(place, ring) == records
    async with Log(place, sync=sync, ring=ring) as log:
        more = await log.append(b"more")
        assert more > offsets[-1]
        assert await contents(log) == [*records, b"more"]
        assert await log.read(offsets[0]) == b"first"
    assert await found_in(place, ring, readonly=True) == [*records, b"more"]


@pytest.mark.parametrize("sync", SYNCS)
async def test_those_who_come_together_share_a_write(anyio_backend: Any, place: Path, sync: Any, method: str) -> None:
    trace = Trace(data=False)
    recorded = Scripted(3, short=0, soft=0, trace=trace) if method == "scripted" else Recording(method, trace)
    async with aioring.Ring(method=recorded) as ring, Log(place, sync=sync, ring=ring) as log:
        before = len(trace)
        records = [b"%d" % n for n in range(64)]
        for _ in range(3):
            await together(log, records)
        writes = [e for e in list(trace)[before:] if e.what == "submitted" and e.operation in ("write", "writev")]
        syncs = [e for e in list(trace)[before:] if e.what == "submitted" and e.operation == "fsync"]
        assert len(writes) <= 6
        assert len(syncs) == (0 if sync == "open_datasync" else len(writes))
        assert sorted(await contents(log)) == sorted(records * 3)


async def test_the_order_of_the_calls_is_the_order_in_the_log(ring: aioring.Ring, place: Path) -> None:
    """A large one, whose CRC is reckoned elsewhere, keeps its place."""
    large = random.Random(1).randbytes(700_000)
    async with Log(place, ring=ring) as log:
        appends = [log.append(record) for record in (b"one", large, b"two", bytearray(large), b"three")]
        if ring._engine.loop.kind == "trio":  # which runs tasks in no order
            for append in appends:
                await append
        else:
            await asyncio.gather(*appends)
        assert await contents(log) == [b"one", large, b"two", large, b"three"]
        offsets = [offset async for offset, _ in log.entries()]
        assert await log.read(offsets[3]) == large


async def test_any_buffer_is_a_record_and_belongs_to_the_caller_again(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        memory = bytearray(b"before")
        async with anyio.create_task_group() as group:
            outcome = begin(group, log.append, memory)
            await ticks(3)
            memory[:] = b"behind"
            memory.extend(b"!")
        assert outcome.error is None
        await log.append(memoryview(b"abcdef")[::1])
        assert await contents(log) == [b"before", b"abcdef"]
        for wrong in ("text", None, 3, memoryview(b"abcdef")[::2]):
            with pytest.raises((TypeError, BufferError)):
                await log.append(wrong)


async def test_space_is_allocated_ahead_and_given_back(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, preallocate=10_000, ring=ring) as log:
        await log.append(b"x" * 100)
        assert os.stat(place).st_size == 10_000
        await log.append(b"x" * 9_900)
        assert os.stat(place).st_size == 20_000
        assert [len(record) for record in await contents(log)] == [100, 9_900]
        await log.append(b"x" * 100_000)
        assert os.stat(place).st_size == 120_000
    assert os.stat(place).st_size == HEADER + 4 * RECORD + 110_000  # with the one that says that it was closed
    async with Log(place, preallocate=0, ring=ring) as log:
        assert [len(record) for record in await contents(log)] == [100, 9_900, 100_000]
        await log.append(b"")
        assert os.stat(place).st_size == HEADER + 5 * RECORD + 110_000


async def test_iterating_goes_on_to_what_was_appended_meanwhile(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        for n in range(300):
            await log.append(b"%d" % n * 100)
        found = []
        async for record in log:
            found.append(record)
            if len(found) % 50 == 0 and len(found) <= 300:
                await log.append(b"new %d" % len(found))
        assert found == [b"%d" % n * 100 for n in range(300)] + [b"new %d" % n for n in range(50, 301, 50)]


async def test_an_iterator_that_is_left_early_leaves_nothing(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        await together(log, [b"x" * 1000] * 300)
        async for _ in log:
            break
        entries = log.entries()
        await anext(entries)
        await entries.aclose()
        await entries.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(entries)
        del entries
        gc.collect()
        await ticks(3)
        with anyio.fail_after(3):
            while len(open_in(place)) > 1:
                await anyio.sleep(0.001)


# --- what is asked wrongly --------------------------------------------------------------------------------------------


async def test_a_log_is_opened_once_at_a_time(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        await log.append(b"one")
        for readonly in (False, True):
            with pytest.raises(BlockingIOError) as raised:
                async with Log(place, readonly=readonly, ring=ring):
                    pass
            assert raised.value.filename == str(place)
            assert any("open already" in note for note in raised.value.__notes__)
        program = f"import fcntl; fcntl.flock(open({str(place)!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run([sys.executable, "-c", program], capture_output=True)
        )
        assert b"BlockingIOError" in done.stderr
    async with Log(place, readonly=True, ring=ring), Log(place, readonly=True, ring=ring) as other:
        assert await contents(other) == [b"one"]
        with pytest.raises(BlockingIOError):
            async with Log(place, ring=ring):
                pass
    assert not open_in(place.parent)


@pytest.mark.parametrize("content", [b"no log", b"\0" * 30 + b"x", b"x", bytes(8192) + b"1", b"aiorinG\0" + bytes(100)])
async def test_a_file_that_is_no_log_is_left_alone(ring: aioring.Ring, place: Path, content: bytes) -> None:
    place.write_bytes(content)
    with pytest.raises(OSError, match="not a log") as raised:
        async with Log(place, ring=ring):
            pass
    assert (raised.value.errno, raised.value.filename) == (errno.EINVAL, str(place))
    assert place.read_bytes() == content


async def test_what_cannot_be_a_log(ring: aioring.Ring, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        async with Log(tmp_path, ring=ring):
            pass
    with pytest.raises(OSError, match="regular file"):
        async with Log("/dev/null", ring=ring):
            pass
    with pytest.raises(FileNotFoundError) as raised:
        async with Log(tmp_path / "no" / "log", ring=ring):
            pass
    assert raised.value.filename == str(tmp_path / "no" / "log")
    with pytest.raises(FileNotFoundError):
        async with Log(tmp_path / "none", readonly=True, ring=ring):
            pass
    assert not (tmp_path / "none").exists()
    version2 = tmp_path / "version2"
    version2.write_bytes(write_header(1)[:8] + b"\2\0\0\0" + write_header(1)[12:])
    with pytest.raises(OSError, match="a log of version 2") as raised2:
        async with Log(version2, ring=ring):
            pass
    assert raised2.value.filename == str(version2)
    for wrong in ({"preallocate": -1}, {"preallocate": 1 << 46}, {"sync": "fsync"}):
        with pytest.raises(ValueError, match="must"):
            Log(tmp_path / "log", **wrong)  # type: ignore[arg-type]
    assert not open_in(tmp_path)


@pytest.mark.parametrize("content", [b"", bytes(10), bytes(4096), bytes(100_000)])
async def test_what_a_crash_leaves_of_a_new_log_is_a_new_log(ring: aioring.Ring, place: Path, content: bytes) -> None:
    place.write_bytes(content)
    assert await found_in(place, ring, readonly=True) == []
    async with Log(place, ring=ring) as log:
        await log.append(b"one")
    assert await found_in(place, ring) == [b"one"]


async def test_on_a_file_system_that_is_read_only(ring: aioring.Ring, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as where:
        async with Log(where / "log", ring=ring) as log:
            await log.append(b"one")
        subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        for name in ("log", "new"):
            with pytest.raises(OSError, match="Read-only") as raised:
                async with Log(where / name, ring=ring):
                    pass
            assert (raised.value.errno, raised.value.filename) == (errno.EROFS, str(where / name))
        assert await found_in(where / "log", ring, readonly=True) == [b"one"]


async def test_what_is_closed_or_only_read_takes_nothing(ring: aioring.Ring, place: Path) -> None:
    log = Log(place, ring=ring)
    assert not log.closed
    for ask in (log.append(b""), log.read(HEADER), log.rotate()):
        with pytest.raises(AioringError, match="async with"):
            await ask
    with pytest.raises(AioringError, match="async with"):
        await contents(log)
    async with log:
        await log.append(b"one")
        for offset in (log.end, 0, -1, 1 << 70):
            with pytest.raises(ValueError, match="offset"):
                await log.read(offset)
        with pytest.raises(LogDamagedError, match="no whole record"):
            await log.read(HEADER + 1)
        with pytest.raises(ValueError, match="offset 3"):
            log.entries(3)
    await log.aclose()
    for ask in (log.append(b""), log.read(HEADER), log.rotate()):
        with pytest.raises(ValueError, match="closed log"):
            await ask
    with pytest.raises(ValueError, match="closed log"):
        _ = log.end
    with pytest.raises(AioringError, match="once"):
        await log.__aenter__()
    async with Log(place, readonly=True, ring=ring) as read:
        for refused in (read.append(b"x"), read.rotate()):
            with pytest.raises(io.UnsupportedOperation, match="readonly"):
                await refused
    unused = Log(place, ring=ring)
    await unused.aclose()
    assert unused.closed
    assert not open_in(place.parent)


# --- what a crash leaves ----------------------------------------------------------------------------------------------


async def test_a_torn_batch_ends_the_log_and_does_not_come_back(ring: aioring.Ring, place: Path) -> None:
    """Behind a record that is torn stand others of its batch, whole: what is appended at its place must not join them."""
    async with Log(place, preallocate=0, ring=ring) as log:
        await log.append(b"kept")
        first = log.end
        offsets = await together(log, [b"torn ", b"whole", b"whole"])
    data = bytearray(place.read_bytes())
    torn = min(offset for offset in offsets if offset >= first)
    data[torn + RECORD] ^= 1
    del data[-RECORD:]  # it was not closed
    place.write_bytes(data)
    assert await found_in(place, ring, readonly=True) == [b"kept"]
    async with Log(place, preallocate=0, ring=ring) as log:
        assert await contents(log) == [b"kept"]
        assert log.end == first
        assert os.stat(place).st_size == first
        await log.append(b"again")
        assert await contents(log) == [b"kept", b"again"]
    assert await found_in(place, ring) == [b"kept", b"again"]


async def test_what_was_durable_and_is_not_there_is_said_and_nothing_is_skipped(
    ring: aioring.Ring, place: Path
) -> None:
    async with Log(place, ring=ring) as log:
        offsets = [await log.append(b"record %d" % n) for n in range(5)]
    data = bytearray(place.read_bytes())
    data[offsets[2] + RECORD + 3] ^= 1
    place.write_bytes(data)
    with pytest.raises(LogDamagedError) as raised:
        async with Log(place, ring=ring):
            pass
    assert (raised.value.offset, raised.value.filename) == (offsets[2], str(place))
    assert f"offset {offsets[2]}" in str(raised.value)
    assert place.read_bytes() == data
    async with Log(place, readonly=True, ring=ring) as log:
        found = []
        with pytest.raises(LogDamagedError) as raised:
            async for record in log:
                found.append(record)
        assert raised.value.offset == offsets[2]
        assert found == [b"record 0", b"record 1"]
    data = bytearray(place.read_bytes())
    data[9] ^= 1
    place.write_bytes(b"aioring\0" + b"\1\0\0\0" + b"1234" + bytes(data[16:]))
    with pytest.raises(LogDamagedError, match="header") as raised:
        async with Log(place, ring=ring):
            pass
    assert raised.value.offset == 0


async def test_damage_that_comes_while_it_is_open_is_said(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        offsets = [await log.append(b"record %d" % n) for n in range(5)]
        fd = os.open(place, os.O_WRONLY)
        os.pwrite(fd, b"?", offsets[3] + RECORD)
        os.close(fd)
        with pytest.raises(LogDamagedError) as raised:
            await contents(log)
        assert raised.value.offset == offsets[3]
        with pytest.raises(LogDamagedError):
            await log.read(offsets[3])
        os.truncate(place, offsets[1] + 3)
        with pytest.raises(LogDamagedError) as raised:
            await contents(log)
        assert raised.value.offset == offsets[1]


async def test_what_another_log_has_left_is_none_of_it(ring: aioring.Ring, place: Path) -> None:
    """Allocated space may show what the disk had before."""
    async with Log(place, preallocate=0, ring=ring) as log:
        await log.append(b"mine")
        end = log.end
        log_id = log._file.log  # type: ignore[union-attr]
    data = place.read_bytes()[:end]
    others = head(5, 0x1234, end, end, log_id + 1) + b"other"
    place.write_bytes(data + others)
    assert await found_in(place, ring) == [b"mine"]


# --- what fails -------------------------------------------------------------------------------------------------------


def faulty(faults: dict[tuple[str, int], int], seed: int = 1) -> Scripted:
    return Scripted(seed, short=0, soft=0, faults=faults)


@pytest.mark.parametrize("sync", SYNCS)
async def test_an_fsync_that_failed_is_told_to_everybody_until_it_is_opened_again(
    anyio_backend: Any, place: Path, sync: Any
) -> None:
    # The header's own (and its folder's), one that works, and this.
    step = ("write", 3) if sync == "open_datasync" else ("fsync", 4)
    async with aioring.Ring(method=faulty({step: errno.EIO})) as ring:
        async with Log(place, preallocate=0, sync=sync, ring=ring) as log:
            await log.append(b"kept")
            async with anyio.create_task_group() as group:
                outcomes = [begin(group, log.append, b"%d" % n) for n in range(5)]
            for outcome in outcomes:
                assert isinstance(outcome.error, OSError)
                assert (outcome.errno, outcome.error.filename) == (errno.EIO, str(place))
            assert len({id(outcome.error) for outcome in outcomes}) == 5
            with pytest.raises(OSError, match="Input/output") as raised:
                await log.append(b"later")
            assert any("open it again" in note for note in raised.value.__notes__)
            with pytest.raises(OSError, match="Input/output"):
                await log.rotate()
            assert (await contents(log))[0] == b"kept"
        async with Log(place, sync=sync, ring=ring) as log:
            found = await contents(log)
            assert found[0] == b"kept"
            assert await log.append(b"goes on") > 0
            assert await contents(log) == [*found, b"goes on"]


async def test_where_there_is_no_room_nothing_is_in_it_and_it_goes_on(ring: aioring.Ring, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as where:
        async with Log(where / "log", ring=ring) as log:  # a megabyte ahead is more than there is
            kept = []
            with pytest.raises(OSError, match="No space") as raised:
                for n in range(100):
                    record = b"%d" % n * 2000
                    await log.append(record)
                    kept.append(record)
            assert len(kept) > 10
            assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(where / "log"))
            assert await contents(log) == kept
            await log.append(b"small")
            assert await contents(log) == [*kept, b"small"]
            with pytest.raises(OSError, match="No space"):
                await log.append(bytes(70_000))
        assert await found_in(where / "log", ring) == [*kept, b"small"]


async def test_no_room_is_told_when_nothing_of_it_is_left(anyio_backend: Any, place: Path) -> None:
    """Not before: what a kill or a power cut left then would be records that were refused."""
    trace = Trace(data=False)
    method = Scripted(1, short=0, soft=0, faults={("write", 3): errno.ENOSPC}, trace=trace)
    async with aioring.Ring(method=method) as ring, Log(place, preallocate=0, ring=ring) as log:
        await log.append(b"one")
        with pytest.raises(OSError, match="No space"):
            await log.append(b"two")
        done = [event.operation for event in trace if event.what == "completed"]
        assert done[-3:] == ["write", "truncate", "fsync"]
        await log.append(b"three")
        assert await contents(log) == [b"one", b"three"]


async def test_a_record_of_100_mib(
    anyio_backend: Any, make_ring: Callable[..., aioring.Ring], place: Path, method: str
) -> None:
    if (anyio_backend[0], method) not in (("asyncio", "io_uring"), ("asyncio", "worker"), ("trio", "scripted")):
        pytest.skip("it takes seconds")
    record = random.Random(2).randbytes(1 << 20) * 100
    async with make_ring() as ring, Log(place, ring=ring) as log:
        async with anyio.create_task_group() as group:
            outcomes = [begin(group, log.append, data) for data in (b"before", record, b"behind")]
        assert [outcome.error for outcome in outcomes] == [None] * 3
        del outcomes
        assert await log.append(b"") > len(record)
        async for data in log:
            if len(data) > 10:
                assert data == record
                break
        else:
            raise AssertionError("it is not there")
        offset = [offset async for offset, data in log.entries() if len(data) > 10]
        assert await log.read(offset[0]) == record


async def test_a_record_that_is_too_large(anyio_backend: Any, place: Path) -> None:
    async with aioring.Ring(method="sync") as ring, Log(place, ring=ring) as log:
        with mmap.mmap(-1, 1 << 31) as memory, pytest.raises(ValueError, match="at most 2147483647"):
            await log.append(memory)


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_an_append_that_is_cancelled_before_it_was_sent_is_withdrawn(anyio_backend: Any, place: Path) -> None:
    held = Held(1)
    held.held = False
    async with aioring.Ring(method=held) as ring, Log(place, ring=ring) as log:
        held.held = True
        async with anyio.create_task_group() as group:
            sent = begin(group, log.append, b"sent")
            await ticks(5)
            waiting = [begin(group, log.append, b"%d" % n) for n in range(4)]
            await ticks(5)
            waiting[0].scope.cancel()
            waiting[2].scope.cancel()
            await all_over(waiting[0], waiting[2])
            assert not sent.done
            held.let_go()
        assert sorted(await contents(log)) == [b"1", b"3", b"sent"]  # (trio runs tasks in no order)


async def test_an_append_that_is_cancelled_after_it_was_sent_may_be_there(anyio_backend: Any, place: Path) -> None:
    held = Held(1)
    held.held = False
    async with aioring.Ring(method=held) as ring, Log(place, ring=ring) as log:
        held.held = True
        async with anyio.create_task_group() as group:
            sent = [begin(group, log.append, b"%d" % n) for n in range(3)]
            await ticks(5)
            sent[1].scope.cancel()
            await all_over(sent[1])  # at once
            assert not sent[0].done
            held.let_go()
        assert await log.append(b"next") > 0
        assert sorted(await contents(log)) == [b"0", b"1", b"2", b"next"]


async def test_cancelled_anywhere_it_loses_nothing_that_was_told(ring: aioring.Ring, place: Path) -> None:
    told: list[bytes] = []
    number = 0
    async with Log(place, preallocate=500, ring=ring) as log:

        async def some() -> None:
            nonlocal number
            for _ in range(3):
                number += 1
                record = b"%d" % number
                await log.append(record)
                told.append(record)

        await cancelled_again_and_again(some, 60, 14)
        assert set(told) <= set(await contents(log))
    found = await found_in(place, ring)
    assert [record for record in found if record in set(told)] == told
    assert len(found) == len(set(found)) <= number


@pytest.mark.parametrize("size", [50, 1_300_000])
async def test_an_iteration_that_is_cancelled_loses_no_record(ring: aioring.Ring, place: Path, size: int) -> None:
    async with Log(place, preallocate=0, ring=ring) as log:
        records = [b"%d" % n + bytes(size) for n in range(6)]
        await together(log, records)
        for after in range(0, 60, 6):
            entries, found = log.entries(), list[bytes]()

            async def more(entries: Any = entries, found: Any = found) -> None:
                found.append((await anext(entries))[1])

            while len(found) < 6:
                async with anyio.create_task_group() as group:
                    outcome = begin(group, more)
                    await ticks(after % 30)
                    await anyio.sleep(after * 2e-5)
                    outcome.scope.cancel()
                after += 7
            assert sorted(found) == sorted(records)
            await entries.aclose()


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
async def test_a_cancel_does_not_hide_that_records_are_missing(ring: aioring.Ring, place: Path, after: int) -> None:
    async with Log(place, ring=ring) as log:
        offsets = [await log.append(b"record %d" % n) for n in range(5)]
        os.truncate(place, offsets[3] + 3)
        entries, found, raised = log.entries(), 0, 0

        async def all_of() -> None:
            nonlocal found
            async for _ in entries:
                found += 1

        for _ in range(40):
            async with anyio.create_task_group() as group:
                outcome = begin(group, all_of)
                await ticks(after)
                outcome.scope.cancel()
            raised += isinstance(outcome.error, LogDamagedError)
        async with anyio.create_task_group() as group:
            outcome = begin(group, all_of)
        raised += isinstance(outcome.error, LogDamagedError)
        assert (found, raised) == (3, 1)


async def test_cancelled_twice_while_it_opens_it_leaves_nothing_open(anyio_backend: Any, place: Path) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("a second cancel is asyncio's")
    for name in ("io_uring", "worker"):
        async with aioring.Ring(method=name) as ring:
            for after in range(0, 60, 2):
                task = asyncio.ensure_future(Log(place, ring=ring).__aenter__())
                await ticks(after % 20)
                await asyncio.sleep(after * 2e-5)
                task.cancel()
                await ticks(after % 3)
                task.cancel()
                done = (await asyncio.gather(task, return_exceptions=True))[0]
                if isinstance(done, Log):
                    await done.aclose()
            with anyio.fail_after(SOON):
                while open_in(place.parent):
                    await asyncio.sleep(0.001)
            assert await found_in(place, ring) == []


async def test_opening_closing_and_rotating_can_be_cancelled(ring: aioring.Ring, place: Path) -> None:
    kept = 0

    async def life() -> None:
        nonlocal kept
        async with Log(place, ring=ring) as log:
            await log.append(b"%d" % kept)
            kept += 1
            if kept % 3 == 0:
                await log.rotate()

    for after in range(0, 400, 7):
        async with anyio.create_task_group() as group:
            outcome = begin(group, life)
            await ticks(after)
            await anyio.sleep(after * 3e-5)
            outcome.scope.cancel()
    for _ in range(3):
        await life()
    with anyio.fail_after(3):
        while open_in(place.parent):
            await anyio.sleep(0.001)
    found = []
    for name in sorted(place.parent.iterdir(), key=lambda path: (path == place, path)):
        found += await found_in(name, ring)
    assert kept >= 3
    assert set(found) >= {b"%d" % n for n in range(kept)}


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_closing_waits_for_what_was_appended(anyio_backend: Any, place: Path) -> None:
    held = Held(1)
    held.held = False
    async with aioring.Ring(method=held) as ring:
        log = Log(place, ring=ring)
        await log.__aenter__()
        held.held = True
        async with anyio.create_task_group() as group:
            appends = [begin(group, log.append, b"%d" % n) for n in range(3)]
            await ticks(5)
            appends += [begin(group, log.append, b"late %d" % n) for n in range(3)]
            await ticks(5)
            closes = [begin(group, log.aclose) for _ in range(2)]
            await ticks(5)
            assert not any(outcome.done for outcome in (*appends, *closes))
            with pytest.raises(ValueError, match="closed log"):
                await log.append(b"too late")
            held.let_go()
        assert [outcome.error for outcome in (*appends, *closes)] == [None] * 8
        held.held = False
        assert len(await found_in(place, ring)) == 6


async def test_the_end_of_the_ring_is_told(
    anyio_backend: Any, make_ring: Callable[..., aioring.Ring], place: Path
) -> None:
    async with make_ring() as ring:
        log = Log(place, ring=ring)
        await log.__aenter__()
        await log.append(b"told")
        async with anyio.create_task_group() as group:
            outcomes = [begin(group, log.append, b"%d" % n) for n in range(3)]
            await ticks(1)
            await ring.aclose()
        for outcome in outcomes:
            assert outcome.error is None or isinstance(outcome.error, RingClosedError)
        with pytest.raises(RingClosedError):
            await log.append(b"more")
        await log.aclose()
        assert log.closed
    assert not open_in(place.parent)
    async with make_ring() as ring:
        assert (await found_in(place, ring))[0] == b"told"


async def test_a_log_that_is_dropped_warns_and_is_unlocked(ring: aioring.Ring, place: Path) -> None:
    log = Log(place, ring=ring)
    await log.__aenter__()
    await log.append(b"one")
    logs = [log]
    del log
    with pytest.warns(ResourceWarning, match="unclosed log"):
        logs.clear()
    gc.collect()
    with anyio.fail_after(3):
        while open_in(place.parent):
            await anyio.sleep(0.001)
    assert await found_in(place, ring) == [b"one"]


@pytest.mark.parametrize("sync", SYNCS)
async def test_one_that_is_dropped_with_a_batch_under_way_harms_nobody(
    anyio_backend: Any, place: Path, sync: Any
) -> None:
    held = Held(1, short=0, soft=0)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        logs = [Log(place, sync=sync, ring=ring)]
        await logs[0].__aenter__()
        held.held = True
        async with anyio.create_task_group() as group:
            outcome = begin(group, logs[0].append, b"under way")
            await ticks(5)
            outcome.scope.cancel()
            await all_over(outcome)
        del outcome
        with pytest.warns(ResourceWarning, match="unclosed log"):
            logs.clear()
        held.let_go()
        with anyio.fail_after(SOON):
            while open_in(place.parent):
                await anyio.sleep(0.001)
        assert await found_in(place, ring) == [b"under way"]


async def test_a_forked_child_does_not_keep_the_log(ring: aioring.Ring, place: Path) -> None:
    reader, writer = os.pipe()
    async with Log(place, ring=ring) as log:
        await log.append(b"one")
        pid = os.fork()
        if not pid:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        assert await found_in(place, ring) == [b"one"]
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(pid, 0)


async def test_who_still_reads_it_does_not_keep_it(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        await together(log, [b"%d" % n for n in range(50)])
        entries = log.entries()
        await anext(entries)
        archive = await log.rotate()
        assert len(await found_in(Path(os.fsdecode(archive)), ring)) == 50
        await log.append(b"new")
        others = log.entries()
        await anext(others)
    assert await found_in(place, ring) == [b"new"]
    assert len([entry async for entry in entries]) == 49
    assert [entry async for entry in others] == []


# --- rotating ---------------------------------------------------------------------------------------------------------


async def test_rotating_begins_a_new_file(ring: aioring.Ring, place: Path, tmp_path: Path) -> None:
    async with Log(place, ring=ring) as log:
        await log.append(b"one")
        early = log.entries()
        assert await anext(early)
        await log.append(b"two")
        assert await log.rotate() == f"{place}.000001"
        assert await contents(log) == []
        assert await log.append(b"three") == HEADER
        assert await log.rotate(tmp_path / "kept") == str(tmp_path / "kept")
        await log.append(b"four")
        (tmp_path / "log.000007").write_bytes(b"somebody else's")
        assert await log.rotate() == f"{place}.000008"
        assert [data async for _, data in early] == [b"two"]  # to the end of the file that it began with
        for taken in (tmp_path / "kept", f"{place}.000001"):
            with pytest.raises(FileExistsError) as raised:
                await log.rotate(taken)
            assert raised.value.filename == os.fspath(taken)
        with pytest.raises(FileNotFoundError):
            await log.rotate(tmp_path / "no" / "folder")
        await log.append(b"five")
        assert await contents(log) == [b"five"]
    for name, records in (("log.000001", [b"one", b"two"]), ("kept", [b"three"]), ("log.000008", [b"four"])):
        assert await found_in(tmp_path / name, ring) == records
    assert await found_in(place, ring) == [b"five"]
    link = tmp_path / "link"
    link.symlink_to(place)
    async with Log(os.fsencode(link), ring=ring) as log:
        assert await log.rotate() == os.fsencode(f"{place}.000001").replace(b"000001", b"000009")
    assert link.is_symlink()
    assert not open_in(tmp_path)


async def test_who_may_read_the_log_may_read_the_next(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        place.chmod(0o640)
        archive = await log.rotate()
        assert place.stat().st_mode & 0o7777 == os.stat(archive).st_mode & 0o7777 == 0o640


@pytest.mark.parametrize("ticks_before", [1, 2, 3, 5, 8, 12])
async def test_the_ring_ends_while_it_is_rotated(anyio_backend: Any, place: Path, ticks_before: int) -> None:
    """Whoever waits for the rotation's end, to append, is told."""
    ring = aioring.Ring(method="worker")
    await ring.start()
    log = Log(place, ring=ring)
    await log.__aenter__()
    await log.append(b"0")
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            rotation = begin(group, log.rotate)
            await ticks(ticks_before)
            appended = begin(group, log.append, b"1")
            await ticks(1)
            await ring.aclose()
            await log.aclose()
    for outcome in (rotation, appended):
        assert outcome.error is None or isinstance(outcome.error, RingClosedError), outcome.error


async def test_what_is_appended_while_it_is_rotated_is_in_one_of_them(ring: aioring.Ring, place: Path) -> None:
    appended: list[bytes] = []
    async with Log(place, ring=ring) as log:

        async def appends(name: int) -> None:
            for n in range(25):
                record = b"%d %d" % (name, n)
                await log.append(record)
                appended.append(record)

        async with anyio.create_task_group() as group:
            for name in range(4):
                group.start_soon(appends, name)
            archives = [await log.rotate() for _ in range(4)]
        last = await contents(log)
    found: list[bytes] = []
    for archive in archives:
        found += await found_in(Path(os.fsdecode(archive)), ring)
    found += last
    assert sorted(found) == sorted(appended)
    for name in range(4):
        assert [record for record in found if record.startswith(b"%d " % name)] == [
            b"%d %d" % (name, n) for n in range(25)
        ]


# Opening takes write 1, truncate 1, fsync 1 and 2 (the folder's), open 1 and 2; appending write 2.
ROTATION = [
    ("write", 3), ("truncate", 2), ("fsync", 3), ("open", 3), ("write", 4), ("truncate", 3), ("fsync", 4), ("link", 1),
    ("open", 4), ("fsync", 5), ("rename", 1), ("open", 5), ("fsync", 6),
]  # fmt: skip


@pytest.mark.parametrize("step", ROTATION)
async def test_a_rotation_that_fails_leaves_the_log_as_it_was(anyio_backend: Any, place: Path, step: Any) -> None:
    for code in (errno.ENOSPC, errno.EIO):
        place.unlink(missing_ok=True)
        async with aioring.Ring(method=faulty({step: code})) as ring:
            async with Log(place, preallocate=0, ring=ring) as log:
                await log.append(b"one")
                with pytest.raises(OSError) as raised:
                    await log.rotate(place.parent / "archive")
                assert raised.value.errno == code
                kept = [b"one"]
                try:
                    await log.append(b"two")
                    kept.append(b"two")
                except OSError as error:
                    assert error.errno == code == errno.EIO
                assert await contents(log) == kept
            assert await found_in(place, ring) == kept
            assert [name.name for name in place.parent.iterdir()] == ["log"]
            assert not open_in(place.parent)


async def test_a_log_that_was_moved_away_is_not_rotated(ring: aioring.Ring, place: Path) -> None:
    async with Log(place, ring=ring) as log:
        await log.append(b"ours")
        place.rename(place.with_name("moved"))
        async with Log(place, ring=ring) as other:
            await other.append(b"others")
            with pytest.raises(OSError, match="not at its path") as raised:
                await log.rotate()
            assert (raised.value.errno, raised.value.filename) == (errno.ESTALE, str(place))
            await log.append(b"goes on")
        assert await contents(log) == [b"ours", b"goes on"]
    assert await found_in(place, ring) == [b"others"]


async def test_a_rotation_that_cannot_be_undone_takes_nothing_more(anyio_backend: Any, place: Path) -> None:
    faults = {("fsync", 6): errno.EIO, ("rename", 2): errno.EIO}
    async with aioring.Ring(method=faulty(faults)) as ring, Log(place, preallocate=0, ring=ring) as log:
        await log.append(b"one")
        for ask in (log.rotate, partial(log.append, b"two")):
            with pytest.raises(OSError, match="Input/output"):
                await ask()


# --- against a list ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_it_is_a_list_that_stays(
    anyio_backend: Any, make_ring: Callable[..., aioring.Ring], place: Path, seed: int
) -> None:
    """Lives of a log, each closed or left as a crash leaves it (the page cache outlives the process)."""
    chance, model = random.Random(seed), list[bytes]()
    for life in range(6):
        async with make_ring(seed=seed * 100 + life) as ring:
            sync: Any = chance.choice(SYNCS)
            async with Log(place, preallocate=chance.choice((0, 1, 700, 5000)), sync=sync, ring=ring) as log:
                assert await contents(log) == model
                for _ in range(chance.randrange(6)):
                    records = [
                        chance.randbytes(chance.choice((0, 1, 300, 3000))) for _ in range(chance.randrange(1, 9))
                    ]
                    offsets = await together(log, records)
                    by_place = sorted(zip(offsets, records, strict=True))
                    model += [record for _, record in by_place]
                    offset, record = chance.choice(by_place)
                    assert await log.read(offset) == record
                left = place.read_bytes()
            if chance.random() < 0.5:
                place.write_bytes(left + chance.randbytes(chance.randrange(100)))
