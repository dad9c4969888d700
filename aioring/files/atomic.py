"""Replacing a file in one step, and making that durable: `write_file(atomic=True, durable=True)`.

    open(folder, O_TMPFILE)  write  fchown, fsetxattr, fchmod  fsync  link to a new name  close  rename  fsync(folder)

What a power cut may leave at each of these steps is the old file or the new one: the bytes are on the disk before any name
leads to them (fsync(2)), rename(2) changes the name in one step, and only the folder's own fsync says that it will stay.
(tests/files/test_whole.py fails, cancels and kills it at these steps; tests/testing/test_power_cuts.py replays power cuts.)

Operations go by the ring, so that `scripted` and `Recording` see them; what has no operation (who owns the old file, its
attributes) is asked on a worker. Cancelling: those that change a name are over when they return, whatever becomes of their
caller (`ring/names.py`), so that what is cleaned up behind them is all there is. Nothing but the new name is: a file that
has none goes with its fd.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..errors import RingClosedError, about, os_error
from ..loops.outcome import begun
from ..ring import Ring
from .put import Pieces
from .ring_io import close_fd

__all__ = ["Dup", "Plan", "dress", "on_worker", "plan_of", "put_in_place", "remove", "replace", "umask"]

T = TypeVar("T")

_O_TMPFILE = getattr(os, "O_TMPFILE", 0)
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)  # open(2): the file system, an old kernel
_NOT_OURS_TO_SET = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)
_TRIES = 100


class Plan(NamedTuple):
    target: Any  # what a symbolic link leads to
    folder: Any
    status: os.stat_result | None  # of what is there
    attributes: dict[Any, bytes]
    unnamed: bool  # whether a file without a name could get one
    umask: int


class _Source(Exception):
    """What the one raised who gives the bytes: no news of the file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


async def replace(ring: Ring, path: Any, pieces: Pieces, durable: bool, mode: int | None) -> int:
    """Make `pieces` all that the file has: how many bytes that was."""
    plan = await ring.run(plan_of, path)

    async def fill(fd: int) -> int:
        size = 0
        while (piece := await _next(pieces)) is not None:
            size += await ring.write(fd, size, piece)
        return size

    try:
        return await put_in_place(ring, plan, fill, partial(dress, plan, mode), durable)
    except OSError as error:
        about(error, path)  # whatever was done it with
        raise
    except _Source as source:
        raise source.error from source.error.__cause__


async def _next(pieces: Pieces) -> memoryview | None:
    try:
        return await anext(pieces, None)
    except OSError as error:
        raise _Source(error) from None


async def put_in_place(
    ring: Ring, plan: Plan, fill: Callable[[int], Awaitable[T]], dressing: Callable[[Dup], None], durable: bool
) -> T:
    """Make a new file, have it filled (`fill` is given its fd) and dressed (`dressing`, on a worker: who owns it, who may
    read it), and put it in the place of the old one. What `fill` returns."""
    fd, name = await _make(ring, plan)
    folder = -1
    try:
        try:
            filled = await fill(fd)
            await on_worker(ring, dressing, Dup(fd))
            if durable:
                await ring.fsync(fd)
                folder = await ring.open(plan.folder, os.O_RDONLY | os.O_DIRECTORY)
            if name is None:
                for _ in range(_TRIES):
                    name = _new_name(plan)
                    try:
                        # (The path is absolute: naming a folder has link(2) follow it, as `os.link` has it, and the ring
                        # keep this fd.)
                        await ring.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd)
                        break
                    except FileExistsError:
                        name = None  # somebody else's
                else:
                    raise os_error(errno.EEXIST, plan.target)
            # Before anybody sees it: on some file systems (NFS) it is close(2) that says what could not be written.
            written, fd = fd, -1
            await close_fd(ring, written)
            await ring.rename(name, plan.target)
        except BaseException:
            if name is not None:
                await remove(ring, name)
            raise
        if durable:
            await ring.fsync(folder)
        return filled
    finally:
        try:
            if fd >= 0:
                await close_fd(ring, fd)
        finally:
            if folder >= 0:
                await close_fd(ring, folder)


async def remove(ring: Ring, name: Any) -> None:
    """The name, which may have been given or not, or be the target's by now; its caller is on the way out, and may be
    cancelled once more."""

    async def body() -> bool:
        with suppress(OSError):
            try:
                await ring.unlink(name)
            except RingClosedError:
                os.unlink(name)
        return True

    engine = ring._started
    if engine is None or engine.ended:
        with suppress(OSError):
            os.unlink(name)
    else:
        await begun(engine.loop, body, "removal of half a file").result()


