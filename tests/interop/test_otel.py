"""Metrics and spans, as OpenTelemetry's own SDK sees them."""

from __future__ import annotations

import errno
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import aioring
from aioring.interop.otel import instrument
from aioring.testing import Scripted
from tests.harness import Held


def metrics(reader: InMemoryMetricReader) -> dict[tuple[str, str], Any]:
    """Values by metric and operation."""
    data: Any = reader.get_metrics_data()
    return {
        (metric.name, point.attributes["aioring.operation"]): point.value
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_metrics(ring: aioring.Ring, fd: int) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    with_metrics = instrument(meter_provider=provider)
    for i in range(3):
        await ring.read(fd, i, 100)
    with pytest.raises(OSError, match="Bad file"):
        await ring.fsync(1 << 20)
    found = metrics(reader)
    assert found["aioring.ios", "read"] == 3
    assert found["aioring.io.bytes", "read"] == 300
    assert found["aioring.io.errors", "fsync"] == 1
    with_metrics.close()
    with_metrics.close()
    assert metrics(reader) == {}
    provider.shutdown()


async def test_what_is_in_flight(anyio_backend: Any, fd: int) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    with_metrics = instrument(meter_provider=provider)
    method = Held(1)
    async with aioring.Ring(method=method) as ring, anyio.create_task_group() as group:
        group.start_soon(ring.read, fd, 0, 10)
        await anyio.sleep(0.01)
        found = metrics(reader)
        method.let_go()
    assert found["aioring.in_flight", "read"] == 1
    with_metrics.close()
    provider.shutdown()


async def test_spans_lie_under_the_span_of_the_task(anyio_backend: Any, fd: int) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    method = Held(1, short=0.0, soft=0.0, faults={("fsync", 1): errno.EIO})
    with_spans = instrument(spans=True, tracer_provider=provider)

    async def handler() -> None:
        with tracer.start_as_current_span("request"):
            await ring.read(fd, 4096, 10)

    async with aioring.Ring(method=method) as ring:
        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await anyio.sleep(0.02)
            method.let_go()
        with pytest.raises(OSError, match="Input/output"):
            await ring.fsync(fd)
        with_spans.close()
        await ring.fsync(fd)
    spans: dict[str, Any] = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"request", "aioring read", "aioring fsync"}
    read, request = spans["aioring read"], spans["request"]
    assert read.parent.span_id == request.context.span_id
    assert read.attributes["aioring.offset"] == 4096
    assert read.attributes["aioring.result"] == 10
    assert read.end_time - read.start_time >= 15_000_000
    assert request.start_time - 2_000_000 <= read.start_time <= read.end_time <= request.end_time + 2_000_000
    assert spans["aioring fsync"].status.status_code is StatusCode.ERROR
    provider.shutdown()


async def test_only_those_that_took_long(anyio_backend: Any, fd: int) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with_spans = instrument(spans=True, longer_than=5.0, tracer_provider=provider)
    async with aioring.Ring(method=Scripted(1)) as ring:
        await ring.read(fd, 0, 10)
    with_spans.close()
    assert exporter.get_finished_spans() == ()
    provider.shutdown()


async def test_what_nobody_awaits_lies_under_no_span(anyio_backend: Any, fd: int) -> None:
    """Not under that of whoever's context the loop happens to run us in."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    method = Held(1)
    with_spans = instrument(spans=True, tracer_provider=provider)
    async with aioring.Ring(method=method) as ring:
        with provider.get_tracer("test").start_as_current_span("of another"):
            read = ring.start_read(fd, 0, 10)
        await anyio.sleep(0.01)
        method.let_go()
        while not read.done():
            await anyio.sleep(0.001)
        await read
    with_spans.close()
    spans: dict[str, Any] = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["aioring read"].parent is None
    provider.shutdown()
