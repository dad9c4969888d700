"""What cannot seek is waited for: it holds nothing up, loses no byte, keeps its order and ends when it has to."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioring
from tests.conftest import close_quietly, pattern
from tests.harness import SOON, Outcome, begin, ticks

pytestmark = pytest.mark.timeout(10)

METHODS = ("io_uring", "linux_aio", "worker", "sync")


# The page cache has no part in this: one method with it on, all without.
@pytest.fixture(
    params=[
        ("io_uring", True),
        ("io_uring", False),
        ("linux_aio", False),
        ("worker", False),
        ("sync", False),
        ("scripted", False),
    ],
    ids=lambda one: f"{one[0]}-{'cached' if one[1] else 'uncached'}",
)
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


def rest(fd: int, n: int = 1 << 20) -> bytes:
    """What is left in there, without waiting."""
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            more = os.read(fd, n)
        except (BlockingIOError, OSError):
            return data
        if not more:
            return data
        data += more


def raw_pty() -> tuple[int, int]:
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    return master, slave


CHANNELS = ("pipe", "nonblocking pipe", "fifo", "socket", "tty slave", "tty master")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture(params=CHANNELS)
def channel(request: pytest.FixtureRequest, fifo: Path) -> Iterator[tuple[int, int]]:
    """(where one reads, where one writes)"""
    kind = request.param
    if kind == "pipe":
        ends = os.pipe()
    elif kind == "nonblocking pipe":
        ends = os.pipe2(os.O_NONBLOCK)
    elif kind == "fifo":
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        ends = reader, os.open(fifo, os.O_WRONLY)
        os.set_blocking(reader, True)
    elif kind == "socket":
        a, b = socket.socketpair()
        ends = a.detach(), b.detach()
    else:
        master, slave = raw_pty()
        ends = (slave, master) if kind == "tty slave" else (master, slave)
    try:
        yield ends
    finally:
        for end in ends:
            close_quietly(end)


# --- one transfer -----------------------------------------------------------------------------------------------------


async def test_a_read_returns_after_the_first_transfer(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    async with anyio.create_task_group() as group:
        read = begin(group, ring.read, reader, -1, 1000)
        await anyio.wait_all_tasks_blocked()
        assert not read.done
        os.write(writer, b"hello")
        with anyio.fail_after(SOON):
            await read.over.wait()
    assert read.value == b"hello", read.error
    os.write(writer, b"at once")
    with anyio.fail_after(SOON):
        assert await ring.read(reader, -1, 1000) == b"at once"


async def test_what_is_asked_is_a_limit(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    os.write(writer, b"0123456789")
    with anyio.fail_after(SOON):
        assert await ring.read(reader, -1, 0) == b""
        assert await ring.read(reader, -1, 1) == b"0"
        buffer = bytearray(b"x" * 4)
        assert await ring.readinto(reader, -1, buffer) == 4
        assert buffer == b"1234"
        first, empty, last = bytearray(2), bytearray(), bytearray(b"----")
        assert await ring.readv(reader, -1, [first, empty, last]) == 5
        assert first + last == b"56789-"


async def test_a_waiting_readinto_fills_the_buffer_in_place(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    buffer = bytearray(b"-" * 8)
    async with anyio.create_task_group() as group:
        read = begin(group, ring.readinto, reader, -1, memoryview(buffer)[2:6])
        await anyio.wait_all_tasks_blocked()
        os.write(writer, b"abc")
        with anyio.fail_after(SOON):
            await read.over.wait()
    assert read.value == 3
    assert buffer == b"--abc---"


async def test_write_and_writev_write_all(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    with anyio.fail_after(SOON):
        assert await ring.write(writer, -1, b"") == 0
        assert await ring.write(writer, -1, memoryview(b"-abc-")[1:4]) == 3
        assert await ring.writev(writer, -1, [b"d", b"", bytearray(b"ef")]) == 3
        data = b""
        while len(data) < 6:  # a tty hands over a write at a time
            data += await ring.read(reader, -1, 100)
    assert data == b"abcdef"


@pytest.mark.parametrize("vectored", [False, True])
async def test_a_large_write_to_a_slow_reader_arrives_whole(
    ring: aioring.Ring, channel: tuple[int, int], vectored: bool
) -> None:
    reader, writer = channel
    data = pattern((64 << 10) if os.isatty(reader) else (1 << 20))
    received = bytearray()
    async with anyio.create_task_group() as group:
        if vectored:
            third = len(data) // 3
            parts = [data[:third], b"", data[third : third + 1], memoryview(data)[third + 1 :]]
            write = begin(group, ring.writev, writer, -1, parts)
        else:
            write = begin(group, ring.write, writer, -1, data)
        with anyio.fail_after(SOON):
            while len(received) < len(data):
                received += await ring.read(reader, -1, 10_000)
                await checkpoint()
            await write.over.wait()
    assert write.value == len(data), write.error
    assert received == data


async def test_an_eventfd_is_waited_for(ring: aioring.Ring) -> None:
    """lseek(2) says that an eventfd can seek (noop_llseek), as of timerfd, signalfd and inotify: it cannot."""
    fd = os.eventfd(0)
    try:
        async with anyio.create_task_group() as group:
            read = begin(group, ring.read, fd, -1, 8)
            await anyio.wait_all_tasks_blocked()
            waited = not read.done
            os.eventfd_write(fd, 7)
            with anyio.fail_after(SOON):
                await read.over.wait()
        assert waited, read.error
        assert int.from_bytes(read.value, sys.byteorder) == 7
        with anyio.fail_after(SOON):
            assert await ring.write(fd, -1, (3).to_bytes(8, sys.byteorder)) == 8
        assert os.eventfd_read(fd) == 3
    finally:
        os.close(fd)


async def test_end_of_file_when_the_writer_closes(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as group:
        reads = [begin(group, ring.read, reader, -1, 10) for _ in range(3)]
        await anyio.wait_all_tasks_blocked()
        os.write(writer, b"last")
        os.close(writer)
        with anyio.fail_after(SOON):
            for read in reads:
                await read.over.wait()
    assert sorted(read.value for read in reads) == [b"", b"", b"last"]
    assert await ring.read(reader, -1, 10) == b""


async def test_a_socket_that_is_shut_down_ends(ring: aioring.Ring) -> None:
    a, b = socket.socketpair()
    with a, b:
        async with anyio.create_task_group() as group:
            read = begin(group, ring.read, a.fileno(), -1, 10)
            await anyio.wait_all_tasks_blocked()
            b.shutdown(socket.SHUT_WR)
            with anyio.fail_after(SOON):
                await read.over.wait()
        assert read.value == b""


async def test_a_tty_whose_other_end_is_gone_says_so(ring: aioring.Ring) -> None:
    master, slave = raw_pty()
    try:
        async with anyio.create_task_group() as group:
            read = begin(group, ring.read, master, -1, 10)
            await anyio.wait_all_tasks_blocked()
            os.close(slave)
            with anyio.fail_after(SOON):
                await read.over.wait()
        assert isinstance(read.error, OSError)
        assert read.error.errno == errno.EIO  # as read(2) says it
    finally:
        os.close(master)


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_write_that_nobody_will_read_is_a_broken_pipe(
    ring: aioring.Ring, channel: tuple[int, int], waiting: bool
) -> None:
    reader, writer = channel
    if os.isatty(writer) or os.isatty(reader):
        os.write(writer, b"x")
        assert await ring.read(reader, -1, 1) == b"x"  # a tty has no broken pipe
        return
    async with anyio.create_task_group() as group:
        if not waiting:
            os.close(reader)
        write = begin(group, ring.write, writer, -1, pattern(1 << 20))
        await anyio.wait_all_tasks_blocked()
        if waiting:
            assert not write.done
            os.close(reader)
        with anyio.fail_after(SOON):
            await write.over.wait()
    # A socket with unread bytes is reset; either is a ConnectionError, as of write(2).
    assert isinstance(write.error, (BrokenPipeError, ConnectionResetError))


async def test_an_offset_other_than_minus_one_is_refused(ring: aioring.Ring, pipe: tuple[int, int], fd: int) -> None:
    reader, writer = pipe
    for call in (lambda: ring.read(reader, 0, 1), lambda: ring.write(writer, 5, b"x")):
        with pytest.raises(OSError, match=r".*") as caught:
            await call()
        assert caught.value.errno == errno.ESPIPE
    for call in (lambda: ring.read(fd, -1, 1), lambda: ring.write(fd, -1, b"x"), lambda: ring.read(reader, -2, 1)):
        with pytest.raises(ValueError):
            await call()


# --- devices and the kernel's own files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/self/stat", "/proc/meminfo", "/proc/self/maps", "/sys/kernel/uevent_seqnum"])
async def test_files_of_the_kernel_are_read_whole(ring: aioring.Ring, path: str) -> None:
    if not os.path.exists(path):
        path = "/proc/cpuinfo"
    fd = await ring.open(path, os.O_RDONLY)
    try:
        data = await ring.read(fd, 0, 1 << 20)
        blocking = os.pread(fd, 1 << 20, 0)
        assert data.split()[:1] == blocking.split()[:1]
        assert len(data) > len(blocking) // 2
        buffer = bytearray(3)
        assert await ring.readinto(fd, 0, buffer) == 3
        assert buffer == data[:3]
        assert await ring.read(fd, len(data) + (1 << 20), 100) == b""
    finally:
        await ring.close(fd)


async def test_devices_without_a_position_are_read_and_written(ring: aioring.Ring) -> None:
    fds = [await ring.open(f"/dev/{name}", os.O_RDWR) for name in ("zero", "null", "urandom")]
    zero, null, chance = fds
    try:
        assert await ring.read(zero, 0, 100_000) == bytes(100_000)
        buffer = bytearray(b"x" * 1000)
        assert await ring.readinto(zero, 0, buffer) == 1000
        assert buffer == bytes(1000)
        assert await ring.read(null, 0, 100) == b""
        assert await ring.write(null, 0, pattern(200_000)) == 200_000
        first, second = await ring.read(chance, 0, 4096), await ring.read(chance, 0, 4096)
        assert len(first) == len(second) == 4096
        assert first != second
    finally:
        for fd in fds:
            await ring.close(fd)


# --- waiting holds nothing up -----------------------------------------------------------------------------------------


async def test_waiting_reads_hold_up_no_file_read(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int
) -> None:
    pipes = [os.pipe() for _ in range(64)]
    try:
        async with make_ring(depth=8, workers=2) as ring, anyio.create_task_group() as group:
            reads = [[begin(group, ring.read, r, -1, 1) for _ in range(4)] for r, _ in pipes]
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(SOON):
                for i in range(20):
                    assert await ring.read(fd, i * 4096, 4096) == os.pread(fd, 4096, i * 4096)
                assert await ring.run(lambda: 42) == 42
            assert not any(read.done for group_of_four in reads for read in group_of_four)
            for _, w in pipes:
                os.write(w, b"abcd")
            with anyio.fail_after(SOON):
                for four in reads:
                    for read in four:
                        await read.over.wait()
                    assert sorted(read.value for read in four) == [b"a", b"b", b"c", b"d"]
    finally:
        for ends in pipes:
            for end in ends:
                os.close(end)


async def test_waiting_opens_hold_up_no_file_read(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int, tmp_path: Path
) -> None:
    fifos = [tmp_path / f"fifo{i}" for i in range(20)]
    for path in fifos:
        os.mkfifo(path)
    async with make_ring(depth=2, workers=1) as ring, anyio.create_task_group() as group:
        opens = [begin(group, ring.open, path, (os.O_RDONLY, os.O_WRONLY)[i % 2]) for i, path in enumerate(fifos)]
        await ticks(20)
        with anyio.fail_after(SOON):
            for i in range(20):
                assert await ring.read(fd, i * 100, 100) == os.pread(fd, 100, i * 100)
        assert not any(one.done for one in opens)
        group.cancel_scope.cancel()


async def test_the_loop_sleeps_while_reads_wait(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    """A level-triggered watch on what nobody asks for any more would spin."""
    reader, writer = channel
    async with anyio.create_task_group() as group:
        abandoned = begin(group, ring.read, reader, -1, 10)
        await anyio.wait_all_tasks_blocked()
        abandoned.scope.cancel()
        await abandoned.over.wait()
        os.write(writer, b"unread")
        idle = os.times()
        await anyio.sleep(0.05)
        spent = os.times().user + os.times().system - idle.user - idle.system
    assert spent < 0.03
    assert rest(reader) == b"unread"


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
async def test_waiting_readers_are_served_in_order(ring: aioring.Ring, channel: tuple[int, int], at_once: bool) -> None:
    reader, writer = channel
    served: list[tuple[int, bytes]] = []

    async def read(number: int) -> None:
        served.append((number, await ring.read(reader, -1, 1)))

    data = b"abcdefgh"
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            for i in range(len(data)):
                group.start_soon(read, i)
                await anyio.wait_all_tasks_blocked()
            if at_once:
                os.write(writer, data)
            else:
                for i in range(len(data)):
                    os.write(writer, data[i : i + 1])
                    while len(served) <= i:
                        await checkpoint()
    assert served == [(i, data[i : i + 1]) for i in range(len(data))]


async def test_a_newcomer_does_not_overtake_those_who_wait(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as group:
        waiting = [begin(group, ring.read, reader, -1, 1)]
        await anyio.wait_all_tasks_blocked()
        waiting.append(begin(group, ring.read, reader, -1, 1))
        await anyio.wait_all_tasks_blocked()
        os.write(writer, b"a")
        newcomer = begin(group, ring.read, reader, -1, 1)
        await ticks(10)
        os.write(writer, b"b")
        await ticks(10)
        os.write(writer, b"c")
        with anyio.fail_after(SOON):
            for one in (*waiting, newcomer):
                await one.over.wait()
    assert [one.value for one in (*waiting, newcomer)] == [b"a", b"b", b"c"]


async def test_readers_and_writers_of_one_socket_wait_side_by_side(ring: aioring.Ring) -> None:
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        full = 0
        try:
            while True:
                full += a.send(bytes(4096))
        except BlockingIOError:
            pass
        a.setblocking(True)
        async with anyio.create_task_group() as group:
            read = begin(group, ring.read, a.fileno(), -1, 10)
            write = begin(group, ring.write, a.fileno(), -1, b"after")
            await anyio.wait_all_tasks_blocked()
            assert not read.done
            assert not write.done
            b.send(b"in")
            with anyio.fail_after(SOON):
                await read.over.wait()
            assert read.value == b"in"
            assert not write.done
            received = 0
            with anyio.fail_after(SOON):
                while received < full + 5:
                    received += len(b.recv(1 << 20))
                    await checkpoint()
                    if received >= full:
                        await write.over.wait()
        assert write.value == 5


# --- cancelling loses nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["read", "readinto", "readv"])
async def test_a_cancelled_read_loses_no_byte_whenever_it_is_cancelled(
    ring: aioring.Ring, channel: tuple[int, int], kind: str
) -> None:
    reader, writer = channel

    async def read() -> bytes:
        if kind == "read":
            return await ring.read(reader, -1, 3)
        buffer = bytearray(3)
        if kind == "readinto":
            return bytes(buffer[: await ring.readinto(reader, -1, buffer)])
        return bytes(buffer[: await ring.readv(reader, -1, [memoryview(buffer)[:1], memoryview(buffer)[1:]])])

    for write_at in range(4):
        for cancel_at in range(7):
            for cancel_first in (False, True):
                async with anyio.create_task_group() as group:
                    one = begin(group, read)
                    for tick in range(8):
                        if tick == cancel_at and cancel_first:
                            one.scope.cancel()
                        if tick == write_at:
                            os.write(writer, b"abc")
                        if tick == cancel_at and not cancel_first:
                            one.scope.cancel()
                        await checkpoint()
                    with anyio.fail_after(SOON):
                        await one.over.wait()
                assert one.error is None
                got = one.value or b""
                with anyio.fail_after(SOON):
                    while len(got) < 3:
                        got += await ring.read(reader, -1, 3 - len(got))
                assert got == b"abc", (write_at, cancel_at, cancel_first)


@pytest.mark.parametrize("seed", range(2))
async def test_a_stream_read_under_random_cancels_arrives_whole(
    ring: aioring.Ring, channel: tuple[int, int], seed: int
) -> None:
    reader, writer = channel
    chance = random.Random(seed)
    data = pattern(400)
    received = bytearray()

    async def write() -> None:
        at = 0
        while at < len(data):
            n = chance.randint(1, 5)
            os.write(writer, data[at : at + n])
            at += n
            await ticks(chance.randint(0, 3))

    async def cancel(scope: anyio.CancelScope, after: int) -> None:
        await ticks(after)
        scope.cancel()

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            while len(received) < len(data):
                with anyio.CancelScope() as scope:
                    group.start_soon(cancel, scope, chance.randint(0, 6))
                    received += await ring.read(reader, -1, chance.randint(1, 7))
                await checkpoint()
    assert received == data


async def test_a_cancelled_reader_passes_its_turn_on(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    for cancel_at in range(5):
        async with anyio.create_task_group() as group:
            reads = []
            for _ in range(3):
                reads.append(begin(group, ring.read, reader, -1, 10))
                await anyio.wait_all_tasks_blocked()
            os.write(writer, b"data")
            await ticks(cancel_at)
            reads[0].scope.cancel()
            with anyio.fail_after(SOON):
                await reads[0].over.wait()
                if reads[0].value is None:
                    await reads[1].over.wait()
                    assert reads[1].value == b"data"
            assert not reads[2].done
            group.cancel_scope.cancel()


async def test_of_a_cancelled_write_a_prefix_has_arrived(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    data = pattern(1 << 20)
    async with anyio.create_task_group() as group:
        write = begin(group, ring.write, writer, -1, data)
        await anyio.wait_all_tasks_blocked()
        assert not write.done
        received = await ring.read(reader, -1, 1000)
        await ticks(3)
        write.scope.cancel()
        with anyio.fail_after(SOON):
            await write.over.wait()
    assert write.value is None
    assert write.error is None
    if os.isatty(reader):
        select.select([reader], [], [], 0.1)  # a tty's line discipline moves bytes in a kernel thread
    received += rest(reader)
    assert data.startswith(received)
    assert len(received) < len(data)


async def test_a_cancel_that_was_pending_takes_and_writes_nothing(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"abc")
    value = b""
    with anyio.CancelScope() as scope:
        scope.cancel()
        value = await ring.read(reader, -1, 3)
    assert value + rest(reader) == b"abc"


# --- begun now, awaited later -----------------------------------------------------------------------------------------


async def test_start_read_and_start_write_wait_for_what_cannot_seek(
    ring: aioring.Ring, channel: tuple[int, int]
) -> None:
    reader, writer = channel
    read = ring.start_read(reader, -1, 100)
    await ticks(5)
    assert not read.done()
    write = ring.start_write(writer, -1, b"hello")
    with anyio.fail_after(SOON):
        assert await write == 5
        assert await read == b"hello"
        assert await read == b"hello"
    assert read.done()


@pytest.mark.parametrize("ticks_before", [0, 1, 5])
async def test_a_started_read_that_is_cancelled_ends_and_takes_nothing(
    ring: aioring.Ring, pipe: tuple[int, int], ticks_before: int
) -> None:
    reader, writer = pipe
    read = ring.start_read(reader, -1, 100)
    await ticks(ticks_before)
    read.cancel()
    error: BaseException | None = None
    with anyio.move_on_after(SOON) as limit:
        try:
            await read
        except OSError as caught:
            error = caught
        except anyio.get_cancelled_exc_class() as caught:
            if limit.cancel_called:
                raise
            error = caught  # a cancellation that nobody sent to this task: on trio it takes down the whole run
    assert not limit.cancelled_caught, "a started read that was cancelled never ends"
    assert isinstance(error, OSError)
    assert error.errno == errno.ECANCELED
    os.write(writer, b"mine")
    await ticks(5)
    assert rest(reader) == b"mine"


async def test_cancelling_who_awaits_a_started_read_takes_nothing(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    for after in range(5):
        read = ring.start_read(reader, -1, 100)
        with anyio.move_on_after(SOON):
            async with anyio.create_task_group() as group:

                async def wait(read: Any = read) -> bytes:
                    return await read

                one = begin(group, wait)
                await ticks(after)
                one.scope.cancel()
                await one.over.wait()
        assert one.value is None
        await ticks(5)
        os.write(writer, b"mine")
        await ticks(5)
        assert rest(reader) == b"mine"


async def test_a_started_read_was_asked_before_a_close_that_follows(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"there")
    read = ring.start_read(reader, -1, 100)
    with anyio.fail_after(SOON):
        await ring.close(reader)
        assert await read == b"there"


async def test_a_started_read_never_reads_the_file_that_gets_its_number(
    ring: aioring.Ring, pipe: tuple[int, int]
) -> None:
    reader, _ = pipe
    read = ring.start_read(reader, -1, 100)
    with anyio.fail_after(SOON):
        await ring.close(reader)
    other, other_writer = os.pipe()
    try:
        assert other == reader  # the lowest free number
        os.write(other_writer, b"not yours")
        with anyio.fail_after(SOON), pytest.raises(OSError) as caught:
            await read
        assert caught.value.errno == errno.ECANCELED
        assert rest(other) == b"not yours"
    finally:
        close_quietly(other_writer)


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_the_fd_cancels_who_waits_for_it(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    async with anyio.create_task_group() as group:
        reads = [begin(group, ring.read, reader, -1, 10) for _ in range(3)]
        write = begin(group, ring.write, writer, -1, pattern(1 << 20))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(SOON):
            await ring.close(writer)
            await write.over.wait()
            await ring.close(reader)
            for read in reads:
                await read.over.wait()
    assert isinstance(write.error, OSError)
    assert write.error.errno == errno.ECANCELED
    for end in (reader, writer):
        with pytest.raises(OSError):
            os.fstat(end)
    for read in reads:
        if read.value is None:
            assert isinstance(read.error, OSError)
            assert read.error.errno in (errno.ECANCELED, errno.EIO)


@pytest.mark.parametrize("ticks_before", [0, 1, 2, 3])
async def test_closing_the_fd_cancels_a_crowd_that_waits_for_its_turn(
    ring: aioring.Ring, pipe: tuple[int, int], ticks_before: int
) -> None:
    """More than one tick's budget: some have not even looked yet."""
    reader, _ = pipe
    asked = 0

    async def read() -> bytes:
        nonlocal asked
        asked += 1
        return await ring.read(reader, -1, 10)

    async with anyio.create_task_group() as group:
        reads = [begin(group, read) for _ in range(200)]
        while not asked:
            await checkpoint()
        await ticks(ticks_before)
        while asked < 200:
            await checkpoint()
        with anyio.move_on_after(SOON) as limit:
            await ring.close(reader)
            for one in reads:
                await one.over.wait()
        stuck = sum(not one.done for one in reads)
        group.cancel_scope.cancel()
    assert not limit.cancelled_caught, f"{stuck} reads of a closed fd wait for ever, and the close with them"
    assert {one.error.errno for one in reads if isinstance(one.error, OSError)} == {errno.ECANCELED}
    assert all(isinstance(one.error, OSError) for one in reads)


