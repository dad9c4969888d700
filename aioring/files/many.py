"""`read_files`: thousands of whole files, some of them under way, bounded in number and in bytes.

What is cached is read in place as it is asked for (`whole.py`). What is not gets a task of its own, up to `concurrency` of
them; each opens its file, waits until there is room for as many bytes as it has, and reads. A file that is larger than all
room is read when nothing else is held, and in order, the one that is waited for is always read: somebody can go on.

Cancelling: `__anext__` keeps nothing in a local across an await. The tasks belong to `_Reading`, which knows nothing of the
iterator that people hold: where that is dropped, they are ended.
"""

from __future__ import annotations

import os
from asyncio.events import _get_running_loop
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from inspect import isasyncgen
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from .. import loops
from ..errors import AioringError
from ..ring import Ring, get_ring
from .whole import NOT_TRIED, StrOrBytesPath, read_here, read_there

__all__ = ["FilesRead", "read_files"]

P = TypeVar("P", bound=StrOrBytesPath)
R = TypeVar("R", covariant=True)


class _One:
    """One file under way, or read and not handed out yet. Also who waits for room."""

    __slots__ = ("error", "granted", "held", "over", "path", "size", "stop", "value", "waiter")

    def __init__(self, path: Any) -> None:
        self.path = path
        self.value: bytes | None = None
        self.error: BaseException | None = None
        self.over = self.granted = False
        self.held = self.size = 0  # bytes of the room that it has, or waits for
        self.stop: Callable[[], Any] | None = None
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.granted


_END = object()


async def _fetch(source: AsyncIterator[Any]) -> Any:
    return await anext(source, _END)


