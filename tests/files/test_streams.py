"""`aioring.stream` and `File.iter_chunks`: all bytes, in order, in the sizes asked for, whoever takes them and leaves."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.files import open as aopen
from aioring.testing import Scripted
from tests.conftest import open_fds, pattern
from tests.harness import cancelled_again_and_again, ticks

LIGHT = True  # see conftest.py

SIZE = 700_001


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(pattern(SIZE))
    return path


async def test_a_stream_gives_all_in_pieces(ring: Any, large: Path) -> None:
    for chunk in (4096, 100_000, 262_144, 1 << 20):
        stream = aioring.stream(large, chunk, ring=ring)
        assert isinstance(stream, AsyncIterable)
        for _ in range(2):  # it may be sent again
            pieces = [piece async for piece in stream]
            assert b"".join(pieces) == pattern(SIZE)
            assert {len(piece) for piece in pieces[:-1]} <= {chunk}
    (large.parent / "empty").touch()
    assert [piece async for piece in aioring.stream(large.parent / "empty", ring=ring)] == []


async def test_aread_is_what_httpx_asks_for(ring: Any, large: Path) -> None:
    stream = aioring.stream(str(large), ring=ring)
    for _ in range(2):
        sent = b""
        while chunk := await stream.aread(65_536):
            assert len(chunk) <= 65_536
            sent += chunk
        assert sent == pattern(SIZE)
    assert await stream.aread(10) == pattern(10)
    assert await stream.aread(0) == b""
    assert await stream.aread() == pattern(SIZE)[10:]
    assert await stream.aread() == b""
    assert await stream.aread(5) == pattern(5)
    await stream.aclose()
    assert await stream.aread(5) == pattern(5)
    await stream.aclose()


async def test_who_leaves_early_leaves_nothing_open(ring: Any, large: Path) -> None:
    before = open_fds()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async for piece in aioring.stream(large, 1000, ring=ring):
            assert piece == pattern(1000)
            break
        del piece
        gc.collect()
        with anyio.fail_after(3):
            while open_fds() != before:
                await ticks(1)


async def test_chunks_of_an_open_file(ring: Any, large: Path) -> None:
    async with aopen(large, "rb", ring=ring) as file:
        await file.read(11)
        assert b"".join([piece async for piece in file.iter_chunks(50_000)]) == pattern(SIZE)[11:]
        await file.seek(0)
        assert await file.iter_chunks().aread(7) == pattern(7)
        assert await file.tell() == 7
    async with aopen(large, encoding="latin-1", newline="", ring=ring) as text:
        pieces = [piece async for piece in text.iter_chunks(1000)]
        assert {len(piece) for piece in pieces[:-1]} == {1000}
        assert "".join(pieces).encode("latin-1") == pattern(SIZE)
        with pytest.raises(ValueError, match="must be at least 1"):
            text.iter_chunks(0)


async def test_what_is_wrong_is_said(ring: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        aioring.stream(tmp_path, 0)
    with pytest.raises(TypeError):
        aioring.stream(3)  # type: ignore[arg-type]
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(error):
            await anext(aiter(aioring.stream(path, ring=ring)))
        with pytest.raises(error):
            await aioring.stream(path, ring=ring).aread(10)


async def test_a_cancelled_piece_is_not_lost(anyio_backend: Any, large: Path) -> None:
    async with aioring.Ring(method=Scripted(1)) as ring:
        reader = aiter(aioring.stream(large, 10_000, ring=ring))
        pieces: list[bytes] = []

        async def take() -> None:
            async for piece in reader:
                pieces.append(piece)

        await cancelled_again_and_again(take, 100, 9)
        await take()
    assert b"".join(pieces) == pattern(SIZE)
