"""Appearance of a date: shadows, leaning roofs, other ground, season, light, camera and compression."""

from __future__ import annotations

import math
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from ussfc.training.data import BoolArray, FloatArray
from ussfc.training.synthesis.filters import blend, draw_direction, grow, move, soften
from ussfc.training.synthesis.settings import MARGIN, SynthesisSection
from ussfc.training.synthesis.views import ByteArray, Point


class Sun(NamedTuple):
    """The shadows of a date."""

    away: Point
    """Distance from an instance to the end of its shadow, pixels."""
    light: FloatArray
    """Share of the light that reaches the shadow, (3,)."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Sun:
        """Draw shadows of up to 14 px; they are slightly bluer than the light."""
        dark = rng.uniform(0.3, 0.75)
        away = rng.uniform(1, 14) * draw_direction(rng)
        return cls(away, (dark * np.array([0.94, 1.0, rng.uniform(1.0, 1.15)])).astype(np.float32))


def shade(image: FloatArray, casting: BoolArray, sun: Sun, lit: BoolArray) -> FloatArray:
    """Add the shadows of instances.

    Args:
        image: (side, side, 3) in [0, 1].
        casting: (side, side), True where instances stand that cast shadows.
        sun: direction and depth of the shadows.
        lit: (side, side), True where no shadow falls.
    """
    if not casting.any():
        return image
    shadow = casting
    count = math.ceil(float(np.abs(sun.away).max()) / 2)
    for part in range(1, count + 1):
        shadow = shadow | move(casting, np.rint(sun.away * part / count).astype(int))
    return blend(image, image * sun.light, soften(shadow & ~lit, 0.8))


def lean(image: FloatArray, stands: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Move roofs aside, as an oblique camera sees them.

    Args:
        image: (side, side, 3) in [0, 1].
        stands: (side, side), True where instances stand.
        rng: source of randomness.
    """
    by = np.rint(rng.uniform(1, 4) * draw_direction(rng)).astype(int)
    return blend(image, move(image, by), soften(move(stands, by), 0.6))


def change_ground(
    image: FloatArray, stands: BoolArray, ground: FloatArray | None, rng: np.random.Generator
) -> FloatArray:
    """Lay a patch of other ground around instances.

    Args:
        image: (side, side, 3) in [0, 1].
        stands: (side, side), True where instances stand, which are never covered.
        ground: the other ground, (side, side, 3) in [0, 1]; None: the patch is tinted.
        rng: source of randomness.
    """
    share = _patch(image.shape[0], rng) * ~grow(stands, 1)
    if ground is None:
        tint = rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.2, 3)
        ground = np.clip(image * tint.astype(np.float32), 0, 1)
    elif rng.random() < 0.4:
        ground = np.clip(match_colour(ground, image.reshape(-1, 3)), 0, 1)
    return blend(image, ground, share * np.float32(rng.uniform(0.6, 1.0)))


def _patch(side: int, rng: np.random.Generator) -> FloatArray:
    """Draw a rectangle, an ellipse or an irregular shape with soft edges, (side, side) in [0, 1]."""
    if rng.random() < 0.3:
        coarse = rng.standard_normal((8, 8))
        smooth = ndimage.zoom(coarse, side / 8, order=3, grid_mode=True, mode="nearest")
        return soften(smooth > rng.uniform(0.3, 1.2), 1.0)
    centre, axis = rng.uniform(0, side, 2), draw_direction(rng)
    rows, cols = np.ogrid[:side, :side]
    along = (rows - centre[0]) * axis[0] + (cols - centre[1]) * axis[1]
    across = (cols - centre[1]) * axis[0] - (rows - centre[0]) * axis[1]
    half = np.exp(rng.uniform(math.log(side / 20), math.log(side / 2), 2))
    u, v = np.abs(along) / half[0], np.abs(across) / half[1]
    inside = np.hypot(u, v) < 1 if rng.random() < 0.3 else np.maximum(u, v) < 1
    return soften(inside, rng.uniform(0.4, 1.5))


def match_colour(ground: FloatArray, pixels: FloatArray) -> FloatArray:
    """Give ground the mean and the contrast of pixels.

    Args:
        ground: (side, side, 3) in [0, 1].
        pixels: (n, 3) in [0, 1].

    Returns:
        (side, side, 3); values may lie outside [0, 1].
    """
    contrast = min(float(pixels.std()) / max(float(ground.std()), 0.02), 1.5)
    matched: FloatArray = (ground - ground.mean(axis=(0, 1))) * np.float32(contrast) + pixels.mean(axis=0)
    return matched


def cut_middle(image: FloatArray, away: Point, size: int) -> FloatArray:
    """Cut the middle of an image, moved by a distance (bilinear).

    Args:
        image: (size + 2 MARGIN, size + 2 MARGIN, 3).
        away: rows and columns, pixels, each less than MARGIN.
        size: side of the result, pixels.
    """
    whole = np.floor(away).astype(int)
    row, col = MARGIN + whole
    part = (away - whole).astype(np.float32)
    wide = image[row : row + size + 1, col : col + size + 1]
    tall = wide[:-1] + (wide[1:] - wide[:-1]) * part[0] if part[0] else wide[:-1]
    return tall[:, :-1] + (tall[:, 1:] - tall[:, :-1]) * part[1] if part[1] else tall[:, :-1]


def photograph(image: FloatArray, how: SynthesisSection, rng: np.random.Generator) -> FloatArray:
    """Imitate season, light, camera and compression.

    Args:
        image: (size, size, 3) in [0, 1].
        how: probabilities and amplitudes.
        rng: source of randomness.

    Returns:
        (3, size, size) float32 in [0, 1], on the 256 levels of an 8-bit picture.
    """
    seen = image
    if rng.random() < how.season:
        green = np.clip(2 * seen[..., 1] - seen[..., 0] - seen[..., 2], 0, None)
        seen = seen + green[..., None] * rng.normal(0, (0.45, 0.35, 0.25)).astype(np.float32)
    grey = seen.mean(axis=-1, keepdims=True)
    seen = np.clip(grey + (seen - grey) * np.float32(rng.uniform(0.5, 1.4)), 0, 1)
    seen = seen ** np.float32(math.exp(how.gamma * rng.uniform(-1, 1)))
    gain = (1 + how.gain * rng.uniform(-1, 1)) * (1 + how.band_gain * rng.uniform(-1, 1, 3))
    bias = how.bias * (rng.uniform(-1, 1) + 0.4 * rng.uniform(-1, 1, 3))
    seen = (seen - np.float32(0.45)) * gain.astype(np.float32) + (0.45 + bias).astype(np.float32)
    if rng.random() < 2 / 3:
        sigma = how.blur * rng.random()
        seen = np.asarray(ndimage.gaussian_filter(seen, (sigma, sigma, 0), truncate=3.0))
    seen = seen + np.float32(how.noise * rng.random() ** 2) * rng.standard_normal(seen.shape, np.float32)
    levels = (np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < how.compressed:
        levels = _compress(levels, int(rng.integers(30, 91)))
    return np.ascontiguousarray(levels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def _compress(levels: ByteArray, quality: int) -> ByteArray:
    """Write an image as JPEG and read it again."""
    file = BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)
