"""`aioring.observe.serve`: what it tells, whom, and what peers can do to it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioring
from aioring.observe import Serving, serve
from aioring.observe.serving import IDLE, MOST, PEERS, name_of
from tests.command import ENVIRONMENT
from tests.harness import begin

LIGHT = True


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def serving(place: Path) -> Iterator[Serving]:
    with serve(place) as served:
        yield served


def connect(path: Any) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    try:
        peer.connect(str(path))
    except OSError:
        peer.close()
        raise
    return peer


def answer(peer: socket.socket) -> Any:
    """The next one; None: it has hung up."""
    parts = [b""]
    while not parts[-1].endswith(b"\n"):
        parts.append(peer.recv(1 << 16))
        if not parts[-1]:
            return None
    return json.loads(b"".join(parts))


def ask(path: Any) -> Any:
    with connect(path) as peer:
        peer.sendall(b"snapshot\n")
        return answer(peer)


def is_left(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


async def test_a_snapshot_has_rings_and_what_is_in_flight(
    ring: aioring.Ring, pipe: tuple[int, int], place: Path
) -> None:
    with serve(place) as served:
        assert served.path == str(place)
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
        async with anyio.create_task_group() as group:
            begin(group, ring.read, pipe[0], -1, 10)
            while not ring.in_flight():
                await anyio.sleep(0.01)
            told = await anyio.to_thread.run_sync(ask, place)
            os.write(pipe[1], b"x" * 10)
        (seen,) = [one for one in told["rings"] if one["ring"] == ring.stats().ring]
        assert (told["aioring"], told["pid"]) == (1, os.getpid())
        assert (seen["method"], seen["depth"]) == (ring.method, ring.depth)
        (io,) = [one for one in told["in_flight"] if one["ring"] == seen["ring"]]
        assert (io["operation"], io["length"], io["state"]) == ("read", 10, "waiting")
        assert io["task"]
        assert told["in_flight_total"] == len(told["in_flight"])
    assert not place.exists()


def test_the_same_place_is_served_once(serving: Serving) -> None:
    assert serve(serving.path) is serving
    serving.close()
    serving.close()
    assert "closed" in repr(serving)
    with serve(serving.path) as another:
        assert another is not serving
        assert ask(another.path)["pid"] == os.getpid()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "runtime"
    mine.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(mine))
    with serve() as served:
        assert served.path == str(mine / name_of(os.getpid()))
    mine.chmod(0o777)  # others could write there
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serve() as served:
        folder = tmp_path / f"aioring-{os.geteuid()}"
        assert served.path == str(folder / name_of(os.getpid()))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("planted", ["open to all", "a link", "a file"])
def test_a_folder_that_is_not_ours_is_refused(planted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"aioring-{os.geteuid()}"
    if planted == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif planted == "a file":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(PermissionError) as caught:
        serve()
    assert caught.value.filename == str(folder)
    assert "give serve() a path" in caught.value.__notes__[0]


def test_a_stale_socket_is_replaced(place: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(place))
    left.close()
    with serve(place):
        assert ask(place)["pid"] == os.getpid()


def test_what_is_no_socket_is_left_alone(place: Path) -> None:
    place.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError) as caught:
        serve(place)
    assert caught.value.filename == str(place)
    assert place.read_bytes() == b"somebody's"


def test_a_socket_that_another_serves_is_left_alone(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place))
        other.listen()
        with pytest.raises(OSError, match="in use") as caught:
            serve(place)
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, str(place))
    assert place.exists()


@pytest.mark.parametrize(("path", "code"), [("x" * 108, errno.ENAMETOOLONG), ("missing/s", errno.ENOENT)])
def test_a_place_that_cannot_be(path: str, code: int, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises(OSError) as caught:
        serve(tmp_path / path)
    assert caught.value.errno == code
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_a_name_that_is_somebody_elses_by_now_is_not_removed(serving: Serving, place: Path) -> None:
    place.unlink()
    place.write_bytes(b"somebody's")
    serving.close()
    assert place.read_bytes() == b"somebody's"


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"snapshot ", b"\0" * 1_000_000, b"snap\n", b"snapshot\nsnapshot\n"]
)
def test_who_does_not_speak_the_language_is_left(said: bytes, serving: Serving) -> None:
    with connect(serving.path) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(said)
        assert is_left(peer)
    assert ask(serving.path)["pid"] == os.getpid()


def test_a_request_may_come_in_pieces_and_again(serving: Serving) -> None:
    with connect(serving.path) as peer:
        for _ in range(3):
            for byte in b"snapshot\n":
                peer.sendall(bytes([byte]))
                time.sleep(0.001)
            assert answer(peer)["pid"] == os.getpid()


def test_so_many_peers_and_no_more(serving: Serving) -> None:
    silent = [connect(serving.path) for _ in range(PEERS)]
    for peer in silent:  # each has been seen
        peer.sendall(b"snapshot\n")
        assert answer(peer) is not None
    with connect(serving.path) as one_more:
        assert is_left(one_more)
    silent.pop().close()
    until = time.monotonic() + 5
    while time.monotonic() < until:  # it is noticed soon
        with contextlib.suppress(OSError):
            if ask(serving.path) is not None:
                break
    else:
        pytest.fail("nobody is served any more")
    for peer in silent:
        peer.close()


def test_who_is_silent_is_left(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    assert IDLE >= 10
    monkeypatch.setattr("aioring.observe.serving.IDLE", 0.2)
    monkeypatch.setattr("aioring.observe.serving.PATIENCE", 0.2)
    with connect(serving.path) as peer:
        assert is_left(peer)


def test_who_takes_no_answer_is_left_and_holds_nobody_up(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioring.observe.serving.PATIENCE", 1.0)
    large = [{"ring": "x" * 1000}] * 2000  # more than a socket holds
    monkeypatch.setattr("aioring.observe.serving._sources", [lambda most: (large, [], 0)])

    with connect(serving.path) as lazy:
        lazy.sendall(b"snapshot\n")
        assert ask(serving.path)["rings"] == large  # another one, meanwhile
        time.sleep(2.5)
        assert answer(lazy) is None


def test_the_oldest_are_told_and_how_many_there_are(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "aioring.observe.serving._sources", [lambda most: ([], [{"n": n} for n in range(most)], most + 5)]
    )
    told = ask(serving.path)
    assert [one["n"] for one in told["in_flight"]] == list(range(MOST))
    assert told["in_flight_total"] == MOST + 5


def test_a_snapshot_that_fails_is_logged_and_the_next_is_served(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(most: int) -> Any:
        raise LookupError("a Task class of somebody's own")

    with monkeypatch.context() as patch:
        patch.setattr("aioring.observe.serving._sources", [failing])
        assert ask(serving.path) is None
    assert "somebody's own" in caplog.text
    assert ask(serving.path)["pid"] == os.getpid()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_is_refused(serving: Serving, place: Path) -> None:
    os.chmod(place, 0o777)
    for folder in (place.parent, *place.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    program = "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); " \
        "s.sendall(b'snapshot\\n'); print(s.recv(10))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, place], capture_output=True, text=True, timeout=20, check=False
    )
    assert ask(serving.path) is not None  # us it knows
    assert done.stdout == "b''\n" or "ConnectionReset" in done.stderr or "BrokenPipe" in done.stderr


# --- processes --------------------------------------------------------------------------------------------------------


def child(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program]
    command += map(str, arguments)
    around = {**ENVIRONMENT, **environment}
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=20, check=False)


RUNS = """
import asyncio, os, sys
import aioring, aioring.observe

