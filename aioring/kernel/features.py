"""What this kernel can do, found by trying and never by its version, and why not, in words.

`open_queues` makes a ring with the best set-up flags that the kernel takes and proves that a read on it works;
`explain` says what refuses io_uring. Called when a ring is started and by the doctor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import abi
from .liburing import Route
from .rings import Queues

__all__ = ["Unusable", "explain", "open_queues"]

_BEST = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN | abi.SETUP_TASKRUN_FLAG
# From the best down: old kernels and gVisor answer EINVAL to any flag that they do not know. SINGLE_ISSUER with
# DEFER_TASKRUN came with 6.1, COOP_TASKRUN with 5.19, SUBMIT_ALL with 5.18, CLAMP with 5.6; the last rung is 5.1's.
LADDER: tuple[int, ...] = (
    abi.SETUP_CLAMP | abi.SETUP_SUBMIT_ALL | _BEST,
    abi.SETUP_CLAMP | abi.SETUP_SUBMIT_ALL | abi.SETUP_SINGLE_ISSUER | abi.SETUP_COOP_TASKRUN | abi.SETUP_TASKRUN_FLAG,
    abi.SETUP_CLAMP | abi.SETUP_SUBMIT_ALL | abi.SETUP_COOP_TASKRUN | abi.SETUP_TASKRUN_FLAG,
    abi.SETUP_CLAMP | abi.SETUP_SUBMIT_ALL,
    abi.SETUP_CLAMP,
    0,
)

# 6.18 charges rings to RLIMIT_MEMLOCK again and gives the charge back late: 16 ms was the longest seen.
_BACK_OFF = (0.001, 0.002, 0.004, 0.012)
_SMALLEST = 8
_never_freed: list[object] = []


class Unusable(OSError):
    """io_uring cannot be used here; `hint` says why in words and what to do."""

    def __init__(self, code: int, where: str, hint: str) -> None:
        super().__init__(code, os.strerror(code))
        self.where = where
        self.hint = hint


def explain(code: int, where: str) -> str:
    """What refuses io_uring here, as far as errno and the sysctl tell, and what to do about it."""
    name = errno.errorcode.get(code, str(code))
    said = f"{name} from {where}"
    if code == errno.ENOSYS:
        return f"{said}: this kernel (or its seccomp filter, or gVisor) has no io_uring; Linux 5.6 or later has"
    if code in (errno.EPERM, errno.EACCES):
        sysctl = _sysctl()
        if sysctl in ("1", "2"):
            return f"{said}: kernel.io_uring_disabled is {sysctl}; `sysctl kernel.io_uring_disabled=0` allows it"
        return (
            f"{said}: a seccomp filter (Docker's default profile has one) or a security module refuses io_uring; "
            "run the container with a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        )
    if code in (errno.EMFILE, errno.ENFILE):
        return f"{said}: too many open files; raise RLIMIT_NOFILE (ulimit -n) or close some"
    if code == errno.ENOMEM:
        return f"{said}: the queues do not fit under RLIMIT_MEMLOCK (ulimit -l, per user); raise it, or use less depth"
    if code == errno.EINVAL:
        return f"{said}: this kernel refuses every set-up that aioring knows"
    return f"{said}: {os.strerror(code)}"


def _sysctl() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/io_uring_disabled").read_text(encoding="ascii").strip()
    return None


def open_queues(
    route: Route,
    entries: int,
    doorbell: int,
    *,
    ladder: Sequence[int] = LADDER,
    refuse: frozenset[int] = frozenset(),
) -> tuple[Queues, frozenset[int], int]:
    """Make a ring that provably reads, its doorbell registered: its queues, the opcodes it takes, its set-up flags.

    `refuse` takes opcodes away from this ring (IORING_REGISTER_RESTRICTIONS), as a sandbox would: for tests.

    Raises:
        Unusable: no ring can be made, the doorbell or the probe is refused, or a read on it fails.
    """
    if not abi.LINUX:
        raise Unusable(errno.ENOSYS, "the platform", "io_uring is Linux only")
    if hasattr(sys, "getandroidapilevel"):
        # Android's seccomp filter does not answer with an errno, it kills (libuv#4016, termux-packages#16734).
        raise Unusable(errno.EPERM, "the platform", "Android kills a process that tries io_uring")
    queues, flags = _set_up(route, entries, ladder, refuse)
    try:
        if platform.machine() not in ("x86_64", "AMD64") and not flags & abi.SETUP_DEFER_TASKRUN:
            # See "Order" in rings.py: other CPUs post completions, and Python cannot load with acquire.
            hint = "without DEFER_TASKRUN (Linux 6.1) completions cannot be read safely on this CPU"
            raise Unusable(errno.EINVAL, "io_uring_setup", hint)
        if not queues.mapped.features & abi.FEAT_NODROP:
            raise Unusable(errno.ENOSYS, "io_uring_setup", "this kernel drops completions when its queue is full")
        opcodes = _probe(queues)
        if refuse:
            _restrict(queues, opcodes - refuse)
        code = queues.mapped.register(abi.REGISTER_EVENTFD, (ctypes.c_int * 1)(doorbell), 1)
        if code < 0:
            raise Unusable(-code, "io_uring_register", explain(-code, "io_uring_register"))
        _prove_a_read(queues)
    except BaseException as error:
        queues.close()
        if isinstance(error, OSError) and not isinstance(error, Unusable):
            code = error.errno or errno.EIO
            raise Unusable(code, "a read on the ring", explain(code, "a read on the ring")) from None
        raise
    return queues, opcodes - refuse, flags


def _set_up(route: Route, entries: int, ladder: Sequence[int], refuse: frozenset[int]) -> tuple[Queues, int]:
    extra = abi.SETUP_R_DISABLED if refuse else 0
    waits = list(_BACK_OFF)
    rung = 0
    while True:
        flags = ladder[rung] | extra
        try:
            return Queues(route.map(entries, flags, entries * 4)), flags
        except OSError as error:
            code = error.errno or errno.EIO
            if code == errno.EINVAL and rung + 1 < len(ladder):
                rung += 1
            elif code == errno.EINTR:
                continue
            elif code == errno.ENOMEM and waits:
                time.sleep(waits.pop(0))
            elif code == errno.ENOMEM and entries > _SMALLEST:
                entries //= 2
            else:
                raise Unusable(code, "io_uring_setup", explain(code, "io_uring_setup")) from None


def _probe(queues: Queues) -> frozenset[int]:
    """The opcodes that this kernel knows (IORING_REGISTER_PROBE, since 5.6)."""
    table = (ctypes.c_uint8 * abi.PROBE_BYTES)()
    code = queues.mapped.register(abi.REGISTER_PROBE, table, abi.PROBE_OPS)
    if code < 0:
        raise Unusable(-code, "io_uring_register", explain(-code, "io_uring_register"))
    raw = bytes(table)
    # struct io_uring_probe_op: u8 op, u8 resv, u16 flags, u32 resv2; the header's byte 1 is how many there are
    return frozenset(i for i in range(raw[1]) if raw[16 + 8 * i + 2] & abi.OP_SUPPORTED)


def _restrict(queues: Queues, allowed: frozenset[int]) -> None:
    rows = [abi.pack_restriction(abi.RESTRICTION_SQE_OP, op, 0, 0, 0, 0) for op in sorted(allowed)]
    rows += [
        abi.pack_restriction(abi.RESTRICTION_REGISTER_OP, op, 0, 0, 0, 0)
        for op in (abi.REGISTER_FILES, abi.REGISTER_EVENTFD, abi.REGISTER_ENABLE_RINGS)
    ]
    flags = abi.SQE_FIXED_FILE | abi.SQE_LINK | abi.SQE_HARDLINK | abi.SQE_ASYNC
    rows.append(abi.pack_restriction(abi.RESTRICTION_SQE_FLAGS_ALLOWED, flags, 0, 0, 0, 0))
    for opcode, argument, n in (
        (abi.REGISTER_RESTRICTIONS, b"".join(rows), len(rows)),
        (abi.REGISTER_ENABLE_RINGS, None, 0),
    ):
        code = queues.mapped.register(opcode, argument, n)
        if code < 0:
            raise Unusable(-code, "io_uring_register", explain(-code, "io_uring_register"))


def _prove_a_read(queues: Queues) -> None:
    """Read one byte through the ring: some sandboxes allow the set-up and refuse what comes after it."""
    source, sink = os.pipe()
    try:
        os.write(sink, b"\x2a")
        buffer = ctypes.create_string_buffer(1)
        done: deque[tuple[int, int]] = deque()
        queues.push(abi.OP_READ, 0, source, abi.MAX_OFFSET, ctypes.addressof(buffer), 1, 0, 0)
        deadline = time.monotonic() + 1
        code = queues.submit()
        while code >= 0 or code == -errno.EINTR:
            queues.reap(done)
            if done or time.monotonic() > deadline:
                break
            code = queues.get_events()
        res = done[0][1] if done else (code if code < 0 else -errno.ETIMEDOUT)
        if not done:
            _never_freed.append(buffer)  # the kernel may still fill it
        if res < 0 or buffer.raw != b"\x2a":
            code = -res if res < 0 else errno.EIO
            raise Unusable(code, "a read on the ring", explain(code, "a read on the ring"))
    finally:
        os.close(source)
        os.close(sink)
