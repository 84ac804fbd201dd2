"""Changed regions as polygons, the same whatever the blocks they were traced in.

The raster is labelled and traced block by block, in whole pixel coordinates. A region that lies inside one
block is finished there; one that touches another block stays open until the row of blocks below it has been
seen, and then its pieces are united. Filters and measures come after that, so memory holds one row of blocks
and what is open, and nothing in the file tells where the seams were.

Features are ordered by their last pixel, row by row. That is the one order in which regions can leave a scan
from top to bottom without waiting for each other, and it does not depend on the blocks.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ussfc.cores import cores
from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.events import Advanced, Subscriber, ignore
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.encoding import decode, is_change
from ussfc.pipeline.types import Box, ProbabilitySource, blocks

if TYPE_CHECKING:
    import pyarrow as pa
    import pyproj

STAGE = "vectorise"
"""The stage of the events."""

SUFFIX: Mapping[str, str] = {"parquet": ".parquet", "gpkg": ".gpkg", "flatgeobuf": ".fgb"}
"""File name suffix of each format."""

DRIVER: Mapping[str, str] = {"gpkg": "GPKG", "flatgeobuf": "FlatGeobuf"}
"""GDAL's name of each format that it writes."""

TYPES: Mapping[int, str] = {
    shapely.GeometryType.POLYGON: "Polygon",
    shapely.GeometryType.MULTIPOLYGON: "MultiPolygon",
}
"""Types of geometry as GeoParquet names them."""

SIDES = ("xmin", "ymin", "xmax", "ymax")
"""Fields of the bounding box column."""

CONVERTED = 8192
"""Features that are on their way from the table to another format at a time."""

MOST_BYTES = np.iinfo(np.int32).max
"""Of a column of geometries that is made at once: Arrow counts them in 32 bits."""

ROW_GROUP = 32768
"""Features of a GeoParquet row group, counted over the whole file: the bytes do not show the blocks."""

FIXED_POINT = 1 << 26
"""Probabilities are added up as whole multiples of 1 / FIXED_POINT: the sum does not depend on the order.
float32 is on that lattice from 1/8 upwards; 2**63 / FIXED_POINT pixels (137 gigapixels) fit into a region."""

LONGEST_EDGE = 64.0
"""Pixels. Longer edges are divided before they are measured: a line straight on the grid is no geodesic."""

MEASURED = 1024
"""Regions that are measured together."""

THREADS = 2
"""Blocks that are read and traced at the same time. Memory follows them: a block that is all change takes much."""

MOST_THREADS = 8
"""Threads that measure regions, at most."""

AHEAD = 8
"""Blocks that are traced while others are united, measured and written: their regions wait in memory."""

NEVER = np.iinfo(np.int64).max
"""Later than every pixel."""

IntArray = npt.NDArray[np.int64]
RealArray = npt.NDArray[np.float64]
FlagArray = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """How the polygons are made and packed."""

    format: Literal["parquet", "gpkg", "flatgeobuf"]
    min_area_m2: float = 0.0
    """Square metres; regions smaller than this are left out, after their pieces are united."""
    simplify_m: float = 0.0
    """Metres an outline may move; 0 keeps every corner of every pixel."""
    connectivity: Literal[4, 8] = 4
    """8 joins pixels that touch at a corner only; such a region is a MultiPolygon."""


