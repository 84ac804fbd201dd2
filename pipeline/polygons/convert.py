"""A GeoParquet file converted to the formats that GDAL writes: GeoPackage, FlatGeobuf and GeoJSON."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from odc.geo.geobox import GeoBox

from ussfc.pipeline.polygons.files import write_error

if TYPE_CHECKING:
    import pyarrow as pa

DRIVER: Mapping[str, str] = {"gpkg": "GPKG", "flatgeobuf": "FlatGeobuf", "geojson": "GeoJSON"}
"""GDAL's name of each format that it writes."""

CONVERTED = 8192
"""Features that are on their way from the table to another format at a time."""

CHANGED = "2000-01-01T00:00:00.000Z"
"""Date of the last change that a GeoPackage names, always the same: equal runs give equal bytes."""

_DATE_LOCK = threading.Lock()


def convert(table: Path, part: Path, geobox: GeoBox, format_: str, target: Path) -> None:
    """Stream a GeoParquet file into a layer of another format, named after ``target``.

    Layers have one geometry type: where one feature is a MultiPolygon, all are. GeoJSON has longitudes and latitudes
    on WGS 84, as RFC 7946 demands, wherever the grid has a place on the earth.

    Args:
        table: the GeoParquet file.
        part: the file to write.
        geobox: the grid.
        format_: the format, a key of :data:`DRIVER`.
        target: the product that the layer and errors are named after.

    Raises:
        ussfc.pipeline.errors.StoreError: GDAL cannot write the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyogrio

    crs = None if geobox.crs is None else geobox.crs.to_wkt()
    with pq.ParquetFile(table) as file:
        types = json.loads(file.metadata.metadata[b"geo"])["columns"]["geometry"]["geometry_types"]
        multi = "MultiPolygon" in types
        schema = file.schema_arrow.remove_metadata()
        schema = schema.remove(schema.get_field_index("bbox"))
        batches = file.iter_batches(batch_size=CONVERTED, columns=schema.names)
        stream = pa.RecordBatchReader.from_batches(
            schema, (_promote(batch, schema) if multi else batch for batch in batches)
        )
        try:
            with warnings.catch_warnings(), _fixed_date() if format_ == "gpkg" else nullcontext():
                # A grid without a reference system is what the user has; it is not news.
                warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
                pyogrio.write_arrow(
                    stream,
                    part,
                    layer=target.stem,
                    driver=DRIVER[format_],
                    geometry_name="geometry",
                    geometry_type="MultiPolygon" if multi else "Polygon",
                    crs=crs,
                    **_options(format_, geobox),
                )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise write_error(target, error) from error


@contextmanager
def _fixed_date() -> Iterator[None]:
    """Have GDAL write :data:`CHANGED` into GeoPackages instead of the present date."""
    import pyogrio

    name = "OGR_CURRENT_DATE"
    # One for the whole process, and pairs of a batch are written side by side.
    with _DATE_LOCK:
        before = pyogrio.get_gdal_config_option(name)
        pyogrio.set_gdal_config_options({name: CHANGED})
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options({name: before})


def _options(format_: str, geobox: GeoBox) -> dict[str, str]:
    """Return the creation options of GDAL's driver."""
    if format_ == "gpkg":
        description = "Regions that changed between two images, found by ussfc"
        # GDAL 3.6 and older warn of later versions.
        return {"IDENTIFIER": "changes", "DESCRIPTION": description, "VERSION": "1.2"}
    placed = geobox.crs is not None and geobox.crs.proj.geodetic_crs is not None
    return {"RFC7946": "YES"} if format_ == "geojson" and placed else {}


def _promote(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with every geometry a MultiPolygon."""
    import pyarrow as pa

    geometries = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
    parts, owner = shapely.get_parts(geometries, return_index=True)
    multi = pa.array(shapely.to_wkb(shapely.multipolygons(parts, indices=owner), byte_order=1), pa.binary())
    return batch.set_column(schema.get_field_index("geometry"), schema.field("geometry"), multi)
