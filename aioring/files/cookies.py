"""What a text file's `tell` gives: a number from which a decoder can be brought back to where it was.

Pure. The layout is that of `cookie_type` in Modules/_io/textio.c, so that cookies are those of the built-in `open`: 8 bytes
of position, 4 of the decoder's flags, 4 of bytes to feed it, 4 of characters to skip, and 1 whether it has to be told of
the end.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

__all__ = ["Cookie", "find"]

_LAYOUT = struct.Struct("<qiii?")


class Cookie(NamedTuple):
    start: int = 0
    flags: int = 0
    feed: int = 0
    skip: int = 0
    end: bool = False

    def pack(self) -> int:
        return int.from_bytes(_LAYOUT.pack(*self), "little")

    @classmethod
    def unpack(cls, cookie: Any) -> Cookie:
        """`OverflowError` for a number that is none, as `int.to_bytes` says it."""
        return cls(*_LAYOUT.unpack(int(cookie).to_bytes(_LAYOUT.size, "little")))


def set_decoder(decoder: Any, start: int, flags: int) -> None:
    """At the start of a file a decoder expects a BOM: `reset`."""
    if start == 0 and flags == 0:
        decoder.reset()
    else:
        decoder.setstate((b"", flags))


def find(decoder: Any, start: int, flags: int, fed: bytes, skip: int, ratio: float) -> Cookie:
    """The cookie of the place `skip` characters behind `start`, where `fed` begins and the decoder had `flags`.

    `ratio`: bytes a character, a first guess. The decoder is left as it was. (textiowrapper_tell.)
    """
    saved = decoder.getstate()
    try:
        # Fast search for an acceptable start point, close to the current position.
        skip_bytes, skip_back = int(ratio * skip), 1
        at, at_flags = start, flags
        while skip_bytes > 0:
            set_decoder(decoder, start, flags)
            decoded = len(decoder.decode(fed[:skip_bytes]))
            if decoded <= skip:
                buffered, now = decoder.getstate()
                if not buffered:
                    at_flags = now
                    skip -= decoded
                    break
                skip_bytes -= len(buffered)
                skip_back = 1
            else:
                skip_bytes -= skip_back
                skip_back *= 2
        if skip_bytes <= 0:
            skip_bytes = 0
            set_decoder(decoder, start, flags)
        at += skip_bytes
        if skip == 0:
            return Cookie(at, at_flags)
        # Feed it byte by byte until it has given so many, and note the last safe start point on the way.
        feed = decoded = 0
        for i in range(skip_bytes, len(fed)):
            feed += 1
            decoded += len(decoder.decode(fed[i : i + 1]))
            buffered, now = decoder.getstate()
            if not buffered and decoded <= skip:
                at, at_flags = at + feed, now
                skip -= decoded
                feed = decoded = 0
            if decoded >= skip:
                return Cookie(at, at_flags, feed, skip)
        decoded += len(decoder.decode(b"", final=True))
        if decoded < skip:
            raise OSError("can't reconstruct logical file position")
        return Cookie(at, at_flags, feed, skip, True)
    finally:
        decoder.setstate(saved)
