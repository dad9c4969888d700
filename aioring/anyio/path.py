"""`Path`: anyio's to who asks (`isinstance`), aioring's in what it does."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, Self, cast, overload

import anyio
from anyio import CapacityLimiter

from ..files.path import Methods
from ..ring import get_ring
from .files import AsyncFile, open_file

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

__all__ = ["Path"]


class Path(Methods, anyio.Path):  # type: ignore[misc]
    """`anyio.Path` on the ring of the loop that awaits; `walk`, `copy`, `copy_into`, `move` and `move_into` are there on
    every Python. `limiter` is kept, and limits nothing: no thread is used that it could limit."""

    __slots__ = ()

    _ring = None

    @property
    def _str(self) -> str:
        return str(self._path)

    def _like(self, path: Any) -> Self:
        return type(self)(path, limiter=self._limiter)

    @classmethod
    async def cwd(cls, *, limiter: CapacityLimiter | None = None) -> Self:
        return cls(pathlib.Path.cwd(), limiter=limiter)

    @classmethod
    async def home(cls, *, limiter: CapacityLimiter | None = None) -> Self:
        return cls(await get_ring().run(pathlib.Path.home), limiter=limiter)

    @overload
    async def open(
        self,
        mode: OpenBinaryMode,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> AsyncFile[bytes]: ...
    @overload
    async def open(
        self,
        mode: OpenTextMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> AsyncFile[str]: ...
    async def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> AsyncFile[Any]:
        """Open the file: `aioring.anyio.open_file`."""
        opened: Any = open_file
        file = await opened(self._str, mode, buffering, encoding, errors, newline, limiter=self._limiter)
        return cast("AsyncFile[Any]", file)
