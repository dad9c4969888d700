"""Streams in the hands of httpx and aiohttp, on loopback: what is sent arrives, what comes is stored."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import pytest
from aiohttp import web

import aioring
from tests.conftest import LOOPS, pattern

pytestmark = pytest.mark.anyio

SIZES = (0, 1, 262_144, 1_000_001)
BIG = 1_000_001


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """aiohttp has no other; httpx on trio has a test of its own below."""
    return LOOPS[request.param]


@pytest.fixture(params=[(method, True) for method in ("io_uring", "worker", "sync")])
def combination(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def serving(ring: aioring.Ring, folder: Path) -> AsyncIterator[str]:
    """A server that stores what is put, in the way that its path names, gives what is got, and sends /elsewhere/ on."""

    async def put(request: web.Request) -> web.StreamResponse:
        path = folder / request.match_info["name"]
        if request.match_info["how"] == "pieces":
            async with aioring.open(path, "wb", ring=ring) as file:
                async for piece in request.content.iter_any():
                    await file.write(piece)
        else:
            await aioring.write_file(path, await request.read(), atomic=True, durable=True, ring=ring)
        return web.Response(text=hashlib.sha256(path.read_bytes()).hexdigest())

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        if request.query.get("read"):
            await request.read()
        raise web.HTTPTemporaryRedirect("/whole/" + request.match_info["name"])

    async def get(request: web.Request) -> web.StreamResponse:
        return web.Response(body=aioring.stream(folder / request.match_info["name"], 10_000, ring=ring))

    app = web.Application(client_max_size=1 << 30)
    app.add_routes(
        [web.put("/{how:whole|pieces}/{name}", put), web.put("/elsewhere/{name}", elsewhere), web.get("/{name}", get)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_stream_is_uploaded(ring: Any, tmp_path: Path) -> None:
    async with serving(ring, tmp_path) as url, aiohttp.ClientSession() as session, httpx.AsyncClient() as client:
        for size in SIZES:
            data = pattern(size)
            (tmp_path / "source").write_bytes(data)
            for how in ("whole", "pieces"):
                stream = aioring.stream(tmp_path / "source", 65_536, ring=ring)
                response = await client.put(f"{url}/{how}/httpx", content=stream)
                assert response.text == hashlib.sha256(data).hexdigest()
                async with session.put(f"{url}/{how}/aiohttp", data=stream) as answer:  # the same, once more
                    assert await answer.text() == hashlib.sha256(data).hexdigest()


async def test_what_is_left_of_an_open_file_is_uploaded(ring: Any, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(pattern(BIG))
    async with serving(ring, tmp_path) as url, aiohttp.ClientSession() as session, httpx.AsyncClient() as client:
        async with aioring.open(tmp_path / "source", "rb", ring=ring) as file:
            await file.seek(1000)
            response = await client.put(f"{url}/whole/httpx", content=file.iter_chunks(50_000))
            assert response.text == hashlib.sha256(pattern(BIG)[1000:]).hexdigest()
            await file.seek(2000)
            async with session.put(f"{url}/pieces/aiohttp", data=file.iter_chunks(50_000)) as answer:
                assert await answer.text() == hashlib.sha256(pattern(BIG)[2000:]).hexdigest()
            assert await file.tell() == BIG


async def test_who_is_sent_elsewhere_sends_all_of_it_there(ring: Any, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(pattern(300_000))
    async with serving(ring, tmp_path) as url, httpx.AsyncClient(follow_redirects=True) as client:
        stream = aioring.stream(tmp_path / "source", ring=ring)
        response = await client.put(f"{url}/elsewhere/there?read=1", content=stream)
        assert response.text == hashlib.sha256(pattern(300_000)).hexdigest()


async def test_what_is_served_is_stored(ring: Any, tmp_path: Path) -> None:
    async with serving(ring, tmp_path) as url, aiohttp.ClientSession() as session, httpx.AsyncClient() as client:
        for size in SIZES:
            (tmp_path / "source").write_bytes(pattern(size))
            async with client.stream("GET", f"{url}/source") as response:
                async with aioring.open(tmp_path / "by httpx", "wb", ring=ring) as file:
                    async for piece in response.aiter_bytes():
                        await file.write(piece)
            async with session.get(f"{url}/source") as answer:
                await aioring.write_file(tmp_path / "by aiohttp", await answer.read(), atomic=True, ring=ring)
            assert (tmp_path / "by httpx").read_bytes() == (tmp_path / "by aiohttp").read_bytes() == pattern(size)


async def test_a_file_that_is_not_there_is_an_error_of_the_upload(ring: Any, tmp_path: Path) -> None:
    async with serving(ring, tmp_path) as url, httpx.AsyncClient() as client:
        with pytest.raises(FileNotFoundError) as caught:
            await client.put(f"{url}/whole/x", content=aioring.stream(tmp_path / "missing", ring=ring))
        assert caught.value.filename == str(tmp_path / "missing")
        assert (await client.put(f"{url}/whole/x", content=b"next")).status_code == 200


@pytest.mark.parametrize("loop", list(LOOPS))
def test_httpx_on_every_loop(loop: str, tmp_path: Path) -> None:
    """Without a server: its transport reads the request as a server would."""
    (tmp_path / "source").write_bytes(pattern(BIG))

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=hashlib.sha256(await request.aread()).hexdigest())

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            response = await client.put("http://here/", content=aioring.stream(tmp_path / "source"))
            assert response.text == hashlib.sha256(pattern(BIG)).hexdigest()

    backend, options = LOOPS[loop]
    run: Callable[..., Any] = anyio.run
    run(main, backend=backend, backend_options=options)
