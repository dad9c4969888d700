"""Cancel, close and completion in every order that can be forced: nothing hangs, leaks, or is told twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

import aioring
from aioring import operations as op
from aioring.engine import Engine, closing
from aioring.engine.chains import Chain
from aioring.handle import COMPLETE, STAGED, SUBMITTED, Handle
from aioring.methods.io_uring import IoUring
from aioring.operations import carry_out
from aioring.ring import define
from tests.conftest import close_quietly

pytestmark = pytest.mark.timeout(10)

SOON = 1.0  # seconds: what has not happened by then never will


class Held:
    """A method that completes nothing until it is told to: `let_go` carries out, `answer` makes the result up."""

    name = "held"
    links = False
    by_opcode = False
    at_once = False
    pieces = False

    def __init__(self) -> None:
        self.held: dict[int, Handle] = {}
        self.asked_to_cancel: list[Handle] = []
        self._token = 0

    def start(
        self, doorbell: Any, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._doorbell, self._live, self._completed = doorbell, live, completed
        return depth

    def takes(self, handle: Handle) -> bool:
        return handle.operation is not op.RUN

    def submit(self, staged: deque[Handle]) -> None:
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                self._token += 1
                handle.token = self._token
                self._live[self._token] = self.held[self._token] = handle
                handle.state = SUBMITTED
            staged.popleft()

    def answer(self, token: int, res: int) -> None:
        del self.held[token]
        self._completed.append((token, res))
        self._doorbell.ring()

    def let_go(self, *names: str) -> int:
        """Carry out what is held, of these operations or of all. How many there were."""
        tokens = [t for t, handle in self.held.items() if not names or handle.operation.name in names]
        for token in tokens:
            self.answer(token, carry_out(self.held[token]))
        return len(tokens)

    def reap(self) -> None: ...

    def poll(self) -> None: ...

    def cancel(self, handle: Handle) -> None:
        self.asked_to_cancel.append(handle)

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def engine_of(ring: aioring.Ring) -> Engine:
    assert ring._started is not None
    return ring._started


async def ticks(n: int) -> None:
    for _ in range(n):
        await anyio.lowlevel.checkpoint()


async def until(true: Callable[[], Any]) -> None:
    with anyio.fail_after(SOON):
        while not true():
            await anyio.sleep(0.001)


class Outcome:
    """What a task came to."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()


def begin(group: Any, call: Callable[..., Any], *args: Any) -> Outcome:
    outcome = Outcome()

    async def body() -> None:
        try:
            with outcome.scope:
                outcome.value = await call(*args)
        except Exception as error:
            outcome.error = error
        finally:
            outcome.over.set()

    group.start_soon(body)
    return outcome


async def ends(outcome: Outcome, what: str) -> None:
    with anyio.move_on_after(SOON) as limit:
        await outcome.over.wait()
    assert not limit.cancelled_caught, f"{what} hangs"


async def awaited(pending: Any) -> Any:
    return await pending


def in_a_child(source: str, *arguments: object) -> str:
    """What a program prints, that might take its whole run down or hang."""
    with subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(aioring.__file__).parent.parent,
    ) as program:
        try:
            return program.communicate(timeout=6)[0]
        except subprocess.TimeoutExpired:
            program.kill()
            return "hangs: " + program.communicate()[0][-2000:]


def lets_go_of(engine: Engine) -> None:
    """After a test that proved a hang: let the ring be closed all the same."""
    for handle in list(engine.live.values()):
        engine.completed.append((handle.token, -errno.ECANCELED))
    engine.doorbell.ring()


# --- cancel before the method was told --------------------------------------------------------------------------------


