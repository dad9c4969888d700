"""Whole files in one submission: what io_uring's chain on direct descriptors gives, lets go of, and leaves to others."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import random
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring import read_file
from aioring.kernel import abi
from aioring.kernel.liburing import find_route
from aioring.kernel.rings import WORD
from aioring.methods import slots
from aioring.methods.io_uring import IoUring
from aioring.methods.slots import LINKS, Slots
from aioring.operations import WHOLE
from tests.harness import open_in

pytestmark = [pytest.mark.anyio]

SIZES = (0, 1, 4095, 4096, 4097, WHOLE - 1, WHOLE, WHOLE + 1, 65_536, 300_000)
FILES = 24


def pattern(n: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(n)


def slots_of(ring: aioring.Ring) -> Slots:
    assert ring._started is not None
    method = ring._started.method
    assert isinstance(method, IoUring)
    return method._slots


def free(table: Slots) -> list[int]:
    """The slots in the list of those that are free."""
    found, slot = [], table._free
    while slot >= 0:
        found.append(slot)
        slot = table._after[slot]
    return sorted(found)


def all_are_free(ring: aioring.Ring) -> bool:
    table = slots_of(ring)
    return not table.under_way and not table.stuck and free(table) == list(range(table._n))


async def nothing_left(ring: aioring.Ring, folder: Path) -> None:
    """Slots are free and fds closed, if not at once (what is closed behind the scenes)."""
    with anyio.fail_after(3):
        while not all_are_free(ring) or open_in(folder):
            await anyio.sleep(0.001)


def told(ring: aioring.Ring) -> int:
    """How many files the kernel was asked for in one go."""
    found = ring.stats().operations.get("read_file")
    return 0 if found is None else found.count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(FILES):
        (tmp_path / f"{i}").write_bytes(pattern(5000, i))
    return tmp_path


@pytest.fixture
def ring_of() -> Callable[..., aioring.Ring]:
    """Rings that ask the kernel for everything."""

    def make(**options: Any) -> aioring.Ring:
        return aioring.Ring(method=options.pop("method", None) or IoUring(), page_cache_first=False, **options)

    return make


async def read_all(ring: aioring.Ring, paths: list[Any]) -> list[bytes | OSError]:
    """All at once: one alone would be read in two trips."""
    results: list[Any] = [None] * len(paths)

    async def one(i: int) -> None:
        try:
            results[i] = await read_file(paths[i], ring=ring)
        except OSError as error:
            results[i] = error

    async with anyio.create_task_group() as tasks:
        for i in range(len(paths)):
            tasks.start_soon(one, i)
    return results


async def test_every_size_comes_whole_and_no_slot_or_fd_is_left(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    paths: list[Any] = []
    for size in SIZES:
        (folder / f"of {size}").write_bytes(pattern(size, size))
        paths += [folder / f"of {size}", os.fsencode(folder / f"{size % FILES}")]
    async with ring_of() as ring:
        for _ in range(20):
            assert await read_all(ring, paths) == [Path(os.fsdecode(path)).read_bytes() for path in paths]
        assert told(ring) > 50
        await nothing_left(ring, folder)


async def test_what_says_nothing_of_its_size_is_read_to_its_end(
    anyio_backend: Any, ring_of: Callable[..., aioring.Ring]
) -> None:
    paths = ["/proc/version", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/mounts"]
    async with ring_of() as ring:
        found = await read_all(ring, paths * 4)
        assert found[0] == Path("/proc/version").read_bytes()
        assert found[3] == Path("/proc/mounts").read_bytes()
        assert all(isinstance(data, bytes) and data.endswith(b"\n") for data in found)
        assert all_are_free(ring)


async def test_errors_are_those_of_open_and_read(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    os.symlink("loop", folder / "loop")
    wrong = {
        folder / "missing": errno.ENOENT,
        folder / "0" / "beneath a file": errno.ENOTDIR,
        folder: errno.EISDIR,
        folder / "loop": errno.ELOOP,
        folder / ("x" * 256): errno.ENAMETOOLONG,
    }
    async with ring_of() as ring:
        for _ in range(3):
            ring._not_small = 0
            found = await read_all(ring, [*wrong, folder / "1"] * 2)
            for path, error in zip([*wrong, None] * 2, found, strict=True):
                if path is not None:
                    assert isinstance(error, OSError)
                    assert (error.errno, error.filename) == (wrong[path], str(path))
            assert found[-1] == (folder / "1").read_bytes()
        with pytest.raises(ValueError, match="null byte"):
            await read_file("a\0b", ring=ring)
        await nothing_left(ring, folder)


async def test_a_fifo_loses_no_byte_and_its_writer_notices_nothing(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    fifo, went = folder / "fifo", []
    os.mkfifo(fifo)

    def write() -> None:
        with open(fifo, "wb", buffering=0) as file:  # opened as soon as there is a reader
            for i in range(20):
                went.append(file.write(pattern(10_000, i)))

    async with ring_of() as ring:
        for _ in range(10):
            ring._not_small = 0
            went.clear()
            writer = threading.Thread(target=write)
            writer.start()
            found = await read_all(ring, [folder / "1", folder / "2", fifo])
            writer.join()
            assert sum(went) == 200_000
            assert found[2] == b"".join(pattern(10_000, i) for i in range(20))
        await nothing_left(ring, folder)


async def test_a_terminal_is_read_as_it_was_typed(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    async with ring_of() as ring:
        for _ in range(5):
            ring._not_small = 0
            os.write(master, b"one line\nand another\n\x04")  # Ctrl-D: its end
            found = await read_all(ring, [folder / "1", folder / "2", name])
            assert found == [pattern(5000, 1), pattern(5000, 2), b"one line\nand another\n"]
        await nothing_left(ring, folder)
    os.close(master)
    os.close(slave)


async def test_cancelled_at_any_moment_nothing_is_left(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    rng = random.Random(7)
    os.mkfifo(folder / "fifo")  # what has no peer waits, and holds no slot
    async with ring_of() as ring:
        await read_all(ring, [folder / "1", folder / "2"])
        for _ in range(150):
            ring._not_small = 0
            whole = []

            async def some(paths: list[Path], whole: list[int] = whole) -> None:
                for path, data in zip(paths, await read_all(ring, list(paths)), strict=True):
                    assert data == path.read_bytes()
                    whole.append(1)

            async def fifo() -> None:
                await read_file(folder / "fifo", ring=ring)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(some, [folder / f"{rng.randrange(FILES)}" for _ in range(8)])
                tasks.start_soon(fifo)
                for _ in range(rng.randrange(8)):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            await nothing_left(ring, folder)
        assert await read_all(ring, [folder / "3"] * 5) == [pattern(5000, 3)] * 5


async def test_more_files_than_slots(anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]) -> None:
    paths = [folder / f"{i % FILES}" for i in range(600)]
    for depth in (1, 4, LINKS, 16, 1024):
        async with ring_of(depth=depth) as ring:
            assert await read_all(ring, list(paths)) == [pattern(5000, i % FILES) for i in range(600)]
            assert (told(ring) > 0) is (ring.depth >= LINKS)
            assert depth < LINKS or all_are_free(ring)


@pytest.mark.parametrize("refused", [abi.OP_FIXED_FD_INSTALL, abi.OP_OPENAT, abi.OP_CLOSE], ids=str)
async def test_where_a_sandbox_refuses_a_link_files_come_in_two_trips(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring], refused: int
) -> None:
    async with ring_of(method=IoUring(refuse=frozenset((refused,)))) as ring:
        assert await read_all(ring, [folder / f"{i}" for i in range(10)]) == [pattern(5000, i) for i in range(10)]
        assert told(ring) == 0


async def test_where_no_table_can_be_registered_files_come_in_two_trips(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ring_of() as ring:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))  # the table has 128
        try:
            found = await read_all(ring, [folder / f"{i}" for i in range(10)])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found == [pattern(5000, i) for i in range(10)]
        assert told(ring) == 0


@pytest.mark.parametrize("taken", range(LINKS), ids=str)
async def test_a_chain_that_the_kernel_takes_a_part_of_is_read_in_the_usual_way(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring], taken: int
) -> None:
    """It would not be entered further: what it did not take is taken back, what it took comes, and both are dealt with."""
    async with ring_of(method=IoUring(find_route("none"))) as ring:  # liburing submits all or nothing
        await read_all(ring, [folder / "1", folder / "2"])
        refusals = 0
        table = slots_of(ring)
        queues = table._queues
        submit = queues.mapped.submit

        def partly() -> int:
            """It takes `taken` links of the first chain, and then nothing any more, once."""
            nonlocal refusals
            staged = queues.staged()
            if refusals or not table.under_way:
                return submit(staged)
            upto = (min(table.under_way) - queues.sq_head[0] + taken) & WORD
            if upto and not cut:
                cut.append(upto)
                return submit(upto)
            refusals += 1
            return -errno.EBADR

        cut: list[int] = []
        queues.submit = partly  # type: ignore[method-assign]
        ring._not_small = 0
        found = await read_all(ring, [folder / f"{i}" for i in range(6)])
        assert refusals
        for i, data in enumerate(found):
            # The first is opened by itself: refused with them, it says so.
            assert data == pattern(5000, i) or (isinstance(data, OSError) and data.errno == errno.EBADR)
        assert sum(isinstance(data, OSError) for data in found) <= 1
        ring._not_small = 0
        assert await read_all(ring, [folder / f"{i}" for i in range(10)]) == [pattern(5000, i) for i in range(10)]
        await nothing_left(ring, folder)


@pytest.mark.parametrize("taken", range(1, LINKS), ids=str)
async def test_what_the_kernel_cut_off_from_a_chain_does_not_run_by_itself(
    anyio_backend: Any, folder: Path, ring_of: Callable[..., aioring.Ring], taken: int
) -> None:
    """It stops in the middle of a chain and goes on at the next enter: reads of a FIFO would run without their gate."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    async with ring_of(method=IoUring(find_route("none"))) as ring:
        await read_all(ring, [folder / "1", folder / "2"])
        table = slots_of(ring)
        queues = table._queues
        submit = queues.mapped.submit
        assert ring._cache is not None
        ring._cache._holding_for = 1 << 30  # beside a busy thread what comes alone is a chain, too
        cut: list[int] = []

        def partly() -> int:
            of_fifo = [chain for chain in table.under_way.values() if chain.handle.name == str(fifo)]
            if of_fifo and not cut:
                cut.append((of_fifo[0].number - queues.sq_head[0] + taken) & WORD)
                return submit(cut[0])
            return submit(queues.staged())

        queues.submit = partly  # type: ignore[method-assign]
        ring._not_small = 0
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        with open(fifo, "wb", buffering=0) as writer:
            writer.write(b"precious")
            async with anyio.create_task_group() as group:
                group.start_soon(check_fifo, ring, folder, fifo)
                while not cut:
                    await anyio.sleep(0.001)
                os.close(reader)
                await anyio.sleep(0.01)
                writer.write(b" bytes")
                writer.close()
        await nothing_left(ring, folder)


