"""Outlines of grids on the globe."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ussfc.pipeline.report.footprint import footprint


@settings(max_examples=12)
@given(
    lon=st.floats(-180, 179.99),
    lat=st.floats(-70, 70),
    side=st.floats(1e3, 2e5),
    across=st.floats(0.01, 0.99),
    down=st.floats(0.01, 0.99),
)
@example(lon=179.5, lat=-17.0, side=2e5, across=0.1, down=0.1)
@example(lon=179.5, lat=-17.0, side=2e5, across=0.9, down=0.9)
def test_a_footprint_holds_the_grid_and_little_else(
    lon: float, lat: float, side: float, across: float, down: float
) -> None:
    crs = CRS.utm(lon, lat)
    x, y = CRS("EPSG:4326").transformer_to_crs(crs)(lon, lat)
    grid = GeoBox.from_bbox((x, y, x + side, y + side / 2), crs, resolution=side / 64)
    to_lonlat = crs.transformer_to_crs("EPSG:4326")
    outline, bounds = footprint(grid)
    assert bounds is not None
    geometry = shapely.geometry.shape(outline)
    assert geometry.is_valid
    assert all(part.exterior.is_ccw for part in shapely.get_parts(geometry))
    west, south, east, north = bounds
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    # West is greater than east only over the antimeridian, where the outline is cut in two.
    assert (west > east) == (geometry.geom_type == "MultiPolygon")
    to_grid, (rows, cols) = grid.affine, grid.shape
    for right, below, inside in ((across, down, True), (across, -0.01, False), (1.01, down, False)):
        at = to_lonlat(to_grid.a * right * cols + to_grid.c, to_grid.e * below * rows + to_grid.f)
        assert geometry.contains(shapely.Point(at)) == inside
        if inside:
            assert south <= at[1] <= north
            assert west <= at[0] <= east if west <= east else at[0] >= west or at[0] <= east
    # A polygon of the corners alone would leave bent edges by kilometres.
    steps = np.linspace(0, cols, 50)
    edge = shapely.points(*to_lonlat(to_grid.a * steps + to_grid.c, np.full(50, to_grid.f)))
    assert shapely.distance(geometry.boundary, edge).max() < 1e-4


@pytest.mark.parametrize("west", [-180, 0])
def test_a_grid_around_the_globe_is_the_world(west: int) -> None:
    outline, bounds = footprint(GeoBox.from_bbox((west, -60, west + 360, 60), "EPSG:4326", resolution=1))
    assert bounds == [-180, -60, 180, 60]
    assert shapely.geometry.shape(outline).area == pytest.approx(360 * 120)
