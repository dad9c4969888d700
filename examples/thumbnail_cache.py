"""A gallery: thumbnails of every picture in a tree, kept in a cache of small files, and read by the hundred for a page.

The cache is that of the freedesktop.org thumbnail specification (what file managers have in ~/.cache/thumbnails): a PNG
named after the MD5 of the picture's URI, which carries the picture's time of change, is made again when that has changed,
and is put in place in one step, since others read it at any time. The part to copy comes first. Pillow makes the pictures
small, on the ring's worker threads; all else is thousands of small files.

    python examples/thumbnail_cache.py                     # pictures are made, and the cache is in a temporary folder
    python examples/thumbnail_cache.py ~/Pictures --cache ~/.cache/thumbnails/normal
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import importlib
import io
import os
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import aioring

try:
    from PIL import Image, PngImagePlugin, UnidentifiedImageError
except ImportError:
    sys.exit("thumbnail_cache: Pillow is not installed: pip install pillow")

SIZE = 128  # pixels: the specification's "normal"
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
say = functools.partial(print, flush=True)

# --- the part to copy -------------------------------------------------------------------------------------------------


class Gallery:
    """The pictures beneath `top`, and their thumbnails in `cache`."""

    def __init__(self, ring: aioring.Ring, top: str, cache: str) -> None:
        self.ring = ring
        self.top = aioring.Path(os.path.abspath(top), ring=ring)
        self.cache = aioring.Path(cache, ring=ring)
        self.made = self.kept = 0
        self.bad: list[str] = []

    async def pictures(self) -> dict[aioring.Path, float]:
        """All there are, with their times of change."""
        found: dict[aioring.Path, float] = {}
        async for folder, _, names in self.top.walk():
            for name in names:
                if name.lower().endswith(SUFFIXES):
                    try:
                        status = await (folder / name).stat()
                    except FileNotFoundError:
                        continue  # it was there a moment ago
                    if stat.S_ISREG(status.st_mode):
                        found[folder / name] = status.st_mtime
        return found

    def thumbnail(self, picture: aioring.Path) -> aioring.Path:
        return self.cache / (hashlib.md5(picture.as_uri().encode(), usedforsecurity=False).hexdigest() + ".png")

    async def refresh(self, pictures: dict[aioring.Path, float], tasks: int) -> None:
        """Make the thumbnails that are missing or out of date, `tasks` at a time."""
        await self.cache.mkdir(0o700, parents=True, exist_ok=True)
        todo: list[aioring.Path] = []
        by_thumbnail = {self.thumbnail(picture): picture for picture in pictures}
        async for thumbnail, found in aioring.read_files(by_thumbnail, on_error="return", ring=self.ring):
            picture = by_thumbnail[thumbnail]
            if isinstance(found, bytes) and made_for(found, picture, pictures[picture]):
                self.kept += 1
            else:
                todo.append(picture)
        left = iter(todo)

        async def work() -> None:
            for picture in left:
                await self.make(picture, pictures[picture])

        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(work)

    async def make(self, picture: aioring.Path, changed: float) -> None:
        try:
            data = await picture.read_bytes()
            small = await self.ring.run(shrink, data, picture.as_uri(), changed)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
            self.bad.append(str(picture))  # gone, damaged, or no picture at all: one more gray square
            return
        await aioring.write_file(self.thumbnail(picture), small, atomic=True, mode=0o600, ring=self.ring)
        self.made += 1

    async def page(self, pictures: list[aioring.Path]) -> dict[aioring.Path, bytes]:
        """The thumbnails of these pictures, for those that have one."""
        wanted = {self.thumbnail(picture): picture for picture in pictures}
        found: dict[aioring.Path, bytes] = {}
        async for thumbnail, data in aioring.read_files(wanted, on_error="return", ring=self.ring):
            if isinstance(data, bytes):
                found[wanted[thumbnail]] = data
        return found


def shrink(data: bytes, uri: str, changed: float) -> bytes:
    """On a worker; Pillow lets the GIL go while it works."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.thumbnail((SIZE, SIZE))
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Thumb::URI", uri)
        texts.add_text("Thumb::MTime", str(int(changed)))
        out = io.BytesIO()
        picture.convert("RGBA").save(out, "PNG", pnginfo=texts)
    return out.getvalue()


def made_for(thumbnail: bytes, picture: aioring.Path, changed: float) -> bool:
    """Whether it is this picture's, as it is now: tEXt chunks stand before the picture (PNG, 11.3.3)."""
    head = thumbnail[:4096]
    return f"Thumb::MTime\0{int(changed)}".encode() in head and f"Thumb::URI\0{picture.as_uri()}".encode() in head


# --- the comparison ---------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    name: str
    read: Callable[[list[str]], Awaitable[list[bytes]]]
    seconds: list[float]


