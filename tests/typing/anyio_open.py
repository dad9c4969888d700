"""What type checkers make of `aioring.anyio`: what they make of anyio. Checked by mypy and pyright, run by nobody."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, assert_type

import anyio

from aioring.anyio import (
    AsyncFile,
    NamedTemporaryFile,
    SpooledTemporaryFile,
    TemporaryDirectory,
    TemporaryFile,
    gettempdir,
    mkstemp,
    open_file,
    wrap_file,
)  # fmt: skip
from aioring.anyio.streams.file import FileReadStream, FileStreamAttribute, FileWriteStream


async def overloads(path: Path, size: int, limiter: anyio.CapacityLimiter) -> None:
    assert_type(await open_file(path), AsyncFile[str])
    assert_type(await open_file("a", "r+", 1, "utf-8", "strict", "\n"), AsyncFile[str])
    assert_type(await open_file(3, mode="xt", closefd=False, limiter=limiter), AsyncFile[str])
    assert_type(await open_file(path, "rb"), AsyncFile[bytes])
    assert_type(await open_file(path, "wb", 0), AsyncFile[bytes])
    assert_type(await open_file(path, "ab+", size, opener=os.open, limiter=None), AsyncFile[bytes])
    assert_type(wrap_file(io.BytesIO()), AsyncFile[bytes])
    assert_type(wrap_file(io.StringIO(), limiter=limiter), AsyncFile[str])


async def text(path: Path) -> None:
    async with await open_file(path) as file:
        assert_type(file, AsyncFile[str])
        assert_type(await file.read(5), str)
        assert_type(await file.readline(), str)
        assert_type(await file.readlines(), list[str])
        assert_type(await file.write("text"), int)
        assert_type(await file.tell(), int)
        assert_type(file.limiter, anyio.CapacityLimiter | None)
        assert_type(file.wrapped, IO[str])
        theirs: anyio.AsyncFile[str] = file
        async for line in theirs:
            assert_type(line, str)
        async for ours in file:
            assert_type(ours, str)


async def binary(path: Path) -> None:
    async with await open_file(path, "r+b") as file:
        assert_type(file, AsyncFile[bytes])
        assert_type(await file.read(size=5), bytes)
        assert_type(await file.read1(), bytes)
        assert_type(await file.readinto(bytearray(5)), int)
        assert_type(await file.readinto1(b=bytearray(5)), int)
        assert_type(await file.write(memoryview(b"data")), int)
        await file.writelines([b"data"])
        assert_type(await file.seek(offset=0, whence=os.SEEK_END), int)
        assert_type(await file.truncate(size=None), int)
        await file.flush()
        await file.aclose()
        async for line in file:
            assert_type(line, bytes)


async def temporary() -> None:
    assert_type(TemporaryFile(), TemporaryFile[bytes])
    assert_type(TemporaryFile("w+"), TemporaryFile[str])
    assert_type(NamedTemporaryFile(suffix=".end"), NamedTemporaryFile[bytes])
    assert_type(NamedTemporaryFile(mode="w", delete=False, delete_on_close=False), NamedTemporaryFile[str])
    assert_type(SpooledTemporaryFile(100), SpooledTemporaryFile[bytes])
    assert_type(SpooledTemporaryFile(max_size=100, mode="w+", errors="replace"), SpooledTemporaryFile[str])
    assert_type(SpooledTemporaryFile(mode="w+"), SpooledTemporaryFile[str])
    async with TemporaryFile() as unnamed:
        assert_type(unnamed, AsyncFile[bytes])
    async with NamedTemporaryFile("w+") as named:
        assert_type(named, AsyncFile[str])
        async for line in named:
            assert_type(line, str)
    async with SpooledTemporaryFile(5) as spooled:
        assert_type(spooled, SpooledTemporaryFile[bytes])
        assert_type(await spooled.read(), bytes)
        file: AsyncFile[bytes] = spooled
        await file.write(b"data")
        await spooled.rollover()
    async with TemporaryDirectory() as folder:
        assert_type(folder, str)
    assert_type(await gettempdir(), str)
    assert_type(await mkstemp(), tuple[int, str])


async def streams(path: Path) -> None:
    async with await FileReadStream.from_path(path) as reading:
        assert_type(reading, FileReadStream)
        assert_type(await reading.receive(5), bytes)
        assert_type(await reading.seek(0), int)
        assert_type(reading.extra(FileStreamAttribute.path), Path)
        async for chunk in reading:
            assert_type(chunk, bytes)
    async with await FileWriteStream.from_path(str(path), append=True) as writing:
        assert_type(writing, FileWriteStream)
        await writing.send(b"data")


async def refused(path: Path, mode: str) -> None:
    await open_file(path, mode)  # type: ignore[call-overload]
    await open_file(path, limiter=5)  # type: ignore[call-overload]
    await open_file(b"bytes")  # type: ignore[call-overload]
    async with open_file(path):  # type: ignore[attr-defined]
        pass
    async with await open_file(path) as file:
        await file.write(b"bytes")  # type: ignore[arg-type]
        await file.read1()  # type: ignore[misc]
    wrap_file(io.BytesIO(), limiter=5)  # type: ignore[arg-type]
    NamedTemporaryFile(mode)  # type: ignore[call-overload]
    SpooledTemporaryFile("w")  # type: ignore[call-overload]
    async with NamedTemporaryFile("w") as named:
        await named.write(b"bytes")  # type: ignore[arg-type]
