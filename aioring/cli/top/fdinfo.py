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

__all__ = ["KernelRing", "born", "listening", "parse", "rings_of"]

_RING = "anon_inode:[io_uring]"
_WRAP = 1 << 32
_TRIES = 5
_ENDED = ("Z", "X")


@dataclass(frozen=True, slots=True)
class KernelRing:
    """One ring, as the kernel sees it. Numbers that only grow wrap at 2**32. `inode`: its own; another ring may come to
    have its fd."""

    fd: int
    numbers: dict[str, int] = field(default_factory=dict)  # "SqHead": 7 ...
    overflown: int | None = None
    files: int | None = None  # registered
    buffers: int | None = None
    sqpoll: bool = False
    inode: int | None = None

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
        """How far a number has gone; None where `before` tells nothing of that: it is another ring's."""
        if before is None or self.inode != before.inode or name not in self.numbers or name not in before.numbers:
            return None
        gone = (self.numbers[name] - before.numbers[name]) % _WRAP
        return gone if gone < _WRAP // 2 else None


def rings_of(pid: int) -> list[KernelRing]:
    """Raises `ProcessLookupError`, `PermissionError`."""
    place, links = _links(pid)
    fds = sorted(fd for fd, link in links.items() if link == _RING)
    return [ring for fd in fds if (ring := _ring(place, fd)) is not None]


def listening(pid: int, name: str) -> str | None:
    """The path, as the process sees it, of a Unix socket of its that has such a name."""
    place, links = _links(pid)
    inodes = {link[8:-1].encode() for link in links.values() if link.startswith("socket:[")}
    for line in _bytes(f"{place}/net/unix", 64 << 20).split(b"\n")[1:]:
        parts = line.split(b" ", 6)
        inode, _, path = parts[-1].lstrip(b" ").partition(b" ")  # the path may have blanks in it
        if inode in inodes and os.path.basename(path) == os.fsencode(name):
            return os.fsdecode(path)
    return None


def _links(pid: int) -> tuple[str, dict[int, str]]:
    """Where in /proc its files are to be seen, and what they are."""
    found: dict[int, str] = {}
    place = _place(pid)
    try:
        names = os.listdir(f"{place}/fd")
    except FileNotFoundError:
        raise _gone(pid) from None
    except PermissionError:
        if _state(place) in _ENDED:
            raise _gone(pid) from None
        raise
    for name in names:
        try:
            found[int(name)] = os.readlink(f"{place}/fd/{name}")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
    return place, found


def _place(pid: int) -> str:
    """A zombie has no files: it has ended, and nobody has asked how. But it may be but the main thread that has ended
    (pthread_exit(3)): then the others have them."""
    if _state(f"/proc/{pid}") not in _ENDED:
        return f"/proc/{pid}"
    try:
        others = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        others = []
    for thread in others:
        if _state(f"/proc/{pid}/task/{thread}") not in (*_ENDED, ""):
            return f"/proc/{pid}/task/{thread}"
    raise _gone(pid)


def _gone(pid: int) -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))


def _state(place: str) -> str:
    return (_fields(place) or [""])[0]


def _fields(place: str) -> list[str]:
    """Of proc_pid_stat(5), from the third on: before them stands a name, which may have anything in it."""
    return _bytes(f"{place}/stat", 4096).decode("ascii", "replace").rpartition(")")[2].split()


def born(pid: int) -> str | None:
    """When it was started, in the kernel's ticks: another process that comes to have its number was later."""
    fields = _fields(f"/proc/{pid}")
    return fields[19] if len(fields) > 19 else None


def _bytes(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _ring(place: str, fd: int) -> KernelRing | None:
    ring = None
    for _ in range(_TRIES):
        told = _bytes(f"{place}/fdinfo/{fd}", 4 << 20)  # some kernels list every queued entry
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
        numbers.get("ino"),
    )
