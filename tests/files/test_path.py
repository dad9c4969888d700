"""`aioring.Path`: what `pathlib.Path` says, awaited, on every method; folders and trees in batches, of which a cancel loses
nothing."""

from __future__ import annotations

import errno
import itertools
import os
import pathlib
import random
import shutil
import socket
import stat
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path as Plain
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioring
from aioring import Path
from tests import fuse
from tests.conftest import open_fds
from tests.harness import begin, ticks

LIGHT = True  # see conftest.py


async def taken(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def under_cancels(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """All items, while whoever waits for the next is cancelled again and again."""
    for after in itertools.cycle(range(6)):
        async with anyio.create_task_group() as group:
            one = begin(group, anext, items)
            await ticks(after)
            one.scope.cancel()
        if isinstance(one.error, StopAsyncIteration):
            return
        assert one.error is None
        if one.value is not None:
            yield one.value


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), getattr(error, "errno", None), getattr(error, "filename", None)


async def awaited_outcome(call: Callable[[], Any]) -> Any:
    try:
        return await call()
    except Exception as error:
        filename = getattr(error, "filename", None)
        return type(error), getattr(error, "errno", None), filename


@pytest.fixture
def zoo(tmp_path: Plain) -> Plain:
    """One of each kind."""
    top = tmp_path / "zoo"
    (top / "folder" / "deeper").mkdir(parents=True)
    (top / "file.txt").write_bytes(b"some text\r\nmore\n")
    (top / "folder" / "a.txt").touch()
    (top / "folder" / "deeper" / "B.TXT").touch()
    (top / "empty").mkdir()
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("file.txt")
    (top / "to folder").symlink_to("folder")
    (top / "dangling").symlink_to("nothing")
    (top / "loop").symlink_to("loop")
    (top / os.fsdecode(b"caf\xe9")).touch()
    (top / ("n" * 255)).touch()
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.open(top, os.O_RDONLY)
        try:
            unix.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    return top


def everything_in(top: Plain) -> list[Plain]:
    return [
        top, *top.rglob("*"), top / "missing", top / "missing" / "deeper", top / "file.txt" / "below", top / "loop" / "x",
        top / "nul\0", Plain("/dev/null"), Plain("/"), Plain("."), Plain(""), top / "folder" / ".." / "file.txt",
    ]  # fmt: skip


# --- its words --------------------------------------------------------------------------------------------------------


def test_it_has_all_that_anyios_has() -> None:
    missing = {name for name in dir(anyio.Path) if not name.startswith("_")} - set(dir(Path)) - {"limiter"}
    assert not missing
    assert {"walk", "copy", "copy_into", "move", "move_into"} <= set(dir(Path))
    assert issubclass(Path, os.PathLike)


def test_its_words_are_those_of_pathlib() -> None:
    rng = random.Random(1)
    words = ["a", "b.txt", "..", ".", "", "c.tar.gz", "/", "//x", "d/e", "caf\udce9", ".hidden", "x/"]
    for _ in range(500):
        parts = [rng.choice(words) for _ in range(rng.randrange(4))]
        ours, plain = Path(*parts), Plain(*parts)
        assert str(ours) == str(plain) == os.fspath(ours)
        assert ours == plain  # type: ignore[comparison-overlap]
        assert (hash(ours), bytes(ours)) == (hash(plain), bytes(plain))
        for name in ("parts", "drive", "root", "anchor", "name", "suffix", "suffixes", "stem"):
            assert getattr(ours, name) == getattr(plain, name)
        assert [str(one) for one in ours.parents] == [str(one) for one in plain.parents]
        assert str(ours.parent) == str(plain.parent)
        word = rng.choice(words)
        for made in (ours / word, ours.joinpath(word), ours / Path(word), ours.with_segments(str(ours), word)):
            assert str(made) == str(plain / word)
            assert type(made) is Path
            assert made == plain / word
        assert str(word / ours) == str(word / plain)
        assert (ours < Path(word), ours >= Path(word)) == (plain < Plain(word), plain >= Plain(word))
        for call in ("is_absolute", "as_posix"):
            assert getattr(ours, call)() == getattr(plain, call)()
        for call, arg in (("with_name", "n"), ("with_stem", "s"), ("with_suffix", ".z"), ("relative_to", word),
                          ("is_relative_to", word), ("match", "*.txt")):  # fmt: skip
            here, there = outcome(lambda: getattr(ours, call)(arg)), outcome(lambda: getattr(plain, call)(arg))  # noqa: B023
            assert here == there or str(here) == str(there)
    assert repr(Path("/a") / "b") == "Path('/a/b')"
    assert Path(Path("/a")) / Plain("b") == Plain("/a/b")
    with pytest.raises(ValueError, match="non-empty suffix"):
        Path("/a.txt").with_stem("")


def test_what_comes_of_a_path_is_of_its_kind_and_has_its_ring() -> None:
    class Mine(Path):
        __slots__ = ()

    ring = aioring.Ring()
    mine = Mine("/a", ring=ring) / "b"
    assert type(mine) is Mine
    assert mine.parent._ring is mine.with_name("c")._ring is ("x" / mine)._ring is ring


# --- asking -----------------------------------------------------------------------------------------------------------


async def test_questions_are_answered_as_pathlib_answers_them(ring: Any, zoo: Plain) -> None:
    for plain in everything_in(zoo):
        path = Path(plain, ring=ring)
        for name in (
            "exists", "is_dir", "is_file", "is_symlink", "is_fifo", "is_socket", "is_block_device", "is_char_device",
            "is_mount", "stat", "lstat", "owner", "readlink", "resolve", "absolute", "expanduser",
        ):  # fmt: skip
            asked = getattr(plain, name)
            if name == "is_mount":
                asked = partial(os.path.ismount, plain)  # (pathlib's own is wrong of "." before Python 3.12)
            theirs = outcome(asked)
            ours = await awaited_outcome(getattr(path, name))
            if isinstance(theirs, os.stat_result):
                assert tuple(ours) == tuple(theirs), (plain, name)
            elif isinstance(theirs, tuple) and theirs[0] is not type(ours):
                assert ours[:2] == theirs[:2], (plain, name)
                assert ours[2] is None or os.fspath(ours[2]) == os.fspath(theirs[2]), (plain, name)
            else:
                assert ours == theirs, (plain, name)
        assert not await path.is_junction()
    link = Path(zoo / "link", ring=ring)
    assert stat.S_ISLNK((await link.stat(follow_symlinks=False)).st_mode)
    assert not await Path(zoo / "dangling", ring=ring).exists()
    assert await Path(zoo / "dangling", ring=ring).exists(follow_symlinks=False)
    assert not await link.is_file(follow_symlinks=False)
    assert await link.samefile(zoo / "file.txt")
    assert not await link.samefile(Path(zoo))
    assert await Path.cwd(ring=ring) == Plain.cwd()
    assert await Path.home(ring=ring) == Plain.home()


async def test_contents(ring: Any, zoo: Plain) -> None:
    path = Path(zoo, ring=ring) / "file.txt"
    assert await path.read_bytes() == b"some text\r\nmore\n"
    assert await path.read_text() == "some text\nmore\n"
    assert await path.read_text("ascii", newline="") == "some text\r\nmore\n"
    assert await path.write_text("é\n", "utf-16", newline="\r\n") == 2
    assert (zoo / "file.txt").read_bytes() == "é\r\n".encode("utf-16")
    assert await path.write_bytes(bytearray(b"new")) == 3
    async with await path.open("r+b") as file:
        assert (file._ring, await file.read()) == (ring, b"new")
    with pytest.raises(TypeError, match="data must be str"):
        await path.write_text(b"")  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        await path.write_text("x", "no such codec")
    with pytest.raises(UnicodeEncodeError):
        await path.write_text("é", "ascii")
    assert (zoo / "file.txt").read_bytes() == b"new"  # what cannot be encoded harms nothing


# --- changing ---------------------------------------------------------------------------------------------------------


def _names(top: Plain) -> dict[str, Any]:
    return {
        str(path.relative_to(top)): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            stat.S_IFMT(path.lstat().st_mode) | (0 if path.is_symlink() else path.stat().st_mode & 0o777),
        )
        for path in sorted(top.rglob("*"))
        if not path.is_fifo()
    }


