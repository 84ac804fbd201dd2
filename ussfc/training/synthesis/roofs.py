"""Drawn roofs of kinds that masks of one region may lack, and drawn roads and yards that are none."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ussfc.training.data import BoolArray, FloatArray
from ussfc.training.synthesis.filters import draw_direction
from ussfc.training.synthesis.views import View

FINER = 2
"""Pixels of the drawing for a pixel of the view, along each side; averaged, so that edges are smooth."""

HALLS = 0.45
"""Share of halls among drawn roofs; the others are houses."""

TILES = ((0.60, 0.36, 0.27), (0.50, 0.30, 0.24), (0.70, 0.47, 0.36), (0.42, 0.33, 0.29))
"""Colours of clay and concrete tiles, red, green, blue in [0, 1]."""

OTHERS = (
    (0.30, 0.31, 0.34),
    (0.45, 0.46, 0.48),
    (0.63, 0.63, 0.62),
    (0.78, 0.77, 0.74),
    (0.90, 0.90, 0.90),
    (0.36, 0.47, 0.62),
    (0.40, 0.52, 0.45),
    (0.62, 0.55, 0.46),
)
"""Colours of slate, bitumen, gravel, concrete, white membranes and painted metal, likewise."""

GROUND = ((0.55, 0.55, 0.56), (0.38, 0.38, 0.40), (0.68, 0.63, 0.54), (0.58, 0.50, 0.40))
"""Colours of concrete, asphalt, gravel and soil around a roof, likewise."""


class Roof(NamedTuple):
    """Kind and size of a drawn roof."""

    hall: bool
    """True for a flat or low roof, False for the steep one of a house."""
    length_m: float
    width_m: float

    @classmethod
    def choose(cls, rng: np.random.Generator) -> Roof:
        """Choose a house of 6 to 22 m or a hall of 15 to 80 m; the logarithm of a hall's length is uniform."""
        if rng.random() < HALLS:
            length = math.exp(rng.uniform(math.log(15), math.log(80)))
            return cls(True, length, length * rng.uniform(0.3, 0.95))
        length = rng.uniform(6, 22)
        return cls(False, length, min(length * rng.uniform(0.5, 1.0), 14))

    def draw(self, resolution_m: float, largest: int, rng: np.random.Generator) -> View:
        """Draw the roof in the middle of plain ground.

        Args:
            resolution_m: ground size of a pixel, metres.
            largest: largest side of the view, pixels; a longer roof is cut.
            rng: source of randomness.
        """
        # The sum of both sides is more than the diagonal, which leaves room for a wing.
        reach = math.ceil((self.length_m + self.width_m) / resolution_m)
        side = min(reach + 2 * int(rng.integers(2, 13)), largest)
        metres = (np.arange(side * FINER) + 0.5) / FINER - side / 2
        rows, cols = np.meshgrid(*[(metres * resolution_m).astype(np.float32)] * 2, indexing="ij")
        axis = draw_direction(rng).astype(np.float32)
        along, across = rows * axis[0] + cols * axis[1], cols * axis[0] - rows * axis[1]
        half = self.length_m / 2, self.width_m / 2
        roof = (np.abs(along) < half[0]) & (np.abs(across) < half[1])
        if rng.random() < 0.4:
            roof |= _wing(along, across, half, rng)
        surface = (_hall if self.hall else _house)(along, across, half, rng)
        if rng.random() < 0.15:
            surface = _with_panels(surface, along, across, half, rng)
        image = np.where(roof[..., None], surface, _plain(GROUND, rng))
        image = np.clip(_reduce(image * (1 + _stains(side * FINER, rng))[..., None]), 0, 1)
        covered = _reduce(roof[..., None].astype(np.float32))[..., 0]
        return View(image, covered, covered)


