"""The command line: `aioring doctor`, `bench`, `top`, `cp`, `cat` and `sum`; also `python -m aioring`.

argparse and the standard library only: it has to run where little else does. `aioring-io[cli]` brings rich, which makes the
same lines easier to read in a terminal (console.py).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .console import FILLED, Failure, reason_of

__all__ = ["main"]

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO, errno.EAGAIN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what it returns is the exit status."""
    _fill_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that this terminal has no letter for
    chosen = argparse.Namespace(status=0, command="")
    try:
        with _ended_like_control_c():
            try:
                _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments, chosen)
                if 1 in FILLED and chosen.command not in ("cp", "doctor"):  # the doctor's finding is its status
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                chosen.run(chosen)
            except (Exception, KeyboardInterrupt):
                _flush_what_is_taken()
                raise
            except SystemExit:  # of --help, say
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # here, where a reader that has left can be told from a crash
    except KeyboardInterrupt:
        _complain("aioring: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left (`| head`): what was found out stands
        _into_nothing()
    except OSError as error:
        if error.filename is None and error.errno in _OUTPUT:
            _complain(f"aioring: the output cannot be written: {error.strerror}")
        else:
            _complain(f"aioring {chosen.command}: {reason_of(error)}")
        _into_nothing()
        return FAILED
    except (Failure, ValueError) as error:  # ValueError: the environment says something that makes no sense
        _complain(f"aioring {chosen.command}: {reason_of(error)}")
        return FAILED
    status: int = chosen.status
    return status


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody may be listening: the exit status says it as well
        print(text, file=sys.stderr)


def _flush_what_is_taken() -> None:
    """Something else has gone wrong: nobody waits now for a reader that does not read."""
    with suppress(OSError, ValueError):
        if select.select([], [sys.stdout.fileno()], [], 0)[1]:
            sys.stdout.flush()
        else:
            _into_nothing()


_ROOMS = {"doctor": "doctor", "bench": "bench", "top": "top", "cp": "data", "cat": "data", "sum": "data"}


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Of a command that is named only its own room is entered: the doctor has to run where the others' modules cannot be
    had. Here, within reach of `except KeyboardInterrupt`."""
    from .. import __version__

    wanted = next((word for word in arguments if not word.startswith("-")), "")
    rooms = [_ROOMS[wanted]] if wanted in _ROOMS else dict.fromkeys(_ROOMS.values())
    parser = argparse.ArgumentParser(
        prog="aioring", description="Asynchronous file I/O, straight from io_uring: see what it does on this machine."
    )
    parser.add_argument("--version", action="version", version=f"aioring {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in rooms:
        importlib.import_module(f".{room}", __name__).add_to(commands)
    return parser


@contextmanager
def _ended_like_control_c() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up as Ctrl-C does, and end the process then as they do."""
    caught: list[int] = []

    def end(number: int, frame: Any) -> None:
        caught.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a job in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if caught:
            signal.raise_signal(caught[0])


def _fill_closed() -> None:
    """Of `<&-`, `>&-`, `2>&-`: no file that is opened later may become what is written to."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest that is free: this one
            FILLED.add(fd)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, open(nowhere, "w", closefd=False))  # noqa: SIM115 - for the rest of the process


def _into_nothing() -> None:
    """The interpreter flushes once more at exit."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
