"""Batches of crops.

The batch of a step is a function of the seed and the step alone, so that a training that stopped anywhere goes on
with the same batches, and no generator's state has to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ussfc.errors import DataError
from ussfc.training.augmentation import Crop, augment, paste_change, resized
from ussfc.training.data import BoolArray, FloatArray, LabelledPair, LabelledPairs
from ussfc.training.recipe import AugmentationSection, SamplingSection

SIDES = (0.7, 1.4)
"""Least and largest side of the ground that a crop of another size shows, in sides of a crop."""


@dataclass(frozen=True)
class Batch:
    """Crops of both dates, N of them."""

    before: FloatArray
    """Earlier images, (N, bands, size, size) float32 in [0, 1]."""
    after: FloatArray
    """Later images, the same shape."""
    label: BoolArray
    """Change, (N, size, size)."""
    valid: BoolArray
    """Pixels that count, (N, size, size)."""


class Batches(Protocol):
    """Batches by step."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of one pass over the fixed crops; None where crops are random."""

    def batch(self, step: int) -> Batch:
        """Make the batch of a step, counted from 0."""


class FixedCrops:
    """One set of crops, in a new order each epoch.

    Pairs of the crop's size are used whole, once each. If any pair is larger, ``sampling.crops`` crops are drawn from
    the larger ones; every pixel is equally likely to be a crop's corner.
    """

    def __init__(
        self, source: LabelledPairs, sampling: SamplingSection, augmentation: AugmentationSection, seed: int
    ) -> None:
        self._source = source
        self._augmentation = augmentation
        self._seed = seed
        self._size = sampling.crop_size
        self._batch_size = sampling.batch_size
        self._crops = self._draw(sampling.crops)

    def _draw(self, count: int) -> list[tuple[int, int, int]]:
        """Draw (pair, row, column) of every crop."""
        shapes = [
            _checked(self._source.pair(index), self._size).shape for index in range(len(self._source.names))
        ]
        crops = [(i, 0, 0) for i, shape in enumerate(shapes) if shape == (self._size, self._size)]
        room = np.array([(h - self._size + 1) * (w - self._size + 1) for h, w in shapes], dtype=np.int64)
        room[[i for i, _, _ in crops]] = 0
        if room.sum():
            rng = np.random.default_rng((self._seed, 0))
            ends = np.cumsum(room)
            for corner in rng.integers(ends[-1], size=count):
                index = int(np.searchsorted(ends, corner, side="right"))
                row, col = divmod(
                    int(corner - (ends[index] - room[index])), shapes[index][1] - self._size + 1
                )
                crops.append((index, row, col))
        return crops

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last batch may be smaller."""
        return -(-len(self._crops) // self._batch_size)

    def batch(self, step: int) -> Batch:
        """Make the batch of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, 1, epoch)).permutation(len(self._crops))
        rng = np.random.default_rng((self._seed, 2, step))
        samples = []
        for number in order[place * self._batch_size : (place + 1) * self._batch_size]:
            index, row, col = self._crops[number]
            crop = _cut(self._source.pair(index), row, col, self._size)
            samples.append(augment(crop, self._augmentation, rng))
        return _stack(samples)


class RandomCrops:
    """New crops at every step, a share of them around a changed pixel."""

    def __init__(
        self, source: LabelledPairs, sampling: SamplingSection, augmentation: AugmentationSection, seed: int
    ) -> None:
        self._source = source
        self._sampling = sampling
        self._augmentation = augmentation
        self._seed = seed
        self._shapes: list[tuple[int, int]] = []
        self._changed: list[npt.NDArray[np.int32]] = []
        for index in range(len(source.names)):
            pair = _checked(source.pair(index), sampling.crop_size)
            seen = pair.label if pair.valid is None else pair.label & pair.valid
            self._shapes.append(pair.shape)
            self._changed.append(np.flatnonzero(seen).astype(np.int32))
        changed = np.array([found.size for found in self._changed], dtype=float)
        if sampling.balance == "root":
            changed = np.sqrt(changed)
        pixels = np.array([h * w for h, w in self._shapes], dtype=float)
        if sampling.change_share and not changed.sum():
            raise DataError(
                "training data: no changed pixel in any pair; check the labels, or set sampling.change_share=0"
            )
        self._by_pixels = pixels / pixels.sum()
        self._by_change = changed / max(changed.sum(), 1)

    @property
    def steps_per_epoch(self) -> None:
        """None: random crops have no epochs."""
        return None

    def batch(self, step: int) -> Batch:
        """Make the batch of a step, counted from 0."""
        rng = np.random.default_rng((self._seed, 2, step))
        return _stack([self._one(rng) for _ in range(self._sampling.batch_size)])

    def _one(self, rng: np.random.Generator) -> Crop:
        around_change = rng.random() < self._sampling.change_share
        index = int(rng.choice(len(self._shapes), p=self._by_change if around_change else self._by_pixels))
        crop = self._crop(index, around_change, rng)
        if self._augmentation.paste and rng.random() < self._augmentation.paste:
            crop = self._pasted(crop, index, rng)
        return augment(crop, self._augmentation, rng)

    def _pasted(self, crop: Crop, index: int, rng: np.random.Generator) -> Crop:
        """Paste change of another pair into a crop of this one, where another has any."""
        others = self._by_change.copy()
        others[index] = 0
        if not others.any():
            return crop
        donor = int(rng.choice(others.size, p=others / others.sum()))
        return paste_change(crop, self._crop(donor, True, rng), rng)

    def _crop(self, index: int, around_change: bool, rng: np.random.Generator) -> Crop:
        height, width = self._shapes[index]
        size = self._sampling.crop_size
        if self._augmentation.scale and rng.random() < self._augmentation.scale:
            factor = np.exp(rng.uniform(*np.log(SIDES)))
            size = min(round(size * float(factor)), height, width)
        if around_change:
            row, col = divmod(int(rng.choice(self._changed[index])), width)
            row, col = row - int(rng.integers(size)), col - int(rng.integers(size))
            row, col = min(max(row, 0), height - size), min(max(col, 0), width - size)
        else:
            row, col = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        return resized(_cut(self._source.pair(index), row, col, size), self._sampling.crop_size)


def as_unit_range(image: npt.NDArray[np.uint8] | FloatArray) -> FloatArray:
    """Convert uint8 to float32 in [0, 1]; return float32 as it is."""
    return (
        image.astype(np.float32) / np.float32(255)
        if image.dtype == np.uint8
        else image.astype(np.float32, copy=False)
    )


def _checked(pair: LabelledPair, size: int) -> LabelledPair:
    if min(pair.shape) < size:
        raise DataError(
            f"pair {pair.name}: {pair.shape[0]} x {pair.shape[1]} pixels, smaller than a crop of {size}; "
            "set a smaller sampling.crop_size or leave the pair out"
        )
    return pair


def _cut(pair: LabelledPair, row: int, col: int, size: int) -> Crop:
    window = (..., slice(row, row + size), slice(col, col + size))
    valid = np.ones((size, size), bool) if pair.valid is None else pair.valid[window]
    return Crop(
        as_unit_range(pair.before[window]), as_unit_range(pair.after[window]), pair.label[window], valid
    )


def _stack(crops: list[Crop]) -> Batch:
    return Batch(
        np.stack([crop.before for crop in crops]),
        np.stack([crop.after for crop in crops]),
        np.stack([crop.label for crop in crops]),
        np.stack([crop.valid for crop in crops]),
    )
