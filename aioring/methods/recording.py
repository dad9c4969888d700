"""recording: wraps any other method and keeps a trace of what was staged, submitted and completed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..handle import STAGED, Handle
from ..kernel.doorbell import Doorbell
from ..kernel.liburing import find_route
from .io_uring import IoUring
from .linux_aio import LinuxAio
from .sync import Sync
from .worker import Worker

__all__ = ["Event", "Recording", "Trace"]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace. `number` is the I/O's, counted from 1 in the order of staging."""

    what: str  # "staged", "submitted", "completed", "cancelled" (asked for), or what `note` was given
    number: int
    operation: str
    fd: int
    offset: int
    length: int
    res: int | None = None
    value: Any = None


class Trace:
    """The events of one ring, in order. Compare two to see whether two runs were the same."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._numbers = 0

    def note(self, what: str, value: Any = None) -> None:
        """Put an event of the program's own between those of the ring."""
        self.events.append(Event(what, 0, "", -1, 0, 0, None, value))

    def add(self, what: str, handle: Handle, res: int | None = None) -> None:
        if not handle.number:
            self._numbers += 1
            handle.number = self._numbers
        offset, length = handle.offset + handle.done, handle.length - handle.done
        self.events.append(Event(what, handle.number, handle.operation.name, handle.fd, offset, length, res))

    def count(self, what: str, operation: str | None = None) -> int:
        """How many events of a kind there are."""
        return sum(1 for e in self.events if e.what == what and (operation is None or e.operation == operation))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __str__(self) -> str:
        return "\n".join(
            f"{e.what:10} {e.number:5} {e.operation:10} fd {e.fd} offset {e.offset} length {e.length}"
            + ("" if e.res is None else f" res {e.res}")
            for e in self.events
        )


class _Completions(deque[tuple[int, int]]):
    """Records what a method posts, then hands it on to the engine."""

    def __init__(self, trace: Trace, live: MutableMapping[int, Handle], to: deque[tuple[int, int]]) -> None:
        super().__init__()
        self._trace, self._live, self._to = trace, live, to

    def append(self, item: tuple[int, int]) -> None:
        handle = self._live.get(item[0])
        if handle is not None:
            self._trace.add("completed", handle, item[1])
        self._to.append(item)


class Recording:
    """`Ring(method=Recording("io_uring", trace))`: the verbs of the method inside, recorded."""

    def __init__(self, method: Any, trace: Trace) -> None:
        if isinstance(method, str):
            made: dict[str, Any] = {"io_uring": IoUring, "linux_aio": LinuxAio, "worker": Worker, "sync": Sync}
            if method not in made:
                raise ValueError(f"cannot record {method!r}: one of {', '.join(made)}, or a method object")
            method = IoUring(find_route(os.environ.get("AIORING_LIBURING"))) if method == "io_uring" else made[method]()
        self.inner = method
        self.trace = trace
        self.name: str = method.name
        self.at_once: bool = method.at_once
        self.pieces: bool = method.pieces
        self.by_opcode: bool = method.by_opcode

    @property
    def links(self) -> bool:
        return bool(self.inner.links)

    @property
    def overflows(self) -> int:
        return int(getattr(self.inner, "overflows", 0))

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        return int(self.inner.start(doorbell, depth, live, _Completions(self.trace, live, completed)))

    def takes(self, handle: Handle) -> bool:
        return bool(self.inner.takes(handle))

    def staged(self, handle: Handle) -> None:
        self.trace.add("staged", handle)

    def submit(self, staged: deque[Handle]) -> None:
        told = [handle for handle in staged if handle.state == STAGED]
        for handle in told:
            self.trace.add("submitted", handle)
        self.inner.submit(staged)

    def reap(self) -> None:
        self.inner.reap()

    def poll(self) -> None:
        self.inner.poll()

    def cancel(self, handle: Handle) -> None:
        self.trace.add("cancelled", handle)
        self.inner.cancel(handle)

    def close(self) -> None:
        self.inner.close()

    def abandon(self) -> None:
        self.inner.abandon()