class _Reading:
    """What the tasks know: who is under way, who is ready, how much room there is."""

    def __init__(self, ring: Ring, paths: Any, concurrency: int, ordered: bool, max_bytes: int) -> None:
        self.ring = ring
        self.loop = ring._engine.loop
        self.paths: Iterator[Any] | None = None if hasattr(paths, "__anext__") else paths
        self.source: AsyncIterator[Any] | None = paths if self.paths is None else None
        self.fetching: Callable[[], Any] | None = None  # the next of `source` is on its way
        self.failed: BaseException | None = None  # what `source` has raised: behind all that it has given
        self.concurrency, self.ordered, self.max_bytes = concurrency, ordered, max_bytes
        self.line: deque[_One] = deque()  # ordered: all in order; else those that are over
        self.running: dict[_One, None] = {}
        self.for_room: deque[_One] = deque()
        self.held = 0
        self.next: list[Any] = []  # taken from `paths`, and not begun
        self.waiting: set[_Call] = set()

    def wake(self) -> None:
        for call in self.waiting:
            if call.waiter is not None:
                self.loop.wake(call.waiter)

    # --- in turn ------------------------------------------------------------------------------------------------------

    def free(self) -> bool:
        busy = len(self.line) if self.ordered else len(self.line) + len(self.running)
        return busy < self.concurrency and self.held < self.max_bytes

    def ended(self) -> bool:
        """Whether no more paths come."""
        return self.paths is None and self.source is None and not self.next

    def more(self) -> bool:
        """Whether another file is to be begun, which then is in `next`."""
        if not self.free():
            return False
        if not self.next:
            if self.paths is None:
                if self.source is not None and self.fetching is None:
                    self.fetching = self.loop.spawn(partial(_fetch, self.source), self.fetched)
                return False
            try:
                self.next.append(next(self.paths))
            except StopIteration:
                self.paths = None
                return False
        return True

    def fetched(self, path: Any, error: BaseException | None) -> None:
        if self.fetching is not None and self.source is not None:  # else it was told before, or nobody wants it
            self.fetching = None
            if error is not None or path is _END:
                self.source, self.failed = None, error
            else:
                self.next.append(path)
        self.wake()

    def begin(self) -> None:
        """Begin what is in `next`; it is over at once where it is cached. The budget has been looked at."""
        one = _One(self.next.pop())
        if self.ordered:
            self.line.append(one)
        try:
            name = os.fspath(one.path)
            here = _get_running_loop() is self.ring._loop_here is not None and self.ring._at_once
            found: Any = read_here(self.ring, name) if here else NOT_TRIED
        except Exception as error:
            self.settle(one, None, error)
            return
        if found.__class__ is not int:
            self.settle(one, found, None)
            return
        self.running[one] = None
        one.stop = self.loop.spawn(
            partial(read_there, self.ring, name, found, partial(self.room, one)), partial(self.over, one)
        )

    def over(self, one: _One, value: bytes | None, error: BaseException | None) -> None:
        if one in self.running:
            self.settle(one, value, error)
            del self.running[one]
        self.wake()

    def settle(self, one: _One, value: bytes | None, error: BaseException | None) -> None:
        size = len(value) if value is not None else 0
        if not one.over:
            one.value, one.error, one.over = value, error, True
            self.held += size - one.held
            one.held = size
            if not self.ordered:
                self.line.append(one)
        self.grant()

    def take(self) -> _One | None:
        if not self.line or not self.line[0].over:
            return None
        one = self.line.popleft()
        self.held -= one.held
        self.grant()
        return one

    # --- room ---------------------------------------------------------------------------------------------------------

    def fits(self, one: _One) -> bool:
        return (
            not self.held
            or self.held + one.size <= self.max_bytes
            or (self.ordered and bool(self.line) and self.line[0] is one)
        )

    async def room(self, one: _One, size: int) -> None:
        """Wait until `one` may hold `size` bytes, instead of what it has."""
        self.held -= one.held
        one.held, one.granted, one.size = 0, False, size
        if self.for_room or not self.fits(one):
            self.for_room.append(one)
            self.grant()
            await self.loop.park(one, loops.at_once)
        else:
            self.has(one)

    def has(self, one: _One) -> None:
        one.held, one.granted = one.size, True
        self.held += one.size

    def grant(self) -> None:
        """In the order in which they came; the first in the line, who is waited for, before them."""
        if self.ordered and self.line and self.line[0] in self.for_room:
            self.for_room.remove(self.line[0])
            self.for_room.appendleft(self.line[0])
        while self.for_room:
            one = self.for_room[0]
            if one.over:
                self.for_room.popleft()
                continue
            if not self.fits(one):
                break
            self.for_room.popleft()
            self.has(one)
            if one.waiter is not None:
                self.loop.wake(one.waiter)

    def end(self) -> None:
        """Nobody wants any more of it."""
        self.paths = self.source = None
        self.next.clear()
        fetching, self.fetching = self.fetching, None
        if fetching is not None:
            fetching()
        running, self.running = self.running, {}
        self.for_room.clear()
        self.line.clear()
        for one in running:
            if one.stop is not None:
                one.stop()
        self.wake()


class _Call:
    """One `__anext__` that waits. (Several tasks may iterate.)"""

    def __init__(self, reading: _Reading) -> None:
        self.reading = reading
        self.waiter: Any = None

    def finished(self) -> bool:
        """Whether it has something to do."""
        reading = self.reading
        if (reading.line and reading.line[0].over) or (reading.next and reading.free()):
            return True
        return not reading.running and reading.fetching is None

    async def wait(self) -> None:
        self.reading.waiting.add(self)
        try:
            await self.reading.loop.park(self, loops.at_once)
        finally:
            self.reading.waiting.discard(self)


