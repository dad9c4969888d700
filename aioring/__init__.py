"""aioring: PostgreSQL 18's asynchronous I/O, for asyncio.

`await ring.read(fd, offset, n)` resolves straight from a kernel completion. The distribution is `aioring-io`.
"""

from __future__ import annotations

try:
    import ctypes as _ctypes
except ImportError as _error:  # Python 3.12 and later, in a subinterpreter with a GIL of its own
    raise ImportError("aioring needs ctypes, which a subinterpreter cannot load: use the main interpreter") from _error

from .buffers import alloc
from .errors import (
    AioringError,
    BlockBeyondEndError,
    LogDamagedError,
    RingClosedError,
    RingUnavailableError,
    WrongLoopError,
)
from .kernel.abi import (
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from .observe.counters import OperationStats, RingStats
from .observe.histogram import Waited
from .observe.in_flight import InFlight
from .observe.lag import LoopLag, loop_lag
from .observe.slow import SlowIo, slow_io
from .ring import Pending, Ring, get_ring, in_flight, rings

try:
    from .files import (
        BinaryFile,
        ByteStream,
        Chunks,
        File,
        FilesRead,
        Opening,
        Path,
        RawFile,
        TextFile,
        WrappedFile,
        append_file,
        open,
        read_file,
        read_files,
        read_text,
        stream,
        wrap_file,
        write_file,
    )
    from .streams import (
        Block,
        Log,
        ReadStream,
        StreamStats,
        WriteStream,
        copy_file,
        copy_tree,
        read_stream,
        write_stream,
    )
except ImportError as _error:
    # Files need anyio. `aioring doctor` runs where it is missing, and has to say what else is wrong.
    if _error.name != "anyio":
        raise

__version__ = "0.1.0"

__all__ = [
    "RESOLVE_BENEATH",
    "RESOLVE_CACHED",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "AioringError",
    "BinaryFile",
    "Block",
    "BlockBeyondEndError",
    "ByteStream",
    "Chunks",
    "File",
    "FilesRead",
    "InFlight",
    "Log",
    "LogDamagedError",
    "LoopLag",
    "Opening",
    "OperationStats",
    "Path",
    "Pending",
    "RawFile",
    "ReadStream",
    "Ring",
    "RingClosedError",
    "RingStats",
    "RingUnavailableError",
    "SlowIo",
    "StreamStats",
    "TextFile",
    "Waited",
    "WrappedFile",
    "WriteStream",
    "WrongLoopError",
    "alloc",
    "append_file",
    "copy_file",
    "copy_tree",
    "get_ring",
    "in_flight",
    "loop_lag",
    "open",
    "read_file",
    "read_files",
    "read_stream",
    "read_text",
    "rings",
    "slow_io",
    "stream",
    "wrap_file",
    "write_file",
    "write_stream",
]
del _ctypes
