"""The page about files: every file of a run, a sample and a batch, with its types, columns and fields."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from ussfc.pipeline.assessment import assess, sample_files
from ussfc.pipeline.batches import index
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.convert import DRIVER
from ussfc.pipeline.polygons.geoparquet import CHANGES, DATES, KIND, ROW_GROUP, SIDES, table_schema
from ussfc.pipeline.polygons.kinds import KINDS
from ussfc.pipeline.rasters.styles import CLASS_NAMES
from ussfc.pipeline.report.reviews import VERDICTS
from ussfc.pipeline.runs import manifest
from ussfc.pipeline.runs.manifest import Record
from ussfc.pipeline.storage import layout
from ussfc.pipeline.terminal.markdown import attribute_docs, definitions, module_tree, table
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, RadiometricMapping

FORMATS = {"parquet": "GeoParquet 1.1, zstd", **DRIVER, "gpkg": "GeoPackage 1.2"}
"""Format of the polygons by the key of the configuration."""

POLYGON_COLUMNS = {
    "id": "first pixel of the region, counted row by row from 0; the same at any tiling",
    "area_m2": "geodesic area on the ellipsoid, m2; null on a grid without CRS",
    "perimeter_m": "geodesic length of shell and holes, m; null likewise",
    "mean_probability": "mean probability of its pixels, 0 to 1",
    "max_probability": "largest probability of its pixels, 0 to 1",
    "pixels": "number of its pixels",
    DATES[0]: "day of the earlier image, such as 2018-06-30; null where it is not known",
    DATES[1]: "day of the later image, likewise",
    KIND: f"hint at the change, {', '.join(KINDS)}: [the rule](../polygons.md#the-rule-of-kind)",
    CHANGES[0]: "NDVI after minus before, -2 to 2; null without a near infrared band",
    CHANGES[1]: "mean of red, green and blue, after minus before, in the numbers of the model",
    "before_NAME": "mean of the band NAME (`red`, `nir`, ...) of the earlier image, numbers of the model",
    "after_NAME": "the same of the later image",
    "geometry": "Polygon or MultiPolygon (WKB) in the CRS of the grid, shells counterclockwise; in GeoJSON longitude "
    "and latitude",
    "bbox": f"{', '.join(SIDES)} of the geometry; in GeoParquet alone",
}
"""Meaning of each column of the polygons."""

SAMPLE_COLUMNS = {
    "id": "number of the point, from 1, in random order",
    "reference": "label to fill in: change, no change or unclear",
    "stratum": "change, buffer or stable",
    "map_class": "class of the map when the sample was drawn",
    "probability": "probability at the point, 0 to 1",
    "x": "easting or longitude of the centre of the unit, in the CRS of the grid",
    "y": "northing or latitude likewise",
    "row": "first row of the unit, pixels of the grid",
    "col": "first column likewise",
    "size": "area of the unit, m2; pixels on a grid without CRS",
    "inclusion_probability": "chance with which the unit was drawn",
}
"""Meaning of each column of a sample."""

DISTRICT_COLUMNS = {
    "name": "name of the district",
    "changed_m2": "area of change, m2; `changed_px` on a grid without CRS",
    "classified_m2": "area that is not nodata, likewise",
    "share": "share of the classified area that changed, 0 to 1",
    "changed_pixels": "number of changed pixels",
}
"""Meaning of each column of the districts."""

REVIEW_COLUMNS = {
    "id": "the polygon",
    "verdict": ", ".join(VERDICTS),
    "note": "text of the reviewer",
    "time": "of the verdict, ISO 8601, UTC",
}
"""Meaning of each column of a review."""

BATCH_COLUMNS = {
    "name": "name of the pair, and of its folder",
    "state": "complete, incomplete (tiles kept failing), failed, or waiting",
    "before": "the earlier image, without credentials",
    "after": "the later image, likewise",
    "date_before": "time of the earlier image, where it is known",
    "date_after": "time of the later image, likewise",
    "pixels": "valid pixels",
    "changed_pixels": "changed pixels",
    "changed_share": "share of the valid pixels that changed, 0 to 1",
    "changed_km2": "geodesic area of the polygons, km2; empty without a CRS",
    "polygons": "number of polygons",
    "tiles": "number of tiles",
    "tiles_failed": "tiles that kept failing",
    "seconds": "seconds of the stages of the run that computed last",
    "warnings": 'warnings of the run, joined by " | "',
    "error": "cause of a failure",
}
"""Meaning of each column of a batch's table."""

WORDS: Mapping[Any, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", Any: "any", type(None): "null",
}  # fmt: skip
"""JSON types in words."""