async def test_closing_cancels_a_read_that_was_woken_for_nothing(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    for steal_at in range(4):
        for close_at in range(steal_at, 5):
            dup = os.dup(reader)
            async with anyio.create_task_group() as group:
                read = begin(group, ring.read, dup, -1, 10)
                await anyio.wait_all_tasks_blocked()
                os.write(writer, b"x")
                close: Outcome | None = None
                for tick in range(5):
                    if tick == steal_at:
                        rest(reader)
                    if tick == close_at:
                        close = begin(group, ring.close, dup)
                    await checkpoint()
                assert close is not None
                with anyio.move_on_after(1) as limit:
                    await close.over.wait()
                    await read.over.wait()
                group.cancel_scope.cancel()
            assert not limit.cancelled_caught, f"the close hangs: stolen at tick {steal_at}, closed at tick {close_at}"
            assert read.value == b"x" or read.error.errno == errno.ECANCELED  # type: ignore[union-attr]


async def test_a_read_that_is_asked_during_the_close_comes_after_it(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as group:
        first = begin(group, ring.read, reader, -1, 10)
        await anyio.wait_all_tasks_blocked()

        async def close_then_read() -> None:
            os.write(writer, b"late")
            async with anyio.create_task_group() as inner:
                close = begin(inner, ring.close, reader)
                await checkpoint()
                after = begin(inner, ring.read, reader, -1, 10)
            assert close.error is None
            assert isinstance(after.error, OSError)
            assert after.error.errno == errno.EBADF

        with anyio.fail_after(SOON):
            await close_then_read()
            await first.over.wait()
    assert first.value == b"late" or first.error.errno == errno.ECANCELED  # type: ignore[union-attr]


async def test_closing_the_ring_ends_who_waits(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, channel: tuple[int, int], fifo: Path
) -> None:
    reader, writer = channel
    ring = make_ring()
    await ring.start()
    other = fifo.with_name("other")
    os.mkfifo(other)
    async with anyio.create_task_group() as group:
        waiting = [begin(group, ring.read, reader, -1, 10) for _ in range(3)]
        waiting.append(begin(group, ring.open, other, os.O_WRONLY))
        await anyio.wait_all_tasks_blocked()
        waiting.append(begin(group, ring.open, fifo.with_name("none"), os.O_RDONLY))
        await ticks(3)
        with anyio.fail_after(SOON):
            await ring.aclose()
            for one in waiting:
                await one.over.wait()
    for one in waiting[:4]:
        assert isinstance(one.error, aioring.RingClosedError), one.error
    os.write(writer, b"left alone")
    assert os.read(reader, 100) == b"left alone"


async def test_data_that_comes_as_the_ring_is_closed_is_read_or_left(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any
) -> None:
    for close_at in range(6):
        for n in (1, 3):
            ring = make_ring()
            await ring.start()
            reader, writer = os.pipe()
            decoys: list[int] = []
            try:
                async with anyio.create_task_group() as group:
                    reads = []
                    for _ in range(n):
                        reads.append(begin(group, ring.read, reader, -1, 2))
                        await anyio.wait_all_tasks_blocked()
                    os.write(writer, b"ab")
                    await ticks(close_at)
                    await ring.aclose()
                    for _ in range(8):  # take the numbers that were given back
                        decoy, decoy_writer = os.pipe()
                        os.write(decoy_writer, b"XX")
                        decoys += [decoy, decoy_writer]
                    with anyio.fail_after(SOON):
                        for read in reads:
                            await read.over.wait()
                for read in reads:
                    assert read.value == b"ab" or isinstance(read.error, aioring.RingClosedError), (
                        close_at,
                        read.error,
                    )
                assert b"".join(read.value or b"" for read in reads) + rest(reader) == b"ab"
            finally:
                for end in (reader, writer, *decoys):
                    close_quietly(end)


async def test_an_fd_that_others_close_still_gets_its_data(ring: aioring.Ring, channel: tuple[int, int]) -> None:
    reader, writer = channel
    async with anyio.create_task_group() as group:
        read = begin(group, ring.read, reader, -1, 10)
        await anyio.wait_all_tasks_blocked()
        os.close(reader)
        await ticks(3)
        try:
            os.write(writer, b"data")
        except OSError:
            pass
        with anyio.fail_after(SOON):
            await read.over.wait()
    assert read.value == b"data" or isinstance(read.error, OSError)


@pytest.mark.parametrize("kind", ["pipe", "eventfd", "socket"])
async def test_a_number_that_is_reused_by_others_does_not_mix_files(ring: aioring.Ring, kind: str) -> None:
    def make() -> tuple[int, int]:
        if kind == "pipe":
            return os.pipe()
        if kind == "eventfd":
            fd = os.eventfd(0)
            return fd, os.dup(fd)
        a, b = socket.socketpair()
        return a.detach(), b.detach()

    old, old_writer = make()
    async with anyio.create_task_group() as group:
        first = begin(group, ring.read, old, -1, 8)
        await anyio.wait_all_tasks_blocked()
        new, new_writer = make()
        os.dup2(new, old, inheritable=False)
        second = begin(group, ring.read, old, -1, 8)
        await anyio.wait_all_tasks_blocked()
        one, two = (1).to_bytes(8, sys.byteorder), (2).to_bytes(8, sys.byteorder)
        os.write(new_writer, two)
        with anyio.move_on_after(SOON):
            await second.over.wait()
        os.write(old_writer, one)
        with anyio.move_on_after(SOON):
            await first.over.wait()
        group.cancel_scope.cancel()
    for end in (old, old_writer, new, new_writer):
        os.close(end)
    assert second.value == two
    assert first.value == one


# --- FIFOs ------------------------------------------------------------------------------------------------------------


async def test_opening_a_fifo_to_read_waits_for_a_writer(ring: aioring.Ring, fifo: Path) -> None:
    async with anyio.create_task_group() as group:
        opened = begin(group, ring.open, fifo, os.O_RDONLY)
        await anyio.sleep(0.01)
        assert not opened.done
        with anyio.fail_after(SOON):
            writer = await anyio.to_thread.run_sync(os.open, fifo, os.O_WRONLY)
            await opened.over.wait()
    fd = opened.value
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    assert os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    os.write(writer, b"through")
    assert await ring.read(fd, -1, 10) == b"through"
    os.close(writer)
    assert await ring.read(fd, -1, 10) == b""
    await ring.close(fd)


async def test_opening_a_fifo_to_write_waits_for_a_reader(ring: aioring.Ring, fifo: Path) -> None:
    async with anyio.create_task_group() as group:
        opened = begin(group, ring.open, fifo, os.O_WRONLY)
        await anyio.sleep(0.01)
        assert not opened.done
        with anyio.fail_after(SOON):
            reader = await anyio.to_thread.run_sync(os.open, fifo, os.O_RDONLY)
            await opened.over.wait()
    fd = opened.value
    assert os.get_blocking(fd)
    assert await ring.write(fd, -1, b"through") == 7
    await ring.close(fd)
    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b""
    os.close(reader)


@pytest.mark.parametrize("reader_first", [True, False])
async def test_two_opens_of_one_fifo_meet(ring: aioring.Ring, fifo: Path, reader_first: bool) -> None:
    flags = (os.O_RDONLY, os.O_WRONLY) if reader_first else (os.O_WRONLY, os.O_RDONLY)
    async with anyio.create_task_group() as group:
        first = begin(group, ring.open, fifo, flags[0])
        await ticks(3)
        second = begin(group, ring.open, fifo, flags[1])
        with anyio.fail_after(SOON):
            await first.over.wait()
            await second.over.wait()
    reader, writer = (first.value, second.value) if reader_first else (second.value, first.value)
    assert os.get_blocking(reader)
    assert os.get_blocking(writer)
    async with anyio.create_task_group() as group:
        read = begin(group, ring.read, reader, -1, 10)
        await anyio.wait_all_tasks_blocked()
        assert await ring.write(writer, -1, b"met") == 3
    assert read.value == b"met"
    await ring.close(reader)
    await ring.close(writer)


async def test_a_writer_that_came_and_left_is_not_missed(ring: aioring.Ring, fifo: Path) -> None:
    for data in (b"", b"left behind"):
        async with anyio.create_task_group() as group:
            opened = begin(group, ring.open, fifo, os.O_RDONLY)
            with anyio.fail_after(SOON):
                while True:
                    try:
                        writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                        break
                    except OSError:
                        await anyio.sleep(0.001)
                os.write(writer, data)
                os.close(writer)
                await opened.over.wait()
        assert await ring.read(opened.value, -1, 100) == data
        await ring.close(opened.value)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY], ids=["read", "write"])
