"""What is had without suspending or without asking again comes to what asking would have come to."""

from __future__ import annotations

import asyncio
import fcntl
import io
import itertools
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.files import open as aopen
from tests.conftest import pattern

TEXTS = [
    "one\ntwo\nthree", "one\r\ntwo\r\n", "one\rtwo\rthree\r", "one\ntwo\r\nthree\rfour\n", "no end at all", "",
    "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\nj\n", "".join(f"line {i} é€😀\n" for i in range(1500)),
    "".join(f"line {i}\x0b\r\n" for i in range(1500)),
]  # fmt: skip
NEWLINES = [None, "", "\n", "\r", "\r\n"]


async def test_a_text_in_one_piece_is_the_built_ins(ring: Any, tmp_path: Path) -> None:
    for text, newline in itertools.product(TEXTS, NEWLINES):
        path = tmp_path / "text"
        path.write_bytes(text.encode())
        await one_piece(ring, path, newline)


async def one_piece(ring: Any, path: Path, newline: str | None) -> None:
    with open(path, encoding="utf-8", newline=newline) as plain:
        async with aopen(path, encoding="utf-8", newline=newline, ring=ring) as file:
            for _ in range(2):
                assert await file.read() == plain.read()
                assert file.newlines == plain.newlines
                assert await file.tell() == plain.tell()
            assert (await file.seek(3), await file.readline()) == (plain.seek(3), plain.readline())
            assert (await file.read(), file.newlines) == (plain.read(), plain.newlines)


async def test_lines_are_the_built_ins_and_so_is_where_they_end(ring: Any, tmp_path: Path) -> None:
    for text, newline in itertools.product(TEXTS, NEWLINES):
        path = tmp_path / "text"
        path.write_bytes(text.encode())
        await lines(ring, path, newline)


async def lines(ring: Any, path: Path, newline: str | None) -> None:
    with open(path, encoding="utf-8", newline=newline) as plain:
        async with aopen(path, encoding="utf-8", newline=newline, ring=ring) as file:
            count = 0
            async for line in file:
                assert line == plain.readline()
                count += 1
                if count in (1, 3, 60, 65, 1000):  # in a chunk that has been cut, and handed out in part
                    assert await file.tell() == plain.tell()
                    assert await file.read(2) == plain.read(2)
            assert plain.readline() == ""
            assert file.newlines == plain.newlines


CODECS = [
    ("utf-8", None), ("utf-8", "replace"), ("ascii", None), ("ascii", "surrogateescape"), ("latin-1", None),
    ("utf-16-le", None), ("utf-16-le", "surrogatepass"), ("utf-8-sig", None), ("cp1252", "ignore"), ("shift-jis", None),
]  # fmt: skip


def long_text(chance: random.Random, encoding: str) -> bytes:
    """Of many chunks, with line ends across their edges, and with what cannot be decoded in some."""
    ends = chance.choice(["\n", "\r\n", "\r", "\n\r\n"])
    words = chance.choice(["abc", "abcé", "a€😀", "\x0bab\x85c", "ab\u2028", "xy\r"])
    pieces = []
    for _ in range(chance.randrange(4000)):
        longest = 20_000 if chance.random() < 0.001 else 60
        pieces += [chance.choice(words) * chance.randrange(longest), chance.choice(ends)]
    data = bytearray("".join(pieces).encode(encoding, "replace"))
    for _ in range(chance.choice([0, 0, 1, 4])):
        at = chance.randrange(len(data) + 1)
        data[at : at + 1] = chance.choice([b"\xff", b"\xd8\x00", b"\x80\xe2\x82", b""])
    return bytes(data)


@pytest.mark.parametrize("seed", range(9))
async def test_a_long_text_is_read_as_the_built_in_reads_it(ring: Any, tmp_path: Path, seed: int) -> None:
    """Ours takes longer pieces of it, and cuts them: to be seen only in `newlines`, before the end."""
    chance = random.Random(seed)
    (encoding, errors), newline = chance.choice(CODECS), chance.choice(NEWLINES)
    path = tmp_path / "text"
    path.write_bytes(long_text(chance, encoding))
    with open(path, encoding=encoding, errors=errors, newline=newline) as plain:
        async with aopen(path, encoding=encoding, errors=errors, newline=newline, ring=ring) as file:
            places = [0]
            for _ in range(150):
                what, n = chance.choice(["lines", "lines", "lines", "readline", "read", "tell", "seek"]), 0
                if what == "seek":
                    n = chance.choice(places)
                elif what != "tell":
                    n = chance.choice([1, 3, 64, 65, 200, 9000 if what != "read" else 2])
                found, expected = await outcome(step(file, what, n)), plain_outcome(plain, what, n)
                assert found == expected
                if len(expected) == 2 or (what == "lines" and expected[0] and isinstance(expected[0][-1], tuple)):
                    break  # an error: where `tell` is then depends on the length of a chunk
                if what == "tell" and expected[0] < 1 << 64:
                    # (Where the decoder has to be fed first, this is read into a buffer, which is not as long as io's.)
                    places.append(expected[0])
            for _ in range(20):
                assert await outcome(file.read()) == plain_outcome(plain, "read", -1)
            assert file.newlines == plain.newlines


