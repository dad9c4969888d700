"""The life of a ring: made, started, closed, forgotten; by its owner, by its loop, by the end of the program."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import uvloop

import aioring
from aioring.testing import Scripted
from tests.conftest import open_fds, pattern

ROOT = Path(aioring.__file__).resolve().parent.parent
WHOLE = pattern(100_000)
NATIVE = ("io_uring", "linux_aio", "worker", "sync")
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")

# What every child program begins with.
PRELUDE = '''
import asyncio, gc, os, random, signal, sys, threading, time, warnings
import logging
import aioring
from aioring import Ring, get_ring
logging.getLogger("asyncio").setLevel(logging.ERROR)  # -X dev: "took 0.1 seconds" on a busy machine

def has():
    """fds, maps of rings and aioring's threads."""
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if not target.startswith("/proc/"):
            fds[int(name)] = target
    with open("/proc/self/maps") as lines:
        maps = sum("io_uring" in line for line in lines)
    return fds, maps, sorted(t.name for t in threading.enumerate() if t.name.startswith("aioring"))

def gone(before):
    """Wait for threads that were told to leave; then nothing may be left."""
    until = time.monotonic() + 2
    while has() != before and time.monotonic() < until:
        gc.collect()
        time.sleep(0.005)
    assert has() == before, (before, has())
