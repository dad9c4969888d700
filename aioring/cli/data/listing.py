"""Lists of hashes, as coreutils' digest.c writes and reads them: bytes, since a name may have any but NUL and "/".

HASH  NAME              or HASH *NAME
\\HASH  NA\\nME          a name with a newline, a carriage return or a backslash in it
SHA256 (NAME) = HASH    as BSD has it
"""

from __future__ import annotations

import hashlib
import os
import re

__all__ = ["escaped", "line_of", "read"]

_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_MEANT = {escape: byte for byte, escape in _ESCAPES.items()}
_GNU = re.compile(rb"([0-9a-fA-F]+) [ *]?([^\n]+)", re.DOTALL)
_BSD = re.compile(rb"([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9a-fA-F]+)", re.DOTALL)
_ESCAPED = re.compile(rb"(?:[^\\]|\\[\\nr])*", re.DOTALL)


def escaped(name: bytes) -> tuple[bytes, bytes]:
    """What stands before a line, and the name in it."""
    found = re.sub(rb"[\\\n\r]", lambda byte: _ESCAPES[byte[0]], name)
    return (b"" if found == name else b"\\"), found


def line_of(value: str, name: bytes) -> bytes:
    before, found = escaped(name)
    return before + value.encode() + b"  " + found


def read(text: bytes, algorithm: str) -> tuple[list[tuple[str, str]], list[int]]:
    """Names and hashes, and the numbers of lines that are none of these, nor empty, nor a `# comment`."""
    entries: list[tuple[str, str]] = []
    bad: list[int] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r").lstrip(b" \t")
        if not line or line.startswith(b"#"):
            continue
        entry = _entry(line, algorithm)
        if entry is None:
            bad.append(number)
        else:
            entries.append(entry)
    return entries, bad


def _entry(line: bytes, algorithm: str) -> tuple[str, str] | None:
    rest = line.removeprefix(b"\\")
    if gnu := _GNU.fullmatch(rest):
        value, name = gnu[1], gnu[2]
    elif (bsd := _BSD.fullmatch(rest)) and _same(bsd[1].decode(), algorithm):
        name, value = bsd[2], bsd[3]
    else:
        return None
    if len(value) != 2 * hashlib.new(algorithm).digest_size or b"\0" in name:
        return None
    if rest != line:
        if not _ESCAPED.fullmatch(name):
            return None  # nobody writes such a thing
        name = re.sub(rb"\\[\\nr]", lambda escape: _MEANT[escape[0]], name)
    return os.fsdecode(name), value.decode().lower()


def _same(tag: str, algorithm: str) -> bool:
    return tag.lower().replace("-", "_") == algorithm  # BLAKE2b, SHA3-256
