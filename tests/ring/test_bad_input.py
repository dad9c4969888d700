"""Bad input: each gives the error class and errno of the blocking call, and leaves the ring in working order.

Three differences from `os` are meant: a negative offset or size is a ValueError, what cannot seek takes offset -1, and
a short transfer is continued (so a full disk is an error even if a part fitted).
"""

from __future__ import annotations

import array
import ctypes
import errno
import functools
import inspect
import mmap
import os
import resource
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioring
from aioring.testing import Scripted
from tests.conftest import pattern

LIGHT = True  # see conftest.py

WHOLE = pattern(100_000)
ERRORS = (OSError, ValueError, TypeError, OverflowError, BufferError, MemoryError)
Calls = Mapping[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Any]]]


def said(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    return type(error).__name__ + (f" {errno.errorcode[code]}" if code else "")


def theirs(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ERRORS as error:
        return said(error)


async def ours(call: Callable[[], Awaitable[Any]]) -> Any:
    """What came of it. Nothing here may hang: an answer that never comes is an answer too."""
    try:
        with anyio.fail_after(3):
            return await call()
    except TimeoutError:
        return "hung"
    except ERRORS as error:
        return said(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def same(ring: aioring.Ring, calls: Calls) -> None:
    """Each pair, ours and theirs, comes to the same; and the ring still works."""
    expected = {name: theirs(their_call) for name, (_, their_call) in calls.items()}
    assert {name: await ours(our_call) for name, (our_call, _) in calls.items()} == expected
    await works(ring)


async def works(ring: aioring.Ring) -> None:
    assert ring._started is not None
    assert not ring._started.live
    fd = os.open(__file__, os.O_RDONLY)
    try:
        with anyio.fail_after(3):
            assert await ring.read(fd, 1, 20) == os.pread(fd, 20, 1)
    finally:
        os.close(fd)


async def all_are(ring: aioring.Ring, expected: str, calls: Mapping[str, Callable[[], Awaitable[Any]]]) -> None:
    assert {name: await ours(call) for name, call in calls.items()} == dict.fromkeys(calls, expected)
    await works(ring)


def on_fd(ring: aioring.Ring, fd: Any) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every operation on an fd, with arguments that are good."""
    return {
        "read": lambda: ring.read(fd, 0, 10),
        "readinto": lambda: ring.readinto(fd, 0, bytearray(10)),
        "readv": lambda: ring.readv(fd, 0, [bytearray(10), bytearray(3)]),
        "start_read": lambda: started(lambda: ring.start_read(fd, 0, 10)),
        "write": lambda: ring.write(fd, 0, b"abc"),
        "writev": lambda: ring.writev(fd, 0, [b"abc", b"d"]),
        "start_write": lambda: started(lambda: ring.start_write(fd, 0, b"abc")),
        "fsync": lambda: ring.fsync(fd),
        "fdatasync": lambda: ring.fsync(fd, data_only=True),
        "sync_range": lambda: ring.sync_range(fd, 0, 10),
        "truncate": lambda: ring.truncate(fd, 10),
        "allocate": lambda: ring.allocate(fd, 0, 10),
        "advise": lambda: ring.advise(fd, 0, 10, 0),
        "close": lambda: ring.close(fd),
    }


async def started(begin: Callable[[], Awaitable[Any]]) -> Any:
    return await begin()


# --- fds --------------------------------------------------------------------------------------------------------------


async def test_a_closed_fd_is_ebadf(ring: aioring.Ring, path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.close(fd)
    await all_are(ring, "OSError EBADF", {**on_fd(ring, fd), "stat": lambda: ring.stat(fd)})
    await all_are(
        ring, "OSError EBADF", {"nothing": lambda: ring.read(fd, 0, 0), "none": lambda: ring.write(fd, 0, b"")}
    )


@pytest.mark.parametrize("fd", [-1, -2, -100, -(1 << 31), (1 << 31) - 1])
async def test_an_fd_that_cannot_be_is_ebadf(ring: aioring.Ring, fd: int) -> None:
    calls = {**on_fd(ring, fd), "stat": lambda: ring.stat(fd)}
    syncs = {name: calls.pop(name) for name in ("fsync", "fdatasync")}
    await all_are(ring, "OSError EBADF", calls)
    await all_are(ring, theirs(lambda: os.fsync(fd)), syncs)  # a ValueError where it is negative: Python's own check


@pytest.mark.parametrize("fd", [1 << 40, 1 << 31, -(1 << 31) - 1, 1 << 100])
async def test_an_fd_that_is_no_int_of_c_is_an_overflow_error(ring: aioring.Ring, fd: int) -> None:
    assert theirs(lambda: os.pread(fd, 1, 0)) == theirs(lambda: os.close(fd)) == "OverflowError"
    await all_are(ring, "OverflowError", {**on_fd(ring, fd), "stat": lambda: ring.stat(fd)})


@pytest.mark.parametrize("fd", [None, "3", 3.0, b"3", object(), [3]], ids=lambda fd: type(fd).__name__)
async def test_an_fd_of_the_wrong_kind_is_a_type_error(ring: aioring.Ring, fd: Any) -> None:
    assert theirs(lambda: os.pread(fd, 1, 0)) == theirs(lambda: os.close(fd)) == "TypeError"
    await all_are(ring, "TypeError", on_fd(ring, fd))


async def test_what_has_a_fileno_is_taken_for_its_fd(ring: aioring.Ring, path: Path) -> None:
    with path.open("r+b") as file:
        assert await ring.read(file, 5, 10) == WHOLE[5:15]  # type: ignore[arg-type]
        assert await ring.write(file, 5, b"x") == 1  # type: ignore[arg-type]
        await ring.fsync(file)  # type: ignore[arg-type]


async def test_a_directory_is_no_file(ring: aioring.Ring, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        await same(
            ring,
            {
                "read": (lambda: ring.read(fd, 0, 10), lambda: os.pread(fd, 10, 0)),
                "read nothing": (lambda: ring.read(fd, 0, 0), lambda: os.pread(fd, 0, 0)),
                "readinto": (lambda: ring.readinto(fd, 0, bytearray(10)), lambda: os.preadv(fd, [bytearray(10)], 0)),
                "readinto nothing": (
                    lambda: ring.readinto(fd, 0, bytearray()),
                    lambda: os.preadv(fd, [bytearray()], 0),
                ),
                "readv": (
                    lambda: ring.readv(fd, 0, [bytearray(10)] * 2),
                    lambda: os.preadv(fd, [bytearray(10)] * 2, 0),
                ),
                "write": (lambda: ring.write(fd, 0, b"x"), lambda: os.pwrite(fd, b"x", 0)),
                "truncate": (lambda: ring.truncate(fd, 0), lambda: os.ftruncate(fd, 0)),
                "allocate": (lambda: ring.allocate(fd, 0, 10), lambda: os.posix_fallocate(fd, 0, 10)),
            },
        )
        assert await ours(lambda: ring.read(fd, 0, 10)) == "IsADirectoryError EISDIR"
    finally:
        os.close(fd)


async def test_a_read_only_fd_takes_no_writes(ring: aioring.Ring, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        await same(
            ring,
            {
                "write": (lambda: ring.write(fd, 0, b"x"), lambda: os.pwrite(fd, b"x", 0)),
                "write nothing": (lambda: ring.write(fd, 0, b""), lambda: os.pwrite(fd, b"", 0)),
                "writev": (lambda: ring.writev(fd, 0, [b"x", b"y"]), lambda: os.pwritev(fd, [b"x", b"y"], 0)),
                "writev nothing": (lambda: ring.writev(fd, 0, []), lambda: os.pwritev(fd, [], 0)),
                "truncate": (lambda: ring.truncate(fd, 5), lambda: os.ftruncate(fd, 5)),
                "allocate": (lambda: ring.allocate(fd, 0, 200_000), lambda: os.posix_fallocate(fd, 0, 200_000)),
            },
        )
        assert await ours(lambda: ring.write(fd, 0, b"x")) == "OSError EBADF"
        assert path.read_bytes() == WHOLE
    finally:
        os.close(fd)


async def test_a_write_only_fd_gives_nothing_to_read(ring: aioring.Ring, path: Path) -> None:
    for flags in (os.O_WRONLY, os.O_PATH):
        fd = os.open(path, flags)
        try:
            await all_are(
                ring,
                "OSError EBADF",
                {
                    "read": lambda: ring.read(fd, 0, 10),  # noqa: B023
                    "read nothing": lambda: ring.read(fd, 0, 0),  # noqa: B023
                    "readinto": lambda: ring.readinto(fd, 0, bytearray(10)),  # noqa: B023
                    "readv": lambda: ring.readv(fd, 0, [bytearray(10)]),  # noqa: B023
                    "readv nothing": lambda: ring.readv(fd, 0, []),  # noqa: B023
                },
            )
        finally:
            os.close(fd)


# --- offsets and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-1, -2, -4096, -(1 << 63), -(1 << 70)])
async def test_a_negative_offset_is_a_value_error(ring: aioring.Ring, fd: int, offset: int) -> None:
    await all_are(
        ring,
        "ValueError",
        {
            "read": lambda: ring.read(fd, offset, 10),
            "read much": lambda: ring.read(fd, offset, 200_000),
            "readinto": lambda: ring.readinto(fd, offset, bytearray(10)),
            "readv": lambda: ring.readv(fd, offset, [bytearray(10)]),
            "start_read": lambda: started(lambda: ring.start_read(fd, offset, 10)),
            "write": lambda: ring.write(fd, offset, b"abc"),
            "writev": lambda: ring.writev(fd, offset, [b"abc"]),
            "start_write": lambda: started(lambda: ring.start_write(fd, offset, b"abc")),
            "sync_range": lambda: ring.sync_range(fd, offset, 10),
            "allocate": lambda: ring.allocate(fd, offset, 10),
            "advise": lambda: ring.advise(fd, offset, 10, 0),
        },
    )
    assert os.pread(fd, 100_000, 0) == WHOLE


@pytest.mark.parametrize("n", [-1, -2, -(1 << 63), -(1 << 70)])
async def test_a_negative_size_is_a_value_error(ring: aioring.Ring, fd: int, pipe: tuple[int, int], n: int) -> None:
    await all_are(
        ring,
        "ValueError",
        {
            "read": lambda: ring.read(fd, 0, n),
            "read of a pipe": lambda: ring.read(pipe[0], -1, n),
            "start_read": lambda: started(lambda: ring.start_read(fd, 0, n)),
            "sync_range": lambda: ring.sync_range(fd, 0, n),
            "truncate": lambda: ring.truncate(fd, n),
            "allocate": lambda: ring.allocate(fd, 0, n),
            "advise": lambda: ring.advise(fd, 0, n, 0),
        },
    )
    assert os.fstat(fd).st_size == 100_000


@pytest.mark.parametrize("big", [1 << 63, 1 << 70, 1 << 64])
async def test_what_is_no_off_t_is_an_overflow_error(ring: aioring.Ring, fd: int, big: int) -> None:
    assert theirs(lambda: os.pread(fd, 1, big)) == theirs(lambda: os.ftruncate(fd, big)) == "OverflowError"
    await all_are(
        ring,
        "OverflowError",
        {
            "read": lambda: ring.read(fd, big, 10),
            "readinto": lambda: ring.readinto(fd, big, bytearray(10)),
            "readv": lambda: ring.readv(fd, big, [bytearray(10)]),
            "write": lambda: ring.write(fd, big, b"abc"),
            "writev": lambda: ring.writev(fd, big, [b"abc"]),
            "read size": lambda: ring.read(fd, 0, big),
            "truncate": lambda: ring.truncate(fd, big),
            "allocate": lambda: ring.allocate(fd, big, 10),
            "allocate size": lambda: ring.allocate(fd, 0, big),
            "sync_range": lambda: ring.sync_range(fd, big, 10),
            "advise": lambda: ring.advise(fd, big, 10, 0),
            "advise size": lambda: ring.advise(fd, 0, big, 0),
        },
    )


@pytest.mark.parametrize("offset", [100_000, 100_001, 1 << 32, 1 << 44, (1 << 63) - 1, (1 << 63) - 5])
async def test_transfers_far_past_end_of_file_are_those_of_os(ring: aioring.Ring, fd: int, offset: int) -> None:
    await same(
        ring,
        {
            "read": (lambda: ring.read(fd, offset, 10), lambda: os.pread(fd, 10, offset)),
            "read 0": (lambda: ring.read(fd, offset, 0), lambda: os.pread(fd, 0, offset)),
            "read 1": (lambda: ring.read(fd, offset, 1), lambda: os.pread(fd, 1, offset)),
            "read much": (lambda: ring.read(fd, offset, 200_000), lambda: os.pread(fd, 200_000, offset)),
            "readinto": (
                lambda: ring.readinto(fd, offset, bytearray(10)),
                lambda: os.preadv(fd, [bytearray(10)], offset),
            ),
            "readv": (
                lambda: ring.readv(fd, offset, [bytearray(5), bytearray(5)]),
                lambda: os.preadv(fd, [bytearray(5), bytearray(5)], offset),
            ),
            "write 0": (lambda: ring.write(fd, offset, b""), lambda: os.pwrite(fd, b"", offset)),
            "advise": (lambda: ring.advise(fd, offset, 10, 0), lambda: os.posix_fadvise(fd, offset, 10, 0)),
        },
    )
    if offset > 1 << 50:  # no file system takes these
        await same(
            ring,
            {
                "write": (lambda: ring.write(fd, offset, b"x" * 10), lambda: os.pwrite(fd, b"x" * 10, offset)),
                "writev": (lambda: ring.writev(fd, offset, [b"x", b"y"]), lambda: os.pwritev(fd, [b"x", b"y"], offset)),
                "allocate": (lambda: ring.allocate(fd, offset, 10), lambda: os.posix_fallocate(fd, offset, 10)),
                "truncate": (lambda: ring.truncate(fd, offset), lambda: os.ftruncate(fd, offset)),
            },
        )


@pytest.mark.parametrize("n", [0, 1])
async def test_transfers_of_nothing_and_of_one_byte(ring: aioring.Ring, fd: int, n: int) -> None:
    for offset in (0, 77, 99_999, 100_000):
        assert await ring.read(fd, offset, n) == os.pread(fd, n, offset)
        buffer = bytearray(b"\xaa" * n)
        got = await ring.readinto(fd, offset, buffer)
        assert bytes(buffer[:got]) == os.pread(fd, n, offset)
    assert await ring.readv(fd, 0, []) == 0
    assert await ring.readv(fd, 0, [bytearray(), bytearray()]) == 0
    assert await ring.writev(fd, 0, []) == 0
    assert await ring.writev(fd, 200_000, [b"", b""]) == 0
    assert await ring.write(fd, 200_000, b"") == 0
    assert os.fstat(fd).st_size == 100_000
    assert await ring.write(fd, 0, b"z" * n) == n
    assert bytes([0x7A]) == b"z"


@pytest.mark.parametrize("bad", [1.0, 5.0, "0", None, b"0", [0]], ids=str)
async def test_numbers_of_the_wrong_kind_are_type_errors(ring: aioring.Ring, fd: int, bad: Any) -> None:
    assert len(await ring.read(fd, 0, 1)) + len(await ring.read(fd, 0, 5)) == 6  # 5.0 == 5: sizes that the ring knows
    await all_are(
        ring,
        "TypeError",
        {
            "offset": lambda: ring.read(fd, bad, 10),
            "n": lambda: ring.read(fd, 0, bad),
            "start_read": lambda: started(lambda: ring.start_read(fd, 0, bad)),
            "readinto": lambda: ring.readinto(fd, bad, bytearray(5)),
            "readv": lambda: ring.readv(fd, bad, [bytearray(5)]),
            "write": lambda: ring.write(fd, bad, b"x"),
            "writev": lambda: ring.writev(fd, bad, [b"x"]),
            "truncate": lambda: ring.truncate(fd, bad),
            "allocate": lambda: ring.allocate(fd, bad, 5),
            "allocate n": lambda: ring.allocate(fd, 0, bad),
            "allocate mode": lambda: ring.allocate(fd, 0, 5, bad),
            "advise": lambda: ring.advise(fd, 0, 0, bad),
            "sync_range": lambda: ring.sync_range(fd, 0, bad),
            "open": lambda: ring.open(__file__, bad),
            "open mode": lambda: ring.open(__file__, os.O_RDONLY, bad),
            "mkdir mode": lambda: ring.mkdir("/nowhere/at/all", bad),
        },
    )


async def test_numbers_of_other_integer_kinds_are_taken(ring: aioring.Ring, fd: int) -> None:
    class Number:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            return self.value

    assert await ring.read(fd, Number(5), Number(10)) == WHOLE[5:15]  # type: ignore[arg-type]
    assert await ring.read(fd, True, True) == WHOLE[1:2]
    assert await ring.write(fd, Number(5), b"xyz") == 3  # type: ignore[arg-type]
    await ring.truncate(fd, Number(10))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, -(1 << 31), 1 << 31, 1 << 32, 1 << 40, -(1 << 40)])
async def test_flags_and_modes_out_of_range_are_those_of_os(
    ring: aioring.Ring, fd: int, tmp_path: Path, value: int
) -> None:
    creat = os.O_CREAT | os.O_WRONLY

    async def opened(*args: Any) -> int:
        fd = await ring.open(*args)
        os.close(fd)
        return os.stat(args[0]).st_mode

    def opened_by_os(*args: Any) -> int:
        os.close(os.open(*args))
        return os.stat(args[0]).st_mode

    await same(
        ring,
        {
            "open flags": (lambda: opened(tmp_path / "a", value), lambda: opened_by_os(tmp_path / "a", value)),
            "open mode": (
                lambda: opened(tmp_path / "b", creat, value),
                lambda: opened_by_os(tmp_path / "c", creat, value),
            ),
            "mkdir": (lambda: ring.mkdir(tmp_path / "d", value), lambda: os.mkdir(tmp_path / "e", value)),
            "advise": (lambda: ring.advise(fd, 0, 0, value), lambda: os.posix_fadvise(fd, 0, 0, value)),
        },
    )
    # `os` has no such calls; what is no int of C is no flag of theirs either
    for answer in (
        await ours(lambda: ring.allocate(fd, 0, 10, value)),
        await ours(lambda: ring.sync_range(fd, 0, 0, value)),
    ):
        assert answer == "OverflowError" if not -(1 << 31) <= value < 1 << 31 else answer.startswith("OSError")


# --- buffers ----------------------------------------------------------------------------------------------------------


def _read_only(kind: str) -> Any:
    if kind == "bytes":
        return b"abc"
    if kind == "view":
        return memoryview(bytearray(10)).toreadonly()
    return mmap.mmap(-1, 4096, access=mmap.ACCESS_READ)


@pytest.mark.parametrize("kind", ["bytes", "view", "mmap"])
async def test_a_read_only_buffer_takes_no_read(ring: aioring.Ring, fd: int, pipe: tuple[int, int], kind: str) -> None:
    buffer = _read_only(kind)
    expected = theirs(lambda: os.preadv(fd, [buffer], 0))
    assert expected == "BufferError"
    await all_are(
        ring,
        expected,
        {
            "readinto": lambda: ring.readinto(fd, 0, buffer),
            "readv": lambda: ring.readv(fd, 0, [bytearray(3), buffer]),
            "of a pipe": lambda: ring.readinto(pipe[0], -1, buffer),
            "readv of a pipe": lambda: ring.readv(pipe[0], -1, [buffer]),
        },
    )


async def test_a_buffer_that_is_not_contiguous_is_refused(ring: aioring.Ring, fd: int, pipe: tuple[int, int]) -> None:
    buffer = memoryview(bytearray(10))[::2]
    assert theirs(lambda: os.preadv(fd, [buffer], 0)) == theirs(lambda: os.pwrite(fd, buffer, 0)) == "BufferError"
    await all_are(
        ring,
        "BufferError",
        {
            "readinto": lambda: ring.readinto(fd, 0, buffer),
            "readv": lambda: ring.readv(fd, 0, [buffer]),
            "write": lambda: ring.write(fd, 0, buffer),
            "writev": lambda: ring.writev(fd, 0, [buffer]),
            "readinto of a pipe": lambda: ring.readinto(pipe[0], -1, buffer),
            "write of a pipe": lambda: ring.write(pipe[1], -1, buffer),
        },
    )


@pytest.mark.parametrize("bad", ["text", 5, None, 2.5, object()], ids=lambda bad: type(bad).__name__)
async def test_what_is_no_buffer_is_a_type_error(ring: aioring.Ring, fd: int, pipe: tuple[int, int], bad: Any) -> None:
    assert theirs(lambda: os.preadv(fd, [bad], 0)) == theirs(lambda: os.pwrite(fd, bad, 0)) == "TypeError"
    await all_are(
        ring,
        "TypeError",
        {
            "readinto": lambda: ring.readinto(fd, 0, bad),
            "readv": lambda: ring.readv(fd, 0, [bad]),
            "write": lambda: ring.write(fd, 0, bad),
            "writev": lambda: ring.writev(fd, 0, [b"x", bad]),
            "start_write": lambda: started(lambda: ring.start_write(fd, 0, bad)),
            "readinto of a pipe": lambda: ring.readinto(pipe[0], -1, bad),
            "write of a pipe": lambda: ring.write(pipe[1], -1, bad),
        },
    )
    assert os.pread(fd, 10, 0) == WHOLE[:10]


async def test_buffers_where_a_list_of_them_is_due_are_type_errors(ring: aioring.Ring, fd: int) -> None:
    await all_are(
        ring,
        "TypeError",
        {
            "readv": lambda: ring.readv(fd, 0, bytearray(10)),
            "readv number": lambda: ring.readv(fd, 0, 10),  # type: ignore[arg-type]
            "writev": lambda: ring.writev(fd, 0, b"abc"),
            "writev none": lambda: ring.writev(fd, 0, None),  # type: ignore[arg-type]
        },
    )


class _Structure(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint64))


def _buffers() -> dict[str, Any]:
    return {
        "bytearray": bytearray(16),
        "array": array.array("d", [0.0, 0.0]),
        "wide view": memoryview(bytearray(16)).cast("I"),
        "view of two dimensions": memoryview(bytearray(16)).cast("B", (4, 4)),
        "mmap": mmap.mmap(-1, 16),
        "aligned": aioring.alloc(16),
        "ctypes string": ctypes.create_string_buffer(16),
        "ctypes array": (ctypes.c_uint32 * 4)(),
        "ctypes structure": _Structure(),
        "slice": memoryview(bytearray(64))[7:23],
    }


@pytest.mark.parametrize("kind", list(_buffers()))
async def test_every_kind_of_buffer_that_os_takes_is_taken(
    ring: aioring.Ring, fd: int, pipe: tuple[int, int], kind: str
) -> None:
    buffer = _buffers()[kind]
    assert os.preadv(fd, [buffer], 300) == 16
    expected = memoryview(buffer).tobytes()
    assert os.pwrite(fd, buffer, 0) == 16
    for read in (lambda b: ring.readinto(fd, 300, b), lambda b: ring.readv(fd, 300, [b])):
        buffer = _buffers()[kind]
        assert await read(buffer) == 16
        assert memoryview(buffer).tobytes() == expected
    for write in (lambda b, at: ring.write(fd, at, b), lambda b, at: ring.writev(fd, at, [b])):
        os.pwrite(fd, bytes(16), 0)
        assert await write(buffer, 0) == 16
        assert os.pread(fd, 16, 0) == expected
    assert await ring.write(pipe[1], -1, buffer) == 16
    buffer = _buffers()[kind]
    assert await ring.readinto(pipe[0], -1, buffer) == 16
    assert memoryview(buffer).tobytes() == expected


async def test_a_lent_buffer_can_be_resized_and_closed_again_afterwards(ring: aioring.Ring, fd: int) -> None:
    buffer, memory = bytearray(10), mmap.mmap(-1, 4096)
    for n in (10, 70_000):
        buffer = bytearray(n)
        await ring.readinto(fd, 0, buffer)
        buffer.append(1)
        await ring.write(fd, 0, buffer)
        buffer.append(1)
        await ring.readv(fd, 0, [buffer])
        buffer.append(1)
        with pytest.raises(OSError):
            await ring.readinto(-1, 0, buffer)
        buffer.append(1)
    await ring.readinto(fd, 0, memory)
    memory.close()


@pytest.mark.parametrize("n", [1023, 1024, 1025, 3000])
async def test_no_more_than_1024_buffers_go_in_one_call(ring: aioring.Ring, tmp_path: Path, n: int) -> None:
    fd = os.open(tmp_path / "v", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, WHOLE, 0)
        full, empty = [bytearray(2) for _ in range(n)], [bytearray() for _ in range(n)]
        await same(
            ring,
            {
                "readv": (lambda: ring.readv(fd, 0, full), lambda: os.preadv(fd, full, 0)),
                "writev": (lambda: ring.writev(fd, 0, full), lambda: os.pwritev(fd, full, 0)),
                "readv of empty": (lambda: ring.readv(fd, 0, empty), lambda: os.preadv(fd, empty, 0)),
                "writev of empty": (lambda: ring.writev(fd, 0, empty), lambda: os.pwritev(fd, empty, 0)),
                "readv past the end": (lambda: ring.readv(fd, 1 << 30, full), lambda: os.preadv(fd, full, 1 << 30)),
            },
        )
        if n > 1024:
            assert await ours(lambda: ring.readv(fd, 0, full)) == "OSError EINVAL"
    finally:
        os.close(fd)


# --- paths ------------------------------------------------------------------------------------------------------------


async def test_bad_paths_are_those_of_os(ring: aioring.Ring, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()

    def by_ring(path: Any) -> dict[str, Callable[[], Awaitable[Any]]]:
        return {
            "open": lambda: ring.open(path, os.O_RDONLY),
            "create": lambda: ring.open(path, os.O_CREAT | os.O_WRONLY, 0o600),
            "beneath": lambda: ring.open(path, os.O_RDONLY, resolve=aioring.RESOLVE_NO_MAGICLINKS),
            "stat": lambda: ring.stat(path),
            "lstat": lambda: ring.stat(path, follow_symlinks=False),
        }

    def by_os(path: Any) -> dict[str, Callable[[], Any]]:
        return {
            "open": lambda: os.open(path, os.O_RDONLY),
            "create": lambda: os.open(path, os.O_CREAT | os.O_WRONLY, 0o600),
            "beneath": lambda: os.open(path, os.O_RDONLY),
            "stat": lambda: os.stat(path),
            "lstat": lambda: os.lstat(path),
        }

    at = str(tmp_path)
    for bad in (
        at + "/a\0b",
        os.fsencode(at) + b"/\0",
        "\0",
        at + "/" + "x" * 256,
        at + "/y" * 3000,
        at + "/loop/x",
        at + "/missing/x",
        at + "/file/x",
        "",
        b"",
    ):
        calls = {f"{name} {bad[-20:]!r}": (call, by_os(bad)[name]) for name, call in by_ring(bad).items()}
        await same(ring, calls)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


async def test_surrogates_that_no_name_can_hold_are_unicode_errors(ring: aioring.Ring) -> None:
    for call in (lambda: ring.open("\ud800", os.O_RDONLY), lambda: ring.stat("\ud800"), lambda: ring.unlink("\ud800")):
        with pytest.raises(UnicodeEncodeError):
            await call()


async def test_no_fd_left_is_emfile_with_the_name(ring: aioring.Ring, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(FileNotFoundError):  # whatever the method starts for it has been started
        await ring.open(path.parent / "missing", os.O_RDONLY)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError) as caught:
            await ring.open(str(path), os.O_RDONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, str(path))
    os.close(await ring.open(path, os.O_RDONLY))


# --- disks that are full, and limits ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs to fill needs root")
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_is_enospc(ring: aioring.Ring, small_disk: Path) -> None:
    fd = await ring.open(small_disk / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert await ring.write(fd, 0, b"x" * 30_000) == 30_000
        await all_are(
            ring,
            "OSError ENOSPC",
            {
                "write": lambda: ring.write(fd, 0, b"y" * 200_000),  # a part fits: the rest does not
                "write behind": lambda: ring.write(fd, 1 << 20, b"y"),
                "writev": lambda: ring.writev(fd, 0, [b"y" * 40_000, b"z" * 40_000]),
                "allocate": lambda: ring.allocate(fd, 0, 1 << 20),
                "mkdir": lambda: fill(ring, small_disk),
            },
        )
        assert os.pread(fd, 20_000, 0) == b"y" * 20_000
    finally:
        os.close(fd)


async def fill(ring: aioring.Ring, folder: Path) -> None:
    for i in range(1000):
        await ring.symlink("x" * 4000, folder / f"link{i}")


@pytest.fixture
def files_of_one_megabyte() -> Iterator[None]:
    """RLIMIT_FSIZE; Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_one_megabyte")
async def test_a_file_that_grows_too_large_is_efbig(ring: aioring.Ring, fd: int) -> None:
    edge = 1 << 20
    await same(
        ring,
        {
            "write": (lambda: ring.write(fd, edge, b"x"), lambda: os.pwrite(fd, b"x", edge)),
            "writev": (lambda: ring.writev(fd, edge, [b"x"]), lambda: os.pwritev(fd, [b"x"], edge)),
            "truncate": (lambda: ring.truncate(fd, edge + 1), lambda: os.ftruncate(fd, edge + 1)),
            "allocate": (lambda: ring.allocate(fd, edge, 10), lambda: os.posix_fallocate(fd, edge, 10)),
            "up to the edge": (lambda: ring.write(fd, edge - 5, b"x" * 5), lambda: os.pwrite(fd, b"x" * 5, edge - 5)),
        },
    )
    assert await ours(lambda: ring.write(fd, edge, b"x")) == "OSError EFBIG"
    # os.pwrite is cut short here; ours goes on, and says why it can't
    assert await ours(lambda: ring.write(fd, edge - 5, b"y" * 10)) == "OSError EFBIG"
    assert os.pread(fd, 10, edge - 5) == b"y" * 5
    assert os.fstat(fd).st_size == edge


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.ENOLCK], ids=errno.errorcode.get)
async def test_what_only_some_disks_say_comes_through(anyio_backend: Any, fd: int, code: int) -> None:
    faults = {(name, 1): code for name in ("write", "read", "fsync", "truncate", "writev", "readinto", "stat")}
    async with aioring.Ring(method=Scripted(1, faults=faults)) as ring:
        expected = said(OSError(code, ""))
        calls = {
            "write": lambda: ring.write(fd, 0, b"x"),
            "read": lambda: ring.read(fd, 0, 1),
            "fsync": lambda: ring.fsync(fd),
            "truncate": lambda: ring.truncate(fd, 5),
            "writev": lambda: ring.writev(fd, 0, [b"x"]),
            "readinto": lambda: ring.readinto(fd, 0, bytearray(1)),
            "stat": lambda: ring.stat(fd),
        }
        await all_are(ring, expected, {name: call for name, call in calls.items() if name in {n for n, _ in faults}})
        assert os.pread(fd, 100_000, 0) == WHOLE  # none was carried out
        assert await ring.write(fd, 0, b"x") == 1  # the second is


# --- what cannot seek -------------------------------------------------------------------------------------------------


async def test_a_pipe_takes_no_offset(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    os.write(sink, b"still there")
    for offset in (0, 5, (1 << 63) - 1):
        await all_are(
            ring,
            "OSError ESPIPE",
            {
                "read": lambda: ring.read(source, offset, 10),  # noqa: B023
                "readinto": lambda: ring.readinto(source, offset, bytearray(10)),  # noqa: B023
                "readv": lambda: ring.readv(source, offset, [bytearray(10)]),  # noqa: B023
                "start_read": lambda: started(lambda: ring.start_read(source, offset, 10)),  # noqa: B023
                "write": lambda: ring.write(sink, offset, b"x"),  # noqa: B023
                "writev": lambda: ring.writev(sink, offset, [b"x"]),  # noqa: B023
                "start_write": lambda: started(lambda: ring.start_write(sink, offset, b"x")),  # noqa: B023
            },
        )
    for offset in (-2, -(1 << 70)):
        calls = {"read": lambda: ring.read(source, offset, 10), "write": lambda: ring.write(sink, offset, b"x")}  # noqa: B023
        await all_are(ring, "ValueError", calls)
    assert await ring.read(source, -1, 100) == b"still there"


async def test_the_ends_of_a_pipe_go_one_way(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    await same(
        ring,
        {
            "read": (lambda: ring.read(pipe[1], -1, 10), lambda: os.read(pipe[1], 10)),
            "readinto": (lambda: ring.readinto(pipe[1], -1, bytearray(5)), lambda: os.readv(pipe[1], [bytearray(5)])),
            "write": (lambda: ring.write(pipe[0], -1, b"x"), lambda: os.write(pipe[0], b"x")),
            "writev": (lambda: ring.writev(pipe[0], -1, [b"x"]), lambda: os.writev(pipe[0], [b"x"])),
            "truncate": (lambda: ring.truncate(pipe[1], 0), lambda: os.ftruncate(pipe[1], 0)),
            "allocate": (lambda: ring.allocate(pipe[1], 0, 1), lambda: os.posix_fallocate(pipe[1], 0, 1)),
        },
    )


async def test_a_pipe_without_a_reader_is_broken(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    await same(
        ring,
        {
            "write": (lambda: ring.write(pipe[1], -1, b"x"), lambda: os.write(pipe[1], b"x")),
            "writev": (lambda: ring.writev(pipe[1], -1, [b"x", b"y"]), lambda: os.writev(pipe[1], [b"x", b"y"])),
            "start_write": (
                lambda: started(lambda: ring.start_write(pipe[1], -1, b"x")),
                lambda: os.write(pipe[1], b"x"),
            ),
            "nothing": (lambda: ring.write(pipe[1], -1, b""), lambda: os.write(pipe[1], b"")),
        },
    )
    assert await ours(lambda: ring.write(pipe[1], -1, b"x")) == "BrokenPipeError EPIPE"


async def test_a_pipe_without_a_writer_is_at_its_end(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"last words")
    os.close(pipe[1])
    assert await ring.read(pipe[0], -1, 4) == b"last"
    assert await ring.read(pipe[0], -1, 100) == b" words"
    assert await ring.read(pipe[0], -1, 100) == b""
    assert await ring.readinto(pipe[0], -1, bytearray(5)) == 0


async def test_nothing_read_from_an_empty_pipe_waits_for_nothing(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    with anyio.fail_after(3):
        assert await ring.read(pipe[0], -1, 0) == b""
        assert await ring.readinto(pipe[0], -1, bytearray()) == 0
        assert await ring.write(pipe[1], -1, b"") == 0


async def test_more_than_1024_buffers_are_too_many_for_a_pipe_as_well(
    ring: aioring.Ring, pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], b"x" * 5000)
    many = [bytearray(1) for _ in range(1025)]
    await same(
        ring,
        {
            "readv": (lambda: ring.readv(pipe[0], -1, many), lambda: os.readv(pipe[0], many)),
            "writev": (lambda: ring.writev(pipe[1], -1, many), lambda: os.writev(pipe[1], many)),
        },
    )


# --- an fd that others close ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDONLY | os.O_DIRECT], ids=["buffered", "direct"])
async def test_an_fd_that_others_close_gives_its_data_or_ebadf(ring: aioring.Ring, path: Path, flags: int) -> None:
    for when in ("staged", "submitted"):
        fd = os.open(path, flags)
        try:
            if when == "submitted":
                with ring.batch():
                    reads = [ring.start_read(fd, i * 4096, 4096) for i in range(20)]
            else:
                reads = [ring.start_read(fd, i * 4096, 4096) for i in range(20)]
        finally:
            os.close(fd)
        answers = [await ours(lambda read=read: started(lambda: read)) for read in reads]  # type: ignore[misc]
        data = [WHOLE[i * 4096 : i * 4096 + 4096] for i in range(20)]
        wrong = {a for a, right in zip(answers, data, strict=True) if a != right}
        assert wrong <= {"OSError EBADF"}, when
    await works(ring)


async def test_io_uring_reads_the_file_it_was_told_even_if_the_number_is_used_again(
    anyio_backend: Any, path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"?" * 100_000)
    buffers = [aioring.alloc(4096) for _ in range(20)]  # aligned, so that nothing has to be asked again
    results: list[int] = []
    async with aioring.Ring(method="io_uring", page_cache_first=False) as ring:
        assert ring._started is not None
        fd = again = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            async with anyio.create_task_group() as group:

                async def read(i: int) -> None:
                    results.append(await ring.readinto(fd, i * 4096, buffers[i]))

                for i in range(20):
                    group.start_soon(read, i)
                while len(ring._started.live) + len(results) < 20 or ring._started.staged:
                    await anyio.lowlevel.checkpoint()
                os.close(fd)
                again = os.open(other, os.O_RDONLY | os.O_DIRECT)
                assert again == fd
        finally:
            os.close(again)
    assert results == [4096] * 20
    assert b"".join(buffers) == WHOLE[: 20 * 4096]


async def test_a_submitted_direct_read_never_gives_another_file_that_got_its_number(
    anyio_backend: Any, path: Path, tmp_path: Path
) -> None:
    """Bytes are not aligned, so a direct read into them is asked twice: not of whatever the number means by then."""
    other = tmp_path / "other"
    other.write_bytes(b"?" * 100_000)
    async with aioring.Ring(method="io_uring", page_cache_first=False) as ring:
        fd = again = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with ring.batch():
                read = ring.start_read(fd, 0, 4096)
            os.close(fd)
            again = os.open(other, os.O_RDONLY | os.O_DIRECT)
            assert again == fd
            assert await ours(lambda: started(lambda: read)) in (WHOLE[:4096], "OSError EBADF")
        finally:
            os.close(again)


async def test_a_pipe_that_others_close_while_it_is_read_still_gives_its_data(
    ring: aioring.Ring, pipe: tuple[int, int]
) -> None:
    got: list[bytes] = []

    async def read() -> None:
        got.append(await ring.read(pipe[0], -1, 100))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        os.close(pipe[0])
        os.write(pipe[1], b"late")  # the wait holds the pipe open, as a blocked read(2) would
    assert got == [b"late"]
    await works(ring)


async def test_an_fd_closed_by_others_before_a_close_is_ebadf(ring: aioring.Ring, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    assert await ring.read(fd, 0, 10) == WHOLE[:10]
    os.close(fd)
    assert await ours(lambda: ring.close(fd)) == "OSError EBADF"
    assert await ours(lambda: ring.read(fd, 0, 10)) == "OSError EBADF"


# --- rings that are not running, and calls that make no sense ---------------------------------------------------------


def every_call(ring: aioring.Ring) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def begin(call: Callable[[], Any]) -> Any:
        return await call()

    async def chain() -> None:
        async with ring.chain():
            pass

    async def batch() -> None:
        with ring.batch():
            pass

    return {
        **on_fd(ring, 0),
        "read of a pipe": lambda: ring.read(0, -1, 10),
        "open": lambda: ring.open("/", os.O_RDONLY),
        "openat2": lambda: ring.open("/", os.O_RDONLY, resolve=1),
        "stat": lambda: ring.stat("/"),
        "rename": lambda: ring.rename("/nowhere/a", "/nowhere/b"),
        "unlink": lambda: ring.unlink("/nowhere/a"),
        "mkdir": lambda: ring.mkdir("/nowhere/a"),
        "rmdir": lambda: ring.rmdir("/nowhere/a"),
        "symlink": lambda: ring.symlink("/nowhere/a", "/nowhere/b"),
        "link": lambda: ring.link("/nowhere/a", "/nowhere/b"),
        "run": lambda: ring.run(len, ""),
        "chain": chain,
        "batch": batch,
    }


async def test_a_ring_that_was_not_started_says_so(make_ring: Any, anyio_backend: Any) -> None:
    for name, call in every_call(make_ring()).items():
        with pytest.raises(aioring.RingClosedError, match="was not started: use `async with"):
            await call()
            raise AssertionError(name)


async def test_a_ring_that_was_closed_says_so(make_ring: Any, anyio_backend: Any) -> None:
    ring = make_ring()
    await ring.start()
    await ring.aclose()
    await ring.aclose()
    for name, call in every_call(ring).items():
        with pytest.raises(aioring.RingClosedError, match=r"is closed; make another, or use get_ring\(\)"):
            await call()
            raise AssertionError(name)
    with pytest.raises(aioring.RingClosedError):
        await ring.start()


async def test_calls_with_the_wrong_arguments_are_type_errors(ring: aioring.Ring, fd: int) -> None:
    r: Any = ring
    await all_are(
        ring,
        "TypeError",
        {
            "read(fd, n)": lambda: r.read(fd, 10),
            "read(path)": lambda: r.read("/etc/passwd", 0, 10),
            "write(fd, data)": lambda: r.write(fd, b"data"),
            "write(fd, data, offset)": lambda: r.write(fd, b"data", 0),
            "write(fd, offset, text)": lambda: r.write(fd, 0, "text"),
            "readinto(fd, offset, n)": lambda: r.readinto(fd, 0, 10),
            "readinto(fd, buffer, offset)": lambda: r.readinto(fd, bytearray(5), 0),
            "open(path)": lambda: r.open("/etc/passwd"),
            "open(path, 'r')": lambda: r.open("/etc/passwd", "r"),
            "open(flags, path)": lambda: r.open(os.O_RDONLY, "/etc/passwd"),
            "open(resolve by place)": lambda: r.open("/etc/passwd", 0, 0o777, None, 8),
            "fsync(data_only by place)": lambda: r.fsync(fd, True),
            "stat()": lambda: r.stat(),
            "rename(one)": lambda: r.rename("x"),
            "close(path)": lambda: r.close("/etc/passwd"),
            "truncate(fd)": lambda: r.truncate(fd),
            "run()": lambda: r.run(),
        },
    )
    assert os.pread(fd, 100, 0) == WHOLE[:100]


def test_whatever_does_io_is_a_coroutine_function() -> None:
    for name in (
        "read", "readinto", "readv", "write", "writev", "fsync", "sync_range", "open", "close", "stat", "truncate",
        "allocate", "advise", "rename", "unlink", "mkdir", "rmdir", "symlink", "link", "run", "start", "aclose",
    ):  # fmt: skip
        assert inspect.iscoroutinefunction(getattr(aioring.Ring, name)), name


# --- more than 2 GiB --------------------------------------------------------------------------------------------------

TWO_GIB = 1 << 31
PIECE = bytes(range(200))


# Four gigabytes are moved each time: once, where not every method is run on every loop (conftest.py).
@pytest.fixture(params=["io_uring", "worker"] if os.environ.get("AIORING_TEST_EVERY") else ["io_uring"])
async def large_ring(request: pytest.FixtureRequest, anyio_backend: Any) -> Any:
    async with aioring.Ring(method=request.param) as ring:
        yield ring


def _need(room: int) -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    if available < room:
        pytest.skip(f"{room >> 30} GiB of memory are needed, {available >> 30} are available")


def _much(n: int) -> mmap.mmap:
    memory = mmap.mmap(-1, n)
    memory.madvise(mmap.MADV_HUGEPAGE)  # or the kernel takes longer to find the pages than to fill them
    return memory


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_a_read_of_more_than_2_gib_is_whole(large_ring: aioring.Ring, tmp_path: Path) -> None:
    """One transfer moves 0x7ffff000 bytes at most (read(2)): the rest is asked for again."""
    _need(6 << 30)
    fd = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    n = TWO_GIB + 10
    memory = _much(n)
    try:
        os.ftruncate(fd, 3 << 30)
        for at in (0, 0x7FFFF000 - 100, n - 200, n):
            os.pwrite(fd, PIECE, at)
        assert await large_ring.readinto(fd, 0, memory) == n
        for at in (0, 0x7FFFF000 - 100, n - 200):
            assert memory[at : at + 200] == PIECE
        assert memory[300:1000] == bytes(700)
        halves = [memoryview(memory)[: 1 << 30], memoryview(memory)[1 << 30 :]]
        halves[1][-200:] = bytes(200)
        assert await large_ring.readv(fd, 0, halves) == n
        assert halves[1][-200:] == PIECE
        del halves
    finally:
        os.close(fd)
        memory.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_a_write_of_more_than_2_gib_is_whole(large_ring: aioring.Ring) -> None:
    _need(6 << 30)
    if os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize < 3 << 30:
        pytest.skip("/dev/shm has no room for 3 GiB")
    n = TWO_GIB + 10
    memory = _much(n)
    for at in (0, 0x7FFFF000 - 100, n - 200):
        memory[at : at + 200] = PIECE
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    try:
        assert await large_ring.write(fd, 5, memory) == n
        assert os.fstat(fd).st_size == n + 5
        for at in (0, 0x7FFFF000 - 100, n - 200):
            assert os.pread(fd, 200, at + 5) == PIECE
    finally:
        os.close(fd)
        memory.close()


async def test_a_read_of_more_than_memory_takes_what_there_is(ring: aioring.Ring, fd: int) -> None:
    """os.pread makes memory for all that is asked, and has none; here it is made for what the file has."""
    for n in ((1 << 62) + 1, (1 << 63) - 1):
        assert theirs(functools.partial(os.pread, fd, n, 0)) in ("MemoryError", "OverflowError")
        assert await ring.read(fd, 0, n) == WHOLE
    await works(ring)


async def test_where_no_size_is_known_there_is_no_memory_for_it(ring: aioring.Ring) -> None:
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert await ours(lambda: ring.read(fd, 0, (1 << 62) + 1)) == "MemoryError"
    finally:
        os.close(fd)
    await works(ring)
