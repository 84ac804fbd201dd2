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


BLOCK = 512
"""Side of the blocks that windows keep to, pixels: those of a warp, and the usual one of files."""


def spread_windows(shape: tuple[int, int], most: int = SAMPLE_PIXELS, finer: int = 1) -> list[Box]:
    """Return windows spread evenly over a grid, row by row, each inside one block: see decision 62.

    Args:
        shape: (rows, cols) of the grid.
        most: size of all windows, pixels.
        finer: factor of their number along each axis.
    """
    per_axis = finer * max(1, int(np.sqrt(most)) // SAMPLE_WINDOW)
    lasts = [max(0, length - SAMPLE_WINDOW) for length in shape]
    starts = [
        sorted({_inside_block(int(start), last) for start in np.linspace(0, last, per_axis)})
        for last in lasts
    ]
    return [
        Box(y, x, min(y + SAMPLE_WINDOW, shape[0]), min(x + SAMPLE_WINDOW, shape[1]))
        for y in starts[0]
        for x in starts[1]
    ]


def _inside_block(start: int, last: int) -> int:
    """Return the nearest pixel, up to ``last``, from which a window lies inside one block."""
    room = BLOCK - SAMPLE_WINDOW
    rest = start % BLOCK
    if rest <= room:
        return start
    before, after = start - rest + room, start - rest + BLOCK
    return after if after <= last and after - start < start - before else before


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
