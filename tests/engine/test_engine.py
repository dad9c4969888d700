"""What the engine must stay, for the hot path's sake."""

from __future__ import annotations

import os
from typing import Any

import aioring


async def test_an_engine_has_few_enough_attributes_for_cpython_to_look_them_up_fast(
    anyio_backend: Any, fd: int
) -> None:
    """Instances of a class share their keys as long as they have 30 at most (SHARED_KEYS_MAX_SIZE, CPython's
    pycore_dict.h): beyond, each access to any of them is a lookup in a dict of its own. 3 % of an I/O."""
    async with aioring.Ring(page_cache_first=False) as ring:
        await ring.read(fd, 0, os.stat(fd).st_size)
        engine = ring._started
        assert engine is not None
        assert len(vars(engine)) <= 28  # two more are set when they are needed
