"""The command line in a process of its own, as people run it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "aioring", *map(os.fspath, map(_text, arguments))]


def _text(argument: object) -> Any:
    return argument if isinstance(argument, str | bytes | os.PathLike) else str(argument)


def aioring(*arguments: object, **given: Any) -> subprocess.CompletedProcess[Any]:
    """Runs it to its end, into pipes. Whatever happens, nobody sees a traceback or an escape code."""
    options: dict[str, Any] = {
        "timeout": 30,
        "check": False,
        "capture_output": True,
        "text": True,
        "env": ENVIRONMENT,
    } | given
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


@contextmanager
def terminal(
    *arguments: object, columns: int, stdout: Path | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs it in a terminal of so many columns, of which the other end is given; `stdout`: into a file instead."""
    master, slave = pty.openpty()
    around = {**ENVIRONMENT, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", **environment}
    out = slave if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT, 0o600)
    ends: dict[str, Any] = {"stdin": slave, "stdout": out, "stderr": slave, "start_new_session": True}
    child = subprocess.Popen(command(*arguments), env=around, **ends)
    for fd in {slave, out}:
        os.close(fd)
    try:
        yield child, master
    finally:
        child.kill()
        child.wait()
        os.close(master)


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """For what another process does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def read_until(master: int, wanted: bytes, seconds: float = 15) -> bytes:
    """What a terminal shows, when this does."""
    seen, until = b"", time.monotonic() + seconds
    while wanted not in seen:
        if not select.select([master], [], [], max(until - time.monotonic(), 0))[0]:
            pytest.fail(f"{wanted!r} is not in {seen[:300]!r} ... {seen[-300:]!r}")
        try:
            seen += os.read(master, 65536)
        except OSError:
            pytest.fail(f"{wanted!r} is not in {seen[:300]!r} ... {seen[-300:]!r}")
    return seen
