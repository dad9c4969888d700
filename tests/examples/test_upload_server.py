"""examples/upload_server.py: what it stores, what a power cut leaves of it, and what it says of input that is no good."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import aioring
from aioring.testing import Cut, Recording, Scripted, Trace, check
from tests.conftest import METHODS, pattern

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "upload_server.py"

_spec = importlib.util.spec_from_file_location("upload_server", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
upload_server: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(upload_server)


def start(*arguments: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environment)


def run(*arguments: object) -> tuple[int, str, str]:
    with start(*arguments) as process:
        try:
            output, errors = process.communicate(timeout=25)
        finally:
            process.kill()
        return process.returncode, output, errors


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def test_what_a_power_cut_leaves(tmp_path: Path) -> None:
    """After the answer the new file, before it the old one or the new one; whole."""
    old, new = pattern(20_000), pattern(70_000)[::-1]
    for number, method in enumerate(["io_uring", "worker", *range(6)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "photo").write_bytes(old)
        trace = Trace(folder)

        async def main(trace: Trace = trace, method: Any = method, folder: Path = folder) -> None:
            made = Scripted(method, trace=trace) if isinstance(method, int) else Recording(method, trace)
            async with aioring.Ring(method=made, page_cache_first=False) as ring:
                for name in ("photo", "another"):
                    digest = await upload_server.store(ring, in_pieces(new, 9000), str(folder), name)
                    assert digest == hashlib.sha256(new).hexdigest()
                    trace.note("201", name)

        def recover(folder: Path, cut: Cut) -> None:
            assert (folder / "photo").read_bytes() in (old, new)
            for name in cut.noted("201"):
                assert (folder / name).read_bytes() == new
            if (folder / "another").exists():
                assert (folder / "another").read_bytes() == new

        asyncio.run(main())
        assert check(trace, None, recover, seed=number) >= 7


@pytest.mark.parametrize("method", METHODS)
def test_it_stores_and_serves(method: str, tmp_path: Path) -> None:
    async def main() -> None:
        made: Any = Scripted(3) if method == "scripted" else method
        async with aioring.Ring(method=made) as ring:
            runner = web.AppRunner(upload_server.application(ring, str(tmp_path)))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                async with aiohttp.ClientSession() as session:
                    await talk(session, url)
            finally:
                await runner.cleanup()
        assert sorted(os.listdir(tmp_path)) == ["another caf\N{LATIN SMALL LETTER E WITH ACUTE}", "big", "empty"]

    async def talk(session: aiohttp.ClientSession, url: str) -> None:
        for name, data in (("big", pattern(1_000_000)), ("empty", b""), ("another caf%C3%A9", b"x"), ("big", b"new")):
            async with session.put(f"{url}/{name}", data=data) as answer:
                assert (answer.status, await answer.text()) == (201, hashlib.sha256(data).hexdigest() + "\n")
            async with session.get(f"{url}/{name}") as answer:
                assert await answer.read() == data
        for name in (".hidden", "..%2Fescaped", "n" * 256, "%00"):
            async with session.put(f"{url}/{name}", data=b"x") as answer:
                assert answer.status == 400, name
        for name in ("missing", ".hidden", "..%2F..%2Fetc%2Fpasswd"):
            async with session.get(f"{url}/{name}") as answer:
                assert answer.status == 404, name

        async def hangs_up() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.sleep(0.05)
            raise RuntimeError

        with pytest.raises((RuntimeError, aiohttp.ClientError)):
            await session.put(f"{url}/big", data=hangs_up())
        async with session.get(f"{url}/big") as answer:
            assert await answer.read() == b"new"

    asyncio.run(main())


def test_it_runs() -> None:
    status, output, errors = run("--files", 20, "--size", 50_000)
    assert (status, errors) == (0, "")
    assert "verified: every file came back as it was sent" in output
    assert "stored durably: 20 files" in output


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (("--folder", tmp_path / "file" / "x"), ("--port", 1_000_000), ("--files", 0)):
        status, _, errors = run(*arguments)
        assert status == 2
        assert "Traceback" not in errors
        assert len(errors.strip().splitlines()[-1]) > 10


def test_ctrl_c_ends_the_server(tmp_path: Path) -> None:
    with start("--serve", "--folder", tmp_path) as process:
        assert process.stdout is not None
        while "Ctrl-C" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "upload_server: interrupted\n")
