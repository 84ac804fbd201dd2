"""Tiles of the layers of a map: cut from the products and from both dates, on the grid of the run."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.report.overviews import averaged, largest, mapped
from ussfc.pipeline.report.pictures import colored, webp
from ussfc.pipeline.report.thumbnails import Presentation
from ussfc.pipeline.runs.pair import ScenePair
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.grid import crop
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import (
    NODATA_BYTE,
    PROBABILITY_STEPS,
    Box,
    ByteArray,
    Pixels,
    SceneReader,
)

SIDE = 256
"""Side of a tile, pixels."""

MOST_AVERAGED = 2048
"""Side of the ground below a tile up to which a scene without overviews is read and averaged, pixels."""

KEPT = 400
"""Encoded tiles that are kept."""

DATES = ("before", "after")


def levels(shape: tuple[int, int]) -> int:
    """Return the number of zoom levels: level 0 has the pixels of the grid, the last one fits a tile."""
    return 1 + max(0, math.ceil(math.log2(max(shape) / SIDE)))


def tile_box(level: int, row: int, column: int, shape: tuple[int, int]) -> Box:
    """Return the pixels of the grid below a tile; empty outside the grid."""
    side = SIDE << level
    box = Box(row * side, column * side, (row + 1) * side, (column + 1) * side)
    return box.intersect(Box(0, 0, *shape))


@dataclass
class TileSource:
    """Reads tiles, and keeps the last ones."""

    out: Folder
    shape: tuple[int, int]
    """(rows, cols) of the grid."""
    pair: ScenePair | None
    """Both dates; None where they cannot be read."""
    presentation: Presentation | None
    """Their colours."""
    _kept: OrderedDict[tuple[object, ...], bytes] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        """Make the readers, which open their files for each thread."""
        self._readers: tuple[SceneReader, SceneReader] | None = None
        if self.pair is not None:
            self._readers = self.pair.recipes[0].open(), self.pair.recipes[1].open()

    def tile(self, layer: str, level: int, row: int, column: int) -> bytes | None:
        """Return a tile: WebP of a date, or rows of bytes of the probabilities; None where there is none.

        Probabilities are times 254, 255 without data; pixels beyond the grid are without data.

        Args:
            layer: ``before``, ``after`` or ``probability``.
            level: zoom level, 0 is the full resolution.
            row: of the tile, from the top.
            column: of the tile, from the left.

        Raises:
            ReadError: the file cannot be read.
        """
        if not 0 <= level < levels(self.shape) or min(row, column) < 0:
            return None
        box = tile_box(level, row, column, self.shape)
        if not box.pixels:
            return None
        make: Callable[[], bytes | None]
        if layer in DATES:
            make = lambda: self._date(DATES.index(layer), level, box)  # noqa: E731 - one of two
        elif layer == "probability":
            make = lambda: self._probability(level, box)  # noqa: E731
        else:
            return None
        key = (layer, level, row, column)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = make()
        if found is not None:
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return found

    def _date(self, date: int, level: int, box: Box) -> bytes | None:
        if self._readers is None or self.presentation is None:
            return None
        pixels = self._pixels(date, level, box)
        if pixels is None:
            return None
        views = mapped(pixels, pixels, self.presentation.mappings)
        image = (views.before, views.after)[date]
        picture = colored(image, pixels.valid, self.presentation.bands, self.presentation.ends)
        return webp(_padded(picture))

    def _pixels(self, date: int, level: int, box: Box) -> Pixels | None:
        assert self.pair is not None
        assert self._readers is not None
        reader, grid = self._readers[date], self.pair.recipes[date].grid
        if level == 0:
            return reader.read(box)
        shrink = 1 << level
        shape = -(-box.shape[0] // shrink), -(-box.shape[1] // shrink)
        if isinstance(reader, RasterReader):
            coarse = GeoBox(shape, crop(grid, box).affine * Affine.scale(shrink), grid.crs)
            found = reader.overview(coarse, shrink)
            if found is not None:
                return found
        if max(box.shape) > MOST_AVERAGED:
            return None
        return averaged(_Part(reader, box), box.shape, shrink)

    def _probability(self, level: int, box: Box) -> bytes:
        uri, shown = f"{self.out.address}/{layout.PROBABILITY}", f"{self.out}/{layout.PROBABILITY}"

        def read(_: object) -> ByteArray:
            with opened_raster(uri, shown) as source:
                if source.shape != self.shape:
                    raise ReadError(f"{shown}: is of another grid than run.json; run `ussfc validate`")
                factors = [1, *source.overviews(1)]
            # Overviews are halved, as levels are; the smallest may be larger than the level.
            nearest = max(index for index, factor in enumerate(factors) if factor <= 1 << level)
            options = {"OVERVIEW_LEVEL": nearest - 1} if nearest else {}
            factor = factors[nearest]
            with opened_raster(uri, shown, **options) as source:
                part = [-(-edge // factor) for edge in (box.y0, box.y1, box.x0, box.x1)]
                found = source.read(1, window=((part[0], part[1]), (part[2], part[3])))
            if found.dtype != np.uint8:
                known = np.isfinite(found)
                scaled = np.rint(np.where(known, found, 0) * PROBABILITY_STEPS)
                found = np.where(known, scaled, NODATA_BYTE).astype(np.uint8)
            return largest(found, (1 << level) // factor)

        stored = retry_gdal(
            uri, shown, GDAL_CACHE, read, "cannot be read ({}); run `ussfc validate` on the folder"
        )
        whole = np.full((SIDE, SIDE), NODATA_BYTE, np.uint8)
        whole[: stored.shape[0], : stored.shape[1]] = stored
        return whole.tobytes()


@dataclass(frozen=True)
class _Part:
    """A part of a scene, as a scene of its own."""

    reader: SceneReader
    box: Box

    def read(self, box: Box) -> Pixels:
        y, x = self.box.y0, self.box.x0
        return self.reader.read(Box(box.y0 + y, box.x0 + x, box.y1 + y, box.x1 + x))

    def sample(self, most: int | None = None) -> Pixels:
        return self.reader.sample(most)


def _padded(picture: ByteArray) -> ByteArray:
    """Return a picture of a whole tile; what lies beyond the grid repeats its edge, and is not shown."""
    rows, cols = picture.shape[:2]
    return np.pad(picture, ((0, SIDE - rows), (0, SIDE - cols), (0, 0)), mode="edge")
