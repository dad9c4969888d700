"""The table of operations: one row each. The hinge of the house.

A row says what an operation is called, which opcode io_uring has for it, how its SQE is filled in, which blocking call
does the same, what its result is made of, and what of it can be had at once: by a call that is proven not to wait. Every
method reads the same row: `io_uring` turns it into an SQE, `worker` and `sync` call the blocking equivalent and hand back
what a CQE would carry (`res >= 0`, or `-errno`). Everything after that is written once, above the methods.

Adding an operation is one row here and one public method in `ring/`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .buffers import BYTES_DATA, LARGE, alloc, bytes_address, bytes_view, new_bytes, view_address
from .errors import os_error
from .kernel import abi, at_once
from .kernel.statx import stat_result
from .request import Request

__all__ = ["ELSEWHERE", "NO_SLOT", "TABLE", "WHOLE", "Operation", "Request", "carry_out"]

_WORD = 0xFFFFFFFF
WHOLE = 32 << 10  # bytes: what is larger is no small file
ELSEWHERE = -1  # instead of an fd: it is to be opened and read in the usual way
NO_SLOT = -2  # the same, since just now there is no room for it


Sqe = tuple[int, int, int, int, int]  # fd, off, addr, len, op_flags


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One row."""

    name: str
    opcode: int | None  # None: io_uring has none, the workers do it
    pack: Callable[[Any], Sqe] | None
    blocking: Callable[[Any, int], int]  # the request, and how many bytes to move at most
    result: Callable[[Any, int], Any]
    transfers: bool = False  # `res` counts bytes: a short transfer is continued
    reads: bool = False
    settles: bool = False  # lends memory or has an effect: a cancel is delivered only once the kernel is done with it
    breaks: bool = False  # the kernel breaks a chain off where this fails (see engine/chains.py)
    retries: bool = True  # EINTR and EAGAIN are asked again
    fits: Callable[[Any], bool] | None = None  # whether the SQE can carry these arguments
    place: Callable[[Any], int] | None = None  # a transfer of one buffer: finds its address (`pack`, without the tuple)
    # The result in place, with the GIL in hand, by a call that never waits; None: it might wait, or something is wrong.
    # (Of a read it is RWF_NOWAIT, which has a room of its own: ring/page_cache.py.)
    at_once: Callable[[Any], Any] | None = None


# --- data -------------------------------------------------------------------------------------------------------------


def _align(r: Request) -> None:
    """Memory that O_DIRECT takes, instead of a bytes object: what is read lands beside, and is copied. What has been read
    already (into bytes that were aligned by chance) comes along."""
    view = alloc(r.length)
    if r.done:
        had = b"".join(r.pieces) if r.pieces is not None else (r.memory or b"")
        view[: r.done] = had[: r.done]
    r.view, r.pieces, r.memory = view, None, None


def _place(r: Request) -> int:
    """Where the bytes go or come from; makes the memory where it is aioring's own."""
    if r.direct and r.view is None:
        _align(r)
    if r.view is None:
        # Filled in place: nobody sees this object before the CQE, and the handle holds it until then.
        n = r.length
        r.memory = memory = bytes(n) if 1 < n < LARGE else new_bytes(n)  # as `new_bytes` would, for most
        r.address = id(memory) + BYTES_DATA
    else:
        r.address = view_address(r.view) if type(r.view) is memoryview else bytes_address(r.view)
    return r.address


def _pack_transfer(r: Request) -> Sqe:
    return r.fd, r.offset + r.done, (r.address or _place(r)) + r.done, r.left(), 0


def _read(r: Request, most: int) -> int:
    if r.direct and r.view is None:
        _align(r)
    if r.view is not None:
        return _readinto(r, most)
    if r.memory is None and r.length <= abi.MAX_TRANSFER:
        # The blocking call brings its own bytes: mostly one piece, and then no copy.
        data = os.pread(r.fd, r.left(most), r.offset + r.done)
        if r.pieces is None or not r.done:
            r.pieces = [data]
        else:
            while sum(map(len, r.pieces)) > r.done:
                r.pieces.pop()  # carried out before, and its completion was lost to KeyboardInterrupt
            r.pieces.append(data)
        return len(data)
    if r.memory is None:
        r.memory = new_bytes(r.length)
    view = bytes_view(r.memory)
    return os.preadv(r.fd, (view[r.done : r.done + r.left(most)],), r.offset + r.done)


