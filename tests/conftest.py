"""The harness: each test that takes `ring` runs on every method, with the page-cache step on and off, on every loop.

Ids read `[asyncio-io_uring-cached]`. A test that takes `make_ring` makes rings of the method itself; one that takes
`anyio_backend` only runs on every loop. A hang is a failure: `timeout` in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import uvloop

import aioring
from aioring.testing import Scripted
from tests import fuse

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
METHODS = ("io_uring", "linux_aio", "worker", "sync", "scripted")
# scripted never asks the page cache: one run of it is enough. What linux_aio does not do by itself is the worker's, whose
# runs ask it.
COMBINATIONS = [(m, c) for m in METHODS for c in (True, False) if not (c and m in ("scripted", "linux_aio"))]
# For tests of what never asks it: each method once, as the other loops below run them.
ONCE = [("io_uring", True), ("linux_aio", False), ("worker", True), ("sync", True), ("scripted", False)]


def pytest_configure(config: pytest.Config) -> None:
    """Each of pytest-xdist's workers has mounts of its own: what one mounts (FUSE) would be seen by the others."""
    if hasattr(config, "workerinput"):
        libc = ctypes.CDLL(None)
        if libc.unshare(0x20000) == 0:  # CLONE_NEWNS
            libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 1 << 18), None)  # MS_REC | MS_PRIVATE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("AIORING_TEST_EVERY"):
        items[:] = [item for item in items if not _once_is_enough(item)]
    for item in items:
        if "anyio_backend" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.anyio)


def pytest_collection_finish() -> None:
    """What stands there now is no test's garbage: to walk through 16,000 items took each `gc.collect()` 0.2 s."""
    importlib.import_module("hypothesis")  # it looks for referrers as it begins, and sees none that are frozen
    gc.collect()
    gc.freeze()


# A loop and a method meet at the doorbell and nowhere else. On asyncio every method runs; the other loops run those that
# ring it each in their own way: from the kernel, from threads, from a script. Without the page-cache step uvloop differs
# from asyncio in nothing that is not seen with it; trio, which has no such step for small reads, runs io_uring so. CI is to
# take less than 15 minutes; AIORING_TEST_EVERY=1 (`make test-all`) runs every method on every loop, all of it.
_ELSEWHERE = {
    "uvloop": (("io_uring", True), ("worker", True), ("scripted", False)),
    "trio": (("io_uring", True), ("io_uring", False), ("worker", True), ("scripted", False)),
}


# What stands on rings and files alone, and has no way of its own to a loop, says LIGHT in its module. The page-cache step
# is below it as well: it is seen on and off with io_uring, and off with the methods that have none.
_ELSEWHERE_LIGHT = {
    "asyncio": (*ONCE, ("io_uring", False)),
    "uvloop": (("io_uring", True),),
    "trio": (("scripted", False),),
}


def _once_is_enough(item: Any) -> bool:
    spec = getattr(item, "callspec", None)
    params = {} if spec is None else spec.params
    loop, combination = str(params.get("anyio_backend")), params.get("combination")
    elsewhere = _ELSEWHERE_LIGHT if getattr(item.module, "LIGHT", False) else _ELSEWHERE
    return combination is not None and loop in elsewhere and combination not in elsewhere[loop]


@pytest.fixture(params=list(LOOPS), ids=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return LOOPS[request.param]


@pytest.fixture(params=COMBINATIONS, ids=[f"{m}-{'cached' if c else 'uncached'}" for m, c in COMBINATIONS])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def method(combination: tuple[str, bool]) -> str:
    return combination[0]


@pytest.fixture
def make_ring(combination: tuple[str, bool]) -> Callable[..., aioring.Ring]:
    """Makes rings of the method under test, not started."""
    name, cached = combination

    def make(*, seed: int = 1, **options: Any) -> aioring.Ring:
        options.setdefault("page_cache_first", cached)
        return aioring.Ring(method=Scripted(seed) if name == "scripted" else name, **options)

    return make


@pytest.fixture
async def ring(make_ring: Callable[..., aioring.Ring], anyio_backend: Any) -> AsyncIterator[aioring.Ring]:
    ring = make_ring()
    await ring.start()
    try:
        yield ring
    finally:
        await ring.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 100,000 bytes, no two blocks alike."""
    path = tmp_path / "data"
    path.write_bytes(pattern(100_000))
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    """`path`, open for reading and writing."""
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        close_quietly(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            close_quietly(end)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A folder on overlayfs, with a file of 100,000 bytes in its lower layer."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_bytes(pattern(100_000))
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    merged = tmp_path / "merged"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"overlayfs cannot be mounted here: {done.stderr.strip()}")
    yield merged
    subprocess.run(["umount", str(merged)], check=True)


@pytest.fixture(scope="session", autouse=True)
def _warm_up() -> None:
    """What the process keeps of its first loop and ring (libuv's signal pipe, the mount table) is no leak of a test's."""

    async def nothing() -> None:
        async with aioring.Ring(method="sync"):
            pass

    uvloop.run(nothing())
    trio.run(nothing)
    asyncio.run(nothing())


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every test gives back the fds it took. (What a ring maps is counted in tests/test_lifetime.py.)"""
    before = open_fds()
    yield
    if open_fds() - before:
        gc.collect()
    left = {fd: target for fd, target in open_fds_named().items() if fd not in before}
    left = {fd: target for fd, target in left.items() if not target.startswith("/proc/")}
    assert not left, f"file descriptors leaked: {left}"


@pytest.fixture
def slow_file(tmp_path: Path) -> Iterator[Path]:
    """A file of 1 MiB on a file system whose every answer takes `fuse.DELAY`."""
    yield from fuse.mounted(tmp_path / "slow")


def pattern(n: int) -> bytes:
    return b"".join(i.to_bytes(4, "little") for i in range(n // 4 + 1))[:n]


def open_fds() -> set[int]:
    # The listing's own fd is among them, and gone by now.
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def open_fds_named() -> dict[int, str]:
    named = {}
    for fd in open_fds():
        try:
            named[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    return named


def close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
