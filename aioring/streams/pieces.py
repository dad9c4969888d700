"""A piece of a read stream: what was had together, from when it is asked for until it is handed out.

It is a run of neighbours, read by one I/O, or blocks from anywhere (`offsets`), each by an I/O of its own. In memory they
stand one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from ..buffers import Memory
from ..handle import COMPLETE, Handle
from .blocks import Block, Run

__all__ = ["Piece"]


@lru_cache(maxsize=64)
def _slices(size: int, n: int) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at in range(0, n * size, size))


class Piece:
    """See the module. Bytes, but `units`: how many blocks of the stream's size it comes to."""

    __slots__ = (
        "again", "at", "base", "done", "error", "gone", "handle", "ios", "items", "lead", "length", "memory", "offset",
        "offsets", "size", "sizes", "units", "view", "waiter",
    )  # fmt: skip

    def __init__(self, run: Run, size: int) -> None:
        self.offset, self.length = run.offset, run.end - run.offset
        self.items: Sequence[Any] = run.items
        self.sizes, self.size = run.sizes, size
        self.units = run.units
        self.done = 0  # how many there are; fewer than `length`: the file ends in it
        self.memory: Memory | None = None  # the stream's, until it has been handed out
        self.view: memoryview | None = None
        self.lead = 0  # what is read before it: O_DIRECT reads whole sectors
        self.handle: Handle | None = None
        self.ios = 0  # as how many I/Os it counts
        self.offsets: list[int] | None = None  # of its blocks, where they are no neighbours
        self.base: Piece | None = None  # who has its one block already,
        self.at = 0  # and where
        self.again = False  # it is still to be asked for, by itself
        self.waiter: Any = None
        self.error: BaseException | None = None  # why it could not even be asked for
        self.gone = False  # nobody wants it any more

    @classmethod
    def straight(cls, offset: int, items: range, size: int, memory: Memory, view: memoryview) -> Piece:
        """Had already, and handed out at once: no more than that takes."""
        piece = cls.__new__(cls)
        piece.offset, piece.items, piece.size, piece.sizes = offset, items, size, None
        piece.units, piece.length, piece.done = len(items), len(view), len(view)
        piece.memory, piece.view, piece.base, piece.ios, piece.offsets = memory, view, None, 0, None
        return piece

    @classmethod
    def scattered(cls, offsets: list[int], items: list[Any], size: int) -> Piece:
        run = Run(offsets[0])
        run.end, run.items, run.units = offsets[0] + len(items) * size, items, len(items)
        piece = cls(run, size)
        piece.ios, piece.offsets = len(items), offsets
        return piece

    def finished(self) -> bool:
        return self.gone or self.handle is None or self.handle.state == COMPLETE

    def arrived(self, handle: Handle) -> None:
        if handle.res >= 0:
            self.done = min(max(handle.done - self.lead, 0), self.length)

    def failed(self) -> bool:
        if self.error is not None:
            return True
        handle = self.handle
        return handle is not None and handle.state == COMPLETE and (handle.res < 0 or handle.exception is not None)

    def starts(self) -> list[int]:
        """Where its blocks begin in its memory, and behind them its length."""
        if self.sizes is None:
            return list(range(0, self.length + 1, self.size))
        return [0, *accumulate(self.sizes)]

    def places(self) -> list[int]:
        """Where its blocks begin in the file."""
        return [self.offset + at for at in self.starts()[:-1]] if self.offsets is None else self.offsets

    def at_of(self, offset: int) -> int:
        """Where the block that begins there in the file begins in its memory."""
        return offset - self.offset if self.offsets is None else self.offsets.index(offset) * self.size

    def there(self) -> int:
        """How many of its blocks have at least one byte."""
        if self.done >= self.length:
            return len(self.items)
        if self.sizes is None:
            return -(-self.done // self.size)
        return sum(start < self.done for start in self.starts()[:-1])

    def split(self, k: int) -> list[Piece]:
        """Keep the first `k` blocks; the others, each by itself."""
        rest = []
        for i, offset in enumerate(self.places()):
            if i >= k:
                run = Run(offset)
                length = self.size if self.sizes is None else self.sizes[i]
                run.end, run.items = run.offset + length, [self.items[i]]
                run.sizes = None if length == self.size else [length]
                run.units = -(-length // self.size)
                rest.append(Piece(run, self.size))
        if k:
            self.length = self.starts()[k]
            self.items = self.items[:k]
            if self.sizes is not None:
                self.sizes = self.sizes[:k]
            self.units -= sum(piece.units for piece in rest)
        return rest

    def blocks(self, copied: bool) -> list[Block[Any]]:
        """What is handed out; `copied`: with memory of their own."""
        if self.base is not None:
            assert self.base.view is not None
            view = self.base.view[self.at : self.at + self.done].toreadonly()
        else:
            assert self.view is not None
            view = self.view[: self.done].toreadonly()
        if copied:
            view = memoryview(bytes(view))
        offset, size = self.offset, self.size
        if self.sizes is None:
            if len(self.items) == 1:
                return [Block(offset, view, self.items[0])]
            # `map` calls all of these without a line of Python in between: three quarters of what a comprehension takes.
            offsets = range(offset, offset + self.length, size) if self.offsets is None else self.offsets
            return list(map(Block, offsets, map(view.__getitem__, _slices(size, len(self.items))), self.items))
        starts = self.starts()
        return [
            Block(offset + at, view[at:end], item)
            for at, end, item in zip(starts, starts[1:], self.items, strict=False)
        ]

    def bad(self, error: BaseException) -> Block[Any]:
        """Its one block, which could not be read."""
        return Block(self.offset, memoryview(b""), self.items[0], error)
