"""A small key-value store on a log: every change is on the disk before it is acknowledged, and thousands a second are.

The store is a dict in memory and `aioring.Log`: `set` appends to the log and returns when that is durable; those that come
together share one sync (group commit). After a crash the log is read again. `compact` begins a new log with what is there,
and removes the old one when the new is complete. The part to copy comes first.

    python examples/wal_kv.py                      # hammers a store, kills it, and replays power cuts of a recorded run
    python examples/wal_kv.py --folder /srv/kv --seconds 20 --tasks 256
    python examples/wal_kv.py --careless           # leaves the sync out: the replay says what would be lost, and when
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioring
from aioring.testing import Cut, Disk, Recording, Trace, assert_synced, check

say = functools.partial(print, flush=True)

# --- the part to copy -------------------------------------------------------------------------------------------------

SET, DELETE, BASE, COMPLETE = range(4)  # kinds of records; BASE: a pair that a compaction has found
_head = struct.Struct("<BI")  # kind, length of the key


class Store:
    """Keys and values, both bytes: `async with Store.open(path) as store`. For asyncio and uvloop: changes are applied in
    the order in which their tasks are woken, which is that of the log. A `set` that is cancelled may be there or not."""

    def __init__(self, log: aioring.Log, ring: aioring.Ring) -> None:
        self.log, self.ring = log, ring
        self._pairs: dict[bytes, bytes] = {}
        self._archives: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | os.PathLike[str], ring: aioring.Ring | None = None) -> AsyncIterator[Store]:
        """Read what the log has, and what a compaction that a crash has ended has left beside it."""
        ring = ring or aioring.get_ring()
        async with aioring.Log(path, ring=ring) as log:
            store = cls(log, ring)
            for archive in sorted(str(found) for found in Path(path).parent.glob(f"{Path(path).name}.[0-9]*")):
                if os.path.samefile(archive, path):
                    await ring.unlink(archive)  # a crash between the two names of a rotation
                    continue
                async with aioring.Log(archive, readonly=True, ring=ring) as old:
                    await store._replay(old)
                store._archives.append(archive)
            await store._replay(log)
            yield store

    def get(self, key: bytes) -> bytes | None:
        return self._pairs.get(key)

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pairs)

    async def set(self, key: bytes, value: bytes) -> None:
        """Returns when it is on the disk."""
        await self.log.append(_head.pack(SET, len(key)) + key + value)
        self._pairs[key] = value

    async def delete(self, key: bytes) -> None:
        await self.log.append(_head.pack(DELETE, len(key)) + key)
        self._pairs.pop(key, None)

    async def _replay(self, log: aioring.Log) -> None:
        base: dict[bytes, bytes] = {}
        changes: dict[bytes, bytes | None] = {}
        complete = False
        async for record in log:
            kind, n = _head.unpack_from(record)
            key, value = record[_head.size : _head.size + n], record[_head.size + n :]
            if kind == BASE:
                base[key] = value
            elif kind == COMPLETE:
                complete = True
            else:
                changes[key] = value if kind == SET else None
        if complete:  # these are all that the logs before this one came to
            self._pairs = base
            await self._remove_archives()
        # What a compaction has found is older than any change in the same log, wherever it stands.
        for key, now in changes.items():
            if now is None:
                self._pairs.pop(key, None)
            else:
                self._pairs[key] = now

    async def compact(self) -> None:
        """Begin a new log with what there is. Changes go on meanwhile. A crash leaves the old log, or both, or the new."""
        self._archives.append(str(await self.log.rotate()))
        await asyncio.gather(*(self._base(key, value) for key, value in list(self._pairs.items())))
        await self.log.append(_head.pack(COMPLETE, 0))
        await self._remove_archives()

    async def _base(self, key: bytes, value: bytes) -> None:
        await self.log.append(_head.pack(BASE, len(key)) + key + value)

    async def _remove_archives(self) -> None:
        while self._archives:
            await self.ring.unlink(self._archives[0])
            del self._archives[0]


# --- hammering it -----------------------------------------------------------------------------------------------------


async def hammer(
    store: Store, tasks: int, seconds: float, told: Callable[[bytes, bytes], object], seed: int = 0
) -> int:
    """Tasks that set random values of their own keys, one after the other; a compaction in the middle. `told` of each that
    was acknowledged."""
    until, done = time.perf_counter() + seconds, 0

    async def one(name: int) -> None:
        nonlocal done
        chance = random.Random(seed * 1000 + name)
        while time.perf_counter() < until:
            key, value = b"%d.%d" % (name, chance.randrange(20)), chance.randbytes(256)
            await store.set(key, value)
            told(key, value)
            done += 1

    async def compact() -> None:
        await asyncio.sleep(seconds / 2)
        await store.compact()

    await asyncio.gather(compact(), *map(one, range(tasks)))
    return done


def with_threads(path: Path, tasks: int, seconds: float) -> int:
    """What it is compared with: each request writes and syncs by itself, in a thread."""
    until, counts = time.perf_counter() + seconds, [0] * tasks
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def one(name: int) -> None:
        record = random.Random(name).randbytes(256)
        while time.perf_counter() < until:
            os.write(fd, record)
            os.fdatasync(fd)
            counts[name] += 1

    threads = [threading.Thread(target=one, args=(name,)) for name in range(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    return sum(counts)


def kill_it(folder: Path, tasks: int) -> tuple[int, int]:
    """Have a child hammer a store, kill it, and read the store: how many were acknowledged, how many of them are there."""
    command = [sys.executable, __file__, "--child", str(folder / "killed"), "--tasks", str(tasks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        killer = threading.Timer(0.7, child.kill)
        killer.start()
        lines = (first + child.stdout.read()).split(b"\n")[:-1]
        killer.join()
    told = dict(line.split(b" ") for line in lines)

    async def read() -> int:
        async with Store.open(folder / "killed") as store:
            # A key's last value that was acknowledged, or one that was on its way.
            return sum(store.get(key) is not None for key in told)

    return len(told), asyncio.run(read())


# --- power cuts -------------------------------------------------------------------------------------------------------


def replay_power_cuts(folder: Path, careless: bool) -> str:
    """Record a short run, and open the store in every state that a power cut could have left."""
    place = folder / "recorded"
    place.mkdir()
    trace = Trace(place)

    async def run() -> None:
        recorded = aioring.Ring(method=Recording("worker", trace), page_cache_first=False)
        async with recorded as ring, Store.open(place / "kv", ring) as store:

            async def one(name: int) -> None:
                for number in range(4):
                    key, value = b"key %d" % name, b"<%d.%d>" % (name, number) * 20
                    trace.note("asked", (key, value))
                    await store.set(key, value)
                    trace.note("ack", value)

            await asyncio.gather(*map(one, range(3)))
            await store.compact()
            await asyncio.gather(*map(one, range(3, 5)))

    def recover(mounted: Path, cut: Cut) -> None:
        async def read() -> dict[bytes, bytes | None]:
            async with aioring.Ring(method="sync") as ring, Store.open(mounted / "kv", ring) as store:
                return {key: store.get(key) for key in store}

        found, acknowledged = asyncio.run(read()), set(cut.noted("ack"))
        asked: dict[bytes, list[bytes]] = {}
        for key, value in cut.noted("asked"):
            asked.setdefault(key, []).append(value)
        for key, values in asked.items():
            last = max((n for n, value in enumerate(values) if value in acknowledged), default=-1)
            assert found.get(key) in [*values[max(last, 0) :], *([None] if last < 0 else [])], f"{key!r} was lost"

    commits: Any = importlib.import_module("aioring.streams.commits")
    kept = commits.O_DSYNC
    try:
        if careless:
            log: Any = importlib.import_module("aioring.streams.log")
            log.O_DSYNC = 0  # the log believes that it has opened its file so that each write is synced
            commits.at_once = Believing(kept)
        asyncio.run(run())
        stood = check(trace, Disk(samples=2), recover)
        covered = assert_synced(trace, "ack")
    except AssertionError as error:
        return f"the replay broke it:\n{error}"
    return f"it stood {stood} power cuts; each of {len(covered)} acknowledgements is covered by a sync"


class Believing:
    """In the place of what asks for a file's flags."""

    def __init__(self, flags: int) -> None:
        self._flags = flags

    def flags_of(self, fd: int) -> int:
        return self._flags


