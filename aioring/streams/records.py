"""The format of a log, and what a crash leaves of it. Pure: bytes in, records out; `log.py` does the I/O.

    header   magic, version, the log's id, CRC
    record   CRC of the next six | CRC of the data | length | kind | offset | durable | id | data
    record   ...
    zeros    (space that was allocated ahead)

* Every record names its log and its own place, so that what an older log has left on the disk is none of it.
* `durable`: all records below that offset were durable (an fsync that covers them had succeeded) when this one was written.
  So a bad record can be told apart: if a valid one behind it says that it was durable, the disk has lost what it had
  promised, which is damage. If not, it was never acknowledged: a batch that a crash has torn, and the end of the log.
* The header's own CRC comes first, so that a torn length is not believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

__all__ = [
    "CLOSED",
    "DATA",
    "HEADER",
    "MAGIC",
    "MOST",
    "RECORD",
    "End",
    "Recovery",
    "head",
    "read_header",
    "write_header",
]

DATA, CLOSED = 0, 1  # kinds: what was appended; the log was closed here
MOST = (1 << 31) - 1  # bytes of one record
MAGIC = b"aioring\x00"
_VERSION = 1
_header = struct.Struct("<8sIIQ")  # magic, version, CRC of id, id
_fields = struct.Struct("<IIIQQQ")  # CRC of the data, length, kind, offset, durable, id
_crc = struct.Struct("<I")
HEADER = _header.size  # bytes
RECORD = _crc.size + _fields.size  # bytes before the data
_ID_AT = RECORD - 8


def write_header(log: int) -> bytes:
    """What a log begins with; `log`: its id, 64 bits."""
    return _header.pack(MAGIC, _VERSION, crc32(log.to_bytes(8, "little")), log)


def read_header(data: bytes) -> int | None:
    """A log's id; None: this is no log.

    Raises ValueError where it is one of another version.
    """
    if len(data) < HEADER:
        return None
    magic, version, check, log = _header.unpack_from(data)
    if magic != MAGIC or check != crc32(log.to_bytes(8, "little")):
        return None
    if version != _VERSION:
        raise ValueError(f"a log of version {version}; this library writes and reads version {_VERSION}")
    return int(log)


pack_crc, pack_fields = _crc.pack, _fields.pack


def head(length: int, crc: int, offset: int, durable: int, log: int, kind: int = DATA) -> bytes:
    """What stands before a record's data in the log. `crc`: of the data; offsets and lengths in bytes."""
    fields = pack_fields(crc, length, kind, offset, durable, log)
    return pack_crc(crc32(fields)) + fields


@dataclass(frozen=True, slots=True)
class End:
    """How a log ends. `offset`: behind its last valid record. `durable`: what the records say was durable. `closed`: the
    last one says that the log was closed. `damage`: the offset of a record that was durable and is not there; else None."""

    offset: int
    durable: int
    closed: bool
    damage: int | None


class Recovery:
    """Reads a log from `offset` on, in whatever portions it comes: `feed` each, then `end`.

    It holds no more than one record, or, once it has met a bad one, a header. `keep=False`: for who only wants the end;
    what is found has no data.
    """

    def __init__(self, log: int, offset: int = HEADER, keep: bool = True) -> None:
        self._log = log
        self._keep = keep
        self._rest = bytearray()  # of what was fed
        self._at = offset  # of `_rest`
        self._end = offset
        self._durable = 0
        self._closed = False
        self.wants = 0  # bytes, until the record that has begun is whole; 0 or less: nobody knows of one
        self._beyond = 0  # where the bad one ends, if its header is sound: what its data holds is the user's
        self._bad = False  # a bad record stands at `_end`: what comes behind it can only say whether it was durable
        self._damage = False

    def feed(self, portion: bytes | memoryview) -> list[tuple[int, bytes]]:
        """The records (offset, data) that it completes, in order."""
        data = self._rest
        data += portion
        found: list[tuple[int, bytes]] = []
        done = 0
        while not self._bad:
            fields = self._fields_at(data, done)
            if fields is None:
                break
            size, kind, durable = fields
            if size < 0:
                self._bad = True
                break
            self.wants = done + size - len(data)
            if self.wants > 0:
                break
            with memoryview(data) as view, view[done + RECORD : done + size] as part:
                sound = crc32(part) == _crc.unpack_from(data, done + _crc.size)[0]
                body = bytes(part) if self._keep and sound else b""
            if not sound:
                self._bad, self._beyond = True, self._at + done + size
                break
            if kind == DATA:
                found.append((self._at + done, body))
            self._closed = kind == CLOSED
            self._durable = max(self._durable, durable)
            done += size
            self._end = self._at + done
        if self._bad:
            done = self._look_for_a_promise(data, max(done, self._beyond - self._at))
        del data[:done]
        self._at += done
        return found

    def _fields_at(self, data: bytearray, at: int) -> tuple[int, int, int] | None:
        """Size with its data, kind and durable of the record there; a size of -1: there is none; None: not all is here."""
        if len(data) - at < RECORD:
            return None
        (check,) = _crc.unpack_from(data, at)
        _, length, kind, offset, durable, log = _fields.unpack_from(data, at + _crc.size)
        if log != self._log or offset != self._at + at or check != crc32(data[at + _crc.size : at + RECORD]):
            return -1, 0, 0
        return RECORD + length, kind, durable

    def _look_for_a_promise(self, data: bytearray, begin: int) -> int:
        """Whether a record behind the bad one says that it was durable. What stands before its data is enough: our id, its
        own offset, and a CRC over both. (Who can read the file could put such a thing into a record; where the header of
        that one is lost, it would be taken for damage.) How much of `data` need not be looked at again."""
        id_ = self._log.to_bytes(8, "little")
        at = data.find(id_, begin)
        while at >= 0:
            start = at - _ID_AT
            if start >= begin:
                fields = self._fields_at(data, start)
                if fields is not None and fields[0] >= 0 and fields[2] > self._end:
                    self._damage = True
            at = data.find(id_, at + 1)
        return min(max(begin, len(data) - RECORD + 1), len(data))

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their record."""
        return len(self._rest)

    @property
    def bad(self) -> bool:
        """Whether it has met a bad record: it finds no more."""
        return self._bad

    def end(self) -> End:
        """Nothing more comes."""
        if not self._bad and self._rest:
            self._bad = True  # not all of a record's header is there, or not all of the data that it announces
        return End(self._end, self._durable, self._closed, self._end if self._damage else None)
