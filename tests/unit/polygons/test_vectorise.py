"""Polygons do not depend on the blocks, and say what the raster says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from scipy import ndimage

from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.events import Advanced, Event
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.polygons import geoparquet
from ussfc.pipeline.polygons.outlines import cycles
from ussfc.pipeline.polygons.vectorise import VectorCounts, VectorOptions, vectorise
from ussfc.pipeline.storage.layout import LAYERS
from ussfc.pipeline.types import Box

ATTRIBUTES = ["id", "area_m2", "perimeter_m", "mean_probability", "max_probability", "pixels"]
UTM = "EPSG:32633"


@dataclass(frozen=True)
class InMemory:
    """A probability source over an array."""

    stored: npt.NDArray[Any]
    fails_after: int | None = None
    """Row from which reading fails."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.dtype

    def read(self, box: Box) -> npt.NDArray[Any]:
        if self.fails_after is not None and box.y0 >= self.fails_after:
            raise ReadError("the store is gone")
        return self.stored[box.slices]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vector")


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of small files are written here, and none has to outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


def grid(shape: tuple[int, int], crs: str | None = UTM, pixel: float = 10.0) -> GeoBox:
    return GeoBox(shape, Affine(pixel, 0, 500_000, 0, -pixel, 5_000_000), crs)


def write(
    stored: npt.NDArray[Any],
    path: Path,
    *,
    geobox: GeoBox | None = None,
    block_size: int = 2048,
    connectivity: Literal[4, 8] = 4,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
) -> tuple[VectorCounts, geopandas.GeoDataFrame]:
    options = VectorOptions("parquet", min_area_m2, simplify_m, connectivity)
    counts = vectorise(
        InMemory(stored), geobox or grid(stored.shape[:2]), 0.5, options, path, block_size=block_size
    )
    return counts, geopandas.read_parquet(path)


def mask(changed: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Byte probabilities of a mask."""
    return np.where(np.asarray(changed, bool), 200, 10).astype(np.uint8)


def label(stored: npt.NDArray[Any], connectivity: int) -> tuple[npt.NDArray[np.int32], int]:
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    labels, count = ndimage.label(classify(stored, 0.5) == 1, structure)
    return labels, count


def burn(frame: geopandas.GeoDataFrame, geobox: GeoBox) -> npt.NDArray[np.uint8]:
    """Each pixel's number of polygons whose inside holds its centre."""
    burnt = np.zeros(geobox.shape, np.uint8)
    if len(frame):
        rasterio.features.rasterize(
            frame.geometry,
            out=burnt,
            transform=geobox.affine,
            merge_alg=rasterio.enums.MergeAlg.add,
        )
    return burnt


@st.composite
def rasters(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Stored probabilities from speckles to large regions, with nodata, in both dtypes."""
    shape = draw(st.tuples(st.integers(1, 28), st.integers(1, 28)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probability = rng.random(shape)
    if draw(st.booleans()):
        probability = ndimage.uniform_filter(probability, 3)
    # So that the share of change, not its place, is what is drawn.
    share = draw(st.sampled_from([0.05, 0.3, 0.5, 0.6, 0.75, 0.95]))
    probability = np.clip(probability + 0.5 - np.quantile(probability, 1 - share), 0, 1)
    nodata = rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3]))
    if draw(st.booleans()):
        return np.where(nodata, 255, np.rint(probability * 254)).astype(np.uint8)
    return np.where(nodata, np.nan, probability).astype(np.float32)


PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_the_blocks_leave_no_trace(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Literal[4, 8]
) -> None:
    whole, split = folder / "whole.parquet", folder / "split.parquet"
    expected = write(stored, whole, connectivity=connectivity)
    found = write(stored, split, connectivity=connectivity, block_size=block_size)
    assert found[0] == expected[0]
    assert found[1][ATTRIBUTES].equals(expected[1][ATTRIBUTES])
    assert shapely.equals_exact(found[1].geometry, expected[1].geometry, tolerance=0).all()
    assert split.read_bytes() == whole.read_bytes()


def traced_by_gdal(stored: npt.NDArray[Any], connectivity: int, geobox: GeoBox) -> list[shapely.Geometry]:
    """The whole raster's regions, ordered by their first pixel."""
    labels, _ = label(stored, connectivity)
    parts: dict[int, list[shapely.Geometry]] = {}
    shapes = rasterio.features.shapes(labels, mask=labels > 0, connectivity=4, transform=geobox.affine)
    for shape, value in shapes:
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    united = [some[0] if len(some) == 1 else shapely.multipolygons(some) for _, some in sorted(parts.items())]
    return list(shapely.normalize(shapely.simplify(shapely.normalize(united), 0)))


def assert_as_gdal(stored: npt.NDArray[Any], folder: Path, connectivity: Literal[4, 8], block: int) -> None:
    geobox = grid(stored.shape[:2])
    _, frame = write(stored, folder / "gdal.parquet", connectivity=connectivity, block_size=block)
    expected = traced_by_gdal(stored, connectivity, geobox)
    found = shapely.normalize(frame.sort_values("id").geometry.to_numpy())
    assert len(found) == len(expected)
    assert shapely.equals_exact(found, expected, tolerance=0).all()


@PROPERTY
@given(stored=rasters(), block_size=st.sampled_from([5, 17, 2048]), connectivity=st.sampled_from([4, 8]))
def test_the_outlines_are_those_of_gdal(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Literal[4, 8]
) -> None:
    assert_as_gdal(stored, folder, connectivity, block_size)


CORNERS = {
    "checkerboard": np.indices((15, 16)).sum(axis=0) % 2 == 0,
    "checkerboard in a frame": np.pad(np.indices((9, 9)).sum(axis=0) % 2 == 0, 2, constant_values=True),
    "two holes that touch": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
    "a hole that touches the outside": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
    "a hole that touches another region": np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]]),
    "a region in a hole": np.pad(np.pad(np.ones((3, 3)), 1), 1, constant_values=1),
    "everything": np.ones((7, 9)),
    "stripes": np.indices((8, 9))[1] % 2 == 0,
    "dense noise": np.random.default_rng(8).random((45, 40)) < 0.6,
}


