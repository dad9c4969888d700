"""Takes the screens of docs/screens.md: `bench` and `top` in a real terminal (tmux), where io_uring is allowed and where it
is not. By hand: it needs root, tmux and rich, and takes five minutes.

    python docs/screens.py          # docs/screens.md, docs/images/bench.svg, docs/images/top.svg
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SERVER = "aioring-screens"  # tmux's own, beside anybody's
END = "--end--"

# EPERM, as from Docker's default profile; then the command.
REFUSE = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from measure import refuse_io_uring
refuse_io_uring()
os.execv(sys.argv[1], sys.argv[1:])
"""


class Place(NamedTuple):
    title: str
    before: str  # of the command
    folder: str  # where it runs, and where the demo has its files


def places(disk: str, memory: str, fixed: str) -> list[Place]:
    refused = f"{shlex.quote(sys.executable)} -c {shlex.quote(REFUSE)}"
    return [
        Place("io_uring allowed", "", disk),
        Place("io_uring refused by seccomp, as in a default container", refused, disk),
        Place("no liburing: plain system calls", "env AIORING_LIBURING=none", disk),
        Place("a tmpfs", "", memory),
        Place("a folder that is read-only", "", fixed),
    ]


@contextmanager
def folders() -> Iterator[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="screens-") as base:
        found = [os.path.join(base, name) for name in ("data", "memory", "fixed")]
        for folder in found:
            os.mkdir(folder)
        for folder, options in ((found[1], "size=600m"), (found[2], "ro")):
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        try:
            yield found[0], found[1], found[2]
        finally:
            for folder in found[1:]:
                subprocess.run(["umount", "--lazy", folder], check=True)  # the shell there may end later


def tmux(*words: str) -> str:
    return subprocess.run(["tmux", "-L", SERVER, *words], capture_output=True, text=True, check=True).stdout


def screen(place: Place, words: str, until: str, size: tuple[int, int] = (100, 42), after: float = 0.5) -> str:
    """What stands there, with its colours, when `until` does, so many seconds after the start at the earliest."""
    temporary = place.folder if os.access(place.folder, os.W_OK) and "fixed" not in place.folder else "/var/tmp"
    ours = f"{place.before} {sys.executable} -m aioring {words}"
    command = f"env TMPDIR={temporary} PYTHONPATH={ROOT} {ours}; echo {END}; sleep 100"
    columns, lines = map(str, size)
    tmux("new-session", "-d", "-s", "one", "-x", columns, "-y", lines, "-c", place.folder, "bash", "-c", command)
    try:
        time.sleep(after)
        last = time.monotonic() + (10 if words.startswith("top") else 90)
        seen = ""
        while not re.search(until, plain(seen)) and time.monotonic() < last:  # (a tmpfs has nothing in flight)
            time.sleep(0.15)
            seen = tmux("capture-pane", "-p", "-e", "-t", "one").rstrip()
        return seen.partition(END)[0].rstrip()
    finally:
        tmux("kill-session", "-t", "one")


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())


def hide(text: str) -> str:
    """Where this machine keeps its files and its Python."""
    return re.sub(r"/var/tmp/screens-\w+", "/srv", text.replace(sys.executable, "python"))


def picture(text: str, title: str, path: Path, columns: int) -> None:
    """As SVG, by rich; with no font from elsewhere."""
    from rich.console import Console
    from rich.text import Text

    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(text))
        drawn = console.export_svg(title=title)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    path.write_text(drawn.replace("Fira Code", "ui-monospace, DejaVu Sans Mono"))


def main() -> int:
    parts = [
        "# Screens\n\nTaken by `docs/screens.py` in tmux: `aioring bench` and `aioring top --self-demo`, as "
        "[the command line](command-line.md) has them, where things are as one would like them and where they are not. "
        "On a virtual machine with 2 CPUs that others share."
    ]
    with folders() as found:
        for place in places(*found):
            parts.append(f"## {place.title[0].upper()}{place.title[1:]}")
            seen = screen(place, "bench", END)
            top = screen(place, "top --self-demo", r"in flight: [2-9]", (100, 30), after=4)
            if not place.before and place.folder == found[0]:
                picture(hide(seen), "aioring bench", ROOT / "docs" / "images" / "bench.svg", 100)
                picture(hide(top), "aioring top", ROOT / "docs" / "images" / "top.svg", 100)
            parts += [f"```\n$ aioring bench\n{plain(seen)}\n```", f"```\n$ aioring top --self-demo\n{plain(top)}\n```"]
            print(f"{place.title}: taken", flush=True)
    (ROOT / "docs" / "screens.md").write_text(hide("\n\n".join(parts)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