class FilesRead(Generic[P, R]):
    """What `read_files` gives: an async iterator over pairs of a path, as it was given, and what is in its file.

    `async with` ends what is under way on leaving the block; `aclose` does, too, and an iterator that is dropped.
    """

    def __init__(
        self, paths: Any, concurrency: int, ordered: bool, max_bytes: int, raises: bool, ring: Ring | None
    ) -> None:
        self._paths = aiter(paths) if hasattr(paths, "__aiter__") else iter(paths)
        self._options = concurrency, ordered, max_bytes
        self._raises = raises
        self._ring = ring
        self._reading: _Reading | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[P, R]:
        if self._over:
            raise StopAsyncIteration
        reading = self._reading
        if reading is None:
            ring = get_ring() if self._ring is None else self._ring
            reading = self._reading = _Reading(ring, self._paths, *self._options)
        engine = reading.ring._engine  # which says what is wrong, if anything is
        await reading.loop.checkpoint()
        while True:
            while reading.more():
                if engine.budget.left <= 0:
                    await engine.budget.turn()
                    if not reading.next:
                        continue  # begun by another task that iterates
                reading.begin()
                if reading.line and reading.line[0].over:
                    break  # cached: it is not read further ahead than it is asked for
            one = reading.take()
            if one is not None:
                return one.path, self._result(one)
            if not reading.running and not reading.line and reading.fetching is None:
                if reading.ended():
                    self._over = True
                    error, reading.failed = reading.failed, None
                    if error is None:
                        raise StopAsyncIteration
                    try:
                        raise error
                    finally:
                        error = None  # it holds this frame
                continue
            await _Call(reading).wait()

    def _result(self, one: _One) -> Any:
        error = one.error
        if error is None:
            return one.value
        if self._raises or not isinstance(error, OSError):
            self._end()
            try:
                raise error
            finally:
                error = one.error = None  # it holds this frame
        return error

    def _end(self) -> None:
        self._over = True
        if self._reading is not None:
            self._reading.end()

    async def aclose(self) -> None:
        """End what is under way, an async generator of paths too. Iterating further ends at once."""
        self._end()
        if isasyncgen(self._paths) and not self._paths.ag_running:
            await self._paths.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        reading = self.__dict__.get("_reading")
        if reading is None or not (reading.running or reading.fetching):
            return
        try:
            reading.ring._engine  # noqa: B018 - whether this is its loop's thread
        except (AioringError, OSError):
            return  # they end with their loop
        reading.end()


@overload
def read_files(
    paths: Iterable[P] | AsyncIterable[P],
    *,
    concurrency: int = 64,
    ordered: bool = False,
    max_bytes: int = 64 << 20,
    on_error: Literal["raise"] = "raise",
    ring: Ring | None = None,
) -> FilesRead[P, bytes]: ...
@overload
def read_files(
    paths: Iterable[P] | AsyncIterable[P],
    *,
    concurrency: int = 64,
    ordered: bool = False,
    max_bytes: int = 64 << 20,
    on_error: Literal["return"],
    ring: Ring | None = None,
) -> FilesRead[P, bytes | OSError]: ...
def read_files(
    paths: Iterable[P] | AsyncIterable[P],
    *,
    concurrency: int = 64,
    ordered: bool = False,
    max_bytes: int = 64 << 20,
    on_error: Literal["raise", "return"] = "raise",
    ring: Ring | None = None,
) -> FilesRead[P, Any]:
    """Read many whole files: `async for path, data in aioring.read_files(paths)`.

    At most `concurrency` files are under way or wait to be handed out, and at most `max_bytes` bytes of them are held (one
    file may be larger: it is read when nothing else is held). They come as they are had, or, `ordered`, in the order of
    `paths`, any iterable or async iterable (`aioring.Path.rglob` ...), which is not run through further ahead than that;
    what an async one raises comes behind all that it has given. `path` is what `paths` gave.

    `on_error`: "raise" raises the first error and ends; "return" gives the `OSError` in the place of the bytes.

    Cancelling the iteration loses no file: who iterates further has the next one. What is under way is ended by `aclose`,
    by leaving an `async with` block, and where the iterator is dropped.

    Raises (as it is iterated):
        OSError: as `read_file`.
        ValueError: `concurrency` or `max_bytes` is not positive, `on_error` is something else; a path has a NUL in it.
        RingClosedError, WrongLoopError: as `read_file`.
    """
    if concurrency < 1 or max_bytes < 1:
        raise ValueError(f"concurrency {concurrency}, max_bytes {max_bytes}: each must be at least 1")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error {on_error!r}: must be 'raise' or 'return'")
    return FilesRead(paths, concurrency, ordered, max_bytes, on_error == "raise", ring)
