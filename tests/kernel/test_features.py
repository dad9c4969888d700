"""What this kernel can do, found by trying; and why not, in words."""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioring.kernel import abi, features
from aioring.kernel.features import LADDER, Unusable, explain, open_queues
from aioring.kernel.liburing import Mapped, SystemCalls
from tests.conftest import open_fds


def ring_maps() -> int:
    return sum("io_uring" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.fixture
def doorbell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


class Refusing(SystemCalls):
    """A kernel that refuses: `answers` is what each set-up in turn says (0: it may), `register` what that call says."""

    def __init__(self, *answers: int, register: dict[int, int] | None = None) -> None:
        super().__init__()
        self.answers, self.codes, self.asked = list(answers), register or {}, []

    def map(self, entries: int, flags: int, cq_entries: int) -> Mapped:
        self.asked.append((entries, flags, cq_entries))
        code = self.answers.pop(0) if self.answers else 0
        if code:
            raise OSError(code, os.strerror(code))
        mapped = super().map(entries, flags, cq_entries)
        inner = mapped.register

        def register(opcode: int, argument: Any, n: int) -> int:
            return -self.codes[opcode] if opcode in self.codes else inner(opcode, argument, n)

        mapped.register = register
        return mapped


def test_the_best_flags_are_taken_where_they_can_be_had(doorbell: int) -> None:
    queues, opcodes, flags = open_queues(SystemCalls(), 8, doorbell)
    assert flags == LADDER[0]
    assert flags & abi.SETUP_DEFER_TASKRUN
    assert queues.cq_entries == 4 * queues.sq_entries == 32
    assert {abi.OP_READ, abi.OP_WRITE, abi.OP_FSYNC, abi.OP_OPENAT, abi.OP_CLOSE, abi.OP_ASYNC_CANCEL} <= opcodes
    assert 255 not in opcodes
    queues.close()


def test_the_doorbell_rings_for_a_completion(doorbell: int) -> None:
    queues, _, _ = open_queues(SystemCalls(), 8, doorbell)
    try:
        os.eventfd_read(doorbell)  # what the proof rang
    except BlockingIOError:
        pass
    queues.push(abi.OP_NOP, 0, -1, 0, 0, 0, 0, 1)
    queues.submit()
    assert os.eventfd_read(doorbell) >= 1
    queues.close()


def test_the_proof_leaves_nothing_in_the_queues(doorbell: int) -> None:
    queues, _, _ = open_queues(SystemCalls(), 8, doorbell)
    done: deque[tuple[int, int]] = deque()
    queues.reap(done)
    assert not done
    assert not queues.staged()
    queues.close()


@pytest.mark.parametrize("rung", range(len(LADDER)))
def test_unknown_flags_go_down_the_ladder(doorbell: int, rung: int) -> None:
    route = Refusing(*[errno.EINVAL] * rung)
    queues, _, flags = open_queues(route, 8, doorbell)
    assert flags == LADDER[rung]
    assert [flags for _, flags, _ in route.asked] == list(LADDER[: rung + 1])
    queues.close()


def test_the_ladder_goes_from_the_best_down_to_none() -> None:
    assert LADDER[-1] == 0
    assert len(set(LADDER)) == len(LADDER)


def test_below_the_last_rung_there_is_no_io_uring(doorbell: int) -> None:
    with pytest.raises(Unusable, match="Invalid argument") as caught:
        open_queues(Refusing(*[errno.EINVAL] * len(LADDER)), 8, doorbell)
    assert caught.value.where == "io_uring_setup"


def test_no_memory_backs_off_and_then_takes_a_smaller_ring(doorbell: int) -> None:
    queues, _, _ = open_queues(Refusing(*[errno.ENOMEM] * 3), 256, doorbell)
    assert queues.sq_entries == 256  # the charge was given back in time
    queues.close()
    route = Refusing(*[errno.ENOMEM] * 6)
    queues, _, _ = open_queues(route, 256, doorbell)
    assert 8 <= queues.sq_entries < 256
    queues.close()


def test_no_memory_at_all_says_memlock_and_ends(doorbell: int) -> None:
    with pytest.raises(Unusable) as caught:
        open_queues(Refusing(*[errno.ENOMEM] * 1000), 256, doorbell)
    assert caught.value.errno == errno.ENOMEM
    assert "RLIMIT_MEMLOCK" in caught.value.hint


def test_an_interrupted_set_up_is_asked_again(doorbell: int) -> None:
    queues, _, flags = open_queues(Refusing(errno.EINTR, errno.EINTR), 8, doorbell)
    assert flags == LADDER[0]
    queues.close()


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EMFILE, errno.EOPNOTSUPP, errno.ENODEV]
)
def test_what_refuses_the_set_up_is_said_at_once(doorbell: int, code: int) -> None:
    route = Refusing(*[code] * 10)
    with pytest.raises(Unusable) as caught:
        open_queues(route, 8, doorbell)
    assert caught.value.errno == code
    assert len(route.asked) == 1
    assert errno.errorcode[code] in caught.value.hint


