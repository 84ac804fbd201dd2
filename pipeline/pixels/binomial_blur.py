"""Binomial filter: nearly a Gaussian, in additions alone, and each pixel's sum in the same order wherever it stands."""

from __future__ import annotations

import numpy as np

from ussfc.pipeline.types import FloatArray

BLOCK = 256, 1024
"""Rows and columns that go through all sums together: they stay in the cache."""


def blur_radius(sigma: float) -> int:
    """Return the pixels around a place that its mean depends on."""
    return _doublings(sigma) // 2 + 1


def blur(values: FloatArray, sigma: float) -> FloatArray:
    """Return the weighted mean around each pixel; beyond an edge the image is mirrored.

    Sums of two neighbours, as many as come nearest to the variance from below, and three taps for the rest of it. Half
    the time of ``scipy.ndimage.gaussian_filter``; of white noise blurred by 1.5 px the difference has 3 % of the
    standard deviation.

    Args:
        values: (rows, cols) float32.
        sigma: standard deviation, pixels.

    Returns:
        (rows, cols) float32; a pixel's bits depend on the values within :func:`blur_radius` alone, and are exactly 0
        where all of these are.
    """
    radius = blur_radius(sigma)
    padded = np.pad(values, radius, mode="symmetric")
    result = np.empty_like(values)
    rows, cols = values.shape
    spare = np.empty((2, (BLOCK[0] + 2 * radius) * (BLOCK[1] + 2 * radius)), np.float32)
    for y in range(0, rows, BLOCK[0]):
        for x in range(0, cols, BLOCK[1]):
            part = result[y : y + BLOCK[0], x : x + BLOCK[1]]
            around = padded[y : y + part.shape[0] + 2 * radius, x : x + part.shape[1] + 2 * radius]
            part[:] = _blur_block(around, sigma, spare)
    return result


def _doublings(sigma: float) -> int:
    """Return the sums of two neighbours along an axis, an even number: each adds a quarter to the variance."""
    return 2 * int(2 * sigma**2)


def _blur_block(around: FloatArray, sigma: float, spare: FloatArray) -> FloatArray:
    """Return the means of the middle of a block, a view into ``spare``."""
    rows, width = around.shape
    count, margin = _doublings(sigma), 2 * blur_radius(sigma)
    rest = sigma**2 - count / 4
    side, middle = (np.float32(weight * 2.0**-count) for weight in (rest / 2, 1 - rest))
    source, target = spare
    length = around.size
    source[:length].reshape(rows, width)[:] = around
    # Rows lie one after the other: sums along a row that reach into the next one stand in columns that are cut off.
    for lag in (width, 1):
        for _ in range(count):
            length -= lag
            np.add(source[:length], source[lag : length + lag], out=target[:length])
            source, target = target, source
        length -= 2 * lag
        np.add(source[:length], source[2 * lag : length + 2 * lag], out=target[:length])
        target[:length] *= side
        inner = source[lag : length + lag]
        inner *= middle
        target[:length] += inner
        source, target = target, source
    kept = rows - margin
    means: FloatArray = source[: kept * width].reshape(kept, width)[:, : width - margin]
    return means