@dataclass(frozen=True, slots=True)
class VectorCounts:
    """What was written."""

    polygons: int
    """Features; a MultiPolygon is one."""
    pixels: int
    area_m2: float | None
    """Square metres on the ellipsoid; None where the grid has no place on the earth."""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Regions, or pieces of regions; one element of every column for each."""

    first: IntArray
    """Row-major index on the grid of the first pixel."""
    last: IntArray
    """Row-major index on the grid of the last pixel."""
    pixels: IntArray
    total: IntArray
    """Sum of the probabilities in steps of 1 / FIXED_POINT."""
    peak: RealArray
    """Largest probability."""
    outlines: list[tuple[shapely.Geometry, ...]]
    """Pixel coordinates, x = column, y = row. Several geometries are still to be united."""

    @staticmethod
    def none() -> _Pieces:
        none = np.zeros(0, np.int64)
        return _Pieces(none, none, none, none, np.zeros(0), [])

    @staticmethod
    def concatenate(several: Sequence[_Pieces]) -> _Pieces:
        if not several:
            return _Pieces.none()
        return _Pieces(
            np.concatenate([pieces.first for pieces in several]),
            np.concatenate([pieces.last for pieces in several]),
            np.concatenate([pieces.pixels for pieces in several]),
            np.concatenate([pieces.total for pieces in several]),
            np.concatenate([pieces.peak for pieces in several]),
            list(itertools.chain.from_iterable(pieces.outlines for pieces in several)),
        )

    def take(self, wanted: FlagArray) -> _Pieces:
        return _Pieces(
            self.first[wanted],
            self.last[wanted],
            self.pixels[wanted],
            self.total[wanted],
            self.peak[wanted],
            list(itertools.compress(self.outlines, wanted)),
        )

    def parts(self, count: int) -> Iterator[_Pieces]:
        """So many at a time, in their order."""
        for start in range(0, len(self.first), count):
            part = slice(start, start + count)
            yield _Pieces(
                self.first[part],
                self.last[part],
                self.pixels[part],
                self.total[part],
                self.peak[part],
                self.outlines[part],
            )


@dataclass(frozen=True, slots=True)
class _Traced:
    """One block: its pieces, and which of them is where on its border. Piece i has number i + 1, 0 is no change."""

    pieces: _Pieces
    top: IntArray
    """(cols,)."""
    bottom: IntArray
    """(cols,)."""
    left: IntArray
    """(rows,)."""
    right: IntArray
    """(rows,)."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of blocks once scanned. Open pieces go by number, from 1; 0 is none."""

    closed: _Pieces
    open: _Pieces
    pairs: IntArray
    """(n, 2) numbers of pieces that meet over a seam between two blocks of the row."""
    top: IntArray
    """(cols,) number of the piece at each pixel of the first row of pixels."""
    bottom: IntArray
    """(cols,) the same for the last row of pixels."""


