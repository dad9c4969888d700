"""How I/O is carried out: PostgreSQL's `io_method`, behind one small protocol of verbs.

`choose()` finds the method that a ring gets. A method is told handles and reports what a CQE would carry; continuation
of short transfers, errors, cancellation and statistics are written once, in the engine above.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import MutableMapping
from typing import Protocol

from ..errors import RingUnavailableError
from ..handle import Handle
from ..kernel.doorbell import Doorbell
from ..kernel.features import Unusable, explain
from ..kernel.liburing import find_route
from .io_uring import IoUring
from .linux_aio import LinuxAio
from .sync import Sync
from .worker import Worker

__all__ = ["METHODS", "Method", "choose"]

Completed = deque[tuple[int, int]]
Live = MutableMapping[int, Handle]

METHODS = ("auto", "io_uring", "linux_aio", "worker", "sync")


class Method(Protocol):
    """A way to carry out I/O. Every verb is called on the loop's thread, and none of them waits.

    A handle that is told must be in `live` under its `token` from before the kernel or a thread can see it; the engine
    takes it out when it has dealt with the completion.
    """

    name: str
    by_opcode: bool  # whether it goes by a row's opcode (and past Python's audit hooks) or by its blocking equivalent
    at_once: bool  # whether the page cache may be asked before it
    pieces: bool  # whether large buffered reads are cut and given to the workers

    @property
    def links(self) -> bool:
        """Whether it carries linked handles out one after the other, and stops at a failure."""
        ...

    def start(self, doorbell: Doorbell, depth: int, live: Live, completed: Completed) -> int:
        """Get ready. Returns the depth that can be had. Raises `Unusable`."""
        ...

    def takes(self, handle: Handle) -> bool:
        """Whether this method can carry the handle out; what it cannot goes to the workers."""
        ...

    def submit(self, staged: deque[Handle]) -> None:
        """Take all handles that are STAGED from the left, and drop those that no longer are.

        What stands `together` goes in one submission: a round of a chain, which is never split; or a READ_FILE or
        READ_SCATTERED, which are one handle here and several SQEs in the kernel (io_uring: slots.py, scattered.py).
        """
        ...

    def reap(self) -> None:
        """Append `(token, res)` to `completed` for what is known to be complete."""
        ...

    def poll(self) -> None:
        """The doorbell rang: find out what is complete, then as `reap`."""
        ...

    def cancel(self, handle: Handle) -> None:
        """Ask that a submitted handle end early. It completes in any case, with -ECANCELED or with its result."""
        ...

    def close(self) -> None:
        """Let go of everything. Nothing is in flight, or its memory has been leaked on purpose."""
        ...

    def abandon(self) -> None:
        """In a forked child: close what was inherited, without a word to the kernel that the parent would hear."""
        ...


def choose(wanted: str, workers: int, liburing: str | None) -> tuple[list[Method], str | None]:
    """The methods that `wanted` stands for, best first, and why io_uring is not among them where "auto" had to drop it.

    Only makes the objects; whether one works is found out by its `start`. The last one of "auto" always does.

    Raises:
        RingUnavailableError: io_uring was asked for by name, and AIORING_LIBURING names nothing that can be loaded.
        ValueError: there is no such method.
    """
    if wanted == "worker":
        return [Worker(workers)], None
    if wanted == "sync":
        return [Sync()], None
    if wanted == "linux_aio":
        return [LinuxAio()], None
    if wanted not in METHODS:
        raise ValueError(f"unknown method {wanted!r}: one of {', '.join(METHODS)}, or a method object")
    others: list[Method] = [LinuxAio(), Worker(workers)] if wanted == "auto" else []
    try:
        return [IoUring(find_route(liburing)), *others], None
    except OSError as error:
        if not others:
            code = error.errno or errno.ENOENT
            hint = f"{error}; unset AIORING_LIBURING to use what is found"
            raise RingUnavailableError(code, "io_uring cannot be used", hint) from None
        return others, f"AIORING_LIBURING={liburing!r} cannot be loaded: {error}"


def unavailable(error: OSError, method: str = "io_uring") -> RingUnavailableError:
    """What `Ring(method="io_uring")` raises where it cannot be had."""
    code = error.errno or errno.ENOSYS
    hint = error.hint if isinstance(error, Unusable) else explain(code, "making the ring's doorbell")
    return RingUnavailableError(code, f"{method} cannot be used", hint)
