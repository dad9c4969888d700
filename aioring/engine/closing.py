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
from contextlib import suppress
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
    try:
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
    finally:
        loop = engine.loop
        _let_go(engine)
        try:
            await loop.unwatched()
        finally:
            loop.done()


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
    for what in _told_nobody(engine):
        if isinstance(what, Chain):
            _end_chain(what)
        elif what.operation is not CLOSE or (what.state == DEFINED and not what.orphan and _is_behind(engine, what)):
            _end(engine, what)
    for handle in list(engine.live.values()):
        if handle.operation is not CLOSE and handle.state == SUBMITTED:
            engine.ask_cancel(handle)


def _told_nobody(engine: Engine) -> list[Handle | Chain]:
    """Whoever no method was told of: in the lines, and at the fences of fds that are being closed."""
    found: list[Handle | Chain] = [*engine.backlog, *engine.staged, *engine.for_workers]
    for fence in engine.closing.values():
        if fence.waits:
            found.append(fence.owner)
        found += fence.after
    return [what.chain if isinstance(what, Handle) and what.chain is not None else what for what in found]


def _is_behind(engine: Engine, close: Handle) -> bool:
    """Whether a close stands behind another one of the same number: what the number means then is not what was asked."""
    fence = engine.closing.get(close.fd)
    return fence is not None and fence.owner is not close


def _end(engine: Engine, handle: Handle) -> None:
    if handle.state in (DEFINED, STAGED):
        handle.res = -errno.ECANCELED
        handle.state = COMPLETE
        engine.finish(handle)


def _end_chain(chain: Chain) -> None:
    chain.cancelling = True
    if not any(link.state == SUBMITTED for link in chain.links):
        chain.fail_rest(-errno.ECANCELED)


def _let_go(engine: Engine) -> None:
    if engine.ended:
        return
    _tell_all(engine)
    engine.ended = "closed"
    left = [handle for handle in engine.live.values() if handle.state == SUBMITTED]
    for handle in left:
        handle.begun = _has_begun(engine, handle)
    waiting = _told_nobody(engine)
    for fd in engine.watched:
        engine.loop.unwatch(fd)
    engine.watched.clear()
    if engine.tending is not None:
        engine.tending()
    said: Warning | None = None  # where warnings are errors: when all is let go of
    for callback in engine.at_end:
        try:
            callback()
        except Warning as warning:
            said = said or warning
    for handle in left:
        leak(handle)
    engine.method.close()
    if engine.workers is not engine.method:
        engine.workers.close()
    engine.doorbell.close()
    chains = {what for what in waiting if isinstance(what, Chain)} | {h.chain for h in left if h.chain is not None}
    handles = [*left, *(what for what in waiting if isinstance(what, Handle))]
    for handle in [*handles, *(link for chain in chains for link in chain.links)]:
        if handle.state != COMPLETE:
            handle.res, handle.shut = -errno.ECANCELED, True
            engine.book(handle)
            handle.state = COMPLETE
            if handle.on_done is not None:
                handle.on_done(handle)
        if handle.waiter is not None:
            engine.loop.wake(handle.waiter)
    for chain in chains:
        if chain.waiter is not None:
            engine.loop.wake(chain.waiter)
    for fence in engine.closing.values():
        for callback in fence.then:
            callback()
    for drain in engine.drains:
        drain.wake()
    _drop_all(engine)
    engine.live.clear()
    engine.closing.clear()
    if left:
        names = ", ".join(sorted({handle.operation.name for handle in left}))
        warnings.warn(
            f"aioring: {len(left)} I/Os ({names}) did not end before their ring had to; their buffers stay allocated",
            ResourceWarning,
            stacklevel=2,
            source=engine,
        )
    if said is not None:
        raise said


def _has_begun(engine: Engine, handle: Handle) -> bool:
    """Whether it is carried out, or will be, though its ring is gone: the kernel has it, or a worker has taken it."""
    if handle.served_by == engine.workers.name:
        return not engine.workers.waits(handle)
    return engine.method.by_opcode or handle.outcome is not None


def _tell_all(engine: Engine) -> None:
    """What is complete is no I/O that did not end in time: a turn tells a few, and many were cancelled in one."""
    with suppress(Exception):  # of one completion; the ring is to be let go of
        engine.method.reap()
        for _ in range(len(engine.completed)):
            if not engine.completed:
                break
            engine.on_doorbell()


def _drop_all(engine: Engine) -> None:
    """Workers may post what is too late for anybody: an fd in it is closed by who takes it off (see `Worker._work`)."""
    completed = engine.completed
    while completed:
        try:
            token, res = completed.popleft()
        except IndexError:
            return
        handle = engine.live.get(token)
        if handle is not None and (fd := handle.brought(res)) >= 0:
            os.close(fd)


class _NoLoop:
    """What a loop that is gone can still do: nothing."""

    kind = "none"
    checks = False
    key = None
    create_future: Callable[[], Any] | None = None

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

    async def park(self, thing: Any, on_cancel: Callable[[Any], bool], struck: BaseException | None = None) -> None:
        return None

    def spawn(self, body: Any, over: Any) -> Callable[[], Any]:
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
            with suppress(Exception):  # the other rings are to be closed as well
                callback()
        engine.doorbell.close()
    _engines.clear()


def _at_exit() -> None:
    """Interpreter exit frees objects in any order: nothing may be in flight into one of them by then."""
    for engine in list(_engines):
        if engine.ended:
            continue
        if engine.doorbell.thread == threading.get_ident():
            close_now(engine)
        else:
            for handle in list(engine.live.values()):
                leak(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)