def vectorise(
    source: ProbabilitySource,
    geobox: GeoBox,
    threshold: float,
    options: VectorOptions,
    path: Path,
    subscriber: Subscriber = ignore,
    block_size: int = 2048,
) -> VectorCounts:
    """Write the regions of change as polygons in the grid's reference system.

    Columns: ``id`` (int64, the row-major index of the region's first pixel on the grid: it stays the same
    over runs, block sizes and filters), ``area_m2`` and ``perimeter_m`` (float64, geodesic, of the region
    before simplification; null where they cannot be known), ``mean_probability`` and ``max_probability``
    (float64), ``pixels`` (int64). Nodata is inside no polygon.

    Args:
        source: (rows, cols) probabilities on ``geobox``.
        geobox: the grid; with ``crs`` None the coordinates are its affine's, with no reference system.
        threshold: in [0, 1]; a probability of at least this is change.
        options: how the polygons are made and packed.
        path: the file to write; it appears when complete and replaces an older one.
        subscriber: hears one ``Advanced`` for every block.
        block_size: side in pixels of the blocks that are read; memory follows it, the result does not.

    Raises:
        ussfc.pipeline.errors.ConfigError: metres are asked of a grid whose pixels have no size in metres.
        ussfc.pipeline.errors.StoreError: the file cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    rows, cols = source.shape
    if (rows, cols) != tuple(geobox.shape):
        raise ValueError(f"the source has shape {(rows, cols)}, its grid {tuple(geobox.shape)}")
    ellipsoid = _Ellipsoid.of(geobox)
    if ellipsoid is None and (options.min_area_m2 > 0 or options.simplify_m > 0):
        raise ConfigError(
            "min_area_m2 and simplify_m need the size of a pixel in metres, and the grid has no geographic"
            " reference; set both to 0 or give the images a reference system"
        )
    regions = _regions(source, threshold, options.connectivity, block_size, subscriber)
    measured = in_order(
        partial(_features, geobox=geobox, ellipsoid=ellipsoid, options=options),
        (part for batch in regions for part in batch.parts(MEASURED)),
        min(cores(), MOST_THREADS),
        "ussfc-measure",
    )
    features = (found for _, found in measured)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    # GDAL wants a layer in one stream and its geometry type first, which is known only at the end.
    table = part if options.format == "parquet" else path.with_name(f"{path.stem}.part-table.parquet")
    with _writing(path):
        _discard(part, table)
    try:
        counts = _write_table(features, geobox, table, path)
        with _writing(path):
            if options.format != "parquet":
                _convert(table, part, geobox, DRIVER[options.format], path)
            _sync(part)
            os.replace(part, path)
    finally:
        _discard(part, table)
    return counts if ellipsoid is not None else replace(counts, area_m2=None)


# From pixels to regions


def _regions(
    source: ProbabilitySource,
    threshold: float,
    connectivity: Literal[4, 8],
    block_size: int,
    subscriber: Subscriber,
) -> Iterator[_Pieces]:
    """Whole regions, a batch for every row of blocks, ordered by their last pixel."""
    rows, cols = source.shape
    above, floor = _Pieces.none(), np.zeros(cols, np.int64)
    traced = in_order(
        partial(_trace, source, threshold, connectivity),
        blocks((rows, cols), block_size),
        THREADS,
        "ussfc-vector",
        AHEAD,
    )
    for _, row_of_blocks in itertools.groupby(traced, key=lambda found: found[0].y0):
        row = _scan_row(row_of_blocks, (rows, cols), connectivity, len(above.first), subscriber)
        pieces = _Pieces.concatenate([above, row.open])
        group = _components(
            np.concatenate([row.pairs, _meeting(floor, row.top, connectivity)]), len(pieces.first)
        )
        merged = _merge(pieces, group, len(above.first))
        # A leading 0 keeps "none" at 0 when the numbers of pieces are looked up.
        number = np.concatenate([[0], group + 1])
        still_open = np.zeros(len(merged.first) + 1, np.bool_)
        still_open[number[row.bottom]] = True
        still_open[0] = False
        above, floor = (
            merged.take(still_open[1:]),
            np.cumsum(still_open)[number[row.bottom]] * (row.bottom > 0),
        )
        yield _whole(row.closed, merged.take(~still_open[1:]))


def _scan_row(
    blocks_of_row: Iterable[tuple[Box, _Traced]],
    shape: tuple[int, int],
    connectivity: Literal[4, 8],
    taken: int,
    subscriber: Subscriber,
) -> _Row:
    """Join the blocks of one row; open pieces are numbered from ``taken + 1``."""
    rows, cols = shape
    top, bottom = np.zeros(cols, np.int64), np.zeros(cols, np.int64)
    closed, opened, pairs = [], [], [np.zeros((0, 2), np.int64)]
    seam: IntArray | None = None
    for box, traced in blocks_of_row:
        pieces = traced.pieces
        touches = np.zeros(len(pieces.first) + 1, np.bool_)
        for inner, edge in (
            (box.y0 > 0, traced.top),
            (box.y1 < rows, traced.bottom),
            (box.x0 > 0, traced.left),
            (box.x1 < cols, traced.right),
        ):
            if inner:
                touches[edge] = True
        touches[0] = False
        closed.append(pieces.take(~touches[1:]))
        opened.append(pieces.take(touches[1:]))
        number = np.where(touches, taken + np.cumsum(touches), 0)
        taken += int(np.count_nonzero(touches))
        if seam is not None:
            pairs.append(_meeting(seam, number[traced.left], connectivity))
        seam = number[traced.right]
        top[box.x0 : box.x1] = number[traced.top]
        if box.y1 < rows:
            bottom[box.x0 : box.x1] = number[traced.bottom]
        subscriber(Advanced(STAGE, 1, box.pixels))
    return _Row(_Pieces.concatenate(closed), _Pieces.concatenate(opened), np.concatenate(pairs), top, bottom)


def _trace(source: ProbabilitySource, threshold: float, connectivity: Literal[4, 8], box: Box) -> _Traced:
    """The pieces of one block."""
    stored = source.read(box)
    changed = np.flatnonzero(is_change(stored, threshold))
    runs = _Runs.of(changed, (stored.shape[0], stored.shape[1]))
    if not len(runs.row):
        rows, cols = (np.zeros(side, np.int64) for side in runs.shape)
        return _Traced(_Pieces.none(), cols, cols, rows, rows)
    part = _components(runs.meeting(4), len(runs.row))
    label = part if connectivity == 4 else _components(runs.meeting(8), len(runs.row))
    count = int(label.max()) + 1
    length = runs.end - runs.start
    index = (runs.row + box.y0) * source.shape[1] + runs.start + box.x0
    probability = decode(stored.ravel()[changed]).astype(np.float64)
    owner = np.repeat(label, length)
    pieces = _Pieces(
        _fold(np.minimum, NEVER, index, label, count),
        _fold(np.maximum, -1, index + length - 1, label, count),
        _fold(np.add, 0, length, label, count),
        np.bincount(owner, np.rint(probability * FIXED_POINT), count).astype(np.int64),
        _fold(np.maximum, 0, probability, owner, count),
        _outlines(runs, part, label, box),
    )
    return _Traced(pieces, *runs.edges(label + 1))


@dataclass(frozen=True, slots=True)
class _Runs:
    """The changed pixels of a block, as mappings within its rows; one element of every column for each."""

    shape: tuple[int, int]
    """(rows, cols) of the block."""
    row: IntArray
    start: IntArray
    end: IntArray
    """Columns from ``start`` to before ``end``."""

    @staticmethod
    def of(changed: IntArray, shape: tuple[int, int]) -> _Runs:
        """Of (n,) positions in the block, row by row."""
        cols = shape[1]
        first = np.flatnonzero((np.diff(changed, prepend=-2) != 1) | (changed % cols == 0))
        row, start = np.divmod(changed[first], cols)
        return _Runs(shape, row, start, start + np.diff(first, append=len(changed)))

    def meeting(self, connectivity: Literal[4, 8]) -> IntArray:
        """(n, 2) numbers, from 1, of runs in neighbouring rows that touch; 8 lets them touch at a corner."""
        stride = self.shape[1] + 1
        below = (self.row + 1) * stride
        sides: tuple[Literal["left", "right"], ...] = (
            ("right", "left") if connectivity == 4 else ("left", "right")
        )
        # Of the runs in the row below: the first that does not end too early, and the first that starts too late.
        first = np.searchsorted(self.row * stride + self.end, below + self.start, sides[0])
        last = np.searchsorted(self.row * stride + self.start, below + self.end, sides[1])
        several = np.maximum(last - first, 0)
        upper = np.repeat(np.arange(len(self.row)), several)
        lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(several) - several), several)
        return np.stack([upper, lower], axis=1) + 1

    def edges(self, number: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Numbers of the runs along the top, the bottom, the left and the right side of the block, else 0."""
        rows, cols = self.shape
        sides = []
        for row in (0, rows - 1):
            here = self.row == row
            line = np.zeros(cols + 1, np.int64)
            line[self.start[here]] += number[here]
            line[self.end[here]] -= number[here]
            sides.append(np.cumsum(line)[:-1])
        for touching in (self.start == 0, self.end == cols):
            line = np.zeros(rows, np.int64)
            line[self.row[touching]] = number[touching]
            sides.append(line)
        top, bottom, left, right = sides
        return top, bottom, left, right


