"""The command line: `aioring doctor`, also `python -m aioring doctor`.

argparse and the standard library only: it has to run where little else does. `aioring-io[cli]` brings rich, which makes the
same lines easier to read in a terminal.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

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
            _parser().parse_args(arguments, chosen)
            chosen.run(chosen)
        finally:
            sys.stdout.flush()  # here, where a reader that has left can be told from a crash
    except KeyboardInterrupt:
        print("aioring: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left (`| head`): what was found out stands
        _into_nothing()
    except OSError as error:
        print(f"aioring: the output cannot be written: {error.strerror}", file=sys.stderr)
        _into_nothing()
        return 2
    status: int = chosen.status
    return status


def _parser() -> argparse.ArgumentParser:
    from .. import __version__
    from . import doctor  # here, within reach of `except KeyboardInterrupt`

    parser = argparse.ArgumentParser(
        prog="aioring", description="Asynchronous file I/O, straight from io_uring: what it finds on this machine."
    )
    parser.add_argument("--version", action="version", version=f"aioring {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor.add_to(commands)
    return parser


def _into_nothing() -> None:
    """The interpreter flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
