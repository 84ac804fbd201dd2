"""Values that pass between the floors, and the Protocols at the doors. Order is always (y, x), (rows, cols)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
StoredArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
SourceArray = npt.NDArray[np.integer] | FloatArray

Index = tuple[int, int]
"""(row, column) of a tile in the plan."""

NODATA_BYTE = 255
"""Nodata of every uint8 raster: the change classes and the byte probabilities."""

PROBABILITY_STEPS = 254
"""A byte probability is ``round(254 * probability)``; 255 is nodata."""


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of pixels: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def pixels(self) -> int:
        """Rows times columns; 0 for an empty box."""
        return max(0, self.y1 - self.y0) * max(0, self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index of a (rows, cols) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def intersect(self, other: Box) -> Box:
        """The common part; its ``pixels`` is 0 when there is none."""
        return Box(
            max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1)
        )

    def within(self, origin: Box) -> Box:
        """The same box counted from the upper left corner of ``origin``."""
        return Box(self.y0 - origin.y0, self.x0 - origin.x0, self.y1 - origin.y0, self.x1 - origin.x0)


@dataclass(frozen=True, slots=True)
class Tile:
    """The unit of work: the core it owns, the halo it reads, the patches it computes."""

    index: tuple[int, int]
    """(row, column) among the tiles."""
    core: Box
    """Pixels that this tile alone writes, on the grid."""
    halo: Box
    """Pixels that this tile reads: the hull of its patches, cut to the grid."""
    patches: tuple[Box, ...]
    """Every patch of the lattice that touches the core, in lattice order (row by row)."""


@dataclass(frozen=True, slots=True)
class BandInfo:
    """What a source says of one band."""

    index: int
    """Position in the file, from 1."""
    description: str | None
    """Free text, often the sensor's band name (``B04``)."""
    color: str | None
    """GDAL colour interpretation in lower case (``red``), None where undefined."""


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """One image as its header describes it; no pixel is read for it."""

    uri: str
    """Where it was read from, without credentials."""
    geobox: GeoBox
    """Pixel grid, north-up. For rotated or GCP-only images the grid they are warped to. ``crs`` may be None."""
    bands: tuple[BandInfo, ...]
    """Image bands; alpha and mask bands are not among them."""
    dtype: str
    """NumPy name of the pixel type."""
    identity: str
    """Changes when the content changes: size and modification time, or the store's etag."""
    bytes_per_pixel: float
    """Compressed bytes of all bands over pixels; raw bytes where the file size is unknown."""
    acquired: str | None = None
    """Acquisition time as the file states it (``TIFFTAG_DATETIME`` or ``ACQUISITIONDATETIME``)."""
    notes: tuple[str, ...] = ()
    """What a user should know of how this image is read (rotated, ground control points, ...)."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A window of one scene on the grid."""

    values: SourceArray
    """(bands, rows, cols) source numbers; 0 where not valid. Integers of 8 or 16 bits where the source holds such
    and they were not resampled, else float32, which holds each of those exactly."""
    valid: BoolArray
    """(rows, cols); False for nodata, masked, transparent and NaN pixels, and outside the image."""


@dataclass(frozen=True, slots=True)
class PixelPair:
    """Both dates over one window, mapped to the model's input range."""

    before: FloatArray
    """(bands, rows, cols), in [0, 1]; 0.5 where not valid."""
    after: FloatArray
    """(bands, rows, cols), in [0, 1]; 0.5 where not valid."""
    valid: BoolArray
    """(rows, cols); valid on both dates and inside the area of interest."""


@dataclass(frozen=True, slots=True)
class RadiometricMapping:
    """Linear mapping of one date to the model's input range, fixed for the whole scene."""

    low: tuple[float, ...]
    """Source number that becomes 0, one a band."""
    high: tuple[float, ...]
    """Source number that becomes 1, one a band."""


@dataclass(frozen=True, slots=True)
class TileResult:
    """What is recorded of a finished tile."""

    index: tuple[int, int]
    patches: int
    """Patches sent through the network."""
    valid_pixels: int
    """Pixels of the core with a probability."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step: read, network, blend, write."""


@dataclass(frozen=True, slots=True)
class TileFailure:
    """A tile that kept failing; the run went on without it."""

    index: tuple[int, int]
    bounds: Box
    """The tile's core, on the grid."""
    error: str
    """What happened at the last attempt, one line."""
    attempts: int


class SceneReader(Protocol):
    """An open scene seen on the grid. One reader serves one thread."""

    def read(self, box: Box) -> Pixels:
        """The pixels of ``box`` on the grid.

        Raises:
            ussfc.pipeline.errors.ReadError: the source cannot be read there.
        """

    def sample(self) -> Pixels:
        """Pixels that stand for the whole scene, for its percentiles; a few megapixels at most."""


class Detector(Protocol):
    """A change detector over patches of one size."""

    @property
    def bands(self) -> int:
        """Bands of each date."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def batch_size(self) -> int:
        """Patches of one call; every call has exactly this many."""

    @property
    def streams(self) -> int:
        """Calls that may run at the same time."""

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Change probability.

        Args:
            before: ``(batch_size, bands, patch_size, patch_size)`` in [0, 1].
            after: the same shape.

        Returns:
            ``(batch_size, patch_size, patch_size)`` in [0, 1].
        """


class Pending(Protocol):
    """A tile that a device is still computing."""

    @property
    def seconds(self) -> float:
        """What the device took for it; known once there is a result."""

    def result(self) -> FloatArray:
        """Wait for it: (rows, cols) float32 in [0, 1]."""


@runtime_checkable
class TileDetector(Detector, Protocol):
    """A detector on a device with memory of its own: tiles go there once and come back blended."""

    def upload(
        self,
        before: SourceArray,
        after: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> object:
        """Begin to copy both dates of a tile, while the device computes another.

        Args:
            before: ``(bands, rows, cols)`` source numbers.
            after: the same shape.
            mappings: of before and after, which the device applies; None: the numbers are in [0, 1] already.
            seen: ``(rows, cols)``; False where both dates are to be 0.5. None: nowhere.
        """

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
    ) -> Pending:
        """Begin to compute the weighted mean of patches.

        Args:
            uploaded: of :meth:`upload`.
            corners: (row, column) in the tile of each patch's first pixel, in lattice order.
            core: ``(y0, x0, y1, x1)`` in the tile of the pixels that are wanted.
            weights: ``(patch_size, patch_size)`` blend weights.
        """


class DetectorSpec(Protocol):
    """How a worker makes its detector: small, picklable, hashable."""

    @property
    def identity(self) -> str:
        """Names everything that moves a probability: weights, engine, precision, kind of device."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    def build(self) -> Detector:
        """Load the weights and return the detector."""


class ProbabilitySource(Protocol):
    """Finished probabilities, read block by block, also from several threads at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the grid."""

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.float32]:
        """uint8 (``round(254 p)``, nodata 255) or float32 (nodata NaN)."""

    def read(self, box: Box) -> StoredArray:
        """Probabilities of ``box`` in :attr:`dtype`, (rows, cols)."""


def blocks(shape: tuple[int, int], size: int) -> Iterator[Box]:
    """Boxes of ``size`` pixels that partition a raster, row by row; the last ones may be smaller."""
    for y in range(0, shape[0], size):
        for x in range(0, shape[1], size):
            yield Box(y, x, min(y + size, shape[0]), min(x + size, shape[1]))