STEPS: list[tuple[Any, ...]] = [
    ("mkdir",), ("mkdir", 0o700), ("mkdir", 0o777, True), ("mkdir", 0o777, True, True), ("mkdir", 0o777, False, True),
    ("rmdir",), ("unlink",), ("unlink", True), ("touch",), ("touch", 0o600, False), ("chmod", 0o640), ("lchmod", 0o600),
    ("rename", "other"), ("replace", "folder"), ("symlink_to", "file.txt"), ("hardlink_to", "file.txt"),
    ("write_bytes", b"x"), ("read_bytes",), ("rename", "missing/other"), ("copy", "copied"), ("move", "moved"),
    ("copy_into", "empty"), ("move_into", "empty"), ("copy", "folder"), ("copy", "folder/inside"),
]  # fmt: skip


@pytest.mark.skipif(sys.version_info < (3, 14), reason="pathlib has no copy and move before 3.14: see the next test")
async def test_changes_are_those_that_pathlib_makes_with_copies(ring: Any, tmp_path: Plain) -> None:
    await _changes(ring, tmp_path, STEPS)


async def test_changes_are_those_that_pathlib_makes(ring: Any, tmp_path: Plain) -> None:
    await _changes(ring, tmp_path, [step for step in STEPS if not step[0].startswith(("copy", "move"))])


