"""What the io_uring method relies on, asked of this kernel."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import aioring
from aioring.engine.chains import Chain
from aioring.handle import Handle
from aioring.kernel import abi
from aioring.kernel.doorbell import Doorbell
from aioring.kernel.features import open_queues
from aioring.kernel.liburing import find_route
from aioring.kernel.rings import Queues
from aioring.operations import CLOSE, TABLE, WRITE
from aioring.testing import Recording, Trace

pytestmark = pytest.mark.core


@pytest.fixture
def queues() -> Iterator[Queues]:
    doorbell = Doorbell()
    queues, _, _ = open_queues(find_route(os.environ.get("AIORING_LIBURING")), 64, doorbell.fd)
    try:
        yield queues
    finally:
        queues.close()
        doorbell.close()


MISSING = ctypes.create_string_buffer(b"/nonexistent/name")
AT = ctypes.addressof(MISSING)
MEMORY = ctypes.create_string_buffer(256)
CWD = abi.AT_FDCWD & 0xFFFFFFFF


def failing(opcode: int, pipe_end: int, readonly: int) -> tuple[int, int, int, int, int]:
    """Arguments (fd, off, addr, len, flags) with which an opcode fails for a reason that is not a bad fd."""
    memory, how = ctypes.addressof(MEMORY), ctypes.addressof(MEMORY)
    return {
        abi.OP_READ: (pipe_end, 0, memory, 10, 0),  # the writing end
        abi.OP_READ_FIXED: (readonly, 0, memory, 10, 0),  # no slot has memory in it
        abi.OP_READV: (pipe_end, 0, memory, 1, 0),
        abi.OP_WRITE: (readonly, 0, memory, 10, 0),
        abi.OP_WRITEV: (readonly, 0, memory, 1, 0),
        abi.OP_FSYNC: (pipe_end, 0, 0, 0, 0),
        abi.OP_SYNC_FILE_RANGE: (pipe_end, 0, 0, 10, 2),
        abi.OP_FALLOCATE: (pipe_end, 0, 10, 0, 0),
        abi.OP_OPENAT: (abi.AT_FDCWD, 0, AT, 0, 0),
        abi.OP_OPENAT2: (abi.AT_FDCWD, how, AT, 24, 0),
        abi.OP_CLOSE: (1 << 20, 0, 0, 0, 0),
        abi.OP_STATX: (abi.AT_FDCWD, memory, AT, abi.STATX_BASIC_STATS, 0),
        abi.OP_FTRUNCATE: (readonly, 5, 0, 0, 0),
        abi.OP_FADVISE: (pipe_end, 0, 0, 10, 3),
        abi.OP_RENAMEAT: (abi.AT_FDCWD, AT, AT, CWD, 0),
        abi.OP_UNLINKAT: (abi.AT_FDCWD, 0, AT, 0, 0),
        abi.OP_MKDIRAT: (abi.AT_FDCWD, 0, AT, 0o777, 0),
        abi.OP_SYMLINKAT: (abi.AT_FDCWD, AT, AT, 0, 0),
        abi.OP_LINKAT: (abi.AT_FDCWD, AT, AT, CWD, 0),
    }[opcode]


def both(queues: Queues, first: tuple[int, ...]) -> dict[int, int]:
    """The results of a linked pair: an operation, then a NOP."""
    done: deque[tuple[int, int]] = deque()
    opcode, fd, off, addr, length, flags = first
    queues.push(opcode, abi.SQE_LINK, fd, off, addr, length, flags, 1)
    queues.push(abi.OP_NOP, 0, 0, 0, 0, 0, 0, 2)
    assert queues.submit() >= 0
    while len(done) < 2:
        queues.get_events()
        queues.reap(done)
    return dict(done)


@pytest.mark.parametrize(
    "operation", [op for op in TABLE if op.opcode is not None], ids=lambda op: f"{op.name}-{op.opcode}"
)
def test_the_kernel_breaks_a_chain_where_the_row_says_so(queues: Queues, operation, pipe, path: Path) -> None:  # type: ignore[no-untyped-def]
    readonly = os.open(path, os.O_RDONLY)
    try:
        results = both(queues, (operation.opcode, *failing(operation.opcode, pipe[1], readonly)))
    finally:
        os.close(readonly)
    assert results[1] < 0, f"{operation.name} was to fail"
    if operation.breaks:
        assert results[2] == -errno.ECANCELED
    elif results[2] == -errno.ECANCELED:
        pass  # a kernel that is stricter than we rely on
    else:
        assert results[2] == 0


def test_a_short_read_breaks_a_chain_and_ours_goes_on(queues: Queues, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        results = both(queues, (abi.OP_READ, fd, 99_990, ctypes.addressof(MEMORY), 100, 0))
    finally:
        os.close(fd)
    assert results == {1: 10, 2: -errno.ECANCELED}


def test_all_that_is_staged_in_a_tick_goes_in_one_enter(path: Path) -> None:
    async def main() -> None:
        trace = Trace()
        method = Recording("io_uring", trace)
        async with aioring.Ring(method=method, page_cache_first=False) as ring:
            queues = method.inner._queues
            entered = 0
            submit = queues.mapped.submit

            def counting(n: int) -> int:
                nonlocal entered
                entered += 1
                return submit(n)

            queues.mapped.submit = counting
            fd = os.open(path, os.O_RDONLY)
            await asyncio.gather(*[ring.read(fd, i, 10) for i in range(200)])
            os.close(fd)
            assert entered == 1
            assert trace.count("submitted", "read") == 200

    asyncio.run(main())


def test_a_kernel_that_stops_taking_submissions_fails_what_it_did_not_take(path: Path) -> None:
    """A seccomp filter may be put on after the ring was made: EPERM from io_uring_enter(2)."""

    async def main() -> None:
        ring = aioring.Ring(method="io_uring", page_cache_first=False)
        await ring.start()
        queues = ring._started.method._queues
        submit = queues.mapped.submit
        fd = os.open(path, os.O_RDONLY)
        for _ in range(3):
            queues.mapped.submit = lambda _: -errno.EPERM
            results = await asyncio.gather(*[ring.read(fd, i, 10) for i in range(5)], return_exceptions=True)
            assert all(isinstance(result, PermissionError) for result in results), results
            queues.mapped.submit = submit
            assert await asyncio.gather(*[ring.read(fd, i, 10) for i in range(5)]) == [
                os.pread(fd, 10, i) for i in range(5)
            ]
        os.close(fd)
        await ring.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN, errno.EBUSY])
def test_a_kernel_that_takes_nothing_now_is_asked_again(path: Path, code: int) -> None:
    async def main() -> None:
        async with aioring.Ring(method="io_uring", page_cache_first=False, depth=8) as ring:
            queues = ring._started.method._queues
            submit, calls = queues.mapped.submit, 0

            def sometimes(n: int) -> int:
                nonlocal calls
                calls += 1
                return submit(n) if calls % 12 == 0 else -code

            queues.mapped.submit = sometimes
            fd = os.open(path, os.O_RDONLY)
            reads = [ring.start_read(fd, i * 10, 10) for i in range(40)]
            assert b"".join([await read for read in reads]) == os.pread(fd, 400, 0)
            os.close(fd)
            queues.mapped.submit = submit

    asyncio.run(main())


def test_under_trio_no_other_loop_and_no_helper_thread_exists(path: Path) -> None:
    """By `trio.run` itself: anyio's test runner runs trio as a guest of asyncio, with a thread."""

    async def main() -> None:
        async with aioring.Ring(method="io_uring", page_cache_first=False) as ring:
            fd = await ring.open(path, os.O_RDWR)
            assert await ring.read(fd, 10, 5_000) == os.pread(fd, 5_000, 10)
            assert await ring.write(fd, 0, b"trio") == 4
            await ring.fsync(fd)
            assert (await ring.stat(fd)).st_size == 100_000
            await ring.close(fd)
            assert set(threading.enumerate()) == before
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()

    before = set(threading.enumerate())
    trio.run(main)


def test_an_interrupt_between_two_links_does_not_part_them(tmp_path: Path) -> None:
    """What the kernel is told of in two goes is not linked: the close would come before the write."""
    packed: list[Any] = []

    def struck(request: Any) -> Any:
        packed.append(request)
        if len(packed) == 2:  # it was packed before, to see whether the round is whole
            raise KeyboardInterrupt
        return request.fd, 0, 0, 0, 0

    async def main() -> None:
        async with aioring.Ring(method="io_uring") as ring:
            engine = ring._started
            assert engine is not None
            for n in range(20):
                packed.clear()
                fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
                write, close = Handle(WRITE, fd, 0, 5000), Handle(replace(CLOSE, pack=struck), fd)
                write.view = b"x" * 5000
                chain = Chain(engine, [write, close])
                engine.ask_chain(chain)
                with pytest.raises(KeyboardInterrupt):
                    engine.flush()
                if n % 2:
                    engine.on_doorbell()
                async with asyncio.timeout(3):
                    while not chain.finished():
                        await asyncio.sleep(0)
                assert (write.res, close.res) == (5000, 0)

    asyncio.run(main())
