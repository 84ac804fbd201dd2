"""QGIS projects as XML: layers with their styles, as QGIS 3.22 and later read them; QGIS itself is not needed.

Sources are names that GDAL opens, relative to the project file or absolute. What is left out, QGIS fills in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from odc.geo.geobox import GeoBox

from ussfc.pipeline.rasters.styles import Color

VERSION = "3.22.0-Białowieża"
"""Version of QGIS whose form the project has; later ones read it."""

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

Styling = Callable[[Element], None]
"""Function that adds the style of a layer to its element."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a project."""

    name: str
    """Name in the list of layers."""
    source: str
    """Name that GDAL opens; of a vector file ``FILE|layername=LAYER``."""
    style: Styling
    geometry: str | None = None
    """Point, Line or Polygon; None for a raster."""
    visible: bool = True


def project_xml(
    title: str, grid: GeoBox, layers: Sequence[Layer], extent: tuple[float, float, float, float]
) -> bytes:
    """Return a project.

    Args:
        title: of the project.
        grid: grid whose reference system the layers and the map have.
        layers: the first on top.
        extent: of the first view: xmin, ymin, xmax, ymax.
    """
    root = Element("qgis", projectname=title, version=VERSION)
    SubElement(root, "title").text = title
    _reference_system(SubElement(root, "projectCrs"), grid)
    tree = SubElement(root, "layer-tree-group")
    for number, layer in enumerate(layers):
        SubElement(
            tree,
            "layer-tree-layer",
            {
                "id": _identity(number),
                "name": layer.name,
                "source": layer.source,
                "providerKey": _provider(layer),
                "checked": "Qt::Checked" if layer.visible else "Qt::Unchecked",
                "expanded": "0",
            },
        )
    canvas = SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    SubElement(canvas, "units").text = "degrees" if grid.crs is not None and grid.crs.geographic else "meters"
    box = SubElement(canvas, "extent")
    for side, value in zip(("xmin", "ymin", "xmax", "ymax"), extent, strict=True):
        SubElement(box, side).text = repr(float(value))
    _reference_system(SubElement(canvas, "destinationsrs"), grid)
    listed = SubElement(root, "projectlayers")
    for number, layer in enumerate(layers):
        _map_layer(listed, number, layer, grid)
    properties = SubElement(root, "properties")
    SubElement(SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    # Else the reference system of the project is not looked at.
    enabled = SubElement(SubElement(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int")
    enabled.text = "0" if grid.crs is None else "1"
    indent(root, " ")
    return (DOCTYPE + tostring(root, "unicode") + "\n").encode()


def _identity(number: int) -> str:
    # QGIS takes no identity of ten characters or fewer, and then finds no layer of the tree.
    return f"ussfc_layer_{number:03d}"


def _provider(layer: Layer) -> str:
    return "gdal" if layer.geometry is None else "ogr"


def _map_layer(parent: Element, number: int, layer: Layer, grid: GeoBox) -> None:
    attributes = (
        {"type": "raster"} if layer.geometry is None else {"type": "vector", "geometry": layer.geometry}
    )
    element = SubElement(parent, "maplayer", {**attributes, "autoRefreshEnabled": "0"})
    SubElement(element, "id").text = _identity(number)
    SubElement(element, "datasource").text = layer.source
    SubElement(element, "layername").text = layer.name
    _reference_system(SubElement(element, "srs"), grid)
    SubElement(element, "provider", encoding="UTF-8").text = _provider(layer)
    layer.style(element)


def _reference_system(parent: Element, grid: GeoBox) -> None:
    element = SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    if grid.crs is None:
        return
    SubElement(element, "wkt").text = grid.crs.to_wkt()
    if grid.crs.epsg:
        SubElement(element, "authid").text = f"EPSG:{grid.crs.epsg}"


def composite(bands: Sequence[int], low: Sequence[float], high: Sequence[float]) -> Styling:
    """Return the style of an image: three of its bands as red, green and blue, or one as grey.

    Args:
        bands: numbers of the bands, from 1.
        low: number of each band that is shown black.
        high: number that is shown bright.
    """

    def add(layer: Element) -> None:
        if len(bands) < 3:
            renderer = _renderer(layer, "singlebandgray", grayBand=str(bands[0]))
            _stretch(renderer, "contrastEnhancement", low[0], high[0])
            return
        names = ("red", "green", "blue")
        numbers = {f"{name}Band": str(band) for name, band in zip(names, bands, strict=False)}
        renderer = _renderer(layer, "multibandcolor", **numbers)
        for name, least, most in zip(names, low, high, strict=False):
            _stretch(renderer, f"{name}ContrastEnhancement", least, most)

    return add


def palette(colors: Mapping[int, tuple[Color, str]]) -> Styling:
    """Return the style of a raster of classes.

    Args:
        colors: colour and name of each number; others are transparent.
    """

    def add(layer: Element) -> None:
        renderer = _renderer(layer, "paletted", band="1")
        entries = SubElement(renderer, "colorPalette")
        for value, (color, label) in colors.items():
            SubElement(
                entries,
                "paletteEntry",
                value=str(value),
                color=_hex(color),
                alpha=str(color[3]),
                label=label,
            )

    return add


def ramp(stops: Sequence[tuple[float, Color]]) -> Styling:
    """Return the style of a raster whose colours go by its numbers, from one stop to the next.

    Args:
        stops: number and colour, ascending.
    """

    def add(layer: Element) -> None:
        first, last = stops[0][0], stops[-1][0]
        limits = {"classificationMin": str(first), "classificationMax": str(last)}
        renderer = _renderer(layer, "singlebandpseudocolor", band="1", **limits)
        kind = {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
        shader = SubElement(
            SubElement(renderer, "rastershader"),
            "colorrampshader",
            {**kind, "minimumValue": str(first), "maximumValue": str(last)},
        )
        for value, color in stops:
            attributes = {
                "value": str(value),
                "color": _hex(color),
                "alpha": str(color[3]),
                "label": f"{value:g}",
            }
            SubElement(shader, "item", attributes)

    return add


def outlines_by(field: str, classes: Sequence[tuple[float, Color]], top: float, width: float) -> Styling:
    """Return the style of polygons that are shown by outlines whose colour goes by a field.

    Args:
        field: name of the field.
        classes: least number and colour of each class, ascending.
        top: largest number of the last class.
        width: of the outlines, millimetres.
    """

    def add(layer: Element) -> None:
        renderer = SubElement(
            layer,
            "renderer-v2",
            type="graduatedSymbol",
            attr=field,
            graduatedMethod="GraduatedColor",
            symbollevels="0",
            forceraster="0",
        )
        ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
        ends = [*(least for least, _ in classes[1:]), top]
        for number, ((least, color), end) in enumerate(zip(classes, ends, strict=True)):
            SubElement(
                ranges,
                "range",
                lower=str(least),
                upper=str(end),
                symbol=str(number),
                label=f"{least:g} to {end:g}",
                render="true",
            )
            _outline_symbol(symbols, number, color, width)

    return add


def style_xml(styling: Styling) -> bytes:
    """Return the style of a layer as a ``.qml`` file, which QGIS takes by itself beside a file of its name."""
    root = Element("qgis", version=VERSION, styleCategories="Symbology")
    styling(root)
    indent(root, " ")
    return (DOCTYPE + tostring(root, "unicode") + "\n").encode()


def outline(color: Color, width: float) -> Styling:
    """Return the style of polygons that are shown by their outlines.

    Args:
        color: of the outlines.
        width: of them, millimetres.
    """

    def add(layer: Element) -> None:
        renderer = SubElement(layer, "renderer-v2", type="singleSymbol", symbollevels="0", forceraster="0")
        _outline_symbol(SubElement(renderer, "symbols"), 0, color, width)

    return add


def markers_by(field: str, colors: Mapping[str, tuple[Color, str]], size: float) -> Styling:
    """Return the style of points whose colour goes by a field.

    Args:
        field: name of the field.
        colors: colour and name of each value; the value "" also stands for empty ones and all others.
        size: of the markers, millimetres.
    """

    def add(layer: Element) -> None:
        renderer = SubElement(
            layer,
            "renderer-v2",
            type="categorizedSymbol",
            attr=field,
            symbollevels="0",
            forceraster="0",
        )
        categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
        for number, (value, (color, label)) in enumerate(colors.items()):
            SubElement(
                categories,
                "category",
                value=value,
                type="string",
                symbol=str(number),
                label=label,
                render="true",
            )
            values = {
                "name": "circle",
                # Hollow: what is under the point is what matters.
                "color": "0,0,0,0",
                "outline_color": _rgba(color),
                "outline_width": "0.6",
                "outline_width_unit": "MM",
                "size": str(size),
                "size_unit": "MM",
            }
            _symbol(symbols, number, "marker", "SimpleMarker", values)

    return add


def choices(field: str, values: Sequence[str]) -> Styling:
    """Return the form of a field that takes one of some values."""

    def add(layer: Element) -> None:
        configuration = SubElement(SubElement(layer, "fieldConfiguration"), "field", name=field)
        widget = SubElement(configuration, "editWidget", type="ValueMap")
        options = _map(SubElement(widget, "config"))
        listed = SubElement(options, "Option", name="map", type="List")
        for value in values:
            _option(_map(listed), value, value)

    return add


def together(*stylings: Styling) -> Styling:
    """Return the style that several make together."""

    def add(layer: Element) -> None:
        for styling in stylings:
            styling(layer)

    return add


def _renderer(layer: Element, kind: str, **attributes: str) -> Element:
    pipe = SubElement(layer, "pipe")
    fixed = {"type": kind, "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    return SubElement(pipe, "rasterrenderer", {**fixed, **attributes})


def _stretch(renderer: Element, name: str, low: float, high: float) -> None:
    element = SubElement(renderer, name)
    SubElement(element, "minValue").text = repr(float(low))
    SubElement(element, "maxValue").text = repr(float(high))
    SubElement(element, "algorithm").text = "StretchToMinimumMaximum"


def _outline_symbol(symbols: Element, number: int, color: Color, width: float) -> None:
    """Add polygons that are drawn by their outlines, in millimetres, and hide nothing."""
    values = {
        "style": "no",
        "outline_color": _rgba(color),
        "outline_style": "solid",
        "outline_width": str(width),
        "outline_width_unit": "MM",
    }
    _symbol(symbols, number, "fill", "SimpleFill", values)


def _symbol(parent: Element, number: int, kind: str, layer: str, values: Mapping[str, str]) -> None:
    symbol = SubElement(parent, "symbol", type=kind, name=str(number), alpha="1", clip_to_extent="1")
    element = SubElement(symbol, "layer", {"class": layer, "enabled": "1", "locked": "0", "pass": "0"})
    options = _map(element)
    for name, value in values.items():
        _option(options, name, value)


def _map(parent: Element) -> Element:
    return SubElement(parent, "Option", type="Map")


def _option(parent: Element, name: str, value: Any) -> None:
    SubElement(parent, "Option", name=name, value=str(value), type="QString")


def _rgba(color: Color) -> str:
    return ",".join(map(str, color))


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color[:3])