def _read_result(r: Request, _: int) -> bytes:
    if r.pieces is not None:
        return r.pieces[0] if len(r.pieces) == 1 else b"".join(r.pieces)
    if r.view is not None:
        return bytes(r.view[: r.done])
    memory = r.memory or b""
    return memory if len(memory) == r.done else memory[: r.done]


def _readinto(r: Request, most: int) -> int:
    view = r.view
    assert type(view) is memoryview
    return os.preadv(r.fd, (view[r.done : r.done + r.left(most)],), r.offset + r.done)


def _write(r: Request, most: int) -> int:
    data, n = r.view, r.left(most)
    assert data is not None
    if n != len(data):
        data = memoryview(data)[r.done : r.done + n]
    if r.offset == abi.MAX_OFFSET:
        return os.write(r.fd, data)  # at the fd's own position, which O_APPEND moves to the end: see files/ring_io.py
    return os.pwrite(r.fd, data, r.offset + r.done)


def rest_of(views: Sequence[memoryview], done: int, most: int) -> list[memoryview]:
    """What of `views` is left after `done` bytes, cut to `most` bytes."""
    rest: list[memoryview] = []
    for view in views:
        if done >= view.nbytes:
            done -= view.nbytes
            continue
        part = view[done : done + most]
        done = 0
        rest.append(part)
        most -= part.nbytes
        if most <= 0:
            break
    return rest


def _read_scattered(r: Request, _: int) -> int:
    view, size = r.view, r.length // len(r.offsets)
    assert type(view) is memoryview
    for i, offset in enumerate(r.offsets):
        if os.preadv(r.fd, (view[i * size : (i + 1) * size],), offset) != size:
            raise os_error(errno.ENODATA)
    return r.length


def _pack_vector(r: Request) -> Sqe:
    assert r.views is not None
    rest = rest_of(r.views, r.done, abi.MAX_TRANSFER)
    iovecs = (ctypes.c_uint64 * (2 * len(rest) or 1))()
    for i, view in enumerate(rest):
        iovecs[2 * i], iovecs[2 * i + 1] = view_address(view), view.nbytes
    r.keep = iovecs
    return r.fd, r.offset + r.done, ctypes.addressof(iovecs), len(rest), 0


def _readv(r: Request, most: int) -> int:
    assert r.views is not None
    return os.preadv(r.fd, rest_of(r.views, r.done, r.left(most)), r.offset + r.done)


def _writev(r: Request, most: int) -> int:
    assert r.views is not None
    return os.pwritev(r.fd, rest_of(r.views, r.done, r.left(most)), r.offset + r.done)


def _moved(r: Request, _: int) -> int:
    return r.done


def _nothing(_: Request, __: int) -> None:
    return None


def is_direct(fd: int) -> bool:
    """Whether the fd was opened with O_DIRECT (fcntl(2), F_GETFL)."""
    flags = at_once.flags_of(fd)
    return flags != -1 and bool(flags & getattr(os, "O_DIRECT", 0))


# --- whole files ------------------------------------------------------------------------------------------------------


def _read_file(r: Request, _: int) -> int:
    """Open, read and close a small file. What is none stays open, for the usual way: its fd is in `value`."""
    if r.value is not None:
        return 0  # carried out before, and its completion was lost to KeyboardInterrupt
    fd = at_once.openat(r.fd, r.path or b"", r.flags, 0)
    try:
        status = os.fstat(fd)
        # (0 may mean anything: files of /proc and tracefs have more, and some give it once.)
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= WHOLE:
            data = os.pread(fd, status.st_size + 1, 0)  # it may have grown
            if len(data) == status.st_size:
                r.memory, r.done = data, len(data)
                os.close(fd)
                return r.done
    except OSError:
        pass  # which the usual way says again
    except BaseException:
        os.close(fd)
        raise
    r.value = fd
    return 0