async def _changes(ring: Any, tmp_path: Plain, steps: list[tuple[Any, ...]]) -> None:
    tops = [tmp_path / "ours", tmp_path / "theirs"]
    for top in tops:
        (top / "folder" / "inside").mkdir(parents=True)
        (top / "empty").mkdir()
        (top / "file.txt").write_bytes(b"file")
        (top / "link").symlink_to("file.txt")
    rng = random.Random(7)
    names = ["file.txt", "folder", "empty", "link", "new", "missing/new", "folder/inside/x", "file.txt/x", "other"]
    for _ in range(120):
        name, (call, *args) = rng.choice(names), rng.choice(steps)
        made: list[Any] = []
        for top, kind in ((tops[0], Path), (tops[1], Plain)):
            values = list(args)
            if call in ("rename", "replace", "hardlink_to", "copy", "move", "copy_into", "move_into"):
                values = [kind(top / args[0])]
            path: Any = Path(top / name, ring=ring) if kind is Path else Plain(top / name)
            got: Any
            if kind is Path:
                got = await awaited_outcome(lambda: getattr(path, call)(*values))  # noqa: B023
            else:
                got = outcome(lambda: getattr(path, call)(*values))  # noqa: B023
            if isinstance(got, tuple):
                got = got[:2]
            made.append(str(got).replace(str(top), "") if isinstance(got, Path | Plain) else got)
        assert made[0] == made[1], (name, call, args)
        assert _names(tops[0]) == _names(tops[1]), (name, call, args)


