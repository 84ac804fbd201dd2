"""Features as GeoParquet 1.1, in row groups of one size."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.polygons.arrays import FlagArray, IntArray, RealArray
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.files import writing
from ussfc.pipeline.polygons.kinds import KINDS, hints
from ussfc.pipeline.polygons.measure import Features

if TYPE_CHECKING:
    import pyarrow as pa

TYPES: Mapping[int, str] = {
    shapely.GeometryType.POLYGON: "Polygon",
    shapely.GeometryType.MULTIPOLYGON: "MultiPolygon",
}
"""Types of geometry as GeoParquet names them."""

SIDES = ("xmin", "ymin", "xmax", "ymax")
"""Fields of the bounding box column."""

Dates = tuple[str | None, str | None]
"""Days of before and after."""

DATES = ("date_before", "date_after")
"""Columns of these."""

KIND = "kind"
"""Column with the hint at the kind of a change."""

CHANGES = ("ndvi_change", "brightness_change")
"""Columns of differences, after minus before."""

MOST_BYTES = np.iinfo(np.int32).max
"""Most bytes of a column of geometries that is made at once: Arrow counts them in 32 bits."""

ROW_GROUP = 32768
"""Features of a row group, counted over the whole file: the bytes do not show the blocks."""


@dataclass(frozen=True, slots=True)
class VectorCounts:
    """Counts of a layer."""

    polygons: int
    """Features; a MultiPolygon is one."""
    pixels: int
    """Changed pixels inside them."""
    area_m2: float | None
    """Square metres on the ellipsoid; None where the grid has no place on the earth."""
    largest_m2: float | None = None
    """Area of the largest; None where there is none, likewise."""


class TableWriter:
    """Writes features and counts them."""

    def __init__(self, file: Path, dates: Dates, values: BandValues | None) -> None:
        """Create the file.

        Args:
            file: its path.
            dates: days of before and after, the same for every feature.
            values: bands whose means are written.
        """
        import pyarrow.parquet as pq

        self._schema = table_schema(values)
        # The smallest and largest WKB mean nothing, and the footer would repeat the largest polygons.
        plain = [name for name in self._schema.names if name not in ("geometry", "bbox")]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            # Of columns that are the same all over, a row costs bits.
            use_dictionary=[*DATES, KIND],
            write_statistics=plain + [f"bbox.{side}" for side in SIDES],
        )
        self._dates, self._values = dates, values
        self._waiting: list[pa.Table] = []
        self._bounds: list[RealArray] = []
        self._types: set[str] = set()
        self._pixels = 0
        self._areas: list[RealArray] = [np.zeros(0)]

    def add(self, features: Features) -> None:
        """Write the row groups that are full, keep the rest."""
        import pyarrow as pa

        if not len(features.geometry):
            return
        self._bounds.append(shapely.total_bounds(features.geometry))
        self._types.update(TYPES[number] for number in np.unique(shapely.get_type_id(features.geometry)))
        self._pixels += int(features.regions.pixels.sum())
        self._areas.append(features.area)
        self._waiting.append(_table(features, self._dates, self._values, self._schema))
        if sum(map(len, self._waiting)) < ROW_GROUP:
            return
        waiting = pa.concat_tables(self._waiting)
        while len(waiting) >= ROW_GROUP:
            self._write(waiting.slice(0, ROW_GROUP))
            waiting = waiting.slice(ROW_GROUP)
        self._waiting = [waiting]

    def finish(self, geobox: GeoBox) -> VectorCounts:
        """Write what is left and the metadata that make a Parquet file a GeoParquet file."""
        import pyarrow as pa

        if any(map(len, self._waiting)):
            self._write(pa.concat_tables(self._waiting))
        metadata = geo_metadata(geobox, sorted(self._types), self._bounds)
        self._writer.add_key_value_metadata({"geo": json.dumps(metadata)})
        self._writer.close()
        areas = np.concatenate(self._areas)
        # fsum is exact: the sum does not depend on the batches either.
        known = areas[np.isfinite(areas)]
        largest = float(known.max()) if len(known) else None
        return VectorCounts(len(areas), self._pixels, math.fsum(known), largest)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        # In one chunk: the pages would be cut where the batches were.
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)


def write_table(
    batches: Iterable[Features],
    geobox: GeoBox,
    file: Path,
    target: Path,
    dates: Dates = (None, None),
    values: BandValues | None = None,
) -> VectorCounts:
    """Write all features; an error of ``batches`` passes as it is.

    Args:
        batches: the features.
        geobox: the grid.
        file: the file to write.
        target: the product that errors name.
        dates: days of before and after, ISO 8601; None where one is not known.
        values: bands whose means are written; None: no such columns.

    Raises:
        ussfc.pipeline.errors.StoreError: the file cannot be written, or outlines take more than a column holds.
    """
    batches = iter(batches)
    # Before the writer: tracing is under way on its threads while Arrow is imported.
    first = list(itertools.islice(batches, 1))
    with writing(target):
        writer = TableWriter(file, dates, values)
    with closing(writer):
        for batch in itertools.chain(first, batches):
            with writing(target):
                writer.add(batch)
        with writing(target):
            return writer.finish(geobox)


def table_schema(values: BandValues | None = None) -> pa.Schema:
    """Return the columns of the layer, those of the bands among them where there are any."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("area_m2", pa.float64()),
            pa.field("perimeter_m", pa.float64()),
            pa.field("mean_probability", pa.float64(), nullable=False),
            pa.field("max_probability", pa.float64(), nullable=False),
            pa.field("pixels", pa.int64(), nullable=False),
            *(pa.field(name, pa.string()) for name in DATES),
            *([] if values is None else [pa.field(KIND, pa.string())]),
            *(pa.field(name, pa.float32()) for name in ([] if values is None else number_columns(values))),
            pa.field("geometry", pa.binary(), nullable=False),
            pa.field(
                "bbox",
                pa.struct([pa.field(side, pa.float64(), nullable=False) for side in SIDES]),
                nullable=False,
            ),
        ]
    )


