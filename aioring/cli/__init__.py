"""The command line: `aioring doctor`, also `python -m aioring doctor`.

argparse and the standard library only: it has to run where little else does. `aioring-io[cli]` brings rich, which makes the
same lines easier to read in a terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import doctor

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what it returns is the exit status."""
    parser = argparse.ArgumentParser(
        prog="aioring", description="Asynchronous file I/O, straight from io_uring: what it finds on this machine."
    )
    parser.add_argument("--version", action="version", version=f"aioring {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor.add_to(commands)
    try:
        chosen = parser.parse_args(arguments)
        try:
            status: int = chosen.run(chosen)
        finally:
            sys.stdout.flush()  # here, where a reader that has left can be told from a crash
        return status
    except KeyboardInterrupt:
        print("aioring: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). The interpreter flushes once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
