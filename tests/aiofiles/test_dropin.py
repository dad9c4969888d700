"""The drop-in at work: opening, executors, mocks, wrapped objects, what stands behind a file, pipes, other loops."""

from __future__ import annotations

import asyncio
import builtins
import fcntl
import gc
import gzip
import io
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

import aioring
import aioring.aiofiles as aiofiles
from aioring.aiofiles import threadpool
from aioring.aiofiles.base import wrap
from tests.harness import SOON


class Pool(ThreadPoolExecutor):
    """An executor that counts what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.given += 1
        return super().submit(*args, **kwargs)


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_what_open_gives_is_awaited_and_entered_and_is_over_after_its_block(ring: Any, path: Path) -> None:
    opening = aiofiles.open(path, "rb")
    file = await opening
    assert await opening is file is opening._obj
    async with opening as entered:
        assert entered is file
    assert file.closed
    assert opening._obj is None
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await opening


async def test_a_second_block_does_not_open_again_and_truncate(ring: Any, path: Path) -> None:
    opening = aiofiles.open(path, "w")
    async with opening as file:
        await file.write("kept")
    with pytest.raises(RuntimeError):
        async with opening:
            pass
    assert path.read_text() == "kept"


async def test_nothing_is_opened_before_it_is_awaited(ring: Any, tmp_path: Path) -> None:
    aiofiles.open(tmp_path / "new", "w")
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError) as found:
        await aiofiles.open(str(tmp_path / "missing"))
    assert found.value.filename == str(tmp_path / "missing")


async def test_an_error_of_the_end_replaces_the_bodys_which_is_its_context(ring: Any) -> None:
    with pytest.raises(OSError, match="No space left") as found:
        async with aiofiles.open("/dev/full", "w") as file:
            await file.write("x")
            raise KeyError("mine")
    assert isinstance(found.value.__context__, KeyError)
    assert file.closed


async def test_an_executor_is_given_every_call_with_the_opening_and_the_end(ring: Any, path: Path) -> None:
    with Pool() as pool:
        async with aiofiles.open(path, "r+b", executor=pool, loop=asyncio.get_running_loop()) as file:
            assert type(file) is threadpool.AsyncBufferedReader
            assert type(file._file) is io.BufferedRandom
            assert pool.given == 1
            assert await file.read(4) == path.read_bytes()[:4]
            await file.write(b"x")
            await file.flush()
            assert (await file.tell(), await file.seekable(), pool.given) == (5, True, 6)
        assert pool.given == 7
        async with aiofiles.open(path, executor=pool) as text:
            assert type(text) is threadpool.AsyncTextIOWrapper
        assert pool.given == 9


async def test_the_readmes_mock_is_asked_with_the_exact_call(ring: Any, path: Path) -> None:
    threadpool.wrap.register(MagicMock)(lambda *args, **kwargs: threadpool.AsyncBufferedIOBase(*args, **kwargs))
    mock = MagicMock()
    with patch("aioring.aiofiles.threadpool.sync_open", return_value=mock) as opened:
        async with aiofiles.open("filename", "w") as file:
            await file.write("data")
            assert file._file is mock
        opened.assert_called_with(
            "filename", mode="w", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
        )
    mock.write.assert_called_once_with("data")
    mock.__exit__.assert_called_once_with(None, None, None)
    async with aiofiles.open(path, "rb") as again:
        assert again._file.name == str(path)  # and the ring has it again


async def test_a_replaced_builtin_open_is_asked_as_pyfakefs_replaces_it(ring: Any, path: Path) -> None:
    def fake(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return io.BytesIO(b"fake") if "b" in mode else io.StringIO("fake")

    with patch.object(builtins, "open", fake):
        async with aiofiles.open(path, "rb") as file:
            assert await file.read() == b"fake"
        async with aiofiles.open(path) as text:
            assert [line async for line in text] == ["fake"]
    async with aiofiles.open(path, "rb") as file:
        assert await file.read() == path.read_bytes()


# --- objects of others ------------------------------------------------------------------------------------------------


async def test_a_wrapped_object_shares_its_position_with_its_user(ring: Any, path: Path) -> None:
    memory = io.BytesIO(b"one\ntwo\n")
    wrapped = threadpool.wrap(memory)
    assert await wrapped.readline() == b"one\n"
    assert memory.tell() == 4
    assert memory.readline() == b"two\n"
    assert await wrapped.read() == b""
    text = threadpool.wrap(io.StringIO("a\nb\n"))
    assert [line async for line in text] == ["a\n", "b\n"]
    with gzip.open(path.with_name("z"), "wb") as packed:
        packed.write(b"packed\n" * 1000)
    with gzip.open(path.with_name("z")) as packed:
        unpacked = threadpool.wrap(packed)
        assert await unpacked.readline() == b"packed\n"
        assert len(await unpacked.read()) == 7 * 999
    with path.open("rb") as held:
        ours = threadpool.wrap(held)
        assert (await ours.read(10), held.tell(), held.read(5)) == (
            path.read_bytes()[:10],
            10,
            path.read_bytes()[10:15],
        )
        assert await ours.tell() == 15
        await ours.close()
        assert held.closed


@pytest.mark.parametrize("how", [("w", -1), ("wb", -1), ("wb", 0), ("a", -1), ("wrapped", 0)], ids=repr)
async def test_300_gathered_writes_come_in_the_order_of_the_calls(ring: Any, path: Path, how: Any) -> None:
    mode, buffering = how
    file: Any
    file = threadpool.wrap(path.open("wb", 0)) if mode == "wrapped" else await aiofiles.open(path, mode, buffering)
    if mode == "a":
        os.truncate(path, 0)
    lines = [f"{i}\n" for i in range(300)]
    await asyncio.gather(*(file.write(line if mode in "wa" else line.encode()) for line in lines))
    await file.close()
    assert path.read_text() == "".join(lines)


@pytest.mark.parametrize(
    "how",
    [
        "r",
        "rb",
        "wrapped",
    ],
)
async def test_two_tasks_that_iterate_one_file_lose_no_line(ring: Any, path: Path, how: str) -> None:
    path.write_text("".join(f"{i}\n" for i in range(2000)))
    got: list[int] = []

    async def take(file: Any) -> None:
        async for line in file:
            got.append(int(line))
            if len(got) % 7 == 0:
                await asyncio.sleep(0)

    file: Any = threadpool.wrap(path.open()) if how == "wrapped" else await aiofiles.open(path, how)
    try:
        await asyncio.gather(take(file), take(file))
    finally:
        await file.close()
    assert sorted(got) == list(range(2000))


class Slow(io.BytesIO):
    """Its reads wait until they are let go."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.begun, self.go = threading.Event(), threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        self.begun.set()
        self.go.wait(SOON)
        return super().read(size)


