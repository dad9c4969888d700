"""linux_aio: direct transfers by io_submit, all else by the workers; what io_submit cannot do, the workers do."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.kernel import aio
from aioring.methods.linux_aio import LinuxAio
from aioring.testing import Recording, Trace
from tests.conftest import pattern
from tests.harness import all_over, begin

SIZE = 256 * 4096
WHOLE = pattern(SIZE)


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[int]:
    """A file of whole blocks, open with O_DIRECT; nothing of it in the page cache, which direct I/O has to wait for."""
    path = tmp_path / "blocks"
    path.write_bytes(WHOLE)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    yield fd
    os.close(fd)


def engine_of(ring: aioring.Ring) -> Any:
    return ring._started


async def test_direct_transfers_take_no_worker(anyio_backend: Any, direct: int, fd: int) -> None:
    async with aioring.Ring(method="linux_aio") as ring:
        assert ring.method == "linux_aio"
        buffer = aioring.alloc(8192)
        assert await ring.readinto(direct, 4096, buffer) == 8192
        assert buffer == WHOLE[4096:12288]
        assert await ring.read(direct, 4096, 4096) == WHOLE[4096:8192]  # into aligned memory of aioring's own
        parts = [aioring.alloc(4096) for _ in range(3)]
        assert await ring.readv(direct, 8192, parts) == 12288
        assert b"".join(parts) == WHOLE[8192:20480]
        buffer[:] = b"!" * 8192
        assert await ring.write(direct, 0, buffer) == 8192
        assert await ring.writev(direct, 8192, [buffer[:4096], buffer[4096:]]) == 8192
        assert os.pread(fd, 5, 0) == pattern(5)
        assert engine_of(ring).workers.carried_out == 0, "a direct transfer took a worker"
        assert await ring.read(fd, 50_000, 70_000) == pattern(100_000)[50_000:]
        assert engine_of(ring).workers.carried_out > 0, "and a buffered one did not"


async def test_hundreds_in_flight_come_back_each_with_its_own(anyio_backend: Any, direct: int) -> None:
    async with aioring.Ring(method="linux_aio", depth=64) as ring:
        buffers = [aioring.alloc(4096) for _ in range(256)]
        async with anyio.create_task_group() as group:
            reads = [begin(group, ring.readinto, direct, i * 4096, buffers[i]) for i in range(256)]
        assert [read.value for read in reads] == [4096] * 256
        assert b"".join(buffers) == WHOLE


async def test_a_recorded_one_gives_everything_back(anyio_backend: Any, direct: int) -> None:
    trace = Trace()
    recorded = Recording("linux_aio", trace)
    async with aioring.Ring(method=recorded) as ring:
        buffer = aioring.alloc(4096)
        for i in range(20):
            assert await ring.readinto(direct, i * 4096, buffer) == 4096
            assert buffer == WHOLE[i * 4096 : (i + 1) * 4096]
        assert trace.count("completed", "readinto") == 20
        assert not recorded.inner._kept


@pytest.mark.parametrize("what", ["offset", "length", "address"])
@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "sync"])
async def test_what_direct_io_refuses_says_what_it_needs(
    anyio_backend: Any, direct: int, method: str, what: str
) -> None:
    buffer = aioring.alloc(8192)
    offset = 100 if what == "offset" else 0
    view = buffer[1:4097] if what == "address" else buffer[:1000] if what == "length" else buffer[:4096]
    async with aioring.Ring(method=method) as ring:
        for transfer in (ring.readinto, ring.write):
            with pytest.raises(OSError, match="Invalid argument") as caught:
                await transfer(direct, offset, view)
            assert caught.value.errno == errno.EINVAL
            notes = " ".join(caught.value.__notes__)
            assert f"fd {direct} has O_DIRECT" in notes
            assert "multiple of" in notes
            assert "aioring.alloc" in notes


@pytest.mark.parametrize("bad", ["closed", "write only"])
async def test_the_workers_say_what_is_wrong_with_what_io_submit_refuses(
    anyio_backend: Any, tmp_path: Path, bad: str
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(bytes(4096))
    fd = os.open(path, (os.O_WRONLY if bad == "write only" else os.O_RDONLY) | os.O_DIRECT)
    try:
        async with aioring.Ring(method="linux_aio") as ring:
            if bad == "closed":
                os.close(fd)
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                await ring.readinto(fd, 0, aioring.alloc(4096))
            assert caught.value.errno == errno.EBADF
    finally:
        if bad != "closed":
            os.close(fd)


async def test_one_bad_request_in_a_batch_harms_no_other(anyio_backend: Any, direct: int, tmp_path: Path) -> None:
    """io_submit stops at the first that it refuses: those behind it are told all the same."""
    path = tmp_path / "write only"
    path.write_bytes(bytes(4096))
    refused = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        async with aioring.Ring(method="linux_aio") as ring:
            buffers = [aioring.alloc(4096) for _ in range(30)]
            async with anyio.create_task_group() as group:
                reads = [
                    begin(group, ring.readinto, refused if i % 3 == 1 else direct, i * 4096, buffers[i])
                    for i in range(30)
                ]
            for i, read in enumerate(reads):
                if i % 3 == 1:
                    assert read.errno == errno.EBADF
                else:
                    assert buffers[i] == WHOLE[i * 4096 : (i + 1) * 4096]
    finally:
        os.close(refused)


class Reluctant(LinuxAio):
    """Answers as where a transfer would have had to wait (EAGAIN), or a file system knows no RWF_NOWAIT."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.refused = 0

    def start(self, *args: Any) -> int:
        depth = super().start(*args)
        reap = self._context.reap

        def reluctantly(into: deque[tuple[int, int]]) -> None:
            found: deque[tuple[int, int]] = deque()
            reap(found)
            self.refused += len(found)
            into.extend((token, -self.code) for token, _ in found)

        self._context.reap = reluctantly  # type: ignore[method-assign]
        return depth


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP])
async def test_what_cannot_be_started_without_waiting_goes_to_the_workers(
    anyio_backend: Any, direct: int, code: int
) -> None:
    method = Reluctant(code)
    async with aioring.Ring(method=method) as ring:
        buffer = aioring.alloc(4096)
        assert await ring.readinto(direct, 4096, buffer) == 4096
        assert buffer == WHOLE[4096:8192]
        assert method.refused == 1
        assert engine_of(ring).workers.carried_out == 1


