"""The drop-in's `os` and `os.path` against the blocking ones: outcomes, errors, what is on the disk, audit events."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import aioring.aiofiles.os as aos
from tests.aiofiles.conftest import COMBINATIONS

LIGHT = True  # see conftest.py


class Here:
    """A path of its own kind."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


class Number:
    """An fd of its own kind."""

    def __index__(self) -> int:
        return 1000


# All relative: the calls run in a folder of their own. DIR and FD stand for fds of it and of a file in it.
DIR, FD = "<dir>", "<fd>"
NAMES: list[Any] = [
    "f", "d", "full", "l", "bad", "loop", "missing", "missing/x", "", "nul\0x", "x" * 300, "s\udc80", b"f", b"nul\0",
    Here("f"), Here(b"missing"), Here(5), Number(), 1000, 5.0, None, -1, -7, 2**31, 2**70, [],
]  # fmt: skip
ONE = ("stat", "remove", "unlink", "rmdir", "mkdir", "readlink", "listdir", "scandir", "makedirs", "statvfs", "access")
PATH = (
    "exists", "isfile", "isdir", "islink", "ismount", "getsize", "getatime", "getmtime", "getctime", "abspath",
)  # fmt: skip
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
for _name in NAMES:
    CASES += [(function, (_name, *((os.R_OK,) if function == "access" else ())), {}) for function in ONE]
    CASES += [(f"path.{function}", (_name,), {}) for function in PATH]
    for _other in ("f", "d", "new", "missing/x", "nul\0", b"new", 5.0, None, Here("new")):
        CASES += [(function, (_name, _other), {}) for function in ("rename", "replace", "link", "symlink")]
        CASES += [(f"path.{function}", (_name, _other), {}) for function in ("samefile", "sameopenfile")]
for _name in ("f", "l", "d", "missing", b"l"):
    CASES += [
        ("stat", (_name,), {"dir_fd": DIR}), ("stat", (_name,), {"follow_symlinks": False}),
        ("stat", (), {"path": _name}), ("rmdir", (_name,), {"dir_fd": DIR}),
        ("stat", (_name,), {"dir_fd": -7}), ("stat", (_name,), {"dir_fd": 1.5}), ("stat", (_name, _name), {}),
        ("stat", (_name,), {"bogus": 1}), ("remove", (), {"path": _name, "dir_fd": DIR}),
        ("mkdir", (_name, 0o700), {"dir_fd": DIR}), ("mkdir", (_name,), {"mode": 0o1711}), ("mkdir", (_name, 2**40), {}),
        ("rename", (_name, "new"), {"src_dir_fd": DIR}), ("rename", (), {"src": _name, "dst": b"new", "dst_dir_fd": DIR}),
        ("link", (_name, "new"), {"follow_symlinks": False}), ("link", (_name, "new"), {"src_dir_fd": DIR}),
        ("symlink", (_name, "new", True), {}), ("symlink", (_name,), {"dst": "new", "dir_fd": DIR}),
        ("rename", (_name,), {}),
        ("renames", (_name, "a/b/c"), {}), ("makedirs", (_name, 0o700, True), {}), ("removedirs", (_name,), {}),
        ("readlink", (_name,), {"dir_fd": DIR}), ("path.isdir", (), {"s": _name}), ("path.isfile", (), {"path": _name}),
        ("path.getsize", (), {"filename": _name}), ("path.exists", (), {}), ("path.exists", (_name, _name), {}),
    ]  # fmt: skip
CASES += [
    ("stat", (FD,), {}), ("stat", (FD,), {"follow_symlinks": False}), ("stat", (FD,), {"dir_fd": 3}),
    ("listdir", (DIR,), {}),
    ("path.isdir", (DIR,), {}), ("path.getsize", (FD,), {}), ("path.exists", (FD,), {}), ("path.islink", (FD,), {}),
    ("path.samefile", (FD, "f"), {}), ("path.sameopenfile", (FD, FD), {}), ("path.sameopenfile", (FD, DIR), {}),
    ("getcwd", (), {}), ("listdir", (), {}), ("scandir", (), {}),
]  # fmt: skip


def make(folder: Path) -> None:
    for name in ("d", "full"):
        (folder / name).mkdir()
    (folder / "f").write_text("hello")
    (folder / "full" / "x").touch()
    for name, target in (("l", "f"), ("bad", "nowhere"), ("loop", "loop")):
        (folder / name).symlink_to(target)


def shown(value: Any) -> Any:
    if isinstance(value, os.stat_result):
        return len(value), value.st_mode, value.st_nlink, value.st_size, value.st_blksize
    if isinstance(value, os.statvfs_result):
        return type(value)
    if hasattr(value, "__next__"):
        return sorted(entry.name for entry in value)
    return sorted(value) if isinstance(value, list) else type(value) if isinstance(value, float) else value


def failed(error: Exception) -> Any:
    return type(error), getattr(error, "filename", None), getattr(error, "filename2", None), str(error)


