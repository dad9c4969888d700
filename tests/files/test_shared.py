"""One file, many tasks; many files, one disk: order, positions, what a full disk leaves, what others do to the file."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.files import open as aopen
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import SOON, Held, all_over, begin, ticks

LIGHT = True  # see conftest.py


@pytest.mark.parametrize(("mode", "buffering"), [("wb", 0), ("wb", 5), ("wb", -1), ("ab", 0), ("w+b", 7), ("a+b", -1)])
async def test_writes_of_many_tasks_land_in_the_order_in_which_they_were_made(
    ring: Any, path: Path, mode: str, buffering: int
) -> None:
    parts = [b"%d," % i for i in range(150)]
    path.write_bytes(b"")
    async with aopen(path, mode, buffering, ring=ring) as file:

        async def write(part: bytes) -> None:
            assert await file.write(part) == len(part)

        async with anyio.create_task_group() as group:
            outcomes = [begin(group, write, part) for part in parts]
            started = outcomes
        assert all(one.done and one.error is None for one in started)
    written = path.read_bytes().split(b",")[:-1]
    # trio starts tasks in any order, but a write is one.
    assert sorted(written, key=int) == [part[:-1] for part in parts]


async def test_calls_on_one_file_run_in_order(anyio_backend: Any, path: Path) -> None:
    """Also where the first is slow: what is asked later waits, and the position is nobody's but theirs."""
    held = Held(1)
    async with aioring.Ring(method=held) as ring, anyio.create_task_group() as group:
        opening = begin(group, lambda: aopen(path, "rb", 16, ring=ring)._opened())
        await ticks(5)
        held.let_go()
        await all_over(opening)
        file = opening.value
        held.held = True
        calls: list[Any] = []
        for _ in range(5):
            calls.append(begin(group, file.read, 100))
            await ticks(3)
        calls.append(begin(group, file.tell))
        await ticks(3)
        cancelled = calls[2]
        cancelled.scope.cancel()  # it stood in line, and leaves it
        await ticks(3)
        assert cancelled.done
        assert not any(call.done for call in calls if call is not cancelled)
        held.let_go()
        await all_over(*calls)
        got = [call.value for call in calls]
        assert got == [
            pattern(400)[0:100],
            pattern(400)[100:200],
            None,
            pattern(400)[200:300],
            pattern(400)[300:400],
            400,
        ]
        await file.close()