def _read_file_result(r: Request, _: int) -> bytes | int:
    return r.memory or b"" if r.value is None else int(r.value)


# --- durability -------------------------------------------------------------------------------------------------------


def _fsync(r: Request, _: int) -> int:
    if r.flags & abi.FSYNC_DATASYNC:
        os.fdatasync(r.fd)
    else:
        os.fsync(r.fd)
    return 0


def _sync_range(r: Request, _: int) -> int:
    at_once.sync_file_range(r.fd, r.offset, r.length, r.flags)
    return 0


# --- files ------------------------------------------------------------------------------------------------------------


def path_address(path: bytes | None) -> int:
    assert path is not None
    return bytes_address(path)


def _pack_open(r: Request) -> Sqe:
    return r.fd, 0, path_address(r.path), r.mode & _WORD, r.flags & _WORD


def _open(r: Request, _: int) -> int:
    return at_once.openat(r.fd, r.path or b"", r.flags, r.mode)


_MAKES = os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY


def _open_at_once(r: Request) -> int | None:
    """openat2(2) with RESOLVE_CACHED, of what makes nothing. The fd comes with O_NONBLOCK: on a FIFO without a peer it
    would block else."""
    fd = -1 if r.flags & _MAKES else at_once.open_cached(r.fd, r.path or b"", r.flags)
    return None if fd < 0 else fd


def _pack_openat2(r: Request) -> Sqe:
    how = abi.pack_open_how(r.flags & _WORD, r.mode, r.resolve)
    r.keep = how
    return r.fd, bytes_address(how), path_address(r.path), abi.OPEN_HOW_BYTES, 0


def _openat2(r: Request, _: int) -> int:
    return at_once.openat2(r.fd, r.path or b"", r.flags, r.mode, r.resolve)


def _number(_: Request, res: int) -> int:
    return res


def _close(r: Request, _: int) -> int:
    os.close(r.fd)
    return 0


def _pack_stat(r: Request) -> Sqe:
    r.memory = new_bytes(abi.STATX_BYTES)
    return r.fd, bytes_address(r.memory), path_address(r.path), abi.STATX_BASIC_STATS, r.flags


def _stat(r: Request, _: int) -> int:
    if r.flags & abi.AT_EMPTY_PATH:
        r.value = os.fstat(r.fd)
    else:
        dir_fd = None if r.fd == abi.AT_FDCWD else r.fd
        r.value = os.stat(r.name, dir_fd=dir_fd, follow_symlinks=not r.flags & abi.AT_SYMLINK_NOFOLLOW)
    return 0


def _stat_at_once(r: Request) -> os.stat_result | None:
    if r.flags & abi.AT_EMPTY_PATH:
        return at_once.stat_of_fd(r.fd)
    path, follow = r.path or b"", not r.flags & abi.AT_SYMLINK_NOFOLLOW
    found = at_once.stat_cached(r.fd, path, follow)
    if found is None and (code := at_once.missing(r.fd, path, follow)):
        raise os_error(code, r.name, note=f"aioring: stat of {r.name!r}, from the kernel's cache")
    return found


def _stat_result(r: Request, _: int) -> os.stat_result:
    if r.memory is None:
        assert isinstance(r.value, os.stat_result)
        return r.value
    return stat_result(r.memory)


def _truncate(r: Request, _: int) -> int:
    os.ftruncate(r.fd, r.length)
    return 0


def _allocate(r: Request, _: int) -> int:
    if abi.LINUX:
        at_once.fallocate(r.fd, r.mode, r.offset, r.length)
    elif r.mode:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    else:
        os.posix_fallocate(r.fd, r.offset, r.length)
    return 0


def _advise(r: Request, _: int) -> int:
    os.posix_fadvise(r.fd, r.offset, r.length, r.flags)
    return 0


def _is_some(r: Request) -> bool:
    # A read or write of nothing is answered by its file system, which says what is wrong with the fd; io_uring's loop
    # over files without read_iter (directories) does not ask it.
    return r.length > 0


