"""Random changes to crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from ussfc.training.data import BoolArray, FloatArray
from ussfc.training.recipe import AugmentationSection

Number = TypeVar("Number", np.float32, np.bool_)

MOST_PASTED = 0.5
"""Largest share of a crop that is pasted from another: there must be ground around it to compare."""

CONTRASTS = (0.7, 1.4)
"""Least and largest factor of the contrast of what is pasted."""

EDGE = 0.7
"""Standard deviation of the soft edge of what is pasted, pixels."""


@dataclass(frozen=True)
class Crop:
    """A square crop of a pair: dates (bands, size, size) float32 in [0, 1], change and validity (size, size)."""

    before: FloatArray
    after: FloatArray
    label: BoolArray
    valid: BoolArray


def augment(crop: Crop, section: AugmentationSection, rng: np.random.Generator) -> Crop:
    """Change a crop at random: geometry on both dates alike, radiometry on each date separately.

    Args:
        crop: a square crop.
        section: possible changes and their amplitudes.
        rng: source of randomness.
    """
    before, after, label = crop.before, crop.after, crop.label
    if section.swap and rng.random() < section.swap:
        before, after = after, before
    if section.unchanged and rng.random() < section.unchanged:
        after, label = before, np.zeros_like(label)
    jittered = _jittered(before, section, rng), _jittered(after, section, rng)
    turns = int(rng.integers(4)) if section.turn else 0
    flipped = section.flip and rng.random() < 0.5
    return _turned(Crop(*jittered, label, crop.valid), turns, flipped)


def paste_change(crop: Crop, donor: Crop, rng: np.random.Generator) -> Crop:
    """Paste the changed ground of another crop into the later date, turned at random, and label it as change.

    What appears on the ground of another place is change too; a network that has seen few places learns less of where
    change lies in them. The bands pasted get the mean and, within limits, the contrast of the unchanged ground where
    they go, and their edges are soft.

    Args:
        crop: a crop; it comes back as it is where the donor has no change, or change in more than half of it.
        donor: a crop of the same size from another pair.
        rng: source of randomness.
    """
    donor = _turned(donor, int(rng.integers(4)), rng.random() < 0.5)
    image = donor.after if rng.random() < 0.5 else donor.before
    changed = donor.label & donor.valid
    grown = ndimage.binary_dilation(changed)
    around, own = ~grown & donor.valid, ~crop.label & crop.valid
    if not changed.any() or changed.mean() > MOST_PASTED or not around.any() or not own.any():
        return crop
    mean, spread = _level(image, around)
    own_mean, own_spread = _level(crop.after, own)
    contrast = np.clip(own_spread / np.maximum(spread, 1e-3), *CONTRASTS)
    opacity = ndimage.gaussian_filter(grown.astype(np.float32), EDGE)
    pasted = ((image - mean) * contrast + own_mean).astype(np.float32)
    after = np.clip(crop.after * (1 - opacity) + pasted * opacity, 0, 1)
    return replace(crop, after=after, label=crop.label | changed)


def resized(crop: Crop, size: int) -> Crop:
    """Resample a crop to another size; a pixel counts as changed where half of the ground that it covers is."""
    if crop.label.shape == (size, size):
        return crop

    def shown(part: npt.NDArray[Any]) -> FloatArray:
        image = torch.from_numpy(np.ascontiguousarray(part, np.float32))[None]
        result: FloatArray = interpolate(image, size=(size, size), mode="bilinear", antialias=True)[0].numpy()
        return result

    label, valid = shown(np.stack([crop.label, crop.valid]))
    return Crop(shown(crop.before), shown(crop.after), label > 0.5, valid > 0.99)


def _turned(crop: Crop, turns: int, flipped: bool) -> Crop:
    def placed(part: npt.NDArray[Number]) -> npt.NDArray[Number]:
        turned = np.rot90(part, turns, (-2, -1))
        return turned[..., ::-1] if flipped else turned

    return Crop(placed(crop.before), placed(crop.after), placed(crop.label), placed(crop.valid))


def _level(image: FloatArray, known: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each band over some pixels, (bands, 1, 1)."""
    values = image[:, known]
    return values.mean(1)[:, None, None], values.std(1)[:, None, None]


def _jittered(image: FloatArray, section: AugmentationSection, rng: np.random.Generator) -> FloatArray:
    per_band = (image.shape[0], 1, 1)
    gain = (1 + section.gain * rng.uniform(-1, 1)) * (1 + section.band_gain * rng.uniform(-1, 1, per_band))
    bias = section.bias * rng.uniform(-1, 1) + section.band_bias * rng.uniform(-1, 1, per_band)
    if not (section.gain or section.band_gain or section.bias or section.band_bias or section.noise):
        return image
    moved = (image - np.float32(0.5)) * gain.astype(np.float32) + (bias + 0.5).astype(np.float32)
    if section.noise:
        moved += np.float32(rng.uniform(0, section.noise)) * rng.standard_normal(image.shape, np.float32)
    return np.clip(moved, 0, 1, out=moved)
