"""Files past the page cache, with offsets and lengths of any kind: the built-in `open` is the model, sector or not."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import os
import random
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings, strategies as st

import aioring
from aioring.files import open as aopen
from aioring.files.blocking import blocking
from aioring.files.sectors import END, GROWS, READS, WRITES, Claim, Sectors
from aioring.kernel.residency import Residency
from aioring.testing import Scripted
from tests.conftest import ONCE, pattern
from tests.files.model import Call, binary_calls, compare
from tests.files.test_binary import CONTENT, MODES, SUPPRESSED
from tests.harness import Held, all_over, begin, open_in, small_disk, ticks

LIGHT = True  # see conftest.py

SECTOR = 4096  # a multiple of what any device here wants


# What goes past the page cache does not ask it first: once for each method is enough.
@pytest.fixture(params=ONCE, ids=[method for method, _ in ONCE])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


def has_o_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def cached(path: Path) -> int:
    """How many bytes of a file the page cache has."""
    size = path.stat().st_size
    fd = os.open(path, os.O_RDWR)
    try:
        residency = Residency(fd, 1 << 16)
        try:
            return sum(SECTOR for at in range(0, size, SECTOR) if residency.resident(at, 1))
        finally:
            residency.close()
    finally:
        os.close(fd)


def uncached(path: Path, n: int) -> bytes:
    """A file of `n` bytes on the disk, and not in the page cache."""
    data = pattern(n)
    path.write_bytes(data)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert not cached(path)
    return data


# --- as the built-in --------------------------------------------------------------------------------------------------


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, int, bytes, list[Call]]:
    mode, buffering = draw(st.sampled_from(MODES)), draw(st.sampled_from([-1, 0, 7, 512, 1000, 8192]))
    calls = binary_calls(looks_ahead=False)
    if buffering:  # its buffer is larger, and is written when it ends with a sector
        calls = calls.filter(lambda call: not call[0].endswith("_behind_its_back"))
    return mode, buffering, draw(CONTENT), draw(st.lists(calls, max_size=14))


@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=scripts())
async def test_it_is_the_built_in_step_by_step(
    ring: Any, tmp_path: Path, script: tuple[str, int, bytes, list[Call]]
) -> None:
    mode, buffering, content, calls = script

    async def ours(path: Path) -> Any:
        file = await aopen(path, mode, buffering, direct=True, ring=ring)
        assert has_o_direct(file._raw.fd)
        return file

    await compare(tmp_path / "file", content, mode, {"buffering": buffering}, calls, ours, when_full=not buffering)


async def test_text_is_read_and_written(ring: aioring.Ring, tmp_path: Path) -> None:
    lines = [f"line {i} é\n" for i in range(30_000)]
    async with aopen(tmp_path / "text", "w+", encoding="utf-8", direct=True, ring=ring) as file:
        await file.writelines(lines)
        await file.seek(0)
        assert [line async for line in file] == lines
        assert has_o_direct(file.fileno())
    async with aopen(tmp_path / "text", encoding="utf-8", direct=True, ring=ring) as file:
        assert await file.read() == "".join(lines)


async def test_large_reads_and_writes_go_in_pieces(ring: aioring.Ring, tmp_path: Path) -> None:
    data = pattern(5_500_001)
    path = tmp_path / "large"
    async with aopen(path, "w+b", direct=True, ring=ring) as file:
        assert await file.write(data) == len(data)
        await file.seek(0)
        assert await file.read() == data
        assert await file.pread(len(data), 0) == data
        assert await file.pread(5_000_000, 1_999_999) == data[1_999_999:]
        assert await file.pwrite(data[7:], 3) == len(data) - 7
        assert await file.pread(1 << 40, 0) == data[:3] + data[7:] + data[-4:]
    assert path.stat().st_size == len(data)
    memory = ring._memory
    assert memory is not None
    assert memory.made <= 24  # used again, piece by piece


async def test_what_lies_across_pieces_comes_whole(ring: aioring.Ring, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size, at in (((1 << 20) + 50, 100), ((1 << 20) + 400, 511), (2 << 20, 1), ((1 << 20) + 511, 3)):
        data = pattern(size)
        path.write_bytes(data)
        for buffering in (0, -1):
            async with aopen(path, "rb", buffering, direct=True, ring=ring) as file:
                await file.seek(at)
                assert await file.read() == data[at:]
                assert await file.pread(1 << 20, at) == data[at : at + (1 << 20)]
                assert await file.pread(size, at) == data[at:]


# --- past the page cache ----------------------------------------------------------------------------------------------


async def test_nothing_goes_through_the_page_cache(ring: aioring.Ring, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = uncached(path, 300_000 // SECTOR * SECTOR)
    async with aopen(path, "r+b", direct=True, ring=ring) as file:
        assert has_o_direct(file.fileno())
        assert await file.pread(1000, 5001) == data[5001:6001]
        assert await file.read(70_001) == data[:70_001]
        assert await file.pwrite(b"unaligned", 9_999) == 9
        await file.seek(100_001)
        await file.write(b"x" * 50_000)
        await file.flush()
        await file.pwrite(aioring.alloc(SECTOR), len(data))
    assert not cached(path)
    expected = bytearray(data + bytes(SECTOR))
    expected[9_999 : 9_999 + 9] = b"unaligned"
    expected[100_001:150_001] = b"x" * 50_000
    assert path.read_bytes() == expected


async def test_small_writes_one_after_the_other_are_written_by_whole_sectors(
    tmp_path: Path, anyio_backend: Any
) -> None:
    trace = aioring.testing.Trace()
    async with aioring.Ring(method=aioring.testing.Recording("worker", trace)) as ring:
        async with aopen(tmp_path / "file", "wb", 8192, direct=True, ring=ring) as file:
            for i in range(100):
                await file.write(bytes([i]) * 1000)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([i]) * 1000 for i in range(100))
    names = [entry.operation for entry in trace.events if entry.what == "submitted"]
    assert names.count("write") <= 14
    assert names.count("readinto") == 0  # nothing is read back
    assert names.count("truncate") == 1  # at its end


# --- several at once --------------------------------------------------------------------------------------------------


async def many_at_once(ring: aioring.Ring, path: Path, seed: int) -> None:
    """Tasks that write ranges side by side, by two files, while others read: each byte is what it was or what it is to
    be, none is lost, and nobody sees beyond the end."""
    rng = random.Random(seed)
    cuts = sorted({0, 20_000, *(rng.randrange(1, 20_000) for _ in range(30))})
    ranges = list(itertools.pairwise(cuts))
    new = pattern(20_000)
    held = rng.randrange(0, 20_001)
    path.write_bytes(b"\xff" * held)
    async with (
        aopen(path, "r+b", 0, direct=True, ring=ring) as one,
        aopen(path, "r+b", direct=True, ring=ring) as other,
        anyio.create_task_group() as group,
    ):

        async def write(start: int, end: int) -> None:
            await ticks(rng.randrange(6))
            assert await rng.choice((one, other)).pwrite(new[start:end], start) == end - start

        async def read() -> None:
            for _ in range(6):
                at, n = rng.randrange(20_000), rng.randrange(1, 8000)
                before = os.stat(path).st_size
                data = await rng.choice((one, other)).pread(n, at)
                assert len(data) >= min(before - before % 512 - at, n) or before > held
                # A hole between what has been written already and the old end reads as zeros.
                assert all(byte in (0xFF, 0, new[at + i]) for i, byte in enumerate(data)), (at, n)
                written.append(at + len(data))
                await checkpoint()

        written: list[int] = []
        rng.shuffle(ranges)
        for start, end in ranges:
            group.start_soon(write, start, end)
        for _ in range(3):
            group.start_soon(read)
    assert path.read_bytes() == new
    ends = {held, *(end for _, end in ranges)}
    asked = [at for at in written if at not in ends]
    assert all(at <= 20_000 for at in asked)
    assert not one._raw.direct or not len(one._raw.direct.sectors)


async def test_ranges_that_share_sectors_are_written_by_many_at_once(ring: aioring.Ring, tmp_path: Path) -> None:
    for seed in range(4):
        await many_at_once(ring, tmp_path / "file", seed)


async def test_the_same_whatever_the_order_of_completions(anyio_backend: Any, tmp_path: Path) -> None:
    for seed in range(25):
        async with aioring.Ring(method=Scripted(seed)) as ring:
            await many_at_once(ring, tmp_path / "file", seed)


async def test_appends_by_two_files_lose_nothing(ring: aioring.Ring, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin ")
    records = [b"<%d %s>" % (i, b"x" * (i * 37 % 900)) for i in range(40)]
    async with (
        aopen(path, "ab", 0, direct=True, ring=ring) as one,
        aopen(path, "a+b", 0, direct=True, ring=ring) as other,
        anyio.create_task_group() as group,
    ):
        assert await one.tell() == 6
        for i, record in enumerate(records):
            group.start_soon((one, other)[i % 2].write, record)
    data = path.read_bytes()
    assert data.startswith(b"begin ")
    assert len(data) == 6 + sum(map(len, records))
    assert all(record in data for record in records)


async def test_a_reader_never_sees_what_pads_the_last_sector(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(30):
        path.write_bytes(b"a" * 100)
        async with (
            aioring.Ring(method=Scripted(seed, short=0)) as ring,
            aopen(path, "r+b", direct=True, ring=ring) as file,
        ):
            async with anyio.create_task_group() as group:
                wrote = begin(group, file.pwrite, b"b" * 50, 100)
                for after in range(12):
                    read = begin(group, file.pread, 1000, 0)
                    await ticks(1 + seed % 3)
                    if after > 8:
                        await all_over(read)
                await all_over(wrote)
                reads = [begin(group, file.pread, 1000, 0)]
                await all_over(*reads)
            assert read.value in (b"a" * 100, b"a" * 100 + b"b" * 50)
            assert reads[0].value == b"a" * 100 + b"b" * 50


def test_claims_wait_for_those_they_clash_with_and_no_others() -> None:
    told: list[Claim] = []
    table = Sectors()
    write = Claim(WRITES, 0, 4096, told.append)
    beside = Claim(WRITES, 4096, 8192, told.append)
    read = Claim(READS, 0, 1 << 20, told.append)
    grows = Claim(GROWS, 8192, END, told.append)
    again = Claim(WRITES, 0, 512, told.append)
    later = Claim(READS, 8192, 8193, told.append)
    assert table.claim(write)
    assert table.claim(beside)
    assert table.claim(read)  # sectors that change by bytes may be read
    assert not table.claim(grows)  # what is read must not be longer for a moment than it is
    assert not table.claim(again)
    assert not table.claim(later)  # who waits is not overtaken by who clashes with them
    table.release(write)
    assert told == [again]
    table.release(read)
    assert told == [again, grows]
    table.release(grows)
    assert told == [again, grows, later]
    table.release(grows)
    for claim in (beside, again, later):
        table.release(claim)
    assert not len(table)
    assert table.claim(grows)
    assert not table.claim(later)
    table.release(later)  # given up
    assert len(table) == 1


async def test_an_append_stands_in_one_piece(ring: aioring.Ring, tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with (
        aopen(path, "ab", 0, direct=True, ring=ring) as one,
        aopen(path, "ab", 0, direct=True, ring=ring) as other,
        anyio.create_task_group() as group,
    ):
        for i in range(8):  # longer than a sector, from the beginning of one
            group.start_soon((one, other)[i % 2].write, bytes([65 + i]) * 9700)
        group.start_soon(one.pwrite, b"p" * 5000, 0)
    records = [(kind, len(list(group_))) for kind, group_ in itertools.groupby(path.read_bytes())]
    assert sorted(records) == sorted([(65 + i, 9700) for i in range(8)] + [(ord("p"), 5000)])


async def test_who_asks_for_the_end_is_told_where_the_data_ends(anyio_backend: Any, tmp_path: Path) -> None:
    """While the last sector is written, and the file too long for a moment."""
    path = tmp_path / "file"
    for seed in range(12):
        for after in range(0, 12, 2):
            path.write_bytes(b"a" * 1000)
            async with (
                aioring.Ring(method=Scripted(seed, short=0)) as ring,
                aopen(path, "r+b", direct=True, ring=ring) as one,
                aopen(path, "r+b", direct=True, ring=ring) as other,
                anyio.create_task_group() as group,
            ):
                wrote = begin(group, one.pwrite, b"b" * 50, 1000)
                await ticks(after)
                assert await other.seek(0, 2) in (1000, 1050)
                async with aopen(path, "ab", direct=True, ring=ring) as third:
                    assert await third.tell() in (1000, 1050)
                await all_over(wrote)
            assert path.stat().st_size == 1050


async def test_opened_for_writing_it_is_cut_when_nobody_writes(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(12):
        for after in range(0, 12, 2):
            path.write_bytes(b"a" * 1000)
            async with (
                aioring.Ring(method=Scripted(seed, short=0)) as ring,
                aopen(path, "r+b", direct=True, ring=ring) as one,
                anyio.create_task_group() as group,
            ):
                wrote = begin(group, one.pwrite, b"b" * 50, 1000)
                await ticks(after)
                async with aopen(path, "wb", direct=True, ring=ring):
                    pass
                await all_over(wrote)
            assert path.read_bytes() in (b"", bytes(1000) + b"b" * 50)  # what was cut does not come back


async def test_many_that_wait_are_refused_one_after_the_other(ring: aioring.Ring, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    async with aopen(fd, "wb", 0, direct=True, ring=ring) as file, anyio.create_task_group() as group:
        asked = [begin(group, file.pwrite, b"part", i) for i in range(500)]
        await all_over(*asked)
        assert {type(one.error) for one in asked} == {OSError}
        assert not len(file._raw.direct.sectors)  # type: ignore[union-attr]


# --- cancelled, and ended ---------------------------------------------------------------------------------------------


async def test_a_cancelled_read_leaves_its_memory_to_the_kernel(anyio_backend: Any, path: Path) -> None:
    method = Held(1, short=0, soft=0)
    method.held = False
    async with aioring.Ring(method=method) as ring, aopen(path, "rb", direct=True, ring=ring) as file:
        async with anyio.create_task_group() as group:
            method.held = True
            read = begin(group, file.pread, 5000, 100)
            await ticks(4)
            (handle,) = ring._started.live.values()  # type: ignore[union-attr]
            read.scope.cancel()
            await all_over(read)
            assert read.scope.cancelled_caught
            assert handle.view is not None
            assert not ring._memory._back  # type: ignore[union-attr]
            method.let_go()
            while ring._started.live:  # type: ignore[union-attr]
                await ticks(1)
            assert len(ring._memory._back) == 1  # type: ignore[union-attr]
        assert await file.pread(5000, 100) == pattern(100_000)[100:5100]
        assert ring._memory.made == 1  # type: ignore[union-attr]


async def test_a_pwrite_that_is_cancelled_is_whole_or_nothing(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(60):
        path.write_bytes(b"a" * 1000)
        async with (
            aioring.Ring(method=Scripted(seed, short=0, cancel="either")) as ring,
            aopen(path, "r+b", direct=True, ring=ring) as file,
            anyio.create_task_group() as group,
        ):
            wrote = begin(group, file.pwrite, b"b" * 100, 950)
            await ticks(seed % 12)
            wrote.scope.cancel()
            await all_over(wrote)
            whole = b"a" * 950 + b"b" * 100
            assert path.read_bytes() in (b"a" * 1000, whole), seed
            if wrote.value is not None:
                assert path.read_bytes() == whole
            assert await file.pwrite(b"c" * 10, 990) == 10  # nothing is held any more
            assert not len(file._raw.direct.sectors)  # type: ignore[union-attr]


async def test_close_waits_for_what_was_asked_beside(ring: aioring.Ring, tmp_path: Path) -> None:
    for i in range(10):
        path = tmp_path / f"file {i}"
        path.write_bytes(b"a" * 700)
        file = await aopen(path, "r+b", direct=True, ring=ring)
        async with anyio.create_task_group() as group:
            wrote = [begin(group, file.pwrite, bytes([65 + k]) * 300, 500 + 200 * k) for k in range(5)]
            read = begin(group, file.pread, 100, 0)
            await ticks(i)
            await file.close()
            await all_over(*wrote, read)
        told = [one.error for one in (*wrote, read) if one.error is not None]
        assert all(isinstance(error, ValueError) for error in told), told  # closed before it was begun
        if not told:
            assert path.stat().st_size == 1600
    assert not open_in(tmp_path)


async def test_a_ring_that_ends_cuts_what_was_too_long(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(12):
        for after in range(12):
            path.write_bytes(b"a" * 1000)
            async with aioring.Ring(method=Scripted(seed, short=0)) as ring:
                file = await aopen(path, "r+b", direct=True, ring=ring)
                async with anyio.create_task_group() as group:
                    wrote = begin(group, file.pwrite, b"b" * 100, 950)
                    await ticks(after)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", ResourceWarning)
                        await ring.aclose()
                    await all_over(wrote)
            whole = b"a" * 950 + b"b" * 100
            assert path.read_bytes() == (b"a" * 1000 if wrote.error is not None else whole), (seed, after)


async def test_a_ring_that_ends_beside_waiting_writes_loses_nothing_of_the_file(
    anyio_backend: Any, tmp_path: Path, make_ring: Any
) -> None:
    path = tmp_path / "file"
    for after in range(8):
        path.write_bytes(b"a" * 5000)
        async with make_ring(seed=after) as ring:
            file = await aopen(path, "r+b", direct=True, ring=ring)
            await file.write(b"accepted")
            async with anyio.create_task_group() as group:
                read = begin(group, file.pread, 5000, 0)
                wrote = [begin(group, file.pwrite, b"b" * 100, 4950 + i) for i in range(50)]
                await ticks(after)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    await ring.aclose()
                await all_over(read, *wrote)
            assert file.closed
        assert path.read_bytes()[:8] == b"accepted"
    assert not open_in(tmp_path)


@pytest.mark.parametrize("call", ["pread", "pwrite"])
async def test_memory_that_the_kernel_may_still_write_to_is_given_to_nobody(
    anyio_backend: Any, path: Path, call: str
) -> None:
    method = Held(1, short=0, soft=0)
    method.held = False
    ring = aioring.Ring(method=method)
    await ring.start()
    file = await aopen(path, "r+b", 0, direct=True, ring=ring)
    async with anyio.create_task_group() as group:
        method.held = True
        asked = begin(group, file.pread, 512, 1) if call == "pread" else begin(group, file.pwrite, b"b" * 512, 1)
        await ticks(5)
        fd = file._raw.fd
        (handle,) = ring._started.live.values()  # type: ignore[union-attr]
        with pytest.warns(ResourceWarning):
            await ring.aclose(timeout=0.01)
        await all_over(asked)
    assert handle.shut
    assert handle.view is not None
    pool = ring._memory
    assert pool is not None
    assert not any(memory.free() for memory in pool._back)
    assert pool.take(512) not in list(pool._back)
    if call == "pwrite":
        os.close(fd)  # which the kernel may write by: the library leaves it open


async def test_a_file_that_is_dropped_waits_for_another_that_writes(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(6):
        for after in range(8):
            path.write_bytes(b"a" * 1000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                await drop_beside_a_write(path, seed, after)
            data = path.read_bytes()
            assert (data[10:18], data[100:200]) == (b"accepted", b"b" * 100)


async def drop_beside_a_write(path: Path, seed: int, after: int) -> None:
    async with (
        aioring.Ring(method=Scripted(seed, short=0)) as ring,
        aopen(path, "r+b", 0, direct=True, ring=ring) as one,
        anyio.create_task_group() as group,
    ):
        other: Any = await aopen(path, "r+b", direct=True, ring=ring)
        await other.seek(10)
        await other.write(b"accepted")
        wrote = begin(group, one.pwrite, b"b" * 100, 100)
        await ticks(after)
        if len(one._raw.direct.sectors):  # type: ignore[union-attr]
            with pytest.raises(RuntimeError, match="another writes"):
                blocking(other).read(1)
        del other
        gc.collect()
        await all_over(wrote)
        await ticks(2)


@pytest.mark.parametrize("way", ["ring", "dropped"])
async def test_what_was_accepted_is_written_when_the_file_ends_otherwise(
    anyio_backend: Any, tmp_path: Path, way: str, make_ring: Any
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 700)
    ring = make_ring()
    await ring.start()
    file = await aopen(path, "r+b", direct=True, ring=ring)
    await file.seek(600)
    await file.write(b"b" * 6000)
    with pytest.warns(ResourceWarning):  # noqa: PT031 - the file goes when the collector finds it
        if way == "ring":
            await ring.aclose()
        del file
        gc.collect()
    await ring.aclose()
    assert path.read_bytes() == b"a" * 600 + b"b" * 6000


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that knows no O_DIRECT, with a file in it."""
    where = tmp_path / "ramfs"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "ramfs", "ramfs", str(where)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ramfs cannot be mounted here: {done.stderr.strip()}")
    (where / "file").write_bytes(b"content")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_where_it_is_refused_it_says_so_or_goes_through_the_page_cache(
    ring: aioring.Ring, refusing: Path
) -> None:
    for mode in ("rb", "r+b", "wb", "ab", "a+b", "xb", "w"):
        path = refusing / ("new" if "x" in mode else "file")
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(OSError, match="Invalid") as raised:
            await aopen(path, mode, direct=True, ring=ring)
        assert raised.value.errno == errno.EINVAL
        assert raised.value.filename == os.fspath(path)
        assert "direct='try'" in "".join(raised.value.__notes__)
        assert (path.read_bytes() if path.exists() else None) == before
        async with aopen(path, mode, direct="try", ring=ring) as file:
            assert file._raw.direct is None
            assert not has_o_direct(file.fileno())
            assert bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND) == ("a" in mode)
            if file.writable():
                await file.write("end" if mode == "w" else b"end")
        now = path.read_bytes()
        if "a" in mode:
            assert now == (before or b"") + b"end"
        elif mode in ("wb", "w", "xb"):
            assert now == b"end"


