"""A ring, made as the application would make it, and used: what carries its I/O out, and what is missing of it."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib.metadata
import os
import platform
import selectors
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ... import __version__
from ...errors import AioringError
from ...kernel import abi
from ...kernel.liburing import BUNDLED, Liburing, find_route
from ...methods.io_uring import IoUring
from ...methods.linux_aio import LinuxAio
from ...operations import TABLE
from ...ring import Ring
from .surroundings import reason_of

__all__ = ["probe"]

_SIZE = 4096
_FLAGS = ("CLAMP", "SUBMIT_ALL", "COOP_TASKRUN", "TASKRUN_FLAG", "SINGLE_ISSUER", "DEFER_TASKRUN")


def probe(method: Any = None) -> dict[str, Any]:
    """`method`, `fallback_reason`, `liburing` and `features` of the report. `method` is None where no ring works."""
    report: dict[str, Any] = {
        "method": None,
        "fallback_reason": None,
        "liburing": _liburing(),
        "features": {
            "aioring": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
            "namesake": _namesake(),
        },
    }
    try:
        _room_for_a_loop()
        asyncio.run(_use(report, method))
    except (OSError, AioringError, RuntimeError, ValueError) as error:  # ValueError: the environment
        report["method"] = None
        hint: str | None = getattr(error, "hint", None)
        report["fallback_reason"] = hint or (reason_of(error) if isinstance(error, OSError) else str(error))
    return report


def _room_for_a_loop() -> None:
    """The fds that asyncio takes for a loop: one that fails half way leaves warnings behind."""
    one, other = socket.socketpair()
    try:
        selectors.DefaultSelector().close()
    finally:
        one.close()
        other.close()


async def _use(report: dict[str, Any], method: Any) -> None:
    async with Ring(method=method, page_cache_first=False) as ring:
        features = report["features"]
        features["depth"] = ring.depth
        used = ring._started.method if ring._started is not None else None
        if isinstance(used, IoUring):
            report["liburing"]["used"] = used.route.name
            features["setup_flags"] = [name for name in _FLAGS if used.flags & getattr(abi, f"SETUP_{name}")]
            known = used._opcodes
            features["missing_opcodes"] = [
                row.name for row in TABLE if row.opcode is not None and row.opcode not in known
            ]
        elif isinstance(used, LinuxAio):
            features["linux_aio"] = True
        features["refused"] = await _try_all(ring)
        if "read" in features["refused"]:
            raise OSError(errno.EIO, f"a read by {ring.method} fails: {features['refused']['read']}")
        report["method"], report["fallback_reason"] = ring.method, ring.fallback_reason


async def _try_all(ring: Ring) -> dict[str, str]:
    """Do it, on a file in memory: what is refused all the same, and how."""
    fd = os.memfd_create("aioring-doctor") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
    refused: dict[str, str] = {}

    async def attempt(name: str, call: Callable[[], Awaitable[Any]], expected: Any = None) -> None:
        try:
            got = await call()
        except OSError as error:
            refused[name] = reason_of(error)
        else:
            if expected is not None and got != expected:
                refused[name] = f"gave {got!r:.40}"

    buffer = bytearray(_SIZE)
    try:
        await attempt("write", lambda: ring.write(fd, 0, b"x" * _SIZE), _SIZE)
        await attempt("writev", lambda: ring.writev(fd, 0, [b"y" * 512, b"z" * 512]), 1024)
        there = None if refused else b"x" * (_SIZE - 1024)  # RLIMIT_FSIZE, say: then there is nothing to be read
        await attempt("read", lambda: ring.read(fd, 1024, _SIZE - 1024), there)
        await attempt("readinto", lambda: ring.readinto(fd, 0, buffer), there and _SIZE)
        await attempt("readv", lambda: ring.readv(fd, 0, [bytearray(512), bytearray(512)]), there and 1024)
        await attempt("fsync", lambda: ring.fsync(fd))
        await attempt("stat", lambda: ring.stat(fd))
        await attempt("allocate", lambda: ring.allocate(fd, 0, 2 * _SIZE))
        await attempt("truncate", lambda: ring.truncate(fd, _SIZE))
        await attempt("advise", lambda: ring.advise(fd, 0, 0, os.POSIX_FADV_RANDOM))

        async def open_and_close() -> None:
            await ring.close(await ring.open(os.devnull, os.O_RDONLY))

        await attempt("open", open_and_close)
    finally:
        os.close(fd)
    return refused


def _liburing() -> dict[str, Any]:
    """What is found, by which route, whether or not it is used in the end."""
    wanted = os.environ.get("AIORING_LIBURING") or None
    found: dict[str, Any] = {"AIORING_LIBURING": wanted, "route": None, "version": None, "used": None, "error": None}
    try:
        route = find_route(wanted)
    except OSError as error:
        found["error"] = str(error)
        return found
    found["route"] = "bundled" if str(BUNDLED) in route.name else route.name
    if isinstance(route, Liburing):
        library: Any = route._letting_go
        with suppress(AttributeError):  # since 2.3 and 2.4
            major, minor = library.io_uring_major_version, library.io_uring_minor_version
            major.restype = minor.restype = ctypes.c_int
            found["version"] = f"{major()}.{minor()}"
    return found


def _namesake() -> str | None:
    """The version of the other distribution whose import is called aioring as well, if it is installed beside this one."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("aioring")
    return None
