"""The life of a ring: made, started on a loop, closed. And `get_ring()`'s side of it: see `current.py`."""

from __future__ import annotations

import ctypes
import errno
import itertools
import logging
import os
import threading
import warnings
from functools import partial
from types import TracebackType
from typing import Any, Self

from .. import methods
from ..buffers import leak
from ..engine import Engine, aclose, close_now
from ..engine.closing import register
from ..errors import AioringError, RingClosedError, RingUnavailableError, WrongLoopError
from ..handle import Handle
from ..kernel.features import Unusable
from ..loops import current
from ..methods import Method, choose
from ..methods.recording import Recording
from ..methods.worker import Worker
from ..observe.counters import Counters
from ..observe.serving import asked_for, switched_on
from ..readiness import Readiness

__all__ = ["Lifetime"]

logger = logging.getLogger("aioring")
_said: set[str] = set()
_numbers = itertools.count(1)  # of rings, in this process
DEPTH = 256
WORKERS = 8


def _number(given: Any, variable: str, default: int) -> int:
    """A keyword argument, or the environment, or the default; a whole number of at least 1."""
    if given is not None:
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            raise ValueError(
                f"{variable.removeprefix('AIORING_').lower()}={given!r}: must be a whole number of at least 1"
            )
        return int(given)
    text = os.environ.get(variable)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{variable}={text!r} in the environment: must be a whole number of at least 1")
    return int(text)


def _refuse_subinterpreters() -> None:
    # pystate.h. Signals, fork hooks and atexit belong to the main interpreter, and so would our threads.
    api = ctypes.pythonapi
    get: Any = api.PyInterpreterState_Get
    get.restype = ctypes.c_void_p
    number: Any = api.PyInterpreterState_GetID
    number.argtypes, number.restype = [ctypes.c_void_p], ctypes.c_int64
    if number(get()) != 0:
        raise RingUnavailableError(
            errno.ENOTSUP, "aioring cannot be used in a subinterpreter", "make the ring in the main interpreter"
        )


