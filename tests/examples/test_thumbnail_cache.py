"""examples/thumbnail_cache.py: a cache that is right whatever happens to the pictures."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import aioring
from aioring.testing import Scripted
from tests.conftest import METHODS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "thumbnail_cache.py"

_spec = importlib.util.spec_from_file_location("thumbnail_cache", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
thumbnail_cache: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(thumbnail_cache)


@pytest.mark.parametrize("method", METHODS)
def test_thumbnails_are_made_kept_and_made_again(method: str, tmp_path: Path) -> None:
    top, cache = tmp_path / "pictures", tmp_path / "cache"
    thumbnail_cache.make_pictures(str(top), 12)
    odd = top / "album0" / "caf\N{LATIN SMALL LETTER E WITH ACUTE} 1.PNG"
    Image.new("P", (20, 3000)).save(odd)
    (top / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (top / "folder.jpg").mkdir()
    (top / "notes.txt").touch()
    (top / "dangling.png").symlink_to("nothing")

    async def visit() -> tuple[int, int, list[str], dict[str, bytes]]:
        made: Any = Scripted(5) if method == "scripted" else method
        async with aioring.Ring(method=made) as ring:
            gallery = thumbnail_cache.Gallery(ring, str(top), str(cache))
            pictures = await gallery.pictures()
            await gallery.refresh(pictures, 4)
            page = await gallery.page(list(pictures))
            return gallery.made, gallery.kept, gallery.bad, {str(path): data for path, data in page.items()}

    made, kept, bad, page = asyncio.run(visit())
    assert (made, kept, bad) == (13, 0, [str(top / "broken.jpg")])
    assert len(page) == 13
    for path, data in page.items():
        with Image.open(io.BytesIO(data)) as small, Image.open(path) as large:
            assert max(small.size) <= 128
            assert small.text["Thumb::URI"] == Path(path).as_uri()  # type: ignore[attr-defined]
            assert abs(small.width / small.height - large.width / large.height) < 0.2
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert asyncio.run(visit())[:2] == (0, 13)

    changed = top / "album1" / "picture0001.jpg"
    os.utime(changed, (1, 1))
    shutil.copy2(top / "album2" / "picture0002.jpg", top / "album2" / "copied.jpg")
    next(cache.iterdir()).write_bytes(b"damaged")
    made, kept, _, again = asyncio.run(visit())
    assert (made + kept, kept in (11, 12)) == (14, True)
    assert all(data.startswith(b"\x89PNG") for data in again.values())
    assert [path for path in os.listdir(cache) if path.startswith(".")] == []


def test_it_runs_and_says_what_is_wrong(tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        command = [sys.executable, "-W", "error::ResourceWarning", str(SCRIPT), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=28, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    status, output, errors = run("--count", 20, "--runs", 2)
    assert (status, errors) == (0, "")
    assert "first visit: 20 made, 0 were there" in output
    assert "second visit: 0 made, 20 were there" in output
    assert "verified: all read the same bytes" in output
    assert run(tmp_path / "missing")[0] == 2
    assert run(tmp_path / "missing")[2].count("\n") == 1
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--cache", tmp_path / "file" / "x")[0] == 2
    status, output, errors = run(tmp_path / "empty")
    assert (status, errors) == (0, "")
