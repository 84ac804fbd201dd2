"""Records of runs as reports and indexes read them, without a run."""

from __future__ import annotations

from typing import Any

from odc.geo.geobox import GeoBox

from ussfc.pipeline.runs.manifest import (
    Counts,
    GridRecord,
    InputRecord,
    InputRecords,
    ModelRecord,
    ProductRecord,
    RadiometryRecord,
    RunRecord,
)
from ussfc.pipeline.tiling.grid import grid_record

CITY = GeoBox.from_bbox((730_000, 3_750_000, 737_680, 3_757_680), "EPSG:32636", resolution=10)
PRODUCTS = ("change.tif", "probability.tif", "changes.parquet")


def run_record(
    grid: GeoBox = CITY,
    before: str | None = None,
    after: str | None = None,
    uris: tuple[str, str] = ("/data/before.tif", "/data/after.tif"),
    products: tuple[str, ...] = PRODUCTS,
    **fields: Any,
) -> RunRecord:
    """Return the part of a run's record that an item reads.

    Args:
        grid: the common grid.
        before: time of acquisition.
        after: likewise.
        uris: addresses of both dates.
        products: names of the files.
        fields: others than the usual ones.
    """
    return RunRecord.model_construct(**{
        "complete": True,
        "threshold": 0.5,
        "grid": GridRecord(**grid_record(grid)),
        "inputs": InputRecords.model_construct(
            before=InputRecord.model_construct(acquired=before, uri=uris[0]),
            after=InputRecord.model_construct(acquired=after, uri=uris[1]),
        ),
        "model": ModelRecord.model_construct(name="ussfc-s2-rgb", sha256="ab" * 32, licence=None),
        "counts": counts(changed_pixels=3, unchanged_pixels=9, nodata_pixels=4),
        "products": {
            name: ProductRecord.model_construct(sha256="cd" * 32, bytes=number)
            for number, name in enumerate(products)
        },
        "config": {"output": {"probability_dtype": "uint8"}},
        "radiometry": RadiometryRecord.model_construct(),
        "versions": {"ussfc": "1.2", "gdal": "3.10"},
        **fields,
    })  # fmt: skip


def counts(**numbers: int) -> Counts:
    """Return the sums of a run, as far as they are given."""
    return Counts.model_construct(**numbers)
