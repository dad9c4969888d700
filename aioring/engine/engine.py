"""The engine of a ring: admission in order, one flush a tick, completion, the close of an fd.

Between `ring/` above, which defines handles and takes their results, and the methods below, which carry them out. It
knows nothing of what an operation means beyond its row. One engine belongs to one loop and one thread.

Where KeyboardInterrupt may strike: CPython looks for signals after calls and at loops, never between two plain stores.
So a handle changes hands by stores and one call, in an order in which being struck leaves it in two places rather than
in none, and every step that takes it on is harmless when it is taken twice. `live` is the truth about what is in flight.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any

from ..errors import RingClosedError, WrongLoopError
from ..handle import COMPLETE, DEFINED, STAGED, SUBMITTED, Handle
from ..kernel.doorbell import Doorbell
from ..loops import Loop
from ..methods import Method
from ..methods.worker import Worker
from ..observe import slow
from ..observe.counters import Counters
from ..operations import CLOSE, READ, READINTO, READV, RUN, WRITE, WRITEV, Operation
from .budget import INLINE, Budget
from .cancelling import Cancelling
from .chains import Chain
from .results import TRIES

__all__ = ["Engine"]

logger = logging.getLogger("aioring")

# How many are told in one turn that their I/O is complete. Each resumes a task, and the loop runs nothing else until all of
# them had their turn: with 128 the tick was 4 to 8 ms long, with 16 it is 1, at the same rate (8 cost a third of it).
_TOLD = 16

_AT_ONCE = 4  # units of the budget for what the ring completes at once: it takes as long as four hits of the page cache


class Engine(Cancelling):
    """See the module. `depth` slots; `backlog` holds who waits for one, in order of arrival.

    Lines that end in `# count` are what being seen costs: benchmarks/counting.py measures the library without them. No more
    attributes than there are: CPython looks up those of an instance that has over 30 the slow way, all of them.
    """

    def __init__(self, loop: Loop, method: Method, workers: Worker, depth: int, counters: Counters) -> None:
        super().__init__()
        self.counters = counters
        self.loop = loop
        self.method = method
        self.workers = workers
        self.depth = depth
        self.open = True  # takes new I/O
        self.ended = ""  # "closed" or "forked", once it is
        self.doorbell = Doorbell()
        self.budget = Budget(loop)
        self.live: dict[int, Handle] = {}
        self.completed: deque[tuple[int, int]] = deque()
        self.staged: deque[Handle] = deque()  # for the method
        self.for_workers: deque[Handle] = deque()
        self.backlog: deque[Handle | Chain] = deque()
        self.runs = 0  # `ring.run` jobs in flight: they take no slot
        self.drains: list[Any] = []  # who waits until nothing is in flight any more
        self.watched: list[int] = []  # fds that the loop watches for us
        self.at_shut: list[Callable[[], Any]] = []  # the ring takes no more
        self.at_end: list[Callable[[], Any]] = []  # it is gone: close what is yours
        self.tending: Callable[[], Any] | None = None
        self._note: Callable[[Handle], Any] | None = getattr(method, "staged", None)  # methods that keep a trace
        self._now: Callable[[Handle], bool] | None = getattr(method, "now", None)
        self._flush_soon = False
        self.completing = False  # completions are being told
        try:
            self.depth = method.start(self.doorbell, depth, self.live, self.completed)
            if workers is not method:
                workers.start(self.doorbell, depth, self.live, self.completed)
            self._lean = {operation: counters.of[operation] for operation in self._surely_taken()}
        except BaseException:
            self.doorbell.close()
            raise

    def _surely_taken(self) -> list[Operation]:
        """The transfers that the method takes whatever their arguments, if they are of at least one byte."""
        if self._note is not None:
            return []
        return [o for o in (READ, READINTO, READV, WRITE, WRITEV) if self.method.takes(Handle(o, length=1))]

    # --- asking -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise unless the ring is open and this code runs on its loop."""
        if not self.open:
            if self.ended == "forked":
                raise WrongLoopError(
                    "this ring belongs to the process that was forked; make one here: get_ring(), or Ring() in a loop"
                )
            raise RingClosedError("this ring is closed; make another, or use get_ring()")
        if not self.loop.running_here():
            raise WrongLoopError(
                "this ring belongs to another event loop or thread; each loop has its own: get_ring(), or Ring() in it"
            )

    def audit(self, handle: Handle) -> None:
        """io_uring walks past Python's audit hooks; the blocking equivalents in `os` raise their own."""
        if handle.audit is not None and self.method.by_opcode and self.method.takes(handle):
            sys.audit(*handle.audit)

    # Hot path: once per transfer; measured in benchmarks/ring_read.py.

    def begin(self, handle: Handle, paid: bool = False) -> None:
        """`ask` for a transfer. On an idle ring a read is submitted there and then: what the kernel has at once is
        COMPLETE on return, at a price in units of the tick's budget (`paid`: one has been taken)."""
        live, staged = self.live, self.staged
        if (
            not live
            and not staged
            and self._now is not None
            and (paid or self.budget.left > 0)
            and handle.operation.reads
            and 0 < handle.length <= INLINE
            and handle.operation in self._lean
            and not self.closing
            and not self.backlog
        ):
            if not paid:
                self.budget.left -= _AT_ONCE
            handle.served_by = self.method.name
            try:
                if self._now(handle):
                    count = self._lean[handle.operation]  # count
                    count.alone += 1  # count
                    count.bytes += handle.length  # count
                    if self.held:
                        self.release(handle.fd, handle)  # it was parked before
                    return
                handle.since = perf_counter()  # count
                self.counters.submissions += 1  # count
                self.method.reap()
                self._complete_all()
                if staged:
                    self.flush()  # on, before anybody else can close the fd
            except BaseException:
                self._come_back()  # pushed, perhaps, and not submitted
                raise
            return
        if self.closing or self.backlog or not handle.length or handle.operation not in self._lean:
            self.ask(handle)
        elif len(live) + len(staged) + len(self.for_workers) - self.runs >= self.depth:
            self._wait_for_a_slot(handle)
        else:
            handle.served_by = self.method.name
            if not self._flush_soon:
                self._flush_at_the_end_of_the_tick()  # first: what is staged is not to wait for anybody else's
            # Stores, then a call: KeyboardInterrupt cannot come between them.
            handle.state = STAGED
            staged.append(handle)
            handle.since = self.counters.moment  # count

    def _wait_for_a_slot(self, what: Handle | Chain) -> None:
        self.backlog.append(what)
        self._flush_at_the_end_of_the_tick()  # for its moment: one look at the clock for all that wait
        for handle in what.links if isinstance(what, Chain) else (what,):
            handle.since = handle.since or self.counters.moment
            if not handle.booked:
                self.counters.of[handle.operation].slot_waits += 1

    def _used(self) -> int:
        return len(self.live) + len(self.staged) + len(self.for_workers) - self.runs

    def _enqueue(self, what: Handle | Chain) -> None:
        if isinstance(what, Handle) and what.operation is RUN:
            if not what.runs:
                what.runs = True
                self.runs += 1
            self._stage(what)
        elif self.backlog or self._used() + self._needs(what) > self.depth:
            self._wait_for_a_slot(what)
        else:
            self._admit(what)

    def _needs(self, what: Handle | Chain) -> int:
        return what.slots() if isinstance(what, Chain) else 1

    def _admit(self, what: Handle | Chain) -> None:
        if isinstance(what, Chain):
            self.admit_round(what)
        else:
            self._stage(what)

    def admit_round(self, chain: Chain) -> None:
        """Stage a chain's next round, whole: a flush never splits it."""
        if chain.staged:
            return  # KeyboardInterrupt struck after this was done
        self._flush_at_the_end_of_the_tick()  # first, as in `begin`
        links = chain.define_round()
        for link in links:
            self._prepare(link)
            link.token, link.state = 0, STAGED
        line = self.staged if links[0].served_by == self.method.name else self.for_workers
        arrivals: dict[int, int] = {}
        # Stores, then a call: KeyboardInterrupt cannot come between them. Before them the last round is told once more.
        chain.round, chain.arrivals, chain.staged = links, arrivals, True
        line.extend(links)

    def next_round(self, chain: Chain) -> None:
        """A later round needs slots like any other, and is the first to get them."""
        if self._used() + chain.slots() > self.depth:
            self.backlog.appendleft(chain)
        else:
            self.admit_round(chain)

    def links(self, handle: Handle) -> bool:
        """Whether the method can be trusted with the handle as a link."""
        return self.method.links and self._ours(handle)

    def _ours(self, handle: Handle) -> bool:
        """Whether the method is to carry it out, and not the workers."""
        return not handle.by_workers and handle.tries <= TRIES and self.method.takes(handle)

    def _prepare(self, handle: Handle) -> None:
        ours = self._ours(handle)
        if not ours and not handle.served_by:
            self.counters.of[handle.operation].workers += 1
        handle.served_by = self.method.name if ours else self.workers.name
        if self._note is not None:
            self._note(handle)
        handle.before, handle.outcome = handle.done, None

    def _stage(self, handle: Handle) -> None:
        self._flush_at_the_end_of_the_tick()  # first, as in `begin`
        self._prepare(handle)
        line = self.staged if handle.served_by == self.method.name else self.for_workers
        # Stores, then a call: KeyboardInterrupt cannot come between them.
        handle.token, handle.state = 0, STAGED
        line.append(handle)
        handle.since = handle.since or self.counters.moment

    def _flush_at_the_end_of_the_tick(self) -> None:
        if not self._flush_soon:
            self.counters.moment = perf_counter()  # count
            self.loop.call_soon(self.flush)
            self._flush_soon = True

    # --- the tick -----------------------------------------------------------------------------------------------------

    # Hot path: `flush` and `on_doorbell` once a tick, `_complete` once an I/O; measured in benchmarks/ring_read.py.

    def flush(self) -> None:
        """Tell the methods all that is staged, in one go, and take what completed at once."""
        try:
            self._flush_soon = False
            if self.ended:
                return
            counters = self.counters
            moment = counters.moment
            if self.staged or self.for_workers:  # count
                counters.submissions += 1  # count
            # Empty lines too: cancels may be waiting.
            self.method.submit(self.staged)
            if self.for_workers or self.workers.waiting():
                self.workers.submit(self.for_workers)
            self.method.reap()
            counters.inline, counters.found = moment, len(self.completed)  # count
            self._complete_all()
            if self._again:
                self._again = False
                counters.submissions += 1
                self.method.submit(self.staged)  # before anybody can close its fd
                self.method.reap()
                self._complete_all()
            self._tend_later()
        except BaseException:
            self._come_back()
            raise

    def on_doorbell(self) -> None:
        """The doorbell rang. It is silenced first: what is rung after the look rings again."""
        try:
            if self.ended:
                return
            self.doorbell.drain()
            self.workers.poll()
            if self.ended:
                return  # by what another thread has left for this one: the last who held the ring
            self.method.poll()
            if self.staged:
                self.counters.submissions += 1  # count
                self.method.submit(self.staged)  # what did not fit a queue that was full, or was staged in this tick
                self.method.reap()
            self._complete_all()
        except BaseException:
            self._come_back()
            raise

    def _come_back(self) -> None:
        """KeyboardInterrupt struck in a tick: whatever it left half done is done by the next."""
        self.counters.inline = 0.0
        self.counters.moment = perf_counter()
        self.doorbell.ring()
        self.loop.call_soon(self.flush)
        self._flush_soon = True

    def _tend(self) -> None:
        try:
            self.tending = None
            if not self.ended:
                self.workers.tend()
                self._tend_later()
        except BaseException:
            self._come_back()
            raise

    def _tend_later(self) -> None:
        if self.tending is None and (after := self.workers.look_again()):
            self.tending = self.loop.call_later(after, self._tend)

    def _complete_all(self) -> None:
        if self.completing:
            return  # called from a completion: the turn that deals with it goes on
        completed, live = self.completed, self.live
        handle: Handle | None = None  # not to be held beyond this turn
        # What is alike and was asked for in one tick mostly completes in a row: such a run is counted in one go.
        counters, since, n, nbytes, late = self.counters, -1.0, 0, 0, False  # count
        operation = READ  # count
        now = before = 0.0  # count
        if counters.track_timing or slow.limit != inf:  # count
            now = perf_counter()  # count
            before = now - slow.limit  # count
        if len(live) > counters.deepest:  # count
            counters.deepest = len(live)  # count
        try:
            self.completing = True
            told = min(len(completed), _TOLD)  # never what came since entry (invariant 8)
            for _ in range(told):
                token, res = completed[0]
                try:
                    handle = live.get(token)
                    if (
                        handle is not None
                        and res == handle.length
                        and handle.state == SUBMITTED
                        and handle.operation.transfers
                        and res > 0
                        and handle.token == token
                        and handle.chain is None
                    ):
                        # Whole at the first try: what `_complete` would come to.
                        handle.done = handle.res = res
                        handle.state = COMPLETE
                        if handle.on_done is None and not handle.orphan and not self.closing and not self.held:
                            if handle.since != since or handle.operation is not operation:  # count
                                if n:  # count
                                    counters.run(operation, n, nbytes, since, now)  # count
                                operation, since, n, nbytes = handle.operation, handle.since, 0, 0  # count
                                late = 0.0 < since <= before  # count
                            n += 1  # count
                            nbytes += res  # count
                            if late:  # count
                                slow.report(handle, counters.label, now)  # count
                            waiter = handle.waiter
                            if waiter is not None and not waiter.done():
                                waiter.set_result(None)
                            del live[token]
                        else:
                            self.finish(handle)
                    else:
                        self._complete(token, res)
                except Exception as error:  # no memory: that I/O fails, and no other
                    self._break(token, error)
                completed.popleft()
        finally:
            self.completing = False
            del handle
            if n:  # count
                counters.run(operation, n, nbytes, since, now)  # count
        if counters.inline:  # count
            counters.found -= told  # count
            if counters.found <= 0:  # count
                counters.inline = 0.0  # count
        if completed:
            self.doorbell.ring()  # the rest in the next tick
        if self.backlog:
            self._admit_waiting()
        if self.drains and not self.busy():
            for drain in self.drains:
                drain.wake()

    def _complete(self, token: int, res: int) -> None:
        handle = self.live.get(token)
        if handle is None:
            return  # a cancel's own CQE, or seen before KeyboardInterrupt struck
        if handle.token != token:
            self.live.pop(token, None)  # its continuation is under way already
            return
        if handle.chain is not None:
            handle.chain.arrived(handle, res)
            self.live.pop(token, None)
            return
        if handle.state == SUBMITTED:
            final = self.settle(handle, res)
            if final is None:
                self._stage(handle)  # first: struck in between, it stands in two places and not in none
                self.live.pop(token, None)
                return
            handle.res = final
            handle.state = COMPLETE
        self.finish(handle)

    def finish(self, handle: Handle) -> None:
        """The handle is COMPLETE: count it off, wake who waits. Harmless when done twice."""
        operation = handle.operation
        if not handle.booked:
            self.book(handle)
        if self.closing or self.held:
            self.release(handle.fd, handle)
            self.release(handle.fd2, handle)
        if operation is CLOSE:
            self._closed_fd(handle)
        elif handle.runs:
            handle.runs = False
            self.runs -= 1
        if handle.orphan:
            self.dispose(handle)
        if handle.waiter is not None:
            self.loop.wake(handle.waiter)
        if handle.on_done is not None:
            handle.on_done(handle)
        if handle.chain is None:  # a link stays until its chain has been told
            self.live.pop(handle.token, None)  # last: struck before, all this is done again

    def _admit_waiting(self) -> None:
        backlog = self.backlog
        while backlog:
            what = backlog[0]
            if isinstance(what, Chain):
                if not what.finished() and not what.staged:
                    if self._used() + what.slots() > self.depth:
                        return
                    self.admit_round(what)
            elif what.state == DEFINED:
                if self._used() >= self.depth:
                    return
                self._stage(what)
            backlog.popleft()

    # --- one I/O, awaited ---------------------------------------------------------------------------------------------

    # Hot path: once per I/O that was not had at once; measured in benchmarks/ring_read.py.

    async def do(self, handle: Handle) -> Any:
        """Ask, wait, take."""
        try:
            self.ask(handle)
            await self.loop.park(handle, self.cancel)
            return self.take(handle)
        except BaseException:
            self.forsake(handle)
            raise
        finally:
            # An exception holds the frames that it came through: they must not hold the handle and its buffer.
            del handle

    async def transfer(self, handle: Handle, paid: bool = False) -> Any:
        """`do` for a read or write; `paid` as `begin`."""
        try:
            self.begin(handle, paid)
            if handle.state != COMPLETE:
                future = self.loop.create_future
                if future is None:
                    await self.loop.park(handle, self.cancel)
                else:
                    # What `park` of asyncio begins with, here: one coroutine less to go through, twice an I/O.
                    handle.waiter = future()
                    try:
                        await handle.waiter
                    except BaseException as error:
                        await self.loop.park(handle, self.cancel, error)
            if handle.res >= 0 and handle.exception is None:
                return handle.done if handle.operation is READINTO else handle.operation.result(handle, handle.res)
            return self.take(handle)
        except BaseException:
            self.forsake(handle)
            raise
        finally:
            del handle  # as in `do`

    async def run(self, call: Callable[[], Any], settles: bool = False) -> Any:
        """A blocking call on the ring's worker threads."""
        handle = Handle(RUN)
        handle.call, handle.settles = call, settles
        return await self.do(handle)

    def busy(self) -> bool:
        """Whether anything is in flight or still to be told: what a closing ring waits for."""
        return bool(self.live or self.staged or self.for_workers or self.completed or self.closing)
