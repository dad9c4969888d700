"""What a review of the hot path found: reads at once, large reads, the page cache, the older AIO, and stat in place."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

import aioring
from aioring import operations as op
from aioring.handle import SUBMITTED, Handle
from aioring.kernel import at_once, mounts
from aioring.kernel.liburing import SystemCalls
from aioring.methods.io_uring import IoUring
from aioring.methods.linux_aio import LinuxAio
from aioring.operations import carry_out
from aioring.ring import large
from tests.conftest import close_quietly, pattern
from tests.fuse import DELAY
from tests.test_races import SOON, Held, Strikes, begin, ends, engine_of, lets_go_of, ticks, until

pytestmark = pytest.mark.timeout(20)

MIB = 1 << 20


# --- large reads ------------------------------------------------------------------------------------------------------


async def test_a_large_readinto_that_met_end_of_file_returns_when_nothing_writes_to_its_buffer_any_more(
    anyio_backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "one piece"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDONLY)
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        read = begin(group, ring.readinto, fd, 0, bytearray(4 * MIB))
        await until(lambda: len(method.held) == 4)
        first, second, *_ = method.held
        method.answer(first, carry_out(method.held[first]))
        method.answer(second, 0)
        with anyio.move_on_after(0.2):
            await read.over.wait()
        in_hands = 0 if not read.over.is_set() else sum(h.state == SUBMITTED for h in method.held.values())
        method.let_go()
        os.close(fd)
        await ends(read, "the read")
        assert read.value == MIB
        assert not in_hands, f"{in_hands} pieces may still write to the buffer after the await has returned"


def test_a_large_readinto_of_an_empty_file_never_gets_bytes_of_the_file_that_has_its_number_next(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"\xff" * 4 * MIB)

    async def main() -> tuple[int, bytes]:
        async with aioring.Ring(method="worker", workers=1) as ring:
            fd = os.open(tmp_path / "empty", os.O_RDONLY)
            buffer = bytearray(4 * MIB)
            # A worker is slow now and then: it takes a moment before each job but the first.
            claim, jobs = engine_of(ring).workers._claim, 0

            def slowly() -> Any:
                nonlocal jobs
                handle = claim()
                if handle is not None:
                    jobs += 1
                    if jobs > 1:
                        time.sleep(0.1)
                return handle

            engine_of(ring).workers._claim = slowly  # type: ignore[method-assign]
            got = await ring.readinto(fd, 0, buffer)
            os.close(fd)
            other = os.open(tmp_path / "other", os.O_RDONLY)
            assert other == fd
            await asyncio.sleep(0.6)
            os.close(other)
            return got, bytes(buffer)

    got, buffer = asyncio.run(main())
    assert got == 0
    assert not any(buffer), "another file's bytes were written to the buffer after the await had returned"


def test_a_large_read_ends_when_its_ring_is_closed_before_it_could_ask_for_more(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(8 * MIB))
    fd = os.open(path, os.O_RDONLY)

    async def main() -> None:
        method = Held()
        ring = aioring.Ring(method=method)
        await ring.start()
        read = asyncio.ensure_future(ring.read(fd, 0, 8 * MIB))
        await until(lambda: len(method.held) == 4)
        method.let_go()
        engine_of(ring).on_doorbell()  # all that was asked is complete, and the read has not woken up yet
        await ring.aclose()
        done, _ = await asyncio.wait([read], timeout=SOON)
        read.cancel()
        assert done, "a large read hangs"
        with pytest.raises(aioring.RingClosedError):
            read.result()

    try:
        asyncio.run(main())
    finally:
        os.close(fd)


async def test_a_large_read_beyond_the_size_that_was_seen_is_older_than_a_close_asked_meanwhile(
    anyio_backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc says 0 of every file, and a file may grow: what lies behind is read in further pieces."""

    async def nothing(*_: Any) -> int:
        return 0

    monkeypatch.setattr(large, "_hint", nothing)
    monkeypatch.setattr(large, "_TAIL", 4096)
    fd = os.open(path, os.O_RDONLY)
    method = Held()
    try:
        async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
            read = begin(group, ring.read, fd, 0, 300_000)
            await until(lambda: method.held)
            close = begin(group, ring.close, fd)
            await ticks(5)
            for _ in range(50):
                method.let_go()
                await ticks(5)
                if read.over.is_set() and close.over.is_set():
                    break
            await ends(read, "the read")
            await ends(close, "the close")
            assert read.error is None, repr(read.error)
            assert read.value == pattern(100_000)
    finally:
        close_quietly(fd)


