"""`aioring.observe.serve()`: what the rings of this process do, told over a Unix socket to who asks. `aioring top` asks.

    top                                   the app
    connect, "snapshot\\n"       ->        a daemon thread: SO_PEERCRED says that it is our user, or root
    one line of JSON            <-        stats and in_flight of all rings, taken at that moment

The thread sleeps until somebody comes, and touches no loop: snapshots are for any thread (`in_flight.py`). What a peer can
cost the program is bounded: `PEERS` of them, a snapshot each `PAUSE` at most and for a tenth of the time, a request of
`REQUEST` bytes, the `MOST` oldest I/Os in an answer; and whoever does not take an answer in `PATIENCE`, or asks nothing
for `IDLE`, is left.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import selectors
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import os_error
from .watching import Watching

__all__ = ["REQUEST_LINE", "Serving", "asked_for", "name_of", "on_demand", "serve", "switched_on", "told_by"]

logger = logging.getLogger("aioring.observe")
REQUEST_LINE = b"snapshot\n"
PROTOCOL = 1
PEERS, PAUSE, REQUEST, MOST = 8, 0.02, 64, 1000  # PAUSE: seconds; REQUEST: bytes
SHARE = 10  # the pause is so many times as long as the snapshot took: the program has the rest of the time
PATIENCE, IDLE = 10.0, 60.0  # seconds for an answer to be taken, and between two requests
_PATH = 107  # bytes: unix(7), sun_path
_VARIABLE = "AIORING_OBSERVE"

Told = tuple[list[dict[str, Any]], list[dict[str, Any]], int]
# Of the room above, which has rings: stats of each, the oldest so many I/Os in flight, and how many there are.
_sources: list[Callable[[int], Told]] = []

_serving: dict[str, Serving] = {}  # by path
_lock = threading.RLock()
_asked = False  # `on_demand` has done what it could


class Serving(Watching):
    """What `serve` gives: `close` it, or leave its `with` block, and the socket is gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._closed = False
        self._peers: dict[socket.socket, _Peer] = {}
        self._answer = b""  # the last snapshot
        self._next = 0.0  # when one may be taken again: who asks before has the last
        with contextlib.ExitStack() as undo:
            self._woken, self._waker = os.pipe()
            undo.callback(os.close, self._waker)
            undo.callback(os.close, self._woken)
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._listener = undo.enter_context(_listen(path))
            undo.callback(os.unlink, path)
            found = os.lstat(path)
            self._inode = (found.st_dev, found.st_ino)
            self._thread = threading.Thread(target=self._run, name="aioring-observe", daemon=True)
            self._thread.start()
            undo.pop_all()  # all is well

    def close(self) -> None:
        """Twice is harmless. The socket's name is removed, if it is still ours."""
        with _lock:  # all of it: who serves there next must not meet what is left of this one
            if self._closed:
                return
            self._closed = True
            _serving.pop(self.path, None)
            with contextlib.suppress(OSError):
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == self._inode:
                    os.unlink(self.path)
            os.close(self._waker)  # which wakes the thread
            self._thread.join(1)
        atexit.unregister(self.close)

    def __repr__(self) -> str:
        return f"<aioring.observe.serve({self.path!r}){', closed' if self._closed else ''}>"

    # --- its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            while self._turn():
                pass
        except Exception:
            logger.exception("nothing is told any more at %s", self.path)
            _serving.pop(self.path, None)  # another may be tried
        self._let_go()

    def _let_go(self) -> None:
        """Once: a second time the numbers may be others'."""
        woken, self._woken = self._woken, -1
        if woken >= 0:
            self._selector.close()
            for connection in (self._listener, *self._peers):
                connection.close()
            os.close(woken)

    def _turn(self) -> bool:
        for key, _ in self._selector.select(PATIENCE if self._peers else None):
            if key.fileobj == self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._serve_peer(key.data)
        now = time.monotonic()
        for peer in list(self._peers.values()):
            if now - peer.since > (PATIENCE if peer.answer else IDLE):
                self._leave(peer)
        return True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(PAUSE)  # the app has no fd left: it stays in the line
            return
        if len(self._peers) >= PEERS or not _is_ours(connection):
            connection.close()
            return
        connection.setblocking(False)
        peer = self._peers[connection] = _Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _serve_peer(self, peer: _Peer) -> None:
        try:
            if peer.answer:
                peer.send()
            else:
                more = peer.connection.recv(REQUEST)
                peer.request += more
                if peer.request == REQUEST_LINE:
                    peer.begin_answer(self._snapshot())
                    peer.send()
                elif not more or not REQUEST_LINE.startswith(peer.request):
                    self._leave(peer)  # gone, or no peer of ours
                    return
        except BlockingIOError:
            pass
        except OSError:
            self._leave(peer)
            return
        except Exception:  # a Task class of somebody's own, say: this one gets no answer
            logger.exception("a snapshot failed")
            self._leave(peer)
            return
        self._selector.modify(peer.connection, selectors.EVENT_WRITE if peer.answer else selectors.EVENT_READ, peer)

    def _leave(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        del self._peers[peer.connection]
        peer.connection.close()

    def _snapshot(self) -> bytes:
        begun = time.monotonic()
        if begun < self._next:
            return self._answer  # it says of when it is
        rings, in_flight, total = _sources[-1](MOST) if _sources else ([], [], 0)
        now = time.monotonic()
        found = {
            "aioring": PROTOCOL,
            "pid": os.getpid(),
            "now": now,
            "rings": rings,
            "in_flight": in_flight,
            "in_flight_total": total,
        }
        self._answer = json.dumps(found).encode() + b"\n"
        took = time.monotonic() - begun
        self._next = begun + took + max(PAUSE, SHARE * took)
        return self._answer


class _Peer:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""
        self.answer = memoryview(b"")
        self.since = time.monotonic()  # when it came, or asked

    def begin_answer(self, answer: bytes) -> None:
        self.request, self.answer, self.since = b"", memoryview(answer), time.monotonic()

    def send(self) -> None:
        sent = self.connection.send(self.answer)
        self.answer = self.answer[sent:]


def serve(path: str | os.PathLike[str] | None = None) -> Serving:
    """Tell who asks what the rings of this process do: `aioring top PID` shows it. Any thread may call it, once or again.

    `path`: of the Unix socket; default: `aioring-PID.sock` in `$XDG_RUNTIME_DIR`, or else in a folder of our own below the
    folder for temporary files. Mode 0600, and a peer of another user is refused (SO_PEERCRED, unix(7)), root excepted: the
    names of files and tasks are the program's own business. A socket that was left by a process that is gone is replaced.

    It costs a thread that sleeps. `AIORING_OBSERVE=1` in the environment does the same as soon as a ring is started (a
    value with a slash is the path), and turns `track_timing` on, which latencies need. A forked child has none, until it
    calls this itself, or starts a ring under that variable.

    Returns an object with `path` and `close()`, which is a `with` block, too; where this process serves at that path
    already, the same again.

    Raises:
        OSError: EADDRINUSE: another process serves there; EEXIST: there is a file that is no socket; ENAMETOOLONG: a
            socket's path has 107 bytes at most; EPERM: the default folder is somebody else's; as bind(2).
    """
    where = os.path.abspath(_default() if path is None else os.fsdecode(path))
    with _lock:
        serving = _serving.get(where)
        if serving is None:
            serving = _serving[where] = Serving(where)
            atexit.register(serving.close)
    return serving


def asked_for() -> str | None:
    """What the environment says: None: nothing; "": the default place; or a path.

    Raises `ValueError` where it says something that makes no sense.
    """
    text = os.environ.get(_VARIABLE)
    if not text:
        return None
    if os.sep in text:
        return text
    return "" if switched_on(_VARIABLE, False, "1 or 0, or a socket's path, with a slash") else None


def switched_on(variable: str, default: bool, words: str = "1 or 0") -> bool:
    """What a switch in the environment says. Raises `ValueError` where it is none."""
    text = os.environ.get(variable, "").lower()
    if text not in ("", "0", "off", "no", "false", "1", "on", "yes", "true"):
        raise ValueError(f"{variable}={text!r} in the environment: must be {words}")
    return text in ("1", "on", "yes", "true") if text else default


def on_demand() -> None:
    """A ring has started: the first of the process, if the environment says so. That it cannot be watched is no reason for
    it to fail."""
    global _asked
    if _asked or (path := asked_for()) is None:
        return
    _asked = True
    try:
        serve(path or None)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        logger.warning("%s: nobody can watch this process: %s", _VARIABLE, error)


def told_by(source: Callable[[int], Told]) -> None:
    """Where snapshots come from."""
    _sources[:] = [source]


def name_of(pid: int) -> str:
    """Of the socket of a process."""
    return f"aioring-{pid}.sock"


def _default() -> str:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(folder) or not _is_private(folder):
        folder = os.path.join(tempfile.gettempdir(), f"aioring-{os.geteuid()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if not _is_private(folder):
            raise os_error(
                errno.EPERM, folder, note="aioring: others can write here, or it is theirs: give serve() a path"
            )
    _sweep(folder)
    return os.path.join(folder, name_of(os.getpid()))


def _sweep(folder: str) -> None:
    """The names that killed processes of ours have left there."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            pid = name.removeprefix("aioring-").removesuffix(".sock")
            if pid.isdigit() and name == name_of(int(pid)) and not _runs(int(pid)):
                with contextlib.suppress(OSError):
                    _remove_stale(os.path.join(folder, name))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _is_private(folder: str) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _listen(path: str) -> socket.socket:
    if len(os.fsencode(path)) > _PATH:
        raise os_error(errno.ENAMETOOLONG, path, note=f"aioring: a socket's path has {_PATH} bytes at most")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives the name this mode, less the umask: at no moment is it open
        listener.bind(path)
        os.chmod(path, 0o600)  # elsewhere
        listener.listen(PEERS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise os_error(error.errno or errno.EINVAL, path) from None
    return listener


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise os_error(errno.EEXIST, path, note="aioring: this is no socket, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(1)
        try:
            peer.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # whoever had bound it is gone
        except BlockingIOError:  # its line is full
            raise os_error(errno.EADDRINUSE, path) from None
        except OSError as error:
            raise os_error(error.errno or errno.EADDRINUSE, path) from None
        else:
            raise os_error(errno.EADDRINUSE, path)


def _is_ours(connection: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # mode 0600 has let it in
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def _forked() -> None:
    """In a child: the socket is its parent's, and there is no thread."""
    global _asked
    _asked = False
    _lock.release()
    parents = list(_serving.values())
    _serving.clear()
    for serving in parents:
        atexit.unregister(serving.close)
        serving._closed = True
        with contextlib.suppress(OSError):
            os.close(serving._waker)
            serving._let_go()


if hasattr(os, "register_at_fork"):
    # The lock is held meanwhile: no socket is half opened or half closed in the child.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)
