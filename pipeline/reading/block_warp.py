"""Warp of source pixels onto one block of the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.session import DummySession
from rasterio.vrt import WarpedVRT

from ussfc.pipeline.reading.warp import KERNEL_MARGIN, WARP_TOLERANCE, crs_wkt, keeps_scale, source_reach
from ussfc.pipeline.tiling.grid import crop, warp_crs, warp_scale
from ussfc.pipeline.types import BoolArray, Box, FloatArray

MOST_PIXELS = 1 << 21
"""Pixels of all bands that are warped at once where some are missing: they are copied as float32, 8 MB."""


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
            "crs": crs_wkt(grid),
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
        # GDAL takes four times as long where it minds nodata, for the same numbers.
        plain = bool(valid.all()) and self._keeps_scale and min(held.shape) >= 2 * KERNEL_MARGIN
        if plain:
            warped = self._view(image, None, self._resampling, held, block)
            if held == self._reach(block):
                return warped, np.ones(block.shape, np.bool_)
        else:
            warped = np.empty((len(image), *block.shape), np.float32)
            step = max(1, MOST_PIXELS // valid.size)
            for start in range(0, len(image), step):
                bands = slice(start, start + step)
                # Pixels without data must not enter the kernel of their neighbours.
                marked = np.where(valid, image[bands], np.float32(np.nan))
                warped[bands] = self._view(marked, np.nan, self._resampling, held, block)
        near = self._view(valid[np.newaxis].astype(np.uint8), None, Resampling.nearest, held, block)
        return warped, near[0] > 0

    def _view(
        self, image: npt.NDArray[Any], nodata: float | None, resampling: Resampling, held: Box, block: Box
    ) -> FloatArray:
        """Warp (bands, rows, cols) through a file in memory: of arrays rasterio makes sessions of boto3 each time."""
        bands, rows, cols = image.shape
        target = crop(self._grid, block)
        with rasterio.Env(DummySession()), MemoryFile() as memory:
            with memory.open(
                driver="GTiff", count=bands, height=rows, width=cols, dtype=image.dtype, nodata=nodata,
                interleave="band", blockysize=rows,
                # Else the last of four bands of bytes is one of opacity.
                photometric="MINISBLACK", alpha="unspecified",
                # Any, or rasterio warns: the warp is told the place of the pixels.
                transform=Affine.scale(2.0),
            ) as file:  # fmt: skip
                file.write(image)
            with (
                memory.open() as source,
                WarpedVRT(
                    source, src_transform=crop(self._source, held).affine, resampling=resampling,
                    src_nodata=nodata, nodata=nodata, dtype="float32", transform=target.affine,
                    height=block.shape[0], width=block.shape[1], **self._options,
                ) as view,
            ):  # fmt: skip
                return np.asarray(view.read(), np.float32)

    def _reach(self, block: Box) -> Box:
        return source_reach(self._source, crop(self._grid, block))
