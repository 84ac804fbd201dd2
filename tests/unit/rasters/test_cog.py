"""The GeoTIFFs: exact pixels at every level, strict layout, those of GDAL where it has a rule."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.support.probabilities import ArraySource
from tests.support.rasters import (
    SMALL_BLOCKS,
    UTM,
    Pixels,
    change_of,
    files_under,
    grid,
    is_valid_cog,
    load,
    probabilities,
    probability_of,
)
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.pixels.pyramid import average, level_shapes, pool
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.cog import ChangeRaster, CogOptions, ProbabilityRaster, write


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((1301, 2750), 256),
        ((1, 1), 512),
        ((40, 17), 16),
        ((256, 256), 256),
        ((257, 256), 256),
        ((3, 5000), 128),
        ((900, 700), 1024),
        ((4099, 4700), 512),
    ],
)
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_change_is_exact_at_every_level(
    tmp_path: Path, shape: tuple[int, int], block: int, compression: Any
) -> None:
    values = probabilities(shape)
    path = change_of(values, tmp_path, CogOptions(compression, block, 2))
    expected: Pixels = classify(values, 0.5)
    assert is_valid_cog(path)
    np.testing.assert_array_equal(load(path), expected)
    with rasterio.open(path) as raster:
        assert raster.compression.name == compression
        assert raster.block_shapes == [(block, block)]
        assert len(raster.overviews(1)) == len(level_shapes(shape, block))
    for level in range(len(level_shapes(shape, block))):
        expected = pool(expected)
        np.testing.assert_array_equal(load(path, level), expected)
    assert files_under(tmp_path) == {"change.tif"}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("shape", "block"), [((1301, 2750), 256), ((20, 30), 512), ((900, 700), 1024)])
def test_probability_is_exact(tmp_path: Path, dtype: str, shape: tuple[int, int], block: int) -> None:
    values = probabilities(shape, dtype)
    path = probability_of(values, tmp_path, CogOptions("zstd", block, 2))
    assert is_valid_cog(path)
    np.testing.assert_array_equal(load(path), values)
    with rasterio.open(path) as raster:
        assert raster.descriptions == ("change_probability",)
        assert len(raster.overviews(1)) == len(level_shapes(shape, block))
        assert raster.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == ("2" if dtype == "uint8" else "3")
    assert files_under(tmp_path) == {"probability.tif"}


def of_gdal(values: Pixels, folder: Path, options: CogOptions) -> Path:
    """Write the same probabilities with GDAL's own driver."""
    whole, path = folder / "whole.tif", folder / "gdal.tif"
    rows, cols = values.shape
    with rasterio.open(
        whole, "w", driver="GTiff", height=rows, width=cols, count=1, dtype=values.dtype,
        nodata=255 if values.dtype == np.uint8 else np.nan, transform=UTM, crs="EPSG:32632",
    ) as raster:  # fmt: skip
        raster.write(values, 1)
    rasterio.shutil.copy(
        str(whole), str(path), driver="COG", COMPRESS=options.compression, BLOCKSIZE=options.block_size,
        PREDICTOR="YES", OVERVIEW_RESAMPLING="AVERAGE",
        OVERVIEW_COUNT=len(level_shapes((rows, cols), options.block_size)),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("options", [CogOptions("deflate", 128), CogOptions("zstd", 512, 2)])
def test_probability_is_as_from_gdal(tmp_path: Path, dtype: str, options: CogOptions) -> None:
    shape = (2048, 3072)
    values = np.random.default_rng(5).integers(0, 255, shape, dtype=np.uint8)
    values[np.random.default_rng(6).random(shape) < 0.3] = 255
    values[:1024, :2048] = 9
    values[1024:1536, :] = 255
    if dtype == "float32":
        values = decode(values) * np.random.default_rng(7).random(shape, dtype=np.float32)
    path, expected = probability_of(values, tmp_path, options), of_gdal(values, tmp_path, options)
    for level in (None, *range(len(level_shapes(shape, options.block_size)))):
        np.testing.assert_array_equal(load(path, level), load(expected, level))
    with rasterio.open(path) as found, rasterio.open(expected) as reference:
        assert found.tags(ns="IMAGE_STRUCTURE") == reference.tags(ns="IMAGE_STRUCTURE")
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.overviews(1) == reference.overviews(1)
        assert (found.crs, found.transform, found.block_shapes) == (
            reference.crs, reference.transform, reference.block_shapes,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_a_large_file_is_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, compression: Any
) -> None:
    values = probabilities((1301, 1750), dtype)
    options = CogOptions(compression, 256)
    classic = probability_of(values, tmp_path, options).read_bytes()
    # One byte more than the limit.
    monkeypatch.setattr(tiff, "lay_out", partial(tiff.lay_out, classic_limit=len(classic) - 1))
    path = probability_of(values, tmp_path, options)
    assert (classic[2], path.read_bytes()[2]) == (42, 43)
    assert is_valid_cog(path)
    np.testing.assert_array_equal(load(path), values)
    for level in range(len(level_shapes((1301, 1750), 256))):
        values = average(values)
        np.testing.assert_array_equal(load(path, level), values)
    with rasterio.open(path) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    monkeypatch.setattr(tiff, "lay_out", partial(tiff.lay_out, classic_limit=len(classic)))
    assert probability_of(values, tmp_path, options).read_bytes()[2] == 42


def test_one_pass_writes_both_rasters(tmp_path: Path) -> None:
    values = probabilities((1301, 1750))
    alone = [change_of(values, tmp_path).read_bytes(), probability_of(values, tmp_path).read_bytes()]
    source = ArraySource(values)
    rasters = [ProbabilityRaster(tmp_path / "p.tif", {}), ChangeRaster(tmp_path / "c.tif", {}, 0.5)]
    counts = write(source, grid(source.shape), rasters, tmp_path / "s", SMALL_BLOCKS)
    assert counts is not None
    assert counts.changed == (classify(values, 0.5) == 1).sum()
    assert [(tmp_path / name).read_bytes() for name in ("c.tif", "p.tif")] == alone
    assert sum(box.pixels for box in source.reads) == values.size


def test_another_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(9, 8\)"):
        change_of(probabilities((9, 9)), tmp_path, geobox=grid((9, 8)))
