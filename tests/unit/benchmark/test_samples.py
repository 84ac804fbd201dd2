"""Repeated measurements of one quantity."""

from __future__ import annotations

from ussfc.pipeline.benchmark.samples import Samples


def test_every_round_is_measured_once() -> None:
    numbers = iter([3.0, 1.0, 2.0, 8.0])
    assert Samples.of(3, lambda: next(numbers)).values == (3, 1, 2)
    assert next(numbers) == 8


def test_record_holds_spread_and_samples() -> None:
    assert Samples((3, 1, 2, 8)).record() == {
        "median": 2.5, "least": 1, "largest": 8, "samples": [3, 1, 2, 8],
    }  # fmt: skip


def test_ratios_are_taken_round_by_round() -> None:
    # The ratio of the medians would be 10.
    assert Samples((10, 20, 90)).over(Samples((1, 2, 3))).values == (10, 10, 30)
