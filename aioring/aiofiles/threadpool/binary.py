"""Binary files that somebody else has opened: aiofiles' `threadpool.binary`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..base import AsyncBase, AsyncIndirectBase
from .utils import delegate_to_executor, proxy_method_directly, proxy_property_directly

__all__ = [
    "AsyncBufferedIOBase", "AsyncBufferedReader", "AsyncFileIO", "AsyncIndirectBufferedIOBase",
    "AsyncIndirectBufferedReader", "AsyncIndirectFileIO",
]  # fmt: skip

_BOTH = (
    "close", "flush", "isatty", "read", "readinto", "readline", "readlines", "seek", "seekable", "tell", "truncate",
    "writable", "write", "writelines",
)  # fmt: skip

if TYPE_CHECKING:

    class _Both:
        async def close(self) -> None: ...
        async def flush(self) -> None: ...
        async def isatty(self) -> bool: ...
        async def read(self, size: int | None = ..., /) -> bytes: ...
        async def readinto(self, buffer: Any, /) -> int | None: ...
        async def readline(self, size: int | None = ..., /) -> bytes: ...
        async def readlines(self, hint: int | None = ..., /) -> list[bytes]: ...
        async def seek(self, offset: int, whence: int = ..., /) -> int: ...
        async def seekable(self) -> bool: ...
        async def tell(self) -> int: ...
        async def truncate(self, size: int | None = ..., /) -> int: ...
        async def writable(self) -> bool: ...
        async def write(self, data: Any, /) -> int: ...
        async def writelines(self, lines: Iterable[Any], /) -> None: ...
        def fileno(self) -> int: ...
        def readable(self) -> bool: ...
        @property
        def closed(self) -> bool: ...
        @property
        def name(self) -> Any: ...
        @property
        def mode(self) -> str: ...

    class _Buffered(_Both):
        async def read1(self, size: int = ..., /) -> bytes: ...
        def detach(self) -> Any: ...
        @property
        def raw(self) -> Any: ...

    class _Reader(_Buffered):
        async def peek(self, size: int = ..., /) -> bytes: ...

    class _Raw(_Both):
        async def readall(self) -> bytes | None: ...

else:
    _Both = _Buffered = _Reader = _Raw = object


@delegate_to_executor(*_BOTH, "read1")
@proxy_method_directly("detach", "fileno", "readable")
@proxy_property_directly("closed", "raw", "name", "mode")
class AsyncBufferedIOBase(AsyncBase[bytes], _Buffered):
    """`io.BufferedWriter` and `io.BufferedIOBase`, awaited."""


@delegate_to_executor("peek")
class AsyncBufferedReader(AsyncBufferedIOBase, _Reader):
    """`io.BufferedReader` and `io.BufferedRandom`, awaited."""


@delegate_to_executor(*_BOTH, "readall")
@proxy_method_directly("fileno", "readable")
@proxy_property_directly("closed", "name", "mode")
class AsyncFileIO(AsyncBase[bytes], _Raw):
    """`io.FileIO`, awaited."""


@delegate_to_executor(*_BOTH, "read1")
@proxy_method_directly("detach", "fileno", "readable")
@proxy_property_directly("closed", "raw", "name", "mode")
class AsyncIndirectBufferedIOBase(AsyncIndirectBase[bytes], _Buffered):
    """The same of an object that is looked up at each call."""


@delegate_to_executor("peek")
class AsyncIndirectBufferedReader(AsyncIndirectBufferedIOBase, _Reader):
    """The same of an object that is looked up at each call."""


@delegate_to_executor(*_BOTH, "readall")
@proxy_method_directly("fileno", "readable")
@proxy_property_directly("closed", "name", "mode")
class AsyncIndirectFileIO(AsyncIndirectBase[bytes], _Raw):
    """The same of an object that is looked up at each call."""
