"""Random scripts of operations, carried out by the ring on one file and by `os` on its twin: the same comes of both.

Three differences are agreed on, and written into the model here: a negative offset or size is a ValueError (where `os`
says EINVAL, or takes it for something else); what cannot seek takes offset -1 and an offset is ESPIPE; a short transfer
is continued, so that a read is short at end of file only and a write is whole or fails.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, note, settings, strategies as st

import aioring
from aioring.testing import Scripted
from tests.conftest import close_quietly, pattern

LIGHT = True  # see conftest.py

ERRORS = (OSError, ValueError, TypeError, OverflowError, BufferError, MemoryError)
SIZE = 70_000  # more than SMALL, the largest read that the page cache is asked for
EDGES = (0, 1, 2, 4095, 4096, 4097, 8192, 65_535, 65_536, 65_537, SIZE - 1, SIZE, SIZE + 1, 131_072)
LAST = (1 << 63) - 1
FAR = ((1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, LAST - 4095, LAST, LAST + 1, 1 << 64, -1, -2, -LAST - 1, -(1 << 70))
NO_FD = {"closed": 999_983, "negative": -7, "huge": 1 << 40}
KINDS = ("rw", "rw", "rw", "rw", "ro", "wo", "append", "path", "directory", "pipe in", "pipe out", *NO_FD)


class Step(NamedTuple):
    operation: str
    kind: str  # which fd
    offset: int = 0
    sizes: tuple[int, ...] = ()
    number: int = 0  # advice, mode

    def total(self) -> int:
        return sum(self.sizes)


offsets = st.one_of(st.sampled_from(EDGES), st.integers(0, 2 * SIZE), st.sampled_from(EDGES + FAR))
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 300), st.integers(0, 2 * SIZE))
lengths = st.one_of(sizes, st.sampled_from((-1, -5, -(1 << 63), 1 << 64)))  # of what needs no memory
vectors = st.lists(sizes, max_size=5).map(tuple)
kinds = st.sampled_from(KINDS)


def one(element: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return element.map(lambda n: (n,))


steps = st.one_of(
    st.builds(Step, st.just("read"), kinds, offsets, one(lengths)),
    st.builds(Step, st.just("readinto"), kinds, offsets, one(sizes)),
    st.builds(Step, st.just("readv"), kinds, offsets, vectors),
    st.builds(Step, st.just("write"), kinds, offsets, one(sizes)),
    st.builds(Step, st.just("writev"), kinds, offsets, vectors),
    st.builds(Step, st.just("truncate"), kinds, st.just(0), one(st.one_of(offsets, lengths))),
    st.builds(Step, st.just("allocate"), kinds, st.sampled_from((*EDGES, -1, 1 << 63)), one(lengths)),
    st.builds(Step, st.just("advise"), kinds, offsets, one(lengths), st.integers(-1, 7)),
    st.builds(Step, st.just("fsync"), kinds, number=st.booleans()),
    st.builds(Step, st.just("stat"), kinds),
)


class Side:
    """One of the twins: the file, and fds of every kind."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.path.write_bytes(pattern(SIZE))
        (folder / (name + ".d")).mkdir()
        self.pipes = os.pipe(), os.pipe()  # one to read from, with something in it; one to write to
        os.write(self.pipes[0][1], b"0123456789" * 100)
        self.fds = {
            "rw": os.open(self.path, os.O_RDWR),
            "ro": os.open(self.path, os.O_RDONLY),
            "wo": os.open(self.path, os.O_WRONLY),
            "append": os.open(self.path, os.O_RDWR | os.O_APPEND),
            "path": os.open(self.path, os.O_PATH),
            "directory": os.open(folder / (name + ".d"), os.O_RDONLY),
            "pipe in": self.pipes[0][0],
            "pipe out": self.pipes[1][1],
            **NO_FD,
        }
        os.close(self.pipes[0][1])  # so that who reads it meets its end instead of waiting
        os.set_blocking(self.pipes[1][0], False)

    def close(self) -> None:
        for kind, fd in self.fds.items():
            if kind not in NO_FD:
                close_quietly(fd)
        close_quietly(self.pipes[1][0])

    def content(self) -> tuple[int, bytes]:
        """Size, and the beginning: files may be sparse and huge."""
        with self.path.open("rb") as file:
            return os.fstat(file.fileno()).st_size, file.read(1 << 19)

    def empty(self) -> bytes:
        """What was written to the pipe since last asked, so that it never is full."""
        got = b""
        while True:
            try:
                got += os.read(self.pipes[1][0], 1 << 20)
            except BlockingIOError:
                return got


def data_of(step: Step) -> list[bytes]:
    return [pattern(n + 4)[i % 4 : n + i % 4] for i, n in enumerate(step.sizes)]


def of_stat(result: os.stat_result) -> tuple[Any, ...]:
    return result.st_mode & 0o170777, result.st_size, result.st_nlink, result.st_uid, result.st_blksize, result.st_rdev


def said(error: BaseException) -> Any:
    code = getattr(error, "errno", None)
    return type(error).__name__, errno.errorcode[code] if code else None