async def test_cancelling_a_started_read_that_waits_for_a_slot_wakes_who_awaits_it(anyio_backend: Any, fd: int) -> None:
    method = Held()
    async with aioring.Ring(method=method, depth=1) as ring, anyio.create_task_group() as group:
        first = ring.start_read(fd, 0, 4)
        second = ring.start_read(fd, 4, 4)  # the one slot is taken: DEFINED
        waits = begin(group, awaited, second)
        await ticks(5)
        second.cancel()
        try:
            await ends(waits, "a task that awaits what another one cancelled")
            assert isinstance(waits.error, OSError)
            assert waits.error.errno == errno.ECANCELED
        finally:
            method.let_go()
            await first
            group.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_cancelling_a_chain_that_waits_for_a_slot_ends_it_alone(anyio_backend: Any, fd: int) -> None:
    method = Held()
    async with aioring.Ring(method=method, depth=1) as ring, anyio.create_task_group() as group:
        first = ring.start_read(fd, 0, 4)

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.write(fd, 0, b"never")

        waits = begin(group, chained)
        await ticks(5)
        waits.scope.cancel()
        await ends(waits, "a cancelled chain")
        assert waits.scope.cancelled_caught
        method.let_go()
        assert len(await first) == 4
        await ticks(5)
        assert not method.held


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_cancelling_a_chain_that_waits_to_close_lifts_its_fence(anyio_backend: Any, fd: int) -> None:
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        first = ring.start_read(fd, 0, 4)

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.close(fd)

        waits = begin(group, chained)
        await ticks(5)
        after = begin(group, ring.read, fd, 8, 4)
        await ticks(5)
        waits.scope.cancel()
        await ends(waits, "a cancelled chain")
        await ticks(5)
        method.let_go()
        await first
        await ends(after, "a read behind a close that was cancelled")
        assert after.value == os.pread(fd, 4, 8)


CHAIN_ON_TRIO = """
import os, sys, trio
import aioring
from tests.test_races import Held, ticks

async def main(waits_for):
    fd = os.open(sys.argv[1], os.O_RDWR)
    method = Held()
    async with aioring.Ring(method=method, depth=1 if waits_for == "slot" else 8) as ring:
        first = ring.start_read(fd, 0, 4)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def chained():
                    async with ring.chain() as chain:
                        (chain.close if waits_for == "close" else chain.fsync)(fd)

                nursery.start_soon(chained)
                await ticks(5)
                scope.cancel()
        assert scope.cancelled_caught
        await ticks(5)
        method.let_go()
        assert len(await first) == 4
        assert not method.held
    os.close(fd)
    print("fine")

trio.run(main, sys.argv[2])
"""


@pytest.mark.parametrize("waits_for", ["slot", "close"])
def test_cancelling_a_chain_that_waits_wakes_its_trio_task_once(waits_for: str, path: Path) -> None:
    """Rescheduled by `wake` and once more by the abort, a task takes the whole run down: so in a child."""
    assert in_a_child(CHAIN_ON_TRIO, path, waits_for) == "fine\n"


# --- a ring that gives up ---------------------------------------------------------------------------------------------


async def giving_up(ring: aioring.Ring) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        await ring.aclose(timeout=0.02)


async def test_giving_up_ends_a_chain_whose_later_links_were_not_begun(anyio_backend: Any, fd: int) -> None:
    ring = aioring.Ring(method=Held())
    await ring.start()
    async with anyio.create_task_group() as group:

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.fsync(fd)
                chain.write(fd, 0, b"never")

        waits = begin(group, chained)
        await ticks(5)
        await giving_up(ring)
        try:
            await ends(waits, "a chain of a ring that gave up")
            assert isinstance(waits.error, aioring.RingClosedError)
        finally:
            group.cancel_scope.cancel()


async def test_giving_up_ends_a_close_that_waits_for_what_is_stuck(anyio_backend: Any, fd: int) -> None:
    ring = aioring.Ring(method=Held())
    await ring.start()
    async with anyio.create_task_group() as group:
        stuck = begin(group, ring.read, fd, 0, 4)
        await ticks(5)
        close = begin(group, ring.close, fd)
        await ticks(5)
        await giving_up(ring)
        try:
            await ends(stuck, "a read of a ring that gave up")
            await ends(close, "a close of a ring that gave up")
        finally:
            group.cancel_scope.cancel()


async def test_giving_up_ends_who_awaits_a_started_read_that_was_cancelled(anyio_backend: Any, fd: int) -> None:
    ring = aioring.Ring(method=Held())
    await ring.start()
    async with anyio.create_task_group() as group:
        read = ring.start_read(fd, 0, 4)
        await ticks(5)
        read.cancel()
        waits = begin(group, awaited, read)
        await ticks(5)
        await giving_up(ring)
        try:
            await ends(waits, "who awaits a cancelled read of a ring that gave up")
        finally:
            group.cancel_scope.cancel()


async def test_two_tasks_that_wait_for_the_end_of_a_ring_both_return(anyio_backend: Any, fd: int) -> None:
    method = Held()
    ring = aioring.Ring(method=method)
    await ring.start()
    async with anyio.create_task_group() as group:
        begin(group, ring.read, fd, 0, 4)
        await ticks(5)
        closes = [begin(group, ring.aclose) for _ in range(3)]
        await ticks(5)
        method.let_go()
        stuck = 0
        with anyio.move_on_after(SOON, shield=True):
            for close in closes:
                await close.over.wait()
        stuck = sum(not close.over.is_set() for close in closes)
        if stuck and engine_of(ring).loop.kind == "trio":
            # It waits behind a shield, for an event that was replaced: no cancel would end this test.
            for task in stuck_in_unwatched():
                trio.lowlevel.reschedule(task)
        assert not stuck, f"{stuck} of 3 closes hang"


