"""Names in directories: the same effects and the same errors, names and all, as `os`, on every method and loop."""

from __future__ import annotations

import errno
import inspect
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring

LIGHT = True  # see conftest.py

NAMES = ("rename", "unlink", "mkdir", "rmdir", "symlink", "link")


class Twins:
    """Two directories alike: what is done in one by `os` is done in the other by the ring, and both must come out alike."""

    def __init__(self, ring: aioring.Ring, root: Path) -> None:
        self.ring = ring
        self.theirs, self.ours = root / "twin0", root / "twin1"  # names of the same length
        self.fds: list[int] = []
        self.dirs: dict[str, tuple[int, int]] = {}
        for twin in (self.theirs, self.ours):
            twin.mkdir()
            (twin / "file").write_bytes(b"content")
            (twin / "other").write_bytes(b"other")
            (twin / "empty").mkdir()
            (twin / "full").mkdir()
            (twin / "full" / "leaf").write_bytes(b"leaf")
            (twin / "to_file").symlink_to("file")
            (twin / "to_dir").symlink_to("full")
            (twin / "loop").symlink_to("loop")
        for name in (".", "full", "empty"):
            pair = tuple(os.open(twin / name, os.O_RDONLY | os.O_DIRECTORY) for twin in (self.theirs, self.ours))
            self.dirs[name] = pair  # type: ignore[assignment]
            self.fds += pair

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    async def do(self, operation: str, *paths: str, **options: Any) -> tuple[Any, ...] | None:
        """The outcome, compared: None, or class, errno and names (with the twin's directory taken out)."""
        outcomes: list[tuple[Any, ...] | None] = []
        for i, twin in enumerate((self.theirs, self.ours)):
            full = {key: self.dirs[value][i] if isinstance(value, str) else value for key, value in options.items()}
            args = [p.replace("@", str(twin)) for p in paths]
            extra: Any = full.pop("extra", ())
            try:
                if twin is self.theirs:
                    getattr(os, operation)(*args, *extra, **full)
                else:
                    with anyio.fail_after(2):
                        assert await getattr(self.ring, operation)(*args, *extra, **full) is None
                outcomes.append(None)
            except (OSError, ValueError, TypeError, OverflowError, NotImplementedError) as error:
                names = (getattr(error, "filename", None), getattr(error, "filename2", None))
                plain = tuple(n.replace(str(twin), "@") if isinstance(n, str) else n for n in names)
                outcomes.append((type(error), getattr(error, "errno", None), *plain))
        assert outcomes[1] == outcomes[0], f"{operation}{paths} {options}"
        assert self.tree(self.ours) == self.tree(self.theirs), f"{operation}{paths} {options}"
        return outcomes[1]

    @staticmethod
    def tree(root: Path) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for at, folders, files in os.walk(root):
            for name in folders + files:
                path = Path(at, name)
                st = path.lstat()
                content: Any = None
                if stat.S_ISLNK(st.st_mode):
                    content = os.readlink(path).replace(str(root), "@")
                elif stat.S_ISREG(st.st_mode):
                    content = path.read_bytes()
                seen[str(path.relative_to(root))] = (stat.filemode(st.st_mode), st.st_nlink, content)
        return seen


