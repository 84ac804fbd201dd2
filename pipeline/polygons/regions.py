"""From pieces to whole regions: blocks are joined over their seams, one row of blocks after the other.

A region that lies inside one block is finished there; one that touches another block stays open until the row of
blocks below it has been seen, and then its pieces are united. Memory holds one row of blocks and what is open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import shapely

from ussfc.pipeline.events import Advanced, Subscriber
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.polygons.arrays import Connectivity, IntArray, components, geometry_array
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.pieces import Pieces, TracedBlock, trace_block
from ussfc.pipeline.types import Box, ProbabilitySource, blocks

STAGE = "vectorise"
"""Name of the stage in events."""

THREADS = 2
"""Blocks that are read and traced at the same time. Memory follows them: a block that is all change takes much."""

AHEAD = 8
"""Blocks that are traced while others are united, measured and written: their regions wait in memory."""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A row of blocks once scanned. Open pieces go by number, from 1; 0 is none."""

    closed: Pieces
    """Pieces that touch no other block."""
    open: Pieces
    """Pieces that touch another block."""
    pairs: IntArray
    """(n, 2) numbers of pieces that meet over a seam between two blocks of the row."""
    top: IntArray
    """(cols,) number of the piece at each pixel of the first row of pixels."""
    bottom: IntArray
    """(cols,) the same for the last row of pixels."""


def trace_regions(
    source: ProbabilitySource,
    threshold: float,
    connectivity: Connectivity,
    block_size: int,
    subscriber: Subscriber,
    values: BandValues | None = None,
) -> Iterator[Pieces]:
    """Yield whole regions, a batch for every row of blocks, ordered by their last pixel.

    Args:
        source: (rows, cols) probabilities.
        threshold: in [0, 1]; a probability of at least this is change.
        connectivity: 8 joins pixels that touch at a corner only.
        block_size: side of the blocks, pixels.
        subscriber: receives one ``Advanced`` for every block.
        values: bands that are added up below the regions; None: none are.
    """
    rows, cols = source.shape
    above, floor = Pieces.none(), np.zeros(cols, np.int64)
    traced = in_order(
        partial(trace_block, source, threshold, connectivity, values=values),
        blocks((rows, cols), block_size),
        THREADS,
        "ussfc-vector",
        AHEAD,
    )
    for _, row_of_blocks in itertools.groupby(traced, key=lambda found: found[0].y0):
        row = join_row(row_of_blocks, (rows, cols), connectivity, len(above.first), subscriber)
        pieces = Pieces.concatenate([above, row.open])
        pairs = np.concatenate([row.pairs, facing_pairs(floor, row.top, connectivity)])
        group = components(pairs, len(pieces.first))
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
        yield _finish(row.closed, merged.take(~still_open[1:]))


def join_row(
    blocks_of_row: Iterable[tuple[Box, TracedBlock]],
    shape: tuple[int, int],
    connectivity: Connectivity,
    taken: int,
    subscriber: Subscriber,
) -> BlockRow:
    """Join the blocks of one row.

    Args:
        blocks_of_row: from left to right.
        shape: (rows, cols) of the grid.
        connectivity: 8 lets pixels meet over a corner too.
        taken: open pieces are numbered from ``taken + 1``.
        subscriber: receives one ``Advanced`` for every block.
    """
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
            pairs.append(facing_pairs(seam, number[traced.left], connectivity))
        seam = number[traced.right]
        top[box.x0 : box.x1] = number[traced.top]
        if box.y1 < rows:
            bottom[box.x0 : box.x1] = number[traced.bottom]
        subscriber(Advanced(STAGE, 1, box.pixels))
    return BlockRow(
        Pieces.concatenate(closed), Pieces.concatenate(opened), np.concatenate(pairs), top, bottom
    )


def facing_pairs(one: IntArray, other: IntArray, connectivity: Connectivity) -> IntArray:
    """Return the (n, 2) pairs of numbers that face each other over a seam, 0 being none.

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


def _merge(pieces: Pieces, group: IntArray, carried: int) -> Pieces:
    """Return one piece for each group.

    Args:
        pieces: the first ``carried`` come from rows of blocks above, the rest from this row.
        group: (pieces,) from 0, none left out.
        carried: number of pieces from above.
    """
    count = int(group.max(initial=-1)) + 1
    old: list[list[shapely.Geometry]] = [[] for _ in range(count)]
    new: list[list[shapely.Geometry]] = [[] for _ in range(count)]
    for position, (owner, outlines) in enumerate(zip(group, pieces.outlines, strict=True)):
        (old if position < carried else new)[owner].extend(outlines)
    # What came from above is not united again in every row: a region through the whole scene would cost
    # the square of its height.
    united = [(*above, *([_unite(here)] if here else [])) for above, here in zip(old, new, strict=True)]
    return pieces.unite(group, count, united)


def _unite(outlines: Sequence[shapely.Geometry]) -> shapely.Geometry:
    return outlines[0] if len(outlines) == 1 else shapely.union_all(outlines)


def _finish(closed: Pieces, merged: Pieces) -> Pieces:
    """Order finished regions by their last pixel: one outline each, canonical but for where rings begin."""
    # This takes away the vertices that seams left on straight edges. A ring's first vertex stays whatever
    # it is, so rings are first turned to start at their least one, which is a corner.
    united = geometry_array([_unite(outlines) for outlines in merged.outlines])
    united = shapely.simplify(shapely.normalize(united), 0)
    outlines = np.concatenate([geometry_array([outline for (outline,) in closed.outlines]), united])
    regions = Pieces.concatenate([closed, merged])
    order = np.argsort(regions.last)
    return Pieces(
        regions.first[order],
        regions.last[order],
        regions.pixels[order],
        regions.total[order],
        regions.peak[order],
        [(outline,) for outline in outlines[order]],
        regions.values[order],
    )