@pytest.mark.parametrize("size", [4096, 4 * MIB], ids=["small", "large"])
async def test_a_close_waits_for_what_is_in_flight_also_when_its_task_was_cancelled(
    anyio_backend: Any, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    fd = os.open(path, os.O_RDONLY)
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        read = begin(group, ring.read, fd, 0, size)
        await until(lambda: method.held)
        close = begin(group, ring.close, fd)
        await ticks(5)
        read.scope.cancel()
        await ends(read, "a cancelled read")
        await ticks(5)
        names = sorted({handle.operation.name for handle in method.held.values()})
        while method.held:
            method.let_go()
            await ticks(3)
        await ends(close, "the close")
        assert names == ["read"], "the fd was given up to the close while the method had reads on it"


def test_the_size_of_a_file_on_a_server_is_not_asked_on_the_loop_s_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDONLY)
    asked: list[int] = []
    fstat = os.fstat

    def noted(fd: int) -> os.stat_result:
        if threading.get_ident() == here:
            asked.append(fd)
        return fstat(fd)

    here = threading.get_ident()

    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            monkeypatch.setattr(at_once, "kind", lambda _: "")  # as of a file on NFS
            with monkeypatch.context() as patch:
                patch.setattr(os, "fstat", noted)
                assert len(await ring.read(fd, 0, MIB)) == MIB

    try:
        asyncio.run(main())
        assert fd not in asked, "fstat(2) of a file on NFS, on the loop's thread"
    finally:
        os.close(fd)


def test_a_large_read_behind_two_closes_of_its_fd_ends(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDONLY)

    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            calls = [ring.read(fd, 0, 65537), ring.close(fd), ring.close(fd), ring.read(fd, 0, MIB)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            _, hang = await asyncio.wait(tasks, timeout=SOON)
            await ring.aclose()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert not hang, f"{len(hang)} of them hang"
            assert isinstance(results[0], bytes)
            assert len(results[0]) == 65537
            assert [type(r) for r in results[1:]] == [type(None), OSError, OSError]

    asyncio.run(main())


def test_a_cancel_of_a_large_readinto_whose_other_piece_failed_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(4 * MIB))
    fd = os.open(path, os.O_RDONLY)

    async def main() -> None:
        method = Held()
        async with aioring.Ring(method=method) as ring:
            after: list[str] = []

            async def reads() -> None:
                try:
                    await ring.readinto(fd, 0, bytearray(4 * MIB))
                except OSError:
                    await asyncio.sleep(0)
                    after.append("goes on as if nobody had cancelled it")

            task = asyncio.ensure_future(reads())
            await until(lambda: len(method.held) == 4)
            method.answer(next(iter(method.held)), -errno.EIO)
            await ticks(5)
            assert not task.done()
            task.cancel()
            await ticks(5)
            method.let_go()
            await asyncio.wait([task], timeout=SOON)
            assert task.done()
            assert not after

    try:
        asyncio.run(main())
    finally:
        os.close(fd)


