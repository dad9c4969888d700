"""`aioring cp`, `cat` and `sum`: aioring's copies and streams, for trying them on one's own data.

What goes wrong with one file is said in one line, and the next one has its turn; the exit status is 1 then.
"""

from __future__ import annotations

from typing import Any

import aioring

from ..console import fail
from . import cat, cp, sum

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    for command in (cp, cat, sum):
        parser = command.add_to(commands)
        parser.set_defaults(run=run, work=command.run)


def run(arguments: Any) -> None:
    if not hasattr(aioring, "read_stream"):
        fail("files need anyio, which is missing: pip install aioring-io")
    arguments.work(arguments)
