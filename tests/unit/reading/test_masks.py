"""Validity of pixels: nodata numbers, mask and alpha bands, NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, NUMBERS, SHAPE, SMALL, UTM, write_tif
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.reading.masks import fill_invalid
from ussfc.pipeline.types import Box


def test_infinite_numbers_become_invalid_zeros() -> None:
    values = np.array([[[1, np.nan, 3, 4]], [[5, 6, np.inf, 8]]], np.float32)
    pixels = fill_invalid(values, np.array([[True, True, True, False]]))
    assert pixels.valid.tolist() == [[True, False, False, False]]
    assert pixels.values.tolist() == [[[1, 0, 0, 0]], [[5, 0, 0, 0]]]


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("bands", [(1,), (4,), (2, 1), (3, 3), (1, 2, 3), (4, 2, 3), (1, 2, 3, 4)])
def test_a_pixel_is_missing_when_all_bands_are(bands: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    nodata = NUMBERS[dtype][1]
    patterns = np.arange(16)
    values = np.stack([np.where(patterns >> band & 1, 1 + band, nodata) for band in range(4)]).astype(dtype)
    values = values[:, None]
    path = write_tif(tmp_path / "patterns.tif", values, nodata=nodata, photometric="MINISBLACK")
    reader = SceneRecipe(path, describe_scene(path).geobox, bands, "bilinear").open()
    for start in range(16):
        pixels = reader.read(Box(0, start, 1, 16))
        np.testing.assert_array_equal(pixels.valid[0], patterns[start:] > 0)
        expected = values[[band - 1 for band in bands], :, start:] * (patterns[start:] > 0)
        np.testing.assert_array_equal(pixels.values, expected)


@pytest.mark.parametrize(("nodata", "valid"), [((0, 0), [0, 1, 1]), ((200, 0), [1, 0, 1])])
def test_an_unread_band_of_another_type_counts(
    nodata: tuple[int, int], valid: list[int], tmp_path: Path
) -> None:
    parts = [np.array([[0, 200, 0]], np.uint8), np.array([[0, 0, 60_000]], np.uint16)]
    names = [write_tif(tmp_path / f"{part.dtype}.tif", part[None]) for part in parts]
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i + 1}"><NoDataValue>{nodata[i]}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{names[i]}</SourceFilename></SimpleSource></VRTRasterBand>"
        for i, kind in enumerate(("Byte", "UInt16"))
    )
    both = tmp_path / "both.vrt"
    both.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="1">{bands}</VRTDataset>')
    grid = describe_scene(str(both)).geobox
    pixels = SceneRecipe(str(both), grid, (2,), "bilinear").open().read(Box(0, 0, 1, 3))
    assert pixels.values.dtype == np.uint16
    assert pixels.values.tolist() == [[[0, 0, 60_000]]]
    assert pixels.valid.tolist() == [valid]


def test_mask_band_alpha_and_nan_are_invalid(tmp_path: Path) -> None:
    expected = np.ones(SHAPE, bool)
    expected[30:60, 40:90] = False
    values = np.full((3, *SHAPE), 100, np.uint8)
    masked = write_tif(tmp_path / "mask.tif", values, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as target:
        target.write_mask(expected)
    alpha = write_tif(
        tmp_path / "alpha.tif", np.concatenate([values, expected[None] * np.uint8(255)]), nodata=None,
        photometric="RGB", alpha="YES",
    )  # fmt: skip
    floats = values.astype(np.float32)
    floats[1, ~expected] = np.nan
    nan = write_tif(tmp_path / "nan.tif", floats, nodata=None)
    for path in (masked, alpha, nan):
        info = describe_scene(path)
        assert len(info.bands) == 3
        pixels = SceneRecipe(path, info.geobox, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
        np.testing.assert_array_equal(pixels.valid, expected, err_msg=path)
        shifted = GeoBox(SHAPE, AFFINE * Affine.translation(0.25, 0.25), UTM)
        warped = SceneRecipe(path, shifted, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
        assert not warped.valid[33:57, 43:87].any(), path
        assert warped.valid[65:170, 5:200].all(), path
