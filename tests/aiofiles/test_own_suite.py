"""aiofiles' own tests, on the drop-in: fetched with pip, never committed, run with the import exchanged.

They are a weak judge (a naive hundred lines pass most of them), but they are what aiofiles promises of itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = [(method, loop) for loop in ("asyncio", "uvloop") for method in ("io_uring", "linux_aio", "worker", "sync")]
PASSED = 215 if sys.version_info >= (3, 12) else 211  # all, but for those of Windows and of the other Pythons
# As root everything may be read and written: it fails with aiofiles itself, too.
KNOWN = {"tests/test_os.py::test_access"} if os.geteuid() == 0 else set()

CONFTEST = """
import importlib, socket, sys
import pytest

for name in ("", ".base", ".os", ".ospath", ".tempfile", ".tempfile.temptypes", ".threadpool", ".threadpool.binary",
             ".threadpool.text", ".threadpool.utils"):
    sys.modules["aiofiles" + name] = importlib.import_module("aioring.aiofiles" + name)

if "{loop}" == "uvloop":
    import uvloop

    @pytest.fixture(scope="session")
    def event_loop_policy():
        return uvloop.EventLoopPolicy()


@pytest.fixture
def unused_tcp_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
async def _on_what_was_asked_for():
    import asyncio, aiofiles, aioring

    assert aiofiles.__name__ == "aioring.aiofiles"
    assert type(asyncio.get_running_loop()).__module__.startswith("{loop}")
    assert aioring.get_ring().method == "{method}"
    yield
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    command = [
        sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--disable-pip-version-check",
        "-q", "-d", str(folder), "aiofiles==25.1.0",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("pip did not fetch the sources of aiofiles 25.1.0 in 25 s: no network?")
    found = list(folder.glob("aiofiles-*.tar.gz"))
    if not found:
        pytest.skip(f"pip cannot fetch the sources of aiofiles 25.1.0: {done.stderr.strip()[-300:]}")
    with tarfile.open(found[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "aiofiles-25.1.0"


@pytest.fixture(scope="module")
def running(sources: Path) -> Iterator[dict[tuple[str, str], subprocess.Popen[str]]]:
    """One pytest for each method and loop, all at once, each in a copy of its own: they write into their folder."""
    processes: dict[tuple[str, str], subprocess.Popen[str]] = {}
    for port, (method, loop) in enumerate(RUNS, 30001):
        copy = sources.parent / f"{method}-{loop}"
        shutil.copytree(sources, copy)
        (copy / "tests" / "conftest.py").write_text(CONFTEST.format(method=method, loop=loop))
        serving = copy / "tests" / "threadpool" / "test_concurrency.py"  # at one port
        serving.write_text(serving.read_text().replace("30001", str(port)))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIORING_METHOD": method}
        command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "tests"]
        processes[method, loop] = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("method", "loop"), RUNS, ids=[f"{method}-{loop}" for method, loop in RUNS])
def test_its_own_suite_passes(running: dict[tuple[str, str], subprocess.Popen[str]], method: str, loop: str) -> None:
    said, _ = running[method, loop].communicate(timeout=110)
    failed = set(re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE))
    assert failed == KNOWN, said[-3000:]
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said[-3000:]
    assert int(passed[1]) == PASSED - len(KNOWN), said[-3000:]
