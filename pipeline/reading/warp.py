"""Warps onto the grid, by fixed blocks so that the answer does not depend on the window that is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
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


def unify_nodata(source: Any) -> Any:
    """Open a virtual copy of a file in which one number marks nodata in every band.

    GDAL's warp takes one number for all bands. Here NaN takes the place of each band's own; a band without a mark is
    valid everywhere.

    Args:
        source: an open file whose bands have different marks.
    """
    # float32 holds the integers of up to 16 bits exactly.
    wide = any(np.dtype(dtype).itemsize > 2 and dtype != "float32" for dtype in source.dtypes)
    rows, cols = source.shape
    window = f'xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"'
    bands = []
    for index, nodata in zip(source.indexes, source.nodatavals, strict=True):
        mark = "" if nodata is None else f"<NODATA>{nodata!r}</NODATA>"
        bands.append(
            f'<VRTRasterBand dataType="{"Float64" if wide else "Float32"}" band="{index}">'
            "<NoDataValue>nan</NoDataValue><ComplexSource>"
            f'<SourceFilename relativeToVRT="0">{escape(source.name)}</SourceFilename>'
            f"<SourceBand>{index}</SourceBand><SrcRect {window}/><DstRect {window}/>{mark}</ComplexSource>"
            "</VRTRasterBand>"
        )
    transform = ", ".join(repr(value) for value in source.transform.to_gdal())
    crs = "" if source.crs is None else f"<SRS>{escape(source.crs.to_wkt())}</SRS>"
    return rasterio.open(
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}">{crs}<GeoTransform>{transform}</GeoTransform>'
        f"{''.join(bands)}</VRTDataset>"
    )


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
        dtype="float64" if "float64" in source.dtypes else "float32",
        # A pixel is nodata when all its bands are: 0 in one band of a colour image is a number.
        UNIFIED_SRC_NODATA="YES",
        **target,
    )