def draw_paving(side: int, resolution_m: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw a road, straight or bent, or a yard, with or without lines.

    Args:
        side: side of the image, pixels.
        resolution_m: ground size of a pixel, metres.
        rng: source of randomness.

    Returns:
        The paving, (side, side, 3) in [0, 1], and the share of each pixel that it covers, (side, side) in [0, 1].
    """
    axis, centre = draw_direction(rng), rng.uniform(0.1, 0.9, 2) * side
    rows, cols = np.ogrid[:side, :side]
    along = ((rows - centre[0]) * axis[0] + (cols - centre[1]) * axis[1]) * resolution_m
    across = ((cols - centre[1]) * axis[0] - (rows - centre[0]) * axis[1]) * resolution_m
    if yard := rng.random() < 0.3:
        half = rng.uniform(4, 20)
        edge = np.minimum(half - np.abs(across), rng.uniform(6, 30) - np.abs(along))
    else:
        half = rng.uniform(1.2, 6)
        across = across + rng.uniform(-1, 1) * along**2 / (side * resolution_m)
        edge = half - np.abs(across)
    image = np.broadcast_to(_plain(GROUND, rng), (side, side, 3))
    if rng.random() < 0.5:
        apart = rng.uniform(2.3, 5) if yard else 2 * half
        lines = np.abs((across + half) % apart - apart / 2) < 0.15
        if not yard and rng.random() < 0.6:
            lines = lines & (along % 6 < 3)
        image = np.where(lines[..., None], np.float32(rng.uniform(0.7, 1.0)), image)
    image = np.clip(image * (1 + _stains(side, rng))[..., None], 0, 1)
    # A pixel is covered in part where the edge is less than half of one away; unpaved ways have softer edges.
    soft = resolution_m * (1.0 if rng.random() < 0.7 else rng.uniform(1, 4))
    return image.astype(np.float32), np.clip(edge / soft + 0.5, 0, 1).astype(np.float32)


def _plain(colours: tuple[tuple[float, float, float], ...], rng: np.random.Generator) -> FloatArray:
    """Draw a colour, (3,), up to a quarter off one of the list."""
    colour = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.85, 1.15)
    return (colour * rng.uniform(0.92, 1.08, 3)).astype(np.float32)


def _house(
    along: FloatArray, across: FloatArray, half: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Draw a gable or hip roof: each face has the light of its direction."""
    light = 1 + rng.uniform(0.05, 0.3) * np.sign(across) * rng.choice((-1, 1))
    if rng.random() < 0.4:
        ends = half[0] - np.abs(along) < half[1] - np.abs(across)
        light = np.where(ends, 1 + rng.uniform(0, 0.2) * np.sign(along) * rng.choice((-1, 1)), light)
    light = np.where(np.abs(across) < 0.2, 1.15, light)
    colour = _plain(TILES if rng.random() < 0.6 else OTHERS, rng)
    surface: FloatArray = light.astype(np.float32)[..., None] * colour
    return surface


def _hall(
    along: FloatArray, across: FloatArray, half: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Draw a flat or low roof: bays, sheet joints, a parapet, skylights and machines."""
    light = np.ones_like(along)
    if rng.random() < 0.4:
        # Bays of low gables side by side.
        bay = 2 * half[1] / int(rng.integers(1, 5))
        light += np.float32(rng.uniform(0.03, 0.15)) * np.sign((across + half[1]) % bay - bay / 2)
    if rng.random() < 0.5:
        light += np.float32(rng.uniform(0.02, 0.08)) * np.sign(
            np.sin(along * (2 * math.pi / rng.uniform(1, 6)))
        )
    if rng.random() < 0.6:
        edge = np.minimum(half[0] - np.abs(along), half[1] - np.abs(across)) < rng.uniform(0.3, 0.9)
        light = np.where(edge, light * np.float32(rng.uniform(0.75, 1.25)), light)
    surface: FloatArray = light[..., None] * _plain(OTHERS, rng)
    if rng.random() < 0.5:
        apart, size = rng.uniform(5, 12, 2), rng.uniform(0.8, 2.5, 2)
        windows = (along % apart[0] < size[0]) & (across % apart[1] < size[1])
        surface = np.where(windows[..., None], np.float32(rng.uniform(0.5, 1.0)), surface)
    for _ in range(int(rng.integers(0, 7))):
        middle, size = rng.uniform(-0.9, 0.9, 2) * half, rng.uniform(0.5, 3, 2)
        for off, shade in ((0.8, 0.45), (0.0, rng.uniform(0.5, 1.0))):
            box = (np.abs(along - middle[0] - off) < size[0]) & (np.abs(across - middle[1] - off) < size[1])
            surface = np.where(box[..., None], np.float32(shade), surface)
    return surface


def _with_panels(
    surface: FloatArray,
    along: FloatArray,
    across: FloatArray,
    half: tuple[float, float],
    rng: np.random.Generator,
) -> FloatArray:
    """Cover a part of a roof with solar panels."""
    start = rng.uniform(-0.9, 0.3, 2) * half
    stop = np.array(half) * rng.uniform(0.5, 0.95)
    inside = (along > start[0]) & (along < stop[0]) & (across > start[1]) & (across < stop[1])
    joints = (along % 1.7 < 0.15) | (across % 1.0 < 0.1)
    panels = np.where(joints[..., None], np.float32(0.45), _plain(((0.16, 0.2, 0.3),), rng))
    return np.where(inside[..., None], panels, surface)


def _wing(
    along: FloatArray, across: FloatArray, half: tuple[float, float], rng: np.random.Generator
) -> BoolArray:
    """Widen a part of the roof, so that its outline is an L or a T; the surface goes on."""
    middle, length = rng.uniform(-1, 1) * half[0], rng.uniform(0.2, 0.5) * half[0]
    beside = np.abs(across - half[1]) < rng.uniform(0.3, 0.8) * half[1]
    return np.asarray(beside & (np.abs(along - middle) < length) & (np.abs(along) < half[0]))


def _stains(side: int, rng: np.random.Generator) -> FloatArray:
    """Draw stains and grain, (side, side), around 0."""
    coarse = rng.standard_normal((6, 6)).astype(np.float32) * np.float32(rng.uniform(0, 0.06))
    smooth = ndimage.zoom(coarse, side / 6, order=1, grid_mode=True, mode="nearest")
    grain = rng.standard_normal((side, side), np.float32) * np.float32(rng.uniform(0.01, 0.08))
    return np.asarray(smooth[:side, :side] + grain, np.float32)


def _reduce(fine: FloatArray) -> FloatArray:
    """Average blocks of ``FINER`` pixels a side, (side, side, bands)."""
    side = fine.shape[0] // FINER
    means: FloatArray = fine.reshape(side, FINER, side, FINER, -1).mean(axis=(1, 3), dtype=np.float32)
    return means
