"""anyio's temporary files, on every method and loop: names, ends, and what is put on disk of the spooled ones."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
import aioring.anyio as ours
from aioring.anyio import AsyncFile, NamedTemporaryFile, SpooledTemporaryFile, TemporaryFile
from aioring.anyio.files import OpenReader
from aioring.files import BinaryFile
from aioring.testing import Scripted
from tests.harness import all_over, begin, ticks

LIGHT = True  # see conftest.py


async def test_a_temporary_file_has_no_name_and_is_gone_with_its_block(ring: Any, tmp_path: Path) -> None:
    async with TemporaryFile(dir=str(tmp_path)) as file:
        assert isinstance(file, AsyncFile)
        assert isinstance(file, aioring.File)
        assert isinstance(file.name, int)
        assert file.mode == "rb+"
        assert await file.write(b"one\ntwo\n") == 8
        await file.seek(0)
        assert [line async for line in file] == [b"one\n", b"two\n"]
        assert list(tmp_path.iterdir()) == []
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        await file.read()


async def test_text_has_newlines_encodings_and_errors(ring: Any, tmp_path: Path) -> None:
    file: Any
    how: dict[str, Any] = {"encoding": "ascii", "errors": "backslashreplace", "newline": "\r\n", "dir": str(tmp_path)}
    for kind in (TemporaryFile, NamedTemporaryFile, SpooledTemporaryFile):
        async with kind(mode="w+", **how) as file:
            assert (file.encoding, file.errors) == ("ascii", "backslashreplace")
            assert await file.write("é\n") == 2
            if isinstance(file, SpooledTemporaryFile):
                await file.rollover()
            await file.flush()
            assert os.pread(file.fileno(), 100, 0) == b"\\xe9\r\n"
            await file.seek(0)
            assert await file.read() == "\\xe9\n".replace("\n", "\r\n")


@pytest.mark.parametrize("mode", ["w+b", "wb", "w+", "w", "a+b", "x+b", "r+b"])
async def test_a_named_one_has_a_name_until_it_is_closed(ring: Any, tmp_path: Path, mode: str) -> None:
    file: Any
    async with NamedTemporaryFile(mode, suffix=".end", prefix="start", dir=str(tmp_path)) as file:  # type: ignore[call-overload]
        assert isinstance(file, AsyncFile)
        assert isinstance(file, aioring.File)
        path = Path(file.name)
        assert (path.parent, path.name[:5], path.suffix) == (tmp_path, "start", ".end")
        assert path.stat().st_mode & 0o777 == 0o600
        await file.write(b"said" if "b" in mode else "said")
        await file.flush()
        assert path.read_bytes() == b"said"
        assert file.wrapped.name == str(path)
    assert not path.exists()


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_when_the_name_goes(ring: Any, tmp_path: Path, buffering: int) -> None:
    file: Any
    async with NamedTemporaryFile(buffering=buffering, dir=str(tmp_path)) as file:
        await file.aclose()
        assert not os.path.exists(file.name)
    async with NamedTemporaryFile(buffering=buffering, dir=str(tmp_path)) as file:
        file.close()
        assert not os.path.exists(file.name)
    async with NamedTemporaryFile(buffering=buffering, dir=str(tmp_path), delete=False) as file:
        await file.write(b"kept")
    assert Path(file.name).read_bytes() == b"kept"
    os.unlink(file.name)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="there `tempfile` has no `delete_on_close`, and anyio ignores it"
)
async def test_without_delete_on_close_the_name_goes_at_the_end_of_the_block(ring: Any, tmp_path: Path) -> None:
    """As of `tempfile`'s own; anyio's stays for good (agronholm/anyio#1333)."""
    file: Any
    async with NamedTemporaryFile(dir=str(tmp_path), delete_on_close=False) as file:
        await file.write(b"said")
        await file.aclose()
        assert Path(file.name).read_bytes() == b"said"
    assert not os.path.exists(file.name)
    async with NamedTemporaryFile(dir=str(tmp_path), delete_on_close=False) as file:
        await file.write(b"said")
    assert not os.path.exists(file.name)
    async with NamedTemporaryFile(dir=str(tmp_path), delete_on_close=False, delete=False) as file:
        pass
    assert os.path.exists(file.name)


async def test_the_name_goes_in_a_cancelled_scope_and_after_an_error(ring: Any, tmp_path: Path) -> None:
    file: Any
    with anyio.CancelScope() as scope:
        async with NamedTemporaryFile(dir=str(tmp_path)) as file:
            await file.write(b"said")
            scope.cancel()
    assert file.closed
    with pytest.raises(KeyError):
        async with NamedTemporaryFile(dir=str(tmp_path)):
            raise KeyError
    async with NamedTemporaryFile(dir=str(tmp_path)) as file:
        os.unlink(file.name)  # who did that was first
    assert list(tmp_path.iterdir()) == []


WRONG: list[dict[str, Any]] = [
    {"mode": "q"}, {"encoding": "utf-8"}, {"errors": "strict"}, {"newline": ""}, {"mode": "w+", "encoding": "nonsense"},
    {"mode": "w+", "newline": "x"}, {"mode": "w+", "buffering": 0}, {"dir": "/missing"}, {"suffix": b"x", "prefix": "y"},
]  # fmt: skip


@pytest.mark.parametrize("how", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"])
async def test_what_anyio_s_refuses_is_refused(
    anyio_backend: Any, tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    refused: list[Any] = []
    for house in (anyio, ours):
        try:
            async with getattr(house, name)(**{"dir": str(tmp_path), **how}) as file:
                if isinstance(file, anyio.SpooledTemporaryFile):
                    await file.rollover()
            refused.append(None)
        except Exception as error:
            refused.append((type(error), getattr(error, "errno", None)))
    assert refused[0] == refused[1]
    assert list(tmp_path.iterdir()) == []


# --- spooled ----------------------------------------------------------------------------------------------------------


async def test_a_spooled_one_is_in_memory_until_it_is_larger(ring: Any, tmp_path: Path) -> None:
    file: Any
    async with SpooledTemporaryFile(max_size=10, dir=str(tmp_path)) as file:
        assert isinstance(file, anyio.SpooledTemporaryFile)
        assert isinstance(file, AsyncFile)
        assert await file.write(b"0123456789") == 10
        assert not file._rolled
        assert isinstance(file.wrapped, io.BytesIO)
        await file.seek(5)
        await file.writelines([b"abcdef"])
        assert file._rolled
        assert os.pread(file.fileno(), 100, 0) == b"01234abcdef"
        assert await file.tell() == 11
        assert await file.seek(offset=2) == 2
        assert await file.read(size=5) == b"234ab"
        assert await file.read1(size=2) == b"cd"
        buffer = bytearray(2)
        assert await file.readinto(buffer) == 2
        assert buffer == b"ef"
        assert await file.truncate(size=3) == 3
        await file.seek(0)
        assert [line async for line in file] == [b"012"]
        assert file.wrapped.tell() == await file.tell() == 3
        await file.rollover()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        await file.read()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("newline", [None, "", "\n", "\r\n"])
async def test_rolled_over_in_the_middle_of_a_text_it_goes_on_there(
    ring: Any, encoding: str, newline: str | None
) -> None:
    file: Any
    text = "one é\r\ntwo\n\rthree\n"
    async with SpooledTemporaryFile(mode="w+", encoding=encoding, newline=newline) as file:
        model = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline=newline, write_through=True)
        for one in (file, model):
            for call in (("write", text), ("seek", 0), ("readline",)):
                value = getattr(one, str(call[0]))(*call[1:])
                if hasattr(value, "__await__"):
                    await value
        place = await file.tell()
        assert place == model.tell()
        await file.rollover()
        assert file._rolled
        assert await file.tell() == place
        assert await file.readline() == model.readline()
        assert await file.read() == model.read()
        await file.seek(place)
        assert await file.read(3) == (model.seek(place), model.read(3))[1]
        await file.seek(0, 2)
        await file.write("end\n")
        await file.flush()
        model.seek(0, 2)
        model.write("end\n")
        wanted = model.buffer.getvalue()  # type: ignore[attr-defined]
        assert os.pread(file.fileno(), 1000, 0) == wanted


async def test_a_rollover_that_is_cancelled_before_it_begins_leaves_it_in_memory(ring: Any) -> None:
    async with SpooledTemporaryFile(max_size=3) as file:
        await file.write(b"one")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.rollover()
        assert scope.cancelled_caught
        assert not file._rolled
        assert await file.write(b"two") == 3
        assert file._rolled
        await file.seek(0)
        assert await file.read() == b"onetwo"


async def test_a_rollover_that_has_begun_is_not_stopped_by_a_cancel(ring: Any) -> None:
    async with SpooledTemporaryFile() as file, anyio.create_task_group() as group:
        await file.write(b"one")
        rolling = begin(group, file.rollover)
        await ticks(1)
        began = file._moving is not None
        rolling.scope.cancel()
        await all_over(rolling)
        assert file._rolled or not began
        await file.seek(0)
        assert await file.read() == b"one"


async def test_what_is_written_while_it_is_rolled_over_is_not_lost(ring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Any] = []
    async with SpooledTemporaryFile() as file, anyio.create_task_group() as group:
        await file.write(b"one")

        async def write(self: Any, data: Any) -> int:
            """What was in memory is on its way."""
            if not others:
                others.extend([begin(group, file.write, b"two"), begin(group, file.rollover)])
                await ticks(3)
            return await BinaryFile.write(self, data)

        monkeypatch.setattr(OpenReader, "write", write)
        await file.rollover()
        assert file._rolled
        await all_over(*others)
        assert [one.error for one in others] == [None, None]
        assert await file.tell() == 6
        await file.seek(0)
        assert await file.read() == b"onetwo"


async def test_a_rollover_that_fails_leaves_it_in_memory(anyio_backend: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    async with SpooledTemporaryFile(max_size=3, dir=str(folder)) as file:
        with pytest.raises(FileNotFoundError):
            await file.write(b"four")
        with pytest.raises(FileNotFoundError):
            await file.rollover()
        assert not file._rolled
        await file.seek(0)
        assert await file.read() == b"four"
        folder.mkdir()
        await file.write(b"more")
        assert file._rolled
        await file.seek(0)
        assert await file.read() == b"fourmore"


async def test_so_does_one_that_finds_no_space(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with aioring.Ring(method=Scripted(1, short=0, soft=0)) as ring:
        aioring.loops.current().keep(ring)
        async with SpooledTemporaryFile(buffering=16) as file:
            await file.write(b"x" * 100)

            async def full(self: Any, fd: int, offset: int, data: Any) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with monkeypatch.context() as patched:
                patched.setattr("aioring.files.ring_io.RingIo.write", full)
                with pytest.raises(OSError, match="No space"):
                    await file.rollover()
            assert not file._rolled
            assert await file.tell() == 100
            await file.rollover()
            assert file._rolled
            await file.seek(0)
            assert await file.read() == b"x" * 100


async def test_what_is_no_file_is_anyio_s_own(anyio_backend: Any) -> None:
    for name in ("TemporaryDirectory", "gettempdir", "gettempdirb", "mkdtemp", "mkstemp"):
        assert getattr(ours, name) is getattr(anyio, name)
