"""Areas of interest of every shape and CRS: exact pixels, or one line."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj import Transformer

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import in_crs_of, on_grid
from ussfc.pipeline.reading.areas import polygons_of
from ussfc.pipeline.types import Box

LONGLAT = CRS("EPSG:4326")
UTM = GeoBox((100, 100), Affine(10, 0, 500_000, 0, -10, 3_700_000), "EPSG:32636")
DEGREES = GeoBox((100, 100), Affine(0.01, 0, 35, 0, -0.01, 34), "EPSG:4326")
SQUARE = shapely.box(500_200, 3_699_300, 500_500, 3_699_700)
"""30 by 40 pixels of UTM."""


def count(shapes: list[object], grid: GeoBox = UTM, crs: CRS | None = None) -> int:
    """Return the pixels inside."""
    crs = crs or grid.crs
    area = in_crs_of(grid, Geometry(polygons_of(shapes, crs, "a.geojson"), crs))
    return int(on_grid(area, grid).mask(Box(0, 0, *grid.shape)).sum())


def inside(shape: shapely.Polygon, grid: GeoBox, crs: CRS, turn: float = 0) -> int:
    """Count the centres of pixels that lie in a shape, each brought into the shape's CRS."""
    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    xs, ys = grid.affine * (cols.ravel(), rows.ravel())
    east, north = Transformer.from_crs(grid.crs.proj, crs.proj, always_xy=True).transform(xs, ys)
    east = np.where(east < turn, east + 360, east) if turn else east
    return int(shapely.contains_xy(shape, east, north).sum())


with np.errstate(invalid="ignore"):
    NOT_A_NUMBER, INFINITE = (
        shapely.from_wkt(f"POLYGON ((0 0, {value} 0, 1 1, 0 0))") for value in ("nan", "inf")
    )
COLLECTION = shapely.GeometryCollection([SQUARE, shapely.Point(0, 0), shapely.GeometryCollection([SQUARE])])
SPIKE = shapely.Polygon([
    (500_200, 3_699_300), (500_500, 3_699_300), (500_500, 3_699_500), (500_900, 3_699_505), (500_500, 3_699_500),
    (500_500, 3_699_700), (500_200, 3_699_700),
])  # fmt: skip
BOW = shapely.Polygon([
    (500_200, 3_699_300), (500_500, 3_699_700), (500_500, 3_699_300), (500_200, 3_699_700),
])  # fmt: skip
HALVES = [
    shapely.box(500_200, 3_699_300, 500_400, 3_699_700),
    shapely.box(500_300, 3_699_300, 500_500, 3_699_700),
]


@pytest.mark.parametrize(
    "shapes",
    [
        [SQUARE],
        [shapely.force_3d(SQUARE, 100.0)],
        [None, SQUARE, shapely.Polygon(), shapely.LineString([(500_000, 3_699_900), (500_900, 3_699_900)])],
        [COLLECTION],
        [SPIKE],
        [shapely.MultiPolygon(HALVES)],
        HALVES,
        [shapely.set_precision(SQUARE, 0), SQUARE],
    ],
    ids=[
        "plain",
        "z",
        "among others",
        "collection",
        "spike",
        "overlapping parts",
        "overlapping features",
        "twice",
    ],
)
def test_a_square_is_1200_pixels(shapes: list[object]) -> None:
    assert count(shapes) == 1200


def test_both_lobes_of_a_bow_count() -> None:
    expected = inside(shapely.make_valid(BOW), UTM, UTM.crs)
    assert count([BOW]) == expected == pytest.approx(600, abs=30)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], r"a\.geojson: holds 0 feature\(s\) but no polygon"),
        ([None, shapely.Point(1, 2)], r"a\.geojson: holds 1 feature\(s\) but no polygon"),
        ([shapely.Polygon()], "empty or have no area"),
        ([shapely.Polygon([(0, 0), (1, 0), (2, 0)])], "empty or have no area"),
        ([SQUARE, NOT_A_NUMBER], "polygon 2 has a coordinate that is no number"),
        ([INFINITE], "polygon 1 has a coordinate that is no number"),
    ],
)
def test_shapes_without_an_area_are_refused(shapes: list[object], message: str) -> None:
    with pytest.raises(ReadError, match=message):
        polygons_of(shapes, LONGLAT, "a.geojson")


