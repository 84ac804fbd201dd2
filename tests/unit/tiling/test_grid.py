"""Common grid of two scenes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import GridError
from ussfc.pipeline.tiling.grid import (
    SAME_SIZE,
    common_grid,
    crop,
    footprint_box,
    grid_from_record,
    grid_record,
    metres_per_pixel,
    near_longitudes,
    north_up,
    pixel_shift,
    pixel_steps,
    resampled,
    warp_crs,
)
from ussfc.pipeline.types import Box, SceneInfo

pytestmark = [
    # affine 3 wants `@`, which affine 2 does not know; odc-geo calls what shapely will drop.
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]
UTM = "EPSG:32636"
PIXEL = 10.0
law = settings(deadline=None, max_examples=60)
origins = st.tuples(st.integers(-60, 60), st.integers(-60, 60))
shapes = st.tuples(st.integers(1, 80), st.integers(1, 80))


def box_at(
    row: float, col: float, shape: tuple[int, int], crs: str | None = UTM, pixel: float = PIXEL
) -> GeoBox:
    """Return a grid whose corner lies (row, col) pixels from 500 km east, 4000 km north."""
    return GeoBox(shape, Affine(pixel, 0, 500_000 + col * pixel, 0, -pixel, 4_000_000 - row * pixel), crs)


def scene(geobox: GeoBox, uri: str = "before.tif") -> SceneInfo:
    return SceneInfo(uri, geobox, (), "uint16", "identity", 2.0)


def refused(before: GeoBox, after: GeoBox, crs: str | None = None, resolution: float | None = None) -> str:
    with pytest.raises(GridError) as caught:
        common_grid(scene(before), scene(after, "after.tif"), "before", crs, resolution)
    message = str(caught.value)
    assert "\n" not in message
    return message


@law
@given(origins, shapes, origins, shapes)
def test_aligned_scenes_are_cut_to_their_overlap(
    first: tuple[int, int], shape: tuple[int, int], second: tuple[int, int], other: tuple[int, int]
) -> None:
    before, after = box_at(*first, shape), box_at(*second, other)
    one = Box(*first, first[0] + shape[0], first[1] + shape[1])
    two = Box(*second, second[0] + other[0], second[1] + other[1])
    overlap = one.intersect(two)
    if min(overlap.shape) <= 0:
        assert "do not overlap" in refused(before, after)
        return
    expected = box_at(overlap.y0, overlap.x0, overlap.shape)
    for reference in ("before", "after"):
        grid = common_grid(scene(before), scene(after), reference)
        assert grid.shape == expected.shape
        assert grid.crs == CRS(UTM)
        assert grid.affine.almost_equals(expected.affine, 1e-6)
    assert pixel_shift(before, grid) == (overlap.y0 - first[0], overlap.x0 - first[1])
    assert pixel_shift(after, grid) == (overlap.y0 - second[0], overlap.x0 - second[1])


@law
@given(st.floats(-0.49, 0.49), st.floats(-0.49, 0.49))
def test_the_reference_keeps_its_pixels(row: float, col: float) -> None:
    before, after = box_at(0, 0, (50, 60)), box_at(20 + row, 30 + col, (50, 60))
    grid = common_grid(scene(before), scene(after))
    shift = pixel_shift(before, grid)
    assert shift is not None
    rounded = [math.floor(20 + row + 1e-3), math.floor(30 + col + 1e-3)]
    assert list(shift) == rounded
    fractional = max(abs(row), abs(col)) > 1.1e-3
    if fractional:
        assert pixel_shift(after, grid) is None
    elif max(abs(row), abs(col)) < 0.9e-3:
        assert pixel_shift(after, grid) is not None


@pytest.mark.parametrize(
    ("excess", "shape"), [(0.0, (10, 10)), (5e-4, (10, 10)), (-5e-4, (10, 10)), (0.01, (11, 11))]
)
def test_a_thousandth_of_a_pixel_adds_no_row(excess: float, shape: tuple[int, int]) -> None:
    grid = box_at(0, 0, (40, 40))
    inner = GeoBox(
        (10, 10), Affine.translation(500_000, 4_000_000) * Affine.scale(PIXEL + excess, -PIXEL - excess), UTM
    )
    assert footprint_box(inner, grid).shape == shape


@law
@given(origins, shapes)
def test_a_footprint_is_cut_to_the_grid(origin: tuple[int, int], shape: tuple[int, int]) -> None:
    grid = box_at(0, 0, (40, 50))
    expected = Box(*origin, origin[0] + shape[0], origin[1] + shape[1]).intersect(Box(0, 0, 40, 50))
    found = footprint_box(box_at(*origin, shape), grid)
    assert found.pixels == expected.pixels
    if expected.pixels:
        assert found == expected


def test_two_crs_are_cut_to_their_overlap() -> None:
    before = box_at(0, 0, (100, 200))
    after = GeoBox.from_bbox((33.005, 36.135, 33.2, 36.3), "EPSG:4326", resolution=1e-4)
    grid = common_grid(scene(before), scene(after))
    shift = pixel_shift(before, grid)
    assert grid.crs == CRS(UTM)
    assert shift is not None
    assert shift[0] == 0
    assert 0 < shift[1] < 100
    assert shift[1] + grid.shape[1] == 200
    assert pixel_shift(after, grid) is None
    # Every corner of the second scene that lies in the first one lies in the grid too.
    corner = after.footprint(UTM).boundingbox
    assert grid.boundingbox.left <= corner.left < grid.boundingbox.left + 2 * PIXEL
    turned = common_grid(scene(before), scene(after), "after")
    assert turned.crs == CRS("EPSG:4326")
    assert pixel_shift(after, turned) is not None


def test_no_overlap_names_both_extents() -> None:
    message = refused(box_at(0, 0, (10, 10)), box_at(0, 100, (10, 10)))
    assert message == (
        "before.tif and after.tif do not overlap: "
        "before covers x 500000..500100, y 3999900..4000000 in EPSG:32636, "
        "after covers x 501000..501100, y 3999900..4000000 in EPSG:32636"
    )


def test_a_shared_border_is_no_overlap() -> None:
    assert "do not overlap" in refused(box_at(0, 0, (10, 10)), box_at(10, 0, (10, 10)))


@pytest.mark.parametrize("bare", ["before.tif", "after.tif"])
def test_a_crs_on_one_side_names_the_bare_scene(bare: str) -> None:
    one, other = box_at(0, 0, (10, 10), None), box_at(0, 0, (10, 10))
    message = refused(one, other) if bare == "before.tif" else refused(other, one)
    assert message.startswith(f"{bare}: has no CRS while ")
    assert "EPSG:32636" in message
    assert "gdal_edit.py -a_srs" in message


def test_without_crs_pixels_match_by_position() -> None:
    grid = common_grid(scene(box_at(0, 0, (10, 20), None)), scene(box_at(5, 5, (10, 20), None)))
    assert grid == GeoBox((10, 20), Affine.identity(), None)


def test_without_crs_both_must_have_one_size() -> None:
    message = refused(box_at(0, 0, (10, 20), None), box_at(0, 0, (10, 21), None))
    assert message.startswith("before.tif is 20 x 10 px and after.tif is 21 x 10 px")


def test_without_crs_grid_crs_is_refused() -> None:
    message = refused(box_at(0, 0, (10, 20), None), box_at(0, 0, (10, 20), None), UTM, 10)
    assert message == "before.tif: has no CRS, so it cannot be reprojected to EPSG:32636"


def test_a_configured_crs_and_resolution() -> None:
    before, after = box_at(0, 0, (100, 100)), box_at(20, 20, (100, 100))
    grid = common_grid(scene(before), scene(after), "before", "EPSG:3857", 25.0)
    assert grid.crs == CRS("EPSG:3857")
    assert (grid.affine.a, grid.affine.e) == (25, -25)
    assert north_up(grid.affine)
    both = [geobox.footprint("EPSG:3857").boundingbox for geobox in (before, after)]
    bounds = grid.boundingbox
    assert bounds.left == pytest.approx(max(b.left for b in both), abs=25)
    assert bounds.right == pytest.approx(min(b.right for b in both), abs=25)
    assert bounds.bottom == pytest.approx(max(b.bottom for b in both), abs=25)
    assert bounds.top == pytest.approx(min(b.top for b in both), abs=25)


def test_a_resolution_alone_keeps_the_crs() -> None:
    grid = common_grid(scene(box_at(0, 0, (100, 100))), scene(box_at(0, 0, (100, 100))), resolution=20)
    assert grid.crs == CRS(UTM)
    assert grid.shape == (50, 50)


@given(
    shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    crs=st.sampled_from([UTM, "EPSG:3857", "EPSG:4326"]),
    size=st.floats(0.3, 60),
    metres=st.sampled_from([0.5, 10.0, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_resampled_grid_has_the_pixels_and_covers_the_ground(
    shape: tuple[int, int], crs: str, size: float, metres: float
) -> None:
    unit = size / 111_000 if crs == "EPSG:4326" else size
    corner = (30.0, 50.0) if crs == "EPSG:4326" else (500_000.0, 5_000_000.0)
    grid = GeoBox(shape, Affine(unit, 0, corner[0], 0, -unit, corner[1]), crs)
    found = resampled(grid, metres)
    steps = pixel_steps(found)
    assert steps is not None
    # A degree of longitude is another length at the middle of a larger grid.
    assert steps == pytest.approx((metres, metres), rel=SAME_SIZE + 0.005)
    if found is not grid:
        pixel = found.affine.a, -found.affine.e
        assert (found.affine.c, found.affine.f) == corner
        for outer, inner, side in zip(found.shape, grid.shape, reversed(pixel), strict=True):
            reach = inner * unit
            assert reach - side * 1e-3 <= outer * side < reach + side


def test_grid_of_nearly_that_size_is_kept() -> None:
    for size, metres in ((10, 10.2), (10.1, 10), (0.5, 0.5)):
        grid = box_at(0, 0, (500, 400), pixel=size)
        assert resampled(grid, metres) is grid
    assert resampled(box_at(0, 0, (500, 400), pixel=0.5), 10).shape == (25, 20)
    bare = box_at(0, 0, (500, 400), None)
    assert resampled(bare, 10) is bare


def test_a_crs_needs_a_resolution() -> None:
    message = refused(box_at(0, 0, (9, 9)), box_at(0, 0, (9, 9)), "EPSG:3857")
    assert "grid.resolution is missing" in message


def test_heights_of_a_compound_crs_are_left_out() -> None:
    found = common_grid(
        scene(box_at(0, 0, (9, 9))), scene(box_at(0, 0, (9, 9))), "before", "EPSG:3857+5773", 10
    )
    assert found.crs == "EPSG:3857"


def test_crs_without_a_way_between_them_are_refused() -> None:
    site = 'LOCAL_CS["site",UNIT["metre",1]]'
    message = refused(box_at(0, 0, (9, 9), site), box_at(0, 0, (9, 9)))
    assert "PROJ knows no way from its CRS (EPSG:32636) to that of the grid (site)" in message
    assert "PROJ knows no way" in refused(box_at(0, 0, (9, 9)), box_at(0, 0, (9, 9)), site, 10)


def test_metres_labelled_as_degrees_are_refused() -> None:
    message = refused(box_at(0, 0, (9, 9), "EPSG:4326"), box_at(0, 0, (9, 9), "EPSG:4326"))
    assert "counts in degrees, and its coordinates (x 500000, y 4e+06) are none" in message
    # A grid of the whole earth may begin half a pixel beyond the pole.
    earth = GeoBox((181, 360), Affine(1, 0, -180, 0, -1, 90.5), "EPSG:4326")
    assert common_grid(scene(earth), scene(earth)) == earth


def test_places_without_a_crs_are_refused_where_they_differ() -> None:
    grid = GeoBox((9, 9), Affine.identity(), None)
    first = replace(scene(grid), placed=Affine(10, 0, 0, 0, -10, 0))
    for moved, found in (
        (Affine(10, 0, 200, 0, -10, -50), False),
        (Affine(10, 0, 0.2, 0, -10, 0), True),
        (Affine(20, 0, 200, 0, -20, -50), False),
    ):
        second = replace(scene(grid, "after.tif"), placed=moved)
        if found:
            assert common_grid(first, second).crs is None
            continue
        with pytest.raises(GridError, match=r"begins 20.0 px right of and 5.0 px below .*; assign the CRS"):
            common_grid(first, second)
    assert common_grid(first, scene(grid)).crs is None


def test_an_unknown_crs_is_refused() -> None:
    assert "'banana' is no CRS" in refused(box_at(0, 0, (9, 9)), box_at(0, 0, (9, 9)), "banana", 10)


@pytest.mark.parametrize(
    "other",
    [
        box_at(0, 0, (9, 9), "EPSG:32637"),
        box_at(0, 0, (9, 9), pixel=PIXEL * 1.01),
        box_at(0.5, 0, (9, 9)),
        box_at(0, 0.01, (9, 9)),
        GeoBox((9, 9), Affine(PIXEL, 0.1, 500_000, 0.1, -PIXEL, 4_000_000), UTM),
    ],
)
def test_other_pixels_have_no_pixel_shift(other: GeoBox) -> None:
    assert pixel_shift(other, box_at(0, 0, (9, 9))) is None


def test_rounding_of_pixel_sizes_is_tolerated() -> None:
    source = box_at(0, 0, (1000, 1000), pixel=PIXEL * (1 + 1e-9))
    assert pixel_shift(source, GeoBox((1000, 1000), box_at(0, 0, (1, 1)).affine, UTM)) is not None
    drifting = GeoBox((1000, 1000), Affine(PIXEL * (1 + 1e-5), 0, 500_000, 0, -PIXEL, 4_000_000), UTM)
    assert pixel_shift(drifting, box_at(0, 0, (1000, 1000))) is None


@law
@given(shapes, st.data())
def test_a_crop_keeps_every_pixel_where_it_was(shape: tuple[int, int], data: st.DataObject) -> None:
    y0, x0 = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, shape[0])), data.draw(st.integers(x0 + 1, shape[1])))
    grid = box_at(3, 4, shape)
    part = crop(grid, box)
    assert part.shape == box.shape
    assert pixel_shift(grid, part) == (y0, x0)


def test_ground_distance_of_a_pixel() -> None:
    metres = metres_per_pixel(box_at(0, 0, (100, 100)))
    assert metres == pytest.approx(10, rel=1e-3)
    degrees = GeoBox.from_bbox((33.0, 59.9, 33.2, 60.1), "EPSG:4326", resolution=1e-3)
    metres = metres_per_pixel(degrees)
    assert metres == pytest.approx(111_320e-3 * np.cos(np.radians(60)), rel=5e-3)
    assert metres_per_pixel(box_at(0, 0, (9, 9), None)) is None


@pytest.mark.parametrize(
    "grid",
    [
        GeoBox((70, 100), Affine(10, 0, 500_000, 0, -10, 4_000_000), UTM),
        GeoBox((70, 100), Affine(1e-4, 0, 33.5, 0, -1e-4, 36.25), "EPSG:4326"),
        GeoBox((70, 100), Affine.identity(), None),
    ],
)
def test_a_grid_survives_its_record(grid: GeoBox) -> None:
    assert grid_from_record(json.loads(json.dumps(grid_record(grid)))) == grid


@given(st.integers(-2, 2), st.integers(-2, 2), st.integers(-170, 170))
def test_turns_of_longitude_are_one_place(first: int, second: int, west: int) -> None:
    degree = Affine(0.01, 0, west, 0, -0.01, 50)
    one, other = (
        GeoBox((20, 30), Affine.translation(360 * turns, 0) * degree, "EPSG:4326")
        for turns in (first, second)
    )
    moved = GeoBox((20, 30), other.affine * Affine.translation(5, 4), other.crs)
    assert footprint_box(moved, one) == Box(4, 5, 20, 30)
    assert pixel_shift(moved, one) == (-4, -5)
    near = near_longitudes(other, one)
    assert near.affine.almost_equals(one.affine, 1e-9)


def test_scenes_over_the_180th_meridian_overlap_whole() -> None:
    utm = GeoBox((128, 128), Affine(10, 0, 819_540, 0, -10, 8_140_000), "EPSG:32760")
    degrees = GeoBox((400, 400), Affine(1e-4, 0, 179.98, 0, -1e-4, -16.79), "EPSG:4326")
    turned = GeoBox(degrees.shape, Affine.translation(-360, 0) * degrees.affine, degrees.crs)
    for geographic in (degrees, turned):
        assert footprint_box(utm, geographic) == footprint_box(utm, degrees)
        assert 0 < footprint_box(utm, geographic).shape[1] < 200
    assert "lon_wrap" in str(warp_crs(degrees))
    assert "lon_wrap" not in str(warp_crs(utm))
