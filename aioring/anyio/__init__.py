"""anyio's file names, over aioring's own files: `from aioring.anyio import open_file`, on asyncio and on trio.

What `open_file` and the temporary files give are anyio's `AsyncFile` to who asks (`isinstance`), and aioring's `File`:
reads and writes go to the ring of the running loop. `files.py` has the files, `temporary.py` the temporary ones,
`path.py` paths, `streams/file.py` the byte streams. What is no file I/O (`TemporaryDirectory`, `mkdtemp` ...) is anyio's
own.
"""

from __future__ import annotations

from anyio import TemporaryDirectory, gettempdir, gettempdirb, mkdtemp, mkstemp

from .files import AsyncFile, open_file, wrap_file
from .path import Path
from .temporary import NamedTemporaryFile, SpooledTemporaryFile, TemporaryFile

__all__ = [
    "AsyncFile",
    "NamedTemporaryFile",
    "Path",
    "SpooledTemporaryFile",
    "TemporaryDirectory",
    "TemporaryFile",
    "gettempdir",
    "gettempdirb",
    "mkdtemp",
    "mkstemp",
    "open_file",
    "wrap_file",
]
