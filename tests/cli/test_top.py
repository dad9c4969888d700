"""`aioring top`: what the kernel tells, what a program's socket tells, and what is believed of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import aioring
from aioring.cli.console import Column, Failure, printable, sized
from aioring.cli.top import fdinfo, peer, view
from aioring.cli.top.watched import Process
from aioring.observe import serve
from tests.command import ENVIRONMENT, aioring as run, command, fails, read_until, terminal, wait_until

# As Linux 6.18 prints it (io_uring/fdinfo.c), of a ring with something in every list.
FDINFO = """pos:\t0
flags:\t02000002
mnt_id:\t17
ino:\t10959
SqMask:\t0xff
SqHead:\t4294967290
SqTail:\t4
CachedSqHead:\t4294967290
CqMask:\t0x3ff
CqHead:\t4294967280
CqTail:\t4294967285
CachedCqTail:\t4294967285
SQEs:\t2
    0: opcode:READ, fd:5, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:1
12345: opcode:NOP, fd:-1, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:2
CQEs:\t1
    0: user_data:1, res:4096, flags:0
SqThread:\t4711
SqThreadCpu:\t1
SqTotalTime:\t0
SqWorkTime:\t0
UserFiles:\t3
    0: SqHead:  a file may have any name
UserBufs:\t2
    0: 0x7f0000000000/4096
PollList:
  op=6, task_works=0
CqOverflowList:
  user_data=7, res=1, flags=0
  user_data=8, res=1, flags=0
NAPI:\tdisabled
"""


def test_what_the_kernel_tells() -> None:
    ring = fdinfo.parse(9, FDINFO.splitlines())
    assert (ring.fd, ring.queued, ring.unseen) == (9, 10, 5)  # numbers wrap at 2**32
    assert (ring.files, ring.buffers, ring.overflown, ring.sqpoll) == (3, 2, 2, True)
    assert ring.in_kernel == 5 - 2
    later = fdinfo.parse(9, FDINFO.replace("CqTail:\t4294967285", "CqTail:\t3").splitlines())
    assert later.since(ring, "CqTail") == 14
    assert later.since(None, "CqTail") is None


def test_a_ring_that_has_the_fd_of_another() -> None:
    """What it has done since the other was looked at is not known; nor where the kernel does not say which is which."""
    ring = fdinfo.parse(9, FDINFO.splitlines())
    another = FDINFO.replace("ino:\t10959", "ino:\t10960").replace("CqTail:\t4294967285", "CqTail:\t4294967290")
    assert fdinfo.parse(9, another.splitlines()).since(ring, "CqTail") is None
    fewer = [FDINFO.replace("ino:\t10959\n", "").replace("CqTail:\t4294967285", f"CqTail:\t{n}") for n in (900, 7)]
    before, after = (fdinfo.parse(9, text.splitlines()) for text in fewer)
    assert after.since(before, "CqTail") is None


def test_an_older_kernel_tells_less() -> None:
    """Linux 5.15: no heads and tails, but for the sake of what is registered."""
    ring = fdinfo.parse(3, "pos:\t0\nSqThread:\t-1\nUserFiles:\t0\nUserBufs:\t0\nPollList:\n".splitlines())
    assert (ring.queued, ring.unseen, ring.in_kernel, ring.overflown) == (None, None, None, None)
    assert (ring.files, ring.sqpoll) == (0, False)


@given(st.lists(st.text(max_size=30) | st.sampled_from(FDINFO.splitlines()), max_size=60))
@settings(max_examples=100, deadline=None)
def test_whatever_it_tells(lines: list[str]) -> None:
    ring = fdinfo.parse(1, lines)
    assert ring.queued is None or 0 <= ring.queued < 1 << 32
    assert ring.in_kernel is None or ring.in_kernel >= 0


# --- what a socket tells ----------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "aioring": 1, "pid": 1, "now": 1.5, "in_flight_total": 1,
    "rings": [{
        "ring": "io_uring-1", "method": "io_uring", "depth": 256, "fallback_reason": None, "submissions": 3,
        "completions": 4,
        "operations": {"read": {
            "count": 4, "bytes": 4096, "page_cache": 1, "errors": 0,
            "waited": {"count": 3, "p50": 1e-4, "p99": 2e-4, "worst": 1e-3},
        }},
    }],
    "in_flight": [{
        "ring": "io_uring-1", "state": "submitted", "operation": "read", "target": "/data", "offset": 0, "length": 4096,
        "age": 1200, "task": "Task-1", "coroutine": "handler",
    }],
}  # fmt: skip


def test_a_good_answer() -> None:
    snapshot = peer.read(json.dumps(GOOD).encode())
    assert snapshot.rings[0].operations["read"] == peer.Operation(4, 4096, 1, 0, 1e-4, 2e-4, 1e-3)
    assert snapshot.in_flight[0] == peer.IO(
        "io_uring-1", "submitted", "read", "/data", 0, 4096, 0.0012, "Task-1 (handler)"
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inside in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inside, (*path, key))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(places(GOOD))), JUNK)
@settings(max_examples=400, deadline=None)
def test_an_answer_with_anything_anywhere_is_refused_or_shown(path: tuple[Any, ...], junk: Any) -> None:
    told = json.loads(json.dumps(GOOD))
    if path:
        inside = told
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = junk
    else:
        told = junk
    try:
        snapshot = peer.read(json.dumps(told).encode())
    except peer.Strange:
        return
    from aioring.cli.top.watched import Sample

    with closing(Process(os.getpid())) as process:
        now = Sample(2.0, None, snapshot, "")
        for part in view.parts(Sample(1.0, None, snapshot, ""), now, 40):
            for row in part.rows:
                assert all(cell.isprintable() for cell in row)
        assert view.heading(process, now)


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"9" * 5000, b'{"aioring": 2}', b"null"])
def test_an_answer_that_is_none(line: bytes) -> None:
    with pytest.raises(peer.Strange):
        peer.read(line)


def test_names_that_would_move_the_cursor() -> None:
    told = json.loads(json.dumps(GOOD))
    told["in_flight"][0]["task"] = "\x1b[2J\x07evil\n\u202e"
    told["in_flight"][0]["target"] = "/a\udcff" + "x" * 10_000
    io = peer.read(json.dumps(told).encode()).in_flight[0]
    assert io.task == r"\x1b[2J\x07evil\n\u202e (handler)"
    assert len(io.target) < 400
    assert printable("\x9b") == r"\x9b"


@contextmanager
def server(path: Path, talk: Any) -> Iterator[None]:
    """A program that says what `talk(connection)` does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve_one() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.recv(100)
                    talk(connection)
                except OSError:
                    pass

        thread = threading.Thread(target=serve_one, daemon=True)
        thread.start()
        yield
        thread.join(10)


