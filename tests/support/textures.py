"""Images with texture, and the same ground seen from elsewhere."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ussfc.pipeline.types import FloatArray

SIZE = 96
"""Side of the windows of :func:`dates`, pixels."""


def texture(seed: int, shape: tuple[int, int], blur: float = 1.2) -> FloatArray:
    """Return filtered noise with edges, as fields and roofs have them."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    fine, coarse = (ndimage.gaussian_filter(noise, sigma) for sigma in (blur, 5.0))
    image: FloatArray = (1000 + 200 * fine / fine.std() + 300 * np.sign(coarse)).astype(np.float32)
    return image


def moved(image: FloatArray, dy: float, dx: float) -> FloatArray:
    """Return an image that shows at (y + dy, x + dx) what the given one shows at (y, x)."""
    result: FloatArray = ndimage.shift(image, (dy, dx), order=5, mode="reflect").astype(np.float32)
    return result


def dates(seed: int, dy: float, dx: float) -> tuple[FloatArray, FloatArray]:
    """Return windows of SIZE of one scene before and after it moved."""
    scene = texture(seed, (SIZE + 32, SIZE + 32), blur=1.5)
    inner = np.s_[16 : 16 + SIZE, 16 : 16 + SIZE]
    return np.ascontiguousarray(scene[inner]), np.ascontiguousarray(moved(scene, dy, dx)[inner])
