"""Masks of the small images in :mod:`tests.support.images`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, SHAPE, UTM
from ussfc.pipeline.reading.date_masks import DateMask
from ussfc.pipeline.reading.mask_files import MaskChoice, find_mask

GRID = GeoBox(SHAPE, AFFINE, UTM)


def write_mask(
    path: Path, values: np.ndarray, transform: Affine = AFFINE, crs: str | None = UTM, **extra: object
) -> str:
    """Write a raster of one band."""
    profile = {
        "driver": "GTiff", "count": 1, "dtype": values.dtype, "height": values.shape[0], "width": values.shape[1],
        "crs": crs, "transform": transform, **extra,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)
    return str(path)


def found_mask(
    uri: str,
    kind: str = "auto",
    classes: tuple[int, ...] | None = None,
    distance: float = 0,
    grid: GeoBox = GRID,
) -> DateMask:
    """Return the mask of the earlier date on a grid."""
    mask, notes, _ = find_mask(MaskChoice(uri, kind, classes, distance, "before"), grid, SHAPE)
    assert notes == []
    return mask
