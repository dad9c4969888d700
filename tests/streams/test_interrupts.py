"""KeyboardInterrupt inside logs, streams and copies: what was not struck is right, and everything ends.

On methods that carry nothing out on the loop's own thread: there the interrupt would be the outcome of an I/O.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.test_lifetime import child

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

BEGIN = r"""
from aioring import Log, copy_file, read_stream, write_stream
from tests.strikes import Strikes
folder, method, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
loop = asyncio.new_event_loop()
ring = Ring(method=method, depth=16)
loop.run_until_complete(ring.start())
engine = ring._started
done = 0
noise = random.Random(7).randbytes(1 << 20)
with open(folder + "/data", "wb") as file:
    file.write(noise)

def more():  # what else to tell where it hangs
    pass

async def last():  # what is to hold in the end
    pass

def state():
    fences = {fd: (f.owner, f.before, f.waits) for fd, f in engine.closing.items()}
    return done, "done,", engine.live, engine.staged, engine.completed, engine.backlog, engine.held, fences, more()

strikes = Strikes(loop, wanted, state, mild=True)
"""

END = r"""
strikes.run(work)

async def drained():
    await last()
    async with asyncio.timeout(5):
        await ring.aclose(timeout=3)
strikes.resume(loop.create_task(drained()))
assert not engine.live and not engine.staged and not engine.held
loop.close()
assert done > wanted / 10, done
print("fine:", strikes.struck, "strikes at", len(strikes.where), "places,", done, "done,", strikes.tasks, "tasks")
"""

LOG = r"""
log = Log(folder + "/log", ring=ring, preallocate=1 << 16, sync="fdatasync" if method == "worker" else "open_datasync")
loop.run_until_complete(log.__aenter__())
kept, asked = {}, set()

def more():
    commits = log._commits
    return commits._handle, commits._soon, commits._batch, len(commits.queue), commits.error

async def work(i):
    global done
    mine = random.Random(i)
    for n in range(mine.randrange(1, 200)):
        record = b"%d.%d." % (i, n) + noise[: mine.randrange(300) if n % 50 else 300_000]
        asked.add(record)
        if mine.randrange(20) == 0:
            try:
                await asyncio.wait_for(log.append(record), 0)
            except TimeoutError:
                pass
        else:
            kept[record] = await log.append(record)
        done += 1
        strikes.progress()

async def last():
    async with asyncio.timeout(5):
        await log.aclose()
    async with Log(folder + "/log", ring=ring) as again:
        found = [(record, offset) async for offset, record in again.entries()]
    assert len(dict(found)) == len(found), "a record is there twice"
    assert set(kept.items()) <= set(found), "what was acknowledged is not there"
    assert asked >= {record for record, _ in found}
"""

WRITE_STREAM = r"""
from aioring.streams import write_behind
write_behind._WINDOW = 1 << 15  # bytes: so that sync_range has a part in it
streams = {}

def more():
    return [(i, s._most, s._in_flight, s._syncing) for i, s in streams.items() if s.waiter and not s.waiter.done()]

async def work(i):
    global done
    mine = random.Random(i)
    path = f"{folder}/{i}"
    options = {"combine_limit": 1 << 14, "max_ios": 3, "durable": i % 4 == 0, "direct": i % 3 == 0}
    async with write_stream(path, ring=ring, **options) as out:
        streams[i] = out
        expected = bytearray()
        for n in range(40):
            piece = noise[: mine.randrange(20_000)]
            await out.write(piece)
            expected += piece
            if n % 10 == 9:
                await out.flush()
            strikes.progress()
    with open(path, "rb") as file:
        assert file.read() == expected, i
    del streams[i]
    os.unlink(path)
    done += 10
"""

READ_STREAM = r"""
async def work(i):
    global done
    mine = random.Random(i)
    async with read_stream(folder + "/data", block_size=4096, direct="try" if i % 3 == 0 else False, ring=ring) as blocks:
        found = bytearray()
        async for block in blocks:
            found += block.data
            strikes.progress()
    assert found == noise
    done += 10
"""

COPY = r"""
async def work(i):
    global done
    path = f"{folder}/copy{i}"
    copied = await copy_file(folder + "/data", path, reflink="auto" if i % 2 else "never", durable=i % 4 == 0, ring=ring)
    assert copied == len(noise)
    with open(path, "rb") as file:
        assert file.read() == noise
    os.unlink(path)
    strikes.progress()
    done += 10
"""

WRITE_FILE = r"""
async def work(i):
    global done
    mine = random.Random(i)
    path = f"{folder}/{i}"
    for n in range(20):
        data = noise[: mine.randrange(50_000)]
        assert await aioring.write_file(path, data, atomic=i % 2 == 0, durable=n % 4 == 0, ring=ring) == len(data)
        async with await aioring.open(path, "rb", ring=ring) as file:
            assert await file.read() == data
        done += 1
        strikes.progress()
    os.unlink(path)

async def last():
    left = [name for name in os.listdir(folder) if name.startswith(".")]
    assert len(left) <= strikes.struck / 10, left  # each was struck as it was to be removed
"""

PROGRAMS = {
    "log": LOG,
    "write_stream": WRITE_STREAM,
    "read_stream": READ_STREAM,
    "copy": COPY,
    "write_file": WRITE_FILE,
}


@pytest.mark.parametrize("method", ["io_uring", "worker"])
@pytest.mark.parametrize("what", PROGRAMS)
def test_keyboard_interrupt_inside(what: str, method: str, tmp_path: Path) -> None:
    program = BEGIN + PROGRAMS[what] + END
    strikes = 300 if os.environ.get("AIORING_TEST_EVERY") else 100
    out = child(program, tmp_path, method, strikes, flags=("-W", "ignore"), timeout=55, quiet=False)
    assert "fine" in out