async def test_copies_and_moves(ring: Any, zoo: Plain, tmp_path: Plain) -> None:
    """On every Python; on 3.14 they are pathlib's own."""
    top = Path(zoo, ring=ring)
    os.utime(zoo / "file.txt", (1, 1))
    (zoo / "file.txt").chmod(0o640)
    (zoo / "fifo").unlink()
    (zoo / "socket").unlink()
    (zoo / "loop").unlink()
    (zoo / "dangling").unlink()
    to = await (top / "file.txt").copy(tmp_path / "copied")
    assert type(to) is Path
    assert str(to) == str(tmp_path / "copied")
    assert to._ring is ring
    assert (tmp_path / "copied").read_bytes() == (zoo / "file.txt").read_bytes()
    assert (tmp_path / "copied").stat().st_mtime > 1
    await (top / "file.txt").copy(tmp_path / "copied", preserve_metadata=True)
    status = (tmp_path / "copied").stat()
    assert (status.st_mtime, status.st_mode & 0o777) == (1, 0o640)
    await (top / "link").copy(tmp_path / "followed")
    assert not (tmp_path / "followed").is_symlink()
    await (top / "link").copy(tmp_path / "kept", follow_symlinks=False)
    assert os.readlink(tmp_path / "kept") == "file.txt"

    await top.copy(tmp_path / "tree", follow_symlinks=False)
    assert _names(tmp_path / "tree").keys() == _names(zoo).keys()
    with pytest.raises(FileExistsError):
        await top.copy(tmp_path / "tree")
    for target in (zoo / "folder" / "inside", zoo):
        with pytest.raises(OSError) as caught:
            await top.copy(target)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="same"):
        await (top / "file.txt").copy(zoo / "link")
    assert await (top / "file.txt").copy_into(tmp_path / "tree" / "empty") == tmp_path / "tree" / "empty" / "file.txt"
    with pytest.raises(FileNotFoundError):
        await (top / "missing").copy(tmp_path / "x")
    with pytest.raises(ValueError, match="empty name"):
        await Path("/", ring=ring).copy_into(tmp_path)

    before = _names(tmp_path / "tree")
    assert await Path(tmp_path / "tree", ring=ring).move(tmp_path / "moved") == tmp_path / "moved"
    assert _names(tmp_path / "moved") == before
    assert not (tmp_path / "tree").exists()
    assert await (top / "file.txt").move_into(tmp_path / "moved" / "empty") == tmp_path / "moved" / "empty" / "file.txt"
    assert not (zoo / "file.txt").exists()
    os.link(tmp_path / "copied", tmp_path / "linked")
    with pytest.raises(OSError, match="same"):
        await Path(tmp_path / "copied", ring=ring).move(tmp_path / "linked")  # rename(2) would do nothing


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no second file system to move to")
async def test_a_move_to_another_file_system(ring: Any, zoo: Plain) -> None:
    for name in ("fifo", "socket", "loop"):
        (zoo / name).unlink()
    before = _names(zoo)
    other = Plain("/dev/shm", f"aioring-{os.getpid()}-{zoo.parent.name}")
    if other.parent.stat().st_dev == zoo.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    try:
        await Path(zoo, ring=ring).move(other)
        assert _names(other) == before
        assert not zoo.exists()
    finally:
        shutil.rmtree(other, ignore_errors=True)


