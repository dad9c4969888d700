"""anyio's own tests of its files, on the drop-in: fetched with pip, never committed, run with the names exchanged."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = importlib.metadata.version("anyio")
METHODS = ("io_uring", "worker", "sync")
FILES = ("tests/test_fileio.py", "tests/test_tempfile.py", "tests/streams/test_file.py")
PASSED = 411  # on three loops, on Python 3.11: later ones and newer anyios only add to them

CONFTEST = """
import pytest

import aioring
import aioring.anyio
import aioring.anyio.streams.file

HOUSES = aioring.anyio, aioring.anyio.streams.file


def pytest_collection_modifyitems(items):
    for item in items:
        for house in HOUSES:
            for name in house.__all__:
                if hasattr(item.module, name):
                    setattr(item.module, name, getattr(house, name))


@pytest.fixture(scope="module", params=[("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})])
def anyio_backend(request):
    return request.param


@pytest.fixture(autouse=True)
async def _on_what_was_asked_for(anyio_backend):
    assert aioring.get_ring().method == "{method}"
    yield
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    command = [
        sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--disable-pip-version-check",
        "-q", "-d", str(folder), f"anyio=={VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not fetch the sources of anyio {VERSION} in 60 s: no network?")
    found = list(folder.glob("anyio-*.tar.gz"))
    if not found:
        # Without the network, or without setuptools_scm, which pip wants for no more than the archive's metadata.
        pytest.skip(f"pip cannot fetch the sources of anyio {VERSION}: {done.stderr.strip()[-300:]}")
    with tarfile.open(found[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"anyio-{VERSION}"


@pytest.fixture(scope="module")
def running(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One pytest for each method, all at once; each runs on all loops."""
    runs = {}
    for method in METHODS:
        copy = tmp_path_factory.mktemp(method)
        for name in FILES:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((sources / name).read_bytes())
        (copy / "conftest.py").write_text(CONFTEST.replace("{method}", method))
        command = [
            sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(copy), "-o", "anyio_mode=auto",
            "-p", "no:asyncio", "-p", "no:cacheprovider",
            f"--basetemp={copy / 'temporary'}", *(str(copy / name) for name in FILES),
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "AIORING_METHOD": method}
        runs[method] = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    yield runs
    for run in runs.values():
        run.kill()
        run.communicate()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", METHODS)
def test_its_own_suite_passes(running: dict[str, subprocess.Popen[str]], method: str) -> None:
    said, _ = running[method].communicate(timeout=110)
    tail = said[-3000:]
    assert running[method].returncode == 0, tail
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, tail
    assert int(passed[1]) >= PASSED, tail
