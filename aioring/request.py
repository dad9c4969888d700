"""A request: what is asked of the kernel, and the memory that it takes to ask. `handle.py` adds the life of one I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .kernel import abi

if TYPE_CHECKING:
    from .operations import Operation

__all__ = ["Request"]


class Request:
    """See the module.

    What a plain read touches has a slot and is set at once; all else lies on the class until it is set. (Both in one
    place, class defaults and an instance dict, cannot be specialised by CPython 3.11 and later: 80 ns an access.)
    """

    __slots__ = (
        "__dict__", "address", "direct", "done", "exception", "fd", "length", "memory", "offset", "operation", "outcome",
        "pieces", "view",
    )  # fmt: skip

    operation: Operation
    fd: int  # target, or the directory fd of `path`
    offset: int
    length: int  # bytes asked for in all
    done: int  # bytes moved so far
    memory: bytes | None  # aioring's own, filled in place
    view: memoryview | bytes | None  # lent by the caller, or aligned memory of aioring's own
    pieces: list[bytes] | None  # what a blocking call brought along instead of filling `memory`
    address: int
    direct: bool  # the fd has O_DIRECT: `read` needs aligned memory
    exception: BaseException | None  # raised as it is, instead of an errno
    outcome: int | None  # what the blocking equivalent came to

    before: int = 0  # bytes moved before the transfer that is under way
    flags: int = 0
    mode: int = 0
    resolve: int = 0  # openat2(2), RESOLVE_*
    path: bytes | None = None  # NUL-terminated
    path2: bytes | None = None
    fd2: int = abi.AT_FDCWD
    name: Any = None  # as the caller gave it: for the error
    name2: Any = None
    views: Sequence[memoryview] | None = None
    slot: int = 0  # where `view` lies in memory that is registered
    offsets: Sequence[int] = ()  # of reads from many places, into `view`, one behind the other
    keep: Any = None  # whatever else the kernel reads until the CQE: iovecs, open_how, the statx buffer
    value: Any = None  # a result that is no number
    settles: bool = False  # a `run` that has an effect: see `Operation.settles`
    call: Callable[[], Any] | None = None

    def left(self, most: int = abi.MAX_TRANSFER) -> int:
        """Bytes still to move in one transfer."""
        return min(self.length - self.done, abi.MAX_TRANSFER, most)
