"""The population of a map: its units window by window, with bounded memory, and their totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from ussfc.pipeline.assessment.draw import STEP
from ussfc.pipeline.assessment.estimators import IntArray, RealArray
from ussfc.pipeline.assessment.strata import (
    BUFFER,
    CLASSES,
    OUTSIDE,
    STRATA,
    Units,
    make_units,
    near,
)
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.events import Advanced, Subscriber
from ussfc.pipeline.polygons.measure import Ellipsoid
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box, ByteArray, blocks

WINDOW = 1024
"""Side of the windows that are read one by one, pixels; they take a few tens of megabytes."""

NODES = 64
"""Rows between two pixels whose area is measured; in between it changes linearly to eight digits."""


@dataclass(frozen=True, slots=True)
class UnitDesign:
    """Units of a sample, and the strata that they are in."""

    side: int = 1
    """Side of a unit, pixels; 1: single pixels."""
    buffer: int = BUFFER
    """Width of the buffer around change, pixels."""
    strata: tuple[str, ...] = STRATA
    """Names of the strata, of :data:`ussfc.pipeline.assessment.strata.STRATA`."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the units of a map."""

    units: IntArray
    """(strata,) number of units."""
    class_units: IntArray
    """(classes,) likewise, by map class."""
    class_sizes: RealArray
    """(classes,) area, square metres; valid pixels on a grid without a place on the earth."""


