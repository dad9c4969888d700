"""The doorbell: the eventfd on which completions ring the event loop (a pipe where there is no eventfd).

Rung by the kernel (IORING_REGISTER_EVENTFD, plainly: the `_ASYNC` variant loses wake-ups), by worker threads, and by
the loop itself when it wants another turn. The counter coalesces: rung means "look", nothing more.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

__all__ = ["Doorbell"]

# PyDLL: neither call can wait (the fds are non-blocking), and `os.eventfd_read` would let the GIL go once a tick.
_libc = ctypes.PyDLL(None)
_read: Any = _libc.read
_write: Any = _libc.write
_ONE = ctypes.create_string_buffer((1).to_bytes(8, "little"), 8)
_HOLE = ctypes.create_string_buffer(512)
_HAS_EVENTFD = hasattr(os, "eventfd")


class Doorbell:
    """`fd` is what the loop watches. Ringing is safe from any thread until `close()`."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # whose loop watches it
        if _HAS_EVENTFD:
            self.fd = self._sink = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # pragma: no cover - not Linux
            self.fd, self._sink = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._sink, False)

    def ring(self) -> None:
        _write(self._sink, _ONE, 8)

    def drain(self) -> None:
        """Before looking, never after: what is rung after the look must ring again."""
        _read(self.fd, _HOLE, 8 if _HAS_EVENTFD else 512)

    def close(self) -> None:
        fds = {self.fd, self._sink}
        self.fd = self._sink = -1
        for fd in fds - {-1}:
            os.close(fd)