def test_a_large_readinto_whose_coroutine_is_closed_while_it_is_cancelled_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(4 * MIB))
    fd = os.open(path, os.O_RDONLY)

    async def main() -> None:
        method = Held()
        async with aioring.Ring(method=method) as ring:
            coroutine = ring.readinto(fd, 0, bytearray(4 * MIB))
            coroutine.send(None)
            engine_of(ring).flush()
            method.answer(next(iter(method.held)), -errno.EIO)
            engine_of(ring).on_doorbell()
            coroutine.send(None)  # one piece failed: it waits for the others
            try:
                coroutine.close()
            finally:
                method.let_go()
                engine_of(ring).on_doorbell()

    try:
        asyncio.run(main())
    finally:
        os.close(fd)


# --- parked, then struck or missed ------------------------------------------------------------------------------------


def test_an_open_that_waits_for_its_turn_is_older_than_a_close_of_its_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel then says that the path is not cached."""
    monkeypatch.setattr(at_once, "open_cached", lambda *_: -1)
    folder = os.open(path.parent, os.O_RDONLY)

    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            engine = engine_of(ring)
            engine.budget.left = 0
            opened = asyncio.ensure_future(ring.open(path.name, os.O_RDONLY, dir_fd=folder))
            await asyncio.sleep(0)
            assert engine.budget._parked
            close = asyncio.ensure_future(ring.close(folder))
            await asyncio.wait([opened, close], timeout=SOON)
            await close
            os.close(await opened)

    try:
        asyncio.run(main())
    finally:
        close_quietly(folder)


def _strikes_on_entry(of: Any) -> Any:
    """Trace: KeyboardInterrupt as the coroutine function begins to run, where CPython looks for signals."""
    code, struck = of.__func__.__code__, [False]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if event == "call" and frame.f_code is code and not struck[0]:
            struck[0] = True
            raise KeyboardInterrupt
        return None

    return trace


@pytest.mark.parametrize("call", ["read", "readinto"])
def test_an_interrupt_between_a_parked_read_and_its_transfer_keeps_no_close_waiting(
    fd: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            engine = engine_of(ring)
            monkeypatch.setattr(ring._cache, "ask", lambda *_: -1)
            engine.budget.left = 0
            coroutine = ring.read(fd, 0, 4096) if call == "read" else ring.readinto(fd, 0, bytearray(4096))
            coroutine.send(None)
            engine.budget._refill()
            before = sys.gettrace()
            sys.settrace(_strikes_on_entry(engine.transfer))
            try:
                with pytest.raises(KeyboardInterrupt):
                    coroutine.send(None)
            finally:
                sys.settrace(before)
            held = dict(engine.held)
            close = asyncio.ensure_future(ring.close(os.dup(fd) if not held else fd))
            done, _ = await asyncio.wait([close], timeout=SOON)
            for number, users in held.items():
                for user in list(users):
                    engine.release(number, user)
            await close
            assert done, "the close hangs"

    asyncio.run(main())


def test_an_interrupt_in_a_stat_that_was_parked_keeps_no_close_waiting(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            engine = engine_of(ring)
            engine.budget.left = 0
            coroutine = ring.stat(fd)
            coroutine.send(None)
            engine.budget._refill()
            with monkeypatch.context() as patch:
                patch.setattr(at_once, "stat_of_fd", Strikes(at_once.stat_of_fd))
                with pytest.raises(KeyboardInterrupt):
                    coroutine.send(None)
            held = {number: list(users) for number, users in engine.held.items()}
            close = asyncio.ensure_future(ring.close(fd))
            done, _ = await asyncio.wait([close], timeout=SOON)
            for number, users in held.items():
                for user in users:
                    engine.release(number, user)
            await close
            assert done, "the close hangs"

    asyncio.run(main())


def test_an_interrupt_as_a_read_at_once_enters_the_kernel_keeps_no_close_waiting(fd: int) -> None:
    async def main() -> None:
        async with aioring.Ring(method=IoUring(SystemCalls()), page_cache_first=False) as ring:
            engine = engine_of(ring)
            await ticks(5)  # the doorbell that rang when the ring was proved
            mapped = engine.method._queues.mapped  # type: ignore[attr-defined]
            submit = mapped.submit
            mapped.submit = Strikes(submit)
            with pytest.raises(KeyboardInterrupt):
                await ring.read(fd, 0, 4096)
            mapped.submit = submit
            close = asyncio.ensure_future(ring.close(fd))
            done, _ = await asyncio.wait([close], timeout=SOON)
            engine.flush()
            await close
            assert done, "the close hangs: the read was pushed and never submitted"

    asyncio.run(main())


async def test_an_interrupt_while_a_close_puts_up_its_fence_does_not_lose_the_close(
    anyio_backend: Any, fd: int
) -> None:
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        engine = engine_of(ring)
        read = begin(group, ring.read, fd, 0, 4096)
        await until(lambda: method.held)
        on_fence, engine.on_fence = engine.on_fence, Strikes(lambda fd: None)
        with pytest.raises(KeyboardInterrupt):
            await ring.close(fd)
        engine.on_fence = on_fence
        method.let_go()
        await ends(read, "the read")
        await ticks(5)
        told = [handle.operation.name for handle in method.held.values()]
        method.let_go()
        await ticks(5)
        stuck = list(engine.closing)
        engine.closing.clear()  # else the ring cannot be closed
        assert told == ["close"], "the close was put off for ever"
        assert not stuck


async def test_an_interrupt_after_a_close_was_staged_does_not_close_the_number_twice(
    anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second close would be that of whoever has the number by then."""
    method = Held()
    async with aioring.Ring(method=method) as ring:
        engine = engine_of(ring)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_flush_at_the_end_of_the_tick", Strikes(engine._flush_at_the_end_of_the_tick))
            with pytest.raises(KeyboardInterrupt):
                await ring.close(fd)
        closes = 0
        for _ in range(4):
            engine.flush()
            closes += sum(handle.operation is op.CLOSE for handle in method.held.values())
            method.let_go()
            engine.on_doorbell()
        lets_go_of(engine)
        engine.live.clear()
        assert closes == 1, f"the number was closed {closes} times"


