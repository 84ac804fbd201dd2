"""The records of a run: what its stages leave in OUT and its products are made of.

Fields are written as they were set: a field that a stage has nothing for is absent, one that is null is ``null``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import RadiometricMapping, TileFailure

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from ussfc.pipeline.pixels.alteration import CombinedOdds


class Record(BaseModel):
    """A JSON file of a run, or a part of one."""

    # Later versions may add fields; a record that is written again keeps them.
    model_config = ConfigDict(extra="allow", frozen=True)

    def dump(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def write(self, out: Folder, name: str) -> None:
        """Write the record, whole.

        Raises:
            StoreError: it cannot be written.
        """
        out.write_record(name, self.dump())

    @classmethod
    def read(cls, out: Folder, name: str, sealed: bool = False) -> Self:
        """Read a record; see :meth:`find`.

        Raises:
            DamagedRecord: the file is damaged or lacks a field.
            StoreError: it is missing or cannot be read.
        """
        return cls.parse(out.read_json(name, sealed), f"{out / name}")

    @classmethod
    def find(cls, out: Folder, name: str, sealed: bool = False) -> Self | None:
        """Read a record; None where there is no such file.

        Args:
            out: folder.
            name: of the file.
            sealed: refuse one without a checksum: bytes are decided by it.

        Raises:
            DamagedRecord: the file is damaged or lacks a field.
            StoreError: it cannot be read.
        """
        content = out.find_json(name, sealed)
        return None if content is None else cls.parse(content, f"{out / name}")

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str) -> Self:
        """Return the record in a mapping.

        Args:
            content: JSON values.
            where: the file, for the error.

        Raises:
            DamagedRecord: a field is missing or of another kind.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise DamagedRecord(
                f"{where}: damaged ({field}: {fault['msg'].lower()}); make it again with the same command, or "
                "overwrite it to start over"
            ) from error


class InputRecord(Record):
    """One date of a run."""

    uri: str
    """Path or address, without credentials."""
    identity: str
    """Fingerprint of the scene's files."""
    dtype: str
    """Type of its pixels."""
    bands: tuple[int, ...]
    """Band numbers from 1, in the model's order."""
    acquired: str | None
    """Time of acquisition as the file states it."""


class MaskRecord(Record):
    """The mask of one date."""

    uri: str
    """Path or address, without credentials."""
    identity: str
    """Fingerprint of the file, or of the polygons."""
    kind: str
    """Rule that its numbers are read by."""
    classes: tuple[int, ...] | None = None
    """Numbers that are masked; absent for other kinds."""
    bits: tuple[int, ...] | None = None
    """Bits of which any is masked, from 0, likewise."""
    dilation_m: float
    """Width by which masked areas were grown, metres."""
    masked_pixels: int
    """Pixels inside the area of interest that it hides."""


class CloudLikeRecord(Record):
    """Change in a sample of windows that looks like clouds: bright in one date alone, in large pieces."""

    sampled_change: int
    """Changed pixels of the sample."""
    before: int
    """Pixels among these that are bright in the earlier date alone."""
    after: int
    """Likewise in the later one."""

    @property
    def share(self) -> float:
        """Share of the sampled change; 0 without any."""
        return (self.before + self.after) / self.sampled_change if self.sampled_change else 0.0


class MaskRecords(Record):
    """The masks of a run; a date without one is absent."""

    before: MaskRecord | None = None
    """That of the earlier date."""
    after: MaskRecord | None = None
    """That of the later date."""


class InputRecords(Record):
    """Both dates of a run."""

    before: InputRecord
    """The earlier date."""
    after: InputRecord
    """The later date."""


class GridRecord(Record):
    """The common grid."""

    crs: str | None
    """WKT; None in pixel coordinates."""
    transform: tuple[float, float, float, float, float, float]
    """Affine transform in GDAL's order."""
    shape: tuple[int, int]
    """Rows, columns."""

    @property
    def geobox(self) -> GeoBox:
        """The grid itself."""
        # PROJ, which readers of records alone need not wait for.
        from ussfc.pipeline.tiling.grid import grid_from_record

        return grid_from_record(self.dump())


class ModelRecord(Record):
    """The model of a run."""

    name: str
    """Name of its card."""
    sha256: str
    """Digest of the weights, hexadecimal."""
    licence: str | None
    """Licence of the weights, where it is known."""


