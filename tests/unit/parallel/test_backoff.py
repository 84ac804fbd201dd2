"""Pauses between attempts: they grow, have a limit, and end with the last attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.parallel.backoff import ONCE, Backoff

backoffs = st.builds(
    Backoff,
    attempts=st.integers(1, 5),
    first=st.floats(0, 100),
    factor=st.floats(1, 10),
    longest=st.floats(0, 1000),
)


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [
        (Backoff(attempts=5, first=2, factor=4, longest=60), [0, 2, 8, 32, 60]),
        (Backoff(attempts=3, first=5, factor=1, longest=60), [0, 5, 5]),
        (Backoff(attempts=3, first=90, factor=2, longest=60), [0, 60, 60]),
    ],
)
def test_pauses_grow_up_to_the_longest(backoff: Backoff, seconds: list[float]) -> None:
    assert [backoff.before(attempt) for attempt in range(1, len(seconds) + 1)] == seconds
    assert list(backoff.pauses()) == [*seconds[1:], None]


def test_one_attempt_has_no_pause() -> None:
    assert list(ONCE.pauses()) == [None]


def test_pauses_do_not_overflow() -> None:
    assert Backoff(attempts=10_000, first=2, factor=4, longest=60).before(10_000) == 60


@given(backoff=backoffs, attempt=st.integers(1, 2000))
def test_pauses_never_shrink(backoff: Backoff, attempt: int) -> None:
    assert 0 <= backoff.before(attempt) <= backoff.before(attempt + 1) <= backoff.longest
