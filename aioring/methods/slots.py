"""Whole files in one submission: a chain that opens, reads and closes a direct descriptor, and the slots for it.

    OPENAT -> READ of nothing -> READ => READ => CLOSE          -> IOSQE_IO_LINK   => IOSQE_IO_HARDLINK

Some facts about it
-------------------
* A direct descriptor is no fd but a slot in a table that the ring has registered. Its number is ours to choose, so that the
  links can name it before there is a file in it (IORING_FEAT_LINKED_FILE, Linux 5.17).
* A read of nothing with RWF_NOWAIT takes nothing out of a FIFO or a tty, which refuse the flag (EOPNOTSUPP, as whatever
  else has no FMODE_NOWAIT does), and that breaks the chain. The file still stands open in its slot then, and
  FIXED_FD_INSTALL (6.8) makes an fd of it; closed and opened again, a FIFO would have lost its writer (EPIPE).
  SYNC_FILE_RANGE, which is refused by all that is no regular file, breaks no chain: the kernel does not mark it as failed
  (io_uring/sync.c).
* Both reads are at the file's own position. The first finds how much there is, the second that there is no more: a read may
  stop short at what the disk cannot give, and /proc says nothing of sizes.
* A hard link goes on whatever came of the read, so that the slot is empty again. It may be filled again when the CQE of its
  CLOSE has come, not before (liburing#1621).
* Every link has a CQE and a `user_data` of its own, beyond all tokens. The engine knows one I/O, which is complete when all
  of them have come: until then the kernel may write to the slot's memory, and that belongs to the slot (invariant 1).

Where KeyboardInterrupt may strike: nothing is had until the tail of the queue moves, and that, the handle's state and the
head of the list of free slots are three plain stores, between which CPython does not look for signals.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import MutableMapping

from ..buffers import view_address
from ..handle import SUBMITTED, Handle
from ..kernel import abi
from ..kernel.abi import pack_sqe
from ..kernel.rings import WORD, Queues
from ..operations import ELSEWHERE, WHOLE, path_address

__all__ = ["LINKS", "USERS", "Slots"]

LINKS = 5
_OPEN, _GATE, _READ, _MORE, _CLOSE, _INSTALL, _CLOSE_AFTER = range(7)
_OPCODES = frozenset((abi.OP_OPENAT, abi.OP_READ, abi.OP_CLOSE, abi.OP_FIXED_FD_INSTALL))
_MOST = 128  # slots, and `WHOLE` bytes of memory each once it has been used
_NOT_YET = 1 << 40  # no CQE carries it
_OURS = 1 << 60  # in the number of a chain, which else is the position of its first SQE
USERS = _OURS << 3  # `user_data` from here on: a chain's number, and three bits for which link it is
_FIXED, _LINK, _HARD = abi.SQE_FIXED_FILE, abi.SQE_LINK, abi.SQE_HARDLINK
# What open(2) says of the path. All else may be the ring's own trouble, or a lease: it is asked again, in the usual way.
_OF_THE_PATH = frozenset(
    -code
    for code in (
        errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.ENXIO,
    )
)  # fmt: skip


class _Chain:
    """One file under way."""

    __slots__ = ("after", "cut", "handle", "number", "results", "slot", "view")

    def __init__(self, handle: Handle, number: int, slot: int, view: memoryview) -> None:
        self.handle, self.number, self.slot, self.view = handle, number, slot, view
        self.results: list[int] = [_NOT_YET] * LINKS
        self.cut = LINKS  # how many of its links the kernel took in one go
        self.after = 0  # where the SQEs stand that make an fd of it


class Slots:
    """The table of one ring. `ready` says whether its kernel and its restrictions allow it."""

    def __init__(
        self,
        queues: Queues,
        opcodes: frozenset[int],
        live: MutableMapping[int, Handle],
        completed: deque[tuple[int, int]],
    ) -> None:
        self._queues, self._live, self._completed = queues, live, completed
        self._can = (
            opcodes >= _OPCODES and queues.sq_entries >= LINKS and bool(queues.mapped.features & abi.FEAT_LINKED_FILE)
        )
        self._n = 0
        self._views: list[memoryview | None] = []  # a slot's memory, made when it is first used
        self._addresses: list[int] = []
        self._after: list[int] = []  # which slot stands behind it in the list of those that are free; -1: none
        self._free = -1
        self.under_way: dict[int, _Chain] = {}
        self.stuck: deque[_Chain] = deque()  # their files are still open

    def ready(self) -> bool:
        """Whether files can be had so. The table is registered when somebody first asks."""
        if self._can and not self._n:
            n = min(self._queues.sq_entries, _MOST)
            # Refused by a sandbox, or more than RLIMIT_NOFILE.
            self._can = self._queues.mapped.register(abi.REGISTER_FILES, (ctypes.c_int32 * n)(*[-1] * n), n) >= 0
            if self._can:
                self._views, self._addresses = [None] * n, [0] * n
                self._after, self._free = list(range(-1, n - 1)), n - 1
                self._n = n
        return self._can

    # Hot path: once per file that is not cached; measured in benchmarks/whole.py.

    def push(self, handle: Handle, position: int) -> bool:
        """Stage the five SQEs from `position` on; the caller has looked for room. False: no slot is free."""
        slot = self._free
        if slot < 0:
            return False
        queues = self._queues
        sqes, mask = queues.sqes, queues.sq_mask
        view = self._views[slot]
        if view is None:
            view = self._views[slot] = memoryview(bytearray(WHOLE + 1))
            self._addresses[slot] = view_address(view)
        number, address = _OURS | position, self._addresses[slot]
        handle.keep = chain = _Chain(handle, number, slot, view)
        handle.token = position
        user_data = number << 3
        pack_sqe(
            sqes, (position & mask) << 6, abi.OP_OPENAT, _LINK | abi.SQE_ASYNC, 0,
            handle.fd, 0, path_address(handle.path), 0, handle.flags & ~os.O_CLOEXEC, user_data, 0, 0, slot + 1, 0, 0,
        )  # fmt: skip
        pack_sqe(
            sqes, (position + 1 & mask) << 6, abi.OP_READ, _FIXED | _LINK, 0,
            slot, abi.MAX_OFFSET, address, 0, abi.RWF_NOWAIT, user_data + _GATE, 0, 0, 0, 0, 0,
        )  # fmt: skip
        pack_sqe(
            sqes, (position + 2 & mask) << 6, abi.OP_READ, _FIXED | _HARD, 0,
            slot, abi.MAX_OFFSET, address, WHOLE, 0, user_data + _READ, 0, 0, 0, 0, 0,
        )  # fmt: skip
        pack_sqe(
            sqes, (position + 3 & mask) << 6, abi.OP_READ, _FIXED | _HARD, 0,
            slot, abi.MAX_OFFSET, address + WHOLE, 1, 0, user_data + _MORE, 0, 0, 0, 0, 0,
        )  # fmt: skip
        pack_sqe(
            sqes, (position + 4 & mask) << 6, abi.OP_CLOSE, 0, 0,
            0, 0, 0, 0, 0, user_data + _CLOSE, 0, 0, slot + 1, 0, 0,
        )  # fmt: skip
        self.under_way[number] = chain
        self._live[position] = handle
        behind = self._after[slot]
        queues.sq_tail[0] = (position + LINKS) & WORD
        handle.state = SUBMITTED
        self._free = behind
        return True

    def took(self, user_data: int, res: int) -> None:
        """The CQE of a link. (Told again, after KeyboardInterrupt, it changes nothing.)"""
        chain = self.under_way.get(user_data >> 3)
        if chain is not None:
            results = chain.results
            results[user_data & 7] = res
            if _NOT_YET not in results:
                self._whole(chain)

    def _whole(self, chain: _Chain) -> None:
        """The kernel is done with all its links, and with the memory."""
        results, handle = chain.results, chain.handle
        if chain.cut < LINKS:
            results[chain.cut : LINKS] = [-errno.ECANCELED] * (LINKS - chain.cut)
        opened, gate, got, more, closed = results[:LINKS]
        res = 0
        value: int | None = ELSEWHERE
        if opened < 0:
            if opened in _OF_THE_PATH:
                res = opened
        elif closed and len(results) == LINKS:
            self.stuck.append(chain)  # (twice, perhaps: see `push_stuck`)
            return
        elif closed:
            if results[_INSTALL] >= 0:
                value = results[_INSTALL]
        elif not gate and not more and got >= 0:
            handle.memory, handle.done, value, res = bytes(chain.view[:got]), got, None, got
        if handle.cancelling and value == ELSEWHERE:
            res = -errno.ECANCELED
        handle.value = value
        self._completed.append((handle.token, res))
        del self.under_way[chain.number]
        self._after[chain.slot] = self._free
        self._free = chain.slot

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def push_stuck(self, position: int) -> None:
        """Make an fd of what still stands open in its slot, and empty that. `position`: of the next SQE."""
        queues, stuck = self._queues, self.stuck
        sqes, mask = queues.sqes, queues.sq_mask
        while stuck and queues.sq_entries - queues.staged() >= 2:
            chain = stuck[0]
            if len(chain.results) == LINKS:
                user_data = chain.number << 3
                pack_sqe(
                    sqes, (position & mask) << 6, abi.OP_FIXED_FD_INSTALL, _FIXED | _HARD, 0,
                    chain.slot, 0, 0, 0, 0, user_data + _INSTALL, 0, 0, 0, 0, 0,
                )  # fmt: skip
                pack_sqe(
                    sqes, (position + 1 & mask) << 6, abi.OP_CLOSE, 0, 0,
                    0, 0, 0, 0, 0, user_data + _CLOSE_AFTER, 0, 0, chain.slot + 1, 0, 0,
                )  # fmt: skip
                results = [*chain.results, _NOT_YET, _NOT_YET]
                chain.after = position
                position += 2
                chain.results = results
                queues.sq_tail[0] = position & WORD
            stuck.popleft()

    def cut(self, position: int) -> None:
        """The kernel has stopped at `position`. Of a chain that it has cut there the rest would run at once, without what
        comes before it: nothing of it may, and a file that is open by then stays so."""
        queues = self._queues
        for chain in self.under_way.values():
            first = chain.number & ~_OURS
            if chain.cut == LINKS and first < position < first + LINKS:
                chain.cut = position - first
                for at in range(position, first + LINKS):
                    sqe = (at & queues.sq_mask) << 6
                    queues.sqes[sqe], queues.sqes[sqe + 1] = abi.OP_NOP, 0  # its opcode and flags

    def take_back(self, begin: int, end: int, code: int) -> None:
        """The kernel does not take the SQEs from position `begin` to `end`: their links end with `code`."""
        for chain in list(self.under_way.values()):
            results, first = chain.results, chain.number & ~_OURS
            for link in range(len(results)):
                at = first + link if link < LINKS else chain.after + link - LINKS
                if begin <= at < end:
                    results[link] = code
            if _NOT_YET not in results:
                self._whole(chain)

    def links_of(self, handle: Handle) -> list[int]:
        """What to cancel: whichever link is under way."""
        chain = handle.keep
        return [] if chain is None else [(chain.number << 3) + link for link in range(LINKS)]

    def has(self, user_data: int) -> bool:
        """Whether it is a link of what is under way."""
        return user_data >= USERS and user_data >> 3 in self.under_way
