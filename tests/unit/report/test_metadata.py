"""GDAL's auxiliary metadata, as GDAL reads them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from ussfc.pipeline.report.metadata import classes_xml, statistics_xml


def write_raster(folder: Path, values: np.ndarray, sidecar: bytes) -> Path:
    path = folder / "a.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(
        path, "w", height=values.shape[0], width=values.shape[1], crs="EPSG:32631", **profile
    ) as file:
        file.write(values, 1)
    path.with_name("a.tif.aux.xml").write_bytes(sidecar)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    values = np.array([[0, 3, 254, 255], [7, 7, 255, 100]], np.uint8)
    histogram = np.bincount(values.ravel(), minlength=256)[:255]
    with rasterio.open(write_raster(tmp_path, values, statistics_xml(histogram, exact=True))) as file:
        tags = file.tags(1)
    valid = values[values < 255].astype(float)
    assert float(tags["STATISTICS_MINIMUM"]) == valid.min()
    assert float(tags["STATISTICS_MAXIMUM"]) == valid.max()
    assert float(tags["STATISTICS_MEAN"]) == pytest.approx(valid.mean())
    assert float(tags["STATISTICS_STDDEV"]) == pytest.approx(valid.std())
    assert "STATISTICS_APPROXIMATE" not in tags


def test_statistics_of_an_overview_are_approximate() -> None:
    assert b"STATISTICS_APPROXIMATE" in statistics_xml(np.ones(255, np.int64), exact=False)


def test_empty_raster_has_no_statistics() -> None:
    assert b"STATISTICS" not in statistics_xml(np.zeros(255, np.int64), exact=True)
    assert b"STATISTICS" not in classes_xml(0, 0)


def test_classes_have_names_colours_and_counts() -> None:
    root = ElementTree.fromstring(classes_xml(90, 10))
    assert [element.text for element in root.iter("Category")] == ["no change", "change"]
    rows = [[cell.text for cell in row] for row in root.iter("Row")]
    assert rows == [
        ["0", "no change", "255", "255", "255", "0", "90"],
        ["1", "change", "255", "45", "149", "255", "10"],
    ]
    means = [element.text for element in root.iter("MDI") if element.get("key") == "STATISTICS_MEAN"]
    assert means == ["0.1"]
