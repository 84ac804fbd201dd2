"""Warp of source pixels onto one block of the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.warp
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.reading.warp import KERNEL_MARGIN, WARP_TOLERANCE, crs_wkt, keeps_scale, source_reach
from ussfc.pipeline.tiling.grid import crop, warp_crs, warp_scale
from ussfc.pipeline.types import BoolArray, Box, FloatArray


class BlockWarp:
    """Warps the pixels of a source onto the fixed blocks of the grid; safe to use from several threads."""

    def __init__(self, source: GeoBox, grid: GeoBox, resampling: Resampling) -> None:
        """Prepare for a source.

        Args:
            source: its grid, longitudes counted as those of ``grid`` are.
            grid: the common grid.
            resampling: kernel; the validity is always taken from the nearest pixel.
        """
        self._source, self._grid, self._resampling = source, grid, resampling
        self._keeps_scale = keeps_scale(source, grid)
        self._options = {
            "src_crs": warp_crs(source),
            "dst_crs": crs_wkt(grid),
            "tolerance": WARP_TOLERANCE,
            **warp_scale(source, grid),
        }

    def needed(self, block: Box) -> Box:
        """Return the pixels of the source that a block needs; may be empty."""
        return self._reach(block).intersect(Box(0, 0, *self._source.shape))

    def warp(
        self, image: npt.NDArray[Any], valid: BoolArray, held: Box, block: Box
    ) -> tuple[FloatArray, BoolArray]:
        """Warp onto a block.

        Args:
            image: (bands, rows, cols) numbers of the source: small integers or float32.
            valid: (rows, cols), False where a pixel is missing.
            held: pixels of the source that these are, some at least: all or a part of :meth:`needed`.
            block: of the grid.

        Returns:
            The numbers, (bands, rows, cols) float32, any where a pixel is missing, and the validity, (rows, cols).
        """
        all_valid = bool(valid.all())
        # GDAL takes four times as long where it minds nodata, for the same numbers.
        plain = all_valid and self._keeps_scale and min(held.shape) >= 2 * KERNEL_MARGIN
        warped: FloatArray = np.full((len(image), *block.shape), np.nan, np.float32)
        grids = {
            "src_transform": crop(self._source, held).affine,
            "dst_transform": crop(self._grid, block).affine,
            **self._options,
        }
        # Pixels without data must not enter the kernel of their neighbours.
        marked = image if plain else np.where(valid, image, np.float32(np.nan))
        marks = {} if plain else {"src_nodata": np.nan, "dst_nodata": np.nan}
        near = np.zeros(block.shape, np.uint8)
        # rasterio ignores this warning about its own arrays, which a second thread ends for the first.
        with ignored_warnings(NotGeoreferencedWarning):
            rasterio.warp.reproject(marked, warped, resampling=self._resampling, **marks, **grids)
            if plain and held == self._reach(block):
                return warped, np.ones(block.shape, np.bool_)
            rasterio.warp.reproject(valid.astype(np.uint8), near, resampling=Resampling.nearest, **grids)
        return warped, near > 0

    def _reach(self, block: Box) -> Box:
        return source_reach(self._source, crop(self._grid, block))
