"""Reads and writes that are staged now and awaited later: a thousand need no thousand tasks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..buffers import lent_bytes
from ..handle import COMPLETE, Handle
from ..operations import READ, WRITE, Operation, is_direct
from ..readiness import READ as TO_READ
from . import define
from .data import Data
from .large import for_a_worker
from .pending import Pending
from .unseekable import MOST, reader

__all__ = ["Start"]

_BACKGROUND = {row: replace(row, result=lambda handle, _: handle.value) for row in (READ, WRITE)}


class Start(Data):
    """The part of `Ring` that starts transfers."""

    def start_read(self, fd: int, offset: int, n: int) -> Pending[bytes]:
        """A `read` that is staged now: an awaitable for its bytes. A thousand need no thousand tasks.

        Arguments, errors and cancelling as `read`; bad arguments are raised here, an `OSError` at the `await`. One that
        fails and is never awaited is logged on the logger `aioring`.
        """
        return self._begin(READ, fd, offset, lambda at: define.read(fd, at, n))

    def start_write(self, fd: int, offset: int, data: Any) -> Pending[int]:
        """A `write` that is staged now: an awaitable for the number of bytes. As `start_read`."""
        return self._begin(WRITE, fd, offset, lambda at: define.write(fd, at, data))

    def _begin(self, operation: Operation, fd: Any, offset: int, make: Callable[[int], Handle]) -> Pending[Any]:
        engine = self._engine
        try:
            waits = self._waits(operation, fd, offset)
        except OSError as error:
            handle = make(0)
            handle.exception, handle.res, handle.state = error, -(error.errno or errno.EIO), COMPLETE
            return Pending(self, engine, handle)
        handle = make(0 if waits else offset)
        if not waits:
            if handle.operation is READ:
                handle.direct = is_direct(handle.fd)
                handle.by_workers = for_a_worker(engine, handle)
            try:
                engine.ask(handle)
                return Pending(self, engine, handle)
            except BaseException:
                engine.forsake(handle)
                raise

        # What cannot seek is waited for by a task of its own: there is nothing that could be staged. What the fd means is
        # held from now on.
        user = object()
        try:
            file = self._unseekable.begin(handle.fd, user)
        except OSError as error:
            handle.exception, handle.res, handle.state = error, -(error.errno or errno.EIO), COMPLETE
            return Pending(self, engine, handle)

        begun = False

        async def background() -> Any:
            nonlocal begun
            begun = True
            if handle.operation is READ:
                memory = bytearray(min(handle.length, MOST))
                got = await self._unseekable.transfer(handle.fd, TO_READ, reader((memory,)), user, file, len(memory))
                return bytes(memory[:got])
            assert handle.view is not None
            return await self._write_all(handle.fd, [lent_bytes(handle.view)], user, file)

        def over(value: Any, error: BaseException | None) -> None:
            if not begun:
                self._unseekable.leave(handle.fd, user, file)
            handle.value, handle.exception = value, error
            handle.res = 0 if value is not None else -(getattr(error, "errno", None) or errno.ECANCELED)
            handle.done = value if type(value) is int else len(value or b"")
            handle.operation = _BACKGROUND[handle.operation]
            handle.state = COMPLETE
            engine.finish(handle)

        stop = engine.loop.spawn(background, over)

        def cancel(_: Handle) -> bool:
            stop()
            return True

        return Pending(self, engine, handle, cancel)
