"""The built-in `open` as the model: the same script of calls on both, compared step by step, message by message."""

from __future__ import annotations

import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

__all__ = ["Call", "Model", "binary_calls", "compare", "outcome_of"]

Call = tuple[str, tuple[Any, ...]]

_sizes = st.one_of(st.sampled_from([-1, 0, 1, None]), st.integers(-3, 40), st.integers(0, 30_000))
_few = st.one_of(st.integers(0, 12), st.integers(0, 20_000))
_data = st.one_of(
    st.binary(max_size=12),
    st.lists(st.sampled_from([b"\n", b"ab", b"c\n", b"", b"0123456789"]), max_size=12).map(b"".join),
    st.integers(0, 20_000).map(lambda n: bytes(i % 251 for i in range(n))),
)
_odd_data: st.SearchStrategy[Any] = st.one_of(
    _data, _data.map(bytearray), _data.map(lambda data: memoryview(data)), st.sampled_from(["text", 5, None])
)


def binary_calls(*, looks_ahead: bool) -> st.SearchStrategy[Call]:
    """One call on a binary file. `looks_ahead`: also those that show how far the buffer has read ahead."""
    calls: list[st.SearchStrategy[Call]] = [
        st.tuples(st.just("read"), st.one_of(st.just(()), st.tuples(_sizes))),
        st.tuples(st.just("readline"), st.one_of(st.just(()), st.tuples(_sizes))),
        st.tuples(st.just("readlines"), st.one_of(st.just(()), st.tuples(_sizes))),
        st.tuples(st.just("readinto"), st.tuples(_few)),
        st.tuples(st.just("write"), st.tuples(_odd_data)),
        st.tuples(st.just("write"), st.tuples(_data)),
        st.tuples(st.just("writelines"), st.tuples(st.lists(_data, max_size=3))),
        st.tuples(st.just("seek"), st.tuples(st.integers(-5, 30_000))),
        st.tuples(st.just("seek"), st.tuples(st.integers(-40, 40), st.sampled_from([0, 1, 2]))),
        st.tuples(st.just("seek"), st.tuples(st.integers(-5, 5), st.sampled_from([-1, 3, 4, 5, 7]))),
        st.tuples(st.just("tell"), st.just(())),
        st.tuples(st.just("truncate"), st.one_of(st.just(()), st.tuples(st.integers(-1, 30_000)))),
        st.tuples(st.just("flush"), st.just(())),
        st.tuples(st.just("readable"), st.just(())),
        st.tuples(st.just("writable"), st.just(())),
        st.tuples(st.just("seekable"), st.just(())),
        st.tuples(st.just("next"), st.just(())),
        st.tuples(st.just("append_behind_its_back"), st.tuples(st.binary(max_size=5))),
        st.tuples(st.just("truncate_behind_its_back"), st.tuples(st.integers(0, 40))),
    ]
    if looks_ahead:
        calls += [
            st.tuples(st.just("peek"), st.one_of(st.just(()), st.tuples(_few))),
            st.tuples(st.just("read1"), st.one_of(st.just(()), st.tuples(st.integers(-2, 20_000)))),
            st.tuples(st.just("readinto1"), st.tuples(_few)),
        ]
    closing: list[st.SearchStrategy[Call]] = [st.tuples(st.just("close"), st.just(()))]
    return st.one_of(*calls * 3, *closing)


_alphabet = st.sampled_from(
    ["a", "b", "\n", "\r", "\r\n", "é", "€", "😀", "\x85", "\u2028", "", "line\n", "0123456789"]
)
texts = st.one_of(
    st.lists(_alphabet, max_size=14).map("".join),
    st.integers(0, 12_000).map(lambda n: "".join("é\n"[i % 7 == 0] if i % 5 else "xy\r\n" for i in range(n))),
)


def text_calls() -> st.SearchStrategy[Call]:
    """One call on a text file; `seek` goes to what `tell` gave before."""
    calls: list[st.SearchStrategy[Call]] = [
        st.tuples(st.just("read"), st.one_of(st.just(()), st.tuples(_sizes))),
        st.tuples(st.just("readline"), st.one_of(st.just(()), st.tuples(st.integers(-2, 40)))),
        st.tuples(st.just("readlines"), st.one_of(st.just(()), st.tuples(st.integers(-1, 100)))),
        st.tuples(st.just("write"), st.tuples(st.one_of(texts, st.sampled_from([b"bytes", 5, None, "\udc80"])))),
        st.tuples(st.just("write"), st.tuples(texts)),
        st.tuples(st.just("writelines"), st.tuples(st.lists(texts, max_size=3))),
        st.tuples(st.just("seek_back"), st.tuples(st.integers(0, 5))),
        st.tuples(st.just("seek"), st.tuples(st.sampled_from([0, 1, -1, 5]), st.sampled_from([0, 1, 2, 3]))),
        st.tuples(st.just("seek"), st.tuples(st.just(0))),
        st.tuples(st.just("tell"), st.just(())),
        st.tuples(st.just("truncate"), st.one_of(st.just(()), st.tuples(st.integers(-1, 100)))),
        st.tuples(st.just("flush"), st.just(())),
        st.tuples(st.just("readable"), st.just(())),
        st.tuples(
            st.just("get"), st.tuples(st.sampled_from(["newlines", "encoding", "errors", "line_buffering", "mode"]))
        ),
    ]
    closing: list[st.SearchStrategy[Call]] = [st.tuples(st.just("close"), st.just(()))]
    return st.one_of(*calls * 3, *closing)