async def test_a_cancelled_call_of_a_wrapped_object_goes_on_and_the_next_waits_for_it(ring: Any, method: str) -> None:
    if method == "scripted":
        pytest.skip("it runs calls in the loop's thread")
    slow = Slow(b"first second")
    file = threadpool.wrap(slow)
    reading = asyncio.create_task(file.read(6))
    assert await asyncio.to_thread(slow.begun.wait, SOON)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    following = asyncio.create_task(file.read())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not following.done()
    slow.go.set()
    async with asyncio.timeout(SOON):
        assert await following == b"second"


async def test_a_call_that_waits_for_its_turn_is_taken_out_by_a_cancel(ring: Any, method: str) -> None:
    if method == "scripted":
        pytest.skip("it runs calls in the loop's thread")
    slow = Slow(b"0123456789")
    file = threadpool.wrap(slow)
    first, second, third = (asyncio.create_task(file.read(2)) for _ in range(3))
    assert await asyncio.to_thread(slow.begun.wait, SOON)
    second.cancel()
    slow.go.set()
    async with asyncio.timeout(SOON):
        assert (await first, await third) == (b"01", b"23")
    assert second.cancelled()


async def test_a_stop_iteration_in_a_call_ends_it_and_hangs_nobody(ring: Any) -> None:
    async with asyncio.timeout(SOON):
        with pytest.raises(RuntimeError):
            await wrap(next)(iter([]))


# --- what stands behind a file ----------------------------------------------------------------------------------------


async def test_the_blocking_file_agrees_with_the_awaited_one(ring: Any, path: Path) -> None:
    data = path.read_bytes()
    async with aiofiles.open(path, "rb") as file:
        assert await file.read(10) == data[:10]
        behind = file._file
        assert (behind.tell(), behind.read(10), behind.closed, behind.name) == (10, data[10:20], False, str(path))
        assert (await file.tell(), await file.read(5)) == (20, data[20:25])
        assert isinstance(file.raw, io.RawIOBase)
        assert (behind.readable(), behind.writable(), behind.seekable(), behind.isatty()) == (True, False, True, False)
        with pytest.raises(io.UnsupportedOperation):
            behind.write(b"x")
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(behind)
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(file)
    assert behind.closed
    with pytest.raises(ValueError, match="closed file"):
        behind.read()