async def test_an_fd_is_given_the_flag_and_so_is_what_an_opener_opens(
    ring: aioring.Ring, path: Path, refusing: Path, pipe: tuple[int, int]
) -> None:
    whole = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 1001, os.SEEK_SET)
    async with aopen(fd, "r+b", closefd=False, direct=True, ring=ring) as file:
        assert has_o_direct(fd)
        assert await file.read(999) == whole[1001:2000]
        await file.seek(5)
        await file.write(b"five")
    os.close(fd)
    assert path.read_bytes() == whole[:5] + b"five" + whole[9:]
    async with aopen(path, "rb", opener=os.open, direct=True, ring=ring) as file:
        assert has_o_direct(file.fileno())
        assert await file.read(3) == whole[:3]
    fd = os.open(refusing / "file", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid"):
        await aopen(fd, "rb", direct=True, ring=ring)
    async with aopen(fd, "rb", direct="try", ring=ring) as file:  # which is still open
        assert await file.read() == b"content"
    with pytest.raises(OSError, match="Invalid"):
        await aopen(pipe[0], "rb", 0, closefd=False, direct=True, ring=ring)  # to a pipe it would mean packets
    async with aopen(pipe[0], "rb", 0, closefd=False, direct="try", ring=ring) as file:
        os.write(pipe[1], b"through")
        assert await file.read(100) == b"through"
    with pytest.raises(OSError, match="Bad file descriptor"):
        await aopen(987_654, "rb", direct=True, ring=ring)


async def test_an_fd_for_writing_only_takes_whole_sectors(ring: aioring.Ring, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    async with aopen(fd, "wb", 0, direct=True, ring=ring) as file:
        assert await file.write(bytes(SECTOR)) == SECTOR
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            await file.write(b"part")
        assert "open it with O_RDWR" in "".join(raised.value.__notes__)
    assert path.read_bytes() == bytes(SECTOR) + pattern(100_000)[SECTOR:]


async def test_who_may_write_and_not_read_opens_it_all_the_same(
    tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    path.chmod(0o222)
    flags: list[int] = []

    async def denied(name: Any, asked: int) -> int:
        if asked & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(errno.EACCES, "as for everybody but root")
        flags.append(asked)
        return os.open(name, asked)

    async with aioring.Ring(method="worker") as ring:
        monkeypatch.setattr(ring, "_open_file", denied)
        async with aopen(path, "wb", direct=True, ring=ring) as file:
            await file.write(bytes(2 * SECTOR))
    assert len(flags) == 1
    assert path.read_bytes() == bytes(2 * SECTOR)


async def test_what_cannot_be_opened_says_why(ring: aioring.Ring, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await aopen(tmp_path / "none", "rb", direct=True, ring=ring)
    with pytest.raises(IsADirectoryError) as raised:
        await aopen(tmp_path, "rb", direct=True, ring=ring)
    assert raised.value.filename == os.fspath(tmp_path)
    with pytest.raises(OSError, match="Invalid") as refused:
        await aopen("/proc/self/status", "rb", direct=True, ring=ring)
    assert refused.value.errno == errno.EINVAL
    async with aopen("/proc/self/status", "rb", direct="try", ring=ring) as file:
        assert b"Name" in await file.read()
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        await aopen(tmp_path / "there", "xb", direct=True, ring=ring)
    with pytest.raises(ValueError, match="direct 'maybe'"):
        await aopen(tmp_path / "there", "rb", direct="maybe", ring=ring)  # type: ignore[call-overload]
    async with aopen(tmp_path / "there", "rb", direct=True, ring=ring) as file:
        assert await file.read() == b""
        assert await file.pread(10, 100) == b""
        with pytest.raises(ValueError, match="-5"):
            await file.pread(10, -5)
        with pytest.raises(ValueError, match="-1"):
            await file.pread(-1, 0)
        with pytest.raises(OSError, match="not writable"):
            await file.pwrite(b"x", 0)


@pytest.mark.parametrize("operation", ["readinto", "write", "truncate"])
async def test_a_step_that_fails_says_so_and_the_next_write_is_right(
    anyio_backend: Any, tmp_path: Path, operation: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1000)
    faults = {(operation, 1): errno.EIO}
    async with (
        aioring.Ring(method=Scripted(3, faults=faults, short=0)) as ring,
        aopen(path, "r+b", direct=True, ring=ring) as file,
    ):
        if operation == "truncate":
            assert await file.pwrite(b"b" * 100, 950) == 100  # it is tried once more, in place
            assert path.read_bytes() == b"a" * 950 + b"b" * 100
        else:
            with pytest.raises(OSError, match="Input/output") as raised:
                await file.pwrite(b"b" * 100, 950)
            assert raised.value.errno == errno.EIO
            assert path.read_bytes() == b"a" * 1000
        assert await file.pwrite(b"c" * 100, 950) == 100
        assert not len(file._raw.direct.sectors)  # type: ignore[union-attr]
        assert path.read_bytes()[:1050] == b"a" * 950 + b"c" * 100


async def test_a_file_that_cannot_be_cut_says_so(
    anyio_backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.write_bytes(b"a" * 1000)
    async with aioring.Ring(method="sync") as ring, aopen(path, "r+b", 0, direct=True, ring=ring) as file:
        monkeypatch.setattr(os, "ftruncate", refuse)  # what the file system says, in every way that it is asked
        with pytest.raises(OSError, match="Input/output"):
            await file.pwrite(b"b" * 100, 950)
        await file.seek(SECTOR)
        with pytest.raises(OSError, match="Input/output"):
            await file.write(b"c" * 50)
        monkeypatch.undo()


async def test_an_fd_that_appends_is_not_taken(ring: aioring.Ring, path: Path, tmp_path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    with pytest.raises(OSError, match="Invalid") as raised:
        await aopen(fd, "ab", 0, closefd=False, direct=True, ring=ring)
    assert "O_APPEND" in "".join(raised.value.__notes__)
    async with aopen(fd, "ab", 0, closefd=False, direct="try", ring=ring) as file:
        await file.write(b"end")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND  # it is a promise to whoever shares it
    assert not has_o_direct(fd)
    os.close(fd)
    assert path.read_bytes() == pattern(100_000) + b"end"

    def opener(name: Any, flags: int) -> int:
        return os.open(name, flags | os.O_APPEND)

    async with aopen(path, "r+b", 0, opener=opener, direct=True, ring=ring) as file:  # ours is told where to write
        await file.write(b"begin")
    assert path.read_bytes() == b"begin" + pattern(100_000)[5:] + b"end"


async def test_a_fifo_is_opened_once(ring: aioring.Ring, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="Invalid"):
        await aopen(fifo, "wb", 0, direct=True, ring=ring)
    async with aopen(fifo, "wb", 0, direct="try", ring=ring) as file:
        await file.write(b"through")
        assert os.read(reader, 100) == b"through"
    os.close(reader)


async def test_a_write_that_raises_has_taken_nothing(anyio_backend: Any, tmp_path: Path) -> None:
    faults = {("write", 1): errno.ENOSPC}
    async with aioring.Ring(method=Scripted(1, short=0, soft=0, faults=faults)) as ring:
        async with aopen(tmp_path / "file", "wb", 1024, direct=True, ring=ring) as file:
            for i in range(3):
                data = bytes([65 + i]) * 900
                try:
                    await file.write(data)
                except OSError:
                    assert await file.write(data) == 900
    assert (tmp_path / "file").read_bytes() == b"A" * 900 + b"B" * 900 + b"C" * 900


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A block device of 1 MiB."""
    (tmp_path / "image").write_bytes(pattern(1 << 20))
    done = subprocess.run(
        ["losetup", "-f", "--show", str(tmp_path / "image")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


async def test_a_block_device_has_an_end(ring: aioring.Ring, device: Path) -> None:
    for mode in ("ab", "a+b"):
        async with aopen(device, mode, 0, direct=True, ring=ring) as file:
            assert await file.tell() == 1 << 20
            with pytest.raises(OSError, match="No space"):
                await file.write(b"beyond")
    async with aopen(device, "r+b", 0, direct=True, ring=ring) as file:
        assert await file.pwrite(b"end", (1 << 20) - 3) == 3
        assert await file.pread(100, (1 << 20) - 8) == pattern(1 << 20)[-8:-3] + b"end"
        assert await file.pread(2 << 20, 0) == pattern(1 << 20)[:-3] + b"end"
        assert await file.seek(0, 2) == 1 << 20


async def test_a_disk_that_is_full_takes_what_it_can(ring: aioring.Ring, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as where:
        async with aopen(where / "file", "w+b", 0, direct="try", ring=ring) as file:
            with pytest.raises(OSError, match="No space") as raised:
                while True:
                    await file.write(b"0123456789" * 1000)
            assert raised.value.errno == errno.ENOSPC
            n = await file.tell()
            assert os.stat(where / "file").st_size == n
            assert await file.pread(n + 1, 0) == (b"0123456789" * 10_000)[:n]
