"""Text files against the built-in `open`, on every method and loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from aioring.files import open as aopen
from tests.files.model import Call, compare, text_calls, texts

LIGHT = True  # see conftest.py

MODES = ["r", "w", "a", "r+", "w+", "a+", "x", "x+"]
ENCODINGS = [
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "ascii", "latin-1", "cp1252", "shift_jis", "utf-7", None,
]  # fmt: skip
ERRORS = [None, "strict", "replace", "ignore", "surrogateescape", "backslashreplace"]
NEWLINES = [None, "", "\n", "\r", "\r\n"]
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, dict[str, Any], bytes, list[Call]]:
    options: dict[str, Any] = {
        "buffering": draw(st.sampled_from([-1, 1, 2, 7, 64, 8192])),
        "encoding": draw(st.sampled_from(ENCODINGS)),
        "errors": draw(st.sampled_from(ERRORS)),
        "newline": draw(st.sampled_from(NEWLINES)),
    }
    text = draw(texts)
    content = draw(st.one_of(st.just(text.encode(options["encoding"] or "utf-8", "replace")), st.binary(max_size=40)))
    return draw(st.sampled_from(MODES)), options, content, draw(st.lists(text_calls(), max_size=12))


@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=scripts())
async def test_it_is_the_built_in_step_by_step(ring: Any, tmp_path: Path, script: tuple[Any, ...]) -> None:
    mode, options, content, calls = script

    async def ours(path: Path) -> Any:
        return await aopen(path, mode, ring=ring, **options)

    await compare(tmp_path / "file", content, mode, options, calls, ours)
