"""From a tile to its chunk: read the halo, run the network over the patches, blend, write."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from ussfc.pipeline.choices import Taper
from ussfc.pipeline.errors import PipelineError, StoreError, TileError
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.pixels.radiometry import MIDDLE, pair
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.blending import Blender, taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import PATCH_CACHE
from ussfc.pipeline.types import (
    BoolArray,
    Box,
    Detector,
    DetectorSpec,
    FloatArray,
    PixelPair,
    Pixels,
    RadiometricMapping,
    SceneReader,
    SourceArray,
    Tile,
    TileDetector,
    TileResult,
)


class SceneSource(Protocol):
    """How a worker opens a scene: small and picklable."""

    def open(self) -> SceneReader:
        """A reader on the grid."""


class Area(Protocol):
    """An area of interest on the grid."""

    def mask(self, box: Box) -> BoolArray:
        """True inside, (rows, cols)."""


@dataclass(frozen=True)
class TileJob:
    """All that a worker needs for any tile of a run. It travels with every task, so it holds recipes only."""

    key: str
    """Names the run; a worker opens scenes and weights once per key."""
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


class WorkerSetupError(TileError):
    """What every tile of a run needs cannot be had where it is to be computed: a scene, the model, the store."""


class TileCancelled(Exception):
    """A tile was given up between two batches."""


class PatchCache:
    """Predictions of patches that reach into several tiles, so that a tile finds what its neighbour computed.

    A patch's probabilities depend on its pixels alone, so they are the same whoever computes them.
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
        """(rows, cols) of a patch, where it is still known."""
        found = self._kept.pop(patch, None)
        if found is not None:
            self._kept[patch] = found
        return found

    def keep(self, patch: Box, probability: FloatArray) -> None:
        """Remember a patch, a copy of it, and forget those that were not asked for longest."""
        if probability.nbytes > self._room:
            return
        if (former := self._kept.pop(patch, None)) is not None:
            self._used -= former.nbytes
        self._kept[patch] = probability.copy()
        self._used += probability.nbytes
        while self._used > self._room:
            self._used -= self._kept.pop(next(iter(self._kept))).nbytes


@dataclass(frozen=True)
class _Opened:
    before: SceneReader
    after: SceneReader
    detector: Detector
    weights: FloatArray
    store: ProbabilityStore
    memory: PatchCache


_turn = threading.Lock()
"""Held by the tile that has the device, whatever its network: others of this process read meanwhile."""

MOST_OPEN = 8
"""Runs whose scenes a process keeps open: a list of pairs has a few under way at a time."""

_opening = threading.Lock()
_opened_runs: dict[tuple[str, Folder], _Opened] = {}
_detectors: dict[DetectorSpec, Detector] = {}


def _open(job: TileJob) -> _Opened:
    # The folder is no part of the key: the same run may be written to two places.
    name = job.key, job.store
    with _opening:
        if name not in _opened_runs:
            store = ProbabilityStore(job.store)
            while len(_opened_runs) >= MOST_OPEN:
                del _opened_runs[next(iter(_opened_runs))]
            if job.detector not in _detectors:
                # One network at a time: two would be twice the memory.
                _detectors.clear()
                _detectors[job.detector] = job.detector.build()
            detector = _detectors[job.detector]
            weights = taper_weights(job.plan.patch_size, job.taper)
            _opened_runs[name] = _Opened(
                job.before.open(), job.after.open(), detector, weights, store, PatchCache()
            )
        # The one used longest ago is the first to go.
        _opened_runs[name] = opened = _opened_runs.pop(name)
        return opened


def prepare(job: TileJob) -> str | None:
    """Open what every tile of a run needs, as the first tile would.

    Returns:
        What cannot be had here; None: nothing.
    """
    try:
        _opened(job)
    except (WorkerSetupError, StoreError) as error:
        return str(error)
    return None


def _opened(job: TileJob) -> _Opened:
    """Raises WorkerSetupError, or StoreError for what tries again may mend."""
    try:
        return _open(job)
    except StoreError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
        said = " ".join(f"{kind}{error}".split()).removesuffix(":")
        raise WorkerSetupError(f"{said} (on {socket.gethostname()})") from error


