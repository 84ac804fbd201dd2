"""Changed regions as polygons, the same whatever the blocks they were traced in.

The raster is labelled and traced block by block, in whole pixel coordinates (``outlines``, ``pieces``). Regions that
end in a block are measured and filtered (``measure``) where they were found (``blocks``); the others once their pieces
are united over the seams (``regions``). Nothing in the file (``geoparquet``, ``convert``) shows where the seams were.

Features are ordered by their last pixel, row by row. That is the one order in which regions can leave a scan
from top to bottom without waiting for each other, and it does not depend on the blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from odc.geo.geobox import GeoBox

from ussfc.cores import cores
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.events import Subscriber, ignore
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.polygons.arrays import Connectivity
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.blocks import BlockRegions, MakeFeatures, find_regions
from ussfc.pipeline.polygons.convert import convert
from ussfc.pipeline.polygons.files import discard, sync, writing
from ussfc.pipeline.polygons.geoparquet import Dates, VectorCounts, write_table
from ussfc.pipeline.polygons.measure import Ellipsoid, Features, make_features
from ussfc.pipeline.polygons.regions import join_regions
from ussfc.pipeline.types import Box, ProbabilitySource, blocks

__all__ = [
    "RegionRules",
    "VectorCounts",
    "VectorOptions",
    "find_blocks",
    "join_features",
    "vectorise",
    "write_layers",
]

MOST_THREADS = 4
"""Largest number of blocks that are read and traced at the same time. Memory follows them: a block that is all change
takes much."""

AHEAD = 8
"""Blocks that are found while others are united and written: their regions wait in memory."""


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """Filters and simplification of the polygons, and what all of them have in common."""

    min_area_m2: float = 0.0
    """Least area of a region, square metres, after its pieces are united."""
    simplify_m: float = 0.0
    """Distance that an outline may move, metres; 0 keeps every corner of every pixel."""
    connectivity: Connectivity = 4
    """Neighbours of a pixel: 8 joins those that touch at a corner only; such a region is a MultiPolygon."""
    dates: Dates = (None, None)
    """Days of before and after, ISO 8601; None where one is not known."""
    values: BandValues | None = None
    """Bands whose mean values the polygons have; None: they have no such columns."""


@dataclass(frozen=True, slots=True)
class RegionRules:
    """All that decides the regions of a block, and their features.

    Raises ConfigError where metres are asked of a grid whose pixels have no size in metres.
    """

    geobox: GeoBox
    """The grid."""
    threshold: float
    """Least probability of change, in [0, 1]."""
    options: VectorOptions
    """Filters, simplification, connectivity and bands."""

    def __post_init__(self) -> None:
        """Refuse metres on a grid that has none."""
        if not (self.options.min_area_m2 > 0 or self.options.simplify_m > 0):
            return
        if Ellipsoid.of_grid(self.geobox) is None:
            raise ConfigError(
                "min_area_m2 and simplify_m need the size of a pixel in metres, and the grid has no geographic"
                " reference; set both to 0 or give the images a reference system"
            )

    def maker(self) -> MakeFeatures:
        """Return the function that makes features of whole regions."""
        return partial(
            make_features,
            geobox=self.geobox,
            ellipsoid=Ellipsoid.of_grid(self.geobox),
            min_area_m2=self.options.min_area_m2,
            simplify_m=self.options.simplify_m,
        )

    def finder(self) -> Callable[[ProbabilitySource, Box], BlockRegions]:
        """Return the function that finds the regions of a block of a source; it may run on many threads."""
        make, options = self.maker(), self.options

        def find(source: ProbabilitySource, box: Box) -> BlockRegions:
            return find_regions(source, self.threshold, options.connectivity, make, box, options.values)

        return find


def vectorise(
    source: ProbabilitySource,
    geobox: GeoBox,
    threshold: float,
    options: VectorOptions,
    layers: Mapping[str, Path],
    subscriber: Subscriber = ignore,
    block_size: int = 2048,
) -> VectorCounts:
    """Find the regions of change and write them; the arguments are those of what this puts together.

    Raises:
        ussfc.pipeline.errors.ConfigError: metres are asked of a grid whose pixels have no size in metres.
        ussfc.pipeline.errors.StoreError: a file cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    rules = RegionRules(geobox, threshold, options)
    return write_layers(find_blocks(source, rules, block_size), rules, layers, subscriber)


