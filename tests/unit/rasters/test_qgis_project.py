"""QGIS projects as XML."""

from __future__ import annotations

from xml.etree import ElementTree

from affine import Affine
from odc.geo.geobox import GeoBox

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

GRID = GeoBox((40, 50), Affine(10, 0, 600_000, 0, -10, 5_000_000), "EPSG:32632")
LAYERS = (
    Layer(
        "points",
        "./p.gpkg|layername=a & b",
        together(markers_by("kind", {"": ((1, 2, 3, 255), "none")}, 3.0), choices("kind", ("x", "y"))),
        "Point",
    ),
    Layer("areas", "./p.gpkg|layername=areas", outline((255, 0, 0, 255), 0.4), "Polygon", visible=False),
    Layer("classes", "change.tif", palette({1: ((230, 0, 38, 200), "change")})),
    Layer("image", "/vsicurl/https://a/b.tif", composite((3, 2, 1), (0, 0, 0), (3500, 3000, 2500))),
    Layer("grey", "grey.tif", composite((2,), (5,), (9,))),
)


def project() -> ElementTree.Element:
    content = project_xml("a < b", GRID, LAYERS, (1.0, 2.0, 3.0, 4.0))
    assert content.startswith(b"<!DOCTYPE qgis PUBLIC")
    return ElementTree.fromstring(content)


def test_layers_are_listed_in_order_and_found() -> None:
    root = project()
    assert root.findtext("title") == "a < b"
    tree = root.findall("layer-tree-group/layer-tree-layer")
    maps = root.findall("projectlayers/maplayer")
    assert [node.get("id") for node in tree] == [node.findtext("id") for node in maps]
    assert [node.get("name") for node in tree] == [layer.name for layer in LAYERS]
    assert [node.get("source") for node in tree] == [layer.source for layer in LAYERS]
    assert [node.findtext("datasource") for node in maps] == [layer.source for layer in LAYERS]
    assert [node.get("providerKey") for node in tree] == ["ogr", "ogr", "gdal", "gdal", "gdal"]
    assert [node.get("checked") for node in tree].count("Qt::Unchecked") == 1
    assert all(len(str(node.get("id"))) > 10 for node in tree)
    assert root.findtext("properties/Paths/Absolute") == "false"
    assert root.findtext("properties/SpatialRefSys/ProjectionsEnabled") == "1"


def test_every_layer_and_the_map_have_the_reference_system_of_the_grid() -> None:
    root = project()
    systems = root.findall(".//spatialrefsys")
    assert len(systems) == 2 + len(LAYERS)
    for system in systems:
        assert system.findtext("authid") == "EPSG:32632"
        assert "UTM zone 32N" in str(system.findtext("wkt"))
    assert [float(str(node.text)) for node in root.findall("mapcanvas/extent/*")] == [1, 2, 3, 4]


def test_grid_without_a_reference_system_names_none() -> None:
    plain = GeoBox((40, 50), Affine(1, 0, 0, 0, -1, 0), None)
    root = ElementTree.fromstring(project_xml("plain", plain, LAYERS, (0, 0, 1, 1)))
    assert all(len(system) == 0 for system in root.iter("spatialrefsys"))


def test_styles_are_of_their_kind() -> None:
    points, areas, classes, image, grey = project().findall("projectlayers/maplayer")
    assert [node.find(".//rasterrenderer").get("type") for node in (classes, image, grey)] == [  # type: ignore[union-attr]
        "paletted", "multibandcolor", "singlebandgray",
    ]  # fmt: skip
    entry = classes.find(".//paletteEntry")
    assert entry is not None
    assert dict(entry.items()) == {"value": "1", "color": "#e60026", "alpha": "200", "label": "change"}
    stretch = image.find(".//greenContrastEnhancement")
    assert stretch is not None
    assert stretch.findtext("maxValue") == "3000.0"
    assert [node.get("type") for node in points.iter("renderer-v2")] == ["categorizedSymbol"]
    assert [node.get("value") for node in points.findall(".//editWidget//Option[@value]")] == ["x", "y"]
    assert areas.find(".//layer[@class='SimpleFill']") is not None
