"""Seeing what a ring does: what is in flight (`in_flight`), what has been done (`counters`), what was slow (`slow`), and
what held up the loop (`lag`). `serve` tells it to other processes.

It knows handles and loops, and nothing of engines and rings: those are above, count here, and hand their lines over to be
looked at.
"""

from __future__ import annotations

from .serving import Serving, serve

__all__ = ["Serving", "serve"]
