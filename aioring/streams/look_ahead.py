"""What a read stream has under way: the look-ahead of PostgreSQL's `read_stream.c`.

    source -> pending run -> page cache, or one I/O -> line of pieces

Memory: the kernel writes into a piece's memory from its submission until its completion, and the handle, in the engine's
`live`, has a view of it for so long (invariant 1), whatever becomes of the stream. It goes back to the pool when the last
block of the piece has been handed out, and the pool gives it to nobody while a view of it lives.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from functools import partial
from itertools import repeat
from typing import Any

from .. import loops
from ..buffers import Memory, Pool
from ..engine import Engine
from ..engine.budget import SIZE
from ..errors import AioringError, BlockBeyondEndError
from ..handle import COMPLETE, Handle
from ..kernel import at_once
from ..methods.scattered import MOST as MOST_SCATTERED
from ..operations import READ_SCATTERED
from ..ring import define
from ..ring.page_cache import NOWAIT, PageCache
from .blocks import Run, Source
from .pieces import Piece
from .settings import Settings
from .stats import StreamStats
from .target import Target

__all__ = ["Last", "LookAhead"]

_PRICE = (1 << 20) // SIZE  # bytes for a unit of the budget: a tick of the loop takes 1 MiB from the page cache
_IN_PAGE = 4095
_NOT_ASKED = AioringError("these blocks were not asked for")
_STRAIGHT = 512 << 10  # bytes


class LookAhead:
    """One stream's. It knows nothing of the stream that people hold, so that one that is dropped can be ended."""

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        cache: PageCache,
        target: Target,
        source: Source,
        settings: Settings,
        stats: StreamStats,
    ) -> None:
        self.engine, self.pool, self.source, self.distance = engine, pool, source, settings.distance()
        self.target, self.fd, self.name, self.size = target, target.fd, target.name, settings.size
        self.stats = stats
        self.line: deque[Piece] = deque()
        self.pinned = 0  # units that were asked for and have not been handed out
        self.paused = False
        self.over = False  # nobody wants any more of it
        self.spent = False  # the budget was, when the page cache was to be asked
        self._alone = settings.max_ios == 0  # one I/O at a time, and nothing is read ahead
        self._max_bytes = settings.max_bytes
        self._cache = cache
        self._align = target.align
        self.asks = bool(cache.on) and not target.align
        self._nowait = NOWAIT
        # Blocks that are copied in one go: more than one I/O would bring, since most of what that takes is Python's time.
        one, most = settings.combine, min(_STRAIGHT, settings.max_bytes) // settings.size
        self._straight = max(min(settings.max_ios * one, most), one)
        self._by_workers = False
        # How many lone blocks are read under one handle; 0: each has one of its own. (What is looked for in the page cache
        # first has: mostly it is there.)
        self._scatters = 0
        whole = self._align and not self.size % self._align
        if whole and getattr(engine.method, "scatters", False) and 2 * settings.max_ios <= engine.depth:
            self._scatters = min(settings.max_ios // 4, settings.combine, MOST_SCATTERED)
        self._run: Run | None = None  # pending
        self._cold = False  # the page cache has said that it does not have it
        self._ios = 0
        self._held = 0  # bytes of memory
        self.lent: dict[Memory, None] = {}  # handed out, and perhaps still looked at
        self._lent_bytes = 0
        self._window: dict[int, Piece] = {}  # by offset: blocks that an I/O in the line brings

    # Hot path: once per piece; measured in benchmarks/streams.py.

    def here(self) -> bool:
        """Whether this is the loop's thread, which need not be asked whether the task is cancelled."""
        engine = self.engine
        return not self.over and engine.open and not engine.loop.checks and engine.loop.running_here()

    def straight(self) -> Piece | None:
        """What `go` comes to where nothing is under way and the page cache has the next whole run, or some of them:
        PostgreSQL's fast path, for runs. None: ask `go`."""
        distance, budget = self.distance, self.engine.budget
        least = distance.combine
        if (
            not self.asks
            or self._cold
            or budget.left <= 0
            or self._run is not None
            or least < distance.combine_limit
            or self.paused
        ):
            return None
        first, n = self.source.straight(self._straight)
        if n < least:
            return None
        self.target.check()
        size = self.size
        try:
            memory = self._memory(n * size)
        except (OSError, MemoryError):
            return None  # which `go` says, at its place
        view = memory.view(n * size)
        had = self._had(view, first * size)
        if had < least * size:
            self._held -= memory.size
            self.pool.give(memory)
            return None
        n = had // size
        budget.left -= 1 + had // _PRICE
        self.source.skip(n)
        piece = Piece.straight(first * size, range(first, first + n), size, memory, view[: n * size])
        self.pinned += n
        stats = self.stats
        stats.hit_count += 1
        stats.hit_nblocks += n
        return piece

    def go(self) -> None:
        """Look ahead as far as it pays, and submit what that came to in one go (read_stream_look_ahead)."""
        source, distance = self.source, self.distance
        self.spent = False
        if self.over or not self.engine.open:
            return
        self.target.check()
        asked = self._ios
        while True:
            run = self._run
            if run is None and self._scatters and self._begin_several():
                continue
            pending = 0 if run is None else run.units
            if run is not None and distance.issue(self._ios, self.pinned, pending):
                if not self._begin(run):
                    break
                continue
            if self.paused and not pending:
                break
            room = distance.room(self._ios, self.pinned, pending)
            if self.paused or (self._alone and self.pinned):
                room = 0
            if not room:
                if self.paused and run is not None and not self.pinned and self._begin(run):
                    continue
                break
            longer = source.take(run, room, self._window)
            if longer is not None and longer.units > pending:
                self._run = longer
            elif source.ended and distance.ahead:
                distance.end()
            elif run is not None:
                # What comes next is no neighbour, or is not there yet: then it is not waited for.
                if source.dry and self.pinned:
                    break
                if not self._begin(run) or self._ios >= distance.max_ios:
                    break
            elif not self._revisit():
                break
        if self._ios != asked:
            self.engine.flush()

    def _begin(self, run: Run) -> bool:
        """Read what is pending, or a part of it (read_stream_start_pending_read). False: not now."""
        length = run.end - run.offset
        if self._held and self._held + self._span(run.offset, length) > self._max_bytes:
            return False  # (one is always read, however large)
        budget = self.engine.budget
        asks = self.asks and not self._cold
        if asks and budget.left <= 0:
            self.spent = not self.pinned
            budget.spent()
            return False
        try:
            memory, view = self._room_for(run.offset, length)
        except (OSError, MemoryError, OverflowError) as error:
            self._cannot(run, error)
            return True
        had = self._had(view, run.offset) if asks else -1
        rest = None
        if had >= 0:
            budget.left -= 1 + had // _PRICE
            # What stops within a page stops at the end (as 0 does); else it is a part.
            if had < length and had and not (run.offset + had) & _IN_PAGE:
                k = run.whole(had, self.size)
                if k:
                    rest = run.cut(k, self.size)
                else:
                    had = -1
        piece = Piece(run, self.size)
        piece.memory, piece.view, piece.lead = memory, view, self._lead(run.offset)
        piece.again = had < 0  # struck by KeyboardInterrupt before it is asked for, it still is to be
        self._run, self._cold = rest, rest is not None
        self.line.append(piece)
        self.pinned += piece.units
        if had >= 0:
            piece.done = min(had, piece.length)
            self.distance.cached()
            self.stats.hit_count += 1
            self.stats.hit_nblocks += piece.units
        else:
            piece.ios = 1
            self._ios += 1
            self.stats.began(piece.units, self._ios)
            if self.source.revisits:
                self._window.update(zip(piece.places(), repeat(piece), strict=False))
            self._ask(piece)
            piece.again = False
        return True

    def _begin_several(self) -> bool:
        """Read blocks that are nobody's neighbours all at once, as far as there is room. False: what comes next are none.

        What it saves is Python's time: a handle, a piece and their way through the engine for each. It looks ahead as far,
        and no further, than block by block.
        """
        distance, size = self.distance, self.size
        n = min(distance.max_ios - self._ios, distance.ahead - self.pinned, self._scatters)
        if n < 2 or self.paused or self._held + n * size > self._max_bytes:
            return False
        found = self.source.alone(n, self._window, self._align, self.target.size)
        if found is None:
            return False
        piece = Piece.scattered(*found, size)
        n = len(piece.items)
        piece.error = _NOT_ASKED  # struck by KeyboardInterrupt before it is, it is taken apart
        self.line.append(piece)
        self.pinned += n
        self.stats.began_several(n, self._ios)
        self._ios += n
        try:
            piece.memory, piece.view = self._room_for(0, n * size)
        except (OSError, MemoryError, OverflowError) as error:
            piece.error = error.with_traceback(None)
            return True
        self._window.update(zip(found[0], repeat(piece), strict=False))
        piece.handle = handle = Handle(READ_SCATTERED, self.fd, piece.offset, n * size)
        handle.view, handle.name, handle.offsets, handle.together = piece.view, self.name, found[0], n
        handle.on_done = partial(_arrived, self.engine.loop, piece)
        self.engine.ask(handle)
        piece.error = None
        return True

    def _cannot(self, run: Run, error: BaseException) -> None:
        """There is no memory for it: said at its place."""
        piece = Piece(run, self.size)
        piece.error = error.with_traceback(None)
        self._run = None
        self.line.append(piece)
        self.pinned += piece.units

    def _memory(self, n: int) -> Memory:
        memory = self.pool.take(n)
        self._held += memory.size
        if memory in self.lent:  # it was free
            del self.lent[memory]
            self._lent_bytes -= memory.size
        return memory

    def _had(self, view: memoryview, offset: int) -> int:
        """How many bytes the page cache had; -1: none that it says of."""
        try:
            if self._cache.holding:
                return at_once.preadv2_into(self.fd, view, offset, self._nowait)
            return os.preadv(self.fd, (view,), offset, self._nowait)
        except BlockingIOError:
            return -1
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                return -1  # the I/O says it
            if at_once.is_memory(self.fd):
                self._nowait = 0  # tmpfs, which knows no RWF_NOWAIT
                return self._had(view, offset)
            # FUSE among others: io_uring would wait for its server in here.
            self.asks, self._by_workers = False, True
            return -1

    def _lead(self, offset: int) -> int:
        """What has to be read before it: O_DIRECT reads whole sectors."""
        return offset % self._align if self._align else 0

    def _span(self, offset: int, length: int) -> int:
        """How many bytes have to be read for so many of them."""
        align = self._align
        return -(-(offset % align + length) // align) * align if align else length

    def _room_for(self, offset: int, length: int) -> tuple[Memory, memoryview]:
        """Memory for all that has to be read, and a view of what was asked for."""
        memory, lead = self._memory(self._span(offset, length)), self._lead(offset)
        return memory, memory.view(lead + length)[lead:]

    def _ask(self, piece: Piece) -> None:
        assert piece.memory is not None
        n = self._span(piece.offset, piece.length)
        slot = self.pool.slot(piece.memory) if self._align else -1
        piece.handle = handle = define.into(piece.memory, slot, self.fd, piece.offset - piece.lead, n)
        handle.name = self.name
        handle.by_workers = self._by_workers
        handle.on_done = partial(_arrived, self.engine.loop, piece)
        self.engine.ask(handle)

    def _revisit(self) -> bool:
        """The next element is in the window already. False: there is none."""
        element = self.source.revisited()
        if element is None:
            return False
        offset, length, item = element
        run = Run(offset)
        run.end, run.items, run.units = offset + length, [item], -(-length // self.size)
        run.sizes = None if length == self.size else [length]
        base = self._window[offset]
        at = base.at_of(offset)
        if at + length > base.length:
            self._run = run  # it is longer: by itself
            return True
        piece = Piece(run, self.size)
        piece.base, piece.at = base, at
        self.line.append(piece)
        self.pinned += piece.units
        self.distance.shared(self._ios)
        return True

    # --- the first in the line ----------------------------------------------------------------------------------------

    async def ready(self) -> bool:
        """Wait until the first piece can be handed out. Whether it was not there when it was asked for."""
        piece = self.line[0]
        engine, waited = self.engine, False
        while True:
            if piece.again:
                self._ask_again(piece)
            if not piece.finished():
                engine.on_doorbell()  # once, before it waits
                if not piece.finished():
                    waited = True
                    await engine.loop.park(piece, loops.at_once)
                    if self.over:
                        return waited
            if piece.ios and not waited and piece.handle is not None:
                # Complete as soon as it was asked for: a copy in place, as far as the loop is concerned.
                engine.budget.left -= 1 + piece.done // _PRICE
            base = piece.base
            if base is not None:
                if base.failed():
                    piece.base, piece.again = None, True
                    continue
                piece.done = min(max(base.done - piece.at, 0), piece.length)
            if len(piece.items) == 1:
                return waited
            if piece.failed():
                # Read again block by block: the good ones are handed out, the bad one says so at its place.
                for one in self._by_themselves(0):
                    one.again = True
            elif not piece.there():
                self._by_themselves(0)  # beyond the end, each of them
            else:
                if piece.there() < len(piece.items):
                    self._by_themselves(piece.there())
                return waited
            piece = self.line[0]

    def _ask_again(self, piece: Piece) -> None:
        self.engine.check()
        self.target.check()
        piece.again = False
        piece.lead = self._lead(piece.offset)
        try:
            piece.memory, piece.view = self._room_for(piece.offset, piece.length)
        except (OSError, MemoryError, OverflowError) as error:
            piece.error = error.with_traceback(None)
            return
        self._ask(piece)
        self.engine.flush()

    def _by_themselves(self, k: int) -> list[Piece]:
        """Leave `k` blocks in the first piece; the others follow it one by one."""
        first = self.line.popleft()
        self._forget(first)
        singles = first.split(k)
        self.line.extendleft(reversed(singles))
        if k:
            self.line.appendleft(first)
        else:
            singles[0].ios = first.ios
            self.give_back(first)
        return singles

    def error_of(self, piece: Piece) -> BaseException | None:
        """Why what is ready has not been had."""
        if piece.error is not None:
            return piece.error
        if piece.failed():
            assert piece.handle is not None
            try:
                self.engine.take(piece.handle)
            except BaseException as error:
                return error.with_traceback(None)
        if piece.done:
            return None
        name = f"fd {self.fd}" if self.name is None else repr(self.name)
        return BlockBeyondEndError(f"{piece.length} bytes at offset {piece.offset} are beyond the end of {name}")

    def take(self, waited: bool) -> Piece:
        """Take the first piece out of the line, to hand it out, and look further ahead. It stays pinned until `settle`."""
        piece = self.line.popleft()
        if piece.ios:
            self._ios -= piece.ios
            self.distance.done(waited)
            self.stats.wait_count += waited
        self._forget(piece)
        return piece

    def further(self) -> None:
        """Look ahead, as the first block of what was taken is handed out, if a quarter of `max_ios` and of the distance is
        free: block by block each would take a submission of its own."""
        distance = self.distance
        if 4 * self._ios > 3 * distance.max_ios or self._alone:
            return
        if 4 * (distance.ahead - self.pinned + 1) < distance.ahead:
            return
        self.pinned -= 1
        try:
            self.go()
        finally:
            self.pinned += 1

    def settle(self, piece: Piece) -> None:
        """All its blocks have been handed out."""
        self.pinned -= piece.units
        memory = piece.memory
        if memory is not None:
            self.lent[memory] = None
            self._lent_bytes += memory.size
        self.give_back(piece)

    def keeps_too_much(self) -> bool:
        """Whether the consumer keeps so much of the memory that was lent that it is to be given copies."""
        if self._lent_bytes > self._max_bytes:
            self.lent = {memory: None for memory in self.lent if not memory.free()}
            self._lent_bytes = sum(memory.size for memory in self.lent)
        return self._lent_bytes > self._max_bytes

    def give_back(self, piece: Piece) -> None:
        memory, piece.memory = piece.memory, None
        if memory is not None:
            self._held -= memory.size
            self.pool.give(memory)

    def _forget(self, piece: Piece) -> None:
        window = self._window
        if window and piece.handle is not None:
            for offset in piece.places():
                if window.get(offset) is piece:
                    del window[offset]

    # --- the end ------------------------------------------------------------------------------------------------------

    def discard(self) -> list[Handle]:
        """Forget all that is pending and end what is in flight; returns that."""
        line, self.line = self.line, deque()
        self.over = True
        self._run, self._ios = None, 0
        self.source.close()
        self._window.clear()
        engine = self.engine
        under_way = []
        for piece in line:
            self.pinned -= piece.units
            handle = piece.handle
            if handle is not None and handle.state != COMPLETE:
                engine.cancel(handle)
                if handle.state != COMPLETE:
                    under_way.append(handle)
            piece.gone = True
            if piece.waiter is not None:
                engine.loop.wake(piece.waiter)
            self.give_back(piece)
        self.pool.sweep()
        return under_way


class Last:
    """Waits until nothing of what was discarded is in flight any more."""

    def __init__(self, loop: loops.Loop, handles: list[Handle]) -> None:
        self._loop, self._handles = loop, handles
        self.waiter: Any = None
        for handle in handles:
            handle.on_done = self._arrived

    def _arrived(self, handle: Handle) -> None:
        if self.waiter is not None and self.finished():
            self._loop.wake(self.waiter)
        handle.on_done = None

    def finished(self) -> bool:
        return all(handle.state == COMPLETE for handle in self._handles)


def _arrived(loop: loops.Loop, piece: Piece, handle: Handle) -> None:
    """Called by the engine. It knows nothing of the stream, which may be gone."""
    piece.arrived(handle)
    if piece.waiter is not None:
        loop.wake(piece.waiter)
    # They would hold each other, and the memory, until the garbage is collected. Last: struck by KeyboardInterrupt before,
    # this is done again.
    handle.on_done = None
