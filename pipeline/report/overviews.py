"""A run seen from afar: both dates, classes and probabilities on one coarse grid."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.reading.recipe import SceneRecipe
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import (
    NODATA_BYTE,
    PROBABILITY_STEPS,
    BoolArray,
    Box,
    ByteArray,
    FloatArray,
    Pixels,
    RadiometricMapping,
    SceneReader,
)

MOST_READ = 16_000_000
"""Pixels of a raster's level that is read: under half a second, and the whole raster up to 4000 pixels a side."""

MOST_AVERAGED = 32_000_000
"""Pixels of a scene without overviews that is read whole and averaged; of a larger one no picture is made."""

STRIP = 512
"""Side of the blocks in which such a scene is read, pixels."""


@dataclass(frozen=True)
class ChangeOverview:
    """Classes and probabilities on a coarse grid."""

    classes: ByteArray
    """(rows, cols): 1 where any pixel below is change, else 0 where any is valid, else 255."""
    probability: ByteArray
    """(rows, cols): largest probability of the level below, times 254; 255 without data."""
    histogram: npt.NDArray[np.int64]
    """(255,) valid pixels of the level that was read, by probability times 254."""
    shrink: int
    """Side of a pixel of the overview, pixels of the grid."""
    level: int
    """Side of a pixel of the level that was read, pixels of the grid; 1: the raster itself."""


@dataclass(frozen=True)
class ChangeLevel:
    """Classes and probabilities of the finest level that is small enough to be read whole."""

    classes: ByteArray
    """(rows, cols) as in ``change.tif``."""
    probability: ByteArray
    """(rows, cols) probability times 254; 255 without data."""
    histogram: npt.NDArray[np.int64]
    """(255,) valid pixels by probability times 254."""
    level: int
    """Side of a pixel, pixels of the grid; 1: the rasters themselves."""
    shape: tuple[int, int]
    """(rows, cols) of the grid."""

    def overview(self, most_side: int) -> ChangeOverview:
        """Return an overview with a longest side of at most so many pixels."""
        factor = math.ceil(max(self.shape) / (most_side * self.level))
        return ChangeOverview(
            largest(self.classes, factor),
            largest(self.probability, factor),
            self.histogram,
            self.level * factor,
            self.level,
        )


def read_level(out: Folder, shape: tuple[int, int]) -> ChangeLevel:
    """Read both rasters of a run, at the finest level of at most :data:`MOST_READ` pixels.

    Args:
        out: output folder.
        shape: (rows, cols) of the grid.

    Raises:
        ReadError: a raster cannot be read.
    """
    # Both rasters have the same levels.
    classes, level = _level(out, layout.CHANGE, shape)
    probability, _ = _level(out, layout.PROBABILITY, shape)
    if probability.dtype != np.uint8:
        known = np.isfinite(probability)
        scaled = np.rint(np.where(known, probability, 0) * PROBABILITY_STEPS)
        probability = np.where(known, scaled, NODATA_BYTE).astype(np.uint8)
    histogram = np.bincount(probability.ravel(), minlength=256)[:NODATA_BYTE]
    numbers = classes.astype(np.uint8, copy=False), probability.astype(np.uint8, copy=False)
    return ChangeLevel(*numbers, histogram, level, shape)


