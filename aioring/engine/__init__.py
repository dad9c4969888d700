"""The engine of a ring: admission in order, backlog, tick budget, drain, the close of an fd, the end of a ring.

`engine.py` is the path of every I/O; `budget.py`, `chains.py` and `closing.py` stand beside it.
"""

from .closing import aclose, close_now
from .engine import Engine

__all__ = ["Engine", "aclose", "close_now"]
