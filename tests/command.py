"""The command line in a process of its own, as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "aioring", *map(os.fspath, map(_text, arguments))]


def _text(argument: object) -> Any:
    return argument if isinstance(argument, str | bytes | os.PathLike) else str(argument)


def aioring(*arguments: object, **given: Any) -> subprocess.CompletedProcess[Any]:
    """Runs it to its end, into pipes. Whatever happens, nobody sees a traceback or an escape code."""
    options: dict[str, Any] = {"timeout": 30, "check": False, "capture_output": True, "text": True, "env": ENVIRONMENT} | given
    if options.get("stdout") is not None:
        del options["capture_output"]
        options["stderr"] = subprocess.PIPE
    done = subprocess.run(command(*arguments), **options)
    for said in (done.stdout or "", done.stderr):
        text = said if isinstance(said, str) else said.decode(errors="replace")
        assert "Traceback" not in text, text
        assert "Warning" not in text, text
    return done


def fails(*arguments: object, **options: Any) -> str:
    """The one line that it says."""
    done = aioring(*arguments, **options)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    return str(line)
