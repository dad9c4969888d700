"""The rows of `streams.py` that write: the log beside threads and fio, write streams beside dd, copies beside cp.

    python benchmarks/streams.py --page writing [--rounds 5] [--write]      # docs/benchmarks/writing.md

`dd` reads /dev/zero, and a write stream is given the same megabyte of zeros again and again.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import aioring
from aioring.handle import STAGED, SUBMITTED, Handle
from aioring.methods.sync import Sync
from aioring.streams.commits import O_DSYNC, Commits
from aioring.streams.log_file import LogFile
from aioring.streams.records import HEADER, RECORD

TASKS, RECORDS, SECONDS = 64, b"r" * 256, 3.0
BATCH = TASKS * (RECORD + len(RECORDS))  # bytes
ZEROS = bytes(1 << 20)

# --- the log: appends a second ----------------------------------------------------------------------------------------


async def log(path: str) -> float:
    """64 tasks, each appending one record after the other."""
    done, until = 0, time.perf_counter() + SECONDS

    async def one(log: aioring.Log) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await log.append(RECORDS)
            done += 1

    async with aioring.Log(path) as opened:
        await asyncio.gather(*(one(opened) for _ in range(TASKS)))
    return done / SECONDS


async def with_threads(path: str) -> float:
    """64 threads, each with a write and an fdatasync of its own."""
    until, counts = time.perf_counter() + SECONDS, [0] * TASKS
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def one(number: int) -> None:
        while time.perf_counter() < until:
            os.write(fd, RECORDS)
            os.fdatasync(fd)
            counts[number] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(TASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    return sum(counts) / SECONDS


async def fio_batches(path: str) -> float:
    """f: writes of a batch's size, each with an fdatasync, one at a time, into space that is there."""
    command = ["fio", "--name=x", f"--filename={path}", "--rw=write", f"--bs={BATCH}", f"--size={BATCH * 3000}"]
    command += ["--ioengine=psync", "--fdatasync=1", "--overwrite=1", "--time_based", f"--runtime={SECONDS}"]
    found = subprocess.run([*command, "--output-format=json"], capture_output=True, text=True, check=True).stdout
    return float(json.loads(found[found.index("{") :])["jobs"][0]["write"]["iops"])


class Nothing(Sync):
    """A method that does nothing, at once."""

    def submit(self, staged: deque[Handle]) -> None:
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                self._token += 1
                handle.token = self._token
                self._live[handle.token] = handle
                handle.state = SUBMITTED
                self._completed.append((handle.token, handle.length))
            staged.popleft()


async def no_io(path: str) -> float:
    """1/c: appends a second of the same tasks where writing takes no time at all."""
    done, until = 0, time.perf_counter() + SECONDS
    fd = os.open(path, os.O_RDWR | os.O_CREAT | O_DSYNC, 0o600)
    async with aioring.Ring(method=Nothing()) as ring:  # type: ignore[arg-type]
        opened = aioring.Log(path, preallocate=0, ring=ring)
        opened._ring, opened._file, opened._state = ring, LogFile(fd, path, path, 1, HEADER, False), "open"
        opened._commits = Commits(ring._engine, opened._file, 0)

        async def one() -> None:
            nonlocal done
            while time.perf_counter() < until:
                await opened.append(RECORDS)
                done += 1

        await asyncio.gather(*(one() for _ in range(TASKS)))
        opened._file, file = None, opened._file
        os.close(file.let_go())
    return done / SECONDS


def model(rates: dict[str, list[float]]) -> list[float]:
    """What can be had: b appends take one write with its sync, and b times what an append costs. By rounds."""
    return [TASKS / (1 / f + TASKS / per_second) for f, per_second in zip(rates[FIO], rates[NO_IO], strict=True)]


# --- write streams: MB/s ----------------------------------------------------------------------------------------------


async def stream(path: str, size: int, **options: Any) -> float:
    start = time.perf_counter()
    async with aioring.write_stream(path, **options) as out:
        for _ in range(size >> 20):
            await out.write(ZEROS)
    return size / (time.perf_counter() - start) / 1e6


async def dd(path: str, size: int, *options: str) -> float:
    start = time.perf_counter()
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size >> 20}", *options]
    subprocess.run(command, capture_output=True, check=True)
    return size / (time.perf_counter() - start) / 1e6


# --- copies: MB/s, and how late the loop was --------------------------------------------------------------------------


async def beside_a_ticker(coroutine: Any, size: int) -> float:
    late: list[float] = []
    over = False

    async def tick() -> None:
        while not over:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - begun - 0.001)

    ticking = asyncio.ensure_future(tick())
    start = time.perf_counter()
    await coroutine
    took = time.perf_counter() - start
    over = True
    await ticking
    late.sort()
    print(f"lag {late[int(len(late) * 0.99)] * 1e3}")
    return size / took / 1e6


async def copied(path: str, **options: Any) -> float:
    return await beside_a_ticker(aioring.copy_file(path, path + ".copy", **options), os.path.getsize(path))


async def cp(path: str, *options: str) -> float:
    async def run() -> None:
        process = await asyncio.create_subprocess_exec("cp", *options, path, path + ".copy")
        await process.wait()

    return await beside_a_ticker(run(), os.path.getsize(path))


LOG, NO_IO, FIO = "aioring.Log", "no I/O at all (1/c)", "fio, write + fdatasync, depth 1 (f, batches)"
APPENDS, STREAM, COPY = "log: appends of 256 bytes, 64 tasks", "write streams", "copying 1 GiB, no reflink"
GIB = 1 << 30
ROWS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    APPENDS: (
        {LOG: log, "threads, write + fdatasync each": with_threads, FIO: fio_batches, NO_IO: no_io},
        {f"{LOG} / threads, write + fdatasync each": 10, f"{LOG} / 1 / (1/f + b c)": 0.9},
    ),
    STREAM: (
        {
            "write_stream, durable": lambda path: stream(path, 2 * GIB, durable=True),
            "dd conv=fsync": lambda path: dd(path, 2 * GIB, "conv=fsync"),
            "write_stream, direct, durable": lambda path: stream(path, 2 * GIB, direct=True, durable=True),
            "dd oflag=direct conv=fsync": lambda path: dd(path, 2 * GIB, "oflag=direct", "conv=fsync"),
            "write_stream, direct": lambda path: stream(path, 2 * GIB, direct=True),
            "dd oflag=direct": lambda path: dd(path, 2 * GIB, "oflag=direct"),
        },
        {
            "write_stream, durable / dd conv=fsync": 0.9,
            "write_stream, direct, durable / dd oflag=direct conv=fsync": 0.9,
            "write_stream, direct / dd oflag=direct": 0.9,
        },
    ),
    COPY: (
        {
            "copy_file": copied,
            "cp": cp,
            "copy_file, reflink='never'": lambda path: copied(path, reflink="never"),
            "cp --reflink=never": lambda path: cp(path, "--reflink=never"),
        },
        {"copy_file / cp": 1.0, "copy_file, reflink='never' / cp --reflink=never": 1.0},
    ),
}


def prepare(row: str, path: str) -> None:
    """Before each turn: what the last one wrote is gone, and no longer on its way to the disk."""
    for left in (path + ".copy", *([] if row == COPY else [path])):
        Path(left).unlink(missing_ok=True)
    os.sync()
