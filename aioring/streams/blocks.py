"""What a read stream is asked for and what it gives: sources of blocks, runs of neighbours, `Block`.

A source hands on its elements as runs of neighbours: what one I/O may read. It is asked for no more than there is room for,
and keeps one element that did not fit (PostgreSQL's `read_stream_unget_block`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from operator import index
from typing import Any, Generic, TypeVar

from ..kernel.abi import OFF_MAX

__all__ = ["DRY", "END", "Block", "Elements", "Run", "Source", "Span"]

T = TypeVar("T")
END, DRY = object(), object()  # instead of an element: no more come; none is there now


class Block(Generic[T]):
    """One block, handed out. `bytes(block)` copies it.

    `data`: a memoryview, read-only. It stays true as long as it is kept; the memory behind it, which may be that of a whole
    combined I/O, is used again when the last view of it is gone. Shorter than was asked for: the file ends in it.
    `offset`: where it begins in the file, in bytes. `item`: the element of `blocks` that asked for it. `error`: why it
    could not be read, with `errors="yield"`; else None.
    """

    __slots__ = ("data", "error", "item", "offset")

    def __init__(self, offset: int, data: memoryview, item: T, error: BaseException | None = None) -> None:
        self.offset = offset
        self.data = data
        self.item = item
        self.error = error

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def detach(self) -> Block[T]:
        """The same with a copy of the data: to keep a few of many without the memory of their neighbours."""
        return Block(self.offset, memoryview(bytes(self.data)), self.item, self.error)

    def __repr__(self) -> str:
        what = f"{len(self.data)} bytes" if self.error is None else repr(self.error)
        return f"<Block at {self.offset}: {what}>"


class Run:
    """Elements that stand one behind the other in the file. `units`: how many blocks of the stream's size they come to."""

    __slots__ = ("end", "items", "offset", "sizes", "units")

    def __init__(self, offset: int) -> None:
        self.offset = self.end = offset
        self.units = 0
        self.items: Sequence[Any] = []
        self.sizes: list[int] | None = None  # of the elements; None: all are of the stream's block size

    def whole(self, done: int, size: int) -> int:
        """How many of its elements lie in its first `done` bytes."""
        if self.sizes is None:
            return done // size
        k = 0
        for length in self.sizes:
            done -= length
            if done < 0:
                break
            k += 1
        return k

    def cut(self, k: int, size: int) -> Run:
        """Keep the first `k` elements; the others, as a run of their own."""
        if self.sizes is None:
            units, length, sizes = k, k * size, None
        else:
            length, sizes = sum(self.sizes[:k]), self.sizes[k:]
            units = sum(-(-n // size) for n in self.sizes[:k])
            self.sizes = self.sizes[:k]
        rest = Run(self.offset + length)
        rest.end, rest.sizes = self.end, sizes
        rest.items, self.items = self.items[k:], self.items[:k]
        rest.units, self.units = self.units - units, units
        self.end = rest.offset
        return rest


class Source:
    """Where elements come from. `ended`: no more come; `failed`: since it raised this."""

    failed: BaseException | None = None
    dry = False  # none is there now, but more may come
    revisits = True  # an element may come twice
    paused = False  # nothing more is asked for now

    @property
    def ended(self) -> bool:
        raise NotImplementedError

    def take(self, run: Run | None, room: int, window: Container[int]) -> Run | None:
        """Up to `room` units more onto `run`, as long as they are its neighbours; without one, a new run. None: there is
        nothing, or what is next is in `window`."""
        raise NotImplementedError

    def straight(self, n: int) -> tuple[int, int]:
        """The number of the next block, and how many neighbours follow from it, `n` at most; nobody is asked."""
        return 0, 0

    def skip(self, n: int) -> None:
        """So many of what `straight` has said are taken."""

    def alone(self, n: int, window: Container[int], align: int, end: int) -> tuple[list[int], list[Any]] | None:
        """The offsets and items of up to `n` blocks that come next, none of them the neighbour of the one before; not in
        `window`, at multiples of `align`, wholly before `end`. None, and nothing taken, where there are not two."""
        return None

    def revisited(self) -> tuple[int, int, Any] | None:
        """The element that is next where `take` stopped at it: offset, length, item."""
        return None

    async def wait(self) -> None:
        """Until it is no longer `dry`. Cancelling is delivered at once."""
        raise AssertionError("it never is")  # pragma: no cover

    def close(self) -> None:
        """No more is wanted."""
        raise NotImplementedError

    async def closed(self) -> None:
        """Until nothing of it runs any more."""


class Span(Source):
    """Block numbers that follow each other: `range(a, b)`, or a whole file."""

    revisits = False

    def __init__(self, numbers: range, block_size: int) -> None:
        self._next, self._stop = numbers.start, numbers.stop
        self._size = block_size

    @property
    def ended(self) -> bool:
        return self._next >= self._stop

    def close(self) -> None:
        self._next = self._stop

    def straight(self, n: int) -> tuple[int, int]:
        first, left = self._next, self._stop - self._next
        return first, n if n < left else left

    def skip(self, n: int) -> None:
        self._next += n

    def take(self, run: Run | None, room: int, window: Container[int]) -> Run | None:
        first = self._next
        if first >= self._stop:
            return run
        n = min(room, self._stop - first)
        if run is None:
            run = Run(first * self._size)
            run.items = range(first, first + n)
        else:
            run.items = range(first - run.units, first + n)
        run.end += n * self._size
        run.units += n
        self._next = first + n
        return run


class Elements(Source):
    """Any iterator. `key` maps an element to a block number or to `(offset, length)`."""

    def __init__(
        self, elements: Iterator[Any], key: Callable[[Any], Any] | None, block_size: int, combine_bytes: int
    ) -> None:
        self._elements, self._key = elements, key
        self._size, self._most = block_size, combine_bytes
        self._top = OFF_MAX // block_size  # block numbers below it have an offset
        self._kept: deque[tuple[int, int, Any]] = deque()  # had, and not taken
        self._exhausted = False

    @property
    def ended(self) -> bool:
        return self._exhausted and not self._kept

    def _fetch(self) -> Any:
        return next(self._elements, END)

    def _where(self, item: Any) -> tuple[int, int]:
        asked = item if self._key is None else self._key(item)
        if isinstance(asked, tuple):
            if len(asked) != 2:
                raise TypeError(f"{asked!r}: a block is a number, or a pair of offset and length")
            offset, length = index(asked[0]), index(asked[1])
            if offset < 0 or length < 1:
                raise ValueError(f"range {asked!r}: the offset must not be negative, the length at least 1")
        else:
            try:
                number = index(asked)
            except TypeError:
                raise TypeError(f"{asked!r}: a block is a number, or a pair of offset and length") from None
            if number < 0:
                raise ValueError(f"block {number}: must not be negative")
            offset, length = number * self._size, self._size
        if offset + length > OFF_MAX:
            raise OverflowError(f"{asked!r}: too large for off_t")
        return offset, length

    def _load(self) -> tuple[int, int, Any] | None:
        """Offset, length and item of an element that nobody has had yet; None: there is none, or none now (`dry`)."""
        if self._exhausted:
            return None
        try:
            item = self._fetch()
            if item.__class__ is int and self._key is None and 0 <= item < self._top:
                return item * self._size, self._size, item
            if item is END:
                self._exhausted = True
            elif item is not DRY:
                return (*self._where(item), item)
        except BaseException as error:
            if isinstance(error, (StopIteration, StopAsyncIteration)):  # of `key`: it would pass for the end
                stop = RuntimeError(f"the key of a read stream raised {type(error).__name__}")
                stop.__cause__ = error
                error = stop
            self._exhausted, self.failed = True, error
        return None

    def _peek(self) -> tuple[int, int, Any] | None:
        kept = self._kept
        if not kept and (element := self._load()) is not None:
            kept.append(element)
        return kept[0] if kept else None

    # Hot path: once per random block; measured in benchmarks/streams.py.

    def alone(self, n: int, window: Container[int], align: int, end: int) -> tuple[list[int], list[Any]] | None:
        if self.paused:
            return None
        size, kept, load = self._size, self._kept, self._load
        offsets: dict[int, Any] = {}  # and the items
        behind: tuple[int, int, Any] | None = None
        element = kept.popleft() if kept else load()
        while element is not None and len(offsets) < n and not self.paused:
            offset, length, item = element
            if length != size or offset % align or offset + size > end or offset in window or offset in offsets:
                break
            behind = kept.popleft() if kept else load()
            if self.dry if behind is None else behind[0] == offset + size:
                break
            offsets[offset] = item
            element, behind = behind, None
        if behind is not None:
            kept.appendleft(behind)
        if element is not None:
            kept.appendleft(element)
        if len(offsets) > 1:
            return list(offsets), list(offsets.values())
        for offset, item in offsets.items():
            kept.appendleft((offset, size, item))
        return None

    def take(self, run: Run | None, room: int, window: Container[int]) -> Run | None:
        size = self._size
        items: list[Any] | None = None
        while room > 0 and not self.paused:
            element = self._peek()
            if element is None:
                break
            offset, length, item = element
            if offset in window:
                break
            if run is None:
                run = Run(offset)
            elif offset != run.end or run.end - run.offset + length > self._most:
                break
            if items is None:
                assert isinstance(run.items, list)
                items = run.items
            if length != size and run.sizes is None:
                run.sizes = [size] * len(items)
            if run.sizes is not None:
                run.sizes.append(length)
            items.append(item)
            units = -(-length // size)
            run.units += units
            run.end += length
            room -= units
            self._kept.popleft()
        return run

    def revisited(self) -> tuple[int, int, Any] | None:
        return self._kept.popleft() if self._kept else None

    def close(self) -> None:
        self._exhausted = True
        self._kept.clear()
        self.failed = None
