"""Everybody who can read 4 KiB at an offset, behind one call: `async with peer.open(path) as readers`.

`readers(tasks)` gives one `read(offset)` a task: libraries whose files have a position get a file of their own for each. A
peer that is not installed, or refuses to work here, is reported and not measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aioring
from aioring.ring.known import Known

BLOCK = 4096
THREADS = 8

Read = Callable[[int], Awaitable[Any]]
Readers = Callable[[int], list[Read]]


@dataclass(frozen=True)
class Peer:
    name: str
    open: Callable[[str], AbstractAsyncContextManager[Readers]]


def _ring(**options: Any) -> Callable[[str], AbstractAsyncContextManager[Readers]]:
    @contextlib.asynccontextmanager
    async def opened(path: str) -> AsyncIterator[Readers]:
        fd = os.open(path, os.O_RDONLY)
        try:
            async with aioring.Ring(**options) as ring:
                yield lambda tasks: [lambda offset: ring.read(fd, offset, BLOCK)] * tasks
        finally:
            os.close(fd)

    return opened


@contextlib.asynccontextmanager
async def _known(path: str) -> AsyncIterator[Readers]:
    fd = os.open(path, os.O_RDONLY)
    known = Known(fd)
    try:
        async with aioring.Ring() as ring:
            yield lambda tasks: [lambda offset: ring._read_known(known, offset, BLOCK)] * tasks
    finally:
        known.close()
        os.close(fd)


@contextlib.asynccontextmanager
async def _plain(path: str) -> AsyncIterator[Readers]:
    fd = os.open(path, os.O_RDONLY)

    async def read(offset: int) -> bytes:
        return os.pread(fd, BLOCK, offset)

    try:
        yield lambda tasks: [read] * tasks
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _pool(path: str) -> AsyncIterator[Readers]:
    fd, loop = os.open(path, os.O_RDONLY), asyncio.get_running_loop()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            yield lambda tasks: [lambda offset: loop.run_in_executor(pool, os.pread, fd, BLOCK, offset)] * tasks
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _aiofiles(path: str) -> AsyncIterator[Readers]:
    import aiofiles

    async with contextlib.AsyncExitStack() as stack:
        files = [await stack.enter_async_context(aiofiles.open(path, "rb", buffering=0)) for _ in range(128)]

        def reader(file: Any) -> Read:
            async def read(offset: int) -> bytes:
                await file.seek(offset)
                data: bytes = await file.read(BLOCK)
                return data

            return read

        yield lambda tasks: [reader(files[i % len(files)]) for i in range(tasks)]


@contextlib.asynccontextmanager
async def _aiofile(path: str) -> AsyncIterator[Readers]:
    import aiofile

    async with aiofile.AIOFile(path, "rb") as file:
        yield lambda tasks: [lambda offset: file.read_bytes(BLOCK, offset)] * tasks


@contextlib.asynccontextmanager
async def _pyaio(path: str) -> AsyncIterator[Readers]:
    from pyaio.uring import UringIO

    fd = os.open(path, os.O_RDONLY)
    try:
        async with UringIO() as io:
            yield lambda tasks: [lambda offset: io.read(fd, offset, BLOCK)] * tasks
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _urio(path: str) -> AsyncIterator[Readers]:
    from urio.backend import get_backend

    fd, backend = os.open(path, os.O_RDONLY), get_backend()
    try:
        yield lambda tasks: [lambda offset: backend.read(fd, offset, BLOCK)] * tasks
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _turbofile(path: str) -> AsyncIterator[Readers]:
    import turbofile

    async with turbofile.open(path, "rb") as file:
        yield lambda tasks: [lambda offset: file.read_at(offset, BLOCK)] * tasks


@contextlib.asynccontextmanager
async def _asyncfiles(path: str) -> AsyncIterator[Readers]:
    import asyncfiles

    async with contextlib.AsyncExitStack() as stack:
        files = [await stack.enter_async_context(asyncfiles.open(path, "rb")) for _ in range(128)]

        def reader(file: Any) -> Read:
            async def read(offset: int) -> bytes:
                file.seek(offset)
                data: bytes = await file.read(BLOCK)
                return data

            return read

        yield lambda tasks: [reader(files[i % len(files)]) for i in range(tasks)]


PLAIN = Peer("os.pread in a plain loop", _plain)
OURS = (
    Peer("aioring", _ring()),
    Peer("aioring, what it learned of a file", _known),  # what its `File` will be built on
    Peer("aioring, ring alone", _ring(page_cache_first=False)),
    Peer("aioring, workers alone", _ring(method="worker", page_cache_first=False, workers=THREADS)),
)
POOL = Peer(f"thread pool of {THREADS}", _pool)
AIOFILES = Peer("aiofiles", _aiofiles)
OTHERS = (
    Peer("aiofile/caio", _aiofile),
    Peer("pyaio", _pyaio),
    Peer("urio", _urio),
    Peer("turbofile", _turbofile),
    Peer("py-asyncfiles", _asyncfiles),
)
ALL = (PLAIN, *OURS, POOL, AIOFILES, *OTHERS)


async def works(peer: Peer, path: str) -> str | None:
    """None, or why this one cannot be measured here."""
    try:
        async with peer.open(path) as readers:
            data = await asyncio.wait_for(_one(readers(1)[0]), 10)
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:
        return f"does not work here ({type(error).__name__}: {error})"
    fd = os.open(path, os.O_RDONLY)
    try:
        return None if bytes(data) == os.pread(fd, BLOCK, BLOCK) else "gives wrong bytes"
    finally:
        os.close(fd)


async def _one(read: Read) -> Any:
    return await read(BLOCK)