def _length_fits(r: Request) -> bool:
    return r.length <= abi.MAX_LEN


# --- names ------------------------------------------------------------------------------------------------------------


def _or_cwd(fd: int) -> int | None:
    return None if fd == abi.AT_FDCWD else fd


def _rename(r: Request, _: int) -> int:
    os.rename(r.name, r.name2, src_dir_fd=_or_cwd(r.fd), dst_dir_fd=_or_cwd(r.fd2))
    return 0


def _unlink(r: Request, _: int) -> int:
    os.unlink(r.name, dir_fd=_or_cwd(r.fd))
    return 0


def _rmdir(r: Request, _: int) -> int:
    os.rmdir(r.name, dir_fd=_or_cwd(r.fd))
    return 0


def _mkdir(r: Request, _: int) -> int:
    os.mkdir(r.name, r.mode, dir_fd=_or_cwd(r.fd))
    return 0


def _symlink(r: Request, _: int) -> int:
    os.symlink(r.name, r.name2, dir_fd=_or_cwd(r.fd))
    return 0


def _link(r: Request, _: int) -> int:
    os.link(
        r.name,
        r.name2,
        src_dir_fd=_or_cwd(r.fd),
        dst_dir_fd=_or_cwd(r.fd2),
        follow_symlinks=bool(r.flags & abi.AT_SYMLINK_FOLLOW),
    )
    return 0


# --- all else ---------------------------------------------------------------------------------------------------------


def _from_below(error: BaseException) -> BaseException:
    """Without the frame of the caller, which holds the request that holds the error."""
    trace = error.__traceback__
    return error.with_traceback(None if trace is None else trace.tb_next)


def _run(r: Request, _: int) -> int:
    assert r.call is not None
    try:
        r.value = r.call()
    except BaseException as error:
        r.exception = _from_below(error)
        return -errno.EIO
    return 0


def _value(r: Request, _: int) -> Any:
    return r.value


def carry_out(request: Request, most: int = abi.MAX_TRANSFER) -> int:
    """Do it here and now by the blocking equivalent: what a CQE would carry, `res >= 0` or `-errno`. Never raises.

    The outcome is kept on the request before this returns, for who is struck by KeyboardInterrupt on the way back.
    """
    try:
        request.outcome = request.operation.blocking(request, most)
    except OSError as error:
        if not error.errno:
            request.exception = error.with_traceback(None)  # it would hold the request, and the request it
        request.outcome = -(error.errno or errno.EIO)
    except BaseException as error:
        request.exception = error.with_traceback(None)
        request.outcome = -errno.EIO
    return request.outcome


