"""sync: carried out in place, on the loop's thread, when it is submitted. Boring on purpose.

For debugging, for tests, and for loops that run nothing else. A slow disk stops the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping

from ..handle import STAGED, SUBMITTED, Handle
from ..kernel.doorbell import Doorbell
from ..operations import RUN, carry_out

__all__ = ["Sync"]


class Sync:
    """See `Method` for the verbs."""

    name = "sync"
    links = False
    by_opcode = False
    at_once = True
    pieces = False

    def __init__(self) -> None:
        self._token = 0

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._live, self._completed = live, completed
        return depth

    def takes(self, handle: Handle) -> bool:
        return handle.operation is not RUN  # `ring.run` promises a worker thread on every method

    def submit(self, staged: deque[Handle]) -> None:
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                if not handle.token:
                    self._token += 1
                    handle.token = self._token
                self._live[handle.token] = handle
                if handle.outcome is None:
                    carry_out(handle)
                # A store, then a call: KeyboardInterrupt cannot come between them.
                handle.state = SUBMITTED
                self._completed.append((handle.token, handle.outcome or 0))
            staged.popleft()

    def reap(self) -> None:
        return None

    def poll(self) -> None:
        return None

    def cancel(self, handle: Handle) -> None:
        return None  # nothing is ever in flight when a task can be cancelled

    def close(self) -> None:
        return None

    def abandon(self) -> None:
        return None
