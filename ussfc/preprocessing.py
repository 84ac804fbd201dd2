"""Mapping from the pipeline's pixel range to the network's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Pixels = TypeVar("Pixels", "Tensor", npt.NDArray[np.float32])


def to_network_range(x01: Pixels) -> Pixels:
    """Map [0, 1] to the [-1, 1] that the network was trained on; the paper writes it ``uint8 / 127.5 - 1``.

    Args:
        x01: pixels in [0, 1], any shape, float32 array or floating tensor.

    Returns:
        The same shape and kind, in [-1, 1]. Doubling is exact, so arrays and tensors agree bit by bit.
    """
    return x01 * 2 - 1
