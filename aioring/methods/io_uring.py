"""io_uring: a handle becomes an SQE, a CQE becomes a completion.

Some facts about io_uring that this file depends on
---------------------------------------------------
* Under DEFER_TASKRUN completions are posted only inside io_uring_enter(2) with GETEVENTS, by the thread that submits;
  the eventfd rings when there is work, and the enter makes it into CQEs, at most 20 at a time. For linked chains the
  eventfd does not ring again for the rest: while IORING_SQ_TASKRUN is set we enter again, 8 times at most, then ring
  the doorbell ourselves so that the loop gets a turn.
* The kernel looks a plain request's fd up when it is submitted, a linked one's when its turn comes.
* A chain ends where a submission ends: a link that is cut off from its predecessor by an enter runs at once.
* A cancel of a request that runs on a disk answers ENOENT or EALREADY, and the request completes as if nothing had been
  asked. Every request completes exactly once, cancelled or not: only its own CQE says that the kernel is done with its
  memory.

Where KeyboardInterrupt may strike: CPython looks for signals after calls and at loops, never between two plain stores.
A token is the position of its SQE counted without bound, and the SQ tail is the only record of what was pushed: it is moved
in one step with the note of it on the handle.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import MutableMapping, Sequence

from ..handle import COMPLETE, STAGED, SUBMITTED, Handle
from ..kernel import abi
from ..kernel.abi import pack_sqe
from ..kernel.doorbell import Doorbell
from ..kernel.features import LADDER, open_queues
from ..kernel.liburing import Route, find_route
from ..kernel.rings import WORD
from ..operations import NO_SLOT, READ_FILE, READ_SCATTERED
from .fixed import Fixed
from .scattered import Scattered
from .slots import Slots

__all__ = ["IoUring"]

_TURNS = 8
_TOGETHER = (READ_FILE, READ_SCATTERED)  # several SQEs and one completion
_MOST = 32768  # entries: IORING_MAX_ENTRIES, io_uring/io_uring.c


class IoUring:
    """One ring of the kernel. Only the thread that started it may touch it.

    `ladder` and `refuse` are for tests: other set-up flags, and opcodes that a sandbox refuses.
    """

    name = "io_uring"
    links = True
    by_opcode = True
    at_once = True
    pieces = True
    scatters = True  # READ_SCATTERED is worth asking for: its reads are in flight all at once

    def __init__(
        self,
        route: Route | None = None,
        *,
        ladder: Sequence[int] = LADDER,
        refuse: frozenset[int] = frozenset(),
    ) -> None:
        self.route = route or find_route()
        self._ladder, self._refuse = ladder, refuse
        self._opcodes: frozenset[int] = frozenset()
        self._position = 1 << 32  # congruent to the SQ tail, which starts at 0
        self._lost = 0  # tokens of handles that could not be packed: negative, so never a position
        self._cancels: deque[int] = deque()
        self.overflows = 0  # how often the CQ was found full

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._doorbell, self._live, self._completed = doorbell, live, completed
        self._queues, self._opcodes, self.flags = open_queues(
            self.route, min(depth, _MOST), doorbell.fd, ladder=self._ladder, refuse=self._refuse
        )
        if not self.flags & abi.SETUP_DEFER_TASKRUN:
            # CLOSE by the ring leaves ETXTBSY behind in execve before 5.15.90 and 6.1 (libuv#4059, #4141).
            self._opcodes -= {abi.OP_CLOSE}
        self.links = bool(self._queues.mapped.features & abi.FEAT_LINKED_FILE)
        self._slots = Slots(self._queues, self._opcodes, live, completed)
        self._scattered = Scattered(self._queues, self._slots, live, completed)
        self.fixed = Fixed(self._queues, self._opcodes)
        return min(depth, self._queues.sq_entries)

    def takes(self, handle: Handle) -> bool:
        operation = handle.operation
        if operation is READ_FILE:
            return self._slots.ready()
        return operation.opcode in self._opcodes and (operation.fits is None or operation.fits(handle))

    # Hot path: once per I/O (`now`, `submit`) and once per tick (`reap`); measured in benchmarks/ring_read.py.

    def now(self, handle: Handle) -> bool:
        """One read, alone, at once: for an idle ring. True: it moved all its bytes and is COMPLETE; the doorbell may ring
        for it. False: it is in flight, or its CQE is still to be reaped.

        The handle stands in `live` from before the enter until its CQE has been seen, here or by `reap` (invariant 1).
        """
        queues, live, operation = self._queues, self._live, handle.operation
        cq_head, sq_tail = queues.cq_head, queues.sq_tail
        position = self._position
        position += (sq_tail[0] - position) & WORD
        handle.token = position
        try:
            address = handle.address or operation.place(handle)  # type: ignore[misc]
            live[position] = handle
            pack_sqe(
                queues.sqes, (position & queues.sq_mask) << 6, operation.opcode, 0, 0,
                handle.fd, handle.offset, address, handle.length, 0, position, 0, 0, 0, 0, 0,
            )  # fmt: skip
            # Two stores: KeyboardInterrupt cannot come between them.
            sq_tail[0] = (position + 1) & WORD
            handle.state = SUBMITTED
        except BaseException:
            if handle.state != SUBMITTED:
                live.pop(position, None)
            raise
        if queues.mapped.submit(1) != 1:
            self._enter()
        head = cq_head[0]
        if queues.cq_tail[0] != head:
            i = head & queues.cq_mask
            if queues.user_data[2 * i] == position and queues.res[4 * i + 2] == handle.length:
                # Stores all: KeyboardInterrupt finds the CQE either in the queue or dealt with.
                handle.done = handle.res = handle.length
                handle.state = COMPLETE
                cq_head[0] = (head + 1) & WORD
                del live[position]
                return True
        return False

    def submit(self, staged: deque[Handle]) -> None:
        queues, live = self._queues, self._live
        sqes, sq_tail, mask = queues.sqes, queues.sq_tail, queues.sq_mask
        position = self._resync()
        room = queues.sq_entries - queues.staged()
        while staged:
            handle = staged[0]
            if handle.state != STAGED:
                staged.popleft()
                continue
            if room < handle.together:
                self._enter()
                position = self._resync()  # what the kernel refused for good has moved it
                room = queues.sq_entries - queues.staged()
                if room < handle.together:
                    break  # the kernel takes nothing now; the doorbell brings us back
            if handle.together > 1 and not handle.packed:
                if handle.operation is READ_FILE:
                    pushed = self._push_file(handle, position)
                elif handle.operation is READ_SCATTERED:
                    pushed = self._push_scattered(handle, position)
                else:
                    self._pack_round(staged)
                    continue
                position += pushed
                room -= pushed
                staged.popleft()
                continue
            operation = handle.operation
            try:
                if operation.place is not None:
                    address = handle.address or operation.place(handle)
                    fd, off, op_flags = handle.fd, handle.offset + handle.done, 0
                    address, length = address + handle.done, handle.length - handle.done
                    if length > abi.MAX_TRANSFER:
                        length = abi.MAX_TRANSFER
                    slot = 0
                else:
                    fd, off, address, length, op_flags = operation.pack(handle)  # type: ignore[misc]
                    slot = handle.slot
                handle.token = position
                live[position] = handle  # before the kernel can know of it
                pack_sqe(
                    sqes, (position & mask) << 6, operation.opcode, handle.sqe_flags, 0,
                    fd, off, address, length, op_flags, position, slot, 0, 0, 0, 0,
                )  # fmt: skip
                # Two stores: KeyboardInterrupt cannot come between them.
                sq_tail[0] = (position + 1) & WORD
                handle.state = SUBMITTED
            except Exception as error:  # no memory for its buffer
                live.pop(position, None)
                self._fail(handle, error)
                staged.popleft()
                continue
            position += 1
            room -= 1
            staged.popleft()
        self._position = position
        if self._cancels:
            self._push_cancels()
        if self._slots.stuck:
            self._slots.push_stuck(self._resync())
        if queues.staged():
            self._enter()

    def _push_file(self, handle: Handle, position: int) -> int:
        """How many SQEs it took."""
        try:
            if self._slots.push(handle, position):
                return handle.together
            handle.value = NO_SLOT
            self._end(handle, 0)
        except Exception as error:  # no memory
            self._fail(handle, error)
        return 0

    def _push_scattered(self, handle: Handle, position: int) -> int:
        try:
            return self._scattered.push(handle, position)
        except Exception as error:
            self._fail(handle, error)
        return 0

    def _resync(self) -> int:
        """The position of the next SQE, from the tail in the mapped memory."""
        self._position += (self._queues.tail() - self._position) & WORD
        return self._position

    def _enter(self) -> None:
        queues = self._queues
        for _ in range(_TURNS):
            code = queues.submit()
            if code >= 0:
                if not queues.staged():
                    return
                if self._slots.under_way:
                    self._slots.cut(self._resync() - queues.staged())
            elif code == -errno.EBUSY or code == -errno.EAGAIN:
                # The CQ is full (before 5.19), or the kernel is out of memory for requests: make room, try again.
                queues.get_events()
                self._take()
            elif code != -errno.EINTR:
                self._take_back(code)
                return
        self._doorbell.ring()  # come back next tick with what the kernel did not take

    def _take_back(self, code: int) -> None:
        """The kernel refuses to be entered: what it did not take fails with its errno."""
        end = self._resync()
        n = self._queues.staged()
        for token in range(end - n, end):
            handle = self._live.get(token)
            if handle is not None and handle.operation not in _TOGETHER:
                self._completed.append((token, code))
        self._slots.take_back(end - n, end, code)
        self._scattered.take_back(end - n, end, code)
        # The tail goes back over them. Tokens must not: the next position is a whole turn of the counter further on.
        self._queues.take_back()
        self._position = end + (1 << 32) - n

    def _pack_round(self, staged: deque[Handle]) -> None:
        """Make the memory of all links of a round before the first is pushed: one that fails ends the round before it,
        where its predecessor must not be linked to whatever comes next."""
        links = [staged[i] for i in range(staged[0].together)]
        for i, link in enumerate(links):
            try:
                link.operation.pack(link)  # type: ignore[misc]
            except Exception as error:
                if i:
                    links[i - 1].sqe_flags = 0
                for before in links[:i]:
                    before.together -= len(links) - i
                self._fail(link, error)
                for behind in links[i + 1 :]:
                    self._fail(behind, None)
                return
            link.packed = True

    def _fail(self, handle: Handle, error: Exception | None) -> None:
        """It could not even be packed, or (None) stands in its chain behind one that could not."""
        handle.exception = error
        self._end(handle, -errno.ENOMEM if error is not None else -errno.ECANCELED)

    def _end(self, handle: Handle, res: int) -> None:
        """It is complete, and the kernel has not heard of it."""
        self._lost -= 1
        handle.token = self._lost
        self._live[self._lost] = handle
        handle.state = SUBMITTED
        self._completed.append((self._lost, res))

    def _take(self) -> None:
        if self._scattered.under_way or self._slots.under_way:
            self._scattered.reap()
        else:
            self._queues.reap(self._completed)

    def reap(self) -> None:
        queues = self._queues
        self._take()
        if queues.pending():
            self.overflows += queues.overflowed()
            for _ in range(_TURNS):
                queues.get_events()
                self._take()
                if not queues.pending():
                    break
            else:
                self._doorbell.ring()
        if self._slots.stuck and not self._torn():
            self._slots.push_stuck(self._resync())
            self._enter()

    def _torn(self) -> bool:
        """Whether KeyboardInterrupt struck when some links of a round had been pushed: nothing else may be pushed before
        the others are, nor the kernel be told: what it is not told of in one go is not linked (io_uring_enter(2))."""
        queues = self._queues
        last = ((queues.tail() - 1) & queues.sq_mask) << 6
        return queues.staged() > 0 and bool(queues.sqes[last + 1] & abi.SQE_LINK)

    def poll(self) -> None:
        torn = self._torn()
        if self._cancels and not torn:
            self._push_cancels()
        if self._queues.staged() and not torn:
            self._enter()  # left over from a turn in which the kernel took nothing
        else:
            self._queues.get_events()
        self.reap()

    def cancel(self, handle: Handle) -> None:
        if handle.operation is READ_FILE:
            self._cancels.extend(self._slots.links_of(handle))
        elif handle.operation is READ_SCATTERED:
            self._cancels.extend(self._scattered.all_of(handle))
        else:
            self._cancels.append(handle.token)

    def _push_cancels(self) -> None:
        """IORING_OP_ASYNC_CANCEL for what is still in flight. Its own CQE carries a token that nobody waits for."""
        queues, cancels = self._queues, self._cancels
        while cancels:
            if cancels[0] in self._live or self._slots.has(cancels[0]) or self._scattered.has(cancels[0]):
                if queues.staged() >= queues.sq_entries:
                    self._enter()
                    if queues.staged() >= queues.sq_entries:
                        return
                queues.push(abi.OP_ASYNC_CANCEL, 0, -1, 0, cancels[0], 0, 0, self._resync())
            cancels.popleft()
        self._resync()

    def close(self) -> None:
        self.fixed.close()
        self._queues.close()

    abandon = close
