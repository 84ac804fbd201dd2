"""Metadata beside a raster, as GDAL reads them: names and colours of the classes, statistics."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.rasters.styles import CLASS_NAMES, COLORS
from ussfc.pipeline.report.overviews import ChangeLevel
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import PROBABILITY_STEPS

INTEGER, TEXT = "0", "2"
"""GDAL's numbers of the types of a column."""

COLUMNS = (
    ("Value", INTEGER, "5"),
    ("Class", TEXT, "2"),
    ("Red", INTEGER, "6"),
    ("Green", INTEGER, "7"),
    ("Blue", INTEGER, "8"),
    ("Alpha", INTEGER, "9"),
    ("Pixels", INTEGER, "1"),
)
"""Name, type and GDAL's number of the use of each column of the table of classes."""


def write_metadata(out: Folder, record: RunRecord, read: Callable[[], ChangeLevel]) -> None:
    """Write ``.aux.xml`` beside each raster that has none.

    Args:
        out: output folder.
        record: of the run.
        read: reads its rasters; called where statistics are missing.

    Raises:
        StoreError: a file cannot be written.
        ReadError: a raster cannot be read.
    """
    # GDAL may have put into a file that is there what the raster itself has no words for.
    missing = [
        product
        for product in (layout.CHANGE, layout.PROBABILITY)
        if product in record.products and not out.exists(layout.statistics_file(product))
    ]
    if layout.CHANGE in missing:
        counts = record.counts
        content = classes_xml(counts.unchanged_pixels or 0, counts.changed_pixels or 0)
        out.write(layout.statistics_file(layout.CHANGE), content)
    if layout.PROBABILITY in missing:
        found = read()
        content = statistics_xml(found.histogram, found.level == 1)
        out.write(layout.statistics_file(layout.PROBABILITY), content)


def classes_xml(unchanged: int, changed: int) -> bytes:
    """Return names, colours and counts of the classes as GDAL's auxiliary metadata."""
    root, band = _band()
    names = SubElement(band, "CategoryNames")
    for label in CLASS_NAMES.values():
        SubElement(names, "Category").text = label
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for number, (name, kind, use) in enumerate(COLUMNS):
        column = SubElement(table, "FieldDefn", index=str(number))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", use)):
            SubElement(column, tag).text = text
    for number, (value, label) in enumerate(CLASS_NAMES.items()):
        row = SubElement(table, "Row", index=str(number))
        for cell in (value, label, *COLORS[value], (unchanged, changed)[value]):
            SubElement(row, "F").text = str(cell)
    total = unchanged + changed
    if total:
        share = changed / total
        spread = float(np.sqrt(share * (1 - share)))
        _statistics(band, (0 if unchanged else 1, 1 if changed else 0, share, spread), exact=True)
    return _document(root)


def statistics_xml(histogram: npt.NDArray[np.int64], exact: bool) -> bytes:
    """Return statistics of probabilities as GDAL's auxiliary metadata, in stored numbers.

    Args:
        histogram: (255,) valid pixels by probability times 254.
        exact: False: they are of an overview.
    """
    root, band = _band()
    total = int(histogram.sum())
    if total:
        levels = np.arange(PROBABILITY_STEPS + 1)
        mean = float((histogram * levels).sum() / total)
        spread = float(np.sqrt((histogram * (levels - mean) ** 2).sum() / total))
        used = np.flatnonzero(histogram)
        _statistics(band, (int(used[0]), int(used[-1]), mean, spread), exact)
    return _document(root)


def _band() -> tuple[Element, Element]:
    root = Element("PAMDataset")
    return root, SubElement(root, "PAMRasterBand", band="1")


def _statistics(band: Element, numbers: tuple[float, float, float, float], exact: bool) -> None:
    metadata = SubElement(band, "Metadata")
    for name, number in zip(("MINIMUM", "MAXIMUM", "MEAN", "STDDEV"), numbers, strict=True):
        SubElement(metadata, "MDI", key=f"STATISTICS_{name}").text = f"{number:.10g}"
    if not exact:
        SubElement(metadata, "MDI", key="STATISTICS_APPROXIMATE").text = "YES"


def _document(root: Element) -> bytes:
    indent(root, "  ")
    return (tostring(root, "unicode") + "\n").encode()
