"""An open file as a blocking `io` object: the same layers, driven in place.

For who was promised one: what `detach`, `buffer` and `raw` of aiofiles and anyio give, and what stands behind their `_file`
and `wrapped`. Each call blocks its thread, as those libraries' do there. While an awaited call is under way on the file it
is refused: the layers keep what they have in hand between two transfers.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from .arguments import optional_size
from .binary import BinaryFile, RawFile, writable_view
from .buffered import Buffered
from .file import File
from .in_place import InPlace, drive
from .raw import Raw
from .text import Text
from .textual import TextFile

__all__ = ["Absent", "BlockingBuffered", "BlockingRaw", "BlockingText", "blocking", "detached"]

T = TypeVar("T")


class _Waiting(InPlace):
    """It waits for who reads from a pipe as long as write(2) does: its caller asked for a blocking file. (`IN_PLACE` does
    not: it may run on the loop that reads.)"""

    async def write(self, raw: Raw, data: bytes, landed: Callable[[int], None]) -> int:
        if not raw.streams:
            return await super().write(raw, data, landed)
        n = os.write(raw.fd, data)
        landed(n)
        return n


_WAITING = _Waiting()


class _View(io.IOBase):
    """What the three have in common. `owns`: the file was detached, and this is who closes it."""

    _file: File[Any]
    _owns: bool
    _core: Any = File  # in whose words `_file` is asked: its dialect may have coroutines for them, and views like this

    def __init__(self, file: File[Any], owns: bool = False) -> None:
        self._file = file
        self._owns = owns

    @property
    def _raw(self) -> Raw:
        return self._file._raw

    def _drive(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        raw = self._raw
        order = raw.order
        self._refuse_if_busy()
        order.busy = True
        held, raw.io = raw.io, _WAITING if raw.direct is None else raw.direct.in_place
        try:
            return drive(method(*args))
        finally:
            raw.io = held
            order.leave()

    def _refuse_if_busy(self) -> None:
        if self._raw.order.busy or self._raw.under_way:
            raise RuntimeError("a call on this file is under way: await it before it is used as a blocking file")
        if self._raw.direct is not None and self._raw.direct.sectors.written():
            raise RuntimeError("another writes to this file: await it before this one is used as a blocking file")

    def close(self) -> None:
        raw, engine = self._raw, self._file._ring._started
        if raw.fd < 0:
            return
        self._refuse_if_busy()
        if engine is not None and engine.open and engine.uses(raw.fd):
            raise RuntimeError("an operation on this file is under way: await it, or `await` the file's own close()")
        self._file._close_in_place()

    def __del__(self) -> None:
        # Instead of IOBase's, which would close the file with every view of it that goes.
        if self._owns and not self._file._parted() and self._raw.fd >= 0:
            self.close()
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)

    @property
    def closed(self) -> bool:
        return self._raw.fd < 0

    @property
    def name(self) -> Any:
        return self._raw.name

    def _check(self) -> None:
        self._raw.check("I/O operation on closed file")

    def readable(self) -> bool:
        return bool(self._core.readable(self._file))

    def writable(self) -> bool:
        return bool(self._core.writable(self._file))

    def seekable(self) -> bool:
        return bool(self._core.seekable(self._file))

    def isatty(self) -> bool:
        return bool(self._core.isatty(self._file))

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        self._check()
        self._drive(self._file._flush)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


class BlockingRaw(_View, io.RawIOBase):
    """As `io.FileIO`."""

    _file: RawFile  # pyright: ignore[reportIncompatibleVariableOverride]
    _core = RawFile

    def __repr__(self) -> str:
        if self._raw.fd < 0:
            return "<aioring.BlockingRaw [closed]>"
        return f"<aioring.BlockingRaw name={self.name!r} mode={self.mode!r} closefd={self._raw.closefd}>"

    @property
    def mode(self) -> str:
        return self._file.mode

    @property
    def closefd(self) -> bool:
        return self._raw.closefd

    def readinto(self, buffer: Any, /) -> int | None:
        return self._drive(self._file._readinto, writable_view(buffer))

    def read(self, size: int | None = -1, /) -> bytes | None:
        return self._drive(self._file._read, optional_size(size))

    def readall(self) -> bytes:
        return cast("bytes", self._drive(self._file._read, -1))

    def write(self, data: Any, /) -> int | None:
        return self._drive(self._file._write, data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._drive(self._file._seek, offset, whence)

    def tell(self) -> int:
        return self._drive(self._file._tell)

    def truncate(self, size: int | None = None, /) -> int:
        return self._drive(self._raw.truncate, size)


class BlockingBuffered(_View, io.BufferedIOBase):
    """As `io.BufferedReader`, `BufferedWriter` or `BufferedRandom`."""

    _file: BinaryFile  # pyright: ignore[reportIncompatibleVariableOverride]
    _core = BinaryFile

    def __repr__(self) -> str:
        return f"<aioring.BlockingBuffered name={self.name!r}>"

    @property
    def _layer(self) -> Buffered:
        return self._file._layer or self._file._buffered()

    @property
    def mode(self) -> str:
        return self._file.mode

    @property
    def raw(self) -> BlockingRaw:
        return BlockingRaw(BinaryFile.raw.__get__(self._file))

    def _reading(self, what: str) -> Buffered:
        return self._file._reading(what)

    def read(self, size: int | None = -1, /) -> bytes:
        return cast("bytes", self._drive(self._reading("read").read, optional_size(size)))

    def read1(self, size: int = -1, /) -> bytes:
        return self._drive(self._reading("read1").read1, size)

    def readinto(self, buffer: Any, /) -> int:
        return cast("int", self._drive(self._reading("read").readinto, writable_view(buffer)))

    def readinto1(self, buffer: Any, /) -> int:
        return cast("int", self._drive(self._reading("read1").readinto, writable_view(buffer), True))

    def peek(self, size: int = 0, /) -> bytes:
        return self._drive(self._reading("peek").peek)

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._drive(self._file._readline, optional_size(size))

    def write(self, data: Any, /) -> int:
        return self._drive(self._file._write, data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._drive(self._layer.seek, offset, whence)

    def tell(self) -> int:
        return self._drive(self._file._tell)

    def truncate(self, size: int | None = None, /) -> int:
        return self._drive(self._layer.truncate, size)

    def detach(self) -> BlockingRaw:
        return cast("BlockingRaw", detached(self._file))


class BlockingText(_View, io.TextIOBase):
    """As `io.TextIOWrapper`."""

    _file: TextFile  # pyright: ignore[reportIncompatibleVariableOverride]
    _core = TextFile

    def __repr__(self) -> str:
        return f"<aioring.BlockingText name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}>"

    @property
    def _layer(self) -> Text:
        return self._file._text()

    @property
    def mode(self) -> str:
        return self._file.mode

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._file.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._file.errors

    @property
    def newlines(self) -> Any:  # type: ignore[override]
        return self._file.newlines

    @property
    def line_buffering(self) -> bool:
        return self._file.line_buffering

    @property
    def buffer(self) -> BlockingBuffered:
        return BlockingBuffered(TextFile.buffer.__get__(self._file))

    def read(self, size: int | None = -1, /) -> str:
        return self._drive(self._layer.read, optional_size(size))

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        return self._drive(self._layer.readline, optional_size(size))

    def write(self, text: str, /) -> int:
        return self._drive(self._layer.write, text)

    def seek(self, cookie: int, whence: int = 0, /) -> int:
        return self._drive(self._layer.seek, cookie, whence)

    def tell(self) -> int:
        return self._drive(self._layer.tell)

    def truncate(self, size: int | None = None, /) -> int:
        return self._drive(self._layer.truncate, size)

    def detach(self) -> BlockingBuffered:  # type: ignore[override]
        return cast("BlockingBuffered", detached(self._file))


class Absent:
    """A method that a dialect's class of this kind has not."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, file: object, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}")


def blocking(file: File[Any], owns: bool = False) -> BlockingRaw | BlockingBuffered | BlockingText:
    """`file`, for blocking calls."""
    if isinstance(file, TextFile):
        return BlockingText(file, owns)
    return BlockingBuffered(file, owns) if isinstance(file, BinaryFile) else BlockingRaw(cast("RawFile", file), owns)


def detached(file: File[Any]) -> BlockingRaw | BlockingBuffered | BlockingText:
    """`file.detach()`, blocking: what is below it, for blocking calls, which now has to be closed."""
    if not isinstance(file, (TextFile, BinaryFile)):
        raise io.UnsupportedOperation("detach")
    blocking(file).flush()
    return blocking(file._part(), True)
