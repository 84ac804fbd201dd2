"""Values and Protocols that the floors share. The order of axes is always (y, x), (rows, cols)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.timeline import TileTimeline

if TYPE_CHECKING:
    from affine import Affine
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
"""Levels of a byte probability above 0, ``round(254 * probability)``; 255 is nodata."""

DISTANCE_ROWS = 256
"""Rows whose IR-MAD distances are found together, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of pixels: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def pixels(self) -> int:
        """Rows times columns; 0 for an empty box."""
        return max(0, self.y1 - self.y0) * max(0, self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box in a (rows, cols) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def intersect(self, other: Box) -> Box:
        """Return the common part; its ``pixels`` is 0 when there is none."""
        return Box(
            max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1)
        )

    def grown(self, margin: int) -> Box:
        """Return the box with ``margin`` pixels more on every side."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def within(self, origin: Box) -> Box:
        """Return the same box counted from the upper left corner of ``origin``."""
        return Box(self.y0 - origin.y0, self.x0 - origin.x0, self.y1 - origin.y0, self.x1 - origin.x0)


@dataclass(frozen=True, slots=True)
class Tile:
    """Unit of work: the core it owns, the halo it reads, the patches it computes."""

    index: tuple[int, int]
    """Row and column among the tiles."""
    core: Box
    """Pixels that this tile alone writes, on the grid."""
    halo: Box
    """Pixels that this tile reads: the hull of its patches and of the margin around its core, cut to the grid."""
    patches: tuple[Box, ...]
    """Every patch of the lattice that touches the core, in lattice order (row by row)."""


@dataclass(frozen=True, slots=True)
class BandInfo:
    """Header of one band."""

    index: int
    """Position in the file, from 1."""
    description: str | None
    """Free text, often the sensor's band name (``B04``)."""
    color: str | None
    """GDAL colour interpretation in lower case (``red``), None where undefined."""
    scale: float = 1.0
    """Declared factor from stored numbers to physical ones (GDAL's scale, CF's ``scale_factor``)."""
    offset: float = 0.0
    """Declared offset, added after the factor."""


@dataclass(frozen=True, slots=True)
class SceneMask:
    """A raster that a product has beside its bands, of pixels that do not show the ground."""

    # Dask logs the arguments of a task that fails.
    uri: str = field(repr=False)
    """Path, address, or a name of GDAL's for a file in an archive."""
    kind: str
    """Kind of the mask, of :data:`ussfc.pipeline.reading.mask_rules.KINDS`."""


