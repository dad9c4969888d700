"""Open files: `aioring.open`, in anyio's dialect, with everything the built-in `open` has.

`opening.py` makes them (`modes.py`: what a mode means; `here.py`: most files, in a straight line), `file.py`, `binary.py`
and `textual.py` are what people hold. Below lie the layers of the `io` module, over an awaited raw file: `text.py`,
`buffered.py`, and `raw.py`, whose transfers are a ring's (`ring_io.py`; past the page cache `direct.py`, `direct_io.py`,
`rewrite.py`, `sectors.py`) or made in place (`in_place.py`). `order.py` has calls on one file run in the order in which
they were made. `whole.py` reads and writes whole files, `many.py` thousands, `byte_stream.py` gives one to those who send
it, `atomic.py` replaces one in one step. `path.py` is `Path` (`lexical.py`: its words; `walk.py` and `jobs.py`: folders and
trees, by workers in batches; `copying.py`). `blocking.py` shows a file as a blocking one, `wrapped.py` awaits one that
somebody else has made.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from ..ring import Ring
from .binary import BinaryFile, RawFile
from .byte_stream import ByteStream, stream
from .chunks import Chunks
from .file import File
from .here import Kinds
from .many import FilesRead, read_files
from .opening import Opening
from .path import Path
from .textual import TextFile
from .whole import append_file, read_file, read_text, write_file
from .wrapped import WrappedFile, wrap_file

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

__all__ = [
    "BinaryFile", "ByteStream", "Chunks", "File", "FilesRead", "Opening", "Path", "RawFile", "TextFile", "WrappedFile",
    "append_file", "open", "read_file", "read_files", "read_text", "stream", "wrap_file", "write_file",
]  # fmt: skip

FileDescriptorOrPath = int | str | bytes | PathLike[str] | PathLike[bytes]
_KINDS = Kinds(RawFile, BinaryFile, BinaryFile, TextFile)
Opener = Callable[[Any, int], int]


@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[TextFile]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[RawFile]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[BinaryFile]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: int,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[File[bytes]]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[Any]: ...
def open(
    file: FileDescriptorOrPath,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool | Literal["try"] = False,
    ring: Ring | None = None,
) -> Opening[Any]:
    """Open a file, like the built-in `open`: `async with aioring.open(path) as f`, or `f = await aioring.open(path)`.

    All parameters are the built-in's, and so is what is refused, in its words. Text mode gives a `TextFile`, binary mode a
    `BinaryFile`, with `buffering=0` a `RawFile`. Nothing is opened before it is awaited or entered. `ring`: by default the
    running loop's own (`get_ring`). A file that is only read, with the default `buffering`, reads 64 KiB ahead.

    `direct=True` goes past the page cache (O_DIRECT), with offsets, lengths and memory of any kind: reads are widened to
    whole sectors and cut; a write that does not begin and end with a sector reads the sectors at its ends, changes them and
    writes them back, and the file is as long as its data, to the byte (killed in between, longer by some zeros). Nothing
    else of this ring comes in between; who writes to the same sector by other means at the same time may be undone. "a"
    finds the end of the file by itself, not by O_APPEND. The buffer has 256 KiB. On an fd that is given, O_DIRECT is set.
    Where it is refused, True raises EINVAL, and "try" goes through the page cache.

    `opener` is called on one of the ring's worker threads. Opening a FIFO waits for its other end, without a thread.

    Cancelling is delivered at once; what is opened nevertheless is closed.

    Raises (at the `await`):
        OSError: as open(2), with the file name; `IsADirectoryError` for a directory.
        ValueError, TypeError, LookupError: as the built-in `open`.
        RingClosedError, WrongLoopError: the ring is closed, or belongs to another loop, thread or process.
    """
    kinds = _KINDS if direct is False else _KINDS._replace(direct=direct)
    return Opening(ring, kinds, file, mode, buffering, encoding, errors, newline, closefd, opener)