@pytest.mark.parametrize("half", [0.004, 0.1, 10.0])
def test_edges_are_straight_in_their_own_crs(half: float) -> None:
    """Also those of areas far larger than the scene, and of a few metres more."""
    grid = GeoBox((300, 300), Affine(100, 0, 485_000, 0, -100, 3_715_000), "EPSG:32636")
    # The middle of the southern edge of the largest lies 40 km off the line between its projected ends.
    shape = shapely.box(33 - half, 33.501, 33 + half, 33.501 + half)
    assert count([shape], grid, LONGLAT) == pytest.approx(inside(shape, grid, LONGLAT), abs=2)


def test_a_small_area_gets_no_more_points() -> None:
    shape = shapely.box(33.001, 33.43, 33.003, 33.432)
    area = Geometry(polygons_of([shape], LONGLAT, "a"), LONGLAT)
    assert in_crs_of(UTM, area).geom.wkb == area.to_crs(UTM.crs).geom.wkb


def test_the_whole_earth_covers_every_pixel() -> None:
    assert count([shapely.box(-180, -90, 180, 90)], UTM, LONGLAT) == 100 * 100
    assert count([shapely.box(-180, -90, 180, 90)], DEGREES, LONGLAT) == 100 * 100
    fiji = GeoBox((30, 90), Affine(100, 0, 816_000, 0, -100, 8_119_000), "EPSG:32760")
    assert count([shapely.box(-180, -90, 180, 90)], fiji, LONGLAT) == 30 * 90


def test_what_is_far_away_covers_none() -> None:
    for west in (-150, 0, 120):
        far = Geometry(shapely.box(west, 0, west + 1, 1), LONGLAT)
        area = in_crs_of(UTM, far)
        assert area.is_empty or not on_grid(area, UTM).mask(Box(0, 0, *UTM.shape)).any()


WRITTEN = {
    "past 180": [shapely.box(179.98, -17.02, 180.03, -17)],
    "before -180": [shapely.box(-180.02, -17.02, -179.97, -17)],
    "split": [
        shapely.MultiPolygon([shapely.box(179.98, -17.02, 180, -17), shapely.box(-180, -17.02, -179.97, -17)])
    ],
    "around": [shapely.Polygon([(179.98, -17.02), (-179.97, -17.02), (-179.97, -17), (179.98, -17)])],
}
"""One rectangle over the 180th meridian, as it is written."""


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("west", [179.9, -180.1, None])
def test_areas_cross_the_180th_meridian(written: str, west: float | None) -> None:
    if west is None:
        grid = GeoBox((300, 900), Affine(10, 0, 816_000, 0, -10, 8_119_000), "EPSG:32760")
    else:
        grid = GeoBox((100, 200), Affine(0.001, 0, west, 0, -0.001, -16.95), "EPSG:4326")
    expected = inside(shapely.box(179.98, -17.02, 180.03, -17), grid, LONGLAT, 1)
    assert expected > 900
    assert count(WRITTEN[written], grid, LONGLAT) == pytest.approx(expected, abs=0 if west else 1)


def test_an_area_without_a_crs_is_on_the_grid() -> None:
    assert in_crs_of(UTM, Geometry(SQUARE, None)).geom == SQUARE
    pixels = GeoBox((9, 9), Affine.identity(), None)
    assert in_crs_of(pixels, Geometry(SQUARE, LONGLAT)).geom == SQUARE


def test_layers_of_other_crs(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[SQUARE], crs=UTM.crs.proj).to_crs("EPSG:3857")
    shape = frame.geometry.iloc[0]
    assert count([shape], UTM, CRS("EPSG:3857")) == 1200


def test_an_area_without_a_way_to_the_grid_is_one_line() -> None:
    grid = GeoBox((9, 9), Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32636")
    area = Geometry(shapely.box(0, 0, 9, 9), 'LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(
        ReadError, match=r"PROJ knows no way from its CRS \(site\) to that of the grid \(EPSG:32636\)"
    ):
        in_crs_of(grid, area)
