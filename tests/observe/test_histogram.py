"""Percentiles of a histogram against those of the values themselves."""

from __future__ import annotations

import math
import statistics

from hypothesis import given, strategies as st

from aioring.observe.histogram import Histogram


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300))
def test_percentiles_are_off_by_four_percent_at_most(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found, ordered = histogram.summary(), sorted(values)
    assert found.count == len(values)
    assert math.isclose(found.total, math.fsum(values), rel_tol=1e-9)
    assert found.worst == ordered[-1]
    for share, got in ((0.5, found.p50), (0.99, found.p99), (0.999, found.p999)):
        exact = ordered[max(math.ceil(len(values) * share), 1) - 1]
        assert math.isclose(got, exact, rel_tol=0.04, abs_tol=2e-9), (share, exact)


def test_none_at_all() -> None:
    found = Histogram().summary()
    assert (found.count, found.total, found.p50, found.p999, found.worst) == (0, 0.0, 0.0, 0.0, 0.0)


def test_what_took_longer_than_18_minutes_is_still_counted() -> None:
    histogram = Histogram()
    for seconds in (1e9, 0.001, -1.0):
        histogram.add(seconds)
    found = histogram.summary()
    assert found.count == 3
    assert found.worst == 1e9
    assert found.p50 < statistics.median([1e9, 0.001, -1.0]) * 1.04
