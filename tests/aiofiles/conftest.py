"""The drop-in's tests run on the ring that `get_ring()` gives, of each method, on asyncio and uvloop, as aiofiles does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import aioring
from aioring.loops import current
from tests.conftest import LOOPS

# Whether the page cache is asked makes a difference to io_uring's files; what a dialect adds does not know of it.
COMBINATIONS = [
    ("io_uring", True), ("io_uring", False), ("linux_aio", False), ("worker", True), ("sync", True), ("scripted", False),
]  # fmt: skip


@pytest.fixture(params=COMBINATIONS, ids=[f"{m}-{'cached' if c else 'uncached'}" for m, c in COMBINATIONS])
def combination(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return LOOPS[request.param]


@pytest.fixture
async def ring(make_ring: Callable[..., aioring.Ring], anyio_backend: Any) -> AsyncIterator[aioring.Ring]:
    """A ring of the method under test, which is the running loop's: the drop-in asks `get_ring()`."""
    ring = make_ring()
    await ring.start()
    current().keep(ring)
    assert aioring.get_ring() is ring
    try:
        yield ring
    finally:
        await ring.aclose()
