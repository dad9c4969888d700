"""Random scripts through `aioring.anyio.open_file` and through the built-in `open`: every outcome is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from aioring.anyio import open_file
from tests.files.model import Call, binary_calls, compare, text_calls, texts

SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


class Awaited:
    """The file, with its dialect's word for closing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, "aclose" if name == "close" else name)

    def __anext__(self) -> Any:
        return self._file.__anext__()


@st.composite
def binary_scripts(draw: st.DrawFn) -> tuple[str, dict[str, Any], bytes, list[Call]]:
    mode = draw(st.sampled_from(["rb", "wb", "ab", "r+b", "w+b", "a+b", "xb", "x+b"]))
    buffering = draw(st.sampled_from([-1, 0, 2, 7, 64, 8192]))
    # What blocks in anyio's dialect (`peek`) is for tests/anyio/test_dropin.py, and the step asks for none of them.
    calls = binary_calls(looks_ahead=False)
    content = draw(st.lists(st.sampled_from([b"line\n", b"\n", b"x", b"0123456789"]), max_size=60).map(b"".join))
    return mode, {"buffering": buffering}, content, draw(st.lists(calls, max_size=14))


@st.composite
def text_scripts(draw: st.DrawFn) -> tuple[str, dict[str, Any], bytes, list[Call]]:
    options: dict[str, Any] = {
        "buffering": draw(st.sampled_from([-1, 1, 2, 7, 8192])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "shift_jis"])),
        "errors": draw(st.sampled_from([None, "replace", "surrogateescape"])),
        "newline": draw(st.sampled_from([None, "", "\n", "\r", "\r\n"])),
    }
    content = draw(texts).encode(options["encoding"], "replace")
    mode = draw(st.sampled_from(["r", "w", "a", "r+", "w+", "a+", "x", "x+"]))
    return mode, options, content, draw(st.lists(text_calls(), max_size=12))


@settings(max_examples=15, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=st.one_of(binary_scripts(), text_scripts()))
async def test_it_is_the_built_in_step_by_step(ring: Any, tmp_path: Path, script: tuple[Any, ...]) -> None:
    mode, options, content, calls = script

    async def opened(path: Path) -> Any:
        return Awaited(await open_file(path, mode, **options))

    await compare(tmp_path / "file", content, mode, options, calls, opened)