async def check_fifo(ring: aioring.Ring, folder: Path, fifo: Path) -> None:
    assert await read_all(ring, [folder / "1", folder / "2", fifo]) == [
        pattern(5000, 1),
        pattern(5000, 2),
        b"precious bytes",
    ]


def test_an_interrupt_at_any_moment_loses_no_slot_and_no_file(folder: Path) -> None:
    """KeyboardInterrupt wherever CPython looks for signals in slots.py: behind each of its calls."""
    os.mkfifo(folder / "fifo")
    paths = [folder / "1", folder / "2", folder / "missing", folder, folder / "3"]
    last = moments = 0

    def profile(frame: Any, event: str, _: object) -> None:
        nonlocal last
        code = frame.f_code
        # (`ready` is called by the task, which is ended by it, as anything is.)
        if event in ("c_return", "return") and code.co_filename == slots.__file__ and code.co_name != "ready":
            last += 1
            if last == moments:
                raise KeyboardInterrupt

    async def main() -> None:
        async with aioring.Ring(method=IoUring(), page_cache_first=False) as ring:
            await read_all(ring, [folder / "1", folder / "2"])
            ring._not_small = 0
            sys.setprofile(profile)
            try:
                found = await read_all(ring, list(paths))
            finally:
                sys.setprofile(None)
            assert found[:2] == [pattern(5000, 1), pattern(5000, 2)]
            assert found[4] == pattern(5000, 3)
            assert [getattr(error, "errno", None) for error in found[2:4]] == [errno.ENOENT, errno.EISDIR]
            await nothing_left(ring, folder)

    while last == moments:  # it was struck
        last, moments = 0, moments + 1
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            loop.run_until_complete(task)  # on from there, as a program's own handler may
        finally:
            loop.close()
    assert moments > 60