def slowly(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.02)


def endlessly(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" " * (1 << 20))


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n"), "does not speak"),
        (lambda connection: None, "hung up"),
        (lambda connection: connection.sendall(b'{"aioring'), "in the middle of an answer"),
        (slowly, "not answered within"),
        (lambda connection: time.sleep(1), "not answered within"),
        (endlessly, "more than 8 MiB"),
    ],
)
def test_a_hostile_program(talk: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "PATIENCE", 0.5 if "within" in said else 5.0)
    path = tmp_path / "s"
    with server(path, talk):
        one = peer.Peer(str(path), os.getpid())
        begun = time.monotonic()
        with closing(one), pytest.raises(peer.Strange, match=said):
            one.ask()
        assert time.monotonic() - begun < 5


def test_another_process_at_that_path(tmp_path: Path) -> None:
    with serve(tmp_path / "s") as served, pytest.raises(peer.Strange, match=f"served by process {os.getpid()}"):
        peer.Peer(served.path, os.getppid())


def test_a_program_that_has_hung_up_meanwhile_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioring.observe.serving.IDLE", 0.5)
    monkeypatch.setattr("aioring.observe.serving.PATIENCE", 0.2)
    with serve(tmp_path / "s") as served, closing(Process(os.getpid(), served.path)) as process:
        for _ in range(3):
            sample = process.sample()
            assert (sample.note, sample.ours is not None) == ("", True)
            until = time.monotonic() + 10
            while served._peers and time.monotonic() < until:
                time.sleep(0.05)


@pytest.mark.parametrize("odd", ["a b", "\udcff", "\u0085q"])
def test_a_folder_of_an_odd_name(odd: str, tmp_path: Path) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    with serve(folder / f"aioring-{os.getpid()}.sock") as served:
        assert fdinfo.listening(os.getpid(), f"aioring-{os.getpid()}.sock") == served.path
        one = peer.find(os.getpid())
        assert one is not None
        one.close()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(3):
        folder = folder / ("x" * 50)
    folder.mkdir(parents=True)
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
            listener.listen()
            peer.Peer(str(folder / "s"), os.getpid()).close()
    finally:
        os.chdir(before)


