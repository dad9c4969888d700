"""Reads of one size from many places, under one handle: an SQE each, and one completion when all of them have come.

A read stream of random blocks wants dozens of small reads, and a handle's way through the engine takes several times as
long as the kernel takes to begin one. So they go together, up to 64, into memory that lies in one piece.

Each SQE has a CQE, with a `user_data` beyond all tokens that says whose it is. The handle is complete when the last has
come: until then the kernel may write to its memory, which the handle keeps (invariant 1). One that did not bring all of its
bytes makes a failure of all: who asked takes them apart, and asks one by one.

Where KeyboardInterrupt may strike: a CQE that has been looked at may be looked at once more, so which are missing are the
bits of a number, and taking one away twice changes nothing. Tail and state are two plain stores, as in `io_uring.py`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import MutableMapping

from ..handle import SUBMITTED, Handle
from ..kernel import abi
from ..kernel.abi import pack_sqe
from ..kernel.rings import WORD, Queues
from .slots import USERS, Slots

__all__ = ["MOST", "Scattered"]

MOST = 64
_BITS = 6
_OURS = 1 << 61  # `user_data` from here on, and below that of the slots: first position, and six bits for which of them


class _Volley:
    """One handle's reads under way."""

    __slots__ = ("bad", "first", "handle", "missing", "n", "size")

    def __init__(self, handle: Handle, first: int, n: int, size: int) -> None:
        self.handle, self.first, self.n, self.size = handle, first, n, size
        self.missing = (1 << n) - 1  # a bit for each
        self.bad = 0

    def res(self) -> int:
        return self.bad or self.handle.length


class Scattered:
    """Those of one ring."""

    def __init__(
        self, queues: Queues, slots: Slots, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> None:
        self._queues, self._slots, self._live, self._completed = queues, slots, live, completed
        self.under_way: dict[int, _Volley] = {}

    # Hot path: once per read; measured in benchmarks/streams.py.

    def push(self, handle: Handle, position: int) -> int:
        """Stage the SQEs from `position` on; the caller has looked for room. How many they are."""
        queues, offsets = self._queues, handle.offsets
        sqes, mask, fd = queues.sqes, queues.sq_mask, handle.fd
        place = handle.operation.place
        assert place is not None
        address, n = place(handle), len(offsets)
        size = handle.length // n
        at, user_data = position, _OURS + (position << _BITS)
        for offset in offsets:
            pack_sqe(
                sqes, (at & mask) << 6, abi.OP_READ, 0, 0, fd, offset, address, size, 0, user_data, 0, 0, 0, 0, 0
            )  # fmt: skip
            at += 1
            user_data += 1
            address += size
        self.under_way[position] = _Volley(handle, position, n, size)
        handle.token = position
        self._live[position] = handle
        # Two stores: KeyboardInterrupt cannot come between them.
        queues.sq_tail[0] = at & WORD
        handle.state = SUBMITTED
        return n

    def reap(self) -> None:
        """As `Queues.reap`, with these and the slots' taken out."""
        queues, append, under_way, slots = self._queues, self._completed.append, self.under_way, self._slots
        head, tail, mask = queues.cq_head[0], queues.cq_tail[0], queues.cq_mask
        users, numbers = queues.user_data, queues.res
        while head != tail:
            i = head & mask
            user_data, res = users[2 * i], numbers[4 * i + 2]
            if user_data < _OURS:
                append((user_data, res))
            elif user_data < USERS:
                volley = under_way.get((user_data - _OURS) >> _BITS)
                if volley is not None:
                    if res != volley.size:
                        volley.bad = res if res < 0 else -errno.ENODATA
                    volley.missing &= ~(1 << (user_data & (MOST - 1)))
                    if not volley.missing:
                        self._whole(volley)
            else:
                slots.took(user_data, res)
            head = (head + 1) & WORD
        queues.cq_head[0] = head

    def _whole(self, volley: _Volley) -> None:
        self._completed.append((volley.first, volley.res()))
        del self.under_way[volley.first]

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def take_back(self, begin: int, end: int, code: int) -> None:
        """The kernel does not take the SQEs from position `begin` to `end`: those fail with `code`."""
        for volley in list(self.under_way.values()):
            for i in range(volley.n):
                if begin <= volley.first + i < end:
                    volley.missing &= ~(1 << i)
                    volley.bad = code
            if not volley.missing:
                self._whole(volley)

    def all_of(self, handle: Handle) -> list[int]:
        """What to cancel."""
        volley = self.under_way.get(handle.token)
        return [] if volley is None else [_OURS + (volley.first << _BITS) + i for i in range(volley.n)]

    def has(self, user_data: int) -> bool:
        """Whether it is one of what is under way."""
        return _OURS <= user_data < USERS and (user_data - _OURS) >> _BITS in self.under_way