def files_page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield from _rasters()
    yield from _layers()
    yield "## Tables"
    for name, columns in (
        ("`districts.csv`, `districts.parquet`", DISTRICT_COLUMNS),
        ("`review.parquet`, written by `ussfc view`", REVIEW_COLUMNS),
        (f"`{sample_files.GPKG}`, `{sample_files.PARQUET}` of `ussfc sample`", SAMPLE_COLUMNS),
        (f"`{layout.RESULTS_TABLE}` of a batch", {name: BATCH_COLUMNS[name] for name in index.COLUMNS}),
    ):
        yield from ("", f"### {name}", "", *table(("column", "meaning"), _cells(columns)))
    yield from ("", "## Records", "")
    yield "JSON. A field that a stage has nothing for is absent. NAME stands for any name, [] for each element."
    for file, record in (
        (f"{layout.MANIFEST}", manifest.RunRecord),
        (f"{layout.ASSESSMENT}", assess.AssessmentRecord),
        (f"{layout.DISTRICTS}", manifest.DistrictsRecord),
        (f"{sample_files.RECORD} of `ussfc sample`", sample_files.SampleRecord),
    ):
        name, _, rest = file.partition(" ")
        rows = [(f"`{field}`", kind, meaning) for field, kind, meaning in _fields(record)]
        yield from ("", f"### `{name}` {rest}".rstrip(), "", *table(("field", "type", "meaning"), rows))
    yield from _names()


def _cells(columns: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"`{name}`", meaning) for name, meaning in columns.items()]


def _rasters() -> Iterator[str]:
    classes = ", ".join(f"{value} {name}" for value, name in CLASS_NAMES.items())
    yield "Rasters, polygons, tables and records that a run leaves in OUT, and what `work/` holds."
    yield from ("", "## Rasters", "")
    yield "Cloud-optimised GeoTIFFs on the common grid, one band, with overviews, statistics and a palette."
    yield ""
    change = f"{classes}, {NODATA_BYTE} nodata; an overview pixel is 1 where any pixel under it is"
    probability = (
        f"change probability: stored number times 1/{PROBABILITY_STEPS} (the file declares the scale); {NODATA_BYTE} "
        "nodata; as float32 0 to 1 and NaN. Overviews are averages of valid pixels"
    )
    rows = [
        (f"`{layout.CHANGE}`", "uint8", change),
        (f"`{layout.PROBABILITY}`", "uint8 or float32 (`output.probability_dtype`)", probability),
    ]
    yield from table(("file", "type", "pixels"), rows)


def _layers() -> Iterator[str]:
    yield from ("", "## Polygons", "")
    yield "One feature for each connected region of change, in every format that `vector.format` (`--format`) names:"
    yield ""
    yield from table(
        ("file", "key", "format"),
        [(f"`{name}`", f"`{key}`", FORMATS[key]) for key, name in layout.LAYERS.items()],
    )
    yield ""
    # Of the bands the names alone decide the columns.
    bands = BandValues(("NAME",), (0, 1), ((), ()), (RadiometricMapping((), ()), RadiometricMapping((), ())))
    kinds = {field.name: str(field.type) for field in table_schema(bands)} | {"bbox": "struct of double"}
    rows = [(f"`{name}`", kind, POLYGON_COLUMNS[name]) for name, kind in kinds.items()]
    yield from table(("column", "type", "meaning"), rows)
    yield from ("", f"GeoParquet comes in row groups of {ROW_GROUP} features, in the order of `id`.", "")


def _fields(record: type[Record], before: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, type and meaning of the fields of a record and of the records in it."""
    docs: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        module = sys.modules[kind.__module__]
        if issubclass(kind, Record) and kind is not Record:
            docs |= attribute_docs(definitions(module)[kind.__name__].body)
    for name, field in record.model_fields.items():
        inner, suffix = _inner(field.annotation)
        yield before + name, _words(field.annotation), re.sub(r"\bNone\b", "null", docs[name])
        if inner is not None:
            yield from _fields(inner, f"{before}{name}{suffix}.")


def _inner(annotation: Any) -> tuple[type[Record] | None, str]:
    """Return the record that a field holds, and the mark of the place where it does."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation, ""
    suffix = {tuple: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        inner, further = _inner(argument)
        if inner is not None:
            return inner, suffix + further
    return None, ""


def _words(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, Union):
        return " or ".join(_words(argument) for argument in arguments)
    if origin is tuple:
        kinds = dict.fromkeys(_words(argument) for argument in arguments if argument is not Ellipsis)
        count = "" if Ellipsis in arguments else f"{len(arguments)} x "
        return f"list of {count}{', '.join(kinds)}"
    return "object"


def _names() -> Iterator[str]:
    yield from ("", "## Every name", "")
    yield (
        "`work/` is what restarts and other thresholds need. Its probabilities are a Zarr v3 group; xarray and GDAL "
        "(3.12 or newer) open with their CRS; `--set output.keep_work=false` removes the folder at the end of a run."
    )
    yield ""
    yield from ("```text", *_layout_lines(), "```", "")
    documented = attribute_docs(module_tree(layout).body)
    rows = [
        (f"`{getattr(layout, name)}`", meaning)
        for name, meaning in documented.items()
        if isinstance(getattr(layout, name), str) and meaning
    ]
    yield from table(("name", "meaning"), rows)


def _layout_lines() -> Sequence[str]:
    """Return the picture of the folder in the docstring of the module of names."""
    block = re.split(r"::\n\n", layout.__doc__ or "")[1].split("\n\n")[0]
    return [line.removeprefix("    ") for line in block.splitlines()]
