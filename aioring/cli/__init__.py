"""The command line: `aioring doctor`, `bench`, `top`, `cp`, `cat` and `sum`; also `python -m aioring`.

argparse and the standard library only: it has to run where little else does. `aioring-io[cli]` brings rich, which makes the
same lines easier to read in a terminal (console.py).
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from .console import Failure

__all__ = ["main"]

FAILED = 2

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what it returns is the exit status."""
    if sys.stdout is None:  # `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that this terminal has no letter for
    chosen = argparse.Namespace(status=0)
    try:
        try:
            _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments, chosen)
            chosen.run(chosen)
        finally:
            sys.stdout.flush()  # here, where a reader that has left can be told from a crash
    except KeyboardInterrupt:
        print("aioring: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Failure as failure:
        print(f"aioring {chosen.command}: {failure}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # whoever read our output has left (`| head`): what was found out stands
        _into_nothing()
    except OSError as error:
        print(f"aioring: the output cannot be written: {error.strerror}", file=sys.stderr)
        _into_nothing()
        return FAILED
    status: int = chosen.status
    return status


_ROOMS = {"doctor": "doctor", "bench": "bench", "top": "top", "cp": "data", "cat": "data", "sum": "data"}


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Of a command that is named only its own room is entered: the doctor has to run where the others' modules cannot be
    had. Here, within reach of `except KeyboardInterrupt`."""
    from .. import __version__

    wanted = next((word for word in arguments if not word.startswith("-")), "")
    rooms = [_ROOMS[wanted]] if wanted in _ROOMS else dict.fromkeys(_ROOMS.values())
    parser = argparse.ArgumentParser(
        prog="aioring", description="Asynchronous file I/O, straight from io_uring: what it finds on this machine."
    )
    parser.add_argument("--version", action="version", version=f"aioring {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in rooms:
        importlib.import_module(f".{room}", __name__).add_to(commands)
    return parser


def _into_nothing() -> None:
    """The interpreter flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
