"""The log's format against a model: what was written is read again, what was torn ends it, what was lost is damage."""

from __future__ import annotations

import random
from zlib import crc32

import pytest
from hypothesis import given, settings, strategies as st

from aioring.streams.records import (
    CLOSED,
    DATA,
    HEADER,
    RECORD,
    End,
    Recovery,
    head,
    read_header,
    write_header,
)

LOG = 0x1122334455667788


def record(data: bytes, offset: int, durable: int, log: int, kind: int = DATA) -> bytes:
    return head(len(data), crc32(data), offset, durable, log, kind)


def read(data: bytes, portions: int = 1 << 30, log: int = LOG) -> tuple[list[tuple[int, bytes]], End]:
    recovery, found = Recovery(log), []
    for at in range(HEADER, len(data), portions):
        found += recovery.feed(data[at : at + portions])
    return found, recovery.end()


def write(batches: list[list[bytes]], log: int = LOG) -> tuple[bytes, list[tuple[int, bytes]], list[int]]:
    """The file, its records, and where each batch begins. A batch is durable when the next one is written."""
    out, records, begins = bytearray(write_header(log)), [], []
    for batch in batches:
        begins.append(len(out))
        for data in batch:
            records.append((len(out), data))
            out += record(data, len(out), begins[-1], log) + data
    return bytes(out), records, begins


BATCHES = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), max_size=6)
PORTIONS = st.sampled_from([1, 7, 64, 1 << 30])


@given(batches=BATCHES, portions=PORTIONS, zeros=st.integers(0, 100))
@settings(deadline=None)
def test_what_was_written_is_read(batches: list[list[bytes]], portions: int, zeros: int) -> None:
    data, records, begins = write(batches)
    assert read_header(data) == LOG
    found, end = read(data + bytes(zeros), portions)
    assert found == records
    assert end == End(len(data), begins[-1] if begins else 0, False, None)


@given(batches=BATCHES.filter(len), portions=PORTIONS, seed=st.integers(0, 1 << 16))
@settings(deadline=None, max_examples=300)
def test_a_last_batch_that_is_torn_ends_it_wherever_the_cut_is(
    batches: list[list[bytes]], portions: int, seed: int
) -> None:
    """Of a batch that was not acknowledged any sectors may be there: here any bytes."""
    rng = random.Random(seed)
    data, records, begins = write(batches)
    torn = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        a = rng.randrange(begins[-1], len(data))
        b = rng.randrange(a, len(data)) + 1
        torn[a:b] = bytes(b - a) if rng.random() < 0.7 else rng.randbytes(b - a)
    del torn[rng.randrange(begins[-1], len(data) + 1) :]
    found, end = read(bytes(torn), portions)
    assert found == records[: len(found)]
    assert len(found) >= sum(map(len, batches[:-1]))
    assert end.damage is None
    assert end.offset >= begins[-1] or len(batches) == 1


@given(batches=BATCHES.filter(lambda batches: len(batches) > 1), portions=PORTIONS, seed=st.integers(0, 1 << 16))
@settings(deadline=None, max_examples=300)
def test_what_was_durable_and_is_bad_is_damage_at_its_offset(
    batches: list[list[bytes]], portions: int, seed: int
) -> None:
    rng = random.Random(seed)
    data, records, begins = write(batches)
    at = rng.randrange(begins[0], begins[-1])
    bad = max(offset for offset, _ in records if offset <= at)
    broken = bytearray(data)
    broken[at] ^= 1 << rng.randrange(8)
    found, end = read(bytes(broken), portions)
    assert found == [one for one in records if one[0] < bad]
    assert end.damage == end.offset == bad


@given(st.binary(max_size=400), PORTIONS)
def test_garbage_is_an_empty_log(garbage: bytes, portions: int) -> None:
    found, end = read(write_header(LOG) + garbage, portions)
    assert (found, end) == ([], End(HEADER, 0, False, None))


def test_what_another_log_has_left_is_none_of_ours() -> None:
    old, _, _ = write([[b"old"] * 3] * 3, log=LOG + 1)
    new, records, _ = write([[b"new"]])
    found, end = read(new + old[len(new) :])
    assert found == records
    assert end.damage is None


def test_a_record_that_stands_elsewhere_is_none() -> None:
    data, records, _ = write([[b"first"], [b"second"]])
    moved = data[:HEADER] + data[records[1][0] :]
    assert read(moved)[0] == []


def test_a_log_says_that_it_was_closed() -> None:
    data, _, _ = write([[b"one"]])
    closed = data + record(b"", len(data), len(data), LOG, CLOSED)
    found, end = read(closed)
    assert [one for _, one in found] == [b"one"]
    assert end == End(len(closed), len(data), True, None)
    more = closed + record(b"more", len(closed), len(closed), LOG) + b"more"
    found, end = read(more)
    assert [one for _, one in found] == [b"one", b"more"]
    assert not end.closed
    # What was durable when it was closed, and is not there any more, is damage, too.
    broken = bytearray(closed)
    broken[HEADER + RECORD] ^= 1
    assert read(bytes(broken))[1].damage == HEADER


def test_records_of_any_size() -> None:
    for n in (0, 1, 100_000):
        data, records, _ = write([[b"x" * n, b""]])
        assert read(data, 4096)[0] == records


@pytest.mark.parametrize("cut", range(HEADER))
def test_a_header_that_is_cut_is_none(cut: int) -> None:
    assert read_header(write_header(LOG)[:cut]) is None


def test_what_is_no_log_is_refused() -> None:
    header = bytearray(write_header(LOG))
    header[-1] ^= 1
    assert read_header(bytes(header)) is None
    assert read_header(b"SQLite format 3\x00" + bytes(100)) is None
    newer = bytearray(write_header(LOG))
    newer[8] = 9
    with pytest.raises(ValueError, match="version 9"):
        read_header(bytes(newer))


def test_what_a_records_data_says_is_no_promise_of_the_log() -> None:
    """Data that looks like a record behind itself, of a batch that is torn: the log ends there, and is not damaged."""
    data, records, _ = write([[b"kept"]])
    at = len(data) + RECORD
    forged = record(b"", at, at, LOG)
    torn = bytearray(data + record(forged + b"x" * 50, len(data), len(data), LOG) + forged + b"x" * 50)
    torn[-1] ^= 1
    for cut in (len(torn), len(torn) - 1, at + RECORD, at + RECORD + 1):
        found, end = read(bytes(torn[:cut]))
        assert found == records
        assert (end.offset, end.damage) == (len(data), None)
    whole = bytes(torn) + record(b"next", len(torn), len(torn), LOG) + b"next"
    assert read(whole)[1].damage == len(data)  # what is behind it does say that it was durable
