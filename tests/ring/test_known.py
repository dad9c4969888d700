"""What is learned of a file (`ring/known.py`), and mincore(2) (`kernel/residency.py`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring.kernel.residency import Residency
from aioring.ring.known import ASK, MEMORY, NOWAIT, WORKERS, Known
from aioring.ring.page_cache import SMALL
from aioring.testing import Recording, Trace
from tests.conftest import pattern

LIGHT = True  # see conftest.py

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def opened() -> Iterator[Callable[..., Known]]:
    """Opens a file and what is known of it; closes both."""
    all_of_them: list[Known] = []

    def open_it(path: Path | str, flags: int = os.O_RDONLY) -> Known:
        all_of_them.append(Known(os.open(path, flags)))
        return all_of_them[-1]

    yield open_it
    for known in all_of_them:
        known.close()
        os.close(known.fd)


def forget(path: Path) -> None:
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def mapped(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


async def learn(ring: aioring.Ring, known: Known) -> None:
    for _ in range(10):
        assert await ring._read_known(known, 0, 10) == os.pread(known.fd, 10, 0)


@pytest.mark.parametrize(
    ("where", "way"), [("here", NOWAIT), ("/dev/shm", MEMORY), ("/proc/version", WORKERS), ("/dev/null", NOWAIT)]
)
async def test_each_way_brings_the_bytes(
    make_ring: Any, anyio_backend: Any, opened: Any, path: Path, where: str, way: str
) -> None:
    if where == "/dev/shm":
        known = opened(where, os.O_TMPFILE | os.O_RDWR)
        os.write(known.fd, pattern(100_000))
    else:
        known = opened(path if where == "here" else where)
    async with make_ring() as ring:
        await brings_the_bytes(ring, known, way)


async def test_on_overlayfs_it_brings_the_bytes(make_ring: Any, anyio_backend: Any, overlay: Path, opened: Any) -> None:
    async with make_ring() as ring:
        await brings_the_bytes(ring, opened(overlay / "file"), ASK)


async def brings_the_bytes(ring: aioring.Ring, known: Known, way: str) -> None:
    await learn(ring, known)
    assert known.way == (way if ring._cache.on else NOWAIT)
    ends = [(99_990, 4096), (99_999, 1), (100_000, 9), (1 << 40, 1)]
    for offset, n in [(0, 1), (1, 7), (4095, 2), (4096, 4096), *ends]:
        assert await ring._read_known(known, offset, n) == os.pread(known.fd, n, offset)
    for n in (0, SMALL, SMALL + 1, 100_000, 300_000):
        assert await ring._read_known(known, 0, n) == os.pread(known.fd, n, 0)
    assert ring._started is not None
    ring._started.budget.left = 0  # others have spent it: by the way round
    assert await ring._read_known(known, 5, 5) == os.pread(known.fd, 5, 5)
    with pytest.raises(ValueError, match="negative"):
        await ring._read_known(known, -2, 5)
    with pytest.raises(ValueError, match="negative"):
        await ring._read_known(known, 0, -5)


async def test_on_overlayfs_what_is_cached_is_read_in_place(
    anyio_backend: Any, overlay: Path, opened: Any, tmp_path: Path
) -> None:
    """And what is not is read by a worker."""
    known, trace = opened(overlay / "file"), Trace()
    async with aioring.Ring(method=Recording("worker", trace)) as ring:
        await learn(ring, known)
        before = len(trace.events)
        for i in range(1000):
            assert await ring._read_known(known, i * 90, 100) == pattern(100_000)[i * 90 : i * 90 + 100]
        assert len(trace.events) == before
        forget(tmp_path / "lower" / "file")
        assert await ring._read_known(known, 50_000, 100) == pattern(100_000)[50_000:50_100]
        assert len(trace.events) > before


async def test_a_closed_one_maps_nothing(anyio_backend: Any, overlay: Path, opened: Any) -> None:
    known = opened(overlay / "file")
    async with aioring.Ring(method="worker") as ring:
        await learn(ring, known)
        assert mapped(overlay / "file") == 1
        known.close()
        assert mapped(overlay / "file") == 0
        assert await ring._read_known(known, 3, 4) == pattern(100_000)[3:7]  # and still reads


async def test_no_mapping_is_made_for_a_few_reads(anyio_backend: Any, overlay: Path, opened: Any) -> None:
    known = opened(overlay / "file")
    async with aioring.Ring(method="worker") as ring:
        for _ in range(3):
            await ring._read_known(known, 0, 10)
        assert not mapped(overlay / "file")


async def test_o_direct_is_the_rings(anyio_backend: Any, opened: Any, path: Path) -> None:
    try:
        known = opened(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"O_DIRECT: {error}")
    async with aioring.Ring() as ring:
        assert await ring._read_known(known, 4096, 4096) == pattern(100_000)[4096:8192]


async def test_cancelled_readers_lose_nothing(make_ring: Any, anyio_backend: Any, overlay: Path, opened: Any) -> None:
    known = opened(overlay / "file")
    async with make_ring() as ring:
        await learn(ring, known)

        async def for_ever() -> None:
            while True:
                assert await ring._read_known(known, 8, 8) == pattern(16)[8:]

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(for_ever)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert await ring._read_known(known, 8, 8) == pattern(16)[8:]


async def test_a_close_waits_for_reads_by_kernel_threads(make_ring: Any, anyio_backend: Any, path: Path) -> None:
    """IOSQE_ASYNC: the kernel looks the number up late, and it must still be that file."""
    other = path.with_name("other")
    other.write_bytes(bytes(100_000))
    async with make_ring() as ring:
        for _ in range(20):
            known = Known(os.open(path, os.O_RDONLY))
            forget(path)

            async def read(known: Known = known) -> None:
                assert await ring._read_known(known, 0, 90_000) == pattern(100_000)[:90_000]

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(read)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                await ring.close(known.fd)
                taken = os.open(other, os.O_RDONLY)  # most likely by the same number
            os.close(taken)


# --- mincore(2) -------------------------------------------------------------------------------------------------------


@pytest.fixture
def residency(path: Path) -> Iterator[Residency]:
    fd = os.open(path, os.O_RDONLY)
    residency = Residency(fd, SMALL)
    yield residency
    residency.close()
    os.close(fd)


def test_it_tells_which_pages_are_there(path: Path, residency: Residency) -> None:
    fd = residency._fd
    os.pread(fd, 100_000, 0)
    for offset in (0, 1, PAGE - 1, PAGE, 99_999):
        assert residency.resident(offset, 1)
    assert residency.resident(PAGE - 1, 2)
    assert residency.resident(0, SMALL)
    forget(path)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    assert not residency.resident(0, 1)
    os.pread(fd, 1, 2 * PAGE)
    assert residency.resident(2 * PAGE, PAGE)
    assert not residency.resident(2 * PAGE, PAGE + 1)
    assert not residency.resident(2 * PAGE - 1, 2)


def test_what_lies_behind_the_end_needs_no_page(path: Path, residency: Residency) -> None:
    os.pread(residency._fd, 100_000, 0)
    assert residency.resident(99_000, 5000)
    assert residency.resident(99_000, SMALL)
    assert residency.resident(200_000, 10)
    forget(path)
    assert not residency.resident(99_000, 5000)


def test_a_file_that_grows_is_mapped_anew(path: Path, residency: Residency) -> None:
    far = 40 << 20
    assert not residency.resident(far, 10)  # too far to know
    with path.open("r+b") as file:
        file.seek(far)
        file.write(b"0123456789")
    assert residency.resident(far, 10)
    assert residency.resident(far, 100)
    assert mapped(path) == 1
    os.truncate(path, 10)
    assert residency.resident(0, 10)
    assert residency.resident(far, 10)  # end of file


def test_odd_sizes(residency: Residency) -> None:
    assert not residency.resident(0, 0)
    assert not residency.resident(0, SMALL + 1)
    assert not residency.resident((1 << 63) - 100, 50)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.data())
def test_what_it_says_is_resident_needs_no_disk(path: Path, residency: Residency, data: st.DataObject) -> None:
    """Against RWF_NOWAIT, which asks the same of a file system that knows it."""
    fd = residency._fd
    forget(path)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    for page in data.draw(st.sets(st.integers(0, 24))):
        os.pread(fd, 1, page * PAGE)
    offset, n = data.draw(st.integers(0, 110_000)), data.draw(st.integers(1, SMALL))
    said = residency.resident(offset, n)
    try:
        got = os.preadv(fd, (bytearray(n),), offset, os.RWF_NOWAIT)
    except BlockingIOError:
        got = -1
    assert not said or got == min(n, max(100_000 - offset, 0))


@pytest.mark.parametrize("what", ["/proc/version", "/dev/null", "."])
def test_what_cannot_be_mapped_is_refused(what: str) -> None:
    fd = os.open(what, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=r"mincore|mapped"):
            Residency(fd, SMALL)
    finally:
        os.close(fd)


def test_a_stranger_is_not_told_the_truth_and_finds_it_out(tmp_path: Path) -> None:
    """To who neither owns a file nor may write to it, mincore(2) says that every page is there."""
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    path = tmp_path / "data"
    path.write_bytes(pattern(100_000))
    path.chmod(0o444)
    program = """
import os, sys
from aioring.kernel.residency import Residency
fd = os.open(sys.argv[1], os.O_RDONLY)
os.setuid(65534)
try:
    Residency(fd, 65536)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert "truth" in done.stdout
