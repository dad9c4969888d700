"""What `ring.chain()` and `ring.batch()` give."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from ..engine import Engine
from ..engine.chains import Chain
from ..errors import AioringError
from ..handle import COMPLETE, Handle
from ..operations import READ, is_direct
from . import define
from .define import StrOrBytesPath
from .pending import Pending

__all__ = ["Batch", "ChainBuilder"]


class ChainBuilder:
    """Operations that run one after the other, each only if the one before succeeded; `async with ring.chain()`.

    Its methods are those of the ring. They define an operation and return an awaitable for its result; leaving the
    block submits all of them, linked, and waits. Nothing is awaited inside the block.

    The first that fails is raised on leaving, as an `OSError` with `.link`, its number in the chain from 0; those behind
    it have not run, and their awaitables raise ECANCELED. A short transfer is continued and breaks nothing. If the block
    itself raises, nothing is submitted.

    Cancelling is delivered when none of it is in flight any more; links that had not run do not run.
    """

    def __init__(self, ring: object, engine: Engine) -> None:
        self._ring = ring  # lives as long as this
        self._engine = engine
        self._links: list[Handle] = []
        self._state = "new"

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise AioringError("a chain is used once; ask the ring for another")
        self._engine.check()
        self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = "over"
        engine, links = self._engine, self._links
        if error is not None:
            self._drop()
            return
        try:
            engine.check()
            await engine.loop.checkpoint()
        except BaseException:
            self._drop()
            raise
        if not links:
            return
        chain = Chain(engine, links)
        try:
            engine.ask_chain(chain)
            await engine.loop.park(chain, lambda _: chain.cancel())
        except BaseException:
            chain.cancel()  # which was done already, but after KeyboardInterrupt
            raise
        finally:
            for link in links:
                if link.state == COMPLETE and link.operation.settles:
                    # Chain and links hold each other until the garbage is collected: the caller's memory must not be held
                    # so long (a bytearray that is lent cannot grow). COMPLETE: the kernel is done with it (invariant 1).
                    link.view = link.views = None
        for link in links:
            if link.res < 0 or link.exception is not None:
                engine.take(link)

    def _drop(self) -> None:
        """Nothing is submitted; who awaits a link in another task is told."""
        for link in self._links:
            link.res, link.state = -errno.ECANCELED, COMPLETE
            if link.waiter is not None:
                self._engine.loop.wake(link.waiter)

    def _add(self, handle: Handle) -> Pending[Any]:
        if self._state != "open":
            raise AioringError("a chain takes operations only inside its `async with` block")
        if len(self._links) >= self._engine.depth:
            raise ValueError(
                f"a chain of more than {self._engine.depth} links does not fit the ring: give it more depth"
            )
        if handle.operation.transfers:
            try:
                os.lseek(handle.fd, 0, os.SEEK_CUR)
            except OSError as error:
                if error.errno == errno.ESPIPE:
                    raise ValueError(f"fd {handle.fd} cannot seek: a chain cannot wait for it") from None
            handle.direct = handle.operation is READ and is_direct(handle.fd)
        self._engine.audit(handle)
        self._links.append(handle)
        pending: Pending[Any] = Pending(self._ring, self._engine, handle, lambda _: True)
        pending._asked = True  # its error is raised on leaving the block
        return pending

    def read(self, fd: int, offset: int, n: int) -> Pending[bytes]:
        """As `Ring.read`."""
        return self._add(define.read(fd, offset, n))

    def readinto(self, fd: int, offset: int, buffer: Any) -> Pending[int]:
        """As `Ring.readinto`."""
        return self._add(define.readinto(fd, offset, buffer))

    def readv(self, fd: int, offset: int, buffers: Iterable[Any]) -> Pending[int]:
        """As `Ring.readv`."""
        return self._add(define.readv(fd, offset, buffers))

    def write(self, fd: int, offset: int, data: Any) -> Pending[int]:
        """As `Ring.write`."""
        return self._add(define.write(fd, offset, data))

    def writev(self, fd: int, offset: int, buffers: Iterable[Any]) -> Pending[int]:
        """As `Ring.writev`."""
        return self._add(define.writev(fd, offset, buffers))

    def fsync(self, fd: int, *, data_only: bool = False) -> Pending[None]:
        """As `Ring.fsync`: it serves the writes of the links before it."""
        return self._add(define.fsync(fd, data_only))

    def sync_range(self, fd: int, offset: int, n: int, flags: int = 7) -> Pending[None]:
        """As `Ring.sync_range`."""
        return self._add(define.sync_range(fd, offset, n, flags))

    def close(self, fd: int) -> Pending[None]:
        """As `Ring.close`."""
        return self._add(define.close(fd))

    def stat(
        self, path: StrOrBytesPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> Pending[os.stat_result]:
        """As `Ring.stat`."""
        return self._add(define.stat(path, dir_fd, follow_symlinks))

    def truncate(self, fd: int, n: int) -> Pending[None]:
        """As `Ring.truncate`."""
        return self._add(define.truncate(fd, n))

    def allocate(self, fd: int, offset: int, n: int, mode: int = 0) -> Pending[None]:
        """As `Ring.allocate`."""
        return self._add(define.allocate(fd, offset, n, mode))

    def advise(self, fd: int, offset: int, n: int, advice: int) -> Pending[None]:
        """As `Ring.advise`."""
        return self._add(define.advise(fd, offset, n, advice))

    def rename(
        self,
        src: StrOrBytesPath,
        dst: StrOrBytesPath,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> Pending[None]:
        """As `Ring.rename`."""
        return self._add(define.rename(src, dst, src_dir_fd, dst_dir_fd))

    def unlink(self, path: StrOrBytesPath, *, dir_fd: int | None = None) -> Pending[None]:
        """As `Ring.unlink`."""
        return self._add(define.unlink(path, dir_fd))

    def mkdir(self, path: StrOrBytesPath, mode: int = 0o777, *, dir_fd: int | None = None) -> Pending[None]:
        """As `Ring.mkdir`."""
        return self._add(define.mkdir(path, mode, dir_fd))

    def rmdir(self, path: StrOrBytesPath, *, dir_fd: int | None = None) -> Pending[None]:
        """As `Ring.rmdir`."""
        return self._add(define.rmdir(path, dir_fd))

    def symlink(self, src: StrOrBytesPath, dst: StrOrBytesPath, *, dir_fd: int | None = None) -> Pending[None]:
        """As `Ring.symlink`."""
        return self._add(define.symlink(src, dst, dir_fd))

    def link(
        self,
        src: StrOrBytesPath,
        dst: StrOrBytesPath,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> Pending[None]:
        """As `Ring.link`."""
        return self._add(define.link(src, dst, src_dir_fd, dst_dir_fd, follow_symlinks))


class Batch:
    """What is staged inside the block goes to the kernel on leaving it, not at the end of the loop's tick."""

    def __init__(self, ring: object, engine: Engine) -> None:
        self._ring = ring
        self._engine = engine

    def __enter__(self) -> None:
        self._engine.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine.open:
            self._engine.flush()
