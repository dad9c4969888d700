"""Waiting for what cannot seek: pipes, FIFOs, ttys, sockets, eventfds. The same on every method.

A read of such a file may wait for ever, so it is not handed to the kernel or to a worker: it is waited for by readiness,
which consumes nothing and holds no worker and no slot of `depth`, and then carried out in place with no await before the
return, so that a cancelled read loses no byte (invariant 6).

Some facts about readiness
--------------------------
* One epoll a ring, watched by the loop through its own fd. Each waited-for file is registered under a dup, so that an fd
  that others close, or give to another file, meanwhile still reads what was asked for, as a blocked read(2) would.
* RWF_NOWAIT makes the transfer one that cannot wait; pipes and sockets take it. Named FIFOs and ttys refuse it
  (EOPNOTSUPP): they are opened once more through /proc/self/fd with O_NONBLOCK, for the length of one transfer. A pty
  master cannot be (that would make a new pty), nor can an eventfd: they are made non-blocking for the length of one
  transfer. Poll alone will not do: it reports a tty writable in which not one byte has room.
* There is no event for "a FIFO has got a peer": a reader that blocks in open(2) shows nothing that epoll or inotify
  could see. Opening a FIFO is therefore tried without blocking, again and again, every 20 ms at most. tee(2) tells
  whether a FIFO has a writer, without taking what that writer wrote.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from .errors import RingClosedError, os_error
from .kernel.at_once import tee
from .loops import Loop

__all__ = ["Readiness"]

READ, WRITE = 0, 1
Attempt = Callable[[int, int], int]  # one transfer on an fd: with RWF_NOWAIT, or plainly (0) where it is non-blocking
_EPOLL = getattr(select, "epoll", None)
_MOST = 1 << 20  # bytes in one transfer: more than any pipe holds
_TIOCGPTN = 0x80045430  # asm-generic/ioctls.h: succeeds on a pty master only
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class Host(Protocol):
    """What this room needs of the engine above it."""

    loop: Loop
    ended: str
    closing: Any  # fds that are being closed
    watched: list[int]  # fds that the loop watches for the ring
    at_shut: list[Callable[[], Any]]
    at_end: list[Callable[[], Any]]
    on_fence: Callable[[int], Any] | None

    @property
    def budget(self) -> Any: ...
    def check(self) -> None: ...
    def hold(self, fd: int, user: object) -> None: ...
    def release(self, fd: int, user: object) -> None: ...
    def after_close(self, fd: int, callback: Callable[[], Any]) -> None: ...
    async def run(self, call: Callable[[], Any]) -> Any: ...


class _Wait:
    """One task that waits for one direction of one file."""

    __slots__ = ("error", "length", "over", "seen", "since", "waiter")

    def __init__(self, length: int = 0, since: float = 0.0) -> None:
        self.waiter: Any = None
        self.over = False
        self.error: BaseException | None = None
        self.length = length  # bytes asked for
        self.since = since
        self.seen = 0  # its number in `in_flight`, once one has shown it

    def finished(self) -> bool:
        return self.over


class _File:
    """What is registered: a dup of the fd that was asked for, and who waits to read and to write.

    `turns`: who was woken and has not looked yet. Until it has, nobody else is woken for that direction, and a newcomer
    stands in line: so all are served in order.
    """

    __slots__ = ("armed", "asked", "fd", "identity", "lines", "turns", "users")

    def __init__(self, asked: int, fd: int, identity: tuple[int, int]) -> None:
        self.asked = asked
        self.fd = fd
        self.identity = identity
        self.users = 0
        self.armed = 0  # the mask that epoll has
        self.lines: tuple[deque[_Wait], deque[_Wait]] = (deque(), deque())
        self.turns: list[_Wait | None] = [None, None]

    def shared(self) -> _File:
        """For one user more."""
        self.users += 1
        return self

    def busy(self, way: int) -> bool:
        return bool(self.lines[way]) or self.turns[way] is not None

    def mask(self) -> int:
        mask = 0
        for way, bits in ((READ, select.EPOLLIN), (WRITE, select.EPOLLOUT)):
            if self.lines[way] and self.turns[way] is None:
                mask |= bits
        return mask


class Readiness:
    """One epoll of one ring. The loop's thread only."""

    def __init__(self, engine: Host) -> None:
        self._engine = engine
        self._epoll: Any = None
        self._files: dict[int, _File] = {}  # by the fd that was asked for
        self._by_dup: dict[int, _File] = {}
        engine.at_shut.append(self._shut)
        engine.at_end.append(self._end)
        engine.on_fence = self.cancel_fd

    # --- transfers ----------------------------------------------------------------------------------------------------

    async def transfer(
        self, fd: int, way: int, attempt: Attempt, user: object = None, file: _File | None = None, n: int = 0
    ) -> int:
        """Wait until `attempt` on the fd moves bytes (`n` at most, for who looks), and return how many: one transfer.

        `user` and `file` come from `begin`, if the fd was held from when it was asked for. Cancelling takes the task out
        of the line; nothing has been transferred then. Raises what `attempt` raises, and ECANCELED where the fd is
        closed through aioring meanwhile.
        """
        engine = self._engine
        if user is None:
            await self.fenced(fd)
            user = attempt
        turn: _Wait | None = None
        since = perf_counter()
        try:
            engine.hold(fd, user)
            await engine.budget.turn()
            engine.check()
            known = self._files.get(fd) if file is None else None
            if known is not None and known.busy(way):
                file = self._register(fd)
            look = file is None or not file.busy(way)  # else others stand in line before us
            while True:
                if look:
                    try:
                        return _without_waiting(fd if file is None else file.fd, way, attempt)
                    except BlockingIOError:
                        pass
                if fd in engine.closing:
                    raise os_error(errno.ECANCELED, note=f"fd {fd} was closed while this waited for it")
                if file is None:
                    file = self._register(fd)
                again, turn = turn, None
                try:
                    turn = await self._wait(file, way, again, _Wait(n, since))
                except PermissionError:  # epoll_ctl(2): EPERM, it has no poll; few devices are like that
                    return int(await engine.run(partial(attempt, fd, 0)))
                engine.check()
                look = True
        finally:
            try:
                if file is not None:
                    self._leave(file, way, turn)
            finally:
                engine.release(fd, user)

    def files(self) -> Collection[_File]:
        """What is waited for, with who waits in its `lines`, to READ and to WRITE: a view, which goes on changing."""
        return self._by_dup.values()

    def begin(self, fd: int, user: object) -> _File:
        """Hold what `fd` means now, for a transfer whose task has still to run."""
        self._engine.hold(fd, user)
        return self._register(fd)

    def leave(self, fd: int, user: object, file: _File) -> None:
        """What was begun is over."""
        self._leave(file, READ, None)
        self._engine.release(fd, user)

    def _leave(self, file: _File, way: int, turn: _Wait | None) -> None:
        if turn is not None and file.turns[way] is turn:
            file.turns[way] = None
        file.users -= 1
        if not file.users:
            self._drop(file)
        elif self._by_dup.get(file.fd) is file:
            self._arm(file)

    async def fenced(self, fd: int) -> None:
        """What is asked while the fd is being closed comes after the close."""
        engine = self._engine
        await engine.loop.checkpoint()
        while fd in engine.closing:
            wait = _Wait()
            engine.after_close(fd, partial(self._finish, wait))
            await engine.loop.park(wait, _leave)
            engine.check()

    async def _wait(self, file: _File, way: int, again: _Wait | None, wait: _Wait) -> _Wait:
        """Stand in line and return with the turn. Who had it and found nothing (`again`) stands at the head."""
        line = file.lines[way]
        if again is None:
            line.append(wait)
        else:
            line.appendleft(wait)
            file.turns[way] = None

        def leave(_: _Wait) -> bool:
            if file.turns[way] is wait:
                file.turns[way] = None  # the readiness passes on to the next
            else:
                with suppress(ValueError):
                    line.remove(wait)
            if self._by_dup.get(file.fd) is file:
                self._arm(file)
            return True

        try:
            self._arm(file)
        except BaseException:
            line.remove(wait)
            raise
        await self._engine.loop.park(wait, leave)
        if wait.error is not None:
            raise wait.error
        return wait

    def _register(self, fd: int) -> _File:
        """The file of `fd`, with one user more: shared by all who wait for the same fd."""
        st = os.fstat(fd)
        identity = (st.st_dev, st.st_ino)
        file = self._files.get(fd)
        # Anonymous inodes (eventfds and their kin) all have the same number: nothing tells whether it is still that one.
        if file is None or file.identity != identity or not stat.S_IFMT(st.st_mode):
            file = _File(fd, os.dup(fd), identity)
            self._files[fd] = self._by_dup[file.fd] = file
        file.users += 1
        return file

    def _arm(self, file: _File) -> None:
        """Have epoll watch for what is waited for, and for nothing else: level-triggered, it would ring every turn."""
        mask = file.mask()
        if mask == file.armed:
            return
        epoll = self._epoll or self._make_epoll()
        if not mask:
            epoll.unregister(file.fd)
        elif file.armed:
            epoll.modify(file.fd, mask)
        else:
            epoll.register(file.fd, mask)
        file.armed = mask

    def _make_epoll(self) -> Any:
        if _EPOLL is None:  # pragma: no cover - not Linux
            raise OSError(errno.ENOSYS, "waiting for what cannot seek needs epoll; use the event loop's own streams")
        epoll = _EPOLL()
        try:
            self._engine.loop.watch(epoll.fileno(), self._on_ready)
        except BaseException:
            epoll.close()
            raise
        self._epoll = epoll
        self._engine.watched.append(epoll.fileno())
        return epoll

    def _on_ready(self) -> None:
        if self._engine.ended or self._epoll is None:
            return
        for fd, events in self._epoll.poll(0):
            file = self._by_dup.get(fd)
            if file is None:
                continue
            broken = events & (select.EPOLLHUP | select.EPOLLERR)
            for way, bits in ((READ, select.EPOLLIN), (WRITE, select.EPOLLOUT)):
                # One at a time, in order: who is woken takes what is there, and then the next is asked about.
                line = file.lines[way]
                if (events & bits or broken) and line and file.turns[way] is None:
                    file.turns[way] = line[0]
                    self._finish(line.popleft())
            self._arm(file)

    def _finish(self, wait: _Wait) -> None:
        wait.over = True
        if wait.waiter is not None:
            self._engine.loop.wake(wait.waiter)

    def _drop(self, file: _File) -> None:
        """Close the dup: nobody waits for the file any more."""
        if self._by_dup.get(file.fd) is not file:
            return  # the ring is gone, and the fd with it
        del self._by_dup[file.fd]
        if self._files.get(file.asked) is file:
            del self._files[file.asked]
        if file.armed and self._epoll is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(file.fd)
        os.close(file.fd)

    # --- the end ------------------------------------------------------------------------------------------------------

    def cancel_fd(self, fd: int) -> None:
        """The fd is being closed through aioring: who waits for it is cancelled with ECANCELED."""
        for file in list(self._by_dup.values()):  # also those that had the number before
            if file.asked == fd:
                self._fail(file, lambda: os_error(errno.ECANCELED, note=f"fd {fd} was closed while this waited for it"))

    def _fail(self, file: _File, make: Callable[[], BaseException]) -> None:
        for line in file.lines:
            while line:
                wait = line.popleft()
                wait.error = make()
                self._finish(wait)
        self._arm(file)

    def _shut(self) -> None:
        for file in list(self._by_dup.values()):
            self._fail(file, lambda: RingClosedError("the ring was closed while this waited"))

    def _end(self) -> None:
        for file in list(self._by_dup.values()):
            self._by_dup.pop(file.fd)
            os.close(file.fd)
        self._files.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    # --- FIFOs --------------------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Until a timer of the loop: for what has no event."""
        wait = _Wait()
        take_back = self._engine.loop.call_later(seconds, lambda: self._finish(wait))
        try:
            await self._engine.loop.park(wait, _leave)
        finally:
            take_back()
        self._engine.check()

    async def fifo_has_writer(self, fd: int) -> None:
        """Wait until somebody has the FIFO open for writing, as a blocking open for reading does."""
        source, sink = os.pipe()
        try:
            delay = 0.001
            while not _has_writer(fd, sink):
                await self.sleep(delay)
                delay = min(delay * 2, 0.02)
        finally:
            os.close(source)
            os.close(sink)


