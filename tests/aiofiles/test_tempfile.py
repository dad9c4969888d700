"""Temporary files: names and modes, when they go, and a spooled one on its way to the disk."""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import sys
import tempfile as blocking
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.aiofiles import tempfile
from aioring.loops import current
from tests.harness import SOON, Held

LIGHT = True  # see conftest.py

KEPT: Any = {"delete_on_close": False}


async def test_a_name_is_made_as_told_and_goes_with_the_file(ring: Any, tmp_path: Path) -> None:
    async with tempfile.NamedTemporaryFile(suffix=".s", prefix="p-", dir=tmp_path) as file:
        path = Path(file.name)
        assert type(file.name) is str
        assert path.parent == tmp_path
        assert path.name.startswith("p-")
        assert path.suffix == ".s"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not os.get_inheritable(file.fileno())
        await file.write(b"abc")
        await file.seek(0)
        assert await file.read() == b"abc"
        assert file._file.name == file.name
    assert not path.exists()
    raw = os.fsencode(tmp_path)
    async with tempfile.NamedTemporaryFile(prefix=b"b", dir=raw) as file:
        assert file.name.startswith(raw + b"/b")
    assert list(tmp_path.iterdir()) == []


async def test_a_name_stays_where_that_was_asked(ring: Any, tmp_path: Path) -> None:
    async with tempfile.NamedTemporaryFile("w", encoding="utf-16", newline="\r\n", dir=tmp_path, delete=False) as file:
        await file.write("a\n")
    assert Path(file.name).read_bytes() == "a\r\n".encode("utf-16")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="delete_on_close came with 3.12")
async def test_delete_on_close_says_whether_it_goes_with_the_file_or_with_the_block(ring: Any, tmp_path: Path) -> None:
    async with tempfile.NamedTemporaryFile(dir=tmp_path, **KEPT) as file:
        await file.close()
        assert Path(file.name).exists()
    assert not Path(file.name).exists()
    async with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        await file.close()
        assert not Path(file.name).exists()
    kept = await tempfile.NamedTemporaryFile(dir=tmp_path, **KEPT)
    await kept.close()
    assert len(list(tmp_path.iterdir())) == 1
    del kept
    gc.collect()
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_its_user_has_removed_already_is_closed_in_peace(ring: Any, tmp_path: Path) -> None:
    async with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        os.unlink(file.name)
    assert file.closed


async def test_a_dropped_file_is_gone_and_said(ring: Any, tmp_path: Path) -> None:
    for make in (tempfile.NamedTemporaryFile, tempfile.TemporaryFile):
        file: Any = await make(dir=tmp_path)
        await file.write(b"x")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            file = None
        gc.collect()
        assert list(tmp_path.iterdir()) == []


async def test_a_close_that_is_cancelled_removes_the_name(ring: Any, tmp_path: Path) -> None:
    for ticks in range(6):
        file = await tempfile.NamedTemporaryFile(dir=tmp_path)
        await file.write(bytes(100_000))
        closing = asyncio.create_task(file.close())
        for _ in range(ticks):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        if ticks:  # or else it has not even begun
            assert file.closed
            assert list(tmp_path.iterdir()) == []
        await file.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_making_that_is_cancelled_leaves_nothing(ring: Any, tmp_path: Path) -> None:
    for ticks in range(1, 8):
        for make in (tempfile.NamedTemporaryFile, tempfile.TemporaryFile):
            making = asyncio.ensure_future(make(dir=tmp_path))
            for _ in range(ticks):
                await asyncio.sleep(0)
            making.cancel()
            await asyncio.wait([making])
            if not making.cancelled():
                await making.result().close()
    async with asyncio.timeout(SOON):
        while list(tmp_path.iterdir()):
            await asyncio.sleep(0.01)  # a worker is about to find that nobody waits for it


async def test_an_unnamed_file_has_no_name(ring: Any, tmp_path: Path) -> None:
    async with tempfile.TemporaryFile("w+", newline="\r\n", encoding="utf-8", dir=tmp_path) as file:
        assert file.name == file.fileno()
        assert list(tmp_path.iterdir()) == []
        await file.write("a\n")
        await file.flush()
        assert os.pread(file.fileno(), 10, 0) == b"a\r\n"


@pytest.mark.parametrize("name", ["NamedTemporaryFile", "TemporaryFile"])
@pytest.mark.parametrize(
    "how", [{"mode": "q"}, {"mode": "rb", "encoding": "utf-8"}, {"dir": "missing"}, {"suffix": "a/b"}], ids=repr
)
async def test_what_tempfile_refuses_is_refused_in_its_words(
    ring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: dict[str, Any]
) -> None:
    if name == "TemporaryFile" and "suffix" in how:
        pytest.skip("it has no name that it could not have")
    monkeypatch.setattr(blocking, "_get_candidate_names", lambda: iter(["same"] * 5))
    how = {"dir": tmp_path, **how}
    with pytest.raises(Exception) as wanted:
        getattr(blocking, name)(**how)
    with pytest.raises(type(wanted.value)) as got:
        await getattr(tempfile, name)(**how)
    assert str(got.value) == str(wanted.value)
    assert list(tmp_path.iterdir()) == []


