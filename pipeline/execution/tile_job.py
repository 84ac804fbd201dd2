"""The job of a run, which travels to workers with every task, and the pair of scenes that it opens there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ussfc.pipeline.choices import Taper
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import (
    BoolArray,
    Box,
    DetectorSpec,
    PixelPair,
    Pixels,
    RadiometricMapping,
    SceneReader,
)


class SceneSource(Protocol):
    """A recipe with which a worker opens a scene: small and picklable."""

    def open(self) -> SceneReader:
        """Return a reader on the grid."""


class Area(Protocol):
    """An area of interest on the grid."""

    def mask(self, box: Box) -> BoolArray:
        """Return a mask of the box, (rows, cols), True inside the area."""


@dataclass(frozen=True)
class OpenPair:
    """Two open scenes on their common grid, and the mappings of their pixels."""

    before: SceneReader
    after: SceneReader
    mappings: tuple[RadiometricMapping, RadiometricMapping]
    """Radiometric constants of before and after."""
    area: Area | None = None

    def read(self, halo: Box) -> tuple[Pixels, Pixels, BoolArray | None]:
        """Return both dates over ``halo`` as the sources hold them, and the mask of the area if there is one.

        Raises:
            ReadError: a source cannot be read there.
        """
        before, after = self.before.read(halo), self.after.read(halo)
        return before, after, None if self.area is None else self.area.mask(halo)

    def read_mapped(self, halo: Box) -> PixelPair:
        """Return both dates over ``halo`` in the model's input range.

        Pixels outside the area of interest are seen by the network but not valid.

        Raises:
            ReadError: a source cannot be read there.
        """
        before, after, inside = self.read(halo)
        images = pair(before, after, self.mappings)
        return images if inside is None else PixelPair(images.before, images.after, images.valid & inside)


@dataclass(frozen=True)
class TileJob:
    """Everything that a worker needs for any tile of a run. It travels with every task, so it holds recipes only."""

    key: str
    """Name of the run; a worker opens scenes and weights once per key."""
    before: SceneSource
    after: SceneSource
    mappings: tuple[RadiometricMapping, RadiometricMapping]
    """Radiometric constants of before and after."""
    area: Area | None
    plan: TilePlan
    taper: Taper
    detector: DetectorSpec
    store: Folder
    """The run's ``work`` folder."""

    def open_pair(self) -> OpenPair:
        """Open both scenes.

        Raises:
            ReadError: one cannot be opened.
        """
        return OpenPair(self.before.open(), self.after.open(), self.mappings, self.area)

    def tile_name(self, index: tuple[int, int]) -> str:
        """Return the name of a tile in messages: its index and the bounds of its core, pixels."""
        core = self.plan.core(index)
        return f"tile {index[0]},{index[1]} (rows {core.y0}..{core.y1}, columns {core.x0}..{core.x1})"
