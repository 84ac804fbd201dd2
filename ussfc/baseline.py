"""A baseline without learning: change vector magnitude with Otsu's threshold."""

from __future__ import annotations

import numpy as np

from ussfc.training.data import BoolArray, FloatArray

BINS = 256
"""Bins of the histogram."""


def change_vector_magnitude(before: FloatArray, after: FloatArray) -> FloatArray:
    """Compute the length of the difference of two spectra (change vector analysis, Malila 1980).

    Args:
        before: (bands, rows, cols) float32.
        after: the same shape.

    Returns:
        (rows, cols) float32, 0 where nothing changed.
    """
    magnitude: FloatArray = np.sqrt(np.square(after - before).sum(axis=0))
    return magnitude


def otsu_threshold(values: FloatArray) -> float:
    """Find the threshold between two classes of values with the largest variance between them (Otsu 1979).

    Args:
        values: any shape, not empty; counted in 256 bins between their minimum and maximum.

    Returns:
        The threshold: values of class two are larger; the maximum if all values are equal.
    """
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    if values.min() == values.max():
        return float(values.max())
    return float(edges[1 + int(np.nanargmax(between))])


def changed(before: FloatArray, after: FloatArray, valid: BoolArray) -> BoolArray:
    """Find the pixels whose magnitude exceeds Otsu's threshold of the scene's valid pixels.

    Args:
        before: (bands, rows, cols) float32 in [0, 1].
        after: the same shape.
        valid: (rows, cols), at least one True.
    """
    magnitude = change_vector_magnitude(before, after)
    return np.asarray((magnitude > otsu_threshold(magnitude[valid])) & valid)
