"""aiofiles' `os`: what io_uring has an operation for is asked of the ring, the rest of its workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from ..ring import Ring, get_ring
from . import ospath as path
from .base import wrap
from .ospath import by_ring

__all__ = [
    "path", "stat", "rename", "renames", "replace", "remove", "unlink", "mkdir", "makedirs", "rmdir", "removedirs",
    "symlink", "readlink", "listdir", "scandir", "access", "wrap", "getcwd",
]  # fmt: skip


def _of(operation: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """An operation of the running loop's ring."""

    async def asked(*args: Any, **kwargs: Any) -> Any:
        return await operation(get_ring(), *args, **kwargs)

    return asked


async def _getcwd() -> str:
    return os.getcwd()


access = wrap(os.access)

getcwd = by_ring(os.getcwd, _getcwd)

listdir = wrap(os.listdir)

makedirs = wrap(os.makedirs)
mkdir = by_ring(os.mkdir, _of(Ring.mkdir))

readlink = wrap(os.readlink)
remove = by_ring(os.remove, _of(Ring.unlink))
removedirs = wrap(os.removedirs)
rename = by_ring(os.rename, _of(Ring.rename))
renames = wrap(os.renames)
replace = by_ring(os.replace, _of(Ring.rename))
rmdir = by_ring(os.rmdir, _of(Ring.rmdir))

scandir = wrap(os.scandir)
stat = by_ring(os.stat, _of(Ring.stat))
symlink = by_ring(os.symlink, _of(Ring.symlink))

unlink = by_ring(os.unlink, _of(Ring.unlink))


if hasattr(os, "link"):
    __all__ += ["link"]
    link = by_ring(os.link, _of(Ring.link))
if hasattr(os, "sendfile"):
    __all__ += ["sendfile"]
    sendfile = wrap(os.sendfile)
if hasattr(os, "statvfs"):
    __all__ += ["statvfs"]
    statvfs = wrap(os.statvfs)
