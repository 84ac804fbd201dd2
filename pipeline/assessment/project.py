"""The QGIS project of a sample: the points to label over both dates."""

from __future__ import annotations

from pathlib import Path

from ussfc.pipeline.assessment import sample_files
from ussfc.pipeline.assessment.labels import UNCLEAR
from ussfc.pipeline.assessment.strata import CLASSES
from ussfc.pipeline.events import Notice, Subscriber
from ussfc.pipeline.rasters.qgis_project import (
    Layer,
    choices,
    markers_by,
    outline,
    palette,
    project_xml,
    together,
)
from ussfc.pipeline.rasters.styles import COLORS
from ussfc.pipeline.report.qgis import date_layers, gdal_name
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

YELLOW, WHITE, GREY, BLUE = (255, 221, 0, 255), (255, 255, 255, 255), (150, 150, 150, 255), (0, 114, 178, 255)
RED = COLORS[1]


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
    scenes = {"after": manifest.inputs.after, "before": manifest.inputs.before}
    for name, layer in date_layers(manifest, folder).items():
        if layer is None:
            subscriber(
                Notice(
                    f"{scenes[name].uri}: is no single raster that QGIS opens, so {sample_files.PROJECT} lacks the "
                    f"layer {name}; add it there, or give `ussfc run` a file that `ussfc prepare` made of it",
                    warning=False,
                )
            )
        else:
            layers.append(layer)
    content = project_xml("ussfc sample", manifest.grid.geobox, layers, extent)
    Folder.of(folder).write(sample_files.PROJECT, content)