@pytest.mark.parametrize("opcode", [abi.REGISTER_EVENTFD, abi.REGISTER_PROBE])
def test_a_refused_register_closes_the_ring(doorbell: int, opcode: int) -> None:
    before, maps = open_fds(), ring_maps()
    with pytest.raises(Unusable) as caught:
        open_queues(Refusing(register={opcode: errno.EACCES}), 8, doorbell)
    assert caught.value.where == "io_uring_register"
    assert (open_fds(), ring_maps()) == (before, maps)


def test_refused_opcodes_are_refused_by_the_kernel_too(doorbell: int) -> None:
    queues, opcodes, _ = open_queues(SystemCalls(), 8, doorbell, refuse=frozenset({abi.OP_NOP}))
    assert abi.OP_NOP not in opcodes
    done: deque[tuple[int, int]] = deque()
    queues.push(abi.OP_NOP, 0, -1, 0, 0, 0, 0, 1)
    buffer = ctypes.create_string_buffer(1)
    source, sink = os.pipe()
    os.write(sink, b"x")
    queues.push(abi.OP_READ, 0, source, abi.MAX_OFFSET, ctypes.addressof(buffer), 1, 0, 2)
    while queues.staged():
        queues.submit()
    queues.get_events()
    queues.reap(done)
    assert sorted(done) == [(1, -errno.EACCES), (2, 1)]
    queues.close()
    os.close(source)
    os.close(sink)


def test_android_is_not_even_tried(doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getandroidapilevel", lambda: 33, raising=False)
    route = Refusing()
    with pytest.raises(Unusable, match="not permitted"):
        open_queues(route, 8, doorbell)
    assert not route.asked


def test_another_cpu_needs_defer_taskrun(doorbell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    before = open_fds()
    open_queues(SystemCalls(), 8, doorbell)[0].close()
    with pytest.raises(Unusable) as caught:
        open_queues(SystemCalls(), 8, doorbell, ladder=LADDER[1:])
    assert "DEFER_TASKRUN" in caught.value.hint
    assert open_fds() == before


def test_the_words_say_which_sysctl_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str | None, str] = {
        "1": "kernel.io_uring_disabled is 1",
        "2": "kernel.io_uring_disabled is 2",
        "0": "seccomp",
        None: "seccomp",
    }
    for value, words in answers.items():
        monkeypatch.setattr(features, "_sysctl", lambda value=value: value)
        assert words in explain(errno.EPERM, "io_uring_setup")
    assert "io_uring_enter" in explain(errno.EPERM, "io_uring_enter")
    assert "ulimit -n" in explain(errno.EMFILE, "io_uring_setup")
    assert "EOWNERDEAD" in explain(errno.EOWNERDEAD, "io_uring_setup")
