"""scripted: a seeded method for tests. It carries operations out for real, and decides all else by its seed.

The order in which I/Os complete, how long each takes (in virtual time: nothing sleeps), where a transfer is cut short,
which one fails, and whether a cancel comes in time. The same seed and the same program give the same trace, so a failing
seed replays. All kernel contact passes through the method protocol, so the whole library runs on it, and so does a
program that uses the library.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
from collections import Counter, deque
from collections.abc import Mapping, MutableMapping
from typing import Literal

from ..handle import STAGED, SUBMITTED, Handle
from ..kernel.abi import MAX_TRANSFER
from ..kernel.doorbell import Doorbell
from ..kernel.statx import sector
from ..operations import CLOSE, RUN, carry_out, is_direct
from .trace import Trace

__all__ = ["Scripted"]


class Scripted:
    """`Ring(method=Scripted(seed=17))`. Used by one ring, once.

    `delay`: virtual seconds that an I/O takes at most. `short`: how often a transfer is cut short, at any length from 1.
    `soft`: how often EINTR or EAGAIN is answered once before the real result. `faults`: `{("write", 3): errno.ENOSPC}`
    fails the third write with ENOSPC instead of carrying it out. `cancel`: whether a cancel "wins", "loses", or, by the
    seed, "either". `trace`: where to record what was staged, submitted and
    completed (without, a `Trace(data=False)`).

    `now` is the virtual time in seconds.
    """

    name = "scripted"
    links = False
    by_opcode = False
    at_once = False  # the page cache is not asked: every operation passes through here
    pieces = False

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: float = 0.01,
        short: float = 0.3,
        soft: float = 0.1,
        faults: Mapping[tuple[str, int], int] | None = None,
        cancel: Literal["either", "wins", "loses"] = "either",
        trace: Trace | None = None,
    ) -> None:
        self.seed = seed
        self.now = 0.0
        self.trace = Trace(data=False) if trace is None else trace
        self._random = random.Random(seed)
        self._delay, self._short, self._soft = delay, short, soft
        self._faults = dict(faults or {})
        self._cancel = cancel
        self._counts: Counter[str] = Counter()
        self._token = 0
        self._due: list[tuple[float, int, int | None]] = []  # when, token, its result if it is known already

    def __repr__(self) -> str:
        return f"Scripted(seed={self.seed})"

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._doorbell, self._live, self._completed = doorbell, live, completed
        return depth

    def takes(self, handle: Handle) -> bool:
        return handle.operation is not RUN  # a blocking call may wait for what only the loop can do

    def staged(self, handle: Handle) -> None:
        self.trace.add("staged", handle)

    def submit(self, staged: deque[Handle]) -> None:
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                if not handle.token:
                    self._token += 1
                    handle.token = self._token
                    self.trace.add("submitted", handle)
                self._live[handle.token] = handle
                # Early: done by the kernel, its completion still under way. Late: not begun when a cancel may come.
                res = self._carry_out(handle) if self._random.random() < 0.5 else None
                due = (self.now + self._random.random() * self._delay, handle.token, res)
                handle.state = SUBMITTED
                heapq.heappush(self._due, due)
            staged.popleft()
        if self._due:
            self._doorbell.ring()

    def _carry_out(self, handle: Handle) -> int:
        if handle.outcome is not None:
            return handle.outcome  # done before KeyboardInterrupt struck
        operation = handle.operation
        if not handle.done and not handle.tries:
            self._counts[operation.name] += 1
            fault = self._faults.get((operation.name, self._counts[operation.name]))
            if fault is not None:
                if operation is CLOSE and fault != errno.EBADF:
                    carry_out(handle, MAX_TRANSFER)  # close(2): the fd is gone, whatever it says
                return -fault
        if operation.retries and not handle.tries and self._random.random() < self._soft:
            return -self._random.choice((errno.EINTR, errno.EAGAIN))
        left = handle.length - handle.done
        if operation.transfers and left > 1 and self._random.random() < self._short:
            cut = self._random.randint(1, left - 1)
            if is_direct(handle.fd):
                cut -= cut % (sector(handle.fd, 512) or 512)  # a device's blocks are never cut
            return carry_out(handle, cut or MAX_TRANSFER)
        return carry_out(handle, MAX_TRANSFER)

    def reap(self) -> None:
        return None

    def poll(self) -> None:
        """One turn: virtual time goes on to the next completion, and a few that are due with it are posted."""
        turns = self._random.randint(1, 4)
        while self._due and turns:
            turns -= 1
            when, token, res = self._due[0]
            self.now = max(self.now, when)
            handle = self._live.get(token)
            if handle is None:
                heapq.heappop(self._due)  # posted before
                continue
            if res is None:
                res = self._carry_out(handle)
                self._due[0] = (when, token, res)  # struck behind this, it is not carried out again
            self.trace.add("completed", handle, res)
            self._completed.append((token, res))
            heapq.heappop(self._due)  # last: KeyboardInterrupt must find it in two places rather than in none
        if self._due:
            self._doorbell.ring()

    def cancel(self, handle: Handle) -> None:
        self.trace.add("cancelled", handle)
        wins = self._random.random() < 0.5 if self._cancel == "either" else self._cancel == "wins"
        if not wins:
            return
        for i, (when, token, res) in enumerate(self._due):
            if token == handle.token and res is None:
                self._due[i] = (when, token, -errno.ECANCELED)
                return

    def close(self) -> None:
        """What has been done, and nobody will be told of, leaves no fd."""
        for _, token, res in self._due:
            handle = self._live.get(token)
            if handle is not None and res is not None and (fd := handle.brought(res)) >= 0:
                os.close(fd)
        self._due.clear()

    def abandon(self) -> None:
        return None