def _outlines(runs: _Runs, part: IntArray, label: IntArray, box: Box) -> list[tuple[shapely.Geometry, ...]]:
    """Outlines by label, in pixel coordinates of the grid.

    Every part, the pixels that hang together by their sides, is a polygon: parts that touch at a corner only are
    valid side by side in a MultiPolygon, while one ring through that corner is not.

    Args:
        runs: of the block.
        part: (runs,) number of the part that each belongs to, from 0, none left out.
        label: (runs,) number of the piece, likewise.
        box: the block.
    """
    polygons = _polygons(runs, part, box)
    owner = np.zeros(len(polygons), np.int64)
    owner[part] = label
    order = np.argsort(owner, kind="stable")
    parts = np.bincount(owner)
    single = polygons[order][np.cumsum(parts) - parts]
    if (parts > 1).any():
        single = np.where(parts == 1, single, shapely.multipolygons(polygons[order], indices=owner[order]))
    return [(outline,) for outline in single]


def _polygons(runs: _Runs, part: IntArray, box: Box) -> Geometries:
    """One polygon for each part, with the fewest corners.

    The ends of the runs are upright edges of pixels; those above each other that look the same way join to posts.
    A post has a corner at its head and its foot, and the corners along a line between two rows of pixels are joined
    two by two from left to right. So each post leads to a next one, and around to itself: a ring.
    """
    rows, cols = runs.shape
    # Edges by column, by what they are (0: change begins to the right of it, 1: ends), by row.
    key = np.concatenate([2 * runs.start, 2 * runs.end + 1]) * (rows + 1) + np.tile(runs.row, 2)
    order = np.argsort(key)
    key = key[order]
    heads = np.flatnonzero(np.diff(key, prepend=-2) != 1)
    feet = np.append(heads[1:], len(key)) - 1
    column, head = np.divmod(key[heads], rows + 1)
    x, ends = column // 2, column % 2
    foot = key[feet] % (rows + 1) + 1
    of = part[order[heads] % len(part)]
    posts = len(x)

    # Corners are numbered: the heads of all posts, then their feet.
    corner = np.concatenate([head, foot]) * (cols + 1) + np.tile(x, 2)
    along = np.argsort(corner, kind="stable")
    # Where a foot stands on another post's head, two changed pixels meet at a corner. Two rings pass there, and each
    # turns round a pixel without change if one part is on both sides, else round its own part.
    meet = np.flatnonzero(np.diff(corner[along]) == 0)
    lower, upper = along[meet], along[meet + 1] - posts
    turned = (ends[upper] == 1) != (of[upper] == of[lower])
    swapped = meet[turned]
    along[swapped], along[swapped + 1] = along[swapped + 1], along[swapped]
    facing = np.empty(2 * posts, np.int64)
    facing[along[0::2]], facing[along[1::2]] = along[1::2], along[0::2]

    # With change at the right hand: down where it ends, up where it begins.
    leave = np.where(ends == 1, np.arange(posts) + posts, np.arange(posts))
    walk, starts = _cycles(facing[leave] % posts)
    length = np.diff(starts, append=posts)
    area = np.add.reduceat((x * (foot - head) * (2 * ends - 1))[walk], starts)
    # By part, the shell before the holes, which lie the other way round.
    owner = of[walk[starts]]
    rings = np.lexsort((area < 0, owner))
    length, owner = length[rings], owner[rings]
    ring = np.repeat(np.arange(len(rings)), length)
    walk = walk[np.arange(posts) + np.repeat(starts[rings] - (np.cumsum(length) - length), length)]

    # Two corners for each post; a ring ends with its first one.
    down = ends[walk] == 1
    place = 2 * np.arange(posts) + ring
    corners = np.empty((2 * posts + len(rings), 2))
    for step, y in enumerate(
        (np.where(down, head[walk], foot[walk]), np.where(down, foot[walk], head[walk]))
    ):
        corners[place + step] = np.stack([x[walk] + box.x0, y + box.y0], axis=1)
    bounds = np.concatenate([[0], np.cumsum(2 * length + 1)])
    corners[bounds[1:] - 1] = corners[bounds[:-1]]
    holes = np.searchsorted(owner, np.arange(owner[-1] + 2))
    polygons: Geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (bounds, holes))
    return polygons


