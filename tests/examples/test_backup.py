"""examples/backup.py as people run it: the copy is there, and what is wrong with it is said."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import pattern

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "backup.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::ResourceWarning", str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "folder" / "inner").mkdir(parents=True)
    for n in range(30):
        (top / "folder" / f"{n}").write_bytes(pattern(n * 1000))
    (top / "large").write_bytes(pattern(3_000_000))
    (top / "folder" / "link").symlink_to("0")
    os.link(top / "large", top / "folder" / "inner" / "again")
    return top


@pytest.mark.parametrize("durable", [False, True])
def test_a_tree_is_copied_and_verified(tree: Path, tmp_path: Path, durable: bool) -> None:
    done = run(tree, tmp_path / "copy", *(["--durable"] if durable else []))
    assert done.returncode == 0, done.stderr
    assert f"copied {435_000 + 3_000_000:,} bytes" in done.stdout
    assert ("durably" in done.stdout) == durable
    assert "all the same" in done.stdout
    assert not done.stderr
    assert (tmp_path / "copy" / "large").read_bytes() == pattern(3_000_000)
    assert (tmp_path / "copy" / "folder" / "link").is_symlink()
    assert (tmp_path / "copy" / "large").samefile(tmp_path / "copy" / "folder" / "inner" / "again")


def test_what_is_wrong_is_said_in_a_line(tree: Path, tmp_path: Path) -> None:
    for source, target, said in (
        (tmp_path / "none", tmp_path / "copy", "No such file"),
        (tree / "large", tmp_path / "copy", "Not a directory"),
        (tree, tree / "folder" / "copy", "inside of what is to be copied"),
        (tree, tree, "File exists"),
    ):
        done = run(source, target)
        assert done.returncode == 1
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "copy").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".aioring-")]


def test_files_that_change_while_they_are_verified(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is said in a line: what is gone, and what has become a FIFO, whose writer nobody waits for."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    backup: Any = importlib.import_module("backup")

    async def main() -> list[str]:
        copy = tmp_path / "copy"
        await backup.backup(tree, copy, False, None)
        left = sorted((tree / "folder").glob("2?"))

        def change(done: int, total: int) -> None:
            while left:
                path = left.pop()
                path.unlink()
                if path.name == "29":
                    os.mkfifo(path)

        found: list[str] = await asyncio.wait_for(backup.differences(tree, copy, change), 20)
        return found

    said = asyncio.run(main())
    assert 1 <= len(said) <= 10
    assert all("/folder/2" in line and ("No such file" in line or "no file any more" in line) for line in said), said
