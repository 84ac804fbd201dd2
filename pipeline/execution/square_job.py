"""Squares of the products: compressed blocks of the rasters and regions of change, made of probabilities.

A square is the unit of work of the products, as a tile is that of the network. Any worker makes it from the store
alone, and keeps it in a file of its own; the process that writes the products puts these in order and joins them over
their seams.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.execution.errors import errors_of
from ussfc.pipeline.execution.tile_computer import StepClock
from ussfc.pipeline.execution.tile_job import SceneSource, TileJob
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.smoothing import AloneSource, SmoothedSource
from ussfc.pipeline.polygons.band_values import BandValues, Reads
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.pixel_files import PixelSource
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.storage.square_files import Arrays, SquareFiles
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.timeline import TileTimeline
from ussfc.pipeline.types import Box, Index, Pixels, ProbabilitySource, StoredArray, TileResult

if TYPE_CHECKING:
    from ussfc.pipeline.polygons.blocks import BlockRegions
    from ussfc.pipeline.polygons.vectorise import RegionRules
    from ussfc.pipeline.rasters.assembly import SquareCompressor
    from ussfc.pipeline.rasters.compression import CogOptions

REQUESTS = 4
"""Windows of remote scenes that are read at a time below the polygons of a square."""


@dataclass(frozen=True)
class RasterPart:
    """The blocks of the rasters."""

    geobox: GeoBox
    """The grid."""
    options: CogOptions
    """Compression and side of the blocks."""
    threshold: float | None
    """Least probability of change in the raster of classes, in [0, 1]; None: it is not made."""
    probability: bool
    """True if the raster of probabilities is made."""


@dataclass(frozen=True)
class RegionPart:
    """The regions of change, and the bands below them."""

    rules: RegionRules
    """Threshold, filters and grid; the bands without the way to them."""
    scenes: tuple[SceneSource, SceneSource] | None
    """Both dates, registered; None where bands have no values."""
    over_network: bool
    """True if a date is read over a network."""


@dataclass(frozen=True)
class SquareJob:
    """All that is the same for every square of a run. It travels with every task, so it holds recipes only."""

    key: str
    """Name of the run and of what is made."""
    plan: TilePlan
    """Grid in squares, which are its tiles."""
    store: Folder
    """The run's ``work`` folder."""
    smoothing: Smoothing
    """Filter that the probabilities go through first."""
    rasters: RasterPart | None = None
    regions: RegionPart | None = None

    @classmethod
    def of(
        cls,
        store: Folder,
        shape: tuple[int, int],
        side: int,
        smoothing: Smoothing,
        keys: Sequence[Any],
        rasters: RasterPart | None = None,
        regions: RegionPart | None = None,
    ) -> SquareJob:
        """Return a job whose name follows from everything that decides its bytes.

        Args:
            store: the run's ``work`` folder.
            shape: (rows, cols) of the grid.
            side: side of the squares, pixels.
            smoothing: of the probabilities.
            keys: what else decides the bytes, as JSON knows it; not the probabilities, which each file names itself.
            rasters: blocks to make.
            regions: regions to find.
        """
        text = json.dumps([shape, side, smoothing, *keys], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(name, TilePlan.of(shape, side, 1, 0), store, smoothing, rasters, regions)

    @property
    def files(self) -> SquareFiles:
        """The squares that are made."""
        return SquareFiles(self.store, self.key)

    def origin(self, store: ProbabilityStore, box: Box) -> npt.NDArray[np.int64]:
        """Return what a square is made of: row, column and checksum of each tile, as this store knows them."""
        return store.origin(self.around(box))

    def around(self, box: Box) -> Box:
        """Return a box with the rim that the filter reads, as far as the grid goes."""
        rim = 0 if self.smoothing == "none" else 1
        return box.grown(rim).intersect(Box(0, 0, *self.plan.shape))

    def tile_name(self, index: Index) -> str:
        """Return the name of a square in messages."""
        core = self.plan.core(index)
        return f"square {index[0]},{index[1]} (rows {core.y0}..{core.y1}, columns {core.x0}..{core.x1})"


Job = TileJob | SquareJob
"""Work of an executor: the tiles of the network, or the squares of the products."""


class OpenSquares:
    """Store, compressors and scenes that the squares of a job share in one process, on any number of threads."""

    def __init__(self, job: SquareJob, following: bool = False) -> None:
        """Open the store, and scenes where bands have values.

        Args:
            job: the squares.
            following: True while tiles are still computed: no pixel is kept that a later tile may write.

        Raises:
            StoreError: the store cannot be read.
            ReadError: a scene cannot be opened.
        """
        self._job = job
        self.store = ProbabilityStore(job.store)
        side = job.plan.tile_size
        self._source: ProbabilitySource = self.store
        if job.smoothing != "none":
            self._source = AloneSource(self.store) if following else SmoothedSource(self.store, side)
        self._compressors = {} if job.rasters is None else _compressors(job.rasters, self.store.dtype, side)
        self._find: Callable[[ProbabilitySource, Box], BlockRegions] | None = None
        if job.regions is not None:
            rules, scenes = job.regions.rules, job.regions.scenes
            values = rules.options.values
            if values is not None and scenes is not None:
                values = with_pixels(values, self.store, scenes, job.regions.over_network)
            # Once: reference systems take longer than a square without change.
            self._find = replace(rules, options=replace(rules.options, values=values)).finder()

    def read(self, index: Index) -> StoredArray:
        """Return the filtered probabilities of a square."""
        return self._source.read(self._job.plan.core(index))

    def make(self, index: Index, stored: StoredArray | None = None) -> TileResult:
        """Make a square and write its file.

        Args:
            index: row and column of the square.
            stored: its filtered probabilities; None: they are read.
        """
        clock = StepClock()
        arrays = self.arrays(index, stored, clock)
        self._job.files.write(index, self._job.origin(self.store, self._job.plan.core(index)), arrays)
        clock.lap("write")
        process = f"{platform.node()} {os.getpid()}"
        timeline = TileTimeline(process, threading.get_native_id(), tuple(clock.steps))
        return TileResult(index, 0, 0, clock.seconds, timeline=timeline)

    def arrays(
        self, index: Index, stored: StoredArray | None = None, clock: StepClock | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Make a square; the arguments are those of :meth:`make`, and the clock of its steps."""
        clock = StepClock() if clock is None else clock
        if stored is None:
            stored = self.read(index)
            clock.lap("read")
        arrays = pack(self._compressors, stored)
        if self._compressors:
            clock.lap("pack")
        if self._find is not None:
            from ussfc.pipeline.polygons import blocks

            found = self._find(_ReadSquare(stored, self.store.shape), self._job.plan.core(index))
            arrays |= {f"regions.{name}": array for name, array in blocks.to_arrays(found).items()}
            clock.lap("polygons")
        return arrays


def compute_square(
    job: SquareJob, index: Index, open_squares: Callable[[SquareJob], OpenSquares]
) -> TileResult:
    """Make one square; every executor runs this.

    Args:
        job: the run.
        index: (row, column) of the square.
        open_squares: opens the job in this process, once.

    Raises:
        TileError: it failed; names the square, its bounds and the cause.
        StoreError: the store cannot be used, or holds other pixels than were written.
    """
    with errors_of(job.tile_name(index)):
        return open_squares(job).make(index)


def pack(compressors: dict[str, SquareCompressor], stored: StoredArray) -> dict[str, npt.NDArray[Any]]:
    """Return the compressed blocks of a square for each raster, as named arrays."""
    from ussfc.pipeline.rasters import assembly

    return {
        f"{kind}.{name}": array
        for kind, compressor in compressors.items()
        for name, array in assembly.to_arrays(compressor.compress(stored)).items()
    }


def of_kind(arrays: Arrays, kind: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of one kind: change, probability or regions."""
    return {
        name.removeprefix(f"{kind}."): array for name, array in arrays.items() if name.startswith(f"{kind}.")
    }


def with_pixels(
    values: BandValues,
    store: ProbabilityStore,
    scenes: tuple[SceneSource, SceneSource],
    over_network: bool,
) -> BandValues:
    """Return bands with the way to their numbers: what the store's run has kept, and else both dates.

    Args:
        values: the bands.
        store: probabilities of the run.
        scenes: both dates, registered.
        over_network: True if a date is read over a network.

    Raises:
        ReadError: a scene cannot be opened.
    """
    kept = PixelSource(store, len(values.names)).find
    return replace(values, read=band_reads(scenes, over_network), kept=kept)


def band_reads(scenes: tuple[SceneSource, SceneSource], over_network: bool) -> Reads:
    """Return a function that reads both dates in boxes, several at a time where they come over a network.

    Raises:
        ReadError: a scene cannot be opened.
    """
    readers = scenes[0].open(), scenes[1].open()

    def read(box: Box) -> tuple[Pixels, Pixels]:
        return readers[0].read(box), readers[1].read(box)

    if not over_network:
        return lambda boxes: map(read, boxes)
    return lambda boxes: (pixels for _, pixels in in_order(read, boxes, REQUESTS, "ussfc-values"))


def _compressors(part: RasterPart, dtype: np.dtype[Any], side: int) -> dict[str, SquareCompressor]:
    from ussfc.pipeline.rasters.assembly import SquareCompressor
    from ussfc.pipeline.rasters.kinds import ChangeRaster, ProbabilityRaster

    nowhere, found = Path(), {}
    if part.threshold is not None:
        change = ChangeRaster(nowhere, {}, part.threshold).product(part.geobox, dtype)
        found["change"] = SquareCompressor(change, part.options, side)
    if part.probability:
        probability = ProbabilityRaster(nowhere, {}).product(part.geobox, dtype)
        found["probability"] = SquareCompressor(probability, part.options, side)
    return found


@dataclass(frozen=True)
class _ReadSquare:
    """A source that holds the one square that was read."""

    stored: StoredArray
    shape: tuple[int, int]

    @property
    def dtype(self) -> Any:
        return self.stored.dtype

    def read(self, box: Box) -> StoredArray:
        assert box.shape == self.stored.shape
        return self.stored
