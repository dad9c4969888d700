"""Spooled temporary files and temporary folders: aiofiles' `tempfile.temptypes`."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...files.temporary import Spooled
from ..base import AsyncBase, call
from ..threadpool.utils import cond_delegate_to_executor, delegate_to_executor, proxy_property_directly

__all__ = ["AsyncSpooledTemporaryFile", "AsyncTemporaryDirectory"]


class Spool(Spooled):
    """What stands behind `AsyncSpooledTemporaryFile._file` when the file is the ring's."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.blocking().close()


if TYPE_CHECKING:

    class _Spooled:
        async def close(self) -> None: ...
        async def flush(self) -> None: ...
        async def isatty(self) -> bool: ...
        async def fileno(self) -> int: ...
        async def rollover(self) -> None: ...
        async def read(self, size: int | None = ..., /) -> Any: ...
        async def readline(self, size: int | None = ..., /) -> Any: ...
        async def readlines(self, hint: int | None = ..., /) -> list[Any]: ...
        async def seek(self, offset: int, whence: int = ..., /) -> int: ...
        async def tell(self) -> int: ...
        async def truncate(self, size: int | None = ..., /) -> int: ...
        @property
        def closed(self) -> bool: ...
        @property
        def encoding(self) -> str: ...
        @property
        def mode(self) -> str: ...
        @property
        def name(self) -> Any: ...
        @property
        def newlines(self) -> str | tuple[str, ...] | None: ...

else:
    _Spooled = object


@delegate_to_executor("fileno", "rollover")
@cond_delegate_to_executor("close", "flush", "isatty", "read", "readline", "readlines", "seek", "tell", "truncate")
@proxy_property_directly("closed", "encoding", "mode", "name", "newlines")
class AsyncSpooledTemporaryFile(AsyncBase[Any], _Spooled):
    """`tempfile.SpooledTemporaryFile`, awaited: in memory without waiting, once it is rolled over on a worker."""

    async def _check(self) -> None:
        file = self._file
        if not file._rolled and file._max_size and file.tell() > file._max_size:
            await self.rollover()

    async def write(self, s: Any) -> int:
        """Write; what goes over `max_size` is rolled over on the worker, not here."""
        if self._file._rolled:
            written: int = await self._delegate(partial(self._file.write, s))
            return written
        n: int = self._file._file.write(s)
        await self._check()
        return n

    async def writelines(self, iterable: Iterable[Any]) -> None:
        if self._file._rolled:
            await self._delegate(partial(self._file.writelines, iterable))
            return
        self._file._file.writelines(iterable)
        await self._check()


class RingSpooledTemporaryFile(AsyncSpooledTemporaryFile):
    """The same where the file is aioring's own: rolled over, it goes to the ring."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool, None, None)
        self._spool = spool

    async def close(self) -> None:
        await self._spool.ask("close")

    async def flush(self) -> None:
        await self._spool.ask("flush")

    async def isatty(self) -> bool:
        found: bool = await self._spool.ask("isatty")
        return found

    async def read(self, size: int | None = -1, /) -> Any:
        return await self._spool.ask("read", size)

    async def readline(self, size: int | None = -1, /) -> Any:
        return await self._spool.ask("readline", -1 if size is None else size)

    async def readlines(self, hint: int | None = -1, /) -> list[Any]:
        found: list[Any] = await self._spool.ask("readlines", -1 if hint is None else hint)
        return found

    async def seek(self, offset: int, whence: int = 0, /) -> int:
        found: int = await self._spool.ask("seek", offset, whence)
        return found

    async def tell(self) -> int:
        found: int = await self._spool.ask("tell")
        return found

    async def truncate(self, size: int | None = None, /) -> int:
        return await self._spool.truncate(size)

    async def write(self, s: Any) -> int:
        return await self._spool.write(s)

    async def writelines(self, iterable: Iterable[Any]) -> None:
        await self._spool.writelines(iterable)

    async def rollover(self) -> None:
        await self._spool.rollover()

    async def fileno(self) -> int:
        await self._spool.rollover()
        found: int = self._spool._file.fileno()
        return found

    @property
    def encoding(self) -> str:
        found: str = self._spool._file.encoding
        return found

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        found: str | tuple[str, ...] | None = self._spool._file.newlines
        return found


class AsyncTemporaryDirectory:
    """`tempfile.TemporaryDirectory`, awaited."""

    def __init__(self, file: Any, loop: AbstractEventLoop | None, executor: Any) -> None:
        self._file = file
        self._loop = loop
        self._executor = executor

    @property
    def name(self) -> Any:
        return self._file.name

    async def cleanup(self) -> None:
        await call(self._loop, self._executor, self._file.cleanup)

    async def close(self) -> None:
        await self.cleanup()
