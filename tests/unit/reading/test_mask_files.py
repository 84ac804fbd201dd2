"""Mask files as they are found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint

from tests.support.images import AFFINE, SHAPE, UTM, image, write_array, write_tif
from tests.support.masks import GRID, found_mask, write_mask
from ussfc.pipeline.errors import ConfigError, PipelineError, ReadError
from ussfc.pipeline.reading.mask_files import MaskChoice, find_mask
from ussfc.pipeline.types import Box

WHOLE = Box(0, 0, *SHAPE)
ONES = np.ones(SHAPE, np.uint8)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 255), (0, 1, 255)])
def test_marks_of_zero_and_one_need_no_kind(numbers: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(1).choice(numbers, SHAPE).astype(np.uint8)
    mask = found_mask(write_mask(tmp_path / "mask.tif", values))
    assert mask.kind == "nonzero"
    np.testing.assert_array_equal(mask.masked(WHOLE), values != 0)


def test_band_of_a_stack_is_found(tmp_path: Path) -> None:
    values = np.concatenate([image(), np.full((1, *SHAPE), 4, np.uint16)])
    values[3, :50] = 9
    path = write_tif(tmp_path / "stack.tif", values)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B04", "B03", "B02", "SCL")
    mask = found_mask(path)
    assert mask.kind == "scl"
    np.testing.assert_array_equal(mask.masked(WHOLE), values[3] == 9)


def test_empty_file_of_polygons_masks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clouds.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    assert not found_mask(str(path), distance=30).masked(WHOLE).any()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_masks_without_a_crs_lie_pixel_on_pixel(tmp_path: Path) -> None:
    grid = GeoBox((60, 70), Affine.translation(20, 10), None)
    values = np.random.default_rng(1).integers(0, 2, SHAPE).astype(np.uint8)
    path = write_mask(tmp_path / "mask.tif", values, Affine.identity(), None)
    found = found_mask(path, grid=grid).masked(Box(0, 0, 60, 70))
    np.testing.assert_array_equal(found, values[10:70, 20:90] != 0)


REFUSED: list[tuple[str, dict[str, object], str]] = [
    ("classes.tif", {}, "nothing states what the numbers of this mask mean; set masks.kind_before"),
    ("quality_scl.tif", {}, r"scl by its name, and holds numbers that this kind has not \(21824\); set masks.kind"),
    ("absent.tif", {}, "no such file; check the path"),
    ("text.tif", {}, "cannot be opened as a raster"),
    ("bare_scl.tif", {}, "has no CRS while the images have EPSG:32633"),
    ("far_scl.tif", {}, "lies outside of the images' overlap; check that it belongs to the image before"),
    ("stack.tif", {"kind": "scl"}, "has 3 bands and none is called scl"),
    ("qa_pixel.tif", {"classes": (1,)}, "qa_pixel has bits and no classes"),
    ("clouds.geojson", {"kind": "scl"}, "are for rasters"),
    ("points.geojson", {}, "no polygon"),
    ("scene.zarr", {}, "is a Zarr or NetCDF"),
    ("ones.tif", {"distance": 20000}, "is 2000 pixels of the grid; at most 1024"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("refused")
    write_mask(place / "classes.tif", ONES * 5)
    write_mask(place / "ones.tif", ONES)
    write_mask(place / "quality_scl.tif", ONES.astype(np.uint16) * 21824)
    write_mask(place / "qa_pixel.tif", ONES)
    write_mask(place / "bare_scl.tif", ONES, Affine.identity() * Affine.scale(2), None)
    write_mask(place / "far_scl.tif", ONES, AFFINE * Affine.translation(9000, 0))
    write_tif(place / "stack.tif", image())
    write_array(place / "scene.zarr", image())
    (place / "text.tif").write_text("no raster")
    for name, shape in (
        ("clouds", shapely.box(*AFFINE * (40, 70), *AFFINE * (90, 20))),
        ("points", shapely.Point(1, 2)),
    ):
        geopandas.GeoDataFrame(geometry=[shape], crs=UTM).to_file(place / f"{name}.geojson")
    return place


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=[name for name, _, _ in REFUSED])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_masks_that_cannot_be_used_are_one_line(
    name: str, options: dict[str, object], message: str, folder: Path
) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        found_mask(str(folder / name), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "masks." in str(caught.value)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixel_grids_take_masks_of_their_size_alone(tmp_path: Path) -> None:
    grid = GeoBox(SHAPE, Affine.identity(), None)
    path = write_mask(tmp_path / "mask.tif", ONES[:50], Affine.identity(), None)
    with pytest.raises(ConfigError, match="230 x 50 px and the image before 230 x 180 px"):
        found_mask(path, grid=grid)
    whole = write_mask(tmp_path / "whole.tif", ONES, Affine.identity(), None)
    with pytest.raises(ConfigError, match="no CRS, so nothing is known of metres"):
        found_mask(whole, grid=grid, distance=20)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_place_a_mask(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2, SHAPE).astype(np.uint8)
    corners = [(row, col) for row in (0, SHAPE[0]) for col in (0, SHAPE[1])]
    points = [GroundControlPoint(row, col, *(AFFINE * (col, row))) for row, col in corners]
    path = write_mask(tmp_path / "mask.tif", values, Affine.identity(), None)
    with rasterio.open(path, "r+") as file:
        file.gcps = points, UTM
    np.testing.assert_array_equal(found_mask(path).masked(WHOLE), values != 0)


def test_part_that_is_not_covered_is_reported(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "scl.tif", ONES[:90])
    _, notes, _ = find_mask(MaskChoice(path, "auto", None, 0, "before"), GRID, SHAPE)
    assert notes == [f"{path}: the mask covers 50% of the common grid; pixels beyond it are not masked"]


def test_vrt_that_leads_elsewhere_needs_a_flag(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = write_mask(tmp_path / "b" / "scl.tif", ONES)
    vrt = tmp_path / "a" / "scl.vrt"
    with rasterio.open(path) as file:
        rasterio.shutil.copy(file, vrt, driver="VRT")
    vrt.write_text(vrt.read_text().replace('relativeToVRT="1">../b/scl.tif', f'relativeToVRT="0">{path}'))
    with pytest.raises(ReadError, match=r"inputs\.vrt_sources"):
        found_mask(str(vrt))
    choice = MaskChoice(str(vrt), "auto", None, 0, "before", "any")
    assert find_mask(choice, GRID, SHAPE)[0].masked(WHOLE).all()


def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scl.tif")
    with pytest.raises(ReadError, match="is a named pipe"):
        found_mask(str(tmp_path / "scl.tif"))


def test_one_file_is_found_by_a_pattern_and_several_are_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a_cloudmask.tif", ONES)
    assert found_mask(str(tmp_path / "*_cloudmask.tif")).masked(WHOLE).all()
    write_mask(tmp_path / "b_cloudmask.tif", ONES, AFFINE * Affine.translation(SHAPE[1], 0))
    with pytest.raises(ConfigError, match=r"is made of 2 files; build one mask of them"):
        found_mask(f"{tmp_path}/a_cloudmask.tif,{tmp_path}/b_cloudmask.tif")
