"""Streams: a reader that says which blocks it will want, and runs ahead of it just far enough."""

from .blocks import Block
from .copy_file import copy_file
from .copy_tree import copy_tree
from .log import Log
from .read_stream import ReadStream, read_stream
from .stats import StreamStats
from .write_stream import WriteStream, write_stream

__all__ = [
    "Block",
    "Log",
    "ReadStream",
    "StreamStats",
    "WriteStream",
    "copy_file",
    "copy_tree",
    "read_stream",
    "write_stream",
]