async def test_a_blocked_open_is_cancelled(ring: aioring.Ring, fifo: Path, flags: int) -> None:
    for after in (0, 1, 2, 3, 5, 8, 20):
        async with anyio.create_task_group() as group:
            opened = begin(group, ring.open, fifo, flags)
            await ticks(after)
            opened.scope.cancel()
            with anyio.fail_after(SOON):
                await opened.over.wait()
        assert opened.value is None
        assert opened.error is None
    with anyio.move_on_after(0.01):
        await ring.open(fifo, flags)
    with anyio.fail_after(SOON):
        while ring._started.busy():  # type: ignore[union-attr]
            await anyio.sleep(0.001)
    # Nobody reads it: no fd was left open.
    with pytest.raises(OSError) as caught:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    assert caught.value.errno == errno.ENXIO


async def test_opening_a_fifo_without_blocking_is_as_os_open(ring: aioring.Ring, fifo: Path) -> None:
    with pytest.raises(OSError) as caught:
        await ring.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO
    assert caught.value.filename == os.fspath(fifo)
    with anyio.fail_after(SOON):
        reader = await ring.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer = await ring.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        both = await ring.open(fifo, os.O_RDWR)
    assert not os.get_blocking(reader)
    assert not os.get_blocking(writer)
    assert os.get_blocking(both)
    for fd in (reader, writer, both):
        await ring.close(fd)


