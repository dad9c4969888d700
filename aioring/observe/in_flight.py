"""What is in flight, after PostgreSQL 18's `pg_aios`: one record for each I/O that was asked for and is not over.

A snapshot takes no lock and stops nobody: any thread may ask for one, and so may a signal handler that struck the loop's
own thread in the middle of a tick. So it copies lines that others change meanwhile, and what a handle says may be of two
moments: as in `pg_aios`, a handle whose generation or state changed while it was read is read again.

Nothing is kept for it at the time of the I/O but the moment at which it was asked for. Names of tasks and files are looked
up here: the task through the future that it waits on, the path in /proc/self/fd.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from ..handle import COMPLETE, STATES, Handle
from ..kernel.abi import SQE_ASYNC, SQE_LINK
from ..operations import CLOSE, is_direct

__all__ = ["InFlight", "context_of", "copied", "of_handle", "of_wait", "record", "target_of", "task_of"]

T = TypeVar("T")
_numbers = itertools.count(1)
_WRAPPERS = 4  # at most, one inside the other


@dataclass(frozen=True, slots=True)
class InFlight:
    """One I/O, at the moment of the snapshot."""

    ring: str  # "io_uring-1": the method, and the number of the ring in this process
    id: int  # of the I/O, for its whole life; given at the first snapshot that shows it
    generation: int  # how often it was submitted again: a short transfer, EINTR, EAGAIN
    state: str  # "defined" (waits for a slot or a close), "staged", "submitted", "complete", or "waiting" (for a peer)
    operation: str
    target: str  # the path where one is known, else what /proc says of the fd
    fd: int | None  # None where a path was given
    offset: int | None  # bytes; None where there is none
    length: int | None  # bytes asked for; None where none are moved
    done: int  # bytes moved so far
    flags: tuple[str, ...]  # "direct" or "buffered"; "async" (IOSQE_ASYNC), "linked" (IOSQE_IO_LINK), "cancelling"
    method: str | None  # who was told: "io_uring", "worker" ...; None: nobody yet
    age: int  # microseconds since it was asked for
    task: str | None  # the name of the task that awaits it, if one does
    coroutine: str | None  # and of the coroutine that the task runs
    result: int | None  # as the CQE says it: what is complete, and not yet told

    def __str__(self) -> str:
        what = f"{self.operation} of {self.target}"
        if self.length is not None:
            what = f"{self.operation} of {self.length} bytes at {self.offset} of {self.target}"
        who = f", task {self.task} ({self.coroutine})" if self.task else ""
        return f"{self.ring} #{self.id}: {what}: {self.state} for {self.age / 1000:.1f} ms{who}"


def copied(things: Callable[[], Iterable[T]]) -> list[T]:
    """A copy of a line that its thread goes on changing."""
    for _ in range(1000):
        try:
            return list(things())
        except RuntimeError:  # changed while it was copied
            continue
    return []


def number_of(thing: Any) -> int:
    number: int = thing.seen
    if not number:
        number = thing.seen = next(_numbers)
    return number


def of_handle(handle: Handle, ring: str, results: dict[int, int], now: float) -> InFlight | None:
    """The record of a handle; None if it is over. `results`: by token, what is complete and not yet told."""
    found: InFlight | None = None
    for _ in range(10):
        generation, state, token = handle.again, handle.state, handle.token
        if state == COMPLETE:
            return None
        found = record(handle, ring, results.get(token), now)
        if (handle.again, handle.state, handle.token) == (generation, state, token):
            break
    return found


def record(handle: Handle, ring: str, result: int | None, now: float) -> InFlight:
    operation, state = handle.operation, handle.state
    task, coroutine = task_of(_waiter_of(handle))
    by_path = handle.name is not None
    places = operation.transfers or bool(handle.length)
    return InFlight(
        ring=ring,
        id=number_of(handle),
        generation=handle.again,
        state=STATES[COMPLETE] if result is not None else STATES[state],
        operation=operation.name,
        target=os.fsdecode(handle.name) if by_path else _target(handle, state),
        fd=None if by_path or handle.fd < 0 else handle.fd,
        offset=handle.offset if places else None,
        length=handle.length if places else None,
        done=handle.done,
        flags=_flags(handle, by_path),
        method=handle.served_by or None,
        age=_age(handle.since, now),
        task=task,
        coroutine=coroutine,
        result=result,
    )


def _target(handle: Handle, state: int) -> str:
    if handle.operation is CLOSE and state == COMPLETE:
        return f"fd {handle.fd}"  # by now the number may be another file's
    return target_of(handle.fd)


def _flags(handle: Handle, by_path: bool) -> tuple[str, ...]:
    flags = []
    if handle.operation.transfers and not by_path:
        flags.append("direct" if is_direct(handle.fd) else "buffered")
    if handle.sqe_flags & SQE_ASYNC:
        flags.append("async")
    if handle.sqe_flags & SQE_LINK or handle.chain is not None:
        flags.append("linked")
    if handle.cancelling:
        flags.append("cancelling")
    return tuple(flags)


def of_wait(wait: Any, ring: str, operation: str, fd: int, now: float) -> InFlight:
    """The record of a task that waits for a pipe's peer (`readiness.py`): nobody was told, it holds no slot."""
    task, coroutine = task_of(wait.waiter)
    return InFlight(
        ring=ring,
        id=number_of(wait),
        generation=0,
        state="waiting",
        operation=operation,
        target=target_of(fd),
        fd=fd,
        offset=-1,
        length=wait.length,
        done=0,
        flags=(),
        method=None,
        age=_age(wait.since, now),
        task=task,
        coroutine=coroutine,
        result=None,
    )


def _age(since: float, now: float) -> int:
    return max(int((now - since) * 1e6), 0) if since else 0


def target_of(fd: int) -> str:
    """The path of an fd, or what /proc says of it ("pipe:[4711]"), or its number."""
    if fd < 0:
        return "-"
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"fd {fd}"


def _waiter_of(handle: Handle) -> Any:
    return handle.waiter if handle.chain is None else handle.chain.waiter


def task_of(waiter: Any) -> tuple[str | None, str | None]:
    """The names of the task that awaits this, and of its coroutine."""
    task = _task_of(waiter)[0]
    if task is None:
        return None, None
    if isinstance(task, asyncio.Task):
        return task.get_name(), _name_of(task.get_coro())
    return task.name, _name_of(task.coro)


def _name_of(coroutine: Any) -> str | None:
    """Its name; if it is only the wrapper that anyio or trio puts round what it was given, the name of that."""
    name = getattr(coroutine, "__qualname__", None)
    for _ in range(_WRAPPERS):
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None or frame.f_globals.get("__name__", "").partition(".")[0] not in ("anyio", "trio"):
            break
        coroutine = coroutine.cr_await
        name = getattr(coroutine, "__qualname__", name)
    return name


def context_of(handle: Handle) -> Context | None:
    """The context of the task that awaits the handle."""
    return _task_of(_waiter_of(handle))[1]


def _task_of(waiter: Any) -> tuple[Any, Context | None]:
    task = getattr(waiter, "task", None)
    if task is not None:  # trio
        return task, task.context
    for callback, context in getattr(waiter, "_callbacks", None) or ():
        # A task's callback on the future it awaits is its own wakeup, bound to it, in C and in Python.
        found = getattr(callback, "__self__", None)
        if isinstance(found, asyncio.Task):
            return found, context
    return None, None
