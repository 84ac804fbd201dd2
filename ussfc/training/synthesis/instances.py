"""Instances put into a scene or taken out of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ussfc.training.data import BoolArray, FloatArray
from ussfc.training.synthesis.appearance import Sun, match_colour, shade
from ussfc.training.synthesis.filters import blend, grow, soften
from ussfc.training.synthesis.views import View

SMALLEST = 16
"""Smallest instance that is pasted or removed, pixels of a crop; smaller ones are lost in noise and offsets."""


class Scene(NamedTuple):
    """Both dates before they are photographed; changed instances stand in the later one."""

    earlier: FloatArray
    """(side, side, 3) in [0, 1]."""
    later: FloatArray
    """(side, side, 3) in [0, 1]."""
    stands_earlier: BoolArray
    """(side, side), True where there is an instance."""
    stands_later: BoolArray
    """(side, side), True where there is an instance."""


def paste_into(scene: Scene, piece: View, sun: Sun, rng: np.random.Generator) -> Scene:
    """Put an instance into the later image; return the scene as it is where there is no room.

    Args:
        scene: both dates.
        piece: the instance with its surroundings.
        sun: shadow of the instance.
        rng: source of randomness.
    """
    place = _room(scene.stands_later, piece.chosen > 0.5, rng)
    if place is None:
        return scene
    on, part = place
    chosen = np.zeros(scene.stands_later.shape, np.float32)
    chosen[on] = piece.chosen[part]
    colour = (rng.uniform(0.65, 1.35) * rng.uniform(0.85, 1.15, 3)).astype(np.float32)
    over = scene.later.copy()
    over[on] = np.clip(piece.image[part] * colour + np.float32(rng.uniform(-0.08, 0.08)), 0, 1)
    stands, image = scene.stands_later | (chosen > 0.5), scene.later
    if rng.random() < 0.35:
        # With the yard around it; other instances that are visible there come along.
        yard, others = np.zeros_like(chosen), np.zeros_like(chosen)
        yard[on] = soften(grow(piece.chosen > 0.5, int(rng.integers(3, 9))), rng.uniform(1, 2.5))[part]
        yard *= ~grow(scene.stands_later, 1)
        others[on] = piece.stands[part]
        stands = stands | ((others > 0.5) & (yard > 0.5))
        image = blend(image, over, yard)
    if rng.random() < 0.8:
        image = shade(image, chosen > 0.5, sun, stands)
    image = blend(image, over, soften(chosen, rng.uniform(0.35, 0.9)))
    return scene._replace(later=image, stands_later=stands)


def _room(
    taken: BoolArray, shape: BoolArray, rng: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Find where a shape overlaps least with what is taken.

    Returns:
        Slices of the image and of the shape; None where every position overlaps by more than 2 %.
    """
    side, own = taken.shape[0], shape.shape[0]
    best = None
    limit = 0.02 * int(np.count_nonzero(shape))
    for row, col in rng.integers(-(own // 3), max(side - 2 * own // 3, 1 - own // 3), (8, 2)).tolist():
        on = slice(max(row, 0), min(row + own, side)), slice(max(col, 0), min(col + own, side))
        part = slice(on[0].start - row, on[0].stop - row), slice(on[1].start - col, on[1].stop - col)
        overlap = int(np.count_nonzero(taken[on] & shape[part]))
        if overlap == 0:
            return on, part
        if overlap <= limit:
            best, limit = (on, part), overlap - 1
    return best


def choose_some(stands: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Choose one to four instances, each smaller than a tenth of the image.

    Args:
        stands: (side, side), True where instances stand.
        rng: source of randomness.

    Returns:
        (side, side), True in the chosen ones; all False where none is of a fit size.
    """
    numbers, _ = ndimage.label(stands)
    areas = np.bincount(numbers.ravel())[1:]
    fit = 1 + np.flatnonzero((areas >= SMALLEST) & (areas < stands.size / 10))
    chosen = rng.permutation(fit)[: min(int(rng.geometric(0.5)), 4)]
    return np.asarray(np.isin(numbers, chosen))


def cover(
    image: FloatArray, gone: BoolArray, rest: BoolArray, ground: FloatArray | None, rng: np.random.Generator
) -> FloatArray:
    """Lay ground over instances.

    Args:
        image: (side, side, 3) in [0, 1].
        gone: (side, side), True where instances are covered.
        rest: (side, side), True where instances stay.
        ground: (side, side, 3) in [0, 1]; None: the surroundings are spread over the instances.
        rng: source of randomness.
    """
    # Footprints lie up to a metre beside their roofs; walls and shadows reach further.
    wide = grow(gone, int(rng.integers(2, 6)))
    share = np.maximum(soften(wide, rng.uniform(0.7, 2.0)) * ~grow(rest, 1), gone)
    near = grow(wide, 8) & ~wide & ~rest
    if ground is None:
        noise = np.float32(0.03) * rng.standard_normal(image.shape, np.float32)
        ground = _spread(image, ~(wide | rest)) + noise
    elif rng.random() < 0.7 and np.count_nonzero(near) > SMALLEST:
        ground = match_colour(ground, image[near])
    return blend(image, np.clip(ground, 0, 1), share)


def _spread(image: FloatArray, known: BoolArray) -> FloatArray:
    """Average the known pixels around each pixel, (side, side, 3)."""
    bands = [soften(image[..., band] * known, 10) for band in range(3)]
    weight = np.maximum(soften(known, 10), 1e-3)
    return np.asarray(np.stack(bands, axis=-1) / weight[..., None], np.float32)
