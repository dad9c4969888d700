"""`aioring.Path`: `pathlib.Path`, awaited, in anyio's API, on a ring.

What a ring has an operation for goes there (and what is cached is had in place), folders are read by workers in batches,
all else is pathlib's own on a worker. What has an effect is over when it returns, whatever becomes of its caller:
cancelling takes back what has not begun, and is delivered when the outcome is known.
"""

from __future__ import annotations

import errno
import io
import os
import pathlib
import stat
import sys
from asyncio.events import _get_running_loop
from collections.abc import AsyncIterator, Callable
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ..ring import Ring, get_ring
from . import copying
from .jobs import Batches
from .lexical import Lexical, StrPath, plain
from .walk import Walk, join, names_in
from .whole import read_file, read_text, write_file

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

    from .binary import BinaryFile, RawFile
    from .file import File
    from .textual import TextFile

__all__ = ["Methods", "Path"]

# What `exists` and its kin take for "no": pathlib's own list; since Python 3.14 every OSError.
_NO = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
_EVERY = sys.version_info >= (3, 14)


class Methods(Lexical):
    """What is awaited. `_str` is the path as text, `_ring` the ring that it was given, if any."""

    __slots__ = ()

    _str: Any
    _ring: Any

    def _here(self) -> Ring:
        ring: Ring | None = self._ring
        return get_ring() if ring is None else ring

    # --- asking -------------------------------------------------------------------------------------------------------

    # Hot path: once per file of a tree; measured in benchmarks/paths.py.

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """What `os.stat` gives. What the kernel has in its caches is had in place; cancelling is delivered at once."""
        ring = self._ring
        if ring is None:
            ring = get_ring()
        if _get_running_loop() is ring._loop_here is not None:
            if ring._budget.left <= 0:  # spent, or the ring is closed, or a forked child's
                await ring._engine.budget.turn()
            found = ring._stat_here(self._str, follow_symlinks)
            if found is not None:
                return found  # type: ignore[no-any-return]
        return await ring.stat(self._str, follow_symlinks=follow_symlinks)  # type: ignore[no-any-return]

    async def lstat(self) -> os.stat_result:
        """What `os.lstat` gives."""
        return await self.stat(follow_symlinks=False)

    async def _is(self, kind: Callable[[int], bool], follow_symlinks: bool = True) -> bool:
        try:
            return kind((await self.stat(follow_symlinks=follow_symlinks)).st_mode)
        except OSError as error:
            if error.errno not in _NO and not _EVERY:
                raise
            return False
        except ValueError:
            return False  # it cannot be the name of anything

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is anything."""
        return await self._is(lambda _: True, follow_symlinks)

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return await self._is(stat.S_ISDIR, follow_symlinks)

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file."""
        return await self._is(stat.S_ISREG, follow_symlinks)

    async def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return await self._is(stat.S_ISLNK, False)

    async def is_block_device(self) -> bool:
        """Whether it is a block device."""
        return await self._is(stat.S_ISBLK)

    async def is_char_device(self) -> bool:
        """Whether it is a character device."""
        return await self._is(stat.S_ISCHR)

    async def is_fifo(self) -> bool:
        """Whether it is a FIFO."""
        return await self._is(stat.S_ISFIFO)

    async def is_socket(self) -> bool:
        """Whether it is a socket."""
        return await self._is(stat.S_ISSOCK)

    async def is_junction(self) -> bool:
        """Whether it is a junction, which only Windows has."""
        return False

    async def is_mount(self) -> bool:
        """Whether something is mounted here (`os.path.ismount`)."""
        return await self._here().run(os.path.ismount, self._str)

    async def samefile(self, other_path: StrPath) -> bool:
        """Whether another path leads to the same file."""
        one = await self.stat()
        other = await self._here().stat(os.fspath(other_path))
        return os.path.samestat(one, other)

    async def owner(self, *, follow_symlinks: bool = True) -> str:
        """The name of its owner. `KeyError` where that has none."""
        import pwd

        uid = (await self.stat(follow_symlinks=follow_symlinks)).st_uid
        return (await self._here().run(pwd.getpwuid, uid)).pw_name

    async def group(self, *, follow_symlinks: bool = True) -> str:
        """The name of its group. `KeyError` where that has none."""
        import grp

        gid = (await self.stat(follow_symlinks=follow_symlinks)).st_gid
        return (await self._here().run(grp.getgrgid, gid)).gr_name

    async def readlink(self) -> Self:
        """What it leads to, as a symbolic link says it."""
        return self._like(await self._here().run(os.readlink, self._str))

    async def absolute(self) -> Self:
        """With the current folder before it, if it has none."""
        return self._like(self._path.absolute())

    async def resolve(self, strict: bool = False) -> Self:
        """Absolute, with no symbolic links and no ".." in it."""
        return self._like(await self._here().run(partial(self._path.resolve, strict=strict)))

    async def expanduser(self) -> Self:
        """With "~" and "~user" made into a home folder."""
        return self._like(await self._here().run(self._path.expanduser))

    # --- folders ------------------------------------------------------------------------------------------------------

    def iterdir(self) -> AsyncIterator[Self]:
        """What is in a folder, in the order in which the kernel has it; read by a worker, some hundreds of names at a time.

        A cancelled iteration loses no name. Raises `OSError` as scandir(3), as it is iterated.
        """
        top = self._str
        return Batches(self._ring, partial(names_in, top), lambda name: self._like(join(top, name)))

    def glob(
        self, pattern: StrPath, *, case_sensitive: bool | None = None, recurse_symlinks: bool = False
    ) -> AsyncIterator[Self]:
        """What matches `pattern` beneath this folder, as `pathlib.Path.glob` finds it, on a worker, in batches.

        `case_sensitive` needs Python 3.12, `recurse_symlinks` 3.13.
        """
        return self._globbed(self._path.glob, pattern, case_sensitive, recurse_symlinks)

    def rglob(
        self, pattern: StrPath, *, case_sensitive: bool | None = None, recurse_symlinks: bool = False
    ) -> AsyncIterator[Self]:
        """As `glob`, with "**/" before the pattern."""
        return self._globbed(self._path.rglob, pattern, case_sensitive, recurse_symlinks)

    def _globbed(
        self, how: Any, pattern: StrPath, case_sensitive: bool | None, recurse_symlinks: bool
    ) -> AsyncIterator[Self]:
        options: dict[str, Any] = {}
        if case_sensitive is not None:
            options["case_sensitive"] = case_sensitive
        if recurse_symlinks:
            options["recurse_symlinks"] = True
        return Batches(self._ring, lambda: iter(how(plain(pattern), **options)), self._like)

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """`(folder, names of folders in it, names of all else)` for this folder and each beneath it, as `pathlib.Path.walk`
        (Python 3.12) has it, on every Python.

        `top_down`: who iterates may take names off the list of folders, or put others there, and so decide where it goes.
        `on_error` is called with the `OSError` of a folder that cannot be read; without it such are left out. Workers read
        ahead (see `walk.py`), and give what is there when its turn comes.
        """
        return Walk(self._ring, self._str, top_down, on_error, follow_symlinks, self._like)

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder; `parents`: and those that it is in, `exist_ok`: or leave the one that is there."""
        ring = self._here()
        try:
            await ring.mkdir(self._str, mode)
        except FileNotFoundError:
            if not parents or self._path.parent == self._path:
                raise
            await self._like(self._path.parent).mkdir(parents=True, exist_ok=True)
            await self.mkdir(mode, parents=False, exist_ok=exist_ok)
        except OSError:
            # EEXIST need not be what is said: the kernel may look at other things first (EACCES, EROFS).
            if not exist_ok or not await self.is_dir():
                raise

    async def rmdir(self) -> None:
        """Remove an empty folder."""
        await self._here().rmdir(self._str)

    # --- names --------------------------------------------------------------------------------------------------------

    async def rename(self, target: StrPath) -> Self:
        """Give it another name, replacing what has that; returns the new path."""
        to = plain(target)
        await self._here().rename(self._str, to)
        return self._like(to)

    async def replace(self, target: StrPath) -> Self:
        """As `rename`."""
        return await self.rename(target)

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file or a symbolic link; `missing_ok`: or nothing."""
        try:
            await self._here().unlink(self._str)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def symlink_to(
        self, target: str | bytes | PathLike[str] | PathLike[bytes], target_is_directory: bool = False
    ) -> None:
        """Make this a symbolic link that leads to `target`."""
        await self._here().symlink(plain(target), self._str, target_is_directory)

    async def hardlink_to(self, target: str | bytes | PathLike[str] | PathLike[bytes]) -> None:
        """Make this another name of `target`."""
        await self._here().link(plain(target), self._str)

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change its permission bits."""
        await self._here()._run_out(partial(os.chmod, self._str, mode, follow_symlinks=follow_symlinks))

    async def lchmod(self, mode: int) -> None:
        """Change those of a symbolic link itself, where a system can (Linux cannot)."""
        await self._here()._run_out(self._path.lchmod, mode)

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make an empty file; or set the times of the one that is there to now, unless `exist_ok` is False."""
        await self._here()._run_out(self._path.touch, mode, exist_ok)

    # --- contents -----------------------------------------------------------------------------------------------------

    async def read_bytes(self) -> bytes:
        """All bytes: `aioring.read_file`."""
        return await read_file(self._str, ring=self._ring)

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """All text: `aioring.read_text`."""
        return await read_text(self._str, encoding, errors, newline, ring=self._ring)

    async def write_bytes(self, data: Any) -> int:
        """Make `data` all that it has: `aioring.write_file`, which can do that atomically and durably. Returns its size."""
        return await write_file(self._str, data, ring=self._ring)

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Make `data` all text that it has. Returns the number of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        encoded = io.BytesIO()
        text = io.TextIOWrapper(encoded, encoding, errors, newline)
        text.write(data)
        text.detach()
        await write_file(self._str, encoded.getvalue(), ring=self._ring)
        return len(data)

    # --- copying ------------------------------------------------------------------------------------------------------

    async def copy(self, target: StrPath, *, follow_symlinks: bool = True, preserve_metadata: bool = False) -> Self:
        """Copy a file or a tree to `target`, as `pathlib.Path.copy` (Python 3.14) has it, on every Python; returns that."""
        to = pathlib.Path(plain(target))
        await self._here()._run_out(copying.copy, self._path, to, follow_symlinks, preserve_metadata)
        return self._like(to)

    async def copy_into(
        self, target_dir: StrPath, *, follow_symlinks: bool = True, preserve_metadata: bool = False
    ) -> Self:
        """Copy a file or a tree into a folder, under its own name."""
        return await self.copy(
            self._into(target_dir), follow_symlinks=follow_symlinks, preserve_metadata=preserve_metadata
        )

    async def move(self, target: StrPath) -> Self:
        """Move a file or a tree to `target`, also to another file system, as `pathlib.Path.move` (Python 3.14) has it."""
        to = pathlib.Path(plain(target))
        await self._here()._run_out(copying.move, self._path, to)
        return self._like(to)

    async def move_into(self, target_dir: StrPath) -> Self:
        """Move a file or a tree into a folder, under its own name."""
        return await self.move(self._into(target_dir))

    def _into(self, folder: StrPath) -> pathlib.Path:
        if not self.name:
            raise ValueError(f"{self!r} has an empty name")
        return pathlib.Path(plain(folder)) / self.name


