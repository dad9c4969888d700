"""`aioring doctor [PATH]`: how aioring does its I/O here, why not better, and what to change.

`probe` makes a ring and uses it, `surroundings` looks at the kernel, limits and container, `place` tries what the file
system of PATH can do; `verdict` says what that means; `show` prints it. Nothing is concluded from a version that can be
tried.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import place, probe, surroundings, verdict
from .show import show

__all__ = ["add_to", "examine", "run"]

IO_URING, WORKS, BROKEN = 0, 1, 2  # exit status

_EPILOG = """exit status: 0 io_uring works here; 1 aioring works, on linux_aio or worker threads; 2 it does not

examples:
  aioring doctor                       the machine, and the current folder
  aioring doctor /var/lib/tiles        ... and the folder where the data lies
  aioring doctor --json | jq .advice
"""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="how aioring does its I/O here, and what to change",
        description="How aioring does its I/O on this machine and on PATH: what is used, what is not and why, and what to "
        "change.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", nargs="?", default=".", metavar="PATH", help="file or folder to try; default: this folder"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what is found, and leave the exit status in `arguments.status`, whatever becomes of the printing."""
    if not arguments.json:
        # A name that was mistyped is no finding.
        try:
            os.stat(arguments.path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"aioring doctor: {arguments.path}: {reason}", file=sys.stderr)
            arguments.status = BROKEN
            return
    report, arguments.status = examine(arguments.path)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def examine(path: str, method: Any = None) -> tuple[dict[str, Any], int]:
    """The report, ready for JSON, and the exit status. `method`: as `Ring` takes it."""
    report: dict[str, Any] = {
        **probe.probe(method),
        "kernel": surroundings.kernel(),
        "limits": surroundings.limits(),
        "container": surroundings.container(),
        "path": place.look(path),
    }
    report["verdict"], report["advice"] = verdict.verdict(report)
    keys = ("method", "fallback_reason", "kernel", "liburing", "features", "limits", "container", "path")
    ordered = {key: report[key] for key in (*keys, "verdict", "advice")}
    if report["method"] is None or "error" in report["path"]:
        return ordered, BROKEN
    return ordered, IO_URING if report["method"] == "io_uring" else WORKS
