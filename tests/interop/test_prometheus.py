"""The collector, scraped by prometheus_client itself."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from typing import Any

import anyio
import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import aioring
from aioring.interop.prometheus import RingCollector
from tests.harness import Held


def scraped(registry: prometheus_client.CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels; through the text, and prometheus_client's own parser of it."""
    from prometheus_client.openmetrics.exposition import generate_latest

    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    return prometheus_client.CollectorRegistry()


async def test_counters_by_ring_and_operation(ring: aioring.Ring, fd: int, registry: Any) -> None:
    registry.register(RingCollector(ring))
    for i in range(5):
        await ring.read(fd, i, 100)
    await ring.write(fd, 0, b"x" * 10)
    found = scraped(registry)
    name = ring.stats().ring
    read, write = (("operation", "read"), ("ring", name)), (("operation", "write"), ("ring", name))
    assert found["aioring_ios_total", read] == 5
    assert found["aioring_bytes_total", read] == 500
    assert found["aioring_ios_total", write] == 1
    assert found["aioring_errors_total", read] == 0
    assert found["aioring_page_cache_total", read] == ring.stats().operations["read"].page_cache
    assert found["aioring_submissions_total", (("ring", name),)] == ring.stats().submissions
    info = [labels for (metric, labels), _ in found.items() if metric == "aioring_info"]
    assert [dict(labels)["method"] for labels in info] == [ring.method]


async def test_what_is_in_flight_and_how_long_it_took(anyio_backend: Any, fd: int, registry: Any) -> None:
    registry.register(RingCollector())
    method = Held(1)
    async with aioring.Ring(method=method, track_timing=True) as ring:
        name = ring.stats().ring
        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(ring.read, fd, i, 10)
            await anyio.sleep(0.02)
            found = scraped(registry)
            method.let_go()
        after = scraped(registry)
    assert found["aioring_in_flight", (("operation", "read"), ("ring", name), ("state", "submitted"))] == 3
    assert after["aioring_waited_seconds_count", (("operation", "read"), ("ring", name))] == 3
    assert after["aioring_waited_seconds_sum", (("operation", "read"), ("ring", name))] >= 0.06
    assert (
        after["aioring_waited_quantile_seconds", (("operation", "read"), ("quantile", "0.5"), ("ring", name))] >= 0.02
    )
    assert scraped(registry) == {}, "a ring that is closed is gone"


async def test_by_http_from_the_clients_own_server(anyio_backend: Any, fd: int, registry: Any) -> None:
    registry.register(RingCollector(prefix="app_ring"))
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    text: list[str] = []

    def get() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
            text.append(answer.read().decode())

    try:
        async with aioring.Ring() as ring:
            await ring.read(fd, 0, 10)
            client = threading.Thread(target=get)
            client.start()
            while client.is_alive():
                await anyio.sleep(0.01)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert f'app_ring_ios_total{{operation="read",ring="{ring.stats().ring}"}} 1.0' in text[0]


def test_nothing_without_a_ring(registry: Any) -> None:
    registry.register(RingCollector())
    assert scraped(registry) == {}
    asyncio.run(asyncio.sleep(0))
