"""Streams: a reader that says which blocks it will want, and runs ahead of it just far enough."""

from .blocks import Block
from .read_stream import ReadStream, read_stream
from .stats import StreamStats

__all__ = ["Block", "ReadStream", "StreamStats", "read_stream"]