async def test_an_interrupt_in_the_end_of_a_link_does_not_lose_its_chain(
    anyio_backend: Any, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Held()
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        engine = engine_of(ring)

        async def chained() -> None:
            async with ring.chain() as chain:
                chain.read(fd, 0, 4)

        read = begin(group, chained)
        await until(lambda: method.held)
        (token,) = method.held
        engine.completed.append((token, carry_out(method.held.pop(token))))
        with monkeypatch.context() as patch:
            patch.setattr(engine, "finish", Strikes(engine.finish))
            with pytest.raises(KeyboardInterrupt):
                engine.on_doorbell()
        engine.on_doorbell()
        with anyio.move_on_after(SOON) as limit:
            await read.over.wait()
        left = list(engine.live.values())
        engine.live.clear()
        group.cancel_scope.cancel()
        assert not limit.cancelled_caught, "the chain hangs"
        assert not left


# --- the page cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["read on trio", "readinto"])
def test_a_ring_that_kept_missing_looks_again_whatever_reads(fd: int, way: str) -> None:
    async def main() -> None:
        async with aioring.Ring(method="worker") as ring:
            buffer = bytearray(512)
            for _ in range(16):
                ring._cache.miss()
            assert not ring._cache.asking
            for _ in range(600):
                if way == "readinto":
                    await ring.readinto(fd, 0, buffer)
                else:
                    await ring.read(fd, 0, 512)
            assert ring._cache.asking, "it never asks the page cache again"

    trio.run(main) if "trio" in way else asyncio.run(main())


def test_a_device_on_devtmpfs_that_has_nothing_to_say_does_not_stop_the_loop() -> None:
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY)
    except OSError:
        pytest.skip("no /dev/kmsg")
    os.lseek(fd, 0, os.SEEK_END)
    lead = 3  # seconds
    unstick = threading.Timer(lead, lambda: Path("/dev/kmsg").write_text("aioring: end of a test\n"))
    unstick.daemon = True

    async def main() -> float:
        async with aioring.Ring(method="worker") as ring:
            start = time.monotonic()
            read = asyncio.ensure_future(ring.read(fd, 0, 8192))
            await asyncio.sleep(0)
            late = time.monotonic() - start
            await asyncio.sleep(lead + 0.2 - late if late < lead else 0)
            read.cancel()
            await asyncio.wait([read])
            Path("/dev/kmsg").write_text("aioring: end of a test\n")  # for the worker that still waits for more
            return late

    unstick.start()
    try:
        late = asyncio.run(main())
    finally:
        unstick.join()
        os.close(fd)
    assert late < 1, f"the loop stood still for {late:.1f} s"


