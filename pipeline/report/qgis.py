"""A run in QGIS: a style beside each product, and a project with all of them over both dates."""

from __future__ import annotations

import os
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.rasters.qgis_project import (
    Layer,
    Styling,
    composite,
    outlines_by,
    palette,
    project_xml,
    ramp,
    style_xml,
)
from ussfc.pipeline.rasters.styles import CHANGE_COLOR, CLASS_NAMES, OUTLINES, RAMP
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.report.facts import title_of
from ussfc.pipeline.runs.manifest import InputRecord, MappingRecord, RunRecord
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import Folder

GDAL_NAMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""GDAL's prefix for each kind of store; others are read by ``/vsicurl/``."""

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
"""Ends of names on a network that GDAL opens as one raster."""

WIDTH = 0.46
"""Width of outlines, millimetres."""

STYLES: dict[str, Styling] = {
    layout.CHANGE: palette({1: (CHANGE_COLOR, CLASS_NAMES[1])}),
    layout.PROBABILITY: ramp(RAMP),
    **dict.fromkeys(layout.LAYERS.values(), outlines_by("mean_probability", OUTLINES, 1.0, WIDTH)),
}
"""Style of each product."""

LAYER_ORDER = ("gpkg", "flatgeobuf", "parquet")
"""Formats of the polygons in the CRS of the grid, from those that every QGIS opens to those that not every one does."""


def write_styles(out: Folder, record: RunRecord) -> None:
    """Write a style beside each product of a local OUT that has none, and the project.

    Args:
        out: output folder.
        record: of the run.

    Raises:
        StoreError: a file cannot be written.
    """
    if out.local is None:
        # QGIS looks for neither in a bucket.
        return
    for product, styling in STYLES.items():
        name = layout.style_file(product)
        if product in record.products and not out.exists(name):
            out.write(name, style_xml(styling))
    out.write(layout.PROJECT, _project(out.local, record))


def _project(folder: Path, record: RunRecord) -> bytes:
    grid = record.grid.geobox
    layers = []
    polygons = [
        layout.LAYERS[format_] for format_ in LAYER_ORDER if layout.LAYERS[format_] in record.products
    ]
    if polygons:
        source = f"./{polygons[0]}|layername={Path(polygons[0]).stem}"
        layers.append(Layer("polygons of change", source, STYLES[polygons[0]], "Polygon"))
    named = {layout.CHANGE: "change", layout.PROBABILITY: "probability of change"}
    for product, name in named.items():
        if product in record.products:
            layers.append(Layer(name, f"./{product}", STYLES[product], visible=False))
    dates = date_layers(record, folder)
    layers += [layer for layer in dates.values() if layer is not None]
    box = grid.boundingbox
    return project_xml(title_of(record), grid, layers, (box.left, box.bottom, box.right, box.top))


def date_layers(record: RunRecord, folder: Path) -> dict[str, Layer | None]:
    """Return the layers of both dates by ``after`` and ``before``; None for one that QGIS cannot open as one raster.

    Args:
        record: of the run.
        folder: of the project.
    """
    inputs, numbers = record.inputs, record.radiometry
    return {
        "after": _date("after", inputs.after, numbers.after, folder),
        "before": _date("before", inputs.before, numbers.before, folder),
    }


def gdal_name(uri: str, folder: Path) -> str:
    """Return the name by which GDAL opens a file from a project in a folder: relative to it, or of a network."""
    scheme, _, rest = uri.partition("://")
    if remote.is_remote(uri):
        prefix = GDAL_NAMES.get(scheme.lower())
        return prefix + rest if prefix else f"/vsicurl/{uri}"
    relative = os.path.relpath(uri, folder.absolute())
    return relative if relative.startswith(".") else f"./{relative}"


def _date(name: str, scene: InputRecord, mapping: MappingRecord, folder: Path) -> Layer | None:
    if remote.is_remote(scene.uri):
        if not scene.uri.lower().endswith(RASTER_SUFFIXES):
            return None
    else:
        try:
            with ignored_warnings(NotGeoreferencedWarning), rasterio.open(scene.uri) as source:
                if source.count < max(scene.bands):
                    return None
        except GDAL_ERRORS:
            return None
    date = f" ({scene.acquired[:10]})" if scene.acquired else ""
    style = composite(scene.bands[:3], mapping.low[:3], mapping.high[:3])
    return Layer(name + date, gdal_name(scene.uri, folder), style)
