"""The write stream: the file has what was written, all of it and in order, with no more I/Os than it takes; and whoever
wrote what could not be written learns of it."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring import RingClosedError, write_stream
from aioring.streams import write_behind
from aioring.testing import Recording, Scripted, Trace, assert_synced
from tests.conftest import ONCE, pattern
from tests.harness import SOON, Held, all_over, begin, open_in, small_disk, ticks
from tests.test_lifetime import child

LIGHT = True  # see conftest.py
DIRECT = [False, "try"]


# It does not ask the page cache: once for each method is enough.
@pytest.fixture(params=ONCE, ids=[method for method, _ in ONCE])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "file"


def writes(trace: Trace) -> list[tuple[int, int]]:
    """Offset and length of each, in the order of their submission."""
    return [(e.offset, e.length) for e in trace if e.what == "submitted" and e.operation == "write"]


def quiet(seed: int = 1, **options: Any) -> Scripted:
    return Scripted(seed, short=0, soft=0, **options)


# --- what the file has ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", DIRECT)
async def test_the_file_has_what_was_written(ring: aioring.Ring, place: Path, direct: Any) -> None:
    place.write_bytes(b"what was there before" * 100_000)
    whole = pattern(1_000_003)
    async with write_stream(place, direct=direct, combine_limit=65536, max_ios=3, ring=ring) as out:
        assert not out.closed
        at = 0
        for n in (0, 1, 10, 65536, 65537, 300_000, 7, 500_000):
            assert await out.write(whole[at : at + n]) == n
            at += n
            assert out.tell() == at
        assert await out.write(bytearray(whole[at:])) == len(whole) - at
    assert out.closed
    assert place.read_bytes() == whole
    assert not open_in(place.parent)


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 30_000), st.sampled_from([bytes, bytearray, memoryview, "flush"])), max_size=12
    ),
    combine=st.sampled_from([1, 4096, 8192, 10_000]),
    max_ios=st.integers(1, 4),
    direct=st.sampled_from([False, "try"]),
    start=st.sampled_from([0, 1, 4096, 5000]),
    seed=st.integers(0, 1000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
async def test_whatever_it_is_cut_into(
    anyio_backend: Any, tmp_path: Path, parts: Any, combine: int, max_ios: int, direct: Any, start: int, seed: int
) -> None:
    """Short transfers, completions in any order, flushes between any two bytes; into the middle of a file, too."""
    if combine == 1:
        parts = [(n % 50, kind) for n, kind in parts]
    place, old = tmp_path / "file", pattern(9000)
    place.write_bytes(old)
    model = bytearray(old)
    async with aioring.Ring(method=Scripted(seed)) as ring, aioring.open(place, "r+b", ring=ring) as file:
        await file.seek(start)
        out = write_stream(file, direct=direct, combine_limit=combine, max_ios=max_ios, ring=ring)
        at, chance = start, random.Random(seed)
        async with out:
            for n, kind in parts:
                if kind == "flush":
                    await out.flush()
                    assert place.read_bytes() == bytes(model)
                    continue
                data = chance.randbytes(n)
                await out.write(kind(data))
                model[at : at + n] = data
                at += n
                assert out.tell() == at
        assert await file.tell() == at
    assert place.read_bytes() == bytes(model)


@pytest.mark.parametrize("direct", DIRECT)
async def test_what_is_written_is_combined(anyio_backend: Any, place: Path, direct: Any) -> None:
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        async with write_stream(place, direct=direct, combine_limit=65536, ring=ring) as out:
            for _ in range(100):
                await out.write(b"x" * 3000)
    assert writes(trace)[:4] == [(at * 65536, 65536) for at in range(4)]
    # What is left; past the page cache in whole sectors, of which the file is cut.
    assert 300_000 - 4 * 65536 <= sum(length for _, length in writes(trace)[4:]) < 300_000 - 4 * 65536 + 4096
    assert len(writes(trace)) <= 6
    assert place.read_bytes() == b"x" * 300_000


async def test_large_bytes_are_not_copied(anyio_backend: Any, place: Path) -> None:
    data = pattern(1 << 20)
    held = Held(1, short=0, soft=0)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        out = write_stream(place, combine_limit=1 << 18, ring=ring)
        async with out:
            held.held = True
            await out.write(data)
            views = [piece.handle.view for piece in out._in_flight]
            assert len(views) == 4
            assert all(isinstance(view, memoryview) and view.obj is data for view in views)
            await out.write(bytearray(data))  # which its owner may change
            assert sum(piece.handle.view.obj is data for piece in out._in_flight) == 4
            assert len(out._in_flight) == 8
            held.let_go()
    assert place.read_bytes() == data * 2


async def test_the_callers_memory_is_theirs_again(ring: aioring.Ring, place: Path) -> None:
    memory, whole = bytearray(100_000), bytearray()
    async with write_stream(place, combine_limit=65536, ring=ring) as out:
        for n in range(20):
            memory[:] = bytes([n]) * len(memory)
            await out.write(memory)
            whole += memory
        memory.clear()  # nobody holds it
    assert place.read_bytes() == bytes(whole)


async def test_no_more_is_held_than_was_said(anyio_backend: Any, place: Path) -> None:
    held = Held(1, short=0, soft=0)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        async with write_stream(place, combine_limit=4096, max_ios=3, ring=ring) as out:
            held.held = True
            async with anyio.create_task_group() as group:
                outcome = begin(group, out.write, bytearray(10 * 4096))
                await ticks(10)
                assert len(out._in_flight) == 3
                assert out.tell() == 3 * 4096
                assert not outcome.done
                held.let_go()
            assert outcome.value == 10 * 4096
    assert place.read_bytes() == bytes(10 * 4096)


async def test_several_tasks_write_and_each_keeps_together(ring: aioring.Ring, place: Path) -> None:
    async with write_stream(place, combine_limit=5000, max_ios=2, ring=ring) as out:

        async def one(name: int) -> None:
            for _ in range(10):
                await out.write(bytes([name]) * 7001)

        async with anyio.create_task_group() as group:
            for name in range(65, 70):
                group.start_soon(one, name)
            group.start_soon(out.flush)
    data = place.read_bytes()
    assert len(data) == 5 * 10 * 7001
    assert all(len(set(data[at : at + 7001])) == 1 for at in range(0, len(data), 7001))


async def test_an_fd_and_what_has_one(ring: aioring.Ring, place: Path) -> None:
    fd = os.open(place, os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"head ")
        async with write_stream(fd, ring=ring) as out:
            assert out.tell() == 5
            await out.write(b"one ")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 9
        with open(fd, "r+b", buffering=0, closefd=False) as plain:
            async with write_stream(plain, ring=ring) as out:
                await out.write(b"two ")
            plain.write(b"three")
        async with aioring.open(place, "r+b", ring=ring) as file:
            await file.write(b"HEAD")
            async with write_stream(file, ring=ring) as out:
                await out.write(b"-ONE")
            await file.write(b"!")
        assert place.read_bytes() == b"HEAD-ONE!two three"
    finally:
        os.close(fd)


# --- durable ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", DIRECT)
@pytest.mark.parametrize("name", ["io_uring", "worker", "sync", 1, 2])
async def test_a_durable_stream_is_on_the_disk(
    anyio_backend: Any, tmp_path: Path, name: str | int, direct: Any
) -> None:
    trace = Trace(tmp_path)
    method: Any = Recording(name, trace) if isinstance(name, str) else Scripted(name, trace=trace)
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        async with write_stream(tmp_path / "file", direct=direct, combine_limit=8192, durable=True, ring=ring) as out:
            await out.write(pattern(30_000))
            await out.flush()
            trace.note("flushed")
            await out.write(b"end")
        trace.note("closed")
    assert len(assert_synced(trace, "flushed") + assert_synced(trace, "closed")) == 2
    assert trace.count("submitted", "fsync") >= 4  # of the file and of its folder, twice (and after EINTR again)


@pytest.mark.parametrize("durable", [False, True])
async def test_the_disk_is_kept_busy_meanwhile(
    anyio_backend: Any, place: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "_WINDOW", 1 << 16)
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        async with write_stream(place, combine_limit=8192, max_ios=4, durable=durable, ring=ring) as out:
            for _ in range(40):
                await out.write(bytes(10_000))
                assert len(out._syncing) <= 3
    paced = [(e.offset, e.length) for e in trace if e.what == "submitted" and e.operation == "sync_range"]
    assert 4 <= len(paced) <= 7
    at = 0
    for offset, length in paced:  # each once, in order, and only what has been written
        assert offset == at
        assert length >= 1 << 16
        at += length
    before = [e for e in trace if e.what in ("submitted", "completed") and e.operation in ("write", "sync_range")]
    done = 0
    for event in before:
        if event.operation == "write" and event.what == "completed":
            done += event.res or 0
        elif event.operation == "sync_range" and event.what == "submitted":
            assert event.offset + event.length <= done
    assert trace.count("submitted", "fsync") == (2 if durable else 0)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EIO])
async def test_where_the_kernel_cannot_be_kept_busy(
    anyio_backend: Any, place: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error is told to an fd once: one of sync_file_range(2) is one of the stream's."""
    monkeypatch.setattr(write_behind, "_WINDOW", 1 << 14)
    async with aioring.Ring(method=quiet(faults={("sync_range", 1): code})) as ring:
        out = write_stream(place, combine_limit=8192, durable=True, ring=ring)
        if code == errno.EIO:
            with pytest.raises(OSError, match="Input/output"):
                async with out:
                    for _ in range(30):
                        await out.write(bytes(8192))
        else:
            async with out:
                for _ in range(30):
                    await out.write(bytes(8192))
            assert place.stat().st_size == 30 * 8192