def test_a_directory_on_tmpfs_is_an_error_with_a_note_like_any_other() -> None:
    try:
        fd = os.open("/dev/shm", os.O_RDONLY)
    except OSError:
        pytest.skip("no /dev/shm")
    try:
        if mounts.kind(fd) != "tmpfs":
            pytest.skip("no tmpfs")

        async def main() -> None:
            async with aioring.Ring() as ring:
                with pytest.raises(IsADirectoryError) as error:
                    await ring.read(fd, 0, 4096)
                assert any("aioring: read of 4096" in note for note in getattr(error.value, "__notes__", ()))

        asyncio.run(main())
    finally:
        os.close(fd)


# --- a file system that asks a server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["io_uring", "worker"])
@pytest.mark.parametrize("what", ["open", "stat of a path", "stat of an fd", "read", "readinto", "large read"])
def test_a_server_that_takes_its_time_does_not_stop_the_loop(slow_file: Path, what: str, method: str) -> None:
    """fstatfs(2) asks it, and so does opening what RESOLVE_CACHED has found, with the GIL in hand."""
    fd = os.open(slow_file, os.O_RDONLY)
    late = 0.0

    async def ticker() -> None:
        nonlocal late
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            late = max(late, time.monotonic() - before)

    async def main() -> None:
        async with aioring.Ring(method=method) as ring:
            ticking = asyncio.ensure_future(ticker())
            await asyncio.sleep(0.02)
            if what == "open":
                os.close(await ring.open(slow_file, os.O_RDONLY))
            elif what == "stat of a path":
                await ring.stat(slow_file)
            elif what == "stat of an fd":
                await ring.stat(fd)
            elif what == "readinto":
                await ring.readinto(fd, 0, bytearray(4096))
            else:
                await ring.read(fd, 0, 4096 if what == "read" else MIB)
            await asyncio.sleep(0.02)
            ticking.cancel()

    try:
        asyncio.run(main())
    finally:
        os.close(fd)
    assert late < DELAY / 2, f"the loop stood still for {late:.2f} s"


def test_asking_whether_an_fd_can_seek_does_not_wait_for_another_thread_s_read(slow_file: Path) -> None:
    """lseek(2) waits for who is in read(2) on the same open file, and keeps the GIL meanwhile."""
    fd = os.open(slow_file, os.O_RDONLY)
    late: list[float] = []

    async def main() -> None:
        async with aioring.Ring(method="worker", page_cache_first=False) as ring:
            other = threading.Thread(target=os.read, args=(fd, 4096))
            other.start()
            await asyncio.sleep(0.05)
            before = time.monotonic()
            read = asyncio.ensure_future(ring.read(fd, 1 << 19, 4096))
            await asyncio.sleep(0)
            late.append(time.monotonic() - before)
            await read
            other.join()

    try:
        asyncio.run(main())
    finally:
        os.close(fd)
    assert late[0] < DELAY / 2, f"the loop stood still for {late[0]:.2f} s"


# --- in place, from several threads -----------------------------------------------------------------------------------