def _cycles(following: IntArray) -> tuple[IntArray, IntArray]:
    """The cycles of a permutation, one after the other from their least members on, and where each starts.

    Every member looks twice as far ahead in each round, for the least member and the steps to it: as many rounds as
    the longest cycle's length has bits, and all of it in NumPy, which lets other threads trace meanwhile.
    """
    count = len(following)
    # Least member and steps to it in one number, so that the lesser of two is the one wanted.
    nearest, ahead, hop = np.arange(count) << 32, following, 1
    while not np.array_equal(found := np.minimum(nearest, nearest[ahead] + hop), nearest):
        nearest, ahead, hop = found, ahead[ahead], 2 * hop
    least, steps = nearest >> 32, nearest & 0xFFFFFFFF
    first = np.flatnonzero(steps == 0)
    length = steps[following[first]] + 1
    steps[first] = length
    ends = np.zeros(count, np.int64)
    ends[first] = np.cumsum(length)
    walk = np.empty(count, np.int64)
    walk[ends[least] - steps] = np.arange(count)
    return walk, ends[first] - length


def _meeting(one: IntArray, other: IntArray, connectivity: Literal[4, 8]) -> IntArray:
    """(n, 2) pairs of numbers that face each other over a seam, 0 being none.

    Args:
        one: (length,) numbers along one side of the seam.
        other: (length,) numbers along the other side.
        connectivity: 8 lets pixels meet over a corner too.
    """
    facing = [(one, other)]
    if connectivity == 8:
        facing += [(one[1:], other[:-1]), (one[:-1], other[1:])]
    pairs = np.concatenate([np.stack(sides, axis=1) for sides in facing])
    met: IntArray = np.unique(pairs[(pairs > 0).all(axis=1)], axis=0)
    return met


def _components(pairs: IntArray, count: int) -> IntArray:
    """(count,) group of each piece, from 0, given the (n, 2) numbers of those that meet."""
    links = coo_array((np.ones(len(pairs), np.bool_), tuple(pairs.T - 1)), shape=(count, count))
    group: IntArray = connected_components(links, directed=False)[1].astype(np.int64)
    return group


def _merge(pieces: _Pieces, group: IntArray, carried: int) -> _Pieces:
    """One piece for each group.

    Args:
        pieces: the first ``carried`` come from rows of blocks above, the rest from this row.
        group: (pieces,) from 0, none left out.
        carried: how many are from above.
    """
    count = int(group.max(initial=-1)) + 1
    old: list[list[shapely.Geometry]] = [[] for _ in range(count)]
    new: list[list[shapely.Geometry]] = [[] for _ in range(count)]
    for position, (owner, outlines) in enumerate(zip(group, pieces.outlines, strict=True)):
        (old if position < carried else new)[owner].extend(outlines)
    # What came from above is not united again in every row: a region through the whole scene would cost
    # the square of its height.
    united = [(*above, *([_unite(here)] if here else [])) for above, here in zip(old, new, strict=True)]
    return _Pieces(
        _fold(np.minimum, NEVER, pieces.first, group, count),
        _fold(np.maximum, -1, pieces.last, group, count),
        _fold(np.add, 0, pieces.pixels, group, count),
        _fold(np.add, 0, pieces.total, group, count),
        _fold(np.maximum, 0, pieces.peak, group, count),
        united,
    )


def _fold(ufunc: np.ufunc, start: int, values: Any, group: Any, count: int) -> Any:
    """(count,) the values of each group taken together, in the dtype of ``values``."""
    result = np.full(count, start, values.dtype)
    ufunc.at(result, group, values)
    return result