READ = Operation(
    "read", abi.OP_READ, _pack_transfer, _read, _read_result,
    transfers=True, breaks=True, reads=True, fits=_is_some, place=_place,
)  # fmt: skip
READINTO = Operation(
    "readinto", abi.OP_READ, _pack_transfer, _readinto, _moved,
    transfers=True, breaks=True, reads=True, settles=True, fits=_is_some, place=_place,
)  # fmt: skip
READV = Operation(
    "readv", abi.OP_READV, _pack_vector, _readv, _moved,
    transfers=True, breaks=True, reads=True, settles=True, fits=_is_some,
)  # fmt: skip
READ_FIXED = Operation(
    "read_fixed", abi.OP_READ_FIXED, _pack_transfer, _readinto, _moved,
    transfers=True, reads=True, settles=True, fits=_is_some,
)  # fmt: skip
# Reads of one size from many places: all of their bytes, or an error (methods/scattered.py; an SQE each).
READ_SCATTERED = Operation(
    "read_scattered", abi.OP_READ, None, _read_scattered, _moved,
    transfers=True, reads=True, settles=True, retries=False, place=_place,
)  # fmt: skip
WRITE = Operation(
    "write", abi.OP_WRITE, _pack_transfer, _write, _moved,
    transfers=True, breaks=True, settles=True, fits=_is_some, place=_place,
)  # fmt: skip
WRITEV = Operation(
    "writev", abi.OP_WRITEV, _pack_vector, _writev, _moved, transfers=True, breaks=True, settles=True, fits=_is_some
)
FSYNC = Operation("fsync", abi.OP_FSYNC, lambda r: (r.fd, 0, 0, 0, r.flags), _fsync, _nothing)
SYNC_RANGE = Operation(
    "sync_range",
    abi.OP_SYNC_FILE_RANGE,
    lambda r: (r.fd, r.offset, 0, r.length, r.flags & _WORD),
    _sync_range,
    _nothing,
    fits=_length_fits,
)
OPEN = Operation("open", abi.OP_OPENAT, _pack_open, _open, _number, breaks=True, at_once=_open_at_once)
OPENAT2 = Operation("open", abi.OP_OPENAT2, _pack_openat2, _openat2, _number, breaks=True)
# EINTR from close(2) means that the fd is gone on Linux: asking again would close somebody else's.
CLOSE = Operation(
    "close", abi.OP_CLOSE, lambda r: (r.fd, 0, 0, 0, 0), _close, _nothing, breaks=True, retries=False,
    at_once=lambda r: at_once.close_read_only(r.fd) or None,
)  # fmt: skip
STAT = Operation("stat", abi.OP_STATX, _pack_stat, _stat, _stat_result, at_once=_stat_at_once)
TRUNCATE = Operation(
    "truncate", abi.OP_FTRUNCATE, lambda r: (r.fd, r.length, 0, 0, 0), _truncate, _nothing, settles=True
)
ALLOCATE = Operation(
    "allocate",
    abi.OP_FALLOCATE,
    lambda r: (r.fd, r.offset, r.length, r.mode & _WORD, 0),
    _allocate,
    _nothing,
    settles=True,
)
ADVISE = Operation(
    "advise",
    abi.OP_FADVISE,
    lambda r: (r.fd, r.offset, 0, r.length, r.flags & _WORD),
    _advise,
    _nothing,
    breaks=True,
    fits=_length_fits,
)
RENAME = Operation(
    "rename",
    abi.OP_RENAMEAT,
    lambda r: (r.fd, path_address(r.path2), path_address(r.path), r.fd2 & _WORD, 0),
    _rename,
    _nothing,
    settles=True,
)
UNLINK = Operation(
    "unlink", abi.OP_UNLINKAT, lambda r: (r.fd, 0, path_address(r.path), 0, 0), _unlink, _nothing, settles=True
)
RMDIR = Operation(
    "rmdir",
    abi.OP_UNLINKAT,
    lambda r: (r.fd, 0, path_address(r.path), 0, abi.AT_REMOVEDIR),
    _rmdir,
    _nothing,
    settles=True,
)
MKDIR = Operation(
    "mkdir",
    abi.OP_MKDIRAT,
    lambda r: (r.fd, 0, path_address(r.path), r.mode & _WORD, 0),
    _mkdir,
    _nothing,
    settles=True,
)
SYMLINK = Operation(
    "symlink",
    abi.OP_SYMLINKAT,
    lambda r: (r.fd, path_address(r.path2), path_address(r.path), 0, 0),
    _symlink,
    _nothing,
    settles=True,
)
LINK = Operation(
    "link",
    abi.OP_LINKAT,
    lambda r: (r.fd, path_address(r.path2), path_address(r.path), r.fd2 & _WORD, r.flags),
    _link,
    _nothing,
    settles=True,
)
# `io_uring` has a chain of five instead of an opcode: methods/slots.py.
READ_FILE = Operation("read_file", None, None, _read_file, _read_file_result, reads=True, retries=False)
RUN = Operation("run", None, None, _run, _value, retries=False)

TABLE: tuple[Operation, ...] = (
    READ, READINTO, READV, READ_FIXED, READ_SCATTERED, WRITE, WRITEV, FSYNC, SYNC_RANGE, OPEN, OPENAT2, CLOSE, STAT,
    TRUNCATE, ALLOCATE, ADVISE, RENAME, UNLINK, RMDIR, MKDIR, SYMLINK, LINK, READ_FILE, RUN,
)  # fmt: skip
