"""anyio's temporary files, which are aioring's own once they are made.

Parameters and attributes are those of anyio's classes, which these are subclasses of.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from typing import Any, AnyStr

import anyio
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from ..files.here import Kinds
from ..files.temporary import Named, adopt, open_named, open_unnamed
from ..files.textual import TextFile
from .files import KINDS, AsyncFile, OpenRaw, OpenReader, OpenText, OpenWriter

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

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        affixes = self.suffix, self.prefix, self.dir
        file = await open_unnamed(KINDS, self.mode, self.buffering, self.encoding, self.errors, self.newline, affixes)
        self._async_file = file
        return file  # type: ignore[no-any-return]


class NamedTemporaryFile(anyio.NamedTemporaryFile[AnyStr]):
    """`anyio.NamedTemporaryFile`: entering it gives a file with a name, which goes with it, or at the end of the block."""

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


class SpooledTemporaryFile(anyio.SpooledTemporaryFile[AnyStr]):
    """`anyio.SpooledTemporaryFile`: in memory up to `max_size`; rolled over, it goes to the ring."""

    _disk: Any = None

    async def rollover(self) -> None:
        """Put it on disk, if it is not there yet. Cancelled before it began, it still is in memory."""
        if self._rolled:
            return
        await checkpoint_if_cancelled()
        with CancelScope(shield=True):
            self._rolled = True
            memory = self._fp
            position = memory.tell()
            settings = self._tempfile_params
            names = "mode", "buffering", "encoding", "errors", "newline"
            disk = await adopt(KINDS, await to_thread.run_sync(_made, settings), *(settings[name] for name in names))
            if isinstance(memory, io.TextIOWrapper):
                memory.flush()
                below: Any = TextFile.buffer.__get__(disk)
                await below.write(memory.buffer.getvalue())
            else:
                await disk.write(memory.getvalue())
            await disk.seek(position)
            self._disk, self._fp = disk, disk.wrapped
            memory.close()

    async def aclose(self) -> None:
        if self._disk is None:
            await super().aclose()
        else:
            await self._disk.aclose()


def _made(settings: dict[str, Any]) -> int:
    with tempfile.TemporaryFile(**settings) as file:
        return os.dup(file.fileno())


def _where_it_is(name: str) -> Callable[..., Any]:
    in_memory = getattr(anyio.SpooledTemporaryFile, name)

    async def call(self: SpooledTemporaryFile[Any], *args: Any, **kwargs: Any) -> Any:
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