async def test_a_cancelled_transfer_is_waited_for_where_it_lends_memory(anyio_backend: Any, direct: int) -> None:
    async with aioring.Ring(method="linux_aio") as ring:
        buffer = aioring.alloc(SIZE)
        async with anyio.create_task_group() as group:
            reads = [begin(group, ring.readinto, direct, 0, buffer) for _ in range(8)]
            while not engine_of(ring).live:
                await anyio.lowlevel.checkpoint()
            for read in reads:
                read.scope.cancel()
            await all_over(*reads)
        left = [handle for handle in engine_of(ring).live.values() if handle.operation.name == "readinto"]
        assert not left, "the kernel may still write into the caller's buffer"
        buffer[:] = bytes(SIZE)
        await anyio.sleep(0.01)
        assert buffer == bytes(SIZE)


async def test_the_context_is_given_back_off_the_loops_thread(anyio_backend: Any, direct: int) -> None:
    def contexts() -> int:
        with open("/proc/self/maps") as maps:
            return sum("[aio]" in line for line in maps)

    before = contexts()
    for _ in range(5):
        async with aioring.Ring(method="linux_aio") as ring:
            await ring.readinto(direct, 0, aioring.alloc(4096))
    with anyio.fail_after(5):
        while contexts() > before:
            await anyio.sleep(0.005)


def test_an_interrupt_between_two_answers_tells_nobody_twice(direct: int) -> None:
    """Struck after the kernel took a batch, the next turn goes on behind it."""

    async def main() -> None:
        async with aioring.Ring(method="linux_aio") as ring:
            engine = engine_of(ring)
            context = engine.method._context
            submit, strikes = context.submit, [True]

            def struck(*args: Any) -> None:
                submit(*args)
                if strikes.pop():
                    strikes.append(False)
                    raise KeyboardInterrupt

            context.submit = struck
            buffers = [aioring.alloc(4096) for _ in range(10)]
            reads = [asyncio.ensure_future(ring.readinto(direct, i * 4096, buffers[i])) for i in range(10)]
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
            except KeyboardInterrupt:
                pass
            context.submit = submit
            assert await asyncio.wait_for(asyncio.gather(*reads), 5) == [4096] * 10
            assert b"".join(buffers) == WHOLE[: 10 * 4096]

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    while not task.done():
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            continue
        except RuntimeError as error:
            if "before Future completed" not in str(error):
                raise
    loop.close()
    task.result()


def test_every_machine_that_is_not_known_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_NUMBERS", None)
    with pytest.raises(OSError, match="no system call numbers") as caught:
        aio.Context(8)
    assert caught.value.errno == errno.ENOSYS
