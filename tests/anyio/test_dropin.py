"""What `open_file` and `wrap_file` give is what anyio's give, member for member, on every method and loop."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.anyio import AsyncFile, open_file, wrap_file
from tests.conftest import pattern
from tests.files.model import outcome_of
from tests.harness import SOON, all_over, begin, ticks

# The columns of file_apis.md, section 1.3: coroutine methods, plain methods, properties.
AWAITED = {"read", "readline", "readlines", "write", "writelines", "seek", "tell", "truncate", "flush", "aclose"}
PLAIN = {"isatty", "seekable", "writable", "readable", "fileno", "close"}
PROPERTIES = {"closed", "name", "mode", "wrapped", "limiter"}
OF_TEXT = {"buffer", "line_buffering", "encoding", "errors", "newlines", "write_through"}
MORE = {"read1", "readinto", "readinto1", "readall", "peek", "detach", "raw", *OF_TEXT}
KINDS: dict[tuple[str, int], tuple[set[str], set[str], set[str]]] = {
    ("r", -1): (set(), {"detach"}, OF_TEXT),
    ("r+", -1): (set(), {"detach"}, OF_TEXT),
    ("w", 1): (set(), {"detach"}, OF_TEXT),
    ("rb", -1): ({"read1", "readinto", "readinto1"}, {"peek", "detach"}, {"raw"}),
    ("r+b", 100): ({"read1", "readinto", "readinto1"}, {"peek", "detach"}, {"raw"}),
    ("wb", -1): ({"read1", "readinto", "readinto1"}, {"detach"}, {"raw"}),
    ("rb", 0): ({"readinto"}, {"readall"}, set()),
}


@pytest.mark.parametrize(("mode", "buffering"), KINDS, ids=repr)
async def test_it_has_what_anyio_s_has_awaited_or_not_as_there(
    anyio_backend: Any, path: Path, mode: str, buffering: int
) -> None:
    awaited, plain, properties = KINDS[mode, buffering]
    async with await open_file(path, mode, buffering) as file:  # type: ignore[call-overload]
        assert isinstance(file, anyio.AsyncFile)
        assert isinstance(file, AsyncFile)
        assert isinstance(file, aioring.File)
        for name in AWAITED | awaited:
            assert inspect.iscoroutinefunction(getattr(file, name)), name
        for name in PLAIN | plain:
            assert callable(getattr(file, name)), name
            assert not inspect.iscoroutinefunction(getattr(file, name)), name
        for name in PROPERTIES | properties:
            assert not callable(getattr(file, name)), name
        for name in {*MORE, "nonsense"} - awaited - plain - properties:
            assert not hasattr(file, name), name
            with pytest.raises(AttributeError, match=rf"'Open\w+' object has no attribute '{name}'"):
                getattr(file, name)


@pytest.mark.parametrize(("mode", "buffering"), KINDS, ids=repr)
async def test_what_it_says_of_itself_is_what_anyio_s_says(ring: Any, path: Path, mode: str, buffering: int) -> None:
    _, _, properties = KINDS[mode, buffering]
    path.write_bytes(b"one\ntwo\n")
    told = []
    for opens in (anyio.open_file, open_file):
        async with await opens(path, mode, buffering) as file:  # type: ignore[call-overload]
            answers: list[Any] = [getattr(file, name) for name in sorted(properties - {"buffer", "raw"})]
            answers += [file.name, file.mode, file.closed, file.isatty(), file.readable(), file.writable()]
            told.append((answers, file.seekable(), os.get_inheritable(file.fileno())))
        assert file.closed
    assert told[0] == told[1]


async def test_arguments_by_name(ring: Any, path: Path) -> None:
    async with await open_file(file=path, mode="r+b") as file:
        assert await file.read(size=3) == pattern(3)
        assert await file.read1(size=2) == pattern(5)[3:]
        assert await file.seek(offset=1, whence=1) == 6
        assert await file.seek(offset=10) == 10
        buffer = bytearray(4)
        assert await file.readinto(b=buffer) == 4
        assert buffer == pattern(14)[10:]
        assert await file.readinto1(b=buffer) == 4
        await file.writelines(lines=[b"x", b"y"])
        assert await file.truncate(size=50) == 50
    assert os.path.getsize(path) == 50
    async with await open_file(path, buffering=0, mode="rb") as file:
        assert await file.readinto(b=buffer) == 4
    async with await open_file(path, "w+", encoding="utf-16", errors="strict", newline="\r\n") as text:
        await text.writelines(lines=["é\n"])
        await text.seek(offset=0, whence=0)
        assert await text.read(size=1) == "é"
        assert await text.truncate(size=None) == 8  # where its buffer is: behind all that was decoded
    assert path.read_bytes() == "é\r\n".encode("utf-16")


async def test_lines_one_by_one(ring: Any, path: Path) -> None:
    path.write_text("one\ntwo\nthree")
    async with await open_file(path) as file:
        assert [line async for line in file] == ["one\n", "two\n", "three"]
        await file.seek(0)
        assert [await file.readline(), await file.readlines()] == ["one\n", ["two\n", "three"]]
    async with await open_file(path, "rb") as lines:
        assert [line async for line in lines] == [b"one\n", b"two\n", b"three"]


async def test_the_blocking_file_behind_it_agrees_with_it(ring: Any, path: Path) -> None:
    async with await open_file(path, "r+b") as file:
        assert await file.read(10) == pattern(10)
        blocking: Any = file.wrapped
        assert isinstance(blocking, io.BufferedIOBase)
        assert (blocking.tell(), blocking.read(5)) == (10, pattern(15)[10:])
        assert await file.tell() == 15
        assert file.peek(1)[:1] == pattern(16)[15:]  # type: ignore[operator]
        assert await file.read(1) == pattern(16)[15:]
        blocking.write(b"here")
        assert await file.tell() == blocking.tell() == 20
        await file.seek(16)
        assert blocking.read(4) == b"here"
        assert isinstance(file.raw, io.RawIOBase)
    path.write_text("zero\none\ntwo\n")
    async with await open_file(path) as text:
        assert await text.readline() == "zero\n"
        behind: Any = text.wrapped
        assert behind.readline() == "one\n"
        assert (await text.tell(), behind.tell()) == (9, 9)
        assert isinstance(text.buffer, io.BufferedIOBase)
        assert behind.encoding == text.encoding
        assert list(behind) == ["two\n"]
    async with await open_file(path, "rb", 0) as raw:
        assert (raw.readall(), await raw.read()) == (b"zero\none\ntwo\n", b"")  # type: ignore[operator]
        assert isinstance(raw.wrapped, io.RawIOBase)


async def test_close_closes_here_and_now(ring: Any, path: Path) -> None:
    for mode, data in (("wb", b"said"), ("w", "said")):
        file: Any = await open_file(path, mode)  # type: ignore[call-overload]
        await file.write(data)
        assert file.close() is None
        assert file.closed
        assert path.read_bytes() == b"said"
        assert file.close() is None
        await file.aclose()
        with pytest.raises(ValueError, match="closed"):
            await file.write(data)
        with pytest.raises(ValueError, match="closed"):
            async with file:
                pass


async def test_it_is_closed_at_the_end_of_the_block_whatever_happens(ring: Any, path: Path) -> None:
    with pytest.raises(KeyError):
        async with await open_file(path, "w") as file:
            await file.write("said")
            raise KeyError
    assert file.closed
    assert path.read_text() == "said"


async def test_detach_gives_the_blocking_file_below(ring: Any, path: Path) -> None:
    path.write_bytes(b"one\ntwo\n")
    text: Any = await open_file(path, "r+")
    await text.seek(0, 2)
    await text.write("three\n")
    below: Any = text.detach()
    assert isinstance(below, io.BufferedIOBase)
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    with pytest.raises(ValueError, match="underlying buffer has been detached"):
        await text.read()
    with pytest.raises(ValueError, match="underlying buffer has been detached"):
        await text.aclose()
    below.seek(0)
    assert below.read(3) == b"one"
    below.close()
    assert below.closed
    binary: Any = await open_file(path, "rb")
    assert await binary.read(3) == b"one"
    raw: Any = binary.detach()
    assert isinstance(raw, io.RawIOBase)
    with pytest.raises(ValueError, match="raw stream has been detached"):
        await binary.read()
    raw.close()


async def test_a_blocking_call_while_an_awaited_one_is_under_way_is_refused(ring: Any) -> None:
    reading, writing = os.pipe()
    async with await open_file(reading, "rb", 0) as file, anyio.create_task_group() as group:
        read = begin(group, file.read, 1)
        await ticks(5)
        if not read.done:
            with pytest.raises(RuntimeError, match="under way"):
                file.readall()  # type: ignore[operator]
        os.write(writing, b"x")
        await all_over(read)
        assert read.value == b"x"
    os.close(writing)


async def test_the_limiter_is_kept_and_has_to_be_one(anyio_backend: Any, path: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    async with await open_file(path, limiter=limiter) as file:
        assert file.limiter is limiter
    async with await open_file(path) as file:
        assert file.limiter is None
    assert wrap_file(io.BytesIO(), limiter=limiter).limiter is limiter
    for wrong in (5, "x", object()):
        words = f"^limiter must be a CapacityLimiter or None, not {type(wrong).__name__}$"
        with pytest.raises(TypeError, match=words):
            await open_file(path, limiter=wrong)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=words):
            wrap_file(io.BytesIO(), limiter=wrong)  # type: ignore[arg-type]


async def test_aclose_closes_in_a_cancelled_scope(ring: Any, path: Path) -> None:
    file = await open_file(path, "wb")
    await file.write(b"said")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
    assert file.closed
    assert path.read_bytes() == b"said"
    wrapped = wrap_file(path.open("ab"))
    await wrapped.write(b" more")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wrapped.aclose()
    assert path.read_bytes() == b"said more"


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing",), ("data", "q"), ("data", "rw"), ("data", "tb"), ("data", "x"), (".",), (".", "wb"), ("nul\0",), (5.0,),
        (-1, "rb"), (1_000_000, "rb"), ("data", "rb", -1, "utf-8"), ("data", "r", 0), ("data", "r", -1, "nonsense"),
        ("data", "r", -1, None, "nonsense"), ("data", "r", -1, None, None, "x"), ("data", "r", -1, None, None, None, False),
        ("data", "rb", -1, None, None, None, True, lambda path, flags: -3),
    ],
    ids=lambda refused: re.sub(r" at 0x[0-9a-f]+", "", repr(refused))[:60],
)  # fmt: skip
async def test_what_anyio_s_refuses_is_refused_in_its_words(
    anyio_backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(path.parent)
    outcomes: list[Any] = []
    for opens in (anyio.open_file, open_file):
        try:
            file = await opens(*arguments)
            await file.aclose()
            outcomes.append(None)
        except Exception as error:
            outcomes.append((outcome_of(error, None), getattr(error, "filename", None)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("method", ["io_uring", "worker"])
def test_audit_hooks_see_what_anyio_s_raise(path: Path, method: str, loop: str) -> None:
    """In a process of its own: a hook is never taken off again."""
    program = f"""