async def test_text_and_its_buffer_are_one_file(ring: Any, path: Path) -> None:
    async with aiofiles.open(path, "w+", encoding="utf-8") as file:
        await file.write("äb\n")
        await file.flush()
        assert isinstance(file.buffer, io.BufferedIOBase)
        assert isinstance(file._file, io.TextIOBase)
        assert (file.buffer.seekable(), file._file.readable(), file._file.isatty()) == (True, True, False)
        file.buffer.write(b"cd\n")
        file.buffer.flush()
        assert path.read_bytes() == "äb\ncd\n".encode()
        await file.seek(0)
        assert list(file._file) == ["äb\n", "cd\n"]
        assert file.buffer.raw.tell() == 7
        assert await file.read() == ""


@pytest.mark.parametrize("mode", ["r", "rb"])
async def test_a_detached_file_raises_as_ios_and_what_it_gave_reads_on(ring: Any, path: Path, mode: str) -> None:
    path.write_bytes(b"one\ntwo\n")
    words = "underlying buffer has been detached" if mode == "r" else "raw stream has been detached"
    opening = aiofiles.open(path, mode)
    with pytest.raises(ValueError, match=words):
        async with opening as file:
            below = file.detach()
            with pytest.raises(ValueError, match=words):
                await file.read()
            with pytest.raises(ValueError, match=words):
                file.fileno()
    assert isinstance(below, io.BufferedIOBase if mode == "r" else io.RawIOBase)
    with below:
        assert below.read() == b"one\ntwo\n"
    assert below.closed


async def test_what_was_written_is_flushed_by_detach_and_its_owner_writes_on(ring: Any, path: Path) -> None:
    file = await aiofiles.open(path, "w")
    await file.write("one\n")
    with io.TextIOWrapper(file.detach()) as text:
        assert path.read_text() == "one\n"
        text.write("two\n")
    assert path.read_text() == "one\ntwo\n"


async def test_a_detached_pipe_waits_for_its_reader_as_long_as_write_does(
    ring: Any, pipe: tuple[int, int], combination: Any
) -> None:
    if combination != ("sync", True):
        pytest.skip("no method has a part in it, and it takes a second")
    file = await aiofiles.open(pipe[1], "wb", closefd=False)
    below = file.detach()
    got: list[bytes] = []

    def read_late() -> None:
        threading.Event().wait(1.2)  # longer than IN_PLACE waits
        while sum(map(len, got)) < 200_000:
            got.append(os.read(pipe[0], 65536))

    reader = threading.Thread(target=read_late)
    reader.start()
    written = 0
    while written < 200_000:
        written += await asyncio.to_thread(below.write, bytes(200_000 - written))
    reader.join()
    assert sum(map(len, got)) == written
    below.close()


# --- pipes that do not wait -------------------------------------------------------------------------------------------


@pytest.fixture
def twins() -> Iterator[list[tuple[int, int]]]:
    """Two pipes whose ends have O_NONBLOCK: for the built-in and for us."""
    pairs = [os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)]
    for _, end in pairs:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    yield pairs
    for pair in pairs:
        for end in pair:
            os.close(end)


def said(error: BaseException) -> Any:
    return type(error), str(error), getattr(error, "characters_written", None)


READS: list[tuple[str, tuple[Any, ...]]] = [
    ("read", (3,)), ("read", ()), ("readinto", (bytearray(4),)), ("readline", ()), ("read1", (5,)), ("peek", (1,)),
    ("readall", ()), ("read", (0,)),
]  # fmt: skip


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_a_read_of_a_pipe_that_does_not_wait_is_ios(ring: Any, buffering: int) -> None:
    for there in (b"", b"ab", b"ab\ncd"):
        for name, args in READS:
            if name == "readline" and buffering == 0:
                continue  # io raises OSError there, and has lost what it had read; ours gives it (see below)
            seen = []
            for us in (False, True):
                end, other = os.pipe2(os.O_NONBLOCK)
                os.write(other, there)
                file: Any = await aiofiles.open(end, "rb", buffering) if us else open(end, "rb", buffering)
                outcomes: list[Any] = []
                for _ in range(2):
                    try:
                        value = getattr(file, name)(*args)
                        outcomes.append(await value if us else value)
                    except (AttributeError, OSError, TypeError) as error:
                        outcomes.append(type(error))
                seen.append(outcomes)
                await file.close() if us else file.close()
                os.close(other)
            assert seen[1] == seen[0], (there, name)


