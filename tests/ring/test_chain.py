"""Chains and batches: in order, all or nothing after a failure, whole in spite of short transfers."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

import aioring
from aioring.testing import Recording, Scripted, Trace


async def test_a_chain_runs_its_links_in_order_and_gives_each_result(ring: aioring.Ring, fd: int) -> None:
    async with ring.chain() as chain:
        written = chain.write(fd, 0, b"x" * 10_000)
        synced = chain.fsync(fd, data_only=True)
        read = chain.read(fd, 9_990, 20)
        status = chain.stat(fd)
    assert await written == 10_000
    assert await synced is None
    assert (await read)[:10] == b"x" * 10
    assert (await status).st_size == 100_000


async def test_a_short_read_inside_a_chain_breaks_nothing(ring: aioring.Ring, fd: int) -> None:
    # To the kernel a read that meets end of file is short, and cancels the links behind it.
    async with ring.chain() as chain:
        first = chain.read(fd, 99_000, 5_000)
        second = chain.write(fd, 0, b"after")
        third = chain.read(fd, 99_999, 10)
        fourth = chain.fsync(fd)
    assert len(await first) == 1_000
    assert await second == 5
    assert len(await third) == 1
    await fourth
    assert os.pread(fd, 5, 0) == b"after"


async def test_a_failed_link_names_itself_and_ends_the_chain(ring: aioring.Ring, fd: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        async with ring.chain() as chain:
            first = chain.write(fd, 0, b"one")
            second = chain.unlink(tmp_path / "missing")
            third = chain.write(fd, 0, b"two")
    assert caught.value.link == 1  # type: ignore[attr-defined]
    assert caught.value.filename == str(tmp_path / "missing")
    assert await first == 3
    with pytest.raises(FileNotFoundError):
        await second
    with pytest.raises(OSError) as rest:
        await third
    assert rest.value.errno == errno.ECANCELED
    assert rest.value.link == 2  # type: ignore[attr-defined]
    assert os.pread(fd, 3, 0) == b"one"


async def test_a_block_that_raises_submits_nothing(ring: aioring.Ring, fd: int) -> None:
    before = os.pread(fd, 10, 0)
    with pytest.raises(KeyError):
        async with ring.chain() as chain:
            chain.write(fd, 0, b"never")
            raise KeyError
    assert os.pread(fd, 10, 0) == before


async def test_a_chain_that_closes_waits_for_what_was_asked_before(ring: aioring.Ring, path: Path) -> None:
    fd = await ring.open(path, os.O_RDWR)
    before = [ring.start_read(fd, i * 10, 10) for i in range(100)]
    async with ring.chain() as chain:
        chain.write(fd, 0, b"last words")
        chain.fsync(fd)
        chain.close(fd)
    assert len(b"".join([await one for one in before])) == 1000
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert path.read_bytes()[:10] == b"last words"


async def test_a_chain_that_failed_before_its_close_lifts_the_fence(
    ring: aioring.Ring, fd: int, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        async with ring.chain() as chain:
            chain.unlink(tmp_path / "missing")
            chain.close(fd)
    assert len(await ring.read(fd, 0, 10)) == 10


async def test_names_in_a_chain_replace_a_file_atomically(ring: aioring.Ring, path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    fd = await ring.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    async with ring.chain() as chain:
        chain.write(fd, 0, b"replaced")
        chain.fsync(fd)
        chain.close(fd)
        chain.rename(new, path)
    assert path.read_bytes() == b"replaced"
    assert not new.exists()


async def test_chains_beyond_depth_wait_and_all_finish(make_ring, anyio_backend, fd: int) -> None:  # type: ignore[no-untyped-def]
    import anyio

    async with make_ring(depth=4) as ring:

        async def one(i: int) -> None:
            async with ring.chain() as chain:
                chain.write(fd, i * 8, i.to_bytes(8, "little"))
                chain.read(fd, i * 8, 8)
                got = chain.read(fd, i * 8, 8)
            assert await got == i.to_bytes(8, "little")

        async with anyio.create_task_group() as group:
            for i in range(100):
                group.start_soon(one, i)
    assert os.pread(fd, 800, 0) == b"".join(i.to_bytes(8, "little") for i in range(100))


async def test_misuse_of_a_chain_is_said(ring: aioring.Ring, fd: int, pipe: tuple[int, int]) -> None:
    chain = ring.chain()
    with pytest.raises(aioring.AioringError, match="inside its"):
        chain.fsync(fd)
    async with chain:
        with pytest.raises(ValueError, match="cannot seek"):
            chain.write(pipe[1], 0, b"x")
        with pytest.raises(ValueError, match="negative"):
            chain.write(fd, -1, b"x")
    with pytest.raises(aioring.AioringError, match="used once"):
        async with chain:
            pass
    with pytest.raises(ValueError, match="more depth"):
        async with ring.chain() as chain:
            for _ in range(ring.depth + 1):
                chain.fsync(fd)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_io_uring_gets_a_chain_in_one_submission(anyio_backend: str, fd: int) -> None:
    trace = Trace()
    async with aioring.Ring(method=Recording("io_uring", trace)) as ring:
        async with ring.chain() as chain:
            for i in range(4):
                chain.write(fd, i, b"x")
            chain.fsync(fd)
    assert [e.what for e in trace.events] == ["staged"] * 5 + ["submitted"] * 5 + ["completed"] * 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", range(1, 4))
async def test_whichever_link_fails_the_rest_is_cancelled(anyio_backend: str, fd: int, fault: int) -> None:
    for seed in range(20):
        faults = {("write", fault): errno.ENOSPC}
        async with aioring.Ring(method=Scripted(seed, faults=faults)) as ring:
            with pytest.raises(OSError, match="No space left") as caught:
                async with ring.chain() as chain:
                    links = [chain.write(fd, i * 100, b"y" * 100) for i in range(3)]
            assert caught.value.link == fault - 1  # type: ignore[attr-defined]
            outcomes = []
            for link in links:
                try:
                    outcomes.append(await link)
                except OSError as error:
                    outcomes.append(error.errno or 0)
            assert outcomes == [100] * (fault - 1) + [errno.ENOSPC] + [errno.ECANCELED] * (3 - fault)


async def test_a_batch_is_submitted_on_leaving_the_block(ring: aioring.Ring, fd: int) -> None:
    with ring.batch():
        reads = [ring.start_read(fd, i * 4, 4) for i in range(10)]
        assert not any(read.done() for read in reads)
    if ring.method == "sync":
        assert all(read.done() for read in reads)  # carried out in place, and no tick has passed
    assert [await read for read in reads] == [i.to_bytes(4, "little") for i in range(10)]


async def test_a_batch_that_raises_still_submits_what_was_staged(ring: aioring.Ring, fd: int) -> None:
    with pytest.raises(KeyError), ring.batch():
        read = ring.start_read(fd, 0, 4)
        raise KeyError
    assert await read == (0).to_bytes(4, "little")


async def test_memory_that_was_lent_to_a_chain_is_free_when_it_is_over(ring: aioring.Ring, fd: int) -> None:
    gc.disable()
    try:
        written, filled = bytearray(b"written"), bytearray(100)
        async with ring.chain() as chain:
            put = chain.write(fd, 0, written)
            got = chain.readinto(fd, 0, filled)
        written += b"a bytearray that is lent cannot grow"
        filled.clear()
        assert (await put, await got) == (7, 100)
        with pytest.raises(OSError):
            async with ring.chain() as chain:
                chain.write(-1 & 0xFFFF, 0, written)
                chain.write(fd, 0, written)
        written.clear()
    finally:
        gc.enable()