class ChangeMap:
    """An open ``change.tif``, read window by window."""

    def __init__(self, source: Any, grid: GeoBox, design: UnitDesign) -> None:
        """Look at an open raster.

        Args:
            source: the open raster.
            grid: of the run.
            design: its units.

        Raises:
            ReadError: the raster has another size.
        """
        if source.shape != grid.shape:
            raise ReadError(
                f"{source.name}: has {source.shape[0]} x {source.shape[1]} px, run.json {grid.shape[0]} x "
                f"{grid.shape[1]}; `ussfc mosaic` on the folder makes it again"
            )
        self._source = source
        self._ellipsoid = Ellipsoid.of_grid(grid)
        self.grid = grid
        self.design = design

    @property
    def on_earth(self) -> bool:
        """True where sizes are square metres, not pixels."""
        return self._ellipsoid is not None

    def windows(self, subscriber: Subscriber) -> Iterator[tuple[Box, Units]]:
        """Yield the units of the map: the box of them, counted in units, and what they are.

        Raises:
            ReadError: the raster cannot be read.
        """
        side = self.design.side
        rows, cols = (-(-length // side) for length in self.grid.shape)
        boxes = list(blocks((rows, cols), max(STEP, WINDOW // side // STEP * STEP)))
        pixels = self.grid.shape[0] * self.grid.shape[1]
        stage = "map"
        with stage_clock(stage, len(boxes), pixels, subscriber):
            for box in boxes:
                yield box, self._units(box)
                subscriber(Advanced(stage, 1, box.pixels * side**2))

    def totals(self, subscriber: Subscriber) -> Totals:
        """Return the sums over all units."""
        sums = TotalsCounter()
        for _, units in self.windows(subscriber):
            sums.add(units)
        return sums.totals()

    def at(self, rows: IntArray, cols: IntArray) -> IntArray:
        """Return the map class of units by their rows and columns, (n,), -1 outside of the valid pixels."""
        found = np.full(len(rows), -1, np.int64)
        for position in np.lexsort((cols, rows)):
            row, col = int(rows[position]), int(cols[position])
            units = self._units(Box(row, col, row + 1, col + 1))
            if units.stratum[0, 0] != OUTSIDE:
                found[position] = units.mapped[0, 0]
        return found

    def _units(self, box: Box) -> Units:
        side, buffer = self.design.side, self.design.buffer
        height, width = self.grid.shape
        core = Box(box.y0 * side, box.x0 * side, min(height, box.y1 * side), min(width, box.x1 * side))
        halo = Box(
            max(0, core.y0 - buffer), max(0, core.x0 - buffer),
            min(height, core.y1 + buffer), min(width, core.x1 + buffer),
        )  # fmt: skip
        classes = self.classes(halo)
        inner = core.within(halo).slices
        close = near(classes == 1, buffer)[inner]
        return make_units(classes[inner], close, self.pixel_areas(core), side, self.design.strata)

    def classes(self, box: Box) -> ByteArray:
        """Return the classes of the pixels of a box, (rows, cols)."""
        window = Window(box.x0, box.y0, box.shape[1], box.shape[0])
        classes: ByteArray = _read(self._source, window)
        return classes

    def pixel_areas(self, box: Box) -> RealArray:
        """Return the area of a pixel of each row, (rows,), in the middle column of a box."""
        rows = np.arange(box.y0, box.y1)
        if self._ellipsoid is None:
            return np.ones(len(rows))
        nodes = np.unique(np.append(rows[::NODES], rows[-1]))
        col = (box.x0 + box.x1) // 2
        cells = shapely.normalize(shapely.box(col, nodes, col + 1, nodes + 1))
        areas, _ = self._ellipsoid.measure(cells)
        known = np.isfinite(areas)
        if not known.any():
            return np.zeros(len(rows))
        return np.interp(rows, nodes[known], areas[known])


class TotalsCounter:
    """Sums over windows of units."""

    def __init__(self) -> None:
        self._units = np.zeros(len(STRATA), np.int64)
        self._class_units = np.zeros(len(CLASSES), np.int64)
        self._class_sizes = np.zeros(len(CLASSES))

    def add(self, units: Units) -> None:
        """Add the units of a window."""
        there = units.stratum != OUTSIDE
        mapped = units.mapped[there]
        self._units += np.bincount(units.stratum[there], minlength=len(STRATA))
        self._class_units += np.bincount(mapped, minlength=len(CLASSES))
        self._class_sizes += np.bincount(mapped, units.size[there], len(CLASSES))

    def totals(self) -> Totals:
        """Return the sums so far."""
        return Totals(self._units.copy(), self._class_units.copy(), self._class_sizes.copy())


@contextmanager
def open_map(path: Path, grid: GeoBox, design: UnitDesign) -> Iterator[ChangeMap]:
    """Open a ``change.tif``, and close it at the end.

    Raises:
        ReadError: it is no raster, or has another size than the grid.
    """
    with _opened(path) as source:
        yield ChangeMap(source, grid, design)


def probabilities(path: Path, rows: IntArray, cols: IntArray, side: int) -> RealArray:
    """Return the mean probability of units, (n,), in [0, 1].

    Args:
        path: of ``probability.tif``.
        rows: (n,) row of each unit.
        cols: (n,) column.
        side: of a unit, pixels.

    Raises:
        ReadError: it is no raster.
    """
    found = np.full(len(rows), np.nan)
    with _opened(path) as source:
        byte = source.dtypes[0] == "uint8"
        for position in np.lexsort((cols, rows)):
            y, x = int(rows[position]) * side, int(cols[position]) * side
            window = Window(x, y, min(side, source.width - x), min(side, source.height - y))
            values = _read(source, window).astype(float).ravel()
            valid = values != NODATA_BYTE if byte else np.isfinite(values)
            if valid.any():
                found[position] = values[valid].mean() / (PROBABILITY_STEPS if byte else 1)
    return found


def _read(source: Any, window: Window) -> Any:
    try:
        return source.read(1, window=window)
    except GDAL_ERRORS as error:
        raise ReadError(
            f"{source.name}: cannot be read ({error.__cause__ or error}); `ussfc validate` on the folder checks it all"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with ignored_warnings(NotGeoreferencedWarning):
            source = rasterio.open(path)
    except GDAL_ERRORS as error:
        raise ReadError(f"{path}: cannot be opened ({error}); `ussfc mosaic` makes it again") from error
    with source:
        yield source


def centres(
    grid: GeoBox, rows: Sequence[int] | IntArray, cols: Sequence[int] | IntArray, side: int
) -> RealArray:
    """Return the (n, 2) coordinates of the centres of units, x and y of the grid's reference system."""
    height, width = grid.shape
    top, left = np.asarray(rows) * side, np.asarray(cols) * side
    y = (top + np.minimum(top + side, height)) / 2
    x = (left + np.minimum(left + side, width)) / 2
    return np.stack(grid.affine * (x, y), axis=1)


def outlines(grid: GeoBox, rows: IntArray, cols: IntArray, side: int) -> Any:
    """Return the (n,) outlines of units in the grid's reference system."""
    height, width = grid.shape
    top, left = rows * side, cols * side
    cells = shapely.box(left, top, np.minimum(left + side, width), np.minimum(top + side, height))
    return shapely.transform(cells, lambda xy: np.stack(grid.affine * (xy[:, 0], xy[:, 1]), axis=1))
