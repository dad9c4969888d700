"""Every error that aioring raises of its own, and how an errno becomes the right `OSError`.

Called by the engine when an I/O has failed and by the ring when it is misused. Errors are made here and nowhere else,
so that each one says what was asked, what happened and what to do instead.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any

__all__ = [
    "AioringError",
    "BlockBeyondEndError",
    "LogDamagedError",
    "RingClosedError",
    "RingUnavailableError",
    "WrongLoopError",
    "again",
    "os_error",
]


class AioringError(Exception):
    """Base of aioring's own errors. A failed I/O is an `OSError` instead."""


class RingClosedError(AioringError):
    """The ring is closed, was never started, or was closed while this operation waited."""

    begun = False  # it is carried out all the same, or will be: by the kernel, or by a worker who had taken it


class WrongLoopError(AioringError):
    """The ring belongs to another event loop, another thread or another process."""


class BlockBeyondEndError(AioringError, EOFError):
    """A read stream was asked for a block of which the file has no byte. The next `anext()` goes on behind it."""


class LogDamagedError(AioringError):
    """A log has lost what was on the disk. `offset`: where the record stands that is not there any more, in bytes;
    `filename`: of the log. What stands before can be read with `Log(path, readonly=True)`."""

    def __init__(self, what: str, filename: Any, offset: int) -> None:
        super().__init__(
            f"{what}: {filename!r} at offset {offset}. Log(path, readonly=True) reads what stands before; a copy of the "
            "log may have the rest"
        )
        self.filename, self.offset = filename, offset


class RingUnavailableError(AioringError, OSError):
    """The method that was asked for by name cannot be had here.

    `errno` is what the kernel said, `hint` says in words what refuses it and what to do.
    """

    def __init__(self, errno: int, message: str, hint: str) -> None:
        super().__init__(errno, message)
        self.hint = hint

    def __str__(self) -> str:
        return f"[Errno {self.errno}] {self.strerror}: {self.hint}"


# What the kernel restarts inside itself and lets slip out of openat and splice when they are cancelled: ERESTARTSYS,
# ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (linux/errno.h). They have no name in user space.
RESTARTS = frozenset({512, 513, 514, 516})


def os_error(
    errno: int, filename: Any = None, filename2: Any = None, note: str | None = None, link: int | None = None
) -> OSError:
    """Make the `OSError` subclass for `errno`, with file names where they are known and a note of what was asked."""
    if errno in RESTARTS:
        errno = _errno.EINTR
    if filename2 is not None:
        error = OSError(errno, os.strerror(errno), filename, None, filename2)
    elif filename is not None:
        error = OSError(errno, os.strerror(errno), filename)
    else:
        error = OSError(errno, os.strerror(errno))
    if note is not None:
        error.add_note(note)
    if link is not None:
        error.link = link  # type: ignore[attr-defined]
        error.add_note(f"link {link} of its chain")
    return error


def about(error: OSError, name: Any) -> OSError:
    """The same about this file, whatever file it was that failed."""
    error.filename = name
    del error.filename2  # one that was set to None would be printed: "'name' -> None"
    return error


def again(error: BaseException) -> BaseException:
    """The same error for another place: one that is raised twice would gather the tracebacks of both."""
    if isinstance(error, OSError):
        made: BaseException = os_error(error.errno or _errno.EIO, error.filename, error.filename2)
    else:
        made = type(error)(*error.args)
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made