@dataclass(frozen=True, slots=True)
class ScenePart:
    """A raster that is a scene, or one of several that lie side by side in it."""

    # Dask logs the arguments of a task that fails.
    uri: str = field(repr=False)
    """Name that GDAL opens: path, address, or the text of a VRT."""
    shown: str
    """Name for messages, without credentials."""
    geobox: GeoBox
    """Pixel grid, as :attr:`SceneInfo.geobox`."""
    gains: tuple[tuple[float, float], ...] | None = None
    """Factor and term of each of its bands, which bring its numbers to those of the first part; None: neither."""
    mask: SceneMask | None = None
    """Mask that its product has; None: it has none."""


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """One image as its header describes it; no pixel is read for it."""

    uri: str
    """Path or URI that it was read from, without credentials."""
    geobox: GeoBox
    """Pixel grid, north-up. For rotated or GCP-only images the grid they are warped to. ``crs`` may be None."""
    bands: tuple[BandInfo, ...]
    """Image bands; alpha and mask bands are not among them."""
    dtype: str
    """NumPy name of the pixel type."""
    identity: str
    """Text that changes when the content changes: size and modification time, or the store's etag."""
    bytes_per_pixel: float
    """Compressed size of all bands over the number of pixels, bytes; raw size where the file size is unknown."""
    acquired: str | None = None
    """Acquisition time as the file states it (``TIFFTAG_DATETIME`` or ``ACQUISITIONDATETIME``)."""
    block_bytes: int = 0
    """Decoded size of one block of the file, all bands that are decoded with it; 0 where unknown."""
    interleaved: bool = False
    """True if every block of the file holds all bands, so that reading one band more decodes nothing more."""
    notes: tuple[str, ...] = ()
    """Remarks for the user on how this image is read (rotated, ground control points, ...)."""
    product: str | None = None
    """Kind of scene whose names of bands are certain (``Sentinel-2 L2A``); None: a raster like any other."""
    parts: tuple[ScenePart, ...] = ()
    """Rasters that the scene is made of, the first on top; empty where it is one file, opened as it was given."""
    mask: SceneMask | None = None
    """Mask beside a file that was made of a product; those of a scene's parts are theirs."""
    placed: Affine | None = None
    """Geotransform of a file without a CRS; None: it has none, or a CRS."""

    def scales(self, bands: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """Return the declared (scale, offset) of bands by their numbers from 1."""
        found = {band.index: (band.scale, band.offset) for band in self.bands}
        return tuple(found[index] for index in bands)


@dataclass(frozen=True, slots=True)
class Pixels:
    """A window of one scene on the grid."""

    values: SourceArray
    """Source numbers, (bands, rows, cols); 0 where not valid. Integers of 8 or 16 bits where the source holds such
    and they were not resampled, else float32, which holds each of those exactly."""
    valid: BoolArray
    """Validity, (rows, cols); False for nodata, masked, transparent and NaN pixels, and outside the image."""

    def part(self, box: Box) -> Pixels:
        """Return the pixels of a box counted from the window's upper left corner: a view."""
        return Pixels(self.values[:, *box.slices], self.valid[box.slices])


@dataclass(frozen=True, slots=True)
class PixelPair:
    """Both dates over one window, mapped to the model's input range."""

    before: FloatArray
    """Earlier date, (bands, rows, cols), in [0, 1]; 0.5 where not valid."""
    after: FloatArray
    """Later date, (bands, rows, cols), in [0, 1]; 0.5 where not valid."""
    valid: BoolArray
    """Validity, (rows, cols); True where valid on both dates and inside the area of interest."""

    def dates(self, box: Box) -> tuple[FloatArray, FloatArray]:
        """Return both dates of a box counted from the window's upper left corner: views."""
        return self.before[:, *box.slices], self.after[:, *box.slices]


@dataclass(frozen=True, slots=True)
class RadiometricMapping:
    """Linear mapping of one date to the model's input range, fixed for the whole scene."""

    low: tuple[float, ...]
    """Source number of each band that becomes 0."""
    high: tuple[float, ...]
    """Source number of each band that becomes 1."""


@dataclass(frozen=True, slots=True)
class TileResult:
    """Record of a finished tile."""

    index: tuple[int, int]
    """Row and column among the tiles."""
    patches: int
    """Number of patches sent through the network."""
    valid_pixels: int
    """Number of pixels of the core with a probability."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step: read, network, blend, write."""
    masked: tuple[int, int] = (0, 0)
    """Pixels of the core inside the area of interest that the masks of before and after hide."""
    timeline: TileTimeline | None = field(default=None, compare=False)
    """Moments of its steps; None: it was computed by another process of the run, earlier."""
    checksum: int | None = field(default=None, compare=False)
    """CRC-32 of its pixels in the store; None: not known."""


@dataclass(frozen=True, slots=True)
class TileFailure:
    """A tile that kept failing; the run went on without it."""

    index: tuple[int, int]
    """Row and column among the tiles."""
    bounds: Box
    """Core of the tile, on the grid."""
    error: str
    """Error of the last attempt, one line."""
    attempts: int
    """Number of attempts."""


class SceneReader(Protocol):
    """An open scene seen on the grid. One reader serves one thread."""

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box`` on the grid.

        Raises:
            ussfc.pipeline.errors.ReadError: the source cannot be read there.
        """

    def sample(self, most: int | None = None) -> Pixels:
        """Read pixels that represent the whole scene, for its percentiles; a few megapixels at most."""


class Detector(Protocol):
    """A change detector over patches of one size."""

    @property
    def bands(self) -> int:
        """Number of bands of each date."""

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""

    @property
    def batch_size(self) -> int:
        """Number of patches of a call; every call has exactly this many."""

    @property
    def streams(self) -> int:
        """Number of calls that may run at the same time."""

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Predict the change probability.

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
        """Time that the device took, seconds; known once there is a result."""

    def result(self) -> FloatArray:
        """Wait for the probabilities, (rows, cols) float32 in [0, 1]."""


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
            mappings: mappings of before and after, which the device applies; None: the numbers are in [0, 1] already.
            seen: ``(rows, cols)``; False where both dates are to be 0.5. None: True everywhere.
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
            uploaded: result of :meth:`upload`.
            corners: (row, column) in the tile of each patch's first pixel, in lattice order.
            core: ``(y0, x0, y1, x1)`` in the tile of the pixels to be returned.
            weights: ``(patch_size, patch_size)`` blend weights.
        """


class DetectorSpec(Protocol):
    """Description from which a worker builds its detector: small, picklable, hashable."""

    @property
    def identity(self) -> str:
        """Name of everything that changes a probability: weights, engine, precision, kind of device."""

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""

    def build(self) -> Detector:
        """Load the weights and return the detector."""


class ProbabilitySource(Protocol):
    """Finished probabilities, read block by block, also from several threads at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.float32]:
        """Stored type: uint8 (``round(254 p)``, nodata 255) or float32 (nodata NaN)."""

    def read(self, box: Box) -> StoredArray:
        """Read the probabilities of ``box`` in :attr:`dtype`, (rows, cols)."""


def blocks(shape: tuple[int, int], size: int) -> Iterator[Box]:
    """Yield boxes of ``size`` pixels that partition a raster, row by row; the last ones may be smaller."""
    for y in range(0, shape[0], size):
        for x in range(0, shape[1], size):
            yield Box(y, x, min(y + size, shape[0]), min(x + size, shape[1]))
