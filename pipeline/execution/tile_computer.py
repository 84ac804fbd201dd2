"""The interface of what computes a tile, on the host or on a device, and the steps that both share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ussfc.pipeline.execution.tile_job import Cover, OpenPair
from ussfc.pipeline.types import BoolArray, Box, FloatArray, PixelPair, Pixels, Tile

Step = tuple[str, float, float]
"""Name, start (seconds since 1970) and seconds."""


@dataclass(frozen=True)
class ComputedTile:
    """The core of a tile, before it is encoded."""

    probability: FloatArray
    """Change probability, (rows, cols) in [0, 1]."""
    valid: BoolArray
    """Mask of the pixels with a probability, (rows, cols)."""
    patches: int
    """Number of patches that the core is made of."""
    seconds: dict[str, float]
    """Seconds of the steps read and network."""
    masked: tuple[int, int] = (0, 0)
    """Pixels of the core that the masks of before and after hide."""
    steps: tuple[Step, ...] = ()
    """Moments of the steps."""
    pixels: tuple[Pixels, Pixels] | None = None
    """Both dates as they were read, until the thread reads another tile; None where they are not kept."""

    @classmethod
    def empty(cls, tile: Tile, cover: Cover, clock: StepClock) -> ComputedTile:
        """Return a core without a valid pixel, of which no image was read."""
        shape = tile.core.shape
        nothing = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        return cls(*nothing, 0, clock.seconds, cover.masked, tuple(clock.steps))


class TileComputer(Protocol):
    """A detector, opened for the tiles of one run."""

    def compute(
        self,
        tile: Tile,
        pair: OpenPair,
        stop: threading.Event | None = None,
        report: Callable[[float], None] | None = None,
    ) -> ComputedTile:
        """Read a tile, run the network over its patches and blend them.

        Args:
            tile: the tile.
            pair: both scenes.
            stop: when set, the tile is given up before its next batch.
            report: receives the share of the tile that is computed, in [0, 1], now and then.

        Raises:
            TileCancelled: ``stop`` was set.
            ReadError: a scene cannot be read.
        """

    def blend(
        self, tile: Tile, images: PixelPair, stop: threading.Event | None = None
    ) -> tuple[FloatArray, int]:
        """Compute the change probability of a tile's core from pixels that are read already.

        A patch without a valid pixel inside the core cannot move a valid pixel of it and is left out.

        Args:
            tile: the tile.
            images: both dates over ``tile.halo``.
            stop: when set, the tile is given up before its next batch.

        Returns:
            (rows, cols) float32 in [0, 1], and the number of patches that it is made of.

        Raises:
            TileCancelled: ``stop`` was set.
        """


def relevant_patches(tile: Tile, valid: BoolArray) -> list[Box]:
    """Return the patches that can move a valid pixel of the core, in lattice order."""
    if valid.all():
        return list(tile.patches)
    return [
        patch for patch in tile.patches if valid[patch.intersect(tile.core).within(tile.halo).slices].any()
    ]


class StepClock:
    """Seconds of each step of a tile, and its moments."""

    def __init__(self) -> None:
        """Start the clock."""
        self.seconds: dict[str, float] = {}
        self.steps: list[Step] = []
        self._last = time.perf_counter()
        self._offset = time.time() - self._last

    def skip(self) -> None:
        """Count the seconds since the last lap as waiting, for no step of the tile's own."""
        self._lap("wait")

    def lap(self, name: str) -> None:
        """Count the seconds since the last lap for a step."""
        self.seconds[name] = round(self._lap(name), 3)

    def _lap(self, name: str) -> float:
        start, self._last = self._last, time.perf_counter()
        self.steps.append((name, self._offset + start, self._last - start))
        return self._last - start
