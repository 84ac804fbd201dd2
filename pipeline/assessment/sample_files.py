"""Files of a sample: points to label, as GeoPackage and GeoParquet, and the record of how they were drawn."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.polygons.files import sync, write_error
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.runs.manifest import GridRecord, Record
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

GPKG = "sample.gpkg"
"""Points to label, and the outlines of their units, in the folder of a sample."""

PARQUET = "sample.parquet"
"""The points as GeoParquet, likewise."""

RECORD = "sample.json"
"""Record of the draw, likewise."""

PROJECT = "sample.qgs"
"""QGIS project that shows both dates and the points, likewise."""

ASSESSMENT = layout.ASSESSMENT
"""Result of the assessment, likewise."""

POINTS = "sample"
"""Layer of the points."""

OUTLINES = "units"
"""Layer of the outlines of the units."""

METADATA = "USSFC_SAMPLE"
"""Key of the record in the metadata of a file."""

FIXED = ("id", "row", "col", "stratum", "map_class", "size")
"""Columns that are not to be edited."""


WHOLE = ("id", "row", "col")
"""Columns of whole numbers."""


class MapRecord(Record):
    """The map that was sampled."""

    run: str
    """Name of the run: a digest of its key."""
    sha256: str
    """Digest of ``change.tif``."""
    threshold: float
    """Probability from which a pixel counts as changed."""
    classes: dict[str, int]
    """Units of each map class."""
    sizes: dict[str, float]
    """Area of each map class, square metres; valid pixels on a grid without a place on the earth."""
    on_earth: bool
    """True where sizes are square metres."""


class StratumRecord(Record):
    """A stratum."""

    name: str
    """``change``, ``buffer`` or ``stable``."""
    units: int
    """Units of the population."""
    points: int
    """Units that were drawn."""


class SampleRecord(Record):
    """``sample.json``: how a sample was drawn."""

    version: str
    """Version of ussfc."""
    map: MapRecord
    """The map that was sampled."""
    grid: GridRecord
    """Its grid."""
    unit: Literal["pixel", "block"]
    """Unit that was drawn."""
    side: int
    """Side of a unit, pixels."""
    buffer_px: int
    """Width of the buffer around change, pixels."""
    buffer_m: float | None
    """The same in metres at the centre of the grid; None on a grid without a place on the earth."""
    seed: int
    """Seed of the draw."""
    target_se: float | None
    """Standard error of the overall accuracy that the size was chosen for; None where the size was given."""
    strata: tuple[StratumRecord, ...]
    """Strata in their order."""
    points: str
    """Digest of the columns that are not to be edited."""

    @property
    def drawn(self) -> int:
        """Number of points."""
        return sum(stratum.points for stratum in self.strata)


def digest(frame: pd.DataFrame) -> str:
    """Return a digest of the columns that are not to be edited."""
    rows = zip(*(frame[name].tolist() for name in FIXED), strict=True)
    # Some formats keep fewer digits of a size.
    lines = sorted(
        " ".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows
    )
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sample(points: geopandas.GeoDataFrame, outlines: Any, record: SampleRecord, to: Path) -> None:
    """Write the points as GeoPackage and GeoParquet, each with the record in its metadata, and the record.

    Args:
        points: a row each.
        outlines: (points,) outlines of the units.
        record: of the sample.
        to: folder of the sample; a file appears there when it is complete, the record last.

    Raises:
        StoreError: a file cannot be written.
    """
    import pyarrow.parquet as pq
    import pyogrio

    text = json.dumps(record.dump())
    shapes = points[["id"]].set_geometry(outlines, crs=points.crs)
    try:
        with tempfile.TemporaryDirectory(prefix=".ussfc-", dir=to) as made:
            part = Path(made)
            # A grid without a reference system is what the user has; it is not news.
            with ignored_warnings(UserWarning):
                pyogrio.write_dataframe(
                    points,
                    part / GPKG,
                    layer=POINTS,
                    layer_metadata={METADATA: text},
                    # Later versions are news to the GDAL of QGIS 3.22.
                    dataset_options={"VERSION": "1.2"},
                )
                pyogrio.write_dataframe(shapes, part / GPKG, layer=OUTLINES)
            points.to_parquet(part / PARQUET)
            table = pq.read_table(part / PARQUET)
            metadata = {**(table.schema.metadata or {}), METADATA.encode(): text.encode()}
            pq.write_table(table.replace_schema_metadata(metadata), part / PARQUET)
            for name in (GPKG, PARQUET):
                sync(part / name)
                (part / name).replace(to / name)
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise write_error(to / GPKG, error) from error
    record.write(Folder.of(to), RECORD)


def read_points(path: Path) -> tuple[geopandas.GeoDataFrame, SampleRecord]:
    """Read the points of a sample and its record, from the file itself or from ``sample.json`` beside it.

    Args:
        path: GeoPackage or GeoParquet, or another vector file that was made of one.

    Raises:
        ReadError: it is no such file, or it lacks a column.
        DamagedRecord: the record is damaged.
    """
    if not path.is_file():
        raise ReadError(f"{path}: not found; give the {GPKG} or {PARQUET} that `ussfc sample` wrote")
    try:
        frame, text = _parquet(path) if path.suffix == ".parquet" else _vector(path)
    except _unreadable() as error:
        raise ReadError(f"{path}: cannot be read as points ({_line(error)})") from error
    if "geometry" not in frame.columns:
        raise ReadError(f"{path}: holds no points; join its labels to those of {GPKG} by id, and give that")
    record = SampleRecord.find(Folder.of(path.parent), RECORD) if text is None else _parse(text, path)
    if record is None:
        raise ReadError(
            f"{path}: is no sample of ussfc: it holds no record of how its points were drawn, and no {RECORD} lies "
            "beside it; keep the file in the folder that `ussfc sample` wrote"
        )
    missing = [name for name in (*FIXED, "reference") if name not in frame.columns]
    if missing:
        raise ReadError(f"{path}: lacks the column(s) {', '.join(missing)}; keep all columns of the sample")
    for name in WHOLE:
        # Shapefiles hold numbers of many digits as floating ones.
        if frame[name].dtype.kind == "f" and (frame[name] % 1 == 0).all():
            frame[name] = frame[name].astype("int64")
    return frame, record


def _unreadable() -> tuple[type[Exception], ...]:
    """Return the errors of the libraries at files that are damaged or of another kind."""
    import pyarrow as pa
    import pyogrio
    import shapely

    return (
        pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pa.ArrowException, shapely.errors.ShapelyError,
        OSError, ValueError, KeyError,
    )  # fmt: skip


def _parse(text: str, path: Path) -> SampleRecord:
    return SampleRecord.parse(json.loads(text), str(path))


def _parquet(path: Path) -> tuple[geopandas.GeoDataFrame, str | None]:
    import geopandas
    import pyarrow.parquet as pq

    text = (pq.read_schema(path).metadata or {}).get(METADATA.encode())
    return geopandas.read_parquet(path), None if text is None else text.decode()


def _vector(path: Path) -> tuple[geopandas.GeoDataFrame, str | None]:
    import pyogrio

    layers = [name for name, _ in pyogrio.list_layers(path)]
    if not layers:
        raise ReadError(f"{path}: holds no layer")
    layer = POINTS if POINTS in layers else layers[0]
    text = (pyogrio.read_info(path, layer=layer)["layer_metadata"] or {}).get(METADATA)
    return pyogrio.read_dataframe(path, layer=layer), text


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def refuse_existing(to: Path, names: Iterable[str] = (GPKG, PARQUET, RECORD)) -> None:
    """Refuse a folder that holds a sample: its labels may be days of work.

    Raises:
        StoreError: it holds one.
    """
    for name in names:
        if (to / name).exists():
            raise StoreError(
                f"{to / name}: exists, and its labels would be lost; choose another folder for the sample, or "
                "remove it first"
            )


def as_text(values: Any) -> list[str]:
    """Return labels as text without blanks around it; empty where there is none."""
    import pandas as pd

    return ["" if value is None or pd.isna(value) else _text(value) for value in values]


def _text(value: Any) -> str:
    # Software that knows numbers alone gives 1.0 for 1.
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip().lower()