# --- the command ------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, sys
import aioring, aioring.observe

async def wait_for(ring, fd):
    await ring.read(fd, -1, 100)

async def main():
    ring = aioring.Ring(method=sys.argv[1], track_timing=True)
    async with ring:
        if len(sys.argv) > 2:
            aioring.observe.serve(sys.argv[2] if sys.argv[2] != "default" else None)
        fd, _ = os.pipe()
        task = asyncio.create_task(wait_for(ring, fd), name="the waiter")
        data = await ring.open("/proc/self/exe", os.O_RDONLY)
        print("ready", flush=True)
        while True:
            await ring.read(data, 0, 4096)
            await ring.read(data, 1 << 20, 65537)
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


@contextmanager
def program(*arguments: str) -> Iterator[int]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            yield child.pid
        finally:
            child.kill()


def test_a_program_of_ours_by_task_and_file() -> None:
    with program("auto", "default") as pid:
        done = run("top", pid, "-n", 1, "-i", 0.2)
        told = json.loads(run("top", pid, "-n", 1, "--json").stdout)
    assert done.returncode == 0
    assert "the waiter (wait_for)" in done.stdout
    assert "pipe:[" in done.stdout
    assert "\x1b" not in done.stdout
    assert [line for line in done.stdout.splitlines() if " read " in line and "/s" not in line]
    assert told["note"] == ""
    assert told["aioring"]["rings"][0]["operations"]["read"]["count"] > 0
    if told["aioring"]["rings"][0]["method"] == "io_uring":
        assert "as the kernel sees it" in done.stdout
        assert told["kernel"][0]["numbers"]["SqTail"] > 0


def test_a_program_that_does_not_serve() -> None:
    with program("auto") as pid:
        done = run("top", pid, "-n", 1, "-i", 0.1)
    assert "AIORING_OBSERVE=1" in done.stdout
    assert done.returncode == 0


def test_a_program_without_rings() -> None:
    with program("worker") as pid:
        done = run("top", pid, "-n", 1, "-i", 0.1)
    assert "no io_uring ring is open in it" in done.stdout


def test_a_socket_of_its_own(tmp_path: Path) -> None:
    with program("auto", str(tmp_path / "s")) as pid:
        assert "the waiter" in run("top", pid, "-n", 1, "-i", 0.1, "--socket", tmp_path / "s").stdout
        assert f"not by {os.getpid()}" in fails("top", os.getpid(), "-n", 1, "--socket", tmp_path / "s")
    said = fails("top", os.getpid(), "-n", 1, "--socket", tmp_path / "s")
    assert "stale" in said
    assert str(tmp_path / "s") in fails("top", os.getpid(), "--socket", tmp_path / "s" / "x", "-n", 1)


