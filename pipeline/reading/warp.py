"""Warps onto the grid, by fixed blocks so that the answer does not depend on the window that is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from ussfc.pipeline.types import Box

WARP_BLOCK = 512
"""Side of the fixed blocks of a warp, anchored at the grid's origin, pixels."""

WARP_TOLERANCE = 0.01
"""Largest error of GDAL's interpolated coordinates within a block, source pixels."""


def warp_blocks(box: Box, shape: tuple[int, int]) -> Iterator[Box]:
    """Yield the fixed blocks of the grid that touch ``box``, row by row, cut to the grid's (rows, cols)."""
    for y in range(box.y0 // WARP_BLOCK * WARP_BLOCK, box.y1, WARP_BLOCK):
        for x in range(box.x0 // WARP_BLOCK * WARP_BLOCK, box.x1, WARP_BLOCK):
            yield Box(y, x, min(y + WARP_BLOCK, shape[0]), min(x + WARP_BLOCK, shape[1]))


def crs_wkt(grid: GeoBox) -> str | None:
    """Return the CRS of a grid as WKT, None without one."""
    return None if grid.crs is None else str(grid.crs.to_wkt())


def warped_view(source: Any, resampling: Resampling, **target: Any) -> Any:
    """Return a warped view of an open file; its pixels are computed when they are read.

    Args:
        source: the file.
        resampling: kernel.
        target: grid, CRS and warp options, as ``rasterio.vrt.WarpedVRT`` takes them.
    """
    flags = {flag for band in source.mask_flag_enums for flag in band}
    return WarpedVRT(
        source,
        resampling=resampling,
        src_nodata=source.nodata,
        nodata=source.nodata,
        # A mask band (and the outside of a file without any nodata) only survives a warp as alpha.
        add_alpha=not flags & {MaskFlags.nodata, MaskFlags.alpha}
        and ColorInterp.alpha not in source.colorinterp,
        tolerance=WARP_TOLERANCE,
        dtype="float64" if source.dtypes[0] == "float64" else "float32",
        # A pixel is nodata when all its bands are: 0 in one band of a colour image is a number.
        UNIFIED_SRC_NODATA="YES",
        **target,
    )
