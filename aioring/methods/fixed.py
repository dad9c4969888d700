"""Registered buffers: memory that the kernel has pinned once, instead of for each read into it (io_uring_register(2)).

Measured (docs/decisions/0013, O_DIRECT): reads of 1 MiB take a quarter to a third less of the CPU; from 128 KiB down
there is no difference. So the pool has only large memory registered. It is touched first, so that there are pages to pin.

A table of empty slots (IORING_REGISTER_BUFFERS2, Linux 5.13; sparse 5.19) that are filled one by one. What is in them
counts against RLIMIT_MEMLOCK: where that is reached, memory is used as it is, and none as large is tried again. The kernel
keeps pages that a read under way was given until its completion, whatever becomes of the slot.
"""

from __future__ import annotations

import ctypes
import mmap

from ..buffers import Memory, view_address
from ..kernel import abi
from ..kernel.rings import Queues

__all__ = ["Fixed"]

_SLOTS = 64
_MOST = 4 << 20  # bytes: more would take long to pin, in the loop's thread


class Fixed:
    """The table of one ring, made when somebody first asks. For `buffers.Pool`."""

    def __init__(self, queues: Queues, opcodes: frozenset[int]) -> None:
        self._queues = queues
        self._can = abi.OP_READ_FIXED in opcodes
        self._free: list[int] | None = None
        self._too_large = _MOST + 1

    def add(self, memory: Memory) -> int:
        """Register it: in which slot; -1: it is not."""
        if self._free is None:
            self._free = list(range(_SLOTS))
            if self._can:
                asked = ctypes.create_string_buffer(abi.pack_sparse_buffers(_SLOTS))
                self._can = self._queues.mapped.register(abi.REGISTER_BUFFERS2, asked, abi.RSRC_BYTES) >= 0
        if not self._can or not self._free:
            return -1
        slot = self._free[-1]
        if memory.size >= self._too_large:
            return -1
        view = memory.view(memory.size)
        view[:: mmap.PAGESIZE] = bytes(len(range(0, memory.size, mmap.PAGESIZE)))
        if not self._put(slot, view_address(view), memory.size):
            self._too_large = memory.size
            return -1
        self._free.pop()
        return slot

    def drop(self, slot: int) -> None:
        """What is in it may go."""
        if self._can and self._free is not None and slot not in self._free and self._put(slot, 0, 0):
            self._free.append(slot)

    def close(self) -> None:
        """The ring's fd is about to be closed, and its number somebody else's. The kernel lets go of all that is in it."""
        self._can, self._free = False, []

    def _put(self, slot: int, address: int, n: int) -> bool:
        iovec = (ctypes.c_uint64 * 2)(address, n)
        asked = ctypes.create_string_buffer(abi.pack_update_buffer(slot, ctypes.addressof(iovec)))
        return self._queues.mapped.register(abi.REGISTER_BUFFERS_UPDATE, asked, abi.RSRC_BYTES) >= 0
