"""A process that is watched: one `Sample` after the other, and what changed between two of them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

from ..console import fail, reason_of
from . import fdinfo, peer

__all__ = ["Process", "Sample"]

_NO_SOCKET = (
    "it has no aioring socket: AIORING_OBSERVE=1 or aioring.observe.serve() shows tasks and files (or --socket)"
)


@dataclass(frozen=True, slots=True)
class Sample:
    when: float
    kernel: list[fdinfo.KernelRing] | None  # None: not for us to see
    ours: peer.Snapshot | None
    note: str  # why there is no `ours`, or no `kernel`


class Process:
    """`sample` again and again, until it raises `Failure`: the process is gone."""

    def __init__(self, pid: int, path: str | None = None) -> None:
        """`path`: of its socket, where it has one of its own."""
        self.pid, self._path = pid, path
        self._born = fdinfo.born(pid)
        self._peer: peer.Peer | None = None
        self._name = ""

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    @property
    def name(self) -> str:
        """Its command line, which another has after execve(2); the last that it had, where it has none any more."""
        with suppress(OSError), open(f"/proc/{self.pid}/cmdline", "rb") as file:
            now = file.read(4096).replace(b"\0", b" ").decode(errors="backslashreplace").strip()
            self._name = now or self._name
        return self._name

    def sample(self) -> Sample:
        note = ""
        try:
            kernel = fdinfo.rings_of(self.pid)
        except ProcessLookupError:
            fail(f"there is no process {self.pid}")
        except PermissionError:
            kernel = None
            who = "root to see here (a sandbox?)" if os.geteuid() == 0 else "this user to see: ask as its user, or root"
            note = f"the rings of process {self.pid} are not for {who}"
        if kernel is None and self._path is None:
            fail(note)
        ours, why = self._ask()
        born = fdinfo.born(self.pid)
        if born is not None and born != self._born:
            fail(f"there is no process {self.pid} any more: another has its number")
        if ours is None and self._path is not None:
            fail(f"{self._path}: {why}")
        return Sample(time.monotonic(), kernel, ours, why or note)

    def _ask(self) -> tuple[peer.Snapshot | None, str]:
        """Another try each time: the program may begin to serve, or stop."""
        if self._peer is not None:
            try:
                return self._peer.ask(), ""
            except (peer.HungUp, OSError):
                self.close()  # we have been silent for long: it is asked anew
            except peer.Strange as strange:
                self.close()
                return None, str(strange)
        try:
            self._peer = peer.find(self.pid) if self._path is None else peer.Peer(self._path, self.pid)
            return (None, _NO_SOCKET) if self._peer is None else (self._peer.ask(), "")
        except ConnectionRefusedError:
            why = "nobody listens there: a socket that is stale, or no socket"
        except peer.Strange as strange:
            why = str(strange)
        except ProcessLookupError:
            fail(f"there is no process {self.pid}")
        except OSError as error:
            why = reason_of(error)
        self.close()
        return None, why