async def main():
    async with aioring.Ring() as ring:
        fd = await ring.open("/dev/null", os.O_RDONLY)
        await ring.run(int)
        await ring.close(fd)
        print(ring.stats().operations["run"].waited is not None, flush=True)
        PLACE
asyncio.run(main())
"""


def test_the_environment(place: Path) -> None:
    seen = RUNS.replace("PLACE", f"print(os.path.exists({str(place)!r}))")
    done = child(seen, AIORING_OBSERVE=str(place))
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
    assert not place.exists()  # removed at exit
    assert child(seen, AIORING_OBSERVE="0").stdout == "False\nFalse\n"
    done = child(seen, AIORING_OBSERVE=str(place), AIORING_TRACK_TIMING="0")
    assert done.stdout == "False\nTrue\n"


def test_the_environment_says_nonsense() -> None:
    done = child(RUNS.replace("PLACE", "pass"), AIORING_OBSERVE="perhaps")
    assert "ValueError: AIORING_OBSERVE='perhaps' in the environment: must be 1 or 0" in done.stderr


def test_that_it_cannot_be_watched_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = child(RUNS.replace("PLACE", "pass"), AIORING_OBSERVE=str(tmp_path / "missing" / "s"))
    assert done.returncode == 0
    assert "nobody can watch this process" in done.stderr


def test_a_forked_child_is_not_watched_and_its_parent_still_is(place: Path) -> None:
    program = """
