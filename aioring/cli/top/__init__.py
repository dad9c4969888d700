"""`aioring top PID`: the rings of another process, live.

`fdinfo` has what the kernel tells of any program that uses io_uring; `peer` asks the program's own socket, where it is one
of aioring's that serves (aioring/observe/serving.py); `watched` puts both into samples, `view` makes tables of two of them.
`demo` is the program that `--self-demo` watches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

from ..console import console, cut, fail, number, plain, table, whole
from .view import Part, heading, parts
from .watched import Process, Sample

__all__ = ["add_to", "run"]

_EPILOG = """what it shows:
  in kernel     about how many I/Os the kernel has taken and not completed
  queued        entries that the kernel has not taken yet
  unseen        completions that the program has not taken yet
  overflown     completions that found the completion queue full

Tasks, files and latencies are shown of programs that use aioring and let themselves be watched: start them with
AIORING_OBSERVE=1, or have them call aioring.observe.serve().

examples:
  aioring top 4711
  aioring top 4711 --count 1 --json | jq '.kernel[].overflown'
  aioring top --self-demo                          a program made to be watched
"""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="what another process does with io_uring, live",
        description="What another process does with io_uring, live; of aioring's programs also by task and file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("pid", nargs="?", type=whole("a process id", 1, 1 << 31), metavar="PID", help="the process")
    which.add_argument(
        "--self-demo", action="store_true", help="start a small program that reads files, and watch that"
    )
    parser.add_argument("--socket", metavar="PATH", help="its socket, where aioring.observe.serve() was given a path")
    parser.add_argument(
        "-i", "--interval", type=number("seconds", 0.05, 86400), default=1.0, metavar="S", help="seconds; default: 1"
    )
    parser.add_argument(
        "-n",
        "--count",
        type=whole("how often", 1, 1 << 31),
        default=0,
        metavar="N",
        help="end after so many; default: go on",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON each time, of counters since the start")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if not sys.platform.startswith("linux"):
        fail("only on Linux: it reads /proc")
    if arguments.self_demo and arguments.socket:
        fail("--socket is for a PID: the demo has its socket at the usual place")
    with (
        _demo() if arguments.self_demo else nullcontext(arguments.pid) as pid,
        closing(Process(pid, arguments.socket)) as process,
    ):
        _watch(process, arguments)


@contextmanager
def _demo() -> Iterator[int]:
    """The pid of a program that is made to be watched. In a session of its own: what is typed, and the end of the terminal,
    is for us; it ends when its input does, and cleans up."""
    command = [sys.executable, "-m", "aioring.cli.top.demo"]
    environment = {**os.environ, "AIORING_OBSERVE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    demo: Any = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        if not demo.stdout.readline():  # it says so when there is something to see
            said = demo.stderr.read().decode(errors="replace").strip().splitlines()
            fail(f"the demo has not begun: {said[-1] if said else f'status {demo.wait()}'}")
        yield demo.pid
    finally:
        with suppress(OSError):
            demo.stdin.close()
        for end in (demo.stdout, demo.stderr):
            end.close()
        try:
            demo.wait(5)
        except subprocess.TimeoutExpired:
            demo.kill()
            demo.wait()


def _watch(process: Process, arguments: argparse.Namespace) -> None:
    before, now = None, process.sample()
    screen = console()
    if arguments.json or screen is None or arguments.count:
        left = arguments.count or -1
        if not arguments.json:  # rates need two samples
            time.sleep(min(arguments.interval, 1.0))
            before, now = now, process.sample()
        while left:
            print(json.dumps(_as_dict(process, now)) if arguments.json else _text(process, before, now), flush=True)
            left -= 1
            if left:
                time.sleep(arguments.interval)
                before, now = now, process.sample()
        return
    from rich.live import Live

    # Ctrl-Z waits for `sigtimedwait`: the terminal has its own screen while we are stopped. (Not where it is ignored.)
    stops = {signal.SIGTSTP} if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL else set()
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        while True:
            with Live(console=screen, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(_screen(process, before, now, screen), refresh=True)
                    if signal.sigtimedwait(stops, arguments.interval):
                        break
                    before, now = now, process.sample()
            signal.raise_signal(signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)  # stopped here, until SIGCONT
            signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)


def _text(process: Process, before: Sample | None, now: Sample) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = [line if not width else line[:width] for line in heading(process, now)]
    for part in parts(before, now, 40):
        lines += ["", part.title, *plain(part.columns, part.rows, width)]
    return "\n".join(lines) + "\n"


def _screen(process: Process, before: Sample | None, now: Sample, screen: Any) -> Any:
    from rich.console import Group
    from rich.text import Text

    size = screen.size
    lines: list[Any] = [Text(time.strftime("%H:%M:%S  aioring top"), style="bold")]
    lines += [Text(cut(line, size.width)) for line in heading(process, now)]
    shown: list[Part] = parts(before, now, max(size.height - 12, 5))
    for part in shown:
        lines += [Text(""), Text(cut(part.title, size.width), style="bold"), table(part.columns, part.rows, size.width)]
    return Group(*lines)


def _as_dict(process: Process, sample: Sample) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "command": process.name,
        "note": sample.note,
        "kernel": None
        if sample.kernel is None
        else [
            {**asdict(ring), "in_kernel": ring.in_kernel, "queued": ring.queued, "unseen": ring.unseen}
            for ring in sample.kernel
        ],
        "aioring": None if sample.ours is None else asdict(sample.ours),
    }