class MappingRecord(Record):
    """Radiometric constants of one date."""

    low: tuple[float, ...]
    """Source number of each band that becomes 0."""
    high: tuple[float, ...]
    """Source number of each band that becomes 1."""

    @classmethod
    def of(cls, mapping: RadiometricMapping) -> MappingRecord:
        """Return the record of a mapping."""
        return cls(low=mapping.low, high=mapping.high)

    @property
    def mapping(self) -> RadiometricMapping:
        """The mapping itself."""
        return RadiometricMapping(self.low, self.high)


class NormalisationRecord(Record):
    """Lines that bring the later date to the numbers of the earlier one, by ground that looks unchanged."""

    gain: tuple[float, ...] | None = None
    """Factor of each band of the later date; absent where the dates could not be matched, like the next one."""
    offset: tuple[float, ...] | None = None
    """Term that is added after it, in numbers of the earlier date."""
    correlation: tuple[float, ...]
    """Correlation of both dates over the ground that looks unchanged, of each band."""
    unchanged: int
    """Squares of the sample that look unchanged: the sum of their probabilities."""
    sampled: int
    """Squares of the sample, of 2 x 2 pixels."""
    warning: str | None = None
    """Reason against trusting it; absent where there is none."""


class AlterationRecord(Record):
    """IR-MAD of a pair, beside the network."""

    factors: tuple[tuple[float, ...], ...] = ()
    """Factors of each canonical variate for the bands of the earlier date in the model's range, then of the later one;
    absent where IR-MAD could not be found, like the next three."""
    offsets: tuple[float, ...] = ()
    """Term of each variate."""
    typical: float = 0.0
    """Median of the distance over the sample."""
    sampled: int = 0
    """Valid pixels of the windows that it is found from; absent in runs where it could not be found."""
    network: float
    """Factor of the network's log odds."""
    distance: float
    """Factor of the logarithm of the blurred distance over the typical one."""
    offset: float
    """Log odds that are added."""
    blur: float
    """Standard deviation of the binomial filter over the distances, pixels."""
    margin: int
    """Pixels around a place that the filter takes."""
    warning: str | None = None
    """Reason against trusting it; absent where there is none."""

    @property
    def odds(self) -> CombinedOdds | None:
        """The regression itself; None where IR-MAD could not be found, and the network alone answers."""
        if not self.factors:
            return None
        from ussfc.pipeline.pixels.alteration import Alteration, CombinedOdds

        found = Alteration(self.factors, self.offsets, self.typical)
        return CombinedOdds(found, self.network, self.distance, self.offset, self.blur, self.margin)


class RadiometryRecord(Record):
    """Radiometric constants of a run."""

    before: MappingRecord
    """Constants of the earlier date."""
    after: MappingRecord
    """Constants of the later date."""
    normalisation: NormalisationRecord | None = None
    """Absent where the later date keeps its numbers."""
    chosen: Literal["model", "match"] | None = None
    """Choice of ``radiometry: auto``; absent with the other modes."""
    alteration: AlterationRecord | None = None
    """Absent where the network alone answers."""
    warnings: tuple[str, ...] = ()
    """Findings in a sample of both dates; absent where there are none."""


class WindowRecord(Record):
    """Shift measured in one window."""

    row: int
    """First row of the window, pixels of the grid."""
    column: int
    """First column likewise."""
    size: int
    """Side of the window, pixels."""
    dy: float
    """Rows from the content in the earlier date to the same content in the later one, pixels."""
    dx: float
    """Columns likewise, pixels."""
    quality: float
    """Height of the correlation peak, 0 to 1."""
    agrees: bool
    """True: the window agrees with the consensus."""


class RegistrationRecord(Record):
    """Shift between both dates on the common grid, and whether it was taken out."""

    mode: Literal["off", "check", "correct"]
    """The key ``registration`` of the configuration."""
    state: Literal["off", "too small", "unknown", "aligned", "displaced", "corrected"]
    """``unknown``: the windows do not agree; ``displaced``: a shift was found and left."""
    inputs: str
    """Digest of everything that decides the measurement."""
    kind: Literal["translation", "affine", "quadratic"] | None = None
    """Model that the windows agree on; absent where nothing was measured, like the next ones."""
    dy: float | None = None
    """Rows from the content in the earlier date to the same content in the later one, at the centre, pixels."""
    dx: float | None = None
    """Columns likewise, pixels."""
    typical_px: float | None = None
    """Median length of the shift over the grid, pixels; of a rotation it is not that at the centre."""
    windows: int = 0
    """Windows with texture in common."""
    agreeing: int = 0
    """Windows that agree with the consensus."""
    scatter_px: float | None = None
    """Median distance of the agreeing windows from the consensus, pixels."""
    error_px: float | None = None
    """Standard error of the consensus, pixels."""
    matrix: tuple[tuple[float, ...], ...] | None = None
    """(2, 3), takes (row, column, 1) of the grid to the place where the later date is read; absent: the same place."""
    left_px: float | None = None
    """Shift measured once more with the correction, pixels."""
    warning: str | None = None
    """Reason against trusting it; absent where there is none."""
    vectors: tuple[WindowRecord, ...] = ()
    """Windows that were measured; in ``work/registration.json`` alone."""


