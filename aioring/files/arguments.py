"""What calls on files take: bytes, sizes, offsets; refused in the words of the `io` module."""

from __future__ import annotations

from operator import index
from typing import Any

__all__ = ["as_view", "off_t", "optional_size", "untold"]


def as_view(data: Any) -> memoryview:
    """The bytes of anything that has some."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view


def optional_size(size: Any) -> int:
    """A size as `read` and `readline` take it."""
    if size is None:
        return -1
    if type(size) is int:
        return size
    try:
        return index(size)
    except TypeError:
        raise TypeError(f"argument should be integer or None, not '{type(size).__name__}'") from None


def off_t(value: Any) -> int:
    number = index(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"cannot fit '{type(value).__name__}' into an offset-sized integer")
    return number


def untold(_: int) -> None:
    """`data` was the caller's: the raw position says how much of it was taken."""
