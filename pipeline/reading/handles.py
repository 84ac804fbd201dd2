"""Open GDAL datasets of one thread, seen on the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from ussfc.pipeline.reading.masks import SMALL_INTEGERS, NodataMarks, fill_invalid, read_validity
from ussfc.pipeline.reading.warp import crs_wkt, unify_nodata, warp_blocks, warped_view
from ussfc.pipeline.tiling.grid import near_longitudes, north_up, pixel_shift, warp_crs, warp_scale
from ussfc.pipeline.types import Box, Pixels


class RasterHandles:
    """The open file, and its warped views if the grid needs them. Serves one thread."""

    def __init__(self, source: Any, grid: GeoBox, bands: tuple[int, ...], resampling: Resampling) -> None:
        """Take over an open file.

        Args:
            source: the file; :meth:`close` closes it.
            grid: the common grid.
            bands: numbers of the bands to be read, from 1.
            resampling: kernel for imagery; the validity is always taken from the nearest pixel.
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
        if grid.crs is None:
            self._shift = pixel_shift(GeoBox(source.shape, Affine.identity(), None), grid)
        elif source.crs is not None and north_up(source.transform) and not by_points:
            self._shift = pixel_shift(_geobox(source), grid)
        if self._shift is None:
            target = {"transform": grid.affine, "height": grid.shape[0], "width": grid.shape[1]}
            target["crs"] = crs_wkt(grid)
            if source.crs is not None:
                own = near_longitudes(_geobox(source), grid)
                target |= warp_scale(own, grid)
                if (
                    own.affine != source.transform
                    or own.boundingbox.right > 180
                    or own.boundingbox.left < -180
                ):
                    target |= {"src_transform": own.affine, "src_crs": warp_crs(own)}
            self._unified = (
                unify_nodata(source) if len(set(source.nodatavals)) > 1 and not by_points else None
            )
            warpable = self._unified or source
            self._image = warped_view(warpable, resampling, **target)
            self._mask = warped_view(warpable, Resampling.nearest, **target)

    def close(self) -> None:
        """Close the views and the file."""
        if self._shift is None:
            self._image.close()
            self._mask.close()
            if self._unified is not None:
                self._unified.close()
        self.source.close()
        self._file.close()

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box`` on the grid."""
        values, valid = self._read_plain(box) if self._shift is not None else self._read_warped(box)
        return fill_invalid(values, valid)

    def _read_warped(self, box: Box) -> tuple[Any, Any]:
        values = np.zeros((len(self._bands), *box.shape), np.float32)
        valid = np.zeros(box.shape, bool)
        for block in warp_blocks(box, self._image.shape):
            window = Window(block.x0, block.y0, block.shape[1], block.shape[0])
            common = block.intersect(box)
            target, part = common.within(box).slices, common.within(block).slices
            image = self._image.read(self._bands, window=window, out_dtype="float32")
            values[(slice(None), *target)] = image[(slice(None), *part)]
            valid[target] = read_validity(self._mask, window)[part]
        return values, valid

    def _read_plain(self, box: Box) -> tuple[Any, Any]:
        assert self._shift is not None
        rows, cols = self._shift
        asked = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        common = asked.intersect(Box(0, 0, *self.source.shape))
        if common == asked and common.pixels:
            return self._read_source(common)
        values = np.zeros((len(self._bands), *box.shape), self._dtype)
        valid = np.zeros(box.shape, bool)
        if common.pixels:
            target = common.within(asked).slices
            values[(slice(None), *target)], valid[target] = self._read_source(common)
        return values, valid

    def _read_source(self, part: Box) -> tuple[Any, Any]:
        """Read a part of the file, in its own pixels."""
        window = Window(part.x0, part.y0, part.shape[1], part.shape[0])
        if self._mixed:
            # rasterio reads no two types at once.
            bands = [self.source.read(index, window=window, out_dtype=self._dtype) for index in self._bands]
            values = np.stack(bands)
        else:
            values = self.source.read(self._bands, window=window, out_dtype=self._dtype)
        if self._marks is None:
            return values, read_validity(self.source, window)
        return values, self._marks.valid(self.source, window, values)


def _geobox(source: Any) -> GeoBox:
    """Return the grid of an open file that has a CRS."""
    return GeoBox(source.shape, source.transform, str(source.crs.to_wkt()))
