"""Masks on the common grid, read box by box."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from tests.support.images import AFFINE, SHAPE, UTM, image, write_tif
from tests.support.masks import GRID, found_mask, write_mask
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import SceneRecipe
from ussfc.pipeline.reading.date_masks import DateMask, describe_mask, masked_reader
from ussfc.pipeline.reading.mask_files import MaskChoice, find_mask
from ussfc.pipeline.reading.mask_rules import rule_of
from ussfc.pipeline.types import Box

WHOLE = Box(0, 0, *SHAPE)


def classes(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    """Return classes 0 to 11 in blobs."""
    return np.random.default_rng(seed).integers(0, 12, shape).astype(np.uint8)


def hidden(values: np.ndarray) -> np.ndarray:
    return np.isin(values, (0, 1, 3, 8, 9, 10, 11))


def sampled(values: np.ndarray, source: GeoBox, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest number of each pixel of a grid, 2 beyond the source, and how far it lies from a border."""
    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    x, y = grid.affine * (cols, rows)
    assert source.crs is not None
    assert grid.crs is not None
    x, y = Transformer.from_crs(grid.crs.proj, source.crs.proj, always_xy=True).transform(x, y)
    col, row = ~source.affine * (x, y)
    inside = (row >= 0) & (row < source.shape[0]) & (col >= 0) & (col < source.shape[1])
    nearest = np.full(grid.shape, 2)
    nearest[inside] = values[np.floor(row[inside]).astype(int), np.floor(col[inside]).astype(int)]
    clear = np.minimum(np.abs(row - np.rint(row)), np.abs(col - np.rint(col)))
    return nearest, clear


