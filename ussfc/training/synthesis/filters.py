"""Small operations on images and masks."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ussfc.training.data import BoolArray, FloatArray
from ussfc.training.synthesis.views import Point

Value = TypeVar("Value", np.float32, np.bool_)


def grow(mask: BoolArray, pixels: int) -> BoolArray:
    """Grow a mask, (side, side), by so many rows and columns on each side."""
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * pixels + 1).view(bool))


def soften(mask: npt.NDArray[Value], sigma: float) -> FloatArray:
    """Blur a mask, (side, side), by a Gaussian of a standard deviation in pixels."""
    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0))


def blend(image: FloatArray, over: FloatArray, share: FloatArray) -> FloatArray:
    """Lay an image over another, both (side, side, 3), by a ``share`` in [0, 1] of each pixel, (side, side)."""
    blended: FloatArray = image + (over - image) * share[..., None]
    return blended


def move(values: npt.NDArray[Value], by: npt.NDArray[np.int_]) -> npt.NDArray[Value]:
    """Move by whole rows and columns; values at the edges are repeated."""
    rows, cols = (np.clip(np.arange(values.shape[i]) - by[i], 0, values.shape[i] - 1) for i in (0, 1))
    return values[np.ix_(rows, cols)]


def draw_direction(rng: np.random.Generator) -> Point:
    """Draw a vector of length 1."""
    angle = rng.uniform(0, 2 * math.pi)
    return np.array([math.sin(angle), math.cos(angle)])
