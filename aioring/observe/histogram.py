"""How long I/Os were waited for, as HdrHistogram keeps it: exact counts in buckets that grow with the value.

Each power of two is cut into 16 buckets that are wider by the same factor, so a percentile is off by 2.2 % at most (the
middle of a bucket is given), whether it is 2 us or 20 s, in 5 KB and with one list access. The bucket is found by a
logarithm because that is the cheapest way in CPython: `int()` and shifts take three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2

__all__ = ["Histogram", "Waited"]

_CUT = 16  # buckets to a power of two
_LEAST = -30  # the first begins at 2**-30 s, 1 ns; what took less is counted in it
_FIRST = _LEAST * _CUT
_BUCKETS = 10 * _CUT - _FIRST  # up to 2**10 s, 17 minutes; what took longer is counted in the last one


@dataclass(frozen=True, slots=True)
class Waited:
    """What a histogram comes to. Seconds."""

    count: int
    total: float
    p50: float
    p99: float
    p999: float
    worst: float


class Histogram:
    """One operation's. `add` is for one thread; `summary` may be called from another while it goes on."""

    __slots__ = ("_buckets", "_total", "_worst")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self._total = 0.0
        self._worst = 0.0

    def add(self, seconds: float, n: int = 1) -> None:
        at = floor(log2(seconds) * _CUT) - _FIRST if seconds > 1e-9 else 0
        self._buckets[at if at < _BUCKETS else -1] += n
        self._total += seconds * n
        if seconds > self._worst:
            self._worst = seconds

    def summary(self) -> Waited:
        buckets, total, worst = self._buckets.copy(), self._total, self._worst
        count = sum(buckets)
        p50, p99, p999 = (min(_at(buckets, count, share), worst) for share in (0.5, 0.99, 0.999))
        return Waited(count, total, p50, p99, p999, worst)


def _at(buckets: list[int], count: int, share: float) -> float:
    """The value that `share` of all are not above."""
    wanted = max(count * share, 1)
    seen = 0
    for number, n in enumerate(buckets):
        seen += n
        if n and seen >= wanted:
            return float(2 ** ((number + 0.5) / _CUT + _LEAST))
    return 0.0
