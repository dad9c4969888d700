"""Opening, closing, asking about, shaping and syncing files, and `run`: as `os` does it, on every method and loop."""

from __future__ import annotations

import contextvars
import ctypes
import errno
import fcntl
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.testing import Recording, Trace
from tests.conftest import pattern
from tests.harness import Held, all_over, begin, ticks

LIGHT = True  # see conftest.py

WHOLE = pattern(100_000)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64
STAT_FIELDS = [name for name in dir(os.stat_result) if name.startswith("st_")]


@pytest.fixture
def folder(path: Path) -> Iterator[int]:
    """The directory of `path`, open, for `dir_fd`."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def umask_027() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def fields(st: os.stat_result) -> dict[str, Any]:
    """All 19: 16 have names, the whole seconds of three times only places in the tuple."""
    return {name: getattr(st, name) for name in STAT_FIELDS} | {"seconds": tuple(st)[7:10]}


def outcome(error: BaseException) -> tuple[Any, ...]:
    """What a program looks at: class, errno, file names."""
    filenames = (error.filename, error.filename2) if isinstance(error, OSError) else ()
    return type(error), getattr(error, "errno", None), *filenames


# --- open -------------------------------------------------------------------------------------------------------------

OPEN_FLAGS = {
    "rdonly": os.O_RDONLY,
    "wronly": os.O_WRONLY,
    "rdwr": os.O_RDWR,
    "append": os.O_WRONLY | os.O_APPEND,
    "nonblock": os.O_RDONLY | os.O_NONBLOCK,
    "direct": os.O_RDONLY | os.O_DIRECT,
    "dsync": os.O_RDWR | os.O_DSYNC,
    "sync": os.O_WRONLY | os.O_SYNC,
    "noatime": os.O_RDONLY | os.O_NOATIME,
    "path": os.O_PATH,
    "cloexec": os.O_RDONLY | os.O_CLOEXEC,
    "creat": os.O_WRONLY | os.O_CREAT,
    "trunc": os.O_WRONLY | os.O_TRUNC,
    "nofollow": os.O_RDONLY | os.O_NOFOLLOW,
}


@pytest.mark.parametrize("resolve", [0, aioring.RESOLVE_NO_SYMLINKS], ids=["openat", "openat2"])
async def test_an_opened_fd_has_the_status_flags_of_os_open(ring: aioring.Ring, path: Path, resolve: int) -> None:
    for name, flags in OPEN_FLAGS.items():
        theirs = os.open(path, flags)
        ours = await ring.open(path, flags, resolve=resolve)
        try:
            assert fcntl.fcntl(ours, fcntl.F_GETFL) == fcntl.fcntl(theirs, fcntl.F_GETFL), name
            assert os.fstat(ours).st_ino == os.fstat(theirs).st_ino
        finally:
            os.close(theirs)
            os.close(ours)


async def test_an_opened_fd_is_not_inheritable(ring: aioring.Ring, path: Path) -> None:
    for options in ({}, {"resolve": aioring.RESOLVE_NO_MAGICLINKS}):
        fd = await ring.open(path, os.O_RDONLY, **options)
        try:
            assert os.get_inheritable(fd) is False
        finally:
            os.close(fd)


@pytest.mark.usefixtures("umask_027")
async def test_a_new_file_gets_the_mode_less_the_umask(ring: aioring.Ring, tmp_path: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for i, mode in enumerate((0o777, 0o666, 0o600, 0o4755, 0o000)):
        for resolve in (0, aioring.RESOLVE_NO_SYMLINKS):
            ours, theirs = tmp_path / f"ours{i}{resolve}", tmp_path / f"theirs{i}{resolve}"
            os.close(await ring.open(ours, flags, mode, resolve=resolve))
            os.close(os.open(theirs, flags, mode))
            assert stat.filemode(ours.stat().st_mode) == stat.filemode(theirs.stat().st_mode), oct(mode)
    os.close(await ring.open(tmp_path / "default", os.O_WRONLY | os.O_CREAT))
    assert (tmp_path / "default").stat().st_mode & 0o7777 == 0o750  # as os.open: 0o777 by default


async def test_exclusive_creation_refuses_what_is_there(ring: aioring.Ring, path: Path) -> None:
    with pytest.raises(FileExistsError) as caught:
        await ring.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert caught.value.filename == path or caught.value.filename == os.fspath(path)


async def test_truncation_on_opening_empties_the_file(ring: aioring.Ring, path: Path) -> None:
    os.close(await ring.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0


async def test_paths_may_be_bytes_pathlike_and_not_utf8(ring: aioring.Ring, tmp_path: Path) -> None:
    class Like:
        def __init__(self, path: str | bytes) -> None:
            self.path = path

        def __fspath__(self) -> str | bytes:
            return self.path

    odd = os.fsencode(tmp_path) + b"/\xff\xfe not utf-8 \xe9"
    for path in (str(tmp_path / "a"), os.fsencode(tmp_path / "b"), tmp_path / "c", odd, os.fsdecode(odd) + "2"):
        for given in (path, Like(os.fspath(path))):
            fd = await ring.open(given, os.O_RDWR | os.O_CREAT, 0o600)  # type: ignore[arg-type]
            try:
                assert (await ring.stat(given)).st_ino == os.stat(path).st_ino == os.fstat(fd).st_ino  # type: ignore[arg-type]
            finally:
                os.close(fd)
    assert odd.rsplit(b"/")[-1] in os.listdir(os.fsencode(tmp_path))


async def test_a_path_is_taken_relative_to_dir_fd(ring: aioring.Ring, path: Path, folder: int) -> None:
    for resolve in (0, aioring.RESOLVE_BENEATH):
        fd = await ring.open(path.name, os.O_RDONLY, dir_fd=folder, resolve=resolve)
        try:
            assert os.fstat(fd).st_ino == path.stat().st_ino
        finally:
            os.close(fd)
    fd = await ring.open(path, os.O_RDONLY, dir_fd=folder)  # absolute: dir_fd does not matter
    os.close(fd)


async def test_resolve_beneath_refuses_to_leave_the_directory(ring: aioring.Ring, path: Path, folder: int) -> None:
    (path.parent / "out").symlink_to("/etc/passwd")
    for escape in ("../" + path.parent.name + "/" + path.name, "/etc/passwd", "out"):
        with pytest.raises(OSError) as caught:
            await ring.open(escape, os.O_RDONLY, dir_fd=folder, resolve=aioring.RESOLVE_BENEATH)
        assert outcome(caught.value) == (OSError, errno.EXDEV, escape, None)
    with pytest.raises(OSError) as caught:
        await ring.open("out", os.O_RDONLY, dir_fd=folder, resolve=aioring.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP


async def test_resolve_in_root_takes_the_directory_for_the_root(ring: aioring.Ring, path: Path, folder: int) -> None:
    fd = await ring.open("/../" + path.name, os.O_RDONLY, dir_fd=folder, resolve=aioring.RESOLVE_IN_ROOT)
    try:
        assert os.fstat(fd).st_ino == path.stat().st_ino
    finally:
        os.close(fd)


async def test_a_nameless_file_can_be_made(ring: aioring.Ring, tmp_path: Path) -> None:
    for resolve in (0, aioring.RESOLVE_NO_SYMLINKS):
        fd = await ring.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600, resolve=resolve)
        try:
            assert await ring.write(fd, 0, b"nameless") == 8
            assert await ring.read(fd, 0, 100) == b"nameless"
            assert os.fstat(fd).st_nlink == 0
            assert os.fstat(fd).st_mode & 0o777 == 0o600
        finally:
            os.close(fd)
    assert not list(tmp_path.iterdir())


async def test_a_directory_opens_for_reading_only(ring: aioring.Ring, path: Path) -> None:
    os.close(await ring.open(path.parent, os.O_RDONLY | os.O_DIRECTORY))
    with pytest.raises(NotADirectoryError):
        await ring.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(IsADirectoryError):
        await ring.open(path.parent, os.O_WRONLY)


async def test_a_failed_open_carries_the_name_as_it_was_given(ring: aioring.Ring, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for given in (str(missing), os.fsencode(missing)):
        for resolve in (0, aioring.RESOLVE_NO_SYMLINKS):
            with pytest.raises(FileNotFoundError) as caught:
                await ring.open(given, os.O_RDONLY, resolve=resolve)
            assert outcome(caught.value) == (FileNotFoundError, errno.ENOENT, given, None)
            assert str(caught.value) == f"[Errno 2] No such file or directory: {given!r}"
    with pytest.raises(FileNotFoundError) as caught:
        await ring.open(missing, os.O_RDONLY)
    with pytest.raises(FileNotFoundError) as theirs:
        os.open(missing, os.O_RDONLY)
    assert outcome(caught.value) == outcome(theirs.value)


# An audit hook can't be taken off again, so there is one for all tests, and it writes only while `heard` is a list.
heard: list[tuple[str, tuple[Any, ...]]] | None = None
AUDITED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if heard is not None and event in AUDITED:
        heard.append((event, args))


@pytest.fixture
def audited() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    global heard
    if not getattr(sys, "_aioring_tests_hook", False):
        sys._aioring_tests_hook = True  # type: ignore[attr-defined]
        sys.addaudithook(_hook)
    heard = events = []
    try:
        yield events
    finally:
        heard = None


@pytest.mark.parametrize("resolve", [0, aioring.RESOLVE_NO_SYMLINKS], ids=["openat", "openat2"])
async def test_opening_raises_one_audit_event_with_path_and_flags(
    ring: aioring.Ring, path: Path, audited: list[tuple[str, tuple[Any, ...]]], resolve: int
) -> None:
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR):
        for given in (str(path), os.fsencode(path)):
            audited.clear()
            os.close(await ring.open(given, flags, resolve=resolve))
            # os.open adds O_CLOEXEC to the flags that it was given before it tells
            assert [(event, args[0], args[1], args[2] & ~os.O_CLOEXEC) for event, args in audited] == [
                ("open", given, None, flags)
            ]


async def test_a_failed_open_raises_its_audit_event_too(
    ring: aioring.Ring, tmp_path: Path, audited: list[tuple[str, tuple[Any, ...]]]
) -> None:
    with pytest.raises(FileNotFoundError):
        await ring.open(tmp_path / "missing", os.O_RDONLY)
    assert [event for event, _ in audited] == ["open"]


async def test_names_raise_the_audit_events_of_os(
    ring: aioring.Ring, tmp_path: Path, folder: int, audited: list[tuple[str, tuple[Any, ...]]]
) -> None:
    async def script(do: Any, at: str) -> list[tuple[str, tuple[Any, ...]]]:
        audited.clear()
        await do("mkdir", at + "/d", 0o700)
        await do("mkdir", "d2", 0o700, dir_fd=folder)
        await do("symlink", "x", at + "/s")
        await do("symlink", "x", "s2", dir_fd=folder)
        await do("rename", at + "/s", at + "/t")
        await do("rename", "s2", "t2", src_dir_fd=folder, dst_dir_fd=folder)
        await do("link", at + "/t", at + "/l")
        await do("link", "t2", "l2", src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        for name in ("/t", "/l"):
            await do("unlink", at + name)
        for name in ("t2", "l2"):
            await do("unlink", name, dir_fd=folder)
        await do("rmdir", at + "/d")
        await do("rmdir", "d2", dir_fd=folder)
        return list(audited)

    async def theirs(name: str, *args: Any, **options: Any) -> None:
        getattr(os, name)(*args, **options)

    async def ours(name: str, *args: Any, **options: Any) -> None:
        await getattr(ring, name)(*args, **options)

    at = str(tmp_path)
    assert await script(ours, at) == await script(theirs, at)


async def test_a_truncation_raises_the_audit_event_of_os(
    ring: aioring.Ring, fd: int, audited: list[tuple[str, tuple[Any, ...]]]
) -> None:
    await ring.truncate(fd, 10)
    assert audited == [("os.truncate", (fd, 10))]


# --- close ------------------------------------------------------------------------------------------------------------


async def test_a_closed_fd_is_closed(ring: aioring.Ring, path: Path) -> None:
    fd = await ring.open(path, os.O_RDONLY)
    assert await ring.close(fd) is None  # type: ignore[func-returns-value]
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught:
        await ring.close(fd)
    assert caught.value.errno == errno.EBADF


async def test_pipes_and_directories_close_too(ring: aioring.Ring, tmp_path: Path) -> None:
    for fd in (*os.pipe(), os.open(tmp_path, os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)):
        await ring.close(fd)
        with pytest.raises(OSError):
            os.fstat(fd)


# --- stat -------------------------------------------------------------------------------------------------------------


async def test_a_stat_has_every_field_of_os_stat(ring: aioring.Ring, path: Path) -> None:
    assert len(STAT_FIELDS) + 3 == os.stat_result.n_fields == 19
    os.utime(path, ns=(1_234_567_890_123_456_789, -1_500_000_001))  # before 1970 too
    (path.parent / "link").symlink_to(path.name)
    (path.parent / "dangling").symlink_to("nowhere" * 20)
    (path.parent / "sub").mkdir(0o2751)
    os.link(path, path.parent / "twin")
    os.mkfifo(path.parent / "fifo", 0o640)
    sparse = path.parent / "sparse"
    sparse.touch()
    os.truncate(sparse, 5 << 30)
    names = ("data", "link", "sub", "twin", "fifo", "sparse", ".", "..")
    others = ("/", "/dev/null", "/dev/zero", "/dev/shm", "/proc", "/sys")
    for given in [str(path.parent / name) for name in names] + list(others):
        st = await ring.stat(given)
        assert type(st) is os.stat_result
        assert fields(st) == fields(os.stat(given)), given
        assert tuple(st) == tuple(os.stat(given)), given
        assert fields(await ring.stat(given, follow_symlinks=False)) == fields(os.lstat(given)), given
    dangling = path.parent / "dangling"
    assert fields(await ring.stat(dangling, follow_symlinks=False)) == fields(os.lstat(dangling))
    assert (await ring.stat("/dev/null")).st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("name", ["/proc/self/status", "/proc/version", "/proc/meminfo", "/sys/kernel", "/proc/self"])
async def test_stat_of_kernel_files_is_that_of_os(ring: aioring.Ring, name: str) -> None:
    # Their inodes come and go: an open fd holds one still.
    fd = os.open(name, os.O_RDONLY)
    try:
        assert fields(await ring.stat(fd)) == fields(os.fstat(fd))
        assert (await ring.stat(name)).st_mode == os.stat(name).st_mode
        assert (await ring.stat(name, follow_symlinks=False)).st_mode == os.lstat(name).st_mode
    finally:
        os.close(fd)


async def test_stat_takes_fds_of_every_kind(ring: aioring.Ring, path: Path, pipe: tuple[int, int]) -> None:
    opened = [os.open(path, os.O_RDONLY), os.open(path.parent, os.O_RDONLY), os.open(path, os.O_PATH)]
    try:
        for fd in (*opened, *pipe):
            assert fields(await ring.stat(fd)) == fields(os.fstat(fd))
    finally:
        for fd in opened:
            os.close(fd)


async def test_stat_is_relative_to_dir_fd(ring: aioring.Ring, path: Path, folder: int) -> None:
    (path.parent / "link").symlink_to(path.name)
    for name in (path.name, "link", b"link", "."):
        for follow in (True, False):
            ours = await ring.stat(name, dir_fd=folder, follow_symlinks=follow)
            assert fields(ours) == fields(os.stat(name, dir_fd=folder, follow_symlinks=follow))
    with pytest.raises(FileNotFoundError) as caught:
        await ring.stat("missing", dir_fd=folder)
    assert caught.value.filename == "missing"


async def test_stat_refuses_what_os_stat_refuses(ring: aioring.Ring, fd: int) -> None:
    for options in ({"dir_fd": fd}, {"follow_symlinks": False}):
        with pytest.raises(ValueError) as theirs:
            os.stat(fd, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError) as ours:
            await ring.stat(fd, **options)  # type: ignore[arg-type]
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("bad", [-1, -2, -100, 1_000_000])
async def test_stat_of_an_fd_that_is_none_is_ebadf(ring: aioring.Ring, bad: int) -> None:
    # -100 is AT_FDCWD to the kernel: it must not stand for the current directory
    with pytest.raises(OSError) as caught:
        await ring.stat(bad)
    assert caught.value.errno == errno.EBADF


# --- truncate, allocate, advise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 4096, 99_999, 100_000, 100_001, 1 << 33])
async def test_truncate_cuts_and_extends(ring: aioring.Ring, fd: int, n: int) -> None:
    assert await ring.truncate(fd, n) is None  # type: ignore[func-returns-value]
    assert os.fstat(fd).st_size == n
    head = os.pread(fd, 200_000, 0)
    assert head == (WHOLE[:n] + bytes(max(0, min(n, 200_000) - 100_000)))[:200_000]


async def test_allocate_grows_the_file(ring: aioring.Ring, fd: int) -> None:
    assert await ring.allocate(fd, 0, 300_000) is None  # type: ignore[func-returns-value]
    st = os.fstat(fd)
    assert st.st_size == 300_000
    assert st.st_blocks * 512 >= 300_000
    assert os.pread(fd, 300_000, 0) == WHOLE + bytes(200_000)


@pytest.mark.parametrize(
    ("mode", "offset", "n"),
    [
        (0, 5, 10),
        (0, 200_000, 4096),
        (KEEP_SIZE, 90_000, 200_000),
        (PUNCH_HOLE | KEEP_SIZE, 4096, 8192),
        (PUNCH_HOLE | KEEP_SIZE, 1, 5),
        (ZERO_RANGE, 100, 20_000),
        (ZERO_RANGE, 99_000, 5000),
        (ZERO_RANGE | KEEP_SIZE, 99_000, 5000),
        (COLLAPSE_RANGE, 4096, 8192),
        (INSERT_RANGE, 4096, 8192),
        (UNSHARE_RANGE, 0, 4096),
        (COLLAPSE_RANGE, 1, 8192),  # EINVAL: not by blocks
        (COLLAPSE_RANGE, 0, 1 << 20),  # EINVAL: all of it
        (PUNCH_HOLE, 0, 4096),  # EOPNOTSUPP or EINVAL: only with KEEP_SIZE
        (1 << 20, 0, 4096),  # EOPNOTSUPP: no such mode
        (0, 0, 0),  # EINVAL
        (0, (1 << 63) - 1, 1),  # EFBIG
        (0, 1 << 62, 1 << 62),
    ],
)
async def test_allocate_does_what_fallocate_does(
    ring: aioring.Ring, tmp_path: Path, mode: int, offset: int, n: int
) -> None:
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    seen: list[Any] = []
    for who in ("theirs", "ours"):
        file = tmp_path / who
        file.write_bytes(WHOLE)
        fd = os.open(file, os.O_RDWR)
        try:
            if who == "ours":
                try:
                    await ring.allocate(fd, offset, n, mode)
                    code = 0
                except OSError as error:
                    code = error.errno or -1
            else:
                done = fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(n))
                code = ctypes.get_errno() if done < 0 else 0
        finally:
            os.close(fd)
        seen.append((errno.errorcode.get(code), file.stat().st_size, file.read_bytes()))
    assert seen[0] == seen[1]


async def test_a_punched_hole_gives_its_blocks_back(ring: aioring.Ring, fd: int) -> None:
    os.fsync(fd)
    before = os.fstat(fd).st_blocks
    await ring.allocate(fd, 0, 65536, PUNCH_HOLE | KEEP_SIZE)
    assert os.fstat(fd).st_blocks < before
    assert os.pread(fd, 100_000, 0) == bytes(65536) + WHOLE[65536:]


async def test_advice_of_every_kind_is_taken(ring: aioring.Ring, fd: int) -> None:
    for advice in ("NORMAL", "SEQUENTIAL", "RANDOM", "NOREUSE", "WILLNEED", "DONTNEED"):
        number = getattr(os, f"POSIX_FADV_{advice}")
        assert await ring.advise(fd, 0, 50_000, number) is None  # type: ignore[func-returns-value]
        await ring.advise(fd, 0, 0, number)
        await ring.advise(fd, 1 << 40, 1 << 40, number)
    assert os.pread(fd, 100_000, 0) == WHOLE


async def test_advice_that_is_none_is_einval(ring: aioring.Ring, fd: int, pipe: tuple[int, int]) -> None:
    with pytest.raises(OSError) as caught:
        await ring.advise(fd, 0, 0, 77)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        await ring.advise(pipe[0], 0, 0, os.POSIX_FADV_NORMAL)
    assert caught.value.errno == errno.ESPIPE


# --- durability -------------------------------------------------------------------------------------------------------


async def test_what_was_written_can_be_made_durable(ring: aioring.Ring, fd: int) -> None:
    await ring.write(fd, 10, b"precious")
    assert await ring.sync_range(fd, 0, 4096) is None  # type: ignore[func-returns-value]
    await ring.sync_range(fd, 0, 0)
    await ring.sync_range(fd, 4096, 1 << 34, 2)
    assert await ring.fsync(fd, data_only=True) is None  # type: ignore[func-returns-value]
    assert await ring.fsync(fd) is None  # type: ignore[func-returns-value]
    assert os.pread(fd, 8, 10) == b"precious"


async def test_a_directory_can_be_made_durable(ring: aioring.Ring, folder: int) -> None:
    await ring.fsync(folder)
    await ring.fsync(folder, data_only=True)


async def test_syncing_what_cannot_be_synced_fails_as_in_os(ring: aioring.Ring, fd: int, pipe: tuple[int, int]) -> None:
    for data_only in (False, True):
        with pytest.raises(OSError) as caught:
            await ring.fsync(pipe[1], data_only=data_only)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            await ring.fsync(1_000_000, data_only=data_only)
        assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught:
        await ring.sync_range(pipe[1], 0, 0)
    assert caught.value.errno == errno.ESPIPE
    with pytest.raises(OSError) as caught:
        await ring.sync_range(fd, 0, 0, 1 << 20)
    assert caught.value.errno == errno.EINVAL


# --- run --------------------------------------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_run_calls_on_another_thread_and_returns_the_value(ring: aioring.Ring) -> None:
    assert await ring.run(threading.get_ident) != threading.get_ident()
    assert await ring.run(divmod, 17, 5) == (3, 2)
    assert await ring.run(lambda: None) is None
    marker = object()
    assert await ring.run(lambda: marker) is marker
    assert (await ring.run(threading.current_thread)).daemon


async def test_run_takes_keywords(ring: aioring.Ring) -> None:
    assert await ring.run(int, "ff", base=16) == 255


async def test_run_sees_the_callers_context_and_changes_only_its_copy(ring: aioring.Ring) -> None:
    variable.set("caller")

    def call() -> str:
        seen = variable.get()
        variable.set("callee")
        return seen

    assert await ring.run(call) == "caller"
    assert variable.get() == "caller"


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.EIO, "eio", "name"), OSError("bare"), _Stop("base")])
async def test_run_raises_what_the_call_raises(ring: aioring.Ring, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await ring.run(fail)
    assert caught.value is error


async def test_a_stop_iteration_out_of_run_ends_nothing(ring: aioring.Ring) -> None:
    # No coroutine can raise StopIteration: Python makes it a RuntimeError with the cause.
    with pytest.raises(RuntimeError) as caught:
        await ring.run(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)
    assert await ring.run(next, iter("abc")) == "a"


async def test_run_needs_something_to_call(ring: aioring.Ring) -> None:
    with pytest.raises(TypeError):
        await ring.run()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await ring.run(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await ring.run(len)  # type: ignore[call-arg]


async def test_run_is_counted_and_takes_no_slot(make_ring: Any, anyio_backend: Any) -> None:
    async with make_ring(depth=1) as ring:
        assert [await ring.run(len, "x" * i) for i in range(5)] == [0, 1, 2, 3, 4]
        assert ring._started.workers.carried_out >= 5
        assert ring._started.runs == 0
        assert not ring._started.busy()


# --- every operation with an opcode is really submitted ---------------------------------------------------------------


async def _every_operation(ring: aioring.Ring, path: Path, folder: int) -> dict[str, list[Any]]:
    """Each public operation once: name in the table, and the calls that are that operation."""
    at = path.parent
    fd = os.open(path, os.O_RDWR)
    doomed = os.dup(fd)
    buffer = bytearray(100)
    try:
        return {
            "read": [lambda: ring.read(fd, 0, 100), lambda: ring.start_read(fd, 0, 100)],
            "readinto": [lambda: ring.readinto(fd, 0, buffer)],
            "readv": [lambda: ring.readv(fd, 0, [buffer])],
            "write": [lambda: ring.write(fd, 0, b"abc"), lambda: ring.start_write(fd, 0, b"abc")],
            "writev": [lambda: ring.writev(fd, 0, [b"abc", b"def"])],
            "fsync": [lambda: ring.fsync(fd), lambda: ring.fsync(fd, data_only=True)],
            "sync_range": [lambda: ring.sync_range(fd, 0, 100)],
            "truncate": [lambda: ring.truncate(fd, 50)],
            "allocate": [lambda: ring.allocate(fd, 0, 100)],
            "advise": [lambda: ring.advise(fd, 0, 100, 0)],
            "stat": [
                lambda: ring.stat(fd),
                lambda: ring.stat(path),
                lambda: ring.stat(path.name, dir_fd=folder, follow_symlinks=False),
            ],
            "open": [
                lambda: ring.open(path, os.O_RDONLY),
                lambda: ring.open(path, os.O_RDWR | os.O_CREAT),
                lambda: ring.open(path.name, os.O_RDONLY, dir_fd=folder, resolve=aioring.RESOLVE_BENEATH),
            ],
            "mkdir": [lambda: ring.mkdir(at / "d")],
            "symlink": [lambda: ring.symlink("x", at / "s")],
            "link": [lambda: ring.link(path, at / "l")],
            "rename": [lambda: ring.rename(at / "l", at / "m")],
            "unlink": [lambda: ring.unlink(at / "m")],
            "rmdir": [lambda: ring.rmdir(at / "d")],
            "close": [lambda: ring.close(doomed)],
        }
    finally:
        _opened.extend([fd])


_opened: list[int] = []


async def test_every_operation_with_an_opcode_is_submitted_and_no_worker_serves_it(
    path: Path, folder: int, anyio_backend: Any
) -> None:
    trace = Trace()
    async with aioring.Ring(method=Recording("io_uring", trace), page_cache_first=False) as ring:
        engine = ring._started
        assert engine is not None
        try:
            for name, calls in (await _every_operation(ring, path, folder)).items():
                for call in calls:
                    trace.events.clear()
                    result = await call()
                    if name == "open":
                        os.close(result)
                    assert trace.count("submitted", name) == 1, f"{name}:\n{trace}"
                    assert trace.count("submitted") == 1, f"{name}:\n{trace}"
                    assert trace.count("completed", name) == 1, f"{name}:\n{trace}"
                    assert engine.workers.carried_out == 0, name
                    assert engine.workers.threads() == 0, name
            assert not engine.live
        finally:
            while _opened:
                os.close(_opened.pop())


async def test_an_operation_in_a_chain_is_submitted_too(path: Path, folder: int, anyio_backend: Any) -> None:
    trace = Trace()
    async with aioring.Ring(method=Recording("io_uring", trace), page_cache_first=False) as ring:
        engine = ring._started
        assert engine is not None
        fd = os.open(path, os.O_RDWR)
        async with ring.chain() as chain:
            put = chain.write(fd, 0, b"abc")
            chain.fsync(fd, data_only=True)
            got = chain.read(fd, 0, 3)
            chain.rename(path, path.parent / "renamed")
            chain.close(fd)
        assert (await put, await got) == (3, b"abc")
        assert [e.operation for e in trace if e.what == "submitted"] == ["write", "fsync", "read", "rename", "close"]
        assert engine.workers.carried_out == engine.workers.threads() == 0


# --- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "flags", "in_place"),
    [
        ("data", os.O_RDONLY, True),
        ("data", os.O_RDWR, False),
        ("data", os.O_WRONLY, False),
        ("data", getattr(os, "O_PATH", 0), False),
        ("/dev/null", os.O_RDONLY, False),
        (".", os.O_RDONLY, False),
    ],
)
async def test_what_is_closed_in_place(anyio_backend: Any, path: Path, what: str, flags: int, in_place: bool) -> None:
    async with aioring.Ring() as ring:
        if not ring._at_once:
            pytest.skip("nothing is had at once here")
        fd = os.open(path if what == "data" else what, flags)
        await ring.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        close = ring.stats().operations["close"]
        assert (close.count, close.page_cache, close.errors) == (1, int(in_place), 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await ring.close(fd)


async def test_a_close_in_place_waits_for_what_is_under_way(anyio_backend: Any, path: Path) -> None:
    held = Held(1)
    async with aioring.Ring(method=held) as ring, anyio.create_task_group() as group:
        ring._at_once = True  # as if it asked the page cache
        fd = os.open(path, os.O_RDONLY)
        read = begin(group, ring.read, fd, 0, 10)
        await ticks(3)
        close = begin(group, ring.close, fd)
        await ticks(3)
        assert not close.done
        os.fstat(fd)  # open
        held.let_go()
        await all_over(read, close)
        assert (read.value, close.error) == (pattern(10), None)
