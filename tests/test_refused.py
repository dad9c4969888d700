"""Where io_uring is refused, wholly or in part: by a seccomp filter, a limit, a sandbox, a broken liburing."""

from __future__ import annotations

import errno
import os
import platform
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioring
from aioring.kernel import abi
from aioring.kernel.features import LADDER, Unusable
from aioring.kernel.liburing import Liburing, SystemCalls
from aioring.methods.io_uring import IoUring
from tests.conftest import open_fds, pattern
from tests.test_lifetime import child as strict_child, ring_maps

WHOLE = pattern(100_000)

SETUP, ENTER, REGISTER = 425, 426, 427

# `refuse(number, code)`: from here on this process gets -code from that system call, as in Docker (seccomp(2)).
# `script(ring)`: real work, and what came of it.
TOOLS = """
import ctypes, errno, resource, struct
FOLDER = sys.argv[1]

def refuse(number, code):
    rows = [
        (0x20, 0, 0, 0),                # BPF_LD | BPF_W | BPF_ABS: seccomp_data.nr
        (0x15, 0, 1, number),           # BPF_JMP | BPF_JEQ | BPF_K
        (0x06, 0, 0, 0x00050000 | code),  # BPF_RET: SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7fff0000),       # SECCOMP_RET_ALLOW
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
    head = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(program))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

async def script(ring):
    said = []
    async def do(operation):
        try:
            said.append(await operation)
        except OSError as error:
            said.append((type(error).__name__, error.errno, error.filename))
    path = FOLDER + "/made"
    fd = await ring.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    await do(ring.write(fd, 0, b"hello " * 20_000))
    await do(ring.writev(fd, 3, [b"ab", b"cd"]))
    await do(ring.fsync(fd))
    direct = await ring.open(path, os.O_RDWR | os.O_DIRECT)
    block = aioring.alloc(4096)
    await do(ring.readinto(direct, 4096, block))
    said.append(bytes(block))
    await do(ring.write(direct, 8192, block))
    await do(ring.read(direct, 8192, 8192))
    await do(ring.readinto(direct, 1, block))
    await ring.close(direct)
    await do(ring.read(fd, 0, 20))
    await do(ring.read(fd, 100, 200_000))
    buffer = bytearray(100)
    await do(ring.readinto(fd, 119_950, buffer))
    said.append(bytes(buffer))
    await do(ring.truncate(fd, 10))
    await do(ring.read(fd, 0, 100))
    async with ring.chain() as chain:
        wrote, synced, back = chain.write(fd, 10, b"linked"), chain.fsync(fd, data_only=True), chain.read(fd, 0, 50)
    said.append((await wrote, await synced, await back))
    await do(ring.mkdir(FOLDER + "/folder"))
    await do(ring.mkdir(FOLDER + "/folder"))
    await do(ring.rename(path, FOLDER + "/folder/moved"))
    await do(ring.open(path, os.O_RDONLY))
    await do(ring.link(FOLDER + "/folder/moved", FOLDER + "/folder/linked"))
    await do(ring.symlink("moved", FOLDER + "/folder/symlink"))
    said.append((await ring.stat(FOLDER + "/folder/symlink")).st_size)
    for name in ("moved", "linked", "symlink"):
        await do(ring.unlink(FOLDER + "/folder/" + name))
    await do(ring.rmdir(FOLDER + "/folder"))
    await do(ring.read(1 << 20, 0, 10))
    await do(ring.run(sum, [1, 2]))
    await ring.close(fd)
    return said

async def on(method):
    async with Ring(method=method) as ring:
        return await script(ring)
"""


def child(source: str, *arguments: object, **options: Any) -> str:
    return strict_child(TOOLS + textwrap.dedent(source), *arguments, **options)


# --- by a filter ------------------------------------------------------------------------------------------------------