def compute_tile(job: TileJob, index: tuple[int, int], stop: threading.Event | None = None) -> TileResult:
    """Compute one tile and write it to the store; what every executor runs.

    Args:
        job: the run.
        index: (row, column) of the tile.
        stop: when set, the tile is given up before its next batch.

    Raises:
        TileCancelled: ``stop`` was set.
        TileError: it failed, for whatever reason; names the tile, its bounds and the cause.
        StoreError: the store cannot be used, which is no matter of this tile.
    """
    core = job.plan.core(index)
    try:
        return run_tile(job.plan.tile(index), job, _opened(job), stop)
    except (StoreError, TileCancelled):
        raise
    except WorkerSetupError as error:
        raise WorkerSetupError(f"{tile_name(index, core)}: {error}") from error
    except PipelineError as error:
        raise TileError(f"{tile_name(index, core)}: {error}") from error
    except Exception as error:
        # Whatever a library raises over one tile, a run of hours must not end by it.
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise TileError(f"{tile_name(index, core)}: {said}") from error


def tile_name(index: tuple[int, int], core: Box) -> str:
    """How a message names a tile: its index and the bounds of its core, pixels."""
    return f"tile {index[0]},{index[1]} (rows {core.y0}..{core.y1}, columns {core.x0}..{core.x1})"


def run_tile(tile: Tile, job: TileJob, opened: _Opened, stop: threading.Event | None) -> TileResult:
    """Read, predict, blend, write."""
    clock = _Clock()
    before, after, inside = _read(tile.halo, opened.before, opened.after, job.area)
    detector = opened.detector
    if isinstance(detector, TileDetector):
        clock.lap("read")
        seen = before.valid & after.valid
        valid = seen if inside is None else seen & inside
        # As they were read: the device mappings them, and has a queue of its own, which the next tile joins
        # while this one is computed.
        images = before.values, after.values
        probability, patches, seconds = _blend_on_device(
            tile, images, job.mappings, seen, valid, detector, opened.weights
        )
        clock.seconds["network"] = round(seconds, 3)
    else:
        stretched = _stretched(before, after, job.mappings, inside)
        valid = stretched.valid
        del before, after
        clock.lap("read")
        # Patches of two tiles would share the cores, and the later tile delay the earlier.
        with _turn:
            clock.skip()
            probability, patches = blend_tile(tile, stretched, detector, opened.weights, opened.memory, stop)
            clock.lap("network")
    valid = valid[tile.core.within(tile.halo).slices]
    result = TileResult(tile.index, patches, int(valid.sum()), clock.seconds)
    stored = encode(probability, valid, opened.store.dtype)
    opened.store.write(tile.core, stored, result)
    return result


def read_pair(
    halo: Box,
    before: SceneReader,
    after: SceneReader,
    mappings: tuple[RadiometricMapping, RadiometricMapping],
    area: Area | None,
) -> PixelPair:
    """Both dates over ``halo``; pixels outside the area of interest are seen by the network but not valid."""
    pixels, others, inside = _read(halo, before, after, area)
    return _stretched(pixels, others, mappings, inside)


def _read(
    halo: Box, before: SceneReader, after: SceneReader, area: Area | None
) -> tuple[Pixels, Pixels, BoolArray | None]:
    """Both dates, and the area of interest if there is one."""
    return before.read(halo), after.read(halo), None if area is None else area.mask(halo)


def _stretched(
    before: Pixels,
    after: Pixels,
    mappings: tuple[RadiometricMapping, RadiometricMapping],
    inside: BoolArray | None,
) -> PixelPair:
    images = pair(before, after, mappings)
    return images if inside is None else PixelPair(images.before, images.after, images.valid & inside)


