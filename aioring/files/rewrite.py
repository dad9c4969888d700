"""One write past the page cache (O_DIRECT), which takes whole sectors only.

    size  ->  claim  ->  part: head, tail      ->  data       ->  next part, or cut
    fstat     all of     the sectors at its        one WRITE      TRUNCATE, where the last sector has made
              it         ends are read                            the file longer than it should be

* A part that begins with a sector is written as far as it has whole sectors, without a copy where its memory lies well.
  All else is put together in the pool's memory: the sectors at its ends as the file has them (READINTO), or zeros beyond
  its end.
* The last sector of a file is written whole, too, and the file cut where its data ends (ftruncate(2)). The claim
  (`sectors.py`) keeps everybody of this ring away from there meanwhile, from the first part to the cut; a kill or a power
  cut in between leaves up to a sector of zeros at the end.
* The steps are told by completions, not by a task: once the data is on its way they are taken to the end, whoever is
  cancelled. A step says what is to be asked and which is the next; struck by KeyboardInterrupt before both are stored, it
  is taken again.

Kernel memory: `memory` (the pool's), or the caller's where it lies well, is held by the handle's view, and so by the
engine's `live`, until its completion (invariant 1). A handle whose ring had to end before it (`shut`) keeps its view for
good, and the pool gives nobody memory of which a view lives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..buffers import Memory, bytes_address, view_address
from ..errors import RingClosedError, os_error
from ..handle import COMPLETE, DEFINED, Handle
from ..kernel import at_once
from ..operations import READINTO, WRITE
from ..ring import define
from .direct import size_of
from .raw import Raw
from .ring_io import Flight
from .sectors import END, GROWS, WRITES, Claim, widened

if TYPE_CHECKING:
    from .direct_io import DirectIo

__all__ = ["Rewrite"]

_MOST = 8 << 20  # bytes that are copied for one part

# What is next (None: all is done), once the completion of what is to be asked has come, if there is anything.
Step = tuple["Callable[[], Step] | None", "Handle | None"]


class Rewrite(Flight):
    """See the module. `offset` of None: at the end of the file, wherever that is when its turn comes."""

    __slots__ = (
        "_address", "_claim", "_data", "_end", "_error", "_fd", "_high", "_io", "_low", "_memory", "_moves", "_offset",
        "_on_its_way", "_size", "_start", "_step", "_uncut", "_view", "_written",
    )  # fmt: skip

    def __init__(
        self,
        io: DirectIo,
        raw: Raw,
        data: bytes | memoryview,
        offset: int | None,
        landed: Callable[[int], None],
        moves: bool = True,
    ) -> None:
        super().__init__(raw, io.ring._engine, landed)
        self._io, self._data, self._offset = io, data, offset
        self._fd = raw.fd  # `raw` may be closed meanwhile: then the close waits for us
        self._moves = moves  # the file's position; else it is beside other calls, and a cancel waits for it
        self._address = bytes_address(data) if isinstance(data, bytes) else view_address(data)
        self._claim: Claim | None = None
        self._memory: Memory | None = None
        self._view: Any = None  # what is written of this part: [low, high) of the file
        self._error: BaseException | None = None
        self._uncut = self._on_its_way = False  # it is too long; the data is
        # Bytes. Where all of it begins; where this part ends; how much of all has been written; how long the file is.
        self._start = self._end = self._low = self._high = self._written = self._size = 0
        self._step: Callable[[], Step] = self._ask_size

    async def done(self) -> int:
        """How much has been written: all of it, or as much as there was room for."""
        self.raw.under_way += 1
        try:
            self.engine.hold(self._fd, self)
            self._go()
            await self.engine.loop.park(self, self.cancelled)
        except BaseException:
            self.abandon()
            raise
        error, self._error = self._error, None
        if error is not None and (not self._written or self._uncut or not self._moves):
            try:
                raise error
            finally:
                del error
        return self._written  # the error behind a part of it is said by the next

    def cancelled(self, _: Any) -> bool:
        return super().cancelled(_) if self._moves else False

    def take_back(self) -> None:
        if self._on_its_way and self._step != self._after_write:
            return  # the last step makes the file as long as it should be
        claim, handle, self._error = self._claim, self.handle, os_error(errno.ECANCELED)
        waits = claim is not None and not claim.held
        if waits or handle is None or (handle.state == COMPLETE and self.engine.live.get(handle.token) is not handle):
            self._finish()  # nothing is under way
        else:
            super().take_back()

    # --- from step to step --------------------------------------------------------------------------------------------

    def _arrived(self, handle: Handle) -> None:
        """`on_done` of each."""
        now = self.handle
        if handle is now:
            self._go()
        elif now is not None and now.state == DEFINED and not self.over:
            self._ask(now)  # struck by KeyboardInterrupt when it was to be asked

    def _told(self, claim: Claim) -> None:
        """It is held; or the ring takes no more."""
        if claim is self._claim:
            if not self.engine.open:
                self._error = self._error or self._closed("write")
            self._go()

    def _go(self) -> None:
        try:
            while not self.over and (self._error is None or self._on_its_way):
                following, handle = self._step()
                if following is None:
                    break
                # Stores: struck by KeyboardInterrupt before them, it is taken again; behind them, the handle is asked.
                self._step = following
                if handle is not None:
                    before, self.handle = self.handle, handle
                    self._on_its_way = self._on_its_way or handle.operation is WRITE
                    self._ask(handle)
                    if before is not None:
                        before.on_done = before.view = None
                    return
                if self._claim is not None and not self._claim.held:
                    return
            self._finish()
        except Exception as error:
            self._error = self._error or error.with_traceback(None)
            self._finish()
        except BaseException:
            self.engine.loop.call_soon(self._go_on)
            raise

    def _go_on(self) -> None:
        """After KeyboardInterrupt, whatever was under way around us when it struck."""
        handle = self.handle
        if self.over or handle is None or handle.state == COMPLETE:
            self._go()
        elif handle.state == DEFINED:
            self._ask(handle)

    def _closed(self, what: str) -> RingClosedError:
        return RingClosedError(f"the ring was closed before this was done (aioring: {what} of fd {self._fd})")

    def _ask(self, handle: Handle) -> None:
        engine = self.engine
        if not engine.open:
            self._error = self._closed(handle.operation.name)
            self._finish()
            return
        handle.on_done = self._arrived
        engine.vouch(self._fd, self, handle)
        engine.ask(handle)

    def _result(self) -> Any:
        """What the last step's handle brought."""
        handle = self.handle
        assert handle is not None
        assert handle.state == COMPLETE
        return self.engine.take(handle)

    def _ask_size(self) -> Step:
        status = at_once.stat_of_fd(self._fd)
        if status is None:
            return self._after_size, define.stat(self._fd, None, True)
        self._size = size_of(self._fd, status)
        return self._claim_it, None

    def _after_size(self) -> Step:
        self._size = size_of(self._fd, self._result())
        return self._claim_it, None

    def _claim_it(self) -> Step:
        """Claim what has to be written, as the file is now; where that turns out to be something else, anew."""
        io = self._io
        start = self._size if self._offset is None else self._offset
        low, high = widened(start, start + len(self._data), io.sector)
        grows = self.raw.regular and high > self._size
        until = END if grows else high
        claim = self._claim
        if claim is not None and claim.held and claim.covers(low, until) and (claim.kind == GROWS or not grows):
            self._start = start
            return self._next_part, None
        if claim is not None:
            io.sectors.release(claim)
        self._claim = claim = Claim(GROWS if grows else WRITES, low, until, self._told)
        return self._claim_it if io.sectors.claim(claim) else self._ask_size, None

    def _next_part(self) -> Step:
        sector, start, n = self._io.sector, self._start + self._written, len(self._data) - self._written
        low = start - start % sector
        lies_well = not (self._address + self._written) % sector
        if start == low and n >= sector:
            n -= n % sector
            if not lies_well:
                n = min(n, _MOST)
        else:
            n, lies_well = min(n, low + _MOST - start), False
        self._end = start + n
        self._low, self._high = widened(start, self._end, sector)
        if lies_well:
            self._view = memoryview(self._data)[self._written : self._written + n]
            return self._ask_write, None
        self._room_for(self._high - low)
        return self._ask_head, None

    def _room_for(self, n: int) -> None:
        memory = self._memory
        if memory is None or memory.size < n:
            self._memory = None  # before it is given: nobody is to give it twice
            if memory is not None:
                self._io.ring._memory_pool().give(memory)
            self._memory = memory = self._io.ring._memory_pool().take(n)
        self._view = memory.view(n)

    def _ask_head(self) -> Step:
        sector, low, n = self._io.sector, self._low, self._high - self._low
        start = self._start + self._written
        for at in {0, n - sector}:
            if start > low + at or self._end < low + at + sector:
                self._view[at : at + sector] = bytes(sector)  # the memory has been used before
        reads = start > low or (n == sector and self._end < self._high)
        return self._ask_tail, self._sector(0) if reads else None

    def _sector(self, at: int) -> Handle | None:
        """Read a sector at one of the ends, if there is one."""
        if self._low + at >= self._size and self.raw.regular:
            return None
        if at_once.flags_of(self._fd) & os.O_ACCMODE == os.O_WRONLY:
            raise os_error(
                errno.EBADF,
                self.raw.name,
                note="aioring: a part of a sector is written by reading it first, and this fd is for writing only: open it "
                "with O_RDWR",
            )
        sector = self._io.sector
        handle = Handle(READINTO, self._fd, self._low + at, sector)
        handle.view = self._view[at : at + sector]
        return handle

    def _ask_tail(self) -> Step:
        self._check()
        n, sector = self._high - self._low, self._io.sector
        return self._fill, self._sector(n - sector) if self._end < self._high and n > sector else None

    def _check(self) -> None:
        """A sector has been read, perhaps. (Beyond the file's end the kernel may have left anything.)"""
        handle = self.handle
        if handle is not None and handle.operation is READINTO and handle.view is not None:
            done = self._result()
            view: Any = handle.view
            view[done:] = bytes(len(view) - done)

    def _fill(self) -> Step:
        self._check()
        start = self._start + self._written
        n = self._end - start
        self._view[start - self._low : self._end - self._low] = self._data[self._written : self._written + n]
        return self._ask_write, None

    def _ask_write(self) -> Step:
        handle = Handle(WRITE, self._fd, self._low, self._high - self._low)
        handle.view = self._view
        return self._after_write, handle

    def _after_write(self) -> Step:
        """How much of it is there; and should the file end where it ends now?"""
        handle, fd = self.handle, self._fd
        assert handle is not None
        if handle.res < 0:
            try:
                self.engine.take(handle)
            except Exception as error:
                self._error = error.with_traceback(None)
        until = self._low + handle.done
        written = max(min(until, self._end) - self._start, self._written)
        if written > self._written:
            self._size = max(self._size, self._start + written)
        self._written = written
        if self.raw.regular and until > self._size and not handle.shut:
            status = at_once.stat_of_fd(fd)
            if status is None or status.st_size == until:  # (longer: somebody else has written behind it)
                if self.engine.open:
                    return self._after_cut, define.truncate(fd, self._size)
                os.ftruncate(fd, self._size)
        if self._error is None and self._start + written == self._end and written < len(self._data):
            return self._next_part, None
        return None, None

    def _after_cut(self) -> Step:
        handle = self.handle
        assert handle is not None
        if handle.res < 0 and not handle.shut:
            try:
                os.ftruncate(self._fd, self._size)  # the ring's end has cancelled it; or else it is tried once more
            except OSError as error:
                self._error, self._uncut = error.with_traceback(None), True
        return None, None

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Harmless when done twice."""
        raw, n, handle = self.raw, self._written, self.handle
        if n and self._moves and not self.over:
            raw.position = self._start + n
        self.over = True
        try:
            self._view = None
            memory, self._memory = self._memory, None
            if handle is not None and not handle.shut:
                handle.view = None
            if memory is not None:
                self._io.ring._memory_pool().give(memory)
            self.land(n)
        finally:
            try:
                self.engine.release(self._fd, self)
            finally:
                if self._claim is not None:
                    self._io.sectors.release(self._claim)
        if handle is not None and not handle.shut:
            handle.on_done = None  # they would hold each other. Last: struck before, all this is done again
