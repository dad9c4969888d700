"""The behavioural core on the seeded method: 200 seeds of order, short transfers, soft errors and cancel races.

A failing seed prints itself; `AIORING_SEEDS=17` replays it alone, `AIORING_SEEDS=0:1000` tries a range.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring.testing import Scripted, Trace
from tests.conftest import open_fds, pattern

pytestmark = pytest.mark.timeout(60)


def seeds() -> list[int]:
    asked = os.environ.get("AIORING_SEEDS", "0:200")
    first, _, last = asked.partition(":")
    return list(range(int(first), int(last))) if last else [int(first)]


@pytest.fixture
def per_seed() -> Any:
    def run(body: Any) -> None:
        for seed in seeds():
            try:
                asyncio.run(asyncio.wait_for(body(seed), 10))
            except BaseException as error:
                error.add_note(f"seed {seed}: AIORING_SEEDS={seed} replays it")
                raise

    return run


WHOLE = pattern(20_000)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    path.write_bytes(WHOLE)
    return path


def test_transfers_are_whole_whatever_the_kernel_cuts(per_seed: Any, small: Path) -> None:
    async def body(seed: int) -> None:
        rng = random.Random(seed)
        async with aioring.Ring(method=Scripted(seed, short=0.8, soft=0.3), depth=rng.choice((1, 2, 8))) as ring:
            fd = await ring.open(small, os.O_RDWR)
            reads = []
            for _ in range(12):
                offset, n = rng.randrange(21_000), rng.randrange(6_000)
                reads.append((ring.start_read(fd, offset, n), offset, n))
            buffers = [bytearray(rng.randrange(300)) for _ in range(5)]
            got = await ring.readv(fd, 100, buffers)
            assert b"".join(buffers) == WHOLE[100 : 100 + got]
            assert got == sum(map(len, buffers))
            for read, offset, n in reads:
                assert await read == WHOLE[offset : offset + n]
            data = rng.randbytes(5_000)
            assert await ring.write(fd, 30_000, data) == 5_000
            parts = [rng.randbytes(rng.randrange(100)) for _ in range(9)]
            assert await ring.writev(fd, 40_000, parts) == sum(map(len, parts))
            assert os.pread(fd, 5_000, 30_000) == data
            assert os.pread(fd, 1_000, 40_000) == b"".join(parts)
            await ring.truncate(fd, 20_000)
            await ring.close(fd)

    per_seed(body)


def test_cancel_races_lose_no_fd_and_leave_nothing_in_flight(per_seed: Any, small: Path) -> None:
    async def body(seed: int) -> None:
        rng = random.Random(seed)
        fds = open_fds()
        async with aioring.Ring(method=Scripted(seed), depth=4) as ring:
            inside = open_fds()
            engine = ring._started
            assert engine is not None
            fd = os.open(small, os.O_RDWR)
            buffer = bytearray(3_000)

            async def opened() -> None:
                mine = await ring.open(small, os.O_RDONLY)
                try:
                    assert await ring.read(mine, 0, 100) == WHOLE[:100]
                finally:
                    await ring.close(mine)

            async def filled() -> None:
                await ring.readinto(fd, 0, buffer)

            async def written() -> None:
                await ring.write(fd, 20_000, b"w" * 4_000)

            async def chained() -> None:
                async with ring.chain() as chain:
                    chain.write(fd, 25_000, b"c" * 100)
                    chain.fsync(fd)
                    chain.read(fd, 25_000, 100)

            bodies = (opened, filled, written, chained, opened, lambda: ring.stat(small), lambda: ring.fsync(fd))
            tasks = [asyncio.ensure_future(rng.choice(bodies)()) for _ in range(12)]
            for _ in range(rng.randrange(8)):
                await asyncio.sleep(0)
            for task in rng.sample(tasks, 6):
                task.cancel()
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
                    task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, (asyncio.CancelledError, os.stat_result)), result
            snapshot = bytes(buffer)
            while engine.busy() or engine.backlog:
                await asyncio.sleep(0)
            assert bytes(buffer) == snapshot, "a buffer changed after its await had returned"
            assert not engine.held
            assert not engine.closing
            os.close(fd)
            assert open_fds() == inside
        assert open_fds() == fds

    per_seed(body)


def test_closing_a_ring_ends_everything_in_it(per_seed: Any, small: Path) -> None:
    async def body(seed: int) -> None:
        rng = random.Random(seed)
        fds = open_fds()
        ring = aioring.Ring(method=Scripted(seed), depth=3)
        await ring.start()
        fd = os.open(small, os.O_RDWR)
        other = os.open(small, os.O_RDWR)

        async def chained() -> None:
            async with ring.chain() as chain:
                for i in range(3):
                    chain.write(fd, 20_000 + i, b"c")

        bodies = (
            lambda: ring.read(fd, 0, 5_000),
            lambda: ring.readinto(fd, 0, bytearray(4_000)),
            lambda: ring.write(fd, 20_000, b"z" * 3_000),
            lambda: ring.open(small, os.O_RDONLY),
            chained,
        )
        tasks: list[Any] = [asyncio.ensure_future(rng.choice(bodies)()) for _ in range(10)]
        closing = asyncio.ensure_future(ring.close(other))
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        await ring.aclose()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, int) and result > 2 and result not in (3_000, 4_000):
                os.close(result)
            elif isinstance(result, bytes):
                assert result == WHOLE[:5_000]
            elif isinstance(result, BaseException):
                assert isinstance(result, aioring.RingClosedError), repr(result)
        closed = (await asyncio.gather(closing, return_exceptions=True))[0]
        assert closed is None or isinstance(closed, aioring.RingClosedError)
        os.close(fd)
        if closed is not None:
            os.close(other)
        assert open_fds() == fds

    per_seed(body)


def test_back_pressure_keeps_order_and_bounds(per_seed: Any, small: Path) -> None:
    async def body(seed: int) -> None:
        trace = Trace()
        async with aioring.Ring(method=Scripted(seed, short=0, soft=0, trace=trace), depth=3) as ring:
            engine = ring._started
            assert engine is not None
            fd = os.open(small, os.O_RDONLY)
            reads = [ring.start_read(fd, i * 4, 4) for i in range(40)]
            assert len(engine.live) + len(engine.staged) <= 3
            assert b"".join([await read for read in reads]) == WHOLE[:160]
            os.close(fd)
        submitted = [event.offset for event in trace.events if event.what == "submitted"]
        assert submitted == [i * 4 for i in range(40)]

    per_seed(body)


def test_an_injected_error_reaches_its_await_and_no_other(per_seed: Any, small: Path) -> None:
    async def body(seed: int) -> None:
        nth = seed % 5 + 1
        async with aioring.Ring(method=Scripted(seed, faults={("read", nth): errno.EIO}), depth=1) as ring:
            fd = os.open(small, os.O_RDONLY)
            outcomes = []
            for i in range(6):
                try:
                    outcomes.append(await ring.read(fd, i * 100, 100))
                except OSError as error:
                    outcomes.append(error.errno)  # type: ignore[arg-type]
                    assert "read of 100 bytes" in error.__notes__[0]
            os.close(fd)
        assert outcomes == [errno.EIO if i == nth - 1 else WHOLE[i * 100 : i * 100 + 100] for i in range(6)]

    per_seed(body)


def test_the_same_seed_gives_the_same_trace(small: Path) -> None:
    async def run(seed: int) -> str:
        method = Scripted(seed)
        async with aioring.Ring(method=method, depth=4) as ring:
            fd = await ring.open(small, os.O_RDWR)
            await asyncio.gather(*[ring.read(fd, i * 500, 700) for i in range(20)])
            await ring.write(fd, 0, b"q" * 900)
            await ring.close(fd)
        return f"{method.trace} {method.now}"

    traces = [[asyncio.run(run(seed)) for seed in range(10)] for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(set(traces[0])) == 10


@pytest.mark.parametrize(("cancel", "ends"), [("wins", True), ("loses", False)])
def test_a_cancel_can_be_made_to_win_or_lose(small: Path, cancel: Any, ends: bool) -> None:
    async def main() -> set[bool]:
        seen = set()
        for seed in range(30):
            trace = Trace()
            async with aioring.Ring(method=Scripted(seed, cancel=cancel, short=0, soft=0, trace=trace)) as ring:
                fd = os.open(small, os.O_RDONLY)
                task = asyncio.ensure_future(ring.readinto(fd, 0, bytearray(10)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                os.close(fd)
            seen |= {e.res == -errno.ECANCELED for e in trace.events if e.what == "completed"}
        return seen

    assert (True in asyncio.run(main())) == ends
