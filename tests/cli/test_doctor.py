"""`aioring doctor` in altered surroundings: its verdict, its JSON and its exit status must follow them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.cli import doctor, main
from aioring.kernel import abi
from aioring.methods.io_uring import IoUring
from tests.conftest import pattern

ROOT = Path(aioring.__file__).resolve().parent.parent
KEYS = [
    "method", "fallback_reason", "kernel", "liburing", "features", "limits", "container", "path", "verdict", "advice",
]  # fmt: skip

# In a process of its own: `before` alters the surroundings, then the command line runs as `python -m aioring` would.
CHILD = """
import ctypes, errno, os, resource, struct, sys

def refuse(code, *numbers):
    rows = [(0x20, 0, 0, 0)]
    for number in numbers:
        rows += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | code)]
    rows.append((0x06, 0, 0, 0x7fff0000))
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
    head = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()

{before}
from aioring.cli import main
"""
ONCE = CHILD + "sys.exit(main())\n"
# As JSON and as text, and the exit status of both.
TWICE = (
    CHILD
    + """
status = main(["doctor", "--json", *sys.argv[1:]])
print(chr(30), flush=True)
print(chr(30), main(["doctor", *sys.argv[1:]]), flush=True)
sys.exit(status)
"""
)
IO_URING = "425, 426, 427"
IO_SETUP = {"x86_64": 206}.get(os.uname().machine, 0)


def run(*arguments: object, before: str = "", program: str = ONCE, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program.format(before=before)]
    options.setdefault("env", {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"})
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=20, check=False, **options
    )


def examined(*arguments: object, before: str = "", **options: Any) -> tuple[dict[str, Any], int]:
    """The report, and the exit status; the text says the same, with the same status."""
    done = run(*arguments, before=before, program=TWICE, **options)
    assert done.stderr == "", done.stderr
    as_json, text, status = done.stdout.split(chr(30))
    report = json.loads(as_json)
    assert list(report) == KEYS
    assert int(status) == done.returncode
    assert report["verdict"] in text
    assert all(advice in text for advice in report["advice"])
    return report, done.returncode


@pytest.fixture(scope="module")
def has_io_uring() -> bool:
    report, status = doctor.examine(".")
    assert (status == 0) == (report["method"] == "io_uring")
    return status == 0


def need(has_it: bool) -> None:
    if not has_it:
        pytest.skip("io_uring is refused here")


# --- by surrounding ---------------------------------------------------------------------------------------------------


def test_where_all_is_well(has_io_uring: bool, tmp_path: Path) -> None:
    need(has_io_uring)
    report, status = examined(tmp_path)
    assert status == 0
    assert report["method"] == "io_uring"
    assert report["fallback_reason"] is None
    assert report["verdict"].startswith("aioring uses io_uring here, through ")
    assert report["kernel"]["release"] == os.uname().release
    assert report["features"]["aioring"] == aioring.__version__
    assert report["features"]["refused"] == {}
    assert report["limits"]["switch_interval"] == sys.getswitchinterval()
    assert report["path"]["kind"] == "folder"
    assert report["path"]["writable"]["works"] is True
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS", "EACCES"])
def test_io_uring_refused_by_a_filter(code: str, has_io_uring: bool, tmp_path: Path) -> None:
    need(has_io_uring)
    report, status = examined(tmp_path, before=f"refuse(errno.{code}, {IO_URING})")
    assert status == 1
    assert report["method"] == "linux_aio"
    assert report["fallback_reason"].startswith(f"{code} from io_uring_setup")
    assert report["kernel"]["seccomp"] == "filter"
    assert "without io_uring" in report["verdict"]
    assert "cold reads come to about a third" in report["verdict"]
    assert "docker run --security-opt seccomp=PROFILE.json" in report["advice"][0]
    assert "io_uring_setup, io_uring_enter and io_uring_register" in report["advice"][0]


@pytest.mark.skipif(not IO_SETUP, reason="numbers of x86-64")
def test_io_uring_and_the_older_aio_refused(has_io_uring: bool, tmp_path: Path) -> None:
    report, status = examined(tmp_path, before=f"refuse(errno.EPERM, {IO_URING}, {IO_SETUP})")
    assert status == 1
    assert report["method"] == "worker"
    assert "worker threads" in report["verdict"]
    assert report["features"]["refused"] == {}


def test_the_set_up_allowed_and_the_rest_refused(has_io_uring: bool, tmp_path: Path) -> None:
    """Some sandboxes do that: only a read that is really done tells."""
    need(has_io_uring)
    report, status = examined(tmp_path, before="refuse(errno.EPERM, 426)")
    assert (status, report["method"]) == (1, "linux_aio")
    assert "EPERM" in report["fallback_reason"]
    assert "seccomp" in report["advice"][0]


def test_opcodes_refused(has_io_uring: bool, tmp_path: Path) -> None:
    need(has_io_uring)
    method = IoUring(refuse=frozenset({abi.OP_FSYNC, abi.OP_STATX}))
    report, status = doctor.examine(str(tmp_path), method)
    assert status == 0
    assert report["features"]["missing_opcodes"] == ["fsync", "stat"]
    assert "Without opcodes here, and so done by worker threads or refused: fsync, stat." in report["verdict"]
    report, status = doctor.examine(str(tmp_path), IoUring(refuse=frozenset({abi.OP_READ})))
    assert status == 2
    assert report["method"] is None
    assert "a read on the ring" in report["fallback_reason"]
    assert report["verdict"].startswith("aioring does not work here: ")


def test_without_liburing(has_io_uring: bool, tmp_path: Path) -> None:
    need(has_io_uring)
    report, status = examined(tmp_path, before='os.environ["AIORING_LIBURING"] = "none"')
    assert status == 0
    assert (report["liburing"]["route"], report["liburing"]["used"]) == ("system calls", "system calls")
    assert "through system calls" in report["verdict"]


def test_a_liburing_that_cannot_be_loaded(tmp_path: Path) -> None:
    report, status = examined(tmp_path, before='os.environ["AIORING_LIBURING"] = "/no/such/liburing.so"')
    assert status == 1
    assert "/no/such/liburing.so" in report["liburing"]["error"]
    assert "unset it" in report["advice"][0]


@pytest.mark.parametrize("most", [8, 5])
def test_hardly_any_fds(most: int, tmp_path: Path) -> None:
    before = f"import aioring.cli\nresource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))"
    report, status = examined(tmp_path, before=before)
    assert status in (1, 2)
    assert report["limits"]["nofile"] == [most, most]
    assert "EMFILE" in report["fallback_reason"]
    assert any(f"RLIMIT_NOFILE is {most}" in advice for advice in report["advice"])
    if most == 5:
        assert status == 2


def test_on_tmpfs() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    report, _ = examined("/dev/shm")
    assert report["path"]["file_system"] == "tmpfs"
    assert report["path"]["rwf_nowait"]["works"] is False
    assert "/dev/shm is on tmpfs: memory" in report["verdict"]


def test_on_overlayfs(overlay: Path) -> None:
    report, _ = examined(overlay)
    assert report["path"]["file_system"] == "overlay"
    assert report["path"]["rwf_nowait"]["works"] is False
    assert "refuses RWF_NOWAIT" in report["verdict"]
    assert any("on a volume" in advice for advice in report["advice"])


def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(pattern(10_000))
    if subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        report, status = examined(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert status in (0, 1)
    assert report["path"]["read_only"] is True
    assert report["path"]["writable"]["works"] is False
    assert "EROFS" in report["path"]["writable"]["error"]
    assert report["path"]["readable"]["works"] is True  # there is a file in it, and that is looked at
    assert report["path"]["rwf_nowait"]["works"] is not None
    assert "Nothing can be written there (EROFS" in report["verdict"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become somebody else")
def test_what_is_not_ours_to_read(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_bytes(pattern(10_000))
    secret.chmod(0o600)
    report, status = examined(secret, before="import aioring.cli.doctor\nos.setuid(65534)")
    assert status in (0, 1)
    assert report["path"]["readable"] == {"works": False, "error": "EACCES: Permission denied"}
    assert "It cannot be read (EACCES" in report["verdict"]


def test_a_file_and_what_is_no_file(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(pattern(100_000))
    report, _ = examined(file)
    assert report["path"]["kind"] == "file"
    assert report["path"]["direct"]["works"] is not None
    assert file.read_bytes() == pattern(100_000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    report, _ = examined(fifo)
    assert report["path"]["kind"] == "FIFO"
    assert f"{fifo} is a FIFO" in report["verdict"]
    report, _ = examined("/dev/null")
    assert report["path"]["kind"] == "character device"
    assert "memory" not in report["verdict"]


def test_a_block_device() -> None:
    devices = [
        path for path in map(Path, ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0")) if path.is_block_device()
    ]
    readable = [path for path in devices if os.access(path, os.R_OK)]
    if not readable:
        pytest.skip("no block device to be read here")
    report, status = examined(readable[0])
    assert status in (0, 1)
    assert report["path"]["kind"] == "block device"
    assert report["path"]["device"]["name"] == readable[0].name
    assert "memory" not in report["verdict"]  # that is where its node lies


@pytest.mark.parametrize("name", ["nothing", "a\0b", "file/below"])
def test_no_such_path(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / name)
    report, status = doctor.examine(path)
    assert status == 2
    assert report["path"]["error"]
    assert f"cannot be looked at: {report['path']['error']}" in report["verdict"]
    assert main(["doctor", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"aioring doctor: {path}: ")
    assert err.count("\n") == 1


# --- as a program -----------------------------------------------------------------------------------------------------


def test_python_m_aioring(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aioring", "doctor", "--json", tmp_path], capture_output=True, text=True, check=False,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert list(json.loads(done.stdout)) == KEYS
    for arguments, status in ((["--help"], 0), (["doctor", "--help"], 0), ([], 2), (["nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "aioring", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == status, arguments
        assert "Traceback" not in done.stderr


def test_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """Neither rich nor anyio: an environment in which hardly anything is installed."""
    before = "import sys\nfor name in ('rich', 'anyio', 'trio', 'uvloop'): sys.modules[name] = None"
    report, status = examined(tmp_path, before=before)
    assert status in (0, 1)
    done = run("doctor", tmp_path, before=before)
    assert "method: " + report["method"] in done.stdout


@pytest.mark.parametrize("rich", [True, False])
def test_into_a_pipe_there_are_no_escape_codes_and_no_broken_lines(rich: bool, tmp_path: Path) -> None:
    before = "" if rich else "sys.modules['rich'] = None"
    for environment in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        done = run("doctor", tmp_path, before=before, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
        assert "\x1b" not in done.stdout
        verdict = [line for line in done.stdout.splitlines() if line.startswith("aioring ") and line.endswith(".")]
        assert len(verdict) == 1


def in_terminal(columns: int, *, rich: bool, path: Path, **environment: str) -> str:
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child
        os.environ.update(
            environment, PYTHONPATH=str(ROOT), COLUMNS=str(columns), TERM=environment.get("TERM", "xterm")
        )
        before = "" if rich else "sys.modules['rich'] = None"
        os.execv(sys.executable, [sys.executable, "-c", ONCE.format(before=before), "doctor", str(path)])
    out = b""
    try:
        while chunk := os.read(terminal, 65536):
            out += chunk
    except OSError:
        pass  # EIO: it is over
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 1)
    return out.decode()


@pytest.mark.parametrize("rich", [True, False])
def test_in_a_terminal_of_20_columns(rich: bool, tmp_path: Path) -> None:
    text = in_terminal(20, rich=rich, path=tmp_path, NO_COLOR="1", TERM="dumb")
    lines = text.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 20, [line for line in lines if len(line) > 20]
    assert "method:" in text


def test_colours_in_a_terminal_unless_told_not_to(tmp_path: Path) -> None:
    assert "\x1b[" in in_terminal(80, rich=True, path=tmp_path)
    assert "\x1b[3" not in in_terminal(80, rich=True, path=tmp_path, NO_COLOR="1")


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        program = [sys.executable, "-c", ONCE.format(before=""), "doctor", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_ctrl_c(tmp_path: Path) -> None:
    """While it hangs on a path: one line, 130."""
    # (A shell that runs tests in the background has its children ignore SIGINT.)
    before = "import aioring.cli.doctor.place as place, signal, time\n"
    before += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    before += "place.look = lambda path: (print('there', flush=True), time.sleep(20))"
    program = [sys.executable, "-c", ONCE.format(before=before), "doctor", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    assert child.stdout.readline() == "there\n"
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=10)
    assert err == "aioring: interrupted\n"
    assert child.returncode == 130


# --- whatever the environment holds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIORING_DEPTH", "abc"),
        ("AIORING_METHOD", "bogus"),
        ("AIORING_TRACK_TIMING", "maybe"),
        ("AIORING_WORKERS", "-3"),
    ],
)
def test_settings_that_make_no_sense(name: str, value: str, tmp_path: Path) -> None:
    report, status = examined(tmp_path, before=f"os.environ[{name!r}] = {value!r}")
    assert status == 2
    assert report["method"] is None
    assert value in report["verdict"]


def shell(command: str, path: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` with DOCTOR in it, by a shell."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    line = command.replace("DOCTOR", f'"{sys.executable}" -m aioring doctor "$1"')
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", "bash", str(path)], capture_output=True, text=True, check=False,
        cwd=ROOT, env=environment, timeout=20,
    )  # fmt: skip


def test_a_reader_that_leaves_does_not_change_the_verdict(tmp_path: Path) -> None:
    status = shell("DOCTOR", tmp_path).returncode
    assert status in (0, 1)
    assert shell("DOCTOR | true", tmp_path).returncode == status
    assert shell("DOCTOR >&-", tmp_path).returncode == status
    assert shell("DOCTOR --json >&-", tmp_path).returncode == status
    assert shell("DOCTOR >&-", tmp_path).stderr == ""


def test_an_output_that_is_full(tmp_path: Path) -> None:
    done = shell("DOCTOR > /dev/full", tmp_path)
    assert done.stderr == "aioring: the output cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_a_path_that_the_output_has_no_letters_for(tmp_path: Path) -> None:
    folder = tmp_path / "uml-ü"
    folder.mkdir()
    for command in ("DOCTOR", "DOCTOR --json"):
        done = shell(command, folder, PYTHONIOENCODING="ascii")
        assert done.stderr == ""
        assert done.returncode in (0, 1)
        assert "uml-" in done.stdout


def test_a_process_that_may_write_no_file(tmp_path: Path) -> None:
    done = shell("ulimit -f 0; DOCTOR --json", tmp_path)
    report = json.loads(done.stdout)
    assert report["method"] is not None, report
    assert "EFBIG" in report["features"]["refused"]["write"]
    assert "read" not in report["features"]["refused"]
    assert "Without opcodes" not in report["verdict"]  # that is no opcode's fault


def test_a_folder_to_which_may_only_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made and cannot be unlinked is said by name."""
    if subprocess.run(["chattr", "+a", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("no chattr here, or no file system for it")
    monkeypatch.setattr(doctor.place, "_O_TMPFILE", 0)
    try:
        found = doctor.place.look(str(tmp_path))
    finally:
        subprocess.run(["chattr", "-a", tmp_path], check=True)
    (left,) = tmp_path.iterdir()
    assert str(left) in found["writable"]["error"]
    left.unlink()