def _level(out: Folder, name: str, shape: tuple[int, int]) -> tuple[npt.NDArray[np.generic], int]:
    """Return the finest level of a raster that is small enough, and the side of its pixels."""
    uri, shown = f"{out.address}/{name}", f"{out}/{name}"

    def read(_: object) -> tuple[npt.NDArray[np.generic], int]:
        with opened_raster(uri, shown) as source:
            factors = source.overviews(1)
            if source.shape != shape:
                raise ReadError(f"{shown}: is of another grid than run.json; run `ussfc validate`")
        fits = [
            index
            for index, factor in enumerate((1, *factors))
            if math.prod(-(-length // factor) for length in shape) <= MOST_READ
        ]
        if not fits:
            raise ReadError(f"{shown}: is large and has no overviews; run `ussfc mosaic` on the folder")
        index = fits[0]
        options = {"OVERVIEW_LEVEL": index - 1} if index else {}
        with opened_raster(uri, shown, **options) as source:
            return source.read(1), (1, *factors)[index]

    return retry_gdal(uri, shown, GDAL_CACHE, read, "cannot be read ({}); run `ussfc validate` on the folder")


def largest(values: npt.NDArray[np.generic], factor: int) -> ByteArray:
    """Return the largest byte of each block of a raster, 255 (no data) only where all are.

    Args:
        values: (rows, cols) uint8.
        factor: side of a block; blocks at the far edges may be cut.
    """
    # Without data is least: 255 becomes 0, the others move up by one.
    moved = values.astype(np.uint8) + np.uint8(1)
    rows, cols = (-(-length // factor) for length in moved.shape)
    padded = np.zeros((rows * factor, cols * factor), np.uint8)
    padded[: moved.shape[0], : moved.shape[1]] = moved
    found: ByteArray = padded.reshape(rows, factor, cols, factor).max(axis=(1, 3)) - np.uint8(1)
    return found


@dataclass(frozen=True)
class DateViews:
    """Both dates on one grid, mapped to [0, 1] with the constants of the run."""

    before: FloatArray
    """(bands, rows, cols)."""
    after: FloatArray
    valid: tuple[BoolArray, BoolArray]
    """(rows, cols) of each date."""


def read_dates(
    recipes: tuple[SceneRecipe, SceneRecipe],
    mappings: tuple[RadiometricMapping, RadiometricMapping],
    shape: tuple[int, int],
    shrink: int,
) -> DateViews | None:
    """Read both dates from afar; None where a scene is large and has no overviews.

    Args:
        recipes: both dates on the grid of the run, the later one moved where it was corrected.
        mappings: their radiometric constants.
        shape: (rows, cols) of the overview.
        shrink: side of its pixels, pixels of the grid.

    Raises:
        ReadError: a scene cannot be read.
    """
    with ThreadPoolExecutor(len(recipes), "ussfc-report") as pool:
        before, after = pool.map(lambda recipe: _from_afar(recipe, shape, shrink), recipes)
    if before is None or after is None:
        return None
    return mapped(before, after, mappings)


def mapped(
    before: Pixels, after: Pixels, mappings: tuple[RadiometricMapping, RadiometricMapping]
) -> DateViews:
    """Return windows of both dates in [0, 1].

    Args:
        before: source numbers of the earlier date.
        after: of the later one, the same window.
        mappings: their radiometric constants.
    """
    everywhere = [Pixels(each.values, np.ones(each.valid.shape, np.bool_)) for each in (before, after)]
    both = pair(everywhere[0], everywhere[1], mappings)
    return DateViews(both.before, both.after, (before.valid, after.valid))


def _from_afar(recipe: SceneRecipe, shape: tuple[int, int], shrink: int) -> Pixels | None:
    grid, reader = recipe.grid, recipe.open()
    if shrink == 1:
        return reader.read(Box(0, 0, *shape))
    if isinstance(reader, RasterReader):
        coarse = GeoBox(shape, grid.affine * Affine.scale(shrink), grid.crs)
        found = reader.overview(coarse, shrink)
        if found is not None:
            return found
    if grid.shape[0] * grid.shape[1] > MOST_AVERAGED:
        return None
    return averaged(reader, (grid.shape[0], grid.shape[1]), shrink)


def averaged(reader: SceneReader, shape: tuple[int, int], factor: int) -> Pixels:
    """Read a whole scene and average the valid pixels of each block.

    Args:
        reader: the scene on the grid.
        shape: (rows, cols) of the grid.
        factor: side of a block, pixels; blocks at the far edges may be cut.
    """
    rows, cols = (-(-length // factor) for length in shape)
    side = max(1, STRIP // factor) * factor
    values: FloatArray | None = None
    valid = np.zeros((rows, cols), np.bool_)
    for y in range(0, shape[0], side):
        for x in range(0, shape[1], side):
            window = reader.read(Box(y, x, min(y + side, shape[0]), min(x + side, shape[1])))
            if values is None:
                values = np.zeros((len(window.values), rows, cols), np.float32)
            counts = _summed(window.valid[None].astype(np.float32), factor)
            sums = _summed(np.where(window.valid, window.values, 0).astype(np.float32), factor)
            place = Box(y // factor, x // factor, y // factor + sums.shape[1], x // factor + sums.shape[2])
            values[(slice(None), *place.slices)] = sums / np.maximum(counts, 1)
            valid[place.slices] = counts[0] > 0
    assert values is not None, "a grid has pixels"
    return Pixels(values, valid)


def _summed(values: FloatArray, factor: int) -> FloatArray:
    bands, rows, cols = values.shape
    high, wide = -(-rows // factor), -(-cols // factor)
    padded = np.zeros((bands, high * factor, wide * factor), np.float32)
    padded[:, :rows, :cols] = values
    # Rows first: whole lines are added, and a factor fewer numbers are left for the slow way along a line.
    rows_summed = padded.reshape(bands, high, factor, wide * factor).sum(axis=2, dtype=np.float32)
    found: FloatArray = rows_summed.reshape(bands, high, wide, factor).sum(axis=3, dtype=np.float32)
    return found
