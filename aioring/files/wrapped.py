"""Files that somebody else has made: every call is delegated to the object, in order, on the ring's workers.

Never to its fd: a position, a buffer or a compression that the object keeps would be walked past.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Any, AnyStr, Generic, TypeVar

from anyio import CancelScope

from ..handle import Handle
from ..operations import RUN
from ..ring import Ring, get_ring
from .order import Order

__all__ = ["InOrder", "WrappedFile", "wrap_file"]

T = TypeVar("T")
Self = TypeVar("Self", bound="WrappedFile[Any]")


class _Call:
    """One call on a worker. Its caller may be gone before it is over; the object is the call's until then."""

    __slots__ = ("engine", "gone", "handle", "order", "over", "waiter")

    def __init__(self, engine: Any, order: Order, handle: Handle) -> None:
        self.engine, self.order, self.handle = engine, order, handle
        self.waiter: Any = None
        self.gone = self.over = False

    def finished(self) -> bool:
        return self.over

    def arrived(self, _: Handle) -> None:
        if self.over:
            return
        self.over = True
        if self.waiter is not None:
            self.engine.loop.wake(self.waiter)
        if self.gone:
            self.order.landed()

    def cancelled(self, _: Any) -> bool:
        self.abandon()
        return True

    def abandon(self) -> None:
        """What has not begun is taken back; what has goes on."""
        if not self.gone and not self.over:
            self.gone = True
            self.order.took_off()
            self.engine.cancel(self.handle)


class InOrder:
    """Calls that run one after another, on the workers of the ring of the loop that runs; one object's."""

    __slots__ = ("_engine", "_order", "_ring")

    def __init__(self, ring: Ring | None = None) -> None:
        self._ring = ring
        self._engine: Any = None
        self._order = Order()

    async def call(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Cancelling returns at once. What has begun goes on, and the next call waits for it."""
        ring = get_ring() if self._ring is None else self._ring
        engine = ring._engine
        if engine is not self._engine:  # another loop: nobody of the former one is inside any more
            self._engine, self._order = engine, Order()
        order = self._order
        await engine.loop.checkpoint()
        await order.join(engine.loop)
        try:
            handle = Handle(RUN)
            handle.call = partial(contextvars.copy_context().run, func, *args, **kwargs)
            call = _Call(engine, order, handle)
            handle.on_done = call.arrived
            try:
                engine.ask(handle)
                await engine.loop.park(call, call.cancelled)
            except BaseException:
                call.abandon()
                raise
            result: T = engine.take(handle)
            return result
        finally:
            order.leave()


class WrappedFile(Generic[AnyStr]):
    """A file object of somebody else's, awaited: `aioring.wrap_file`.

    What does I/O is awaited and runs on a worker thread, one call at a time and in the order of the calls. Everything else
    is the object's own. Cancelling returns at once; a call that has begun goes on.
    """

    __slots__ = ("__weakref__", "_calls", "_wrapped")

    def __init__(self, file: Any, ring: Ring | None = None) -> None:
        self._wrapped = file
        self._calls = InOrder(ring)

    @property
    def wrapped(self) -> Any:
        """The object itself."""
        return self._wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    async def read(self, size: int | None = -1) -> AnyStr:
        """As the object's own `read`, on a worker. Cancelling returns at once; what has begun goes on."""
        data: AnyStr = await self._calls.call(self._wrapped.read, size)
        return data

    async def read1(self, size: int = -1) -> bytes:
        """As the object's own `read1`, on a worker. Cancelling returns at once; what has begun goes on."""
        data: bytes = await self._calls.call(self._wrapped.read1, size)
        return data

    async def readall(self) -> bytes:
        """As the object's own `readall`, on a worker. Cancelling returns at once; what has begun goes on."""
        data: bytes = await self._calls.call(self._wrapped.readall)
        return data

    async def peek(self, size: int = 0, /) -> bytes:
        """As the object's own `peek`, on a worker. Cancelling returns at once; what has begun goes on."""
        data: bytes = await self._calls.call(self._wrapped.peek, size)
        return data

    async def readinto(self, buffer: Any) -> int:
        """As the object's own `readinto`, on a worker. Cancelling returns at once; what has begun goes on."""
        n: int = await self._calls.call(self._wrapped.readinto, buffer)
        return n

    async def readinto1(self, buffer: Any) -> int:
        """As the object's own `readinto1`, on a worker. Cancelling returns at once; what has begun goes on."""
        n: int = await self._calls.call(self._wrapped.readinto1, buffer)
        return n

    async def readline(self, size: int | None = -1) -> AnyStr:
        """As the object's own `readline`, on a worker. Cancelling returns at once; what has begun goes on."""
        line: AnyStr = await self._calls.call(self._wrapped.readline, -1 if size is None else size)
        return line

    async def readlines(self, hint: int | None = -1) -> list[AnyStr]:
        """As the object's own `readlines`, on a worker. Cancelling returns at once; what has begun goes on."""
        lines: list[AnyStr] = await self._calls.call(self._wrapped.readlines, -1 if hint is None else hint)
        return lines

    async def write(self, data: Any, /) -> int:
        """As the object's own `write`, on a worker. Cancelling returns at once; what has begun goes on."""
        n: int = await self._calls.call(self._wrapped.write, data)
        return n

    async def writelines(self, lines: Any) -> None:
        """As the object's own `writelines`, on a worker. Cancelling returns at once; what has begun goes on."""
        await self._calls.call(self._wrapped.writelines, lines)

    async def seek(self, offset: int, whence: int = 0) -> int:
        """As the object's own `seek`, on a worker. Cancelling returns at once; what has begun goes on."""
        position: int = await self._calls.call(self._wrapped.seek, offset, whence)
        return position

    async def tell(self) -> int:
        """As the object's own `tell`, on a worker. Cancelling returns at once; what has begun goes on."""
        position: int = await self._calls.call(self._wrapped.tell)
        return position

    async def truncate(self, size: int | None = None) -> int:
        """As the object's own `truncate`, on a worker. Cancelling returns at once; what has begun goes on."""
        found: int = await self._calls.call(self._wrapped.truncate, size)
        return found

    async def flush(self) -> None:
        """As the object's own `flush`, on a worker. Cancelling returns at once; what has begun goes on."""
        await self._calls.call(self._wrapped.flush)

    async def close(self) -> None:
        """Close the object. Cancelling does not stop it, and is delivered afterwards."""
        with CancelScope(shield=True):
            await self._calls.call(self._wrapped.close)

    aclose = close

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[AnyStr]:
        while line := await self.readline():
            yield line

    def __repr__(self) -> str:
        return f"<aioring.WrappedFile of {self._wrapped!r}>"


def wrap_file(file: Any, *, ring: Ring | None = None) -> WrappedFile[Any]:
    """A file object that is open already (`io.BytesIO`, `gzip.GzipFile`, what another library gave ...), to be awaited.

    It is delegated to the object, in order, on worker threads of `ring` (by default the running loop's), never to its fd.

    Raises:
        TypeError: it has no `close`, or neither `read` nor `write`.
    """
    if not hasattr(file, "close") or not (hasattr(file, "read") or hasattr(file, "write")):
        raise TypeError(f"{file!r} is no file object: it has to have close(), and read() or write()")
    return WrappedFile(file, ring)
