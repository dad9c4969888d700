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
from aioring.kernel import at_once
from aioring.ring import page_cache
from aioring.ring.page_cache import NOWAIT, SMALL, PageCache

pytestmark = pytest.mark.skipif(not NOWAIT or at_once.preadv2 is None, reason="no preadv2(2) here")


@pytest.fixture
def cache() -> PageCache:
    return PageCache(True)


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


async def test_beside_a_busy_thread_a_ring_keeps_the_gil(anyio_backend: Any, fd: int, busy: None) -> None:
    """Not how fast, which a test cannot say: that it notices, and that its bytes are right all the while."""
    async with aioring.Ring(method="worker") as ring:
        cache = ring._cache
        for i in range(4000):
            assert await ring.read(fd, i, 50) == os.pread(fd, 50, i) if i % 500 == 0 else await ring.read(fd, i, 50)
            if cache.holding:
                break
        assert cache.holding


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
