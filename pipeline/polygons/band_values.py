"""Values of the bands of both dates below polygons: exact sums, the same whatever the blocks and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ussfc.pipeline.polygons.arrays import IntArray, RealArray
from ussfc.pipeline.types import BoolArray, Box, Pixels, RadiometricMapping, SourceArray

CELL = 512
"""Side of the squares that are read where there is change, pixels: that of a warp's blocks, anchored as they are."""

PRECISION = 22
"""Bits of the largest number of a model's range: values are added up as whole multiples of a power of two."""

LARGEST = 1 << 28
"""Largest such multiple, 64 times the range: 2**63 / LARGEST pixels (34 gigapixels) fit into a region."""

TOGETHER = 1 << 18
"""Pixels that are added up together."""

Line = tuple[float, float]
"""Factor and term that bring a stored number to a value."""

Reads = Callable[[Sequence[Box]], Iterator[tuple[Pixels, Pixels]]]
"""Function that reads both dates in boxes of the grid, in their order."""


class Numbers(Protocol):
    """Both dates at some pixels."""

    @property
    def before(self) -> SourceArray:
        """(bands, n) stored numbers."""

    @property
    def after(self) -> SourceArray:
        """(bands, n) stored numbers."""

    @property
    def valid(self) -> BoolArray:
        """(n,) True where both dates have data."""


Kept = Callable[[IntArray, Box], Iterable[tuple[IntArray, Numbers]]]
"""Function that finds pixels of a block, ascending row-major positions, in what was kept of the tiles; gives places in
these positions with the numbers there."""


@dataclass(frozen=True)
class BandValues:
    """The bands that polygons have values of, and the way to them."""

    names: tuple[str, ...]
    """Common names of the bands (``red``), the sensor's where they have none."""
    span: Line
    """Values of the visible bands that are 0 and 1 in the model's range."""
    lines: tuple[tuple[Line, ...], tuple[Line, ...]]
    """Line of each band of before and of after."""
    mappings: tuple[RadiometricMapping, RadiometricMapping]
    """Radiometric constants of before and after, whose size decides what is added up."""
    read: Reads | None = None
    """Reads both dates, registered; None where they cannot be read: columns are null."""
    cell: int = CELL
    """Side of the squares that are read, pixels."""
    kept: Kept | None = None
    """Finds pixels that were kept of the tiles; what it does not find is read. None: all is read."""

    @property
    def columns(self) -> int:
        """Number of sums of a piece: its pixels that count, and each band of before, then of after."""
        return 1 + 2 * len(self.names)

    @property
    def steps(self) -> tuple[float, float]:
        """Multiples in which numbers of before and after are added up, a power of two for each number."""
        before, after = (_step(mapping) for mapping in self.mappings)
        return before, after

    def means(self, sums: IntArray) -> tuple[RealArray, RealArray]:
        """Return the mean values of before and after.

        Args:
            sums: (n, columns) of :func:`sum_values`.

        Returns:
            (bands, n) and (bands, n), NaN where no pixel counts.
        """
        count = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
        bands = len(self.names)
        found = []
        for date, (lines, step) in enumerate(zip(self.lines, self.steps, strict=True)):
            totals = sums[:, 1 + date * bands : 1 + (date + 1) * bands].T
            gain, offset = np.array(lines, np.float64).reshape(bands, 2).T
            found.append(totals / (count * step) * gain[:, None] + offset[:, None])
        return found[0], found[1]


def _step(mapping: RadiometricMapping) -> float:
    largest = max(float(np.abs([mapping.low, mapping.high]).max()), float(np.finfo(np.float32).tiny))
    return float(2.0 ** (PRECISION - np.ceil(np.log2(largest))))


def sum_values(values: BandValues, changed: IntArray, owner: IntArray, count: int, box: Box) -> IntArray:
    """Return the sums of each piece of a block.

    Args:
        values: the bands.
        changed: (n,) row-major positions of its changed pixels, ascending.
        owner: (n,) number of the piece of each, from 0.
        count: number of pieces.
        box: the block on the grid.

    Returns:
        (count, columns): pixels that are valid in both dates and within 64 times the range, and over these the
        stored numbers of each band in whole steps.
    """
    sums = np.zeros((count, values.columns), np.int64)
    if values.read is None or not len(changed):
        return sums
    left = np.ones(len(changed), np.bool_)
    if values.kept is not None:
        for members, kept in values.kept(changed, box):
            _add(sums, values, owner[members], (kept.before, kept.after), kept.valid)
            left[members] = False
    missing = np.flatnonzero(left)
    row, column = np.divmod(changed[missing], box.shape[1])
    row, column = row + box.y0, column + box.x0
    cells = list(_cells(row, column, values.cell))
    hulls = [
        Box(
            int(row[members].min()),
            int(column[members].min()),
            int(row[members].max()) + 1,
            int(column[members].max()) + 1,
        )
        for members in cells
    ]
    # Where all is kept, scenes are not asked for anything.
    read = values.read(hulls) if hulls else ()
    for members, hull, (before, after) in zip(cells, hulls, read, strict=True):
        at = (slice(None), row[members] - hull.y0, column[members] - hull.x0)
        valid = before.valid[at[1:]] & after.valid[at[1:]]
        _add(sums, values, owner[missing[members]], (before.values[at], after.values[at]), valid)
    return sums


def _add(
    sums: IntArray,
    values: BandValues,
    owner: IntArray,
    dates: tuple[SourceArray, SourceArray],
    valid: BoolArray,
) -> None:
    """Add pixels to the sums of their pieces, so many at a time.

    Args:
        sums: (pieces, columns), changed in place.
        values: the bands.
        owner: (n,) number of the piece of each pixel.
        dates: (bands, n) stored numbers of before and after.
        valid: (n,) True where both dates have data.
    """
    for start in range(0, len(owner), TOGETHER):
        part = slice(start, start + TOGETHER)
        counted = valid[part]
        found = [numbers[:, part].astype(np.float64) for numbers in dates]
        for numbers, step in zip(found, values.steps, strict=True):
            # Not true of NaN either; larger ones would not be added up exactly, and no mean is better than a wrong one.
            counted = counted & (np.abs(numbers) <= LARGEST / step).all(axis=0)
        pieces, local = np.unique(owner[part][counted], return_inverse=True)
        sums[pieces, 0] += np.bincount(local, minlength=len(pieces))
        column_at = 1
        for numbers, step in zip(found, values.steps, strict=True):
            for band in numbers:
                whole = np.rint(band[counted] * step)
                # A sum over so many pixels is below 2**53, so float64 adds it up exactly.
                sums[pieces, column_at] += np.bincount(local, whole, len(pieces)).astype(np.int64)
                column_at += 1


def _cells(row: IntArray, column: IntArray, side: int) -> Iterator[IntArray]:
    """Yield the places of the pixels in each square of the grid that holds any."""
    if not len(row):
        return
    key = row // side * (int(column.max()) // side + 1) + column // side
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
