"""Copying a tree: each file as `copy_file.py` does it, some at a time; into a folder that has another name until it is
whole.

    walk (on a worker)  ->  folders  ->  files, special files, links  ->  hard links  ->  what folders have  ->  rename

Names that are hard links of one another in the source are in the copy, too; where one of them has come to be another file
by the time it is copied (an editor has saved it), each name is copied by itself. Symbolic links are copied as links. What
is no file (FIFOs, sockets, devices) is made anew and not read, as by cp -a.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import anyio

from ..errors import RingClosedError, os_error
from ..files.atomic import Dup, on_worker, umask
from ..files.folders import sync_folder
from ..files.put import named
from ..files.ring_io import close_fd
from ..kernel import at_once
from ..loops.outcome import begun
from ..ring import Ring, get_ring
from .copy_file import Copying, Elsewhere, Progress, Told, dress_as

__all__ = ["copy_tree"]

_AT_ONCE = 4  # files, or batches of small ones, that are being copied
_SMALL = 256 << 10  # bytes: below that a file is a few calls, and one more hop to a worker takes as long as all of them
_BATCH, _MANY = 4 << 20, 32  # of small ones: bytes, and how many


class _Entry(NamedTuple):
    path: Any  # below the tree's folder
    status: os.stat_result


class _Tree(NamedTuple):
    """What is in a folder. `links`: further names of files, and the one that comes first. `copied`: what that one was when
    it was copied."""

    root: os.stat_result
    folders: list[_Entry]
    files: list[_Entry]
    others: list[_Entry]
    links: list[tuple[Any, _Entry]]
    size: int
    copied: dict[Any, os.stat_result]


async def copy_tree(
    source: Any,
    target: Any,
    *,
    progress: Progress | None = None,
    direct: bool | Literal["try"] = False,
    reflink: Literal["auto", "always", "never"] | bool = "auto",
    sparse: bool = True,
    preserve: bool = True,
    durable: bool = False,
    ring: Ring | None = None,
) -> int:
    """Copy a folder and all that is in it to `target`, which must not be there; returns how many bytes its files have.

    Nothing is at `target` before all of it is: the copy is made beside it, under a name that begins with ".aioring-", and
    renamed. Symbolic links stay links, hard links within the tree stay hard links. FIFOs, sockets and devices are made anew
    (mknod(2)).

    Parameters as `copy_file`; `progress` tells of the whole tree. `preserve` is about folders and links, too. `durable`:
    files and folders are on the disk when it returns.

    Cancelled, or with an error, it leaves nothing.

    Raises:
        FileExistsError: there is something at `target`.
        NotADirectoryError: `source` is no folder.
        OSError: EINVAL: `target` is inside `source`; else as `copy_file`, with the name of the file; EPERM: a device may
            not be made.
    """
    here = get_ring() if ring is None else ring
    copying = Copying(here, direct, reflink, sparse, preserve, durable)
    name, to = os.fspath(source), os.fspath(target)
    if isinstance(name, bytes) != isinstance(to, bytes):
        name, to = os.fsencode(name), os.fsencode(to)
    made = await here._run_out(_beside, name, to)
    try:
        await here._run_out(_begin, made, to)
        tree = await here._run_out(_walk, name)
        told = Told(progress, tree.size)
        told.begin()
        await here._run_out(_make_folders, made, tree.folders)
        size = await _files(here, copying, name, made, tree, told)
        size += await here._run_out(_finish, name, made, tree, copying)
        if durable:
            for folder in (*reversed(tree.folders), None):
                await sync_folder(here, made if folder is None else os.path.join(made, folder.path))
        await here._run_out(_put, made, to)
    except GeneratorExit:
        raise
    except BaseException as error:
        await _remove(here, made)
        if isinstance(error, OSError):
            error.filename = _shown(error.filename, made, to)
            if error.filename2 is not None:
                error.filename2 = _shown(error.filename2, made, to)
        elif isinstance(error, Elsewhere):
            raise error.error from error.error.__cause__
        raise
    if durable:
        await sync_folder(here, os.path.dirname(made))
    return size


def _shown(name: Any, made: Any, target: Any) -> Any:
    """By the name that it was to have."""
    return target + name[len(made) :] if type(name) is type(made) and name.startswith(made) else name


async def _files(ring: Ring, copying: Copying, source: Any, made: Any, tree: _Tree, told: Told) -> int:
    """All regular files, some at a time; small ones in batches, each by one job of a worker."""
    files, copied = tree.files, tree.copied
    one_by_one = copying.direct or copying.durable or copying.reflink == "always"
    small = [] if one_by_one else [f for f in files if f.status.st_size <= _SMALL]
    large = files if not small else [f for f in files if f.status.st_size > _SMALL]
    left: Iterator[list[_Entry]] = iter([*([entry] for entry in large), *_batches(small)])
    total, failed = 0, list[BaseException]()

    async def some() -> None:
        nonlocal total
        for batch in left:
            if failed:
                return
            try:
                if batch[0].status.st_size > _SMALL or not small:
                    path = batch[0].path
                    old, new = os.path.join(source, path), os.path.join(made, path)
                    size, copied[path] = await _one(ring, copying, old, new, told)
                else:
                    size = await ring._run_out(_copy_small, source, made, batch, copying, copied)
                    told.more(size)
                total += size
            except Exception as error:
                failed.append(error)
                group.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as group:
        for _ in range(min(_AT_ONCE, len(files))):
            group.start_soon(some)
    if failed:
        try:
            raise failed[0]
        finally:
            failed.clear()
    return total


def _batches(files: list[_Entry]) -> Iterator[list[_Entry]]:
    batch: list[_Entry] = []
    size = 0
    for entry in files:
        batch.append(entry)
        size += entry.status.st_size
        if size >= _BATCH or len(batch) >= _MANY:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _one(ring: Ring, copying: Copying, source: Any, target: Any, told: Told) -> tuple[int, os.stat_result]:
    fd = await ring.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        status = await ring.stat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file any more", source)
        made = await ring._create(target, os.O_RDWR, 0o600 if copying.preserve else 0o666)
        try:
            size = await copying.content(fd, source, made, status, told)
            if copying.preserve:
                await on_worker(ring, dress_as, fd, status, Dup(made))
            if copying.durable:
                await ring.fsync(made)
            return size, status
        except OSError as error:
            raise named(error, target) from None
        finally:
            await close_fd(ring, made)
    finally:
        await close_fd(ring, fd)


async def _remove(ring: Ring, made: Any) -> None:
    """Whatever becomes of the caller."""

    async def body() -> bool:
        try:
            await ring._run_out(clear, made)
        except RingClosedError:
            clear(made)
        return True

    engine = ring._started
    if engine is None or engine.ended:
        clear(made)
    else:
        await begun(engine.loop, body, "removal of half a copy").result()


# --- on a worker ------------------------------------------------------------------------------------------------------


def clear(made: Any) -> None:
    """Remove all of it, also what has the source's modes already: folders in which nobody may write."""
    _open_up(made)
    for folder, folders, _ in os.walk(made):
        for name in folders:
            _open_up(os.path.join(folder, name))
    shutil.rmtree(made, ignore_errors=True)