REFUSED = """
    number, code = int(sys.argv[2]), getattr(errno, sys.argv[3])
    name = errno.errorcode[code]  # EOPNOTSUPP is ENOTSUP
    before = has()
    expected = asyncio.run(on("sync"))
    refuse(number, code)

    async def main():
        async with Ring(method="auto") as ring:
            assert ring.method == "linux_aio"
            assert name in ring.fallback_reason, ring.fallback_reason
            assert ("io_uring_setup", "io_uring_enter", "io_uring_register")[number - 425] in ring.fallback_reason or (
                "a read on the ring" in ring.fallback_reason), ring.fallback_reason
            assert await script(ring) == expected
        ring = Ring(method="io_uring")
        try:
            await ring.start()
        except aioring.RingUnavailableError as error:
            assert isinstance(error, OSError) and isinstance(error, aioring.AioringError)
            assert error.errno == code and name in error.hint and error.hint in str(error), error
        else:
            raise AssertionError("it was not refused")
        got = get_ring()
        assert got.method == "linux_aio" and name in got.fallback_reason
        assert await script(got) == expected
    asyncio.run(main())
    gone(before)
"""


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS", "EOPNOTSUPP", "EACCES", "EINVAL", "ENOMEM"])
@pytest.mark.parametrize("liburing", ["", "none"], ids=["liburing", "system calls"])
def test_without_set_up_workers_do_the_same(code: str, liburing: str, tmp_path: Path) -> None:
    child(REFUSED, tmp_path, SETUP, code, AIORING_LIBURING=liburing)


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS", "EACCES", "EINVAL"])
@pytest.mark.parametrize("number", [ENTER, REGISTER], ids=["enter", "register"])
@pytest.mark.parametrize("liburing", ["", "none"], ids=["liburing", "system calls"])
def test_a_set_up_that_is_good_for_nothing_falls_back_too(
    code: str, number: int, liburing: str, tmp_path: Path
) -> None:
    child(REFUSED, tmp_path, number, code, AIORING_LIBURING=liburing)


AIO = {
    "x86_64": {"io_setup": 206, "io_submit": 209, "io_getevents": 208},
    "aarch64": {"io_setup": 0, "io_submit": 2, "io_getevents": 4},
}[platform.machine()]


@pytest.mark.parametrize("call", list(AIO))
@pytest.mark.parametrize("code", ["EPERM", "ENOSYS", "EAGAIN", "ENOMEM"])
def test_without_aio_either_workers_do_the_same(code: str, call: str, tmp_path: Path) -> None:
    """EAGAIN from io_setup is what fs.aio-max-nr says when it is used up."""
    child(
        """
        number, code = int(sys.argv[2]), getattr(errno, sys.argv[3])
        before = has()
        expected = asyncio.run(on("sync"))
        refuse(425, errno.EPERM)
        refuse(number, code)

        async def main():
            async with Ring(method="auto") as ring:
                assert ring.method == "worker"
                assert "EPERM from io_uring_setup" in ring.fallback_reason, ring.fallback_reason
                assert "nor linux_aio" in ring.fallback_reason, ring.fallback_reason
                if sys.argv[4] == "io_setup":
                    assert errno.errorcode[code] in ring.fallback_reason
                    assert code != errno.EAGAIN or "fs.aio-max-nr" in ring.fallback_reason
                assert await script(ring) == expected
            try:
                await Ring(method="linux_aio").start()
            except aioring.RingUnavailableError as error:
                assert error.errno and "linux_aio cannot be used" in str(error), error
            else:
                raise AssertionError("it was not refused")
        asyncio.run(main())
        gone(before)
        """,
        tmp_path,
        AIO[call],
        code,
        call,
    )