@pytest.mark.parametrize("changed", CORNERS.values(), ids=CORNERS.keys())
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("block", [3, 7, 2048])
def test_corners_are_turned_as_by_gdal(
    folder: Path, changed: npt.NDArray[Any], connectivity: Literal[4, 8], block: int
) -> None:
    for turned in (changed, changed[::-1], changed.T):
        assert_as_gdal(mask(turned), folder, connectivity, block)


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_the_polygons_say_what_the_raster_says(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Literal[4, 8]
) -> None:
    geobox = grid(stored.shape[:2])
    counts, frame = write(stored, folder / "said.parquet", connectivity=connectivity, block_size=block_size)
    labels, count = label(stored, connectivity)
    changed = labels > 0
    assert counts.polygons == len(frame) == count
    assert counts.pixels == frame.pixels.sum() == changed.sum()
    assert counts.area_m2 == pytest.approx(frame.area_m2.sum())
    assert frame.is_valid.all()
    assert not frame.is_empty.any()
    assert set(frame.geom_type) <= ({"Polygon"} if connectivity == 4 else {"Polygon", "MultiPolygon"})
    # Nodata is 255 in the class raster, so it must not be burnt either.
    np.testing.assert_array_equal(burn(frame, geobox), classify(stored, 0.5) == 1)
    np.testing.assert_array_equal(frame.area, frame.pixels * 100.0)
    probability = decode(stored).astype(np.float64)
    for row in frame.itertuples():
        region = labels == labels.flat[row.id]
        assert row.id == np.flatnonzero(region)[0]
        assert row.pixels == region.sum()
        assert row.max_probability == probability[region].max()
        assert row.mean_probability == pytest.approx(probability[region].mean(), rel=1e-9)


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_small_regions_are_left_out_after_their_pieces_are_united(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Literal[4, 8]
) -> None:
    _, everything = write(stored, folder / "all.parquet", connectivity=connectivity)
    counts, large = write(
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
def test_simplified_outlines_are_valid_and_measured_before(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Literal[4, 8]
) -> None:
    _, exact = write(stored, folder / "exact.parquet", connectivity=connectivity)
    whole, split = folder / "whole.parquet", folder / "split.parquet"
    write(stored, whole, connectivity=connectivity, simplify_m=12.0)
    _, simple = write(stored, split, connectivity=connectivity, simplify_m=12.0, block_size=block_size)
    assert split.read_bytes() == whole.read_bytes()
    assert simple[ATTRIBUTES].equals(exact[ATTRIBUTES])
    assert simple.is_valid.all()
    assert set(simple.geom_type) <= {"Polygon", "MultiPolygon"}
    assert shapely.get_num_coordinates(simple.geometry).sum() <= (
        shapely.get_num_coordinates(exact.geometry).sum()
    )


def spiral(side: int) -> npt.NDArray[np.bool_]:
    """One region a pixel wide that winds to the centre."""
    turns = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    turns[0, 0] = True
    while True:
        for _ in range(2):
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            free = all(0 <= at < side for at in ahead) and not turns[ahead]
            if free and not (all(0 <= at < side for at in beyond) and turns[beyond]):
                y, x = ahead
                turns[ahead] = True
                break
            dy, dx = dx, -dy
        else:
            return turns


def test_one_region_through_all_blocks(folder: Path) -> None:
    turns = spiral(65)
    assert label(mask(turns), 4)[1] == 1
    for changed, holes in ((turns, 0), (np.indices((64, 64)).min(axis=0) % 2 == 0, 32), (~turns, None)):
        stored = mask(changed)
        counts, frame = write(stored, folder / "giant.parquet", block_size=8)
        whole, once = write(stored, folder / "giant-whole.parquet")
        assert counts == whole
        assert counts.pixels == changed.sum()
        assert shapely.equals_exact(frame.geometry, once.geometry, tolerance=0).all()
        if holes == 0:
            assert counts.polygons == 1
            assert shapely.get_num_interior_rings(frame.geometry).sum() == 0


@pytest.mark.parametrize(("connectivity", "expected"), [(4, 4), (8, 2)])
def test_corners_where_four_blocks_meet(folder: Path, connectivity: Literal[4, 8], expected: int) -> None:
    changed = np.zeros((8, 8), bool)
    changed[[3, 4], [3, 4]] = True  # over the corner of the blocks, falling
    changed[[3, 4], [0, 7]] = True
    changed[4, 0] = changed[3, 7] = True  # over seams, straight
    changed[0, 0] = changed[0, 1] = False
    counts, frame = write(mask(changed), folder / "corner.parquet", connectivity=connectivity, block_size=4)
    assert counts.polygons == expected + (0 if connectivity == 4 else 1)
    assert sorted(frame.pixels) == ([1, 1, 2, 2] if connectivity == 4 else [2, 2, 2])
    rising, _ = write(mask(changed[:, ::-1]), folder / "r.parquet", connectivity=connectivity, block_size=4)
    assert rising.polygons == counts.polygons


def test_the_area_of_a_grid_in_degrees_is_geodesic(folder: Path) -> None:
    geobox = GeoBox((20, 30), Affine(0.001, 0, 12.0, 0, -0.001, 60.0), "EPSG:4326")
    changed = np.zeros((20, 30), bool)
    changed[5:15, 10:20] = True
    _, frame = write(mask(changed), folder / "degrees.parquet", geobox=geobox)
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
    _, frame = write(mask(changed), folder / "hole.parquet", block_size=4)
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
def test_areas_in_metres_whatever_the_units(
    folder: Path, crs: str, x: float, y: float, pixel_m2: float, tolerance: float
) -> None:
    geobox = GeoBox((40, 40), Affine(10, 0, x, 0, -10, y), crs)
    _, frame = write(mask(np.ones((40, 40))), folder / "units.parquet", geobox=geobox)
    assert frame.area_m2[0] == pytest.approx(1600 * pixel_m2, rel=tolerance)


def test_a_long_straight_edge_is_not_measured_as_one_geodesic(folder: Path) -> None:
    # Half a zone of the globe: between two parallels, where the great circle is far from the parallel.
    geobox = GeoBox((10, 1800), Affine(0.1, 0, -90, 0, -0.1, 61), "EPSG:4326")
    stored = mask(np.ones((10, 1800)))
    stored[1, 5:1795:2] = 10
    _, frame = write(stored, folder / "belt.parquet", geobox=geobox)
    sphere = 6371e3**2 * np.pi * (np.sin(np.radians(61)) - np.sin(np.radians(60)))
    assert frame.area_m2[0] == pytest.approx(sphere * (1 - 895 / 18000), rel=0.01)


def test_a_rotated_grid(folder: Path) -> None:
    turned = Affine(8.66, 5.0, 500_000, 5.0, -8.66, 5_000_000)
    geobox = GeoBox((30, 30), turned, UTM)
    stored = mask(np.random.default_rng(3).random((30, 30)) > 0.4)
    _, frame = write(stored, folder / "turned.parquet", geobox=geobox, connectivity=8, block_size=7)
    assert frame.is_valid.all()
    np.testing.assert_allclose(frame.area, frame.pixels * (8.66**2 + 5.0**2), rtol=1e-6)


@pytest.mark.parametrize("format_", ["gpkg", "flatgeobuf"])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("crs", [UTM, None])
def test_the_other_formats_hold_the_same(
    tmp_path: Path, format_: Literal["gpkg", "flatgeobuf"], connectivity: Literal[4, 8], crs: str | None
) -> None:
    stored = mask(np.random.default_rng(1).random((50, 60)) > 0.5)
    geobox = grid((50, 60), crs)
    expected_counts, expected = write(
        stored, tmp_path / "a.parquet", geobox=geobox, connectivity=connectivity, block_size=16
    )
    path = tmp_path / LAYERS[format_]
    path.write_bytes(b"an older file")
    options = VectorOptions(format_, connectivity=connectivity)
    counts = vectorise(InMemory(stored), geobox, 0.5, options, path, block_size=16)
    assert counts == expected_counts
    frame = pyogrio.read_dataframe(path).sort_values("id", ignore_index=True)
    expected = expected.sort_values("id", ignore_index=True)
    assert list(frame.columns) == list(expected.columns)
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(frame[name], expected[name])
    assert shapely.equals(frame.geometry, expected.geometry).all()
    assert frame.crs == expected.crs
    information = pyogrio.read_info(path)
    assert information["layer_name"] == "changes"
    assert information["geometry_type"] == ("Polygon" if connectivity == 4 else "MultiPolygon")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", path.name]


def test_geoparquet_can_be_filtered_by_its_boxes(folder: Path) -> None:
    path = folder / "boxes.parquet"
    _, frame = write(mask(np.random.default_rng(2).random((60, 60)) > 0.7), path)
    window = (500_100.0, 4_999_700.0, 500_200.0, 4_999_800.0)
    near = geopandas.read_parquet(path, bbox=window)
    bounds = shapely.bounds(frame.geometry)
    touching = (bounds[:, 0] <= window[2]) & (bounds[:, 2] >= window[0])
    touching &= (bounds[:, 1] <= window[3]) & (bounds[:, 3] >= window[1])
    assert 0 < len(near) < len(frame)
    assert set(near.id) == set(frame.id[touching])
    metadata = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = metadata["columns"]["geometry"]
    assert metadata["version"] == "1.1.0"
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == list(shapely.total_bounds(frame.geometry))
    assert column["crs"]["id"]["code"] == 32633
    # The order of the writer, the orientation that the metadata promise.
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry)).all()


