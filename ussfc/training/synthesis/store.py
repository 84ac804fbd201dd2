"""Tiles in memory, the instances in their masks, and random draws of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ussfc.errors import DataError
from ussfc.training.data import read_label, read_picture
from ussfc.training.synthesis.tiles import MaskTile, MaskTiles
from ussfc.training.synthesis.views import ByteArray, Point

Numbers = npt.NDArray[np.uint16] | npt.NDArray[np.int32]


class TilePixels(NamedTuple):
    """A tile in memory."""

    pixels: ByteArray
    """(rows, cols, 3)."""
    numbers: Numbers
    """(rows, cols): number of the instance that a pixel belongs to, 0 for none."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory; the numbers of a background are one zero, seen everywhere."""
        return self.pixels.nbytes + (self.numbers.nbytes if self.numbers.flags.owndata else 0)


class Instance(NamedTuple):
    """One connected component of a mask."""

    tile: int
    number: int
    centre: Point
    """Middle of its bounding box, pixels of the tile."""
    sides: tuple[int, int]
    """Rows and columns of its bounding box, pixels of the tile."""
    area: int
    """Size, pixels of the tile."""


def read_tile(tile: MaskTile) -> TilePixels:
    """Read the image and the mask of a tile.

    Raises:
        DataError: a file cannot be read, or image and mask differ in size.
    """
    pixels = np.ascontiguousarray(read_picture(tile.image, in_colour=True).transpose(1, 2, 0))
    if tile.mask is None:
        return TilePixels(pixels, np.broadcast_to(np.uint16(0), pixels.shape[:2]))
    mask = read_label(tile.mask)
    if mask.shape != pixels.shape[:2]:
        raise DataError(
            f"{tile.mask}: {mask.shape[0]} x {mask.shape[1]} pixels, its image {tile.image} has "
            f"{pixels.shape[0]} x {pixels.shape[1]}; both must have one size"
        )
    numbers, count = ndimage.label(mask)
    return TilePixels(pixels, numbers.astype(np.uint16 if count <= np.iinfo(np.uint16).max else np.int32))


class TileStore:
    """Tiles, kept in memory as far as they fit, and the instances in them.

    Args:
        source: the tiles; each is read once, so that broken files are named before training.

    Raises:
        DataError: files cannot be read or do not fit their masks (all of them are named), or no mask has an instance.
    """

    def __init__(self, source: MaskTiles) -> None:
        self._tiles = tiles = source.tiles
        self._left = source.memory
        self._kept: dict[int, TilePixels] = {}
        self._sides: list[tuple[int, int]] = []
        self._instances: dict[int, list[Instance]] = {}
        faults: list[str] = []
        for index in range(len(tiles)):
            try:
                picture = self._load(index)
            except DataError as error:
                faults += error.messages
                continue
            self._sides.append((picture.pixels.shape[0], picture.pixels.shape[1]))
            if found := instances_of(index, picture.numbers):
                self._instances[index] = found
        if faults:
            raise DataError(*faults)
        if not self._instances:
            raise DataError(
                f"{source.folder}: no instance lies entirely inside a tile with a mask; give larger tiles, or masks "
                "that contain the class"
            )
        pixels = [rows * cols for rows, cols in self._sides]
        self._masked = _WeightedTiles.of(tiles, pixels, [i for i, tile in enumerate(tiles) if tile.mask])
        self._backgrounds = _WeightedTiles.of(
            tiles, pixels, [i for i, tile in enumerate(tiles) if not tile.mask]
        )
        self._inhabited = _WeightedTiles.of(tiles, pixels, list(self._instances))

    def _load(self, index: int) -> TilePixels:
        pixels = read_tile(self._tiles[index])
        if pixels.nbytes <= self._left:
            self._left -= pixels.nbytes
            self._kept[index] = pixels
        return pixels

    def read(self, index: int) -> TilePixels:
        """Return a tile, from memory if it is there."""
        return self._kept[index] if index in self._kept else self._load(index)

    def resolution_m(self, index: int) -> float:
        """Return the ground size of a tile's pixel, metres."""
        return self._tiles[index].resolution_m

    def shortest_side(self, index: int) -> int:
        """Return the shorter side of a tile, pixels."""
        return min(self._sides[index])

    @property
    def has_backgrounds(self) -> bool:
        """True if there are backgrounds."""
        return self._backgrounds is not None

    def draw_tile(self, rng: np.random.Generator) -> int:
        """Draw a tile with a mask."""
        assert self._masked is not None
        return self._masked.draw(rng)

    def draw_background(self, rng: np.random.Generator) -> int:
        """Draw a background, or a tile with a mask where there are no backgrounds."""
        return self._backgrounds.draw(rng) if self._backgrounds is not None else self.draw_tile(rng)

    def draw_instance(self, rng: np.random.Generator) -> Instance:
        """Draw a tile, then one of its instances."""
        assert self._inhabited is not None
        instances = self._instances[self._inhabited.draw(rng)]
        return instances[int(rng.integers(len(instances)))]


@dataclass(frozen=True)
class _WeightedTiles:
    """Tiles to draw from, a place in proportion to the square root of its pixels, so that no place prevails."""

    tiles: npt.NDArray[np.int64]
    cumulative: npt.NDArray[np.float64]
    """Probability of a tile or one before it."""

    @classmethod
    def of(
        cls, tiles: Sequence[MaskTile], pixels: Sequence[int], eligible: Sequence[int]
    ) -> _WeightedTiles | None:
        if not eligible:
            return None
        of_place: dict[str, float] = {}
        for index in eligible:
            of_place[tiles[index].place] = of_place.get(tiles[index].place, 0.0) + pixels[index]
        weights = np.array([pixels[index] / math.sqrt(of_place[tiles[index].place]) for index in eligible])
        cumulative = np.cumsum(weights)
        return cls(np.array(eligible, np.int64), cumulative / cumulative[-1])

    def draw(self, rng: np.random.Generator) -> int:
        return int(self.tiles[np.searchsorted(self.cumulative, rng.random(), side="right")])


def instances_of(tile: int, numbers: Numbers) -> list[Instance]:
    """List the instances that lie entirely inside a tile; one that touches its border may be cut.

    Args:
        tile: number of the tile.
        numbers: (rows, cols), number of the instance that a pixel belongs to, 0 for none.
    """
    found = []
    rows, cols = numbers.shape
    areas = np.bincount(numbers.ravel())
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        top, left, bottom, right = box[0].start, box[1].start, box[0].stop, box[1].stop
        if top > 0 and left > 0 and bottom < rows and right < cols:
            centre = np.array([(top + bottom) / 2, (left + right) / 2])
            found.append(Instance(tile, number, centre, (bottom - top, right - left), int(areas[number])))
    return found
