"""Binary files against the built-in `open`, on every method and loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from aioring.files import open as aopen
from tests.files.model import Call, binary_calls, compare

LIGHT = True  # see conftest.py

MODES = ["rb", "wb", "ab", "r+b", "w+b", "a+b", "xb", "x+b"]
BUFFERING = [-1, 0, 2, 7, 64, 8192]
CONTENT = st.one_of(
    st.binary(max_size=100),
    st.lists(st.sampled_from([b"line\n", b"\n", b"x", b"0123456789"]), max_size=60).map(b"".join),
    st.integers(0, 40_000).map(lambda n: bytes((i * i) % 253 for i in range(n))),
)
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, int, bytes, list[Call]]:
    mode, buffering = draw(st.sampled_from(MODES)), draw(st.sampled_from(BUFFERING))
    calls = binary_calls(looks_ahead=not (mode == "rb" and buffering == -1) and buffering != 0)
    return mode, buffering, draw(CONTENT), draw(st.lists(calls, max_size=14))


@settings(max_examples=25, deadline=None, suppress_health_check=SUPPRESSED)
@given(script=scripts())
async def test_it_is_the_built_in_step_by_step(
    ring: Any, tmp_path: Path, script: tuple[str, int, bytes, list[Call]]
) -> None:
    mode, buffering, content, calls = script

    async def ours(path: Path) -> Any:
        return await aopen(path, mode, buffering, ring=ring)

    await compare(tmp_path / "file", content, mode, {"buffering": buffering}, calls, ours)
