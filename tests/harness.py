"""What the tests of cancelling, closing and waiting share: a method that holds its completions back, and one call that
runs in a task group."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioring.testing import Scripted

__all__ = [
    "SOON", "Held", "Outcome", "all_over", "begin", "cancelled_again_and_again", "logged", "open_in", "small_disk", "ticks",
]  # fmt: skip

SOON = 3.0  # seconds: what takes longer hangs


class Held(Scripted):
    """Scripted, but nothing completes while it is held: what was submitted stays in flight.

    It lets go by itself after a while: a test that fails must end.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.held = True
        self._limit = threading.Timer(SOON + 1, self.let_go)
        self._limit.daemon = True

    def submit(self, staged: Any) -> None:
        if staged and self.held and self._limit.ident is None:
            self._limit.start()
        super().submit(staged)

    def poll(self) -> None:
        if not self.held:
            super().poll()

    def close(self) -> None:
        self._limit.cancel()
        super().close()

    def let_go(self) -> None:
        self._limit.cancel()
        self.held = False
        self._doorbell.ring()


@contextlib.contextmanager
def small_disk(where: Path, size: str, *options: str) -> Iterator[Path]:
    """A file system of this size (mount -t tmpfs)."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(where)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@contextlib.contextmanager
def logged(name: str) -> Iterator[list[Any]]:
    """What is logged under this name, as it is logged."""
    records: list[Any] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Keep(), logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


class Outcome:
    """What became of one call that runs in a task group."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()

    @property
    def done(self) -> bool:
        return self.over.is_set()

    @property
    def errno(self) -> int | None:
        assert self.done, "not even over"
        return getattr(self.error, "errno", None)

    async def run(self, func: Callable[..., Any], *args: Any) -> None:
        try:
            with self.scope:
                self.value = await func(*args)
        except Exception as error:
            self.error = error
        finally:
            self.over.set()


def begin(group: Any, func: Callable[..., Any], *args: Any) -> Outcome:
    outcome = Outcome()
    group.start_soon(outcome.run, func, *args)
    return outcome


async def ticks(n: int) -> None:
    for _ in range(n):
        await checkpoint()


async def cancelled_again_and_again(func: Callable[..., Any], times: int, longest: int) -> None:
    """Call `func` so many times, each cancelled after another number of ticks below `longest`."""
    for after in range(times):
        async with anyio.create_task_group() as group:
            outcome = begin(group, func)
            await ticks(after % longest)
            outcome.scope.cancel()


async def all_over(*outcomes: Outcome) -> None:
    with anyio.fail_after(SOON):
        for outcome in outcomes:
            await outcome.over.wait()


def open_in(folder: Path) -> list[str]:
    """The files in it, and itself, as often as there is an fd of each."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith(str(folder))]
