"""The regions of a block: what ends in it is finished there, and all of it fits into arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from hypothesis import given
from hypothesis import strategies as st

from tests.support.layers import PROPERTY, Connectivity, grid, mask, rasters
from tests.support.probabilities import ArraySource
from ussfc.pipeline.polygons.blocks import of_arrays, shift_numbers, to_arrays
from ussfc.pipeline.polygons.vectorise import RegionRules, VectorOptions, find_blocks, write_layers
from ussfc.pipeline.types import Box


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_arrays_hold_all_of_a_block(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    rules = RegionRules(grid(stored.shape), 0.5, VectorOptions(connectivity=connectivity))
    direct, kept = folder / "direct.parquet", folder / "kept.parquet"
    found = list(find_blocks(ArraySource(stored), rules, block_size))
    counts = write_layers(found, rules, {"parquet": direct})
    assert counts == write_layers(
        [(box, of_arrays(to_arrays(regions))) for box, regions in found], rules, {"parquet": kept}
    )
    assert kept.read_bytes() == direct.read_bytes()


def test_a_region_is_open_where_another_block_goes_on() -> None:
    changed = np.zeros((4, 8), bool)
    changed[1, 1:3] = True  # inside the first block
    changed[2:, 3] = True  # at the seam
    changed[0, 6] = True  # at the border of the grid
    rules = RegionRules(grid((4, 8)), 0.5, VectorOptions(min_area_m2=0))
    (_, first), (box, second) = find_blocks(ArraySource(mask(changed)), rules, 4)
    assert (first.closed.regions.pixels.tolist(), first.open.pixels.tolist()) == ([2], [2])
    assert (first.right.tolist(), first.bottom.tolist()) == ([0, 0, 1, 1], [0, 0, 0, 1])
    assert (second.closed.regions.pixels.tolist(), len(second.open.first)) == ([1], 0)
    assert box == Box(0, 4, 4, 8)
    assert shapely.area(first.closed.geometry).tolist() == [2 * abs(grid((4, 8)).affine.determinant)]
    assert shift_numbers(first, 5).right.tolist() == [0, 0, 6, 6]
