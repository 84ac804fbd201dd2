"""Styles and project of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ussfc.pipeline.rasters.qgis_project import style_xml
from ussfc.pipeline.report.qgis import STYLES, gdal_name
from ussfc.pipeline.storage import layout


@pytest.mark.parametrize("product", layout.PRODUCTS)
def test_every_product_has_a_style(product: str) -> None:
    root = ElementTree.fromstring(style_xml(STYLES[product]).split(b"\n", 1)[1])
    assert root.find("pipe/rasterrenderer") is not None or root.find("renderer-v2") is not None


def test_layers_of_all_formats_share_a_style() -> None:
    assert {layout.style_file(name) for name in layout.LAYERS.values()} == {"changes.qml"}


def test_no_change_has_no_colour() -> None:
    root = ElementTree.fromstring(style_xml(STYLES[layout.CHANGE]).split(b"\n", 1)[1])
    assert [entry.get("value") for entry in root.iter("paletteEntry")] == ["1"]


def test_ranges_of_outlines_join() -> None:
    root = ElementTree.fromstring(style_xml(STYLES["changes.gpkg"]).split(b"\n", 1)[1])
    ranges = [(float(each.get("lower", "")), float(each.get("upper", ""))) for each in root.iter("range")]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 1
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/data/out/change.tif", "./change.tif"),
        ("/data/before.tif", "../before.tif"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("https://host/a.tif", "/vsicurl/https://host/a.tif"),
    ],
)
def test_names_are_relative_or_gdals(uri: str, name: str) -> None:
    assert gdal_name(uri, Path("/data/out")) == name
