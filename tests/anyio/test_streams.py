"""Byte streams over files, on every method and loop."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import anyio
import anyio.streams.file
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, TypedAttributeLookupError
from anyio.abc import ByteReceiveStream, ByteSendStream

import aioring.anyio.streams.file as streams
from aioring.anyio.streams.file import FileReadStream, FileStreamAttribute, FileWriteStream
from tests.conftest import pattern


@pytest.mark.parametrize("kind", [str, Path])
async def test_a_stream_reads_to_the_end(ring: Any, path: Path, kind: Any) -> None:
    async with await FileReadStream.from_path(kind(path)) as stream:
        assert isinstance(stream, ByteReceiveStream)
        assert isinstance(stream, anyio.streams.file.FileReadStream)
        assert await stream.receive(10) == pattern(10)
        assert await stream.receive(max_bytes=5) == pattern(15)[10:]
        assert await stream.tell() == 15
        assert len(await stream.receive()) == 65536
        assert await stream.seek(-3, os.SEEK_END) == 99_997
        assert await stream.seek(position=99_998) == 99_998
        assert await stream.receive() == pattern(100_000)[-2:]
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await stream.receive()
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="max_bytes must be a positive integer"):
                await stream.receive(wrong)
        assert await stream.seek(0) == 0
        assert b"".join([chunk async for chunk in stream]) == pattern(100_000)
    with pytest.raises(ClosedResourceError):
        await stream.receive()
    for asked in (stream.tell, lambda: stream.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            await asked()
    await stream.aclose()


async def test_a_stream_writes_anew_or_at_the_end(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "new"
    for append, wanted in ((False, b"one, two"), (True, b"one, twoone, two"), (False, b"one, two")):
        async with await FileWriteStream.from_path(path, append=append) as stream:
            assert isinstance(stream, ByteSendStream)
            assert isinstance(stream, anyio.streams.file.FileWriteStream)
            assert await stream.send(b"one, ") is None  # type: ignore[func-returns-value]
            await stream.send(item=b"two")
        assert path.read_bytes() == wanted
        with pytest.raises(ClosedResourceError):
            await stream.send(b"more")


async def test_what_the_file_refuses_breaks_the_stream(ring: Any, tmp_path: Path) -> None:
    stream = await FileWriteStream.from_path("/dev/full")
    with pytest.raises(BrokenResourceError) as broken:
        await stream.send(b"x" * 100_000)
    assert isinstance(broken.value.__cause__, OSError)
    await stream.send(b"what fits into the buffer")
    with pytest.raises(OSError, match="No space"):
        await stream.aclose()
    with pytest.raises(FileNotFoundError):
        await FileReadStream.from_path(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        await FileReadStream.from_path(tmp_path)
    reading = await FileReadStream.from_path("/proc/self/mem")  # its first page is nobody's: EIO
    with pytest.raises(BrokenResourceError):
        await reading.receive(1)
    await reading.aclose()


async def test_typed_attributes(ring: Any, path: Path) -> None:
    for stream in (await FileReadStream.from_path(path), await FileWriteStream.from_path(path, append=True)):
        assert stream.extra(FileStreamAttribute.path) == path
        file = stream.extra(FileStreamAttribute.file)
        assert isinstance(file, io.BufferedIOBase)
        assert file.name == str(path)
        number = stream.extra(FileStreamAttribute.fileno)
        assert number == file.fileno()
        assert os.path.samestat(os.fstat(number), path.stat())
        await stream.aclose()
    assert FileStreamAttribute is anyio.streams.file.FileStreamAttribute
    assert set(streams.__all__) == set(anyio.streams.file.__all__)


async def test_aclose_closes_in_a_cancelled_scope_and_says_so(ring: Any, path: Path) -> None:
    stream = await FileWriteStream.from_path(path)
    await stream.send(b"said")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    assert path.read_bytes() == b"said"


async def test_a_stream_over_a_file_of_somebody_else_s(anyio_backend: Any, path: Path) -> None:
    async with FileReadStream(io.BytesIO(b"one")) as reading:
        assert await reading.receive() == b"one"
        assert await reading.seek(1) == await reading.tell() == 1
        with pytest.raises(TypedAttributeLookupError):
            reading.extra(FileStreamAttribute.path)
    kept = io.BytesIO()
    writing = FileWriteStream(kept)
    await writing.send(b"one")
    assert kept.getvalue() == b"one"
    await writing.aclose()
    assert kept.closed


async def test_a_subclass_makes_its_own(ring: Any, path: Path) -> None:
    class Mine(FileReadStream):
        pass

    async with await Mine.from_path(path) as stream:
        assert type(stream) is Mine
