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
  cancelled. Each step can be taken twice, and stores before it asks: KeyboardInterrupt may strike between any two of them.

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
        self._step: Callable[[], Handle | None] = self._ask_size

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
        claim, self._error = self._claim, os_error(errno.ECANCELED)
        if claim is not None and not claim.held:
            self._finish()
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
            while not self.over:
                if self._error is not None and not self._on_its_way:
                    self._finish()
                    return
                handle = self._step()
                if handle is not None:
                    self._ask(handle)
                    return
                if self._claim is not None and not self._claim.held:
                    return
        except Exception as error:
            self._error = self._error or error.with_traceback(None)
            self._finish()

    def _closed(self, what: str) -> RingClosedError:
        return RingClosedError(f"the ring was closed before this was done (aioring: {what} of fd {self._fd})")

    def _ask(self, handle: Handle) -> None:
        engine, before = self.engine, self.handle
        if not engine.open:
            self._error = self._closed(handle.operation.name)
            self._finish()
            return
        handle.on_done = self._arrived
        self.handle = handle
        engine.vouch(self._fd, self, handle)
        engine.ask(handle)
        if before is not None and before is not handle:
            before.on_done = before.view = None

    def _result(self) -> Any:
        """What the last step's handle brought."""
        handle = self.handle
        assert handle is not None
        assert handle.state == COMPLETE
        return self.engine.take(handle)

    def _ask_size(self) -> Handle | None:
        status = at_once.stat_of_fd(self._fd)
        self._step = self._after_size
        if status is None:
            return define.stat(self._fd, None, True)
        self._size = size_of(self._fd, status)
        self._step = self._claim_it
        return None

    def _after_size(self) -> Handle | None:
        self._size = size_of(self._fd, self._result())
        self._step = self._claim_it
        return None

    def _claim_it(self) -> Handle | None:
        """Claim what has to be written, as the file is now; where that turns out to be something else, anew."""
        io = self._io
        start = self._size if self._offset is None else self._offset
        low, high = widened(start, start + len(self._data), io.sector)
        grows = self.raw.regular and high > self._size
        until = END if grows else high
        claim = self._claim
        if claim is not None and claim.held and claim.covers(low, until) and (claim.kind == GROWS or not grows):
            self._start = start
            self._step = self._next_part
            return None
        if claim is not None:
            io.sectors.release(claim)
        self._claim = claim = Claim(GROWS if grows else WRITES, low, until, self._told)
        self._step = self._ask_size
        if io.sectors.claim(claim):
            self._step = self._claim_it
        return None

    def _next_part(self) -> Handle | None:
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
            self._step = self._ask_write
        else:
            self._room_for(self._high - low)
            self._step = self._ask_head
        return None

    def _room_for(self, n: int) -> None:
        memory = self._memory
        if memory is None or memory.size < n:
            if memory is not None:
                self._io.ring._memory_pool().give(memory)
            self._memory = memory = self._io.ring._memory_pool().take(n)
        self._view = memory.view(n)

    def _ask_head(self) -> Handle | None:
        sector, low, n = self._io.sector, self._low, self._high - self._low
        start = self._start + self._written
        for at in {0, n - sector}:
            if start > low + at or self._end < low + at + sector:
                self._view[at : at + sector] = bytes(sector)  # the memory has been used before
        self._step = self._ask_tail
        return self._sector(0) if start > low or (n == sector and self._end < self._high) else None

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

    def _ask_tail(self) -> Handle | None:
        self._check()
        n, sector = self._high - self._low, self._io.sector
        self._step = self._fill
        return self._sector(n - sector) if self._end < self._high and n > sector else None

    def _check(self) -> None:
        """A sector has been read, perhaps. (Beyond the file's end the kernel may have left anything.)"""
        handle = self.handle
        if handle is not None and handle.operation is READINTO and handle.view is not None:
            done = self._result()
            view: Any = handle.view
            view[done:] = bytes(len(view) - done)

    def _fill(self) -> Handle | None:
        self._check()
        start = self._start + self._written
        n = self._end - start
        self._view[start - self._low : self._end - self._low] = self._data[self._written : self._written + n]
        self._step = self._ask_write
        return None

    def _ask_write(self) -> Handle | None:
        handle = Handle(WRITE, self._fd, self._low, self._high - self._low)
        handle.view = self._view
        self._step, self._on_its_way = self._after_write, True
        return handle

    def _after_write(self) -> Handle | None:
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
                self._step = self._after_cut
                if self.engine.open:
                    return define.truncate(fd, self._size)
                os.ftruncate(fd, self._size)
        if self._error is None and self._start + written == self._end and written < len(self._data):
            self._step = self._next_part
        else:
            self._finish()
        return None

    def _after_cut(self) -> Handle | None:
        handle = self.handle
        assert handle is not None
        if handle.res < 0 and not handle.shut:
            try:
                os.ftruncate(self._fd, self._size)  # the ring's end has cancelled it; or else it is tried once more
            except OSError as error:
                self._error, self._uncut = error.with_traceback(None), True
        self._finish()
        return None

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Harmless when done twice."""
        if self.over:
            return
        self.over = True
        raw, n, handle = self.raw, self._written, self.handle
        try:
            self._view = None
            memory, self._memory = self._memory, None
            if handle is not None and not handle.shut:
                handle.on_done = handle.view = None  # they would hold each other
            if memory is not None:
                self._io.ring._memory_pool().give(memory)
            if n and self._moves:
                raw.position = self._start + n
            self.land(n)
        finally:
            self.engine.release(self._fd, self)
            if self._claim is not None:
                self._io.sectors.release(self._claim)
