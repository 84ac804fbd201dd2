"""Warp of the parts of a file in which every pixel is valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from ussfc.pipeline.reading.warp import WARP_BLOCK, source_reach, warped_view, without_nodata
from ussfc.pipeline.tiling.grid import crop
from ussfc.pipeline.types import BoolArray, Box, FloatArray

LARGEST_WINDOW = 4 * WARP_BLOCK**2
"""Most pixels of a file that are looked at for one block of the grid; of finer files a mask is cheaper."""

KINDS = (frozenset({MaskFlags.nodata}), frozenset({MaskFlags.all_valid}))
"""Masks of a band that follow from its numbers."""


class ValidWarp:
    """A warped view of a file for blocks of the grid whose source pixels are all valid.

    GDAL's warp takes four times as long where it minds nodata, and warps the bands that nobody reads. Without either
    the numbers are the same, to the last bit.
    """

    def __init__(
        self,
        source: Any,
        bands: Sequence[int],
        resampling: Resampling,
        own: GeoBox,
        grid: GeoBox,
        target: dict[str, Any],
        overview: int | None,
    ) -> None:
        """Open nothing yet.

        Args:
            source: the open file; see :meth:`serves`.
            bands: numbers of the bands to be read, from 1.
            resampling: kernel.
            own: grid of the file, its longitudes counted as the grid's are.
            grid: the common grid.
            target: grid, CRS and warp options, of :func:`ussfc.pipeline.reading.warp.warped_view`.
            overview: level of the file's overviews that is open in its place; None: the file itself.
        """
        self._source, self._bands, self._overview = source, bands, overview
        self._resampling, self._own, self._grid, self._target = resampling, own, grid, target
        self._numbers = list(range(1, len(bands) + 1))
        self._nodata = [source.nodatavals[index - 1] for index in bands]
        self._marked_apart = len(set(source.nodatavals)) > 1
        self._floating = any(np.dtype(dtype).kind == "f" for dtype in source.dtypes)
        self._always = not self._floating and set(source.nodatavals) == {None}
        self._copy: Any = None
        self._view: Any = None

    @staticmethod
    def serves(source: Any) -> bool:
        """Return True if the numbers of an open file alone decide which of its pixels are valid."""
        kinds = {frozenset(flags) for flags in source.mask_flag_enums}
        return ColorInterp.alpha not in source.colorinterp and len(kinds) == 1 and kinds <= set(KINDS)

    def read(self, block: Box) -> tuple[FloatArray, bool] | None:
        """Read a block of the grid.

        Returns:
            The numbers, (bands, rows, cols) float32, and True if the block lies inside the file with all that its
            kernels reach; None where a pixel that they may reach is not valid.
        """
        reach = source_reach(self._own, crop(self._grid, block))
        needed = reach.intersect(Box(0, 0, *self._own.shape))
        if not 0 < needed.pixels <= LARGEST_WINDOW:
            return None
        if self._view is None:
            self._copy = without_nodata(self._source, self._bands, self._overview)
            self._view = warped_view(self._copy, self._resampling, **self._target)
        if not self._all_valid(_window(needed)):
            return None
        values = self._view.read(self._numbers, window=_window(block), out_dtype="float32")
        return values, needed == reach

    def _all_valid(self, window: Window) -> bool:
        """Return True if every pixel of a part of the file is valid."""
        if self._always:
            return True
        valid: BoolArray | None = None
        for number, nodata in enumerate(self._nodata, 1):
            band = self._copy.read(number, window=window)
            if self._floating and not np.isfinite(band).all():
                return False
            own = np.ones(band.shape, bool) if nodata is None else band != nodata
            # A pixel is missing when it is so in all bands; where each has a mark of its own, in any of them.
            valid = own if valid is None else valid & own if self._marked_apart else valid | own
            if valid.all() and not self._marked_apart and not self._floating:
                return True
        return valid is not None and bool(valid.all())

    def close(self) -> None:
        """Close the view and the copy of the file."""
        if self._view is not None:
            self._view.close()
            self._copy.close()
            self._view = self._copy = None


def _window(box: Box) -> Window:
    return Window(box.x0, box.y0, box.shape[1], box.shape[0])
