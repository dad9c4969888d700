"""anyio's temporary files, which are aioring's own once they are made.

Parameters and attributes are those of anyio's classes, which these are subclasses of.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, AnyStr, overload

import anyio
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from ..files.here import Kinds
from ..files.temporary import Named, adopt, open_named, open_unnamed
from ..files.textual import TextFile
from .files import KINDS, AsyncFile, OpenRaw, OpenReader, OpenText, OpenWriter

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

__all__ = ["NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryFile"]


class _NamedText(Named, OpenText):  # type: ignore[misc]
    """A text file with a name."""

    aclose = Named.close
    close = OpenText.close  # type: ignore[assignment]


class _NamedReader(Named, OpenReader):  # type: ignore[misc]
    """A binary one."""

    aclose = Named.close
    close = OpenReader.close  # type: ignore[assignment]


class _NamedWriter(Named, OpenWriter):  # type: ignore[misc]
    """A binary one that is only written."""

    aclose = Named.close
    close = OpenWriter.close  # type: ignore[assignment]


class _NamedRaw(Named, OpenRaw):  # type: ignore[misc]
    """A binary one without a buffer."""

    aclose = Named.close
    close = OpenRaw.close  # type: ignore[assignment]


_NAMED = Kinds(_NamedRaw, _NamedReader, _NamedWriter, _NamedText)


class TemporaryFile(anyio.TemporaryFile[AnyStr]):
    """`anyio.TemporaryFile`: entering it gives a file without a name, which is gone at the end of the block."""

    if TYPE_CHECKING:  # a type checker takes anyio's own overloads for those of anyio's class only

        @overload
        def __init__(
            self: TemporaryFile[bytes],
            mode: OpenBinaryMode = ...,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            *,
            errors: str | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: TemporaryFile[str],
            mode: OpenTextMode,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            *,
            errors: str | None = ...,
        ) -> None: ...
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        affixes = self.suffix, self.prefix, self.dir
        file = await open_unnamed(KINDS, self.mode, self.buffering, self.encoding, self.errors, self.newline, affixes)
        self._async_file = file
        return file  # type: ignore[no-any-return]


class NamedTemporaryFile(anyio.NamedTemporaryFile[AnyStr]):
    """`anyio.NamedTemporaryFile`: entering it gives a file with a name, which goes with it, or at the end of the block."""

    if TYPE_CHECKING:  # a type checker takes anyio's own overloads for those of anyio's class only

        @overload
        def __init__(
            self: NamedTemporaryFile[bytes],
            mode: OpenBinaryMode = ...,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            delete: bool = ...,
            *,
            errors: str | None = ...,
            delete_on_close: bool = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: NamedTemporaryFile[str],
            mode: OpenTextMode,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            delete: bool = ...,
            *,
            errors: str | None = ...,
            delete_on_close: bool = ...,
        ) -> None: ...
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        how = self._params
        file = await open_named(
            _NAMED,
            how["mode"],
            how["buffering"],
            how["encoding"],
            how["errors"],
            how["newline"],
            (how["suffix"], how["prefix"], how["dir"]),
            how["delete"],
            how.get("delete_on_close", True),
        )
        self._async_file = file
        return file  # type: ignore[no-any-return]

    async def __aexit__(self, *raised: Any) -> None:
        file: Any = self._async_file
        try:
            await file.aclose()
        finally:
            with CancelScope(shield=True):
                await file.remove()


class SpooledTemporaryFile(anyio.SpooledTemporaryFile[AnyStr], AsyncFile[AnyStr]):
    """`anyio.SpooledTemporaryFile`: in memory up to `max_size`; rolled over, it goes to the ring."""

    if TYPE_CHECKING:  # a type checker takes anyio's own overloads for those of anyio's class only

        @overload
        def __init__(
            self: SpooledTemporaryFile[bytes],
            max_size: int = ...,
            mode: OpenBinaryMode = ...,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            *,
            errors: str | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: SpooledTemporaryFile[str],
            max_size: int = ...,
            mode: OpenTextMode = ...,
            buffering: int = ...,
            encoding: str | None = ...,
            newline: str | None = ...,
            suffix: str | None = ...,
            prefix: str | None = ...,
            dir: str | None = ...,
            *,
            errors: str | None = ...,
        ) -> None: ...
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    _disk: Any = None
    _moving: Any = None  # while it is rolled over: what was put into memory then would be lost

    async def rollover(self) -> None:
        """Put it on disk, if it is not there yet. Cancelled before it began, or failed, it still is in memory."""
        if self._rolled:
            return
        await checkpoint_if_cancelled()
        await self._settled()
        if self._rolled:  # another task's was first
            return
        self._moving = anyio.Event()
        try:
            with CancelScope(shield=True):
                await self._roll_over()
        finally:
            self._moving.set()
            self._moving = None

    async def _roll_over(self) -> None:
        memory, how = self._fp, self._tempfile_params
        with await to_thread.run_sync(_made, how) as made:
            asked = (how[name] for name in ("mode", "buffering", "encoding", "errors", "newline"))
            disk = await adopt(KINDS, os.dup(made.fileno()), *asked)
        try:
            position = memory.tell()
            if isinstance(memory, io.TextIOWrapper):
                memory.flush()
                below: Any = TextFile.buffer.__get__(disk)
                await below.write(memory.buffer.getvalue())
            else:
                await disk.write(memory.getvalue())
            await disk.seek(position)
        except BaseException:
            await disk.aclose()
            raise
        self._disk, self._fp, self._rolled = disk, disk.wrapped, True
        memory.close()

    async def _settled(self) -> None:
        while self._moving is not None:
            await self._moving.wait()

    async def aclose(self) -> None:
        with CancelScope(shield=True):
            await self._settled()
        if self._disk is None:
            await super().aclose()
        else:
            await self._disk.aclose()


def _made(how: dict[str, Any]) -> Any:
    return tempfile.TemporaryFile(**how)


def _where_it_is(name: str) -> Callable[..., Any]:
    in_memory = getattr(anyio.SpooledTemporaryFile, name)

    async def call(self: SpooledTemporaryFile[Any], *args: Any, **kwargs: Any) -> Any:
        if self._moving is not None:
            await self._settled()
        if self._disk is None:
            return await in_memory(self, *args, **kwargs)
        return await getattr(self._disk, name)(*args, **kwargs)

    call.__name__, call.__doc__ = name, in_memory.__doc__
    return call


for _name in (
    "read", "read1", "readline", "readlines", "readinto", "readinto1", "write", "writelines", "truncate", "seek", "tell",
    "flush",
):  # fmt: skip
    setattr(SpooledTemporaryFile, _name, _where_it_is(_name))
