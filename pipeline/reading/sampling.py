"""Samples of a whole scene, for its percentiles and for checks of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ussfc.pipeline.types import Box, Pixels

SAMPLE_PIXELS = 4_000_000
"""Size of the sample that percentiles are taken from, pixels; smaller scenes are read whole."""

CHECK_PIXELS = 700_000
"""Size of the sample that a model's range is checked on, pixels: nine windows."""

SAMPLE_WINDOW = 256
"""Side of one window of the sample where the file has no overviews, pixels."""


def sample_windows(reader: Any, shape: tuple[int, int], most: int = SAMPLE_PIXELS) -> Pixels:
    """Read windows spread evenly over the scene, side by side: a sample without overviews.

    Args:
        reader: a :class:`ussfc.pipeline.types.SceneReader`.
        shape: (rows, cols) of the grid.
        most: size of the sample, pixels.
    """
    per_axis = int(np.sqrt(most)) // SAMPLE_WINDOW
    starts = [np.linspace(0, max(0, length - SAMPLE_WINDOW), per_axis).astype(int) for length in shape]
    parts = [
        reader.read(Box(y, x, min(y + SAMPLE_WINDOW, shape[0]), min(x + SAMPLE_WINDOW, shape[1])))
        for y in np.unique(starts[0]).tolist()
        for x in np.unique(starts[1]).tolist()
    ]
    bands = parts[0].values.shape[0]
    return Pixels(
        np.concatenate([part.values.reshape(bands, 1, -1) for part in parts], axis=2),
        np.concatenate([part.valid.reshape(1, -1) for part in parts], axis=1),
    )
