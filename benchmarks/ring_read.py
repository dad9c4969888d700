"""4 KiB reads: aioring beside everybody else, idle, beside a thread that runs Python, and where io_uring is refused.

    python benchmarks/ring_read.py [--settings idle,busy,refused,overlay] [--loops asyncio,uvloop] [--rounds 5]
                                   [--seconds 0.3] [--folder /var/tmp] [--write]

Each setting and loop is a process of its own, so that a seccomp filter, or a busy thread, is there from the start. Within
it everybody takes turns, round after round: what is printed are medians, as rates, as ratios to `os.pread` in a plain loop
of the same process, and as CPU time per read. Machines are shared and noisy: read the ratios. `--write` puts the table into
docs/benchmarks/ring_read.md. Peers come with the extra `bench`; who is not installed is said so.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import errno
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rows
from measure import Table, be_busy, fio, refuse_io_uring

HERE = Path(__file__).parent
SETTINGS = {
    "idle": "Idle: nothing else runs in the process",
    "busy": "Beside one thread that runs Python",
    "refused": "io_uring refused by a seccomp filter, as Docker's default profile does",
    "overlay": "The same on overlayfs, as in a container's own file system",
}
SIZE = 256 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--loops", default="asyncio,uvloop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each cell in each round")
    parser.add_argument("--folder", default="/var/tmp", help="where the data file is made: a real disk")
    parser.add_argument("--only", help="rows whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/ring_read.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    unknown = set(args.settings.split(",")) - set(SETTINGS)
    if unknown:
        parser.error(f"unknown settings {', '.join(unknown)}: {', '.join(SETTINGS)}")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="aioring-bench-") as folder:
        path = make_data(Path(folder))
        text = [head()]
        for setting in args.settings.split(","):
            text.append(f"## {SETTINGS[setting]}\n")
            file, undo = path, None
            if setting == "overlay":
                file, undo = on_overlayfs(path, Path(folder))
                if undo is None:
                    text.append("overlayfs cannot be mounted here.\n")
                    print(text[-1])
                    continue
            try:
                for loop in args.loops.split(","):
                    text += run(args, setting, loop, file)
            finally:
                if undo is not None:
                    subprocess.run(undo, check=False)
        if args.write:
            target = HERE.parent / "docs" / "benchmarks" / "ring_read.md"
            target.write_text("\n".join(text), encoding="utf-8")
            print(f"written: {target}")


def run(args: argparse.Namespace, setting: str, loop: str, path: Path) -> list[str]:
    """One process: the tables that it printed."""
    command = [sys.executable, __file__, "--child", json.dumps([setting, loop, str(path)])]
    command += ["--rounds", str(args.rounds), "--seconds", str(args.seconds)]
    if args.only:
        command += ["--only", args.only]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    text = f"### {loop}\n\n{done.stdout}"
    if done.returncode:
        text += f"\nThis run ended with exit code {done.returncode}.\n"
    print(text, flush=True)
    return [text]


def child(args: argparse.Namespace) -> None:
    setting, loop, path = json.loads(args.child)
    if setting in ("refused", "overlay"):
        refuse_io_uring()
    if setting == "busy":
        be_busy()
    random.seed(1)
    table = Table()
    work = rows.measure(table, setting, path, args.rounds, args.seconds, args.only or "")
    if loop == "uvloop":
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
    if setting == "idle" and loop == "asyncio":
        fio(table, path)
    print(table)


def make_data(folder: Path) -> Path:
    path = folder / "data"
    try:
        with open(path, "wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SystemExit(f"no room for {SIZE >> 20} MiB of data in {folder.parent}: name another --folder") from None
    return path


def on_overlayfs(path: Path, folder: Path) -> tuple[Path, list[str] | None]:
    """The file seen through an overlay mount, and the command that takes it off; None where none can be made."""
    lower, upper, work, merged = (folder / name for name in ("lower", "upper", "work", "merged"))
    for one in (lower, upper, work, merged):
        one.mkdir()
    os.link(path, lower / "data")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    if not shutil.which("mount"):
        return path, None
    done = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], capture_output=True, check=False
    )
    return (merged / "data", ["umount", str(merged)]) if done.returncode == 0 else (path, None)


def head() -> str:
    machine: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }
    return (
        "# 4 KiB reads, beside everybody else\n\n"
        "Made by `python benchmarks/ring_read.py --write`; medians of alternating rounds, cells that we lose included. "
        '"ratio" is to `os.pread` in a plain loop of the same process.\n\n'
        f"{machine['date']}, Python {machine['python']}, Linux {machine['kernel']}, {machine['cores']} cores, a virtual "
        "disk. Machines are shared and noisy: run it on yours before you believe it.\n"
    )


if __name__ == "__main__":
    main()
