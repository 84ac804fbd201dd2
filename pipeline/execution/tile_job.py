"""The job of a run, which travels to workers with every task, and the pair of scenes that it opens there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ussfc.pipeline.choices import Smoothing, Taper
from ussfc.pipeline.pixels.kept import KeptPixels
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.pixels.smoothing import possible_change
from ussfc.pipeline.reading.shared_blocks import share
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import SHARED_BLOCKS
from ussfc.pipeline.types import (
    BoolArray,
    Box,
    DetectorSpec,
    FloatArray,
    PixelPair,
    Pixels,
    RadiometricMapping,
    SceneReader,
    StoredArray,
    Tile,
)

if TYPE_CHECKING:
    from ussfc.pipeline.pixels.alteration import CombinedOdds, DatesOf


class SceneSource(Protocol):
    """A recipe with which a worker opens a scene: small and picklable."""

    def open(self) -> SceneReader:
        """Return a reader on the grid."""


class Area(Protocol):
    """An area of interest on the grid."""

    def mask(self, box: Box) -> BoolArray:
        """Return a mask of the box, (rows, cols), True inside the area."""


class Mask(Protocol):
    """Pixels of one date that do not show the ground."""

    def masked(self, box: Box) -> BoolArray:
        """Return the masked pixels of the box, (rows, cols)."""

    def check_unchanged(self) -> None:
        """Raise ReadError if the file of the mask is not the one that the run was planned for."""


@dataclass(frozen=True)
class Cover:
    """Pixels of a tile that no image is needed for."""

    inside: BoolArray | None
    """Mask of the area of interest over the halo, (rows, cols); None without an area."""
    seen: BoolArray | None
    """Mask of the pixels that no date's mask hides, over the halo, (rows, cols); None without masks."""
    masked: tuple[int, int]
    """Pixels of the core inside the area that the masks of before and after hide."""
    empty: bool
    """True where no pixel of the core can be valid."""


@dataclass(frozen=True)
class Keeping:
    """Which pixels of both dates a run keeps for the values of its polygons: those that may be change."""

    threshold: float
    """Least probability of change, in [0, 1]."""
    smoothing: Smoothing
    """Filter that the probabilities go through first."""

    def choose(self, stored: StoredArray, before: Pixels, after: Pixels) -> KeptPixels | None:
        """Return the pixels to keep of a tile; None where they are none, or too many.

        Args:
            stored: its probabilities as they are stored.
            before: the tile's core.
            after: the same of the later date.
        """
        return KeptPixels.of(before, after, possible_change(stored, self.threshold, self.smoothing))


@dataclass(frozen=True)
class OpenPair:
    """Two open scenes on their common grid, and the mappings of their pixels."""

    before: SceneReader
    after: SceneReader
    mappings: tuple[RadiometricMapping, RadiometricMapping]
    """Radiometric constants of before and after."""
    area: Area | None = None
    masks: tuple[Mask | None, Mask | None] = (None, None)
    """Masks of before and after."""
    keeps: bool = False
    """True if a computed tile comes with its pixels."""
    odds: CombinedOdds | None = None
    """Regression on the network's answer and IR-MAD; None: the network's alone counts."""

    def cover(self, tile: Tile) -> Cover:
        """Return what area and masks leave of a tile; no image is read.

        Raises:
            ReadError: a mask cannot be read there.
        """
        core = tile.core.within(tile.halo).slices
        inside = None if self.area is None else self.area.mask(tile.halo)
        left = np.ones(tile.core.shape, np.bool_) if inside is None else inside[core].copy()
        if not left.any():
            return Cover(inside, None, (0, 0), empty=True)
        wanted, seen, counts = left.copy(), None, [0, 0]
        for date, mask in enumerate(self.masks):
            if mask is not None:
                hidden = mask.masked(tile.halo)
                counts[date] = int((hidden[core] & wanted).sum())
                seen = ~hidden if seen is None else seen & ~hidden
        if seen is not None:
            left &= seen[core]
        return Cover(inside, seen, (counts[0], counts[1]), empty=not left.any())

    def read(self, halo: Box, cover: Cover | None = None) -> tuple[Pixels, Pixels]:
        """Return both dates over ``halo`` as the sources hold them; what a mask hides is invalid on both.

        The bands of the network come first.

        Raises:
            ReadError: a source cannot be read there.
        """
        before, after = self.before.read(halo), self.after.read(halo)
        if cover is None or cover.seen is None:
            return before, after
        return Pixels(before.values, before.valid & cover.seen), Pixels(
            after.values, after.valid & cover.seen
        )

    def for_network(self, pixels: Pixels) -> Pixels:
        """Return the bands that the network takes."""
        return Pixels(pixels.values[: len(self.mappings[0].low)], pixels.valid)

    def mapped(self, before: Pixels, after: Pixels, cover: Cover | None = None) -> PixelPair:
        """Return both dates, as :meth:`read` gave them, in the model's input range.

        Pixels outside the area of interest are seen by the network but not valid.
        """
        images = pair(self.for_network(before), self.for_network(after), self.mappings)
        if cover is None or cover.inside is None:
            return images
        return PixelPair(images.before, images.after, images.valid & cover.inside)

    def log_distance(self, tile: Tile, dates: DatesOf, seen: BoolArray) -> FloatArray | None:
        """Return what IR-MAD says of the core of a tile; None where the network's answer alone counts.

        Args:
            tile: the tile.
            dates: gives parts of both dates over the halo, of :meth:`mapped`.
            seen: where both have data, area of interest or not.
        """
        if self.odds is None:
            return None
        return self.odds.log_distance(dates, seen, tile.core.within(tile.halo))

    def core_pixels(self, tile: Tile, before: Pixels, after: Pixels) -> tuple[Pixels, Pixels] | None:
        """Return the core of what :meth:`read` gave of a tile; None where it is not kept."""
        if not self.keeps:
            return None
        core = tile.core.within(tile.halo)
        return before.part(core), after.part(core)


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
    masks: tuple[Mask | None, Mask | None] = (None, None)
    """Masks of before and after."""
    keeping: Keeping | None = None
    """Rule for the pixels to keep of both dates; None to keep none."""
    odds: CombinedOdds | None = None
    """Regression on the network's answer and IR-MAD; None: the network's alone counts."""

    def open_pair(self, shared: bool = False) -> OpenPair:
        """Open both scenes.

        Args:
            shared: tiles are read side by side, faster than they are computed: none reads what another has read. The
                pixels of a tile then hold until the same thread reads another one.

        Raises:
            ReadError: one cannot be opened, or a mask has changed.
        """
        for mask in self.masks:
            if mask is not None:
                mask.check_unchanged()
        before, after = self.before.open(), self.after.open()
        if shared:
            before, after = share((before, after), self.plan, SHARED_BLOCKS)
        return OpenPair(
            before, after, self.mappings, self.area, self.masks, self.keeping is not None, self.odds
        )

    def tile_name(self, index: tuple[int, int]) -> str:
        """Return the name of a tile in messages: its index and the bounds of its core, pixels."""
        core = self.plan.core(index)
        return f"tile {index[0]},{index[1]} (rows {core.y0}..{core.y1}, columns {core.x0}..{core.x1})"
