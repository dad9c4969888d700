"""What the file system of a path can do, by trying: on an unnamed file in its folder, or on the file itself, read only."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ...buffers import alloc
from ...kernel.statx import direct_alignment
from .surroundings import mount_table, reason_of, text_of

__all__ = ["look"]

_FICLONE = 0x40049409  # linux/fs.h
_SIZE = 64 << 10
_LOOKED_AT = 1000  # entries of a folder that nothing can be made in, for one that can be read
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_O_TMPFILE = getattr(os, "O_TMPFILE", 0)
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_QUEUE = (
    "rotational", "scheduler", "nr_requests", "logical_block_size", "physical_block_size", "read_ahead_kb", "write_cache",
)  # fmt: skip
_KINDS = (
    (stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISBLK, "block device"), (stat.S_ISCHR, "character device"),
    (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"),
)  # fmt: skip
Tried = dict[str, Any]  # works: True, False, or None where it could not be tried; error: why not


def look(path: str) -> dict[str, Any]:
    """The `path` of the report; with `error` and little else where there is no such path."""
    found: dict[str, Any] = {"path": path}
    try:
        found["path"] = os.path.realpath(path)
        st = os.stat(path)
    except (OSError, ValueError) as error:
        found["error"] = reason_of(error) if isinstance(error, OSError) else str(error)
        return found
    found["kind"] = next((name for is_it, name in _KINDS if is_it(st.st_mode)), "file")
    device = st.st_rdev if stat.S_ISBLK(st.st_mode) else st.st_dev
    found |= _mount(found["path"], st.st_dev)
    found["device"] = _device(device, found["source"])
    folder = found["path"] if stat.S_ISDIR(st.st_mode) else os.path.dirname(found["path"])
    with ExitStack() as stack:
        fd, found["readable"], found["writable"], found["tmpfile"] = -1, None, None, _untried("no folder")
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            made, found["writable"], found["tmpfile"] = _make(folder, stack)
            fd, found["readable"] = (made, _works()) if stat.S_ISDIR(st.st_mode) else _open(found["path"], stack)
            if fd < 0 and stat.S_ISDIR(st.st_mode):
                fd, found["readable"] = _any_file(folder, stack)
            left = found["writable"]["error"] if found["writable"]["works"] else None
            found["reflink"] = _reflink(made, folder) if left is None else _untried("what is made there stays")
        elif stat.S_ISBLK(st.st_mode):
            fd, found["readable"] = _open(found["path"], stack)
            found["reflink"] = _untried("a device")
        if fd >= 0:
            found["rwf_nowait"] = _nowait(fd)
            found["direct"] = _direct(fd, stack)
    for name in ("rwf_nowait", "direct", "reflink"):
        found.setdefault(name, _untried("nothing there to read" if found["kind"] == "folder" else "cannot be read"))
    return found


def _works() -> Tried:
    return {"works": True, "error": None}


def _no(error: OSError) -> Tried:
    return {"works": False, "error": reason_of(error)}


def _refused(error: OSError) -> Tried:
    # Not allowed to try is another answer than "no".
    works = None if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT) else False
    return {"works": works, "error": reason_of(error)}


def _untried(why: str) -> Tried:
    return {"works": None, "error": why}


def _make(folder: str, stack: ExitStack) -> tuple[int, Tried, Tried]:
    """A file in `folder` that is gone when it is closed: its fd or -1, whether it can be written, whether by O_TMPFILE."""
    unnamed = _untried("not on this platform")
    fd = -1
    if _O_TMPFILE:
        try:
            fd, unnamed = os.open(folder, _O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), _works()
        except OSError as error:
            unnamed = _refused(error)
            if unnamed["works"] is None:
                return -1, _no(error), unnamed
    if fd < 0:
        try:
            fd, name = tempfile.mkstemp(prefix=".aioring-doctor-", dir=folder)
        except OSError as error:
            return -1, _no(error), unnamed
        stack.callback(os.close, fd)
        try:
            os.unlink(name)
        except OSError as error:  # a folder to which may only be added
            return fd, {"works": True, "error": f"{name} was left behind: {reason_of(error)}"}, unnamed
    else:
        stack.callback(os.close, fd)
    try:
        os.pwrite(fd, os.urandom(_SIZE), 0)
    except OSError as error:
        return -1, _no(error), unnamed
    return fd, _works(), unnamed


def _open(path: str, stack: ExitStack) -> tuple[int, Tried]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return -1, _no(error)
    stack.callback(os.close, fd)
    return fd, _works()


def _any_file(folder: str, stack: ExitStack) -> tuple[int, Tried]:
    """Some file in a folder in which none can be made."""
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(_LOOKED_AT), entries, strict=False):
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_size:
                        fd, tried = _open(entry.path, stack)
                        if fd >= 0:
                            return fd, tried
    except OSError as error:
        return -1, _no(error)
    return -1, _untried("nothing there to read")


def _nowait(fd: int) -> Tried:
    if not _NOWAIT:
        return _untried("not on this platform")
    buffer = bytearray(1)
    try:
        os.pread(fd, 1, 0)
        os.preadv(fd, [buffer], 0, _NOWAIT)
    except BlockingIOError:
        return _works()  # it was understood
    except OSError as error:
        return _refused(error)
    return _works()


def _direct(fd: int, stack: ExitStack) -> Tried:
    """O_DIRECT, with what it wants of memory and of offset and length: as the kernel says it, else by trying."""
    found: Tried = {"works": None, "error": None, "memory_align": None, "offset_align": None, "told": False}
    if not _O_DIRECT:
        return found | {"error": "not on this platform"}
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | _O_DIRECT)
    except OSError as error:
        return found | _refused(error)
    stack.callback(os.close, direct)
    told = direct_alignment(direct)
    known = told is not None and all(told)
    error_seen: OSError | None = None
    for memory, offset in [told] if told is not None and known else [(512, 512), (4096, 4096)]:
        try:
            os.preadv(direct, [alloc(offset, align=max(memory, 512))], 0)
        except OSError as error:
            error_seen = error
            continue
        return found | {"works": True, "memory_align": memory, "offset_align": offset, "told": known}
    assert error_seen is not None
    return found | _refused(error_seen)


def _reflink(fd: int, folder: str) -> Tried:
    if fd < 0:
        return _untried("nothing can be made there")
    try:
        import fcntl
    except ImportError:
        return _untried("not on this platform")
    with ExitStack() as stack:
        target = _make(folder, stack)[0]
        if target < 0:
            return _untried("nothing can be made there")
        try:
            fcntl.ioctl(target, _FICLONE, fd)
        except OSError as error:
            return _no(error)
    return _works()


# --- where it is ------------------------------------------------------------------------------------------------------


def _mount(path: str, device: int) -> dict[str, Any]:
    """The mount that `path` is on (proc_pid_mountinfo(5)): the last one above it with its device."""
    found: dict[str, Any] = {"file_system": None, "mount": None, "source": None, "read_only": None}
    number = f"{os.major(device)}:{os.minor(device)}"
    best = -1
    for fields, rest in mount_table():
        where = _unescaped(fields[4])
        above = path == where or path.startswith(where.rstrip("/") + "/")
        # btrfs gives its subvolumes devices that the table does not have.
        score = len(where) + (1 << 20 if fields[2] == number else 0)
        if above and score >= best:
            best = score
            found = {
                "file_system": rest[0],
                "mount": where,
                "source": _unescaped(rest[1]),
                "read_only": "ro" in fields[5].split(",") or "ro" in rest[2].split(","),
            }
    return found


def _unescaped(text: str) -> str:
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(escape, character)
    return text


def _device(number: int, source: str | None) -> dict[str, Any] | None:
    """The block device under it and its queue; None where there is none to be seen."""
    folder = _in_sys(number)
    if folder is None and source is not None and source.startswith("/dev/"):
        with suppress(OSError):
            folder = _in_sys(os.stat(source).st_rdev)
    if folder is None:
        return None
    name = folder.name
    if (folder / "partition").exists():
        folder = folder.parent  # the queue is the whole disk's
    queue = {key: _value(text_of(folder / "queue" / key)) for key in _QUEUE}
    return {"name": name, "disk": folder.name, "queue": queue}


def _in_sys(number: int) -> Path | None:
    link = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    return link.resolve() if link.exists() else None


def _value(text: str | None) -> int | str | None:
    if text is None:
        return None
    if "[" in text:  # "mq-deadline [none]"
        text = text.partition("[")[2].partition("]")[0]
    return int(text) if text.isdigit() else text
