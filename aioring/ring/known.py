"""What has been learned of one file that is open: how its small reads are best served.

A number says nothing about a file, since it may mean another one tomorrow. Who owns an fd, and closes it by the ring and
behind its reads, keeps a `Known` beside it: an aioring `File`. Its reads are not asked whether they can seek, nor, once
its file system has refused RWF_NOWAIT, that again:

* NOWAIT: RWF_NOWAIT is understood, as far as is known (ext4, xfs, btrfs ...);
* MEMORY: tmpfs; a read is a copy;
* ASK: mincore(2) tells which pages are there (overlayfs, where the file is ours or may be written by us);
* WORKERS: nobody tells (overlayfs otherwise, /proc, FUSE): a read is for a worker.

Called by `data.py`, within the tick's budget.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from ..handle import Handle
from ..kernel import at_once
from ..kernel.abi import SQE_ASYNC
from ..kernel.residency import Residency
from ..operations import is_direct
from .page_cache import NEVER, SMALL, PageCache

__all__ = ["ASK", "MEMORY", "NOWAIT", "WORKERS", "Known"]

NOWAIT, MEMORY, ASK, WORKERS = "nowait", "memory", "ask", "workers"
_READS = 4  # by a worker, before a mapping is worth its 33 us


class Known:
    """See the module. `close` with the file: a mapping pins it."""

    __slots__ = ("_refused", "_residency", "fd", "regular", "way")

    def __init__(self, fd: int, regular: bool | None = None) -> None:
        self.fd = fd
        self.way = NOWAIT
        # And so can seek.
        self.regular = stat.S_ISREG(os.fstat(fd).st_mode) if regular is None else regular
        self._refused = 0
        self._residency: Residency | None = None

    # Hot path: once a read.

    def ask(self, cache: PageCache, offset: int, n: int) -> int:
        """As `PageCache.ask`, by what is known."""
        if self.way is NOWAIT:
            return cache.ask(self.fd, offset, n, self)
        return self._by_way(cache, offset, n)

    def rest(self, cache: PageCache, offset: int, size: int) -> int:
        """As `PageCache.rest`, by what is known."""
        if self.way is NOWAIT:
            return cache.rest(self.fd, offset, size, self)
        got = self._by_way(cache, offset, SMALL)
        return got if got < SMALL else -1

    def refused(self, cache: PageCache, error: Exception, offset: int, n: int) -> int:
        """For `PageCache.ask`: learn from it, and go on."""
        if not isinstance(error, OSError) or error.errno != errno.EOPNOTSUPP:
            cache.miss()
            return -1
        self._learn()
        return self._by_way(cache, offset, n)

    def _by_way(self, cache: PageCache, offset: int, n: int) -> int:
        if cache.on:
            with suppress(OSError):
                if self.way is MEMORY:
                    return cache.at_hand(self.fd, offset, n)
                if self.way is ASK and self._residency is not None:
                    return cache.at_hand(self.fd, offset, n) if self._residency.resident(offset, n) else NEVER
                return NEVER
            self.way = WORKERS  # it can be mapped no longer, or is broken: who carries it out says so
        return NEVER

    def by_a_kernel_thread(self, handle: Handle) -> None:
        """A buffered read of more than `SMALL`: its copy is made by io-wq, which is a fifth faster and more than inside
        io_uring_enter(2). The kernel looks the fd up when its thread gets to it, so this is for who closes the fd behind
        its reads; see docs/decisions/0008."""
        if self.regular and not is_direct(self.fd):
            handle.sqe_flags = SQE_ASYNC

    def _learn(self) -> None:
        if not self.regular or is_direct(self.fd):
            self.way = WORKERS
        elif at_once.is_memory(self.fd):
            self.way = MEMORY
        else:
            self._refused += 1
            if self._refused >= _READS:
                self.way = WORKERS
                with suppress(OSError):
                    self._residency = Residency(self.fd, SMALL)
                    self.way = ASK

    def close(self) -> None:
        self.way = WORKERS
        if self._residency is not None:
            self._residency.close()
            self._residency = None