'''


def child(
    source: str,
    *arguments: object,
    flags: tuple[str, ...] = STRICT,
    timeout: float = 25,
    quiet: bool = True,
    **env: str,
) -> str:
    """Run a program of its own. It must end well and, if `quiet`, say nothing on stderr. What it printed."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", PRELUDE + textwrap.dedent(source), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not (quiet and done.stderr), done.stderr
    return done.stdout


def ring_maps() -> int:
    return sum("io_uring" in line for line in Path("/proc/self/maps").read_text().splitlines())


# --- made -------------------------------------------------------------------------------------------------------------


def test_importing_and_making_a_ring_touches_nothing() -> None:
    child(
        """
        before = has()
        ring = Ring()
        assert has() == before and before[1] == 0 and threading.active_count() == 1, has()
        names = set(os.listdir("/proc/self/fd"))
        assert not any("io_uring" in t or "eventfd" in t for t in before[0].values()), before
        del ring
        gc.collect()
        """
    )


@pytest.mark.parametrize("method", ["", "iouring", "IO_URING", "threads"])
def test_an_unknown_method_is_a_value_error(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown method"):
        aioring.Ring(method=method)
    if method:
        monkeypatch.setenv("AIORING_METHOD", method)
        with pytest.raises(ValueError, match="unknown method"):
            aioring.Ring()


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "8"])
@pytest.mark.parametrize("name", ["depth", "workers"])
def test_a_bad_number_is_a_value_error(name: str, number: Any) -> None:
    with pytest.raises(ValueError, match=name):
        aioring.Ring(**{name: number})


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", " 8", "٨", "1_0"])
@pytest.mark.parametrize("variable", ["AIORING_DEPTH", "AIORING_WORKERS"])
def test_a_bad_number_in_the_environment_is_a_value_error(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=variable):
        aioring.Ring()


@pytest.mark.parametrize("depth", [1 << 20, 1 << 32, 1 << 40])
async def test_a_depth_beyond_what_the_kernel_takes_is_cut(anyio_backend: Any, depth: int, fd: int) -> None:
    async with aioring.Ring(method="io_uring", depth=depth) as ring:
        assert 0 < ring.depth <= depth
        assert await ring.read(fd, 0, 100_000) == WHOLE


def test_a_keyword_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIORING_METHOD", "sync")
    monkeypatch.setenv("AIORING_DEPTH", "16")
    monkeypatch.setenv("AIORING_WORKERS", "3")
    ring = aioring.Ring()
    assert (ring.method, ring.depth, ring._workers) == ("sync", 16, 3)
    ring = aioring.Ring(method="worker", depth=8, workers=1)
    assert (ring.method, ring.depth, ring._workers) == ("worker", 8, 1)
    monkeypatch.setenv("AIORING_METHOD", "nonsense")
    monkeypatch.setenv("AIORING_DEPTH", "nonsense")
    assert aioring.Ring(method="sync", depth=4).depth == 4


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AIORING_METHOD", "AIORING_DEPTH", "AIORING_WORKERS"):
        monkeypatch.setenv(variable, "")
    ring = aioring.Ring()
    assert (ring.method, ring.depth) == ("auto", 256)


async def test_the_environment_chooses_the_method(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in NATIVE:
        monkeypatch.setenv("AIORING_METHOD", method)
        async with aioring.Ring() as ring:
            assert ring.method == method


# --- started and closed -----------------------------------------------------------------------------------------------


async def test_async_with_starts_and_closes(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int
) -> None:
    async with make_ring() as ring:
        assert await ring.read(fd, 0, 100) == WHOLE[:100]
        assert not ring.closed
    assert ring.closed
    assert "closed" in repr(ring)


async def test_closing_twice_is_harmless(make_ring: Callable[..., aioring.Ring], anyio_backend: Any) -> None:
    ring = make_ring()
    await ring.aclose()  # before it was started, too
    await ring.start()
    await ring.aclose()
    await ring.aclose()
    await ring.aclose(timeout=0)


async def test_two_tasks_may_close_at_once(make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int) -> None:
    ring = make_ring()
    await ring.start()
    started = [ring.start_read(fd, i * 100, 100) for i in range(100)]
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ring.aclose)
    assert ring.closed
    for i, one in enumerate(started):
        await right_or_closed(one, WHOLE[i * 100 : i * 100 + 100])


async def test_starting_twice_is_refused(make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int) -> None:
    ring = make_ring()
    await ring.start()
    with pytest.raises(aioring.RingClosedError, match="started before"):
        await ring.start()
    assert await ring.read(fd, 0, 10) == WHOLE[:10]
    await ring.aclose()
    with pytest.raises(aioring.RingClosedError, match="started before"):
        await ring.start()


async def test_entering_after_start_is_fine_and_twice_is_not(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any
) -> None:
    ring = make_ring()
    await ring.start()
    async with ring:
        with pytest.raises(aioring.AioringError, match="entered once"):
            await ring.__aenter__()
    with pytest.raises(aioring.AioringError, match="entered once"):
        await ring.__aenter__()


CALLS: dict[str, Callable[[aioring.Ring, int], Any]] = {
    "read": lambda r, fd: r.read(fd, 0, 100),
    "a large read": lambda r, fd: r.read(fd, 0, 100_000),
    "readinto": lambda r, fd: r.readinto(fd, 0, bytearray(100)),
    "readv": lambda r, fd: r.readv(fd, 0, [bytearray(100)]),
    "write": lambda r, fd: r.write(fd, 0, b"x"),
    "writev": lambda r, fd: r.writev(fd, 0, [b"x"]),
    "fsync": lambda r, fd: r.fsync(fd),
    "open": lambda r, fd: r.open("/", os.O_RDONLY),
    "close": lambda r, fd: r.close(fd),
    "stat": lambda r, fd: r.stat(fd),
    "rename": lambda r, fd: r.rename("/nowhere/a", "/nowhere/b"),
    "run": lambda r, fd: r.run(os.getpid),
    "chain": lambda r, fd: r.chain().__aenter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_ring_is_not_used_before_its_start_nor_after_its_end(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int, call: Callable[[aioring.Ring, int], Any]
) -> None:
    ring = make_ring()
    with pytest.raises(aioring.RingClosedError, match="not started"):
        await call(ring, fd)
    await ring.start()
    assert await ring.read(fd, 0, 100) == WHOLE[:100]
    await ring.aclose()
    with pytest.raises(aioring.RingClosedError, match="closed"):
        await call(ring, fd)
    assert os.pread(fd, 1, 0) == WHOLE[:1]


async def test_start_read_and_batch_need_a_started_ring(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int
) -> None:
    ring = make_ring()
    for call in (lambda: ring.start_read(fd, 0, 1), lambda: ring.start_write(fd, 0, b"x"), lambda: ring.batch()):
        with pytest.raises(aioring.RingClosedError):
            call()


def test_without_a_loop_a_ring_says_so() -> None:
    with pytest.raises(aioring.WrongLoopError, match="no event loop"):
        aioring.get_ring()
    starting = aioring.Ring().start()
    with pytest.raises(aioring.WrongLoopError, match="no event loop"):
        starting.send(None)


def step(coroutine: Any) -> Any:
    """Run a coroutine to its end without any loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("it waited")


async def test_a_ring_is_not_used_without_a_loop(ring: aioring.Ring, fd: int) -> None:
    assert await ring.read(fd, 0, 100) == WHOLE[:100]  # resident: the next would be a page-cache hit

    def elsewhere() -> None:
        for call in CALLS.values():
            with pytest.raises(aioring.WrongLoopError):
                step(call(ring, fd))
        with pytest.raises(aioring.WrongLoopError):
            step(ring.aclose())

    await anyio.to_thread.run_sync(elsewhere)
    assert await ring.read(fd, 0, 100) == WHOLE[:100]


async def test_a_ring_is_not_used_from_another_loop(ring: aioring.Ring, fd: int) -> None:
    assert await ring.read(fd, 0, 100) == WHOLE[:100]

    async def foreign() -> None:
        for call in CALLS.values():
            with pytest.raises(aioring.WrongLoopError):
                await call(ring, fd)
        with pytest.raises(aioring.WrongLoopError):
            ring.start_read(fd, 0, 9)
        with pytest.raises(aioring.WrongLoopError):
            ring.batch().__enter__()
        with pytest.raises(aioring.WrongLoopError):
            await ring.aclose()

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(partial(anyio.run, foreign, backend=backend))
    assert await ring.read(fd, 0, 100) == WHOLE[:100]


def test_a_ring_of_a_loop_that_is_over_says_so(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    rings = []

    async def first() -> None:
        rings.append(aioring.get_ring())
        await rings[0].read(fd, 0, 100)

    async def second() -> None:
        with pytest.raises((aioring.RingClosedError, aioring.WrongLoopError)):
            await rings[0].read(fd, 0, 100)
        assert aioring.get_ring() is not rings[0]

    asyncio.run(first())
    asyncio.run(second())
    os.close(fd)


# --- get_ring ---------------------------------------------------------------------------------------------------------


async def test_get_ring_gives_one_ring_a_loop(anyio_backend: Any, fd: int) -> None:
    ring = aioring.get_ring()
    assert aioring.get_ring() is ring
    rings: list[aioring.Ring] = []

    async def note() -> None:
        rings.append(aioring.get_ring())

    async with anyio.create_task_group() as group:
        group.start_soon(note)
        group.start_soon(note)
    assert rings == [ring, ring]
    await anyio.to_thread.run_sync(lambda: anyio.run(note))
    assert rings[2] is not ring
    await ring.aclose()
    again = aioring.get_ring()
    assert again is not ring
    assert await again.read(fd, 0, 10) == WHOLE[:10]
    await again.aclose()


RUNNERS = {
    "asyncio.run": "asyncio.run(main())",
    "Runner": """
        with asyncio.Runner() as runner:
            assert runner.run(main()) is runner.run(main())
    """,
    "Runner of uvloop": """
        import uvloop
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(main()) is runner.run(main())
    """,
    "uvloop.run": "import uvloop; uvloop.run(main())",
    "anyio.run": "import anyio; anyio.run(main, backend='asyncio')",
    "anyio.run on uvloop": "import anyio; anyio.run(main, backend='asyncio', backend_options={'use_uvloop': True})",
    "anyio.run on trio": "import anyio; anyio.run(main, backend='trio')",
    "trio.run": "import trio; trio.run(main)",
    "a bare loop": """
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(main()) is loop.run_until_complete(main())
        loop.close()
        loop.close()
    """,
    "a bare uvloop": """
        import uvloop
        loop = uvloop.new_event_loop()
        assert loop.run_until_complete(main()) is loop.run_until_complete(main())
        loop.close()
    """,
    "ten threads": """
        import trio, uvloop
        rings, errors = [], []
        together = threading.Barrier(10)
        def thread(i):
            try:
                together.wait()
                run = [lambda: asyncio.run(main()), lambda: uvloop.run(main()), lambda: trio.run(main)][i % 3]
                rings.append(run())
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=thread, args=(i,)) for i in range(10)]
        for one in threads: one.start()
        for one in threads: one.join()
        assert not errors, errors
        assert len(set(map(id, rings))) == 10
    """,
    "tasks still pending": """
        async def abandon():
            ring = await main()
            fd = os.open(PATH, os.O_RDONLY)
            ABANDONED.append((fd, [asyncio.ensure_future(ring.readinto(fd, 0, bytearray(90_000))) for _ in range(50)]))
            await asyncio.sleep(0)
        asyncio.run(abandon())
        for fd, tasks in ABANDONED:
            os.close(fd)
        ABANDONED.clear()
    """,
}


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_the_ring_of_a_loop_ends_with_it_and_leaves_nothing(runner: str, path: Path) -> None:
    program = """
    PATH, ABANDONED = sys.argv[1], []

    async def main():
        ring = get_ring()
        assert get_ring() is ring and ring.method == os.environ["AIORING_METHOD"]
        fd = await ring.open(PATH, os.O_RDONLY)
        assert len(await ring.read(fd, 0, 100_000)) == 100_000
        assert len(await ring.read(fd, 50, 100)) == 100
        assert await ring.run(sum, (1, 2)) == 3
        r, w = os.pipe()
        os.write(w, b"x")
        assert await ring.read(r, -1, 5) == b"x"
        for one in (fd, r, w):
            await ring.close(one)
        return ring

    def go():
    %s
    # Once for what modules and loops keep for the life of the process (libuv's signal pipe).
    os.environ["AIORING_METHOD"] = "sync"
    go()
    gc.collect()
    before = has()
    for method in ("io_uring", "linux_aio", "worker", "sync"):
        os.environ["AIORING_METHOD"] = method
        for _ in range(2):
            go()
            gone(before)
    assert threading.active_count() == 1
    """
    body = textwrap.indent(textwrap.dedent(runner).strip("\n"), " " * 8)
    child(textwrap.dedent(program) % body, path)


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
def test_rings_in_threads_never_see_each_others_bytes(method: str, tmp_path: Path) -> None:
    child(
        """
        async def read_for_ever(me):
            name = f"{sys.argv[1]}/{me}"
            async with Ring(method=sys.argv[2]) as ring:
                fd = await ring.open(name, os.O_RDWR | os.O_CREAT)
                await ring.write(fd, 0, bytes([me]) * 65536)
                buffer = bytearray(65536)
                until = time.monotonic() + 1
                while time.monotonic() < until and not wrong:
                    for _ in range(50):
                        if await ring.read(fd, 0, 65536) != bytes([me]) * 65536:
                            wrong.append(me)
                        await ring.readinto(fd, 0, buffer)
                        if buffer != bytes([me]) * 65536:
                            wrong.append(me)
                await ring.close(fd)

        wrong = []
        threads = [threading.Thread(target=lambda me=me: asyncio.run(read_for_ever(me))) for me in range(1, 5)]
        for one in threads: one.start()
        for one in threads: one.join()
        assert not wrong, wrong
        """,
        tmp_path,
        method,
    )


def test_get_ring_works_under_pytest_asyncio(tmp_path: Path, path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode=strict\nfilterwarnings=error\nasyncio_default_fixture_loop_scope=function\n"
    )
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            f"""
            import os, time
            import aioring, pytest
            seen = []

            @pytest.mark.parametrize("method", ["io_uring", "worker", "sync"] * 2)
            @pytest.mark.asyncio
            async def test_one(method, monkeypatch):
                monkeypatch.setenv("AIORING_METHOD", method)
                ring = aioring.get_ring()
                assert ring.method == method and ring not in seen
                seen.append(ring)
                fd = await ring.open({str(path)!r}, os.O_RDONLY)
                assert len(await ring.read(fd, 0, 100)) == 100
                await ring.run(sum, (1, 2))
                await ring.close(fd)

            def test_nothing_is_left():
                assert len(seen) == 6 and all(ring.closed for ring in seen)
                until = time.monotonic() + 2
                while True:
                    left = [os.readlink("/proc/self/fd/" + n) for n in os.listdir("/proc/self/fd") if
                            os.path.islink("/proc/self/fd/" + n)]
                    left = [t for t in left if "io_uring" in t or "eventfd" in t]
                    if not left or time.monotonic() > until:
                        break
                assert not left
                assert "io_uring" not in open("/proc/self/maps").read()
            """
        ).replace('open("/proc/self/maps").read()', '__import__("pathlib").Path("/proc/self/maps").read_text()')
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


# --- forgotten --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_unclosed_ring_warns_and_leaves_nothing(run: Callable[[Any], Any], method: str, path: Path) -> None:
    before, maps = open_fds(), ring_maps()

    async def main() -> None:
        ring = aioring.Ring(method=method)
        await ring.start()
        fd = await ring.open(path, os.O_RDONLY)
        assert await ring.read(fd, 0, 100) == WHOLE[:100]
        await ring.run(os.getpid)
        await ring.close(fd)
        kept.append(ring)

    kept: list[aioring.Ring] = []
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        run(main())
    assert kept[0].closed
    settle(lambda: open_fds() - before == set() and ring_maps() == maps)


@pytest.mark.parametrize("method", NATIVE)
async def test_a_ring_that_nobody_holds_any_more_warns_and_leaves_nothing(
    anyio_backend: Any, method: str, path: Path
) -> None:
    before, maps = open_fds(), ring_maps()
    ring = aioring.Ring(method=method)
    await ring.start()
    await ring.stat(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del ring
        gc.collect()
    assert any("unclosed ring" in str(one.message) and one.category is ResourceWarning for one in caught)
    with anyio.fail_after(2):
        while open_fds() - before or ring_maps() != maps:
            await anyio.sleep(0.005)


def test_an_unclosed_ring_on_trio_warns() -> None:
    out = child(
        """
        import trio
        async def main():
            ring = Ring(method="io_uring")
            await ring.start()
            kept.append(ring)
        async def nothing():
            pass
        trio.run(nothing)
        kept, before = [], has()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trio.run(main)
        print([str(w.message) for w in caught if w.category is ResourceWarning])
        assert kept[0].closed
        gone(before)
        """
    )
    assert "unclosed ring" in out


def settle(right: Callable[[], bool]) -> None:
    """What worker threads let go of as they leave is gone a moment later."""
    until = time.monotonic() + 2
    while not right() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.005)
    assert right()


# --- closed with I/O under way ----------------------------------------------------------------------------------------


async def right_or_closed(awaitable: Any, right: Any) -> bool:
    """It gives what it should, or says that the ring was closed. Whether it gave."""
    try:
        got = await awaitable
    except aioring.RingClosedError:
        return False
    assert got == right
    return True


async def test_reads_that_wait_for_a_slot_are_failed_by_close(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int
) -> None:
    ring = make_ring(depth=2)
    await ring.start()
    started = [ring.start_read(fd, i * 100, 100) for i in range(500)]
    await ring.aclose()
    assert all(one.done() for one in started)
    gave = [await right_or_closed(one, WHOLE[i * 100 : i * 100 + 100]) for i, one in enumerate(started)]
    assert not all(gave)


async def test_staged_reads_are_failed_by_close_and_staged_closes_are_not(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, path: Path
) -> None:
    ring = make_ring()
    await ring.start()
    fd = os.open(path, os.O_RDONLY)
    started = [ring.start_read(fd, 0, 100) for _ in range(10)]

    asked: list[int] = []

    async def close() -> None:
        asked.append(fd)
        await right_or_closed(ring.close(fd), None)

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        while not asked:
            await anyio.lowlevel.checkpoint()
        await ring.aclose()
    for one in started:
        await right_or_closed(one, WHOLE[:100])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("seed", range(20))
async def test_close_between_two_transfers_waits_and_fails(anyio_backend: Any, fd: int, seed: int) -> None:
    ring = aioring.Ring(method=Scripted(seed, short=1.0, soft=0.5))
    await ring.start()
    buffers = [bytearray(5000) for _ in range(20)]
    outcomes: list[bool] = []

    async def one(buffer: bytearray, i: int) -> None:
        gave = await right_or_closed(ring.readinto(fd, i * 100, buffer), 5000)
        outcomes.append(gave)
        if gave:
            assert buffer == WHOLE[i * 100 : i * 100 + 5000]
        buffer[:] = b"!" * 5000

    async with anyio.create_task_group() as group:
        for i, buffer in enumerate(buffers):
            group.start_soon(one, buffer, i)
        for _ in range(seed % 7 + 1):
            await anyio.lowlevel.checkpoint()
        await ring.aclose()
    assert len(outcomes) == 20
    assert all(buffer == b"!" * 5000 for buffer in buffers)
    assert ring._started is not None
    assert not ring._started.live


@pytest.mark.parametrize("ticks", [0, 1, 2, 5])
async def test_close_with_reads_of_the_disk_in_flight(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, path: Path, ticks: int
) -> None:
    ring = make_ring()
    await ring.start()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    started = [ring.start_read(fd, i * 4096, 4096) for i in range(24)]
    for _ in range(ticks):
        await anyio.lowlevel.checkpoint()
    await ring.aclose()
    os.close(fd)
    for i, one in enumerate(started):
        await right_or_closed(one, WHOLE[i * 4096 : i * 4096 + 4096])


@pytest.mark.parametrize("cold", [True, False])
async def test_close_in_the_middle_of_many_tasks(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any, fd: int, cold: bool
) -> None:
    os.fsync(fd)
    if cold:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    ring = make_ring(depth=8)
    await ring.start()
    count = 0

    async def forever(i: int) -> None:
        nonlocal count
        while await right_or_closed(ring.read(fd, i * 100, 1000), WHOLE[i * 100 : i * 100 + 1000]):
            count += 1

    async with anyio.create_task_group() as group:
        for i in range(50):
            group.start_soon(forever, i)
        with anyio.fail_after(10):
            while count < 100:
                await anyio.lowlevel.checkpoint()
        await ring.aclose()


async def test_waits_for_a_pipe_are_ended_by_close(
    ring: aioring.Ring, pipe: tuple[int, int], make_ring: Callable[..., aioring.Ring]
) -> None:
    other = make_ring()
    await other.start()

    async def wait() -> None:
        with pytest.raises(aioring.RingClosedError):
            await other.read(pipe[0], -1, 10)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await other.aclose()
    os.write(pipe[1], b"still there")
    assert await ring.read(pipe[0], -1, 100) == b"still there"


@pytest.mark.parametrize("method", NATIVE)
async def test_close_waits_for_large_direct_reads_and_their_memory_is_then_ours(
    anyio_backend: Any, method: str, tmp_path: Path
) -> None:
    size = 64 << 20
    path = tmp_path / "large"
    block = pattern(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    ring = aioring.Ring(method=method)
    await ring.start()
    buffers = [aioring.alloc(size) for _ in range(2)]

    told = [anyio.Event() for _ in buffers]

    async def one(buffer: memoryview, told: anyio.Event) -> None:
        try:
            if await right_or_closed(ring.readinto(fd, 0, buffer), size):
                assert buffer[-(1 << 20) :] == block
        finally:
            told.set()

    async with anyio.create_task_group() as group:
        for buffer, event in zip(buffers, told, strict=True):
            group.start_soon(one, buffer, event)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(20):
            await ring.aclose()
            for event in told:
                await event.wait()  # it has looked at what it read
        for buffer in buffers:
            buffer[:] = b"\xa5" * size
    os.preadv(fd, [aioring.alloc(16 << 20)], 0)  # as long as what was in flight would have taken
    assert all(buffer == b"\xa5" * size for buffer in buffers)
    os.close(fd)


async def test_close_gives_a_stuck_call_up_after_its_timeout(
    make_ring: Callable[..., aioring.Ring], anyio_backend: Any
) -> None:
    ring, running, go = make_ring(), threading.Event(), threading.Event()
    await ring.start()

    def call() -> None:
        running.set()
        go.wait()

    async def stuck() -> None:
        with pytest.raises(aioring.RingClosedError):
            await ring.run(call)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(stuck)
            while not running.is_set():
                await anyio.sleep(0.001)
            began = time.monotonic()
            with pytest.warns(ResourceWarning, match=r"1 I/Os \(run\) did not end"):
                await ring.aclose(timeout=0.1)
            assert 0.05 < time.monotonic() - began < 1
    finally:
        go.set()
    with anyio.fail_after(2):
        while any(thread.name.startswith("aioring") for thread in threading.enumerate()):
            await anyio.sleep(0.005)


async def submitted(ring: aioring.Ring) -> None:
    """Wait until something is in flight."""
    assert ring._started is not None
    while not ring._started.live:
        await anyio.lowlevel.checkpoint()


class Stuck(Scripted):
    """Completes nothing, ever."""

    def poll(self) -> None:
        return None

    def cancel(self, handle: Any) -> None:
        return None


async def test_the_buffer_of_a_read_that_was_given_up_is_never_freed(anyio_backend: Any, fd: int) -> None:
    ring, buffer = aioring.Ring(method=Stuck()), bytearray(1000)
    await ring.start()

    async def read() -> None:
        with pytest.raises(aioring.RingClosedError):
            await ring.readinto(fd, 0, buffer)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await submitted(ring)
        with pytest.warns(ResourceWarning, match="buffers stay allocated"):
            await ring.aclose(timeout=0.05)
    gc.collect()
    with pytest.raises(BufferError):
        buffer.append(0)


async def test_a_close_that_is_cancelled_does_not_hang(anyio_backend: Any, fd: int) -> None:
    ring = aioring.Ring(method=Stuck())
    await ring.start()
    read = ring.start_read(fd, 0, 100)
    await submitted(ring)
    began = time.monotonic()
    with pytest.warns(ResourceWarning, match="did not end"):
        with anyio.move_on_after(0.05):
            await ring.aclose()
    assert time.monotonic() - began < 3
    assert ring.closed
    with pytest.raises(aioring.RingClosedError):
        await read


# --- interpreter exit -------------------------------------------------------------------------------------------------

EXITS = {
    "a stuck worker call": """
        async def main():
            ring = get_ring()
            asyncio.ensure_future(ring.run(threading.Event().wait))
            await asyncio.sleep(0.05)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "a stuck worker call in a loop that is closed": """
        async def main():
            ring = get_ring()
            task = asyncio.ensure_future(ring.run(threading.Event().wait))
            await asyncio.sleep(0.05)
            task.cancel()
        asyncio.run(main())
    """,
    "reads in flight": """
        async def main():
            ring = get_ring()
            fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
            started = [ring.start_read(fd, 0, 98304) for _ in range(100)]
            r, w = os.pipe()
            waiting = asyncio.ensure_future(ring.read(r, -1, 10))
            await asyncio.sleep(0)
            return started, waiting
        loop = asyncio.new_event_loop()
        kept = loop.run_until_complete(main())
    """,
    "nothing closed": """
        async def main():
            global ring, fd
            ring = Ring()
            await ring.start()
            fd = await ring.open(sys.argv[1], os.O_RDONLY)
            await ring.read(fd, 0, 100_000)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "sys.exit inside": """
        async def main():
            ring = get_ring()
            fd = await ring.open(sys.argv[1], os.O_RDONLY)
            kept = [ring.start_read(fd, 0, 90_000) for _ in range(50)]
            sys.exit(0)
        asyncio.run(main())
    """,
    "a thread's loop that still runs": """
        def thread():
            async def main():
                ring = get_ring()
                fd = await ring.open(sys.argv[1], os.O_RDONLY)
                while True:
                    await ring.read(fd, 0, 90_000)
                    running.set()
            asyncio.run(main())
        running = threading.Event()
        threading.Thread(target=thread, daemon=True).start()
        running.wait()
    """,
}


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("program", EXITS.values(), ids=EXITS)
def test_interpreter_exit_neither_hangs_nor_crashes(program: str, method: str, path: Path) -> None:
    began = time.monotonic()
    child(program, path, flags=(), quiet=False, timeout=10, AIORING_METHOD=method)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("method", [*NATIVE, "scripted"])
def test_tasks_destroyed_while_pending_do_not_crash(method: str, path: Path) -> None:
    child(
        """
        import logging
        from aioring.testing import Scripted
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # "Task was destroyed but it is pending!"
        warnings.simplefilter("ignore")
        for direct in (0, os.O_DIRECT):
            for ticks in range(4):
                loop = asyncio.new_event_loop()
                ring = Ring(method=Scripted(ticks) if sys.argv[2] == "scripted" else sys.argv[2])
                loop.run_until_complete(ring.start())
                fd = os.open(sys.argv[1], os.O_RDONLY | direct)
                tasks = [loop.create_task(ring.readinto(fd, 0, aioring.alloc(98304))) for _ in range(20)]
                tasks += [loop.create_task(ring.read(fd, 0, 98304)) for _ in range(20)]
                async def tick():
                    for _ in range(ticks):
                        await asyncio.sleep(0)
                loop.run_until_complete(tick())
                if ticks % 2:
                    del tasks, ring
                    gc.collect()
                loop.close()
                tasks = ring = None
                gc.collect()
                os.close(fd)
        gc.collect()
        """,
        path,
        method,
        quiet=False,
    )


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("method", "n"), [("io_uring", 10_000), ("linux_aio", 300), ("worker", 300), ("sync", 300)])
def test_rings_opened_and_closed_leave_fds_and_maps_constant(method: str, n: int, path: Path) -> None:
    child(
        """
        async def main():
            fd = os.open(sys.argv[1], os.O_RDONLY)
            async def one(i):
                async with Ring(method=sys.argv[2], depth=8) as ring:
                    assert len(await ring.read(fd, 0, 90_000)) == 90_000
                    if not i % 100:
                        await ring.run(os.getpid)
            await one(1)
            before = has()[:2]
            for i in range(int(sys.argv[3])):
                await one(i)
                if not i % 1000:
                    gc.collect()
            until = time.monotonic() + 3
            while has() != (*before, []) and time.monotonic() < until:
                await asyncio.sleep(0.01)
            assert has()[:2] == before and not has()[2], (before, has())
            os.close(fd)
        asyncio.run(main())
        """,
        path,
        method,
        n,
        flags=("-W", "error"),
        timeout=55,
    )


# --- KeyboardInterrupt ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "scripted"])
def test_keyboard_interrupt_anywhere_inside_loses_nothing(method: str, tmp_path: Path) -> None:
    """Struck 1,200 times inside aioring, and resumed: every operation gives what it should or was interrupted."""
    out = child(KEYBOARD_INTERRUPT, tmp_path, method, 1200, flags=("-W", "ignore"), timeout=55, quiet=False)
    assert "fine" in out


KEYBOARD_INTERRUPT = r"""
from aioring.handle import Handle
from aioring.operations import READ_SCATTERED
from aioring.testing import Scripted
from tests.strikes import Strikes
folder, method, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
whole = b"".join(i.to_bytes(4, "little") for i in range(65536))
done = lost = 0
loop = asyncio.new_event_loop()
before = has()
ring = Ring(method=Scripted(3) if method == "scripted" else method, depth=16, page_cache_first=False)
loop.run_until_complete(ring.start())
engine = ring._started

def state():
    return done, "done,", engine.live, engine.staged, engine.completed, engine.backlog, "flush soon", engine._flush_soon

strikes = Strikes(loop, wanted, state)

async def work(i):
    global done, lost
    mine = random.Random(i)
    path = f"{folder}/{i % 8}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    if os.fstat(fd).st_size != len(whole):
        os.pwrite(fd, whole, 0)
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        while not strikes.over:
            at, n = mine.randrange(200_000), mine.randrange(1, 60_000)
            kind = mine.randrange(7 if method == "io_uring" else 6)
            if kind == 0:
                assert await ring.read(fd, at, n) == whole[at : at + n]
            elif kind == 1:
                buffer = bytearray(n)
                assert await ring.readinto(fd, at, buffer) == n and buffer == whole[at : at + n]
            elif kind == 2:
                assert await ring.write(fd, at, whole[at : at + n]) == n
            elif kind == 3:
                at &= ~4095
                assert await ring.read(direct, at, 8192) == whole[at : at + 8192]
            elif kind == 4:
                started = [ring.start_read(fd, at + k, 100) for k in range(5)]
                for k, one in enumerate(started):
                    assert await one == whole[at + k : at + k + 100]
            elif kind == 6:
                handle = Handle(READ_SCATTERED, direct, 0, 7 * 4096)
                handle.view = aioring.alloc(7 * 4096)
                handle.offsets, handle.together = [4096 * mine.randrange(60) for _ in range(7)], 7
                assert await engine.do(handle) == 7 * 4096
                assert handle.view == b"".join(whole[offset : offset + 4096] for offset in handle.offsets)
            else:
                try:
                    new = await ring.open(path, os.O_RDONLY)
                except KeyboardInterrupt:
                    lost += 1
                    raise
                try:
                    assert await ring.read(new, 5, 10) == whole[5:15]
                finally:
                    os.close(new)
            done += 1
            strikes.progress()
    finally:
        os.close(fd)
        os.close(direct)

strikes.run(work)

async def drained():
    until = time.monotonic() + 5
    while (engine.live or engine.staged or engine.for_workers) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert not engine.live and not engine.staged and not engine.for_workers, (engine.live, engine.staged)
    fd = os.open(f"{folder}/1", os.O_RDONLY)
    assert await ring.read(fd, 0, 60_000) == whole[:60_000]
    try:
        await asyncio.wait_for(ring.close(fd), 3)
    except TimeoutError:
        print("a close hangs:", fd, engine.held, engine.closing, flush=True)
        os._exit(4)
    assert not engine.held and not engine.closing and not engine.backlog, (engine.held, engine.closing)
    await ring.aclose(timeout=5)
strikes.resume(loop.create_task(drained()))
loop.close()
gc.collect()
left = {n: t for n, t in has()[0].items() if n not in before[0]}
# Struck between its result and its return an open loses its fd, as os.open does; no other fd may be left.
assert len(left) <= lost and all(t.startswith(folder) for t in left.values()), (lost, left)
print("fine:", strikes.struck, "strikes at", len(strikes.where), "places,", done, "done,", strikes.tasks, "tasks")
"""
