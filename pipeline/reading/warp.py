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

from ussfc.pipeline.reading.opening import gdal_name
from ussfc.pipeline.tiling.grid import footprint_box, north_up
from ussfc.pipeline.types import Box

WARP_BLOCK = 512
"""Side of the fixed blocks of a warp, anchored at the grid's origin, pixels."""

WARP_TOLERANCE = 0.01
"""Largest error of GDAL's interpolated coordinates within a block, source pixels."""


KERNEL_MARGIN = 16
"""Source pixels read beyond a warped window, so that no kernel is cut at its border."""

LARGEST_STEP = 2.0
"""Largest ratio of the pixel sizes of grid and source, and of source and grid, that :func:`keeps_scale` accepts."""


LAST_LONGITUDE = 175.0
"""Longitude up to which :func:`keeps_scale` accepts a grid in degrees, east and west."""


def source_reach(source: GeoBox, window: GeoBox) -> Box:
    """Return the pixels of a source that a window of the grid needs, some of them perhaps beyond the source.

    Args:
        source: grid of the source.
        window: part of the common grid.

    Returns:
        An empty box at the origin where the window shows nothing of the source.
    """
    hull = footprint_box(window, source)
    return hull.grown(KERNEL_MARGIN) if hull.pixels else Box(0, 0, 0, 0)


def keeps_scale(source: GeoBox, grid: GeoBox) -> bool:
    """Return True if a warp is a shift with a change of scale by two at most, of a source larger than its kernels.

    Such a warp gives the same numbers whether GDAL minds nodata or not, where all pixels are valid. In other ones an
    outline does not show which pixels a block needs (a pole inside it, ground that a projection lacks), kernels reach
    far, or are larger than the source.
    """
    if source.crs != grid.crs or min(source.shape) < 2 * KERNEL_MARGIN:
        return False
    if grid.crs is not None and grid.crs.geographic:
        # Outlines of blocks are cut where longitudes begin again.
        ends = [abs(end) for box in (source.boundingbox, grid.boundingbox) for end in (box.left, box.right)]
        if max(ends) > LAST_LONGITUDE:
            return False
    if not (north_up(source.affine) and north_up(grid.affine)):
        return False
    steps = (grid.affine.a / source.affine.a, grid.affine.e / source.affine.e)
    return all(1 / LARGEST_STEP <= step <= LARGEST_STEP for step in steps)


def source_box(source: GeoBox, window: GeoBox) -> Box:
    """Return what a source has of :func:`source_reach`; may be empty."""
    return source_reach(source, window).intersect(Box(0, 0, *source.shape))


def warp_blocks(box: Box, shape: tuple[int, int]) -> Iterator[Box]:
    """Yield the fixed blocks of the grid that touch ``box``, row by row, cut to the grid's (rows, cols)."""
    for y in range(box.y0 // WARP_BLOCK * WARP_BLOCK, box.y1, WARP_BLOCK):
        for x in range(box.x0 // WARP_BLOCK * WARP_BLOCK, box.x1, WARP_BLOCK):
            yield Box(y, x, min(y + WARP_BLOCK, shape[0]), min(x + WARP_BLOCK, shape[1]))


def unify_nodata(source: Any, overview: int | None = None) -> Any:
    """Open a virtual copy of a file in which one number marks nodata in every band.

    GDAL's warp takes one number for all bands. Here NaN takes the place of each band's own; a band without a mark is
    valid everywhere.

    Args:
        source: an open file whose bands have different marks.
        overview: level of its overviews that is open in its place, from 0; None: the file itself.
    """
    # float32 holds the integers of up to 16 bits exactly.
    wide = any(np.dtype(dtype).itemsize > 2 and dtype != "float32" for dtype in source.dtypes)
    rows, cols = source.shape
    window = f'xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"'
    level = "" if overview is None else f'<OOI key="OVERVIEW_LEVEL">{overview}</OOI>'
    bands = []
    for index, nodata in zip(source.indexes, source.nodatavals, strict=True):
        mark = "" if nodata is None else f"<NODATA>{nodata!r}</NODATA>"
        bands.append(
            f'<VRTRasterBand dataType="{"Float64" if wide else "Float32"}" band="{index}">'
            "<NoDataValue>nan</NoDataValue><ComplexSource>"
            f'<SourceFilename relativeToVRT="0">{escape(gdal_name(source.name))}</SourceFilename>'
            f"<OpenOptions>{level}</OpenOptions>"
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
