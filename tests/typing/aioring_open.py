"""What type checkers make of `aioring.open` and `aioring.wrap_file`. Checked by mypy and pyright, run by nobody."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, assert_type

import aioring
from aioring import BinaryFile, File, Opening, RawFile, TextFile, WrappedFile


def overloads(path: Path, mode: str, size: int, ring: aioring.Ring) -> None:
    assert_type(aioring.open(path), Opening[TextFile])
    assert_type(aioring.open("a", "r"), Opening[TextFile])
    assert_type(aioring.open(b"a", "w+", 1, "utf-8", "strict", "\n"), Opening[TextFile])
    assert_type(aioring.open(3, "at", closefd=False), Opening[TextFile])
    assert_type(aioring.open(path, "rb", 0), Opening[RawFile])
    assert_type(aioring.open(path, "w+b", buffering=0), Opening[RawFile])
    assert_type(aioring.open(path, "rb"), Opening[BinaryFile])
    assert_type(aioring.open(path, "xb", -1), Opening[BinaryFile])
    assert_type(aioring.open(path, "ab+", opener=os.open), Opening[BinaryFile])
    assert_type(aioring.open(path, "rb", size), Opening[File[bytes]])
    assert_type(aioring.open(path, mode), Opening[Any])
    assert_type(aioring.open(path, mode, size, ring=ring), Opening[Any])
    assert_type(aioring.wrap_file(io.BytesIO()), WrappedFile[Any])


async def text(path: Path) -> None:
    async with aioring.open(path) as file:
        assert_type(file, TextFile)
        assert_type(await file.read(), str)
        assert_type(await file.readline(), str)
        assert_type(await file.readlines(), list[str])
        assert_type(await file.write("text"), int)
        assert_type(await file.tell(), int)
        assert_type(await file.seek(0), int)
        assert_type(await file.truncate(), int)
        assert_type(file.encoding, str)
        assert_type(file.buffer, BinaryFile)
        async for line in file:
            assert_type(line, str)
    opened = await aioring.open(path, "w")
    assert_type(opened, TextFile)
    async with opened as entered:
        assert_type(entered, TextFile)


async def binary(path: Path, size: int) -> None:
    async with aioring.open(path, "r+b") as file:
        assert_type(file, BinaryFile)
        assert_type(await file.read(5), bytes)
        assert_type(await file.read1(), bytes)
        assert_type(await file.peek(), bytes)
        assert_type(await file.readinto(bytearray(5)), int)
        assert_type(await file.write(memoryview(b"data")), int)
        assert_type(await file.pread(5, 0), bytes)
        assert_type(await file.pwrite(b"data", 0), int)
        assert_type(file.raw, RawFile)
        async for line in file:
            assert_type(line, bytes)
    raw = await aioring.open(path, "rb", 0)
    assert_type(raw, RawFile)
    assert_type(await raw.readall(), bytes)
    some = await aioring.open(path, "rb", size)
    assert_type(some, File[bytes])
    assert_type(await some.read(), bytes)


async def wrapped() -> None:
    async with aioring.wrap_file(io.StringIO()) as file:
        assert_type(file, WrappedFile[Any])
        assert_type(await file.tell(), int)
        assert_type(await file.read1(), bytes)


async def paths(path: Path) -> None:
    ours = aioring.Path(path) / "name"
    assert_type(ours, aioring.Path)
    assert_type(ours.parent.name, str)
    assert_type(await ours.read_bytes(), bytes)
    assert_type(await ours.open(), TextFile)
    assert_type(await ours.open("rb"), BinaryFile)
    assert_type(await ours.open("rb", 0), RawFile)
    assert_type(await ours.rename(path), aioring.Path)
    async for below in ours.iterdir():
        assert_type(below, aioring.Path)
    async for root, folders, files in ours.walk():
        assert_type(root, aioring.Path)
        assert_type(folders, list[str])
        assert_type(files, list[str])
    await ours.write_text(b"bytes")  # type: ignore[arg-type]


async def refused(path: Path) -> None:
    aioring.open()  # type: ignore[call-overload]
    aioring.open(3.5)  # type: ignore[call-overload]
    aioring.open(path, 5)  # type: ignore[call-overload]
    aioring.open(path, loop=None)  # type: ignore[call-overload]
    aioring.open(path).read()  # type: ignore[func-returns-value, unused-ignore]
    async with aioring.open(path, "w") as file:
        await file.write(b"bytes")  # type: ignore[arg-type]
        await file.seek("0")  # type: ignore[arg-type]
    with aioring.open(path):  # type: ignore[attr-defined]
        pass
