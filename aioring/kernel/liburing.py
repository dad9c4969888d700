"""Routes to the kernel: liburing through ctypes where it is found, the plain system calls through libc where it is not.

A route makes a ring and hands back its queues as addresses, with two calls: `submit` (tell the kernel of what is
staged and take what completes at once) and `get_events` (make pending completions into CQEs). Called by `rings.py`
only. `liburing.so.2` lacks the `io_uring_prep_*` helpers in every version (they are static inlines), so SQEs are packed
by `rings.py` on every route.

Calls that cannot wait are bound with PyDLL and keep the GIL; set-up, exit and waiting are bound with CDLL.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from ctypes import byref, c_int, c_size_t, c_uint, c_uint8, c_ulong, c_void_p
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from . import abi

__all__ = ["Mapped", "Route", "find_route"]


@dataclass(slots=True)
class Mapped:
    """A ring's queues in memory. All but the calls are addresses, valid until `close()`."""

    fd: int
    features: int
    sq_entries: int
    cq_entries: int
    sqes: int
    sq_head: int  # u32, the kernel's
    sq_tail: int  # u32 that we store: the kernel's own, or liburing's `sqe_tail`, which `submit` publishes
    sq_flags: int  # u32, the kernel's
    cq_head: int  # u32, ours
    cq_tail: int  # u32, the kernel's
    cq_overflow: int
    cqes: int
    submit: Callable[[int], int]  # io_uring_enter(fd, n, 0, GETEVENTS); -errno on failure
    get_events: Callable[[], int]  # io_uring_enter(fd, 0, 0, GETEVENTS); -errno on failure
    register: Callable[[int, Any, int], int]  # io_uring_register(2); -errno on failure
    close: Callable[[], None]


class Route(Protocol):
    """A way to the kernel. `name` is what `ring.route` and the tests show."""

    name: str

    def map(self, entries: int, flags: int, cq_entries: int) -> Mapped:
        """io_uring_setup(2) and the maps. Raises `OSError` with the kernel's errno."""
        ...


# --- plain system calls -----------------------------------------------------------------------------------------------


