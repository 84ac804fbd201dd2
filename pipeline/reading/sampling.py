"""Samples of a whole scene, for its percentiles and for checks of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ussfc.pipeline.types import Box, Pixels

SAMPLE_PIXELS = 4_000_000
"""Size of the sample that percentiles are taken from, pixels; smaller scenes are read whole."""

CHECK_PIXELS = 700_000
"""Size of the sample that a model's range is checked on, pixels: nine windows."""

SAMPLE_WINDOW = 256
"""Side of one window of the sample where the file has no overviews, pixels."""


def spread_windows(shape: tuple[int, int], most: int = SAMPLE_PIXELS, finer: int = 1) -> list[Box]:
    """Return windows spread evenly over a grid, row by row, at multiples of their side.

    Elsewhere a window would touch 2.2 blocks of a file, or of a warp, where it touches one: see decision 62.

    Args:
        shape: (rows, cols) of the grid.
        most: size of all windows, pixels.
        finer: factor of their number along each axis.
    """
    per_axis = finer * max(1, int(np.sqrt(most)) // SAMPLE_WINDOW)
    # The last whole multiple at most: a window cut short would be less of a sample.
    ends = [max(0, length // SAMPLE_WINDOW - 1) for length in shape]
    starts = [np.rint(np.linspace(0, end, per_axis)).astype(int) * SAMPLE_WINDOW for end in ends]
    return [
        Box(y, x, min(y + SAMPLE_WINDOW, shape[0]), min(x + SAMPLE_WINDOW, shape[1]))
        for y in np.unique(starts[0]).tolist()
        for x in np.unique(starts[1]).tolist()
    ]


def sample_windows(reader: Any, shape: tuple[int, int], most: int = SAMPLE_PIXELS) -> Pixels:
    """Read windows spread evenly over the scene, side by side: a sample without overviews.

    Args:
        reader: a :class:`ussfc.pipeline.types.SceneReader`.
        shape: (rows, cols) of the grid.
        most: size of the sample, pixels.
    """
    return read_windows(reader, spread_windows(shape, most))


def read_windows(reader: Any, windows: Sequence[Box]) -> Pixels:
    """Read windows of a scene side by side, at least one.

    Args:
        reader: a :class:`ussfc.pipeline.types.SceneReader`.
        windows: parts of the grid.
    """
    parts = [reader.read(box) for box in windows]
    bands = parts[0].values.shape[0]
    return Pixels(
        np.concatenate([part.values.reshape(bands, 1, -1) for part in parts], axis=2),
        np.concatenate([part.valid.reshape(1, -1) for part in parts], axis=1),
    )
