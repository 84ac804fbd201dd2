"""Pixels of both dates where a tile has change: all that polygons need of the scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.types import BoolArray, Pixels, SourceArray

LARGEST_SHARE = 8
"""A tile is kept where no more than one pixel in so many may be change: beyond that, a file would take as much time and
room as reading the scenes again."""

MOST_PIXELS = 1 << 20
"""Pixels that are kept of a tile at most, however large it is: memory follows them."""

POSITION_BYTES = 4
"""Bytes of the place of a kept pixel."""


@dataclass(frozen=True)
class KeptPixels:
    """Both dates at some pixels of a tile."""

    places: npt.NDArray[np.uint32]
    """(n,) row-major positions in the tile, ascending."""
    before: SourceArray
    """(bands, n) stored numbers."""
    after: SourceArray
    """(bands, n) stored numbers."""
    valid: BoolArray
    """(n,) True where both dates have data."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.places.nbytes + self.before.nbytes + self.after.nbytes + self.valid.nbytes

    @classmethod
    def of(cls, before: Pixels, after: Pixels, wanted: BoolArray) -> KeptPixels | None:
        """Return the wanted pixels of a tile; None where they are none, or too many to be kept.

        Args:
            before: the tile's core.
            after: the same of the later date.
            wanted: (rows, cols) of the pixels to keep.
        """
        places = np.flatnonzero(wanted)
        if not 0 < len(places) <= min(wanted.size // LARGEST_SHARE, MOST_PIXELS):
            return None
        row, col = np.divmod(places, wanted.shape[1])
        return cls(
            places.astype(np.uint32),
            before.values[:, row, col],
            after.values[:, row, col],
            before.valid[row, col] & after.valid[row, col],
        )

    def find(self, places: npt.NDArray[np.int64]) -> KeptPixels | None:
        """Return the pixels at positions, (n,) ascending; None where one of them was not kept."""
        at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
        if not np.array_equal(self.places[at], places):
            return None
        return KeptPixels(self.places[at], self.before[:, at], self.after[:, at], self.valid[at])


def most_kept_bytes(bands: int) -> float:
    """Return the bytes of a pixel of the grid that are kept at most: numbers in float32, position and validity.

    Args:
        bands: of each date.
    """
    return (2 * bands * 4 + POSITION_BYTES + 1) / LARGEST_SHARE
