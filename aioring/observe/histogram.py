"""How long I/Os were waited for, as HdrHistogram keeps it: exact counts in buckets that grow with the value.

Each power of two of nanoseconds is cut into 16 buckets, so a percentile is off by 3 % at most (the middle of a bucket is
given), whether it is 2 us or 20 s, in 5 KB and with one list access for each I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Histogram", "Waited"]

_BITS = 4  # 16 buckets to a power of two
_BUCKETS = (41 - _BITS) << _BITS  # up to 2**40 ns: 18 minutes; what took longer is counted in the last one


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

    __slots__ = ("_at", "_buckets", "_last", "_total", "_worst")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self._last, self._at = 0.0, 0  # the last value, and where it was counted
        self._total = 0.0
        self._worst = 0.0

    def add(self, seconds: float) -> None:
        if seconds == self._last:
            # What was asked for in one tick, and told in one, took the same time to a bit.
            self._buckets[self._at] += 1
            self._total += seconds
            return
        ns = max(int(seconds * 1e9), 0)
        shift = max(ns.bit_length() - _BITS - 1, 0)
        self._last, self._at = seconds, min((shift << _BITS) + (ns >> shift), _BUCKETS - 1)
        self._buckets[self._at] += 1
        self._total += seconds
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
            shift = max((number >> _BITS) - 1, 0)
            low = (number - (shift << _BITS)) << shift
            return (low + ((1 << shift) - 1) / 2) * 1e-9
    return 0.0
