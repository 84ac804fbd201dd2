"""Encoding of probabilities as stored numbers, and change classes from them."""

from __future__ import annotations

import numpy as np

from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, BoolArray, ByteArray, FloatArray, StoredArray


def encode(probability: FloatArray, valid: BoolArray, dtype: np.dtype[np.generic]) -> StoredArray:
    """Return probabilities as they are stored.

    Args:
        probability: (rows, cols) float32 in [0, 1].
        valid: (rows, cols).
        dtype: uint8 gives ``round(254 p)`` with nodata 255, float32 keeps p with nodata NaN.
    """
    if dtype == np.uint8:
        levels = probability * np.float32(PROBABILITY_STEPS)
        np.rint(levels, out=levels)
        if not valid.all():
            # Before the cast, whose result for a NaN is undefined.
            np.copyto(levels, np.float32(NODATA_BYTE), where=~valid)
        return levels.astype(np.uint8)
    return np.where(valid, probability, np.float32(np.nan)).astype(np.float32, copy=False)


def decode(stored: StoredArray) -> FloatArray:
    """Return stored numbers as float32 probabilities, NaN for nodata."""
    if stored.dtype == np.uint8:
        table = np.arange(256, dtype=np.float32) / np.float32(PROBABILITY_STEPS)
        table[NODATA_BYTE] = np.nan
        return table[stored]
    return stored.astype(np.float32, copy=False)


def classify(stored: StoredArray, threshold: float) -> ByteArray:
    """Return change classes: 1 where the stored probability is at least ``threshold``, 0 below, 255 nodata.

    Args:
        stored: probabilities as :func:`encode` writes them, any shape.
        threshold: in [0, 1]; compared with the stored value, so that the class raster follows from
            the probability raster alone.
    """
    classes = np.asarray(is_change(stored, threshold)).view(np.uint8)
    nodata = np.asarray(stored == NODATA_BYTE if stored.dtype == np.uint8 else np.isnan(stored)).view(
        np.uint8
    )
    # All ones where there is no data, whatever the class. Tables and choices take several times as long.
    classes |= np.negative(nodata, out=nodata)
    return classes


def is_change(stored: StoredArray, threshold: float) -> BoolArray:
    """Return True where :func:`classify` gives 1; takes the same arguments."""
    if stored.dtype != np.uint8:
        return stored >= np.float32(threshold)
    # A level is at least the threshold if it is at least the next whole number. Counted from there, what is below
    # turns into more than all that is above, and nodata comes next after that.
    least = np.uint8(np.ceil(threshold * PROBABILITY_STEPS))
    return stored - least < np.uint8(NODATA_BYTE) - least