def by_os(side: Side, step: Step) -> Any:
    """The model: what `os` does, and the three differences."""
    fd, n = side.fds[step.kind], step.total()
    at: Any = step.offset
    operation = step.operation
    moves = operation in ("read", "readinto", "readv", "write", "writev")
    piped = step.kind in ("pipe in", "pipe out")
    try:
        if moves and piped and at == -1:
            at = None
        elif moves and at < 0:
            raise ValueError  # os.preadv and os.pwritev would take -1 for the file's own position
        if operation == "read":
            return os.read(fd, n) if at is None else os.pread(fd, n, at)
        if operation in ("readinto", "readv"):
            buffers = [bytearray(size) for size in step.sizes]
            got = os.readv(fd, buffers) if at is None else os.preadv(fd, buffers, at)
            return got, b"".join(buffers)
        if operation == "write":
            data = data_of(step)[0]
            return os.write(fd, data) if at is None else os.pwrite(fd, data, at)
        if operation == "writev":
            return os.writev(fd, data_of(step)) if at is None else os.pwritev(fd, data_of(step), at)
        if operation == "truncate":
            return os.ftruncate(fd, n)
        if operation == "allocate":
            return os.posix_fallocate(fd, at, n)
        if operation == "advise":
            return os.posix_fadvise(fd, at, n, step.number)
        if operation == "fsync":
            return (os.fdatasync if step.number else os.fsync)(fd)
        return of_stat(os.stat(fd))
    except ERRORS as error:
        return said(error)


async def by_ring(ring: aioring.Ring, side: Side, step: Step) -> Any:
    fd, at, n = side.fds[step.kind], step.offset, step.total()
    operation = step.operation
    try:
        async with asyncio.timeout(5):
            if operation == "read":
                return await ring.read(fd, at, n)
            if operation == "readinto":
                buffer = bytearray(n)
                return await ring.readinto(fd, at, buffer), bytes(buffer)
            if operation == "readv":
                buffers = [bytearray(size) for size in step.sizes]
                return await ring.readv(fd, at, buffers), b"".join(buffers)
            if operation == "write":
                return await ring.write(fd, at, data_of(step)[0])
            if operation == "writev":
                return await ring.writev(fd, at, data_of(step))
            if operation == "truncate":
                return await ring.truncate(fd, n)
            if operation == "allocate":
                return await ring.allocate(fd, at, n)
            if operation == "advise":
                return await ring.advise(fd, at, n, step.number)
            if operation == "fsync":
                return await ring.fsync(fd, data_only=bool(step.number))
            return of_stat(await ring.stat(fd))
    except TimeoutError:
        return "hung"
    except ERRORS as error:
        return said(error)


def agrees(step: Step, ours: Any, theirs: Any) -> bool:
    if ours == theirs:
        return True
    offset_matters = step.operation not in ("truncate", "fsync", "stat")
    negative = (offset_matters and step.offset < 0) or (step.operation not in ("fsync", "stat") and step.total() < 0)
    if negative and ours == ("ValueError", None):
        return True  # the first difference
    if (offset_matters and step.offset < 0) or step.total() < 0:
        # Two things are wrong at once, the number and the fd: either may be said.
        return ours in (("OSError", "EBADF"), ("OSError", "ESPIPE"), ("OverflowError", None), ("ValueError", None))
    if {str(ours), str(theirs)} <= {
        str(("OverflowError", None)),
        str(("OSError", "EBADF")),
        str(("OSError", "ESPIPE")),
    }:
        return max(step.offset, step.total()) >= 1 << 63  # as well
    return False


SCRIPT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "sync", "scripted"])
@SCRIPT
@given(script=st.lists(steps, min_size=1, max_size=12), seed=st.integers(0, 1 << 16))
@example(script=[Step("write", "rw", 1 << 40, (5,)), Step("read", "rw", 1 << 40, (10,)), Step("stat", "rw")], seed=0)
@example(script=[Step("read", "directory", 0, (0,)), Step("readv", "directory", 0, ())], seed=0)
@example(script=[Step("advise", "rw", 0, (0,), -1), Step("fsync", "negative")], seed=0)
@example(script=[Step("truncate", "rw", 0, (LAST,)), Step("stat", "ro"), Step("truncate", "rw", 0, (1,))], seed=0)
@example(script=[Step("read", "pipe in", -1, (300,)), Step("writev", "pipe out", -1, (0, 30_000))], seed=0)
@example(script=[Step("writev", "append", 3, (10, 4096)), Step("read", "ro", SIZE, (4106,))], seed=3)
def test_a_script_of_operations_comes_to_what_os_makes_of_it(
    method: str, cached: bool, script: list[Step], seed: int
) -> None:
    async def run(folder: Path) -> None:
        chosen: Any = Scripted(seed) if method == "scripted" else method
        sides: list[Side] = []
        try:
            sides += [Side(folder, "theirs")]
            sides += [Side(folder, "ours")]
            theirs, ours = sides
            async with aioring.Ring(method=chosen, page_cache_first=cached) as ring:
                for step in script:
                    if step.kind == "pipe out" and step.total() > 60_000:
                        continue  # more than a pipe holds: `os` would wait for ever
                    expected = by_os(theirs, step)
                    got = await by_ring(ring, ours, step)
                    note(f"{step}: {str(got)[:100]}")
                    assert agrees(step, got, expected), f"{step}: {got!r:.200}, os: {expected!r:.200}"
                    assert ours.content() == theirs.content(), step
                    assert ours.empty() == theirs.empty(), step
        finally:
            for side in sides:
                side.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
