"""Pieces of regions: what one block of the raster holds of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from ussfc.pipeline.pixels.encoding import decode, is_change
from ussfc.pipeline.polygons.arrays import (
    Connectivity,
    FlagArray,
    IntArray,
    RealArray,
    components,
    reduce_groups,
)
from ussfc.pipeline.polygons.band_values import BandValues, sum_values
from ussfc.pipeline.polygons.outlines import Runs, trace_outlines
from ussfc.pipeline.types import Box, ProbabilitySource

FIXED_POINT = 1 << 26
"""Probabilities are added up as whole multiples of 1 / FIXED_POINT: the sum does not depend on the order.
float32 is on that lattice from 1/8 upwards; 2**63 / FIXED_POINT pixels (137 gigapixels) fit into a region."""

NEVER = np.iinfo(np.int64).max
"""Position after every pixel."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Regions, or pieces of regions; every column holds one element a piece."""

    first: IntArray
    """Row-major index on the grid of the first pixel."""
    last: IntArray
    """Row-major index on the grid of the last pixel."""
    pixels: IntArray
    """Number of pixels."""
    total: IntArray
    """Sum of the probabilities in steps of 1 / FIXED_POINT."""
    peak: RealArray
    """Largest probability."""
    outlines: list[tuple[shapely.Geometry, ...]]
    """Pixel coordinates, x = column, y = row. Several geometries are still to be united."""
    values: IntArray
    """(pieces, columns) sums of :func:`ussfc.pipeline.polygons.band_values.sum_values`; no column without bands."""

    @property
    def mean(self) -> RealArray:
        """Mean probability of each."""
        mean: RealArray = self.total / (self.pixels * float(FIXED_POINT))
        return mean

    @staticmethod
    def none() -> Pieces:
        """Return no pieces."""
        none = np.zeros(0, np.int64)
        return Pieces(none, none, none, none, np.zeros(0), [], np.zeros((0, 0), np.int64))

    @staticmethod
    def concatenate(several: Sequence[Pieces]) -> Pieces:
        """Return all pieces, in their order."""
        # No pieces have no columns either.
        several = [pieces for pieces in several if len(pieces.first)]
        if not several:
            return Pieces.none()
        return Pieces(
            np.concatenate([pieces.first for pieces in several]),
            np.concatenate([pieces.last for pieces in several]),
            np.concatenate([pieces.pixels for pieces in several]),
            np.concatenate([pieces.total for pieces in several]),
            np.concatenate([pieces.peak for pieces in several]),
            list(itertools.chain.from_iterable(pieces.outlines for pieces in several)),
            np.concatenate([pieces.values for pieces in several]),
        )

    def take(self, places: FlagArray | IntArray) -> Pieces:
        """Return the pieces whose flag is True, or those at places; without outlines where there are none."""
        if places.dtype == np.bool_:
            places = np.flatnonzero(places)
        return Pieces(
            self.first[places],
            self.last[places],
            self.pixels[places],
            self.total[places],
            self.peak[places],
            [self.outlines[place] for place in places.tolist()] if self.outlines else [],
            self.values[places],
        )

    def parts(self, count: int) -> Iterator[Pieces]:
        """Yield ``count`` pieces at a time, in their order."""
        for start in range(0, len(self.first), count):
            part = slice(start, start + count)
            yield Pieces(
                self.first[part],
                self.last[part],
                self.pixels[part],
                self.total[part],
                self.peak[part],
                self.outlines[part],
                self.values[part],
            )

    def unite(self, group: IntArray, count: int, outlines: list[tuple[shapely.Geometry, ...]]) -> Pieces:
        """Return one piece for each group.

        Args:
            group: (pieces,) number of the group, from 0, none left out.
            count: number of groups.
            outlines: (count,) of the groups.
        """
        return Pieces(
            reduce_groups(np.minimum, NEVER, self.first, group, count),
            reduce_groups(np.maximum, -1, self.last, group, count),
            reduce_groups(np.add, 0, self.pixels, group, count),
            reduce_groups(np.add, 0, self.total, group, count),
            reduce_groups(np.maximum, 0, self.peak, group, count),
            outlines,
            reduce_groups(np.add, 0, self.values, group, count),
        )


@dataclass(frozen=True, slots=True)
class TracedBlock:
    """The pieces of one block and their places on its border. Piece i has number i + 1, 0 is no change."""

    pieces: Pieces
    top: IntArray
    """(cols,) number at each pixel of the first row."""
    bottom: IntArray
    """(cols,) number at each pixel of the last row."""
    left: IntArray
    """(rows,) number at each pixel of the first column."""
    right: IntArray
    """(rows,) number at each pixel of the last column."""


def trace_block(
    source: ProbabilitySource,
    threshold: float,
    connectivity: Connectivity,
    box: Box,
    values: BandValues | None = None,
) -> TracedBlock:
    """Read one block and trace its pieces.

    Args:
        source: (rows, cols) probabilities.
        threshold: in [0, 1]; a probability of at least this is change.
        connectivity: 8 joins pixels that touch at a corner only.
        box: the block on the grid of ``source``.
        values: bands that are added up below the pieces; None: none are.
    """
    stored = source.read(box)
    changed = np.flatnonzero(is_change(stored, threshold))
    runs = Runs.from_positions(changed, (stored.shape[0], stored.shape[1]))
    if not len(runs.row):
        rows, cols = (np.zeros(side, np.int64) for side in runs.shape)
        return TracedBlock(Pieces.none(), cols, cols, rows, rows)
    part = components(runs.touching(4), len(runs.row))
    label = part if connectivity == 4 else components(runs.touching(8), len(runs.row))
    count = int(label.max()) + 1
    length = runs.end - runs.start
    index = (runs.row + box.y0) * source.shape[1] + runs.start + box.x0
    probability = decode(stored.ravel()[changed]).astype(np.float64)
    owner = np.repeat(label, length)
    pieces = Pieces(
        reduce_groups(np.minimum, NEVER, index, label, count),
        reduce_groups(np.maximum, -1, index + length - 1, label, count),
        reduce_groups(np.add, 0, length, label, count),
        np.bincount(owner, np.rint(probability * FIXED_POINT), count).astype(np.int64),
        reduce_groups(np.maximum, 0, probability, owner, count),
        trace_outlines(runs, part, label, box),
        np.zeros((count, 0), np.int64) if values is None else sum_values(values, changed, owner, count, box),
    )
    return TracedBlock(pieces, *runs.edges(label + 1))