class ExecutorRecord(Record):
    """Processes that computed a run's tiles."""

    name: str
    """Kind of cluster, or serial."""
    processes: int
    """Worker processes on the machine of the command; 0 where there are none."""
    threads: int
    """Network threads of a process."""


class Counts(Record):
    """Sums over a run's tiles and products."""

    tiles: int
    """Tiles of the grid."""
    tiles_failed: int
    """Tiles that kept failing."""
    patches: int
    """Patches of the lattice that were computed."""
    valid_pixels: int
    """Pixels with data on both dates, inside area and masks."""
    pixels: int
    """Pixels of the grid."""
    changed_pixels: int | None = None
    """Pixels of ``change.tif`` that are 1; null before the rasters are made, like the next two."""
    unchanged_pixels: int | None = None
    """Pixels of it that are 0."""
    nodata_pixels: int | None = None
    """Pixels of it that are 255."""
    polygons: int | None = None
    """Features of the layer; null before the polygons are made, like the next two."""
    polygon_pixels: int | None = None
    """Pixels inside them."""
    polygon_area_m2: float | None = None
    """Their geodesic area, m2; null on a grid without CRS as well."""
    largest_polygon_m2: float | None = None
    """Area of the largest; absent where there is none, on a grid without CRS, and in runs of earlier versions."""

    @property
    def classified_pixels(self) -> int:
        """Pixels of ``change.tif`` that are not nodata; 0 before it is made."""
        return (self.changed_pixels or 0) + (self.unchanged_pixels or 0)

    @property
    def changed_share(self) -> float:
        """Share of the classified pixels that changed; 0 where there are none."""
        return (self.changed_pixels or 0) / self.classified_pixels if self.classified_pixels else 0.0

    def left_out_share(self, thresholds: Mapping[str, float]) -> float:
        """Return the share of the classified pixels that changed and are in no polygon: their region is too small.

        Args:
            thresholds: of the run's stages; 0 where they differ, as earlier versions could leave them.
        """
        if self.polygon_pixels is None or not self.classified_pixels or len(set(thresholds.values())) > 1:
            return 0.0
        return max(0, (self.changed_pixels or 0) - self.polygon_pixels) / self.classified_pixels


class StageRecord(Record):
    """Duration of a stage."""

    seconds: float
    """Wall-clock time, seconds."""
    mpx_per_s: float
    """Megapixels of the scene a second."""

    @classmethod
    def of(cls, seconds: float, pixels: int) -> StageRecord:
        """Return the record of a stage that went over so many pixels."""
        return cls(seconds=round(seconds, 3), mpx_per_s=round(pixels / 1e6 / max(seconds, 1e-9), 3))


class FailureRecord(Record):
    """A tile that kept failing."""

    index: tuple[int, int]
    """Row and column of the tile."""
    rows: tuple[int, int]
    """First row of its core, and the one after the last."""
    columns: tuple[int, int]
    """First column likewise, and the one after the last."""
    error: str
    """Cause, one line."""
    attempts: int
    """Times that it was tried."""

    @classmethod
    def of(cls, failure: TileFailure) -> FailureRecord:
        """Return the record of a failure."""
        bounds = failure.bounds
        return cls(
            index=failure.index,
            rows=(bounds.y0, bounds.y1),
            columns=(bounds.x0, bounds.x1),
            error=failure.error,
            attempts=failure.attempts,
        )


class ProductKey(Record):
    """Everything that decides the bytes of a product; compared as a whole."""

    content: str
    """Digest of the probabilities."""
    shape: tuple[int, int]
    """Rows and columns of the grid."""
    threshold: float | None = None
    """Probability from which a pixel counts as changed; absent where the product has none."""
    smoothing: str | None = None
    """Filter of the probabilities; absent where there is none, as in products of earlier versions."""
    vector: dict[str, Any] | None = None
    """Section ``vector`` of the configuration; absent for rasters."""
    dates: tuple[str | None, str | None] | None = None
    """Days of before and after; absent for rasters, and for layers of earlier versions, which lack them."""
    values: bool | None = None
    """False: the bands of both dates could not be read; absent for rasters, and for layers of earlier versions, which
    lack these columns."""


