"""choose(): which method a ring gets, and what it says when that cannot be."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from aioring.errors import AioringError, RingUnavailableError
from aioring.kernel.features import Unusable
from aioring.kernel.liburing import SystemCalls
from aioring.methods import METHODS, choose, unavailable
from aioring.methods.io_uring import IoUring
from aioring.methods.linux_aio import LinuxAio
from aioring.methods.sync import Sync
from aioring.methods.worker import Worker


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        ("auto", [IoUring, LinuxAio, Worker]),
        ("io_uring", [IoUring]),
        ("linux_aio", [LinuxAio]),
        ("worker", [Worker]),
        ("sync", [Sync]),
    ],
)
def test_each_name_gives_its_methods_best_first(wanted: str, kinds: list[type]) -> None:
    methods, reason = choose(wanted, 3, None)
    assert [type(method) for method in methods] == kinds
    assert reason is None
    assert wanted in METHODS


def test_the_worker_method_gets_as_many_workers_as_were_asked_for() -> None:
    (method,), _ = choose("worker", 3, None)
    assert isinstance(method, Worker)
    assert method.most == 3


def test_every_choice_is_a_new_object() -> None:
    assert choose("sync", 1, None)[0][0] is not choose("sync", 1, None)[0][0]


@pytest.mark.parametrize("wanted", ["", "scripted", "IO_URING", "threads", "epoll"])
def test_an_unknown_name_is_a_value_error_that_lists_the_known(wanted: str) -> None:
    with pytest.raises(ValueError, match="io_uring, linux_aio, worker, sync"):
        choose(wanted, 8, None)


def test_no_liburing_means_the_plain_system_calls() -> None:
    (method,), reason = choose("io_uring", 8, "none")
    assert isinstance(method, IoUring)
    assert isinstance(method.route, SystemCalls)
    assert reason is None


@pytest.mark.parametrize("path", ["/nonexistent/liburing.so", "libc.so.6", "/etc/passwd", "/"])
def test_a_liburing_that_is_none_falls_back_with_a_reason(path: str) -> None:
    methods, reason = choose("auto", 2, path)
    assert [type(method) for method in methods] == [LinuxAio, Worker]
    assert reason is not None
    assert "AIORING_LIBURING" in reason
    assert path in reason
    with pytest.raises(RingUnavailableError) as caught:
        choose("io_uring", 2, path)
    error: Any = caught.value
    assert isinstance(error, OSError)
    assert isinstance(error, AioringError)
    assert error.errno
    assert "AIORING_LIBURING" in error.hint
    assert path in error.hint
    assert error.hint in str(error)


@pytest.mark.parametrize("wanted", ["worker", "sync"])
def test_other_methods_do_not_look_for_liburing(wanted: str) -> None:
    assert choose(wanted, 2, "/nonexistent")[1] is None


def test_what_cannot_be_had_keeps_errno_and_hint() -> None:
    error = unavailable(Unusable(errno.EPERM, "io_uring_setup", "a filter refuses it"))
    assert (error.errno, error.hint) == (errno.EPERM, "a filter refuses it")
    assert "EPERM" in str(error) or "Errno 1" in str(error)
