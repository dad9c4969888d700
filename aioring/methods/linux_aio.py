"""linux_aio: O_DIRECT transfers by the kernel's older AIO, all else by the workers. For where io_uring is refused.

Docker's default seccomp profile refuses io_uring and allows io_submit(2), which carries direct I/O out as well as io_uring
does: 5 times what threads reach at 32 in flight. `auto` tries io_uring, linux_aio, worker.

Some facts about this method
----------------------------
* It takes what has O_DIRECT, and asks for RWF_NOWAIT. What would have had to wait to be started (EAGAIN), what the file
  system cannot do that way (EOPNOTSUPP), and what io_submit refuses goes to the workers: their blocking call waits, or
  says what is wrong.
* Each request rings the doorbell by itself (IOCB_FLAG_RESFD).
* A cancelled request completes all the same (io_cancel mostly says EINVAL), and only its event says that the kernel is
  done with its memory: handle and iocb are kept until then (invariant 1).

Where KeyboardInterrupt may strike: `_line` holds what is being told, `_answers` what the kernel said of it, and how far it
has come is computed from both. Each answer is kept in one step with the call. Being struck, the next turn goes on.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import MutableMapping

from ..buffers import bytes_address, view_address
from ..handle import STAGED, SUBMITTED, Handle
from ..kernel.aio import COMMANDS, Context
from ..kernel.doorbell import Doorbell
from ..kernel.features import Unusable
from ..operations import is_direct

__all__ = ["LinuxAio"]

_FIRST = 1 << 61  # tokens beyond any SQE's position, and not a worker's
_SMALLEST = 8


class LinuxAio:
    """One context of the kernel. Only the thread that started it may touch it."""

    name = "linux_aio"
    links = False
    by_opcode = False
    at_once = True
    pieces = True

    def __init__(self) -> None:
        self._token = _FIRST
        self._line: list[Handle] = []
        self._iocbs: list[int] = []  # of the line, by address
        self._answers: deque[int] = deque()
        self._kept: dict[int, bytes] = {}  # token: its iocb, until its event has come
        self._found: deque[tuple[int, int]] = deque()  # events that are still to be handed on

    def start(
        self, doorbell: Doorbell, depth: int, live: MutableMapping[int, Handle], completed: deque[tuple[int, int]]
    ) -> int:
        self._doorbell, self._live, self._completed = doorbell, live, completed
        self._context = _context(depth)
        try:
            _prove_a_read(self._context, doorbell)
        except BaseException as error:
            self._destroy()
            if isinstance(error, OSError) and not isinstance(error, Unusable):
                code = error.errno or errno.EIO
                raise Unusable(code, "io_submit", _explain(code, "a read by io_submit")) from None
            raise
        return min(depth, self._context.entries)

    def takes(self, handle: Handle) -> bool:
        return handle.operation.transfers and handle.length > 0 and not handle.offsets and is_direct(handle.fd)

    # Hot path: once per I/O (`submit`, `reap`); measured in benchmarks/ring_read.py.

    def submit(self, staged: deque[Handle]) -> None:
        if self._line:
            self._tell()  # struck by KeyboardInterrupt
        line, iocbs, live, bell = self._line, self._iocbs, self._live, self._doorbell.fd
        while staged:
            handle = staged[0]
            if handle.state == STAGED:
                self._token += 1
                token, operation = self._token, handle.operation
                handle.direct = True  # `read` lands in aligned memory
                try:
                    fd, off, address, length, _ = operation.pack(handle)  # type: ignore[misc]
                    iocb = Context.iocb(COMMANDS[operation.name], fd, off, address, length, token, bell)
                except Exception as error:  # no memory for its buffer
                    self._fail(handle, token, error)
                    staged.popleft()
                    continue
                live[token] = handle  # before the kernel can know of it
                self._kept[token] = iocb
                # Stores, then a call: KeyboardInterrupt cannot come between them.
                handle.token, handle.state = token, SUBMITTED
                line.append(handle)
                iocbs.append(bytes_address(iocb))
            staged.popleft()
        if line:
            self._tell()

    def _tell(self) -> None:
        """Tell the kernel of the line, from where it has come to."""
        if len(self._iocbs) < len(self._line):
            self._iocbs.append(bytes_address(self._kept[self._line[-1].token]))  # struck between the two appends
        while True:
            told = 0
            for answer in self._answers:
                if answer < 1:
                    self._hand_over(self._line[told])  # also where this was struck before; twice is harmless
                told += max(answer, 1)  # one that was refused is done with
            if told >= len(self._line):
                break
            self._context.submit(self._iocbs, told, self._answers)
        self._line, self._iocbs, self._answers = [], [], deque()

    def _hand_over(self, handle: Handle) -> None:
        """io_submit refused it: a worker asks the blocking call, which says what is wrong."""
        if not handle.by_workers:
            handle.by_workers = True
            self._completed.append((handle.token, -errno.EAGAIN))
            self._kept.pop(handle.token, None)

    def _fail(self, handle: Handle, token: int, error: Exception) -> None:
        handle.exception = error
        handle.token = token
        self._live[token] = handle
        handle.state = SUBMITTED
        self._completed.append((token, -errno.ENOMEM))

    def reap(self) -> None:
        found, kept = self._found, self._kept
        if kept:
            self._context.reap(found)
        while found:
            token, res = found[0]  # until it has been handed on, for who is struck by KeyboardInterrupt
            if res == -errno.EAGAIN or res == -errno.EOPNOTSUPP:
                handle = self._live.get(token)
                if handle is not None:
                    handle.by_workers = True
                res = -errno.EAGAIN
            self._completed.append((token, res))
            kept.pop(token, None)
            found.popleft()

    def poll(self) -> None:
        if self._line:
            self._tell()
        self.reap()

    def cancel(self, handle: Handle) -> None:
        iocb = self._kept.get(handle.token)
        if iocb is not None and not self._line:
            self._context.cancel(bytes_address(iocb))

    def close(self) -> None:
        if any(handle.token in self._kept for handle in self._live.values()):
            return  # io_destroy would wait for what never ends: the process's exit takes the context away
        self._destroy()

    def _destroy(self) -> None:
        try:
            threading.Thread(target=self._context.destroy, name="aioring-io_destroy", daemon=True).start()
        except RuntimeError:
            pass  # no thread can be had, or the interpreter ends: the process's exit takes the context away

    def abandon(self) -> None:
        return None  # a child has no contexts: they belong to the parent's memory


def _context(depth: int) -> Context:
    """Room for `depth`, or for less where fs.aio-max-nr or memory is short."""
    entries = depth
    while True:
        try:
            return Context(entries)
        except OSError as error:
            code = error.errno or errno.EIO
            if code in (errno.EAGAIN, errno.ENOMEM) and entries > _SMALLEST:
                entries //= 2
            elif code != errno.EINTR:
                raise Unusable(code, "io_setup", _explain(code, "io_setup")) from None


def _explain(code: int, where: str) -> str:
    said = f"{errno.errorcode.get(code, code)} from {where}"
    if code == errno.EAGAIN:
        return f"{said}: fs.aio-max-nr is used up; `sysctl fs.aio-max-nr` raises it, or use less depth"
    if code == errno.ENOSYS:
        return f"{said}: this kernel (or its seccomp filter, or gVisor) has no AIO"
    if code in (errno.EPERM, errno.EACCES):
        return f"{said}: a seccomp filter refuses AIO"
    return f"{said}: {os.strerror(code)}"


def _prove_a_read(context: Context, doorbell: Doorbell) -> None:
    """Read one byte: a sandbox may allow the set-up and refuse what comes after it."""
    source, sink = os.pipe()
    try:
        os.write(sink, b"\x2a")
        buffer = bytearray(1)
        done: deque[tuple[int, int]] = deque()
        answers: deque[int] = deque()
        iocb = Context.iocb(0, source, 0, view_address(memoryview(buffer)), 1, 1, doorbell.fd, nowait=False)
        context.submit([bytes_address(iocb)], 0, answers)
        context.reap(done)
        if answers[0] != 1 or not done or done[0] != (1, 1) or buffer != b"\x2a":
            raise Unusable(errno.ENOSYS, "io_submit", "io_submit does not carry out a read here")
    finally:
        os.close(source)
        os.close(sink)
