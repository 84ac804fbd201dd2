"""A tile's numbers brought into the network's input range on the device that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ussfc.engines import FloatArray, RadiometricMapping, SourceArray

MIDDLE = 0.5
"""What a pixel that is not seen looks like to the network, on both dates alike."""


def signed(numbers: SourceArray) -> npt.NDArray[Any]:
    """uint16 bit by bit as int16, for torch computes with no uint16; other numbers as they are."""
    return numbers.view(np.int16) if numbers.dtype == np.uint16 else numbers


def ends_of(mappings: tuple[RadiometricMapping, RadiometricMapping]) -> FloatArray:
    """(2, 2, bands): of both dates the number that becomes 0, and the width from there to the one that becomes 1."""
    lows = np.array([stretch.low for stretch in mappings], np.float32)
    widths = np.array([stretch.high for stretch in mappings], np.float32) - lows
    return np.stack([lows, widths], axis=1)


def tile_of(
    images: Sequence[Tensor], unsigned: tuple[bool, bool], ends: Tensor | None, seen: Tensor | None
) -> Tensor:
    """Both dates in [0, 1], step by step as ``pair`` of the pipeline's radiometry computes them, and to the same bits.

    Args:
        images: before and after, ``(bands, rows, cols)``.
        unsigned: whether each holds the bits of uint16 in int16.
        ends: of :func:`ends_of`; None: the numbers are in [0, 1] already.
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
