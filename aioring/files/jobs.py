"""What takes many blocking steps (folders, globs), on the ring's workers and in batches: not one hop a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from time import perf_counter
from typing import Any, Generic, Self, TypeVar

from .. import loops
from ..handle import Handle
from ..operations import RUN
from ..ring import Ring, get_ring

__all__ = ["Batches", "Jobs"]

T = TypeVar("T")

_MOST = 512  # items a hop: handed out without a suspension, so that what the loop waits stays under a millisecond
_LONG = 0.005  # seconds after which a batch is given as it is
_PIECE = 32


class _Waiting:
    """One `__anext__` that waits for the job. (Several tasks may iterate.)"""

    __slots__ = ("jobs", "waiter")

    def __init__(self, jobs: Jobs[Any]) -> None:
        self.jobs = jobs
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.jobs._job is None


class Jobs(Generic[T]):
    """An async iterator that is fed by one job after another. A cancelled `__anext__` loses nothing: its job goes on, and
    what comes of it is had by the next.

    `_begin` gives the next job, or None at the end; `_arrived` takes what it has come to, on the loop; `_next` gives an
    item, or nothing: then there is to be another job.
    """

    def __init__(self, ring: Ring | None) -> None:
        self._ring = ring
        self._job: Handle | None = None
        self._over = False  # nothing comes after what is ready
        self._closed = False
        self._error: BaseException | None = None
        self._waiting: set[_Waiting] = set()
        self._here: Ring | None = None

    def _begin(self) -> Callable[[], Any] | None:
        raise NotImplementedError

    def _arrived(self, result: Any) -> None:
        raise NotImplementedError

    def _next(self) -> Iterator[T]:
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        here = self._here
        if here is None:
            here = self._here = get_ring() if self._ring is None else self._ring
        engine = here._engine  # which says what is wrong, if anything is
        await engine.loop.checkpoint()
        while True:
            if self._closed:
                raise StopAsyncIteration
            for item in self._next():
                return item
            if self._error is not None:
                self._over, error, self._error = True, self._error, None
                try:
                    raise error
                finally:
                    del error  # it holds this frame
            if self._over:
                raise StopAsyncIteration
            if self._job is None:
                begun = self._begin()
                if begun is None:
                    self._over = True
                    continue
                self._job = handle = Handle(RUN)
                handle.call, handle.on_done = begun, self._done
                engine.ask(handle)
            await self._wait(engine)

    async def _wait(self, engine: Any) -> None:
        waiting = _Waiting(self)
        self._waiting.add(waiting)
        try:
            await engine.loop.park(waiting, loops.at_once)
        finally:
            self._waiting.discard(waiting)

    def _done(self, handle: Handle) -> None:
        if self._job is not handle:
            return
        here, self._job = self._here, None
        assert here is not None
        engine: Any = here._started
        try:
            self._arrived(engine.take(handle))
        except BaseException as error:
            self._error = error.with_traceback(None)
        for waiting in self._waiting:
            if waiting.waiter is not None:
                engine.loop.wake(waiting.waiter)

    async def aclose(self) -> None:
        """Iterating further ends at once. What runs goes on to the end of its batch."""
        self._closed = True


class Batches(Jobs[T]):
    """What a generator gives, a batch at a time; each item is made into another by `make`, on the loop.

    The generator is made and run by workers, one at a time; dropped, it closes what it has open.
    """

    def __init__(
        self,
        ring: Ring | None,
        source: Callable[[], Generator[Any, None, None] | Iterator[Any]],
        make: Callable[[Any], T],
    ) -> None:
        super().__init__(ring)
        self._source, self._make = source, make
        self._steps: Iterator[Any] | None = None
        self._ready: deque[Any] = deque()
        self._last = False  # nothing comes after what is ready

    def _next(self) -> Iterator[T]:
        if self._ready:
            yield self._make(self._ready.popleft())

    def _begin(self) -> Callable[[], Any] | None:
        return None if self._last else self._batch

    def _batch(self) -> tuple[list[Any], BaseException | None, bool]:
        """On a worker."""
        items: list[Any] = []
        begun = perf_counter()
        try:
            if self._steps is None:
                self._steps = self._source()
            while len(items) < _MOST and (len(items) < _PIECE or perf_counter() - begun < _LONG):
                piece = list(islice(self._steps, _PIECE))
                items += piece
                if len(piece) < _PIECE:
                    return items, None, True
        except Exception as error:
            return items, error.with_traceback(None), True
        return items, None, False

    def _arrived(self, result: tuple[list[Any], BaseException | None, bool]) -> None:
        items, error, self._last = result
        if self._closed:
            self._steps = None
            return
        self._ready.extend(items)
        if error is not None:
            self._error = error
        if self._last:
            self._steps = None

    async def aclose(self) -> None:
        """Iterating further ends at once, and what is open is closed, at the latest when its batch is over."""
        self._closed = True
        self._ready.clear()
        if self._job is None:
            self._steps = None