class Lifetime:
    """What every ring is before it does any I/O. Making one touches no kernel: `start` does."""

    _at_once = False  # whether what can be had without waiting is asked for in place

    def __init__(
        self,
        method: str | Method | None = None,
        depth: int | None = None,
        workers: int | None = None,
        page_cache_first: bool = True,
        track_timing: bool | None = None,
    ) -> None:
        if method is None:
            method = os.environ.get("AIORING_METHOD") or "auto"
        if isinstance(method, str) and method not in methods.METHODS:
            raise ValueError(f"unknown method {method!r}: one of {', '.join(methods.METHODS)}, or a method object")
        self._wanted = method
        self._depth = _number(depth, "AIORING_DEPTH", DEPTH)
        self._workers = _number(workers, "AIORING_WORKERS", WORKERS)
        self._liburing = os.environ.get("AIORING_LIBURING") or None
        self._page_cache_first = bool(page_cache_first)
        if track_timing is None:
            track_timing = switched_on("AIORING_TRACK_TIMING", default=asked_for() is not None)
        self._counters = Counters(track_timing=bool(track_timing))
        self._number = next(_numbers)
        self._started: Engine | None = None
        self._readiness: Readiness | None = None
        self._fallback_reason: str | None = None
        self._of_loop = False  # made by get_ring(): its end needs no warning
        self._entered = False

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The method that carries I/O out: "io_uring", "worker", "sync" ... Before `start`, the one asked for."""
        if self._started is not None:
            return self._started.method.name
        return self._wanted if isinstance(self._wanted, str) else self._wanted.name

    @property
    def fallback_reason(self) -> str | None:
        """Why it is not io_uring, in words, where `method="auto"` fell back; else None."""
        return self._fallback_reason

    @property
    def depth(self) -> int:
        """How many I/Os may be in flight; who asks for more waits in order."""
        return self._depth if self._started is None else self._started.depth

    @property
    def closed(self) -> bool:
        """Whether the ring takes no more I/O."""
        return self._started is not None and not self._started.open

    def __repr__(self) -> str:
        state = "not started" if self._started is None else "closed" if self.closed else f"depth {self.depth}"
        return f"<aioring.Ring {self.method}, {state}>"

    # --- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the ring, on the loop that runs here. `async with` does it for you.

        Raises:
            RingUnavailableError: a method asked for by name cannot be had here; `.hint` says why and what to do.
            RingClosedError: it was started before.
            WrongLoopError: no event loop runs here.
        """
        self._start()

    def _start(self) -> None:
        if self._started is not None:
            raise RingClosedError("this ring was started before; make another")
        loop = current()
        _refuse_subinterpreters()
        engine = self._make_engine(loop)
        try:
            self._readiness = Readiness(engine)
            register(engine)
            loop.watch(engine.doorbell.fd, engine.on_doorbell)
            engine.watched.append(engine.doorbell.fd)
            loop.at_close(self._loop_closes)
        except BaseException:
            close_now(engine)
            raise
        self._started = engine
        self._opened(engine)

    def _opened(self, engine: Engine) -> None:
        """For the hot path: see `data.py`."""

    def _make_engine(self, loop: Any) -> Engine:
        wanted = self._wanted
        if not isinstance(wanted, str):
            return self._engine_of(loop, wanted)
        candidates, reason = choose(wanted, self._workers, self._liburing)
        engine: Engine | None = None
        for method in candidates:
            try:
                engine = self._engine_of(loop, method)
                break
            except OSError as error:
                if wanted != "auto":
                    raise methods.unavailable(error, wanted) from None
                if not isinstance(error, Unusable):
                    raise  # not even a doorbell can be had
                reason = error.hint if reason is None else f"{reason}; nor {method.name}: {error.hint}"
        assert engine is not None  # the last one of "auto" always works
        self._fallback_reason = reason
        if reason is not None and reason not in _said:
            _said.add(reason)
            logger.info("io_uring cannot be used, %s is: %s", engine.method.name, reason)
        return engine

    def _engine_of(self, loop: Any, method: Method) -> Engine:
        workers = method if isinstance(method, Worker) else Worker(self._workers)
        if isinstance(method, Recording):
            workers = method.around(workers)
        self._counters.started()
        self._counters.label = f"{method.name}-{self._number}"
        return Engine(loop, method, workers, self._depth, self._counters)

    # --- use ----------------------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        """The engine, if this ring may be used here and now; else the error that says why not."""
        engine = self._started
        if engine is None:
            raise RingClosedError("this ring was not started: use `async with Ring() as ring`, or `await ring.start()`")
        engine.check()
        return engine

    async def _do(self, handle: Handle) -> Any:
        engine = self._engine
        engine.audit(handle)
        await engine.loop.checkpoint()
        return await engine.do(handle)

    # --- end ----------------------------------------------------------------------------------------------------------

    async def aclose(self, timeout: float | None = None) -> None:
        """Close the ring: fail what is staged, cancel what is in flight and wait for it.

        `timeout` is in seconds. When it is over, or a second after this call was itself cancelled, what is still in
        flight is given up: its buffers stay allocated for good, with a `ResourceWarning`, since the kernel may still
        write to them. Closing twice is harmless. Operations that were waiting get `RingClosedError`.

        Raises:
            WrongLoopError: called from another loop, thread or process.
            ValueError: `timeout` is negative.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout {timeout}: must be a number of seconds, not negative")
        engine = self._started
        if engine is None or engine.ended == "closed":
            return
        if engine.ended or not engine.loop.running_here():
            raise WrongLoopError("a ring is closed from its own loop")
        await aclose(engine, timeout)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise AioringError("a ring is entered once; make another")
        self._entered = True
        if self._started is None:
            self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._started is not None and self._started.ended == "forked":
            return  # a child leaves by what is under way: the ring is its parent's
        await self.aclose()

    def _loop_closes(self) -> None:
        engine = self._started
        if engine is None or engine.ended:
            return
        close_now(engine)
        if not self._of_loop:
            self._warn("its loop is being closed")

    def __del__(self) -> None:
        engine: Engine | None = getattr(self, "_started", None)
        if engine is not None and not engine.ended:
            # The loop holds the engine, not this object: nobody can use the ring any more.
            if engine.doorbell.thread == threading.get_ident():
                if engine.completing:  # the last who held it was told of a completion: not in the midst of them
                    engine.loop.call_soon(partial(close_now, engine))
                else:
                    close_now(engine)
            else:
                leak(engine)  # collected by another thread: neither its loop nor its queues may be touched from here
            self._warn("nobody can close it any more")

    def _warn(self, why: str) -> None:
        # Last: where warnings are errors, this raises.
        warnings.warn(f"unclosed ring {self!r}: {why}", ResourceWarning, source=self, stacklevel=3)
