"""Open GDAL datasets of one thread, seen on the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from ussfc.pipeline.reading.block_warp import BlockWarp
from ussfc.pipeline.reading.masks import SMALL_INTEGERS, NodataMarks, fill_invalid, read_validity
from ussfc.pipeline.reading.shared_blocks import BlockGrid
from ussfc.pipeline.reading.warp import (
    WARP_BLOCK,
    crs_wkt,
    keeps_scale,
    unify_nodata,
    warp_blocks,
    warped_view,
)
from ussfc.pipeline.tiling.grid import near_longitudes, north_up, pixel_shift, warp_crs, warp_scale
from ussfc.pipeline.types import BoolArray, Box, FloatArray, Pixels

SMALLEST_BLOCK = 64
"""Least side of a file's blocks that tiles share, pixels; the lines of a file without blocks are not shared."""

LARGEST_BLOCK = 1024
"""Largest side likewise: a window does not need much more than itself."""


class RasterHandles:
    """The open file, and its warped views if the grid needs them. Serves one thread."""

    def __init__(
        self,
        source: Any,
        grid: GeoBox,
        bands: tuple[int, ...],
        resampling: Resampling,
        overview: int | None = None,
    ) -> None:
        """Take over an open file.

        Args:
            source: the file; :meth:`close` closes it.
            grid: the common grid.
            bands: numbers of the bands to be read, from 1.
            resampling: kernel for imagery; the validity is always taken from the nearest pixel.
            overview: level of the file's overviews, from 0, that is open in its place; None: the file itself.
        """
        self._file = source
        by_points = source.crs is None and bool(source.gcps[0]) and grid.crs is not None
        if by_points:
            # rasterio drops the control points when a target transform is given, so they go first and alone.
            source = warped_view(source, resampling, crs=source.gcps[1])
        self.source = source
        self._bands = bands
        self._marks = NodataMarks.of(source, bands)
        kinds = {source.dtypes[index - 1] for index in bands}
        common = np.result_type(*kinds).name
        self._dtype = common if common in SMALL_INTEGERS else "float32"
        self._mixed = len(kinds) > 1
        self._shift = None
        self._grid = grid
        if grid.crs is None:
            self._shift = pixel_shift(GeoBox(source.shape, Affine.identity(), None), grid)
        elif source.crs is not None and north_up(source.transform) and not by_points:
            self._shift = pixel_shift(_geobox(source), grid)
        self._block_warp: BlockWarp | None = None
        self._views: list[Any] = []
        if self._shift is None:
            own = None if source.crs is None else near_longitudes(_geobox(source), grid)
            if own is not None and self._marks is not None and not by_points and keeps_scale(own, grid):
                self._block_warp = BlockWarp(own, grid, resampling)
            else:
                apart = len(set(source.nodatavals)) > 1 and not by_points
                warpable = unify_nodata(source, overview) if apart else source
                views = [warped_view(warpable, kernel, **_target(grid, own, source))
                         for kernel in (resampling, Resampling.nearest)]  # fmt: skip
                self._views = [*views, *([warpable] if apart else [])]

    def close(self) -> None:
        """Close the views and the file."""
        for view in self._views:
            view.close()
        self.source.close()
        self._file.close()

    @property
    def blocks(self) -> BlockGrid | None:
        """Parts of the grid that are decoded, or warped, as a whole; None where one is a large part of the file."""
        if self._shift is None:
            return BlockGrid((0, 0), (WARP_BLOCK, WARP_BLOCK))
        sizes = {self.source.block_shapes[index - 1] for index in self._bands}
        size = sizes.pop()
        # A VRT's blocks are none of the files that it leads to.
        if sizes or max(size) > LARGEST_BLOCK or min(size) < SMALLEST_BLOCK or self.source.driver == "VRT":
            return None
        return BlockGrid((-self._shift[0], -self._shift[1]), size)

    def empty(self, shape: tuple[int, int]) -> Pixels:
        """Return arrays for a window of (rows, cols), with any content."""
        dtype = self._dtype if self._shift is not None else "float32"
        return Pixels(np.empty((len(self._bands), *shape), dtype), np.empty(shape, np.bool_))

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box`` on the grid."""
        target = self.empty(box.shape)
        self.read_into(box, target)
        return target

    def read_into(self, box: Box, target: Pixels) -> None:
        """Read the pixels of ``box`` on the grid into arrays of its shape."""
        (self._read_warped if self._shift is None else self._read_plain)(box, target)
        fill_invalid(target.values, target.valid)

    def _read_warped(self, box: Box, into: Pixels) -> None:
        for block in warp_blocks(box, (self._grid.shape[0], self._grid.shape[1])):
            common = block.intersect(box)
            target, part = common.within(box).slices, common.within(block).slices
            image, valid = self._warped(block)
            into.values[(slice(None), *target)] = image[(slice(None), *part)]
            into.valid[target] = valid[part]

    def _warped(self, block: Box) -> tuple[FloatArray, BoolArray]:
        """Read a block of the grid: numbers, (bands, rows, cols) float32, and validity, (rows, cols)."""
        if self._block_warp is None:
            image, mask = self._views[:2]
            window = Window(block.x0, block.y0, block.shape[1], block.shape[0])
            return image.read(self._bands, window=window, out_dtype="float32"), read_validity(mask, window)
        needed = self._block_warp.needed(block)
        if not needed.pixels:
            shape = len(self._bands), *block.shape
            return np.zeros(shape, np.float32), np.zeros(block.shape, np.bool_)
        found = Pixels(
            np.empty((len(self._bands), *needed.shape), self._dtype), np.empty(needed.shape, np.bool_)
        )
        self._read_source(needed, found)
        return self._block_warp.warp(found.values, found.valid, needed, block)

    def _read_plain(self, box: Box, into: Pixels) -> None:
        assert self._shift is not None
        rows, cols = self._shift
        asked = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        common = asked.intersect(Box(0, 0, *self.source.shape))
        if common == asked and common.pixels:
            self._read_source(common, into)
            return
        into.values[:] = 0
        into.valid[:] = False
        if common.pixels:
            target = common.within(asked).slices
            self._read_source(common, Pixels(into.values[(slice(None), *target)], into.valid[target]))

    def _read_source(self, part: Box, into: Pixels) -> None:
        """Read a part of the file, in its own pixels."""
        window = Window(part.x0, part.y0, part.shape[1], part.shape[0])
        if self._mixed:
            # rasterio reads no two types at once.
            for index, band in zip(self._bands, into.values, strict=True):
                self.source.read(index, window=window, out=band)
        else:
            self.source.read(self._bands, window=window, out=into.values)
        if self._marks is None:
            into.valid[:] = read_validity(self.source, window)
        else:
            into.valid[:] = self._marks.valid(self.source, window, into.values)


def _target(grid: GeoBox, own: GeoBox | None, source: Any) -> dict[str, Any]:
    """Return grid, CRS and options of a warped view of a file.

    Args:
        grid: the common grid.
        own: the file's, its longitudes counted as those of ``grid`` are; None: it has no CRS.
        source: the file.
    """
    target = {"transform": grid.affine, "height": grid.shape[0], "width": grid.shape[1], "crs": crs_wkt(grid)}
    if own is None:
        return target
    target |= warp_scale(own, grid)
    if own.affine != source.transform or own.boundingbox.right > 180 or own.boundingbox.left < -180:
        target |= {"src_transform": own.affine, "src_crs": warp_crs(own)}
    return target


def _geobox(source: Any) -> GeoBox:
    """Return the grid of an open file that has a CRS."""
    return GeoBox(source.shape, source.transform, str(source.crs.to_wkt()))
