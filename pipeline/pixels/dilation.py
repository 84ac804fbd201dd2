"""Masks that grow by a distance on the ground."""

from __future__ import annotations

import math

from ussfc.pipeline.types import BoolArray

STRIP = 256
"""Rows that are grown together: their distances take eight times the memory of the mask."""


def reach(distance: float, pixel: tuple[float, float]) -> tuple[int, int]:
    """Return the rows and columns that a mask grows by at most.

    Args:
        distance: metres.
        pixel: height and width of a pixel, metres.
    """
    # A distance that is a whole number of pixels but for rounding reaches the last of them.
    return math.floor(distance / pixel[0] + 1e-6), math.floor(distance / pixel[1] + 1e-6)


def dilate(masked: BoolArray, distance: float, pixel: tuple[float, float]) -> BoolArray:
    """Return the pixels whose centre lies within a distance of the centre of a masked one, (rows, cols).

    Args:
        masked: (rows, cols).
        distance: metres.
        pixel: height and width of a pixel, metres.
    """
    # Most runs have no masks, and every worker imports this module.
    from scipy import ndimage

    rows, _ = reach(distance, pixel)
    grown = masked.copy()
    limit = distance + 1e-6 * min(pixel)
    for start in range(0, masked.shape[0], STRIP):
        first = max(0, start - rows)
        part = masked[first : start + STRIP + rows]
        if part.any() and not part.all():
            near = ndimage.distance_transform_edt(~part, sampling=pixel) <= limit
            grown[start : start + STRIP] = near[start - first : start - first + STRIP]
        elif part.any():
            grown[start : start + STRIP] = True
    return grown
