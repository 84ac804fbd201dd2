"""Masks that grow by metres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfc.pipeline.pixels.dilation import STRIP, dilate, reach


@pytest.mark.parametrize(
    ("distance", "pixel", "expected"),
    [
        (0, (10, 10), (0, 0)),
        (9.9, (10, 10), (0, 0)),
        (30, (10, 10), (3, 3)),
        (0.3, (0.1, 0.1), (3, 3)),
        (50, (10, 20), (5, 2)),
    ],
)
def test_reach_is_in_whole_pixels(
    distance: float, pixel: tuple[float, float], expected: tuple[int, int]
) -> None:
    assert reach(distance, pixel) == expected


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 9),
    share=st.sampled_from([0.0, 0.002, 0.3, 1.0]),
    distance=st.floats(0, 60),
    pixel=st.tuples(st.sampled_from([5.0, 10.0]), st.sampled_from([5.0, 8.0])),
)
def test_grown_mask_has_the_pixels_within_the_distance(
    seed: int, share: float, distance: float, pixel: tuple[float, float]
) -> None:
    masked = np.random.default_rng(seed).random((40, 37)) < share
    rows, cols = np.mgrid[:40, :37]
    expected = masked.copy()
    for row, col in zip(*np.nonzero(masked), strict=True):
        expected |= np.hypot((rows - row) * pixel[0], (cols - col) * pixel[1]) <= distance + 1e-6
    np.testing.assert_array_equal(dilate(masked, distance, pixel), expected)


def test_strips_leave_no_seam() -> None:
    masked = np.zeros((2 * STRIP + 20, 30), bool)
    masked[[STRIP - 1, STRIP + 40, 2 * STRIP], [3, 20, 11]] = True
    rows, cols = np.nonzero(dilate(masked, 70, (10, 10)))
    for row, col in ((STRIP - 1, 3), (STRIP + 40, 20), (2 * STRIP, 11)):
        near = np.hypot(rows - row, cols - col) <= 7
        disk = np.hypot(*np.mgrid[-7:8, -7:8]) <= 7
        inside = [0 <= row + y < masked.shape[0] and 0 <= col + x < 30 for y, x in np.argwhere(disk) - 7]
        assert near.sum() == sum(inside)
