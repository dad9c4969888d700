"""Names in directories: rename, unlink, mkdir and their kin. Arguments, order and defaults as in `os`.

All have an effect, so cancelling any of them is delivered only when its outcome is known: nothing changes behind the
back of a task that has gone on. Each raises `OSError` as its system call, with the file name (both, where there are
two), `ValueError` for a NUL in a path, and `RingClosedError` or `WrongLoopError` as every operation of a ring.
"""

from __future__ import annotations

from . import define
from .define import StrOrBytesPath
from .files import Files

__all__ = ["Names"]


class Names(Files):
    """The part of `Ring` that works on directory entries."""

    async def rename(
        self,
        src: StrOrBytesPath,
        dst: StrOrBytesPath,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        """Rename `src` to `dst`, replacing it, like `os.rename`. See the module for cancelling and errors."""
        await self._do(define.rename(src, dst, src_dir_fd, dst_dir_fd))

    async def unlink(self, path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
        """Remove a file, like `os.unlink`. See the module for cancelling and errors."""
        await self._do(define.unlink(path, dir_fd))

    async def mkdir(self, path: StrOrBytesPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """Make a directory, like `os.mkdir`. See the module for cancelling and errors."""
        await self._do(define.mkdir(path, mode, dir_fd))

    async def rmdir(self, path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
        """Remove an empty directory, like `os.rmdir`. See the module for cancelling and errors."""
        await self._do(define.rmdir(path, dir_fd))

    async def symlink(
        self,
        src: StrOrBytesPath,
        dst: StrOrBytesPath,
        target_is_directory: bool = False,
        *,
        dir_fd: int | None = None,
    ) -> None:
        """Make `dst` a symbolic link to `src`, like `os.symlink`; `target_is_directory` means nothing on Linux."""
        await self._do(define.symlink(src, dst, dir_fd))

    async def link(
        self,
        src: StrOrBytesPath,
        dst: StrOrBytesPath,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """Make `dst` a hard link to `src`, like `os.link`. See the module for cancelling and errors."""
        await self._do(define.link(src, dst, src_dir_fd, dst_dir_fd, follow_symlinks))
