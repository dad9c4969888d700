"""Open files: `aioring.open`, in anyio's dialect, with everything the built-in `open` has.

`opening.py` makes them (`modes.py`: what a mode means), `file.py` and `binary.py` are what people hold. Below lie the
layers of the `io` module, over an awaited raw file: `buffered.py`, and `raw.py`, whose transfers are a ring's
(`ring_io.py`) or made in place (`in_place.py`). `order.py` has calls on one file run in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from ..ring import Ring
from .binary import BinaryFile, RawFile
from .file import File
from .opening import Opening, open_file
from .textual import TextFile

__all__ = ["BinaryFile", "File", "Opening", "RawFile", "TextFile", "open"]

FileDescriptorOrPath = int | str | bytes | PathLike[str] | PathLike[bytes]


def open(
    file: FileDescriptorOrPath,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    ring: Ring | None = None,
) -> Opening[Any]:
    """Open a file, like the built-in `open`: `async with aioring.open(path) as f`, or `f = await aioring.open(path)`."""
    return open_file(file, mode, buffering, encoding, errors, newline, closefd, opener, ring)
