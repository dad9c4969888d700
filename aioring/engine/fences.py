"""The close of an fd: it waits for every operation that was asked before it, and what is asked later waits for it.

An fd's number must mean the same file until the operations that were given it have returned (invariant 7): parked,
staged, between two transfers or in flight. A close puts up a fence: it looks round once for whoever was asked before it
and counts them off as they are done. (Counting every user of every fd instead cost a set for each I/O.) Handles are
found in the engine's own lines; who has none there yet, or not always (who is parked or waits for readiness, the links
of a chain), says so by `hold`.

The base of `Engine`, which says how what is free to go is taken in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..handle import COMPLETE, DEFINED, Handle
from ..operations import CLOSE
from .chains import Chain

__all__ = ["Fence", "Fences"]


class Fence:
    """An fd that is being closed by `owner`, which `waits` for those `before` it; `after` is asked when it is through."""

    __slots__ = ("after", "before", "former", "lifted", "owner", "then", "waits")

    def __init__(self, owner: Handle | Chain, before: set[object], former: Fence | None) -> None:
        self.owner = owner
        self.before = before
        self.former = former  # lifted; its owner is still telling those behind it, of whom ours is one
        self.lifted = False
        self.waits = True
        self.after: deque[Handle | Chain] = deque()
        self.then: list[Callable[[], Any]] = []


class Fences:
    """Who uses which fd, and which fds are being closed. The loop's thread only."""

    ended = ""
    live: dict[int, Handle]
    staged: deque[Handle]
    for_workers: deque[Handle]
    backlog: deque[Handle | Chain]

    def __init__(self) -> None:
        self.held: dict[int, set[object]] = {}  # fd: who uses it and cannot be found in the lines
        self.closing: dict[int, Fence] = {}
        self.on_fence: Callable[[int], Any] | None = None  # an fd is to be closed: who only waits for it must go

    def _enqueue(self, what: Handle | Chain) -> None:
        raise AssertionError("the engine does")  # pragma: no cover

    def ask(self, handle: Handle) -> None:
        """Take a handle that is DEFINED. It is staged now, or when a slot is free and its fd is not being closed."""
        if self.closing and (fence := self._fence_before(handle)) is not None:
            handle.since = handle.since or perf_counter()
            fence.after.append(handle)  # asked later, runs later
        elif handle.operation is CLOSE:
            handle.since = handle.since or perf_counter()
            self._fence([handle.fd], handle)
        else:
            self._enqueue(handle)

    def ask_chain(self, chain: Chain) -> None:
        """Take a chain. One that closes fds waits as a close does.

        It uses its fds from now on, so that of two chains that close each other's fds only the later one waits.
        """
        now = perf_counter()
        for link in chain.links:
            link.since = link.since or now  # all of them, whenever their round comes
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
            if fence is None or fence.owner is handle or (handle.chain is not None and fence.owner is handle.chain):
                continue  # (one's own: struck by KeyboardInterrupt, one is asked again)
            if not fence.lifted and handle not in fence.before:
                return fence
        return None

    def _fence(self, fds: list[int], owner: Handle | Chain) -> None:
        """Begin to close `fds`. The owner goes on at once, or when all who were asked before have done."""
        mine = set(owner.links) if isinstance(owner, Chain) else set()
        for fd in fds:
            former = self.closing.get(fd)
            if former is None or former.owner is not owner:  # else it was put up before KeyboardInterrupt struck
                self.closing[fd] = Fence(owner, self._users(fd) - mine, former)
            if self.on_fence is not None:
                self.on_fence(fd)
        self._go_if_free(owner, fds)

    def _users(self, fd: int) -> set[object]:
        """Who was asked to use `fd` and has not done."""
        users = set(self.held.get(fd, ()))
        for line in (self.live.values(), self.staged, self.for_workers, self.backlog):
            for what in line:
                if (
                    isinstance(what, Handle)
                    and (what.fd == fd or what.fd2 == fd)
                    and what.state != COMPLETE
                    and what.operation is not CLOSE
                ):
                    users.add(what)
        return users

    def uses(self, fd: int) -> bool:
        """Whether `fd` may be in use by somebody, or is being closed: a close of it has to stand in line. Looks through
        what is in flight only where that is little."""
        if self.closing or self.held:
            return fd in self.closing or fd in self.held or bool(self._users(fd))
        if self.staged or self.for_workers or self.backlog or len(self.live) > 64:
            return True
        return any(handle.fd == fd or handle.fd2 == fd for handle in self.live.values())

    def _go_if_free(self, owner: Handle | Chain, fds: list[int]) -> None:
        fences = [fence for fd in fds if (fence := self.closing.get(fd)) is not None and fence.owner is owner]
        # All are up, nobody is before any of them, and it has not gone yet.
        if len(fences) < len(set(fds)) or any(fence.before or not fence.waits for fence in fences):
            return
        # First: struck after it, this is done again, and the owner is found in the line.
        # (A chain that was cancelled before it was staged ends its links, one of which may have been the last before it.)
        if not owner.cancelling if isinstance(owner, Chain) else owner.state == DEFINED:
            self._enqueue(owner)
        for fence in fences:
            fence.waits = False

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
        users = self.held.get(fd)
        if users is None:
            self.held[fd] = {user}
        else:
            users.add(user)

    def vouch(self, fd: int, user: object, handle: Handle) -> None:
        """`handle` is about to be asked by `user`, who holds `fd`: it is as old as they are."""
        fence = self.closing.get(fd)
        if fence is not None and user in fence.before:
            fence.before.add(handle)

    def give_up(self, handle: Handle) -> None:
        """`handle` held its fd and was not asked after all. One that is in somebody's hands is released when it is done."""
        if handle.state in (DEFINED, COMPLETE):
            self.release(handle.fd, handle)

    def release(self, fd: int, user: object) -> None:
        """`user` has done with `fd`. Harmless where it never held it, and when done twice."""
        users = self.held.get(fd)
        if users is not None:
            users.discard(user)
            if not users:
                del self.held[fd]
        fence = self.closing.get(fd) if self.closing else None
        if fence is not None:
            fence.before.discard(user)
            if fence.waits and not self.ended:
                owner = fence.owner
                self._go_if_free(owner, owner.closes() if isinstance(owner, Chain) else [fd])

    def _closed_fd(self, handle: Handle) -> None:
        """A close is through, or failed: what was asked after it goes on, with whatever that number means now."""
        fence = self.closing.get(handle.fd)
        while fence is not None and fence.owner is not handle and fence.owner is not handle.chain:
            fence = fence.former  # struck by KeyboardInterrupt when one of those behind had closed the number again
        if fence is None:
            return  # a close that never got as far as to stand in front of others
        fence.lifted = True
        for callback in fence.then:
            callback()
        while fence.after:
            what = fence.after[0]
            # (Else it is in somebody's hands: KeyboardInterrupt struck after it was asked. Asked twice, it is done twice.)
            if (what.links[0] if isinstance(what, Chain) else what).state == DEFINED:
                self.ask_chain(what) if isinstance(what, Chain) else self.ask(what)
            fence.after.popleft()
        now = self.closing.get(handle.fd)
        if now is fence:
            del self.closing[handle.fd]
        elif now is not None:  # one of those closes the number again
            now.former = None
