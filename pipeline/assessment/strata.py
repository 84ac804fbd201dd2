"""Strata of a change map: change, a buffer around it, and what is stable; for pixels and for blocks of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ussfc.pipeline.assessment.estimators import RealArray
from ussfc.pipeline.types import NODATA_BYTE, BoolArray, ByteArray

STRATA = ("change", "buffer", "stable")
"""Names of the strata, in the order of their numbers."""

CLASSES = ("no change", "change")
"""Names of the classes, in the order of their numbers in ``change.tif``."""

OUTSIDE = NODATA_BYTE
"""Number of the stratum of a unit without a valid pixel."""

BUFFER = 5
"""Width of the buffer unless another is given, pixels: errors of omission lie beside what was found."""


@dataclass(frozen=True, slots=True)
class Units:
    """Units of a window; arrays are (rows, cols) of units."""

    stratum: ByteArray
    """Number of the stratum, :data:`OUTSIDE` where there is no valid pixel."""
    mapped: ByteArray
    """Number of the map class; anything outside."""
    size: RealArray
    """Area of the valid pixels, square metres, or their number on a grid without a place on the earth."""


def near(changed: BoolArray, width: int) -> BoolArray:
    """Return the pixels whose centre lies within ``width`` pixels of that of a changed one, (rows, cols)."""
    found = np.zeros_like(changed)
    if not changed.any():
        return found
    height = changed.shape[0]
    rows: dict[int, BoolArray] = {}
    # Row by row of the disc; a distance transform takes three times as long.
    for down in range(-min(width, height - 1), min(width, height - 1) + 1):
        half = math.isqrt(width**2 - down**2)
        if half not in rows:
            grown = ndimage.maximum_filter1d(changed.view(np.uint8), 2 * half + 1, axis=1, mode="constant")
            rows[half] = grown.view(bool)
        if down >= 0:
            found[down:] |= rows[half][: height - down]
        else:
            found[:down] |= rows[half][-down:]
    return found


def make_units(
    classes: ByteArray, close: BoolArray, sizes: RealArray, side: int, names: Sequence[str]
) -> Units:
    """Return the units of a window.

    The class of a block is that of most of its valid area, change at half of it. A block of another class with a
    changed pixel, or one near change, is of the buffer.

    Args:
        classes: (rows, cols) pixels of ``change.tif``.
        close: (rows, cols) pixels near change.
        sizes: (rows,) area of a pixel of each row.
        side: of a unit, pixels; units begin at the first pixel, the last ones may be cut.
        names: of the strata; without the buffer its units are stable.
    """
    changed = classes == 1
    valid = classes != NODATA_BYTE
    area = np.where(valid, sizes[:, None], 0.0)
    there, size, mapped = valid, area, changed
    if side > 1:
        there, size = _any(valid, side), _sum(area, side)
        mapped = 2 * _sum(area * changed, side) >= size
        close = _any((close & valid) | changed, side)
    stratum = np.where(mapped, 0, np.where(close & ("buffer" in names), 1, 2)).astype(np.uint8)
    stratum[~there] = OUTSIDE
    return Units(stratum, mapped.astype(np.uint8), size)


def _blocks(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return the (rows, side, cols, side) pixels of blocks, with zeros after the last."""
    rows, cols = (-length % side for length in values.shape)
    padded = np.pad(values, ((0, rows), (0, cols)))
    return padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)


def _sum(values: RealArray, side: int) -> RealArray:
    found: RealArray = _blocks(values, side).sum((1, 3))
    return found


def _any(values: BoolArray, side: int) -> BoolArray:
    found: BoolArray = np.asarray(_blocks(values, side).any((1, 3)), bool)
    return found
