"""examples/pg_scan.py: PostgreSQL's checksums and counts, of pages made here and, where it is, of a real cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 8192


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pg_scan, pg_cluster = load("pg_scan"), load("pg_cluster")


def page(number: int, live: int, dead: int = 0, seed: int = 0) -> bytes:
    """A heap page with so many rows, as PostgreSQL lays it out."""
    rng = random.Random(seed or number + 1)
    raw = bytearray(BLOCK)
    upper = BLOCK
    for i in range(live + dead):
        upper -= 64
        row = bytearray(rng.randbytes(64))
        deleted = i >= live
        mask = 0 if deleted else rng.choice((0x0800, 0x0080, 0))
        row[4:8] = struct.pack("<I", 0 if not deleted and mask == 0 else 700 + i)  # t_xmax
        row[20:22] = struct.pack("<H", mask)
        raw[upper : upper + 64] = row
        struct.pack_into("<I", raw, 24 + 4 * i, upper | 1 << 15 | 64 << 17)
    struct.pack_into("<HHHH", raw, 10, 0, 24 + 4 * (live + dead), upper, BLOCK)
    struct.pack_into("<H", raw, 18, BLOCK | 4)
    struct.pack_into("<H", raw, 8, pg_scan.checksum(pg_scan.Page(number, memoryview(raw))))
    return bytes(raw)


@pytest.fixture(params=["numpy", "without"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(pg_scan, "np", None)
    else:
        pytest.importorskip("numpy")
    return str(request.param)


def relation(folder: Path, pages: list[bytes], rows: int) -> Path:
    (folder / "base").mkdir(parents=True, exist_ok=True)
    (folder / "base" / "1").write_bytes(b"".join(pages))
    (folder / "relations.json").write_text(json.dumps([{"name": "table", "path": "base/1", "rows": rows}]))
    return folder


def scan(path: Path, **options: Any) -> Any:
    async def main() -> Any:
        async with aioring.Ring() as ring:
            return await pg_scan.scan(ring, path, **{"direct": False, "verify": True, **options})

    return anyio.run(main)


@pytest.mark.parametrize("direct", [False, True])
def test_rows_are_counted_and_a_flipped_byte_is_found(by: str, tmp_path: Path, direct: bool) -> None:
    pages = [page(number, live=number % 7, dead=number % 3) for number in range(300)]
    pages[10] = bytes(BLOCK)  # new
    rows = sum(number % 7 for number in range(300) if number != 10)
    path = relation(tmp_path, pages, rows) / "base" / "1"
    found = scan(path, direct=direct)
    assert (found.rows, found.blocks, found.bad) == (rows, 300, [])
    assert "capacity=272" in found.said
    damaged = bytearray(b"".join(pages))
    for number in (0, 77, 299):
        damaged[number * BLOCK + 5000] ^= 1
    path.write_bytes(damaged)
    assert scan(path, direct=direct).bad == [0, 77, 299]
    assert scan(path, direct=direct, verify=False).bad == []
    path.write_bytes(b"".join(pages) + b"half a page")
    assert scan(path, direct=direct).bad == [300]


def test_block_numbers_run_on_across_segments(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg_scan, "SEGMENT", 5)
    pages = [page(number, live=2) for number in range(12)]
    for segment in range(3):
        name = "1" if not segment else f"1.{segment}"
        (tmp_path / name).write_bytes(b"".join(pages[5 * segment : 5 * segment + 5]))
    found = scan(tmp_path / "1")
    assert (found.rows, found.blocks, found.bad) == (24, 12, [])
    # A page that is right, at another's place:
    (tmp_path / "1.1").write_bytes(b"".join([pages[5], pages[7], pages[6], pages[8], pages[9]]))
    assert scan(tmp_path / "1").bad == [6, 7]


def run(script: str, *arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return done.returncode, done.stdout, done.stderr


def test_every_method_gives_a_row_and_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    data = relation(tmp_path, [page(number, live=3) for number in range(20)], 60)
    status, out, errors = run("pg_scan.py", data)
    assert (status, errors) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[:-1]] == [
        [method, how, what]
        for method in ("sync", "worker", "io_uring")
        for how in ("buffered", "direct")
        for what in ("counted", "verified")
    ]
    relation(tmp_path, [page(number, live=3) for number in range(20)], 61)
    status, _, errors = run("pg_scan.py", data, "--method", "sync")
    assert (status, errors) == (1, "pg_scan: table: 60 rows found, 61 counted by the server\n")
    status, _, errors = run("pg_scan.py", tmp_path / "missing")
    assert status == 2
    assert errors.count("\n") == 1
    (data / "postmaster.pid").touch()
    status, _, errors = run("pg_scan.py", data)
    assert (status, errors.count("\n")) == (2, 1)
    status, _, errors = run("pg_cluster.py", tmp_path / "c", "--scale", 0)
    assert (status, errors.count("\n")) == (2, 1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        pg_cluster.bin_folder()
    except pg_cluster.Failed as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cluster")
    for parent in (folder, *folder.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)  # another user makes it; how deep it lies depends on pytest-xdist
    status, _, errors = run("pg_cluster.py", folder, "--scale", 1)
    assert (status, errors) == (0, "")
    return folder / "data"


@pytest.mark.timeout(120)
def test_a_real_cluster_is_what_its_server_and_pg_checksums_say(cluster: Path) -> None:
    status, out, errors = run("pg_scan.py", cluster)
    assert (status, errors) == (0, "")
    assert "pgbench_accounts 100,000" in out.splitlines()[-1]
    accounts = json.loads((cluster / "relations.json").read_text())[0]
    with open(cluster / accounts["path"], "r+b") as file:
        file.seek(123 * BLOCK + 4000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))
    status, _, errors = run("pg_scan.py", cluster, "--method", "io_uring")
    assert (status, errors) == (1, f"pg_scan: pgbench_accounts: block 123 of {accounts['path']} is damaged\n")
    made = pg_cluster.Cluster(cluster.parent)
    with pytest.raises(pg_cluster.Failed):
        made.run("pg_checksums", "--check", "-D", cluster)
    checked = subprocess.run(
        [made.bin / "pg_checksums", "--check", "-D", cluster], capture_output=True, text=True, cwd="/", **made.as_user
    )
    assert checked.stderr.count("checksum verification failed") == 1
    assert "block 123:" in checked.stderr
