"""Asking a program's socket (`aioring.observe.serve`). What comes is believed in nothing: it must be from the process that
was asked, be there in time, not be too large, and have the shape that is expected; its text is made printable.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from ...observe.serving import REQUEST_LINE, name_of
from ..console import printable
from .fdinfo import listening

__all__ = ["IO", "HungUp", "Operation", "Peer", "RingSeen", "Snapshot", "Strange", "find"]

LARGEST = 8 << 20  # bytes of an answer
PATIENCE = 2.0  # seconds until it is there in full
_LONGEST = 300  # letters of a name
_MOST = 1000  # things in a list


class Strange(Exception):
    """What came is no answer of aioring's."""


class HungUp(Strange):
    """It has left."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one ring, counted since its start."""

    count: int
    bytes: int
    page_cache: int
    errors: int
    p50: float | None
    p99: float | None
    worst: float | None


@dataclass(frozen=True, slots=True)
class RingSeen:
    name: str
    method: str
    depth: int
    reason: str
    operations: dict[str, Operation]
    submissions: int
    completions: int


@dataclass(frozen=True, slots=True)
class IO:
    """One I/O in flight."""

    ring: str
    state: str
    operation: str
    target: str
    offset: int | None
    length: int | None
    age: float  # seconds
    task: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    now: float
    rings: tuple[RingSeen, ...]
    in_flight: tuple[IO, ...]
    in_flight_total: int


class Peer:
    """A connection to the program. `ask` again and again; `close`."""

    def __init__(self, path: str, pid: int, seen_from: str = "") -> None:
        """`seen_from`: "/proc/PID/root", where the path is as the process sees it (it may have mounts of its own).

        Raises `OSError`: ECONNREFUSED: nobody listens there any more; `Strange`: it is another process.
        """
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(PATIENCE)
            self._connect(seen_from + path)
            who = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if who not in (pid, 0):  # 0: of a namespace that we cannot see into
                raise Strange(f"{printable(path)} is served by process {who}, not by {pid}")
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> None:
        if len(os.fsencode(path)) <= 107:
            self._socket.connect(path)
            return
        # A socket's path has 107 bytes at most (unix(7)); below /proc/PID/root it may be longer.
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.close(folder)

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> Snapshot:
        """Raises `OSError`, `Strange`."""
        until = time.monotonic() + PATIENCE
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.sendall(REQUEST_LINE)
            parts: list[bytes] = []
            size = 0
            while not parts or not parts[-1].endswith(b"\n"):
                self._socket.settimeout(max(until - time.monotonic(), 0.001))  # of the whole, not of each byte
                part = self._socket.recv(min(1 << 18, LARGEST + 1 - size))
                parts.append(part)
                size += len(part)
                if not part:
                    raise HungUp("it has hung up" if size == 0 else "it has hung up in the middle of an answer")
                if size > LARGEST:
                    raise Strange(f"its answer has more than {LARGEST >> 20} MiB")
                if time.monotonic() > until:
                    raise TimeoutError
        except TimeoutError:
            raise Strange(f"it has not answered within {PATIENCE:g} s") from None
        return read(b"".join(parts))


def find(pid: int) -> Peer | None:
    """The socket that a process has under the name `serve` gives it, wherever it lies; None: it has none.

    Raises `OSError` and `Strange` as `Peer`, `ProcessLookupError`, `PermissionError`.
    """
    path = listening(pid, name_of(_own_number(pid)))
    return None if path is None else Peer(path, pid, f"/proc/{pid}/root")


def _own_number(pid: int) -> int:
    """What the process takes for its pid: in a container another than ours."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid)) from None
    return pid


# --- what came ----------------------------------------------------------------------------------------------------------


def read(line: bytes) -> Snapshot:
    """Raises `Strange`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Strange("it does not speak aioring's language") from None
    try:
        return _snapshot(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise Strange("its answer has another shape than this version's: is it another version of aioring?") from None


def _snapshot(found: Any) -> Snapshot:
    if found["aioring"] != 1:
        raise ValueError
    return Snapshot(
        now=_number(found["now"]),
        rings=tuple(_ring(ring) for ring in _list(found["rings"])),
        in_flight=tuple(_io(io) for io in _list(found["in_flight"])),
        in_flight_total=_whole(found["in_flight_total"]),
    )


def _ring(found: Any) -> RingSeen:
    operations = {_text(name): _operation(one) for name, one in _limited(found["operations"].items())}
    return RingSeen(
        name=_text(found["ring"]),
        method=_text(found["method"]),
        depth=_whole(found["depth"]),
        reason=_text(found["fallback_reason"] or ""),
        operations=operations,
        submissions=_whole(found["submissions"]),
        completions=_whole(found["completions"]),
    )


def _operation(found: Any) -> Operation:
    waited = found["waited"]
    times = [None if not waited or not waited["count"] else _number(waited[name]) for name in ("p50", "p99", "worst")]
    return Operation(*(_whole(found[name]) for name in ("count", "bytes", "page_cache", "errors")), *times)


def _io(found: Any) -> IO:
    task = _text(found["task"] or "")
    if found["coroutine"]:
        task = f"{task} ({_text(found['coroutine'])})"
    return IO(
        ring=_text(found["ring"]),
        state=_text(found["state"]),
        operation=_text(found["operation"]),
        target=_text(found["target"]),
        offset=None if found["offset"] is None else _whole(found["offset"]),
        length=None if found["length"] is None else _whole(found["length"]),
        age=_whole(found["age"]) / 1e6,
        task=task,
    )


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise TypeError
    return _limited(found)


def _limited(found: Any) -> list[Any]:
    if len(found) > _MOST:
        raise ValueError
    return list(found)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError
    return printable(found[:_LONGEST])


def _whole(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or abs(found) >= 1 << 64:
        raise TypeError
    return found


def _number(found: Any) -> float:
    if not isinstance(found, int | float) or isinstance(found, bool) or not abs(found) < 1e18:
        raise TypeError
    return float(found)
