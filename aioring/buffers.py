"""Memory that the kernel reads and writes: new `bytes` filled in place, buffers that callers lend, aligned memory.

Called by `operations.py` when a handle is staged and by users through `aioring.alloc`. What is lent is held by a
`memoryview` for as long as the kernel may touch it: a `bytearray` with a view of it cannot be resized, an `mmap` cannot
be closed. Nothing here decides when a buffer may go; the handle does (invariant 1).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections import deque
from typing import Any, Protocol

__all__ = ["alloc", "lent_bytes", "lent_writable", "new_bytes"]

# CPython keeps a bytes object's data behind its header, followed by one NUL (Objects/bytesobject.c, PyBytesObject). The
# sum is verified against PyBytes_AsString below; where it does not hold (another interpreter) memory is copied instead.
BYTES_DATA = bytes.__basicsize__ - 1
LARGE = 64 << 10
_REGISTERED = 512 << 10  # bytes: smaller memory is not worth to be registered
_LOOKED_AFTER = 32  # pieces of memory that were given back with a view, perhaps: each look costs 0.1 us

_from_size: Any = ctypes.pythonapi.PyBytes_FromStringAndSize
_from_size.argtypes, _from_size.restype = [ctypes.c_char_p, ctypes.c_ssize_t], ctypes.py_object


def _verified() -> bool:
    as_string: Any = ctypes.pythonapi.PyBytes_AsString
    as_string.argtypes, as_string.restype = [ctypes.py_object], ctypes.c_void_p
    return all(as_string(probe) == id(probe) + BYTES_DATA for probe in (bytes(2), bytes(4096)))


if not _verified():  # pragma: no cover - CPython only
    raise ImportError("aioring needs CPython: this interpreter keeps the data of bytes objects elsewhere")


def new_bytes(n: int) -> bytes:
    """A new bytes object of `n` bytes to be filled by the kernel before anybody sees it; never one that is shared.

    CPython shares the empty object and those of one byte, so at least two bytes are made and the caller cuts. From
    64 KiB up the memory is not cleared first: what the kernel did not fill must be cut off.
    """
    if n < 2:
        n = 2
    if n < LARGE:
        return bytes(n)
    made: bytes = _from_size(None, n)
    return made


def bytes_address(data: bytes) -> int:
    """Where the data of a bytes object lies. Valid while the object lives: CPython does not move objects."""
    return id(data) + BYTES_DATA


def bytes_view(data: bytes) -> memoryview:
    """A writable view of a bytes object that nobody has seen yet. The caller holds the object meanwhile."""
    return memoryview((ctypes.c_char * len(data)).from_address(bytes_address(data))).cast("B")


class _PyBuffer(ctypes.Structure):
    # Py_buffer, Include/pybuffer.h
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer: Any = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes, _get_buffer.restype = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int], ctypes.c_int
_release_buffer: Any = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes, _release_buffer.restype = [ctypes.c_void_p], None


def view_address(view: memoryview) -> int:
    """Where a contiguous view's memory lies. Valid while the view is alive and not released."""
    if not view.nbytes:
        return 0
    if not view.readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    # ctypes refuses read-only memory, which a write may well be given (a slice of bytes, a read-only mmap).
    buffer = _PyBuffer()
    at = ctypes.addressof(buffer)
    _get_buffer(view, at, 0)
    address: int = buffer.buf
    _release_buffer(at)
    return address


def _flat(view: memoryview) -> memoryview:
    """The same memory, one byte an item, so that it can be sliced by bytes after a short transfer."""
    if not view.nbytes:
        return memoryview(bytearray()) if not view.readonly else memoryview(b"")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def lent_writable(buffer: Any) -> memoryview:
    """A flat view of memory that the caller lends to be filled.

    Raises `BufferError` where it is read-only or not contiguous and `TypeError` where it is no buffer, as
    `os.readv` does.
    """
    view = memoryview(buffer)
    if view.readonly:
        raise BufferError("Object is not writable.")
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return _flat(view)


