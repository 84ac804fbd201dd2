"""Strata of windows of a change map."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.assessment.strata import OUTSIDE, STRATA, make_units, near
from ussfc.pipeline.pixels.dilation import dilate


@pytest.mark.parametrize("width", [1, 2, 5, 12, 100])
@pytest.mark.parametrize("shape", [(40, 60), (1, 30), (7, 1)])
def test_near_is_within_a_distance_of_centres(shape: tuple[int, int], width: int) -> None:
    changed = np.random.default_rng(width).random(shape) < 0.02
    changed.flat[0] = True
    assert (near(changed, width) == dilate(changed, width, (1, 1))).all()
    assert not near(np.zeros(shape, bool), width).any()


def test_buffer_lies_around_change() -> None:
    classes = np.zeros((7, 9), np.uint8)
    classes[3, 4], classes[0, 0] = 1, 255
    units = make_units(classes, near(classes == 1, 2), np.full(7, 100.0), 1, STRATA)
    assert (units.stratum == 0).sum() == 1
    assert (units.stratum == 1).sum() == 12
    assert units.stratum[0, 0] == OUTSIDE
    assert units.stratum[3].tolist() == [2, 2, 1, 1, 0, 1, 1, 2, 2]
    assert units.size.sum() == 62 * 100.0


def test_without_a_buffer_all_else_is_stable() -> None:
    classes = np.zeros((7, 9), np.uint8)
    classes[3, 4] = 1
    units = make_units(classes, near(classes == 1, 2), np.ones(7), 1, ("change", "stable"))
    assert np.bincount(units.stratum.ravel()).tolist() == [1, 0, 62]


def test_blocks_have_the_class_of_most_of_their_valid_area() -> None:
    classes = np.zeros((5, 12), np.uint8)
    classes[:2, :3] = 1  # 6 of 9 pixels of the first block
    classes[0, 3] = 1  # 1 of 9 of the second
    classes[:3, 6:9] = 255  # none of the third is valid
    classes[3:, 9:] = 255
    classes[3, 9:] = 1  # all that is valid of the last, which has two rows
    close = np.zeros((5, 12), bool)
    units = make_units(classes, close, np.full(5, 2.0), 3, STRATA)
    assert units.stratum.tolist() == [[0, 1, OUTSIDE, 2], [2, 2, 2, 0]]
    assert units.mapped[0, :2].tolist() == [1, 0]
    assert units.size.tolist() == [[18, 18, 0, 18], [12, 12, 12, 6]]
