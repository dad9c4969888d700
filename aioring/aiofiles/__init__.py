"""The drop-in for aiofiles: `import aioring.aiofiles as aiofiles`, and everything else stays as it is.

The whole public API of aiofiles 25.1, under its names and in its dialect, over aioring's own files (`aioring/files/`):
reads and writes go to the ring of the running loop. `base.py` is what `open` gives, `threadpool/` holds `open`, `wrap`, the
classes and the standard streams, `threadpool/ring_files.py` what `open` opens; `tempfile/`, `os.py`, `ospath.py` the rest.
"""

from __future__ import annotations

from . import tempfile
from .threadpool import open, stderr, stderr_bytes, stdin, stdin_bytes, stdout, stdout_bytes

__all__ = ["open", "tempfile", "stdin", "stdout", "stderr", "stdin_bytes", "stdout_bytes", "stderr_bytes"]
