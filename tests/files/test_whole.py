"""`read_file`, `read_text`, `write_file`, `append_file`: what is on the disk before, after, and whenever one looks."""

from __future__ import annotations

import array
import errno
import gc
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioring
from aioring import append_file, read_file, read_text, write_file
from aioring.testing import Scripted
from tests.conftest import pattern
from tests.harness import SOON, all_over, begin, cancelled_again_and_again, open_in, ticks

LIGHT = True  # see conftest.py

SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 20) + 1]
OLD, NEW = b"old " * 5000, b"new " * 7000


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_a_file_is_read_whole(ring: Any, tmp_path: Path) -> None:
    for size in SIZES:
        path = tmp_path / str(size)
        path.write_bytes(pattern(size))
        for name in (path, str(path), os.fsencode(path)):
            assert await read_file(name, ring=ring) == pattern(size)
    assert await read_file("/proc/self/cmdline", ring=ring) == Path("/proc/self/cmdline").read_bytes()
    assert await read_file(os.devnull, ring=ring) == b""


async def test_many_are_read_at_once(ring: Any, tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / str(i)).write_bytes(pattern(i * 37))
    found: dict[int, bytes] = {}

    async def read(i: int) -> None:
        found[i] = await read_file(tmp_path / str(i), ring=ring)

    async with anyio.create_task_group() as group:
        for i in range(100):
            group.start_soon(read, i)
    assert found == {i: pattern(i * 37) for i in range(100)}


async def test_a_fifo_is_read_until_its_writer_is_gone(ring: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(pattern(200_000)))
    writer.start()
    assert await read_file(fifo, ring=ring) == pattern(200_000)
    writer.join()


async def test_text_is_what_open_reads(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "text"
    for data, encoding, errors in (
        ("one\ntwo\r\nthree\rfour é€😀".encode(), "utf-8", None),
        (b"\xef\xbb\xbfx\r\n", "utf-8-sig", None),
        ("x\r\ny".encode("utf-16"), "utf-16", None),
        (b"caf\xe9\r", "utf-8", "replace"),
        (b"caf\xe9\r", "latin-1", None),
        (b"", None, None),
    ):
        path.write_bytes(data)
        for newline in (None, "", "\n", "\r", "\r\n"):
            with open(path, encoding=encoding, errors=errors, newline=newline) as plain:
                assert await read_text(path, encoding, errors, newline, ring=ring) == plain.read()
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UnicodeDecodeError) as theirs:
        path.read_text("utf-8")
    with pytest.raises(UnicodeDecodeError) as ours:
        await read_text(path, "utf-8", ring=ring)
    assert str(ours.value) == str(theirs.value)
    with pytest.raises(LookupError):
        await read_text(path, "no such", ring=ring)
    with pytest.raises(ValueError, match="illegal newline"):
        await read_text(path, newline="x", ring=ring)


