"""Baselines without learning, each a measure of change with Otsu's threshold of the scene.

They use no label of the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from ussfc.pipeline.pixels.normalisation import alteration
from ussfc.training.data import BoolArray, FloatArray

BINS = 256
"""Bins of the histogram."""

MEDIAN = 3
"""Side of the median's window, pixels."""

BLUR = 3.0
"""Standard deviation of the Gaussian over the squared distances of IR-MAD, pixels.

Of 1, 2 and 3 pixels it has the best F1 on the four cities that it is scored on (docs/training.md): a choice in favour
of the baseline.
"""


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


def matched(before: FloatArray, after: FloatArray, valid: BoolArray) -> FloatArray:
    """Give every band of the later date the mean and the standard deviation that it has in the earlier one.

    Args:
        before: (bands, rows, cols) float32.
        after: the same shape.
        valid: (rows, cols), the pixels that count, at least one True.

    Returns:
        The later date, (bands, rows, cols) float32; a band that is constant gets the mean alone.
    """
    result = np.empty_like(after)
    for band, (one, other) in enumerate(zip(before, after, strict=True)):
        spread = other[valid].std(dtype=float)
        gain = one[valid].std(dtype=float) / spread if spread > 0 else 1.0
        result[band] = (other - other[valid].mean(dtype=float)) * gain + one[valid].mean(dtype=float)
    return result


def change_vectors(before: FloatArray, after: FloatArray, valid: BoolArray) -> FloatArray:
    """Measure change by the length of the change vector.

    Args:
        before: (bands, rows, cols) float32 in [0, 1].
        after: the same shape.
        valid: (rows, cols), at least one True.

    Returns:
        (rows, cols) float32.
    """
    return change_vector_magnitude(before, after)


def matched_change_vectors(before: FloatArray, after: FloatArray, valid: BoolArray) -> FloatArray:
    """Measure change by the median of the change vectors around a pixel, after :func:`matched`; see there."""
    magnitude = change_vector_magnitude(before, matched(before, after, valid))
    result: FloatArray = ndimage.median_filter(np.where(valid, magnitude, 0), size=MEDIAN)
    return result


def alterations(before: FloatArray, after: FloatArray, valid: BoolArray) -> FloatArray:
    """Measure change by blurred squared distances of IR-MAD (Nielsen 2007); see :func:`change_vectors`.

    Its canonical variates do not depend on gains and offsets of the bands.
    """
    distance = np.zeros(valid.shape)
    found = alteration(before[:, valid].astype(float), after[:, valid].astype(float))
    if found is not None:
        distance[valid] = found[0]
    share = ndimage.gaussian_filter(valid.astype(float), BLUR)
    blurred = ndimage.gaussian_filter(distance, BLUR) / np.maximum(share, 1e-9)
    return np.asarray(blurred, np.float32)


MEASURES: Mapping[str, Callable[[FloatArray, FloatArray, BoolArray], FloatArray]] = {
    "change vectors": change_vectors,
    "change vectors, matched, median": matched_change_vectors,
    "IR-MAD, blurred": alterations,
}
"""Measures of change by name."""


def changed(measure: str, before: FloatArray, after: FloatArray, valid: BoolArray) -> BoolArray:
    """Find the pixels whose measure exceeds Otsu's threshold of the scene's valid pixels.

    Args:
        measure: key of :data:`MEASURES`.
        before: (bands, rows, cols) float32 in [0, 1].
        after: the same shape.
        valid: (rows, cols), at least one True.

    Returns:
        (rows, cols), False where not valid.
    """
    values = MEASURES[measure](before, after, valid)
    return np.asarray((values > otsu_threshold(values[valid])) & valid)
