"""What `top` shows of two samples: a heading, and tables as `console.py` prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..console import Column, count, printable, seconds
from .fdinfo import KernelRing
from .peer import Operation, RingSeen
from .watched import Process, Sample

__all__ = ["Part", "heading", "parts"]

_MOST = 20  # rings of one kind


class Part(NamedTuple):
    title: str
    columns: Sequence[Column]
    rows: list[list[str]]


KERNEL = (
    Column("fd", keep=9), Column("in kernel", keep=8), Column("queued", keep=6), Column("unseen", keep=5),
    Column("ops/s", keep=7), Column("overflown", keep=4), Column("files", keep=2), Column("buffers", keep=2),
    Column("sqpoll", right=False, keep=1),
)  # fmt: skip
RINGS = (
    Column("ring", right=False, keep=9), Column("depth", keep=3), Column("in flight", keep=8), Column("ops/s", keep=7),
    Column("a submission", keep=2), Column("not io_uring", right=False, keep=1, cut="start"),
)  # fmt: skip
OPERATIONS = (
    Column("ring", right=False, keep=2), Column("operation", right=False, keep=9), Column("ops/s", keep=8),
    Column("B/s", keep=7), Column("cached", keep=3), Column("errors", keep=4), Column("p50", keep=5),
    Column("p99", keep=6), Column("worst", keep=1),
)  # fmt: skip
IN_FLIGHT = (
    Column("age", keep=8), Column("operation", right=False, keep=7), Column("bytes", keep=4), Column("offset", keep=3),
    Column("state", right=False, keep=2), Column("task", right=False, keep=5, cut="start"),
    Column("of", right=False, keep=9, cut="end"),
)  # fmt: skip


def heading(process: Process, now: Sample) -> list[str]:
    lines = [f"{process.pid}  {printable(process.name)}"]
    if now.note:
        lines.append(now.note)
    if not now.kernel and now.ours is None:
        lines.append("no io_uring ring is open in it")
    return lines


def parts(before: Sample | None, now: Sample, most: int) -> list[Part]:
    """`most`: I/Os that are listed."""
    found = []
    if now.kernel:
        found.append(Part("io_uring, as the kernel sees it", KERNEL, _kernel(before, now)[:_MOST]))
    if now.ours is not None:
        found.append(Part("rings of aioring", RINGS, _rings(before, now)[:_MOST]))
        rows = _operations(before, now)
        if rows:
            found.append(Part("operations", OPERATIONS, rows))
        listed = [
            [
                seconds(io.age), io.operation, "-" if io.length is None else str(io.length),
                "-" if io.offset is None else str(io.offset), io.state, io.task or "-", io.target,
            ]
            for io in now.ours.in_flight[:most]
        ]  # fmt: skip
        more = now.ours.in_flight_total - len(listed)
        title = f"in flight: {now.ours.in_flight_total}" + (f", the {len(listed)} oldest" if more > 0 else "")
        found.append(Part(title, IN_FLIGHT, listed))
    return found


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _kernel(before: Sample | None, now: Sample) -> list[list[str]]:
    old = {ring.fd: ring for ring in (before.kernel or [] if before else [])}
    rows = []
    for ring in now.kernel or []:
        done = ring.since(old.get(ring.fd), "CqTail")
        rate = "-" if done is None or before is None else count(done / max(now.when - before.when, 1e-9))
        rows.append([str(ring.fd), *map(_or_dash, (ring.in_kernel, ring.queued, ring.unseen)), rate, *_kept(ring)])
    return rows


def _kept(ring: KernelRing) -> list[str]:
    return [*map(_or_dash, (ring.overflown, ring.files, ring.buffers)), "yes" if ring.sqpoll else "no"]


def _rings(before: Sample | None, now: Sample) -> list[list[str]]:
    assert now.ours is not None
    old, elapsed = _older(before, now)
    in_flight_of = Counter(io.ring for io in now.ours.in_flight)
    rows = []
    for ring in now.ours.rings:
        previous, in_flight = old.get(ring.name), in_flight_of[ring.name]
        told = f"{in_flight}" if now.ours.in_flight_total == len(now.ours.in_flight) else f"{in_flight}+"
        rate, together = "-", "-"
        if previous is not None and elapsed and _total(ring) >= _total(previous):  # else: counted from zero again
            rate = count((_total(ring) - _total(previous)) / elapsed)
            submissions = ring.submissions - previous.submissions
            together = f"{(ring.completions - previous.completions) / submissions:.1f}" if submissions > 0 else "-"
        rows.append([ring.name, str(ring.depth), told, rate, together, ring.reason])
    return rows


def _total(ring: RingSeen) -> int:
    return sum(operation.count for operation in ring.operations.values())


def _older(before: Sample | None, now: Sample) -> tuple[dict[str, RingSeen], float]:
    """What was before, by ring, and how many seconds before; nothing, where it cannot be compared."""
    if before is None or before.ours is None or now.ours is None:
        return {}, 0.0
    return {ring.name: ring for ring in before.ours.rings}, max(now.ours.now - before.ours.now, 0.0)


_NOTHING = Operation(0, 0, 0, 0, None, None, None)


def _operations(before: Sample | None, now: Sample) -> list[list[str]]:
    assert now.ours is not None
    old, elapsed = _older(before, now)
    rows: list[tuple[float, list[str]]] = []
    for ring in now.ours.rings:
        previous = old.get(ring.name)
        for name, one in ring.operations.items():
            was = previous.operations.get(name, _NOTHING) if previous else None
            n, rate, moved, cached = 0, "-", "-", "-"
            if was is not None and elapsed and one.count >= was.count:
                n = one.count - was.count
                rate, moved = count(n / elapsed), count((one.bytes - was.bytes) / elapsed) if one.bytes else "-"
                cached = f"{(one.page_cache - was.page_cache) / n:.0%}" if n else "-"
            times = [seconds(value) for value in (one.p50, one.p99, one.worst)]
            rows.append((n, [ring.name, name, rate, moved, cached, str(one.errors), *times]))
    busy = [pair for pair in rows if pair[0]] or rows
    return [row for _, row in sorted(busy, key=lambda pair: -pair[0])][:12]
