"""A file system that asks a server, which takes its time: the disk that everybody fears, by FUSE."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["DELAY", "mounted"]

# One file, `f`, of 1 MiB, under every name, though the folder says that it is empty. Its names
# and attributes may be kept; STATFS, OPEN, READ, WRITE, READDIR and the look for a name that
# begins with "slow" take as long as is said. It reads as zeros, whatever is written.
SERVER = """
import ctypes, os, struct, sys, time
folder, delay = sys.argv[1], float(sys.argv[2])
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
if ctypes.CDLL(None).mount(b"aioring-test", folder.encode(), b"fuse", 6, options.encode()):
    sys.exit("cannot mount")
def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100644, 1 << 20)
    return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
print("ready", flush=True)
while True:
    request = os.read(fd, 1 << 18)
    n, what, unique, node = struct.unpack_from("<IIQQ", request)
    error, answer = 0, b""
    if what in (14, 15, 16, 17, 28) or (what == 1 and request[40:].startswith(b"slow")):
        # OPEN, READ, WRITE, STATFS, READDIR, LOOKUP
        time.sleep(delay)
    if what == 26:  # INIT
        answer = struct.pack("<IIIIHHIIHHI7I", 7, 31, 65536, 0, 0, 0, 65536, 1, 0, 0, 0, *[0] * 7)
    elif what == 1:  # LOOKUP
        answer = struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attributes(2)
    elif what == 3:  # GETATTR
        answer = struct.pack("<QII", 3600, 0, 0) + attributes(node)
    elif what in (14, 27):  # OPEN, OPENDIR
        answer = struct.pack("<QII", 1, 0, 0)
    elif what == 16:  # WRITE
        answer = struct.pack("<II", struct.unpack_from("<I", request, 56)[0], 0)
    elif what == 4:  # SETATTR
        answer = struct.pack("<QII", 3600, 0, 0) + attributes(node)
    elif what == 15:
        answer = bytes(struct.unpack_from("<I", request, 56)[0])
    elif what == 17:
        answer = struct.pack("<5Q4I6I", 1, 1, 1, 1, 1, 4096, 255, 4096, 0, *[0] * 6)
    elif what in (2, 42):  # FORGET, BATCH_FORGET
        continue
    elif what not in (18, 25, 28, 29):  # RELEASE, FLUSH, READDIR (there is nothing), RELEASEDIR
        error = -38
    try:
        os.write(fd, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
    except OSError:
        pass  # it is asked no more
"""
DELAY = 0.5  # seconds


def mounted(folder: Path) -> Iterator[Path]:
    """The file, whose name is in the kernel's cache."""
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, folder, str(DELAY)], stdout=-1, stderr=-3, text=True
    ) as server:
        assert server.stdout is not None
        if "ready" not in server.stdout.readline():
            pytest.skip("FUSE cannot be mounted here")
        try:
            (folder / "f").stat()
            yield folder / "f"
        finally:
            ctypes.CDLL(None).umount2(os.fsencode(folder), 2)  # MNT_DETACH
            server.kill()