def geo_metadata(geobox: GeoBox, types: Sequence[str], bounds: Sequence[RealArray]) -> dict[str, Any]:
    """Return the ``geo`` key of GeoParquet 1.1.

    Args:
        geobox: the grid.
        types: types of the geometries that occur.
        bounds: (4,) bounds of the batches: xmin, ymin, xmax, ymax.
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": types,
        # A missing key would mean longitude and latitude; null means not known.
        "crs": None if geobox.crs is None else geobox.crs.proj.to_json_dict(),
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if bounds:
        low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
        column["bbox"] = [*low.tolist(), *high.tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _table(features: Features, dates: Dates, values: BandValues | None, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    regions = features.regions
    real = pa.float64()
    bounds = [_column(side, real) for side in shapely.bounds(features.geometry).T]
    columns = [
        _column(regions.first, pa.int64()),
        _column(features.area, real, np.isfinite(features.area)),
        _column(features.perimeter, real, np.isfinite(features.perimeter)),
        _column(regions.mean, real),
        _column(regions.peak, real),
        _column(regions.pixels, pa.int64()),
        *(_repeated(date, len(features.geometry)) for date in dates),
        *([] if values is None else _value_columns(values, regions.values)),
        _binary(shapely.to_wkb(features.geometry, byte_order=1)),
        pa.StructArray.from_arrays(bounds, fields=list(schema.field("bbox").type)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def number_columns(values: BandValues) -> list[str]:
    """Return the names of the columns that follow from bands, without that of the kind."""
    return [*CHANGES, *(f"{date}_{name}" for date in ("before", "after") for name in values.names)]


def _value_columns(values: BandValues, sums: IntArray) -> list[pa.Array]:
    import pyarrow as pa

    before, after = values.means(sums)
    found = hints(values.names, before, after, values.span)
    return [
        _texts(KINDS, found.kind),
        *(
            _column(column.astype(np.float32), pa.float32(), np.isfinite(column))
            for column in (found.ndvi_change, found.brightness_change, *before, *after)
        ),
    ]


def _texts(words: Sequence[str], number: IntArray) -> pa.Array:
    """Return a word for each number, null for -1, by buffers too."""
    import pyarrow as pa

    known = number >= 0
    encoded = [word.encode() for word in words]
    # The last one is what -1 takes.
    lengths = np.array([*map(len, encoded), 0])[number]
    content = b"".join(encoded[place] for place in number[known].tolist())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(
        pa.string(), len(number), [mask, pa.py_buffer(offsets), pa.py_buffer(content)]
    )


def _column(values: npt.NDArray[Any], kind: pa.DataType, known: FlagArray | None = None) -> pa.Array:
    """Return numbers as Arrow's, null where not ``known``; by buffers, for ``pa.array`` imports pandas first."""
    import pyarrow as pa

    mask = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(np.ascontiguousarray(values))])


def _repeated(text: str | None, count: int) -> pa.Array:
    """Return a text, or null, so many times, by buffers too."""
    import pyarrow as pa

    if text is None:
        return pa.nulls(count, pa.string())
    content = text.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(len(content))
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(content * count)]
    )


def _binary(values: Sequence[bytes]) -> pa.Array:
    """Return texts of bytes as Arrow's, by buffers too."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)])
    if ends[-1] > MOST_BYTES:
        raise StoreError(
            f"{len(values)} outlines take {ends[-1] / 1e9:.1f} GB, a part of a layer holds {MOST_BYTES / 1e9:.1f}; "
            "raise threshold or vector.simplify_m"
        )
    offsets, content = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(values))
    return pa.Array.from_buffers(pa.binary(), len(values), [None, offsets, content])