def _unite(outlines: Sequence[shapely.Geometry]) -> shapely.Geometry:
    return outlines[0] if len(outlines) == 1 else shapely.union_all(outlines)


def _whole(closed: _Pieces, merged: _Pieces) -> _Pieces:
    """Finished regions, ordered by the last pixel: one outline each, canonical but for where rings begin."""
    # This takes away the vertices that seams left on straight edges. A ring's first vertex stays whatever
    # it is, so rings are first turned to start at their least one, which is a corner.
    united = _array([_unite(outlines) for outlines in merged.outlines])
    united = shapely.simplify(shapely.normalize(united), 0)
    outlines = np.concatenate([_array([outline for (outline,) in closed.outlines]), united])
    regions = _Pieces.concatenate([closed, merged])
    order = np.argsort(regions.last)
    return _Pieces(
        regions.first[order],
        regions.last[order],
        regions.pixels[order],
        regions.total[order],
        regions.peak[order],
        [(outline,) for outline in outlines[order]],
    )


def _array(geometries: Sequence[shapely.Geometry]) -> Geometries:
    column = np.empty(len(geometries), np.object_)
    column[:] = geometries
    return column


# From regions to features


@dataclass(frozen=True, slots=True)
class _Ellipsoid:
    """Measures pixel coordinates on the ellipsoid of the grid's own reference system."""

    affine: Affine
    geod: pyproj.Geod
    to_degrees: pyproj.Transformer

    @staticmethod
    def of(geobox: GeoBox) -> _Ellipsoid | None:
        """None for a grid without a reference system, or with a local one that has no ellipsoid."""
        import pyproj
        from pyproj.crs import GeographicCRS

        crs = None if geobox.crs is None else geobox.crs.proj
        if crs is None or crs.geodetic_crs is None:
            return None
        # The system's own datum, so that nothing is shifted, but always in degrees: some are in grads.
        degrees = GeographicCRS(datum=crs.geodetic_crs.datum)
        geod = degrees.get_geod()
        if geod is None:
            return None
        return _Ellipsoid(geobox.affine, geod, pyproj.Transformer.from_crs(crs, degrees, always_xy=True))

    def degrees(self, pixels: RealArray) -> tuple[RealArray, RealArray]:
        """Longitudes and latitudes of (n, 2) pixel coordinates (x, y); infinite where there are none."""
        x, y = _to_grid(self.affine, pixels).T
        longitude, latitude = self.to_degrees.transform(x, y)
        return longitude, latitude

    def pixel_size(self, rows: int, cols: int) -> RealArray:
        """(2,) metres that a pixel at the centre of the grid is wide and high."""
        y, x = rows / 2, cols / 2
        ends = np.array([(x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5)])
        longitude, latitude = self.degrees(ends)
        return np.array(self.geod.inv(longitude[::2], latitude[::2], longitude[1::2], latitude[1::2])[2])

    def measure(self, outlines: Geometries) -> tuple[RealArray, RealArray]:
        """Areas in square metres and perimeters in metres, NaN where a vertex has no longitude.

        Args:
            outlines: (n,) normalised polygons and multipolygons in pixel coordinates.
        """
        west, south, east, north = shapely.bounds(outlines).T
        long = np.maximum(east - west, north - south) > LONGEST_EDGE
        outlines = outlines.copy()
        outlines[long] = shapely.segmentize(outlines[long], LONGEST_EDGE)
        parts, outline = shapely.get_parts(outlines, return_index=True)
        rings, part = shapely.get_rings(parts, return_index=True)
        corners, ring = shapely.get_coordinates(rings, return_index=True)
        longitude, latitude = self.degrees(corners)
        bounds = np.searchsorted(ring, np.arange(len(rings) + 1)).tolist()
        # Rings have few corners: NumPy's slices would cost pyproj as much as the measuring.
        x, y = array("d", longitude.tobytes()), array("d", latitude.tobytes())
        measured = np.empty((len(rings), 2))
        for position, (start, end) in enumerate(itertools.pairwise(bounds)):
            measured[position] = self.geod.polygon_area_perimeter(x[start:end], y[start:end])
        owner = outline[part]
        # Normalised holes run against their shells: with its sign, a hole's area takes itself away.
        area, perimeter = (_fold(np.add, 0, column, owner, len(outlines)) for column in measured.T)
        return np.abs(area), perimeter


def _to_grid(affine: Affine, pixels: RealArray) -> RealArray:
    """(n, 2) coordinates of the grid's reference system for (n, 2) pixel coordinates (x, y)."""
    x, y = pixels.T
    return np.stack([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f], axis=1)


