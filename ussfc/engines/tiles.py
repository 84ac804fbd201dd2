"""Mapping of a tile's numbers to [0, 1] on the device that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ussfc.engines import FloatArray, RadiometricMapping, SourceArray

MIDDLE = 0.5
"""Value of a pixel that is not seen, on both dates."""


def signed(numbers: SourceArray) -> npt.NDArray[Any]:
    """View uint16 as int16, bit by bit, since torch computes with no uint16; return other numbers as they are."""
    return numbers.view(np.int16) if numbers.dtype == np.uint16 else numbers


def ends_of(mappings: tuple[RadiometricMapping, RadiometricMapping]) -> FloatArray:
    """Return (2, 2, bands): for each date the number that becomes 0, and the width to the one that becomes 1."""
    lows = np.array([mapping.low for mapping in mappings], np.float32)
    widths = np.array([mapping.high for mapping in mappings], np.float32) - lows
    return np.stack([lows, widths], axis=1)


def tile_of(
    images: Sequence[Tensor], unsigned: tuple[bool, bool], ends: Tensor | None, seen: Tensor | None
) -> Tensor:
    """Map both dates to [0, 1], step by step as ``pair`` of the pipeline's radiometry does, to the same bits.

    Args:
        images: before and after, ``(bands, rows, cols)``.
        unsigned: whether each holds the bits of uint16 in int16.
        ends: result of :func:`ends_of`; None: the numbers are in [0, 1] already.
        seen: ``(rows, cols)`` bool, False where both dates are set to 0.5; None: nowhere.

    Returns:
        ``(2, bands, rows, cols)`` float32.
    """
    tile = torch.empty((2, *images[0].shape), dtype=torch.float32, device=images[0].device)
    for date, (image, lost) in enumerate(zip(images, unsigned, strict=True)):
        tile[date].copy_(image.int().bitwise_and_(0xFFFF) if lost else image)
        if ends is not None:
            # As tensors: a plain number is divided by through its reciprocal on CUDA.
            low, width = ends[date, :, :, None, None]
            tile[date].sub_(low).div_(width).clamp_(0, 1)
    if seen is not None:
        tile.masked_fill_(~seen, MIDDLE)
    return tile