def write_layers(
    found: Iterable[tuple[Box, BlockRegions]],
    rules: RegionRules,
    layers: Mapping[str, Path],
    subscriber: Subscriber = ignore,
) -> VectorCounts:
    """Write the regions of change as polygons in the grid's reference system; GeoJSON has longitudes and latitudes.

    Columns: ``id`` (int64, the row-major index of the region's first pixel on the grid: it stays the same
    over runs, block sizes and filters), ``area_m2`` and ``perimeter_m`` (float64, geodesic, of the region
    before simplification; null where they cannot be known), ``mean_probability`` and ``max_probability``
    (float64), ``pixels`` (int64), ``date_before`` and ``date_after`` (texts, null where not known). With
    ``options.values`` also ``kind`` (text), ``ndvi_change``, ``brightness_change``, and ``before_BAND`` and
    ``after_BAND`` of each band (float32), null where not known; see docs/polygons.md. Nodata is inside no polygon.

    Args:
        found: blocks that partition the grid, row by row, each with its regions; :func:`find_blocks` finds them here.
        rules: those that the blocks were made by.
        layers: the file to write for each format of :data:`ussfc.pipeline.storage.layout.LAYERS`, all in one folder;
            each appears when complete and replaces an older one.
        subscriber: receives one ``Advanced`` for every block.

    Raises:
        ussfc.pipeline.errors.StoreError: a file cannot be written.
    """
    geobox, options = rules.geobox, rules.options
    features = join_features(found, rules, subscriber)
    first = next(iter(layers.values()))
    parts = {format_: path.with_name(f"{path.stem}.part{path.suffix}") for format_, path in layers.items()}
    # GDAL wants a layer in one stream and its geometry type first, which is known only at the end.
    table = parts.get("parquet", first.with_name(f"{first.stem}.part.table.parquet"))
    with writing(first):
        discard(table, *parts.values())
    try:
        counts = write_table(
            features, geobox, table, layers.get("parquet", first), options.dates, options.values
        )
        for format_, path in layers.items():
            with writing(path):
                if format_ != "parquet":
                    convert(table, parts[format_], geobox, format_, path)
                sync(parts[format_])
        for format_, path in layers.items():
            with writing(path):
                os.replace(parts[format_], path)
    finally:
        discard(table, *parts.values())
    return replace(counts, area_m2=None) if Ellipsoid.of_grid(geobox) is None else counts


def find_blocks(
    source: ProbabilitySource, rules: RegionRules, block_size: int = 2048
) -> Iterator[tuple[Box, BlockRegions]]:
    """Yield the blocks of a source with their regions, row by row; nothing is read before the first is asked for.

    Args:
        source: (rows, cols) probabilities on the grid of the rules.
        rules: threshold, filters and grid.
        block_size: side in pixels of the blocks that are read; memory follows it, the features do not.

    Raises:
        ValueError: ``source`` is not of the shape of the grid.
    """
    rows, cols = source.shape
    if (rows, cols) != tuple(rules.geobox.shape):
        raise ValueError(f"the source has shape {(rows, cols)}, its grid {tuple(rules.geobox.shape)}")
    threads = min(max(cores(), 2), MOST_THREADS)
    return in_order(
        partial(rules.finder(), source), blocks((rows, cols), block_size), threads, "ussfc-vector", AHEAD
    )


def join_features(
    found: Iterable[tuple[Box, BlockRegions]], rules: RegionRules, subscriber: Subscriber = ignore
) -> Iterator[Features]:
    """Return an iterator over the regions of change, measured and filtered, in the order of the file.

    Args are those of :func:`write_layers`.
    """
    shape = int(rules.geobox.shape[0]), int(rules.geobox.shape[1])
    return join_regions(found, shape, rules.options.connectivity, rules.maker(), subscriber)
