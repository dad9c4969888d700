"""Copying files and trees: what comes out is what was there, whole or not at all, whichever way the bytes went; and nothing
is left of a copy that was cancelled, or failed."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring import RingClosedError, copy_file, copy_tree
from aioring.testing import Cut, Disk, Recording, Scripted, Trace, assert_synced, check
from tests.conftest import pattern
from tests.harness import SOON, Held, Outcome, all_over, begin, open_in, small_disk, ticks

REFLINKS = ["auto", "never"]
REAL = ("io_uring", "linux_aio", "worker", "sync")
OLD = b"what was there before" * 100
trees: Any = importlib.import_module("aioring.streams.copy_tree")  # (the package has the functions under these names)
files: Any = importlib.import_module("aioring.streams.copy_file")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


LIGHT = True  # see conftest.py
ONCE = [("io_uring", True), ("worker", True), ("scripted", False)]  # the kernel, threads, and anything between


# It does not ask the page cache: once for each of these is enough.
@pytest.fixture(params=ONCE, ids=[method for method, _ in ONCE])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(pattern(300_001))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "target"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", 16384)
    monkeypatch.setattr(files, "_PIECE", 16384)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that each user can reach (pytest's are its own user's)."""
    with tempfile.TemporaryDirectory(prefix="aioring-test-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def quiet(seed: int = 1, **options: Any) -> Scripted:
    return Scripted(seed, short=0, soft=0, **options)


def method_of(name: str | int, trace: Trace) -> Any:
    return Recording(name, trace) if isinstance(name, str) else Scripted(name, trace=trace)


def submitted(trace: Trace, *operations: str) -> int:
    return sum(trace.count("submitted", operation) for operation in operations)


def debris(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".aioring-*")]


async def nothing_left(*folders: Path) -> None:
    """What was asked to be closed is closed soon; what was removed is gone at once."""
    for folder in folders:
        assert not debris(folder)
    with anyio.fail_after(0.5):
        while any(open_in(folder) for folder in folders):
            await anyio.sleep(0.001)
    for folder in folders:
        assert not debris(folder)


def with_holes(path: Path, size: int = 4 << 20) -> bytes:
    """Data at the beginning, in the middle, and before the hole at the end."""
    with open(path, "wb") as file:
        for at, n in ((0, 4096), (1 << 20, 70_000), ((3 << 20) + 5, 10)):
            file.seek(at)
            file.write(pattern(n))
        file.truncate(size)
    return path.read_bytes()


def on_the_disk(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def path_of(name: Any) -> Path:
    return Path(os.fsdecode(name))


def attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith("user.")}


def as_somebody(program: str, *arguments: Path) -> str:
    """Run it as a user who may do nothing special."""
    root = Path(aioring.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="aioring-library-") as library:
        os.chmod(library, 0o755)
        shutil.copytree(root / "aioring", Path(library) / "aioring", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", library], check=True)
        path = os.pathsep.join([library, *(place for place in sys.path if "site-packages" in place)])
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, *map(str, arguments)],
                capture_output=True,
                text=True,
                user=65534,
                group=65534,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except PermissionError:
            pytest.skip("this interpreter is only for its owner")
    if "PermissionError" in done.stderr and "pyvenv" in done.stderr:
        pytest.skip("this interpreter is only for its owner")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what the copy has ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflink", REFLINKS)
@pytest.mark.parametrize("there", [False, True])
async def test_the_copy_has_what_the_source_has(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, there: bool, small_chunks: None
) -> None:
    copy = tmp_path / "copy"
    if there:
        copy.write_bytes(OLD)
    assert await copy_file(source, copy, reflink=reflink, ring=ring) == 300_001
    assert copy.read_bytes() == source.read_bytes() == pattern(300_001)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
    assert copy.stat().st_ino != source.stat().st_ino
    await nothing_left(tmp_path)


@pytest.mark.parametrize("direct", [True, "try"])
@pytest.mark.parametrize("size", [0, 4096, 300_001])
async def test_past_the_page_cache(
    ring: aioring.Ring, tmp_path: Path, direct: Any, size: int, small_chunks: None
) -> None:
    (tmp_path / "a").write_bytes(pattern(size))
    assert await copy_file(tmp_path / "a", tmp_path / "b", direct=direct, ring=ring) == size
    assert (tmp_path / "b").read_bytes() == pattern(size)
    await nothing_left(tmp_path)


@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 60_000)), max_size=6),
    reflink=st.sampled_from(REFLINKS),
    direct=st.sampled_from([False, "try"]),
    sparse=st.booleans(),
    durable=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
async def test_whatever_the_file_is_like(
    anyio_backend: Any,
    tmp_path: Path,
    small_chunks: None,
    pieces: Any,
    reflink: Any,
    direct: Any,
    sparse: bool,
    durable: bool,
    seed: int,
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with open(a, "wb") as file:
        for full, n in pieces:
            if full:
                file.write(pattern(n))
            else:
                file.seek(n, os.SEEK_CUR)
        file.truncate(file.tell())
    async with aioring.Ring(method=Scripted(seed)) as ring:
        size = await copy_file(a, b, reflink=reflink, direct=direct, sparse=sparse, durable=durable, ring=ring)
    assert size == a.stat().st_size
    assert b.read_bytes() == a.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_an_empty_file(ring: aioring.Ring, tmp_path: Path, target: Path, reflink: Any) -> None:
    (tmp_path / "empty").write_bytes(b"")
    told: list[tuple[int, int]] = []
    report = partial(_report, told)
    assert await copy_file(tmp_path / "empty", target, reflink=reflink, progress=report, ring=ring) == 0
    assert target.read_bytes() == b""
    assert set(told) == {(0, 0)}


@pytest.mark.parametrize("direct", [False, "try"])
@pytest.mark.parametrize("reflink", REFLINKS)
async def test_holes_stay_holes(ring: aioring.Ring, tmp_path: Path, reflink: Any, direct: Any) -> None:
    whole = with_holes(tmp_path / "a")
    before = on_the_disk(tmp_path / "a")
    if before >= len(whole):
        pytest.skip("this file system has no holes")
    assert await copy_file(tmp_path / "a", tmp_path / "b", reflink=reflink, direct=direct, ring=ring) == len(whole)
    assert (tmp_path / "b").read_bytes() == whole
    assert on_the_disk(tmp_path / "b") <= before


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_holes_are_filled_where_that_is_asked(ring: aioring.Ring, tmp_path: Path, reflink: Any) -> None:
    whole = with_holes(tmp_path / "a")
    await copy_file(tmp_path / "a", tmp_path / "b", reflink=reflink, sparse=False, ring=ring)
    assert (tmp_path / "b").read_bytes() == whole
    assert on_the_disk(tmp_path / "b") >= len(whole)


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_nothing_but_a_hole(ring: aioring.Ring, tmp_path: Path, reflink: Any) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 1 << 40)
    assert await copy_file(tmp_path / "a", tmp_path / "b", reflink=reflink, ring=ring) == 1 << 40
    assert (tmp_path / "b").stat().st_size == 1 << 40
    assert (tmp_path / "b").stat().st_blocks == 0


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_from_one_file_system_to_another(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, small_chunks: None
) -> None:
    with small_disk(tmp_path / "disk", "8m") as where:
        await copy_file(source, where / "there", reflink=reflink, ring=ring)
        await copy_file(where / "there", tmp_path / "back", reflink=reflink, ring=ring)
        assert (where / "there").read_bytes() == pattern(300_001)
        await nothing_left(where)
    assert (tmp_path / "back").read_bytes() == pattern(300_001)


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_file_of_proc_has_no_size_and_something_to_read(
    ring: aioring.Ring, tmp_path: Path, reflink: Any
) -> None:
    proc = Path("/proc/self/mounts")
    assert proc.stat().st_size == 0
    n = await copy_file(proc, tmp_path / "b", reflink=reflink, ring=ring)
    assert (tmp_path / "b").read_bytes() == proc.read_bytes()
    assert n == (tmp_path / "b").stat().st_size > 0


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_file_that_says_it_is_longer_than_it_is(ring: aioring.Ring, tmp_path: Path, reflink: Any) -> None:
    """Those in /sys say they have a page of memory, and have a line."""
    sys_file = Path("/sys/class/net/lo/mtu")
    if not sys_file.exists() or sys_file.stat().st_size <= len(sys_file.read_bytes()):
        pytest.skip("no such file here")
    n = await copy_file(sys_file, tmp_path / "b", reflink=reflink, preserve=False, ring=ring)
    assert (tmp_path / "b").read_bytes() == sys_file.read_bytes()
    assert n == len(sys_file.read_bytes())


