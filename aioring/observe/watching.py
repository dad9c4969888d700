"""What `slow_io` and `loop_lag` give has in common: it goes on until it is closed, and may be a `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import Self

__all__ = ["Watching", "seconds_of"]


class Watching:
    """Ends with `close`, or with the `with` block that it is entered by."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def seconds_of(threshold: float) -> float:
    """A threshold, as a number of seconds. Raises `ValueError` where it is negative, or no number."""
    seconds = float(threshold)
    if not seconds >= 0:
        raise ValueError(f"threshold {threshold!r}: must be a number of seconds, not negative")
    return seconds
