"""The schedule of tiles: each ends exactly once, tried neither too often nor too soon."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import Index

backoffs = st.builds(
    Backoff,
    attempts=st.integers(1, 5),
    first=st.floats(0, 100),
    factor=st.floats(1, 10),
    longest=st.floats(0, 1000),
)


class Clock:
    """Seconds that pass when a test adds to them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(count: int) -> list[Index]:
    return [(0, col) for col in range(count)]


def drawn_one_by_one(count: int, drawn: list[Index]) -> Iterator[Index]:
    for index in row(count):
        drawn.append(index)
        yield index


@given(data=st.data(), backoff=backoffs, count=st.integers(0, 8))
def test_every_index_ends_once_in_its_attempts(data: st.DataObject, backoff: Backoff, count: int) -> None:
    clock = Clock()
    drawn: list[Index] = []
    schedule = Schedule(drawn_one_by_one(count, drawn), backoff, clock)
    out: list[Index] = []
    ended: set[Index] = set()
    failures: dict[Index, list[float]] = {}
    due: dict[Index, float] = {}
    crashed: set[Index] = set()
    alone: set[Index] = set()
    recalls = 0
    while not schedule.over:
        before = len(drawn)
        index = schedule.take() if len(out) < 3 else None
        assert len(drawn) - before <= 1
        if index is not None:
            assert index not in ended
            assert index not in out
            assert clock.now >= due.pop(index, 0)
            if index in crashed:
                assert not out
                assert not due
                assert len(drawn) == count
                crashed.remove(index)
                alone.add(index)
            else:
                assert not alone & set(out)
            out.append(index)
        acts = ["go on", "wait", *(["recall"] if recalls < 3 else [])]
        act = data.draw(st.sampled_from([*acts, *(["done", "failed", "crashed"] if out else [])]))
        if act == "wait":
            pause = schedule.due_in()
            assert pause == max(0, min(due.values(), default=math.inf) - clock.now)
            clock.now += pause if math.isfinite(pause) else 1.0
        elif act == "recall":
            recalls += 1
            schedule.recall()
            due.update(dict.fromkeys(out, clock.now))
            alone.difference_update(out)
            out.clear()
        elif act in ("done", "failed", "crashed"):
            index = out.pop(data.draw(st.integers(0, len(out) - 1)))
            if act == "done":
                schedule.done(index)
                ended.add(index)
                continue
            attempts = schedule.failed(index) if act == "failed" else schedule.crashed(index)
            if act == "crashed" and index not in alone and backoff.attempts > 1:
                assert attempts is None
                crashed.add(index)
                continue
            failures.setdefault(index, []).append(clock.now)
            if act == "crashed" or len(failures[index]) == backoff.attempts:
                assert attempts == len(failures[index]) <= backoff.attempts
                ended.add(index)
            else:
                assert attempts is None
                due[index] = clock.now + backoff.before(len(failures[index]) + 1)
    assert sorted(ended) == drawn == row(count)
    assert schedule.take() is None


def test_nothing_is_drawn_before_it_is_taken() -> None:
    fresh = iter(row(3))
    schedule = Schedule(fresh, Backoff())
    assert schedule.take() == (0, 0)
    assert list(fresh) == row(3)[1:]


def test_over_is_known_after_the_last_take() -> None:
    schedule = Schedule(row(1), Backoff())
    assert schedule.take() == (0, 0)
    schedule.done((0, 0))
    assert not schedule.over
    assert schedule.take() is None
    assert schedule.over


def test_a_failed_index_that_is_due_goes_first() -> None:
    clock = Clock()
    schedule = Schedule(row(4), Backoff(attempts=3, first=10, factor=2, longest=60), clock)
    assert schedule.take() == (0, 0)
    assert schedule.due_in() == math.inf
    assert schedule.failed((0, 0)) is None
    assert schedule.due_in() == 10
    assert schedule.take() == (0, 1)
    clock.now = 9.5
    assert schedule.due_in() == 0.5
    assert schedule.take() == (0, 2)
    clock.now = 10
    assert schedule.due_in() == 0
    assert schedule.take() == (0, 0)
    assert schedule.failed((0, 0)) is None
    assert schedule.due_in() == 20
    clock.now = 31
    assert schedule.take() == (0, 0)
    assert schedule.failed((0, 0)) == 3
    assert schedule.take() == (0, 3)


def test_a_recalled_index_has_not_failed() -> None:
    clock = Clock()
    schedule = Schedule(row(3), Backoff(attempts=2, first=10), clock)
    assert [schedule.take(), schedule.take()] == row(2)
    schedule.failed((0, 1))
    schedule.recall()
    assert schedule.due_in() == 0
    assert [schedule.take(), schedule.take()] == [(0, 0), (0, 2)]
    schedule.done((0, 2))
    assert schedule.failed((0, 0)) is None
    assert not schedule.over


def test_a_crashed_index_is_tried_alone_last() -> None:
    clock = Clock()
    schedule = Schedule(row(4), Backoff(attempts=2, first=10), clock)
    assert [schedule.take(), schedule.take()] == row(2)
    assert [schedule.crashed(index) for index in row(2)] == [None, None]
    assert [schedule.take(), schedule.take()] == row(4)[2:]
    assert schedule.failed((0, 2)) is None
    assert schedule.take() is None
    schedule.done((0, 3))
    assert schedule.take() is None
    clock.now = 10
    assert schedule.take() == (0, 2)
    assert schedule.take() is None
    schedule.done((0, 2))
    first = schedule.take()
    assert first in row(2)
    assert schedule.take() is None
    assert schedule.crashed(first) == 1
    second = schedule.take()
    assert {first, second} == set(row(2))
    schedule.done(second)
    assert schedule.take() is None
    assert schedule.over


def test_a_crash_ends_an_index_of_one_attempt() -> None:
    schedule = Schedule(row(2), Backoff(attempts=1))
    schedule.take()
    assert schedule.crashed((0, 0)) == 1
    assert schedule.take() == (0, 1)


def test_only_an_index_that_is_out_can_end() -> None:
    schedule = Schedule(row(2), Backoff())
    schedule.take()
    schedule.done((0, 0))
    for index in row(2):
        with pytest.raises(KeyError):
            schedule.done(index)
        with pytest.raises(KeyError):
            schedule.failed(index)
        with pytest.raises(KeyError):
            schedule.crashed(index)
