"""Takes the screens of docs/screens.md: `bench` and `top` in a real terminal (tmux), where io_uring is allowed and where it
is not. `make screens` runs it, by hand: it needs root, tmux and rich, and takes three minutes.

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

# A filter that answers EPERM, as Docker's default profile does (seccomp(2)); then the command.
REFUSE = """
import ctypes, errno, os, struct, sys
rows = [(0x20, 0, 0, 0)]
for number in (425, 426, 427):
    rows += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
rows.append((0x06, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
head = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head, 0, 0) == 0
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


def screen(place: Place, words: str, until: str, size: tuple[int, int] = (100, 38)) -> str:
    """What stands there, with its colours, when `until` does."""
    temporary = place.folder if os.access(place.folder, os.W_OK) and "fixed" not in place.folder else "/var/tmp"
    command = f"env TMPDIR={temporary} PYTHONPATH={ROOT} {place.before} {sys.executable} -m aioring {words}; sleep 100"
    columns, lines = map(str, size)
    tmux("new-session", "-d", "-s", "one", "-x", columns, "-y", lines, "-c", place.folder, "bash", "-c", command)
    try:
        for _ in range(300):
            time.sleep(0.3)
            if re.search(until, tmux("capture-pane", "-p", "-t", "one")):
                time.sleep(2.5 if words.startswith("top") else 0.3)
                break
        return tmux("capture-pane", "-p", "-e", "-t", "one").rstrip()
    finally:
        tmux("kill-session", "-t", "one")


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())


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
        "[the command line](command-line.md) has them, where things are as one would like them and where they are not.\n"
        "(`bench` measured for 20 seconds instead of 36, on a machine with 2 CPUs.)"
    ]
    with folders() as found:
        for place in places(*found):
            parts.append(f"## {place.title[0].upper()}{place.title[1:]}")
            seen = screen(place, "bench --seconds 20", r"hold up everybody|aioring bench: |disk to wait for.*\n")
            top = screen(place, "top --self-demo", r"in flight: [1-9]", (100, 30))
            if not place.before and place.folder == found[0]:
                picture(seen, "aioring bench", ROOT / "docs" / "images" / "bench.svg", 100)
                picture(top, "aioring top", ROOT / "docs" / "images" / "top.svg", 100)
            parts += [f"```\n$ aioring bench\n{plain(seen)}\n```", f"```\n$ aioring top --self-demo\n{plain(top)}\n```"]
            print(f"{place.title}: taken", flush=True)
    hidden = re.sub(r"/var/tmp/screens-\w+", "/srv", "\n\n".join(parts))
    (ROOT / "docs" / "screens.md").write_text(hidden + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
