"""examples/hash_tree.py as people run it: a process of its own, on trees with everything in them that trees have."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aioring

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "hash_tree.py"
METHODS = ("io_uring", "worker", "sync")
EVENT_LOOPS = ("asyncio", "uvloop", "trio")
CHUNK = 64 << 10

_spec = importlib.util.spec_from_file_location("hash_tree", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
hash_tree: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hash_tree)

# What runs before the example, in its process. SIGINT may have been ignored by whoever started us. Without
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (bits 1 and 2, linux/capability.h) root reads no more than others.
PRELUDE = """
import ctypes, os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
libc = ctypes.CDLL(None, use_errno=True)
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(ctypes.byref(header), data) == 0
data[0] &= ~6
assert libc.capset(ctypes.byref(header), data) == 0
"""
MAIN = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# A filter like Docker's: io_uring_setup (425) is EPERM. prctl(2), PR_SET_NO_NEW_PRIVS and PR_SET_SECCOMP; BPF: load the
# number of the call, compare, return.
REFUSED = """
import struct
code = b"".join(struct.pack("HBBI", *one) for one in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)])
program = ctypes.create_string_buffer(code)
assert libc.prctl(38, 1, 0, 0, 0) == 0
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(program)))
assert libc.prctl(22, 2, fprog, 0, 0) == 0
"""


def start(*arguments: str | Path, prelude: str = "", warn: bool = True) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "AIORING_METHOD"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    options = ["-W", "default::ResourceWarning"] if warn else []  # every leak is a line on stderr
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


def content(n: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(min(n, 251))) * (n // 251 + 1)


FILES = {
    b"empty": 0,
    b"one byte": 1,
    b"a chunk": CHUNK,
    b"two chunks": 2 * CHUNK,
    b"a chunk and a byte": CHUNK + 1,
    b"large": 3_000_000,
    b"deep/er/still": 5000,
    b"deep/not utf-8 \xe9\xff": 700,
    b"[bold]not markup[/bold]": 800,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, size in FILES.items():
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content(size)[:size])
    (root / "unreadable").write_bytes(b"secret")
    (root / "unreadable").chmod(0)
    (root / "shut").mkdir()
    (root / "shut" / "inside").write_bytes(b"secret")
    (root / "shut").chmod(0)
    (root / "deep" / "loop").symlink_to(root)
    (root / "itself").symlink_to("itself")
    (root / "to a file").symlink_to("large")
    os.mkfifo(root / "fifo")
    return root


SIZE = sum(FILES.values())


@pytest.mark.parametrize("loop", EVENT_LOOPS)
@pytest.mark.parametrize("method", METHODS)
def test_it_hashes_a_tree_and_compares(tree: Path, method: str, loop: str) -> None:
    code, output, errors = run(tree, "--method", method, "--loop", loop, "--concurrency", "3")
    assert (code, errors) == (0, ""), output + errors
    assert output.startswith(f"method: {method}\n")
    assert f"{tree}: {len(FILES) + 1} files, 3 at once" in output
    assert rows(output) == {
        ("aioring", method): (len(FILES), SIZE),
        **({} if method == "worker" else {("aioring", "worker"): (len(FILES), SIZE)}),
        **({} if loop == "trio" else {("aiofiles", "threads"): (len(FILES), SIZE)}),
    }
    assert ("aiofiles does not run on trio" in output) == (loop == "trio")
    assert f"2 could not be read\n  {tree}/shut: Permission denied\n  {tree}/unreadable: Permission denied\n" in output
    assert f"verified: 2 files against hashlib over plain reads; all runs agree on {len(FILES)} digests" in output


def rows(output: str) -> dict[tuple[str, str], tuple[int, int]]:
    """The table: what was run, and its files and bytes."""
    found = re.findall(r"^ *(aio\w+) +(\w+) +([\d,]+) +([\d,]+) +[\d.]+ ", output, re.MULTILINE)
    return {(name, method): (int(n.replace(",", "")), int(size.replace(",", ""))) for name, method, n, size in found}


async def test_every_digest_is_that_of_hashlib(ring: aioring.Ring, tree: Path) -> None:
    (tree / "shut").chmod(0o700)
    (tree / "unreadable").chmod(0o600)
    failed: dict[str, OSError] = {}
    paths, more = await hash_tree.walk(ring, str(tree), 0, failed)
    assert (len(paths), more, failed) == (len(FILES) + 2, False, {})
    gone = str(tree / "gone")
    steps: list[None] = []
    hash_one = functools.partial(hash_tree.hash_file, ring)
    done = await hash_tree.hash_all(
        hash_one, [*paths, gone, str(tree / "fifo"), str(tree / "itself")], 4, failed, lambda: steps.append(None)
    )
    assert done == {path: (plain_digest(path), os.path.getsize(path)) for path in paths}
    assert failed.keys() == {gone, str(tree / "fifo"), str(tree / "itself")}
    assert isinstance(failed[gone], FileNotFoundError)
    assert len(steps) == len(paths) + 3


def plain_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def test_a_wrong_digest_is_said_loudly_and_fails(
    ring: aioring.Ring, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = {str(path): (plain_digest(str(path)), 100_000)}
    wrong = {str(path): ("0" * 128, 100_000)}
    ours = hash_tree.Contender("aioring", "worker", None, [1.0], [right])
    theirs = hash_tree.Contender("aiofiles", "threads", None, [1.0], [wrong])
    later = time.time_ns() + 10**9  # the file is older than the run
    assert await hash_tree.verify(ring, [ours], later) == 0
    assert await hash_tree.verify(ring, [ours, theirs], later) == 1
    assert "WRONG" in capsys.readouterr().err
    assert await hash_tree.verify(ring, [theirs], later) == 1  # by the sample alone
    assert "differs from hashlib" in capsys.readouterr().err
    assert await hash_tree.verify(ring, [ours, theirs], 0) == 0  # changed while it was read: nobody's mistake
    assert "changed meanwhile" in capsys.readouterr().out


def test_a_limit_is_kept_and_stated(tree: Path) -> None:
    code, output, errors = run(tree, "--limit", "4", "--no-compare", "--no-progress")
    assert (code, errors) == (0, "")
    assert f"{tree}: 4 files (the first; --limit 0 takes all), 64 at once" in output
    assert "run 1" not in output
    assert len(rows(output)) == 1


def test_an_empty_tree_is_no_error(tmp_path: Path) -> None:
    code, output, errors = run(tmp_path)
    assert (code, errors) == (0, "")
    assert "all runs agree on 0 digests" in output


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing", "No such file or directory"), ("tree/large", "Not a directory"), ("tree/shut", "Permission denied")],
)
def test_a_root_that_cannot_be_walked_is_one_line_and_2(tree: Path, name: str, reason: str) -> None:
    root = tree.parent / name
    assert run(root) == (2, "", f"hash_tree: {root}: {reason}\n")


@pytest.mark.parametrize("loop", EVENT_LOOPS)
def test_where_io_uring_is_refused_another_method_does_it_and_it_says_why(tree: Path, loop: str) -> None:
    code, output, errors = run(tree, "--loop", loop, prelude=REFUSED)
    assert (code, errors) == (0, "")
    assert output.startswith("method: linux_aio (not io_uring: ")
    assert ("aioring", "worker") in rows(output)


def test_a_method_asked_for_by_name_that_is_refused_is_one_line_and_2(tree: Path) -> None:
    code, output, errors = run(tree, "--method", "io_uring", prelude=REFUSED)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("hash_tree: ")
    assert "seccomp" in errors


def test_it_does_without_aiofiles_rich_and_uvloop(tree: Path) -> None:
    hidden = "sys.modules.update(aiofiles=None, rich=None, uvloop=None)\n"
    code, output, errors = run(tree, prelude=hidden)
    assert (code, errors) == (0, "")
    assert "aiofiles is not installed" in output
    assert "rich is not installed" in output
    assert rows(output)["aioring", "worker"] == (len(FILES), SIZE)
    assert run(tree, "--loop", "uvloop", prelude=hidden) == (
        2,
        "",
        "hash_tree: uvloop is not installed: pip install uvloop\n",
    )


@pytest.mark.parametrize(("method", "loop"), list(zip(METHODS, EVENT_LOOPS, strict=True)))
def test_ctrl_c_ends_it_with_130_and_one_line(tmp_path: Path, method: str, loop: str) -> None:
    for number in range(8):
        with open(tmp_path / str(number), "wb") as file:
            file.truncate(2 << 30)  # sparse: long to read, nothing on the disk
    with start(tmp_path, "--method", method, "--loop", loop, "--no-compare") as process:
        try:
            interrupt_when_running(process, "run 1 of 1", tmp_path, 8)
            output, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "hash_tree: interrupted\n"), output


def test_ctrl_c_ends_it_while_aiofiles_runs(tmp_path: Path) -> None:
    for number in range(40):
        with open(tmp_path / str(number), "wb") as file:
            file.truncate(4 << 20)
    # The comparison's other half, slow enough to be met.
    slow = (
        "import aiofiles, time\nreal = open\n"
        "def slowly(*a, **k):\n    time.sleep(0.2)\n    return real(*a, **k)\n"
        "aiofiles.threadpool.sync_open = slowly\n"
    )
    with start(tmp_path, prelude=slow, warn=False) as process:  # aiofiles leaks files that are opened too late
        try:
            interrupt_when_running(process, "aiofiles (threads), run 1", tmp_path, 1)
            _, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "hash_tree: interrupted\n")


def interrupt_when_running(process: subprocess.Popen[str], sign: str, tree: Path, files: int) -> None:
    """SIGINT when it has said `sign` and has so many files of `tree` open: all its tasks have been started then.

    On trio KeyboardInterrupt may strike inside anyio's and trio's own start of a task, which then never ends.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if sign in line:
            break
    until = time.monotonic() + 10
    while time.monotonic() < until and opened(process.pid, tree) < files:
        time.sleep(0.01)  # there is nothing to await: it is another process
    process.send_signal(signal.SIGINT)


def opened(pid: int, tree: Path) -> int:
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(tree))
        except OSError:
            continue
    return count
