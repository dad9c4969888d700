"""examples/log_filter.py as people run it: what it writes, to the byte, and what it says of input that is no good."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "log_filter.py"

_spec = importlib.util.spec_from_file_location("log_filter", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
log_filter: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(log_filter)

# What runs before the example, in its process. SIGINT may have been ignored by whoever started us.
PRELUDE = "import runpy, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
MAIN = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"

# Everything in it that a line may have in it: all but \n, \r\n and \r end none.
LONG = "keep " + "x€" * 70_000
LOG = "keep one\ndrop\r\nkeep two\r\n\nkeep\u2028three\x0b\x0c\x1c\x85\ndrop keeper\nold keep\rdrop\nkeep é𝄞\n"
LOG += LONG + "\nkeep end"
KEPT = "keep one\nkeep two\nkeep\u2028three\x0b\x0c\x1c\x85\nkeep é𝄞\n" + LONG + "\nkeep end"
LINES, KEPT_LINES = 11, 6


def start(*arguments: str | Path, prelude: str = "") -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "AIORING_METHOD"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    options = ["-W", "default::ResourceWarning"]  # every leak is a line on stderr
    command = [sys.executable, *options, "-c", PRELUDE + prelude + MAIN, str(SCRIPT), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environment)


def run(*arguments: str | Path, prelude: str = "") -> tuple[int, str, str]:
    with start(*arguments, prelude=prelude) as process:
        try:
            output, errors = process.communicate(timeout=25)
        finally:
            process.kill()
        return process.returncode, output, errors


def rows(output: str) -> dict[str, tuple[int, int]]:
    """The table: lines read and kept."""
    found = re.findall(r"^(\S+) +([\d,]+) +([\d,]+) +[\d.]+ +[\d,]+ +[\d.,]+ ms$", output, re.MULTILINE)
    return {name: (int(read.replace(",", "")), int(kept.replace(",", ""))) for name, read, kept in found}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(LOG.encode())
    return path


async def test_it_keeps_the_lines_that_match_to_the_byte(anyio_backend: Any, log: Path, tmp_path: Path) -> None:
    search = re.compile("^keep").search
    target = tmp_path / "kept"
    for method in ("io_uring", "worker", "sync"):
        target.write_bytes(b"old " * 100_000)
        async with aioring.Ring(method=method) as ring:
            assert await log_filter.filter_log(ring, search, str(log), str(target)) == (LINES, KEPT_LINES)
        assert target.read_bytes() == KEPT.encode()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_it_filters_a_log_and_compares(log: Path, tmp_path: Path, loop: str) -> None:
    kept = tmp_path / "kept"
    code, output, errors = run(log, "--pattern", "^keep", "--output", kept, "--loop", loop, "--runs", "2")
    assert (code, errors) == (0, ""), output + errors
    assert kept.read_bytes() == KEPT.encode()
    names = ["aioring", "built-in"] if loop == "trio" else ["aioring", "aiofiles", "built-in"]
    assert rows(output) == dict.fromkeys(names, (LINES, KEPT_LINES))
    assert ("aiofiles does not run on trio" in output) == (loop == "trio")
    assert f"verified: the built-in wrote the same {len(KEPT.encode()):,} bytes" in output


def test_it_makes_a_log_and_does_without_aiofiles(tmp_path: Path) -> None:
    kept, log = tmp_path / "kept", tmp_path / "log"
    code, output, errors = run("--lines", "500", "--output", kept, prelude="sys.modules.update(aiofiles=None)\n")
    assert (code, errors) == (0, "")
    assert "aiofiles is not installed" in output
    log_filter.make_log(str(log), 500)
    lines = log.read_bytes().splitlines(keepends=True)
    expected = [line for line in lines if b"ERROR" in line or "user=chloé".encode() in line]
    assert kept.read_bytes() == b"".join(expected)
    assert rows(output) == dict.fromkeys(["aioring", "built-in"], (500, len(expected)))
    assert 0 < len(expected) < 500


def test_a_piece_is_whole_lines(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_filter, "PIECE", 2)
    log_filter.cut(str(log), str(tmp_path / "piece"))
    assert (tmp_path / "piece").read_bytes() == b"keep one\ndrop\r\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "nothing: No such file or directory"),
        (["."], 2, ".: not a regular file"),
        (["app.log", "--pattern", "(a"], 2, "--pattern '(a': missing ), unterminated subpattern at position 0"),
        (["app.log", "--output", "app.log"], 2, "app.log: the output would take the place of the log"),
        (["app.log", "--output", "no/folder"], 2, "no/folder: No such file or directory"),
        (["latin.log"], 1, "latin.log: line 3, byte 4: 0xe9 is not UTF-8 (invalid continuation byte)"),
    ],
)
def test_bad_input_is_one_line(
    log: Path,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (log.parent / "latin.log").write_bytes("one\nzwei €\ncafé au lait\n".encode("latin-1", "replace"))
    monkeypatch.chdir(log.parent)
    monkeypatch.setattr(sys, "argv", ["log_filter.py", *arguments])
    assert log_filter.main() == code
    assert capsys.readouterr().err == f"log_filter: {said}\n"
    assert log.read_bytes() == LOG.encode()


def test_a_write_that_fails_is_one_line_and_1(log: Path, tmp_path: Path) -> None:
    small = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    code, _, errors = run(log, "--no-compare", "--pattern", "keep", prelude=small)
    assert code == 1
    assert re.fullmatch(r"log_filter: (.*: )?File too large\n", errors)


def test_a_wrong_output_is_said_loudly_and_fails(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = re.compile("^keep").search

    async def both() -> tuple[int, int]:
        contenders = []
        for name in ("aioring", "built-in"):
            work = functools.partial(log_filter.filter_on_the_loop, search)
            each = log_filter.Contender(name, work, str(log), str(tmp_path / name), [])
            each.runs.append(await log_filter.timed(each))
            contenders.append(each)
        async with aioring.Ring() as ring:
            right = await log_filter.verify(ring, contenders, search, tmp_path)
            (tmp_path / "aioring").write_bytes(KEPT.encode().replace(b"two", b"2wo"))
            return right, await log_filter.verify(ring, contenders, search, tmp_path)

    assert anyio.run(both) == (0, 1)
    assert "aioring wrote is WRONG" in capsys.readouterr().err


def test_ctrl_c_ends_it_with_130_and_one_line(log: Path) -> None:
    with start(log, "--no-compare", "--runs", "100000") as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("method: ") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "log_filter: interrupted\n")
