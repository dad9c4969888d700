"""Forked children and subinterpreters: the parent's I/O is never theirs (invariant 4)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.test_lifetime import NATIVE, ROOT, child

METHODS = [*NATIVE, "scripted"]

# A parent with reads of a file and of a pipe under way; `reap(pid)` awaits a child without the loop's own self-pipe,
# which the tear-down of an asyncio loop in the child takes out of the epoll that both share.
PARENT = '''
from aioring.testing import Scripted
PATH, METHOD = sys.argv[1], sys.argv[2]
with open(PATH, "rb") as file:
    WHOLE = file.read()

def make():
    return Ring(method=Scripted(5) if METHOD == "scripted" else METHOD)

def step(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")

class Busy:
    """`async with Busy() as busy`: I/O in flight before the block, all of it right after it."""

    async def __aenter__(self):
        self.ring = await make().__aenter__()
        self.fd = os.open(PATH, os.O_RDWR)
        self.direct = os.open(PATH, os.O_RDONLY | os.O_DIRECT)
        self.source, self.sink = os.pipe()
        self.piped = asyncio.ensure_future(self.ring.read(self.source, -1, 100))
        self.reads = [self.ring.start_read(self.direct, i * 4096, 4096) for i in range(24)]
        self.buffer = aioring.alloc(65536)
        self.into = asyncio.ensure_future(self.ring.readinto(self.direct, 0, self.buffer))
        self.write = asyncio.ensure_future(self.ring.write(self.fd, 0, WHOLE))
        for _ in range(random.Random(os.environ.get("SEED")).randrange(4)):
            await asyncio.sleep(0)
        return self

    async def reap(self, pid, code=0):
        _, status = await asyncio.wait_for(self.ring.run(os.waitpid, pid, 0), 10)
        assert os.waitstatus_to_exitcode(status) == code, status

    async def __aexit__(self, *_):
        if _[0] is not None:
            return
        for i, read in enumerate(self.reads):
            assert await asyncio.wait_for(asyncio.ensure_future(read._wait()), 5) == WHOLE[i * 4096 :][:4096]
        assert await asyncio.wait_for(self.into, 5) == 65536 and self.buffer == WHOLE[:65536]
        assert await asyncio.wait_for(self.write, 5) == len(WHOLE)
        os.write(self.sink, b"piped")
        assert await asyncio.wait_for(self.piped, 5) == b"piped"
        assert await self.ring.read(self.fd, 7, 70_000) == WHOLE[7:70_007]
        await self.ring.aclose()
        for fd in (self.fd, self.direct, self.source, self.sink):
            os.close(fd)
'''


def parent(source: str, path: Path, method: str, quiet: bool = True, **env: Any) -> str:
    return child(PARENT + textwrap.dedent(source), path, method, quiet=quiet, **env)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_only_exits_does_no_harm(method: str, path: Path, seed: int) -> None:
    parent(
        """
        async def main():
            async with Busy() as busy:
                for _ in range(3):
                    pid = os.fork()
                    if not pid:
                        os._exit(0)
                    await busy.reap(pid)
        asyncio.run(main())
        """,
        path,
        method,
        SEED=str(seed),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_stays_does_not_keep_the_parent_from_closing(method: str, path: Path) -> None:
    parent(
        """
        async def main():
            source, sink = os.pipe()
            async with Busy():
                pid = os.fork()
                if not pid:
                    os.close(sink)
                    os.read(source, 1)  # until the parent is done
                    os._exit(0)
            os.close(sink)
            os.close(source)
            assert os.waitpid(pid, 0)[1] == 0
        before = has()
        asyncio.run(main())
        gone(before)
        """,
        path,
        method,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_is_told_that_the_ring_is_the_parents(method: str, path: Path) -> None:
    parent(
        """
        async def main():
            async with Busy() as busy:
                assert await busy.ring.read(busy.fd, 0, 100) == WHOLE[:100]
                pid = os.fork()
                if not pid:
                    ring, fd, told = busy.ring, busy.fd, 0
                    calls = [
                        lambda: step(ring.read(fd, 0, 100)), lambda: step(ring.readinto(fd, 0, bytearray(10))),
                        lambda: step(ring.write(fd, 0, b"child")), lambda: step(ring.close(fd)),
                        lambda: step(ring.stat(PATH)), lambda: step(ring.read(busy.source, -1, 1)),
                        lambda: ring.start_read(fd, 0, 1), lambda: ring.batch().__enter__(),
                        lambda: step(ring.run(os.getpid)), lambda: step(ring.chain().__aenter__()),
                        lambda: step(ring.aclose()), lambda: busy.reads[0].cancel() or step(ring.fsync(fd)),
                    ]
                    for call in calls:
                        try:
                            call()
                        except aioring.WrongLoopError:
                            told += 1
                    os._exit(0 if told == len(calls) else 100 + told)
                await busy.reap(pid)
        asyncio.run(main())
        """,
        path,
        method,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_makes_a_ring_of_its_own_and_closes_nothing_of_the_parents(method: str, path: Path) -> None:
    parent(
        """
        async def own():
            ring = get_ring()
            fd = await ring.open(PATH, os.O_RDONLY)
            assert await ring.read(fd, 0, 100_000) == WHOLE
            assert await ring.read(fd, 0, 100) == WHOLE[:100]
            assert await ring.run(os.getpid) == os.getpid()
            async with Ring(method="worker") as other:
                assert await other.read(fd, 0, 90_000) == WHOLE[:90_000]
            await ring.close(fd)

        async def main():
            mine = get_ring()
            async with Busy() as busy:
                pid = os.fork()
                if not pid:
                    try:
                        asyncio.run(own())
                        code = 0
                    except BaseException:
                        import traceback
                        traceback.print_exc()
                        code = 1
                    os._exit(code)
                await busy.reap(pid)
                assert get_ring() is mine and (await mine.stat(PATH)).st_size == 100_000
        asyncio.run(main())
        """,
        path,
        method,
        AIORING_METHOD="auto" if method == "scripted" else method,
    )


def test_a_child_that_leaves_by_sys_exit_through_the_block_of_a_ring() -> None:
    """Its status is its own: the ring, which is its parent's, has nothing to say."""
    child(
        """
        async def main():
            async with Ring() as ring:
                await ring.run(int)
                pid = os.fork()
                if not pid:
                    signal.alarm(5)
                    sys.exit(3)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
                os._exit(0)  # the child has closed its copy of the loop
        asyncio.run(main())
        raise AssertionError
        """
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_leaves_by_sys_exit_through_the_loop_harms_nothing(method: str, path: Path) -> None:
    """Its loop's tear-down cancels the tasks that it inherited, and all of them must end."""
    parent(
        """
        async def main():
            async with Busy() as busy:
                buffers = [aioring.alloc(65536) for _ in range(16)]
                late = [asyncio.ensure_future(busy.ring.readinto(busy.direct, 0, one)) for one in buffers]
                await asyncio.sleep(0)
                pid = os.fork()
                if not pid:
                    signal.alarm(5)
                    sys.exit(3)
                await busy.reap(pid, 3)
                assert await asyncio.gather(*late) == [65536] * 16
                assert all(one == WHOLE[:65536] for one in buffers)
        warnings.simplefilter("ignore")
        asyncio.run(main())
        """,
        path,
        method,
        quiet=False,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_closes_the_inherited_loop_harms_nothing(method: str, path: Path) -> None:
    parent(
        """
        async def main():
            loop = asyncio.get_running_loop()
            async with Busy() as busy:
                pid = os.fork()
                if not pid:
                    signal.alarm(5)
                    # What is left of the parent's ring and loop is collected.
                    ring = busy.ring
                    busy.__dict__.clear()
                    del ring, busy
                    gc.collect()
                    os._exit(4)
                await busy.reap(pid, 4)
        warnings.simplefilter("ignore")
        asyncio.run(main())
        """,
        path,
        method,
        quiet=False,  # asyncio: "Task was destroyed but it is pending!"
    )


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
@pytest.mark.parametrize("loop", ["uvloop", "trio"])
def test_forking_under_other_loops(loop: str, method: str, path: Path) -> None:
    parent(
        """
        import trio, uvloop
        async def main():
            async with make() as ring:
                fd = os.open(PATH, os.O_RDWR)
                reads = [ring.start_read(fd, i * 1000, 1000) for i in range(100)]
                pid = os.fork()
                if not pid:
                    try:
                        step(ring.read(fd, 0, 10))
                    except aioring.WrongLoopError:
                        os._exit(0)
                    os._exit(1)
                assert await ring.run(os.waitpid, pid, 0) == (pid, 0)
                assert b"".join([await one for one in reads]) == WHOLE
                os.close(fd)
        trio.run(main) if os.environ["LOOP"] == "trio" else uvloop.run(main())
        """,
        path,
        method,
        LOOP=loop,
    )


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("closed", [True, False], ids=["its loop closed", "its loop open"])
def test_a_prefork_server_that_used_its_ring_before_forking(closed: bool, method: str, path: Path) -> None:
    parent(
        """
        async def serve():
            ring = get_ring()
            fd = await ring.open(PATH, os.O_RDONLY)
            got = await asyncio.gather(*(ring.read(fd, i * 100, 100) for i in range(200)))
            assert b"".join(got) == WHOLE[:20_000]
            assert await ring.run(os.getpid) == os.getpid()
            await ring.close(fd)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(serve())
        if os.environ["CLOSED"] == "True":
            loop.close()
        pids = []
        for _ in range(4):
            pid = os.fork()
            if not pid:
                before = has()
                asyncio.run(serve())
                gone(before)
                sys.exit(0)
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        if os.environ["CLOSED"] != "True":
            loop.run_until_complete(serve())
            loop.close()
        """,
        path,
        method,
        quiet=closed,  # asyncio's own words about the loop that the child inherited open
        CLOSED=str(closed),
        AIORING_METHOD=method,
    )


@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker"])
def test_siblings_never_see_each_others_bytes(method: str, path: Path) -> None:
    parent(
        """
        async def read_for_ever(me, buffer):
            async with make() as ring:
                name = f"{PATH}.{me}"
                fd = await ring.open(name, os.O_RDWR | os.O_CREAT)
                await ring.write(fd, 0, bytes([me]) * 8192)
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    for _ in range(100):
                        assert await ring.read(fd, 0, 4096) == bytes([me]) * 4096
                        await ring.readinto(fd, 0, buffer)
                        assert buffer == bytes([me]) * 4096
                await ring.close(fd)

        buffer = aioring.alloc(4096)
        pids = []
        for me in range(1, 4):
            pid = os.fork()
            if not pid:
                asyncio.run(read_for_ever(me, buffer))
                sys.exit(0)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
        assert buffer == bytes(4096)
        """,
        path,
        method,
    )


@pytest.mark.parametrize("method", NATIVE)
def test_grandchildren(method: str, path: Path) -> None:
    parent(
        """
        async def use(deeper):
            ring = get_ring()
            fd = await ring.open(PATH, os.O_RDONLY)
            started = [ring.start_read(fd, i * 100, 100) for i in range(100)]
            if deeper:
                pid = os.fork()
                if not pid:
                    asyncio.run(use(deeper - 1))
                    os._exit(0)
                assert await ring.run(os.waitpid, pid, 0) == (pid, 0)
            assert b"".join([await one for one in started]) == WHOLE[:10_000]
            await ring.close(fd)
        asyncio.run(use(3))
        """,
        path,
        method,
        AIORING_METHOD=method,
    )


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_multiprocessing(how: str, method: str, path: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import asyncio, hashlib, multiprocessing, os, sys
            import aioring

            async def digest(path):
                ring = aioring.get_ring()
                fd = await ring.open(path, os.O_RDONLY)
                data = await ring.read(fd, 0, 1 << 20)
                await ring.close(fd)
                return ring.method, hashlib.sha256(data).hexdigest()

            def work(path):
                return asyncio.run(digest(path))

            async def main(path, how):
                mine = await digest(path)
                with multiprocessing.get_context(how).Pool(2) as pool:
                    theirs = await aioring.get_ring().run(pool.map, work, [path] * 6)
                    pool.close()
                    pool.join()
                assert theirs == [mine] * 6, (mine, theirs)
                assert await digest(path) == mine
                print(mine)

            if __name__ == "__main__":
                asyncio.run(main(*sys.argv[1:]))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(program), str(path), how],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AIORING_METHOD": method},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    assert method in done.stdout


def test_a_child_process_inherits_no_fd(path: Path) -> None:
    out = child(
        """
        import subprocess
        async def main():
            async with Ring(method="io_uring") as ring:
                fd = await ring.open(sys.argv[1], os.O_RDONLY)
                await ring.run(os.getpid)
                at = "/proc/self/fd/"
                list_them = f"import os; print([os.readlink({at!r} + n) for n in os.listdir({at!r})[3:-1]])"
                print(subprocess.run([sys.executable, "-c", list_them], close_fds=False, capture_output=True, text=True))
                await ring.close(fd)
        asyncio.run(main())
        """,
        path,
    )
    assert "io_uring" not in out
    assert "eventfd" not in out
    assert str(path) not in out


def test_subinterpreters_are_refused_clearly(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        sys.path[1:1] = {sys.path!r}
        try:
            import aioring
        except ImportError as error:
            text = str(error)
        else:
            import asyncio
            async def main():
                text = "nothing was said"
                for make in (aioring.get_ring, lambda: aioring.Ring()._start()):
                    try:
                        make()
                    except aioring.RingUnavailableError as error:
                        text = str(error) + error.hint
                return text
            text = asyncio.run(main())
        with open({str(said)!r}, "w") as file:
            file.write(text)
        """
    )
    child(
        """
        asyncio.run(asyncio.sleep(0))
        try:
            import _interpreters as interpreters
            run = interpreters.exec
        except ImportError:
            import _xxsubinterpreters as interpreters
            run = interpreters.run_string
        one = interpreters.create()
        problem = run(one, sys.argv[1])
        assert problem is None, problem
        interpreters.destroy(one)
        """,
        script,
        flags=(),
    )
    assert "subinterpreter" in said.read_text()