def _open_up(folder: Any) -> None:
    if not os.path.islink(folder):  # os.walk takes those for folders that lead to one: it is somebody else's
        with suppress(OSError):
            os.chmod(folder, 0o700)


def _beside(source: Any, target: Any) -> Any:
    """Whether it may be: then the name of a folder beside the target."""
    if not stat.S_ISDIR(os.stat(source).st_mode):
        raise os_error(errno.ENOTDIR, source)
    if not target:
        raise os_error(errno.ENOENT, target)
    if os.path.lexists(target):
        raise os_error(errno.EEXIST, target)
    slash: Any = b"/" if isinstance(target, bytes) else "/"
    here: Any = b"." if isinstance(target, bytes) else "."
    above: Any = os.path.realpath(os.path.dirname(target.rstrip(slash)) or here)
    inside, inner = os.path.realpath(source), above
    while True:
        if inner == inside:
            raise OSError(errno.EINVAL, "the target is inside of what is to be copied", source, None, target)
        if os.path.dirname(inner) == inner:
            break
        inner = os.path.dirname(inner)
    name: Any = f".aioring-{os.urandom(8).hex()}"
    made: Any = os.path.join(above, os.fsencode(name) if isinstance(target, bytes) else name)
    return made


def _begin(made: Any, target: Any) -> None:
    try:
        os.mkdir(made, 0o700)
    except OSError as error:
        raise os_error(error.errno or errno.EIO, target) from None