# --- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", [1, 2, 5])
async def test_an_error_is_told_to_the_next_and_at_the_end(anyio_backend: Any, place: Path, at: int, code: int) -> None:
    async with aioring.Ring(method=quiet(faults={("write", at): code})) as ring:
        out = write_stream(place, combine_limit=8192, max_ios=2, ring=ring)
        raised = []
        with pytest.raises(OSError) as closing:
            try:
                for _ in range(6):
                    try:
                        await out.write(bytearray(8192))
                    except OSError as error:
                        raised.append(error)
                with pytest.raises(OSError) as flushing:
                    await out.flush()
                raised.append(flushing.value)
            finally:
                await out.aclose()
        raised.append(closing.value)
        assert all((error.errno, error.filename) == (code, str(place)) for error in raised)
        assert len({id(error) for error in raised}) == len(raised) >= 2
        assert any("write of 8192 bytes" in note for note in closing.value.__notes__)
        await out.aclose()
    assert not open_in(place.parent)


async def test_the_end_of_the_block_does_not_hide_what_went_wrong(anyio_backend: Any, place: Path) -> None:
    async with aioring.Ring(method=quiet(faults={("write", 2): errno.EIO})) as ring:
        with pytest.raises(RuntimeError, match="of the program"):
            async with write_stream(place, combine_limit=4096, durable=True, ring=ring) as out:
                await out.write(bytes(20_000))
                raise RuntimeError("of the program")
        trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        with pytest.raises(RuntimeError, match="of the program"):
            async with write_stream(place, durable=True, ring=ring) as out:
                await out.write(b"taken")
                raise RuntimeError("of the program")
    assert place.read_bytes() == b"taken"
    assert trace.count("submitted", "fsync") == 0


