"""Random units by their keys."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from ussfc.pipeline.assessment.draw import SmallestKeys, keys

SHAPE = (40, 64)
CHOSEN = np.indices(SHAPE).sum(0) % 2 == 0
"""A stratum of every other unit."""


def drawn(boxes: Iterable[tuple[int, int, int, int]], most: int = 50, seed: int = 1) -> list[tuple[int, int]]:
    held = SmallestKeys(most)
    for y0, x0, y1, x1 in boxes:
        key = keys(seed, y0, x0, (y1 - y0, x1 - x0))
        size = np.arange(y0, y1)[:, None] * 100.0 + np.arange(x0, x1)
        held.offer(key, CHOSEN[y0:y1, x0:x1], (y0, x0), mapped=np.ones_like(size), size=size)
    found = held.smallest(most)
    assert (found["size"] == found["row"] * 100 + found["col"]).all()
    return list(zip(found["row"].tolist(), found["col"].tolist(), strict=True))


WHOLE = [(0, 0, *SHAPE)]
PARTS = [
    (y, x, min(y + 13, SHAPE[0]), x + 16) for y in range(0, SHAPE[0], 13) for x in range(0, SHAPE[1], 16)
]


def test_units_do_not_depend_on_windows_and_their_order() -> None:
    expected = drawn(WHOLE)
    assert drawn(PARTS) == drawn(reversed(PARTS)) == expected
    assert len(set(expected)) == 50
    assert drawn(WHOLE, seed=2) != expected


def test_larger_sample_holds_the_smaller_one() -> None:
    assert drawn(PARTS, most=20) == drawn(WHOLE, most=60)[:20]


def test_every_unit_has_the_same_chance() -> None:
    counts = np.zeros(SHAPE)
    for seed in range(200):
        for place in drawn(WHOLE, most=64, seed=seed):
            counts[place] += 1
    assert counts[~CHOSEN].max() == 0
    # Binomial with mean 10 and variance 9.5; sums over rows and columns as well.
    assert counts[CHOSEN].mean() == pytest.approx(10)
    assert counts[CHOSEN].var() == pytest.approx(9.5, rel=0.1)
    assert np.abs(counts.sum(0) - 200).max() < 4 * np.sqrt(200)
    assert np.abs(counts.sum(1) - 320).max() < 4 * np.sqrt(320)


def test_none_of_an_empty_stratum() -> None:
    assert SmallestKeys(5).smallest(5).tolist() == []
    assert drawn(WHOLE, most=0) == []
