"""An async source of blocks: a task of its own fetches from it, so that delivery never waits for it while a block is ready.

The task knows the source and the queue between, not the stream, so that a stream that is dropped can end it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from inspect import isasyncgen
from typing import Any

from .. import loops
from ..errors import AioringError
from .blocks import DRY, END, Elements

__all__ = ["Pumped"]

_pumping: ContextVar[Any] = ContextVar("aioring.pumping")
_AHEAD = 64  # elements that are fetched before they are asked for


class _Gate:
    """Where one side waits for the other."""

    __slots__ = ("open", "waiter")

    def __init__(self) -> None:
        self.open = False
        self.waiter: Any = None

    def finished(self) -> bool:
        return self.open


class Pumped(Elements):
    """See the module."""

    def __init__(
        self,
        elements: AsyncIterator[Any],
        key: Callable[[Any], Any] | None,
        block_size: int,
        combine_bytes: int,
        loop: loops.Loop,
    ) -> None:
        super().__init__(iter(()), key, block_size, combine_bytes)
        self._loop = loop
        self._source: AsyncIterator[Any] | None = elements
        self._queue: deque[Any] = deque()
        self._over = False  # the task has ended
        self._raised: BaseException | None = None
        self._more, self._room, self._end = _Gate(), _Gate(), _Gate()
        self._stop: Callable[[], Any] | None = loop.spawn(partial(_pump, self), self._done)

    def _fetch(self) -> Any:
        queue = self._queue
        if queue:
            element = queue.popleft()
            if len(queue) == _AHEAD // 2:
                self._let(self._room)
            self.dry = False
            return element
        self.dry = not self._over
        if self.dry:
            return DRY
        if self._raised is not None:
            error, self._raised = self._raised, None
            try:
                raise error
            finally:
                del error
        return END

    def _let(self, gate: _Gate) -> None:
        gate.open = True
        if gate.waiter is not None:
            self._loop.wake(gate.waiter)

    def _done(self, to_the_end: bool | None, error: BaseException | None) -> None:
        if not self._over:
            if error is None and not to_the_end and self._stop is not None:
                error = AioringError(
                    "the async source of a read stream was cancelled: its blocks from here on are missing"
                )
            self._raised = None if self.ended else error
            self._over, self._stop = True, None
        self._let(self._more)
        self._let(self._end)

    async def wait(self) -> None:
        self._more.open = bool(self._queue) or self._over
        await self._loop.park(self._more, loops.at_once)

    async def closed(self) -> None:
        if not self._over and _pumping.get(None) is not self:  # (it may be the source itself that closes the stream)
            await self._loop.park(self._end, loops.at_once)

    def close(self) -> None:
        super().close()
        self._queue.clear()
        self._raised = None
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


async def _pump(pumped: Pumped) -> bool:
    _pumping.set(pumped)
    source, queue = pumped._source, pumped._queue
    assert source is not None
    pumped._source = None
    try:
        async for element in source:
            queue.append(element)
            pumped._let(pumped._more)
            while len(queue) >= _AHEAD:
                pumped._room.open = False
                await pumped._loop.park(pumped._room, loops.at_once)
        return True
    finally:
        if isasyncgen(source):
            await source.aclose()
