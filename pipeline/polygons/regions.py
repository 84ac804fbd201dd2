"""From pieces to whole regions: blocks are joined over their seams, one row of blocks after the other.

A region that lies inside one block is finished there (``blocks``); one that touches another block stays open until the
row of blocks below it has been seen, and then its pieces are united. Memory holds one row of blocks and what is open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely

from ussfc.pipeline.events import Advanced, Subscriber
from ussfc.pipeline.polygons.arrays import Connectivity, IntArray, components, geometry_array
from ussfc.pipeline.polygons.blocks import (
    BlockRegions,
    MakeFeatures,
    in_file_order,
    make_parts,
    shift_numbers,
)
from ussfc.pipeline.polygons.measure import Features
from ussfc.pipeline.polygons.pieces import Pieces
from ussfc.pipeline.types import Box

STAGE = "vectorise"
"""Name of the stage in events."""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A row of blocks once scanned. Open pieces go by number, from 1; 0 is none."""

    closed: list[Features]
    """Regions that touch no other block."""
    open: Pieces
    """Pieces that touch another block."""
    pairs: IntArray
    """(n, 2) numbers of pieces that meet over a seam between two blocks of the row."""
    top: IntArray
    """(cols,) number of the piece at each pixel of the first row of pixels."""
    bottom: IntArray
    """(cols,) the same for the last row of pixels."""


def join_regions(
    found: Iterable[tuple[Box, BlockRegions]],
    shape: tuple[int, int],
    connectivity: Connectivity,
    make: MakeFeatures,
    subscriber: Subscriber,
) -> Iterator[Features]:
    """Yield the features of all regions, a batch for every row of blocks, ordered by their last pixel.

    Args:
        found: blocks that partition the grid, row by row, each with its regions.
        shape: (rows, cols) of the grid.
        connectivity: 8 joins pixels that touch at a corner only.
        make: makes features of the regions that lie in several blocks.
        subscriber: receives one ``Advanced`` for every block.
    """
    above, floor = Pieces.none(), np.zeros(shape[1], np.int64)
    for _, row_of_blocks in itertools.groupby(found, key=lambda each: each[0].y0):
        row = join_row(row_of_blocks, shape, connectivity, len(above.first), subscriber)
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
        ended = _canonical(merged.take(~still_open[1:]))
        yield in_file_order([*row.closed, make_parts(ended, make)])


def join_row(
    blocks_of_row: Iterable[tuple[Box, BlockRegions]],
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
    for box, regions in blocks_of_row:
        found = shift_numbers(regions, taken)
        closed.append(found.closed)
        opened.append(found.open)
        taken += len(found.open.first)
        if seam is not None:
            pairs.append(facing_pairs(seam, found.left, connectivity))
        seam = found.right
        top[box.x0 : box.x1] = found.top
        if box.y1 < rows:
            bottom[box.x0 : box.x1] = found.bottom
        subscriber(Advanced(STAGE, 1, box.pixels))
    return BlockRow(closed, Pieces.concatenate(opened), np.concatenate(pairs), top, bottom)


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


def _canonical(merged: Pieces) -> Pieces:
    """Return finished regions with one outline each, canonical but for where rings begin."""
    # This takes away the vertices that seams left on straight edges. A ring's first vertex stays whatever
    # it is, so rings are first turned to start at their least one, which is a corner.
    united = geometry_array([_unite(outlines) for outlines in merged.outlines])
    united = shapely.simplify(shapely.normalize(united), 0)
    return replace(merged, outlines=[(outline,) for outline in united])