class Meanwhile:
    """Calls `function`, then lets another thread run `other` before it returns: the GIL may change hands after any call."""

    def __init__(self, function: Any, other: Any) -> None:
        self._function, self._other, self._left = function, other, 1

    def __call__(self, *args: Any) -> Any:
        got = self._function(*args)
        if self._left:
            self._left = 0
            thread = threading.Thread(target=self._other)
            thread.start()
            thread.join(0.5)  # by then it is done, or waits for a lock that we hold
        return got


def test_an_open_in_place_never_gets_the_flags_of_another_thread_s(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def other() -> None:
        opened.append(at_once.open_cached(-100, os.fsencode(path) + b"\0", os.O_RDWR | os.O_APPEND))

    async def main() -> int:
        async with aioring.Ring(method="worker") as ring:
            pack = Meanwhile(at_once.pack_open_how, other)
            with monkeypatch.context() as patch:
                patch.setattr(at_once, "pack_open_how", pack)
                return await ring.open(path, os.O_RDONLY | os.O_APPEND)

    path.stat()
    fd = asyncio.run(main())
    try:
        with pytest.raises(OSError):
            os.write(fd, b"asked for reading only")
    finally:
        for one in (fd, *opened):
            os.close(one)


def test_what_file_system_an_fd_is_on_is_never_that_of_another_thread_s_fd(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        shm = os.open("/dev/shm", os.O_RDONLY)
    except OSError:
        pytest.skip("no /dev/shm")
    try:
        if (mine := mounts.kind(fd)) == (theirs := mounts.kind(shm)):
            pytest.skip("only one file system")
        monkeypatch.setattr(mounts, "_statx", Meanwhile(mounts._statx, lambda: mounts.kind(shm)))
        assert mounts.kind(fd) == mine, f"{theirs} is the other's"
    finally:
        os.close(shm)


# --- the kernel's older AIO -------------------------------------------------------------------------------------------


def test_an_interrupt_after_io_submit_refused_a_read_is_no_lost_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)  # io_submit says EBADF

    async def main() -> None:
        async with aioring.Ring(method="linux_aio", page_cache_first=False) as ring:
            engine = engine_of(ring)
            read = ring.start_read(fd, 0, 4096)
            context = engine.method._context  # type: ignore[attr-defined]
            with monkeypatch.context() as patch:
                patch.setattr(context, "submit", Strikes(context.submit, after=True))
                with pytest.raises(KeyboardInterrupt):
                    engine.flush()
            with anyio.move_on_after(SOON) as limit:
                with pytest.raises(OSError) as error:
                    await read
            lets_go_of(engine)
            assert not limit.cancelled_caught, "the read hangs"
            assert error.value.errno == errno.EBADF

    try:
        asyncio.run(main())
    finally:
        os.close(fd)


def test_a_worker_s_answer_that_comes_while_aio_is_reaped_stays_what_it_is(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)

    def refuses() -> int:
        go.wait()
        raise OSError(errno.EOPNOTSUPP, "not supported")

    go = threading.Event()

    async def main() -> None:
        method = LinuxAio()
        async with aioring.Ring(method=method, page_cache_first=False) as ring:
            engine = engine_of(ring)
            context, completed = method._context, engine.completed
            reap = context.reap

            def meanwhile(into: Any) -> None:
                go.set()  # a worker is done just now
                limit = time.monotonic() + SOON
                while not into and time.monotonic() < limit:
                    time.sleep(0.001)
                reap(into)

            call = Handle(replace(op.FSYNC, name="refused", blocking=lambda *_: refuses(), opcode=None))
            call.fd = fd
            task = asyncio.ensure_future(engine.do(call))
            await asyncio.sleep(0.05)
            context.reap = meanwhile  # type: ignore[method-assign]
            read = asyncio.ensure_future(ring.read(fd, 0, 4096))
            await asyncio.wait([read, task], timeout=SOON)
            assert completed is engine.completed
            with pytest.raises(OSError) as error:
                await task
            await read
            assert error.value.errno == errno.EOPNOTSUPP, repr(error.value)

    try:
        asyncio.run(main())
    finally:
        os.close(fd)
