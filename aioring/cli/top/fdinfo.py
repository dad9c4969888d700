"""The rings of any process, as /proc/PID/fdinfo tells them (io_uring/fdinfo.c): what it takes is the right to look, which
is ptrace(2)'s. Which lines there are depends on the kernel; what is not told is None.

    SqHead, SqTail                 entries that the kernel has not taken yet: between the two
    CqHead, CqTail                 completions that the program has not taken yet
    CachedSqHead - CqTail          about how many are in the kernel: each entry taken gives one completion, but for those
                                   that give several (multishot), or none (IOSQE_CQE_SKIP_SUCCESS)
    CqOverflowList                 completions that had no room
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field

__all__ = ["KernelRing", "listening", "parse", "rings_of"]

_RING = "anon_inode:[io_uring]"
_WRAP = 1 << 32
_TRIES = 5


@dataclass(frozen=True, slots=True)
class KernelRing:
    """One ring, as the kernel sees it. Numbers that only grow wrap at 2**32."""

    fd: int
    numbers: dict[str, int] = field(default_factory=dict)  # "SqHead": 7 ...
    overflown: int | None = None
    files: int | None = None  # registered
    buffers: int | None = None
    sqpoll: bool = False

    def between(self, head: str, tail: str) -> int | None:
        if head not in self.numbers or tail not in self.numbers:
            return None
        return (self.numbers[tail] - self.numbers[head]) % _WRAP

    @property
    def queued(self) -> int | None:
        return self.between("SqHead", "SqTail")

    @property
    def unseen(self) -> int | None:
        return self.between("CqHead", "CqTail")

    @property
    def in_kernel(self) -> int | None:
        """About; None where it makes no sense: a completion may have been posted since the entries were counted."""
        head = "CachedSqHead" if "CachedSqHead" in self.numbers else "SqHead"
        found = self.between("CqTail", head)
        return None if found is None or found > _WRAP // 2 else max(found - (self.overflown or 0), 0)

    def since(self, before: KernelRing | None, name: str) -> int | None:
        """How far a number has gone."""
        if before is None or name not in self.numbers or name not in before.numbers:
            return None
        return (self.numbers[name] - before.numbers[name]) % _WRAP


def rings_of(pid: int) -> list[KernelRing]:
    """Raises `ProcessLookupError`, `PermissionError`."""
    fds = sorted(fd for fd, link in _links(pid).items() if link == _RING)
    return [ring for fd in fds if (ring := _ring(pid, fd)) is not None]


def listening(pid: int, name: str) -> str | None:
    """The path, as the process sees it, of a Unix socket of its that has such a name."""
    inodes = {link[8:-1].encode() for link in _links(pid).values() if link.startswith("socket:[")}
    for line in _bytes(f"/proc/{pid}/net/unix", 64 << 20).split(b"\n")[1:]:
        parts = line.split(b" ", 6)
        inode, _, path = parts[-1].lstrip(b" ").partition(b" ")  # the path may have blanks in it
        if inode in inodes and os.path.basename(path) == os.fsencode(name):
            return os.fsdecode(path)
    return None


def _links(pid: int) -> dict[int, str]:
    folder = f"/proc/{pid}/fd"
    found = {}
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, PermissionError) as error:
        if isinstance(error, PermissionError) and not _is_zombie(pid):
            raise
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid)) from None
    if not names and _is_zombie(pid):  # as root sees one
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))
    for name in names:
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
    return found


def _is_zombie(pid: int) -> bool:
    """It has ended, and nobody has asked how: it has no files any more."""
    return _bytes(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()[:1] == [b"Z"]


def _bytes(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _ring(pid: int, fd: int) -> KernelRing | None:
    ring = None
    for _ in range(_TRIES):
        told = _bytes(f"/proc/{pid}/fdinfo/{fd}", 4 << 20)  # some kernels list every queued entry
        if not told:
            return None  # closed meanwhile
        ring = parse(fd, told.decode("ascii", "backslashreplace").split("\n"))
        if ring.numbers:
            break
        time.sleep(0.001)  # the kernel tells nothing of a ring that is being entered (mutex_trylock)
    return ring


def parse(fd: int, lines: list[str]) -> KernelRing:
    """A line is `Name:\\tvalue`; what is listed below one is indented, or has a name that is a number."""
    numbers: dict[str, int] = {}
    overflown: int | None = None
    inside = ""
    for line in lines:
        name, _, value = line.partition(":")
        listed = line[:1].isspace() or name.strip().isdigit()
        if listed:
            if inside == "CqOverflowList":
                overflown = (overflown or 0) + 1
            continue
        inside = name
        if name == "CqOverflowList":
            overflown = 0
        word = value.split()[0] if value.split() else ""
        try:
            numbers[name] = int(word, 16 if word.startswith("0x") else 10)
        except ValueError:
            continue
    return KernelRing(
        fd,
        {name: number % _WRAP for name, number in numbers.items() if name.startswith(("Sq", "Cq", "Cached"))},
        overflown,
        numbers.get("UserFiles"),
        numbers.get("UserBufs"),
        numbers.get("SqThread", -1) > 0,
    )
