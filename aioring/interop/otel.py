"""aioring for OpenTelemetry (`pip install aioring-io[otel]`): metrics, and a span for each I/O if they are asked for.

    from aioring.interop.otel import instrument

    instrumented = instrument(spans=True, longer_than=0.01)
    ...
    instrumented.close()

Metrics are observed when the SDK's reader asks, from its own thread, and cost nothing until then. A span is made when an
I/O through the ring is complete, under the span that its task was in. What the page cache serves in place makes none: a
span costs ten times what such a read does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import Context

from opentelemetry import context as otel_context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer

import aioring

__all__ = ["Instrumented", "instrument"]

_COUNTERS = {
    "count": ("aioring.ios", "{io}", "I/Os whose outcome is known"),
    "bytes": ("aioring.io.bytes", "By", "Bytes moved"),
    "errors": ("aioring.io.errors", "{io}", "I/Os that failed with an errno"),
    "page_cache": ("aioring.io.page_cache", "{io}", "I/Os served in place from what the kernel has cached"),
    "workers": ("aioring.io.workers", "{io}", "I/Os told to worker threads"),
    "slot_waits": ("aioring.io.slot_waits", "{io}", "I/Os that waited for a slot of the ring"),
}


class Instrumented:
    """What `instrument` gives. `close` ends it: no spans any more, and the instruments observe nothing."""

    def __init__(self) -> None:
        self.open = True
        self._spans: aioring.SlowIo | None = None

    def close(self) -> None:
        """Twice is harmless."""
        self.open = False
        if self._spans is not None:
            self._spans.close()

    def counted(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for stats in [ring.stats() for ring in aioring.rings()] if self.open else ():
                for name, operation in stats.operations.items():
                    attributes = {"aioring.ring": stats.ring, "aioring.operation": name}
                    yield Observation(getattr(operation, field), attributes)

        return observe

    def in_flight(self, _: CallbackOptions) -> Iterable[Observation]:
        found = Counter((io.ring, io.operation, io.state) for io in (aioring.in_flight() if self.open else ()))
        for (ring, operation, state), n in found.items():
            yield Observation(n, {"aioring.ring": ring, "aioring.operation": operation, "aioring.state": state})


def instrument(
    *,
    meter_provider: MeterProvider | None = None,
    spans: bool = False,
    longer_than: float = 0.0,
    tracer_provider: TracerProvider | None = None,
) -> Instrumented:
    """Register the metrics, and with `spans` make one for each I/O that takes `longer_than` seconds or more."""
    made = Instrumented()
    meter = get_meter("aioring", aioring.__version__, meter_provider)
    for field, (name, unit, text) in _COUNTERS.items():
        meter.create_observable_counter(name, [made.counted(field)], unit, text)
    meter.create_observable_gauge("aioring.in_flight", [made.in_flight], "{io}", "I/Os asked for and not over")
    if spans:
        tracer = get_tracer("aioring", aioring.__version__, tracer_provider)

        def span(io: aioring.InFlight, task: Context | None) -> None:
            end = time.time_ns()
            # A copy: the task's own may be entered now. Without a task, no parent: whose context this runs in is chance.
            parent = task.copy().run(otel_context.get_current) if task is not None else otel_context.Context()
            attributes = {f"aioring.{name}": value for name in _ATTRIBUTES if (value := getattr(io, name)) is not None}
            made_span = tracer.start_span(
                f"aioring {io.operation}", parent, SpanKind.INTERNAL, attributes, start_time=end - io.age * 1000
            )
            if io.result is not None and io.result < 0:
                made_span.set_status(Status(StatusCode.ERROR, f"errno {-io.result}"))
            made_span.end(end)

        made._spans = aioring.slow_io(longer_than, report=span)
    return made


_ATTRIBUTES = ("ring", "operation", "target", "offset", "length", "method", "result", "task")
