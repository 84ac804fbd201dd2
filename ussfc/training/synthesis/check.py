"""Check of a folder of images and masks: every file is read, and every broken one is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ussfc.errors import DataError
from ussfc.training.data import size_text
from ussfc.training.synthesis.store import instances_of, read_tile
from ussfc.training.synthesis.tiles import MaskTile, match_masks


@dataclass(frozen=True)
class PlaceReport:
    """Findings of a check of one place."""

    place: str
    tiles: int
    """Tiles with all their files, broken ones included."""
    masked: int
    """Tiles that have masks; the others are backgrounds."""
    sizes: dict[str, int]
    """Readable tiles by size, ``rows x cols``."""
    instances: int
    """Instances that lie entirely inside a tile, which are those that are pasted."""
    covered: int
    """Pixels of the class."""
    pixels: int
    """Pixels of the readable tiles."""
    broken: tuple[str, ...]
    """Lines about broken files, one per file."""


def check_masks(folder: Path) -> list[PlaceReport]:
    """Read every image and mask of a folder; count tiles, sizes, instances and pixels by place.

    Raises:
        DataError: the folder does not exist or has no tile with a mask.
    """
    source, lone = match_masks(folder)
    places = dict.fromkeys(source.places) | dict.fromkeys(place for place, _ in lone)
    return [
        _check_place(
            place,
            [tile for tile in source.tiles if tile.place == place],
            [line for where, line in lone if where == place],
        )
        for place in places
    ]


def _check_place(place: str, tiles: list[MaskTile], broken: list[str]) -> PlaceReport:
    sizes: dict[str, int] = {}
    instances = covered = pixels = 0
    for tile in tiles:
        try:
            content = read_tile(tile)
        except DataError as error:
            broken += error.messages
            continue
        size = size_text(content.numbers.shape)
        sizes[size] = sizes.get(size, 0) + 1
        instances += len(instances_of(0, content.numbers))
        covered += int(np.count_nonzero(content.numbers))
        pixels += content.numbers.size
    masked = sum(tile.mask is not None for tile in tiles)
    return PlaceReport(place, len(tiles), masked, sizes, instances, covered, pixels, tuple(broken))
