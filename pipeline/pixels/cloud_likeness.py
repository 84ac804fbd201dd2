"""Change that looks like clouds: bright in one date alone, over a large piece of ground."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ussfc.pipeline.types import BoolArray, FloatArray

BRIGHT = 0.8
"""Place in the model's range from which a pixel is bright, in the darkest of its visible bands."""

APART = 0.3
"""Least difference to the other date, likewise."""


def cloud_like(before: FloatArray, after: FloatArray, changed: BoolArray, least: int) -> tuple[int, int]:
    """Count changed pixels of large pieces that are bright in one date alone.

    Args:
        before: (bands, rows, cols) of the visible bands, in the model's range, [0, 1].
        after: the same of the later date.
        changed: (rows, cols).
        least: size of the smallest piece that counts, pixels; roofs are smaller.

    Returns:
        Pixels of pieces that are bright in the earlier date, and in the later one.
    """
    dark = before.min(axis=0), after.min(axis=0)
    counts = []
    for one, other in (dark, dark[::-1]):
        counts.append(pixels_of_pieces(changed & (one >= BRIGHT) & (one - other >= APART), least))
    return counts[0], counts[1]


def pixels_of_pieces(mask: BoolArray, least: int) -> int:
    """Count the pixels of pieces of a mask that are joined by their sides and have at least so many pixels.

    Args:
        mask: (rows, cols).
        least: size of the smallest piece that counts, pixels.
    """
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    return int(sizes[sizes >= least].sum())
