"""Means of blocks of pixels, for networks that see coarser ones."""

from __future__ import annotations

import numpy as np

from ussfc.pipeline.types import BoolArray, FloatArray


def block_means(values: FloatArray, valid: BoolArray, factor: int) -> tuple[FloatArray, BoolArray]:
    """Return the mean of the valid pixels of each block, and the blocks that have such.

    Args:
        values: (bands, rows, cols).
        valid: (rows, cols).
        factor: side of a block, pixels; blocks at the end may be cut short.

    Returns:
        Means, (bands, rows / factor, cols / factor) rounded up, 0 for a block without a valid pixel; and validity.
    """
    bands, rows, cols = values.shape
    pad = (0, -rows % factor), (0, -cols % factor)
    shape = (rows + pad[0][1]) // factor, factor, (cols + pad[1][1]) // factor, factor
    counts = np.pad(valid, pad).reshape(shape).sum((1, 3))
    seen = np.pad(np.where(valid, values, 0), ((0, 0), *pad)).reshape(bands, *shape)
    means = seen.sum((2, 4), dtype=np.float32) / np.maximum(counts, 1).astype(np.float32)
    return means, counts > 0
