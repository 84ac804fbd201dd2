"""The median of 3 x 3 pixels: its definition, nodata, and no trace of the blocks that it was computed in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.probabilities import ArraySource
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.pixels.smoothing import (
    STRIP,
    AloneSource,
    SmoothedSource,
    median3,
    possible_change,
    with_rim,
)
from ussfc.pipeline.types import Box, blocks

Stored = npt.NDArray[Any]


@st.composite
def maps(draw: st.DrawFn) -> Stored:
    """Draw a probability map of either dtype, with nodata in it."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    levels = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 37, 38, 100, 254, 255])))
    return levels if draw(st.booleans()) else decode(levels)


def smoothed(values: Stored) -> Stored:
    return median3(with_rim(values))


def is_nodata(values: Stored) -> npt.NDArray[np.bool_]:
    return values == 255 if values.dtype == np.uint8 else np.isnan(values)


def by_definition(values: Stored) -> Stored:
    expected, nodata = values.copy(), is_nodata(values)
    for row, col in zip(*np.nonzero(~nodata), strict=True):
        around = slice(max(0, row - 1), row + 2), slice(max(0, col - 1), col + 2)
        valid = np.sort(values[around][~nodata[around]])
        expected[row, col] = valid[(len(valid) - 1) // 2]
    return expected


@given(maps())
def test_a_pixel_is_the_median_of_the_valid_ones_around_it(values: Stored) -> None:
    found = smoothed(values)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, by_definition(values))
    np.testing.assert_array_equal(is_nodata(found), is_nodata(values))


@given(maps(), st.sampled_from([0.0, 0.15, 0.5, 1.0]))
def test_classes_of_the_median_are_the_median_of_the_classes(values: Stored, threshold: float) -> None:
    np.testing.assert_array_equal(
        classify(smoothed(values), threshold), smoothed(classify(values, threshold))
    )


@given(maps(), st.integers(1, 13), st.integers(1, 13))
def test_blocks_leave_no_trace(values: Stored, side: int, block: int) -> None:
    source, found = ArraySource(values), np.empty_like(values)
    smooth, alone = SmoothedSource(source, side), AloneSource(source)
    for box in blocks(values.shape, block):
        found[box.slices] = smooth.read(box)
        np.testing.assert_array_equal(alone.read(box), found[box.slices])
    np.testing.assert_array_equal(found, smoothed(values))


def test_a_dot_goes_and_a_block_stays() -> None:
    values = np.zeros((9, 9), np.uint8)
    values[1, 1] = 254
    values[4:7, 4:7] = 200
    found = smoothed(values)
    assert found[1, 1] == 0
    assert (found[4:7, 4:7] == np.array([[0, 200, 0], [200, 200, 200], [0, 200, 0]])).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_more_than_one_strip_is_one_map(dtype: str) -> None:
    values = np.random.default_rng(3).integers(0, 256, (STRIP // 500, 998)).astype(np.uint8)
    values = values if dtype == "uint8" else decode(values)
    found = smoothed(values)
    rows = slice(STRIP // 1000 - 3, STRIP // 1000 + 3)
    np.testing.assert_array_equal(found[rows][1:-1], smoothed(values[rows])[1:-1])


def test_every_block_is_decoded_twice_at_most() -> None:
    source = ArraySource(np.zeros((50, 70), np.uint8))
    smooth = SmoothedSource(source, 10)
    for box in blocks(source.shape, 10):
        smooth.read(box)
    assert max(source.reads.count(box) for box in blocks(source.shape, 10)) == 2
    assert len(source.reads) < 2 * len(list(blocks(source.shape, 10)))


@given(maps(), st.integers(1, 12), st.sampled_from([0.0, 0.15, 0.5, 1.0]))
def test_possible_change_of_a_block_holds_its_change(values: Stored, side: int, threshold: float) -> None:
    changed = classify(smoothed(values), threshold) == 1
    for box in blocks((values.shape[0], values.shape[1]), side):
        own = values[box.slices]
        np.testing.assert_array_equal(possible_change(own, threshold, "none"), classify(own, threshold) == 1)
        possible = possible_change(own, threshold, "median3")
        assert possible[changed[box.slices]].all()
        assert not possible[is_nodata(own)].any()


def test_possible_change_is_change_inside_of_a_block() -> None:
    values = np.random.default_rng(2).integers(0, 255, (40, 50), dtype=np.uint8)
    box = Box(8, 9, 30, 41)
    found = possible_change(values[box.slices], 0.55, "median3")[1:-1, 1:-1]
    expected = classify(smoothed(values), 0.55)[box.slices][1:-1, 1:-1] == 1
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(found, expected)
