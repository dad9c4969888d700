"""The page-cache step beside a busy thread, and what it has learned: when to keep the GIL, when to stop asking."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.engine.budget import SIZE, Budget
from aioring.kernel import at_once, mounts
from aioring.ring import page_cache
from aioring.ring.page_cache import NOWAIT, SMALL, PageCache
from tests.conftest import pattern

LIGHT = True  # see conftest.py

pytestmark = pytest.mark.skipif(not NOWAIT or at_once.preadv2 is None, reason="no preadv2(2) here")


class NoLoop:
    """As far as a budget goes that nobody waits for."""

    def call_soon(self, callback: Any) -> None:
        raise AssertionError("nobody waits")


@pytest.fixture
def cache() -> PageCache:
    return PageCache(True, Budget(NoLoop()))  # type: ignore[arg-type]


@pytest.fixture
def busy() -> Iterator[None]:
    """One more thread, which runs Python."""
    over = False

    def spin() -> None:
        x = 0
        while not over:
            x += 1

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield
    over = True
    thread.join()


def hold(cache: PageCache) -> PageCache:
    """As when the hits of one tick took too long."""
    cache.make_views(100)
    cache._hold()
    assert cache.holding
    return cache


@pytest.mark.parametrize("holding", [False, True], ids=["letting go", "holding"])
@pytest.mark.parametrize("n", [1, 2, 100, 511, 512, 4095, 4096, 4097, SMALL - 1, SMALL])
def test_both_ways_to_ask_give_the_same(cache: PageCache, fd: int, n: int, holding: bool) -> None:
    if holding:
        hold(cache)
    for offset in (0, 1, 4095, 50_000, 99_990, 100_000, 1 << 40):
        expected = os.pread(fd, n, offset)
        assert cache.ask(fd, offset, n) == len(expected), (offset, n)
        assert cache.taken(len(expected), n) == expected
        buffer = bytearray(n)
        cache.fill(memoryview(buffer), len(expected))
        assert buffer[: len(expected)] == expected


@pytest.mark.parametrize("holding", [False, True], ids=["letting go", "holding"])
def test_what_cannot_be_served_is_left_to_the_ring(
    cache: PageCache, fd: int, path: Path, pipe: tuple[int, int], holding: bool
) -> None:
    """Numbers that C would cut are no other numbers: 1 << 32 is not fd 0."""
    if holding:
        hold(cache)
    os.write(pipe[1], b"x" * 100)
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for number, offset, n in (
            (pipe[0], 0, 10), (1 << 20, 0, 10), (fd | 1 << 32, 0, 10), (-1, 0, 10), (fd, 1 << 64, 10), (fd, 0, SMALL + 1),
            (fd, 0, 0), (direct, 0, 4096),
        ):  # fmt: skip
            assert cache.ask(number, offset, n) == -1, (number, offset, n)
    finally:
        os.close(direct)
    assert os.read(pipe[0], 200) == b"x" * 100


async def test_a_pipe_is_refused_and_not_read_while_the_gil_is_kept(
    ring: aioring.Ring, fd: int, pipe: tuple[int, int]
) -> None:
    """That preadv2 failed does not mean that it said EAGAIN."""
    if ring._cache.on:
        hold(ring._cache)
    os.write(pipe[1], b"keep me")
    for _ in range(3):
        with pytest.raises(OSError, match="Illegal seek") as caught:
            await ring.read(pipe[0], 0, 7)
        assert caught.value.errno == errno.ESPIPE
    assert await ring.read(pipe[0], -1, 100) == b"keep me"
    assert await ring.read(fd, 10, 100) == os.pread(fd, 100, 10)


# --- file systems that refuse RWF_NOWAIT ------------------------------------------------------------------------------


def test_tmpfs_is_memory(cache: PageCache) -> None:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    try:
        if mounts.kind(fd) != "tmpfs":
            pytest.skip("/dev/shm is no tmpfs here")
        os.write(fd, pattern(10_000))
        assert cache.ask(fd, 100, 4096) == 4096
        assert cache.taken(4096, 4096) == pattern(10_000)[100:4196]
        assert cache.ask(fd, 9_000, 4096) == 1_000
        assert cache.taken(1_000, 4096) == pattern(10_000)[9_000:]
        assert cache.ask(fd, 20_000, 10) == 0
    finally:
        os.close(fd)


async def test_a_ring_reads_all_of_them_right(ring: aioring.Ring, overlay: Path) -> None:
    for path in (overlay / "file", Path("/proc/version")):
        fd = await ring.open(path, os.O_RDONLY)
        for offset, n in ((0, 100), (10, 200), (0, 4096)):
            assert (await ring.read(fd, offset, n))[:50] == os.pread(fd, n, offset)[:50]
            buffer = bytearray(n)
            await ring.readinto(fd, offset, buffer)
            assert buffer[:50] == os.pread(fd, n, offset)[:50]
        await ring.close(fd)


def test_it_keeps_the_gil_after_a_fight_and_lets_go_again_later(cache: PageCache, fd: int) -> None:
    cache.ask(fd, 0, 100)
    assert not cache.holding
    cache._spent = page_cache._FIGHT  # as if the hits of this tick had taken that long
    assert cache.ask(fd, 0, 100) == 100
    assert cache.holding
    for _ in range(page_cache._HOLD - 1):
        cache.tick()
        assert cache.ask(fd, 5, 100) == 100
        assert cache.holding
    cache.tick()
    assert not cache.holding
    assert cache.preadv == cache._timed, "it is looked at again at once"
    cache.tick()
    cache.tick()
    assert cache.preadv is os.preadv
    assert cache.ask(fd, 0, 100) == 100


def test_slow_hits_end_the_tick_before_their_number_does(cache: PageCache, fd: int) -> None:
    assert cache.ask(fd, 0, 100) == 100
    assert cache._budget.left == SIZE  # who asks takes the unit, not the step
    cache._spent = page_cache._LONG  # as if those of this tick had taken that long
    assert cache.ask(fd, 0, 100) == 100, "what was read is not thrown away"
    assert cache._budget.left == 0
    assert not cache.holding, "1 ms is no fight"
    cache.tick()
    cache.tick()
    assert cache.preadv is os.preadv, "they were fast again"
    cache.preadv, cache._spent = cache._timed, page_cache._LONG * 2
    cache.tick()
    assert cache.preadv == cache._timed, "slow ones are looked at for as long as they are"


async def test_beside_a_busy_thread_every_byte_is_right_whichever_way_it_asks(
    anyio_backend: Any, fd: int, busy: None
) -> None:
    """How fast is for benchmarks/ring_read.py to say."""
    whole = os.pread(fd, 100_000, 0)
    async with aioring.Ring(method="worker") as ring:
        for i in range(600):
            assert await ring.read(fd, i, 50) == whole[i : i + 50]
            if i == 300 and not ring._cache.holding:
                ring._cache._hold()


def test_who_keeps_missing_stops_to_ask_and_looks_again_now_and_then(cache: PageCache, pipe: tuple[int, int]) -> None:
    asked = 0

    def refuse(*_: Any) -> int:
        nonlocal asked
        asked += 1
        raise BlockingIOError(errno.EAGAIN, "not there")

    cache.preadv = refuse
    for _ in range(5000):
        assert cache.ask(0, 0, 100) == -1
    assert 16 <= asked <= 16 + 12
    cache.preadv = lambda *_: 100
    while not cache.asking:
        cache.skip()
    assert cache.ask(0, 0, 100) == 100
    assert cache.asking
    assert cache.misses == 0