class ProductRecord(Record):
    """A finished product, as ``run.json`` lists it."""

    sha256: str
    """Digest of the file, hexadecimal."""
    bytes: int
    """Size of the file."""
    key: ProductKey
    """Everything that decides its bytes."""


class ProductFileRecord(ProductRecord):
    """A finished product, as its stage leaves it in ``work/products``."""

    stage: Literal["mosaic", "vectorise"]
    counts: dict[str, int | float | None]
    seconds: float


class InferenceRecord(Record):
    """``work/infer.json``: a finished inference."""

    run: str
    """Name of the run: a digest of its key."""
    complete: bool
    """False where tiles kept failing."""
    failed_tiles: tuple[FailureRecord, ...]
    """Tiles that kept failing."""
    inputs: InputRecords
    """Both dates."""
    grid: GridRecord
    """The common grid."""
    config: dict[str, Any]
    """Configuration without the section ``cluster``, addresses without credentials."""
    model: ModelRecord
    """The model."""
    threshold: float
    """Probability from which a pixel counts as changed."""
    detector: str
    """Identity of the network, its engine and its precision."""
    registration: RegistrationRecord | None = None
    """Shift between both dates; absent in records of earlier versions."""
    masks: MaskRecords | None = None
    """Masks of the dates; absent where none was given."""
    cloud_like: CloudLikeRecord | None = None
    """Change at the run's threshold that looks like clouds; absent where it cannot be measured."""
    radiometry: RadiometryRecord
    """Radiometric constants."""
    executor: ExecutorRecord
    """Processes that computed the tiles."""
    projected_memory_bytes: int
    """Peak of memory as it was projected before the start."""
    peak_memory_bytes: int = 0
    """Largest resident size of all processes; absent where it was not measured."""
    warnings: tuple[str, ...]
    """Warnings about the inputs, in ``run.json`` about the map as well, one line each."""
    counts: Counts
    """Sums over tiles and products."""
    tile_seconds: dict[str, float]
    """Seconds of ``read`` and ``network``, summed over tiles."""
    stages: dict[str, StageRecord]
    """Duration of each stage, by its name."""

    @property
    def combines(self) -> bool:
        """True if the probability is the network's and IR-MAD's together."""
        return self.radiometry.alteration is not None and self.radiometry.alteration.odds is not None


class RunRecord(InferenceRecord):
    """``run.json``: a run and its products."""

    thresholds: dict[str, float] = {}
    """Threshold of each stage that uses one."""
    products: dict[str, ProductRecord] = {}
    """Products by the names of their files."""
    versions: dict[str, str]
    """Versions of ussfc and of the libraries that decide bytes."""


class DistrictRecord(Record):
    """Change in one district."""

    name: str
    """Name of the district."""
    changed: float
    """Area of change, m2; pixels on a grid without a place on the earth, like the next one."""
    classified: float
    """Area that is not nodata."""
    changed_pixels: int
    """Pixels that changed."""

    @property
    def share(self) -> float:
        """Share of the classified area that changed; 0 where there is none."""
        return self.changed / self.classified if self.classified else 0.0


class DistrictsRecord(Record):
    """``districts.json``: change by district."""

    run: str
    """Name of the run."""
    change: str
    """SHA-256 of the ``change.tif`` that was counted."""
    threshold: float
    """Threshold of that map."""
    source: str
    """File of the districts, without credentials."""
    unit: Literal["m2", "px"]
    """Unit of the areas."""
    districts: tuple[DistrictRecord, ...]
    """Districts in the order of the file."""


class TileCounts(Record):
    """Tiles of a run by state."""

    total: int
    done: int
    failed: int
    left: int


class RunStatus(Record):
    """The state of a folder of a run."""

    state: Literal["complete", "incomplete", "unfinished", "waiting"]
    """``incomplete``: done but for tiles that kept failing; ``waiting``: not begun, or no worker is there yet."""
    run: str | None
    """Name of the run; None before it has one."""
    tiles: TileCounts
    failed_tiles: tuple[FailureRecord, ...]
    products: dict[str, int]
    """Bytes by name."""
    uploads: tuple[str, ...]
    """Names of unfinished uploads."""
    counts: Counts | None = None
    """Sums of ``run.json``; absent where there is none."""
    thresholds: dict[str, float] = {}
    """Threshold of each stage that uses one, likewise."""
