"""Opening: what the built-in `open` takes and refuses, in its words; what is not lost on the way."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
import aioring.aiofiles as aiofiles
import aioring.aiofiles.os as aiofiles_os
from aioring.files import File, open as aopen
from aioring.testing import Recording, Trace
from tests import fuse
from tests.conftest import open_fds, pattern
from tests.files.model import outcome_of
from tests.harness import SOON, Held, begin, ticks

LIGHT = True  # see conftest.py


class Fd:
    """What has `__index__`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __index__(self) -> int:
        return self.fd


def raises(error: BaseException) -> Callable[..., int]:
    def opener(path: Any, flags: int) -> int:
        raise error

    return opener


ARGUMENTS: list[tuple[Any, ...]] = [
    # file, mode, buffering, encoding, errors, newline, closefd, opener
    ("data", "q"), ("data", ""), ("data", "+"), ("data", "rw"), ("data", "rr"), ("data", "r++"), ("data", "tb"),
    ("data", "b"), ("data", "+b"), ("data", "wab"), ("data", "U"), ("data", "rbU"), ("data", 5), ("data", None),
    ("data", b"rb"), ("missing", "rb"), ("missing", "r+b"), ("data", "xb"), ("missing/there", "wb"), ("data/there", "rb"),
    (".", "rb"), (".", "wb"), ("", "rb"), ("nul\0", "rb"), (b"nul\0", "rb"), (5.0, "rb"), ([], "rb"), (None, "rb"),
    (object(), "rb"),
    (-1, "rb"), (-7, "rb"), (2**31, "rb"), (2**70, "rb"), (-(2**70), "rb"), (1_000_000, "rb"), (Fd(1_000_000), "rb"),
    ("data", "rb", -1, "utf-8"), ("data", "rb", -1, None, "strict"), ("data", "rb", -1, None, None, ""),
    ("data", "rb", "5"), ("data", "rb", 5.0), ("data", "rb", None), ("data", "rb", -1, 5), ("data", "rb", -1, None, 5),
    ("data", "rb", -1, None, None, 5), ("data", "rb", -1, None, None, None, False), ("data", "rb", 2**31),
    ("data", "rb", -1, None, None, None, True, lambda path, flags: -3),
    ("data", "rb", -1, None, None, None, True, lambda path, flags: "five"),
    ("data", "rb", -1, None, None, None, True, raises(KeyError("mine"))),
    ("data", "rb", -1, None, None, None, True, raises(PermissionError(1, "not mine", "file"))),
    ("data", "rb", -1, None, None, None, True, 5),
    ("x" * 300, "rb"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda refused: re.sub(r" at 0x[0-9a-f]+", "", repr(refused))[:60])
async def test_what_the_built_in_refuses_is_refused_in_its_words(
    anyio_backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(path.parent)
    wanted: BaseException | None = None
    try:
        open(*arguments).close()
    except Exception as error:
        wanted = error
    before = open_fds()
    async with aioring.Ring() as ring:
        inside = open_fds()
        got: BaseException | None = None
        try:
            await (await aopen(*arguments, ring=ring)).close()
        except Exception as error:
            got = error
        assert outcome_of(got, None) == outcome_of(wanted, None)
        assert wanted is not None
        assert getattr(got, "filename", None) == getattr(wanted, "filename", None)
        assert open_fds() == inside
    assert open_fds() <= before | inside


async def test_what_is_told_of_an_open_file(ring: Any, path: Path) -> None:
    for mode in ("rb", "r+b", "b+r", "wb", "ab", "a+b", "xb", "x+b", "bw", "w+b"):
        for buffering in (-1, 0, 1, 5):
            target = path.with_name("new") if "x" in mode else path
            if "x" in mode:
                target.unlink(missing_ok=True)
            with warnings.catch_warnings(record=True) as wanted:
                warnings.simplefilter("always")
                with open(target, mode, buffering) as model:
                    told, size = facts(model), os.path.getsize(target)
            if "x" in mode:
                target.unlink()
            with warnings.catch_warnings(record=True) as got:
                warnings.simplefilter("always")
                async with aopen(target, mode, buffering, ring=ring) as file:
                    assert isinstance(file, File)
                    assert (facts(file), os.path.getsize(target)) == (told, size)
                    assert repr(file) == f"<aioring.{type(file).__name__} name={str(target)!r} mode={file.mode!r}>"
            assert [(w.category, str(w.message)) for w in got] == [(w.category, str(w.message)) for w in wanted]
            assert file.closed
            assert "closed" in repr(file)
            await file.close()
            for question in (file.fileno, file.isatty, file.seekable):
                with pytest.raises(ValueError, match="closed"):
                    question()


def facts(file: Any) -> list[Any]:
    answers = [file.mode, file.name, file.closed, file.readable(), file.writable(), file.seekable(), file.isatty()]
    return [*answers, os.get_inheritable(file.fileno())]


async def test_the_mode_of_a_new_file_obeys_the_umask(ring: Any, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        async with aopen(tmp_path / "new", "wb", ring=ring):
            assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


async def test_paths_of_every_kind(ring: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for name in (path, str(path), os.fsencode(path), "data", b"data"):
        async with aopen(name, "rb", ring=ring) as file:
            assert await file.read(5) == pattern(5)
            assert file.name == os.fspath(name)


@pytest.mark.parametrize("closefd", [True, False])
async def test_an_fd_is_ours_unless_closefd_is_false(ring: Any, path: Path, closefd: bool) -> None:
    fd = os.open(path, os.O_RDONLY)
    async with aopen(fd, "rb", closefd=closefd, ring=ring) as file:
        assert (file.name, file.closefd) == (fd, closefd)
        await file.read(3)
    if closefd:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    else:
        os.close(fd)


async def test_an_fd_starts_where_it_stands_and_is_left_where_it_was_read_to(ring: Any, path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 1000, os.SEEK_SET)
    async with aopen(fd, "r+b", 0, closefd=False, ring=ring) as file:
        assert await file.tell() == 1000
        assert await file.read(10) == pattern(1010)[1000:]
        assert os.read(fd, 5) == pattern(1015)[1010:]  # they share it
        assert await file.read(5) == pattern(1020)[1015:]
        assert await file.write(b"here") == 4
        assert os.lseek(fd, 0, os.SEEK_CUR) == 1024
    async with aopen(fd, "r+b", closefd=False, ring=ring) as file:
        assert await file.write(b"there") == 5
        await file.flush()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 1029
        assert await file.read(3) == pattern(1032)[1029:]
        assert await file.tell() == 1032
    os.close(fd)
    assert path.read_bytes()[1020:1030] == b"herethere" + pattern(1030)[1029:]


async def test_a_child_writes_where_the_file_is(ring: Any, tmp_path: Path) -> None:
    """A header, what a child writes to the fd it was given, and what comes after it."""
    async with aopen(tmp_path / "log", "wb", ring=ring) as file:
        await file.write(b"header\n")
        await file.flush()
        subprocess.run(["echo", "child"], stdout=file.fileno(), check=True)
        await file.write(b"footer\n")
    assert (tmp_path / "log").read_bytes() == b"header\nchild\nfooter\n"
    async with aopen(tmp_path / "log", "rb", ring=ring) as file:
        assert await file.readline() == b"header\n"
        done = subprocess.run(["head", "-c", "5"], stdin=file.fileno(), capture_output=True, check=True)
        assert done.stdout == b"child"


async def test_opener_runs_on_a_worker_and_its_fd_is_not_inherited(ring: Any, path: Path) -> None:
    calls: list[Any] = []

    def opener(name: Any, flags: int) -> int:
        calls.append((name, flags))
        fd = os.open(path, flags)
        os.set_inheritable(fd, True)
        return fd

    async with aopen("anything", "rb", opener=opener, ring=ring) as file:
        assert calls == [("anything", os.O_RDONLY | os.O_CLOEXEC)]
        assert not os.get_inheritable(file.fileno())
        assert file.name == "anything"
        assert await file.read() == pattern(100_000)


@pytest.mark.parametrize("method", ["io_uring", "worker"])
def test_audit_hooks_see_what_the_built_in_raises_and_can_refuse(path: Path, method: str) -> None:
    """In a process of its own: a hook is never taken off again."""
    program = f"""
import asyncio, os, sys
import aioring
seen = []
def hook(event, args):
    if event == "open" and args[0] == {str(path)!r}:
        seen.append(args)
        if refusing:
            raise PermissionError("not this one")
refusing = False
sys.addaudithook(hook)
async def main():
    global refusing
    for cached in (True, False):
        async with aioring.Ring({method!r}, page_cache_first=cached) as ring:
            for mode in ("rb", "r+b", "r", "ab"):
                open({str(path)!r}, mode).close()
                wanted, seen[:] = seen[:], []
                async with aioring.open({str(path)!r}, mode, ring=ring):
                    pass
                assert seen == wanted, (seen, wanted)
                seen.clear()
            refusing = True
            before = len(os.listdir("/proc/self/fd"))
            try:
                await aioring.open({str(path)!r}, "rb", ring=ring)
            except PermissionError as error:
                print(error)
            assert len(os.listdir("/proc/self/fd")) == before
            refusing = False
            seen.clear()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "not this one\nnot this one\n", done.stderr


async def test_awaited_or_entered_it_is_the_same_file(ring: Any, path: Path) -> None:
    opening = aopen(path, "rb", ring=ring)
    with pytest.raises(AttributeError, match="await"):
        opening.read  # noqa: B018
    file = await opening
    assert await opening is file
    async with opening as again:
        assert again is file
        async with file:
            assert await file.read(4) == pattern(4)
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        async with file:
            pass


async def test_get_ring_is_asked_where_no_ring_is_given(anyio_backend: Any, path: Path) -> None:
    async with aopen(path, "rb") as file:
        assert await file.read() == pattern(100_000)
    assert aioring.get_ring().stats().operations["open"].count == 1


async def test_a_cancelled_open_loses_no_fd(anyio_backend: Any, path: Path) -> None:
    held = Held(3)
    async with aioring.Ring(method=held) as ring, anyio.create_task_group() as group:
        before = open_fds()
        opening = begin(group, lambda: aopen(path, "rb", ring=ring)._opened())
        await ticks(4)
        opening.scope.cancel()
        await ticks(4)
        held.let_go()
        with anyio.fail_after(SOON):
            while open_fds() - before:
                await anyio.sleep(0.001)
        assert opening.done
        assert opening.error is None


async def test_no_worker_and_no_io_object_is_asked_on_io_uring(anyio_backend: Any, path: Path) -> None:
    trace = Trace()
    for cached in (True, False):
        async with aioring.Ring(method=Recording("io_uring", trace), page_cache_first=cached) as ring:
            async with aopen(path, "r+b", ring=ring) as file:
                await file.read()
                await file.seek(0)
                await file.read(10)
                await file.readline()
                await file.write(b"x" * 100_000)
                await file.flush()
                await file.seek(0, 2)
            async with aopen(path, "rb", ring=ring) as file:
                await file.read(70_000)
            stats = ring.stats()
            assert sum(one.workers for one in stats.operations.values()) == 0, stats


# --- what is no regular file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/proc/version", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"])
async def test_what_has_no_size_is_read_until_it_is_empty(ring: Any, name: str) -> None:
    if not os.path.exists(name):
        pytest.skip("not here")
    wanted = Path(name).read_bytes()
    for buffering in (-1, 0, 7):
        async with aopen(name, "rb", buffering, ring=ring) as file:
            got = await file.read()
            assert got[:6] == wanted[:6]
            assert got.count(b"\n") == wanted.count(b"\n")
            assert await file.read() == b""


async def test_a_pipe_both_ends(ring: Any) -> None:
    reading, writing = os.pipe()
    async with aopen(reading, "rb", ring=ring) as source, aopen(writing, "wb", ring=ring) as sink:
        assert not source.seekable()
        for file in (source, sink):
            with pytest.raises(OSError, match="Illegal seek") as caught:
                await file.tell()
            assert caught.value.errno == errno.ESPIPE
            with pytest.raises(io.UnsupportedOperation, match="File or stream is not seekable"):
                await file.seek(0)
        await sink.write(b"one\ntwo\nthree")
        await sink.flush()
        assert await source.readline() == b"one\n"
        assert await source.peek() == b"two\nthree"
        assert await source.read1() == b"two\nthree"
        async with anyio.create_task_group() as group:
            rest = begin(group, source.read)
            whole = bytes(range(256)) * 2000  # more than a pipe holds
            await sink.write(whole)
            await sink.close()
            with anyio.fail_after(SOON):
                await rest.over.wait()
        assert rest.value == whole
        assert await source.read(5) == b""
    read_write = os.pipe()
    for fd in read_write:
        with pytest.raises(io.UnsupportedOperation, match="not seekable"):
            await aopen(fd, "r+b", ring=ring)


@pytest.mark.parametrize("buffering", [0, 5, 8192])
@pytest.mark.parametrize("call", [("read", 20), ("read",), ("readline",), ("readlines",), ("readinto", bytearray(20))])
async def test_a_cancelled_read_of_a_pipe_loses_no_byte(ring: Any, buffering: int, call: tuple[Any, ...]) -> None:
    reading, writing = os.pipe()
    async with aopen(reading, "rb", buffering, ring=ring) as file, anyio.create_task_group() as group:
        sent = b"some words, but not all"[: 7 if buffering != 0 or call[0] not in ("read", "readinto") else 0]
        for part in (sent[:3], sent[3:]):
            if part:
                os.write(writing, part)
            outcome = begin(group, getattr(file, call[0]), *call[1:])
            await ticks(10)
            outcome.scope.cancel()
            with anyio.fail_after(SOON):
                await outcome.over.wait()
            assert (outcome.value, outcome.error) == (None, None)
        os.write(writing, b" and the rest\n")
        os.close(writing)
        assert await file.read() == sent + b" and the rest\n"


async def test_opening_a_fifo_waits_for_its_other_end(ring: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with anyio.create_task_group() as group:
        source = begin(group, lambda: aopen(fifo, "rb", ring=ring)._opened())
        await ticks(10)
        assert not source.done
        async with aopen(fifo, "wb", ring=ring) as sink:
            with anyio.fail_after(SOON):
                await source.over.wait()
            await sink.write(b"through")
        assert await source.value.read() == b"through"
        await source.value.close()


# --- the end of files that nobody closed ------------------------------------------------------------------------------


def test_what_was_accepted_is_written_when_nobody_holds_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def forget() -> None:
        file = await aopen(path, "wb")
        await file.write(b"accepted")
        assert path.read_bytes() == b""
        with pytest.warns(ResourceWarning, match=r"unclosed file <aioring.BinaryFile name=.*: nobody can close it"):
            del file
        assert path.read_bytes() == b"accepted"

    asyncio.run(forget())


def test_what_was_accepted_is_written_before_the_loop_ends(tmp_path: Path) -> None:
    path, kept = tmp_path / "file", []

    async def keep() -> None:
        kept.append(await aopen(path, "ab"))
        await kept[0].write(b"accepted")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asyncio.run(keep())
    assert path.read_bytes() == b"accepted"
    assert any("its loop, was closed" in str(w.message) for w in said if w.category is ResourceWarning), said
    assert kept[0].closed


async def test_a_file_that_is_only_read_can_be_closed_after_its_ring(anyio_backend: Any, path: Path) -> None:
    ring = aioring.Ring()
    await ring.start()
    file = await aopen(path, "rb", ring=ring)
    await file.read(5)
    await ring.aclose()
    with pytest.raises(aioring.RingClosedError):
        await file.read(100_000)
    await file.close()
    assert file.closed


def test_a_forked_child_writes_nothing_of_its_parents(tmp_path: Path) -> None:
    program = f"""
import asyncio, gc, os
from aioring.files import open as aopen
async def main():
    f = await aopen({str(tmp_path / "file")!r}, "wb")
    await f.write(b"parent")
    pid = os.fork()
    if pid == 0:
        del f
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    print(os.path.getsize({str(tmp_path / "file")!r}))
    await f.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "0\n"
    assert (tmp_path / "file").read_bytes() == b"parent"


def test_a_ring_is_not_kept_by_the_files_it_had(path: Path) -> None:
    async def main() -> Any:
        async with aioring.Ring() as ring:
            for mode in ("rb", "r+b", "r", "a"):
                async with aopen(path, mode, ring=ring):
                    pass
        return weakref.ref(ring)

    found = asyncio.run(main())
    gc.collect()
    assert found() is None


def test_pickling_is_refused_and_files_are_hashable(path: Path) -> None:
    async def main() -> None:
        async with aopen(path, "rb") as file:
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(file)
            assert {file: 1}[file] == 1
            assert weakref.ref(file)() is file

    asyncio.run(main())


# --- what may take long -----------------------------------------------------------------------------------------------

MIB = 1 << 20


async def read_bytes(path: Path, ring: aioring.Ring) -> None:
    async with aopen(path, "rb", ring=ring) as file:
        assert await file.seek(-10, 2) == MIB - 10
        assert await file.read() == bytes(10)


async def read_text(path: Path, ring: aioring.Ring) -> None:
    async with aopen(path, ring=ring) as file:
        assert await file.readline(1000) == "\0" * 1000


async def write_bytes(path: Path, ring: aioring.Ring) -> None:
    async with aopen(path, "r+b", ring=ring) as file:
        assert await file.write(b"x" * 10_000) == 10_000
        await file.flush()


async def dropped_in(path: Path, ring: aioring.Ring) -> None:
    async with aiofiles.open(path, "rb") as file:
        assert await file.read(10) == bytes(10)
    assert (await aiofiles_os.stat(path)).st_size == MIB


@pytest.mark.parametrize("method", ["io_uring", "worker"])
@pytest.mark.parametrize("what", [read_bytes, read_text, write_bytes, dropped_in])
def test_a_disk_that_takes_its_time_does_not_stop_the_loop(slow_file: Path, what: Any, method: str) -> None:
    """Its names and attributes are in the kernel's cache; to open, read and write is to wait."""
    late = 0.0

    async def ticker() -> None:
        nonlocal late
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            late = max(late, time.monotonic() - before)

    async def main() -> float:
        async with aioring.Ring(method=method) as ring:
            ticking = asyncio.ensure_future(ticker())
            await asyncio.sleep(0.02)
            start = time.monotonic()
            await what(slow_file, ring)
            took = time.monotonic() - start
            ticking.cancel()
            return took

    assert asyncio.run(main()) > fuse.DELAY  # or nothing was asked of it
    assert late < fuse.DELAY / 2, f"the loop stood still for {late:.2f} s"
