"""`read_files`: every file once, as many at a time and as many bytes as was said, whoever fails, is cancelled or leaves."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioring
from aioring import read_files
from tests.conftest import open_fds, pattern
from tests.harness import SOON, Held, cancelled_again_and_again, ticks

LIGHT = True  # see conftest.py


def made(folder: Path, sizes: list[int]) -> list[Path]:
    paths = [folder / str(i) for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(pattern(size))
    return paths


@pytest.mark.parametrize("ordered", [False, True])
async def test_each_file_comes_once(ring: Any, tmp_path: Path, ordered: bool) -> None:
    paths = made(tmp_path, [(i * 977) % 9000 for i in range(150)] + [200_000, 0, 70_000])
    found = [(path, data) async for path, data in read_files(paths, ordered=ordered, ring=ring)]
    if not ordered:
        found.sort(key=lambda pair: paths.index(pair[0]))
    assert found == [(path, path.read_bytes()) for path in paths]


@pytest.mark.parametrize("ordered", [False, True])
async def test_no_more_are_asked_for_than_was_said(ring: Any, tmp_path: Path, ordered: bool) -> None:
    paths = made(tmp_path, [100] * 40)
    asked, taken = 0, 0

    def names() -> Any:
        nonlocal asked
        for path in paths:
            asked += 1
            yield str(path)

    async for _ in read_files(names(), concurrency=5, ordered=ordered, ring=ring):
        taken += 1
        assert asked <= taken + 5
    assert taken == 40


@pytest.mark.parametrize("ordered", [False, True])
async def test_no_more_bytes_are_held_than_was_said(anyio_backend: Any, tmp_path: Path, ordered: bool) -> None:
    paths = made(tmp_path, [30_000, 10, 250_000, 30_000, 90_000, 5, 60_000, 100_000] * 4)
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        iterator = read_files(paths, max_bytes=100_000, ordered=ordered, ring=ring)
        count = 0
        async for _, data in iterator:
            count += 1
            await ticks(20)
            reading = iterator._reading
            assert reading is not None
            # What is held, but for one that is larger than all room, and for the first in order.
            largest = max([one.held for one in [*reading.running, *reading.line]], default=0)
            assert reading.held - largest <= 100_000
            assert len(data) <= 250_000
        assert count == len(paths)
        assert reading.held == 0


async def test_what_fails_is_raised_or_given(ring: Any, tmp_path: Path) -> None:
    paths = made(tmp_path, [10] * 6)
    paths[1].unlink()
    paths[4] = tmp_path
    found = [pair async for pair in read_files(paths, ordered=True, on_error="return", ring=ring)]
    assert [type(data) for _, data in found] == [bytes, FileNotFoundError, bytes, bytes, IsADirectoryError, bytes]
    assert [found[i][1].filename for i in (1, 4)] == [str(paths[1]), str(tmp_path)]
    iterator = read_files(paths, ordered=True, ring=ring)
    assert (await anext(iterator))[0] == paths[0]
    with pytest.raises(FileNotFoundError):
        await anext(iterator)
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def test_a_path_that_vanishes_between_listing_and_reading(ring: Any, tmp_path: Path) -> None:
    paths = made(tmp_path, [10] * 20)

    def names() -> Any:
        for path in paths:
            path.unlink()
            yield path

    found = [data async for _, data in read_files(names(), on_error="return", ring=ring)]
    assert [type(data) for data in found] == [FileNotFoundError] * 20


async def test_bad_parameters_are_refused_at_once(ring: Any) -> None:
    for options in ({"concurrency": 0}, {"max_bytes": 0}, {"on_error": "ignore"}):
        with pytest.raises(ValueError, match="must be"):
            read_files([], **options, ring=ring)
    with pytest.raises(TypeError):
        read_files(3, ring=ring)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="null"):
        await anext(read_files(["a\0b"], on_error="return", ring=ring))
    with pytest.raises(TypeError, match=r"os\.PathLike"):
        await anext(read_files([3], on_error="return", ring=ring))  # type: ignore[call-overload]
    assert [pair async for pair in read_files([], ring=ring)] == []


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_cancelled_iteration_loses_no_file(anyio_backend: Any, tmp_path: Path, ordered: bool) -> None:
    paths = made(tmp_path, [100] * 30)
    async with aioring.Ring(method="worker", page_cache_first=False) as ring:
        iterator = read_files(paths, concurrency=4, ordered=ordered, ring=ring)
        found: list[Path] = []

        async def some() -> None:
            async for path, _ in iterator:
                found.append(path)

        await cancelled_again_and_again(some, 200, 7)
        await some()
    assert (found if ordered else sorted(found, key=paths.index)) == paths


@pytest.mark.parametrize("how", ["aclose", "block", "dropped", "raised"])
async def test_who_leaves_leaves_nothing_behind(anyio_backend: Any, tmp_path: Path, how: str) -> None:
    paths = made(tmp_path, [50_000] * 30)
    if how == "raised":
        paths[0] = tmp_path
    method = Held(1)
    method.held = False
    async with aioring.Ring(method=method) as ring:
        before = open_fds()
        iterator = read_files(paths, ordered=True, max_bytes=120_000, ring=ring)
        with anyio.fail_after(SOON):
            if how == "raised":
                with pytest.raises(IsADirectoryError):
                    await anext(iterator)
            elif how == "block":
                async with iterator:
                    async for _ in iterator:
                        break
            else:
                await anext(iterator)
                if how == "aclose":
                    await iterator.aclose()
                    with pytest.raises(StopAsyncIteration):
                        await anext(iterator)
            del iterator
            gc.collect()
            while open_fds() != before:
                await ticks(1)


async def test_a_fifo_among_them_holds_up_nobody(anyio_backend: Any, tmp_path: Path) -> None:
    paths = made(tmp_path, [100] * 10)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with aioring.Ring() as ring:
        async with read_files([fifo, *paths], ring=ring) as iterator:
            with anyio.fail_after(SOON):
                assert {(await anext(iterator))[0] for _ in range(10)} == set(paths)
                writer = threading.Thread(target=lambda: fifo.write_bytes(b"late"))
                writer.start()
                assert await anext(iterator) == (fifo, b"late")
                writer.join()


async def test_two_tasks_share_one_iterator(ring: Any, tmp_path: Path) -> None:
    paths = made(tmp_path, [100] * 60)
    iterator = read_files(paths, concurrency=8, ring=ring)
    found: list[Path] = []

    async def some() -> None:
        async for path, _ in iterator:
            found.append(path)
            await ticks(1)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(some)
    assert sorted(found, key=paths.index) == paths


# --- paths that come one by one ---------------------------------------------------------------------------------------


async def one_by_one(paths: list[Path], every: int = 1, then: BaseException | None = None) -> AsyncIterator[Path]:
    for number, path in enumerate(paths):
        if number % every == 0:
            await checkpoint()
        yield path
    if then is not None:
        raise then


@pytest.mark.parametrize("ordered", [False, True])
async def test_paths_may_come_one_by_one(ring: Any, tmp_path: Path, ordered: bool) -> None:
    paths = made(tmp_path, [(i * 977) % 9000 for i in range(60)] + [200_000, 0, 70_000])
    for concurrency in (1, 5, 64):
        files = read_files(one_by_one(paths, 3), ordered=ordered, concurrency=concurrency, max_bytes=100_000, ring=ring)
        found = [(path, data) async for path, data in files]
        if not ordered:
            found.sort(key=lambda pair: paths.index(pair[0]))
        assert found == [(path, path.read_bytes()) for path in paths]
    by_path = {path: data async for path, data in read_files(aioring.Path(tmp_path, ring=ring).iterdir(), ring=ring)}
    assert by_path == {path: path.read_bytes() for path in paths}


async def test_what_the_source_raises_comes_behind_what_it_gave(ring: Any, tmp_path: Path) -> None:
    paths = made(tmp_path, [100] * 10)
    for ordered in (False, True):
        found = []
        with pytest.raises(LookupError, match="no more"):
            async for path, _ in read_files(one_by_one(paths, then=LookupError("no more")), ordered=ordered, ring=ring):
                found.append(path)
        assert sorted(found) == paths


async def test_a_file_is_not_held_up_by_a_source_that_takes_its_time(ring: Any, tmp_path: Path) -> None:
    first, second = made(tmp_path, [100, 100])
    go_on = anyio.Event()

    async def slow() -> AsyncIterator[Path]:
        yield first
        await go_on.wait()
        yield second

    async with read_files(slow(), ring=ring) as files:
        with anyio.fail_after(SOON):
            assert (await anext(files))[0] == first
            go_on.set()
            assert (await anext(files))[0] == second
            with pytest.raises(StopAsyncIteration):
                await anext(files)


@pytest.mark.parametrize("how", ["leave", "cancel", "drop"])
async def test_who_leaves_ends_the_source(ring: Any, tmp_path: Path, how: str) -> None:
    (path,) = made(tmp_path, [100])
    ended = False

    class Source:
        """(No generator: trio has its own opinion of those that are dropped.)"""

        given = False

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> Path:
            nonlocal ended
            if not self.given:
                self.given = True
                return path
            try:
                await anyio.sleep(100)
            finally:
                ended = True
            raise AssertionError

    files = read_files(Source(), ring=ring)
    assert (await anext(files))[0] == path
    with anyio.move_on_after(0.02):
        await anext(files)
    if how == "leave":
        await files.aclose()
    elif how == "drop":
        del files
        gc.collect()
    else:
        with anyio.move_on_after(0.02):
            await anext(files)
        assert not ended  # it still comes, to whoever asks again
        await files.aclose()
    await ticks(5)
    assert ended


async def test_room_is_asked_for_once(anyio_backend: Any, overlay: Path) -> None:
    """Also where a file is of a kind that the ring is no help for: what was counted twice would never be given back."""
    paths = made(overlay, [40_000] * 12)
    opened = [os.open(path, os.O_PATH) for path in paths]
    try:
        names = [f"/proc/self/fd/{fd}" for fd in opened]  # never in the kernel's caches
        async with aioring.Ring() as ring:
            with anyio.fail_after(SOON):
                files: Any = read_files(names, max_bytes=100_000, ring=ring)
                found = [data async for _, data in files]
        assert found == [pattern(40_000)] * 12
        assert files._reading.held == 0
    finally:
        for fd in opened:
            os.close(fd)