@pytest.mark.parametrize("runner", ["asyncio.run(main())", "trio.run(main)", "uvloop.run(main())"])
def test_get_ring_says_once_that_it_fell_back(runner: str, tmp_path: Path) -> None:
    child(
        """
        import logging
        import trio, uvloop
        records = []
        class Keep(logging.Handler):
            def emit(self, record):
                records.append(record)
        logging.getLogger("aioring").addHandler(Keep())
        logging.getLogger("aioring").setLevel(logging.INFO)
        refuse(425, errno.EPERM)
        async def main():
            ring = get_ring()
            assert ring.method == "linux_aio"
            assert (await ring.stat("/")).st_size
        for _ in range(3):
            eval(sys.argv[2])
        thread = threading.Thread(target=lambda: eval(sys.argv[2]))
        thread.start()
        thread.join()
        assert [(r.name, r.levelno) for r in records] == [("aioring", logging.INFO)], records
        assert "EPERM" in records[0].getMessage() and "seccomp" in records[0].getMessage()
        """,
        tmp_path,
        runner,
    )


def test_enter_refused_after_the_ring_was_made_fails_what_is_asked(tmp_path: Path) -> None:
    """Nobody waits for ever for a kernel that will not answer, and closing does not hang."""
    child(
        """
        async def main():
            ring = Ring(method="io_uring", page_cache_first=False)
            await ring.start()
            with open(FOLDER + "/file", "wb") as file:
                file.write(b"x" * 100_000)
            fd = await ring.open(FOLDER + "/file", os.O_RDONLY)
            refuse(426, errno.EPERM)
            for _ in range(3):
                try:
                    await asyncio.wait_for(ring.read(fd, 0, 100), 3)
                except PermissionError:
                    pass
                else:
                    raise AssertionError("it was read")
            await asyncio.wait_for(ring.aclose(timeout=1), 3)
            os.close(fd)
        asyncio.run(main())
        """,
        tmp_path,
    )


# --- by a limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("liburing", ["", "none"], ids=["liburing", "system calls"])
def test_with_few_fds_left_a_ring_works_or_says_emfile_and_leaks_nothing(liburing: str, tmp_path: Path) -> None:
    """Whatever step of the start it is that finds no fd: the ring falls back, or it says EMFILE; and nothing is left."""
    child(
        """
        HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def limit(n):
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, HARD))

        async def one(method, n):
            ring = Ring(method=method)
            limit(n)
            try:
                await ring.start()
                assert await ring.run(os.getpid) == os.getpid()
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                if method == "io_uring":
                    assert isinstance(error, aioring.RingUnavailableError) and "RLIMIT_NOFILE" in error.hint, repr(error)
            else:
                if method == "auto" and ring.method != "io_uring":
                    assert "EMFILE" in ring.fallback_reason
                return ring.method
            finally:
                limit(1024)
                await ring.aclose()
                while has() != before:
                    await asyncio.sleep(0.001)

        async def main():
            global before
            before = has()
            top, problems = max(before[0]), []
            for spare in range(12):
                for method in ("auto", "io_uring"):
                    try:
                        made = await asyncio.wait_for(one(method, top + 1 + spare), 3)
                    except BaseException as error:
                        problems.append((spare, method, repr(error)))
                        continue
                    # Workers need the doorbell and its twin.
                    if made is None and (spare > 10 or method == "auto" and spare >= 2):
                        problems.append((spare, method, made))
            assert not problems, problems
        limit(1024)
        asyncio.run(main())
        """,
        tmp_path,
        AIORING_LIBURING=liburing,
        flags=("-W", "error"),
    )


