"""The close of an fd: it waits for every operation that was asked before it, and what is asked later waits for it.

An fd's number must mean the same file until the operations that were given it have returned (invariant 7): parked,
staged, between two transfers or in flight. So everybody who uses an fd is known here from when it asks until it is
done, and a close puts up a fence.

The base of `Engine`, which says how what is free to go is taken in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..handle import Handle
from ..operations import CLOSE
from .chains import Chain

__all__ = ["Fence", "Fences"]


class Fence:
    """An fd that is being closed by `owner`, which `waits` for those that use it; `after` is asked when it is through."""

    __slots__ = ("after", "lifted", "owner", "then", "waits")

    def __init__(self, owner: Handle | Chain) -> None:
        self.owner = owner
        self.lifted = False
        self.waits = False
        self.after: deque[Handle | Chain] = deque()
        self.then: list[Callable[[], Any]] = []


class Fences:
    """Who uses which fd, and which fds are being closed. The loop's thread only."""

    ended = ""

    def __init__(self) -> None:
        self.users: dict[int, set[object]] = {}  # fd: who was asked to use it and has not done
        self.closing: dict[int, Fence] = {}
        self.on_fence: Callable[[int], Any] | None = None  # an fd is to be closed: who only waits for it must go

    def _enqueue(self, what: Handle | Chain) -> None:
        raise AssertionError("the engine does")  # pragma: no cover

    def ask(self, handle: Handle) -> None:
        """Take a handle that is DEFINED. It is staged now, or when a slot is free and its fd is not being closed."""
        if self.closing and (fence := self._fence_before(handle)) is not None:
            fence.after.append(handle)  # asked later, runs later
        elif handle.operation is CLOSE:
            self._fence([handle.fd], handle)
        else:
            self._hold_for(handle)
            self._enqueue(handle)

    def ask_chain(self, chain: Chain) -> None:
        """Take a chain. One that closes fds waits as a close does.

        It uses its fds from now on, so that of two chains that close each other's fds only the later one waits.
        """
        for link in chain.links:
            if self.closing and (fence := self._fence_before(link)) is not None:
                fence.after.append(chain)
                return
        for link in chain.links:
            if link.operation is not CLOSE:
                self._hold_for(link)
        self._fence(chain.closes(), chain)

    def _fence_before(self, handle: Handle) -> Fence | None:
        for fd in (handle.fd, handle.fd2):
            fence = self.closing.get(fd)
            # Who used the fd before the close was asked (a read that was parked) is older than the fence.
            if fence is not None and not fence.lifted and handle not in self.users.get(fd, ()):
                return fence
        return None

    def _fence(self, fds: list[int], owner: Handle | Chain) -> None:
        """Begin to close `fds`. The owner goes on at once, or when all who were asked before have done."""
        for fd in fds:
            fence = self.closing[fd] = Fence(owner)
            if self.on_fence is not None:
                self.on_fence(fd)
            fence.waits = True
        self._go_if_free(owner, fds)

    def _go_if_free(self, owner: Handle | Chain, fds: list[int]) -> None:
        mine = set(owner.links) if isinstance(owner, Chain) else set()
        if any(self.users.get(fd, mine) - mine for fd in fds):
            return
        # First: struck after it, the owner stands in the line twice, and the second time is nothing.
        self._enqueue(owner)
        for fd in fds:
            self.closing[fd].waits = False

    def _hold_for(self, handle: Handle) -> None:
        if handle.fd >= 0:
            self.hold(handle.fd, handle)
        if handle.fd2 >= 0:
            self.hold(handle.fd2, handle)

    def after_close(self, fd: int, callback: Callable[[], Any]) -> None:
        """Call back when the close of `fd` that is under way is through."""
        self.closing[fd].then.append(callback)

    def hold(self, fd: int, user: object) -> None:
        """`user` (a handle, or whatever will have one) uses `fd`: a close of it waits. Twice is once."""
        users = self.users.get(fd)
        if users is None:
            self.users[fd] = {user}
        else:
            users.add(user)

    def release(self, fd: int, user: object) -> None:
        users = self.users.get(fd)
        if users is not None:
            users.discard(user)
            if not users:
                del self.users[fd]
        fence = self.closing.get(fd) if self.closing else None
        if fence is not None and fence.waits and not self.ended:
            owner = fence.owner
            self._go_if_free(owner, owner.closes() if isinstance(owner, Chain) else [fd])

    def _closed_fd(self, handle: Handle) -> None:
        """A close is through, or failed: what was asked after it goes on, with whatever that number means now."""
        fence = self.closing.get(handle.fd)
        if fence is None or (fence.owner is not handle and fence.owner is not handle.chain):
            return  # a close that never got as far as to stand in front of others
        fence.lifted = True
        for callback in fence.then:
            callback()
        while fence.after:
            what = fence.after[0]
            if not what.finished():
                self.ask_chain(what) if isinstance(what, Chain) else self.ask(what)
            fence.after.popleft()
        if self.closing.get(handle.fd) is fence:  # else one of those closes the number again
            del self.closing[handle.fd]
