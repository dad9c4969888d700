"""`aioring cp`, `cat` and `sum`, beside coreutils'."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aioring.cli.data import listing
from tests.command import ENVIRONMENT, aioring as run, command, fails, read_until, terminal
from tests.conftest import pattern
from tests.harness import small_disk

PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
LARGE = 5 * (1 << 20) + 4711


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "large").write_bytes(pattern(LARGE))
    (tree / "small").write_bytes(b"a line\n")
    (tree / "empty").write_bytes(b"")
    (tree / "inner" / "-x y").write_bytes(pattern(70_000))
    (tree / "inner" / "link").symlink_to("-x y")
    (tree / "sparse").touch()
    os.truncate(tree / "sparse", 3 << 20)
    return tree


# --- cp ---------------------------------------------------------------------------------------------------------------


def test_a_file_to_a_name_and_into_a_folder(tree: Path, tmp_path: Path) -> None:
    os.chmod(tree / "large", 0o640)
    assert run("cp", tree / "large", tmp_path / "copy").returncode == 0
    assert (tmp_path / "copy").read_bytes() == pattern(LARGE)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o640
    (tmp_path / "into").mkdir()
    done = run("cp", tree / "large", tree / "small", tree / "sparse", tmp_path / "into")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["large", "small", "sparse"]
    assert (tmp_path / "into" / "sparse").stat().st_blocks == (tree / "sparse").stat().st_blocks


@pytest.mark.parametrize("words", [["--direct"], ["--durable"], ["--reflink=never"], ["--no-sparse", "--no-preserve"]])
def test_the_options(words: list[str], tree: Path, tmp_path: Path) -> None:
    assert run("cp", *words, tree / "large", tmp_path / "copy").returncode == 0
    assert (tmp_path / "copy").read_bytes() == pattern(LARGE)


def test_a_folder(tree: Path, tmp_path: Path) -> None:
    done = run("cp", tree, tmp_path / "copy")
    assert done.returncode == 1
    assert done.stderr == f"aioring cp: {tree}: is a folder: say -r\n"
    assert run("cp", "-r", tree, tmp_path / "copy").returncode == 0
    assert subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / "copy"], check=False).returncode == 0
    done = run("cp", "-r", f"{tree}/", tmp_path / "copy")  # into it, then
    assert done.returncode == 0
    assert (tmp_path / "copy" / "tree" / "small").exists()
    done = run("cp", "-r", tree, tmp_path / "copy")
    assert (done.returncode, done.stderr) == (1, f"aioring cp: {tmp_path}/copy/tree: File exists\n")


def test_one_that_fails_keeps_nobody_else_from_being_copied(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    done = run("cp", tree / "small", tree / "missing", tree / "large", tmp_path / "into")
    assert (done.returncode, done.stderr) == (1, f"aioring cp: {tree}/missing: No such file or directory\n")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["large", "small"]


def test_a_folder_by_its_dots(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    assert run("cp", "-r", ".", tmp_path / "into", cwd=tree).returncode == 0
    assert (tmp_path / "into" / "tree" / "small").exists()


def test_a_reader_that_leaves_does_not_change_the_status(tree: Path) -> None:
    child = subprocess.Popen(command("sum", tree / "missing", *[tree / "small"] * 2000), **PIPES)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == f"aioring sum: {tree}/missing: No such file or directory\n".encode()
    assert child.wait(20) == 1
    child.stderr.close()


def test_without_rich_a_line_is_cleared(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not here')")
    around = {"PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    with terminal("sum", tree / "large", tree / "missing", columns=80, stdout=tmp_path / "out", **around) as (
        child,
        master,
    ):
        seen = read_until(master, b"No such file")
        assert child.wait(20) == 1
    assert b"\raioring sum: " in seen or seen.startswith(b"aioring sum: ")  # not behind what the line said
    assert b"\x1b" not in seen


def test_names_that_rich_would_change(tmp_path: Path) -> None:
    name = tmp_path / "a:x:b [red]c"
    name.write_bytes(b"")
    with terminal("sum", name, columns=300) as (child, master):
        assert b"a:x:b [red]c" in read_until(master, b"]c")
        assert child.wait(20) == 0


def test_a_job_in_the_background_ends_by_sigterm_as_well(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    ignore: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with subprocess.Popen(command("cat", tree / "fifo"), **PIPES, **ignore) as child:
        writer = os.open(tree / "fifo", os.O_WRONLY)  # it reads by now
        time.sleep(0.2)
        child.terminate()
        assert child.wait(20) == -signal.SIGTERM
        os.close(writer)


def test_two_of_one_name(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "small").write_bytes(b"another")
    done = run("cp", tree / "small", tmp_path / "small", tmp_path / "into")
    assert done.returncode == 1
    assert "has just been made" in done.stderr
    assert (tmp_path / "into" / "small").read_bytes() == b"a line\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ends_clean_up_as_well(number: int, tree: Path) -> None:
    """The terminal, for one: the cursor is shown again."""
    os.mkfifo(tree / "fifo")
    writer = os.open(tree / "fifo", os.O_RDWR)
    before = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored, by children too
    try:
        with terminal("cat", tree / "fifo", columns=80, stdout=tree / "out") as (child, master):
            read_until(master, b"\x1b[?25l")
            child.send_signal(number)
            read_until(master, b"\x1b[?25h")
            assert child.wait(20) == -number
    finally:
        signal.signal(number, before)
        os.close(writer)


def test_copies_that_make_no_sense(tree: Path, tmp_path: Path) -> None:
    assert "more than one source" in fails("cp", tree / "small", tree / "large", tmp_path / "no folder")
    assert "--reflink=always" in fails("cp", "--reflink=always", "--direct", tree / "small", tmp_path / "copy")
    done = run("cp", tree / "small", tree / "small")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    done = run("cp", "-r", tree, tree / "inner" / "copy")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (tree / "small").read_bytes() == b"a line\n"


def test_a_disk_that_is_full(tree: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        done = run("cp", tree / "large", disk / "copy")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert list(disk.iterdir()) == []


def test_control_c_leaves_a_whole_copy_or_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    (tmp_path / "into").mkdir()
    for delay in (0.0, 0.01, 0.02):
        with terminal("cp", "--reflink=never", "--durable", source, tmp_path / "into", columns=80) as (child, master):
            read_until(master, b"source")  # the bar
            time.sleep(delay)
            child.send_signal(signal.SIGINT)
            child.wait(20)
        left = list((tmp_path / "into").iterdir())
        assert left in ([], [tmp_path / "into" / "source"])
        for copy in left:  # it came too late
            assert copy.stat().st_size == source.stat().st_size
            copy.unlink()


def test_a_progress_bar_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    with terminal("cp", tree / "large", tmp_path / "copy", columns=80) as (child, master):
        assert b"copied 5,247,591 bytes" in read_until(master, b"MB/s)")
        assert child.wait(10) == 0


# --- cat --------------------------------------------------------------------------------------------------------------


def test_files_one_behind_the_other(tree: Path) -> None:
    names = [tree / "small", tree / "large", tree / "empty", tree / "sparse", tree / "small"]
    done = run("cat", *names, text=False)
    assert done.stdout == b"".join(name.read_bytes() for name in names)
    assert (done.returncode, done.stderr) == (0, b"")
    assert run("cat", "--direct", *names, text=False).stdout == done.stdout


def test_standard_input_and_what_has_no_size(tree: Path, tmp_path: Path) -> None:
    assert run("cat", input=b"from a pipe", text=False).stdout == b"from a pipe"
    assert run("cat", tree / "small", "-", input="and a pipe").stdout == "a line\nand a pipe"
    assert run("cat", "/proc/version").stdout == Path("/proc/version").read_text()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(pattern(300_000)))
    writer.start()
    assert run("cat", fifo, text=False).stdout == pattern(300_000)
    writer.join()


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
def test_into_a_file_from_where_it_is(mode: str, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"0123456789")
    with out.open(mode) as file:
        if mode == "r+b":
            file.seek(4)
        assert run("cat", tree / "large", stdout=file, text=False).returncode == 0
        assert subprocess.run(["echo", "-n", "behind"], stdout=file, check=False).returncode == 0
    before = {"wb": b"", "ab": b"0123456789", "r+b": b"0123"}[mode]
    assert out.read_bytes() == before + pattern(LARGE) + b"behind"


def test_standard_input_from_where_it_is(tree: Path) -> None:
    with (tree / "large").open("rb", buffering=0) as file:
        file.seek(1000)
        assert run("cat", "-", stdin=file, text=False).stdout == pattern(LARGE)[1000:]
        assert file.tell() == LARGE
        file.seek(1000)
        wanted = hashlib.sha256(pattern(LARGE)[1000:]).hexdigest()
        assert run("sum", "-", stdin=file).stdout == f"{wanted}  -\n"
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"from a socket")
        here.shutdown(socket.SHUT_WR)
        assert run("cat", stdin=there).stdout == "from a socket"


def test_what_would_have_no_end(tree: Path) -> None:
    with (tree / "small").open("ab") as file:
        done = run("cat", tree / "small", stdout=file)
    assert done.stderr == f"aioring cat: {tree}/small: it is the output as well, and would have no end\n"
    assert (done.returncode, (tree / "small").read_bytes()) == (1, b"a line\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_what_is_closed_from_the_start(closed: str, tree: Path, tmp_path: Path) -> None:
    line = " ".join(map(shlex.quote, map(str, command("cat", tree / "missing", tree / "small"))))
    where = "" if closed == ">&-" else f"> {tmp_path}/out"
    done = subprocess.run(["sh", "-c", f"{line} {where} {closed}"], env=ENVIRONMENT, capture_output=True, check=False)
    if closed == "<&-":
        line = " ".join(map(shlex.quote, map(str, command("sum", "-"))))
        none = subprocess.run(["sh", "-c", f"{line} <&-"], env=ENVIRONMENT, capture_output=True, check=False)
        assert (none.returncode, none.stderr) == (1, b"aioring sum: -: Bad file descriptor\n")
    if closed == ">&-":
        assert done.stderr == b"aioring: the output cannot be written: Bad file descriptor\n"
        assert done.returncode == 2
    else:
        assert (tmp_path / "out").read_bytes() == b"a line\n"
        assert done.returncode == 1


def test_what_cannot_be_read_is_said_and_the_rest_is_written(tree: Path) -> None:
    done = run("cat", tree / "missing", tree / "small", tree / "inner", tree / "small")
    assert done.stdout == "a line\na line\n"
    assert done.stderr.splitlines() == [
        f"aioring cat: {tree}/missing: No such file or directory",
        f"aioring cat: {tree}/inner: Is a directory",
    ]
    assert done.returncode == 1


def test_output_that_cannot_be_written(tree: Path) -> None:
    with open("/dev/full", "wb") as full:
        said = fails("cat", tree / "large", stdout=full)
    assert said == "aioring: the output cannot be written: No space left on device"
    cat = subprocess.Popen(
        command("cat", tree / "large"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert cat.stdout is not None
    assert cat.stdout.read(5) == pattern(5)
    cat.stdout.close()  # `| head`
    assert cat.stderr is not None
    assert cat.stderr.read() == b""
    assert cat.wait(10) == 0
    cat.stderr.close()


def test_control_c_while_nobody_reads(tree: Path) -> None:
    cat = subprocess.Popen(
        command("cat", tree / "large"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert cat.stdout is not None
    assert cat.stdout.read(1)  # it waits for room by now
    time.sleep(0.3)
    cat.send_signal(signal.SIGINT)
    _, error = cat.communicate(timeout=20)
    assert (cat.returncode, error) == (130, b"aioring: interrupted\n")


# --- sum --------------------------------------------------------------------------------------------------------------


def names_in(tree: Path) -> list[str]:
    return sorted(str(path) for path in tree.rglob("*") if path.is_file())


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b", "sha1"])
def test_as_coreutils_has_it(algorithm: str, tree: Path) -> None:
    names = [str(tree / name) for name in ("large", "small", "empty", "sparse")]
    theirs = {"blake2b": "b2sum"}.get(algorithm, algorithm + "sum")
    expected = subprocess.run([theirs, *names], capture_output=True, text=True, check=True).stdout
    assert run("sum", "-a", algorithm, *names).stdout == expected
    assert run("sum", "-a", algorithm, "--direct", *names).stdout == expected


def test_output_beside_a_bar(tree: Path, tmp_path: Path) -> None:
    """stderr is a terminal, stdout is a file: every byte of it is there."""
    out = tmp_path / "out"
    with terminal("sum", "-r", tree, columns=40, stdout=out) as (child, _):
        assert child.wait(20) == 0
    assert out.read_text() == run("sum", "-r", tree).stdout


def test_what_is_no_file_in_a_tree(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    done = run("sum", "-r", tree)
    assert done.stderr == f"aioring sum: {tree}/fifo: no regular file: passed over\n"
    assert len(done.stdout.splitlines()) == 6


def test_standard_input_twice(tmp_path: Path) -> None:
    whole, nothing = (hashlib.sha256(data).hexdigest() for data in (pattern(LARGE), b""))
    done = run("sum", "-", "-", input=pattern(LARGE), text=False)
    assert done.stdout.decode() == f"{whole}  -\n{nothing}  -\n"
    (tmp_path / "large").write_bytes(pattern(LARGE))
    with (tmp_path / "large").open("rb") as file:
        assert run("sum", "-", "-", stdin=file).stdout == f"{whole}  -\n{nothing}  -\n"


def test_a_broken_stderr_changes_nothing(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    for words in (["cat", tree / "missing", tree / "small"], ["sum", tree / "missing", tree / "small"]):
        for broken in (False, True):
            reads, writes = os.pipe()
            os.close(reads)
            with open("/dev/full", "wb") as full:
                done = subprocess.run(
                    command(*words),
                    stdout=subprocess.PIPE,
                    stderr=writes if broken else full,
                    env=ENVIRONMENT,
                    check=False,
                )
            os.close(writes)
            assert done.returncode == 1
            assert done.stdout in (b"a line\n", run("sum", tree / "small", text=False).stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_while_nobody_reads_the_sums(number: int, tmp_path: Path) -> None:
    for n in range(1500):
        (tmp_path / f"{n:04}{'x' * 100}").write_bytes(b"")
    with subprocess.Popen(command("sum", "-r", tmp_path), **PIPES) as child:
        assert child.stdout is not None
        assert child.stdout.read(1)
        time.sleep(0.5)  # by now the pipe is full
        child.send_signal(number)
        assert child.wait(20) == (130 if number == signal.SIGINT else -number)


def test_standard_input() -> None:
    assert run("sum", "-", input=b"abc", text=False).stdout.split()[0].decode() == hashlib.sha256(b"abc").hexdigest()


def test_a_tree_and_its_check(tree: Path, tmp_path: Path) -> None:
    done = run("sum", "-r", tree)
    assert sorted(line[66:] for line in done.stdout.splitlines()) == names_in(tree)
    lines = tmp_path / "listing"
    lines.write_text(done.stdout)
    assert subprocess.run(["sha256sum", "--quiet", "-c", lines], check=False).returncode == 0
    checked = run("sum", "-c", lines)
    assert checked.returncode == 0
    assert checked.stdout.splitlines() == [f"{line[66:]}: OK" for line in done.stdout.splitlines()]
    assert run("sum", "-q", "-c", lines).stdout == ""
    with (tree / "large").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"another")
    (tree / "small").unlink()
    checked = run("sum", "-q", "-c", lines)
    assert checked.returncode == 1
    assert sorted(checked.stdout.splitlines()) == [f"{tree}/large: FAILED", f"{tree}/small: FAILED to be read"]
    assert len(checked.stderr.splitlines()) == 2


def test_a_listing_that_is_none(tmp_path: Path) -> None:
    lines = tmp_path / "listing"
    for text in ("", "abc  file\n", "\n\n"):
        lines.write_text(text)
        done = run("sum", "-c", lines)
        assert done.stderr == f"aioring sum: {lines}: no line of it is a sha256 hash and a name\n"
        assert done.returncode == 1
    assert run("sum", "-c", tmp_path / "missing").returncode == 1


def test_a_listing_with_lines_that_are_none(tree: Path, tmp_path: Path) -> None:
    lines = tmp_path / "listing"
    good = run("sum", tree / "small").stdout
    lines.write_text(f"# a comment\r\n\n  {good}{'0' * 63}  {tree}/large\n{'0' * 64}  a\0b\n")
    done = run("sum", "-c", lines)
    assert (done.returncode, done.stdout) == (0, f"{tree}/small: OK\n")
    assert done.stderr == f"aioring sum: {lines}: 2 lines are no hash and a name, the first of them line 4\n"


def test_a_file_that_is_listed_twice(tree: Path, tmp_path: Path) -> None:
    lines = tmp_path / "listing"
    lines.write_text(f"{'0' * 64}  {tree}/small\n" + run("sum", tree / "small").stdout)
    done = run("sum", "-c", lines)
    assert done.stdout.splitlines() == [f"{tree}/small: FAILED", f"{tree}/small: OK"]
    assert done.returncode == 1


ODD = [
    b"a\nb",
    b"a\rb",
    b"a\\nb",
    b"a b ",
    b"bad\xff",
    "nel\u0085\u2028".encode(),
    b"ff\x0c",
    b"-x",
    b"(a) = b",
    b" *x",
]


def test_odd_names_there_and_back_again(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    mine = run("sum", "--", *map(os.fsdecode, ODD), cwd=tmp_path, text=False).stdout
    theirs = subprocess.run(["sha256sum", "--", *ODD], cwd=tmp_path, capture_output=True, check=True).stdout
    assert mine == theirs
    for options in ([], ["--tag"]):
        written = subprocess.run(
            ["sha256sum", *options, "--", *ODD], cwd=tmp_path, capture_output=True, check=True
        ).stdout
        done = run("sum", "-c", "-", cwd=tmp_path, input=written, text=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b": OK\n") == len(ODD)


PARTS = st.sampled_from([b"\\", b"0" * 64, b"  ", b"*", b"\n", b"SHA256 (", b") = ", b"\r"])


@given(st.binary(max_size=60) | st.lists(PARTS).map(b"".join))
def test_whatever_a_listing_says(text: bytes) -> None:
    entries, bad = listing.read(text, "sha256")
    assert len(entries) + len(bad) <= text.count(b"\n") + 1
    assert all(len(value) == 64 for _, value in entries)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name and not name.endswith(b"\r")))
def test_a_line_says_what_was_written(name: bytes) -> None:
    assert listing.read(listing.line_of("ab" * 32, name) + b"\n", "sha256") == ([(os.fsdecode(name), "ab" * 32)], [])


def test_many_files_and_some_that_cannot_be_read(tmp_path: Path) -> None:
    names = [tmp_path / f"{n:03}" for n in range(300)]
    for name in names:
        name.write_bytes(name.name.encode())
    names[100].unlink()
    names[200] = tmp_path
    done = run("sum", *names)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    good = [name for name in names if name.is_file()]
    assert done.stdout.splitlines() == [f"{hashlib.sha256(name.name.encode()).hexdigest()}  {name}" for name in good]


def test_names_that_would_move_the_cursor(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[2Jb"
    odd.write_bytes(b"x")
    missing = tmp_path / "c\x1b[2Jd"
    with terminal("sum", odd, missing, columns=200) as (child, master):
        seen = read_until(master, b"No such file")
        assert b"\x1b[2J" not in seen
        assert child.wait(10) == 1
    assert str(odd) in run("sum", odd, env=dict(ENVIRONMENT)).stdout  # into a pipe: the name as it is
    assert rb"\x1b[2J" in run("cat", missing, text=False).stderr


@pytest.mark.parametrize("name", ["cp", "cat", "sum", "top", "bench"])
def test_each_has_help_with_an_example(name: str) -> None:
    done: Any = run(name, "--help")
    assert f"examples:\n  aioring {name}" in done.stdout
    assert done.returncode == 0
