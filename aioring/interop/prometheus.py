"""aioring's counters for Prometheus (`pip install aioring-io[prometheus]`).

    from prometheus_client import REGISTRY
    from aioring.interop.prometheus import RingCollector

    REGISTRY.register(RingCollector())

Nothing is done until somebody scrapes; then `ring.stats()` and `ring.in_flight()` of every open ring of the process are
read, from whatever thread asks. `ring.reset_stats()` looks to Prometheus like a restart, which `rate()` knows about. The
label `ring` has the ring's number: a ring that is closed is gone, and who makes many short-lived ones makes many series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import aioring

__all__ = ["RingCollector"]

_BY_OPERATION = {
    "count": ("ios", "I/Os whose outcome is known, failed and cancelled ones included"),
    "bytes": ("bytes", "Bytes moved"),
    "errors": ("errors", "I/Os that failed with an errno"),
    "cancelled": ("cancelled", "I/Os that were cancelled"),
    "short": ("short_transfers", "Transfers that stopped short and were continued"),
    "retries": ("retries", "EINTR and EAGAIN answers that were asked again"),
    "page_cache": ("page_cache", "I/Os served in place from what the kernel has cached"),
    "inline": ("inline", "I/Os complete as soon as they were submitted"),
    "workers": ("workers", "I/Os told to worker threads"),
    "slot_waits": ("slot_waits", "I/Os that waited for one of the ring's slots"),
}
_BY_RING = {
    "submissions": "How often the method was told of something",
    "completions": "I/Os that came back from the method",
    "cq_overflows": "How often the completion queue was found full",
    "page_cache_changes": "How often the page-cache step changed its ways",
}


class RingCollector(Collector):
    """Every open ring of this process, or those given. `prefix` starts each metric's name."""

    def __init__(self, *rings: aioring.Ring, prefix: str = "aioring") -> None:
        self._rings = rings
        self._prefix = prefix

    def describe(self) -> Iterable[Metric]:
        return ()  # what there is, is known when it is collected

    def collect(self) -> Iterable[Metric]:
        rings = [ring for ring in self._rings or aioring.rings() if not ring.closed]
        prefix = self._prefix
        info = InfoMetricFamily(prefix, "How a ring does its I/O, and why not by io_uring", labels=("ring",))
        in_flight = GaugeMetricFamily(
            f"{prefix}_in_flight", "I/Os that were asked for and are not over", labels=("ring", "operation", "state")
        )
        deepest = GaugeMetricFamily(f"{prefix}_deepest", "I/Os in flight at once, at most", labels=("ring",))
        waited = SummaryMetricFamily(
            f"{prefix}_waited_seconds", "From asked for to complete (track_timing)", labels=("ring", "operation")
        )
        quantiles = GaugeMetricFamily(
            f"{prefix}_waited_quantile_seconds", "The same, by quantile", labels=("ring", "operation", "quantile")
        )
        labels = ("ring", "operation")
        by_operation = {
            field: CounterMetricFamily(f"{prefix}_{name}", text, labels=labels)
            for field, (name, text) in _BY_OPERATION.items()
        }
        by_ring = {
            field: CounterMetricFamily(f"{prefix}_{field}", text, labels=("ring",)) for field, text in _BY_RING.items()
        }
        for ring in rings:
            stats = ring.stats()
            info.add_metric((stats.ring,), {"method": stats.method, "fallback_reason": ring.fallback_reason or ""})
            deepest.add_metric((stats.ring,), stats.deepest)
            for field, ring_metric in by_ring.items():
                ring_metric.add_metric((stats.ring,), getattr(stats, field))
            for name, operation in stats.operations.items():
                for field, metric in by_operation.items():
                    metric.add_metric((stats.ring, name), getattr(operation, field))
                if operation.waited is not None:
                    waited.add_metric((stats.ring, name), operation.waited.count, operation.waited.total)
                    for quantile, value in (("0.5", "p50"), ("0.99", "p99"), ("0.999", "p999")):
                        quantiles.add_metric((stats.ring, name, quantile), getattr(operation.waited, value))
            for (name, state), n in Counter((io.operation, io.state) for io in ring.in_flight()).items():
                in_flight.add_metric((stats.ring, name, state), n)
        return [info, in_flight, deepest, *by_ring.values(), *by_operation.values(), waited, quantiles]
