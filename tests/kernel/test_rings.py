"""The queues as memory, by every route to the kernel that there is here."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioring.kernel import abi
from aioring.kernel.features import LADDER
from aioring.kernel.liburing import Liburing, Route, SystemCalls, _Ring, find_route
from aioring.kernel.rings import Queues
from tests.conftest import open_fds

Done = deque[tuple[int, int]]
BEST = LADDER[0]
PLAIN = 0


@pytest.fixture(params=["liburing", "system calls"])
def route(request: pytest.FixtureRequest) -> Route:
    if request.param == "system calls":
        return SystemCalls()
    try:
        return Liburing("liburing.so.2")
    except OSError as error:
        pytest.skip(f"no liburing here: {error}")


@pytest.fixture
def make(route: Route) -> Iterator[Callable[..., Queues]]:
    made: list[Queues] = []

    def make(entries: int = 8, flags: int = BEST, cq_entries: int | None = None) -> Queues:
        made.append(Queues(route.map(entries, flags, entries * 4 if cq_entries is None else cq_entries)))
        return made[-1]

    yield make
    for queues in made:
        queues.close()


def nop(queues: Queues, token: int) -> None:
    queues.push(abi.OP_NOP, 0, -1, 0, 0, 0, 0, token)


def ring_maps() -> int:
    return sum("io_uring" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_sizes_are_the_kernel_headers() -> None:
    assert struct.calcsize("<BBHiQQIIQHHIQQ") == abi.SQE_BYTES == 64
    assert abi.CQE_BYTES == 16
    assert abi.PARAMS_BYTES == 120
    assert abi.STATX_BYTES == 256
    assert ctypes.sizeof(_Ring) == 216
    assert (_Ring.cq.offset, _Ring.flags.offset, _Ring.ring_fd.offset, _Ring.features.offset) == (104, 192, 196, 200)
    assert len(abi.pack_restriction(1, 2, 0, 0, 0, 0)) == 16
    assert len(abi.pack_open_how(1, 2, 3)) == abi.OPEN_HOW_BYTES == 24
    assert abi.PROBE_BYTES == 16 + 256 * 8


def test_an_sqe_lies_as_the_kernel_reads_it() -> None:
    memory = bytearray(64)
    abi.pack_sqe(memory, 0, 22, 4, 0, 7, 1 << 40, 1 << 41, 4096, 9, 1 << 42, 0, 0, 0, 0, 0)
    assert (memory[0], memory[1]) == (22, 4)
    assert struct.unpack_from("<i", memory, 4) == (7,)
    assert struct.unpack_from("<QQII", memory, 8) == (1 << 40, 1 << 41, 4096, 9)
    assert struct.unpack_from("<Q", memory, 32) == (1 << 42,)
    assert memory[40:] == bytes(24)


@pytest.mark.parametrize("flags", [BEST, PLAIN], ids=["best", "plain"])
def test_nops_come_back_in_order_with_their_user_data(make: Callable[..., Queues], flags: int) -> None:
    queues, done = make(8, flags), Done()
    tokens = [0, 1, (1 << 32) + 5, (1 << 62) + 3, (1 << 64) - 1]
    for token in tokens:
        nop(queues, token)
    assert queues.staged() == 5
    assert queues.submit() == 5
    assert queues.staged() == 0
    queues.reap(done)
    assert list(done) == [(token, 0) for token in tokens]
    queues.reap(done)
    assert len(done) == 5


def test_nothing_staged_is_nothing_submitted(make: Callable[..., Queues]) -> None:
    queues, done = make(), Done()
    assert queues.submit() == 0
    assert queues.get_events() >= 0
    queues.reap(done)
    assert not done
    assert not queues.pending()


def test_a_failed_request_carries_minus_errno(make: Callable[..., Queues]) -> None:
    queues, done = make(), Done()
    queues.push(abi.OP_READ, 0, 1 << 20, 0, 0, 10, 0, 1)
    queues.push(255, 0, -1, 0, 0, 0, 0, 2)
    nop(queues, 3)
    while queues.staged():
        queues.submit()
    queues.get_events()
    queues.reap(done)
    assert sorted(done) == [(1, -9), (2, -22), (3, 0)]


@pytest.mark.parametrize("entries", [1, 4, 8])
def test_indexes_go_round_the_queue_many_times(make: Callable[..., Queues], entries: int) -> None:
    queues, done = make(entries), Done()
    token = 0
    while token < 10_000:
        n = token % entries + 1
        for _ in range(n):
            nop(queues, token)
            token += 1
        assert queues.submit() == n
        queues.reap(done)
    assert list(done) == [(i, 0) for i in range(token)]
    assert queues.tail() & 0xFFFFFFFF == token


def test_what_was_taken_back_is_never_submitted(make: Callable[..., Queues]) -> None:
    queues, done = make(), Done()
    nop(queues, 1)
    queues.submit()
    nop(queues, 2)
    nop(queues, 3)
    queues.take_back()
    assert queues.staged() == 0
    nop(queues, 4)
    assert queues.submit() == 1
    queues.reap(done)
    assert list(done) == [(1, 0), (4, 0)]


@pytest.mark.parametrize("flags", [BEST, abi.SETUP_CLAMP, PLAIN], ids=["best", "clamp", "plain"])
def test_a_completion_queue_that_overflows_loses_nothing(make: Callable[..., Queues], flags: int) -> None:
    queues, done = make(4, flags, 8), Done()
    assert queues.cq_entries == 8
    for token in range(64):
        nop(queues, token)
        assert queues.submit() == 1
    assert queues.overflowed()
    assert queues.pending()
    for _ in range(64):
        queues.reap(done)
        if not queues.pending():
            break
        queues.get_events()
    queues.reap(done)
    assert list(done) == [(token, 0) for token in range(64)]
    assert not queues.overflowed()


def test_more_completions_than_one_enter_makes_all_arrive(make: Callable[..., Queues]) -> None:
    """Under DEFER_TASKRUN an enter runs 20 at most; IORING_SQ_TASKRUN says that there are more."""
    queues, done = make(128), Done()
    source, sink = os.pipe()
    memory = [ctypes.create_string_buffer(1) for _ in range(100)]
    for token, one in enumerate(memory):
        queues.push(abi.OP_READ, 0, source, abi.MAX_OFFSET, ctypes.addressof(one), 1, 0, token)
    assert queues.submit() == 100
    queues.reap(done)
    assert not done
    os.write(sink, bytes(range(100)))
    turns = 0
    while len(done) < 100 and turns < 100:
        turns += 1
        queues.get_events()
        queues.reap(done)
    assert sorted(done) == [(token, 1) for token in range(100)]
    assert sorted(one.raw[0] for one in memory) == list(range(100))
    assert not queues.pending()
    os.close(source)
    os.close(sink)


def test_a_read_fills_memory_and_a_write_takes_it(make: Callable[..., Queues], tmp_path: Path) -> None:
    queues, done = make(), Done()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    data, back = ctypes.create_string_buffer(b"hello kernel", 12), ctypes.create_string_buffer(12)
    for opcode, memory in ((abi.OP_WRITE, data), (abi.OP_READ, back)):
        queues.push(opcode, 0, fd, 5, ctypes.addressof(memory), 12, 0, opcode)
        queues.submit()
        while not done or done[-1][0] != opcode:
            queues.get_events()
            queues.reap(done)
    assert list(done) == [(abi.OP_WRITE, 12), (abi.OP_READ, 12)]
    assert back.raw == b"hello kernel"
    assert os.pread(fd, 100, 0) == bytes(5) + b"hello kernel"
    os.close(fd)


def test_entries_are_clamped_and_rounded_up(make: Callable[..., Queues]) -> None:
    assert make(5).sq_entries == 8
    assert make(1 << 20).sq_entries == 1 << 15


def test_a_refused_set_up_is_an_oserror_and_leaves_nothing(route: Route) -> None:
    before, maps = open_fds(), ring_maps()
    with pytest.raises(OSError, match="Invalid argument"):
        route.map(8, 1 << 31, 32)
    with pytest.raises(OSError, match="Invalid argument"):
        route.map(1 << 20, 0, 0)
    assert (open_fds(), ring_maps()) == (before, maps)


def test_a_thousand_rings_leave_no_fd_and_no_map(route: Route) -> None:
    before, maps = open_fds(), ring_maps()
    done = Done()
    for _ in range(1000):
        queues = Queues(route.map(8, BEST, 32))
        nop(queues, 7)
        queues.submit()
        queues.reap(done)
        queues.close()
    assert len(done) == 1000
    assert (open_fds(), ring_maps()) == (before, maps)


def test_no_liburing_is_no_error_and_a_wrong_one_is() -> None:
    assert isinstance(find_route("none"), SystemCalls)
    for wrong in ("/nonexistent", "libc.so.6"):
        with pytest.raises(OSError, match=wrong):
            find_route(wrong)
