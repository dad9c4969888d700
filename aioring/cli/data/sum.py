"""`aioring sum`: hashes, as sha256sum prints and checks them. Files are read by streams, and hashed by threads."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, nullcontext
from itertools import islice
from typing import Any

import aioring

from ..console import printable
from ..progress import WRONG, Trouble, bar
from . import listing
from .output import Lines, Unwritable
from .reading import STDIN, pieces, size_of

__all__ = ["add_to", "run"]

_AT_ONCE = 8  # files
_SMALL = 256 << 10  # bytes: to hash so little takes less time than to have a thread do it
_FIXED = tuple(sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")))
_EPILOG = """examples:
  aioring sum *.iso
  aioring sum -r photos > photos.sha256
  aioring sum -c photos.sha256
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "sum",
        help="hashes of files, as sha256sum",
        description="Print the hash of each file, as sha256sum does, or check those that a file lists.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="+", metavar="FILE", help="`-`: standard input")
    parser.add_argument("-a", "--algorithm", choices=_FIXED, default="sha256", metavar="NAME", help="default: sha256")
    parser.add_argument("-r", "--recursive", action="store_true", help="all files of folders, too")
    parser.add_argument("-c", "--check", action="store_true", help="FILE lists hashes and names: check them")
    parser.add_argument(
        "--direct", action="store_true", help="read past the page cache (O_DIRECT), where that can be had"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar; with --check: only what is wrong")
    return parser


def run(arguments: argparse.Namespace) -> None:
    asyncio.run(_all(arguments, Trouble(arguments)))


async def _all(arguments: argparse.Namespace, trouble: Trouble) -> None:
    lines = Lines()
    try:
        await (_check if arguments.check else _print)(arguments, trouble, lines)
        await lines.flush()
    except Unwritable as unwritable:
        raise unwritable.error from None  # the command line says what that means: nobody may be reading
    finally:
        lines.leave()


async def _print(arguments: argparse.Namespace, trouble: Trouble, lines: Lines) -> None:
    names = list(_names(arguments.file, arguments.recursive, trouble))
    async with aclosing(_hashed(names, arguments, trouble, lines)) as found:
        async for name, value in found:
            if value is not None:
                await lines.put(listing.line_of(value, os.fsencode(name)))


async def _check(arguments: argparse.Namespace, trouble: Trouble, lines: Lines) -> None:
    wanted: list[tuple[str, str]] = []
    for name in arguments.file:
        try:
            text = b"".join([bytes(piece) async for piece in pieces(name, arguments.direct)])
        except WRONG as error:
            trouble.with_one(error, name)
            continue
        entries, bad = listing.read(text, arguments.algorithm)
        wanted += entries
        if not entries:
            trouble.with_one(ValueError(f"no line of it is a {arguments.algorithm} hash and a name"), name)
        elif bad:
            trouble.warn(f"{printable(name)}: {len(bad)} lines are no hash and a name, the first of them line {bad[0]}")
    wrong = 0
    async with aclosing(_hashed([name for name, _ in wanted], arguments, trouble, lines)) as found:
        for _, expected in wanted:
            name, seen = await anext(found)
            right = seen == expected
            wrong += not right and seen is not None
            if not right or not arguments.quiet:
                said = "OK" if right else "FAILED" if seen is not None else "FAILED to be read"
                await lines.put(b"".join(listing.escaped(os.fsencode(name))) + f": {said}".encode())
    if wrong:
        trouble.with_one(ValueError(f"{wrong} of {len(wanted)} files are not what they were"))


def _names(given: list[str], recursive: bool, trouble: Trouble) -> Iterator[str]:
    """`recursive`: the regular files of folders; what would wait for somebody, or has no end, is passed over and named."""
    for name in given:
        if not (recursive and os.path.isdir(name)):
            yield name
            continue
        for folder, folders, files in os.walk(name, onerror=trouble.with_one):
            folders.sort()
            for path in (os.path.join(folder, file) for file in sorted(files)):
                try:
                    if stat.S_ISREG(os.stat(path).st_mode):
                        yield path
                    else:
                        trouble.warn(f"{printable(path)}: no regular file: passed over")
                except OSError as error:
                    trouble.with_one(error)


async def _hashed(
    names: list[str], arguments: argparse.Namespace, trouble: Trouble, lines: Lines
) -> AsyncGenerator[tuple[str, str | None]]:
    """Each name and its hash, in order; None where it could not be read, which has been said."""
    gate, input_gate = asyncio.Semaphore(_AT_ONCE), asyncio.Lock()
    told = _Told(names)
    with bar(told.title, not arguments.quiet) as shown:

        async def one(name: str) -> str | None:
            # Of standard input the first has all, and whoever comes behind it the rest.
            async with gate, input_gate if name == STDIN else nullcontext():
                try:
                    return await _hash(name, arguments, lambda n: shown(*told.more(n)))
                except WRONG as error:
                    trouble.with_one(error, name)
                    return None

        tasks: deque[asyncio.Task[str | None]] = deque()
        try:
            left = iter(names)
            for name in names:
                for following in islice(left, 4 * _AT_ONCE - len(tasks)):  # no more than have something to do soon
                    tasks.append(asyncio.create_task(one(following)))
                if not tasks[0].done():
                    await lines.flush()  # what is known is said
                value = await tasks[0]
                tasks.popleft()
                yield name, value
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Told:
    """How much of all is done. What a file has is asked when all is listed; a pipe's is not known."""

    def __init__(self, names: list[str]) -> None:
        self.title = printable(os.path.basename(names[0])) if len(names) == 1 else f"{len(names)} files"
        self._done, self._total = 0, 0
        for name in names:
            try:
                self._total += size_of(name) or 0
            except (OSError, ValueError):
                continue

    def more(self, n: int) -> tuple[int, int | None]:
        self._done += n
        return self._done, max(self._total, self._done) or None


async def _hash(name: str, arguments: argparse.Namespace, shown: Any) -> str:
    found = hashlib.new(arguments.algorithm)
    ring = aioring.get_ring()
    async with aclosing(pieces(name, arguments.direct)) as data:
        async for piece in data:
            if len(piece) > _SMALL:
                await ring.run(found.update, piece)
            else:
                found.update(piece)
            shown(len(piece))
    return found.hexdigest()
