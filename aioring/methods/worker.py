"""worker: aioring's own daemon threads carry I/O out by blocking calls. What people get where io_uring is refused.

The pool grows from 2 threads to `workers` on demand and shrinks when idle, by PostgreSQL 19's rule (`method_worker.c`):
one idle worker is woken for a batch, each that takes a job wakes one more while there are jobs, lowest number first; a
worker that finds more jobs waiting than there are workers starts another, at most one in 100 ms; only the highest number
leaves, after 60 s idle. Unlike PostgreSQL the queue is unbounded (`depth` bounds it above) and a job is never run by the
one who submits it: that would block the loop.

Every ring has a pool, whatever its method: what the kernel has no opcode for goes here, and `ring.run`.

Some facts about these threads
------------------------------
* `queue` keeps the order and `pending` says what is still to be had: `dict.pop` of one key is one step that the GIL (or
  the dict's own lock, in free-threaded builds) makes whole. Who pops a handle from `pending` has claimed it: a worker
  to run it, or a cancel to drop it. Nobody claims more than the one it runs, so a hung call holds up no other.
* A worker posts to `completed` and rings the doorbell only if nobody has since the loop last looked: one write(2) a
  batch. The loop clears `rung` before it looks, so what is posted later rings again.
* Where reads are quick (50 us: they come from the page cache) threads spend their time in taking the GIL from each other:
  30 us a read with several of them, 15 with one. So one worker does them all while the loop sleeps: it calls for no help,
  and rings when the queue is empty, or for 32. Two slow reads in a row, anything that is no read, or a look of the loop's
  timer that finds no progress for `_PATIENCE`, and all are called as above: a read that hangs holds up others for so long.
* Threads are daemons and are never joined: closing a ring, or leaving the interpreter, waits for no hung call.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress

from ..errors import os_error
from ..handle import STAGED, SUBMITTED, Handle
from ..kernel.doorbell import Doorbell
from ..operations import carry_out

__all__ = ["Worker"]

MIN_WORKERS = 2  # io_min_workers
LAUNCH_INTERVAL = 0.1  # seconds; io_worker_launch_interval
IDLE_TIMEOUT = 60.0  # seconds; io_worker_idle_timeout
_QUICK = 50e-6  # seconds: no disk answers so fast
_SURE = 2  # slow reads in a row: one may have waited for the GIL
_BATCH = 32  # quick reads at most that the loop is not told of
_PATIENCE = 0.01  # seconds
_FIRST = 1 << 62  # tokens beyond any SQE's position


class _Thread:
    """One worker: its number, how often it lay down, and the lock on which it sleeps (released to wake it)."""

    __slots__ = ("naps", "number", "reads", "wake")

    def __init__(self, number: int) -> None:
        self.number = number
        self.naps = 0
        self.reads = False  # it stands in `_readers`
        self.wake = threading.Lock()
        self.wake.acquire()


class Worker:
    """A pool of threads. Public verbs are for the loop's thread; `_work` and what it calls run on the workers."""

    name = "worker"
    links = False
    by_opcode = False
    at_once = True
    pieces = True

    def __init__(self, workers: int = 8, *, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self.most = workers
        self.least = min(MIN_WORKERS, workers)
        self._idle_timeout = idle_timeout
        self._token = _FIRST
        self._queue: deque[Handle] = deque()
        self._pending: dict[Handle, None] = {}
        self._idle: dict[tuple[int, int], _Thread] = {}  # by number and nap
        self._threads: dict[int, _Thread] = {}
        self._lock = threading.Lock()
        self._launched = 0.0
        self._rung = False
        self._closed = False
        self._slow = _SURE  # how many reads in a row were slow
        self.carried_out = 0
        self._seen = 0  # `carried_out` at the timer's last look
        self._readers: set[_Thread] = set()  # who carries out reads
        self._hang = 0  # how many of them seem to hang
        self._strays: deque[Callable[[], object]] = deque()  # what other threads have left for the loop's

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._live, self._completed, self._doorbell = live, completed, doorbell
        return depth

    def takes(self, handle: Handle) -> bool:
        return True

    def submit(self, staged: deque[Handle]) -> None:
        pending, queue, live = self._pending, self._queue, self._live
        all_reads = True
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                all_reads = all_reads and handle.operation.reads
                self._token += 1
                handle.token = self._token
                live[self._token] = handle
                # KeyboardInterrupt strikes after calls: not between the first of these three lines and the third.
                handle.state = SUBMITTED
                pending[handle] = None
                queue.append(handle)
            staged.popleft()
        # (Struck by KeyboardInterrupt before this, the next call wakes somebody, or the timer does.)
        if queue and (self._slow >= _SURE or not all_reads or len(self._readers) <= self._hang):
            self._wake_one()

    def reap(self) -> None:
        self._rung = False

    def poll(self) -> None:
        self._rung = False
        while self._strays:
            self._strays.popleft()()

    def hand_over(self, call: Callable[[], object]) -> bool:
        """From any thread: have the loop's call it. False: it is too late for that."""
        with self._lock:
            if self._closed:
                return False
            self._strays.append(call)
            self._doorbell.ring()
            return True

    def cancel(self, handle: Handle) -> None:
        """Wins only if no worker has claimed it."""
        if self._pending.pop(handle, handle) is None:
            with suppress(ValueError, RuntimeError, IndexError):  # workers take from it meanwhile
                self._queue.remove(handle)  # it would hold its buffer until a worker comes by
            self._completed.append((handle.token, -errno.ECANCELED))
            self._ring()

    def waits(self, handle: Handle) -> bool:
        """Whether no worker has taken it yet."""
        return handle in self._pending

    def waiting(self) -> bool:
        """Whether jobs wait: whoever queued them may have been struck before it woke anybody."""
        return bool(self._queue)

    def look_again(self) -> float:
        """Seconds after which the loop's timer is to call `tend`; 0.0: it need not."""
        if self._completed or (self._pending and self._slow < _SURE):
            return _PATIENCE
        if not self._pending:
            return 0.0
        return LAUNCH_INTERVAL if not self._idle and len(self._threads) < self.most else 0.0

    def tend(self) -> None:
        """Jobs have waited. A pool whose workers all hang can notice nothing by itself: wake one more, or start one."""
        if self._completed:
            self._ring()  # whoever was to ring for them hangs
        if not self._pending:
            return
        stands, self._seen = self.carried_out == self._seen, self.carried_out
        if stands:
            self._hang, self._slow = len(self._readers), _SURE
        if stands and self._idle:
            self._wake_one()
        elif not self._idle and (stands or self._slow >= _SURE) and self._may_launch():
            self._launch(self.most)

    def _may_launch(self) -> bool:
        return len(self._threads) < self.most and time.monotonic() - self._launched >= LAUNCH_INTERVAL

    def close(self) -> None:
        # Under the lock under which workers ring: when it is had, none of them touches the doorbell's fd any more, and
        # its number may be given to another file.
        with self._lock:
            self._closed = True
        for thread in list(self._threads.values()):
            self._wake(thread)
        while self._strays:
            self._strays.popleft()()

    def abandon(self) -> None:
        # The child has none of the threads, and a lock may be held for ever by one of them: take none.
        self._closed = True

    def threads(self) -> int:
        return len(self._threads)

    # --- waking and growing -------------------------------------------------------------------------------------------

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            try:
                nap = min(idle)
                thread = idle[nap]
            except (KeyError, ValueError, RuntimeError):
                continue  # another took it, or the dict changed under `min`
            # Woken first: struck by KeyboardInterrupt after it, the thread takes itself off the list. It may have done so,
            # worked and lain down again before the next line: that is another nap, and stays.
            self._wake(thread)
            idle.pop(nap, None)
            return
        self._launch(self.least)

    @staticmethod
    def _wake(thread: _Thread) -> None:
        try:
            thread.wake.release()
        except RuntimeError:
            pass  # already woken

    def _launch(self, limit: int) -> None:
        """Start one worker if there are fewer than `limit`, with the lowest free number."""
        with self._lock:
            if len(self._threads) >= limit or self._closed:
                return
            number = next(i for i in range(limit) if i not in self._threads)
            thread = self._threads[number] = _Thread(number)
            self._launched = time.monotonic()
        try:
            threading.Thread(target=self._work, args=(thread,), name=f"aioring-worker-{number}", daemon=True).start()
        except RuntimeError as error:  # can't start new thread
            self._threads.pop(number, None)
            if not self._threads:
                self._fail_all(error)  # with no worker at all nothing would ever be done
        except BaseException:
            self._threads.pop(number, None)
            raise

    def _fail_all(self, error: RuntimeError) -> None:
        """Nobody can carry them out: every job that waits fails with EAGAIN, as clone(2) says it."""
        while (handle := self._claim()) is not None:
            handle.exception = os_error(errno.EAGAIN, note=f"no worker thread: {error}")
            self._completed.append((handle.token, -errno.EAGAIN))
        self._ring()

    # --- on the worker ------------------------------------------------------------------------------------------------

    def _claim(self) -> Handle | None:
        while True:
            try:
                handle = self._queue.popleft()
            except IndexError:
                return None
            if self._pending.pop(handle, handle) is None:
                return handle

    def _work(self, me: _Thread) -> None:
        """Run jobs until told to leave."""
        while not self._closed:
            handle = self._claim()
            if handle is None:
                if self._completed:
                    self._ring()  # what was last in the queue was cancelled
                self._turns_to(me, False)  # before the last look at the queue: who queues after it wakes somebody
                if not self._sleep(me):
                    return
                continue
            reads = handle.operation.reads
            if reads is not me.reads:
                self._turns_to(me, reads)
            if self._queue and (self._slow >= _SURE or not reads):
                self._get_help()
            begun = time.perf_counter()
            res = carry_out(handle)
            self.carried_out += 1
            posted = handle.token, res
            self._completed.append(posted)
            if self._closed:
                self._too_late(handle, posted)
            del handle
            if reads:
                took = time.perf_counter() - begun
                self._slow = self._slow + 1 if took > _QUICK else 0
                if took > _PATIENCE and self._hang:
                    self._hang -= 1
            if self._slow >= _SURE or not reads or not self._queue or len(self._completed) >= _BATCH:
                self._ring()
        with self._lock:
            self._threads.pop(me.number, None)

    def _too_late(self, handle: Handle, posted: tuple[int, int]) -> None:
        """The ring has gone meanwhile, and nobody will look at what is posted, or somebody has: who takes it off has it."""
        with suppress(ValueError):
            self._completed.remove(posted)
            fd = handle.brought(posted[1])
            if fd >= 0:
                os.close(fd)

    def _turns_to(self, me: _Thread, reads: bool) -> None:
        me.reads = reads
        if reads:
            self._readers.add(me)
        else:
            self._readers.discard(me)
            if not self._readers:
                self._hang = 0

    def _get_help(self) -> None:
        """More jobs wait: wake one more worker, or start one (PostgreSQL 19, `pgaio_worker_maybe_grow`)."""
        n = len(self._threads)
        if self._idle or n < self.least:
            self._wake_one()
        elif len(self._queue) > n and self._may_launch():
            self._launch(self.most)

    def _sleep(self, me: _Thread) -> bool:
        """Wait for work. False: leave the pool."""
        me.naps += 1
        nap = (me.number, me.naps)
        self._idle[nap] = me
        # Either we see what was queued before this look, or who queues after it sees us idle and wakes us.
        if self._queue or self._closed:
            self._idle.pop(nap, None)
            return True
        while not me.wake.acquire(timeout=self._idle_timeout):
            if nap not in self._idle:
                return True  # taken to be woken, by one whom KeyboardInterrupt struck before it did
            with self._lock:
                highest = me.number == max(self._threads)
                if highest and len(self._threads) > self.least and self._idle.pop(nap, None) is me:
                    if self._queue:
                        return True  # queued by one who may have seen us idle a moment ago
                    del self._threads[me.number]
                    return False
        # Woken before we lay down (by the wake meant for the last turn) we may still stand there as idle: a busy worker
        # that is taken for an idle one swallows a wake.
        self._idle.pop(nap, None)
        return True

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            with self._lock:
                if not self._closed:
                    self._doorbell.ring()
