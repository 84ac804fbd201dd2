"""Overviews: their levels, and the rules by which classes and probabilities are halved."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ussfc.pipeline.pixels.pyramid import average, level_shapes, pool, square

Array = npt.NDArray[Any]

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def slow_pool(classes: Array) -> Array:
    """Follow the overview rule word for word."""
    rows, cols = classes.shape
    out = np.full((-(-rows // 2), -(-cols // 2)), 255, np.uint8)
    for y, x in np.ndindex(*out.shape):
        children = classes[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        out[y, x] = 1 if (children == 1).any() else 0 if (children == 0).any() else 255
    return out


def slow_average(stored: Array) -> Array:
    """Follow the rule word for word: the mean of the valid ones, to the nearest level, halves up."""
    rows, cols = stored.shape
    out = np.full((-(-rows // 2), -(-cols // 2)), 255, np.uint8)
    for y, x in np.ndindex(*out.shape):
        children = [int(v) for v in stored[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flat if v != 255]
        if children:
            out[y, x] = (2 * sum(children) + len(children)) // (2 * len(children))
    return out


@given(hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 255])))
def test_pooling_follows_the_rule(classes: Array) -> None:
    np.testing.assert_array_equal(pool(classes), slow_pool(classes))


@given(hnp.arrays(np.uint8, SHAPES, elements=st.one_of(st.integers(0, 254), st.just(255))))
def test_averaging_follows_the_rule(stored: Array) -> None:
    np.testing.assert_array_equal(average(stored), slow_average(stored))
    real = average(np.where(stored == 255, np.float32(np.nan), stored.astype(np.float32)))
    np.testing.assert_array_equal(
        np.floor(np.nan_to_num(real, nan=255) + np.float32(0.5)), slow_average(stored)
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([16, 256, 512, 1024]))
def test_levels_halve_until_one_block_holds_all(rows: int, cols: int, block: int) -> None:
    shapes = [(rows, cols), *level_shapes((rows, cols), block)]
    for larger, smaller in pairwise(shapes):
        assert smaller == ((larger[0] + 1) // 2, (larger[1] + 1) // 2)
        assert max(larger) > min(block, 512)
    assert max(shapes[-1]) <= min(block, 512)


@pytest.mark.parametrize(
    ("block", "chunk", "expected"),
    [(512, chunk, side) for chunk, side in ((1, 2048), (256, 2048), (2048, 2048), (4096, 4096), (3000, 4096))]
    + [
        (block, 1, side)
        for block, side in (
            (128, 2048), (256, 2048), (1024, 4096), (2048, 4096), (4096, 4096), (144, 1152), (4000, 4000),
        )
    ],
)  # fmt: skip
def test_squares_hold_whole_blocks_and_chunks(block: int, chunk: int, expected: int) -> None:
    assert square(block, chunk) == expected