@dataclass(frozen=True, slots=True)
class _Features:
    """What goes into the file; one element of every column for each feature."""

    regions: _Pieces
    area: RealArray
    """Square metres, NaN where unknown."""
    perimeter: RealArray
    """Metres, NaN where unknown."""
    geometry: Geometries
    """Valid polygons and multipolygons in the grid's reference system, shells counterclockwise."""


def _features(
    regions: _Pieces, geobox: GeoBox, ellipsoid: _Ellipsoid | None, options: VectorOptions
) -> _Features:
    """Make canonical, measure, filter, simplify, and bring to the grid's reference system."""
    outlines = shapely.normalize(_array([outline for (outline,) in regions.outlines]))
    area = perimeter = np.full(len(outlines), np.nan)
    if ellipsoid is not None:
        area, perimeter = ellipsoid.measure(outlines)
        # A region of unknown area is not known to be too small: it stays.
        kept = ~(area < options.min_area_m2)
        regions, outlines, area, perimeter = regions.take(kept), outlines[kept], area[kept], perimeter[kept]
        if options.simplify_m > 0:
            outlines = _simplify(outlines, ellipsoid.pixel_size(*geobox.shape), options.simplify_m)
    geometry = shapely.transform(outlines, partial(_to_grid, geobox.affine))
    broken = ~shapely.is_valid(geometry)
    # "structure" without what collapsed leaves polygons only.
    geometry[broken] = shapely.make_valid(geometry[broken], method="structure", keep_collapsed=False)
    return _Features(regions, area, perimeter, shapely.orient_polygons(geometry))


def _simplify(outlines: Geometries, pixel_size: RealArray, tolerance: float) -> Geometries:
    """Outlines in pixel coordinates with fewer corners.

    Args:
        outlines: (n,) polygons and multipolygons.
        pixel_size: (2,) metres that a pixel is wide and high.
        tolerance: metres that an outline may move.
    """
    metres = shapely.transform(outlines, lambda pixels: pixels * pixel_size)
    # Simplifying only leaves corners out: those that stay go back to the whole pixel that they were.
    simple: Geometries = shapely.transform(
        shapely.simplify(metres, tolerance), lambda kept: np.rint(kept / pixel_size)
    )
    return simple


# From features to files


class _TableWriter:
    """Writes GeoParquet 1.1 in row groups of one size, and counts what goes by."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema()
        # The smallest and largest WKB tell nothing, and the footer would repeat the largest polygons.
        plain = [name for name in self._schema.names if name not in ("geometry", "bbox")]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=False,
            write_statistics=plain + [f"bbox.{side}" for side in SIDES],
        )
        self._waiting: list[pa.Table] = []
        self._bounds: list[RealArray] = []
        self._types: set[str] = set()
        self._pixels = 0
        self._areas: list[RealArray] = [np.zeros(0)]

    def add(self, features: _Features) -> None:
        """Write the row groups that are full, keep the rest."""
        import pyarrow as pa

        if not len(features.geometry):
            return
        self._bounds.append(shapely.total_bounds(features.geometry))
        self._types.update(TYPES[number] for number in np.unique(shapely.get_type_id(features.geometry)))
        self._pixels += int(features.regions.pixels.sum())
        self._areas.append(features.area)
        self._waiting.append(_table(features, self._schema))
        if sum(map(len, self._waiting)) < ROW_GROUP:
            return
        waiting = pa.concat_tables(self._waiting)
        while len(waiting) >= ROW_GROUP:
            self._write(waiting.slice(0, ROW_GROUP))
            waiting = waiting.slice(ROW_GROUP)
        self._waiting = [waiting]

    def finish(self, geobox: GeoBox) -> VectorCounts:
        """Write what is left and the metadata that make a Parquet file a GeoParquet file."""
        import pyarrow as pa

        if any(map(len, self._waiting)):
            self._write(pa.concat_tables(self._waiting))
        metadata = _geo_metadata(geobox, sorted(self._types), self._bounds)
        self._writer.add_key_value_metadata({"geo": json.dumps(metadata)})
        self._writer.close()
        areas = np.concatenate(self._areas)
        # fsum is exact: the sum does not depend on the batches either.
        return VectorCounts(len(areas), self._pixels, math.fsum(areas[np.isfinite(areas)]))

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        # In one chunk: the pages would be cut where the batches were.
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)


def _write_table(batches: Iterable[_Features], geobox: GeoBox, file: Path, target: Path) -> VectorCounts:
    """Write all features; an error of ``batches`` passes as it is."""
    batches = iter(batches)
    # Before the writer: tracing is under way on its threads while Arrow is imported.
    first = list(itertools.islice(batches, 1))
    with _writing(target):
        writer = _TableWriter(file)
    with closing(writer):
        for batch in itertools.chain(first, batches):
            with _writing(target):
                writer.add(batch)
        with _writing(target):
            return writer.finish(geobox)


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("area_m2", pa.float64()),
            pa.field("perimeter_m", pa.float64()),
            pa.field("mean_probability", pa.float64(), nullable=False),
            pa.field("max_probability", pa.float64(), nullable=False),
            pa.field("pixels", pa.int64(), nullable=False),
            pa.field("geometry", pa.binary(), nullable=False),
            pa.field(
                "bbox",
                pa.struct([pa.field(side, pa.float64(), nullable=False) for side in SIDES]),
                nullable=False,
            ),
        ]
    )


def _table(features: _Features, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    regions = features.regions
    real = pa.float64()
    bounds = [_column(side, real) for side in shapely.bounds(features.geometry).T]
    columns = [
        _column(regions.first, pa.int64()),
        _column(features.area, real, np.isfinite(features.area)),
        _column(features.perimeter, real, np.isfinite(features.perimeter)),
        _column(regions.total / (regions.pixels * float(FIXED_POINT)), real),
        _column(regions.peak, real),
        _column(regions.pixels, pa.int64()),
        _binary(shapely.to_wkb(features.geometry, byte_order=1)),
        pa.StructArray.from_arrays(bounds, fields=list(schema.field("bbox").type)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: npt.NDArray[Any], kind: pa.DataType, known: FlagArray | None = None) -> pa.Array:
    """Numbers as Arrow has them, null where not ``known``; by its buffers, for ``pa.array`` imports pandas first."""
    import pyarrow as pa

    mask = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(np.ascontiguousarray(values))])


def _binary(values: Sequence[bytes]) -> pa.Array:
    """The same for bytes."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)])
    if ends[-1] > MOST_BYTES:
        raise StoreError(
            f"{len(values)} outlines take {ends[-1] / 1e9:.1f} GB, a part of a layer holds {MOST_BYTES / 1e9:.1f}; "
            "raise threshold or vector.simplify_m"
        )
    offsets, content = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(values))
    return pa.Array.from_buffers(pa.binary(), len(values), [None, offsets, content])