async def test_a_change_is_over_when_its_cancelled_caller_goes_on(ring: Any, tmp_path: Plain) -> None:
    """A chmod, a copy: nothing goes on behind the back of who was cancelled."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(30):
        (source / str(i)).write_bytes(bytes(200_000))
    for after in (0, 1, 2, 4, 8, 20):
        target = tmp_path / f"target{after}"
        async with anyio.create_task_group() as group:
            copying = begin(group, Path(source, ring=ring).copy, target)
            await ticks(after)
            copying.scope.cancel()
        found = sorted(target.rglob("*"))
        await anyio.sleep(0.002)
        assert sorted(target.rglob("*")) == found
        assert len(found) in (0, 30)  # taken back, or to its end


# --- folders ----------------------------------------------------------------------------------------------------------


async def test_folders_are_listed(ring: Any, zoo: Plain) -> None:
    top = Path(zoo, ring=ring)
    found = await taken(top.iterdir())
    assert sorted(found) == sorted(zoo.iterdir())
    assert {type(path) for path in found} == {Path}
    os.chdir(zoo)
    try:
        assert sorted(map(str, await taken(Path(ring=ring).iterdir()))) == sorted(map(str, Plain().iterdir()))
    finally:
        os.chdir("/")
    for name in ("missing", "file.txt"):
        with pytest.raises(OSError) as caught:
            await taken((top / name).iterdir())
        assert caught.value.filename == str(zoo / name)
    again = (top / "missing").iterdir()
    with pytest.raises(FileNotFoundError):
        await anext(again)
    with pytest.raises(StopAsyncIteration):
        await anext(again)
    for pattern in ("*", "**/*", "*.txt", "**/", "folder/*", "n" * 255, "missing/*", "**/*.txt"):
        assert sorted(await taken(top.glob(pattern))) == sorted(zoo.glob(pattern))
        assert sorted(await taken(top.rglob(pattern))) == sorted(zoo.rglob(pattern))
    with pytest.raises(ValueError, match="Unacceptable"):
        await taken(top.glob(""))
    if sys.version_info >= (3, 12):
        assert [path.name async for path in top.rglob("b.txt", case_sensitive=False)] == ["B.TXT"]
    else:
        with pytest.raises(TypeError):
            await taken(top.rglob("b.txt", case_sensitive=False))


async def test_a_cancelled_listing_loses_no_name(ring: Any, tmp_path: Plain) -> None:
    for i in range(700):
        (tmp_path / str(i)).touch()
    for how in (Path(tmp_path, ring=ring).iterdir(), Path(tmp_path, ring=ring).glob("*")):
        names = [path.name async for path in under_cancels(how)]
        assert sorted(names) == sorted(os.listdir(tmp_path))


async def test_several_tasks_share_a_listing(ring: Any, tmp_path: Plain) -> None:
    for i in range(700):
        (tmp_path / str(i)).touch()
    listing, names = Path(tmp_path, ring=ring).iterdir(), []

    async def some() -> None:
        async for path in listing:
            names.append(path.name)
            if len(names) % 100 == 0:
                await checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(some)
    assert sorted(names) == sorted(os.listdir(tmp_path))


async def test_who_leaves_a_listing_leaves_nothing_open(ring: Any, tmp_path: Plain) -> None:
    for i in range(700):
        (tmp_path / str(i)).touch()
    before = open_fds()
    listing = Path(tmp_path, ring=ring).iterdir()
    async for _ in listing:
        break
    assert open_fds() != before
    del listing, _
    assert open_fds() == before
    listing = Path(tmp_path, ring=ring).iterdir()
    await anext(listing)
    await listing.aclose()  # type: ignore[attr-defined]
    assert open_fds() == before
    with pytest.raises(StopAsyncIteration):
        await anext(listing)
    async with anyio.create_task_group() as group:
        listing = Path(tmp_path, ring=ring).iterdir()
        first = begin(group, anext, listing)
        await ticks(1)
        first.scope.cancel()
    del listing, first
    await anyio.sleep(0.02)
    assert open_fds() == before


def test_a_large_folder_takes_little_memory(tmp_path: Plain) -> None:
    """(A million names: benchmarks/paths.py --million.)"""
    for i in range(8_000):
        os.mknod(tmp_path / f"{i:0100}")

    async def main() -> None:
        listing = Path(tmp_path).iterdir()
        await anext(listing)
        tracemalloc.start()
        try:
            n = 1
            async for _ in listing:
                n += 1
            assert n == 8_000
            assert tracemalloc.get_traced_memory()[1] < 500_000  # all names take 1.2 MB, all paths 4
        finally:
            tracemalloc.stop()

    anyio.run(main)


async def test_a_listing_that_is_closed_while_it_is_read_is_over(ring: Any, tmp_path: Plain) -> None:
    for i in range(700):
        (tmp_path / str(i)).touch()
    before = open_fds()
    for after in range(4):
        listing: Any = Path(tmp_path, ring=ring).iterdir()
        async with anyio.create_task_group() as group:
            first = begin(group, anext, listing)
            await ticks(after)
            first.scope.cancel()
        await listing.aclose()
        await anyio.sleep(0.02)
        assert await taken(listing) == []
        assert open_fds() == before


# --- trees ------------------------------------------------------------------------------------------------------------


def walked(top: Plain, *args: Any) -> list[tuple[Plain, list[str], list[str]]]:
    """What pathlib's walk gives, in the same order; before Python 3.12 it had none."""
    if sys.version_info >= (3, 12):
        return [(root, folders, files) for root, folders, files in top.walk(*args)]
    given: tuple[Any, ...] = (*args, *(True, None, False)[len(args) :])
    top_down, on_error, follow = given
    found: list[Any] = []

    def into(folder: Plain) -> None:
        folders, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=follow) else files).append(entry.name)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            return
        if top_down:
            found.append((folder, folders, files))
        for name in folders:
            into(folder / name)
        if not top_down:
            found.append((folder, folders, files))

    into(top)
    return found


