"""Rasters that GDAL reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.enums
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from rasterio.io import MemoryFile
from rasterio.windows import Window

from tests.support.images import (
    AFFINE,
    NODATA,
    SHAPE,
    UTM,
    assert_same_pixels,
    expected_window,
    image,
    odd_images,
    write_tif,
)
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import Box


@settings(max_examples=150)
@given(image=odd_images(), mark=st.sampled_from(["nodata", "mask", "alpha", "alpha, nodata"]), data=st.data())
def test_a_raster_reads_as_gdal_sees_it(
    image: tuple[np.ndarray, float | None, tuple[int, ...], Box], mark: str, data: st.DataObject
) -> None:
    """Every pattern of nodata over bands that are read and bands that are not, masks and alpha."""
    values, nodata, bands, box = image
    count, rows, cols = values.shape
    shown = data.draw(hnp.arrays(np.uint8, (rows, cols), elements=st.sampled_from([0, 255])))
    profile = {
        "driver": "GTiff", "count": count + ("alpha" in mark), "dtype": values.dtype, "height": rows, "width": cols,
        "crs": UTM, "transform": AFFINE, "nodata": nodata if "nodata" in mark else None,
        "photometric": "MINISBLACK",  # else four bytes would be taken for colours with alpha
    }  # fmt: skip
    with MemoryFile() as memory:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), memory.open(**profile) as target:
            target.write(values, range(1, count + 1))
            if "alpha" in mark:
                target.colorinterp = [rasterio.enums.ColorInterp.gray] * count + [
                    rasterio.enums.ColorInterp.alpha
                ]
                target.write(shown.astype(values.dtype) // 2, count + 1)
            if mark == "mask":
                target.write_mask(shown > 0)
        with memory.open() as source:
            whole = Window(0, 0, cols, rows)
            alpha = source.read(count + 1, window=whole) if "alpha" in mark else source.dataset_mask()
            expected = expected_window(source.read(bands, out_dtype="float32"), alpha > 0, box)
        grid = GeoBox((rows, cols), AFFINE, UTM)
        pixels = SceneRecipe(memory.name, grid, bands, "bilinear").open().read(box)
    assert_same_pixels(pixels, expected, str(values.dtype))


def test_south_up_is_flipped(tmp_path: Path) -> None:
    values = image(1)
    upside_down = AFFINE * Affine.translation(0, SHAPE[0]) * Affine.scale(1, -1)
    path = write_tif(tmp_path / "south.tif", values[:, ::-1], transform=upside_down)
    info = describe_scene(path)
    assert info.geobox == GeoBox(SHAPE, AFFINE, UTM)
    assert "south-up" in info.notes[0]
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *SHAPE))
    np.testing.assert_allclose(pixels.values[0], values[0], atol=1e-3)


@pytest.mark.parametrize(("x", "y", "how"), [(-1, 1, "mirrored"), (-1, -1, "upside down")])
def test_mirrored_is_flipped(tmp_path: Path, x: int, y: int, how: str) -> None:
    values = image(1)
    place = AFFINE * Affine.translation(SHAPE[1], 0 if y > 0 else SHAPE[0]) * Affine.scale(x, y)
    path = write_tif(tmp_path / "mirrored.tif", values[:, ::y, ::x], transform=place)
    info = describe_scene(path)
    assert info.geobox == GeoBox(SHAPE, AFFINE, UTM)
    assert info.notes == (f"{path}: is stored {how} and flipped",)
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *SHAPE))
    np.testing.assert_allclose(pixels.values[0], values[0], atol=1e-3)


def test_rotated_is_warped(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "rot.tif", image(1), transform=AFFINE * Affine.rotation(17))
    info = describe_scene(path)
    assert info.geobox.affine.b == 0
    assert "rotated" in info.notes[0]
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *info.geobox.shape))
    assert 0.4 < pixels.valid.mean() < 0.8


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("odc-geo/tests/data/au-gcp.tif", (0.40, 0.45)),
        ("rio-tiler/tests/fixtures/cog_gcps.tif", (0.68, 0.72)),
        ("mapchete/test/testdata/gcps.tif", (0.62, 0.67)),
        ("rasterio/tests/data/RGB.byte.tif", (0.67, 0.68)),
        ("rio-color/tests/rgba8.tif", (0.45, 0.46)),
        ("rasterio/tests/data/all-nodata.tif", (0, 0)),
        ("rio-cogeo/tests/fixtures/image_nan.tif", (0.43, 0.44)),
    ],
)
def test_odd_rasters(shared: Path, name: str, valid: tuple[float, float]) -> None:
    path = str(shared / "data" / "nasty" / name)
    info = describe_scene(path)
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *info.geobox.shape))
    assert valid[0] <= pixels.valid.mean() <= valid[1]


def tagged(path: Path, **tags: str) -> str:
    write_tif(path, image())
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    return str(path)


def test_sentinel_2_tags_declare_an_offset(tmp_path: Path) -> None:
    plain = describe_scene(tagged(tmp_path / "plain.tif", PROCESSING_BASELINE="02.14"))
    assert plain.scales((1,)) == ((1, 0),)
    assert plain.notes == ()
    stated = describe_scene(
        tagged(
            tmp_path / "b.tif",
            BOA_ADD_OFFSET="-1000",
            BOA_QUANTIFICATION_VALUE="10000",
            PROCESSING_BASELINE="05.10",
        )
    )
    assert stated.scales((1,)) == ((1e-4, -0.1),)
    assert stated.notes == ()


def test_baselines_with_an_offset_are_noted(tmp_path: Path) -> None:
    (note,) = describe_scene(tagged(tmp_path / "b.tif", PROCESSING_BASELINE="04.00")).notes
    assert "baseline 04.00" in note


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    whole = Path(write_tif(tmp_path / "whole.tif", image()))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    grid = GeoBox(SHAPE, AFFINE, UTM)
    with pytest.raises(ReadError, match=r"cut\.tif"):
        SceneRecipe(str(cut), grid, (1,), "bilinear").open().read(Box(0, 0, *SHAPE))


@pytest.mark.parametrize("overviews", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_sample_represents_a_large_scene(tmp_path: Path, overviews: bool, shifted: bool) -> None:
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[:3000, :2600]
    values = 1000 + 500 * np.sin(rows / 400) + cols / 4 + rng.normal(0, 20, rows.shape)
    values = values.astype(np.uint16)[None]
    values[:, :300] = NODATA
    path = write_tif(tmp_path / "large.tif", values, tiled=True)
    if overviews:
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    grid = GeoBox(values.shape[1:], AFFINE * Affine.translation(0.5 * shifted, 0), UTM)
    sample = SceneRecipe(path, grid, (1,), "bilinear").open().sample()
    assert sample.valid.size < 4.5e6
    assert 0.85 < sample.valid.mean() < 0.95
    expected = np.percentile(values[values != NODATA], (2, 50, 98))
    np.testing.assert_allclose(np.percentile(sample.values[0][sample.valid], (2, 50, 98)), expected, atol=45)
