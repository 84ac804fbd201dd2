"""Tiles on the cores of this machine: patches go through the network in batches and are blended here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ussfc.pipeline.execution.errors import TileCancelled
from ussfc.pipeline.execution.tile_computer import ComputedTile, StepClock, relevant_patches
from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.tiling.blending import Blender
from ussfc.pipeline.tiling.memory import PATCH_CACHE
from ussfc.pipeline.types import Box, Detector, FloatArray, PixelPair, Tile


class PatchCache:
    """Predictions of patches that reach into several tiles, so that a tile finds what its neighbour computed.

    A patch's probabilities depend on its pixels alone, so they are the same whichever tile computes them.
    """

    def __init__(self, room: int = PATCH_CACHE) -> None:
        """Begin empty.

        Args:
            room: bytes of probabilities that are kept, the last used ones.
        """
        self._room = room
        self._used = 0
        self._kept: dict[Box, FloatArray] = {}

    def find(self, patch: Box) -> FloatArray | None:
        """Return the (rows, cols) of a patch, where it is still known."""
        found = self._kept.pop(patch, None)
        if found is not None:
            self._kept[patch] = found
        return found

    def keep(self, patch: Box, probability: FloatArray) -> None:
        """Keep a copy of a patch, and drop those that were not asked for longest."""
        if probability.nbytes > self._room:
            return
        if (former := self._kept.pop(patch, None)) is not None:
            self._used -= former.nbytes
        self._kept[patch] = probability.copy()
        self._used += probability.nbytes
        while self._used > self._room:
            self._used -= self._kept.pop(next(iter(self._kept))).nbytes


class HostComputer:
    """A detector that takes batches of patches. See :class:`ussfc.pipeline.execution.tile_computer.TileComputer`."""

    def __init__(
        self,
        detector: Detector,
        weights: FloatArray,
        cache: PatchCache | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Open a detector for the tiles of a run.

        Args:
            detector: of the plan's patch size.
            weights: blend weights of a patch.
            cache: patches that neighbouring tiles of the same run share; None: no patch is kept.
            turn: held by the one tile that is in the network; None: tiles take no turns.
        """
        self._detector = detector
        self._weights = weights
        self._cache = PatchCache(room=0) if cache is None else cache
        self._turn = nullcontext() if turn is None else turn

    def compute(
        self,
        tile: Tile,
        pair: OpenPair,
        stop: threading.Event | None = None,
        report: Callable[[float], None] | None = None,
    ) -> ComputedTile:
        """Read a tile, run the network over its patches and blend them."""
        clock = StepClock()
        cover = pair.cover(tile)
        if cover.empty:
            clock.lap("read")
            return ComputedTile.empty(tile, cover, clock)
        before, after = pair.read(tile.halo, cover)
        images, pixels = pair.mapped(before, after, cover), pair.core_pixels(tile, before, after)
        seen = None if pair.odds is None else before.valid & after.valid
        del before, after
        clock.lap("read")
        log_distance = None
        if seen is not None:
            log_distance = pair.log_distance(tile, images.dates, seen)
            clock.lap("alteration")
        # Patches of two tiles would share the cores, and the later tile delay the earlier.
        with self._turn:
            clock.skip()
            probability, patches = self.blend(tile, images, stop, report)
            clock.lap("network")
        if pair.odds is not None and log_distance is not None:
            probability = pair.odds.combine(probability, log_distance)
            clock.lap("combine")
        valid = images.valid[tile.core.within(tile.halo).slices]
        return ComputedTile(
            probability, valid, patches, clock.seconds, cover.masked, tuple(clock.steps), pixels
        )

    def blend(
        self,
        tile: Tile,
        images: PixelPair,
        stop: threading.Event | None = None,
        report: Callable[[float], None] | None = None,
    ) -> tuple[FloatArray, int]:
        """Compute the change probability of a tile's core from pixels that are read already."""
        detector, cache = self._detector, self._cache
        blender = Blender(tile.core, self._weights)
        relevant = relevant_patches(tile, images.valid)
        # Held by this dictionary until they are blended, whatever the cache drops meanwhile.
        known = {patch: found for patch in relevant if (found := cache.find(patch)) is not None}
        new = [patch for patch in relevant if patch not in known]
        size = detector.batch_size
        batches = [new[start : start + size] for start in range(0, len(new), size)]

        def predict(batch: Sequence[Box]) -> FloatArray:
            if stop is not None and stop.is_set():
                raise TileCancelled
            return detector.predict(
                _gather(images.before, tile.halo, batch, size), _gather(images.after, tile.halo, batch, size)
            )

        # More than one stream wants threads of its own.
        predictions = (
            in_order(predict, batches, detector.streams, "ussfc-stream")
            if detector.streams > 1
            else ((batch, predict(batch)) for batch in batches)
        )
        computed = (
            probability
            for batch, predicted in predictions
            for probability in predicted[: len(batch)]  # a batch may be padded
        )
        for number, patch in enumerate(relevant, 1):
            if patch in known:
                probability = known.pop(patch)
            else:
                probability = next(computed)
                if patch.intersect(tile.core) != patch:
                    cache.keep(patch, probability)
            blender.add(patch, probability)
            if report is not None:
                report(number / len(relevant))
        return blender.result(), len(relevant)


def _gather(image: FloatArray, halo: Box, batch: Sequence[Box], size: int) -> FloatArray:
    """Return the patches of a batch, padded to ``size`` patches so that every call has the same shape."""
    rows, cols = batch[0].shape
    gathered = np.full((size, image.shape[0], rows, cols), MIDDLE, np.float32)
    for target, patch in zip(gathered, batch, strict=False):
        part = image[(slice(None), *patch.intersect(halo).within(halo).slices)]
        missing = (rows - part.shape[1], cols - part.shape[2])
        if any(missing):
            # Only a scene smaller than a patch: its mirror image fills the rest.
            part = np.pad(part, ((0, 0), (0, missing[0]), (0, missing[1])), "reflect")
        target[:] = part
    return gathered