# --- as people run it -------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where the store is to be (default: a temporary folder, removed again)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to hammer it (default: 3)")
    parser.add_argument("--tasks", type=int, default=64, help="tasks that set values at the same time (default: 64)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--careless", action="store_true", help="leave the sync out, and see the replay find it")
    arguments = parser.parse_args()
    if arguments.tasks < 1 or not 0 < arguments.seconds < 86_400:
        parser.error("--tasks must be at least 1, --seconds more than 0")
    try:
        if arguments.child is not None:
            return asyncio.run(child(arguments.child, arguments.tasks))
        if arguments.folder is not None:
            arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="wal_kv-", dir=arguments.folder or "/var/tmp") as folder:
            return show(Path(folder), arguments)
    except OSError as error:
        print(f"wal_kv: {error}", file=sys.stderr)
        return 1


async def child(path: Path, tasks: int) -> int:
    """Hammers a store until it is killed, and says what was acknowledged."""
    async with Store.open(path) as store:
        await hammer(store, tasks, 1.0, lambda key, value: os.write(1, key + b" " + value.hex().encode() + b"\n"))
        await asyncio.sleep(3600)
    return 0


def show(folder: Path, arguments: argparse.Namespace) -> int:
    if arguments.careless:
        said = replay_power_cuts(folder, True)
        say(said)
        return 0 if said.startswith("the replay broke it") else 1

    async def measure() -> int:
        async with Store.open(folder / "kv") as store:
            return await hammer(store, arguments.tasks, arguments.seconds, lambda key, value: None)

    done = asyncio.run(measure()) / arguments.seconds
    plain = with_threads(folder / "plain", arguments.tasks, arguments.seconds) / arguments.seconds
    say(f"{arguments.tasks} tasks set values of 256 bytes, each durable before it is acknowledged:")
    say(f"  aioring.Log, group commit   {done:10,.0f} a second")
    say(f"  write + fdatasync, threads  {plain:10,.0f} a second   ({done / plain:.1f} times fewer)")
    told, found = kill_it(folder, arguments.tasks)
    say(f"killed while it wrote: {found:,} of {told:,} keys that were acknowledged are there")
    said = replay_power_cuts(folder, False)
    say(f"replayed: {said}")
    return 0 if found == told and said.startswith("it stood") else 1


if __name__ == "__main__":
    sys.exit(main())
