"""`aioring cp`: `aioring.copy_file` and `aioring.copy_tree`, with a progress bar."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Any

import aioring

from ..console import fail, printable
from ..progress import WRONG, Trouble, bar

__all__ = ["add_to", "run"]

_EPILOG = """It is made beside TARGET and takes its place when it is whole: Ctrl-C leaves nothing.

examples:
  aioring cp big.iso /mnt/disk/
  aioring cp -r photos /mnt/disk/photos --durable
  aioring cp --direct big.iso copy.iso             past the page cache
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "cp",
        help="copy files and folders",
        description="Copy files and folders: blocks are shared where the file system can, holes stay holes, modes, times, "
        "owners and attributes are kept.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET", help="a name, or a folder that is there")
    parser.add_argument("-r", "--recursive", action="store_true", help="copy folders")
    parser.add_argument("--direct", action="store_true", help="past the page cache (O_DIRECT), where that can be had")
    parser.add_argument("--durable", action="store_true", help="it is on the disk when the command ends")
    parser.add_argument(
        "--reflink", choices=("auto", "always", "never"), default="auto", help="share blocks; default: auto"
    )
    parser.add_argument("--no-sparse", dest="sparse", action="store_false", help="write holes as zeros")
    parser.add_argument(
        "--no-preserve", dest="preserve", action="store_false", help="modes, times ... as of a new file"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    return parser


def run(arguments: argparse.Namespace) -> None:
    into = os.path.isdir(arguments.target)
    if len(arguments.source) > 1 and not into:
        fail(f"{arguments.target}: more than one source needs a folder that is there")
    if arguments.reflink == "always" and (arguments.direct or not arguments.sparse):
        fail("--reflink=always shares blocks, holes among them: it goes with neither --direct nor --no-sparse")
    trouble = Trouble(arguments)
    asyncio.run(_all(arguments, into, trouble))


async def _all(arguments: argparse.Namespace, into: bool, trouble: Trouble) -> None:
    begun, size = time.perf_counter(), 0
    made: set[str] = set()
    for source in arguments.source:
        target = arguments.target
        if into:
            target = os.path.join(target, os.path.basename(os.path.abspath(source)))
        try:
            if target in made:
                raise ValueError(f"{target} has just been made of another one: it is not replaced")
            made.add(target)
            size += await _one(arguments, source, target)
        except WRONG as error:
            trouble.with_one(error, source)
    took = time.perf_counter() - begun
    if not arguments.quiet and not arguments.status and sys.stderr.isatty():
        print(f"copied {size:,} bytes in {took:.2f} s ({size / took / 1e6:,.0f} MB/s)", file=sys.stderr)


async def _one(arguments: argparse.Namespace, source: str, target: str) -> int:
    tree = os.path.isdir(source)
    if tree and not arguments.recursive:
        raise ValueError("is a folder: say -r")
    options: dict[str, Any] = {
        "direct": "try" if arguments.direct else False,
        "reflink": arguments.reflink,
        "sparse": arguments.sparse,
        "preserve": arguments.preserve,
        "durable": arguments.durable,
    }
    copy = aioring.copy_tree if tree else aioring.copy_file
    with bar(printable(os.path.basename(os.path.abspath(source))), not arguments.quiet) as shown:
        return await copy(source, target, progress=shown, **options)