class Model:
    """A file of the built-in `open`, called by name."""

    def __init__(self, path: Path, mode: str, **options: Any) -> None:
        self.path = path
        self.file: Any = open(path, mode, **options)
        self.file.seekable()  # io.FileIO asks once, and takes a first seek that fails for an answer

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        return _call(self.file, self.path, name, args, next)

    def close(self) -> None:
        try:
            self.file.close()
        except (OSError, ValueError):
            pass


def _call(file: Any, path: Path, name: str, args: tuple[Any, ...], step: Callable[[Any], Any]) -> Any:
    if name == "append_behind_its_back":
        with open(path, "ab") as other:
            return other.write(args[0])
    if name == "truncate_behind_its_back":
        return os.truncate(path, args[0])
    if name == "next":
        return step(file)
    if name == "get":
        return getattr(file, args[0])
    return getattr(file, name)(*args)


def outcome_of(error: BaseException | None, value: Any) -> Any:
    """What can be seen of a call: its value, or its error's class, errno and words."""
    if error is None:
        return memoryview(value).tobytes() if isinstance(value, bytearray) else value
    if isinstance(error, StopIteration | StopAsyncIteration):
        return "the end"
    return type(error).__mro__[:-1], getattr(error, "errno", None), _words(error)


_CLASSES = (
    "BufferedReader", "BufferedWriter", "BufferedRandom", "FileIO", "TextIOWrapper", "BinaryFile", "RawFile", "TextFile",
)  # fmt: skip


def _words(error: BaseException) -> str:
    words = str(error)
    # The built-in's names for its own classes.
    for name in ("_io.", "aioring."):
        words = words.replace(name, "")
    for name in _CLASSES:
        words = words.replace(name, "File")
    return words


async def compare(
    path: Path,
    content: bytes,
    mode: str,
    options: dict[str, Any],
    script: list[Call],
    open_ours: Callable[[Path], Awaitable[Any]],
    when_full: bool = True,
) -> None:
    """Run `script` on both; every outcome, and what is on the disk after each step, is the same. `when_full`: also that the
    buffer is written at the same moments."""
    theirs, ours = path.with_name("theirs"), path.with_name("ours")
    for copy in (theirs, ours):
        copy.unlink(missing_ok=True)
        if "x" not in mode:
            copy.write_bytes(content)
    model = Model(theirs, mode, **options)
    file = await open_ours(ours)
    steps: list[Any] = []
    try:
        told: list[int] = [0]
        lost = False
        for name, args in script:
            if name == "seek_back":
                name, args = "seek", (told[args[0] % len(told)],)
            if lost and name == "seek" and args[1:] == (1,):
                continue  # which asks `tell`: see below
            if name == "read" and args == (None,) and not set("r+") & set(mode):
                continue  # which is looked at first, the argument or the mode, is not the same in all Pythons
            wanted = _try(model.call, name, args)
            got = await _try_ours(file, ours, name, args)
            if name == "tell" and type(wanted) is int and not lost:
                told.append(wanted)
            steps.append((name, args, wanted))
            if name == "readlines" and (type(wanted) is tuple or (args and (args[0] or 0) > 0)):
                lost = True  # after one that stopped early CPython has no snapshot: `tell` reads beyond its memory
            elif name == "seek":
                lost = False
            assert got == wanted or (lost and name == "tell"), steps
            assert not when_full or ours.read_bytes() == theirs.read_bytes(), steps
            assert file.closed == model.file.closed
    finally:
        model.close()
        try:
            await file.close()
        except (OSError, ValueError):
            pass
    assert ours.read_bytes() == theirs.read_bytes(), steps


def _with_buffer(call: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
    if name not in ("readinto", "readinto1"):
        return call(name, args)
    buffer = bytearray(args[0])
    n = call(name, (buffer,))
    return n, bytes(buffer[: n or 0])


def _try(call: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
    try:
        return outcome_of(None, _with_buffer(call, name, args))
    except (
        OSError,
        ValueError,
        TypeError,
        OverflowError,
        AttributeError,
        StopIteration,
        io.UnsupportedOperation,
    ) as error:
        return outcome_of(error, None)


async def _try_ours(file: Any, path: Path, name: str, args: tuple[Any, ...]) -> Any:
    buffer = bytearray(args[0]) if name in ("readinto", "readinto1") else None
    try:
        value = _call(file, path, name, args if buffer is None else (buffer,), lambda file: file.__anext__())
        if hasattr(value, "__await__"):
            value = await value
        if buffer is not None:
            value = value, bytes(buffer[: value or 0])
        return outcome_of(None, value)
    except (OSError, ValueError, TypeError, OverflowError, AttributeError, StopAsyncIteration) as error:
        return outcome_of(error, None)
