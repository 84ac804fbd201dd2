"""Picklable stand-ins for scenes and the network, importable by Dask worker processes."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import (
    BoolArray,
    Box,
    FloatArray,
    PixelPair,
    Pixels,
    RadiometricMapping,
    SourceArray,
    Tile,
)

UNIT = RadiometricMapping((0.0,), (1.0,))
"""Mapping that leaves numbers in [0, 1] alone."""


@dataclass
class StubDetector:
    """Depends on the whole patch: half the local difference, half its mean over the patch."""

    patch_size: int = 16
    batch_size: int = 3
    streams: int = 1
    bands: int = 1
    calls: list[int] = field(default_factory=list)

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Return a probability, see the Protocol; every call must have the one promised shape."""
        shape = (self.batch_size, self.bands, self.patch_size, self.patch_size)
        assert before.shape == after.shape == shape
        assert before.dtype == after.dtype == np.float32
        assert min(before.min(), after.min()) >= 0
        assert max(before.max(), after.max()) <= 1
        self.calls.append(1)
        return np.stack([local_and_mean(b, a) for b, a in zip(before, after, strict=True)])


def local_and_mean(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return the stub's answer for one patch, (rows, cols)."""
    difference = np.abs(after - before).mean(axis=0, dtype=np.float64)
    return np.asarray((difference + difference.mean()) / 2, np.float32)


@dataclass(frozen=True)
class StubRecipe:
    """Builds a :class:`StubDetector`."""

    patch_size: int = 16
    batch_size: int = 3
    streams: int = 1
    bands: int = 1

    @property
    def identity(self) -> str:
        """Name of everything that moves a probability."""
        return f"stub-{self.patch_size}"

    def build(self) -> StubDetector:
        """Return the detector."""
        return StubDetector(self.patch_size, self.batch_size, self.streams, self.bands)


@dataclass(frozen=True)
class SlowRecipe(StubRecipe):
    """Builds a detector that takes a while for each call."""

    seconds: float = 0.02

    def build(self) -> StubDetector:
        """Return the detector."""
        seconds = self.seconds

        class Slow(StubDetector):
            def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
                time.sleep(seconds)
                return super().predict(before, after)

        return Slow(self.patch_size, self.batch_size)


def damaged(error: type[Exception] = ReadError) -> None:
    """Fail as a file with a hole does."""
    raise error("stub.tif: block is damaged")


@dataclass(frozen=True)
class Lives:
    """A folder of lives, to be spent in any process."""

    folder: Path

    def give(self, count: int) -> Self:
        """Fill a new folder with lives."""
        self.folder.mkdir()
        for life in range(count):
            (self.folder / str(life)).touch()
        return self

    def left(self) -> int:
        """Return the number of lives not spent."""
        return len(list(self.folder.iterdir()))

    def spend(self) -> bool:
        """Spend a life; return whether there was one left."""
        for life in self.folder.iterdir():
            try:
                life.unlink()
            except FileNotFoundError:
                continue
            return True
        return False


@dataclass(frozen=True)
class Transient(Lives):
    """Damaged as long as there are lives left."""

    error: type[Exception] = ReadError

    def __call__(self) -> None:
        """Fail, or do not."""
        if self.spend():
            damaged(self.error)


@dataclass(frozen=True)
class Killing(Lives):
    """Takes its process down as long as there are lives left."""

    def __call__(self) -> None:
        """Die, or do not."""
        if self.spend():
            os._exit(1)


@dataclass(frozen=True)
class StubScene:
    """A scene made of its seed: bands of noise in [0, 1] with a hole and an unlucky corner."""

    shape: tuple[int, int]
    seed: int
    hole: Box | None = None
    """Pixels that are not valid."""
    fails_at: tuple[int, int] | None = None
    """Pixel (y, x) whose windows meet with the misfortune."""
    misfortune: Callable[[], None] = damaged
    bands: int = 1

    def open(self) -> StubReader:
        """Return a reader."""
        values = np.random.default_rng(self.seed).random((self.bands, *self.shape), dtype=np.float32)
        valid = np.ones(self.shape, np.bool_)
        if self.hole is not None:
            valid[self.hole.slices] = False
        values[:, ~valid] = 0
        return StubReader(values, valid, self.fails_at, self.misfortune)


@dataclass(frozen=True)
class StubReader:
    """Pixels from memory."""

    values: FloatArray
    valid: BoolArray
    fails_at: tuple[int, int] | None = None
    misfortune: Callable[[], None] = damaged

    def read(self, box: Box) -> Pixels:
        """Return the window, which never reaches beyond the grid."""
        assert box.intersect(Box(0, 0, *self.valid.shape)) == box
        if self.fails_at is not None:
            y, x = self.fails_at
            if box.intersect(Box(y, x, y + 1, x + 1)).pixels:
                self.misfortune()
        return Pixels(self.values[(slice(None), *box.slices)].copy(), self.valid[box.slices].copy())

    def sample(self, most: int | None = None) -> Pixels:
        """Return everything."""
        return Pixels(self.values, self.valid)


@dataclass(frozen=True)
class StubArea:
    """An area of interest that is a box."""

    inside: Box

    def mask(self, box: Box) -> BoolArray:
        """Return a mask that is True inside."""
        mask = np.zeros(box.shape, np.bool_)
        common = box.intersect(self.inside)
        if common.pixels:
            mask[common.within(box).slices] = True
        return mask


@dataclass(frozen=True)
class StubMask:
    """A mask of seeded blobs on a grid; of everything where its share is 1."""

    shape: tuple[int, int]
    seed: int
    share: float = 0.3

    def masked(self, box: Box) -> BoolArray:
        """Return the masked pixels of a box."""
        coarse = np.random.default_rng(self.seed).random((self.shape[0] // 8 + 1, self.shape[1] // 8 + 1))
        whole = np.kron(coarse < self.share, np.ones((8, 8), np.bool_))
        result: BoolArray = whole[box.slices]
        return result

    def check_unchanged(self) -> None:
        """Accept the mask: nothing can change."""


@dataclass(frozen=True)
class Witness:
    """An area without an edge that leaves a file for every tile whose mask it gives, then takes its time."""

    folder: Path
    seconds: float = 0.0

    def mask(self, box: Box) -> BoolArray:
        """Leave a file, wait, and return a mask that is True."""
        (self.folder / f"{os.getpid()}-{uuid.uuid4().hex}").touch()
        time.sleep(self.seconds)
        return np.ones(box.shape, np.bool_)

    def processes(self) -> list[int]:
        """Return the process of every tile."""
        return [int(path.name.partition("-")[0]) for path in self.folder.iterdir()]


@dataclass(frozen=True)
class Gate:
    """An area without an edge whose tiles wait until a file is there, but for those that cover a pixel."""

    file: Path
    free: tuple[int, int]
    """Row and column of the pixel."""

    def mask(self, box: Box) -> BoolArray:
        """Wait for the file, at most a minute, and return a mask that is True."""
        waits = not (box.y0 <= self.free[0] < box.y1 and box.x0 <= self.free[1] < box.x1)
        limit = time.monotonic() + 60
        while waits and not self.file.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        return np.ones(box.shape, np.bool_)


def window(images: PixelPair, tile: Tile) -> PixelPair:
    """Return the pixels that a tile reads of a whole scene."""
    box = tile.halo.slices
    return PixelPair(images.before[(slice(None), *box)], images.after[(slice(None), *box)], images.valid[box])


def lattice_positions(length: int, patch: int, stride: int) -> list[int]:
    """Return the lattice along one axis, spelt out."""
    if length <= patch:
        return [0]
    positions = list(range(0, length - patch, stride))
    return [*positions, length - patch]


def lattice_patches(shape: tuple[int, int], patch: int, stride: int) -> list[Box]:
    """Return all patches of a grid in lattice order, spelt out."""
    return [
        Box(y, x, y + patch, x + patch)
        for y in lattice_positions(shape[0], patch, stride)
        for x in lattice_positions(shape[1], patch, stride)
    ]


def stub_job(store: ProbabilityStore, plan: TilePlan, key: str = "stub", **changes: object) -> TileJob:
    """Return a job over two stub scenes; the first tile column of the second date has no data."""
    hole = Box(0, 0, plan.shape[0], plan.tile_size)
    parts: dict[str, object] = {
        "key": key,
        "before": StubScene(plan.shape, 1),
        "after": StubScene(plan.shape, 2, hole),
        "mappings": (UNIT, UNIT),
        "area": None,
        "plan": plan,
        "taper": "hann",
        "detector": StubRecipe(plan.patch_size),
        "store": store.root,
    }
    return TileJob(**(parts | changes))  # type: ignore[arg-type]


def store_bytes(root: Path | Folder) -> dict[str, bytes]:
    """Return every file of the store's Zarr, by name."""
    folder = Path(Folder.of(root).address) / "probability.zarr"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stored(root: Path | Folder, shape: tuple[int, int]) -> npt.NDArray[np.generic]:
    """Return the whole array as stored."""
    return ProbabilityStore(root).read(Box(0, 0, *shape))


@dataclass
class RecordingDetector(StubDetector):
    """Leaves the number of its process in a log for every call."""

    log: Path = Path()

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Spread the answer over the classes: real reflectances differ little."""
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return np.clip(6 * super().predict(before, after), 0, 1)


@dataclass(frozen=True)
class RecordingRecipe(StubRecipe):
    """Builds a :class:`RecordingDetector`."""

    log: Path = Path()

    def build(self) -> RecordingDetector:
        """Return the detector."""
        return RecordingDetector(self.patch_size, self.batch_size, self.streams, self.bands, log=self.log)

    @property
    def processes(self) -> list[int]:
        """Processes of all calls so far."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


@dataclass(frozen=True)
class StubPending:
    """A tile that a device has computed."""

    probability: FloatArray
    seconds: float = 0.25

    def result(self) -> FloatArray:
        """Return at once."""
        return self.probability


@dataclass
class StubTileDetector(StubDetector):
    """The stub as a device has it: tiles go there once, are cut and blended there."""

    uploads: list[tuple[int, ...]] = field(default_factory=list)

    def upload(
        self,
        before: SourceArray,
        after: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> object:
        """Copy the tile, see the Protocol; the arrays may change afterwards."""
        assert before.shape == after.shape
        assert min(before.shape[1:]) >= self.patch_size
        self.uploads.append(before.shape)
        if mappings is None:
            assert before.dtype == after.dtype == np.float32
            assert seen is None
            return before.copy(), after.copy()
        seen = np.ones(before.shape[1:], np.bool_) if seen is None else seen
        both = pair(Pixels(before, seen), Pixels(after, seen), mappings)
        return both.before, both.after

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
    ) -> StubPending:
        """Blend the patches, see the Protocol."""
        assert isinstance(uploaded, tuple)
        before, after = uploaded
        y0, x0, y1, x1 = core
        rows, cols = before.shape[1:]
        total, weight = np.zeros((2, rows, cols), np.float32)
        assert corners
        for y, x in corners:
            assert 0 <= y <= rows - self.patch_size
            assert 0 <= x <= cols - self.patch_size
            at = slice(y, y + self.patch_size), slice(x, x + self.patch_size)
            total[at] += weights * local_and_mean(before[(slice(None), *at)], after[(slice(None), *at)])
            weight[at] += weights
        total, weight = total[y0:y1, x0:x1], weight[y0:y1, x0:x1]
        return StubPending(np.clip(np.where(weight > 0, total / np.maximum(weight, 1e-30), 0), 0, 1))


@dataclass(frozen=True)
class StubTileRecipe(StubRecipe):
    """Builds a :class:`StubTileDetector`."""

    def build(self) -> StubTileDetector:
        """Return the detector."""
        return StubTileDetector(self.patch_size, self.batch_size, self.streams, self.bands)