def lent_bytes(data: Any) -> memoryview:
    """A flat view of memory that the caller lends to be written out; errors as `os.writev`'s."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return _flat(view)


def private(n: int) -> mmap.mmap:
    """Anonymous memory that a forked child gets a copy of. (`mmap.mmap(-1, n)` is shared with it.)"""
    return mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def alloc(n: int, align: int = 4096) -> memoryview:
    """Aligned, zeroed memory for O_DIRECT: a writable buffer of `n` bytes whose address is a multiple of `align`.

    `align` is in bytes and a power of two; 4096 suits every device seen so far, statx(2) with STATX_DIOALIGN tells what
    a file really needs. The memory is anonymous (mmap(2)) and goes when the last view of it does.

    Raises:
        ValueError: `n` is negative, or `align` is not a power of two.
    """
    if n < 0:
        raise ValueError(f"alloc of {n} bytes: the size must not be negative")
    if align < 1 or align & (align - 1):
        raise ValueError(f"alloc aligned to {align}: the alignment must be a power of two")
    if n == 0:
        return memoryview(bytearray())
    spare = align if align > mmap.PAGESIZE else 0
    memory = memoryview(private(n + spare))
    start = -view_address(memory) % align if spare else 0
    return memory[start : start + n]


class Memory:
    """Page-aligned memory of a pool's, which knows whether anybody has a view of it."""

    __slots__ = ("_alone", "_mmap", "size", "slot")

    def __init__(self, size: int) -> None:
        self.size = size
        self.slot: int | None = None  # where it is registered with the kernel; -1: nowhere; None: nobody has asked
        self._mmap = private(size)
        self._alone = sys.getrefcount(self._mmap)

    def view(self, n: int) -> memoryview:
        return memoryview(self._mmap)[:n]

    def free(self) -> bool:
        """Whether no view of it lives. All views that come from one hold one reference to what they show."""
        return sys.getrefcount(self._mmap) == self._alone


class Registry(Protocol):
    """Where memory can be registered with the kernel: methods/fixed.py."""

    def add(self, memory: Memory) -> int: ...

    def drop(self, slot: int) -> None: ...


class Pool:
    """Memory by size classes (powers of two, a page at least), so that what has been touched once is used again: 128 KiB
    of fresh memory cost 64 us, used ones 4. `most` bytes are kept when nobody uses them.

    `fixed`: where memory can be registered with the kernel (methods/fixed.py)."""

    def __init__(self, most: int, fixed: Registry | None = None) -> None:
        self._most = most
        self._fixed = fixed
        self._free: dict[int, list[Memory]] = {}
        self._kept = 0  # bytes in `_free`
        self._back: deque[Memory] = deque()  # given back, perhaps with a view that still lives
        self._back_bytes = 0
        self.made = 0  # how many have been

    def take(self, n: int) -> Memory:
        size = max(1 << (n - 1).bit_length(), mmap.PAGESIZE)
        free = self._free.get(size)
        if free:
            self._kept -= size
            return free.pop()
        back = self._back
        for _ in range(len(back)):
            memory = back.popleft()
            if not memory.free():
                back.append(memory)
                continue
            self._back_bytes -= memory.size
            if memory.size == size:
                return memory
            self._keep(memory)
        self.made += 1
        return Memory(size)

    def slot(self, memory: Memory) -> int:
        """Where what is about to be read into is registered; -1: nowhere, since it is not worth it, or cannot be."""
        slot = memory.slot
        if slot is None:
            slot = -1
            if self._fixed is not None and memory.size >= _REGISTERED:
                slot = self._fixed.add(memory)
            memory.slot = slot
        return slot

    def give(self, memory: Memory) -> None:
        """Whoever took it is done; views of it may live on, and then it is theirs for so long."""
        back = self._back
        back.append(memory)
        self._back_bytes += memory.size
        while len(back) > _LOOKED_AFTER or (self._back_bytes > self._most and len(back) > 1):
            oldest = back.popleft()
            self._back_bytes -= oldest.size
            if oldest.free():
                self._keep(oldest)
            else:
                self._let_go(oldest)  # it goes with its last view

    def sweep(self) -> None:
        """Keep what nobody looks at any more, as far as there is room for it; let go of the rest."""
        for _ in range(len(self._back)):
            memory = self._back.popleft()
            if memory.free():
                self._back_bytes -= memory.size
                self._keep(memory)
            else:
                self._back.append(memory)

    def _keep(self, memory: Memory) -> None:
        if self._kept + memory.size <= self._most:
            self._free.setdefault(memory.size, []).append(memory)
            self._kept += memory.size
        else:
            self._let_go(memory)

    def _let_go(self, memory: Memory) -> None:
        slot, memory.slot = memory.slot, -1
        if slot is not None and slot >= 0 and self._fixed is not None:
            self._fixed.drop(slot)


_keep_forever: Any = ctypes.pythonapi.Py_IncRef
_keep_forever.argtypes, _keep_forever.restype = [ctypes.py_object], None


def leak(thing: object) -> None:
    """Never free `thing`, not even at interpreter exit: the kernel may still write into memory that it holds."""
    _keep_forever(thing)