async def compare(gallery: Gallery, pictures: list[aioring.Path], rounds: int) -> int:
    """Read the thumbnails of all pictures: as above, by aiofiles, and by the built-in on the loop's thread."""
    paths = [str(gallery.thumbnail(picture)) for picture in pictures]

    async def ours(paths: list[str]) -> list[bytes]:
        found = await gallery.page(pictures)
        return [found[picture] for picture in pictures]

    async def plain(paths: list[str]) -> list[bytes]:
        return [Path(path).read_bytes() for path in paths]

    ways = [Way("aioring", ours, []), Way("built-in", plain, [])]
    try:
        aiofiles: Any = importlib.import_module("aiofiles")
    except ImportError:
        say("aiofiles is not installed (pip install aiofiles): going on without it")
    else:

        async def with_aiofiles(paths: list[str]) -> list[bytes]:
            async def one(path: str) -> bytes:
                async with aiofiles.open(path, "rb") as file:
                    return await file.read()  # type: ignore[no-any-return]

            return await asyncio.gather(*map(one, paths))

        ways.append(Way("aiofiles", with_aiofiles, []))
    expected = await plain(paths)
    for number in range(rounds):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            began = time.perf_counter()
            got = await way.read(paths)
            way.seconds.append(max(time.perf_counter() - began, 1e-6))
            if got != expected:
                complain(f"what {way.name} read is WRONG, if nobody changed the cache. This is a bug: please report it")
                return 1
    for way in ways:
        rate = len(paths) / statistics.median(way.seconds)
        ratio = statistics.median(a / b for a, b in zip(way.seconds, ways[0].seconds, strict=True))
        than = "" if way is ways[0] else f", {ratio:.1f} times as long as aioring"
        say(f"{way.name:<10}{rate:>10,.0f} thumbnails/s{than}")
    say("verified: all read the same bytes")
    return 0


async def run(options: argparse.Namespace, top: str, cache: str) -> int:
    async with aioring.Ring(method=options.method) as ring:
        say(f"method: {ring.method}" + (f" (not io_uring: {ring.fallback_reason})" if ring.fallback_reason else ""))
        gallery = Gallery(ring, top, cache)
        began = time.perf_counter()
        pictures = await gallery.pictures()
        say(f"{len(pictures)} pictures found in {time.perf_counter() - began:.3f} s")
        for what in ("first", "second"):
            gallery.made = gallery.kept = 0
            gallery.bad.clear()
            began = time.perf_counter()
            await gallery.refresh(pictures, options.tasks)
            seconds = time.perf_counter() - began
            say(
                f"{what} visit: {gallery.made} made, {gallery.kept} were there, {len(gallery.bad)} bad, in {seconds:.2f} s"
            )
        for path in gallery.bad[:5]:
            complain(f"{os.fsencode(path).decode('utf-8', 'backslashreplace')}: no picture that Pillow can read")
        good = [picture for picture in pictures if str(picture) not in set(gallery.bad)]
        return await compare(gallery, good, options.runs) if good and options.compare else 0


def make_pictures(folder: str, count: int) -> None:
    for number in range(count):
        picture = Image.linear_gradient("L").resize((640, 480)).rotate(number * 7 % 360)
        red, green, blue = (
            picture.point([level * (number * k % 255 + 1) // 255 for level in range(256)]) for k in (3, 5, 7)
        )
        below = os.path.join(folder, f"album{number % 10}")
        os.makedirs(below, exist_ok=True)
        Image.merge("RGB", (red, green, blue)).save(os.path.join(below, f"picture{number:04}.jpg"), quality=80)


def complain(text: str) -> int:
    print(f"thumbnail_cache: {text}", file=sys.stderr, flush=True)
    return 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Keep thumbnails of a tree of pictures, and read them by the hundred.")
    add = parser.add_argument
    add("pictures", nargs="?", metavar="FOLDER", help="default: some are made")
    add("--cache", metavar="FOLDER", help="where thumbnails are kept (default: a temporary folder)")
    add("--count", type=int, default=300, metavar="N", help="of pictures that are made (default: 300)")
    add("--tasks", type=int, default=8, metavar="N", help="thumbnails made at a time (default: 8)")
    add("--runs", type=int, default=5, metavar="N", help="of each way of reading, in turns (default: 5)")
    methods = ["auto", "io_uring", "linux_aio", "worker", "sync"]
    add("--method", choices=methods, help="default: AIORING_METHOD, or auto")
    add("--no-compare", dest="compare", action="store_false", help="read them with nobody")
    options = parser.parse_args()
    if min(options.count, options.tasks, options.runs) < 1:
        parser.error("--count, --tasks and --runs are at least 1")
    return options


def main() -> int:
    options = parse()
    status = 130
    with tempfile.TemporaryDirectory(prefix="thumbnail_cache-") as name:
        try:
            top = options.pictures or os.path.join(name, "pictures")
            if options.pictures is None:
                make_pictures(top, options.count)
            os.listdir(top)
            status = anyio.run(run, options, top, options.cache or os.path.join(name, "cache"))
        except* KeyboardInterrupt:  # with a star: out of the groups of the tasks that it ended
            complain("interrupted")
        except* (OSError, aioring.AioringError, ValueError) as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            status = complain(str(error))
    return status


if __name__ == "__main__":
    sys.exit(main())