def grow(top: Plain, seed: int) -> None:
    rng = random.Random(seed)
    folders = [top]
    for i in range(60):
        above = rng.choice(folders)
        if rng.random() < 0.4:
            (above / f"folder{i}").mkdir()
            folders.append(above / f"folder{i}")
        elif rng.random() < 0.2:
            (above / f"link{i}").symlink_to(rng.choice(folders) if rng.random() < 0.3 else "nothing")
        else:
            (above / f"file{i}").touch()


@pytest.mark.parametrize("old", [True, False])
async def test_a_tree_is_walked_as_pathlib_walks_it(ring: Any, tmp_path: Plain, old: bool, told_apart: None) -> None:
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        grow(tmp_path / str(seed), seed)
    if old:
        await anyio.sleep(0.06)
    for seed in range(6):
        top = tmp_path / str(seed)
        for top_down in (True, False):
            assert await taken(Path(top, ring=ring).walk(top_down)) == walked(top, top_down)
    jobs = ring.stats().operations["run"].count
    folders = 2 * sum(len(walked(tmp_path / str(seed))) for seed in range(6))
    if old and ring._at_once:
        assert jobs < folders / 3  # they were read ahead
    elif not old and not ring._at_once:
        assert jobs == folders
    os.chdir(tmp_path)
    try:
        found = await taken(Path("", ring=ring).walk())
        assert found == walked(Plain(""))
        assert {type(root) for root, _, _ in found} == {Path}
    finally:
        os.chdir("/")


async def test_a_walk_may_follow_links(ring: Any, tmp_path: Plain) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "link").symlink_to("a")
    for top_down in (True, False):
        for follow in (True, False):
            ours = await taken(Path(tmp_path, ring=ring).walk(top_down, None, follow))
            assert ours == walked(tmp_path, top_down, None, follow)


async def test_who_walks_decides_where_it_goes(ring: Any, tmp_path: Plain) -> None:
    grow(tmp_path, 3)
    ours, theirs = [], []
    async for root, folders, files in Path(tmp_path, ring=ring).walk():
        ours.append((root, tuple(folders), tuple(files)))
        folders[:] = [name for name in reversed(folders) if int(name[6:]) % 3]
    for plain, folders, files in os.walk(tmp_path):
        links = [name for name in folders if os.path.islink(os.path.join(plain, name))]
        folders[:] = [name for name in folders if name not in links]
        theirs.append((Plain(plain), frozenset(folders), frozenset((*files, *links))))
        folders[:] = [name for name in reversed(folders) if int(name[6:]) % 3]
    assert [(Plain(root), frozenset(folders), frozenset(files)) for root, folders, files in ours] == theirs


@pytest.fixture
def told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders count as unchanged sooner: the file systems of the tests keep times to a tick of the kernel's clock."""
    monkeypatch.setattr("aioring.files.walk._COARSE", 30_000_000)


