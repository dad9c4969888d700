"""How far a stream runs ahead: `Distance` against PostgreSQL 19's `read_stream.c`, transcribed line by line."""

from __future__ import annotations

from hypothesis import given, strategies as st

from aioring.streams.distance import Distance


class Model:
    """facts/postgres_aio.md, section 1R, in its words: `ra`, `cd`, `holdoff`."""

    def __init__(self, cap: int, limit: int, max_ios: int, full: bool) -> None:
        self.cap, self.limit, self.max_ios = cap, min(limit, cap), max_ios
        self.ra = self.cd = self.limit if full else 1
        self.holdoff = 0

    def should_look_ahead(self, ios: int, pinned: int, pend: int) -> bool:
        if self.ra == 0:
            return False
        if ios >= self.max_ios:
            return False
        if pend > 0 and pinned == 0 and pend < self.cd:
            return True
        return pinned + pend < self.ra

    def should_issue_now(self, ios: int, pinned: int, pend: int) -> bool:
        if pend == 0 or ios >= self.max_ios:
            return False
        if self.ra == 0:
            return True
        if pend >= self.cd:
            return True
        return pinned == 0 and not self.should_look_ahead(ios, pinned, pend)

    def io(self, waited: bool) -> None:
        if self.ra > 0 and waited:
            self.ra = min(2 * self.ra, self.cap)
        self.holdoff = self.cap
        if 0 < self.cd < self.limit:
            self.cd = min(2 * self.cd, self.limit, self.cap)

    def cached(self) -> None:
        if 0 < self.cd < self.limit:
            self.cd = min(2 * self.cd, self.limit, self.cap)

    def hit(self, ios: int) -> None:
        if ios == 0 and self.ra:
            if self.holdoff > 0:
                self.holdoff -= 1
            else:
                self.ra, self.cd = max(1, self.ra - 1), max(1, self.cd - 1)

    def end(self) -> None:
        self.ra = self.cd = 0

    def room(self, ios: int, pinned: int, pend: int) -> int:
        """How many blocks the look-ahead loop would take, one after the other, before it issues or stops."""
        n = 0
        while self.should_look_ahead(ios, pinned, pend + n) and not self.should_issue_now(ios, pinned, pend + n):
            n += 1
        return n


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("io"), st.booleans()),
        st.tuples(st.just("cached"), st.none()),
        st.tuples(st.just("hit"), st.integers(0, 2)),
        st.tuples(st.just("end"), st.none()),
    ),
    max_size=60,
)


@given(st.integers(1, 300), st.integers(1, 32), st.integers(1, 17), st.booleans(), STEPS, st.data())
def test_it_is_postgresql_s_step_by_step(
    cap: int, limit: int, max_ios: int, full: bool, steps: list[tuple[str, object]], data: st.DataObject
) -> None:
    model, ours = Model(cap, limit, max_ios, full), Distance(cap, limit, max_ios, full)
    for what, value in steps:
        if what == "io":
            model.io(bool(value))
            ours.done(bool(value))
        elif what == "cached":
            model.cached()
            ours.cached()
        elif what == "hit":
            assert isinstance(value, int)
            model.hit(value)
            ours.shared(value)
        else:
            model.end()
            ours.end()
        assert (ours.ahead, ours.combine, ours.holdoff) == (model.ra, model.cd, model.holdoff)
        ios, pinned = data.draw(st.integers(0, max_ios)), data.draw(st.integers(0, cap))
        pending = data.draw(st.integers(0, max(model.cd, 1)))
        assert ours.issue(ios, pinned, pending) is model.should_issue_now(ios, pinned, pending)
        if not model.should_issue_now(ios, pinned, pending):
            assert ours.room(ios, pinned, pending) == model.room(ios, pinned, pending)


def test_restarting_is_beginning() -> None:
    for full in (False, True):
        distance = Distance(100, 8, 4, full)
        for _ in range(5):
            distance.done(waited=True)
        distance.restart()
        assert (distance.ahead, distance.combine, distance.holdoff) == ((8, 8, 0) if full else (1, 1, 0))


def test_waits_ramp_it_up_in_nine_and_hits_wear_it_down_after_the_hold_off() -> None:
    distance = Distance(272, 16, 16)
    ramp = []
    for _ in range(10):
        distance.done(waited=True)
        ramp.append(distance.ahead)
    assert ramp == [2, 4, 8, 16, 32, 64, 128, 256, 272, 272]
    for _ in range(272):
        distance.shared(0)
    assert distance.ahead == 272
    for _ in range(271):
        distance.shared(0)
    assert (distance.ahead, distance.combine) == (1, 1)