@pytest.fixture
async def twins(ring: aioring.Ring, tmp_path: Path) -> Any:
    twins = Twins(ring, tmp_path)
    try:
        yield twins
    finally:
        twins.close()


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_os(name: str) -> None:
    ours = list(inspect.signature(getattr(aioring.Ring, name)).parameters.values())[1:]
    theirs = inspect.signature(getattr(os, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [
        # os.link says -1 or True here and there for "not given"
        (p.name, inspect.Parameter.POSITIONAL_OR_KEYWORD if p.kind == p.POSITIONAL_ONLY else p.kind, o.default)
        for p, o in zip(theirs, ours, strict=True)
    ]
    assert inspect.iscoroutinefunction(getattr(aioring.Ring, name))


# --- what they do -----------------------------------------------------------------------------------------------------


async def test_rename_moves_and_replaces(twins: Twins) -> None:
    assert await twins.do("rename", "@/file", "@/new") is None
    assert await twins.do("rename", "@/new", "@/other") is None  # replaced
    assert await twins.do("rename", "@/other", "@/other") is None
    assert await twins.do("rename", "@/full", "@/empty") is None  # a directory replaces an empty one
    assert await twins.do("rename", "@/to_file", "@/empty/link") is None  # the link itself
    assert (twins.ours / "other").read_bytes() == b"content"


async def test_rename_takes_both_dir_fds(twins: Twins) -> None:
    assert await twins.do("rename", "file", "moved", src_dir_fd=".", dst_dir_fd="full") is None
    assert await twins.do("rename", "leaf", "@/leaf", src_dir_fd="full") is None
    assert await twins.do("rename", "@/leaf", "back", dst_dir_fd="empty") is None
    assert (twins.ours / "full" / "moved").exists()
    assert (twins.ours / "empty" / "back").exists()


async def test_unlink_removes_files_and_links(twins: Twins) -> None:
    assert await twins.do("unlink", "@/to_dir") is None
    assert await twins.do("unlink", "@/file") is None
    assert await twins.do("unlink", "leaf", dir_fd="full") is None
    assert await twins.do("unlink", "to_file", dir_fd=".") is None  # it dangles by now


async def test_mkdir_obeys_the_umask(twins: Twins) -> None:
    old = os.umask(0o027)
    try:
        assert await twins.do("mkdir", "@/default") is None
        for mode in (0o777, 0o700, 0o1777, 0o6755, 0, 0o750):
            assert await twins.do("mkdir", f"@/d{mode:o}", extra=(mode,)) is None
        assert await twins.do("mkdir", "below", extra=(0o711,), dir_fd="full") is None
    finally:
        os.umask(old)
        for twin in (twins.theirs, twins.ours):
            (twin / "d0").chmod(0o700)


async def test_rmdir_removes_empty_directories(twins: Twins) -> None:
    assert await twins.do("rmdir", "@/empty") is None
    assert await twins.do("mkdir", "sub", dir_fd="full") is None
    assert await twins.do("rmdir", "sub", dir_fd="full") is None


async def test_symlink_points_wherever_it_is_told(twins: Twins) -> None:
    assert await twins.do("symlink", "file", "@/s1") is None
    assert await twins.do("symlink", "no such thing", "@/s2") is None
    assert await twins.do("symlink", "@/file", "s3", dir_fd="full") is None
    assert await twins.do("symlink", "full", "@/s4", extra=(True,)) is None  # target_is_directory: nothing on Linux
    assert await twins.do("symlink", "x" * 4000, "@/s5") is None


async def test_link_makes_a_second_name(twins: Twins) -> None:
    assert await twins.do("link", "@/file", "@/l1") is None
    assert await twins.do("link", "file", "l2", src_dir_fd=".", dst_dir_fd="full") is None
    assert await twins.do("link", "leaf", "@/l3", src_dir_fd="full") is None
    assert await twins.do("link", "@/file", "l4", dst_dir_fd="empty") is None
    assert (twins.ours / "file").stat().st_nlink == 4


@pytest.mark.parametrize("options", [{}, {"follow_symlinks": True}, {"follow_symlinks": False}], ids=str)
async def test_link_to_a_symlink_follows_it_when_os_does(twins: Twins, options: dict[str, Any]) -> None:
    assert await twins.do("link", "@/to_file", "@/l1", **options) is None
    assert await twins.do("link", "to_file", "l2", src_dir_fd=".", dst_dir_fd=".", **options) is None
    assert await twins.do("link", "to_file", "@/l3", src_dir_fd=".", **options) is None
    assert await twins.do("link", "@/to_file", "l4", dst_dir_fd="full", **options) is None


async def test_paths_may_be_bytes_pathlike_and_not_utf8(ring: aioring.Ring, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    await ring.mkdir(odd)
    await ring.symlink(b"\xe9", odd + b"/s")
    await ring.rename(odd + b"/s", os.fsdecode(odd) + "/t")
    await ring.link(Path(os.fsdecode(odd + b"/t")), odd + b"/u", follow_symlinks=False)
    assert sorted(os.listdir(odd)) == [b"t", b"u"]
    assert os.readlink(odd + b"/t") == b"\xe9"
    await ring.unlink(odd + b"/t")
    await ring.unlink(Path(os.fsdecode(odd + b"/u")))
    await ring.rmdir(Path(os.fsdecode(odd)))
    assert not os.path.lexists(odd)


# --- how they fail ----------------------------------------------------------------------------------------------------


async def test_missing_names_are_named(twins: Twins) -> None:
    for operation in ("unlink", "rmdir"):
        assert await twins.do(operation, "@/missing") == (FileNotFoundError, errno.ENOENT, "@/missing", None)
        assert await twins.do(operation, "missing", dir_fd="full") == (FileNotFoundError, errno.ENOENT, "missing", None)
        assert await twins.do(operation, "") == (FileNotFoundError, errno.ENOENT, "", None)
    assert await twins.do("mkdir", "@/missing/sub") == (FileNotFoundError, errno.ENOENT, "@/missing/sub", None)
    for operation in ("rename", "link"):
        outcome = await twins.do(operation, "@/missing", "@/to")
        assert outcome == (FileNotFoundError, errno.ENOENT, "@/missing", "@/to")
        outcome = await twins.do(operation, "missing", "to", src_dir_fd="full", dst_dir_fd="empty")
        assert outcome == (FileNotFoundError, errno.ENOENT, "missing", "to")
    outcome = await twins.do("symlink", "target", "@/missing/link")
    assert outcome == (FileNotFoundError, errno.ENOENT, "target", "@/missing/link")


async def test_names_that_are_taken_are_refused(twins: Twins) -> None:
    assert await twins.do("mkdir", "@/file") == (FileExistsError, errno.EEXIST, "@/file", None)
    assert await twins.do("mkdir", "@/full") == (FileExistsError, errno.EEXIST, "@/full", None)
    assert await twins.do("symlink", "x", "@/file") == (FileExistsError, errno.EEXIST, "x", "@/file")
    assert await twins.do("link", "@/other", "@/file") == (FileExistsError, errno.EEXIST, "@/other", "@/file")


async def test_directories_and_files_are_not_mixed_up(twins: Twins) -> None:
    assert await twins.do("rmdir", "@/file") == (NotADirectoryError, errno.ENOTDIR, "@/file", None)
    assert await twins.do("rmdir", "@/to_dir") == (NotADirectoryError, errno.ENOTDIR, "@/to_dir", None)
    assert await twins.do("unlink", "@/full") == (IsADirectoryError, errno.EISDIR, "@/full", None)
    outcome = await twins.do("rename", "@/file", "@/empty")
    assert outcome == (IsADirectoryError, errno.EISDIR, "@/file", "@/empty")
    outcome = await twins.do("rename", "@/empty", "@/file")
    assert outcome == (NotADirectoryError, errno.ENOTDIR, "@/empty", "@/file")
    assert await twins.do("mkdir", "@/file/sub") == (NotADirectoryError, errno.ENOTDIR, "@/file/sub", None)
    assert await twins.do("link", "@/full", "@/hard") == (PermissionError, errno.EPERM, "@/full", "@/hard")


async def test_what_is_not_empty_stays(twins: Twins) -> None:
    assert await twins.do("rmdir", "@/full") == (OSError, errno.ENOTEMPTY, "@/full", None)
    assert await twins.do("rename", "@/empty", "@/full") == (OSError, errno.ENOTEMPTY, "@/empty", "@/full")
    assert await twins.do("rename", "@/full", "@/full/below") == (OSError, errno.EINVAL, "@/full", "@/full/below")
    assert await twins.do("rmdir", "@/empty/.") == (OSError, errno.EINVAL, "@/empty/.", None)
    assert await twins.do("rmdir", "@/full/..") == (OSError, errno.ENOTEMPTY, "@/full/..", None)


@pytest.mark.parametrize("operation", NAMES)
async def test_names_that_are_too_long_or_go_round_in_circles_are_refused(twins: Twins, operation: str) -> None:
    long, deep = "@/" + "x" * 256, "@/" + "y/" * 3000
    for bad, code in ((long, errno.ENAMETOOLONG), (deep, errno.ENAMETOOLONG), ("@/loop/x", errno.ELOOP)):
        paths = {"rename": (bad, "@/to"), "link": (bad, "@/to"), "symlink": ("x", bad)}.get(operation, (bad,))
        outcome = await twins.do(operation, *paths)
        assert outcome is not None
        assert outcome[:2] == (OSError, code)
        if operation in ("rename", "link"):
            outcome = await twins.do(operation, "@/file", bad)
            assert outcome is not None
            assert outcome[:2] == (OSError, code)
            assert outcome[3] == bad


@pytest.mark.parametrize("operation", NAMES)
async def test_a_nul_in_a_path_is_a_value_error(twins: Twins, operation: str) -> None:
    two = operation in ("rename", "link", "symlink")
    assert await twins.do(operation, *(("@/a\0b", "@/to") if two else ("@/a\0b",))) == (ValueError, None, None, None)
    if two:
        assert await twins.do(operation, "@/file", "@/a\0b") == (ValueError, None, None, None)


async def test_dir_fds_that_are_none_are_refused(twins: Twins, tmp_path: Path) -> None:
    file = os.open(twins.ours / "file", os.O_RDONLY)
    twins.fds.append(file)
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    none, no_directory = (OSError, errno.EBADF), (NotADirectoryError, errno.ENOTDIR)
    for bad, expected in ((closed, none), (-1, none), (file, no_directory)):
        for operation in ("unlink", "rmdir", "mkdir"):
            assert await twins.do(operation, "x", dir_fd=bad) == (*expected, "x", None)
        assert await twins.do("symlink", "t", "x", dir_fd=bad) == (*expected, "t", "x")
        for operation in ("rename", "link"):
            for which in ("src_dir_fd", "dst_dir_fd"):
                paths = ("x", "@/y") if which == "src_dir_fd" else ("@/file", "y")
                assert await twins.do(operation, *paths, **{which: bad}) == (*expected, *paths)
    for bad in (1 << 40, -(1 << 40)):
        assert await twins.do("unlink", "x", dir_fd=bad) == (OverflowError, None, None, None)
    for wrong in ("x", 1.5):
        with pytest.raises(TypeError):
            await twins.ring.unlink("x", dir_fd=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, 3.5, 7, object(), ["x"]], ids=lambda bad: type(bad).__name__)
async def test_what_is_no_path_is_a_type_error(ring: aioring.Ring, bad: Any) -> None:
    with pytest.raises(TypeError):
        await ring.open(bad, os.O_RDONLY)
    for operation in ("unlink", "rmdir", "mkdir"):
        with pytest.raises(TypeError):
            await getattr(ring, operation)(bad)
    for operation in ("rename", "link", "symlink"):
        for pair in ((bad, "y"), ("x", bad)):
            with pytest.raises(TypeError):
                await getattr(ring, operation)(*pair)
    if type(bad) is not int:
        with pytest.raises(TypeError):
            await ring.stat(bad)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A name on another file system."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system to rename to")
    path = shm / f"aioring-test-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


async def test_nothing_is_renamed_or_linked_to_another_file_system(
    ring: aioring.Ring, path: Path, elsewhere: Path
) -> None:
    for operation in (ring.rename, ring.link):
        with pytest.raises(OSError) as caught:
            await operation(str(path), str(elsewhere))
        assert caught.value.errno == errno.EXDEV
        assert (caught.value.filename, caught.value.filename2) == (str(path), str(elsewhere))
        assert str(caught.value) == f"[Errno 18] Invalid cross-device link: '{path}' -> '{elsewhere}'"
    assert path.exists()
    assert not elsewhere.exists()


async def test_modes_out_of_range_are_those_of_os(twins: Twins) -> None:
    for mode in (-1, 1 << 31, 1 << 40, -(1 << 40), 0o177777):
        await twins.do("mkdir", f"@/d{mode}", extra=(mode,))


async def test_an_error_carries_a_note_of_what_was_asked(ring: aioring.Ring, tmp_path: Path) -> None:
    calls: dict[str, Callable[[], Awaitable[None]]] = {
        "unlink": lambda: ring.unlink(tmp_path / "missing"),
        "rename": lambda: ring.rename(tmp_path / "missing", tmp_path / "to"),
        "rmdir": lambda: ring.rmdir(tmp_path / "missing"),
    }
    for name, call in calls.items():
        with pytest.raises(FileNotFoundError) as caught:
            await call()
        assert any(name in note for note in caught.value.__notes__)