@pytest.mark.parametrize("old", [True, False])
async def test_a_walk_sees_what_was_made_and_removed_before_its_turn(
    ring: Any, tmp_path: Plain, old: bool, told_apart: None
) -> None:
    """Which it may have read ahead."""
    for i in range(20):
        (tmp_path / f"{i:02}").mkdir()
        (tmp_path / f"{i:02}" / "first").touch()
    if old:
        await anyio.sleep(0.06)
    seen: dict[str, list[str]] = {}
    errors: list[OSError] = []
    async for root, folders, files in Path(tmp_path, ring=ring).walk(on_error=errors.append):
        seen[root.name] = files
        folders.sort()
        if root.name.isdigit() and int(root.name) < 18:
            number = int(root.name)
            if number != 6:
                (tmp_path / f"{number + 1:02}" / "made").touch()
            if number == 5:
                shutil.rmtree(tmp_path / "07")
                (tmp_path / "10" / "new folder").mkdir()
                (tmp_path / "10" / "new folder" / "inside").touch()
    assert "07" not in seen
    assert [error.filename for error in errors] == [str(tmp_path / "07")]
    assert seen["new folder"] == ["inside"]
    for number in range(1, 19):
        if number not in (7, 8):
            assert sorted(seen[f"{number:02}"]) == ["first", "made"]


async def test_what_cannot_be_read_is_told(ring: Any, tmp_path: Plain) -> None:
    assert await taken(Path(tmp_path / "missing", ring=ring).walk()) == []
    errors: list[OSError] = []
    assert await taken(Path(tmp_path / "missing", ring=ring).walk(True, errors.append)) == []
    assert [(error.errno, error.filename) for error in errors] == [(errno.ENOENT, str(tmp_path / "missing"))]
    (tmp_path / "file").touch()

    def stop(error: OSError) -> None:
        raise error

    walk = Path(tmp_path / "file", ring=ring).walk(on_error=stop)
    with pytest.raises(NotADirectoryError):
        await anext(walk)
    with pytest.raises(StopAsyncIteration):
        await anext(walk)


async def test_a_cancelled_walk_loses_no_folder(ring: Any, tmp_path: Plain) -> None:
    grow(tmp_path, 9)
    for top_down in (True, False):
        walk = under_cancels(Path(tmp_path, ring=ring).walk(top_down))
        assert [item async for item in walk] == walked(tmp_path, top_down)


async def test_a_walk_of_what_is_removed_behind_it(ring: Any, tmp_path: Plain) -> None:
    """The tree is removed from below, as the documentation of `os.walk` shows it."""
    top = tmp_path / "top"
    top.mkdir()
    grow(top, 4)
    async for root, folders, files in Path(top, ring=ring).walk(top_down=False):
        for name in files:
            await (root / name).unlink()
        for name in folders:
            await (root / name).rmdir()
    assert os.listdir(top) == []


# --- who has no time --------------------------------------------------------------------------------------------------


async def test_a_disk_that_takes_its_time_does_not_stop_the_loop(ring: Any, slow_file: Plain) -> None:
    if ring.method in ("scripted", "sync"):
        pytest.skip("it carries out on the loop's thread what takes its time")
    late: list[float] = []

    async def ticker() -> None:
        while True:
            begun = time.perf_counter()
            await anyio.sleep(0.005)
            late.append(time.perf_counter() - begun)

    async with anyio.create_task_group() as group:
        group.start_soon(ticker)
        await Path(slow_file, ring=ring).stat()
        begun = time.perf_counter()
        assert await taken(Path(slow_file.parent, ring=ring).iterdir()) == []
        assert len(await taken(Path(slow_file.parent, ring=ring).walk())) == 1
        assert await Path(slow_file.parent / "slow", ring=ring).exists()  # it has every name
        assert time.perf_counter() - begun > 3 * fuse.DELAY - 0.1
        group.cancel_scope.cancel()
    assert max(late) < 0.3


def test_without_a_loop_or_on_a_closed_ring_it_says_so(tmp_path: Plain) -> None:
    async def closed() -> None:
        async with aioring.Ring() as ring:
            pass
        for call in ("stat", "exists", "read_bytes", "unlink", "touch", "resolve"):
            with pytest.raises(aioring.RingClosedError):
                await getattr(Path(tmp_path, ring=ring), call)()
        for listing in (Path(tmp_path, ring=ring).iterdir(), Path(tmp_path, ring=ring).walk()):
            with pytest.raises(aioring.RingClosedError):
                await anext(listing)

    anyio.run(closed)
    assert threading.active_count() < 50
    assert pathlib.Path(tmp_path) == Path(tmp_path)
