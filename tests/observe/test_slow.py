"""`slow_io`: one line for each I/O that took longer, and nothing for the others."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.handle import Handle
from aioring.observe import slow
from aioring.testing import Scripted
from tests.harness import Held, logged

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with logged("aioring.slow") as records:
        yield records


async def test_a_slow_read_is_one_line_with_its_task_and_its_file(
    anyio_backend: Any, fd: int, path: Path, lines: list[Any]
) -> None:
    method = Held(1, short=0.0, soft=0.0)

    async def handler() -> None:
        await ring.read(fd, 4096, 100)

    async with aioring.Ring(method=method) as ring:
        with aioring.slow_io(0.05) as watcher:
            async with anyio.create_task_group() as group:
                group.start_soon(handler, name="GET /tiles/7")
                await anyio.sleep(0.06)
                method.let_go()
            assert repr(watcher) == "<aioring.slow_io(0.05)>"
            await ring.read(fd, 0, 100)  # this one is fast
        assert repr(watcher) == "<aioring.slow_io(0.05), closed>"
    assert len(lines) == 1
    fields = lines[0].aioring
    assert fields["task"] == "GET /tiles/7"
    assert fields["coroutine"].endswith("handler")
    assert fields["target"] == str(path)
    assert (fields["operation"], fields["fd"], fields["offset"], fields["length"]) == ("read", fd, 4096, 100)
    assert fields["result"] == 100
    assert 50 <= fields["ms"] < 10_000
    text = lines[0].getMessage()
    assert text.startswith("slow_io ring=scripted-")
    assert f"target={path}" in text
    assert "task='GET /tiles/7'" in text
    assert "\n" not in text


async def test_every_way_that_an_io_can_end(anyio_backend: Any, fd: int, path: Path) -> None:
    """With a threshold of 0 each that goes through the ring is reported, once."""
    seen: list[aioring.InFlight] = []
    method = Scripted(1, soft=0.0, short=0.5, faults={("fsync", 1): errno.EIO})
    async with aioring.Ring(method=method) as ring:
        with aioring.slow_io(0, report=lambda record, _: seen.append(record)):
            await ring.read(fd, 0, 1000)
            await ring.write(fd, 0, b"x" * 1000)
            with pytest.raises(OSError, match="Input/output"):
                await ring.fsync(fd)
            await ring.stat(path)
            other = await ring.open(path, os.O_RDONLY)
            await ring.close(other)
            async with ring.chain() as chain:
                chain.write(fd, 0, b"a")
                chain.fsync(fd)
            await ring.start_read(fd, 0, 10)
        await ring.read(fd, 0, 1000)
    assert [(one.operation, one.result) for one in seen][:4] == [
        ("read", 1000), ("write", 1000), ("fsync", -errno.EIO), ("stat", 0),
    ]  # fmt: skip
    assert [one.operation for one in seen][4:] == ["open", "close", "write", "fsync", "read"]
    assert all(one.state == "complete" for one in seen)
    closed = {one.target for one in seen if one.operation == "close"}
    assert {one.target for one in seen} - closed == {str(path)}  # what was closed has no name any more
    assert len({one.id for one in seen}) == len(seen)


async def test_a_report_gets_the_context_of_the_task(anyio_backend: Any, fd: int) -> None:
    found: list[str] = []
    method = Held(1)

    def report(record: aioring.InFlight, context: contextvars.Context | None) -> None:
        assert context is not None
        found.append(context[who])

    async def handler(name: str) -> None:
        who.set(name)
        await ring.read(fd, 0, 10)

    async with aioring.Ring(method=method) as ring:
        with aioring.slow_io(0.0, report=report):
            async with anyio.create_task_group() as group:
                for name in ("one", "two"):
                    group.start_soon(handler, name)
                await anyio.sleep(0.01)
                method.let_go()
    assert sorted(found) == ["one", "two"]


async def test_a_report_that_fails_ends_nothing(anyio_backend: Any, fd: int, lines: list[Any]) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no")

    async with aioring.Ring(method=Scripted(1)) as ring:
        with aioring.slow_io(0.0, report=fails):
            assert len(await ring.read(fd, 0, 10)) == 10
    (text,) = [line.getMessage() for line in lines]
    assert text.startswith("the report of a slow I/O failed: Traceback")
    assert text.endswith("RuntimeError: no")


async def test_two_at_once_and_each_ends_by_itself(anyio_backend: Any, fd: int) -> None:
    one: list[object] = []
    two: list[object] = []
    async with aioring.Ring(method=Scripted(1)) as ring:
        first = aioring.slow_io(0.0, report=lambda *_: one.append(_))
        second = aioring.slow_io(0.0, report=lambda *_: two.append(_))
        await ring.fsync(fd)
        first.close()
        first.close()
        await ring.fsync(fd)
        second.close()
        await ring.fsync(fd)
    assert (len(one), len(two)) == (1, 2)


@pytest.mark.parametrize("threshold", [-1, float("nan"), -0.1])
def test_a_threshold_that_makes_no_sense(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        aioring.slow_io(threshold)


class Fails(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the log is broken")


async def test_a_log_that_is_broken_keeps_nobody_waiting(anyio_backend: Any, fd: int) -> None:
    handler, logger = Fails(), logging.getLogger("aioring.slow")
    logger.addHandler(handler)
    try:
        async with aioring.Ring(method=Scripted(1)) as ring:
            with aioring.slow_io(0.0), anyio.fail_after(5):
                assert len(await ring.read(fd, 0, 10)) == 10
                await ring.fsync(fd)
            assert ring.in_flight() == []
            assert ring._started.live == {}
            assert ring.stats().operations["read"].count == 1
    finally:
        logger.removeHandler(handler)


async def test_a_report_that_cancels_is_no_cancel(anyio_backend: Any, fd: int, lines: list[Any]) -> None:
    def cancels(*_: object) -> None:
        raise anyio.get_cancelled_exc_class() if anyio_backend[0] == "asyncio" else KeyError

    async with aioring.Ring(method=Scripted(1)) as ring:
        with aioring.slow_io(0.0, report=cancels), anyio.fail_after(5):
            assert len(await ring.read(fd, 0, 10)) == 10
        assert ring.stats().operations["read"].count == 1
    assert len(lines) == 1


def test_a_task_of_somebodys_own_whose_name_fails(fd: int) -> None:
    class Nameless(asyncio.Task[Any]):
        def get_name(self) -> str:
            raise RuntimeError("no name")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coroutine, **options: Nameless(coroutine, loop=loop, **options)  # type: ignore[arg-type]
        )
        async with aioring.Ring(method=Scripted(1)) as ring:
            with aioring.slow_io(0.0):
                assert len(await asyncio.create_task(ring.read(fd, 0, 10))) == 10

    asyncio.run(asyncio.wait_for(main(), 5))


def test_watchers_come_and_go_in_many_threads() -> None:
    def work() -> None:
        for _ in range(300):
            aioring.slow_io(1.0).close()

    before = slow.watchers
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slow.watchers == before


async def test_who_holds_what_a_report_failed_on(anyio_backend: Any, fd: int, lines: list[Any]) -> None:
    """The log keeps the traceback, and that must not keep the handle and its buffer."""

    def fails(*_: object) -> None:
        raise RuntimeError("no")

    def handles() -> int:
        gc.collect()
        return sum(type(thing) is Handle for thing in gc.get_objects())

    async with aioring.Ring(method=Scripted(1)) as ring:
        before = handles()
        with aioring.slow_io(0.0, report=fails):
            for _ in range(5):
                await ring.read(fd, 0, 10)
        assert handles() <= before
    assert len(lines) == 5
