"""Cloud optimised images that compress as imagery does, and readers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox

from tests.support.paths import DEMO
from ussfc.pipeline.reading import SceneRecipe
from ussfc.pipeline.types import Box, Pixels, SceneReader

NODATA = 0

BOX = Box(300, 400, 1100, 1250)
"""A window of the small image of the tests."""


def city(side: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the demo image repeated with noise, as bands and as the profile to write it."""
    with rasterio.open(DEMO / "beirut_before.tif") as source:
        image, profile = source.read(), source.profile
    unit = np.tile(image, (1, 2, 2)).astype(np.int32)
    noise = np.random.default_rng(1).normal(0, 8, unit.shape).round().astype(np.int32)
    unit = np.clip(unit + noise, 1, 10_000).astype(np.uint16)
    times = -(-side // unit.shape[1])
    values = np.tile(unit, (1, times, times))[:, :side, :side]
    values[:, :200, :300] = NODATA
    return values, profile | {"width": side, "height": side, "nodata": NODATA}


def write_cog(path: Path, side: int, **options: Any) -> Path:
    """Write :func:`city` as a cloud optimised GeoTIFF, with options of GDAL's driver."""
    values, profile = city(side)
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", **profile | {"compress": None, "tiled": True, "interleave": "pixel"}) as t:
        t.write(values)
    settings = {"blocksize": 512, "compress": "DEFLATE", "predictor": "YES", "num_threads": "2"}
    rasterio.shutil.copy(plain, path, driver="COG", **settings | options)
    plain.unlink()
    return path


def compressed_bytes(path: Path, roi: Box) -> int:
    """Return the bytes of all full-resolution blocks of a file that a box touches, each counted once."""
    with rasterio.open(path) as source:
        return sum(
            int(source.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1))
            for y in range(roi.y0 // 512, -(-roi.y1 // 512))
            for x in range(roi.x0 // 512, -(-roi.x1 // 512))
        )


def opened(uri: str | Path, grid: GeoBox, bands: tuple[int, ...] = (1, 2, 3)) -> SceneReader:
    """Return an open reader of three bands on a grid."""
    return SceneRecipe(str(uri), grid, bands, "bilinear").open()


def assert_same(found: Pixels, expected: Pixels) -> None:
    """Compare values and validity exactly."""
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)