@pytest.mark.parametrize("at", [1, 2])
async def test_an_fsync_that_fails_is_told(anyio_backend: Any, place: Path, at: int) -> None:
    async with aioring.Ring(method=quiet(faults={("fsync", at): errno.EIO})) as ring:
        out = write_stream(place, durable=True, ring=ring)
        await out.write(b"data")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output") as raised:
                await out.flush()
        assert raised.value.filename in (str(place), str(place.parent))
        with pytest.raises(OSError, match="Input/output"):
            await out.aclose()
    assert not open_in(place.parent)


@pytest.mark.parametrize("direct", DIRECT)
async def test_a_disk_that_fills(ring: aioring.Ring, tmp_path: Path, direct: Any) -> None:
    with small_disk(tmp_path / "disk", "256k") as where:
        out = write_stream(where / "file", direct=direct, combine_limit=16384, max_ios=4, ring=ring)
        taken = 0
        with pytest.raises(OSError, match="No space") as raised:
            while True:
                taken += await out.write(bytes(5000))
                assert taken < 1 << 20
        assert raised.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space"):
            await out.aclose()
        assert not open_in(where)


async def test_bad_arguments(ring: aioring.Ring, tmp_path: Path) -> None:
    for wrong in ({"combine_limit": 0}, {"max_ios": 0}, {"direct": "perhaps"}):
        with pytest.raises(ValueError, match="must be"):
            write_stream(tmp_path / "file", **wrong)
    with pytest.raises(FileNotFoundError) as raised:
        async with write_stream(tmp_path / "no" / "file", ring=ring):
            pass
    assert raised.value.filename == str(tmp_path / "no" / "file")
    with pytest.raises(IsADirectoryError):
        await write_stream(tmp_path, ring=ring).write(b"")
    with pytest.raises(TypeError):
        async with write_stream(None, ring=ring):
            pass
    async with aioring.open(tmp_path / "text", "w", ring=ring) as text:
        with pytest.raises(TypeError, match="'b'"):
            await write_stream(text, ring=ring).write(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        async with write_stream(1 << 20, ring=ring):
            pass
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            async with write_stream(writer, ring=ring):
                pass
    finally:
        os.close(reader)
        os.close(writer)
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with pytest.raises(OSError, match="Invalid argument") as appending:
            async with write_stream(fd, ring=ring):
                pass
        assert "O_APPEND" in appending.value.__notes__[0]
    finally:
        os.close(fd)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            async with write_stream(fd, ring=ring) as out:
                await out.write(b"x")
    finally:
        os.close(fd)
    async with write_stream(tmp_path / "file", ring=ring) as out:
        for bad in ("text", None, 5, memoryview(b"abcd")[::2]):
            with pytest.raises((TypeError, BufferError)):
                await out.write(bad)
    for call in (out.write(b"x"), out.flush()):
        with pytest.raises(ValueError, match="closed write stream"):
            await call
    unused = write_stream(tmp_path / "none", ring=ring)
    await unused.aclose()
    assert not (tmp_path / "none").exists()
    assert not open_in(tmp_path)


# --- cancelling and the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", DIRECT)
async def test_cancelled_anywhere_what_was_taken_is_written(ring: aioring.Ring, place: Path, direct: Any) -> None:
    whole = pattern(200_000)
    for after in range(0, 60, 3):
        out = write_stream(place, direct=direct, combine_limit=4096, max_ios=2, ring=ring)
        at = 0

        async def some(out: Any = out) -> None:
            for n in (1000, 50_000, 3, 70_000, 20_000):
                await out.write(bytearray(whole[out.tell() :][:n]))

        await out.flush()
        async with anyio.create_task_group() as group:
            outcome = begin(group, some)
            await ticks(after)
            await anyio.sleep(after * 1e-5)
            outcome.scope.cancel()
        at = out.tell()
        await out.write(b"behind")
        await out.aclose()
        assert place.read_bytes() == whole[:at] + b"behind"


async def test_aborting_writes_no_more(anyio_backend: Any, place: Path) -> None:
    held = Held(1, short=0, soft=0)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        out = write_stream(place, combine_limit=4096, max_ios=2, durable=True, ring=ring)
        async with out:
            held.held = True
            async with anyio.create_task_group() as group:
                writer = begin(group, out.write, bytearray(50_000))
                await ticks(5)
                aborts = [begin(group, out.abort) for _ in range(2)]
                await ticks(5)
                held.let_go()
            assert writer.errno == errno.ECANCELED
            assert [abort.error for abort in aborts] == [None, None]
    assert place.stat().st_size <= 3 * 4096
    assert not open_in(place.parent)


async def test_a_close_that_is_cancelled_goes_on(anyio_backend: Any, place: Path) -> None:
    held = Held(1)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        out = write_stream(place, ring=ring)
        await out.write(b"taken")
        held.held = True
        async with anyio.create_task_group() as group:
            outcome = begin(group, out.aclose)
            await ticks(5)
            outcome.scope.cancel()
            await ticks(5)
            assert not outcome.done
            held.let_go()
            await all_over(outcome)
    assert place.read_bytes() == b"taken"
    assert not open_in(place.parent)


async def test_the_end_of_the_ring_is_told(
    anyio_backend: Any, make_ring: Callable[..., aioring.Ring], place: Path
) -> None:
    async with make_ring() as ring:
        out = write_stream(place, combine_limit=4096, max_ios=1, ring=ring)
        await out.write(b"first")
        async with anyio.create_task_group() as group:
            outcome = begin(group, out.write, bytearray(1_000_000))
            await ticks(2)
            await ring.aclose()
        assert outcome.error is None or isinstance(outcome.error, RingClosedError)
        with pytest.raises(RingClosedError):
            await out.flush()
        try:
            await out.aclose()
        except RingClosedError:
            pass
        else:
            assert place.stat().st_size == out.tell()  # all that was taken
        await out.aclose()
    assert not open_in(place.parent)


async def test_one_that_is_dropped_warns(ring: aioring.Ring, place: Path) -> None:
    streams = [write_stream(place, ring=ring)]
    await streams[0].write(b"lost")
    with pytest.warns(ResourceWarning, match="4 bytes that were not written are lost"):
        streams.clear()
    gc.collect()
    await ticks(3)
    with anyio.fail_after(SOON):
        while open_in(place.parent):
            await anyio.sleep(0.001)


async def test_past_the_page_cache_it_is(ring: aioring.Ring, place: Path) -> None:
    async with write_stream(place, direct=True, combine_limit=5000, ring=ring) as out:
        (fd,) = {int(name) for name in os.listdir("/proc/self/fd") if _is(name, place)}
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        await out.write(pattern(100_001))
    assert place.read_bytes() == pattern(100_001)
    with pytest.raises(OSError, match="Invalid argument") as raised:
        async with write_stream("/dev/null", direct=True, ring=ring):
            pass
    assert "direct='try'" in raised.value.__notes__[0]


def _is(name: str, place: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == str(place)
    except OSError:
        return False


# --- what an attacker found -------------------------------------------------------------------------------------------


async def test_the_error_of_an_fsync_whose_caller_is_gone_is_not_lost(anyio_backend: Any, place: Path) -> None:
    """The kernel tells it once: the next fsync would say that all is well."""
    held = Held(1, short=0, soft=0, faults={("fsync", 1): errno.EIO})
    async with aioring.Ring(method=held) as ring:
        held.held = False
        out = write_stream(place, durable=True, ring=ring)
        await out.write(b"data")
        async with anyio.create_task_group() as group:
            outcome = begin(group, out.flush)
            while not held.trace.count("submitted", "fsync"):
                await ticks(1)
            held.held = True
            outcome.scope.cancel()
            await ticks(3)
            held.let_go()
        with pytest.raises(OSError, match="Input/output"):
            await out.aclose()


async def test_a_file_that_its_owner_closes_is_written_all_the_same_and_no_other(
    ring: aioring.Ring, place: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    for kind in ("file", "fd"):
        place.write_bytes(b"")
        file = await aioring.open(place, "r+b", ring=ring)
        fd = file.fileno()
        out = write_stream(file if kind == "file" else fd, ring=ring)
        await out.write(b"ours")
        await file.aclose()
        again = [os.open(other, os.O_RDWR) for _ in range(3)]
        assert fd in again
        await out.aclose()
        assert place.read_bytes() == b"ours"
        assert other.read_bytes() == b"somebody else's"
        assert all(os.lseek(number, 0, os.SEEK_CUR) == 0 for number in again)
        for number in again:
            os.close(number)


async def test_closed_while_it_is_being_opened_it_stays_closed(ring: aioring.Ring, place: Path) -> None:
    for after in range(12):
        out = write_stream(place, ring=ring)
        async with anyio.create_task_group() as group:
            outcome = begin(group, out.write, b"data")
            await ticks(after)
            await out.aclose()
        assert out.closed
        if outcome.error is None:
            assert place.read_bytes() == b"data"
        else:
            assert isinstance(outcome.error, ValueError)
        await out.aclose()
        with anyio.fail_after(SOON):
            while open_in(place.parent):
                await anyio.sleep(0.001)


async def test_a_file_that_is_written_past_the_page_cache_can_be_used_as_before(
    ring: aioring.Ring, place: Path
) -> None:
    place.write_bytes(pattern(10_000))
    async with aioring.open(place, "r+b", ring=ring) as file:
        await file.seek(5000)
        async with write_stream(file, direct="try", ring=ring) as out:
            await out.write(b"x" * 3000)
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_DIRECT
        await file.write(b"zz")
        assert await file.tell() == 8002
    assert place.read_bytes() == pattern(10_000)[:5000] + b"x" * 3000 + b"zz" + pattern(10_000)[8002:]
    async with aioring.open(place, "r+b", direct="try", ring=ring) as file:
        async with write_stream(file, ring=ring) as out:  # which is past it already
            await out.write(b"abc")
    assert place.read_bytes()[:4] == b"abc" + pattern(4)[3:]


async def test_what_stands_before_the_start_is_not_written_again(ring: aioring.Ring, place: Path) -> None:
    place.write_bytes(bytes(20_000))
    async with aioring.open(place, "r+b", ring=ring) as file:
        await file.seek(5000)
        late = write_stream(file, direct="try", ring=ring)
        await late.write(b"L")
        await late.flush()
        async with aioring.open(place, "r+b", direct="try", ring=ring) as other:
            await other.write(b"E" * 5000)
        await late.write(b"L" * 9999)
        await late.aclose()
    assert place.read_bytes() == b"E" * 5000 + b"L" * 10_000 + bytes(5000)


async def test_an_abort_ends_a_close_that_waits(anyio_backend: Any, place: Path) -> None:
    held = Held(1, short=0, soft=0, cancel="wins")
    async with aioring.Ring(method=held) as ring:
        held.held = False
        out = write_stream(place, combine_limit=4096, ring=ring)
        await out.write(bytes(100))
        held.held = True
        async with anyio.create_task_group() as group:
            closing = begin(group, out.aclose)
            await ticks(5)
            aborting = begin(group, out.abort)
            await ticks(5)
            held.let_go()
        assert closing.errno == errno.ECANCELED
        assert aborting.error is None
    assert not open_in(place.parent)


async def test_small_writes_and_large_ones_let_others_run(anyio_backend: Any, place: Path) -> None:
    """Each suspends nowhere, of itself: they take from the tick's budget."""
    async with aioring.Ring(method="sync") as ring, write_stream(place, ring=ring) as out:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while not out.closed:
                turns += 1
                await ticks(1)

        async with anyio.create_task_group() as group:
            group.start_soon(others)
            await ticks(2)
            for _ in range(2000):
                await out.write(b"x" * 100)
            assert turns > 10
            before = turns
            await out.write(bytearray(40 << 20))
            assert turns >= before + 5
            await out.aclose()


async def test_an_error_does_not_hold_the_callers_memory(anyio_backend: Any, place: Path) -> None:
    async with aioring.Ring(method=quiet(faults={("write", 1): errno.EIO})) as ring:
        out = write_stream(place, combine_limit=4096, ring=ring)
        memory = bytearray(10_000)
        with pytest.raises(OSError, match="Input/output"):
            for _ in range(3):
                await out.write(memory)
                await ticks(3)
        memory.clear()
        with pytest.raises(OSError, match="Input/output"):
            await out.write(b"x")  # the next call is told, however little it has
        await out.abort()


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
def test_a_stream_that_is_dropped_with_its_ring_ends_with_it(method: str, tmp_path: Path) -> None:
    """The last completion drops the last who held the ring: it is closed when all completions have been told."""
    child(
        """
        warnings.simplefilter("ignore", ResourceWarning)
        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
            ring = Ring(method=sys.argv[1])
            await ring.start()
            out = aioring.write_stream(sys.argv[2], direct="try", ring=ring)
            for _ in range(6):
                await out.write(bytes(1 << 20))
            engine = ring._started
            del out, ring
            while not engine.ended:
                gc.collect()
                await asyncio.sleep(0.001)
            assert not engine.live and not engine.completing, engine.live
        wrong = []
        asyncio.run(main())
        assert not wrong, wrong
        """,
        method,
        tmp_path / "file",
        flags=("-X", "dev"),
    )