def test_row_groups_do_not_follow_the_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.pipeline.polygons.geoparquet.ROW_GROUP", 16)
    stored = mask(np.random.default_rng(4).random((60, 60)) > 0.7)
    write(stored, folder / "a.parquet", block_size=9)
    write(stored, folder / "b.parquet", block_size=60)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    metadata = pq.read_metadata(folder / "a.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert set(sizes[:-1]) == {16}


@pytest.mark.parametrize("format_", list(LAYERS))
@pytest.mark.parametrize("crs", [UTM, None])
def test_nothing_changed(
    tmp_path: Path, format_: Literal["parquet", "gpkg", "flatgeobuf"], crs: str | None
) -> None:
    path = tmp_path / LAYERS[format_]
    stored = np.full((10, 10), 255, np.uint8)
    counts = vectorise(InMemory(stored), grid((10, 10), crs), 0.5, VectorOptions(format_), path)
    assert counts == VectorCounts(0, 0, None if crs is None else 0.0)
    frame = geopandas.read_parquet(path) if format_ == "parquet" else pyogrio.read_dataframe(path)
    assert len(frame) == 0
    assert [name for name in frame.columns if name != "bbox"] == [*ATTRIBUTES, "geometry"]


def test_without_a_reference_system(folder: Path) -> None:
    stored = mask(np.eye(5))
    counts, frame = write(stored, folder / "bare.parquet", geobox=grid((5, 5), None))
    assert counts == VectorCounts(5, 5, None)
    assert frame.crs is None
    assert frame.area_m2.isna().all()
    assert frame.perimeter_m.isna().all()
    assert frame.total_bounds.tolist() == [500_000, 4_999_950, 500_050, 5_000_000]
    for wanted in ({"min_area_m2": 1.0}, {"simplify_m": 1.0}):
        with pytest.raises(ConfigError, match="geographic reference") as caught:
            write(stored, folder / "refused.parquet", geobox=grid((5, 5), None), **wanted)
        assert "\n" not in str(caught.value)
    assert not (folder / "refused.parquet").exists()


@pytest.mark.parametrize("format_", list(LAYERS))
def test_a_crash_leaves_nothing_under_the_name(
    tmp_path: Path, format_: Literal["parquet", "gpkg", "flatgeobuf"]
) -> None:
    path = tmp_path / LAYERS[format_]
    source = InMemory(mask(np.eye(30)), fails_after=20)
    with pytest.raises(ReadError):
        vectorise(source, grid((30, 30)), 0.5, VectorOptions(format_), path, block_size=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", list(LAYERS))
def test_a_folder_that_is_not_there(
    tmp_path: Path, format_: Literal["parquet", "gpkg", "flatgeobuf"]
) -> None:
    path = tmp_path / "missing" / LAYERS[format_]
    with pytest.raises(StoreError, match="changes"):
        vectorise(InMemory(mask(np.eye(3))), grid((3, 3)), 0.5, VectorOptions(format_), path)


def test_a_source_is_not_read_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.pipeline.polygons.regions.AHEAD", 0)
    started: list[Box] = []

    class Counting(InMemory):
        def read(self, box: Box) -> npt.NDArray[Any]:
            started.append(box)
            return super().read(box)

    ahead: list[int] = []
    source = Counting(mask(np.eye(60)))
    vectorise(
        source, grid((60, 60)), 0.5, VectorOptions("parquet"), tmp_path / "x.parquet",
        lambda event: ahead.append(len(started) - len(ahead)), block_size=10,
    )  # fmt: skip
    assert len(ahead) == len(started) == 36
    assert max(ahead) <= 4


def test_the_shapes_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        vectorise(
            InMemory(mask(np.eye(3))), grid((3, 4)), 0.5, VectorOptions("parquet"), tmp_path / "x.parquet"
        )


def test_events(tmp_path: Path) -> None:
    events: list[Event] = []
    hear: Callable[[Event], None] = events.append
    stored = mask(np.eye(25, 30))
    options = VectorOptions("parquet")
    vectorise(InMemory(stored), grid((25, 30)), 0.5, options, tmp_path / "x.parquet", hear, block_size=10)
    steps = [event for event in events if isinstance(event, Advanced)]
    assert len(events) == len(steps)
    assert sum(step.done for step in steps) == 9
    assert sum(step.pixels for step in steps) == 750


def test_the_import_is_light() -> None:
    heavy = "{'pandas', 'geopandas', 'pyarrow', 'pyogrio'}"
    code = f"import sys, ussfc.pipeline.polygons.vectorise; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.integers(1, 300).flatmap(lambda count: st.permutations(range(count))))
def test_cycles_are_walked_from_their_least_members(following: list[int]) -> None:
    walk, starts = cycles(np.array(following))
    assert sorted(walk) == list(range(len(following)))
    assert starts[0] == 0
    leading = walk[starts]
    assert (np.diff(leading) > 0).all()
    for cycle in np.split(walk, starts[1:]):
        assert cycle[0] == cycle.min()
        assert [following[member] for member in cycle] == [*cycle[1:], cycle[0]]


def test_outlines_that_no_column_holds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geoparquet, "MOST_BYTES", 100)
    with pytest.raises(StoreError, match=r"outlines take .* GB.*raise threshold or vector\.simplify_m"):
        write(mask(np.indices((15, 16)).sum(axis=0) % 2 == 0), tmp_path / "large.parquet")
    assert list(tmp_path.iterdir()) == []


def test_polygons_are_written_without_pandas(tmp_path: Path) -> None:
    """Arrow's own conversions import it, for half a second and 40 MB."""
    code = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from ussfc.pipeline.polygons.vectorise import VectorOptions, vectorise
class Source:
    shape, dtype = (40, 40), np.dtype("uint8")
    def read(self, box):
        return np.full(box.shape, 200, np.uint8)
grid = GeoBox((40, 40), Affine(10, 0, 0, 0, -10, 0), "EPSG:32636")
print(vectorise(Source(), grid, 0.5, VectorOptions("parquet"), Path(sys.argv[1])).polygons, "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "changes.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