async def test_a_fifo_that_is_gone_ends_the_open(ring: aioring.Ring, fifo: Path) -> None:
    async with anyio.create_task_group() as group:
        opened = begin(group, ring.open, fifo, os.O_WRONLY)
        await anyio.sleep(0.005)
        fifo.unlink()
        with anyio.move_on_after(1):
            await opened.over.wait()
        group.cancel_scope.cancel()
    # open(2) would wait for ever on the inode; an error is what one can do something about.
    assert opened.value is None


async def test_opened_files_block_and_keep_their_flags(ring: aioring.Ring, path: Path) -> None:
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR, os.O_RDONLY | os.O_DIRECT):
        fd, plain = await ring.open(path, flags), os.open(path, flags)
        assert os.get_blocking(fd)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == fcntl.fcntl(plain, fcntl.F_GETFL)
        os.close(plain)
        await ring.close(fd)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys
import aioring

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
kind, method, path = sys.argv[1:]


async def main():
    async with aioring.Ring(method=method) as ring:
        asyncio.get_running_loop().call_later(0.05, lambda: print("waiting", flush=True))
        if kind == "pipe":
            await ring.read(os.pipe()[0], -1, 10)
        elif kind == "tty":
            await ring.read(os.openpty()[1], -1, 10)
        elif kind == "open to read":
            await ring.open(path, os.O_RDONLY)
        else:
            await ring.open(path, os.O_WRONLY)


