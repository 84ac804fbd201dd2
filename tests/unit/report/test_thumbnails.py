"""Places and sizes of the pictures of single changes."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from ussfc.pipeline.report.thumbnails import LEAST_SIDE, MOST_SIDE, change_box

SHAPE = (900, 1100)
GRIDS = {
    "UTM": GeoBox(SHAPE, Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632"),
    "pixels": GeoBox(SHAPE, Affine.identity(), None),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@given(st.tuples(*[st.integers(0, length - 1) for length in SHAPE]), st.integers(1, 900))
def test_pictures_hold_their_change(grid: GeoBox, corner: tuple[int, int], side: int) -> None:
    rows, cols = (min(start + side, length) for start, length in zip(corner, SHAPE, strict=True))
    xs, ys = zip(*(grid.affine * place for place in ((corner[1], corner[0]), (cols, rows))), strict=True)
    box, is_part = change_box((min(xs), min(ys), max(xs), max(ys)), None, grid)
    assert box.y0 >= 0
    assert box.x0 >= 0
    assert box.y1 <= SHAPE[0]
    assert box.x1 <= SHAPE[1]
    assert LEAST_SIDE <= min(box.shape) <= max(box.shape) <= MOST_SIDE
    assert is_part == (max(rows - corner[0], cols - corner[1]) > MOST_SIDE)
    if not is_part:
        assert box.y0 <= corner[0]
        assert box.x0 <= corner[1]
        assert box.y1 >= rows
        assert box.x1 >= cols


def test_longitudes_and_latitudes_are_moved_to_the_grid() -> None:
    grid = GRIDS["UTM"]
    plain, _ = change_box((505_000, 4_995_000, 505_400, 4_995_400), None, grid)
    bounds = (9.0634, 45.10862, 9.0685, 45.11222)
    moved, _ = change_box(bounds, "OGC:CRS84", grid)
    assert np.abs(np.array([moved.y0, moved.x0]) - [plain.y0, plain.x0]).max() <= 3


def test_grids_smaller_than_a_picture() -> None:
    box, is_part = change_box((1, 1, 2, 2), None, GeoBox((5, 7), Affine.identity(), None))
    assert (box.shape, is_part) == ((5, 7), False)