async def test_a_line_of_a_raw_pipe_that_does_not_wait_is_what_is_there(
    ring: Any, twins: list[tuple[int, int]]
) -> None:
    end, other = twins[0]
    async with aiofiles.open(end, "rb", 0, closefd=False) as file:
        os.write(other, b"ab\ncd")
        assert [await file.readline(), await file.readline(), await file.readline()] == [b"ab\n", b"cd", b""]


@pytest.mark.parametrize("buffering", [-1, 0, 64])
async def test_a_write_to_a_full_pipe_that_does_not_wait_is_ios(
    ring: Any, twins: list[tuple[int, int]], buffering: int
) -> None:
    seen = []
    for us, (end, other) in enumerate(twins):
        file: Any = (aiofiles.open if us else open)(other, "wb", buffering, closefd=False)
        file = await file if us else file
        outcomes: list[Any] = []
        for size in (1000, 3000, 5000, 20_000, 0, 70_000, 1):
            try:
                value = file.write(b"x" * size)
                outcomes.append(await value if us else value)
            except BlockingIOError as error:
                outcomes.append(said(error))
        for _ in range(2):
            try:
                outcomes.append(await file.flush() if us else file.flush())
            except BlockingIOError:
                outcomes.append("flush")  # files/buffered.py: in other words than io's, and without characters_written
        got = os.read(end, 100_000)
        outcomes.append(len(got))
        # What is buffered goes out with the end.
        while True:
            try:
                await file.flush() if us else file.flush()
                break
            except BlockingIOError:
                outcomes.append(len(os.read(end, 100_000)))
        await file.close() if us else file.close()
        try:
            outcomes.append(len(os.read(end, 100_000)))
        except BlockingIOError:
            outcomes.append(0)
        seen.append(outcomes)
    assert seen[1] == seen[0]


async def test_aioring_open_waits_where_the_drop_in_does_not(ring: Any, twins: list[tuple[int, int]]) -> None:
    end, other = twins[0]
    async with aioring.open(end, "rb", closefd=False) as file:
        reading = asyncio.create_task(file.read(2))
        await asyncio.sleep(0.02)
        assert not reading.done()
        os.write(other, b"ab")
        async with asyncio.timeout(SOON):
            assert await reading == b"ab"


# --- standard streams, loops ------------------------------------------------------------------------------------------


async def test_a_standard_stream_is_looked_up_at_each_call(ring: Any, capsys: pytest.CaptureFixture[str]) -> None:
    await aiofiles.stdout.write("out\n")
    await aiofiles.stderr.write("err\n")
    await aiofiles.stdout_bytes.write(b"bytes\n")
    await aiofiles.stdout.flush()
    assert capsys.readouterr() == ("out\nbytes\n", "err\n")
    memory = io.StringIO()
    with patch("sys.stdout", memory):
        await aiofiles.stdout.writelines(["a", "b"])
        assert aiofiles.stdout._file is memory
    assert memory.getvalue() == "ab"
    with patch("sys.stdin", io.StringIO("one\ntwo\n")):
        assert [line async for line in aiofiles.stdin] == ["one\n", "two\n"]


async def test_300_gathered_prints_lose_nothing(ring: Any) -> None:
    memory = io.StringIO()
    with patch("sys.stdout", memory):
        await asyncio.gather(*(aiofiles.stdout.write(f"{i}\n") for i in range(300)))
    assert sorted(map(int, memory.getvalue().split())) == list(range(300))


def test_a_file_of_one_loop_is_refused_in_another_and_a_wrapped_one_follows(path: Path) -> None:
    async def make() -> Any:
        return await aiofiles.open(path, "rb"), threadpool.wrap(io.BytesIO(b"abc"))

    with asyncio.Runner() as runner, asyncio.Runner() as other:
        file, wrapped = runner.run(make())
        assert runner.run(wrapped.read(1)) == b"a"
        with pytest.raises(aioring.WrongLoopError):
            other.run(file.read())
        assert other.run(wrapped.read(1)) == b"b"
        assert runner.run(wrapped.read(1)) == b"c"
        runner.run(file.close())
    assert file.closed


@pytest.mark.parametrize("mode", ["w", "wb", "r+", "ab"])
async def test_a_forked_child_writes_nothing_of_its_parents(ring: Any, path: Path, mode: str) -> None:
    before = path.read_bytes() if "w" not in mode else b""
    data: Any = b"parent" if "b" in mode else "parent"
    file = await aiofiles.open(path, mode)
    await file.write(data)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            warnings.simplefilter("ignore")
            del file
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)
    assert path.read_bytes() == before  # whatever the child did
    await file.close()
    expected = before + b"parent" if mode == "ab" else b"parent" + before[6:]
    assert path.read_bytes() == expected
