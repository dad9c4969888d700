"""What `read_stream` was asked for, checked, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, cast

from ..files import direct as past
from ..kernel.abi import OFF_MAX
from ..loops import Loop
from .blocks import Elements, Source, Span
from .distance import Distance
from .pump import Pumped

__all__ = ["Settings"]

_LENT = 4  # windows: what may be kept by the consumer before it gets copies, where no `max_bytes` is said


class Settings:
    """What `read_stream` was asked for."""

    __slots__ = ("blocks", "combine", "direct", "full", "key", "max_bytes", "max_ios", "raises", "size")

    def __init__(
        self,
        blocks: Any,
        key: Callable[[Any], Any] | None,
        block_size: int,
        max_ios: int,
        combine_limit: int,
        max_bytes: int | None,
        direct: bool | str,
        full: bool,
        raises: bool,
    ) -> None:
        self.direct = past.check(direct)
        self.size, self.max_ios = _at_least(block_size, 1, "block_size"), _at_least(max_ios, 0, "max_ios")
        self.combine = max(_at_least(combine_limit, 1, "combine_limit") // self.size, 1)  # blocks
        window = (max(max_ios, 1) + 1) * self.combine * self.size
        self.max_bytes = window * _LENT if max_bytes is None else _at_least(max_bytes, 1, "max_bytes")
        self.full, self.raises, self.key = full, raises, key
        if hasattr(blocks, "__aiter__"):
            blocks = aiter(blocks)
        elif blocks is not None and not isinstance(blocks, range):
            blocks = iter(blocks)
        self.blocks = blocks

    def with_blocks(self, blocks: Any) -> Settings:
        """The same for other blocks."""
        most = self.combine * self.size
        return Settings(
            blocks, self.key, self.size, self.max_ios, most, self.max_bytes, self.direct, self.full, self.raises
        )

    def distance(self) -> Distance:
        capacity = max(min((max(self.max_ios, 1) + 1) * self.combine, self.max_bytes // self.size), 1)
        return Distance(capacity, self.combine, max(self.max_ios, 1), self.full)

    def source(self, file_size: int, loop: Loop) -> Source:
        size = self.size
        blocks = cast("Any", range(-(-file_size // size)) if self.blocks is None else self.blocks)
        if hasattr(blocks, "__anext__"):
            return Pumped(blocks, self.key, size, self.combine * size, loop)
        if isinstance(blocks, range) and self.key is None and _is_plain(blocks, size):
            return Span(blocks, size)
        return Elements(iter(blocks), self.key, size, self.combine * size)


def _is_plain(numbers: range, size: int) -> bool:
    """Whether each follows the one before, and none is wrong."""
    return numbers.step == 1 and numbers.start >= 0 and numbers.stop * size <= OFF_MAX


def _at_least(value: int, least: int, name: str) -> int:
    value = index(value)
    if value < least:
        raise ValueError(f"{name} {value}: must be at least {least}")
    return value
