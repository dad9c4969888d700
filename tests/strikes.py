"""KeyboardInterrupt again and again inside aioring's own code, and the loop resumed each time. For a process of its own."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

import aioring

INSIDE = os.path.dirname(aioring.__file__)
AT_ONCE = 8  # tasks
STANDS = 2.0  # seconds without progress: it hangs


def _where(coroutine: Any) -> Iterator[str]:
    """What a task is in, from the outermost."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield f"{coroutine.__qualname__}:{frame.f_lineno}"
        coroutine = coroutine.cr_await


class Strikes:
    """Strikes `wanted` times while tasks of `work` run; each may end by it, and another takes its place.

    Only in aioring's own code: asyncio itself loses callbacks to a KeyboardInterrupt in `call_soon` or between two.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, wanted: int, state: Callable[[], object], *, mild: bool = False
    ) -> None:
        """`mild`: not at a function's very entry (there a `finally` that calls it is as if it had not been), and none at
        once behind another, where it may strike what is done because of that one."""
        self.loop, self.wanted, self._state, self._mild = loop, wanted, state, mild
        self.struck = self.tasks = 0
        self.where: dict[tuple[str, str, int], int] = {}
        self._chance = random.Random(1)
        self._moved = time.monotonic()
        self._last: list[str] = []
        faulthandler.dump_traceback_later(50, exit=True)
        signal.signal(signal.SIGALRM, self._strike)

    @property
    def over(self) -> bool:
        return self.struck >= self.wanted

    def progress(self) -> None:
        self._moved = time.monotonic()

    def _strike(self, number: int, frame: FrameType | None) -> None:
        assert frame is not None
        code, at = frame.f_code, frame.f_back
        while at is not None and at.f_code.co_name != "__del__":  # there an exception goes nowhere
            at = at.f_back
        # At its very entry a callback is as lost as between two callbacks: asyncio has taken it off its list.
        assert frame.f_back is not None
        by_asyncio = "asyncio" in frame.f_back.f_code.co_filename.split(os.sep)
        entry = frame.f_lineno == code.co_firstlineno and (self._mild or by_asyncio)
        if code.co_filename.startswith(INSIDE) and at is None and code.co_name != "__del__" and not entry:
            self.struck += 1
            key = code.co_filename[len(INSIDE) + 1 :], code.co_name, frame.f_lineno
            self.where[key] = self.where.get(key, 0) + 1
            raise KeyboardInterrupt
        at_once = self.struck % 2 and not self._mild
        soon = self._chance.uniform(1e-6, 6e-5) if at_once else self._chance.uniform(1e-4, 1e-3)
        signal.setitimer(signal.ITIMER_REAL, soon)

    def resume(self, future: Any) -> Any:
        while True:
            try:
                return self.loop.run_until_complete(future)
            except RuntimeError as error:
                if "before Future completed" not in str(error):  # asyncio: the stop of the turn that was struck
                    raise

    def run(self, work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Until so many have struck, and all tasks have ended. What one raised is raised, but for the interrupt."""
        tasks: set[asyncio.Task[None]] = set()
        broken: list[BaseException] = []
        wake = self.loop.create_future()

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, KeyboardInterrupt):
                broken.append(error)
            if not wake.done():
                wake.set_result(None)

        def look() -> None:
            if time.monotonic() - self._moved > STANDS:
                signal.signal(signal.SIGALRM, lambda *_: None)
                print("hangs:", self.struck, "strikes,", self._state(), "last struck at", self._last)
                for task in asyncio.all_tasks(self.loop):
                    print(*_where(task.get_coro()), flush=True)
                os._exit(3)
            if not wake.done():
                wake.set_result(None)

        while (not self.over or tasks) and not broken:
            wake = self.loop.create_future()
            while not self.over and len(tasks) < AT_ONCE:
                self.tasks += 1
                task = self.loop.create_task(work(self.tasks))
                tasks.add(task)
                task.add_done_callback(ended)
            timer = self.loop.call_later(STANDS, look)
            try:
                if not self.over:
                    signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(3e-4 if self._mild else 1e-6, 1e-3))
                self.resume(wake)
            except KeyboardInterrupt as error:
                self._last = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-4:]
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                timer.cancel()
        signal.signal(signal.SIGALRM, lambda *_: None)
        if broken:
            raise broken[0]  # with its traceback
