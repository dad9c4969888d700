"""`aioring cat`: files to standard output, by read streams."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import aclosing
from typing import Any

import aioring

from ..console import printable
from ..progress import WRONG, Trouble, bar, need_output
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
    need_output()
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


class Unwritable(Exception):
    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Output:
    """An fd that is written on from where it is: a pipe, a terminal or a file, which may be open for appending."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._at = os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:
            self._at = -1  # it cannot seek

    def is_of(self, status: os.stat_result) -> bool:
        """Whether it is this file that is written."""
        mine = os.fstat(self._fd)
        return self._at >= 0 and (mine.st_dev, mine.st_ino) == (status.st_dev, status.st_ino)

    async def write(self, data: Any) -> None:
        try:
            n = await aioring.get_ring().write(self._fd, self._at, data)
        except OSError as error:
            raise Unwritable(error) from None
        if self._at >= 0:
            self._at += n

    def leave(self) -> None:
        """Whoever writes to it next goes on behind us."""
        if self._at >= 0:
            os.lseek(self._fd, self._at, os.SEEK_SET)
