"""Changed regions as polygons, the same whatever the blocks they were traced in.

The raster is labelled and traced block by block, in whole pixel coordinates (``outlines``, ``pieces``), and pieces are
united over the seams (``regions``). Filters and measures come after that (``measure``), so that nothing in the file
(``geoparquet``, ``convert``) shows where the seams were.

Features are ordered by their last pixel, row by row. That is the one order in which regions can leave a scan
from top to bottom without waiting for each other, and it does not depend on the blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
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
from ussfc.pipeline.polygons.convert import convert
from ussfc.pipeline.polygons.files import discard, sync, writing
from ussfc.pipeline.polygons.geoparquet import Dates, VectorCounts, write_table
from ussfc.pipeline.polygons.measure import Ellipsoid, Features, make_features
from ussfc.pipeline.polygons.regions import trace_regions
from ussfc.pipeline.types import ProbabilitySource

__all__ = ["VectorCounts", "VectorOptions", "trace_features", "vectorise"]

MEASURED = 1024
"""Regions that are measured together."""

MOST_THREADS = 8
"""Largest number of threads that measure regions."""


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


def vectorise(
    source: ProbabilitySource,
    geobox: GeoBox,
    threshold: float,
    options: VectorOptions,
    layers: Mapping[str, Path],
    subscriber: Subscriber = ignore,
    block_size: int = 2048,
) -> VectorCounts:
    """Write the regions of change as polygons in the grid's reference system; GeoJSON has longitudes and latitudes.

    Columns: ``id`` (int64, the row-major index of the region's first pixel on the grid: it stays the same
    over runs, block sizes and filters), ``area_m2`` and ``perimeter_m`` (float64, geodesic, of the region
    before simplification; null where they cannot be known), ``mean_probability`` and ``max_probability``
    (float64), ``pixels`` (int64), ``date_before`` and ``date_after`` (texts, null where not known). With
    ``options.values`` also ``kind`` (text), ``ndvi_change``, ``brightness_change``, and ``before_BAND`` and
    ``after_BAND`` of each band (float32), null where not known; see docs/polygons.md. Nodata is inside no polygon.

    Args:
        source: (rows, cols) probabilities on ``geobox``.
        geobox: the grid; with ``crs`` None the coordinates are its affine's, with no reference system.
        threshold: in [0, 1]; a probability of at least this is change.
        options: how the polygons are made.
        layers: the file to write for each format of :data:`ussfc.pipeline.storage.layout.LAYERS`, all in one folder;
            each appears when complete and replaces an older one.
        subscriber: receives one ``Advanced`` for every block.
        block_size: side in pixels of the blocks that are read; memory follows it, the result does not.

    Raises:
        ussfc.pipeline.errors.ConfigError: metres are asked of a grid whose pixels have no size in metres.
        ussfc.pipeline.errors.StoreError: a file cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    features = trace_features(source, geobox, threshold, options, subscriber, block_size)
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


def trace_features(
    source: ProbabilitySource,
    geobox: GeoBox,
    threshold: float,
    options: VectorOptions,
    subscriber: Subscriber = ignore,
    block_size: int = 2048,
) -> Iterator[Features]:
    """Return an iterator over the regions of change, measured and filtered, in the order of the file.

    Args and errors are those of :func:`vectorise`; nothing is read before the first features are asked for.
    """
    rows, cols = source.shape
    if (rows, cols) != tuple(geobox.shape):
        raise ValueError(f"the source has shape {(rows, cols)}, its grid {tuple(geobox.shape)}")
    ellipsoid = Ellipsoid.of_grid(geobox)
    if ellipsoid is None and (options.min_area_m2 > 0 or options.simplify_m > 0):
        raise ConfigError(
            "min_area_m2 and simplify_m need the size of a pixel in metres, and the grid has no geographic"
            " reference; set both to 0 or give the images a reference system"
        )
    regions = trace_regions(source, threshold, options.connectivity, block_size, subscriber, options.values)
    measured = in_order(
        partial(
            make_features,
            geobox=geobox,
            ellipsoid=ellipsoid,
            min_area_m2=options.min_area_m2,
            simplify_m=options.simplify_m,
        ),
        (part for batch in regions for part in batch.parts(MEASURED)),
        min(cores(), MOST_THREADS),
        "ussfc-measure",
    )
    return (found for _, found in measured)