def stuck_in_unwatched() -> list[Any]:
    """Tasks of this run that are parked inside `TrioLoop.unwatched`."""
    found = []
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is None:
            continue
        for nursery in task.child_nurseries:
            tasks += nursery.child_tasks
        coro = task.coro
        while coro is not None:
            if getattr(getattr(coro, "cr_code", None), "co_name", "") == "unwatched":
                found.append(task)
                break
            coro = getattr(coro, "cr_await", None)  # type: ignore[assignment]
    return found


def test_an_aclose_that_is_cancelled_takes_its_hook_off_the_loop(fd: int) -> None:
    async def main() -> None:
        method = Held()
        ring = aioring.Ring(method=method)
        await ring.start()
        read = asyncio.create_task(ring.read(fd, 0, 4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        close = asyncio.create_task(ring.aclose())
        await asyncio.sleep(0)
        close.cancel()
        await asyncio.sleep(0)
        method.let_go()
        with pytest.raises(asyncio.CancelledError):
            await close
        await asyncio.gather(read, return_exceptions=True)
        hook = asyncio.get_running_loop().__dict__.get("close")
        assert hook is None, f"a closed ring left {len(hook.callbacks)} callbacks on its loop"

    asyncio.run(main())


NEGATIVE_TIMEOUT = """
import os, sys, trio, warnings
import aioring
from tests.test_races import Held, ticks

async def main():
    warnings.simplefilter("ignore")
    fd = os.open(sys.argv[1], os.O_RDWR)
    ring = aioring.Ring(method=Held())
    await ring.start()
    read = ring.start_read(fd, 0, 4)
    await ticks(5)
    try:
        await ring.aclose(timeout=-1)
    except ValueError:
        await ring.aclose(timeout=0)
    try:
        await read
    except aioring.RingClosedError:
        print("fine")

trio.run(main)
"""


def test_closing_with_a_negative_timeout_does_not_take_trio_down(path: Path) -> None:
    assert in_a_child(NEGATIVE_TIMEOUT, path) == "fine\n"


def test_a_warning_that_is_an_error_does_not_keep_loop_and_ring_open(fd: int) -> None:
    loop = asyncio.new_event_loop()
    ring = aioring.Ring(method="sync")
    loop.run_until_complete(ring.start())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loop.close()
        except ResourceWarning:
            pass
    closed, ended = loop.is_closed(), engine_of(ring).ended
    if not ended:
        closing.close_now(engine_of(ring))
    loop.close()
    assert ended == "closed"
    assert closed


# --- fds --------------------------------------------------------------------------------------------------------------


def test_an_open_that_is_cancelled_right_after_aclose_leaks_no_fd(path: Path) -> None:
    async def main() -> None:
        method = Held()
        ring = aioring.Ring(method=method)
        await ring.start()
        opening = asyncio.create_task(ring.open(path, os.O_RDONLY))
        await until(lambda: method.held)
        handle = next(iter(method.held.values()))
        method.let_go()
        while handle.state != COMPLETE:
            await asyncio.sleep(0)
        assert not opening.done()  # its result is there, and it has not run yet
        await ring.aclose()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    before = fds()
    asyncio.run(main())
    left = fds() - before
    for fd in left:
        os.close(fd)
    assert not left, "the fd of a cancelled open was lost"


async def test_an_orphaned_fd_whose_number_is_still_being_closed_is_closed_at_the_end(
    anyio_backend: Any, path: Path
) -> None:
    """The number of a closed fd is given to an open whose completion is seen before the close's."""
    method = Held()
    ring = aioring.Ring(method=method)
    await ring.start()
    old = os.open(path, os.O_RDONLY)
    async with anyio.create_task_group() as group:
        opening = begin(group, ring.open, path, os.O_RDONLY)
        close = begin(group, ring.close, old)
        await until(lambda: len(method.held) == 2)
        of = {handle.operation.name: token for token, handle in method.held.items()}
        os.close(old)  # the kernel has carried the close out
        assert carry_out(method.held[of["open"]]) == old
        opening.scope.cancel()
        await opening.over.wait()
        method.answer(of["open"], old)
        await ticks(10)
        closes = begin(group, ring.aclose)
        await ticks(3)
        method.answer(of["close"], 0)
        for _ in range(20):
            await ticks(3)
            method.let_go("close")
        await ends(close, "a close")
        await ends(closes, "aclose")
    try:
        os.close(old)
    except OSError:
        return
    raise AssertionError("the fd of an orphaned open was not closed: its close was dropped by aclose")


async def test_a_read_that_waits_for_its_turn_is_older_than_a_close_asked_later(
    anyio_backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parked at the tick's budget, then not in the page cache: invariant 7 says that the close waits for it."""
    async with aioring.Ring(method="worker") as ring, anyio.create_task_group() as group:
        fd = os.open(path, os.O_RDONLY)
        monkeypatch.setattr(type(ring._cache), "ask", lambda *_: -1)
        engine = engine_of(ring)
        engine.budget.left = 0
        read, close = begin(group, ring.read, fd, 0, 4), define.close(fd)
        async with while_parked(engine):
            engine.ask(close)
        try:
            await ends(read, "the read")
            await until(close.finished)
            assert read.value == path.read_bytes()[:4], read.error
        finally:
            close_quietly(fd)


@contextlib.asynccontextmanager
async def while_parked(engine: Engine) -> AsyncIterator[None]:
    """Inside, whoever asked for a unit of the tick's budget is parked; afterwards they get their turn."""
    budget: Any = engine.budget
    schedule, budget._schedule, budget.left = budget._schedule, lambda: None, 0
    try:
        await until(lambda: budget._parked)
        yield
    finally:
        budget._schedule = schedule
        budget._refill()


def fds() -> set[int]:
    """Without the one that the listing itself had open."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


async def test_a_rename_holds_both_its_directories(anyio_backend: Any, tmp_path: Path) -> None:
    method = Held()
    (tmp_path / "one").touch()
    source, target = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        rename = ring.rename("one", "two", src_dir_fd=source, dst_dir_fd=target)
        renaming = begin(group, awaited, rename)
        await until(lambda: method.held)
        close = begin(group, ring.close, target)
        await ticks(10)
        early = method.let_go("close")
        await ticks(10)
        method.let_go("rename")
        await until(lambda: method.let_go("close") or close.over.is_set())
        await ends(renaming, "the rename")
        await ends(close, "the close")
    os.close(source)
    assert not early, "the close of a directory did not wait for the rename that names it"
    assert renaming.error is None


def test_a_loop_that_will_not_watch_a_doorbell_costs_no_fd() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = fds()

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "no more watches")

        loop.add_reader = refuse  # type: ignore[method-assign, assignment]
        ring = aioring.Ring(method="sync")
        with pytest.raises(OSError, match="no more watches"):
            await ring.start()
        del loop.add_reader
        left = fds() - before
        for fd in left:
            os.close(fd)
        assert not left

    asyncio.run(main())


# --- RUN with an fd ---------------------------------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_behind_a_fence_is_not_counted_off_twice(anyio_backend: Any, fd: int) -> None:
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        engine = engine_of(ring)
        close = begin(group, ring.close, os.dup(fd))
        await until(lambda: method.held)
        closing_fd = next(iter(method.held.values())).fd
        run = begin(group, engine.run, os.getpid, closing_fd)
        await ticks(3)
        run.scope.cancel()
        await ends(run, "a run")
        method.let_go()
        await ends(close, "a close")
        runs, engine.runs = engine.runs, 0
        assert runs == 0, "each such cancel takes one slot of `depth` away for good"


async def test_a_transfer_that_needs_a_worker_does_not_wait_for_the_close_that_waits_for_it(
    anyio_backend: Any, path: Path
) -> None:
    """What epoll refuses goes to a worker; here by a regular file whose transfers are made to say EAGAIN."""
    fd = os.open(path, os.O_RDONLY)
    async with aioring.Ring(method="worker") as ring, anyio.create_task_group() as group:
        engine, readiness = engine_of(ring), ring._readiness
        assert readiness is not None

        def attempt(at: int, flags: int) -> int:
            if flags:
                raise BlockingIOError(errno.EAGAIN, "not now")
            return len(os.pread(at, 4, 0))

        engine.budget.left = 0
        read, close = begin(group, readiness.transfer, fd, 0, attempt), define.close(fd)
        async with while_parked(engine):
            engine.ask(close)
        try:
            await ends(read, "a transfer whose close waits for it")
            assert isinstance(read.error, OSError)
            assert read.error.errno == errno.ECANCELED  # as all that waits for a readiness
        finally:
            read.scope.cancel()
            with anyio.CancelScope(shield=True):
                await until(close.finished)
            close_quietly(fd)


# --- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_link_without_memory_keeps_those_behind_it_from_running(anyio_backend: str, fd: int) -> None:
    before = os.pread(fd, 20, 0)
    async with aioring.Ring(method="io_uring") as ring:
        with pytest.raises((MemoryError, OSError)):
            async with ring.chain() as chain:
                chain.read(fd, 0, 1 << 60)
                chain.write(fd, 0, b"must not be written")
    assert os.pread(fd, 20, 0) == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_last_link_without_memory_does_not_link_a_stranger(anyio_backend: str, fd: int, path: Path) -> None:
    """The flag that links to the next SQE stands on the link before it: the next SQE is somebody else's."""
    async with aioring.Ring(method="io_uring", page_cache_first=False) as ring:
        sink = os.open(path, os.O_RDONLY)

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.write(sink, 0, b"EBADF")
                chain.read(fd, 0, 1 << 60)

        one = asyncio.create_task(chained())
        two = asyncio.create_task(ring.read(fd, 0, 4))
        results = await asyncio.gather(one, two, return_exceptions=True)
        os.close(sink)
        assert isinstance(results[0], OSError)
        assert results[1] == os.pread(fd, 4, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_link_that_goes_to_a_worker_is_still_before_the_next(anyio_backend: str, fd: int, path: Path) -> None:
    """After 8 times EAGAIN (O_NONBLOCK on a cold file) the blocking equivalent is asked: alone, not beside the rest."""
    before = os.pread(fd, 5, 0)
    async with aioring.Ring(method="io_uring") as ring:
        engine = engine_of(ring)
        unreadable = os.open(path, os.O_WRONLY)
        first, second = define.read(unreadable, 0, 4), define.write(fd, 0, b"never")
        chain = Chain(engine, [first, second])
        first.tries = 9
        engine.ask_chain(chain)
        with anyio.fail_after(SOON):
            await engine.loop.park(chain, lambda _: chain.cancel())
        os.close(unreadable)
        assert first.res == -errno.EBADF
        assert second.res == -errno.ECANCELED
    assert os.pread(fd, 5, 0) == before


async def test_two_chains_that_close_each_others_fds_both_end(anyio_backend: Any, path: Path) -> None:
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        read = ring.start_read(one, 0, 4)

        async def chained(closed: int, used: int) -> None:
            async with ring.chain() as chain:
                chain.close(closed)
                chain.read(used, 0, 4)

        chains = [begin(group, chained, one, two)]
        await ticks(5)
        chains.append(begin(group, chained, two, one))
        await ticks(5)
        waited = anyio.current_time()
        while not all(chain.over.is_set() for chain in chains) and anyio.current_time() - waited < SOON:
            method.let_go()
            await anyio.sleep(0.005)
        await read
        stuck = sum(not chain.over.is_set() for chain in chains)
        for chain in chains:
            chain.scope.cancel()
        for fd in (one, two):
            close_quietly(fd)
        assert not stuck, f"{stuck} chains wait for each other's fences"


async def test_a_block_that_raises_ends_who_awaits_its_links(anyio_backend: Any, fd: int) -> None:
    async with aioring.Ring(method="sync") as ring, anyio.create_task_group() as group:
        with pytest.raises(KeyError):
            async with ring.chain() as chain:
                waits = begin(group, awaited, chain.read(fd, 0, 4))
                await ticks(5)
                raise KeyError
        try:
            await ends(waits, "who awaits a link of a chain that was given up")
        finally:
            group.cancel_scope.cancel()


async def test_later_rounds_of_chains_stay_within_depth(anyio_backend: Any, fd: int) -> None:
    most = 0
    async with aioring.Ring(method="io_uring", depth=8) as ring, anyio.create_task_group() as group:
        engine = engine_of(ring)
        submit = engine.method.submit

        def counting(staged: deque[Handle]) -> None:
            nonlocal most
            submit(staged)
            most = max(most, len(engine.live))

        engine.method.submit = counting  # type: ignore[method-assign]

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.stat(fd)
                for i in range(7):
                    chain.write(fd, i, b"x")

        for _ in range(8):
            group.start_soon(chained)
    assert most <= 8, f"{most} in flight, and `depth` is 8"


# --- submission -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_did_not_fit_the_full_queue_goes_when_the_kernel_takes_again(anyio_backend: str, fd: int) -> None:
    async with aioring.Ring(method="io_uring", depth=8) as ring:
        engine = engine_of(ring)
        queues = engine.method._queues  # type: ignore[attr-defined]
        real, refusals = queues.mapped.submit, 0

        def refusing(n: int) -> int:
            nonlocal refusals
            if refusals:
                refusals -= 1
                return -errno.EAGAIN
            return int(real(n))

        queues.mapped.submit = refusing
        chains = [Chain(engine, [define.read(fd, i, 1) for i in range(6)]) for _ in range(2)]
        refusals = 16  # one flush: 8 turns to make room for the second chain, and 8 more at its end
        for chain in chains:
            for link in chain.links:
                engine._hold_for(link)
            engine.admit_round(chain)  # as a later round: at once, beyond `depth`
        try:
            with anyio.move_on_after(SOON) as limit:
                for chain in chains:
                    await engine.loop.park(chain, lambda _: True)
            assert not limit.cancelled_caught, f"{len(engine.staged)} handles are staged, and nobody flushes"
        finally:
            engine.flush()


def test_a_kernel_that_refuses_for_good_fails_all_of_more_than_a_queue_full(fd: int) -> None:
    from aioring.kernel.doorbell import Doorbell

    doorbell, method = Doorbell(), IoUring()
    live: MutableMapping[int, Handle] = {}
    completed: deque[tuple[int, int]] = deque()
    method.start(doorbell, 8, live, completed)
    try:
        method._queues.mapped.submit = lambda _: -errno.EPERM
        handles = [define.read(fd, i, 4) for i in range(20)]
        for handle in handles:
            handle.state = STAGED
        method.submit(deque(handles))
        told = {token for token, _ in completed}
        lost = [handle for handle in handles if handle.token not in told]
        assert not lost, f"{len(lost)} of 20 are in flight for ever"
    finally:
        method.close()
        doorbell.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancel_that_found_the_queue_full_is_sent_later(anyio_backend: str, pipe: tuple[int, int]) -> None:
    async with aioring.Ring(method="io_uring", depth=8) as ring:
        engine = engine_of(ring)
        queues = engine.method._queues  # type: ignore[attr-defined]
        real, refusals = queues.mapped.submit, 0

        def refusing(n: int) -> int:
            nonlocal refusals
            if refusals:
                refusals -= 1
                return -errno.EAGAIN
            return int(real(n))

        queues.mapped.submit = refusing
        # Reads of a pipe, past readiness: they stay in the kernel until they are cancelled.
        handles = [Handle(op.READ) for _ in range(8)]
        refusals = 1 << 30
        for handle in handles:
            handle.fd, handle.length = pipe[0], 4
            engine.ask(handle)
        await ticks(3)
        for handle in handles:
            engine.cancel(handle)
        await ticks(3)
        refusals = 0  # the kernel takes again, and the doorbell brings us back
        try:
            with anyio.move_on_after(SOON) as limit:
                while any(handle.state != COMPLETE for handle in handles):
                    await anyio.sleep(0.005)
            left = len(engine.method._cancels)  # type: ignore[attr-defined]
            assert not limit.cancelled_caught, f"{left} cancels wait for a flush that nobody asks for"
        finally:
            engine.flush()


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)  # on trio it takes the run down
async def test_a_thread_that_cannot_be_started_is_an_error_and_no_hang(
    anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    errors: list[Any] = []
    async with aioring.Ring(method="worker") as ring, anyio.create_task_group() as group:
        if engine_of(ring).loop.kind == "asyncio":
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            run = begin(group, ring.run, os.getpid)
            await ticks(10)
        try:
            await ends(run, "a call that no thread could be started for")
        finally:
            group.cancel_scope.cancel()


# --- memory -----------------------------------------------------------------------------------------------------------


class Thing:
    """Something to be seen being freed."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_failed_run_frees_its_arguments_without_the_collector(anyio_backend: str) -> None:
    def fail(thing: Thing) -> None:
        raise KeyError

    async with aioring.Ring(method="worker") as ring:
        gc.disable()
        try:
            thing = Thing()
            seen = weakref.ref(thing)
            try:
                await ring.run(fail, thing)
            except KeyError:
                pass
            del thing
            await asyncio.sleep(0.01)
            assert seen() is None, "handle, exception and frames hold one another"
        finally:
            gc.enable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_failed_or_cancelled_read_frees_its_handle_without_the_collector(
    anyio_backend: str, fd: int, tmp_path: Path
) -> None:
    method = Held()
    async with aioring.Ring(method=method) as ring:
        gc.disable()
        try:
            for way in ("failed", "cancelled", "memory"):
                reading = asyncio.create_task(ring.readinto(fd, 0, bytearray(10)))
                await until(lambda: method.held)
                (token,) = method.held
                seen = weakref.ref(method.held[token])
                if way == "cancelled":
                    reading.cancel()
                    await asyncio.sleep(0)
                if way == "memory":
                    method.held[token].exception = MemoryError()
                method.asked_to_cancel.clear()
                method.answer(token, -errno.ECANCELED if way == "cancelled" else -errno.EIO)
                try:
                    await reading
                except (OSError, MemoryError, asyncio.CancelledError):
                    pass
                del reading
                await asyncio.sleep(0)
                method.asked_to_cancel.clear()
                assert seen() is None, way
        finally:
            gc.enable()


async def test_an_error_while_a_completion_is_dealt_with_fails_that_read_alone(
    anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised while a completion is dealt with, an error must not stand in the way of those behind it."""

    def nothing_left(*_: Any) -> Any:
        raise MemoryError

    method = Held()
    ring = aioring.Ring(method=method)
    await ring.start()
    engine = engine_of(ring)
    handles = [define.read(fd, 0, 4096), define.read(fd, 0, 4)]
    for handle in handles:
        engine.ask(handle)
    engine.flush()
    settle = engine.settle
    monkeypatch.setattr(
        engine, "settle", lambda handle, res: nothing_left() if handle is handles[0] else settle(handle, res)
    )
    first, second = list(method.held)
    engine.completed.append((first, -errno.EINVAL))
    engine.completed.append((second, carry_out(handles[1])))
    try:
        for _ in range(3):
            try:
                engine.on_doorbell()
            except MemoryError:
                continue
        assert [handle.state for handle in handles] == [COMPLETE, COMPLETE]
    finally:
        monkeypatch.undo()
        lets_go_of(engine)
        await ring.aclose()


# --- KeyboardInterrupt, struck where CPython looks for signals: as a function is entered, after a call ----------------


class Strikes:
    """Raises KeyboardInterrupt when `function` is entered, or after it, the `nth` time."""

    def __init__(self, function: Callable[..., Any], *, after: bool = False, nth: int = 1) -> None:
        self._function, self._after, self._left = function, after, nth

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left:
            return self._function(*args, **kwargs)
        if self._after:
            self._function(*args, **kwargs)
        raise KeyboardInterrupt


class Popping(dict[int, Handle]):
    """`live`, with a signal that is seen right after `pop` or `del`."""

    strike = False

    def pop(self, *args: Any) -> Any:
        got = super().pop(*args)
        self.struck()
        return got

    def __delitem__(self, token: int) -> None:
        super().__delitem__(token)
        self.struck()

    def struck(self) -> None:
        if self.strike:
            self.strike = False
            raise KeyboardInterrupt


async def on_a_ring_with_a_striking_table(
    body: Callable[[aioring.Ring, Held, Popping], Coroutine[Any, Any, None]],
) -> None:
    method = Held()
    ring = aioring.Ring(method=method)
    await ring.start()
    engine = engine_of(ring)
    live = Popping()
    engine.live = method._live = live
    try:
        await body(ring, method, live)
    finally:
        lets_go_of(engine)
        with anyio.move_on_after(SOON):
            await ring.aclose(timeout=0.1)


async def test_an_interrupt_in_a_completion_still_wakes_its_task(anyio_backend: Any, fd: int) -> None:
    async def body(ring: aioring.Ring, method: Held, live: Popping) -> None:
        engine = engine_of(ring)
        async with anyio.create_task_group() as group:
            read = begin(group, ring.read, fd, 0, 4)
            await until(lambda: method.held)
            (token,) = method.held
            engine.completed.append((token, carry_out(method.held.pop(token))))
            live.strike = True
            with pytest.raises(KeyboardInterrupt):
                engine.on_doorbell()
            engine.on_doorbell()
            try:
                await ends(read, "a read whose completion was interrupted")
                assert fd not in engine.held
            finally:
                group.cancel_scope.cancel()

    await on_a_ring_with_a_striking_table(body)


async def test_an_interrupt_in_a_chain_s_completion_does_not_lose_the_chain(anyio_backend: Any, fd: int) -> None:
    async def body(ring: aioring.Ring, method: Held, live: Popping) -> None:
        engine = engine_of(ring)

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.read(fd, 0, 4)

        async with anyio.create_task_group() as group:
            read = begin(group, chained)
            await until(lambda: method.held)
            (token,) = method.held
            engine.completed.append((token, carry_out(method.held.pop(token))))
            live.strike = True
            with pytest.raises(KeyboardInterrupt):
                engine.on_doorbell()
            engine.on_doorbell()
            try:
                await ends(read, "a chain whose completion was interrupted")
            finally:
                group.cancel_scope.cancel()

    await on_a_ring_with_a_striking_table(body)


async def test_an_interrupt_while_a_chain_is_admitted_runs_it_once(
    anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Held()
    async with aioring.Ring(method=method, depth=2) as ring, anyio.create_task_group() as group:
        engine = engine_of(ring)
        reads = [ring.start_read(fd, 0, 4) for _ in range(2)]

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.write(fd, 0, b"once")

        waits = begin(group, chained)
        await until(lambda: len(method.held) == 2 and engine.backlog)
        for token in list(method.held):
            engine.completed.append((token, carry_out(method.held.pop(token))))
        monkeypatch.setattr(engine, "admit_round", Strikes(engine.admit_round, after=True))
        with pytest.raises(KeyboardInterrupt):
            engine.on_doorbell()
        monkeypatch.undo()
        engine.flush()
        engine.on_doorbell()
        engine.flush()
        told = sum(handle.operation is op.WRITE for handle in method.held.values())
        method.let_go()
        for read in reads:
            await read
        try:
            await ends(waits, "the chain")
            assert told == 1, f"the write was given to the method {told} times"
        finally:
            group.cancel_scope.cancel()


def test_an_interrupt_as_a_call_begins_on_sync_is_no_lost_handle(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from aioring.methods import sync

    async def main() -> None:
        ring = aioring.Ring(method="sync", page_cache_first=False)
        await ring.start()
        engine = engine_of(ring)
        handle = define.read(fd, 0, 4)
        engine.ask(handle)
        with monkeypatch.context() as patch:
            patch.setattr(sync, "carry_out", Strikes(carry_out))
            with pytest.raises(KeyboardInterrupt):
                engine.flush()
        engine.flush()
        engine.on_doorbell()
        state, res = handle.state, handle.res
        lets_go_of(engine)
        await ring.aclose(timeout=0.1)
        assert (state, res) == (COMPLETE, 4)

    asyncio.run(main())


# --- readiness --------------------------------------------------------------------------------------------------------


async def test_no_fd_for_an_epoll_is_an_error_and_nothing_stays_held(
    anyio_backend: Any, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aioring import readiness

    def none_left() -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    async with aioring.Ring(method="sync") as ring:
        before = fds()
        with monkeypatch.context() as patch:
            patch.setattr(readiness, "_EPOLL", none_left)
            with pytest.raises(Exception) as caught:
                await ring.read(pipe[0], -1, 4)
        left = fds() - before
        users = dict(engine_of(ring).held)
        engine_of(ring).held.clear()
        for fd in left:
            os.close(fd)
        assert isinstance(caught.value, OSError), repr(caught.value)
        assert caught.value.errno == errno.EMFILE
        assert not left
        assert not users, "a close of this fd would wait for ever"


async def test_closing_a_number_cancels_who_waits_for_the_file_it_had_before(anyio_backend: Any) -> None:
    """Others closed the fd and gave its number to another file: both readers used that number."""
    async with aioring.Ring(method="sync") as ring, anyio.create_task_group() as group:
        old, old_writer = os.pipe()
        first = begin(group, ring.read, old, -1, 8)
        await anyio.sleep(0.01)
        new, new_writer = os.pipe()
        os.dup2(new, old, inheritable=False)
        second = begin(group, ring.read, old, -1, 8)
        await anyio.sleep(0.01)
        close = begin(group, ring.close, old)
        try:
            await ends(second, "the second read")
            await ends(close, "the close")
        finally:
            first.scope.cancel()
            await close.over.wait()
            for fd in (old_writer, new, new_writer):
                os.close(fd)


# --- a ring that is dropped -------------------------------------------------------------------------------------------


async def test_dropping_a_ring_ends_who_awaits_a_read_it_started(anyio_backend: Any, fd: int) -> None:
    async with anyio.create_task_group() as group:
        ring: Any = aioring.Ring(method="worker", depth=1)
        await ring.start()
        gate = threading.Event()
        run = ring.start_read(fd, 0, 4)
        pending = ring.start_read(fd, 0, 4)  # behind `depth`
        waits = begin(group, awaited, pending)
        await ticks(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del ring
            gc.collect()
        gate.set()
        try:
            await ends(waits, "who awaits a read of a ring that was dropped")
        finally:
            group.cancel_scope.cancel()
        await pending._ring.aclose()
        del run