async def test_paths_of_all_kinds(
    ring: aioring.Ring, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = os.fsencode(tmp_path) + b"/\xff\xfe n\xc3\xa4me"
    for a, b in (
        ("source", "relative"),
        (b"source", b"bytes"),
        (source, "mixed"),
        (os.fsencode(source), tmp_path / "mixed too"),
        ("source", odd),
        (odd, "./from odd"),
        ("source", "n" * 255),
    ):
        assert await copy_file(a, b, ring=ring) == 300_001
        assert path_of(b).read_bytes() == pattern(300_001)
    assert not debris(tmp_path)


async def test_a_link_at_the_target_stays_one(ring: aioring.Ring, source: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, other, dangling = tmp_path / "link", tmp_path / "other", tmp_path / "folder" / "dangling"
    link.symlink_to("target")
    other.symlink_to(source)
    dangling.symlink_to("../new")
    await copy_file(other, link, ring=ring)
    assert link.is_symlink()
    assert target.read_bytes() == pattern(300_001)
    assert not target.is_symlink()
    await copy_file(source, dangling, ring=ring)
    assert dangling.is_symlink()
    assert (tmp_path / "new").read_bytes() == pattern(300_001)


async def test_another_name_of_the_target_keeps_the_old(
    ring: aioring.Ring, source: Path, target: Path, tmp_path: Path
) -> None:
    os.link(target, tmp_path / "other name")
    with open(target, "rb") as reader:
        await copy_file(source, target, ring=ring)
        assert reader.read() == OLD
    assert (tmp_path / "other name").read_bytes() == OLD
    assert target.read_bytes() == pattern(300_001)


async def test_by_the_rings_of_the_loop(anyio_backend: Any, source: Path, tmp_path: Path) -> None:
    assert await copy_file(source, tmp_path / "b") == 300_001
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"12345")
    assert await copy_tree(tmp_path / "tree", tmp_path / "copy") == 5
    await aioring.get_ring().aclose()


async def test_many_at_once_to_one_place(ring: aioring.Ring, tmp_path: Path, small_chunks: None) -> None:
    """Whichever is last, it is one of them, whole."""
    target = tmp_path / "target"
    whole = [bytes([65 + n]) * (50_000 + n) for n in range(6)]
    for n, data in enumerate(whole):
        (tmp_path / f"{n}").write_bytes(data)
    async with anyio.create_task_group() as group:
        some = [begin(group, partial(copy_file, ring=ring), tmp_path / f"{n}", target) for n in range(6)]
    assert [one.error for one in some] == [None] * 6
    assert target.read_bytes() in whole
    await nothing_left(tmp_path)


# --- which way --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REAL, 1])
async def test_never_goes_by_reads_and_writes(
    anyio_backend: Any, source: Path, tmp_path: Path, name: str | int, small_chunks: None
) -> None:
    for reflink in ("never", False):
        trace = Trace(data=False)
        async with aioring.Ring(method=method_of(name, trace), page_cache_first=False) as ring:
            await copy_file(source, tmp_path / "b", reflink=reflink, ring=ring)  # type: ignore[arg-type]
        assert submitted(trace, "read", "readinto", "readv") >= 4
        assert submitted(trace, "write", "writev") >= 4
        assert sum(e.length for e in trace if e.what == "submitted" and e.operation == "write") >= 300_001


async def test_by_the_kernel_nothing_is_read_here(anyio_backend: Any, source: Path, tmp_path: Path) -> None:
    if not hasattr(os, "copy_file_range"):
        pytest.skip("not here")
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        await copy_file(source, tmp_path / "b", ring=ring)
    assert not submitted(trace, "read", "readinto", "readv", "write", "writev")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
async def test_where_the_kernel_does_not_copy_streams_do(
    anyio_backend: Any, source: Path, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(files, "_clone", refuse)
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        await copy_file(source, tmp_path / "b", ring=ring)
    assert (tmp_path / "b").read_bytes() == pattern(300_001)
    assert submitted(trace, "write") >= 1


@pytest.mark.parametrize(("reflink", "direct"), [("always", False), (True, "try"), ("always", True)])
async def test_always_or_not_at_all(
    ring: aioring.Ring, source: Path, target: Path, tmp_path: Path, reflink: Any, direct: Any
) -> None:
    """Whatever else is asked for: bytes are not copied behind the back of who wants to share them."""
    with small_disk(tmp_path / "disk", "8m") as where:
        (where / "target").write_bytes(OLD)
        with pytest.raises((OSError, ValueError)) as raised:
            await copy_file(source, where / "target", reflink=reflink, direct=direct, ring=ring)
        if isinstance(raised.value, OSError):
            assert raised.value.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.EINVAL)
            assert any("share" in note for note in raised.value.__notes__)
        assert (where / "target").read_bytes() == OLD
        await nothing_left(where)


async def test_where_blocks_are_shared_the_rest_holds_too(
    anyio_backend: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(btrfs, xfs: a clone has all that the source has by then, and its holes.)"""

    def clone(source: Any, target: Any) -> None:
        with source as from_, target as to, open(f"/proc/self/fd/{from_}", "rb") as file:
            os.pwrite(to, file.read(), 0)

    def grow(done: int, total: int) -> None:
        if not done:
            with open(source, "ab") as file:
                file.write(b"more")

    monkeypatch.setattr(files, "_clone", clone)
    async with aioring.Ring(method=quiet()) as ring:
        n = await copy_file(source, tmp_path / "b", reflink="always", progress=grow, ring=ring)
    assert n == (tmp_path / "b").stat().st_size
    assert (tmp_path / "b").read_bytes().startswith(pattern(300_001))


async def test_a_clone_is_no_copy_without_holes(
    anyio_backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What FICLONE shares are the holes as well: not where none are wanted."""
    whole = with_holes(tmp_path / "a")

    def clone(source: Any, target: Any) -> None:
        with source, target as to:
            os.truncate(to, len(whole))
            for at, n in ((0, 4096), (1 << 20, 70_000), ((3 << 20) + 5, 10)):
                os.pwrite(to, whole[at : at + n], at)

    monkeypatch.setattr(files, "_clone", clone)
    async with aioring.Ring(method=quiet()) as ring:
        await copy_file(tmp_path / "a", tmp_path / "b", sparse=False, ring=ring)
    assert (tmp_path / "b").read_bytes() == whole
    assert on_the_disk(tmp_path / "b") >= len(whole)


# --- what else it keeps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_it_keeps_what_cp_a_keeps(ring: aioring.Ring, source: Path, target: Path, reflink: Any) -> None:
    os.setxattr(source, "user.aioring", b"of the source")
    os.setxattr(target, "user.old", b"of the target")
    source.chmod(0o6751)
    if os.geteuid() == 0:
        os.chown(source, 1234, 4321)
        source.chmod(0o6751)
    os.utime(source, ns=(1_000_000_001_000_000_002, 1_100_000_001_000_000_003))
    was = source.stat()
    await copy_file(source, target, reflink=reflink, ring=ring)
    now = target.stat()
    assert oct(now.st_mode) == oct(was.st_mode)
    assert (now.st_uid, now.st_gid, now.st_mtime_ns) == (was.st_uid, was.st_gid, was.st_mtime_ns)
    assert now.st_atime_ns == was.st_atime_ns
    assert attributes(target) == {"user.aioring": b"of the source"}


async def test_or_the_target_keeps_its_own(ring: aioring.Ring, source: Path, target: Path, tmp_path: Path) -> None:
    os.setxattr(source, "user.aioring", b"of the source")
    source.chmod(0o700)
    target.chmod(0o640)
    os.utime(source, (1, 1))
    await copy_file(source, target, preserve=False, ring=ring)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_mtime > 1_000_000_000
    assert "user.aioring" not in attributes(target)
    mask = os.umask(0o027)
    try:
        await copy_file(source, tmp_path / "new", preserve=False, ring=ring)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@as_root
async def test_nobody_gets_a_program_of_roots(ring: aioring.Ring, source: Path, target: Path) -> None:
    """The target's mode is kept: with its owner, or else without setuid."""
    os.chown(target, 1234, 1234)
    target.chmod(0o6755)
    await copy_file(source, target, preserve=False, ring=ring)
    now = target.stat()
    if now.st_mode & stat.S_ISUID:
        assert now.st_uid == 1234
    if now.st_mode & stat.S_ISGID:
        assert now.st_gid == 1234
    assert stat.S_IMODE(now.st_mode) & 0o777 == 0o755


@as_root
def test_what_a_user_may_not_do(everybodys: Path) -> None:
    """Owners are kept as far as that is allowed, and setuid not for somebody else's account."""
    folder = everybodys
    for name, mode, owner in (("hers", 0o4755, 1234), ("secret", 0o600, 1234), ("shut", 0o444, 1234)):
        (folder / name).write_bytes(b"data of " + name.encode())
        os.chown(folder / name, owner, owner)
        (folder / name).chmod(mode)
    (folder / "closed").mkdir()
    (folder / "closed" / "file").write_bytes(OLD)
    (folder / "closed").chmod(0o755)
    done = as_somebody(
        """
import asyncio, os, sys
from aioring import copy_file
os.chdir(sys.argv[1])

async def told(*names):
    try:
        print(await copy_file(*names))
    except OSError as error:
        print(type(error).__name__, error.filename, error.filename2)

async def main():
    await told("hers", "mine")
    await told("secret", "mine too")
    await told("hers", "shut")
    await told("hers", "closed/new")
    await told("hers", "closed/file")

asyncio.run(main())
""",
        folder,
    )
    assert done.splitlines() == [
        "12",
        "PermissionError secret None",
        "PermissionError shut None",
        "PermissionError closed/new None",
        "PermissionError closed/file None",
    ]
    mine = (folder / "mine").stat()
    assert (stat.S_IMODE(mine.st_mode), mine.st_uid) == (0o755, 65534)
    assert not debris(folder)


# --- what it tells ----------------------------------------------------------------------------------------------------


def _report(told: list[tuple[int, int]], done: int, total: int) -> None:
    told.append((done, total))


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_progress_is_told_in_bytes(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, small_chunks: None
) -> None:
    told: list[tuple[int, int]] = []
    here = threading.get_ident()

    def report(done: int, total: int) -> None:
        assert threading.get_ident() == here
        assert not (tmp_path / "b").exists()
        _report(told, done, total)

    await copy_file(source, tmp_path / "b", reflink=reflink, progress=report, ring=ring)
    assert told[0] == (0, 300_001)
    assert told[-1] == (300_001, 300_001)
    assert told == sorted(told)
    assert len(told) >= 15
    assert {total for _, total in told} == {300_001}


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_progress_comes_to_its_end_where_there_are_holes(
    ring: aioring.Ring, tmp_path: Path, reflink: Any
) -> None:
    told: list[tuple[int, int]] = []
    whole = with_holes(tmp_path / "a")
    await copy_file(tmp_path / "a", tmp_path / "b", reflink=reflink, progress=partial(_report, told), ring=ring)
    assert told == sorted(told)
    assert told[-1] == (len(whole), len(whole))


@pytest.mark.parametrize("reflink", REFLINKS)
@pytest.mark.parametrize("at", [0, 100_000])
async def test_progress_that_raises_ends_it(
    ring: aioring.Ring, source: Path, target: Path, tmp_path: Path, reflink: Any, at: int, small_chunks: None
) -> None:
    mine = OSError(errno.EPERM, "of the program")
    calls = []

    def report(done: int, _: int) -> None:
        if done >= at:
            calls.append(done)
            raise mine

    with pytest.raises(OSError) as raised:
        await copy_file(source, target, reflink=reflink, progress=report, ring=ring)
    assert raised.value is mine
    assert len(calls) == 1
    assert target.read_bytes() == OLD
    await nothing_left(tmp_path)
    assert mine.filename is None, "an error of the program's own is not about this file"


# --- what is asked wrongly --------------------------------------------------------------------------------------------


async def test_bad_arguments(ring: aioring.Ring, source: Path, target: Path, tmp_path: Path) -> None:
    for copy in (copy_file, copy_tree):
        for wrong in ({"direct": "perhaps"}, {"reflink": "perhaps"}, {"reflink": None}):
            with pytest.raises(ValueError):
                await copy(source, target, ring=ring, **wrong)  # type: ignore[arg-type]
        for bad in (None, 5, 1.5, object()):
            with pytest.raises(TypeError):
                await copy(bad, target, ring=ring)
            with pytest.raises(TypeError):
                await copy(source, bad, ring=ring)
    with pytest.raises(ValueError, match="null"):
        await copy_file("a\0b", target, ring=ring)
    with pytest.raises(ValueError, match="null"):
        await copy_file(source, "a\0b", ring=ring)
    with pytest.raises(TypeError):
        await copy_file(source, target, progress=5, ring=ring)  # type: ignore[arg-type]
    assert target.read_bytes() == OLD
    await nothing_left(tmp_path)


async def test_both_are_the_same_file(ring: aioring.Ring, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    (tmp_path / "folder").symlink_to(tmp_path)
    for a, b in (
        ("source", "source"),
        ("source", "link"),
        ("link", "source"),
        ("source", "hard"),
        ("hard", "link"),
        ("folder/source", "source"),
    ):
        with pytest.raises(shutil.SameFileError) as raised:
            await copy_file(tmp_path / a, tmp_path / b, ring=ring)
        assert (raised.value.filename, raised.value.filename2) == (str(tmp_path / a), str(tmp_path / b))
    assert source.read_bytes() == pattern(300_001)
    await nothing_left(tmp_path)


async def test_what_is_no_regular_file(ring: aioring.Ring, source: Path, tmp_path: Path) -> None:
    fifo, folder, unix = tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(unix))
    for path, code in (
        (tmp_path / "missing", errno.ENOENT),
        (folder, errno.EISDIR),
        (fifo, errno.EINVAL),
        (unix, errno.ENXIO),
        (Path("/dev/null"), errno.EINVAL),
        (source / "below a file", errno.ENOTDIR),
    ):
        with anyio.fail_after(SOON), pytest.raises(OSError) as raised:
            await copy_file(path, tmp_path / "new", ring=ring)
        assert (raised.value.errno, raised.value.filename) == (code, str(path))
    for path, code in (
        (folder, errno.EISDIR),
        (fifo, errno.EINVAL),
        (unix, errno.EINVAL),
        (Path("/dev/null"), errno.EINVAL),
        (source / "below a file", errno.ENOTDIR),
    ):
        with anyio.fail_after(SOON), pytest.raises(OSError) as raised:
            await copy_file(tmp_path / "source", path, ring=ring)
        assert (raised.value.errno, raised.value.filename) == (code, str(path))
    (tmp_path / "loop").symlink_to("loop")
    for a, b in ((tmp_path / "loop", tmp_path / "new"), (source, tmp_path / "loop")):
        with pytest.raises(OSError) as raised:
            await copy_file(a, b, ring=ring)
        assert (raised.value.errno, raised.value.filename) == (errno.ELOOP, str(tmp_path / "loop"))
    assert not (tmp_path / "new").exists()
    await nothing_left(tmp_path)


async def test_the_name_of_the_target_is_told_where_its_folder_is_missing(
    ring: aioring.Ring, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        await copy_file(source, tmp_path / "no" / "file", ring=ring)
    assert (raised.value.filename, raised.value.filename2) == (str(tmp_path / "no" / "file"), None)
    assert str(raised.value).endswith("no/file'")  # one that was set to None is printed, too


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_source_that_cannot_be_read_is_named(
    ring: aioring.Ring, target: Path, tmp_path: Path, reflink: Any
) -> None:
    with pytest.raises(OSError, match="Input/output") as raised:
        await copy_file("/proc/self/mem", target, reflink=reflink, ring=ring)  # nothing is mapped at 0
    assert target.read_bytes() == OLD
    await nothing_left(tmp_path)
    assert raised.value.filename == "/proc/self/mem"


@pytest.mark.parametrize("reflink", REFLINKS)
@pytest.mark.parametrize("there", [False, True])
async def test_a_full_disk(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, there: bool, small_chunks: None
) -> None:
    with small_disk(tmp_path / "disk", "256k") as where:
        if there:
            (where / "file").write_bytes(OLD)
        with pytest.raises(OSError, match="No space") as raised:
            await copy_file(source, where / "file", reflink=reflink, ring=ring)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(where / "file"))
        assert (where / "file").read_bytes() == OLD if there else not (where / "file").exists()
        await nothing_left(where)
        assert os.statvfs(where).f_bfree >= 60


# --- while others write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reflink", "direct"), [("auto", False), ("never", False), ("never", "try")])
@pytest.mark.parametrize("size", [0, 50_000])
async def test_a_source_that_shrinks_meanwhile(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, size: int, direct: Any, small_chunks: None
) -> None:
    def shrink(done: int, _: int) -> None:
        if done >= 32_000:
            os.truncate(source, size)

    copy = tmp_path / "copy"
    n = await copy_file(source, copy, reflink=reflink, direct=direct, progress=shrink, ring=ring)
    data = copy.read_bytes()
    assert size <= n == len(data) < 300_001  # what had been read stays
    assert data == pattern(300_001)[:n]
    await nothing_left(tmp_path)


@pytest.mark.parametrize(("reflink", "direct"), [("auto", False), ("never", False), ("never", "try")])
@pytest.mark.parametrize("size", [0, 4000, (2 << 20) + 17, (3 << 20) + 7])
@pytest.mark.parametrize("tree", [False, True])
async def test_a_source_with_holes_that_shrinks_meanwhile(
    ring: aioring.Ring, tmp_path: Path, reflink: Any, direct: Any, size: int, tree: bool
) -> None:
    """Where it has become shorter it seems to have a hole to its former end."""
    folder = tmp_path / "from"
    folder.mkdir()
    whole = with_holes(folder / "file")

    def shrink(done: int, _: int) -> None:
        os.truncate(folder / "file", size)

    options: dict[str, Any] = {"reflink": reflink, "direct": direct, "progress": shrink, "ring": ring}
    if tree:
        n = await copy_tree(folder, tmp_path / "to", **options)
    else:
        (tmp_path / "to").mkdir()
        n = await copy_file(folder / "file", tmp_path / "to" / "file", **options)
    assert n == size
    assert (tmp_path / "to" / "file").read_bytes() == whole[:size]
    await nothing_left(tmp_path)


@pytest.mark.parametrize("size", [9_000, 600_000])
@pytest.mark.parametrize("whose", [0, 1, 2])
async def test_a_name_of_several_that_is_another_file_meanwhile(
    ring: aioring.Ring, tmp_path: Path, size: int, whose: int
) -> None:
    """An editor has saved it: the others still have what they had."""
    folder, copy = tmp_path / "from", tmp_path / "to"
    folder.mkdir()
    (folder / "a").write_bytes(pattern(size))
    os.link(folder / "a", folder / "b")
    os.link(folder / "a", folder / "c")
    names = os.listdir(folder)

    def save(done: int, _: int) -> None:
        if not done:
            (tmp_path / "new").write_bytes(b"new" * 5)
            os.rename(tmp_path / "new", folder / names[whose])

    n = await copy_tree(folder, copy, progress=save, ring=ring)
    assert {name: (copy / name).read_bytes() for name in names} == {
        name: (folder / name).read_bytes() for name in names
    }
    assert not (copy / names[whose]).samefile(copy / names[whose - 1])
    assert n == sum(
        os.stat(path).st_size for path in {os.stat(copy / name).st_ino: copy / name for name in names}.values()
    )
    await nothing_left(tmp_path)


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_source_that_shrinks_into_the_hole_at_its_beginning(
    ring: aioring.Ring, tmp_path: Path, reflink: Any
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with open(source, "wb") as file:
        file.seek(1 << 20)
        file.write(b"data")

    def shrink(done: int, _: int) -> None:
        if done or reflink == "never":  # else before it is known where the holes are
            os.truncate(source, 500_000)

    assert await copy_file(source, copy, reflink=reflink, progress=shrink, ring=ring) == 500_000
    assert copy.read_bytes() == bytes(500_000)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_half_a_copy_is_removed_whatever_modes_its_folders_have() -> None:
    """By who is not root: root needs no modes."""
    with tempfile.TemporaryDirectory() as top:
        made, elsewhere = Path(top) / "made", Path(top) / "elsewhere"
        (made / "a" / "b").mkdir(parents=True)
        elsewhere.mkdir()
        (made / "a" / "b" / "file").touch()
        (made / "a" / "link").symlink_to(elsewhere)
        for path in (top, made, made / "a", made / "a" / "b", elsewhere):
            os.chown(path, 65534, 65534)
        os.chmod(elsewhere, 0o555)
        for path, mode in ((made / "a" / "b", 0o000), (made / "a", 0o555), (made, 0o555)):
            os.chmod(path, mode)
        os.seteuid(65534)
        try:
            trees.clear(str(made))
        finally:
            os.seteuid(0)
        assert os.listdir(top) == ["elsewhere"]
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o555


def test_a_small_source_with_holes_that_shrinks_meanwhile(tmp_path: Path) -> None:
    whole = with_holes(tmp_path / "file", 4 << 20)
    copying = files.Copying(aioring.Ring(), False, "never", True, False, False)
    for size in (0, 4000, (2 << 20) + 17, (3 << 20) + 7):
        (tmp_path / "file").write_bytes(whole)
        with_holes(tmp_path / "file", 4 << 20)
        source, target = os.open(tmp_path / "file", os.O_RDONLY), os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
        try:
            status = os.fstat(source)
            os.truncate(tmp_path / "file", size)
            assert copying.small(source, target, status) == size
        finally:
            os.close(source)
            os.close(target)
        assert (tmp_path / "copy").read_bytes() == whole[:size]
        (tmp_path / "copy").unlink()


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_source_that_is_emptied_before_the_first_byte(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any
) -> None:
    def empty(done: int, _: int) -> None:
        os.truncate(source, 0)

    assert await copy_file(source, tmp_path / "copy", reflink=reflink, progress=empty, ring=ring) == 0
    assert (tmp_path / "copy").read_bytes() == b""


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_source_that_grows_meanwhile(
    ring: aioring.Ring, source: Path, tmp_path: Path, reflink: Any, small_chunks: None
) -> None:
    def grow(done: int, total: int) -> None:
        assert done <= total
        with open(source, "ab") as file:
            file.write(b"more" * 10_000)

    copy = tmp_path / "copy"
    n = await copy_file(source, copy, reflink=reflink, progress=grow, ring=ring)
    data = copy.read_bytes()
    assert n == len(data) >= 300_001
    assert source.read_bytes().startswith(data)


# --- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(
    ("operation", "at", "code", "whose"),
    [
        ("open", 1, errno.EACCES, "source"),
        ("open", 2, errno.EDQUOT, "target"),
        ("readinto", 1, errno.EIO, "source"),
        ("readinto", 4, errno.EIO, "source"),
        ("write", 1, errno.ENOSPC, "target"),
        ("write", 7, errno.EIO, "target"),
        ("link", 1, errno.ENOSPC, "target"),
        ("rename", 1, errno.EIO, "target"),
        ("fsync", 1, errno.EIO, "target"),
        ("sync_range", 1, errno.EIO, "target"),
    ],
)
async def test_whatever_fails_leaves_the_target_as_it_was(
    anyio_backend: Any,
    source: Path,
    target: Path,
    tmp_path: Path,
    operation: str,
    at: int,
    code: int,
    whose: str,
    durable: bool,
    small_chunks: None,
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    target = target.rename(where / "target")
    kernel = operation == "sync_range"
    if operation in ("fsync", "sync_range") and not durable:
        return
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(faults={(operation, at): code}, trace=trace)) as ring:
        with pytest.raises(OSError) as raised:
            await copy_file(source, target, reflink="auto" if kernel else "never", durable=durable, ring=ring)
        await nothing_left(where, tmp_path)
    error = raised.value
    assert error.errno == code
    assert target.read_bytes() == OLD
    assert os.listdir(where) == ["target"]
    assert (error.filename, error.filename2) == (str(source if whose == "source" else target), None)


@pytest.mark.parametrize(("operation", "at"), [("open", 3), ("write", 2), ("rename", 1), ("readinto", 2)])
async def test_where_there_are_no_files_without_names(
    anyio_backend: Any, source: Path, target: Path, tmp_path: Path, operation: str, at: int, small_chunks: None
) -> None:
    nameless = {("open", 2): errno.EOPNOTSUPP}
    async with aioring.Ring(method=quiet(faults=nameless)) as ring:
        await copy_file(source, tmp_path / "new", ring=ring)
    assert (tmp_path / "new").read_bytes() == pattern(300_001)
    async with aioring.Ring(method=quiet(faults={**nameless, (operation, at): errno.EIO})) as ring:
        with pytest.raises(OSError, match="Input/output") as raised:
            await copy_file(source, target, reflink="never", ring=ring)
        await nothing_left(tmp_path)
    assert target.read_bytes() == OLD
    assert ".aioring-" not in str(raised.value), "a name that nobody knows"


# --- durable ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REAL, 1, 2, 3])
async def test_what_a_power_cut_leaves_is_the_old_or_the_new(
    anyio_backend: Any, tmp_path: Path, name: str | int, small_chunks: None
) -> None:
    new = pattern(40_000)
    (tmp_path / "source").write_bytes(new)
    (tmp_path / "target").write_bytes(OLD)
    trace = Trace(tmp_path)
    async with aioring.Ring(method=method_of(name, trace), page_cache_first=False) as ring:
        await copy_file(tmp_path / "source", tmp_path / "target", reflink="never", durable=True, ring=ring)
        trace.note("copied")
    # (Of a file that is made without a name it takes the making for a change of its own, that nothing covers.)
    assert_synced(trace, "copied", lambda event, _: event.operation != "open")

    def recover(folder: Path, cut: Cut) -> None:
        found = (folder / "target").read_bytes()
        assert found in (OLD, new)
        assert found == new or not cut.noted("copied")

    assert check(trace, Disk(samples=4), recover) >= 4


@pytest.mark.parametrize("direct", [False, "try"])
@pytest.mark.parametrize("reflink", REFLINKS)
async def test_nothing_has_a_name_before_it_is_on_the_disk(
    anyio_backend: Any, source: Path, target: Path, reflink: Any, direct: Any, small_chunks: None
) -> None:
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        await copy_file(source, target, reflink=reflink, direct=direct, durable=True, ring=ring)
    order = [(e.what, e.operation) for e in trace if e.operation in ("write", "truncate", "fsync", "link", "rename")]
    first, named, last = order.index(("completed", "fsync")), order.index(("submitted", "link")), len(order)
    assert first < named < order.index(("submitted", "rename"))
    assert not {("submitted", "write"), ("submitted", "truncate")} & set(order[named:])
    before = order[:named]
    changes = [n for n, (_, operation) in enumerate(before) if operation in ("write", "truncate")]
    assert not changes or before.index(("submitted", "fsync"), changes[-1]) > changes[-1]
    assert ("submitted", "fsync") in order[order.index(("completed", "rename")) : last]
    assert target.read_bytes() == pattern(300_001)


async def test_the_folders_fsync_that_fails_is_told(anyio_backend: Any, source: Path, target: Path) -> None:
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        await copy_file(source, target, durable=True, ring=ring)
    last = submitted(trace, "fsync")
    async with aioring.Ring(method=quiet(faults={("fsync", last): errno.EIO})) as ring:
        with pytest.raises(OSError, match="Input/output"):
            await copy_file(source, target, durable=True, ring=ring)
    assert target.read_bytes() == pattern(300_001)
    await nothing_left(target.parent)


# --- cancelling and the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("reflink", REFLINKS)
async def test_cancelled_anywhere_it_leaves_nothing(
    ring: aioring.Ring, source: Path, target: Path, tmp_path: Path, reflink: Any, durable: bool, small_chunks: None
) -> None:
    for after in range(0, 64, 4 if durable else 3):
        target.write_bytes(OLD)
        async with anyio.create_task_group() as group:
            outcome = begin(group, partial(copy_file, reflink=reflink, durable=durable, ring=ring), source, target)
            await ticks(after)
            await anyio.sleep(after % 5 * 2e-4)
            outcome.scope.cancel()
        assert target.read_bytes() == (pattern(300_001) if outcome.value == 300_001 else OLD) or (
            target.read_bytes() == pattern(300_001)  # it came while the name was being changed
        )
        assert sorted(os.listdir(tmp_path)) == ["source", "target"]
    await nothing_left(tmp_path)


@pytest.mark.parametrize("nameless", [False, True])
async def test_cancelled_before_the_rename_the_target_is_as_it_was(
    anyio_backend: Any, source: Path, target: Path, tmp_path: Path, nameless: bool, small_chunks: None
) -> None:
    faults = {("open", 2): errno.EOPNOTSUPP} if nameless else None
    for after in range(0, 120, 5):
        target.write_bytes(OLD)
        trace = Trace(data=False)
        async with aioring.Ring(method=Scripted(after, faults=faults, trace=trace)) as ring:
            async with anyio.create_task_group() as group:
                outcome = begin(group, partial(copy_file, reflink="never", ring=ring), source, target)
                await ticks(after)
                outcome.scope.cancel()
            if not submitted(trace, "rename"):
                assert target.read_bytes() == OLD
                assert outcome.value is None
            assert target.read_bytes() in (OLD, pattern(300_001))
            assert sorted(os.listdir(tmp_path)) == ["source", "target"]
            await nothing_left(tmp_path)


async def test_cancelled_by_its_own_progress(
    ring: aioring.Ring, source: Path, target: Path, small_chunks: None
) -> None:
    for reflink in ("auto", "never"):
        with anyio.CancelScope() as scope:

            def report(done: int, _: int, scope: Any = scope) -> None:
                if done > 50_000:
                    scope.cancel()

            await copy_file(source, target, reflink=reflink, progress=report, ring=ring)  # type: ignore[arg-type]
        assert scope.cancelled_caught
        assert target.read_bytes() == OLD
    await nothing_left(target.parent)


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_a_copy_soon_ends_when_it_is_cancelled(
    ring: aioring.Ring, tmp_path: Path, target: Path, reflink: Any, small_chunks: None, method: str
) -> None:
    """It does not copy the rest first."""
    big = tmp_path / "big"
    big.write_bytes(bytes(8 << 20))
    reports: list[tuple[int, int]] = []
    async with anyio.create_task_group() as group:
        copying = partial(copy_file, reflink=reflink, progress=partial(_report, reports), ring=ring)
        outcome = begin(group, copying, big, target)
        with anyio.fail_after(SOON):
            while len(reports) < 3:
                await checkpoint()
        outcome.scope.cancel()
    assert reports[-1][0] < 8 << 20
    assert target.read_bytes() == OLD
    await nothing_left(tmp_path)


@pytest.mark.parametrize("what", ["file", "tree"])
@pytest.mark.parametrize("again", [1, 3])
def test_asyncio_cancels_again_while_it_cleans_up(source: Path, tmp_path: Path, what: str, again: int) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    shutil.copy(source, tmp_path / "tree" / "below" / "file")
    where = tmp_path / "where"
    where.mkdir()

    async def main(after: int) -> None:
        async with aioring.Ring(method=quiet(after, faults={("open", 2): errno.EOPNOTSUPP})) as ring:
            copying: Any = (
                copy_file(source, where / "new", reflink="never", ring=ring)
                if what == "file"
                else copy_tree(tmp_path / "tree", where / "new", ring=ring)
            )
            task = asyncio.ensure_future(copying)
            for _ in range(after):
                await asyncio.sleep(0)
            for _ in range(again + 1):
                task.cancel()
                await asyncio.sleep(0)
            try:
                await task
            except asyncio.CancelledError:
                pass
            assert [name for name in os.listdir(where) if name != "new"] == []
            await asyncio.sleep(0.001)
            assert not debris(where)
        if what == "file":
            (where / "new").unlink(missing_ok=True)
        else:
            shutil.rmtree(where / "new", ignore_errors=True)

    for after in range(2, 50, 4):
        asyncio.run(main(after))
    assert not open_in(where)


@pytest.mark.parametrize("reflink", REFLINKS)
async def test_the_ring_ends_meanwhile(
    anyio_backend: Any,
    make_ring: Callable[..., aioring.Ring],
    source: Path,
    target: Path,
    reflink: Any,
    small_chunks: None,
) -> None:
    for after in (1, 5, 12, 25, 40):
        target.write_bytes(OLD)
        async with make_ring() as ring:
            async with anyio.create_task_group() as group:
                outcome = begin(group, partial(copy_file, reflink=reflink, ring=ring), source, target)
                await ticks(after)
                await ring.aclose()
        assert outcome.error is None or isinstance(outcome.error, RingClosedError)
        assert target.read_bytes() in (OLD, pattern(300_001))
        assert not debris(target.parent)
    assert not open_in(target.parent)
    with pytest.raises(RingClosedError):
        await copy_file(source, target, ring=ring)


async def test_io_that_hangs_and_a_cancel(anyio_backend: Any, source: Path, target: Path) -> None:
    """While the kernel has the memory nobody returns; then all is cleaned up."""
    held = Held(1, short=0, soft=0)
    async with aioring.Ring(method=held) as ring:
        held.held = False
        async with anyio.create_task_group() as group:

            def hold(done: int, _: int) -> None:
                held.held = True

            outcome = begin(group, partial(copy_file, reflink="never", progress=hold, ring=ring), source, target)
            with anyio.fail_after(SOON):
                while not held.held:
                    await checkpoint()
            await ticks(5)
            outcome.scope.cancel()
            await ticks(5)
            held.let_go()
            await all_over(outcome)
        assert target.read_bytes() == OLD
        await nothing_left(target.parent)


# --- trees ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Whatever there may be in a folder."""
    top = tmp_path / "tree"
    for folder in ("a/b/c", "empty", "shut"):
        (top / folder).mkdir(parents=True)
    (top / "file").write_bytes(pattern(100_000))
    (top / "a/empty").touch()
    (top / "a/b/c/deep").write_bytes(b"deep")
    with_holes(top / "a/holes", 1 << 22)
    for number in range(12):
        (top / f"a/b/{number}").write_bytes(b"%d" % number * 1000)
    (top / "to a file").symlink_to("file")
    (top / "to a folder").symlink_to("a/b")
    (top / "dangling").symlink_to("/no/such/file")
    os.link(top / "file", top / "a/the same")
    os.link(top / "file", top / "a/b/once more")
    os.link(top / "dangling", top / "dangling too", follow_symlinks=False)
    os.mkfifo(top / "fifo")
    (top / "fifo").chmod(0o666)
    os.link(top / "fifo", top / "a/fifo")
    os.mknod(top / "socket", stat.S_IFSOCK | 0o622)
    (top / "socket").chmod(0o622)
    if os.geteuid() == 0:
        os.mknod(top / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chown(top / "a/b/3", 1234, 4321)
        os.chown(top / "empty", 1234, 4321)
        os.chown(top / "to a file", 1234, 4321, follow_symlinks=False)
        os.chown(top / "fifo", 1234, 4321)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_bytes(b"odd")
    (top / "a/b/5").chmod(0o4511)
    (top / "empty").chmod(0o3711)
    (top / "shut/inside").write_bytes(b"inside")
    (top / "shut").chmod(0o555)
    os.setxattr(top / "a", "user.folder", b"1")
    os.setxattr(top / "file", "user.file", b"2")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18, 10**18 + number), follow_symlinks=False)
    os.utime(top, ns=(10**18, 10**18 + 77))
    return top


def all_of(top: Path) -> dict[str, Any]:
    found, first = {}, {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        name = ascii(os.path.relpath(path, top))[1:-1]  # (pytest-xdist sends what fails as UTF-8)
        what: Any = None
        if stat.S_ISREG(status.st_mode):
            what = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            what = os.readlink(path)
        elif not stat.S_ISDIR(status.st_mode):
            what = status.st_rdev
        same = None if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, name)
        owner, times = (status.st_uid, status.st_gid), status.st_mtime_ns
        found[name] = (oct(status.st_mode), owner, times, same, what, attributes(path))
    return found


@pytest.mark.parametrize("reflink", REFLINKS)
@pytest.mark.parametrize("durable", [False, True])
async def test_the_tree_has_all_that_the_source_has(
    ring: aioring.Ring, tree: Path, tmp_path: Path, reflink: Any, durable: bool
) -> None:
    before = all_of(tree)
    told: list[tuple[int, int]] = []
    size = sum(len(e[4]) for name, e in before.items() if isinstance(e[4], bytes) and e[3] == name)

    def report(done: int, total: int) -> None:
        assert not (tmp_path / "copy").exists()
        _report(told, done, total)

    copying = partial(copy_tree, reflink=reflink, durable=durable, progress=report, ring=ring)
    assert await copying(tree, tmp_path / "copy") == size
    after = all_of(tmp_path / "copy")
    assert after.keys() == before.keys()
    for name, what in before.items():
        assert after[name] == what, name
    assert on_the_disk(tmp_path / "copy/a/holes") <= on_the_disk(tree / "a/holes")
    assert all_of(tree) == before
    assert told[0] == (0, size)
    assert told == sorted(told)
    assert {total for _, total in told} == {size}
    assert sorted(os.listdir(tmp_path)) == ["copy", "tree"]
    await nothing_left(tmp_path)
    assert told[-1] == (size, size)


async def test_a_tree_without_what_it_had_on(ring: aioring.Ring, tree: Path, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        await copy_tree(tree, tmp_path / "copy", preserve=False, sparse=False, ring=ring)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    before, after = all_of(tree), all_of(tmp_path / "copy")
    assert after.keys() == before.keys()
    for name in before:
        assert after[name][3:5] == before[name][3:5]
        assert not after[name][5]
    for name, mode in (
        (".", 0o750),
        ("a", 0o750),
        ("empty", 0o750),
        ("shut", 0o750),
        ("file", 0o640),
        ("a/b/5", 0o640),
    ):
        assert stat.S_IMODE((tmp_path / "copy" / name).stat().st_mode) == mode, name
    assert on_the_disk(tmp_path / "copy/a/holes") >= 1 << 22


async def test_the_umask_is_nobody_elses_meanwhile(
    anyio_backend: Any, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the process's: a file that another thread makes at that moment would have the wrong mode."""
    if "Umask:" not in Path("/proc/self/status").read_text():
        pytest.skip("no other way to know it here")
    masks: list[int] = []
    umask = os.umask

    def spy(mask: int) -> int:
        masks.append(mask)
        return umask(mask)

    async with aioring.Ring(method=quiet()) as ring:
        monkeypatch.setattr(os, "umask", spy)
        for preserve in (True, False):
            await copy_tree(tree, tmp_path / f"copy {preserve}", preserve=preserve, ring=ring)
        monkeypatch.undo()
    assert not masks


async def test_trees_by_paths_of_all_kinds(
    ring: aioring.Ring, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("tree")
    (tmp_path / "beside").mkdir()
    (tmp_path / "way").symlink_to("beside")
    before = all_of(tree)
    for number, (a, b) in enumerate(
        [
            ("tree", "relative"),
            (b"tree", b"bytes"),
            (tree, b"mixed"),
            (b"tree/", tmp_path / "mixed too"),
            ("tree/", "slash/"),
            ("link", "from a link"),
            ("./tree/.", "./beside/../dots"),
            (".//tree", "way/through a link"),
            ("tree", os.fsencode(tmp_path) + b"/\xff\xfe"),
        ]
    ):
        await copy_tree(a, b, ring=ring)
        assert all_of(path_of(b)) == before, number
    assert not debris(tmp_path)


async def test_an_empty_tree_and_a_deep_one(ring: aioring.Ring, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert await copy_tree(tmp_path / "empty", tmp_path / "copy", ring=ring) == 0
    assert os.listdir(tmp_path / "copy") == []
    deep = tmp_path / "deep"
    inner = deep.joinpath(*["d"] * 200)
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"down there")
    assert await copy_tree(deep, tmp_path / "deep too", ring=ring) == 10
    assert (tmp_path / "deep too").joinpath(*["d"] * 200, "file").read_bytes() == b"down there"


async def test_trees_that_cannot_be_copied(ring: aioring.Ring, tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "inner").symlink_to(tree / "a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    new = tmp_path / "new"
    for a, b, code, whose in (
        (tmp_path / "missing", new, errno.ENOENT, 0),
        (tree / "file", new, errno.ENOTDIR, 0),
        (tmp_path / "fifo", new, errno.ENOTDIR, 0),
        (tree, tmp_path / "folder", errno.EEXIST, 1),
        (tree, tree, errno.EEXIST, 1),
        (tree, tmp_path / "fifo", errno.EEXIST, 1),
        (tree, tmp_path / "dangling", errno.EEXIST, 1),
        (tree, tree / "new", errno.EINVAL, 0),
        (tree, tree / "a/b/new", errno.EINVAL, 0),
        (tree, tmp_path / "inner" / "new", errno.EINVAL, 0),
        (tree, tmp_path / "no" / "new", errno.ENOENT, 1),
        (tree, tmp_path / "fifo" / "new", errno.ENOTDIR, 1),
    ):
        with anyio.fail_after(SOON), pytest.raises(OSError) as raised:
            await copy_tree(a, b, ring=ring)
        assert (raised.value.errno, raised.value.filename) == (code, str((a, b)[whose])), (a, b)
    assert not new.exists()
    assert not (tree / "new").exists()
    await nothing_left(tmp_path)


async def test_targets_of_trees_with_no_good_name(ring: aioring.Ring, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "plain").touch()
    for name in ("dangling/", "plain/"):
        with pytest.raises(OSError) as raised:
            await copy_tree(tree, f"{tmp_path}/{name}", ring=ring)
        assert raised.value.filename == f"{tmp_path}/{name}", name
    await nothing_left(tmp_path)


async def test_an_empty_name_is_refused_before_all_is_copied(
    anyio_backend: Any, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    told: list[tuple[int, int]] = []
    async with aioring.Ring(method=quiet()) as ring:
        with pytest.raises(FileNotFoundError) as raised:
            await copy_tree(tree, "", progress=partial(_report, told), ring=ring)
    assert raised.value.filename == ""
    assert not told


async def test_somebody_else_makes_the_target_meanwhile(ring: aioring.Ring, tree: Path, tmp_path: Path) -> None:
    for made in ("file", "folder"):
        copy = tmp_path / made

        def take(done: int, _: int, copy: Path = copy, made: str = made) -> None:
            if not copy.exists():
                copy.write_bytes(OLD) if made == "file" else copy.mkdir()

        with pytest.raises(FileExistsError) as raised:
            await copy_tree(tree, copy, progress=take, ring=ring)
        assert raised.value.filename == str(copy)
        assert copy.read_bytes() == OLD if made == "file" else os.listdir(copy) == []
    await nothing_left(tmp_path)


async def test_the_name_is_not_taken_from_somebody_at_the_last_moment(
    anyio_backend: Any, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and rename(2), which takes the place of an empty folder."""
    copy, lexists = tmp_path / "copy", os.path.lexists
    looked: list[Any] = []

    def late(path: Any) -> bool:
        there = lexists(path)
        if path == str(copy):
            looked.append(path)
            if len(looked) == 2:
                copy.mkdir()
        return there

    monkeypatch.setattr(os.path, "lexists", late)
    async with aioring.Ring(method=quiet()) as ring:
        if len(looked) == 2:
            with pytest.raises(FileExistsError):
                await copy_tree(tree, copy, ring=ring)
        else:
            try:
                await copy_tree(tree, copy, ring=ring)
            except FileExistsError:
                pass
            else:
                assert len(looked) < 2, "somebody's folder was replaced"
    assert not debris(tmp_path)


async def test_a_tree_that_changes_meanwhile(ring: aioring.Ring, tree: Path, tmp_path: Path) -> None:
    """What has become something else is not followed; the copy fails, or is without what is gone, but is never wrong."""
    (tmp_path / "secret").write_bytes(b"secret")

    def swap(done: int, _: int) -> None:
        for number in range(12):
            path = tree / f"a/b/{number}"
            if not path.is_symlink():
                path.unlink()
                path.symlink_to(tmp_path / "secret")

    with pytest.raises(OSError) as raised:
        await copy_tree(tree, tmp_path / "copy", progress=swap, ring=ring)
    assert raised.value.errno in (errno.ELOOP, errno.EINVAL)
    assert str(raised.value.filename).startswith(str(tree))
    assert not (tmp_path / "copy").exists()
    await nothing_left(tmp_path)


async def test_a_tree_on_a_full_disk(ring: aioring.Ring, tree: Path, tmp_path: Path, small_chunks: None) -> None:
    with small_disk(tmp_path / "disk", "128k") as where:
        with pytest.raises(OSError, match="No space") as raised:
            await copy_tree(tree, where / "copy", ring=ring)
        assert os.listdir(where) == []
        await nothing_left(where)
        assert ".aioring-" not in str(raised.value.filename), "a name that nobody knows, and that is gone"


@pytest.mark.parametrize(("operation", "at"), [("open", 1), ("open", 2), ("open", 9), ("readinto", 3), ("write", 2)])
async def test_a_file_of_the_tree_that_fails(
    anyio_backend: Any, tree: Path, tmp_path: Path, operation: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_SMALL", -1)  # each by itself, and by the ring
    async with aioring.Ring(method=quiet(faults={(operation, at): errno.EIO})) as ring:
        with pytest.raises(OSError, match="Input/output") as raised:
            await copy_tree(tree, tmp_path / "copy", reflink="never", ring=ring)
        await nothing_left(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["tree"]
    assert ".aioring-" not in str(raised.value.filename)


async def test_a_trees_progress_that_raises_is_not_called_again(
    ring: aioring.Ring, tree: Path, tmp_path: Path, small_chunks: None
) -> None:
    for number in range(8):
        (tree / f"big {number}").write_bytes(pattern(300_000))
    calls = []

    def report(done: int, _: int) -> None:
        if done > 100_000:
            calls.append(done)
            raise RuntimeError("of the program")

    with pytest.raises(RuntimeError, match="of the program"):
        await copy_tree(tree, tmp_path / "copy", reflink="never", progress=report, ring=ring)
    assert sorted(os.listdir(tmp_path)) == ["tree"]
    await nothing_left(tmp_path)
    assert len(calls) == 1


async def test_of_a_tree_that_failed_no_more_is_copied(anyio_backend: Any, tmp_path: Path, small_chunks: None) -> None:
    """One file is missing: the others, which are under way, are not copied to their ends first."""
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(3):
        (top / f"{number}").write_bytes(bytes(2 << 20))
    told: list[tuple[int, int]] = []
    trace = Trace(data=False)
    async with aioring.Ring(method=quiet(faults={("open", 3): errno.EIO}, trace=trace)) as ring:
        with pytest.raises(OSError, match="Input/output"):
            await copy_tree(top, tmp_path / "copy", reflink="never", progress=partial(_report, told), ring=ring)
    assert told[-1][0] < 2 << 20


def many_names(top: Path, n: int) -> Path:
    top.mkdir()
    for number in range(n):
        (top / f"folder {number}").mkdir()
        (top / f"link {number}").symlink_to("nowhere")
    for number in range(10):
        (top / f"file {number}").write_bytes(b"x" * 1000)
    return top


async def test_a_tree_that_is_cancelled_leaves_nothing(ring: aioring.Ring, tmp_path: Path) -> None:
    """Neither while it copies, nor while a worker makes folders and links."""
    top = many_names(tmp_path / "tree", 150)
    before, where = all_of(top), tmp_path / "where"
    where.mkdir()
    began = time.perf_counter()
    await copy_tree(top, where / "copy", ring=ring)
    took = time.perf_counter() - began
    shutil.rmtree(where / "copy")
    for number in range(14):
        async with anyio.create_task_group() as group:
            outcome = begin(group, partial(copy_tree, ring=ring), top, where / "copy")
            if number < 6:
                await ticks(number * 2)
            else:
                await anyio.sleep(took * (number - 5) / 9)
            outcome.scope.cancel()
        assert [name for name in os.listdir(where) if name != "copy"] == [], number
        if (where / "copy").exists():
            assert all_of(where / "copy") == before
            shutil.rmtree(where / "copy")
    await anyio.sleep(0.01)
    assert os.listdir(where) == []
    await nothing_left(where)


@pytest.mark.parametrize("step", ["_begin", "_put"])
async def test_a_tree_that_is_cancelled_while_names_change(
    ring: aioring.Ring, tree: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the folder is made, and as it is renamed: what has been done by then is undone, or all of it is there."""
    where, there, real = tmp_path / "where", threading.Event(), getattr(trees, step)
    where.mkdir()

    def slow(*arguments: Any) -> Any:
        try:
            return real(*arguments)
        finally:
            there.set()
            time.sleep(0.02)

    monkeypatch.setattr(trees, step, slow)
    async with anyio.create_task_group() as group:
        outcome = begin(group, partial(copy_tree, ring=ring), tree, where / "copy")
        with anyio.fail_after(SOON):
            while not there.is_set():
                await anyio.sleep(0.001)
        outcome.scope.cancel()
    assert [name for name in os.listdir(where) if name != "copy"] == []
    if (where / "copy").exists():
        assert all_of(where / "copy") == all_of(tree)


async def test_a_tree_whose_ring_ends(
    anyio_backend: Any, make_ring: Callable[..., aioring.Ring], tree: Path, tmp_path: Path
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    for after in (1, 6, 15, 30, 60):
        outcome: Outcome
        async with make_ring() as ring:
            async with anyio.create_task_group() as group:
                outcome = begin(group, partial(copy_tree, ring=ring), tree, where / "copy")
                await ticks(after)
                await ring.aclose()
        assert outcome.error is None or isinstance(outcome.error, RingClosedError), outcome.error
        assert [name for name in os.listdir(where) if name != "copy"] == []
        shutil.rmtree(where / "copy", ignore_errors=True)
    assert not open_in(where)


@as_root
def test_folders_that_are_read_only_are_removed_too(everybodys: Path) -> None:
    """The copy's folders are as the source's in the end: its owner may not write into them, and has to clean them up."""
    folder = everybodys
    (folder / "tree/shut").mkdir(parents=True)
    (folder / "tree/shut/file").write_bytes(b"data")
    (folder / "tree/shut").chmod(0o555)
    (folder / "tree").chmod(0o555)
    done = as_somebody(
        """
import asyncio, os, sys
from aioring import copy_tree
os.chdir(sys.argv[1])

def take(done, total):
    if done:
        open("copy", "x").close()

async def main():
    await copy_tree("tree", "well")
    try:
        await copy_tree("tree", "copy", progress=take)
    except FileExistsError as error:
        print(error.filename)

asyncio.run(main())
""",
        folder,
    )
    assert done == "copy\n"
    assert (folder / "well/shut/file").read_bytes() == b"data"
    assert stat.S_IMODE((folder / "well/shut").stat().st_mode) == 0o555
    assert sorted(os.listdir(folder)) == ["copy", "tree", "well"]


async def test_a_durable_tree_is_synced_before_it_has_its_name(
    anyio_backend: Any, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, each folder; and behind the rename the folder that it is in."""
    trace, put = Trace(data=False), trees._put

    def noted(*arguments: Any) -> Any:
        put(*arguments)
        trace.note("renamed")

    monkeypatch.setattr(trees, "_put", noted)
    async with aioring.Ring(method=quiet(trace=trace)) as ring:
        await copy_tree(tree, tmp_path / "copy", durable=True, ring=ring)
    at = next(n for n, event in enumerate(trace) if event.what == "renamed")
    regular = sum(stat.S_ISREG(path.lstat().st_mode) for path in tree.rglob("*")) - 2
    folders = 1 + sum(path.is_dir() and not path.is_symlink() for path in tree.rglob("*"))
    before = sum(e.what == "completed" and e.operation == "fsync" for e in list(trace)[:at])
    behind = sum(e.what == "completed" and e.operation == "fsync" for e in list(trace)[at:])
    assert before >= regular + folders
    assert behind == 1