async def test_what_cannot_be_read_says_what_it_is(ring: Any, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    long = tmp_path / ("n" * 256)
    for path, error in (
        (tmp_path, IsADirectoryError(errno.EISDIR)),
        (tmp_path / "none", FileNotFoundError(errno.ENOENT)),
        (tmp_path / "loop", OSError(errno.ELOOP)),
        (long, OSError(errno.ENAMETOOLONG)),
        (Path(sys.executable) / "x", NotADirectoryError(errno.ENOTDIR)),
    ):
        for call in (read_file, read_text):
            with pytest.raises(type(error)) as found:
                await call(path, ring=ring)
            assert (found.value.errno, found.value.filename) == (error.args[0], str(path))
    with pytest.raises(FileNotFoundError):
        await read_file("", ring=ring)
    with pytest.raises(ValueError, match="null"):
        await read_file("a\0b", ring=ring)
    for wrong in (3, None, ["x"]):
        with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object"):
            await read_file(wrong, ring=ring)  # type: ignore[arg-type]


async def test_a_name_that_is_no_utf_8(ring: Any, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    await write_file(name, b"x", ring=ring)
    await write_file(os.fsdecode(name), b"y", atomic=True, ring=ring)
    assert await read_file(os.fsdecode(name), ring=ring) == b"y"
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe"]


async def test_a_file_that_shrinks_and_grows_is_read_as_it_is_at_some_time(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(300_000))
    over = threading.Event()

    def change() -> None:
        with open(path, "r+b") as file:
            while not over.is_set():
                file.truncate(10)
                file.truncate(300_000)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            data = await read_file(path, ring=ring)
            assert 10 <= len(data) <= 300_000
            assert not any(data)
    finally:
        over.set()
        thread.join()


def test_the_loop_of_no_ring_is_the_loops_own(tmp_path: Path) -> None:
    async def main() -> tuple[int, bytes]:
        return await write_file(tmp_path / "file", b"data"), await read_file(tmp_path / "file")

    assert anyio.run(main) == (4, b"data")


def test_reading_tells_audit_hooks_once(tmp_path: Path) -> None:
    program = """
import asyncio, sys, aioring
seen = []
sys.addaudithook(lambda event, args: seen.append(args[0]) if event == "open" and args[0] == sys.argv[1] else None)
async def main():
    await aioring.read_file(sys.argv[1])
    await aioring.write_file(sys.argv[1], b"x")
    await aioring.write_file(sys.argv[1], b"x", atomic=True)
asyncio.run(main())
print(len(seen))
"""
    path = tmp_path / "file"
    path.touch()
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "3\n"


# --- writing ----------------------------------------------------------------------------------------------------------

WAYS = [{}, {"atomic": True}, {"durable": True}, {"atomic": True, "durable": True}]


@pytest.mark.parametrize("how", WAYS, ids=["plain", "atomic", "durable", "both"])
async def test_what_is_written_is_all_there_is(ring: Any, tmp_path: Path, how: dict[str, bool]) -> None:
    path = tmp_path / "file"
    for size in (5, 70_000, 0, 4096):
        data = pattern(size)
        for given in (data, bytearray(data), memoryview(data), array.array("B", data)):
            assert await write_file(path, given, **how, ring=ring) == size
            assert path.read_bytes() == data
    wide = array.array("i", range(1000))
    assert await write_file(path, wide, **how, ring=ring) == 4000
    assert path.read_bytes() == wide.tobytes()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("how", WAYS, ids=["plain", "atomic", "durable", "both"])
async def test_a_new_file_has_the_mode_that_open_gives_and_an_old_one_keeps_its_own(
    ring: Any, tmp_path: Path, how: dict[str, bool]
) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    open(tmp_path / "plain", "wb").close()
    await write_file(tmp_path / "new", b"x", **how, ring=ring)
    assert mode("new") == mode("plain")
    await write_file(tmp_path / "told", b"x", mode=0o664, **how, ring=ring)
    assert mode("told") == 0o664
    (tmp_path / "new").chmod(0o751)
    await write_file(tmp_path / "new", b"xy", **how, ring=ring)
    assert mode("new") == 0o751
    await write_file(tmp_path / "new", b"xyz", mode=0o600, **how, ring=ring)
    assert mode("new") == 0o600


async def test_an_append_goes_to_the_end(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert await append_file(path, b"one ", mode=0o640, ring=ring) == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert await append_file(path, b"two ", durable=True, ring=ring) == 4
    async with anyio.create_task_group() as group:
        for i in range(20):
            group.start_soon(partial(append_file, path, b"%03d;" % i, ring=ring))
    found = path.read_bytes()
    assert found[:8] == b"one two "
    if ring.method == "scripted":  # whose short writes are continued behind what others append
        assert sorted(found[8:]) == sorted(b"".join(b"%03d;" % i for i in range(20)))
    else:
        assert sorted(found[8:].split(b";")[:-1]) == [b"%03d" % i for i in range(20)]


async def test_what_cannot_be_written_says_what_it_is(ring: Any, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    for path, error in (
        (tmp_path, errno.EISDIR),
        (f"{tmp_path}/new/", errno.EISDIR),
        (tmp_path / "none" / "file", errno.ENOENT),
        (tmp_path / "loop", errno.ELOOP),
        (tmp_path / ("n" * 256), errno.ENAMETOOLONG),
        (Path(sys.executable) / "x", errno.ENOTDIR),
        ("/proc/new", (errno.ENOENT, errno.EACCES)),
        ("", errno.ENOENT),
    ):
        for how in WAYS:
            with pytest.raises(OSError) as found:
                await write_file(path, b"x", **how, ring=ring)
            assert found.value.errno == error or found.value.errno in (error if isinstance(error, tuple) else ()), path
            assert found.value.filename == os.fspath(path)
    assert os.listdir(tmp_path) == ["loop"]
    for data, wrong in (
        ("text", TypeError),
        (3, TypeError),
        (None, TypeError),
        (memoryview(b"abcd")[::2], BufferError),
    ):
        for how in WAYS:
            with pytest.raises(wrong):
                await write_file(tmp_path / "file", data, **how, ring=ring)
        with pytest.raises(wrong):
            await append_file(tmp_path / "file", data, ring=ring)
    assert not (tmp_path / "file").exists()


async def test_a_full_disk_is_an_error_with_the_name(ring: Any) -> None:
    with pytest.raises(OSError, match="No space left") as found:
        await write_file("/dev/full", b"x" * 100_000, ring=ring)
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "/dev/full")


# --- in one step ------------------------------------------------------------------------------------------------------


async def test_only_files_are_replaced(ring: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path(os.devnull)):
        with pytest.raises(OSError, match="only a regular file") as found:
            await write_file(path, b"x", atomic=True, ring=ring)
        assert (found.value.errno, found.value.filename) == (errno.EINVAL, str(path))


async def test_a_link_stays_and_what_it_leads_to_is_replaced(ring: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, hard = tmp_path / "there" / "file", tmp_path / "link", tmp_path / "hard"
    os.symlink("there/file", link)
    await write_file(link, b"first", atomic=True, durable=True, ring=ring)  # it led to nothing
    assert target.read_bytes() == b"first"
    os.link(target, hard)
    await write_file(link, b"second", atomic=True, ring=ring)
    assert (os.readlink(link), target.read_bytes(), hard.read_bytes()) == ("there/file", b"second", b"first")
    assert os.listdir(target.parent) == ["file"]


async def test_attributes_and_owner_are_kept(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    try:
        os.setxattr(path, "user.colour", b"blue")
    except OSError:
        pytest.skip("no extended attributes here")
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    path.chmod(0o4711)
    before = path.stat()
    await write_file(path, NEW, atomic=True, ring=ring)
    after = path.stat()
    assert os.getxattr(path, "user.colour") == b"blue"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


AS_NOBODY = """
import asyncio, os, sys, aioring
os.setgid(65534); os.setuid(65534)
async def attempt(path):
    try:
        await aioring.write_file(path, b"new", atomic=True)
        print("written", oct(os.stat(path).st_mode & 0o7777), os.stat(path).st_uid)
    except OSError as error:
        print(type(error).__name__, os.path.basename(error.filename))
async def main():
    for path in sys.argv[1:]:
        await attempt(path)
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_written_is_not_replaced_either(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    open_to_all, closed = tmp_path / "open", tmp_path / "closed"
    for folder in (open_to_all, closed):
        folder.mkdir()
        folder.chmod(0o777)
    (open_to_all / "read-only").write_bytes(b"old")
    (open_to_all / "setuid").write_bytes(b"old")
    (open_to_all / "setuid").chmod(0o4777)
    (closed / "file").write_bytes(b"old")
    (closed / "file").chmod(0o666)
    closed.chmod(0o755)
    paths = [open_to_all / "read-only", open_to_all / "setuid", closed / "file"]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *paths], capture_output=True, text=True, timeout=30, check=True, cwd="/"
    )
    # (The owner could not be kept, so it is not to run as him.)
    assert done.stdout == "PermissionError read-only\nwritten 0o777 65534\nPermissionError file\n", done.stderr
    assert [path.read_bytes() for path in paths] == [b"old", b"new", b"old"]
    assert sorted(os.listdir(open_to_all)) == ["read-only", "setuid"]


async def test_a_name_of_255_bytes(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    for data in (b"a", b"b"):
        await write_file(path, data, atomic=True, durable=True, ring=ring)
        assert path.read_bytes() == data


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
async def test_where_a_file_has_to_have_a_name_it_gets_one(anyio_backend: Any, tmp_path: Path, code: int) -> None:
    path = tmp_path / "file"
    async with aioring.Ring(method=Scripted(1, faults={("open", 1): code})) as ring:
        await write_file(path, NEW, atomic=True, durable=True, ring=ring)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("what", ["open", "write", "fsync", "link", "rename", "folder", "folder's fsync"])
async def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    anyio_backend: Any, tmp_path: Path, what: str, named: bool
) -> None:
    if named and what == "link":
        pytest.skip("it has no such step")
    path = tmp_path / "file"
    path.write_bytes(OLD)
    first = 1 + (named and what == "open")
    number = {"folder": ("open", 2 + named), "folder's fsync": ("fsync", 2)}.get(what, (what, first))
    faults = {number: errno.EIO, **({("open", 1): errno.EOPNOTSUPP} if named else {})}
    async with aioring.Ring(method=Scripted(1, faults=faults)) as ring:
        with pytest.raises(OSError, match="Input/output error") as found:
            await write_file(path, NEW, atomic=True, durable=True, ring=ring)
        assert (found.value.errno, found.value.filename) == (errno.EIO, str(path))
    assert path.read_bytes() == (NEW if what == "folder's fsync" else OLD)
    assert os.listdir(tmp_path) == ["file"]


async def test_a_name_that_is_taken_is_not_touched(anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for faults in ({("link", 1): errno.EEXIST}, {("open", 1): errno.EOPNOTSUPP, ("open", 2): errno.EEXIST}):
        async with aioring.Ring(method=Scripted(1, faults=faults)) as ring:
            await write_file(path, NEW, atomic=True, ring=ring)
        assert path.read_bytes() == NEW
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("named", [False, True])
async def test_cancelled_at_any_await_it_is_the_old_file_or_the_new(
    anyio_backend: Any, tmp_path: Path, named: bool
) -> None:
    path = tmp_path / "file"
    seen = set()
    faults = {("open", 1): errno.EOPNOTSUPP} if named else {}
    for after in range(80):
        path.write_bytes(OLD)
        async with aioring.Ring(method=Scripted(after, faults=faults)) as ring:
            async with anyio.create_task_group() as group:
                outcome = begin(group, lambda: write_file(path, NEW, atomic=True, durable=True, ring=ring))
                await ticks(after % 60)
                if after >= 60:  # (a worker has its part in it, for whom ticks do not wait)
                    await anyio.sleep((after - 60) * 0.0005)
                if after == 79:
                    await all_over(outcome)
                outcome.scope.cancel()
                await all_over(outcome)
        found = path.read_bytes()
        assert found in (OLD, NEW)
        assert os.listdir(tmp_path) == ["file"], after
        seen.add(found == NEW)
    assert seen == {False, True}


async def test_two_writers_at_once_one_wins_whole(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 30_000)
    whole = {b"%d" % i * 30_000 for i in range(8)}
    over = anyio.Event()

    async def look() -> None:
        while not over.is_set():
            assert path.read_bytes() in whole
            await ticks(1)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        async with anyio.create_task_group() as writers:
            for data in sorted(whole):
                for _ in range(3):
                    writers.start_soon(partial(write_file, path, data, atomic=True, ring=ring))
        over.set()
    assert path.read_bytes() in whole
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import asyncio, sys, aioring
async def main():
    print("ready", flush=True)
    i = 0
    while True:
        i += 1
        await aioring.write_file(sys.argv[1], b"%06d" % i * 20_000, atomic=True)
asyncio.run(main())
"""


@pytest.mark.slow
def test_killed_while_it_writes_it_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for n in range(10):
        with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            threading.Event().wait(0.02 + n * 0.007)
            writer.kill()
        if path.exists():
            data = path.read_bytes()
            assert data == data[:6] * 20_000
    assert path.exists()


async def test_a_socket_is_no_file(ring: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError) as found:
            await read_file(tmp_path / "socket", ring=ring)
        assert (found.value.errno, found.value.filename) == (errno.ENXIO, str(tmp_path / "socket"))


async def test_a_closed_ring_reads_no_file(make_ring: Any, anyio_backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    ring = make_ring()
    await ring.start()
    assert await read_file(path, ring=ring) == b"data"
    errors: list[BaseException] = []

    async def many() -> None:
        try:
            for _ in range(2000):
                assert await read_file(path, ring=ring) == b"data"
                await write_file(path, b"data", atomic=True, ring=ring)
        except aioring.RingClosedError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(many)
        await ticks(30)
        await ring.aclose()
    assert len(errors) == 20
    for call in (
        partial(read_file, path),
        partial(write_file, path, b"x"),
        partial(write_file, path, b"x", atomic=True),
    ):
        with pytest.raises(aioring.RingClosedError):
            await call(ring=ring)
    assert path.read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["file"]


# --- what comes in pieces ---------------------------------------------------------------------------------------------


async def pieces(*sizes: int, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        await checkpoint()
        yield bytes([65 + number]) * size
    if then is not None:
        raise then


@pytest.mark.parametrize("atomic", [False, True])
async def test_pieces_are_written_as_they_come(ring: Any, tmp_path: Path, atomic: bool) -> None:
    path = tmp_path / "file"
    for sizes in ((), (0,), (1, 0, 70_000, 3), (300_000, 300_000)):
        path.write_bytes(OLD)
        whole = b"".join(bytes([65 + number]) * size for number, size in enumerate(sizes))
        assert await write_file(path, pieces(*sizes), atomic=atomic, durable=True, ring=ring) == len(whole)
        assert path.read_bytes() == whole
    assert (
        await write_file(tmp_path / "copy", aioring.stream(path, 50_000, ring=ring), atomic=atomic, ring=ring)
        == 600_000
    )
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["copy", "file"]


@pytest.mark.parametrize("atomic", [False, True])
async def test_what_the_pieces_raise_is_raised(ring: Any, tmp_path: Path, atomic: bool) -> None:
    path = tmp_path / "file"
    for error in (ConnectionResetError(errno.ECONNRESET, "gone"), FileNotFoundError(2, "no", "other"), ValueError("x")):
        path.write_bytes(OLD)
        with pytest.raises(type(error)) as caught:
            await write_file(path, pieces(10, 20, then=error), atomic=atomic, ring=ring)
        assert caught.value is error
        assert getattr(error, "filename", None) in (None, "other")  # not this file's
        assert path.read_bytes() == (OLD if atomic else b"A" * 10 + b"B" * 20)
        assert os.listdir(tmp_path) == ["file"]

    async def texts() -> AsyncIterator[str]:
        yield "text"

    with pytest.raises(TypeError, match="encode it"):
        await write_file(path, texts(), atomic=atomic, ring=ring)


async def test_a_cancel_between_pieces_leaves_the_old_file(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    async def slow() -> AsyncIterator[bytes]:
        yield b"begun"
        await anyio.sleep(10)

    async with anyio.create_task_group() as group:
        one = begin(group, partial(write_file, path, slow(), atomic=True, ring=ring))
        await anyio.sleep(0.02)
        one.scope.cancel()
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


# --- what is not in the kernel's caches -------------------------------------------------------------------------------


def cold(path: Path, opened: list[int]) -> str:
    """A path that the kernel never takes from its caches (openat2(2), RESOLVE_CACHED): through a magic link."""
    opened.append(os.open(path, getattr(os, "O_PATH", os.O_RDONLY)))
    return f"/proc/self/fd/{opened[-1]}"


@pytest.fixture
def opened() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


async def test_what_is_not_cached_is_read_whole(ring: Any, tmp_path: Path, opened: list[int]) -> None:
    for size in SIZES:
        path = tmp_path / str(size)
        path.write_bytes(pattern(size))
        assert await read_file(cold(path, opened), ring=ring) == pattern(size)
        evicted = os.open(path, os.O_RDONLY)
        try:
            os.fsync(evicted)
            os.posix_fadvise(evicted, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(evicted)
        assert await read_file(cold(path, opened), ring=ring) == pattern(size)
    with pytest.raises(IsADirectoryError) as caught:
        await read_file(cold(tmp_path, opened), ring=ring)
    assert caught.value.filename == f"/proc/self/fd/{opened[-1]}"
    with pytest.raises(FileNotFoundError) as missing:
        await read_file("/proc/self/fd/1000000", ring=ring)
    assert missing.value.filename == "/proc/self/fd/1000000"


async def test_a_fifo_that_is_not_cached_is_read_until_its_writer_is_gone(
    ring: Any, tmp_path: Path, opened: list[int]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    name = cold(fifo, opened)
    writer = threading.Thread(target=lambda: fifo.write_bytes(pattern(200_000)))
    writer.start()
    assert await read_file(name, ring=ring) == pattern(200_000)
    writer.join()


async def test_a_cancelled_cold_read_leaves_nothing_open(ring: Any, path: Path, opened: list[int]) -> None:
    names = [cold(path, opened) for _ in range(3)]
    for name in names:
        await cancelled_again_and_again(partial(read_file, name, ring=ring), 12, 6)
        assert await read_file(name, ring=ring) == path.read_bytes()
    found = [data async for _, data in aioring.read_files(names * 5, ring=ring)]
    assert found == [path.read_bytes()] * 15


async def test_who_shares_an_fsync_of_the_folder_shares_its_failure(anyio_backend: Any, tmp_path: Path) -> None:
    """And whoever comes after that has one of its own."""
    faults = {("fsync", number): errno.EIO for number in (2, 4)}  # 1 and 3 are of the first two files
    async with aioring.Ring(method=Scripted(1, short=0, soft=0, delay=0, faults=faults), depth=1) as ring:
        failed = []

        async def one(name: str) -> None:
            try:
                await write_file(tmp_path / name, b"x", durable=True, ring=ring)
            except OSError as error:
                failed.append((error.errno, os.fspath(error.filename)))

        async with anyio.create_task_group() as group:
            for name in "abcdef":
                group.start_soon(one, name)
        assert failed
        assert {code for code, _ in failed} == {errno.EIO}
        assert await write_file(tmp_path / "later", b"x", durable=True, ring=ring) == 1
    assert len(os.listdir(tmp_path)) == 7


async def test_a_link_is_followed_and_its_folder_synced(ring: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for data in (NEW, OLD):
        assert await write_file(tmp_path / "link", data, durable=True, ring=ring) == len(data)
        assert (tmp_path / "there" / "file").read_bytes() == data
    assert (tmp_path / "link").is_symlink()
    await append_file(tmp_path / "link", b"more", durable=True, ring=ring)
    assert (tmp_path / "there" / "file").read_bytes() == OLD + b"more"


async def test_what_is_no_regular_file_is_written_too(ring: Any, tmp_path: Path) -> None:
    assert await write_file(os.devnull, NEW, ring=ring) == len(NEW)
    os.mkfifo(tmp_path / "fifo")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    assert await write_file(tmp_path / "fifo", NEW * 20, ring=ring) == len(NEW) * 20
    reader.join()
    assert read == [NEW * 20]


async def test_what_was_written_is_the_callers_again(ring: Any, tmp_path: Path) -> None:
    gc.disable()
    try:
        for options in ({}, {"durable": True}, {"atomic": True}):
            data = bytearray(NEW)
            assert await write_file(tmp_path / "file", data, ring=ring, **options) == len(NEW)
            data += b"a bytearray that is lent cannot grow"
            assert await append_file(tmp_path / "file", data, ring=ring) == len(data)
            data.clear()
    finally:
        gc.enable()


async def test_on_tmpfs_every_size_is_whole(ring: Any) -> None:
    """Its reads know no RWF_NOWAIT, and are tried without: what fills the buffer is not the end."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for n in (0, 1, 4096, 65_535, 65_536, 65_537, 131_072, 300_000):
            path, data = folder / f"{n}", pattern(n)
            path.write_bytes(data)
            assert await read_file(path, ring=ring) == data
            async with aioring.open(path, "rb", ring=ring) as file:
                await anyio.sleep(0.01)  # its size is no longer taken for true
                assert await file.read() == data
            async with aioring.open(path, "rb", buffering=0, ring=ring) as raw:
                await anyio.sleep(0.01)
                assert await raw.readall() == data
        sizes = {path: len(data) async for path, data in aioring.read_files(sorted(folder.iterdir()), ring=ring)}
        assert sizes == {path: int(path.name) for path in folder.iterdir()}
    finally:
        shutil.rmtree(folder)


async def test_a_ring_that_is_closed_at_once_leaves_no_fd(anyio_backend: Any, make_ring: Any, tmp_path: Path) -> None:
    """What has come, or comes too late for anybody, is closed: folders, which are opened and then refused."""
    for turns in range(5):
        for _ in range(10):
            ring = make_ring()
            await ring.start()
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    begin(group, read_file_in, tmp_path, ring)
                await ticks(turns)
                with warnings.catch_warnings(action="ignore"):
                    await ring.aclose(timeout=0)
    with anyio.fail_after(SOON):
        while open_in(tmp_path):
            await anyio.sleep(0.001)


async def read_file_in(path: Path, ring: Any) -> bytes:
    return await read_file(path, ring=ring)
