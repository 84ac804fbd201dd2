"""Warp of the parts of a file in which every pixel is valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from ussfc.pipeline.reading.warp import source_reach, warped_view
from ussfc.pipeline.tiling.grid import crop
from ussfc.pipeline.types import BoolArray, Box, FloatArray


class ValidWarp:
    """A warped view of a file for blocks of the grid whose source pixels are all valid.

    GDAL's warp takes four times as long where it minds nodata, for the same numbers.
    """

    def __init__(
        self,
        source: Any,
        bands: Sequence[int],
        nodata: int,
        resampling: Resampling,
        own: GeoBox,
        grid: GeoBox,
        target: dict[str, Any],
    ) -> None:
        """Open a view of an open file whose small integers alone decide which pixels are valid.

        Args:
            source: the file.
            bands: numbers of the bands to be read, from 1.
            nodata: number that marks nodata in all of them.
            resampling: kernel.
            own: grid of the file, its longitudes counted as the grid's are.
            grid: the common grid, see :func:`ussfc.pipeline.reading.warp.keeps_scale`.
            target: grid, CRS and warp options, of :func:`ussfc.pipeline.reading.warp.warped_view`.
        """
        self._source, self._bands, self._nodata = source, list(bands), nodata
        self._own, self._grid = own, grid
        self._view = warped_view(source, resampling, minds_nodata=False, **target)

    def read(self, block: Box) -> tuple[FloatArray, bool] | None:
        """Read a block of the grid.

        Returns:
            The numbers, (bands, rows, cols) float32, and True if the block lies inside the file with all that its
            kernels reach; None where a pixel that they may reach is not valid.
        """
        reach = source_reach(self._own, crop(self._grid, block))
        needed = reach.intersect(Box(0, 0, *self._own.shape))
        if not needed.pixels or not self._all_valid(_window(needed)):
            return None
        values = self._view.read(self._bands, window=_window(block), out_dtype="float32")
        return values, needed == reach

    def _all_valid(self, window: Window) -> bool:
        """Return True if every pixel of a part of the file has a number in one of the bands."""
        valid: BoolArray | None = None
        for index in self._bands:
            own = self._source.read(index, window=window) != self._nodata
            valid = own if valid is None else valid | own
            if valid.all():
                return True
        return False

    def close(self) -> None:
        """Close the view, not the file."""
        self._view.close()


def _window(box: Box) -> Window:
    return Window(box.x0, box.y0, box.shape[1], box.shape[0])
