"""What a `mode` means, and what the built-in `open` refuses, in its order and in its words.

Pure: nothing here opens anything. Called by `opening.py`.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Mode", "check", "parse"]

_ONE = "Must have exactly one of create/read/write/append mode and at most one plus"


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode, taken apart."""

    given: str
    raw: str  # what io.FileIO is given
    name: str  # what io.FileIO calls it: a binary file's `mode`
    flags: int  # for open(2)
    binary: bool
    reading: bool  # may be read from
    writing: bool
    updating: bool  # "+"
    appending: bool
    creating: bool  # "x"


@lru_cache(maxsize=64)
def parse(mode: str) -> Mode:
    """Take a mode apart; `ValueError` as the built-in `open` says it. (Which of "r", "w", "a", "x" it is, if any, is
    looked at later, as there.)"""
    if any(c not in "xrwa+tb" or mode.count(c) > 1 for c in mode):
        raise ValueError(f"invalid mode: '{mode}'")
    if "t" in mode and "b" in mode:
        raise ValueError("can't have text and binary mode at once")
    kinds = [c for c in "xrwa" if c in mode]
    if len(kinds) > 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    kind, updating = "".join(kinds), "+" in mode
    reading, writing = kind == "r" or updating, kind in ("x", "w", "a") or updating
    flags = os.O_RDWR if reading and writing else os.O_WRONLY if writing else os.O_RDONLY
    flags |= {"x": os.O_EXCL | os.O_CREAT, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_APPEND | os.O_CREAT}.get(kind, 0)
    first = kind if kind in ("x", "a") else "r" if reading else "w"
    return Mode(
        given=mode,
        raw=kind + "+" * updating,
        name=first + "b" + "+" * (reading and writing),
        flags=flags | os.O_CLOEXEC,
        binary="b" in mode,
        reading=reading,
        writing=writing,
        updating=updating,
        appending=kind == "a",
        creating=kind == "x",
    )


def check(mode: Any, buffering: Any, encoding: Any, errors: Any, newline: Any) -> Mode:
    """What the built-in `open` looks at before it opens anything."""
    if type(mode) is not str:
        raise TypeError(f"open() argument 'mode' must be str, not {_called(mode)}")
    if not isinstance(buffering, int):
        raise TypeError(f"'{type(buffering).__name__}' object cannot be interpreted as an integer")
    if not -(1 << 31) <= buffering < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument '{name}' must be str or None, not {type(value).__name__}")
    found = parse(mode)
    if found.binary:
        for article, name, value in (("an", "encoding", encoding), ("an", "errors", errors), ("a", "newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {article} {name} argument")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
                RuntimeWarning,
                stacklevel=4,
            )
    return found


def exactly_one(mode: Mode) -> None:
    """What io.FileIO looks at."""
    if mode.raw in ("", "+"):
        raise ValueError(_ONE)


def _called(value: Any) -> str:
    return "None" if value is None else type(value).__name__
