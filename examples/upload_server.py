"""A server that stores uploads durably and serves them, and a client that checks the bytes; aiohttp, on loopback.

The part to copy comes first: `store` takes an upload of any size in constant memory. When its answer, 201, is sent, the
file is on the disk under its name: a power cut a moment later loses nothing, and one before it leaves the old file or none,
never a part (tests/examples/test_upload_server.py replays them all).

    python examples/upload_server.py                          # server and client in one, on files that are made
    python examples/upload_server.py --serve --port 8080 --folder /srv/uploads
    curl -T photo.jpg http://127.0.0.1:8080/photo.jpg
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aioring

try:
    import aiohttp
    from aiohttp import web
except ImportError:
    sys.exit("upload_server: aiohttp is not installed: pip install aiohttp")

say = functools.partial(print, flush=True)

# --- the part to copy -------------------------------------------------------------------------------------------------


async def store(ring: aioring.Ring, pieces: AsyncIterator[bytes], folder: str, name: str) -> str:
    """Store what comes as `folder`/`name`, durably and in one step; returns its SHA-256.

    A client that hangs up in the middle leaves the file that was there, or none.
    """
    digest = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for piece in pieces:
            digest.update(piece)
            yield piece

    await aioring.write_file(os.path.join(folder, name), hashed(), atomic=True, durable=True, mode=0o644, ring=ring)
    return digest.hexdigest()


async def put(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if name.startswith(".") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
        raise web.HTTPBadRequest(text="a plain name, please: no slash, no dot at its start, 255 bytes at most\n")
    try:
        digest = await store(request.app[RING], request.content.iter_any(), request.app[FOLDER], name)
    except ConnectionError:
        raise  # the client's, not the disk's
    except OSError as error:
        raise web.HTTPInsufficientStorage(text=f"not stored: {error.strerror}\n") from error
    return web.Response(status=201, text=digest + "\n")


async def get(request: web.Request) -> web.StreamResponse:
    path = aioring.Path(request.app[FOLDER], ring=request.app[RING]) / request.match_info["name"]
    if path.name.startswith(".") or not await path.is_file():
        raise web.HTTPNotFound(text="no such file\n")
    return web.Response(body=aioring.stream(path, ring=request.app[RING]), content_type="application/octet-stream")


RING = web.AppKey("ring", aioring.Ring)
FOLDER = web.AppKey("folder", str)


def application(ring: aioring.Ring, folder: str) -> web.Application:
    app = web.Application()
    app[RING], app[FOLDER] = ring, folder
    app.add_routes([web.put("/{name}", put), web.get("/{name}", get)])
    return app


# --- the client that checks -------------------------------------------------------------------------------------------


async def check(ring: aioring.Ring, url: str, files: list[Path], tasks: int) -> list[str]:
    """Upload all, `tasks` at a time, then get all. What is wrong, a line each."""
    wrong: list[str] = []
    digests: dict[Path, str] = {}

    async def upload(session: aiohttp.ClientSession, file: Path) -> None:
        async with session.put(f"{url}/{file.name}", data=aioring.stream(file, ring=ring)) as answer:
            said = (await answer.text()).strip()
        digests[file] = said
        if answer.status != 201:
            wrong.append(f"{file.name}: {answer.status}, {said}")

    async def download(session: aiohttp.ClientSession, file: Path) -> None:
        digest = hashlib.sha256()
        async with session.get(f"{url}/{file.name}") as answer:
            async for piece in answer.content.iter_any():
                digest.update(piece)
        sent = hashlib.sha256(await aioring.read_file(file, ring=ring)).hexdigest()
        if not sent == digest.hexdigest() == digests[file]:
            wrong.append(f"{file.name}: what came back is not what was sent")

    total = sum(file.stat().st_size for file in files)
    async with aiohttp.ClientSession() as session:
        for what, work in (("stored durably", upload), ("served", download)):
            began, todo = time.perf_counter(), iter(files)

            async def worker(todo: object = todo, work: object = work) -> None:
                for file in todo:  # type: ignore[attr-defined]
                    await work(session, file)  # type: ignore[operator]

            await asyncio.gather(*[worker() for _ in range(tasks)])
            seconds = max(time.perf_counter() - began, 1e-6)
            rate = f"{len(files) / seconds:,.0f} files/s, {total / seconds / 1e6:,.0f} MB/s"
            say(f"{what}: {len(files)} files, {total:,} bytes in {seconds:.2f} s ({rate})")
            if wrong:
                break
    return wrong


async def run(options: argparse.Namespace, folder: Path, sources: Path) -> int:
    async with aioring.Ring(method=options.method) as ring:
        say(f"method: {ring.method}" + (f" (not io_uring: {ring.fallback_reason})" if ring.fallback_reason else ""))
        runner = web.AppRunner(application(ring, str(folder)))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", options.port).start()
            url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
            if options.serve:
                say(f"{url} stores in {folder}; Ctrl-C ends it")
                await asyncio.Event().wait()
            chance, files = random.Random(18), []
            for number in range(options.files):
                files.append(sources / f"file{number:04}.bin")
                files[-1].write_bytes(chance.randbytes(chance.randrange(2 * options.size)))
            wrong = await check(ring, url, files, options.tasks)
        finally:
            await runner.cleanup()
    for line in wrong[:10]:
        complain(line)
    if wrong:
        return 1
    if left := [name for name in os.listdir(folder) if name.startswith(".")]:
        complain(f"{len(left)} parts of uploads were left in {folder}")
        return 1
    say("verified: every file came back as it was sent, and nothing else is in the folder")
    return 0


def complain(text: str) -> int:
    print(f"upload_server: {text}", file=sys.stderr, flush=True)
    return 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Store uploads durably, serve them, and check the bytes.")
    add = parser.add_argument
    add("--folder", metavar="PATH", help="where uploads are kept (default: a temporary folder)")
    add("--files", type=int, default=100, metavar="N", help="the client sends so many (default: 100)")
    add("--size", type=int, default=100_000, metavar="BYTES", help="of so many bytes on average (default: 100000)")
    add("--tasks", type=int, default=16, metavar="N", help="at a time (default: 16)")
    add("--serve", action="store_true", help="no client: serve until Ctrl-C")
    add("--port", type=int, default=0, metavar="N", help="default: a free one")
    methods = ["auto", "io_uring", "linux_aio", "worker", "sync"]
    add("--method", choices=methods, help="default: AIORING_METHOD, or auto")
    options = parser.parse_args()
    if min(options.files, options.size, options.tasks) < 1:
        parser.error("--files, --size and --tasks are at least 1")
    if not 0 <= options.port <= 65535:
        parser.error("--port is 65535 at most")
    return options


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="upload_server-") as name:
        (sources := Path(name, "sources")).mkdir()
        folder = Path(options.folder or Path(name, "uploads"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return asyncio.run(run(options, folder, sources))
        except KeyboardInterrupt:
            complain("interrupted")
            return 130
        except (OSError, aioring.AioringError, ValueError) as error:
            return complain(str(error))


if __name__ == "__main__":
    sys.exit(main())
