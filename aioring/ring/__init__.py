"""Ring: what people await. One method per I/O operation.

`lifetime.py` starts and ends it, `data.py` moves bytes (the hot read stands there; `page_cache.py` serves it), `start.py`
stages transfers that are awaited later, `unseekable.py` tells what cannot seek, `files.py` and `names.py` work on files
and directory entries, `observing.py` tells what it does, `chain.py` and `pending.py` are what a ring hands out, `define.py`
checks arguments.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .chain import Batch, ChainBuilder
from .names import Names
from .observing import Observing, in_flight, rings
from .pending import Pending
from .start import Start

__all__ = ["Pending", "Ring", "get_ring", "in_flight", "rings"]

P = ParamSpec("P")
T = TypeVar("T")


class Ring(Observing, Start, Names):
    """Asynchronous I/O for one event loop: `async with aioring.Ring() as ring`.

    `method`: "auto" (io_uring where it works, else linux_aio, else worker threads), "io_uring", "linux_aio", "worker",
    "sync", or a method object; default: AIORING_METHOD, else "auto". `depth`: how many I/Os may be in flight (default:
    AIORING_DEPTH, else 256); who asks for more waits, in order. `workers`: worker threads at most (default:
    AIORING_WORKERS, else 8).
    `page_cache_first`: serve small reads from the page cache in place. `track_timing`: keep how long I/Os were waited for
    (default: AIORING_TRACK_TIMING, else whether AIORING_OBSERVE is set); see `stats`.

    A ring belongs to one loop and one thread. Making one touches no kernel; `start` or `async with` does.

    Raises:
        ValueError: an argument, or the environment, says something that makes no sense.
    """

    def chain(self) -> ChainBuilder:
        """Operations that run one after the other; see `ChainBuilder`."""
        return ChainBuilder(self, self._engine)

    def batch(self) -> Batch:
        """`with ring.batch():` submits what is staged inside on leaving, not at the end of the loop's tick."""
        return Batch(self, self._engine)

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function on the ring's worker threads (scandir, flock, anything), and await its result.

        It runs in a copy of the caller's context, like `asyncio.to_thread`. It takes no slot of `depth`.

        Cancelling returns at once. If the call has begun it runs to its end, and what it returns is dropped.

        Raises:
            BaseException: whatever `func` raises.
            RingClosedError, WrongLoopError: as every operation of a ring.
        """
        engine = self._engine
        await engine.loop.checkpoint()
        context = contextvars.copy_context()
        result: T = await engine.run(functools.partial(context.run, func, *args, **kwargs))
        return result

    async def _run_out(self, func: Callable[..., T], *args: Any) -> T:
        """`run` of what has an effect: cancelling takes back what has not begun, else it is delivered at the end."""
        engine = self._engine
        await engine.loop.checkpoint()
        result: T = await engine.run(functools.partial(contextvars.copy_context().run, func, *args), True)
        return result


from .current import get_ring  # noqa: E402 - it needs Ring