# --- spooled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "writelines", "truncate", "fileno", "rollover"])
async def test_a_spooled_file_goes_to_the_disk_when_the_blocking_one_does(ring: Any, how: str) -> None:
    async with tempfile.SpooledTemporaryFile(max_size=10) as file:
        with blocking.SpooledTemporaryFile(max_size=10) as model:
            for each in (b"12345", b"67890"):
                assert await file.write(each) == model.write(each)
            assert file._file._rolled is model._rolled is False
            args: tuple[Any, ...] = {"write": (b"1",), "writelines": ([b"1", b"2"],), "truncate": (11,)}.get(how, ())
            got, wanted = await getattr(file, how)(*args), getattr(model, how)(*args)
            assert type(got) is int if how == "fileno" else got == wanted
            assert file._file._rolled is model._rolled is True
            assert await file.tell() == model.tell()
            await file.seek(0)
            model.seek(0)
            assert await file.read() == model.read()
            assert type(file.name) is int


async def test_a_spooled_text_keeps_its_place_across_the_disk(ring: Any) -> None:
    settings: Any = {"mode": "w+", "encoding": "utf-16", "newline": "\r\n"}
    async with tempfile.SpooledTemporaryFile(**settings) as file:
        await file.write("äöü\n" * 10)
        await file.seek(0)
        assert await file.readline() == "äöü\r\n"
        place = await file.tell()
        await file.rollover()
        assert await file.tell() == place
        assert await file.readline() == "äöü\r\n"
        await file.seek(0, 2)
        await file.write("end")
        await file.seek(0)
        assert await file.read() == "äöü\r\n" * 10 + "end"
        assert (file.encoding, file.mode) == ("utf-16", "w+")


@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_what_is_written_while_it_goes_to_the_disk_is_kept_in_order(ring: Any, mode: str) -> None:
    async with tempfile.SpooledTemporaryFile(max_size=50, mode=mode) as file:
        parts: list[Any] = [f"{i:03}," for i in range(200)]
        if "b" in mode:
            parts = [part.encode() for part in parts]
        assert await asyncio.gather(*map(file.write, parts)) == [4] * 200
        await file.seek(0)
        assert await file.read() == parts[0][:0].join(parts)


async def test_a_cancelled_rollover_loses_nothing(
    make_ring: Callable[..., Any], anyio_backend: Any, combination: tuple[str, bool]
) -> None:
    if combination[0] != "scripted":
        pytest.skip("one method will do: it holds its completions back")
    method = Held(1)
    async with aioring.Ring(method=method) as ring:
        current().keep(ring)
        file = await tempfile.SpooledTemporaryFile(max_size=10)
        writing = asyncio.create_task(file.write(bytes(100_000)))
        for _ in range(10):
            await asyncio.sleep(0)
        writing.cancel()
        method.let_go()
        async with asyncio.timeout(SOON):
            await asyncio.wait([writing])
            assert writing.cancelled() or writing.result() == 100_000
            await file.write(b"more")
            await file.seek(0)
            assert await file.read() == bytes(100_000) + b"more"
            assert file._file._rolled
            await file.close()


async def test_a_binary_spooled_file_minds_a_newline_when_the_blocking_one_does(ring: Any) -> None:
    async with tempfile.SpooledTemporaryFile(newline="\n") as file:
        await file.write(b"x")
        with pytest.raises(ValueError, match="binary mode doesn't take a newline argument"):
            await file.rollover()
        assert await file.tell() == 1


async def test_a_temporary_folder_is_entered_by_its_path(ring: Any, tmp_path: Path) -> None:
    async with tempfile.TemporaryDirectory("s", "p", tmp_path) as folder:
        assert type(folder) is str
        assert Path(folder).parent == tmp_path
        (Path(folder) / "file").touch()
    assert list(tmp_path.iterdir()) == []
    kept = await tempfile.TemporaryDirectory(dir=tmp_path)
    await kept.close()
    assert not Path(kept.name).exists()


async def test_a_forked_child_leaves_the_name_to_its_parent(ring: Any, tmp_path: Path) -> None:
    async with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        await file.write(b"parent")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                file._close_in_place()
                status = 0 if os.path.exists(file.name) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert Path(file.name).exists()
        await file.seek(0)
        assert await file.read() == b"parent"
    assert list(tmp_path.iterdir()) == []
