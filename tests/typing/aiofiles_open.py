"""What type checkers make of `aioring.aiofiles`. Checked by mypy and pyright, run by nobody."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, assert_type

import aioring.aiofiles as aiofiles
import aioring.aiofiles.os as aiofiles_os
from aioring.aiofiles.base import AiofilesContextManager
from aioring.aiofiles.threadpool.binary import AsyncBufferedIOBase, AsyncBufferedReader, AsyncFileIO
from aioring.aiofiles.threadpool.text import AsyncTextIndirectIOWrapper, AsyncTextIOWrapper


def overloads(path: Path, mode: str, size: int) -> None:
    assert_type(aiofiles.open(path), AiofilesContextManager[AsyncTextIOWrapper])
    assert_type(aiofiles.open("a", "r+", 1, "utf-8"), AiofilesContextManager[AsyncTextIOWrapper])
    assert_type(aiofiles.open(b"a", mode="x", newline=""), AiofilesContextManager[AsyncTextIOWrapper])
    assert_type(aiofiles.open(path, "rb", 0), AiofilesContextManager[AsyncFileIO])
    assert_type(aiofiles.open(path, "wb", buffering=0), AiofilesContextManager[AsyncFileIO])
    assert_type(aiofiles.open(3, "rb"), AiofilesContextManager[AsyncBufferedReader])
    assert_type(aiofiles.open(path, "r+b", -1), AiofilesContextManager[AsyncBufferedReader])
    assert_type(aiofiles.open(path, "wb"), AiofilesContextManager[AsyncBufferedIOBase])
    assert_type(aiofiles.open(path, "ab", opener=os.open), AiofilesContextManager[AsyncBufferedIOBase])
    assert_type(aiofiles.open(path, "rb", size), AiofilesContextManager[Any])
    assert_type(aiofiles.open(path, mode), AiofilesContextManager[Any])
    assert_type(aiofiles.open(path, mode, loop=None, executor=None), AiofilesContextManager[Any])


async def text(path: Path) -> None:
    async with aiofiles.open(path) as file:
        assert_type(file, AsyncTextIOWrapper)
        assert_type(await file.read(), str)
        assert_type(await file.readline(), str)
        assert_type(await file.readlines(), list[str])
        assert_type(await file.write("text"), int)
        assert_type(await file.seek(0), int)
        assert_type(await file.readable(), bool)
        assert_type(file.encoding, str)
        assert_type(file.closed, bool)
        async for line in file:
            assert_type(line, str)
    assert_type(await aiofiles.open(path, "w"), AsyncTextIOWrapper)


async def binary(path: Path) -> None:
    async with aiofiles.open(path, "rb") as file:
        assert_type(file, AsyncBufferedReader)
        assert_type(await file.read(5), bytes)
        assert_type(await file.read1(), bytes)
        assert_type(await file.peek(5), bytes)
        assert_type(await file.readlines(), list[bytes])
        assert_type(await file.seekable(), bool)
        assert_type(file.readable(), bool)
        assert_type(file.fileno(), int)
        async for line in file:
            assert_type(line, bytes)
    async with aiofiles.open(path, "wb") as writer:
        assert_type(writer, AsyncBufferedIOBase)
        assert_type(await writer.write(bytearray(b"data")), int)
    async with aiofiles.open(path, "rb", 0) as raw:
        assert_type(raw, AsyncFileIO)
        assert_type(await raw.readall(), bytes | None)


async def further() -> None:
    assert_type(aiofiles.stdin, AsyncTextIndirectIOWrapper)
    assert_type(await aiofiles.stdin.readline(), str)
    assert_type(await aiofiles.stdout_bytes.write(b"data"), int)
    wrap: Any = aiofiles.threadpool.wrap(io.BytesIO())
    await wrap.read()
    async with aiofiles.tempfile.NamedTemporaryFile("w") as named:
        assert_type(named, Any)
    async with aiofiles.tempfile.TemporaryDirectory() as folder:
        assert_type(folder, Any)
    await aiofiles_os.remove("a")
    assert_type(await aiofiles_os.path.exists("a"), bool)


async def refused(path: Path) -> None:
    aiofiles.open()  # type: ignore[call-overload]
    aiofiles.open(3.5)  # type: ignore[call-overload]
    aiofiles.open(path, 5)  # type: ignore[call-overload]
    aiofiles.open(path, ring=None)  # type: ignore[call-overload]
    with aiofiles.open(path):  # type: ignore[attr-defined]
        pass
    async with aiofiles.open(path, "w") as file:
        await file.write(b"bytes")  # type: ignore[arg-type]
        await file.read(size=5)  # type: ignore[call-arg]
    async with aiofiles.open(path, "wb") as writer:
        await writer.peek()  # type: ignore[attr-defined]