asyncio.run(main())
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["pipe", "tty", "open to read", "open to write"])
def test_ctrl_c_ends_a_program_that_waits(method: str, kind: str, fifo: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM, kind, method, os.fspath(fifo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "waiting\n", program.communicate()
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=5)
        finally:
            program.kill()
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said
    assert "ResourceWarning" not in said
    assert "never retrieved" not in said


MASTER = """
import asyncio, os, sys, tty
import aioring


async def main():
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    async with aioring.Ring(method=sys.argv[1]) as ring:
        for i in range(300):
            write = asyncio.create_task(ring.write(master, -1, bytes(1 << 20)))
            for _ in range(i % 5):
                await asyncio.sleep(0)
            await ring.read(slave, -1, 1000)
            await asyncio.sleep(0)
            write.cancel()
            await asyncio.wait([write])
            try:
                while os.read(slave, 1 << 20):
                    pass
            except BlockingIOError:
                pass
        assert os.get_blocking(master)


asyncio.run(main())
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_write_to_a_tty_whose_reader_is_slow_does_not_stop_the_loop(method: str) -> None:
    """poll(2) reports room for one byte: a plain write(2) of more may wait, and nothing could end it."""
    subprocess.run([sys.executable, "-c", MASTER, method], timeout=8, check=True)
