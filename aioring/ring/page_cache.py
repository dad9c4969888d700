"""The page-cache step: small reads are tried in place with preadv2(2) and RWF_NOWAIT before anything is staged.

Called by `data.py`, within the tick's budget. Never waits. What it cannot serve (cold, part resident, a file system that
refuses, anything wrong with the arguments) it leaves to the ring, which also says what is wrong.

Some facts about where a hit lands
----------------------------------
* A hit is copied twice: by the kernel into one scratch buffer, and from there into `bytes`. One buffer that stays in the
  CPU's cache costs less than new memory each time. It belongs to one ring, hence to one thread: preadv lets the GIL go.
* The copy out of the kernel wants an aligned target: at one byte off, 64 KiB took 41 us instead of 3.3.
* RWF_NOWAIT does not keep an O_DIRECT read from waiting for the device, and nobody tells us that an fd is O_DIRECT. So the
  last byte of every read goes to another page: a segment of n - 1 bytes is aligned to no device's blocks, and O_DIRECT
  answers EINVAL (a last byte right behind the rest would be merged with it, and served). It costs 100 ns a read.

Some facts about the GIL
------------------------
`os.preadv` lets the GIL go for the length of the call. With nothing else to take it that costs nothing. Beside a thread
that runs Python it is lost to that thread about every fourth time, for sys.getswitchinterval() (5 ms): 800 reads a second.
The same call through PyDLL keeps the GIL and makes 100,000, but is a microsecond slower where nobody fights. So there are
three ways to call, and `tick`, once a refill of the budget, changes between them:

* plain (`os.preadv`). A refill that came late (3 ms after the last, for whatever reason) raises the question, and slow hits
  keep it up:
* timed (`os.preadv` between two looks at the clock): 3 ms within one budget's worth of hits mean a fight, at once; and 1 ms
  ends the tick's budget early (memory that a virtual machine has to be given first: 80 us a hit, 20 ms a budget).
* holding (PyDLL), for 256 refills; then it is timed again.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from ..buffers import private, view_address
from ..engine.budget import INLINE, SIZE, Budget
from ..kernel import at_once
from ..kernel.abi import INT_MAX, OFF_MAX

__all__ = ["NEVER", "NOWAIT", "SMALL", "PageCache"]

SMALL = INLINE
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_MISSES = 16  # in a row, before a ring stops to ask
_IN_PAGE = mmap.PAGESIZE - 1
_LOOK_AGAIN = 512  # reads after which it asks once more
_FIGHT = 0.003  # seconds that the hits of one budget may take
_LONG = 0.001  # seconds after which others get their turn, however few hits it was
_HOLD = 256  # refills of the budget
_preadv: Any = getattr(os, "preadv", None)
_Views = tuple[memoryview, ...]
_Ask = Callable[[int, _Views, int, int], int]
_join = b"".join
NEVER = -3  # from `ask`: the file's read knows no "do not wait" (RWF_NOWAIT); it is for a worker, not for the ring


class Owner(Protocol):
    """Who owns an fd, and remembers what its file has answered: `known.py`."""

    def refused(self, cache: PageCache, error: Exception, offset: int, n: int) -> int:
        """What `PageCache.ask` comes to where preadv2(2) failed."""
        ...


class PageCache:
    """One ring's. `on` is False where there is nothing to ask, `asking` is False while asking does not pay.

    The hot read (`data.py`) does `ask` and `taken` for whole hits by itself: `preadv` into `views[n]`, then a join.
    """

    def __init__(self, wanted: bool, budget: Budget) -> None:
        self.asking = self.on = wanted and NOWAIT != 0 and _preadv is not None
        self.misses = 0
        self.changes = 0  # of its ways: asking or not, keeping the GIL or not
        self.views: dict[int, _Views] = {}
        self.preadv: _Ask = self._timed
        self.hits = self.hit_bytes = 0  # of the hot read; not on the ring, where a class default slows each access
        self._hits = 0  # at the last miss
        self._budget = budget
        self._memory: memoryview | None = None
        self._one: _Views = ()
        self._spent = 0.0  # seconds, in the hits of this refill
        self.refilled = 0.0
        self._holding_for = 0

    # Hot path: once per I/O; measured in benchmarks/ring_read.py.

    def ask(self, fd: int, offset: int, n: int, owner: Owner | None = None) -> int:
        """How many of `n` bytes were had: all, or those up to end of file; -1 if they cannot be had at once, `NEVER` if
        this file's never can. What a refusal means may be left to the fd's owner, who remembers it."""
        if not self.asking:
            self.skip()
            return -1
        views = self.views.get(n) if type(n) is int else None  # 5.0 == 5
        if views is None:
            views = self.make_views(n)
            if views is None:
                return -1
        try:
            return self.ended(fd, offset, n, self.preadv(fd, views, offset, NOWAIT))
        except (OSError, TypeError, OverflowError) as error:
            if owner is not None:
                return owner.refused(self, error, offset, n)
            return self.refused(error, fd, offset, n)

    def rest(self, fd: int, offset: int, size: int, owner: Owner | None = None) -> int:
        """As `ask`, for all from `offset` to the end of a file of less than `SMALL` bytes. `size` is what the file has at
        this moment, or -1: it saves the look for more behind a page's edge."""
        if not self.asking:
            self.skip()
            return -1
        views = self.views.get(SMALL) or self.make_views(SMALL)
        assert views is not None
        try:
            got = self.preadv(fd, views, offset, NOWAIT)
            # What stops within a page stops at the end.
            if got == size - offset or (offset + got) & _IN_PAGE or not _preadv(fd, self._one, offset + got, NOWAIT):
                self.misses = 0
            else:
                self.miss()
                return -1
        except (OSError, TypeError, OverflowError) as error:
            if owner is not None:
                got = owner.refused(self, error, offset, SMALL)
            else:
                got = self.refused(error, fd, offset, SMALL)
        return got if got < SMALL else -1  # there may be more, whoever has read it

    def refused(self, error: Exception, fd: int, offset: int, n: int) -> int:
        """What `ask` comes to where preadv2(2) failed. tmpfs knows no RWF_NOWAIT and is memory: it is read as it is, where
        the ring would send each read to a kernel thread (80 us). Its files, that is: a device there (devtmpfs) may wait."""
        never = isinstance(error, OSError) and error.errno == errno.EOPNOTSUPP
        if never and at_once.is_memory(fd):
            try:
                got: int = _preadv(fd, self._cut(n), offset)  # short is end of file
                self.misses = 0
                return got
            except OSError:
                pass  # the ring says what is wrong
        self.miss()
        return NEVER if never else -1

    def at_hand(self, fd: int, offset: int, n: int) -> int:
        """A read of what is known to be in memory: all of `n` bytes, or those up to end of file; -1 for a size that is not
        asked for. Raises `OSError` as preadv(2).

        Without RWF_NOWAIT, also while the GIL is kept: what has left memory since it was asked about waits for a local
        disk (or swap) here, for as long as losing the GIL costs beside a busy thread."""
        views = self.views.get(n) or self.make_views(n)
        return -1 if views is None else self.preadv(fd, views, offset, 0)

    def ended(self, fd: int, offset: int, n: int, got: int) -> int:
        """What `got` of `n` bytes mean: all, end of file, or (-1) a part. Raises `OSError` as preadv(2)."""
        # Part of it, or end of file: only the next byte tells.
        if 0 < got < n and _preadv(fd, self._rest(got, n), offset + got, NOWAIT):
            self.miss()
            return -1
        self.misses = 0
        return got

    def miss(self) -> None:
        if self.hits != self._hits:
            self._hits, self.misses = self.hits, 0  # not in a row; the hot read does not say so each time
        self.misses += 1
        if self.misses >= _MISSES:
            # The file is cold, or its file system refuses RWF_NOWAIT: asking costs a cold read 10 to 15 %.
            self.asking = False
            self.changes += 1

    def skip(self) -> None:
        """A read that was not asked for."""
        if self.asking:
            return
        self.misses += 1
        if self.misses >= _LOOK_AGAIN:
            # Once more: another miss, and it is as many reads again.
            self.misses, self.asking = _MISSES - 1, self.on
            self.changes += self.on

    def taken(self, got: int, n: int) -> bytes:
        """The bytes that `ask` had."""
        if got == n:
            return _join(self.views.get(n) or self._cut(n))
        return self.short(got)

    def short(self, got: int) -> bytes:
        """The bytes of a read that was not had in full."""
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

    def make_views(self, n: int) -> _Views | None:
        """Where `n` bytes land, or None for a size that is not asked for."""
        if n.__class__ is not int or not 0 < n <= SMALL:
            return None
        views = self._cut(n)
        if len(self.views) < 256:
            self.views[n] = views
        return views

    def _cut(self, n: int) -> _Views:
        if self._memory is None:
            # n - 1 bytes from the start of the first page; the last byte on a page of its own.
            self._memory = memoryview(private(SMALL + mmap.PAGESIZE))[: SMALL + 1]
            self._one = (self._memory[SMALL:],)
        return self._rest(0, n)

    def _rest(self, got: int, n: int) -> _Views:
        memory = self._memory
        assert memory is not None
        return (memory[got : n - 1], memory[SMALL:]) if got < n - 1 else (memory[SMALL:],)

    # --- who has the GIL ----------------------------------------------------------------------------------------------

    def late(self, now: float) -> None:
        """Something was done in place whose price in units is a guess: end the tick's budget if it has taken its time."""
        if now - self.refilled > _LONG and self._budget.left < SIZE // 2:
            self._budget.end()

    @property
    def holding(self) -> bool:
        """Whether it keeps the GIL, since another thread fights for it."""
        return self._holding_for > 0

    def tick(self) -> None:
        """The budget was refilled."""
        if self._holding_for:
            self._holding_for -= 1
            if not self._holding_for:
                self.preadv, self._spent = self._timed, 0.0
                self.changes += 1
            return
        now = perf_counter()
        slow = now - self.refilled > _FIGHT or self._spent > _LONG
        self.refilled = now
        self.preadv = self._timed if slow else _preadv
        self._spent = 0.0

    def _timed(self, fd: int, views: _Views, offset: int, flags: int) -> int:
        start = perf_counter()
        try:
            got: int = _preadv(fd, views, offset, flags)
            return got
        finally:
            self._spent += perf_counter() - start
            if self._spent > _LONG:
                self._budget.end()
            if self._spent > _FIGHT and at_once.preadv2 is not None:
                self._hold()

    def _hold(self) -> None:
        memory, call, iovec = self._memory, at_once.preadv2, at_once.Iovec2()
        assert memory is not None
        at, last, where = view_address(memory), view_address(memory[SMALL:]), at_once.address_of(iovec)

        def holding(fd: int, views: _Views, offset: int, flags: int, _: object = iovec) -> int:
            # ctypes cuts numbers that are too large where `os` raises.
            if fd.__class__ is not int or not 0 <= fd <= INT_MAX or offset > OFF_MAX:
                raise OverflowError
            if len(views) == 1:
                iovec[0], iovec[1] = last, 1
            else:
                iovec[0], iovec[1], iovec[2], iovec[3] = at, len(views[0]), last, 1
            got: int = call(fd, where, len(views), offset, flags)
            if got < 0:
                raise OSError(at_once.get_errno(), "")  # EAGAIN makes a BlockingIOError of it
            return got

        self._holding_for = _HOLD
        self.changes += 1
        self.preadv = holding
