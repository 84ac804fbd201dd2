"""Tiles on a device with memory of its own: a tile is uploaded once, cut and blended there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import numpy as np

from ussfc.pipeline.execution.tile_computer import ComputedTile, StepClock, relevant_patches
from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.types import (
    BoolArray,
    Box,
    FloatArray,
    PixelPair,
    RadiometricMapping,
    SourceArray,
    Tile,
    TileDetector,
)


class DeviceComputer:
    """A detector that takes whole tiles. See :class:`ussfc.pipeline.execution.tile_computer.TileComputer`.

    A tile that has joined the device's queue is finished: it is not given up between two batches.
    """

    def __init__(self, detector: TileDetector, weights: FloatArray) -> None:
        """Open a detector for the tiles of a run.

        Args:
            detector: of the plan's patch size.
            weights: blend weights of a patch.
        """
        self._detector = detector
        self._weights = weights

    def compute(
        self,
        tile: Tile,
        pair: OpenPair,
        stop: threading.Event | None = None,
        report: Callable[[float], None] | None = None,
    ) -> ComputedTile:
        """Read a tile, have the device compute it, and wait for the result."""
        clock = StepClock()
        cover = pair.cover(tile)
        if cover.empty:
            clock.lap("read")
            return ComputedTile.empty(tile, cover, clock)
        before, after = pair.read(tile.halo, cover)
        clock.lap("read")
        seen = before.valid & after.valid
        log_distance = None
        if pair.odds is not None:

            def dates(part: Box) -> tuple[FloatArray, FloatArray]:
                # The device maps pixels of its own; those of a part stay in the cache.
                images = pair.mapped(before.part(part), after.part(part))
                return images.before, images.after

            log_distance = pair.log_distance(tile, dates, seen)
            clock.lap("alteration")
        valid = seen if cover.inside is None else seen & cover.inside
        # As they were read: the device maps them, and has a queue of its own, which the next tile joins while this
        # one is computed.
        images = pair.for_network(before).values, pair.for_network(after).values
        probability, patches, seconds = self._blend(tile, images, valid, pair.mappings, seen)
        clock.lap("network")
        if pair.odds is not None and log_distance is not None:
            probability = pair.odds.combine(probability, log_distance)
            clock.lap("combine")
        # Of the device's own queue; the moments have the wait for it as well.
        clock.seconds["network"] = round(seconds, 3)
        core = valid[tile.core.within(tile.halo).slices]
        return ComputedTile(
            probability,
            core,
            patches,
            clock.seconds,
            cover.masked,
            tuple(clock.steps),
            pair.core_pixels(tile, before, after),
        )

    def blend(
        self, tile: Tile, images: PixelPair, stop: threading.Event | None = None
    ) -> tuple[FloatArray, int]:
        """Compute the change probability of a tile's core from pixels that are read already."""
        probability, patches, _ = self._blend(tile, (images.before, images.after), images.valid)
        return probability, patches

    def _blend(
        self,
        tile: Tile,
        images: tuple[SourceArray, SourceArray],
        valid: BoolArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> tuple[FloatArray, int, float]:
        """Return the core's probability, the number of its patches, and the seconds that the device took.

        Args:
            tile: the tile.
            images: before and after over ``tile.halo``, ``(bands, rows, cols)``.
            valid: where a result is needed, (rows, cols).
            mappings: that bring the images into the model's range; None: they are.
            seen: where both dates have data, (rows, cols); None: pixels without are in the middle of the range already.
        """
        relevant = relevant_patches(tile, valid)
        if not relevant:
            return np.zeros(tile.core.shape, np.float32), 0, 0.0
        if seen is not None and seen.all():
            seen = None
        # Only a scene smaller than a patch: its mirror image fills the rest.
        missing = [(0, max(0, self._detector.patch_size - side)) for side in tile.halo.shape]
        if any(count for _, count in missing):
            before, after = (np.pad(image, [(0, 0), *missing], "reflect") for image in images)
            images = cast("SourceArray", before), cast("SourceArray", after)
            seen = None if seen is None else np.pad(seen, missing, "reflect")
        uploaded = self._detector.upload(*images, mappings, seen)
        core = tile.core.within(tile.halo)
        corners = [(patch.y0 - tile.halo.y0, patch.x0 - tile.halo.x0) for patch in relevant]
        pending = self._detector.blend(uploaded, corners, (core.y0, core.x0, core.y1, core.x1), self._weights)
        del uploaded
        probability = pending.result()
        return probability, len(relevant), pending.seconds
