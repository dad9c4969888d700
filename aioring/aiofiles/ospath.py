"""Questions about paths: aiofiles' `ospath`. What stat(2) answers is asked of the ring."""

from __future__ import annotations

import functools
import os
import stat as _stat
from collections.abc import Callable, Coroutine
from os import path
from typing import Any, TypeVar

from ..ring import get_ring
from .base import call, wrap

__all__ = [
    "abspath", "getatime", "getctime", "getmtime", "getsize", "exists", "isdir", "isfile", "islink", "ismount", "samefile",
    "sameopenfile",
]  # fmt: skip

T = TypeVar("T")


def by_ring(
    blocking: Callable[..., T], asked: Callable[..., Coroutine[Any, Any, Any]]
) -> Callable[..., Coroutine[Any, Any, T]]:
    """`wrap(blocking)`, which asks the ring where no `executor` was given.

    What the ring refuses before it has done anything (arguments), or says without a name (of an fd), is asked of
    `blocking`: it takes more (`__index__`, other names of parameters) and has words of its own in each Python.
    """

    @functools.wraps(blocking)
    async def run(*args: Any, loop: Any = None, executor: Any = None, **kwargs: Any) -> T:
        if executor is None:
            try:
                found: T = await asked(*args, **kwargs)
                return found
            except (TypeError, ValueError, OverflowError):
                pass
            except OSError as error:
                if error.filename is not None:
                    raise
        return await call(loop, executor, functools.partial(blocking, *args, **kwargs))

    return run


def _is(kind: Callable[[int], bool], follow_symlinks: bool = True) -> Callable[[Any], Coroutine[Any, Any, bool]]:
    async def asked(path: Any) -> bool:
        try:
            return kind((await get_ring().stat(path, follow_symlinks=follow_symlinks)).st_mode)
        except OSError:
            return False

    return asked


def _field(name: str) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def asked(filename: Any) -> Any:
        return getattr(await get_ring().stat(filename), name)

    return asked


async def _samefile(f1: Any, f2: Any) -> bool:
    ring = get_ring()
    return path.samestat(await ring.stat(f1), await ring.stat(f2))


async def _sameopenfile(fp1: int, fp2: int) -> bool:
    if type(fp1) is not int or type(fp2) is not int:
        raise TypeError  # a path, which `Ring.stat` takes
    ring = get_ring()
    return path.samestat(await ring.stat(fp1), await ring.stat(fp2))


async def _abspath(path: Any) -> Any:
    return os.path.abspath(path)  # noqa: ASYNC240 - it asks nobody but getcwd(2)


abspath = by_ring(path.abspath, _abspath)

getatime = by_ring(path.getatime, _field("st_atime"))
getctime = by_ring(path.getctime, _field("st_ctime"))
getmtime = by_ring(path.getmtime, _field("st_mtime"))
getsize = by_ring(path.getsize, _field("st_size"))

exists = by_ring(path.exists, _is(lambda _: True))

isdir = by_ring(path.isdir, _is(_stat.S_ISDIR))
isfile = by_ring(path.isfile, _is(_stat.S_ISREG))
islink = by_ring(path.islink, _is(_stat.S_ISLNK, False))
ismount = wrap(path.ismount)

samefile = by_ring(path.samefile, _samefile)
sameopenfile = by_ring(path.sameopenfile, _sameopenfile)
