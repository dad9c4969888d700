"""Streams: a reader that says which blocks it will want, and runs ahead of it just far enough."""

from .blocks import Block
from .log import Log
from .read_stream import ReadStream, read_stream
from .stats import StreamStats

__all__ = ["Block", "Log", "ReadStream", "StreamStats", "read_stream"]
