"""`aioring bench`: what it says of figures, what it refuses, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aioring.cli.bench.measure import CACHED, COLD, DIRECT, Column, Results, columns
from aioring.cli.bench.target import BLOCK, Target
from aioring.cli.bench.verdict import verdict
from aioring.cli.console import Failure
from tests.command import ENVIRONMENT, aioring as run, command, fails, read_until, terminal, wait_until
from tests.harness import small_disk

QUICK = ("--size", "2M", "--seconds", "0.2", "--tasks", "4")
MINE, POOL, SYNC, AIOFILES = "aioring, io_uring", "thread pool", "sync", "aiofiles"


def results(tasks: int = 32, missing: dict[str, str] | None = None, **rates: Any) -> Results:
    """`rates`: by way, a function of a column, or the same for all."""
    names = {"mine": MINE, "pool": POOL, "sync": SYNC, "aiofiles": AIOFILES}
    wanted = [column for column in columns(tasks) if column.pages not in (missing or {})]
    found = {
        (names[name], column): [float(rate(column) if callable(rate) else rate)] * 3
        for name, rate in rates.items()
        for column in wanted
    }
    return Results(found, wanted, missing or {})


def test_gains_by_columns() -> None:
    said = verdict(results(mine=1000, pool=lambda column: 100 if column.busy else 500, sync=1000), "io_uring", None)
    assert said[0].startswith("Beside threads aioring reads 2.0 times as much: 2.0 cached, 1 task;")
    assert said[1].startswith(
        "With a thread that runs Python beside it aioring reads 10 times as much: 10 cached, 1 task"
    )


def test_nothing_is_gained_where_the_disk_is_the_limit() -> None:
    said = verdict(results(mine=1000, pool=990, sync=995), "io_uring", None)
    why = "this disk is the limit, whoever asks it"
    assert said[0] == f"Your workload gains nothing, because {why}: 1.0 times as much as with threads."
    assert any("this disk does not do more when it is asked for more" in sentence for sentence in said)
    alone = verdict(results(tasks=1, mine=1000, pool=990, sync=995), "io_uring", None)
    assert not any("asked for more" in sentence for sentence in alone)  # one task cannot show that


def test_what_the_figures_contradict_is_not_said() -> None:
    """A disk that gives the pool five times as much as one reader is not at its limit; one that we are slow on is not."""
    for mine, pool in ((1000, 5000), (300, 1000), (3, 1000)):
        said = " ".join(verdict(results(mine=mine, pool=pool, sync=1000), "io_uring", None))
        assert "asked for more" not in said
        assert "the limit" not in said
    memory = verdict(results(mine=1000, pool=1000, sync=1000), "io_uring", None, "tmpfs")
    assert "because threads are as quick here, or quicker" in memory[0]


def test_where_threads_are_quicker_it_says_so() -> None:
    said = verdict(results(mine=50, pool=100), "io_uring", None)
    assert said[0] == "Your workload gains nothing, because threads are faster here: 0.5 times as much as with threads."
    mixed = results(mine=lambda column: 50 if column.pages == CACHED else 110, pool=100)
    assert "because threads are as quick here, or quicker: 0.5 to 1.1 times" in verdict(mixed, "io_uring", None)[0]


def test_nothing_is_gained_where_all_is_cached() -> None:
    said = verdict(results(mine=1000, pool=100, sync=2000), "io_uring", None)
    assert any(
        "Plain blocking reads are 2.0 times as fast where the page cache has everything: 2.0" in one for one in said
    )
    assert any("your workload gains nothing, because there is nothing to wait for" in sentence for sentence in said)


def test_where_it_loses_it_says_so() -> None:
    said = verdict(
        results(mine=lambda column: 10 if column.pages == COLD else 1000, pool=100, sync=100), "io_uring", None
    )
    assert any(sentence.startswith("It loses to a thread pool in: 0.1 cold, 32 tasks; 0.1 cold") for sentence in said)


def test_what_could_not_be_measured_and_why_it_is_not_io_uring() -> None:
    said = verdict(
        results(missing={COLD: "it is memory", DIRECT: "refused"}, mine=2, pool=1), "io_uring", "EPERM: a filter"
    )
    assert "aioring uses io_uring here, not io_uring: EPERM: a filter. `aioring doctor` says what to change." in said
    assert "Nothing can be said of reads from the disk: it is memory." in said
    assert "Nothing can be said of reads past the page cache: refused." in said
    said = verdict(Results({}, [], {}), "sync", None)
    assert said[0].startswith("Nothing can be said of sync, which is what AIORING_METHOD")


def test_memory_is_no_disk() -> None:
    said = verdict(results(missing={COLD: "it is memory"}, mine=10, pool=1, sync=20), "io_uring", None, "tmpfs")
    assert "This is memory (tmpfs): there is no disk to wait for. Measure a folder that is on one." in said
    assert not any("asked for more" in sentence for sentence in said)


def test_the_columns() -> None:
    assert [column.title for column in columns(1)] == [
        "cached, 1 task", "cached, 1 task, busy", "cold, 1 task", "cold, 1 task, busy", "direct, 1 task",
        "direct, 1 task, busy",
    ]  # fmt: skip
    assert Column(CACHED, True, 8) in columns(8)


# --- for real ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_all_of_it(folder: Path) -> None:
    done = run("bench", folder, *QUICK, "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(folder.iterdir()) == []
    ways = {rate["way"] for rate in told["rates"]}
    assert {"sync", "thread pool", "aiofiles", "aioring, worker"} <= ways
    for rate in told["rates"]:
        assert rate["reads_per_second"] > 0, rate
        assert len(rate["rounds"]) == 3
        assert not (rate["way"] == "aiofiles" and rate["pages"] == "direct")
    assert {(rate["busy"], rate["tasks"]) for rate in told["rates"] if rate["pages"] == "cached"} == {
        (busy, tasks) for busy in (False, True) for tasks in (1, 4)
    }
    assert told["verdict"]
    assert set(told["missing"]) <= {"cold", "direct", "aioring, io_uring", "aioring, linux_aio"}


def test_a_file_that_is_there_is_only_read(folder: Path) -> None:
    file = folder / "data"
    file.write_bytes(os.urandom(3 << 20))
    before = file.read_bytes(), file.stat().st_mtime_ns
    done = run("bench", file, *QUICK)
    assert done.returncode == 0
    assert "2 MiB, was there; the first of 3 MiB" in done.stdout
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert "\x1b" not in done.stdout + done.stderr


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.outside.append(value)


def test_the_page_needs_nothing_else(folder: Path) -> None:
    name = folder / "a <b> & c"
    name.write_bytes(os.urandom(2 << 20))
    out = folder / "report.html"
    assert run("bench", name, *QUICK, "--html", out, timeout=60).returncode == 0
    text = out.read_text()
    page = Page()
    page.feed(text)
    assert page.outside == []
    assert page.tags.count("svg") == 2
    assert page.tags.count("table") == 2
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)", text)
    assert "a &lt;b&gt; &amp; c" in text


def test_what_cannot_be_measured_is_refused_in_a_line(folder: Path) -> None:
    missing = folder / "missing"
    assert fails("bench", missing) == f"aioring bench: {missing}: No such file or directory"
    small = folder / "small"
    small.write_bytes(b"x" * BLOCK)
    assert "at least 1 MiB" in fails("bench", small)
    assert "at least 1 MiB" in fails("bench", "/dev/null")
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    assert "regular file" in fails("bench", fifo)
    assert fails("bench", folder, "--html", folder / "no" / "x.html").endswith("x.html: there is no such folder")
    assert "not written over what is read" in fails("bench", small, "--html", small)
    assert "not written there" in fails("bench", folder, "--html", "/dev/full")
    (folder / "a folder").mkdir()
    assert "not written over this" in fails("bench", folder, "--html", folder / "a folder")
    (folder / "a folder").rmdir()
    assert sorted(path.name for path in folder.iterdir()) == ["fifo", "small"]


@pytest.mark.timeout(60)
def test_a_file_that_changes_meanwhile(folder: Path) -> None:
    """It is opened once: what its name comes to mean is none of it, be it a FIFO that nobody writes into."""
    file, fifo = folder / "file", folder / "fifo"
    file.write_bytes(bytes(2 << 20))
    os.mkfifo(fifo)
    with measuring(file) as child:
        fifo.rename(file)
        out, said = child.communicate(timeout=50)
    assert (child.returncode, said) == (0, "")
    assert "reads" in out


def test_a_file_that_becomes_shorter_meanwhile(folder: Path) -> None:
    file = folder / "file"
    file.write_bytes(bytes(2 << 20))
    with Target(str(file), 2 << 20) as target:
        target.check()
        os.truncate(file, (2 << 20) - 1)
        with pytest.raises(Failure, match="file: it became shorter while it was read"):
            target.check()
    file.write_bytes(bytes(2 << 20))
    with measuring(file) as child:
        time.sleep(0.1)
        os.truncate(file, 4096)
        out, said = child.communicate(timeout=50)
    assert (child.returncode, out) == (2, "")
    assert "shorter" in said
    assert len(said.splitlines()) == 1


@contextmanager
def measuring(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs it in the background, as far as to have the file open."""
    ends: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with subprocess.Popen(command("bench", file, "--size", "2M", "--seconds", "3", "--tasks", "4"), **ends) as child:
        wait_until(lambda: open_in_process(child.pid, file))
        yield child


