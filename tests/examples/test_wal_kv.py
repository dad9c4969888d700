"""examples/wal_kv.py as people run it; and its store against a dict, with compactions, kills and power cuts."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.testing import Scripted

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "wal_kv.py"

_spec = importlib.util.spec_from_file_location("wal_kv", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
wal_kv: Any = importlib.util.module_from_spec(_spec)
sys.modules["wal_kv"] = wal_kv
_spec.loader.exec_module(wal_kv)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::ResourceWarning", str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_it_is_hammered_killed_and_replayed(tmp_path: Path) -> None:
    done = run("--seconds", "0.5", "--tasks", "16", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "aioring.Log, group commit" in done.stdout
    assert "killed while it wrote: 320 of 320 keys" in done.stdout
    assert "replayed: it stood" in done.stdout
    assert "each of 20 acknowledgements is covered by a sync" in done.stdout
    assert not list(tmp_path.iterdir())
    assert not done.stderr


def test_without_the_sync_the_replay_breaks_it(tmp_path: Path) -> None:
    done = run("--careless", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the replay broke it" in done.stdout
    assert "was lost" in done.stdout
    assert "lost: write of" in done.stdout


@pytest.mark.parametrize("arguments", [("--tasks", "0"), ("--seconds", "0"), ("--folder", "/proc/no")])
def test_what_it_cannot_do_it_says_in_a_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode
    assert done.stderr.strip().splitlines()[-1].startswith("wal_kv")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_the_store_is_a_dict_that_stays(seed: int, tmp_path: Path) -> None:
    """Lives of it, each closed or left as a kill leaves it, with compactions that changes go on beside."""
    chance, model = random.Random(seed), dict[bytes, bytes]()
    for life in range(5):

        async def live(life: int = life) -> None:
            ring = aioring.Ring(method=Scripted(seed * 10 + life))
            async with ring, wal_kv.Store.open(tmp_path / "kv", ring) as store:
                assert {key: store.get(key) for key in store} == model
                assert len(store) == len(model)
                for _ in range(3):
                    keys = [b"%d" % n for n in chance.sample(range(12), 5)]

                    async def change(key: bytes) -> None:
                        if chance.random() < 0.3:
                            await store.delete(key)
                            model.pop(key, None)
                        else:
                            value = chance.randbytes(chance.randrange(40))
                            await store.set(key, value)
                            model[key] = value

                    jobs = [change(key) for key in keys]
                    if chance.random() < 0.5:
                        jobs.append(store.compact())
                    await asyncio.gather(*jobs)
                    assert {key: store.get(key) for key in store} == model

        asyncio.run(live())
        assert [path.name for path in tmp_path.iterdir()] == ["kv"]