def _geo_metadata(geobox: GeoBox, types: Sequence[str], bounds: Sequence[RealArray]) -> dict[str, Any]:
    """The ``geo`` key of GeoParquet 1.1."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": types,
        # A missing key would mean longitude and latitude; null means not known.
        "crs": None if geobox.crs is None else geobox.crs.proj.to_json_dict(),
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if bounds:
        low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
        column["bbox"] = [*low.tolist(), *high.tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _convert(table: Path, part: Path, geobox: GeoBox, driver: str, target: Path) -> None:
    """Stream a GeoParquet file into a layer of another format, named after ``target``.

    Layers have one geometry type: where one feature is a MultiPolygon, all are.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyogrio

    crs = None if geobox.crs is None else geobox.crs.to_wkt()
    with pq.ParquetFile(table) as file:
        types = json.loads(file.metadata.metadata[b"geo"])["columns"]["geometry"]["geometry_types"]
        multi = "MultiPolygon" in types
        schema = _schema().remove(_schema().get_field_index("bbox"))
        batches = file.iter_batches(batch_size=CONVERTED, columns=schema.names)
        stream = pa.RecordBatchReader.from_batches(
            schema, (_promote(batch, schema) if multi else batch for batch in batches)
        )
        try:
            with warnings.catch_warnings():
                # A grid without a reference system is what the user has; it is not news.
                warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
                pyogrio.write_arrow(
                    stream,
                    part,
                    layer=target.stem,
                    driver=driver,
                    geometry_name="geometry",
                    geometry_type="MultiPolygon" if multi else "Polygon",
                    crs=crs,
                )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise _refused(target, error) from error


def _promote(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with every geometry a MultiPolygon."""
    import pyarrow as pa

    geometries = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
    parts, owner = shapely.get_parts(geometries, return_index=True)
    multi = pa.array(shapely.to_wkb(shapely.multipolygons(parts, indices=owner), byte_order=1), pa.binary())
    return batch.set_column(schema.get_field_index("geometry"), schema.field("geometry"), multi)


def _refused(target: Path, error: Exception) -> StoreError:
    found = " ".join(str(error).split())
    return StoreError(
        f"cannot write {target}: {found}; make sure that its folder is writable and has room,"
        " then run this stage again"
    )


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turns what the disk says into an error that names the product."""
    try:
        yield
    except OSError as error:
        raise _refused(target, error) from error


def _discard(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    """Put a file on the disk before its name says that it is complete."""
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