def open_in_process(pid: int, path: Path) -> bool:
    links = Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        return any(os.path.samefile(link, path) for link in links.iterdir())
    return False


def test_no_space_and_a_folder_that_is_read_only(folder: Path) -> None:
    with small_disk(folder / "small", "3m") as disk:
        assert "no space for a file of 256 MiB: say a smaller --size" in fails("bench", disk)
        assert list(disk.iterdir()) == []
        out = disk / "x.html"
        out.write_bytes(b"an older one")
        assert "no space" in fails("bench", disk, "--html", out)
        assert out.read_bytes() == b"an older one"
    with small_disk(folder / "fixed", "3m", "ro") as disk:
        assert "Read-only file system" in fails("bench", disk, "--size", "1M")


def test_a_file_that_is_not_for_us(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("aioring.cli.bench.target.os.open", refuse)
    (folder / "x").write_bytes(b"")
    with pytest.raises(Failure, match="x: Permission denied"):
        Target(str(folder / "x"), 1 << 20)


@pytest.mark.parametrize(
    "words",
    [["--size", "0"], ["--size", "4K"], ["--size", "x"], ["--tasks", "0"], ["--tasks", "257"], ["--seconds", "nan"]],
)
def test_words_that_make_no_sense(words: tuple[str, str]) -> None:
    done = run("bench", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: aioring bench")


def test_control_c_leaves_nothing(folder: Path) -> None:
    out = folder / "report.html"
    with terminal("bench", folder, "--size", "8M", "--html", out, columns=20) as (child, master):
        read_until(master, "━".encode())
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        read_until(master, b"interrupted")
        assert child.wait(20) == 130
    assert list(folder.iterdir()) == []


def test_a_reader_that_leaves(folder: Path) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    child = subprocess.Popen(command("bench", folder, *QUICK), **pipes)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == b""
    assert child.wait(30) == 0
    child.stderr.close()