AS_NOBODY = """
    if os.getuid() == 0:
        os.chmod(FOLDER, 0o777)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""
needs_memlock = pytest.mark.skipif(
    os.getuid() != 0, reason="needs root, to become an ordinary user with a RLIMIT_MEMLOCK of its own"
)


@needs_memlock
@pytest.mark.parametrize("liburing", ["", "none"], ids=["liburing", "system calls"])
def test_under_a_tiny_memlock_rings_are_smaller_or_workers_serve(liburing: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    child(
        """
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        """
        + AS_NOBODY
        + """
        async def main():
            rings, kinds = [], []
            for _ in range(12):
                ring = Ring(method="auto")
                await ring.start()
                rings.append(ring)
                kinds.append((ring.method, ring.depth))
                assert ring.method == "io_uring" or "ENOMEM" in ring.fallback_reason and "MEMLOCK" in ring.fallback_reason
                fd = await ring.open("/proc/self/exe", os.O_RDONLY)
                started = [ring.start_read(fd, i * 10, 10) for i in range(600)]
                got = [await one for one in started]
                assert b"".join(got) == os.pread(fd, 6000, 0)
                await ring.close(fd)
            for ring in rings:
                await ring.aclose()
            print(kinds)
        asyncio.run(main())
        """,
        "/tmp",
        AIORING_LIBURING=liburing,
    )


@needs_memlock
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_an_ordinary_user_opens_and_closes_rings_without_end(tmp_path: Path) -> None:
    """6.18 charges rings to RLIMIT_MEMLOCK and gives it back late: 292 rings of 256 entries would fill 8 MiB."""
    child(
        """
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        """
        + AS_NOBODY
        + """
        async def main():
            fd = os.open("/proc/self/exe", os.O_RDONLY)
            for _ in range(2000):
                async with Ring(method="io_uring") as ring:
                    assert len(await ring.read(fd, 0, 100)) == 100
            os.close(fd)
        asyncio.run(main())
        """,
        "/tmp",
        flags=("-W", "error"),
        timeout=55,
    )


# --- in part ----------------------------------------------------------------------------------------------------------


async def work(ring: aioring.Ring, folder: Path) -> None:
    """Something of everything."""
    path = folder / "file"
    fd = await ring.open(path, os.O_RDWR | os.O_CREAT)
    assert await ring.write(fd, 0, WHOLE) == 100_000
    assert await ring.read(fd, 10, 80_000) == WHOLE[10:80_010]
    started = [ring.start_read(fd, i * 1000, 1000) for i in range(100)]
    assert b"".join([await one for one in started]) == WHOLE
    async with ring.chain() as chain:
        chain.write(fd, 0, b"chained")
        chain.fsync(fd)
        back = chain.read(fd, 0, 7)
    assert await back == b"chained"
    await ring.fsync(fd, data_only=True)
    await ring.truncate(fd, 5)
    assert (await ring.stat(fd)).st_size == 5
    await ring.rename(path, folder / "other")
    with pytest.raises(FileNotFoundError) as caught:
        await ring.stat(path)
    assert caught.value.filename == str(path)
    await ring.mkdir(folder / "sub")
    await ring.symlink("nowhere", folder / "sub" / "sym")
    await ring.unlink(folder / "sub" / "sym")
    await ring.rmdir(folder / "sub")
    await ring.unlink(folder / "other")
    await ring.close(fd)


NAMES = frozenset({abi.OP_RENAMEAT, abi.OP_UNLINKAT, abi.OP_MKDIRAT, abi.OP_SYMLINKAT, abi.OP_LINKAT, abi.OP_FTRUNCATE})


@pytest.mark.parametrize(
    "refuse",
    [NAMES, frozenset({abi.OP_WRITE}), frozenset({abi.OP_FSYNC, abi.OP_OPENAT, abi.OP_CLOSE, abi.OP_STATX}),
     frozenset(range(64)) - {abi.OP_READ}],
    ids=["names", "write", "files", "all but read"],
)  # fmt: skip
async def test_what_the_ring_refuses_the_workers_do(anyio_backend: Any, refuse: frozenset[int], tmp_path: Path) -> None:
    method = IoUring(refuse=refuse)
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        assert ring.method == "io_uring"
        await work(ring, tmp_path)
        assert ring._started is not None
        assert ring._started.workers.carried_out > 0


async def test_a_cancel_that_is_refused_waits_for_the_read(anyio_backend: Any, fd: int) -> None:
    async with aioring.Ring(method=IoUring(refuse=frozenset({abi.OP_ASYNC_CANCEL})), page_cache_first=False) as ring:
        buffer = bytearray(50_000)
        with anyio.move_on_after(0):
            await ring.readinto(fd, 0, buffer)
        assert await ring.read(fd, 5, 50_000) == WHOLE[5:50_005]


async def test_a_ring_that_cannot_read_is_unusable(anyio_backend: Any) -> None:
    before, maps = open_fds(), ring_maps()
    ring = aioring.Ring(method=IoUring(refuse=frozenset({abi.OP_READ})))
    with pytest.raises(Unusable) as caught:
        await ring.start()
    assert caught.value.errno == errno.EACCES
    assert "read" in caught.value.where
    assert "EACCES" in caught.value.hint
    assert (open_fds(), ring_maps()) == (before, maps)


@pytest.mark.parametrize("rung", range(len(LADDER)))
@pytest.mark.parametrize("route", [SystemCalls, lambda: Liburing("liburing.so.2")], ids=["system calls", "liburing"])
async def test_every_rung_of_the_ladder_reads_cancels_and_links(
    anyio_backend: Any, rung: int, route: Callable[[], Any], tmp_path: Path, path: Path
) -> None:
    try:
        method = IoUring(route(), ladder=LADDER[rung:])
    except OSError as error:
        pytest.skip(f"no liburing here: {error}")
    async with aioring.Ring(method=method, page_cache_first=False) as ring:
        assert method.flags == LADDER[rung]
        await work(ring, tmp_path)
        # A read of a disk that is cancelled: what is lent is the caller's again, whether the cancel won or not.
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = aioring.alloc(65536)
        for _ in range(20):
            async with anyio.create_task_group() as group:
                group.start_soon(ring.readinto, fd, 0, buffer)
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            buffer[:] = b"\0" * 65536
            assert await ring.readinto(fd, 0, buffer) == 65536
            assert buffer == WHOLE[:65536]
        os.close(fd)


# --- without liburing, or with a wrong one ----------------------------------------------------------------------------


def test_without_liburing_the_plain_system_calls_do(tmp_path: Path) -> None:
    child(
        """
        expected = asyncio.run(on("sync"))
        async def main():
            async with Ring(method="auto") as ring:
                assert ring.method == "io_uring" and ring.fallback_reason is None
                assert ring._started.method.route.name == "system calls"
                assert await script(ring) == expected
        asyncio.run(main())
        """,
        tmp_path,
        AIORING_LIBURING="none",
    )


@pytest.mark.parametrize("liburing", ["/nonexistent", "libc.so.6", "/etc/passwd"])
def test_a_wrong_liburing_falls_back_and_says_so(liburing: str, tmp_path: Path) -> None:
    child(
        """
        import logging
        records = []
        class Keep(logging.Handler):
            def emit(self, record):
                records.append(record.getMessage())
        logging.getLogger("aioring").addHandler(Keep())
        logging.getLogger("aioring").setLevel(logging.INFO)
        wrong = os.environ["AIORING_LIBURING"]
        expected = asyncio.run(on("sync"))
        async def main():
            for ring in (Ring(method="auto"), Ring(method="auto")):
                async with ring:
                    assert ring.method == "linux_aio"
                    assert wrong in ring.fallback_reason and "AIORING_LIBURING" in ring.fallback_reason
                    assert await script(ring) == expected
            try:
                await Ring(method="io_uring").start()
            except aioring.RingUnavailableError as error:
                assert error.errno and wrong in error.hint, error
            else:
                raise AssertionError("it was loaded")
            assert get_ring().method == "linux_aio"
        asyncio.run(main())
        assert len(records) == 1 and wrong in records[0], records
        """,
        tmp_path,
        AIORING_LIBURING=liburing,
    )
