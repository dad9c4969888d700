"""recording: wraps any other method and keeps a trace of what was staged, submitted and completed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import MutableMapping
from typing import Any

from ..handle import STAGED, Handle
from ..kernel.doorbell import Doorbell
from ..kernel.liburing import find_route
from .io_uring import IoUring
from .linux_aio import LinuxAio
from .sync import Sync
from .trace import Trace
from .worker import Worker

__all__ = ["Recording"]


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
    """`Ring(method=Recording("io_uring", trace))`: the verbs of the method inside, recorded.

    What a ring does in place, without a method (reads of what is cached), is not seen; `Ring(page_cache_first=False)` does
    nothing in place. What is done on the ring's workers is seen.
    """

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

    def around(self, workers: Worker) -> Any:
        """The ring's workers, which carry out what this method does not take, recorded as well."""
        return _Workers(workers, self.trace)

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


class _Workers(Recording):
    """What the engine has besides the verbs of its workers is theirs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
