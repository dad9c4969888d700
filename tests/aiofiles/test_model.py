"""The drop-in's `open` against the built-in, step by step: the random scripts of tests/files, through its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

import aioring.aiofiles as aiofiles
from tests.files.model import Call, binary_calls, compare, text_calls, texts

SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
BINARY = st.one_of(
    st.binary(max_size=100),
    st.lists(st.sampled_from([b"line\n", b"\n", b"x", b"0123456789"]), max_size=60).map(b"".join),
    st.integers(0, 40_000).map(lambda n: bytes((i * i) % 253 for i in range(n))),
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "ascii", "latin-1", "shift_jis", None]


@st.composite
def binary(draw: st.DrawFn) -> tuple[str, dict[str, Any], bytes, list[Call]]:
    mode = draw(st.sampled_from(["rb", "wb", "ab", "r+b", "w+b", "a+b", "xb", "x+b"]))
    buffering = draw(st.sampled_from([-1, 0, 2, 7, 64, 8192]))
    calls = binary_calls(looks_ahead=not (mode == "rb" and buffering == -1) and buffering != 0)
    # aiofiles has no `readinto1`; that there is no `peek` to a writer it says with a class name of its own (test_api.py).
    absent = {"readinto1"} if set("r+") & set(mode) else {"readinto1", "peek"}
    calls = calls.filter(lambda call: call[0] not in absent)
    return mode, {"buffering": buffering}, draw(BINARY), draw(st.lists(calls, max_size=14))


@st.composite
def text(draw: st.DrawFn) -> tuple[str, dict[str, Any], bytes, list[Call]]:
    options: dict[str, Any] = {
        "buffering": draw(st.sampled_from([-1, 1, 7, 64, 8192])),
        "encoding": draw(st.sampled_from(ENCODINGS)),
        "errors": draw(st.sampled_from([None, "strict", "replace", "surrogateescape", "backslashreplace"])),
        "newline": draw(st.sampled_from([None, "", "\n", "\r", "\r\n"])),
    }
    content = draw(texts).encode(options["encoding"] or "utf-8", "replace")
    content = draw(st.one_of(st.just(content), st.binary(max_size=40)))
    mode = draw(st.sampled_from(["r", "w", "a", "r+", "w+", "a+", "x", "x+"]))
    return mode, options, content, draw(st.lists(text_calls(), max_size=12))


async def run(tmp_path: Path, script: tuple[str, dict[str, Any], bytes, list[Call]]) -> None:
    mode, options, content, calls = script

    async def ours(path: Path) -> Any:
        return await aiofiles.open(path, mode, **options)

    await compare(tmp_path / "file", content, mode, options, calls, ours)


@settings(max_examples=15, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=binary())
async def test_a_binary_file_is_the_built_ins_step_by_step(
    ring: Any, tmp_path: Path, script: tuple[str, dict[str, Any], bytes, list[Call]]
) -> None:
    await run(tmp_path, script)


@settings(max_examples=15, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=text())
async def test_a_text_file_is_the_built_ins_step_by_step(
    ring: Any, tmp_path: Path, script: tuple[str, dict[str, Any], bytes, list[Call]]
) -> None:
    await run(tmp_path, script)
