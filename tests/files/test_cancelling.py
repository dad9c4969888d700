"""Calls that are cancelled: a read loses nothing, a write is the file's, a close closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings, strategies as st

import aioring
from aioring.files import open as aopen
from aioring.testing import Scripted
from tests.harness import SOON, all_over, begin, ticks

SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
CONTENT = b"".join(b"%d\n" % i * (i % 7) for i in range(400))
DATA = st.integers(0, 300).map(lambda n: bytes(97 + i % 26 for i in range(n)))
STEPS = st.one_of(
    st.tuples(st.just("read"), st.one_of(st.integers(0, 400), st.just(-1))),
    st.tuples(st.just("readline"), st.integers(-1, 30)),
    st.tuples(st.just("readlines"), st.integers(1, 100)),
    st.tuples(st.just("write"), DATA),
    st.tuples(st.just("seek"), st.integers(0, 3000)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("truncate"), st.integers(0, 3000)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=SUPPRESSED)
@given(
    mode=st.sampled_from(["rb", "wb", "ab", "r+b", "w+b", "a+b"]),
    buffering=st.sampled_from([0, 3, 16, 100, 8192]),
    script=st.lists(st.tuples(STEPS, st.integers(0, 6)), max_size=12),
    seed=st.integers(0, 1000),
    direct=st.booleans(),
)
async def test_cancelled_anywhere_nothing_is_lost_and_nothing_is_written_twice(
    anyio_backend: Any, tmp_path: Path, mode: str, buffering: int, script: list[Any], seed: int, direct: bool
) -> None:
    """Each step is cancelled after some ticks, and asked again: the built-in `open` is the model of what then is there."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(CONTENT)
    theirs.write_bytes(CONTENT)
    async with aioring.Ring(method=Scripted(seed, short=0.2)) as ring, anyio.create_task_group() as group:
        file = await aopen(ours, mode, buffering, direct=direct, ring=ring)
        with open(theirs, mode, buffering) as model:
            try:
                for (name, argument), after in script:
                    await step(group, file, model, name, argument, after)
            except BaseException:
                await file.close()  # else the warning that it was not takes the place of what went wrong
                raise
            closing = begin(group, file.close)
            await ticks(script[0][1] if script else 0)
            closing.scope.cancel()
            with anyio.fail_after(SOON):
                await closing.over.wait()
            assert file.closed
        assert ours.read_bytes() == theirs.read_bytes()


async def step(group: Any, file: Any, model: Any, name: str, argument: Any, after: int) -> None:
    arguments = () if argument is None else (argument,)
    if not (model.readable() if name.startswith("read") else model.writable() or name == "seek"):
        return
    if name == "write":
        if "a" in model.mode:  # its position is the end, whatever it was: so that `tell` says how much was taken
            assert await file.seek(0, 2) == model.seek(0, 2)
        before = await file.tell()
        assert before == model.tell()
        outcome = begin(group, file.write, argument)
        await ticks(after)
        outcome.scope.cancel()
        await all_over(outcome)
        if outcome.error is not None:
            raise outcome.error
        taken = outcome.value
        if taken is None:
            now = await file.tell()
            # Text is taken whole or not at all; behind a read it goes to where the file has been read to, as io's.
            taken = now - before if "b" in model.mode else 0 if now == before else len(argument)
        assert 0 <= taken <= len(argument)
        if taken or outcome.value is not None:
            model.write(argument[:taken])
        return
    wanted = getattr(model, name)(*arguments)
    while True:
        outcome = begin(group, getattr(file, name), *arguments)
        await ticks(after)
        outcome.scope.cancel()
        await all_over(outcome)
        if outcome.error is not None:
            raise outcome.error
        if outcome.value is not None or name == "flush":
            break
        after += 1
    got = outcome.value
    if name == "read" and type(got) is bytes and len(got) < len(wanted) and not isinstance(got, type(None)):
        raise AssertionError((name, arguments, got, wanted))
    if name != "flush":
        assert got == wanted, (name, arguments)


TEXT = "".join(f"{i} é\n" * (i % 7) for i in range(300))
TEXT_STEPS = st.one_of(
    st.tuples(st.just("read"), st.one_of(st.integers(0, 400), st.integers(8000, 12_000), st.just(-1))),
    st.tuples(st.just("readline"), st.integers(-1, 30)),
    st.tuples(st.just("readlines"), st.just(-1)),
    st.tuples(st.just("write"), st.integers(0, 300).map(lambda n: "x\n" * n)),
    st.tuples(st.just("write"), st.integers(3000, 12_000).map(lambda n: "y" * n)),
    st.tuples(st.just("seek"), st.just(0)),
    st.tuples(st.just("tell"), st.none()),
    st.tuples(st.just("flush"), st.none()),
)


@settings(max_examples=30, deadline=None, suppress_health_check=SUPPRESSED)
@given(
    mode=st.sampled_from(["r", "w", "a", "r+", "w+"]),
    buffering=st.sampled_from([3, 100, 8192]),
    script=st.lists(st.tuples(TEXT_STEPS, st.integers(0, 6)), max_size=10),
    seed=st.integers(0, 1000),
)
async def test_cancelled_text_is_lost_as_little(
    anyio_backend: Any, tmp_path: Path, mode: str, buffering: int, script: list[Any], seed: int
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(TEXT, "utf-8")
    theirs.write_text(TEXT, "utf-8")
    async with aioring.Ring(method=Scripted(seed, short=0.2)) as ring, anyio.create_task_group() as group:
        file = await aopen(ours, mode, buffering, "utf-8", "replace", ring=ring)
        with open(theirs, mode, buffering, "utf-8", "replace") as model:
            try:
                for (name, argument), after in script:
                    await step(group, file, model, name, argument, after)
            except BaseException:
                await file.close()
                raise
            closing = begin(group, file.close)
            await ticks(script[0][1] if script else 0)
            closing.scope.cancel()
            with anyio.fail_after(SOON):
                await closing.over.wait()
            assert file.closed
        assert ours.read_bytes() == theirs.read_bytes()