class SystemCalls:
    """io_uring by number through libc: no liburing on the machine. 0.15 us an enter more than liburing."""

    name = "system calls"

    def __init__(self) -> None:
        self._keeping = self._bind(ctypes.PyDLL(None, use_errno=True))
        self._letting_go = self._bind(ctypes.CDLL(None, use_errno=True))

    @staticmethod
    def _bind(library: ctypes.CDLL) -> Any:
        call = library.syscall
        call.restype = ctypes.c_long
        return call

    def map(self, entries: int, flags: int, cq_entries: int) -> Mapped:
        params = (c_uint * (abi.PARAMS_BYTES // 4))()
        params[1], params[2] = cq_entries, flags | (abi.SETUP_CQSIZE if cq_entries else 0)
        fd = self._letting_go(abi.SYS_IO_URING_SETUP, c_uint(entries), byref(params))
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        maps: list[mmap.mmap] = []
        try:
            return self._mapped(fd, params, maps)
        except BaseException:
            for one in maps:
                one.close()
            os.close(fd)
            raise

    def _mapped(self, fd: int, params: Any, maps: list[mmap.mmap]) -> Mapped:
        raw = bytes(params)
        sq_entries, cq_entries, features = params[0], params[1], params[5]
        sq = abi.unpack_sq_offsets(raw, abi.PARAMS_SQ_OFF)
        cq = abi.unpack_cq_offsets(raw, abi.PARAMS_CQ_OFF)
        sq_bytes, cq_bytes = sq[6] + 4 * sq_entries, cq[5] + abi.CQE_BYTES * cq_entries
        if features & abi.FEAT_SINGLE_MMAP:
            sq_bytes = cq_bytes = max(sq_bytes, cq_bytes)

        def mapped(size: int, offset: int) -> int:
            one = mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)
            maps.append(one)
            return ctypes.addressof(ctypes.c_char.from_buffer(one))

        sq_at = mapped(sq_bytes, abi.OFF_SQ_RING)
        cq_at = sq_at if features & abi.FEAT_SINGLE_MMAP else mapped(cq_bytes, abi.OFF_CQ_RING)
        sqes_at = mapped(abi.SQE_BYTES * sq_entries, abi.OFF_SQES)
        # SQE i stands in slot i for good, so the indirection array is written once.
        array = (c_uint * sq_entries).from_address(sq_at + sq[6])
        array[:] = list(range(sq_entries))

        # No argtypes on the hot call: declaring seven costs 0.8 us each time. The seventh argument goes on the stack
        # on x86-64, where a plain int would leave rubbish in its upper half; there is none here to pass.
        enter, register, get_errno = self._keeping, self._letting_go, ctypes.get_errno

        def submit(n: int) -> int:
            done: int = enter(abi.SYS_IO_URING_ENTER, fd, n, 0, abi.ENTER_GETEVENTS, None)
            return done if done >= 0 else -get_errno()

        def get_events() -> int:
            done: int = enter(abi.SYS_IO_URING_ENTER, fd, 0, 0, abi.ENTER_GETEVENTS, None)
            return done if done >= 0 else -get_errno()

        def call_register(opcode: int, argument: Any, n: int) -> int:
            done: int = register(abi.SYS_IO_URING_REGISTER, fd, opcode, argument, n)
            return done if done >= 0 else -get_errno()

        def close() -> None:
            # Each mmap object holds a dup of the ring's fd: the ring is gone only when they are.
            for one in maps:
                one.close()
            os.close(fd)

        return Mapped(
            fd=fd,
            features=features,
            sq_entries=sq_entries,
            cq_entries=cq_entries,
            sqes=sqes_at,
            sq_head=sq_at + sq[0],
            sq_tail=sq_at + sq[1],
            sq_flags=sq_at + sq[4],
            cq_head=cq_at + cq[0],
            cq_tail=cq_at + cq[1],
            cq_overflow=cq_at + cq[4],
            cqes=cq_at + cq[5],
            submit=submit,
            get_events=get_events,
            register=call_register,
            close=close,
        )


# --- liburing ---------------------------------------------------------------------------------------------------------


class _SQ(ctypes.Structure):  # struct io_uring_sq, liburing.h: 104 bytes from 2.0 to 2.15
    _fields_ = (
        *(
            (name, c_void_p)
            for name in ("khead", "ktail", "kring_mask", "kring_entries", "kflags", "kdropped", "array")
        ),
        ("sqes", c_void_p),
        ("sqe_head", c_uint),
        ("sqe_tail", c_uint),
        ("ring_sz", c_size_t),
        ("ring_ptr", c_void_p),
        ("ring_mask", c_uint),
        ("ring_entries", c_uint),
        ("pad", c_uint * 2),
    )


class _CQ(ctypes.Structure):  # struct io_uring_cq, liburing.h: 88 bytes
    _fields_ = (
        *(
            (name, c_void_p)
            for name in ("khead", "ktail", "kring_mask", "kring_entries", "kflags", "koverflow", "cqes")
        ),
        ("ring_sz", c_size_t),
        ("ring_ptr", c_void_p),
        ("ring_mask", c_uint),
        ("ring_entries", c_uint),
        ("pad", c_uint * 2),
    )


class _Ring(ctypes.Structure):  # struct io_uring, liburing.h: 216 bytes
    _fields_ = (
        ("sq", _SQ),
        ("cq", _CQ),
        ("flags", c_uint),
        ("ring_fd", c_int),
        ("features", c_uint),
        ("enter_ring_fd", c_int),
        ("int_flags", c_uint8),
        ("pad", c_uint8 * 3),
        ("pad2", c_uint),
    )


class Liburing:
    """`liburing.so.2`, 2.3 or later: the first that exports io_uring_submit_and_get_events and io_uring_register."""

    NEEDED = (
        "io_uring_queue_init_params",
        "io_uring_queue_exit",
        "io_uring_submit_and_get_events",
        "io_uring_get_events",
        "io_uring_register",
    )

    def __init__(self, path: str) -> None:
        self.name = f"liburing ({path})"
        self._letting_go = ctypes.CDLL(path)
        self._keeping = ctypes.PyDLL(path)
        missing = [name for name in self.NEEDED if not hasattr(self._letting_go, name)]
        if missing:
            raise OSError(errno.ENOSYS, f"{path} is too old or not liburing: it lacks {', '.join(missing)}")
        for name in ("io_uring_submit_and_get_events", "io_uring_get_events"):
            # One declared argument, an address: cheaper than an object, and never cut to 32 bits.
            getattr(self._keeping, name).argtypes = [c_ulong]

    def map(self, entries: int, flags: int, cq_entries: int) -> Mapped:
        ring, params = _Ring(), (c_uint * (abi.PARAMS_BYTES // 4))()
        params[1], params[2] = cq_entries, flags | (abi.SETUP_CQSIZE if cq_entries else 0)
        code = self._letting_go.io_uring_queue_init_params(c_uint(entries), byref(ring), byref(params))
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        at = ctypes.addressof(ring)
        submit_call: Any = self._keeping.io_uring_submit_and_get_events
        events_call: Any = self._keeping.io_uring_get_events
        register_call: Any = self._letting_go.io_uring_register
        library, fd = self._letting_go, ring.ring_fd

        # Calls of C alone, once per enter. The number that `submit` is given is one argument more than the function has,
        # which no ABI of ours minds.
        submit: Callable[[int], int] = partial(submit_call, at)
        get_events: Callable[[], int] = partial(events_call, at)

        def register(opcode: int, argument: Any, n: int) -> int:
            done: int = register_call(fd, opcode, argument, n)
            return done

        def close() -> None:
            library.io_uring_queue_exit(byref(ring))  # unmaps and closes; `ring` lives until here by this closure

        return Mapped(
            fd=fd,
            features=ring.features,
            sq_entries=ring.sq.ring_entries,
            cq_entries=ring.cq.ring_entries,
            sqes=ring.sq.sqes,
            sq_head=ring.sq.khead,
            sq_tail=at + _Ring.sq.offset + _SQ.sqe_tail.offset,
            sq_flags=ring.sq.kflags,
            cq_head=ring.cq.khead,
            cq_tail=ring.cq.ktail,
            cq_overflow=ring.cq.koverflow,
            cqes=ring.cq.cqes,
            submit=submit,
            get_events=get_events,
            register=register,
            close=close,
        )


# A copy that came in the wheel (.ci/bundle.py), then what the machine has: sonames, not ctypes.util.find_library, which
# forks ldconfig or gcc. liburing-ffi exports all that liburing does, and its inline helpers.
BUNDLED = Path(__file__).with_name("liburing.so.2")
SONAMES = ("liburing-ffi.so.2", "liburing.so.2")


@lru_cache(maxsize=8)
def find_route(wanted: str | None = None) -> Route:
    """The best route: `wanted` (AIORING_LIBURING: a path, a soname, or "none" for the plain system calls), the copy in the
    wheel, liburing-ffi, liburing, libc.

    Raises:
        OSError: `wanted` cannot be loaded (no such file, another word size), is too old or is not liburing. No liburing
            at all is no error.
    """
    if wanted == "none":
        return SystemCalls()
    if wanted:
        return Liburing(wanted)
    for name in (str(BUNDLED), *SONAMES):
        try:
            return Liburing(name)
        except OSError:
            continue
    return SystemCalls()