async def test_readers_of_one_file_share_out_its_lines(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = [b"line %d\n" % i for i in range(3000)]
    path.write_bytes(b"".join(lines))
    got: list[bytes] = []
    async with aopen(path, "rb", 100, ring=ring) as file:

        async def some() -> None:
            async for line in file:
                got.append(line)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(some)
    assert sorted(got) == sorted(lines)


async def test_pread_and_pwrite_run_beside_other_calls_and_leave_the_position_alone(ring: Any, path: Path) -> None:
    async with aopen(path, "r+b", ring=ring) as file, anyio.create_task_group() as group:
        assert await file.read(10) == pattern(10)
        reads = [begin(group, file.pread, 100, i * 997) for i in range(50)]
        writes = [begin(group, file.pwrite, b"%02d" % i, 60_000 + 2 * i) for i in range(50)]
        await all_over(*reads, *writes)
        assert [one.value for one in reads] == [pattern(100_000)[i * 997 : i * 997 + 100] for i in range(50)]
        assert [one.value for one in writes] == [2] * 50
        assert await file.tell() == 10
        assert await file.read(5) == pattern(15)[10:]
        assert await file.pread(100, 60_000) == b"".join(b"%02d" % i for i in range(50))
        with pytest.raises(ValueError, match="negative"):
            await file.pread(5, -3)
    async with aopen(path, "rb", ring=ring) as file:
        with pytest.raises(OSError, match="not writable"):
            await file.pwrite(b"", 0)
    with pytest.raises(ValueError, match="closed"):
        await file.pread(1, 0)
    async with aopen(path, "wb", ring=ring) as file:
        with pytest.raises(OSError, match="not readable"):
            await file.pread(1, 0)


async def test_append_appends_also_when_others_do(ring: Any, path: Path) -> None:
    path.write_bytes(b"")
    async with aopen(path, "ab", 0, ring=ring) as one, aopen(path, "a+b", ring=ring) as two:
        for i in range(20):
            await one.write(b"one%d\n" % i)
            assert await one.tell() == path.stat().st_size
            await two.write(b"two%d\n" % i)
            await two.flush()
            assert await two.tell() == path.stat().st_size
            with path.open("ab") as other:
                other.write(b"other\n")
        await two.seek(0)
        assert await two.readline() == b"one0\n"
        await two.write(b"end\n")
    assert path.read_bytes().splitlines() == [
        *[line for i in range(20) for line in (b"one%d" % i, b"two%d" % i, b"other")],
        b"end",
    ]


# --- what cannot be written -------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may have more than 10,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("buffering", [0, 100, 4096])
async def test_a_full_disk_in_the_middle_of_a_write(ring: Any, tmp_path: Path, buffering: int) -> None:
    """What was accepted is known, what was not is said by the call that could not; closing raises, and closes."""
    outcomes = []
    for name in ("theirs", "ours"):
        path = tmp_path / name
        log: list[Any] = []
        if name == "theirs":
            file: Any = open(path, "wb", buffering)
        else:
            file = await aopen(path, "wb", buffering, ring=ring)
        for call in [("write", b"x" * 3000)] * 5 + [
            ("tell",),
            ("flush",),
            ("seek", 0),
            ("write", b"y" * 10),
            ("close",),
        ]:
            try:
                value = getattr(file, str(call[0]))(*call[1:])
                log.append(await value if hasattr(value, "__await__") else value)
            except OSError as error:
                log.append((type(error), error.errno))
        assert file.closed
        outcomes.append((log, path.read_bytes()))
    assert outcomes[0] == outcomes[1]
    assert any(type(one) is tuple and one[1] == errno.EFBIG for one in outcomes[1][0])


async def test_dev_full(ring: Any) -> None:
    file = await aopen("/dev/full", "wb", ring=ring)
    await file.write(b"accepted")
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught:
            await file.flush()
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        await file.close()
    assert file.closed
    await file.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
async def test_a_write_that_fails_once_is_made_good_by_the_next_flush(
    anyio_backend: Any, path: Path, code: int
) -> None:
    async with aioring.Ring(method=Scripted(5, faults={("write", 1): code})) as ring:
        async with aopen(path, "wb", ring=ring) as file:
            await file.write(b"all of it")
            with pytest.raises(OSError, match=r".") as caught:
                await file.flush()
            assert caught.value.errno == code
            await file.write(b", and more")
        assert path.read_bytes() == b"all of it, and more"


@pytest.mark.parametrize("buffering", [0, 7, 8192])
async def test_a_read_that_fails_once_loses_nothing(anyio_backend: Any, path: Path, buffering: int) -> None:
    faults = {("read", n): errno.EIO for n in (1, 2, 4, 5)}
    async with aioring.Ring(method=Scripted(5, short=0, soft=0, faults=faults)) as ring:
        async with aopen(path, "rb", buffering, ring=ring) as file:
            got = b""
            failed = 0
            while len(got) < 100:
                try:
                    got += await file.read(50)
                except OSError as error:
                    assert error.errno == errno.EIO
                    failed += 1
            assert got == pattern(100)
            assert failed >= 2


# --- a cancelled write is the file's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
@pytest.mark.parametrize("wins", ["wins", "loses"])
async def test_a_cancelled_write_is_told_at_once_and_the_next_call_waits_for_it(
    anyio_backend: Any, path: Path, mode: str, wins: Any
) -> None:
    path.write_bytes(b"")
    held = Held(2, short=0, soft=0, cancel=wins)
    held.held = False
    async with aioring.Ring(method=held) as ring, anyio.create_task_group() as group:
        file = await aopen(path, mode, 10, ring=ring)
        await file.write(b"older")
        held.held = True
        write = begin(group, file.write, b"twenty bytes, or more")
        await ticks(5)
        write.scope.cancel()
        await ticks(5)
        assert write.done
        assert write.value is None
        tell = begin(group, file.tell)
        await ticks(3)
        closing = begin(group, file.close)
        await ticks(5)
        assert not tell.done
        assert not closing.done
        closing.scope.cancel()  # it closes all the same
        await ticks(5)
        held.let_go()
        await all_over(tell, closing)
        assert file.closed
        assert tell.value == 5  # while older bytes were flushed, none of the new were taken
        assert path.read_bytes() == b"older"


async def test_a_file_that_is_forgotten_while_its_write_is_under_way_is_finished_when_it_lands(
    anyio_backend: Any, path: Path
) -> None:
    held = Held(2, short=0, soft=0, cancel="loses")
    held.held = False
    async with aioring.Ring(method=held) as ring, anyio.create_task_group() as group:
        file = await aopen(path, "ab", 10, ring=ring)
        fd = file.fileno()
        await file.write(b"older")
        held.held = True
        write = begin(group, file.write, b"twenty bytes, or more")
        await ticks(5)
        write.scope.cancel()
        await ticks(5)
        assert write.done
        with pytest.warns(ResourceWarning, match="unclosed file"):  # noqa: PT031 - it comes in one of these
            del file, write
            await ticks(3)
            os.fstat(fd)  # still open: its write is in flight
            held.let_go()
            with anyio.fail_after(SOON):
                while path.read_bytes() != pattern(100_000) + b"older":
                    await anyio.sleep(0.001)
            await ticks(3)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# --- others get their turn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["read", "readline", "next", "write", "readinto"])
async def test_calls_that_never_suspend_let_others_run(anyio_backend: Any, tmp_path: Path, call: str) -> None:
    """What is served from a buffer pays for it: a ticker is never kept waiting for long."""
    path = tmp_path / "file"
    path.write_bytes(b"x\n" * 100_000)
    ticked = 0

    async def ticker() -> None:
        nonlocal ticked
        while True:
            await anyio.lowlevel.checkpoint()
            ticked += 1

    async with aopen(path, "r+b" if call == "write" else "rb") as file, anyio.create_task_group() as group:
        group.start_soon(ticker)
        began, n = time.perf_counter(), 0
        buffer = bytearray(1)
        while n < 20_000:
            if call == "next":
                await file.__anext__()
            else:
                await getattr(file, call)(*{"read": (2,), "write": (b"y",), "readinto": (buffer,)}.get(call, ()))
            n += 1
        took = time.perf_counter() - began
        group.cancel_scope.cancel()
    assert ticked >= int(took / 0.02), f"{ticked} turns in {took} s"


def test_killed_while_it_writes_the_file_has_what_was_flushed(tmp_path: Path) -> None:
    program = f"""
import asyncio, os
from aioring.files import open as aopen
async def main():
    async with aopen({str(tmp_path / "file")!r}, "wb") as f:
        for i in range(1_000_000):
            await f.write(b"%07d\\n" % i)
            if i % 100 == 0:
                await f.flush()
                os.write(1, b"%d\\n" % i)
asyncio.run(main())
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    flushed = [int(child.stdout.readline()) for _ in range(50)]
    child.kill()
    flushed += [int(line) for line in child.stdout.read().split(b"\n") if line]
    child.wait(10)
    child.stdout.close()
    lines = (tmp_path / "file").read_bytes().split(b"\n")
    whole = lines[: max(flushed) + 1]
    assert [int(line) for line in whole] == list(range(max(flushed) + 1))
