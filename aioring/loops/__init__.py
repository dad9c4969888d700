"""How a doorbell wakes a loop and how a waiter parks: the only code that knows which event loop runs.

asyncio and uvloop share `asyncio.py`; trio has `trio.py`. They differ in how they wake and park and in nothing else.
`current()` finds the loop that runs here; the engine and the readiness room use what it returns.
"""

from __future__ import annotations

import sys
from asyncio import get_running_loop  # by name: this package has an `asyncio` of its own
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..errors import WrongLoopError

__all__ = ["Loop", "Waitable", "at_once", "current"]


Over = Callable[[Any, "BaseException | None"], Any]


class Waitable(Protocol):
    """What can be waited for: a handle, or anything else with a `waiter` and a way to tell that it is done.

    A waiter is an asyncio Future, or has its `done()` and `set_result(None)`.
    """

    waiter: Any

    def finished(self) -> bool: ...


def at_once(_: Waitable) -> bool:
    """`on_cancel` of `Loop.park` for who waits for what stays where it is: a cancel is delivered at once."""
    return True


class Loop(Protocol):
    """One event loop, seen from a ring that belongs to it."""

    kind: str
    checks: bool  # whether `checkpoint` does anything
    key: Any  # the loop itself (asyncio) or its token (trio): what a ring is kept under
    create_future: (
        Callable[[], Any] | None
    )  # a waiter that can be awaited in place, where `park` does no more (asyncio)

    def running_here(self) -> bool:
        """Whether this loop runs the code that asks, in this thread."""
        ...

    def call_soon(self, callback: Callable[[], Any]) -> None:
        """Run `callback` once, in the loop's next tick. It must not raise."""
        ...

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Callable[[], Any]:
        """Run `callback` after `delay` seconds; what is returned takes it back."""
        ...

    def watch(self, fd: int, callback: Callable[[], Any]) -> None:
        """Call `callback` whenever `fd` is readable (level-triggered) until `unwatch`."""
        ...

    def unwatch(self, fd: int) -> None:
        """Stop watching. The fd may be closed only when `unwatched` has returned."""
        ...

    async def unwatched(self) -> None:
        """Wait until no watch that was taken off still uses its fd."""
        ...

    def wake(self, waiter: Any) -> None:
        """Let the task that is parked on `waiter` go on. Twice is harmless."""
        ...

    async def park(
        self, thing: Waitable, on_cancel: Callable[[Any], bool], struck: BaseException | None = None
    ) -> None:
        """Wait until `thing.finished()`.

        When the task is cancelled, `on_cancel(thing)` says whether that may be delivered at once (True) or only when
        the thing has finished (False). Any other end of the task (`GeneratorExit`) calls `on_cancel` too. `struck`: what
        was thrown into who awaited a `create_future` waiter in place.
        """
        ...

    def spawn(self, body: Callable[[], Coroutine[Any, Any, Any]], over: Over) -> Callable[[], Any]:
        """Run `body()` in the background, then `over(value, error)`, once; cancelled: `over(None, None)`. Struck by
        KeyboardInterrupt, `over` is called again: it has to be harmless when done twice.

        What is returned cancels it.
        """
        ...

    async def checkpoint(self) -> None:
        """Let the cancellation of the task be delivered, if there is one. asyncio needs none."""
        ...

    def at_close(self, callback: Callable[[], Any]) -> None:
        """Run `callback`, a bound method (held weakly), in the loop's thread when the loop is being closed."""
        ...

    def keep(self, thing: Any) -> None:
        """Keep `thing` alive as long as the loop; one at a time."""
        ...

    def kept(self) -> Any:
        """What was last kept with the loop that runs here, or None."""
        ...

    def done(self) -> None:
        """The ring needs this loop no more: forget what `at_close` was told."""
        ...


def current() -> Loop:
    """The loop that runs here.

    Raises:
        WrongLoopError: no event loop runs in this thread.
    """
    try:
        loop = get_running_loop()
    except RuntimeError:
        pass
    else:
        return AsyncioLoop(loop)
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            pass
        else:
            from .trio import TrioLoop

            return TrioLoop(token)
    raise WrongLoopError("no event loop runs here: use a ring from inside asyncio.run(), uvloop.run() or trio.run()")


from .asyncio import AsyncioLoop  # noqa: E402 - it needs the protocols above; trio is imported by those who run on it
