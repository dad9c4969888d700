"""`loop_lag` names who held up the loop: an I/O of aioring, or somebody else."""

from __future__ import annotations

import asyncio
import linecache
import os
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop

import aioring
from aioring.methods.sync import Sync
from tests.harness import logged


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with logged("aioring.lag") as records:
        yield records


async def until_one(lines: list[Any]) -> str:
    with anyio.fail_after(5):
        while not lines:
            await anyio.sleep(0.01)
    return lines[0].getMessage()


def _hang(handle: Any) -> None:
    time.sleep(0.2)


# As if a method of aioring's own hung: whose a frame is, is told by the name of its module.
hang = types.FunctionType(_hang.__code__, {**globals(), "__name__": "aioring.methods.sync"})


class Slow(Sync):
    """It carries out I/O in place, on a disk that hangs."""

    def submit(self, staged: Any) -> None:
        for handle in staged:
            hang(handle)
        super().submit(staged)


async def test_an_io_that_blocks_is_named(anyio_backend: Any, fd: int, path: Path, lines: list[Any]) -> None:
    async with aioring.Ring(method=Slow(), page_cache_first=False) as ring:
        with aioring.loop_lag(0.05):
            await anyio.sleep(0.05)
            await ring.read(fd, 4096, 100)
            text = await until_one(lines)
    assert text.startswith("the event loop was late by "), text
    assert f"in a read of 100 bytes at 4096 of {path}" in text
    assert lines[0].aioring["ms"] > 50


async def test_code_of_the_applications_own_is_named(anyio_backend: Any, lines: list[Any]) -> None:
    with aioring.loop_lag(0.05):
        await anyio.sleep(0.05)
        time.sleep(0.2)  # the culprit
        text = await until_one(lines)
    assert "not by an I/O of aioring" in text
    assert f"{Path(__file__).name}:" in text
    assert "# the culprit" in text


async def test_a_loop_that_is_on_time_is_not_logged(anyio_backend: Any, fd: int, lines: list[Any]) -> None:
    async with aioring.Ring() as ring:
        with aioring.loop_lag(1.0):
            for i in range(100):
                await ring.read(fd, i, 10)
            await anyio.sleep(0.2)
    assert lines == []


async def test_one_that_stands_still_for_long_is_logged_while_it_does(anyio_backend: Any, lines: list[Any]) -> None:
    with aioring.loop_lag(0.05):
        await anyio.sleep(0.05)
        time.sleep(1.4)
        said = [line.getMessage() for line in lines]
        await until_one(lines)
        with anyio.fail_after(5):
            while len(lines) < 2:
                await anyio.sleep(0.01)
    assert len(said) == 1
    assert "and still does" in said[0]
    assert "was late by 1" in lines[1].getMessage()


async def test_it_ends_with_close(anyio_backend: Any, lines: list[Any]) -> None:
    watcher = aioring.loop_lag(0.02)
    watcher.close()
    watcher.close()
    time.sleep(0.1)
    await anyio.sleep(0.1)
    assert lines == []
    assert not [thread for thread in threading.enumerate() if thread.name == "aioring-lag"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_thread_that_keeps_the_gil_is_told_from_the_applications_code(run: Any, lines: list[Any]) -> None:
    """Between two steps of its tasks, that is, where trio's thread is never seen by name."""
    over = False

    def spin() -> None:
        time.sleep(0.1)  # until the loop has nothing to do
        sys.setswitchinterval(0.3)
        while not over:
            pass

    async def main() -> str:
        with aioring.loop_lag(0.05):
            return await until_one(lines)

    before = sys.getswitchinterval()
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        text = run(main())
    finally:
        over = True
        sys.setswitchinterval(before)
        thread.join()
    assert "waits for the GIL" in text or "not known" in text


def test_it_ends_with_its_loop(lines: list[Any]) -> None:
    async def main() -> None:
        aioring.loop_lag(0.02)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    until = time.monotonic() + 5
    while [thread for thread in threading.enumerate() if thread.name == "aioring-lag"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert lines == []


def test_a_loop_that_nobody_runs_just_now_is_not_late(lines: list[Any]) -> None:
    async def begin() -> None:
        aioring.loop_lag(0.02)
        await asyncio.sleep(0.05)

    with asyncio.Runner() as runner:
        runner.run(begin())
        time.sleep(0.2)
        runner.run(asyncio.sleep(0.05))
    assert lines == []


@pytest.mark.parametrize("threshold", [0, -1, float("nan")])
async def test_a_threshold_that_makes_no_sense(anyio_backend: Any, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        aioring.loop_lag(threshold)


def test_without_a_loop() -> None:
    with pytest.raises(aioring.WrongLoopError):
        aioring.loop_lag(0.1)


async def test_a_plain_open_that_blocks_is_named(anyio_backend: Any, tmp_path: Path, lines: list[Any]) -> None:
    """What people really do."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Timer(0.25, lambda: os.close(os.open(fifo, os.O_WRONLY))).start()
    with aioring.loop_lag(0.05):
        await anyio.sleep(0.05)
        with open(fifo, "rb") as file:
            file.read()
        text = await until_one(lines)
    assert "not by an I/O of aioring" in text
    assert 'open(fifo, "rb")' in text


def test_who_was_to_blame_before_the_loop_rested_is_not_named_again(lines: list[Any]) -> None:
    async def culprit_a() -> None:
        aioring.loop_lag(0.05)
        await asyncio.sleep(0.1)
        time.sleep(0.2)

    async def culprit_b() -> None:
        await asyncio.sleep(0.1)
        time.sleep(0.2)
        await asyncio.sleep(0.2)

    with asyncio.Runner() as runner:
        runner.run(culprit_a())
        time.sleep(0.2)
        runner.run(culprit_b())
    assert "culprit_b" in lines[-1].getMessage()


def test_a_threshold_beyond_all_clocks() -> None:
    async def main() -> None:
        with aioring.loop_lag(1e11):
            await asyncio.sleep(0.05)
            assert [thread for thread in threading.enumerate() if thread.name == "aioring-lag"]

    asyncio.run(main())


def test_a_loop_that_is_dropped_is_not_kept() -> None:
    program = """if True:
        import asyncio, gc, threading, time, weakref, aioring

        async def begin():
            aioring.loop_lag(0.02)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        gone = weakref.ref(loop)
        del loop
        until = time.monotonic() + 5
        while (gone() is not None or len(threading.enumerate()) > 1) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        print(gone(), len(threading.enumerate()))
    """
    root = str(Path(aioring.__file__).resolve().parent.parent)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout == "None 1\n", done


async def test_no_object_of_the_applications_is_kept_by_who_looks(
    anyio_backend: Any, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source line is read from a disk that is slow; the frame is gone by then."""
    alive: list[bool] = []

    class Thing:
        pass

    def getline(*_: object) -> str:
        time.sleep(0.3)
        alive.append(find() is not None)
        return ""

    monkeypatch.setattr(linecache, "getline", getline)

    def work() -> weakref.ref[Thing]:
        thing = Thing()
        time.sleep(0.2)
        return weakref.ref(thing)

    with aioring.loop_lag(0.05):
        await anyio.sleep(0.05)
        find = work()
        await until_one(lines)
    assert alive == [False]
