"""Copy a tree, with a progress bar, and verify the copy: every file is read again and its hash compared.

`aioring.copy_tree` keeps what cp -a keeps (owners, modes, times, attributes, holes, links), shares blocks where the file
system can, and leaves nothing when it is interrupted. The part to copy comes first.

    python examples/backup.py                        # Python's own library, into a temporary folder
    python examples/backup.py ~/Pictures /mnt/disk/Pictures --durable
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import hashlib
import importlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio

import aioring

say = functools.partial(print, flush=True)

# --- the part to copy -------------------------------------------------------------------------------------------------


async def backup(source: Path, target: Path, durable: bool, progress: Any) -> int:
    """Returns how many bytes there are. Interrupted, it leaves nothing at `target`."""
    return await aioring.copy_tree(source, target, durable=durable, progress=progress)


async def digest(path: Path) -> str:
    """Of a file as it is on the disk, past the page cache, where that can be had."""
    ring, found = aioring.get_ring(), hashlib.sha256()
    # What was a file when it was listed may be a FIFO by now, whose writer nobody wants to wait for.
    fd = await ring.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG((await ring.stat(fd)).st_mode):
            raise OSError(errno.EINVAL, "it is no file any more", str(path))
        async with aioring.read_stream(fd, block_size=1 << 20, direct="try") as blocks:
            async for block in blocks:
                found.update(block.data)
    finally:
        await ring.close(fd)
    return found.hexdigest()


async def differences(source: Path, target: Path, progress: Any) -> list[str]:
    """The files of `source` whose copy is not the same, or is not there."""
    files = [(path, path.lstat()) for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    total, done = sum(status.st_size for _, status in files), 0
    found: list[str] = []
    left = iter(files)

    async def some() -> None:
        nonlocal done
        for path, status in left:
            copy = target / path.relative_to(source)
            try:
                if await digest(path) != await digest(copy):
                    found.append(f"{copy}: other content")
            except (OSError, EOFError) as error:  # gone meanwhile, or shorter than it was
                found.append(f"{copy}: {error}")
            done += status.st_size
            progress(done, total)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(some)
    return sorted(found)


# --- as people run it -------------------------------------------------------------------------------------------------


class Shown(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def bar(title: str) -> Iterator[Shown]:
    """With rich, on a terminal; else nothing is shown."""
    try:
        rich: Any = importlib.import_module("rich.progress") if sys.stderr.isatty() else None
    except ImportError:
        rich = None
    if rich is None:
        yield lambda done, total: None
        return
    columns = (rich.TextColumn(title), rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn())
    console: Any = importlib.import_module("rich.console").Console(stderr=True)
    with rich.Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


async def run(source: Path, target: Path, durable: bool, verify: bool) -> int:
    begun = time.perf_counter()
    with bar("copying") as progress:
        size = await backup(source, target, durable, progress)
    took = time.perf_counter() - begun
    say(
        f"copied {size:,} bytes to {target} in {took:.2f} s ({size / took / 1e6:,.0f} MB/s){', durably' if durable else ''}"
    )
    if not verify:
        return 0
    begun = time.perf_counter()
    with bar("verifying") as progress:
        wrong = await differences(source, target, progress)
    for line in wrong:
        print(f"backup: {line}", file=sys.stderr)
    said = f"{len(wrong)} files differ" if wrong else "all the same"
    say(f"verified by SHA-256 in {time.perf_counter() - begun:.2f} s: {said}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, nargs="?", default=Path(os.__file__).parent, help="default: Python's library"
    )
    parser.add_argument("target", type=Path, nargs="?", help="must not be there (default: in a temporary folder)")
    parser.add_argument("--durable", action="store_true", help="all of it is on the disk when it is done")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="do not read it again")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="backup-", dir="/var/tmp") as folder:
            target = arguments.target or Path(folder) / "copy"
            return asyncio.run(run(arguments.source, target, arguments.durable, arguments.verify))
    except (OSError, ValueError) as error:
        print(f"backup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("backup: interrupted: nothing is left of the copy", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
