"""The ways to read that are compared. Each is opened once, and gives each task a `read(offset)` of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aioring

from ..console import reason_of
from .target import BLOCK

__all__ = ["AIOFILES", "AIORING", "SYNC", "THREADS", "Read", "Way", "ours", "ways"]

Read = Callable[[int], Awaitable[Any]]
SYNC, THREADS, AIOFILES = "sync", "thread pool", "aiofiles"
AIORING = ("io_uring", "linux_aio", "worker")


class Way(NamedTuple):
    name: str
    missing: str  # why it cannot be had here; empty: it can
    direct: bool  # whether it can go past the page cache
    open: Callable[[str, bool, int], Any]  # path, direct, tasks -> an async context manager of a `Read` for each task


def _fd(path: str, direct: bool) -> int:
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    _read_as_asked(fd)
    return fd


def _read_as_asked(fd: int) -> None:
    """No read-ahead: all have the disk do the same."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


@asynccontextmanager
async def _sync(path: str, direct: bool, tasks: int) -> AsyncIterator[list[Read]]:
    """In the loop's thread: nobody else has a turn meanwhile."""
    fd = _fd(path, direct)

    def reader() -> Read:
        buffer = aioring.alloc(BLOCK)

        async def read(offset: int) -> Any:
            return os.preadv(fd, [buffer], offset) if direct else os.pread(fd, BLOCK, offset)

        return read

    try:
        yield [reader() for _ in range(tasks)]
    finally:
        os.close(fd)


@asynccontextmanager
async def _threads(path: str, direct: bool, tasks: int) -> AsyncIterator[list[Read]]:
    """As many threads as asyncio's own has, by `run_in_executor`: `to_thread` without its copy of the context."""
    fd, submit, pool = _fd(path, direct), asyncio.get_running_loop().run_in_executor, ThreadPoolExecutor()

    def reader() -> Read:
        if not direct:
            return lambda offset: submit(pool, os.pread, fd, BLOCK, offset)
        buffer = aioring.alloc(BLOCK)
        return lambda offset: submit(pool, os.preadv, fd, [buffer], offset)

    try:
        with pool:
            yield [reader() for _ in range(tasks)]
    finally:
        os.close(fd)


@asynccontextmanager
async def _aiofiles(path: str, direct: bool, tasks: int) -> AsyncIterator[list[Read]]:
    """A file for each task: they have a position."""
    aiofiles: Any = importlib.import_module("aiofiles")

    def reader(file: Any) -> Read:
        _read_as_asked(file.fileno())

        async def read(offset: int) -> Any:
            await file.seek(offset)
            return await file.read(BLOCK)

        return read

    async with AsyncExitStack() as files:
        yield [reader(await files.enter_async_context(aiofiles.open(path, "rb", 0))) for _ in range(tasks)]


def _aioring(method: str) -> Any:
    @asynccontextmanager
    async def opened(path: str, direct: bool, tasks: int) -> AsyncIterator[list[Read]]:
        async with aioring.Ring(method=method) as ring:
            fd = _fd(path, direct)

            def reader() -> Read:
                if not direct:
                    return lambda offset: ring.read(fd, offset, BLOCK)
                buffer = aioring.alloc(BLOCK)
                return lambda offset: ring.readinto(fd, offset, buffer)

            try:
                yield [reader() for _ in range(tasks)]
            finally:
                await ring.close(fd)

    return opened


def ours(method: str) -> str:
    """The name of aioring's way by a method."""
    return f"aioring, {method}"


async def ways() -> list[Way]:
    """All of them; those that cannot be had here say why."""
    found = [Way(SYNC, "", True, _sync), Way(THREADS, "", True, _threads)]
    missing = "" if importlib.util.find_spec("aiofiles") else "aiofiles is not installed"
    found.append(Way(AIOFILES, missing, False, _aiofiles))
    for method in AIORING:
        missing = ""
        try:
            async with aioring.Ring(method=method):
                pass
        except OSError as error:
            missing = reason_of(error)
        found.append(Way(ours(method), missing, True, _aioring(method)))
    return found
