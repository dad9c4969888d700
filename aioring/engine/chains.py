"""Chains: operations that run one after the other, each only if the one before succeeded.

Where the method links (io_uring, IOSQE_IO_LINK) as many links as can be trusted to it go to the kernel in one
submission, a *round*; elsewhere a round is one link. Either way the same rules decide what follows, so the results are
the same on every method:

* A link that failed ends the chain: those behind it fail with ECANCELED, as the kernel says it.
* A short transfer is an error to the kernel, which breaks off the rest of the round. It is none to us: the transfer is
  continued, and the links that were broken off are issued again behind it, in a new round.
* The kernel (6.18) goes on behind a failed fsync, sync_file_range, fallocate, ftruncate, statx and every operation on
  names: io_uring/sync.c, fs.c, truncate.c and statx.c never mark the request as failed. After such a link, one whose row
  does not say `breaks`, a round ends: what follows waits until its result is known.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..handle import COMPLETE, DEFINED, SUBMITTED, Handle
from ..kernel.abi import SQE_LINK
from ..operations import CLOSE

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Chain"]


class Chain:
    """The links of one chain and how far it has come. The engine drives it; `waiter` is whoever left the block."""

    def __init__(self, engine: Engine, links: list[Handle]) -> None:
        self._engine = engine
        self.links = links
        self.waiter: Any = None
        self.cancelling = False
        self._failed = False
        self.staged = False  # the round under way has been handed on
        self._position = 0
        self.round: list[Handle] = []
        self.arrivals: dict[int, int] = {}  # link number to res, of this round
        for number, link in enumerate(links):
            link.chain, link.link = self, number

    def finished(self) -> bool:
        return all(link.state == COMPLETE for link in self.links)

    def _next(self) -> list[Handle]:
        """The links of the next round: as many as the kernel can be trusted with, or the next one alone."""
        rest = self.links[self._position :]
        for i, link in enumerate(rest):
            if not self._engine.links(link):
                return rest[: i or 1]
            if not link.operation.breaks:
                return rest[: i + 1]
        return rest

    def slots(self) -> int:
        """How many slots of `depth` the next round needs."""
        return len(self._next())

    def define_round(self) -> list[Handle]:
        """What is to be staged together, in order. It is the round once it is in `round`."""
        rest = self._next()
        for i, link in enumerate(rest):
            link.together, link.packed = len(rest) - i, False
            link.sqe_flags = SQE_LINK if i + 1 < len(rest) else 0
        return rest

    def closes(self) -> list[int]:
        """The fds that it closes."""
        return [link.fd for link in self.links if link.operation is CLOSE]

    def arrived(self, link: Handle, res: int) -> None:
        """One CQE of the round. When the round is whole: settle it, and go on or end."""
        assert link.link is not None
        if link not in self.round:
            return  # of a round that is over: dealt with before KeyboardInterrupt struck
        self.arrivals[link.link] = res
        if len(self.arrivals) < len(self.round):
            return
        for handle in self.round:
            number = handle.link
            assert number is not None
            if handle.state == COMPLETE:
                final: int | None = handle.res  # dealt with before KeyboardInterrupt struck
            else:
                res = self.arrivals[number]
                if res == -errno.ECANCELED and number > self._first() and not handle.cancelling and not self._failed:
                    # All before it succeeded, by our rules if not by the kernel's (a read that met end of file).
                    self._next_round()
                    return
                final = res if handle.exception is not None else self._engine.settle(handle, res)
            if final is None:
                # Short, or to be asked once more: a new round starts here.
                self._next_round()
                return
            self._end(handle, final)
            if handle.res < 0 or handle.exception is not None:
                self._failed = not handle.shut
                self.fail_rest(-errno.ECANCELED)
                return
        if self._position < len(self.links):
            self._next_round()
        elif self.waiter is not None:
            self._engine.loop.wake(self.waiter)

    def _first(self) -> int:
        number = self.round[0].link
        assert number is not None
        return number

    def _next_round(self) -> None:
        if self.cancelling or not self._engine.open:
            self.fail_rest(-errno.ECANCELED)
            return
        for link in self.links[self._position :]:
            link.state = DEFINED  # none of them is in anybody's hands: a cancel may end them where they stand
        self.staged = False
        self._engine.next_round(self)

    def _end(self, handle: Handle, res: int) -> None:
        if not self._engine.open and not self._failed and res == -errno.ECANCELED:
            handle.shut = True
        assert handle.link is not None
        handle.res = res
        handle.state = COMPLETE
        self._engine.finish(handle)
        self._position = handle.link + 1  # last, and not `+=`: struck by KeyboardInterrupt, all this is done again

    def fail_rest(self, res: int) -> None:
        """End every link that has not ended."""
        while self._position < len(self.links):
            self._end(self.links[self._position], res)
        if self.waiter is not None:
            self._engine.loop.wake(self.waiter)

    def cancel(self) -> bool:
        """The task that waits for the chain was cancelled: delivered only when no link is in flight."""
        if self.finished() or self._engine.ended:
            return True
        self.cancelling = True
        if not any(link.state == SUBMITTED for link in self.links):
            self.fail_rest(-errno.ECANCELED)
            return True
        self._engine.cancel_links(self.round)
        return False
