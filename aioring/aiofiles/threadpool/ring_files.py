"""The files that the drop-in's `open` opens: aioring's own, in aiofiles' dialect.

Each is an aioring file and a subclass of the class that aiofiles would give, with nothing between a call and the core but
what the dialect has other words for: questions that are coroutines, and blocking objects under `buffer`, `raw`, `detach()`
and `_file` (`files/blocking.py`).
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from typing import Any

from ...files import BinaryFile, File, RawFile, TextFile
from ...files.blocking import Absent, blocking, detached
from ...files.here import Kinds
from .binary import AsyncBufferedIOBase, AsyncBufferedReader, AsyncFileIO
from .text import AsyncTextIOWrapper

__all__ = ["KINDS"]


class _Dialect(File[Any]):
    """What all have. `_dialect` is the class that aiofiles would give."""

    __slots__ = ()
    _dialect: type
    _executor = _ref_loop = None

    @property
    def _loop(self) -> AbstractEventLoop:
        return get_running_loop()

    @property
    def _file(self) -> Any:
        """The blocking file behind it, which aiofiles' users look at (`closed`, `name`)."""
        return blocking(self)

    async def isatty(self) -> bool:  # type: ignore[override]
        return super().isatty()

    async def seekable(self) -> bool:  # type: ignore[override]
        return super().seekable()

    async def writable(self) -> bool:  # type: ignore[override]
        return super().writable()

    def __repr__(self) -> str:
        kind = self._dialect
        return f"<{kind.__module__}.{kind.__qualname__} object at {id(self):#x}> wrapping {self._file!r}"


class OpenText(_Dialect, TextFile, AsyncTextIOWrapper):  # type: ignore[misc]
    """A text file."""

    _dialect = AsyncTextIOWrapper

    async def readable(self) -> bool:  # type: ignore[override]
        return TextFile.readable(self)

    @property
    def buffer(self) -> Any:
        return blocking(self).buffer  # type: ignore[union-attr]

    def detach(self) -> Any:
        return detached(self)


class OpenReader(_Dialect, BinaryFile, AsyncBufferedReader):  # type: ignore[misc]
    """A buffered binary file that is read, or read and written."""

    _dialect = AsyncBufferedReader

    @property
    def raw(self) -> Any:
        return blocking(super().raw)

    def detach(self) -> Any:
        return detached(self)


class OpenWriter(_Dialect, BinaryFile, AsyncBufferedIOBase):  # type: ignore[misc]
    """A buffered binary file that is only written."""

    _dialect = AsyncBufferedIOBase

    @property
    def raw(self) -> Any:
        return blocking(super().raw)

    def detach(self) -> Any:
        return detached(self)

    peek: Any = Absent()


class OpenRaw(_Dialect, RawFile, AsyncFileIO):  # type: ignore[misc]
    """A binary file without a buffer."""

    _dialect = AsyncFileIO

    detach: Any = Absent()


KINDS = Kinds(OpenRaw, OpenReader, OpenWriter, OpenText, nonblocking=True)
