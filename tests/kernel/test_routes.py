"""Every way to the kernel, in the order in which they are looked for; and what is said of a liburing that is none.

CI installs liburing: there no route may be missing. Elsewhere, without one, all but the plain calls are skipped.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import aioring
from aioring.kernel import liburing
from aioring.kernel.liburing import Liburing, SystemCalls, find_route

ROOT = Path(aioring.__file__).parent.parent
SCRIPT = """
import asyncio, os, sys, aioring
async def main():
    async with aioring.Ring(method="io_uring", page_cache_first=False) as ring:
        path = sys.argv[1]
        fd = await ring.open(path, os.O_RDWR | os.O_CREAT)
        assert await ring.write(fd, 0, b"all the way" * 1000) == 11_000
        reads = await asyncio.gather(*[ring.read(fd, 11 * i, 11) for i in range(300)])
        assert reads == [b"all the way"] * 300
        async with ring.chain() as chain:
            chain.fsync(fd)
            chain.close(fd)
        print(ring._started.method.route.name)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def library() -> Path:
    """The machine's liburing, as a file."""
    try:
        ctypes.CDLL("liburing.so.2")
    except OSError:
        if os.environ.get("CI"):
            raise
        pytest.skip("no liburing here")
    with open("/proc/self/maps") as maps:
        return next(Path(line.split()[-1]) for line in maps if "liburing" in line)


def route_of(path: Path, package: Path = ROOT, **env: str) -> str:
    """The route that a fresh interpreter finds, after some work on it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("AIORING_LIBURING", "LD_LIBRARY_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path / "data")],
        env={**kept, "PYTHONPATH": str(package), **env},
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print("route:", done.stdout.strip())
    return done.stdout.strip()


@pytest.fixture
def bundled(tmp_path: Path, library: Path) -> Path:
    """A package with a copy of liburing in it, as the bundling wheel has."""
    package = tmp_path / "site"
    shutil.copytree(ROOT / "aioring", package / "aioring", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(library, package / "aioring" / "kernel" / "liburing.so.2")
    return package


def as_ffi(folder: Path, library: Path) -> str:
    """A folder for LD_LIBRARY_PATH with a liburing-ffi.so.2: a copy under that name, since Debian 12 has none."""
    folder.mkdir()
    shutil.copy(library, folder / "liburing-ffi.so.2")
    return str(folder)


def test_the_path_in_the_environment_comes_first(tmp_path: Path, library: Path, bundled: Path) -> None:
    mine = tmp_path / "mine.so"
    shutil.copy(library, mine)
    assert route_of(tmp_path, bundled, AIORING_LIBURING=str(mine)) == f"liburing ({mine})"


def test_then_the_copy_in_the_wheel(tmp_path: Path, library: Path, bundled: Path) -> None:
    found = route_of(tmp_path, bundled, LD_LIBRARY_PATH=as_ffi(tmp_path / "lib", library))
    assert found == f"liburing ({bundled}/aioring/kernel/liburing.so.2)"


def test_then_liburing_ffi(tmp_path: Path, library: Path) -> None:
    found = route_of(tmp_path, LD_LIBRARY_PATH=as_ffi(tmp_path / "lib", library))
    assert found == "liburing (liburing-ffi.so.2)"


def test_then_liburing(tmp_path: Path, library: Path) -> None:
    assert route_of(tmp_path) == "liburing (liburing.so.2)"


def test_last_the_plain_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert route_of(tmp_path, AIORING_LIBURING="none") == "system calls"
    monkeypatch.setattr(liburing, "SONAMES", ("liburing-of-nowhere.so.2",))
    find_route.cache_clear()
    try:
        assert isinstance(find_route(None), SystemCalls)
    finally:
        find_route.cache_clear()


def test_a_route_that_was_bundled_and_cannot_be_loaded_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "liburing.so.2"
    broken.write_bytes(b"\x7fELF nothing behind it")
    monkeypatch.setattr(liburing, "BUNDLED", broken)
    find_route.cache_clear()
    try:
        route = find_route(None)
        assert str(broken) not in route.name
    finally:
        find_route.cache_clear()


# --- what is none -----------------------------------------------------------------------------------------------------


def elf32() -> bytes:
    """The head of an ELF file for 32-bit x86: what dlopen looks at first."""
    return b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 3, 1) + bytes(64)


def test_another_word_size_is_said(tmp_path: Path) -> None:
    library = tmp_path / "liburing32.so"
    library.write_bytes(elf32())
    with pytest.raises(OSError, match="ELF"):
        Liburing(str(library))


def test_one_that_is_too_old_names_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"too old or not liburing: it lacks .*io_uring_submit_and_get_events"):
        Liburing("libc.so.6")


@pytest.mark.parametrize("kind", ["32 bits", "no library", "not liburing", "missing"])
async def test_a_bad_liburing_is_a_reason_not_a_crash(
    anyio_backend: object, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "given.so"
    if kind == "32 bits":
        path.write_bytes(elf32())
    elif kind == "no library":
        path.write_bytes(b"#!/bin/sh\n")
    elif kind == "not liburing":
        path = Path("libc.so.6")
    monkeypatch.setenv("AIORING_LIBURING", str(path))
    async with aioring.Ring(method="auto") as ring:
        assert ring.method == "linux_aio"
        assert ring.fallback_reason is not None
        assert "AIORING_LIBURING" in ring.fallback_reason
        assert str(path) in ring.fallback_reason
        data = tmp_path / "data"
        data.write_bytes(b"abc")
        fd = await ring.open(data, os.O_RDONLY)
        assert await ring.read(fd, 0, 4) == b"abc"
        await ring.close(fd)
    with pytest.raises(aioring.RingUnavailableError) as caught:
        async with aioring.Ring(method="io_uring"):
            pass
    assert "AIORING_LIBURING" in caught.value.hint