import os, sys, socket, json
import aioring.observe
from aioring.observe.serving import serve
def ask(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path); s.sendall(b"snapshot\\n")
        return json.loads(s.makefile().readline())["pid"]
served = serve(sys.argv[1])
before = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    assert len(os.listdir("/proc/self/fd")) == before - 4  # socket, epoll, and both ends of a pipe
    served.close()
    with serve(sys.argv[1] + "2") as mine:
        told = ask(mine.path)
    os._exit(0 if told == os.getpid() and os.path.exists(sys.argv[1]) else 1)
assert os.waitpid(pid, 0)[1] == 0
assert ask(sys.argv[1]) == os.getpid()
served.close()
assert len(os.listdir("/proc/self/fd")) == before - 4, os.listdir("/proc/self/fd")
"""
    done = child(program, place)
    assert (done.returncode, done.stderr) == (0, "")


def test_opened_and_closed_from_many_threads(tmp_path: Path) -> None:
    wrong: list[BaseException] = []

    def often(n: int) -> None:
        try:
            for _ in range(50):
                with serve(tmp_path / str(n % 2)) as served, contextlib.suppress(OSError):
                    ask(served.path)  # another thread may close it in the middle
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=often, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(tmp_path.iterdir()) == []


def test_forked_while_others_open_and_close(tmp_path: Path) -> None:
    """No child has a socket of its parent's, at whatever moment it came to be."""
    program = """
import os, sys, threading
from aioring.observe.serving import serve
over = False
def often(n):
    while not over:
        serve(f"{sys.argv[1]}/{n}").close()
threads = [threading.Thread(target=often, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
bad = 0
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        links = [os.readlink(fd) for fd in fds if os.path.lexists(fd)]
        os._exit(any(link.startswith("socket:") for link in links))
    bad += os.waitpid(pid, 0)[1] != 0
over = True
for thread in threads:
    thread.join()
print(bad)
"""
    done = child(program, tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_nothing_is_left_of_what_could_not_be_opened(tmp_path: Path) -> None:
    program = """
import os, resource, sys
from aioring.observe.serving import serve
open_now = lambda: len(os.listdir("/proc/self/fd"))
before = open_now()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for spare in range(8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + spare, hard))
    try:
        serve(sys.argv[1] + "/s").close()
        told = "opened"
    except OSError as error:
        told = str(error.errno)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(told, open_now() - before, os.listdir(sys.argv[1]))
"""
    done = child(program, tmp_path)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(lines) == 8
    assert set(lines) == {"24 0 []", "opened 0 []"}


def test_names_of_the_killed_are_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    for name in (name_of(gone.pid), name_of(os.getppid()), "other.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / name))
    (tmp_path / name_of(2**22 + 5)).write_bytes(b"no socket")
    with serve() as served:
        left_over = sorted(path.name for path in tmp_path.iterdir())
    assert left_over == sorted([name_of(os.getppid()), "other.sock", name_of(2**22 + 5), os.path.basename(served.path)])


async def test_of_many_the_oldest_are_told(
    make_ring: Any, anyio_backend: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all rings together, and no records are made of the others."""
    monkeypatch.setattr("aioring.observe.serving.MOST", 5)
    rings = [make_ring() for _ in range(7)]
    for ring in rings:
        await ring.start()
    reads = [os.pipe() for _ in rings]
    try:
        with serve(place):
            async with anyio.create_task_group() as group:
                for ring, (end, _) in zip(rings, reads, strict=True):
                    begin(group, ring.read, end, -1, 1)
                    while not ring.in_flight():
                        await anyio.sleep(0.005)
                told = await anyio.to_thread.run_sync(ask, place)
                for _, end in reads:
                    os.write(end, b"x")
        assert len(told["rings"]) == 5
        assert told["in_flight_total"] == 7
        assert [one["ring"] for one in told["in_flight"]] == [ring.stats().ring for ring in rings[:5]]
    finally:
        for ring in rings:
            await ring.aclose()
        for ends in reads:
            for end in ends:
                os.close(end)


def test_a_thread_that_has_died_is_not_taken_for_a_server(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = serve(place)

    def fail() -> None:
        raise LookupError("a defect")

    served._accept = fail  # type: ignore[method-assign]
    with contextlib.suppress(OSError):
        ask(place)
    served._thread.join(10)
    assert "nothing is told any more" in caplog.text
    with serve(place) as another:
        assert another is not served
        assert ask(place)["pid"] == os.getpid()
    served.close()
