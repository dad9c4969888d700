"""What the rows of a benchmark share: driving tasks, timing, the lag of the loop, the table, and the settings."""

from __future__ import annotations

import asyncio
import ctypes
import json
import shutil
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

Read = Callable[[int], Awaitable[Any]]


async def drive(reads: list[Read], offsets: Sequence[int], seconds: float) -> int:
    """One task for each of `reads`; together they read at `offsets`, round and round, for so long. How many they read.

    By the clock and not by number: a few thousand reads of a fast one are over before the loop, or a thread beside it, has
    had its turn once, and its rate is then that of nobody's application.
    """
    end = time.perf_counter() + seconds

    def turns() -> Iterator[int]:
        while True:
            for start in range(0, len(offsets), 16):  # the clock costs 50 ns: not one look for each read
                yield from offsets[start : start + 16]
                if time.perf_counter() >= end:
                    return

    todo = turns()
    done = 0

    async def one(read: Read) -> None:
        nonlocal done
        n = 0
        for offset in todo:
            await read(offset)
            n += 1
        done += n

    await asyncio.gather(*[one(read) for read in reads])
    return done


class Lag:
    """How late a task comes that wants to run every millisecond: `worst` and the 99th percentile, in seconds."""

    async def __aenter__(self) -> Lag:
        self.late: list[float] = []
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0.005)
        self.late.clear()
        return self

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.late.append(time.perf_counter() - due)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.002)  # what it waited for while the work held it up
        self._task.cancel()

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.late, n=100)[-1] if len(self.late) > 1 else max(self.late, default=0.0)

    @property
    def worst(self) -> float:
        return max(self.late, default=0.0)


class Table:
    """Rates and CPU times by row and column; medians when printed. As Markdown."""

    def __init__(self) -> None:
        self._cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self._notes: list[str] = []
        self._lines: list[str] = []
        self.base: dict[str, str] = {}  # column: the row that its ratios are to

    def add(self, row: str, column: str, rate: float, cpu: float) -> None:
        self._cells.setdefault(row, {}).setdefault(column, []).append((rate, cpu))

    def note(self, text: str) -> None:
        self._notes.append(text)

    def line(self, text: str) -> None:
        self._lines.append(text)

    async def timed(self, row: str, column: str, work: Awaitable[int]) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        n = await work
        wall = time.perf_counter() - start
        self.add(row, column, n / wall, (time.process_time() - cpu) / n)

    def __str__(self) -> str:
        columns = list(dict.fromkeys(column for cells in self._cells.values() for column in cells))
        out = ["| reads/s (ratio, us of CPU) | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
        for row, cells in self._cells.items():
            line = [row]
            for column in columns:
                found = cells.get(column)
                if not found:
                    line.append("")
                    continue
                rate, cpu = (statistics.median(values) for values in zip(*found, strict=True))
                base = self._cells.get(self.base.get(column, ""), {}).get(column)
                ratio = f"{rate / statistics.median(r for r, _ in base):.2f}, " if base else ""
                line.append(f"{rate:,.0f} ({ratio}{cpu * 1e6:.1f})")
            out.append("| " + " | ".join(line) + " |")
        text = "\n".join(out) if self._cells else ""
        if self._lines:
            text += "\n\n" + "\n".join(f"* {line}" for line in self._lines)
        if self._notes:
            text += "\n\nNot measured: " + "; ".join(self._notes) + "."
        return text + "\n"


def be_busy() -> None:
    """One more thread, which runs Python and nothing else."""

    def spin() -> None:
        x = 0
        while True:
            x += 1

    threading.Thread(target=spin, daemon=True).start()


def refuse_io_uring() -> None:
    """EPERM from io_uring's three system calls from here on: seccomp(2), as Docker's default profile."""
    rows = [(0x20, 0, 0, 0)]  # BPF_LD | BPF_W | BPF_ABS: seccomp_data.nr
    for number in (425, 426, 427):
        rows += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]  # BPF_JEQ; SECCOMP_RET_ERRNO | EPERM
    rows.append((0x06, 0, 0, 0x7FFF0000))  # SECCOMP_RET_ALLOW
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
    head = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(program))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, head, 0, 0):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "seccomp is refused here")


def fio(table: Table, path: str) -> None:
    """The same O_DIRECT reads by fio's io_uring engine: what this disk gives to C."""
    if not shutil.which("fio"):
        table.note("fio (not installed)")
        return
    for depth in (1, 32, 128):
        done = subprocess.run(
            [
                "fio", "--name=direct", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k", "--direct=1",
                "--ioengine=io_uring", f"--iodepth={depth}", "--runtime=2", "--time_based", "--output-format=json",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            table.note(f"fio ({done.stderr.strip().splitlines()[-1:]})")
            return
        job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 / job["read"]["iops"]
        table.add("fio, io_uring", f"direct {depth}", job["read"]["iops"], cpu)
