"""The page-cache step: small reads are tried in place with preadv2(2) and RWF_NOWAIT before anything is staged.

Called by `data.py`, with a unit of the tick's budget in hand. Never waits. What it cannot serve (cold, part resident, a
file system that refuses, anything wrong with the arguments) it leaves to the ring, which also says what is wrong.

Some facts about where a hit lands
----------------------------------
* A hit is copied twice: by the kernel into one scratch buffer, and from there into `bytes`. One buffer that stays in the
  CPU's cache costs less than new memory each time. It belongs to one ring, hence to one thread: preadv lets the GIL go.
* The copy out of the kernel wants an aligned target: at one byte off, 64 KiB took 41 us instead of 3.3.
* RWF_NOWAIT does not keep an O_DIRECT read from waiting for the device, and nobody tells us that an fd is O_DIRECT. So the
  last byte of every read goes to another page: a segment of n - 1 bytes is aligned to no device's blocks, and O_DIRECT
  answers EINVAL (a last byte right behind the rest would be merged with it, and served).
"""

from __future__ import annotations

import mmap
import os
from typing import Any

from ..buffers import private

__all__ = ["SMALL", "PageCache"]

SMALL = 64 << 10  # bytes: a larger copy in place would make the loop late
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_MISSES = 64  # in a row, before a ring stops to ask
_LOOK_AGAIN = 512  # reads after which it asks once more
_preadv: Any = getattr(os, "preadv", None)
_join = b"".join


class PageCache:
    """One ring's. `on` is False where there is nothing to ask."""

    def __init__(self, wanted: bool) -> None:
        self.on = wanted and NOWAIT != 0 and _preadv is not None
        self._misses = 0
        self._views: dict[int, tuple[memoryview, ...]] = {}
        self._memory: memoryview | None = None

    # Hot path: `ask` and `taken` run once per I/O; measured in benchmarks/ring_read.py.

    def ask(self, fd: int, offset: int, n: int) -> int:
        """How many of `n` bytes were had: all, or those up to end of file; -1 if they cannot be had at once."""
        if self._misses >= _MISSES:
            # The file is cold, or its file system refuses RWF_NOWAIT: asking costs a cold read 10 to 15 %.
            self._misses += 1
            if self._misses < _LOOK_AGAIN:
                return -1
            self._misses = 0
        try:
            views = self._views.get(n) if n.__class__ is int else None  # 5.0 == 5
            if views is None:
                views = self._make_views(n)
                if not views:
                    return -1
            got: int = _preadv(fd, views, offset, NOWAIT)
            # Part of it, or end of file: only the next byte tells.
            if 0 < got < n and _preadv(fd, self._rest(got, n), offset + got, NOWAIT):
                self._misses += 1
                return -1
        except (OSError, TypeError, OverflowError):
            self._misses += 1
            return -1
        self._misses = 0
        return got

    def taken(self, got: int, n: int) -> bytes:
        """The bytes that `ask` had."""
        if got == n:
            return _join(self._views.get(n) or self._make_views(n))
        assert self._memory is not None
        return self._memory[:got].tobytes()

    def fill(self, target: memoryview, got: int) -> None:
        """Copy the bytes that `ask(..., len(target))` had."""
        assert self._memory is not None
        n = len(target)
        if got == n:
            target[: n - 1], target[n - 1 :] = self._memory[: n - 1], self._memory[SMALL:]
        else:
            target[:got] = self._memory[:got]

    def _make_views(self, n: int) -> tuple[memoryview, ...]:
        if n.__class__ is not int or not 0 < n <= SMALL:
            return ()
        if self._memory is None:
            # n - 1 bytes from the start of the first page; the last byte on a page of its own.
            self._memory = memoryview(private(SMALL + mmap.PAGESIZE))[: SMALL + 1]
        views = self._rest(0, n)
        if len(self._views) < 256:
            self._views[n] = views
        return views

    def _rest(self, got: int, n: int) -> tuple[memoryview, ...]:
        memory = self._memory
        assert memory is not None
        return (memory[got : n - 1], memory[SMALL:]) if got < n - 1 else (memory[SMALL:],)
