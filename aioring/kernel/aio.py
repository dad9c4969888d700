"""The kernel's older AIO (io_setup(2), io_submit(2)): all that knows its numbers, structs and addresses.

Called by `methods/linux_aio.py` only. glibc has no wrappers, so the calls go by number; x86-64 and aarch64 have their own.

Some facts about it
-------------------
* It is asynchronous for O_DIRECT only: what goes through the page cache is carried out inside io_submit. With RWF_NOWAIT
  (4.13) a direct transfer that would have to wait even to be started (for a lock, metadata, a request of the device) ends
  with EAGAIN instead, so that none of these calls waits and all may keep the GIL.
* The kernel copies the iocb when it is submitted; its address stays the request's name for io_cancel(2).
* io_submit answers how many it took; the first that it refuses ends the batch, and only when it stands first does the
  call say why.
* io_destroy waits for all that is in flight, and for an RCU grace period (10 ms): never on the loop's thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from . import abi

__all__ = ["COMMANDS", "Context"]

# asm/unistd_64.h; asm-generic/unistd.h: io_setup, io_destroy, io_submit, io_cancel, io_getevents
_NUMBERS = {"x86_64": (206, 207, 209, 210, 208), "aarch64": (0, 1, 2, 3, 4)}.get(platform.machine())

# linux/aio_abi.h: IOCB_CMD_PREAD, PWRITE, PREADV, PWRITEV by the names of our rows
COMMANDS = {"read": 0, "readinto": 0, "write": 1, "readv": 7, "writev": 8}
_FLAG_RESFD = 1  # IOCB_FLAG_RESFD
# struct iocb, 64 bytes: data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, reserved2, flags, resfd
_pack_iocb = struct.Struct("<QIIHhIQQqQII").pack

_keeping: Any = ctypes.PyDLL(None, use_errno=True).syscall
_keeping.restype = ctypes.c_long
_letting_go: Any = ctypes.CDLL(None, use_errno=True).syscall
_letting_go.restype = ctypes.c_long


class Context:
    """One aio_context_t with room for `entries` requests. The loop's thread only, but for `destroy`.

    Raises:
        OSError: io_setup(2): EAGAIN (fs.aio-max-nr is used up), ENOSYS, EPERM, ENOMEM.
    """

    def __init__(self, entries: int) -> None:
        if _NUMBERS is None:
            raise OSError(errno.ENOSYS, f"no system call numbers for {platform.machine()}")
        setup, self._destroy, self._submit, self._cancel, self._getevents = _NUMBERS
        context = ctypes.c_ulong(0)
        if _letting_go(setup, ctypes.c_uint(entries), ctypes.byref(context)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.entries = entries
        self._context = ctypes.c_ulong(context.value)
        self._pointers = (ctypes.c_uint64 * entries)()
        self._pointers_at = ctypes.addressof(self._pointers)
        self._events = (ctypes.c_uint64 * (4 * entries))()  # struct io_event: data, obj, res, res2
        self._events_at = ctypes.c_void_p(ctypes.addressof(self._events))
        self._data = memoryview(self._events).cast("B").cast("Q")
        self._res = memoryview(self._events).cast("B").cast("q")
        self._reaped: deque[int] = deque()

    @staticmethod
    def iocb(
        command: int, fd: int, offset: int, address: int, length: int, token: int, doorbell: int, nowait: bool = True
    ) -> bytes:
        """A request, to be kept where it is until its event has come."""
        return _pack_iocb(
            token, 0, abi.RWF_NOWAIT if nowait else 0, command, 0,
            fd & 0xFFFFFFFF, address, length, offset, 0, _FLAG_RESFD, doorbell,
        )  # fmt: skip

    def submit(self, iocbs: Sequence[int], first: int, answers: deque[int]) -> None:
        """Tell the kernel of `iocbs[first:]`, by address; the answer, how many it took or -1, is appended to `answers`.

        In one step: KeyboardInterrupt cannot come between the call and its answer.
        """
        n = min(len(iocbs) - first, self.entries)
        for i in range(n):
            self._pointers[i] = iocbs[first + i]
        answers.extend(
            map(_keeping, (self._submit,), (self._context,), (ctypes.c_long(n),), (ctypes.c_void_p(self._pointers_at),))
        )

    def reap(self, into: deque[tuple[int, int]]) -> None:
        """Append `(token, res)` of what is complete at entry. Struck by KeyboardInterrupt, the next call says it again."""
        reaped = self._reaped
        if not reaped:
            # In one step with its answer, as above: the kernel says each event once.
            reaped.extend(
                map(
                    _keeping, (self._getevents,), (self._context,), (ctypes.c_long(0),), (ctypes.c_long(self.entries),),
                    (self._events_at,), (None,),
                )
            )  # fmt: skip
        data, res = self._data, self._res
        for i in range(max(reaped[0], 0)):
            into.append((data[4 * i], res[4 * i + 2]))
        self._reaped = deque()

    def cancel(self, iocb: int) -> None:
        """io_cancel(2), by the iocb's address. Disk I/O knows no cancelling (EINVAL): its event comes in any case."""
        result = (ctypes.c_uint64 * 4)()
        _keeping(self._cancel, self._context, ctypes.c_void_p(iocb), ctypes.byref(result))

    def destroy(self) -> None:
        """Give it back. Waits: not on the loop's thread."""
        _letting_go(self._destroy, self._context)