def _walk(source: Any) -> _Tree:
    folders: list[_Entry] = []
    files: list[_Entry] = []
    others: list[_Entry] = []
    links: list[tuple[Any, _Entry]] = []
    first: dict[tuple[int, int], _Entry] = {}
    size = 0
    empty: Any = b"" if isinstance(source, bytes) else ""
    todo = [empty]
    while todo:
        below = todo.pop()
        for item, status in _entries(os.path.join(source, below) if below else source):
            path = os.path.join(below, item) if below else item
            entry = _Entry(path, status)
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry)
                todo.append(path)
                continue
            if status.st_nlink > 1:
                identity = (status.st_dev, status.st_ino)
                if identity in first:
                    links.append((path, first[identity]))
                    continue
                first[identity] = entry
            if stat.S_ISREG(status.st_mode):
                files.append(entry)
                size += status.st_size
            else:
                others.append(entry)
    return _Tree(os.stat(source), folders, files, others, links, size, {})


def _entries(folder: Any) -> Iterator[tuple[Any, os.stat_result]]:
    with os.scandir(folder) as found:
        for item in found:
            yield item.name, item.stat(follow_symlinks=False)


def _make_folders(made: Any, folders: list[_Entry]) -> None:
    for entry in folders:
        os.mkdir(os.path.join(made, entry.path), 0o700)


def _copy_small(
    source: Any, made: Any, batch: list[_Entry], copying: Copying, copied: dict[Any, os.stat_result]
) -> int:
    total = 0
    for path, _ in batch:
        old, new = os.path.join(source, path), os.path.join(made, path)
        fd = os.open(old, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file any more", old)
            to = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if copying.preserve else 0o666)
            try:
                total += copying.small(fd, to, status)
                copied[path] = status
                if copying.preserve:
                    dress_as(fd, status, Dup(to))
                if copying.durable:
                    os.fsync(to)
            finally:
                os.close(to)
        except OSError as error:
            raise named(error, new) from None
        finally:
            os.close(fd)
    return total


def _finish(source: Any, made: Any, tree: _Tree, copying: Copying) -> int:
    """What needs no reading; last what folders have: to write into them changes their times. How many bytes had to be
    copied after all."""
    preserve = copying.preserve
    for path, status in tree.others:
        old, new = os.path.join(source, path), os.path.join(made, path)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(old), new)
        else:
            os.mknod(new, status.st_mode, status.st_rdev)
        if preserve:
            _dress(old, new, status)
    size = 0
    for path, first in tree.links:
        if _is_still(os.path.join(source, path), first.status, tree.copied.get(first.path, first.status)):
            os.link(os.path.join(made, first.path), os.path.join(made, path), follow_symlinks=False)
        else:
            size += _copy_small(source, made, [_Entry(path, first.status)], copying, tree.copied)
    mask = umask()
    for path, status in (*reversed(tree.folders), (None, tree.root)):
        old, new = (source, made) if path is None else (os.path.join(source, path), os.path.join(made, path))
        if preserve:
            _dress(old, new, status)
        else:
            os.chmod(new, 0o777 & ~mask)
    return size


def _is_still(name: Any, walked: os.stat_result, copied: os.stat_result) -> bool:
    """Whether a further name is one of what was copied under the first; what has been removed meanwhile is what it was."""
    try:
        now = os.lstat(name)
    except FileNotFoundError:
        now = walked
    return os.path.samestat(now, copied)


def _dress(old: Any, new: Any, status: os.stat_result) -> None:
    with suppress(PermissionError):
        os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)
    shutil.copystat(old, new, follow_symlinks=False)


def _put(made: Any, target: Any) -> None:
    try:
        at_once.rename_to_nothing(os.fsencode(made), os.fsencode(target))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise os_error(error.errno or errno.EIO, target) from None
        if os.path.lexists(target):
            raise os_error(errno.EEXIST, target) from None
        os.rename(made, target)
