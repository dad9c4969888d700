"""What becomes of files that are open when their ring ends: what they have accepted is written first."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from ..engine import Engine
from ..ring import Ring

if TYPE_CHECKING:
    from .file import File

__all__ = ["look_after"]

logger = logging.getLogger("aioring")
_written: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[File[Any]]] = weakref.WeakKeyDictionary()


def look_after(ring: Ring, file: File[Any]) -> None:
    """When the ring ends while the file is open, what it has accepted is written first."""
    engine = ring._engine
    files = _written.get(engine)
    if files is None:
        files = _written[engine] = weakref.WeakSet()
        engine.at_end.append(lambda: _finish_all(files))
    files.add(file)


def _finish_all(files: weakref.WeakSet[File[Any]]) -> None:
    said: Warning | None = None  # where warnings are errors: after all have been finished
    for file in list(files):
        try:
            file._finish("its ring, or its loop, was closed before it")
        except Warning as warning:
            said = said or warning
        except Exception as error:
            logger.error("what %r had accepted could not be written: %s", file, error, exc_info=error)
    if said is not None:
        raise said
