"""Copying and moving files and trees, on a worker: `pathlib.Path.copy` and `move` of Python 3.14, on every Python."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import sys

__all__ = ["copy", "move"]

if sys.version_info >= (3, 14):

    def copy(source: pathlib.Path, target: pathlib.Path, follow_symlinks: bool, preserve_metadata: bool) -> None:
        source.copy(target, follow_symlinks=follow_symlinks, preserve_metadata=preserve_metadata)

    def move(source: pathlib.Path, target: pathlib.Path) -> None:
        source.move(target)

else:

    def copy(source: pathlib.Path, target: pathlib.Path, follow_symlinks: bool, preserve_metadata: bool) -> None:
        if not follow_symlinks and source.is_symlink():
            os.symlink(os.readlink(source), target, source.is_dir())
            if preserve_metadata:
                shutil.copystat(source, target, follow_symlinks=False)
            return
        if source.is_dir():
            _distinct(source, target)
            names = sorted(os.listdir(source))
            os.mkdir(target)
            for name in names:
                copy(source / name, target / name, follow_symlinks, preserve_metadata)
        else:
            if target.exists() and source.samefile(target):
                raise OSError(errno.EINVAL, "Source and target are the same file", str(source), None, str(target))
            shutil.copyfile(source, target)
        if preserve_metadata:
            shutil.copystat(source, target)

    def move(source: pathlib.Path, target: pathlib.Path) -> None:
        if os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target)):
            raise OSError(errno.EINVAL, "Source and target are the same file", str(source), None, str(target))
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        copy(source, target, False, True)
        if source.is_dir() and not source.is_symlink():
            shutil.rmtree(source)
        else:
            os.unlink(source)

    def _distinct(source: pathlib.Path, target: pathlib.Path) -> None:
        if source == target or source in target.parents:
            words = (
                "Source and target are the same path" if source == target else "Source path is a parent of target path"
            )
            raise OSError(errno.EINVAL, words, str(source), None, str(target))
