"""Weights of a patch and the weighted mean of overlapping patches.

Contributions to a pixel are added in lattice order whichever tile adds them, so that the sum, rounding included,
does not depend on the tiles.
"""

from __future__ import annotations

import numpy as np

from ussfc.pipeline.choices import Taper
from ussfc.pipeline.types import Box, FloatArray

GAUSSIAN_SIGMA = 1 / 8
"""Standard deviation of the Gaussian taper over the patch side, as nnU-Net and MONAI choose it."""


def taper_weights(patch_size: int, taper: Taper) -> FloatArray:
    """Return the blend weights of a patch: the outer product of one profile, > 0 everywhere.

    Args:
        patch_size: side of the patch, pixels.
        taper: ``hann`` (sine squared), ``pyramid`` (linear), ``gaussian`` or ``box`` (all one). Profiles are taken at
            pixel centres, so none is zero at the border.

    Returns:
        ``(patch_size, patch_size)`` float32, in (0, 1].
    """
    centres = (np.arange(patch_size) + 0.5) / patch_size
    profile = {
        "hann": np.sin(np.pi * centres) ** 2,
        "pyramid": 1 - np.abs(2 * centres - 1),
        "gaussian": np.exp(-0.5 * ((centres - 0.5) / GAUSSIAN_SIGMA) ** 2),
        "box": np.ones(patch_size),
    }[taper]
    return np.outer(profile, profile).astype(np.float32)


class Blender:
    """Weighted mean of patches over one core, accumulated patch by patch."""

    def __init__(self, core: Box, weights: FloatArray) -> None:
        """Start with nothing added.

        Args:
            core: the pixels that the result covers.
            weights: ``(patch, patch)`` float32 from :func:`taper_weights`.
        """
        self._core = core
        self._weights = weights
        self._sum = np.zeros(core.shape, np.float32)
        self._weight = np.zeros(core.shape, np.float32)

    def add(self, patch: Box, probability: FloatArray) -> None:
        """Add one patch; call in lattice order.

        Args:
            patch: its position on the grid.
            probability: ``(patch, patch)`` float32; the part outside the core is ignored.
        """
        common = patch.intersect(self._core)
        inside, target = common.within(patch).slices, common.within(self._core).slices
        weights = self._weights[inside]
        self._sum[target] += weights * probability[inside]
        self._weight[target] += weights

    def result(self) -> FloatArray:
        """Return the weighted mean, float32, ``core.shape``; 0 where no patch was added."""
        mean = np.zeros_like(self._sum)
        np.divide(self._sum, self._weight, out=mean, where=self._weight > 0)
        # A mean of numbers in [0, 1] may leave it by a rounding error.
        return np.clip(mean, 0, 1, out=mean)