SOURCES = {
    "same": GRID,
    "20 m": GeoBox((90, 115), AFFINE * Affine.scale(2), UTM),
    "part": GeoBox((40, 50), AFFINE * Affine.translation(33, 21), UTM),
    "shifted": GeoBox((300, 330), AFFINE * Affine.translation(-20.3, -31.4), UTM),
    "other zone": GeoBox.from_bbox(GRID.footprint("EPSG:32632").boundingbox, "EPSG:32632", resolution=20),
    "degrees": GeoBox.from_bbox(GRID.footprint("EPSG:4326").boundingbox, "EPSG:4326", resolution=2e-4),
    "south-up": GeoBox(SHAPE, AFFINE * Affine.translation(0, 180) * Affine.scale(1, -1), UTM),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_grid_masks_the_nearest_pixels(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    values = classes((source.shape[0], source.shape[1]))
    assert source.crs is not None
    # 0 is masked, whether the file declares it as nodata or not.
    path = write_mask(tmp_path / "scl.tif", values, source.affine, source.crs.to_wkt(), nodata=0)
    mask, notes, _ = find_mask(MaskChoice(path, "auto", None, 0, "before"), GRID, SHAPE)
    assert [("covers" in note) for note in notes] == ([True] if name == "part" else [])
    nearest, clear = sampled(values, source, GRID)
    expected = hidden(nearest)
    found = mask.masked(WHOLE)
    sure = clear > 0.02
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found[sure], expected[sure])


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A raster in another zone and polygons in degrees."""
    folder = tmp_path_factory.mktemp("blobs")
    source = SOURCES["other zone"]
    values = (np.random.default_rng(2).random(source.shape) < 0.02).astype(np.uint8)
    assert source.crs is not None
    raster = write_mask(folder / "mask.tif", values, source.affine, source.crs.to_wkt())
    shapes = [shapely.Point(AFFINE * (40 * k, 20 * k)).buffer(90) for k in range(6)]
    geopandas.GeoDataFrame(geometry=shapes, crs=UTM).to_crs(4326).to_file(folder / "mask.gpkg")
    return {"raster": raster, "polygons": str(folder / "mask.gpkg")}


@settings(deadline=None, max_examples=25)
@given(
    rows=st.tuples(st.integers(0, 179), st.integers(1, 180)),
    cols=st.tuples(st.integers(0, 229), st.integers(1, 230)),
    kind=st.sampled_from(["raster", "polygons"]),
    distance=st.sampled_from([0.0, 35.0]),
)
def test_box_changes_no_pixel(
    rows: tuple[int, int], cols: tuple[int, int], kind: str, distance: float, blobs: dict[str, str]
) -> None:
    mask = found_mask(blobs[kind], distance=distance)
    whole = mask.masked(WHOLE)
    assert 0 < whole.mean() < 0.9
    box = Box(rows[0], cols[0], min(180, rows[0] + rows[1]), min(230, cols[0] + cols[1]))
    np.testing.assert_array_equal(mask.masked(box), whole[box.slices])


def test_masked_areas_grow_by_metres(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint8)
    values[90, 110] = values[0, 0] = 1
    path = write_mask(tmp_path / "mask.tif", values)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    near = np.minimum(np.hypot(rows - 90, cols - 110), np.hypot(rows, cols))
    for metres in (0, 25, 50):
        found = found_mask(path, distance=metres).masked(WHOLE)
        np.testing.assert_array_equal(found, near * 10 <= metres)


def test_degrees_grow_by_metres_in_both_directions(tmp_path: Path) -> None:
    grid = GeoBox((200, 200), Affine(1e-4, 0, 13, 0, -1e-4, 60), "EPSG:4326")
    values = np.zeros((200, 200), np.uint8)
    values[100, 100] = 1
    path = write_mask(tmp_path / "mask.tif", values, grid.affine, "EPSG:4326")
    found = found_mask(path, distance=100, grid=grid).masked(Box(0, 0, 200, 200))
    # At 60 degrees a degree of longitude is half of one of latitude.
    rows, cols = found.any(axis=1).sum(), found.any(axis=0).sum()
    assert (rows, cols) == (2 * 8 + 1, 2 * 17 + 1)


def test_clouds_beyond_the_edge_grow_into_the_grid(tmp_path: Path) -> None:
    values = np.zeros((10, 230), np.uint8)
    values[9] = 1
    path = write_mask(tmp_path / "mask.tif", values, AFFINE * Affine.translation(0, -10))
    with pytest.raises(ConfigError, match="outside of the images' overlap"):
        find_mask(MaskChoice(path, "auto", None, 20, "before"), GRID, SHAPE)
    taller = np.zeros((190, 230), np.uint8)
    taller[9] = 1
    path = write_mask(tmp_path / "taller.tif", taller, AFFINE * Affine.translation(0, -10))
    found = found_mask(path, distance=20).masked(WHOLE)
    assert found[:2].all()
    assert not found[2:].any()


def test_mask_moves_with_its_date(tmp_path: Path) -> None:
    values = classes(SHAPE)
    path = write_mask(tmp_path / "scl.tif", values)
    geopandas.GeoDataFrame(geometry=[shapely.box(*AFFINE * (40, 70), *AFFINE * (90, 20))], crs=UTM).to_file(
        tmp_path / "cloud.fgb"
    )
    moved = GeoBox(SHAPE, AFFINE * Affine.translation(-2, 3), UTM)
    for mask in (found_mask(path), found_mask(str(tmp_path / "cloud.fgb"))):
        whole = mask.masked(WHOLE)
        np.testing.assert_array_equal(mask.on(moved).masked(WHOLE)[:-3, 2:], whole[3:, :-2])


def test_masked_pixels_of_a_scene_are_invalid(tmp_path: Path) -> None:
    scene = write_tif(tmp_path / "scene.tif", image())
    mask = found_mask(write_mask(tmp_path / "scl.tif", classes(SHAPE)))
    plain = SceneRecipe(scene, GRID, (1, 2, 3), "cubic").open()
    reader = masked_reader(plain, (None, mask), SHAPE)
    for box in (WHOLE, Box(20, 30, 60, 90)):
        expected = plain.read(box)
        np.testing.assert_array_equal(reader.read(box).values, expected.values)
        np.testing.assert_array_equal(reader.read(box).valid, expected.valid & ~mask.masked(box))
    assert reader.sample().valid.sum() == reader.read(WHOLE).valid.sum()
    assert masked_reader(plain, (None, None), SHAPE) is plain


def test_sample_finds_the_part_that_is_not_masked(tmp_path: Path) -> None:
    shape = (600, 600)
    grid = GeoBox(shape, AFFINE, UTM)
    path = write_tif(tmp_path / "scene.tif", np.full((1, *shape), 7, np.uint8))
    values = np.ones(shape, np.uint8)
    # A sample of this size is the window in the corner.
    values[300:340, 430:560] = 0
    mask = found_mask(write_mask(tmp_path / "mask.tif", values), grid=grid)
    reader = masked_reader(SceneRecipe(path, grid, (1,), "cubic").open(), (mask,), shape)
    sample = reader.sample(256**2)
    assert sample.valid.any()
    assert sample.valid.size <= 256**2
    everything = dataclasses.replace(
        mask, source=dataclasses.replace(mask.source, rule=rule_of("nonzero", (0, 1)))
    )
    assert not masked_reader(reader, (everything,), shape).sample(256**2).valid.any()


def test_mask_that_changed_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "scl.tif", classes(SHAPE))
    mask = pickle.loads(pickle.dumps(found_mask(path)))
    assert isinstance(mask, DateMask)
    mask.check_unchanged()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ReadError, match=r"scl\.tif: the mask has changed since the run began"):
        mask.check_unchanged()


def test_polygons_travel_with_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "cloud.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.box(*AFFINE * (40, 70), *AFFINE * (90, 20))], crs=UTM).to_crs(
        4326
    ).to_file(path)
    mask = found_mask(str(path))
    path.unlink()
    mask.check_unchanged()
    assert mask.masked(WHOLE).sum() == pytest.approx(2500, abs=60)


def test_mask_is_described_in_words(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "a_scl.tif", classes(SHAPE))
    assert describe_mask(found_mask(path, distance=20)) == (
        f"{path} (scl; masked: 0, 1, 3, 8, 9, 10, 11; grown by 20 m)"
    )
