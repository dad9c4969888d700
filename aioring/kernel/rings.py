"""The two queues as memory: an SQE is one `struct.pack_into`, a CQE two `memoryview` reads.

Called by `methods/io_uring.py` only. Nothing here knows of handles; it moves numbers between Python and the kernel.

Some facts about io_uring's queues
----------------------------------
Each queue is a power-of-two ring of slots with two free-running 32-bit counters. We own the SQ's tail and the CQ's
head, the kernel the other two. The slot of entry `k` is `k & mask`; counters wrap at 2**32 and only their difference
means anything.

Order. The kernel reads SQ tail and SQEs only inside our own io_uring_enter(2) (no SQPOLL here), so program order is
enough on every CPU. Under DEFER_TASKRUN it also writes CQEs only inside our own enter, so plain loads see them whole.
Without DEFER_TASKRUN kernel threads post CQEs from other CPUs at any time: on x86-64 loads are not reordered with
loads, so reading the tail first is enough; on aarch64 it is not, Python has no acquire load, and `features.py`
therefore refuses io_uring there and the worker method serves.

A tail or head word must be stored by one aligned 32-bit store: `memoryview.cast("I")[0] = x` is one,
`struct.pack_into("<I")` writes byte by byte and is not. SQEs may be packed byte by byte: nobody reads them before the
tail moves.

KeyboardInterrupt may strike between any two bytecodes. So the counters in the mapped memory are the only truth, and
nothing is derived from what a call returned: what was staged is `tail - head`, and a CQE is copied out before the head
moves. Struck in between, the next `reap` copies some of them again; the caller knows tokens, and drops what it knows.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

from . import abi
from .abi import pack_sqe
from .liburing import Mapped

__all__ = ["WORD", "Queues"]

WORD = 0xFFFFFFFF


def _words(address: int, nbytes: int, form: str) -> Any:
    memory = (ctypes.c_char * nbytes).from_address(address)
    return memoryview(memory).cast("B").cast(form)  # type: ignore[call-overload]


class Queues:
    """One ring's submission and completion queue. One thread, the loop's, may touch it."""

    def __init__(self, mapped: Mapped) -> None:
        self.mapped = mapped
        self.sq_entries = mapped.sq_entries
        self.cq_entries = mapped.cq_entries
        self.sq_mask = mapped.sq_entries - 1
        self.cq_mask = mapped.cq_entries - 1
        self.sqes = _words(mapped.sqes, abi.SQE_BYTES * mapped.sq_entries, "B")
        self.sq_head = _words(mapped.sq_head, 4, "I")
        self.sq_tail = _words(mapped.sq_tail, 4, "I")
        self.sq_flags = _words(mapped.sq_flags, 4, "I")
        self.cq_head = _words(mapped.cq_head, 4, "I")
        self.cq_tail = _words(mapped.cq_tail, 4, "I")
        self.cq_overflow = _words(mapped.cq_overflow, 4, "I")
        self.user_data = _words(mapped.cqes, abi.CQE_BYTES * mapped.cq_entries, "Q")
        self.res = _words(mapped.cqes, abi.CQE_BYTES * mapped.cq_entries, "i")

    # Hot path: the next four run once or more per I/O or per tick; measured in benchmarks/ring_read.py.

    def staged(self) -> int:
        """How many SQEs the kernel has not taken yet."""
        n: int = (self.sq_tail[0] - self.sq_head[0]) & WORD
        return n

    def push(
        self, opcode: int, flags: int, fd: int, off: int, address: int, length: int, op_flags: int, token: int
    ) -> None:
        """Write one SQE. The caller has checked `staged() < sq_entries`: one too many overwrites the first."""
        tail = self.sq_tail[0]
        pack_sqe(
            self.sqes, (tail & self.sq_mask) << 6,
            opcode, flags, 0, fd, off, address, length, op_flags, token, 0, 0, 0, 0, 0,
        )  # fmt: skip
        self.sq_tail[0] = (tail + 1) & WORD

    def tail(self) -> int:
        return int(self.sq_tail[0])

    def take_back(self) -> None:
        """Forget what is staged and was not submitted."""
        self.sq_tail[0] = self.sq_head[0]

    def submit(self) -> int:
        """Tell the kernel of all that is staged; what completes at once has its CQE on return. -errno on failure."""
        return self.mapped.submit((self.sq_tail[0] - self.sq_head[0]) & WORD)

    def reap(self, into: deque[tuple[int, int]]) -> None:
        """Copy `(user_data, res)` of what is ready at entry, no more, then give the slots back (invariant 8)."""
        head, tail, mask = self.cq_head[0], self.cq_tail[0], self.cq_mask
        if head == tail:
            return
        user_data, res, append = self.user_data, self.res, into.append
        while head != tail:
            i = head & mask
            append((user_data[2 * i], res[4 * i + 2]))
            head = (head + 1) & WORD
        self.cq_head[0] = head

    def pending(self) -> bool:
        """Whether the kernel holds completions that only another enter turns into CQEs.

        IORING_SQ_TASKRUN: under DEFER_TASKRUN one enter runs at most 20. IORING_SQ_CQ_OVERFLOW: the CQ was full and
        the kernel keeps the rest (IORING_FEAT_NODROP).
        """
        return bool(self.sq_flags[0] & (abi.SQ_TASKRUN | abi.SQ_CQ_OVERFLOW))

    def overflowed(self) -> bool:
        return bool(self.sq_flags[0] & abi.SQ_CQ_OVERFLOW)

    def get_events(self) -> int:
        """Make pending completions into CQEs. -errno on failure."""
        return self.mapped.get_events()

    def close(self) -> None:
        """Give the ring back. No view of it may be touched afterwards: the memory is gone."""
        for name in ("sqes", "sq_head", "sq_tail", "sq_flags", "cq_head", "cq_tail", "user_data", "res"):
            setattr(self, name, None)
        self.cq_overflow = None
        self.mapped.close()
