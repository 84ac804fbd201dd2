"""One image in every container reads the same, in any cut, on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, NODATA, SHAPE, UTM, WRITERS, image, write_tif
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import Box, Pixels, SceneReader

GRIDS = {
    "half a pixel off": GeoBox((150, 170), AFFINE * AFFINE.translation(20.5, 13.25), UTM),
    "coarser": GeoBox((80, 90), AFFINE * AFFINE.scale(2.5), UTM),
    "another CRS": GeoBox.from_bbox(
        GeoBox(SHAPE, AFFINE, UTM).footprint("EPSG:4326").boundingbox, "EPSG:4326", resolution=0.00012
    ),
}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scene")
    return WRITERS[request.param](folder / f"image.{request.param}", image())


@pytest.fixture(scope="module", params=sorted(GRIDS))
def warped(scene: str, request: pytest.FixtureRequest) -> tuple[SceneReader, Pixels]:
    """Return a reader on another grid, and the whole of that grid."""
    grid = GRIDS[request.param]
    reader = SceneRecipe(scene, grid, (2,), "cubic").open()
    return reader, reader.read(Box(0, 0, *grid.shape))


def test_every_container_has_the_same_header(scene: str) -> None:
    info = describe_scene(scene)
    assert info.geobox == GeoBox(SHAPE, AFFINE, UTM)
    assert info.dtype == "uint16"
    assert len(info.bands) == 3
    assert info.identity.startswith(("file:", "files:"))


def test_a_plain_window_equals_the_source(scene: str) -> None:
    grid = describe_scene(scene).geobox
    box = Box(20, 10, 120, 130)
    pixels = SceneRecipe(scene, grid, (3, 1), "bilinear").open().read(box)
    expected = image()[[2, 0]][:, 20:120, 10:130]
    valid = (image() != NODATA).any(axis=0)[20:120, 10:130]
    np.testing.assert_array_equal(pixels.valid, valid)
    np.testing.assert_array_equal(pixels.values, np.where(valid, expected, 0))
    assert pixels.values.dtype == np.uint16


def test_zero_in_one_band_is_a_number(scene: str) -> None:
    grid = describe_scene(scene).geobox
    pixels = SceneRecipe(scene, grid, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
    assert pixels.valid[100, 100]


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_a_warp_agrees_with_the_geotiff(scene: str, name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    box = Box(0, 0, *grid.shape)
    reference = SceneRecipe(write_tif(tmp_path / "r.tif", image()), grid, (2, 3), "bilinear").open().read(box)
    pixels = SceneRecipe(scene, grid, (2, 3), "bilinear").open().read(box)
    assert 0.2 < reference.valid.mean() < 1
    # GDAL and xarray's reader interpolate coordinates differently by up to the warp tolerance.
    assert (pixels.valid != reference.valid).mean() < 0.002
    both = pixels.valid & reference.valid
    # (Band 1 has a lone zero, next to which a hundredth of a pixel is ten units.)
    np.testing.assert_allclose(pixels.values[:, both], reference.values[:, both], atol=2)


@settings(max_examples=25)
@given(data=st.data())
def test_windows_do_not_depend_on_the_cut(warped: tuple[SceneReader, Pixels], data: st.DataObject) -> None:
    reader, whole = warped
    rows, cols = whole.valid.shape
    y = sorted(data.draw(st.lists(st.integers(0, rows), min_size=2, max_size=2, unique=True)))
    x = sorted(data.draw(st.lists(st.integers(0, cols), min_size=2, max_size=2, unique=True)))
    part = reader.read(Box(y[0], x[0], y[1], x[1]))
    np.testing.assert_array_equal(part.values, whole.values[:, y[0] : y[1], x[0] : x[1]])
    np.testing.assert_array_equal(part.valid, whole.valid[y[0] : y[1], x[0] : x[1]])