def test_a_program_that_ends_while_it_is_watched() -> None:
    with program("auto", "default") as pid:
        watching = subprocess.Popen(
            command("top", pid, "-i", "0.1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        assert watching.stdout is not None
        watching.stdout.readline()
    _, error = watching.communicate(timeout=20)
    assert watching.returncode == 2
    assert error.decode() == f"aioring top: there is no process {pid}\n"


def test_a_zombie_is_over() -> None:
    with subprocess.Popen(["true"]) as child:
        time.sleep(0.2)
        assert fails("top", child.pid) == f"aioring top: there is no process {child.pid}"


def test_a_process_that_is_not_there() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
        assert fails("top", child.pid) == f"aioring top: there is no process {child.pid}"


REUSED = """
import os, subprocess, sys, time
from aioring.cli.console import Failure
from aioring.cli.top.watched import Process
sleep = ["sleep", "60"]
first = subprocess.Popen(sleep)
watched = Process(first.pid)
watched.sample()
first.kill()
first.wait()
time.sleep(0.1)  # a start is told by the hundredth of a second
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first.pid - 1))
second = subprocess.Popen(sleep)
assert second.pid == first.pid
try:
    watched.sample()
except Failure as failure:
    print(failure)
second.kill()
second.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_process_of_that_number() -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSED]
    done = subprocess.run(apart, capture_output=True, text=True, env=ENVIRONMENT, timeout=20)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert done.stderr == ""
    assert re.fullmatch(r"there is no process \d+ any more: another has its number\n", done.stdout)


def test_a_process_that_runs_another_program_has_its_name() -> None:
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as child:
        try:
            with closing(Process(child.pid)) as process:
                wait_until(lambda: process.name.startswith("sh -c"))  # (Popen returns when execve has begun)
                assert child.stdin is not None
                child.stdin.write(b"\n")
                child.stdin.flush()
                wait_until(lambda: process.name == "sleep 60")
        finally:
            child.kill()
    assert process.name == "sleep 60"  # it has none any more


WITHOUT_MAIN_THREAD = """
import asyncio, ctypes, platform, sys, threading
import aioring

async def main():
    async with aioring.Ring(method="io_uring") as ring:
        print("ready", flush=True)
        await ring.run(sys.stdin.read)

threading.Thread(target=asyncio.run, args=(main(),)).start()
ctypes.CDLL(None).syscall(93 if platform.machine() == "aarch64" else 60, 0)  # exit(2): of this thread alone
"""


def test_a_process_whose_main_thread_has_ended() -> None:
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen([sys.executable, "-c", WITHOUT_MAIN_THREAD], **ends) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            wait_until(lambda: "Z" in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2])
            assert len(fdinfo.rings_of(child.pid)) == 1
        finally:
            child.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_process_that_is_not_ours() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:  # root's
        try:
            if not _importable():
                pytest.skip("this Python is not for everybody")
            said = fails("top", child.pid, preexec_fn=lambda: os.setuid(65534), cwd="/")
        finally:
            child.kill()
    assert "as its user" in said


def _importable() -> bool:
    """Whether nobody may run this interpreter and this library."""
    probe = [sys.executable, "-c", "import os; os.setuid(65534); import hashlib, aioring.cli.top"]
    return subprocess.run(probe, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "words", [["abc"], ["-1"], ["0"], ["1", "--self-demo"], [], ["1", "-i", "0"], ["1", "-i", "nan"]]
)
def test_words_that_make_no_sense(words: list[str]) -> None:
    done = run("top", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: aioring top")


def test_the_demo_leaves_nothing(tmp_path: Path) -> None:
    done = run("top", "--self-demo", "-n", 1, "-i", 0.1, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)})
    assert "readinto" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("aioring-0")] == []
    assert [path.name for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize(("columns", "colour"), [(20, True), (100, False)])
def test_a_terminal_and_control_c(columns: int, colour: bool) -> None:
    with program("auto", "default") as pid:
        with terminal("top", pid, "-i", "0.2", columns=columns, NO_COLOR="" if colour else "1") as (child, master):
            seen = read_until(master, b"pipe:" if columns > 20 else b"fd")
            if not colour:
                assert b"\x1b[3" not in seen  # a colour
            child.send_signal(signal.SIGINT)
            read_until(master, b"interrupted")
            assert child.wait(10) == 130


def test_control_z_gives_the_screen_back_meanwhile() -> None:
    with program("auto", "default") as pid, terminal("top", pid, "-i", "0.1", columns=80) as (child, master):
        read_until(master, b"pipe:")
        child.send_signal(signal.SIGTSTP)  # (of an orphaned process group, as this one, nobody is stopped by it)
        seen = read_until(master, b"\x1b[?1049h")
        assert b"\x1b[?1049l" in seen
        child.send_signal(signal.SIGINT)
        read_until(master, b"interrupted")
        assert child.wait(10) == 130


# --- room -------------------------------------------------------------------------------------------------------------

CUTS = st.sampled_from(["", "start", "end"])
COLUMN = st.builds(Column, st.text("abc ", min_size=1, max_size=12), st.booleans(), st.integers(0, 9), CUTS)
COLUMNS = st.lists(COLUMN, min_size=1, max_size=8)


@given(COLUMNS, st.data(), st.integers(1, 120))
@settings(max_examples=200, deadline=None)
def test_a_table_never_is_wider_than_the_terminal(columns: list[Column], data: st.DataObject, width: int) -> None:
    row = st.lists(st.text("xyz", max_size=30), min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(row, max_size=4))
    shown, widths = sized(columns, rows, width)
    assert shown
    assert sum(widths) + 2 * (len(widths) - 1) <= width
    kept = {columns[n].keep for n in shown}
    dropped = {columns[n].keep for n in range(len(columns)) if n not in shown}
    assert not dropped or max(dropped) <= max(kept)


def test_a_process_that_is_gone_is_a_failure() -> None:
    with closing(Process(2**22 + 1)) as process, pytest.raises(Failure, match="there is no process"):
        process.sample()


def test_the_name_is_this_version() -> None:
    assert run("--version").stdout == f"aioring {aioring.__version__}\n"
