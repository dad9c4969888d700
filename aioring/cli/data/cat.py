"""`aioring cat`: files to standard output, by read streams."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import aclosing
from typing import Any

from ..console import printable
from ..progress import WRONG, Trouble, bar
from .output import Output, Unwritable
from .reading import STDIN, pieces, size_of

__all__ = ["add_to", "run"]

_EPILOG = """examples:
  aioring cat access.log | grep -c 500
  aioring cat --direct big.bin > /dev/null         how fast is the disk?
  aioring cat part.* > whole
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "cat",
        help="files to standard output",
        description="Write files to standard output, one behind the other; `-` is standard input.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="*", default=["-"], metavar="FILE")
    parser.add_argument(
        "--direct", action="store_true", help="read past the page cache (O_DIRECT), where that can be had"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def run(arguments: argparse.Namespace) -> None:
    trouble = Trouble(arguments)
    asyncio.run(_all(arguments, trouble))


async def _all(arguments: argparse.Namespace, trouble: Trouble) -> None:
    out = Output(sys.stdout.fileno())
    try:
        await _each(arguments, out, trouble)
    finally:
        out.leave()


async def _each(arguments: argparse.Namespace, out: Output, trouble: Trouble) -> None:
    for name in arguments.file:
        title = "standard input" if name == STDIN else printable(os.path.basename(name))
        try:
            size = size_of(name)
            if size and out.is_of(os.stat(0 if name == STDIN else name)):
                raise ValueError("it is the output as well, and would have no end")
            with bar(title, not arguments.quiet and not sys.stdout.isatty()) as shown:
                done = 0
                async with aclosing(pieces(name, arguments.direct)) as data:
                    async for piece in data:
                        await out.write(piece)
                        done += len(piece)
                        shown(done, size)
        except Unwritable as unwritable:
            raise unwritable.error from None  # the command line says what that means: nobody may be reading
        except WRONG as error:
            trouble.with_one(error, name)