def tree(folder: Path) -> list[Any]:
    paths = sorted(folder.rglob("*"))
    return [(path.relative_to(folder), path.lstat().st_mode, path.lstat().st_nlink) for path in paths]


def function(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


async def outcome(module: Any, folder: Path, case: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
    name, args, keywords = case
    make(folder)
    opened = {DIR: os.open(folder, os.O_RDONLY), FD: os.open(folder / "f", os.O_RDONLY)}

    def real(value: Any) -> Any:
        return opened[value] if isinstance(value, str) and value in opened else value

    try:
        found = function(module, name)(*map(real, args), **{key: real(value) for key, value in keywords.items()})
        got = shown(await found if module is aos else found)
    except Exception as error:
        got = failed(error)
    for fd in opened.values():
        os.close(fd)
    return got, tree(folder)


async def test_each_call_ends_as_the_blocking_one(
    ring: Any, combination: Any, anyio_backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so many calls each method and loop has its part, and all are made."""
    parts = [(c, use) for c in COMBINATIONS for use in (False, True)]
    mine = parts.index((combination, anyio_backend[1]["use_uvloop"]))
    folder = tmp_path / "here"
    for case in CASES[mine :: len(parts)]:
        got = []
        for module in (os, aos):
            folder.mkdir()
            monkeypatch.chdir(folder)
            got.append(await outcome(module, folder, case))
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(folder)
        assert got[1] == got[0], case


async def test_stat_is_a_whole_stat_result(ring: Any, path: Path) -> None:
    wanted, got = os.stat(path), await aos.stat(path)
    assert type(got) is os.stat_result
    assert tuple(got) == tuple(wanted)
    assert (got.st_mtime_ns, got.st_ctime_ns, got.st_rdev, got.st_blocks) == (
        wanted.st_mtime_ns, wanted.st_ctime_ns, wanted.st_rdev, wanted.st_blocks,
    )  # fmt: skip
    assert stat.S_ISREG(got.st_mode)


async def test_scandir_is_the_blocking_iterator(ring: Any, path: Path) -> None:
    found = await aos.scandir(path.parent)
    with found:
        assert next(found).name == path.name


async def test_sendfile_and_an_executor(ring: Any, path: Path) -> None:
    with path.open("rb") as source, path.with_name("copy").open("wb") as target:
        assert await aos.sendfile(target.fileno(), source.fileno(), 0, 1000) == 1000
    used: list[int] = []
    with ThreadPoolExecutor(1, initializer=lambda: used.append(1)) as pool:
        assert await aos.path.getsize(path.with_name("copy"), executor=pool) == 1000
        assert await aos.stat(path, executor=pool, loop=asyncio.get_running_loop()) == os.stat(path)
    assert used == [1]


AUDIT = """
import asyncio, os, sys
events = []
ROOMS = ("os", "open", "shutil")
sys.addaudithook(lambda event, args: events.append((event, args)) if event.split(".")[0] in ROOMS else None)
import aioring, aioring.aiofiles as aiofiles, aioring.aiofiles.os as aos

CALLS = [("mkdir", ("d",)), ("mkdir", ("e", 0o700)), ("symlink", ("f", "l")), ("link", ("f", "h")), ("rename", ("h", "g")),
         ("replace", ("g", "i")), ("unlink", ("i",)), ("remove", (b"l",)), ("rmdir", ("d",)), ("listdir", (".",)),
         ("scandir", (".",)), ("remove", ("missing",)), ("mkdir", ("f",)), ("makedirs", ("m/n",)), ("stat", ("f",))]

def taken():
    found = [event for event in events if "proc" not in str(event) and "sys" not in str(event[1])]
    events.clear()
    return found

async def main():
    aioring.get_ring()
    await aos.stat("f")
    for name, args in CALLS:
        taken()
        try:
            await getattr(aos, name)(*args)
        except OSError:
            pass
        got = taken()
        print(name, got)
    for how in (("f",), ("f", "rb"), ("f", "w"), ("f", "r+b", 0), ("new", "a")):
        taken()
        async with aiofiles.open(*how):
            got = taken()
        print("open", got)

def blocking():
    for name, args in CALLS:
        taken()
        try:
            getattr(os, name)(*args)
        except OSError:
            pass
        print(name, taken())
    for how in (("f",), ("f", "rb"), ("f", "w"), ("f", "r+b", 0), ("new", "a")):
        taken()
        with open(*how):
            got = taken()
        print("open", got)

asyncio.run(main()) if sys.argv[1] == "ours" else blocking()
"""


@pytest.mark.parametrize("way", ["io_uring", "worker", "sync"])
def test_audit_hooks_are_told_what_os_tells_them(tmp_path: Path, way: str) -> None:
    said = []
    for who in ("theirs", "ours"):
        folder = tmp_path / who
        folder.mkdir()
        (folder / "f").write_text("x")
        environment = {**os.environ, "AIORING_METHOD": way, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-W", "ignore", "-c", AUDIT, who]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert len(said[0]) == 20
    assert said[1] == said[0]
