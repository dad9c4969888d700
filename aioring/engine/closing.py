"""The end of a ring: by `aclose`, by the end of its loop, in a forked child, at interpreter exit.

Some facts about ending
-----------------------
* Closing the ring's fd does not stop the data: O_DIRECT reads landed after it in 320 of 320 trials. So what is in flight
  is cancelled and waited for first. Where that takes too long, its handles, and with them their buffers, are leaked on
  purpose, with a warning: memory that the kernel may still write to is never freed.
* A forked child keeps the parent's ring alive, so nothing is cancelled by the parent's close alone: it is asked for.
  The child itself must never submit: on a plain ring its requests and cancels would act on the parent's.
* What is staged has not been told to anybody and fails; a close that was asked for is carried out all the same.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from ..buffers import leak
from ..handle import COMPLETE, DEFINED, STAGED, SUBMITTED, Handle
from ..operations import CLOSE
from .chains import Chain
from .engine import Engine

__all__ = ["aclose", "close_now", "register"]

GRACE = 1.0  # seconds that a cancelled aclose, a closing loop and interpreter exit give to what is in flight

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class _Drain:
    """Waits until nothing is in flight, or until it has been told to give up."""

    def __init__(self, engine: Engine) -> None:
        self.waiter: Any = None
        self._engine = engine
        self._over = False
        self._timers: list[Callable[[], Any]] = []

    def finished(self) -> bool:
        return self._over or self._engine.ended != "" or not self._engine.busy()

    def limit(self, seconds: float) -> None:
        self._timers.append(self._engine.loop.call_later(seconds, self.give_up))

    def give_up(self) -> None:
        self._over = True
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None:
            self._engine.loop.wake(self.waiter)

    def cancelled(self, _: Any) -> bool:
        # Freeing memory that the kernel owns is not an option, and neither is to hang: a short while, then leak.
        self.limit(GRACE)
        return False

    def done(self) -> None:
        for take_back in self._timers:
            take_back()


def register(engine: Engine) -> None:
    """Have the engine looked after at fork and at interpreter exit."""
    _engines.add(engine)


async def aclose(engine: Engine, timeout: float | None = None) -> None:
    """Cancel what is in flight, fail what is staged, wait, let go of everything. Twice is harmless."""
    if engine.ended:
        return
    shut(engine)
    engine.flush()
    if engine.busy():
        drain = _Drain(engine)
        engine.drains.append(drain)
        if timeout is not None:
            drain.limit(timeout)
        try:
            await engine.loop.park(drain, drain.cancelled)
        finally:
            drain.done()
            _let_go(engine)
    else:
        _let_go(engine)
    await engine.loop.unwatched()
    engine.loop.done()


def close_now(engine: Engine, timeout: float = GRACE) -> None:
    """The same without a loop: it is closing, or gone. Blocks for `timeout` seconds at most."""
    if engine.ended:
        return
    for fd in engine.watched:
        engine.loop.unwatch(fd)
    engine.watched.clear()
    engine.loop.done()
    engine.loop = _NoLoop()
    shut(engine)
    deadline = time.monotonic() + timeout
    bell = select.poll()
    bell.register(engine.doorbell.fd, select.POLLIN)
    while True:
        engine.flush()
        left = deadline - time.monotonic()
        if not engine.busy() or left <= 0:
            break
        if engine.completed or bell.poll(min(left, 0.05) * 1000):
            engine.on_doorbell()
    _let_go(engine)


def shut(engine: Engine) -> None:
    """Take no more, fail what nobody was told of, cancel what is in flight."""
    if not engine.open:
        return
    engine.open = False
    engine.budget.close()
    for callback in engine.at_shut:
        callback()
    told_nobody: list[Handle | Chain] = [
        what
        for what in (*engine.backlog, *engine.staged, *engine.for_workers)
        if isinstance(what, Chain) or what.operation is not CLOSE
    ]
    for fence in engine.closing.values():
        told_nobody += fence.after
    for what in told_nobody:
        if isinstance(what, Chain):
            what.cancelling = True
            if not any(link.state == SUBMITTED for link in what.links):
                what.fail_rest(-errno.ECANCELED)
        elif what.chain is not None:
            what.chain.cancelling = True
            if not any(link.state == SUBMITTED for link in what.chain.links):
                what.chain.fail_rest(-errno.ECANCELED)
        elif what.state in (DEFINED, STAGED):
            what.res = -errno.ECANCELED
            what.state = COMPLETE
            engine.finish(what)
    for handle in list(engine.live.values()):
        if handle.operation is not CLOSE and handle.state == SUBMITTED:
            engine.ask_cancel(handle)


def _let_go(engine: Engine) -> None:
    if engine.ended:
        return
    engine.ended = "closed"
    left = [handle for handle in engine.live.values() if handle.state == SUBMITTED]
    for fd in engine.watched:
        engine.loop.unwatch(fd)
    engine.watched.clear()
    if engine.tending is not None:
        engine.tending()
    for callback in engine.at_end:
        callback()
    for handle in left:
        leak(handle)
    engine.method.close()
    if engine.workers is not engine.method:
        engine.workers.close()
    engine.doorbell.close()
    for handle in left:
        handle.res = -errno.ECANCELED
        handle.state = COMPLETE
        if handle.waiter is not None and not handle.orphan:
            engine.loop.wake(handle.waiter)
        if handle.chain is not None and handle.chain.waiter is not None:
            engine.loop.wake(handle.chain.waiter)
    for fence in engine.closing.values():
        for callback in fence.then:
            callback()
    for drain in engine.drains:
        drain.wake()
    if left:
        names = ", ".join(sorted({handle.operation.name for handle in left}))
        warnings.warn(
            f"aioring: {len(left)} I/Os ({names}) did not end before their ring had to; their buffers stay allocated",
            ResourceWarning,
            stacklevel=2,
            source=engine,
        )
    engine.live.clear()
    engine.completed.clear()


class _NoLoop:
    """What a loop that is gone can still do: nothing."""

    kind = "none"
    checks = False
    key = None

    def running_here(self) -> bool:
        return False

    def call_soon(self, callback: Callable[[], Any]) -> None:
        return None

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: None

    def watch(self, fd: int, callback: Callable[[], Any]) -> None:
        return None

    def unwatch(self, fd: int) -> None:
        return None

    async def unwatched(self) -> None:
        return None

    def wake(self, waiter: Any) -> None:
        return None

    async def park(self, thing: Any, on_cancel: Callable[[Any], bool]) -> None:
        return None

    def spawn(self, body: Any) -> Callable[[], Any]:
        return lambda: None

    async def checkpoint(self) -> None:
        return None

    def at_close(self, callback: Any) -> None:
        return None

    def keep(self, thing: Any) -> None:
        return None

    def kept(self) -> Any:
        return None

    def done(self) -> None:
        return None


def _in_forked_child() -> None:
    """Runs in the child before any other Python code: close what was inherited, never submit."""
    for engine in list(_engines):
        if engine.ended:
            continue
        engine.open = False
        engine.ended = "forked"
        engine.budget.close_quietly()
        engine.loop = _NoLoop()
        engine.method.abandon()
        if engine.workers is not engine.method:
            engine.workers.abandon()
        for callback in engine.at_end:
            callback()
        engine.doorbell.close()
    _engines.clear()


def _at_exit() -> None:
    """Interpreter exit frees objects in any order: nothing may be in flight into one of them by then."""
    for engine in list(_engines):
        if engine.ended:
            continue
        if engine.thread == threading.get_ident():
            close_now(engine)
        else:
            for handle in list(engine.live.values()):
                leak(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)
