"""An ordered map: results in order whichever is ready first, bounded work, errors in their turn."""

from __future__ import annotations

import threading
import time

import pytest

from ussfc.pipeline.parallel.ordered_map import in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 / (item + 1))
        return item * item

    assert list(in_order(slow_at_first, range(9), threads, "test")) == [(n, n * n) for n in range(9)]


def test_work_ahead_is_bounded() -> None:
    started: list[int] = []
    seen = []
    for item, _ in in_order(started.append, range(20), 2, "test", ahead=3):
        time.sleep(0.01)
        seen.append(len(started) - item)
    # The one that was yielded, those in work or waiting, and the next, taken before the first was waited for.
    assert max(seen) <= 7
    # Two threads begin them: which of two neighbours is noted first is open.
    assert sorted(started) == list(range(20))


def test_an_error_comes_in_its_turn() -> None:
    started = []

    def fail_at_two(item: int) -> int:
        started.append(item)
        if item == 2:
            raise ValueError("the third")
        return item

    results = in_order(fail_at_two, range(1000), 1, "test")
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert len(started) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]