class Path(Methods):
    """A path whose I/O is awaited: `anyio.Path`'s API, which is `pathlib.Path`'s, on a ring.

    `ring`: by default that of the loop that awaits; the paths that come of a path have its ring. It is not a
    `pathlib.Path`, but equal to one with the same words, and taken wherever an `os.PathLike` is. `walk`, `copy`,
    `copy_into`, `move` and `move_into` are there on every Python.

    Errors are those of `pathlib.Path`: `OSError` with the file name; `RingClosedError` and `WrongLoopError` as every
    operation of a ring.
    """

    __slots__ = ("__weakref__", "_made", "_ring", "_str")

    def __init__(self, *args: StrPath, ring: Ring | None = None) -> None:
        self._made: pathlib.Path | None = pathlib.Path(*map(plain, args))
        self._str = str(self._made)
        self._ring = ring

    @property
    def _path(self) -> pathlib.Path:
        made = self._made
        if made is None:
            made = self._made = pathlib.Path(self._str)
        return made

    def _like(self, path: Any) -> Self:
        kind = type(self)
        if kind is not Path:
            return kind(path, ring=self._ring)
        new = object.__new__(kind)
        new._made = None if path.__class__ is str else path
        new._str = str(path)
        new._ring = self._ring
        return new

    def __str__(self) -> str:
        text: str = self._str
        return text

    def __truediv__(self, other: StrPath) -> Self:
        # What is one plain name needs no pathlib (2 us): trees are walked so.
        if type(other) is str and "/" not in other and other not in ("", ".") and type(self) is Path:
            return self._like(join(self._str, other))
        return self._like(self._path / plain(other))

    def __reduce__(self) -> Any:
        return type(self), (self._str,)

    @classmethod
    async def cwd(cls, *, ring: Ring | None = None) -> Self:
        """The current folder."""
        return cls(pathlib.Path.cwd(), ring=ring)

    @classmethod
    async def home(cls, *, ring: Ring | None = None) -> Self:
        """The user's home folder."""
        here = get_ring() if ring is None else ring
        return cls(await here.run(pathlib.Path.home), ring=ring)

    if sys.version_info >= (3, 13):

        @classmethod
        def from_uri(cls, uri: str, *, ring: Ring | None = None) -> Self:
            return cls(pathlib.Path.from_uri(uri), ring=ring)

    if sys.version_info >= (3, 14):

        @property
        def info(self) -> Any:
            """What `pathlib.Path.info` knows. (Asking it for more blocks, as it does there.)"""
            return self._path.info

    @overload
    async def open(
        self,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextFile: ...
    @overload
    async def open(
        self,
        mode: OpenBinaryMode,
        buffering: Literal[0],
        encoding: None = None,
        errors: None = None,
        newline: None = None,
    ) -> RawFile: ...
    @overload
    async def open(
        self,
        mode: OpenBinaryMode,
        buffering: Literal[-1, 1] = -1,
        encoding: None = None,
        errors: None = None,
        newline: None = None,
    ) -> BinaryFile: ...
    @overload
    async def open(
        self, mode: str, buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None,
    ) -> File[Any]: ...  # fmt: skip
    async def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open the file, as `aioring.open` does."""
        from . import open

        return await open(self._str, mode, buffering, encoding, errors, newline, ring=self._ring)


PathLike.register(Path)