async def _make(ring: Ring, plan: Plan) -> tuple[int, Any]:
    """A new file in the folder, and its name, if it had to have one."""
    if plan.unnamed:
        try:
            return await ring.open(plan.folder, os.O_RDWR | _O_TMPFILE, 0o600), None
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
    for _ in range(_TRIES):
        name = _new_name(plan)
        try:
            return await ring._create(name, os.O_RDWR, 0o600), name
        except FileExistsError:
            continue
        except BaseException:
            await remove(ring, name)
            raise
    raise os_error(errno.EEXIST, plan.target)


def _new_name(plan: Plan) -> Any:
    """Short: the target's own may be as long as names can be."""
    name: Any = f".aioring-{os.urandom(8).hex()}"
    return os.path.join(plan.folder, os.fsencode(name) if isinstance(plan.folder, bytes) else name)


# --- on a worker ------------------------------------------------------------------------------------------------------


def plan_of(path: Any) -> Plan:
    """What is at `path`, and what is to be kept of it. `OSError` for what cannot be replaced."""
    status = None
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not path:
            raise
    slash: Any = b"/" if isinstance(path, bytes) else "/"
    if path.endswith(slash) or (status is not None and stat.S_ISDIR(status.st_mode)):
        raise os_error(errno.EISDIR, path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "only a regular file can be replaced atomically", path)
    target = os.path.realpath(path)
    attributes: dict[Any, bytes] = {}
    if status is not None:
        if not os.access(target, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise os_error(errno.EACCES, path)
        attributes = _attributes(target)
    unnamed = bool(_O_TMPFILE) and os.path.isdir("/proc/self/fd")
    return Plan(target, os.path.dirname(target), status, attributes, unnamed, umask())


def _attributes(target: Any) -> dict[Any, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    found = {}
    with suppress(OSError):
        for name in os.listxattr(target):
            with suppress(OSError):  # trusted.* is root's
                found[name] = os.getxattr(target, name)
    return found


def umask() -> int:
    """Without changing it, where that can be: other threads make files."""
    try:
        with open("/proc/self/status", "rb") as lines:
            for line in lines:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Dup:
    """An fd for a call on a worker, which goes on when its caller is cancelled and closes the file: it has its own. The
    call takes it by `with`, which closes it when it is over; what no call has taken is closed by `on_worker`. (An
    exception may hold the frames that hold it for long.) Who pops it has it: two threads may want it at a time, where
    KeyboardInterrupt has taken the caller away."""

    def __init__(self, fd: int) -> None:
        self._free: list[int] = []
        self._free.append(os.dup(fd))
        self._taken = -1

    def __enter__(self) -> int:
        try:
            self._taken = self._free.pop()
        except IndexError:
            raise os_error(errno.ECANCELED) from None
        return self._taken

    def __exit__(self, *_: object) -> None:
        os.close(self._taken)

    def close(self) -> None:
        """What nobody has taken."""
        with suppress(IndexError):
            os.close(self._free.pop())

    def __del__(self) -> None:
        self.close()


async def on_worker(ring: Ring, call: Callable[..., T], *args: Any) -> T:
    """`call(*args)`, some of which are `Dup`s. A cancel is delivered when it is over, or has not begun."""
    try:
        return await ring._run_out(call, *args)
    finally:
        for arg in args:
            if isinstance(arg, Dup):
                arg.close()


def dress(plan: Plan, mode: int | None, own: Dup) -> None:
    """Give the new file what the old one had: the owner first, since chown(2) takes setuid off, the mode last, since an ACL
    among the attributes changes it."""
    with own as fd:
        _dress(fd, plan, mode)


def _dress(fd: int, plan: Plan, mode: int | None) -> None:
    old = plan.status
    bits = 0o666 & ~plan.umask if old is None else stat.S_IMODE(old.st_mode)
    if old is not None:
        new = os.fstat(fd)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.fchown(fd, old.st_uid, old.st_gid)
            except PermissionError:
                bits &= ~(stat.S_ISUID | stat.S_ISGID)  # not for somebody else's account
                with suppress(PermissionError):
                    os.fchown(fd, -1, old.st_gid)
        for name, value in plan.attributes.items():
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _NOT_OURS_TO_SET:
                    raise
    os.fchmod(fd, bits if mode is None else mode)
