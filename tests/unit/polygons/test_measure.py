"""Areas and perimeters are geodesic; filters and simplification come after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.layers import ATTRIBUTES, PROPERTY, UTM, Connectivity, mask, rasters, write_layer
from ussfc.pipeline.polygons.measure import Ellipsoid


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_small_regions_are_left_out_once_united(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    _, everything = write_layer(stored, folder / "all.parquet", connectivity=connectivity)
    counts, large = write_layer(
        stored,
        folder / "large.parquet",
        connectivity=connectivity,
        block_size=block_size,
        min_area_m2=450.0,
    )
    expected = everything[everything.pixels >= 5].reset_index(drop=True)
    assert large[ATTRIBUTES].equals(expected[ATTRIBUTES])
    assert counts.pixels == expected.pixels.sum()


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_simplified_outlines_are_valid(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    """They are measured before."""
    _, exact = write_layer(stored, folder / "exact.parquet", connectivity=connectivity)
    whole, split = folder / "whole.parquet", folder / "split.parquet"
    write_layer(stored, whole, connectivity=connectivity, simplify_m=12.0)
    _, simple = write_layer(stored, split, connectivity=connectivity, simplify_m=12.0, block_size=block_size)
    assert split.read_bytes() == whole.read_bytes()
    assert simple[ATTRIBUTES].equals(exact[ATTRIBUTES])
    assert simple.is_valid.all()
    assert set(simple.geom_type) <= {"Polygon", "MultiPolygon"}
    assert shapely.get_num_coordinates(simple.geometry).sum() <= (
        shapely.get_num_coordinates(exact.geometry).sum()
    )


def test_area_of_a_grid_in_degrees_is_geodesic(folder: Path) -> None:
    geobox = GeoBox((20, 30), Affine(0.001, 0, 12.0, 0, -0.001, 60.0), "EPSG:4326")
    changed = np.zeros((20, 30), bool)
    changed[5:15, 10:20] = True
    _, frame = write_layer(mask(changed), folder / "degrees.parquet", geobox=geobox)
    west, east, south, north = 12.010, 12.020, 59.985, 59.995
    area, perimeter = pyproj.Geod(ellps="WGS84").polygon_area_perimeter(
        [west, east, east, west], [south, south, north, north]
    )
    assert frame.area_m2[0] == pytest.approx(area, rel=1e-9)
    assert frame.perimeter_m[0] == pytest.approx(perimeter, rel=1e-9)
    # On a parallel of 60 degrees a degree is about half as long as on the equator.
    assert frame.area_m2[0] == pytest.approx(1113.2 * 0.5 * 1113.2, rel=0.01)


def test_a_hole_takes_its_area_away(folder: Path) -> None:
    changed = np.ones((9, 9), bool)
    changed[3:6, 3:6] = False
    _, frame = write_layer(mask(changed), folder / "hole.parquet", block_size=4)
    assert frame.area_m2[0] == pytest.approx(72 * 100, rel=2e-3)
    assert frame.perimeter_m[0] == pytest.approx((4 * 9 + 4 * 3) * 10, rel=1e-3)


@pytest.mark.parametrize(
    ("crs", "x", "y", "pixel_m2", "tolerance"),
    [
        (UTM, 500_000, 5_000_000, 100.0, 1e-3),
        ("EPSG:2263", 1_000_000, 200_000, 100 * (1200 / 3937) ** 2, 1e-3),  # US survey feet
        ("EPSG:27572", 600_000, 2_200_000, 100.0, 1e-3),  # its geographic system is in grads, from Paris
        ("IAU_2015:49910", 0, 0, 100.0, 1e-2),  # Mars
    ],
)
def test_areas_are_in_metres_whatever_the_units(
    folder: Path, crs: str, x: float, y: float, pixel_m2: float, tolerance: float
) -> None:
    geobox = GeoBox((40, 40), Affine(10, 0, x, 0, -10, y), crs)
    _, frame = write_layer(mask(np.ones((40, 40))), folder / "units.parquet", geobox=geobox)
    assert frame.area_m2[0] == pytest.approx(1600 * pixel_m2, rel=tolerance)


def test_a_long_straight_edge_is_no_geodesic(folder: Path) -> None:
    # Half a zone of the globe: between two parallels, where the great circle is far from the parallel.
    geobox = GeoBox((10, 1800), Affine(0.1, 0, -90, 0, -0.1, 61), "EPSG:4326")
    stored = mask(np.ones((10, 1800)))
    stored[1, 5:1795:2] = 10
    _, frame = write_layer(stored, folder / "belt.parquet", geobox=geobox)
    sphere = 6371e3**2 * np.pi * (np.sin(np.radians(61)) - np.sin(np.radians(60)))
    assert frame.area_m2[0] == pytest.approx(sphere * (1 - 895 / 18000), rel=0.01)


def test_polygons_lie_on_a_rotated_grid(folder: Path) -> None:
    turned = Affine(8.66, 5.0, 500_000, 5.0, -8.66, 5_000_000)
    geobox = GeoBox((30, 30), turned, UTM)
    stored = mask(np.random.default_rng(3).random((30, 30)) > 0.4)
    _, frame = write_layer(stored, folder / "turned.parquet", geobox=geobox, connectivity=8, block_size=7)
    assert frame.is_valid.all()
    np.testing.assert_allclose(frame.area, frame.pixels * (8.66**2 + 5.0**2), rtol=1e-6)


@pytest.mark.parametrize(
    ("crs", "size"), [(UTM, [10.0, 10.0]), ("EPSG:2263", [3.048, 3.048]), (None, None)], ids=str
)
def test_a_pixel_has_a_size_in_metres(crs: str | None, size: list[float] | None) -> None:
    ellipsoid = Ellipsoid.of_grid(GeoBox((40, 40), Affine(10, 0, 600_000, 0, -10, 200_000), crs))
    assert (ellipsoid is None) == (size is None)
    if ellipsoid is not None:
        np.testing.assert_allclose(ellipsoid.pixel_size(40, 40), size, rtol=2e-3)