def _leave(_: _Wait) -> bool:
    return True


def _has_writer(fd: int, sink: int) -> bool:
    try:
        # 0: nothing in it and nobody could write. A writer that came, wrote nothing and left shows as POLLHUP.
        if tee(fd, sink, 1):
            return True
    except BlockingIOError:
        return True
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def is_fifo(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def _without_waiting(fd: int, way: int, attempt: Attempt) -> int:
    """One transfer that cannot wait, or BlockingIOError."""
    if _NOWAIT:
        try:
            return attempt(fd, _NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
    poll = select.poll()
    poll.register(fd, select.POLLIN if way == READ else select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    if not os.get_blocking(fd):
        return attempt(fd, 0)
    twin = _twin(fd, way)
    if twin is not None:
        try:
            return attempt(twin, 0)
        finally:
            os.close(twin)
    os.set_blocking(fd, False)
    try:
        return attempt(fd, 0)
    finally:
        os.set_blocking(fd, True)


def _twin(fd: int, way: int) -> int | None:
    """The same FIFO or tty, opened once more without blocking; None where that cannot be."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISCHR(mode):
        if not os.isatty(fd):
            return None
        with suppress(OSError):
            fcntl.ioctl(fd, _TIOCGPTN, struct.pack("I", 0))
            return None  # a pty master: opening it makes a new pty
    elif not stat.S_ISFIFO(mode):
        return None
    with suppress(OSError):
        flags = os.O_RDONLY if way == READ else os.O_WRONLY
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return None