def blend_tile(
    tile: Tile,
    images: PixelPair,
    detector: Detector,
    weights: FloatArray,
    memory: PatchCache | None = None,
    stop: threading.Event | None = None,
) -> tuple[FloatArray, int]:
    """Change probability of a tile's core.

    A patch without a valid pixel inside the core cannot move a valid pixel of it and is left out.

    Args:
        tile: the tile.
        images: both dates over ``tile.halo``.
        detector: of the plan's patch size.
        weights: blend weights of a patch.
        memory: what neighbouring tiles of the same run left; takes what this one leaves.
        stop: when set, the tile is given up before its next batch.

    Returns:
        (rows, cols) float32 in [0, 1], and the number of patches that it is made of.

    Raises:
        TileCancelled: ``stop`` was set.
    """
    if isinstance(detector, TileDetector):
        both = images.before, images.after
        probability, count, _ = _blend_on_device(tile, both, None, None, images.valid, detector, weights)
        return probability, count
    blender = Blender(tile.core, weights)
    wanted = _wanted(tile, images.valid)
    memory = memory or PatchCache(room=0)
    # Held by this list until they are blended, whatever the memory drops meanwhile.
    known = {patch: found for patch in wanted if (found := memory.find(patch)) is not None}
    new = [patch for patch in wanted if patch not in known]
    size = detector.batch_size
    batches = [new[start : start + size] for start in range(0, len(new), size)]

    def predict(batch: Sequence[Box]) -> FloatArray:
        if stop is not None and stop.is_set():
            raise TileCancelled
        return detector.predict(
            _gather(images.before, tile.halo, batch, size), _gather(images.after, tile.halo, batch, size)
        )

    # More than one stream wants threads of its own.
    in_turn = (
        in_order(predict, batches, detector.streams, "ussfc-stream")
        if detector.streams > 1
        else ((batch, predict(batch)) for batch in batches)
    )
    computed = (
        probability
        for batch, predicted in in_turn
        for probability in predicted[: len(batch)]  # a batch may be padded
    )
    for patch in wanted:
        if patch in known:
            probability = known.pop(patch)
        else:
            probability = next(computed)
            if patch.intersect(tile.core) != patch:
                memory.keep(patch, probability)
        blender.add(patch, probability)
    return blender.result(), len(wanted)


def _wanted(tile: Tile, valid: BoolArray) -> list[Box]:
    """The patches that can move a valid pixel of the core."""
    if valid.all():
        return list(tile.patches)
    return [
        patch for patch in tile.patches if valid[patch.intersect(tile.core).within(tile.halo).slices].any()
    ]


def _blend_on_device(
    tile: Tile,
    images: tuple[SourceArray, SourceArray],
    mappings: tuple[RadiometricMapping, RadiometricMapping] | None,
    seen: BoolArray | None,
    valid: BoolArray,
    detector: TileDetector,
    weights: FloatArray,
) -> tuple[FloatArray, int, float]:
    """:func:`blend_tile` on a device, and the seconds that this took it.

    Args:
        tile: the tile.
        images: before and after over ``tile.halo``, ``(bands, rows, cols)``.
        mappings: that bring them into the model's range; None: they are.
        seen: where both dates have data, (rows, cols); None: what has none is in the middle of the range already.
        valid: where a result is wanted, (rows, cols).
        detector: on the device.
        weights: blend weights of a patch.
    """
    wanted = _wanted(tile, valid)
    if not wanted:
        return np.zeros(tile.core.shape, np.float32), 0, 0.0
    if seen is not None and seen.all():
        seen = None
    # Only a scene smaller than a patch: its mirror image fills the rest.
    missing = [(0, max(0, detector.patch_size - side)) for side in tile.halo.shape]
    if any(count for _, count in missing):
        before, after = (np.pad(image, [(0, 0), *missing], "reflect") for image in images)
        images = cast("SourceArray", before), cast("SourceArray", after)
        seen = None if seen is None else np.pad(seen, missing, "reflect")
    uploaded = detector.upload(*images, mappings, seen)
    core = tile.core.within(tile.halo)
    corners = [(patch.y0 - tile.halo.y0, patch.x0 - tile.halo.x0) for patch in wanted]
    pending = detector.blend(uploaded, corners, (core.y0, core.x0, core.y1, core.x1), weights)
    del uploaded
    probability = pending.result()
    return probability, len(wanted), pending.seconds


def _gather(image: FloatArray, halo: Box, batch: Sequence[Box], size: int) -> FloatArray:
    """The patches of a batch, padded to ``size`` patches so that every call has the same shape."""
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


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def skip(self) -> None:
        """What passed since the last lap is nobody's."""
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
