"""Change that looks like clouds."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.pixels.cloud_likeness import cloud_like


def image(level: float) -> np.ndarray:
    return np.full((3, 60, 60), level, np.float32)


CHANGED = np.ones((60, 60), bool)


def test_bright_piece_counts_for_its_date() -> None:
    before, after = image(0.2), image(0.2)
    before[:, :20, :25] = 1
    after[:, 30:50, 30:60] = 0.9
    assert cloud_like(before, after, CHANGED, 400) == (500, 600)
    assert cloud_like(before, after, CHANGED, 501) == (0, 600)
    changed = CHANGED.copy()
    changed[:, :5] = False
    assert cloud_like(before, after, changed, 400) == (400, 600)


@pytest.mark.parametrize(
    ("level", "other", "band"),
    [(0.7, 0.2, 1.0), (1.0, 0.8, 1.0), (1.0, 0.2, 0.5)],
    ids=["not bright", "bright on both dates", "coloured"],
)
def test_other_change_is_no_cloud(level: float, other: float, band: float) -> None:
    before, after = image(other), image(level)
    after[1] *= band
    assert cloud_like(before, after, CHANGED, 10) == (0, 0)


def test_roofs_are_too_small() -> None:
    before, after = image(0.2), image(0.2)
    after[:, ::12, ::12] = 1
    assert cloud_like(before, after, CHANGED, 2) == (0, 0)
