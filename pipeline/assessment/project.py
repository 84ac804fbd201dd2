"""The QGIS project of a sample: the points to label over both dates."""

from __future__ import annotations

import os
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from ussfc.pipeline.assessment import sample_files
from ussfc.pipeline.assessment.labels import UNCLEAR
from ussfc.pipeline.assessment.strata import CLASSES
from ussfc.pipeline.events import Notice, Subscriber
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.rasters.qgis_project import (
    Layer,
    choices,
    composite,
    markers_by,
    outline,
    palette,
    project_xml,
    together,
)
from ussfc.pipeline.rasters.styles import COLORS
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.runs.manifest import InputRecord, MappingRecord, RunRecord
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import Folder

GDAL_NAMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""GDAL's prefix for each kind of store; others are read by ``/vsicurl/``."""

YELLOW, WHITE, GREY, BLUE = (255, 221, 0, 255), (255, 255, 255, 255), (150, 150, 150, 255), (0, 114, 178, 255)
RED = COLORS[1]

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
"""Ends of names on a network that GDAL opens as one raster."""


def write_project(
    folder: Path,
    out: Folder,
    manifest: RunRecord,
    extent: tuple[float, float, float, float],
    subscriber: Subscriber,
) -> None:
    """Write the project; a date that QGIS cannot open as one raster is left out with a remark.

    Args:
        folder: of the sample.
        out: output folder of the run.
        manifest: of the run.
        extent: of the points: xmin, ymin, xmax, ymax.
        subscriber: is sent the remarks.

    Raises:
        StoreError: it cannot be written.
    """
    labels = {
        "": (YELLOW, "to label"),
        CLASSES[1]: (RED, CLASSES[1]),
        CLASSES[0]: (BLUE, CLASSES[0]),
        UNCLEAR: (GREY, UNCLEAR),
    }
    source = f"./{sample_files.GPKG}|layername="
    layers = [
        Layer(
            "sample: fill in reference",
            source + sample_files.POINTS,
            together(
                markers_by("reference", labels, size=5.0),
                choices("reference", (CLASSES[1], CLASSES[0], UNCLEAR)),
            ),
            "Point",
        ),
        Layer("units", source + sample_files.OUTLINES, outline(WHITE, 0.4), "Polygon"),
        # A label that knows the map is no independent one.
        Layer(
            "change.tif (look after labelling)",
            gdal_name(str(out.local / layout.CHANGE) if out.local else f"{out}/{layout.CHANGE}", folder),
            palette({1: (RED, CLASSES[1])}),
            visible=False,
        ),
    ]
    dates = (
        ("after", manifest.inputs.after, manifest.radiometry.after),
        ("before", manifest.inputs.before, manifest.radiometry.before),
    )
    for name, scene, mapping in dates:
        layer = _date(name, scene, mapping, folder)
        if layer is None:
            subscriber(
                Notice(
                    f"{scene.uri}: is no single raster that QGIS opens, so {sample_files.PROJECT} lacks the layer "
                    f"{name}; add it there, or give `ussfc run` a file that `ussfc prepare` made of it",
                    warning=False,
                )
            )
        else:
            layers.append(layer)
    content = project_xml("ussfc sample", manifest.grid.geobox, layers, extent)
    Folder.of(folder).write(sample_files.PROJECT, content)


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
