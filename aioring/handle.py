"""A handle: one I/O from the moment it is defined until its result has been taken.

Some facts about handles
------------------------
    DEFINED -> STAGED -> SUBMITTED -> COMPLETE
       |         |                       ^
       +---------+-----------------------+      (cancelled or failed before the method was told)

* DEFINED: it waits for one of the ring's `depth` slots, or for others to be done with its fd. It holds no buffer.
* STAGED: it has a slot; the next flush tells the method. A short transfer brings a SUBMITTED handle back to STAGED.
* SUBMITTED: the method (the kernel, a worker thread) owns its buffer, path and iovecs. The handle stands in the
  engine's `live` table from before the submission until the completion has been dealt with, so that neither a
  cancelled task nor KeyboardInterrupt can free memory that the kernel still writes to (invariant 1).
* COMPLETE: the method is done with it for good. `res` is what the CQE carried.

`waiter` is whoever is to be woken. An *orphan* has none and never will: its task was cancelled, or the ring made it for
itself. An orphan's result is disposed of (an fd that an orphaned open brought is closed), never delivered.

Only the loop's thread touches a handle, but for a worker between claiming it and posting its completion.
"""

from __future__ import annotations

from typing import Any

from .operations import OPEN, OPENAT2, READ_FILE, Operation
from .request import Request

__all__ = ["COMPLETE", "DEFINED", "STAGED", "STATES", "SUBMITTED", "Handle"]

DEFINED, STAGED, SUBMITTED, COMPLETE = range(4)
STATES = ("defined", "staged", "submitted", "complete")


class Handle(Request):
    """See the module's facts."""

    __slots__ = (
        "__weakref__", "chain", "on_done", "orphan", "res", "served_by", "since", "sqe_flags", "state", "together",
        "token", "waiter",
    )  # fmt: skip

    state: int
    token: int  # user_data: never repeats in the life of a ring
    res: int
    waiter: Any
    orphan: bool
    served_by: str  # the method that it was told to
    chain: Any  # the chain it is a link of
    sqe_flags: int  # IOSQE_IO_LINK, where its method links
    together: int  # how many SQEs, it and those behind it, must go in one submission
    on_done: Any  # called with the handle instead of waking a waiter
    since: float  # when it was asked for, by perf_counter(), to a tick; 0.0: not yet

    number: int = 0  # in a trace
    tries: int = 0  # EINTR and EAGAIN answers so far
    again: int = 0  # how often it has been submitted again, for whatever reason
    booked: bool = False  # it has been counted
    seen: int = 0  # its number in `in_flight`, once one has shown it
    by_workers: bool = False  # for the blocking equivalent only, whatever the method
    runs: bool = False  # counted in the engine's `runs`
    audit: tuple[Any, ...] | None = None  # the event and arguments that `os` would raise
    cancelling: bool = False
    link: int | None = None  # which link of its chain
    shut: bool = False  # it was ended by the closing of its ring
    begun: bool = False  # and yet it is carried out, or will be
    packed: bool = False  # its memory is made

    def __init__(self, operation: Operation, fd: int = -1, offset: int = 0, length: int = 0) -> None:
        self.operation = operation
        self.fd = fd
        self.offset = offset
        self.length = length
        self.done = self.address = self.state = self.token = self.res = self.sqe_flags = 0
        self.memory = self.view = self.pieces = self.exception = self.outcome = None
        self.waiter = self.chain = self.on_done = None
        self.since = 0.0
        self.direct = self.orphan = False
        self.together = 1
        self.served_by = ""

    def finished(self) -> bool:
        return self.state == COMPLETE

    def brought(self, res: int) -> int:
        """The fd that came with `res`; negative: none."""
        if res < 0:
            return -1
        operation = self.operation
        if operation is READ_FILE:
            return -1 if self.value is None else int(self.value)
        return res if operation is OPEN or operation is OPENAT2 else -1

    def describe(self, method: str) -> str:
        """What was asked, for the note of an error."""
        op = self.operation
        if op.transfers:
            return f"aioring: {op.name} of {self.length} bytes at offset {self.offset} of fd {self.fd}, by {method}"
        if self.name is not None:
            return f"aioring: {op.name} of {self.name!r}, by {method}"
        return f"aioring: {op.name} of fd {self.fd}, by {method}"

    def __repr__(self) -> str:
        return f"<Handle {self.token} {self.operation.name} fd={self.fd} {STATES[self.state]}>"