async def step(file: Any, what: str, n: int) -> Any:
    if what != "lines":
        return await (file.tell() if what == "tell" else getattr(file, what)(n))
    lines = []
    try:
        async for line in file:
            lines.append(line)
            if len(lines) == n:
                break
    except UnicodeError as error:
        lines.append(seen(error))
    return lines


async def outcome(call: Any) -> Any:
    try:
        return (await call,)
    except (UnicodeError, OSError) as error:
        return seen(error)


def plain_outcome(plain: Any, what: str, n: int) -> Any:
    lines: list[Any] = []
    try:
        if what != "lines":
            return (plain.tell() if what == "tell" else getattr(plain, what)(n),)
        while len(lines) < n and (line := plain.readline()):  # (its iteration forbids `tell`)
            lines.append(line)
    except (UnicodeError, OSError) as error:
        if what != "lines":
            return seen(error)
        lines.append(seen(error))
    return (lines,)


def seen(error: Exception) -> Any:
    return type(error), str(error)


async def test_decoding_in_one_piece_fails_and_goes_on_as_the_built_in(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "text"
    for data, encoding, errors in (
        (b"caf\xe9\n", "utf-8", "strict"),
        (b"caf\xe9\n", "utf-8", "replace"),
        (b"caf\xe9\n", "latin-1", None),
        (b"\x80a\n", "ascii", "surrogateescape"),
        (b"\xef\xbb\xbfx\n", "utf-8-sig", None),
        ("x\n".encode("utf-16"), "utf-16", None),
    ):
        path.write_bytes(data)
        await decoded(ring, path, encoding, errors)


async def decoded(ring: Any, path: Path, encoding: str, errors: str | None) -> None:
    with open(path, encoding=encoding, errors=errors) as plain:
        try:
            expected: Any = plain.read()
        except UnicodeError as error:
            expected = seen(error)
        async with aopen(path, encoding=encoding, errors=errors, ring=ring) as file:
            try:
                found: Any = await file.read()
            except UnicodeError as error:
                found = seen(error)
            assert found == expected
            assert await file.tell() == plain.tell()
            assert (await file.read(), file.newlines) == (plain.read(), plain.newlines)


async def test_a_file_that_changes_right_after_it_was_opened_is_read_as_it_is(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    for before, after in itertools.product([0, 100, 4096, 8192], repeat=2):
        path.write_bytes(pattern(before))
        async with aopen(path, "rb", ring=ring) as file:
            with open(path, "r+b") as other:  # while what its opening said of its size is fresh
                other.truncate(after)
            assert await file.read() == path.read_bytes()


async def test_what_is_handed_out_is_a_blocking_fd(ring: Any, path: Path) -> None:
    async with aopen(path, "rb", ring=ring) as file:
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


async def test_small_writes_are_the_built_ins(ring: Any, tmp_path: Path) -> None:
    sizes = [1, 0, 63, 4000, 4128, 1, 8191, 8192, 8193, 64, 20_000, 5]
    for mode, size in itertools.product(["wb", "ab", "w", "a"], [-1, 100, 8192]):
        paths = tmp_path / "ours", tmp_path / "plain"
        piece: Any = b"x" if "b" in mode else "x"
        encoding = None if "b" in mode else "utf-8"
        with open(paths[1], mode, size, encoding=encoding) as plain:
            async with aopen(paths[0], mode, size, encoding=encoding, ring=ring) as file:
                for n in sizes:
                    assert await file.write(piece * n) == plain.write(piece * n)
                    assert paths[0].stat().st_size == paths[1].stat().st_size
                    if n == 1:
                        assert await file.tell() == plain.tell()
        assert paths[0].read_bytes() == paths[1].read_bytes()


async def test_a_closed_file_takes_no_small_write(ring: Any, tmp_path: Path) -> None:
    for mode in ("wb", "w"):
        file = await aopen(tmp_path / "data", mode, ring=ring)
        data: Any = b"abc" if mode == "wb" else "abc"
        await file.write(data)
        await file.write(data)
        await file.close()
        with pytest.raises(ValueError, match="closed file"):
            await file.write(data)
    with open("/dev/full", "w", encoding="utf-8"):
        pass
    file = await aopen("/dev/full", "w", encoding="utf-8", ring=ring)
    await file.write("abc")
    with pytest.raises(OSError, match="No space left"):
        await file.close()
    with pytest.raises(ValueError, match="closed file"):
        await file.write("abc")


async def test_a_surrogate_in_a_small_write_is_refused_and_nothing_of_it_taken(ring: Any, tmp_path: Path) -> None:
    async with aopen(tmp_path / "data", "w", encoding="utf-8", ring=ring) as file:
        for text in ("good", "good"):
            await file.write(text)
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            await file.write("bad \udc80")
    assert (tmp_path / "data").read_bytes() == b"goodgood"


async def test_lines_come_in_the_order_of_the_calls(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"{i}\n" for i in range(20_000)))
    taken: list[int] = []
    async with aopen(path, ring=ring) as file:

        async def take(n: int) -> None:
            for _ in range(n):
                line = await (file.readline() if n % 2 else file.__anext__())
                taken.append(int(line))

        import anyio

        async with anyio.create_task_group() as group:
            for n in (5000, 3333, 2000, 1667):
                group.start_soon(take, n)
        rest = [int(line) async for line in file]
    assert sorted(taken) == list(range(12_000))
    assert rest == list(range(12_000, 20_000))


def test_many_tasks_that_open_cached_files_leave_the_loop_its_turns(tmp_path: Path) -> None:
    """Counted, not timed: how many files are opened between two turns of the loop."""
    path = tmp_path / "data"
    path.write_bytes(pattern(4096))
    opened = turns = most = 0

    async def main() -> None:
        nonlocal opened, turns
        ring = aioring.get_ring()
        over = False

        def turn() -> None:
            nonlocal opened, turns, most
            most, opened, turns = max(most, opened), 0, turns + 1
            if not over:
                asyncio.get_running_loop().call_soon(turn)

        async def one() -> None:
            nonlocal opened
            for _ in range(40):
                async with aopen(path, "rb", ring=ring) as file:
                    assert len(await file.read()) == 4096
                opened += 1

        turn()
        await asyncio.gather(*[one() for _ in range(64)])
        over = True

    asyncio.run(main())
    assert most <= 64  # a budget's worth, and those who were woken with it
    assert turns >= 40


def test_who_takes_long_over_each_line_lets_others_run(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("line\n" * 640)
    turns = 0

    async def main() -> None:
        nonlocal turns
        loop = asyncio.get_running_loop()

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        async with aopen(path) as file:
            turn()
            count = 0
            async for _ in file:
                count += 1
                time.sleep(0.0001)  # 6 ms for 64 lines
            assert count == 640

    asyncio.run(main())
    assert turns >= 9


def test_a_path_of_a_thread_without_a_loop_is_refused(tmp_path: Path) -> None:
    """`get_ring` takes a short cut on the loop that it served last: not where none runs."""
    raised: list[BaseException] = []

    async def main() -> None:
        aioring.get_ring()

    asyncio.run(main())
    for run in (lambda call: call(), lambda call: _in_a_thread(call)):
        try:
            run(aioring.get_ring)
        except aioring.WrongLoopError as error:
            raised.append(error)
    assert len(raised) == 2


def _in_a_thread(call: Any) -> None:
    struck: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:
            struck.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if struck:
        raise struck[0]


async def test_detached_files_go_on_where_they_were(ring: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one\ntwo\nthree\n")
    text = await aopen(path, "r+", encoding="utf-8", ring=ring)
    assert await text.readline() == "one\n"
    await text.seek(4)
    await text.write("TWO")
    binary = await text.detach()
    for refused in (text.read, text.close, text.flush):
        with pytest.raises(ValueError, match="underlying buffer has been detached"):
            await refused()
    assert isinstance(binary, aioring.BinaryFile)
    assert await binary.read() == b"\nthree\n"
    raw = await binary.detach()
    assert isinstance(raw, aioring.RawFile)
    with pytest.raises(ValueError, match="raw stream has been detached"):
        await binary.read()
    with pytest.raises(io.UnsupportedOperation, match="detach"):
        await raw.detach()
    await raw.seek(0)
    assert await raw.readall() == b"one\nTWO\nthree\n"
    await raw.close()
