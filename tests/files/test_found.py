"""What a reviewer broke: each stays mended."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.files import open as aopen
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import SOON, all_over, begin, ticks

LIGHT = True  # see conftest.py


@pytest.mark.parametrize("seed", range(6))
async def test_reads_and_writes_in_one_buffer_cancelled_at_random(ring: Any, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data, at = bytearray(pattern(100_000)), 0
    async with (
        aopen(path, "r+b", chance.choice([16, 100, 4096]), ring=ring) as file,
        anyio.create_task_group() as group,
    ):
        for _ in range(50):
            n, text = chance.choice([1, 3, 17, 90, 1000, 5000]), b""
            name = chance.choice(["read", "read", "readline", "seek", "write", "write", "peek", "readlines", "flush"])
            target = max(at + chance.randrange(-40, 40), 0) if chance.random() < 0.5 else chance.randrange(90_000)
            text = chance.randbytes(n)
            arguments = {"read": (n,), "readlines": (n,), "seek": (target,), "write": (text,)}.get(name, ())
            outcome = begin(group, getattr(file, name), *arguments)
            await ticks(chance.randrange(4))
            if chance.random() < 0.4:
                outcome.scope.cancel()
            await all_over(outcome)
            assert outcome.error is None
            now = await file.tell()
            if name == "write":
                moved = now - at
                assert 0 <= moved <= n
                assert outcome.value in (None, n)
                data[at : at + moved] = text[:moved]
            elif name == "seek":
                assert now in (at, target)
            elif outcome.value is not None:
                got = b"".join(outcome.value) if name == "readlines" else outcome.value
                assert got == data[at : at + len(got)]
                assert now == at + (0 if name == "peek" else len(got))
            else:
                assert now == at
            at = now
    assert path.read_bytes() == data


async def test_append_is_what_the_fd_does_and_not_what_the_mode_says(ring: Any, path: Path) -> None:
    for mode, flags in (("ab", os.O_RDWR), ("a+b", os.O_RDWR), ("wb", os.O_APPEND), ("r+b", os.O_APPEND)):
        outcomes = []
        for ours in (False, True):
            path.write_bytes(b"0123456789")
            fd = os.open(path, os.O_RDWR | flags)
            file: Any = await aopen(fd, mode, 0, ring=ring) if ours else open(fd, mode, 0)
            told = []
            for call in [("seek", 3), ("write", b"XY"), ("tell",), ("write", b"Z"), ("tell",), ("close",)]:
                value = getattr(file, str(call[0]))(*call[1:])
                told.append(await value if hasattr(value, "__await__") else value)
            outcomes.append((told, path.read_bytes()))
        assert outcomes[0] == outcomes[1], mode


def test_a_fork_leaves_the_parents_position_alone(path: Path) -> None:
    program = f"""
import asyncio, os
from aioring.files import open as aopen
async def main():
    fd = os.open({str(path)!r}, os.O_RDWR)
    f = await aopen(fd, "r+b", closefd=False)
    await f.read(10)
    f.fileno()
    before = os.lseek(fd, 0, 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print(before, os.lseek(fd, 0, 1), await f.read(3))
    await f.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"10 10 {pattern(13)[10:]!r}\n", done.stderr


async def test_a_write_whose_ring_ends_before_it_returns_says_so(anyio_backend: Any, path: Path) -> None:
    """What it could not accept any more is not said to be accepted."""
    for after in range(6):
        ring = aioring.Ring(method=Scripted(1, short=0, soft=0))
        await ring.start()
        file = await aopen(path, "wb", 100, ring=ring)
        await file.write(b"a" * 90)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with anyio.create_task_group() as group:
                outcome = begin(group, file.write, b"b" * 50)
                await ticks(after)
                await ring.aclose()
            await file.close()
        accepted = 90 + (outcome.value or 0)
        assert len(path.read_bytes()) == accepted, (after, outcome.value, outcome.error)


async def test_where_warnings_are_errors_all_files_are_finished_and_the_ring_ends(
    anyio_backend: Any, path: Path
) -> None:
    ring = aioring.Ring()
    await ring.start()
    files = []
    for name in ("a", "b"):
        files.append(await aopen(path.with_name(name), "wb", ring=ring))
        await files[-1].write(name.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning, match="unclosed file"):
            await ring.aclose()
    assert [path.with_name(name).read_bytes() for name in ("a", "b")] == [b"a", b"b"]
    assert all(file.closed for file in files)


async def test_a_close_behind_a_read_that_waits_for_a_peer_ends_it(ring: Any) -> None:
    reading, writing = os.pipe()
    file = await aopen(reading, "rb", ring=ring)
    async with anyio.create_task_group() as group:
        read = begin(group, file.read, 1)
        await ticks(5)
        with anyio.fail_after(SOON):
            await file.close()
        await all_over(read)
        assert isinstance(read.error, OSError)
    assert file.closed
    os.close(writing)


async def test_lines_that_a_cancelled_call_read_from_a_pipe_come_one_by_one(ring: Any) -> None:
    reading, writing = os.pipe()
    async with aopen(reading, "rb", 0, ring=ring) as file, anyio.create_task_group() as group:
        os.write(writing, b"one\ntwo\nthree\n")
        outcome = begin(group, file.readlines)
        await ticks(60)
        outcome.scope.cancel()
        await all_over(outcome)
        os.close(writing)
        assert [await file.readline(), await file.readline(2), await file.readline(), await file.read()] == [
            b"one\n",
            b"tw",
            b"o\n",
            b"three\n",
        ]


@pytest.mark.parametrize("mode", ["r+b", "w+b", "a+b", "wb", "ab"])
async def test_where_the_fd_stands_after_the_file(ring: Any, path: Path, mode: str) -> None:
    told = []
    for ours in (False, True):
        fd = os.open(path, os.O_RDWR)
        file: Any = await aopen(fd, mode, closefd=False, ring=ring) if ours else open(fd, mode, closefd=False)
        for call in (("read", 10) if "+" in mode else ("write", b"some"), ("close",)):
            value = getattr(file, str(call[0]))(*call[1:])
            if hasattr(value, "__await__"):
                await value
        told.append(os.lseek(fd, 0, os.SEEK_CUR))
        os.close(fd)
        path.write_bytes(pattern(100_000))
    assert told[0] == told[1]


def test_a_full_pipe_does_not_keep_the_loop_from_ending() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)

    async def main() -> None:
        global kept
        kept = await aopen(writing, "wb")
        await kept.write(b"nobody will read this")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())
    assert kept.closed
    os.close(reading)


kept: Any = None


async def test_an_opening_is_awaited_by_one(ring: Any, path: Path) -> None:
    opening = aopen(path, "r+b", ring=ring)
    async with anyio.create_task_group() as group:
        both = [begin(group, opening.__aenter__) for _ in range(2)]
        await all_over(*both)
    files = {one.value for one in both if one.value is not None}
    assert len(files) == 1
    for one in both:
        assert one.error is None or "by another task" in str(one.error)
    await files.pop().close()