import os, sys
import anyio
import aioring
import aioring.anyio as ours
seen, names = [], ("open", "os.remove", "tempfile.mkstemp")
def hook(event, args):
    if event in names and here in str(args[0]):
        seen.append((event, os.path.dirname(args[0]) if "temporary" in str(args[0]) else args))
here = {str(path.parent)!r}
sys.addaudithook(hook)
async def main():
    assert aioring.get_ring().method == {method!r}
    os.mkdir(temporary := os.path.join(here, "temporary"))
    told = []
    for house in (anyio, ours):
        async with await house.open_file({str(path)!r}, "rb"):
            pass
        async with await house.open_file({str(path)!r}, "a"):
            pass
        async with house.NamedTemporaryFile(dir=temporary):
            pass
        told.append(seen[:])
        seen.clear()
    assert told[0] == told[1], told
    print(len(told[0]))
backend = ("trio", {{}}) if {loop!r} == "trio" else ("asyncio", {{"use_uvloop": {loop == "uvloop"}}})
anyio.run(main, backend=backend[0], backend_options=backend[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=30, env=os.environ | {"AIORING_METHOD": method},
    )  # fmt: skip
    assert done.stdout.strip().isdigit(), done.stderr
    assert int(done.stdout) >= 4


# --- files of somebody else's ------------------------------------------------------------------------------------------


class Slow(io.BytesIO):
    """It remembers the order of its writes, waits for `gate` in the first, and bears no two at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.begun = threading.Event(), threading.Event()
        self.inside = 0

    def write(self, data: Any) -> int:
        self.inside += 1
        assert self.inside == 1
        self.begun.set()
        assert self.gate.wait(SOON)
        n = super().write(data)
        self.inside -= 1
        return n


async def test_calls_on_a_wrapped_file_run_in_the_order_in_which_they_were_made(anyio_backend: Any) -> None:
    slow = Slow()
    slow.gate.set()
    file = wrap_file(slow)
    assert isinstance(file, anyio.AsyncFile)
    assert isinstance(file, AsyncFile)
    made: list[int] = []

    async def write(i: int) -> None:
        made.append(i)
        await file.write(bytes([i % 256]))

    with anyio.fail_after(SOON * 3):
        async with anyio.create_task_group() as group:
            for i in range(300):
                group.start_soon(write, i)
        assert slow.getvalue() == bytes(i % 256 for i in made)
        assert await file.seek(offset=0) == 0
        assert [len(line) async for line in file]
        assert await file.tell() == 300
        await file.aclose()


async def test_a_call_on_a_wrapped_file_that_was_cancelled_is_awaited_by_the_next(anyio_backend: Any) -> None:
    slow = Slow()
    file = wrap_file(slow)
    async with anyio.create_task_group() as group:
        first = begin(group, file.write, b"first ")
        await _until(slow.begun)
        first.scope.cancel()
        queued = begin(group, file.write, b"never ")
        second = begin(group, file.write, b"second")
        await ticks(5)
        queued.scope.cancel()
        await ticks(5)
        assert not second.done
        slow.gate.set()
        await all_over(first, queued, second)
    assert second.value == 6
    assert slow.getvalue() == (b"first second" if queued.value is None else b"first never second")


@pytest.mark.parametrize("runs", [0, 1], ids=["asyncio", "uvloop"])
def test_so_is_one_that_asyncio_cancels(runs: int) -> None:
    """Which does not wait for a thread, as anyio's cancel does."""

    async def main() -> None:
        slow = Slow()
        file = wrap_file(slow)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(file.write(b"first "), 0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(file.write(b"never "), 0.05)
        second = asyncio.ensure_future(file.write(b"second"))
        await asyncio.sleep(0.02)
        assert not second.done()
        slow.gate.set()
        assert await asyncio.wait_for(second, SOON) == 6
        assert slow.getvalue() == b"first second"
        await file.aclose()

    anyio.run(main, backend_options={"use_uvloop": bool(runs)})


async def test_a_wrapped_file_keeps_to_its_limiter(anyio_backend: Any) -> None:
    limiter, slow = anyio.CapacityLimiter(1), Slow()
    file = wrap_file(slow, limiter=limiter)
    async with anyio.create_task_group() as group:
        written = begin(group, file.write, b"x")
        await _until(slow.begun)
        assert limiter.borrowed_tokens == 1
        slow.gate.set()
        await all_over(written)
    assert limiter.borrowed_tokens == 0
    assert file.getvalue() == b"x"  # type: ignore[operator]
    assert "Slow" in repr(file)


async def _until(event: threading.Event) -> None:
    limit = time.monotonic() + SOON
    while not event.is_set():
        assert time.monotonic() < limit
        await anyio.sleep(0.001)
