"""What `start_read`, `start_write` and a chain's methods give: an awaitable whose I/O is staged already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from ..engine import Engine
from ..handle import Handle

__all__ = ["Pending"]

T = TypeVar("T")
logger = logging.getLogger("aioring")


class Pending(Generic[T]):
    """An I/O under way. Await it for its result, once or again; one task at a time.

    Cancelling the task that awaits it cancels the I/O, as awaiting the operation itself would. An I/O that failed and
    was never awaited is logged, as asyncio logs a Task's.
    """

    __slots__ = ("__weakref__", "_asked", "_awaiting", "_cancel", "_engine", "_handle", "_ring")

    def __init__(
        self, ring: object, engine: Engine, handle: Handle, cancel: Callable[[Handle], bool] | None = None
    ) -> None:
        self._ring = ring  # lives as long as anybody may await this
        self._engine = engine
        self._handle = handle
        self._cancel = cancel or engine.cancel
        self._asked = False
        self._awaiting = False

    def done(self) -> bool:
        """Whether the result is there, so that awaiting it does not wait."""
        return self._handle.finished()

    def cancel(self) -> None:
        """Ask that it end early. It still has to be awaited, or the outcome does not matter."""
        self._asked = True
        if not self._handle.finished():
            self._engine.check()
            self._cancel(self._handle)

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        if self._awaiting:
            raise RuntimeError("this I/O is awaited by another task already")
        self._asked = True
        if not self._handle.finished():
            self._engine.check()
            self._awaiting = True
            try:
                await self._engine.loop.park(self._handle, self._cancel)
            finally:
                self._awaiting = False
        result: T = self._engine.take(self._handle)
        return result

    def __del__(self) -> None:
        if getattr(self, "_asked", True):
            return
        handle = self._handle
        if handle.finished():
            _log_failure(self._engine, handle)
        else:
            engine = self._engine
            handle.on_done = lambda done: _log_failure(engine, done)

    def __repr__(self) -> str:
        return f"<aioring.Pending {'done' if self.done() else 'under way'} {self._handle!r}>"


def _log_failure(engine: Engine, handle: Handle) -> None:
    if handle.exception is None and handle.res >= 0:
        return
    try:
        engine.take(handle)
    except BaseException as error:
        logger.error("an I/O failed and was never awaited: %r (%s)", error, handle.describe(engine.method.name))
