"""Band files as one raster: a VRT in memory with names, scale, offset, nodata and date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from affine import Affine
from rasterio.enums import ColorInterp

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.bands import SENTINEL2_NAMES
from ussfc.pipeline.reading.identity import VRT_TEXT
from ussfc.pipeline.reading.opening import gdal_name, opened_raster, retry_gdal
from ussfc.pipeline.reading.raster import DATE_TAG, PRODUCT_TAG, check_driver
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet
from ussfc.pipeline.reading.vrt import check_sources
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import SceneInfo

GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip


MOST_SHIFT = 0.1
"""Largest offset between the pixels of band files without a remark, pixels."""

SAME_SIZE = 1e-3
"""Largest difference of the sides of a file in two measures that are the same, pixels."""

COLORS = ("red", "green", "blue")


@dataclass(frozen=True)
class Header:
    """Header of a file, as far as a stack needs it."""

    shape: tuple[int, int]
    transform: Affine
    crs: str | None
    count: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[tuple[float, float], ...]
    block: tuple[int, int]
    names: tuple[str | None, ...]
    images: tuple[int, ...]
    """Numbers of its bands from 1 without alpha."""
    acquired: str | None


def read_header(uri: str, shown: str, everywhere: bool) -> Header:
    """Read the header of a file.

    Args:
        uri: path, address, or a name of GDAL's.
        shown: the same for messages.
        everywhere: True: a VRT may lead to any file.

    Raises:
        ReadError: GDAL cannot open it, or it is a VRT that leads elsewhere.
    """
    looked_at = check_sources(uri, shown, everywhere) or everywhere

    def read(_: Mapping[str, str]) -> Header:
        with opened_raster(uri, shown) as source:
            check_driver(source, shown, looked_at)
            return _header(source)

    return retry_gdal(
        uri, shown, GDAL_CACHE, read, "cannot be opened as a raster ({}); check that the file is complete"
    )


def _header(source: Any) -> Header:
    tags = source.tags()
    return Header(
        source.shape,
        source.transform,
        None if source.crs is None else source.crs.to_wkt(),
        source.count,
        source.dtypes,
        source.nodatavals,
        tuple(zip(source.scales, source.offsets, strict=True)),
        source.block_shapes[0] if source.count else (1, 1),
        source.descriptions,
        tuple(index for index in source.indexes if source.colorinterp[index - 1] != ColorInterp.alpha),
        tags.get(DATE_TAG) or tags.get("TIFFTAG_DATETIME"),
    )


def stack(bands: BandSet, everywhere: bool = False) -> str:
    """Return the text of a VRT over band files.

    The pixels are those of the file with the smallest ones; coarser bands are repeated. All show the same ground.

    Args:
        bands: the files.
        everywhere: True: a VRT among them may lead to any file.

    Raises:
        ReadError: a file cannot be opened, holds several bands, or lies elsewhere.
    """
    headers = [read_header(file.uri, shown_address(file.uri), everywhere) for file in bands.files]
    first = min(headers, key=lambda header: (abs(header.transform.a), -header.shape[0] * header.shape[1]))
    for file, header in zip(bands.files, headers, strict=True):
        _check_place(file, header, first, bands)
    acquired = bands.acquired or next((header.acquired for header in headers if header.acquired), None)
    rows, cols = first.shape
    parts = [
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}">',
        "" if first.crs is None else f"<SRS>{escape(first.crs)}</SRS>",
    ]
    if first.transform != Affine.identity():
        numbers = ", ".join(repr(float(value)) for value in first.transform.to_gdal())
        parts.append(f"<GeoTransform>{numbers}</GeoTransform>")
    tags = {DATE_TAG: acquired, PRODUCT_TAG: bands.product}
    items = "".join(f'<MDI key="{key}">{escape(value)}</MDI>' for key, value in tags.items() if value)
    parts.append(f"<Metadata>{items}</Metadata>" if items else "")
    for number, (file, header) in enumerate(zip(bands.files, headers, strict=True), 1):
        parts.append(_band(number, file, header, first))
    return "".join((*parts, "</VRTDataset>"))


def _check_place(file: BandFile, header: Header, first: Header, bands: BandSet) -> None:
    shown = shown_address(file.uri)
    if header.count < file.index:
        raise ReadError(f"{shown}: has {header.count} bands, {bands.shown} names band {file.index} of it")
    if (header.crs is None) != (first.crs is None) or (header.crs and header.crs != first.crs):
        raise ReadError(
            f"{bands.shown}: its band files are in different coordinate systems ({shown} among them); give the bands "
            "of one scene, or bring them into one CRS with gdalwarp"
        )
    if header.dtypes[file.index - 1] not in GDAL_TYPES:
        raise ReadError(
            f"{shown}: holds numbers of type {header.dtypes[file.index - 1]}; give reflectances or grey levels"
        )
    # Half a pixel of the coarser file: pixels of 60 m do not divide every scene.
    tolerance = max(abs(header.transform.a), abs(first.transform.a), abs(header.transform.e))
    offs = [abs(a - b) for a, b in zip(_bounds(header), _bounds(first), strict=True)]
    if max(offs) > tolerance:
        raise ReadError(
            f"{bands.shown}: its band files show different ground ({shown} lies {max(offs):g} beside, in units of its "
            "CRS); give the bands of one scene, cut alike"
        )


def _bounds(header: Header) -> tuple[float, float, float, float]:
    rows, cols = header.shape
    left, top = header.transform * (0, 0)
    right, bottom = header.transform * (cols, rows)
    return left, top, right, bottom


def _band(number: int, file: BandFile, header: Header, first: Header) -> str:
    index = file.index - 1
    scale, offset = header.scales[index]
    scale = scale if file.scale is None else file.scale
    offset = offset if file.offset is None else file.offset
    nodata = header.nodata[index] if header.nodata[index] is not None else file.nodata
    label = file.label or header.names[index]
    rows, cols = header.shape
    to_first = ~first.transform * header.transform
    x0, y0 = to_first * (0, 0)
    x1, y1 = to_first * (cols, rows)
    block_rows, block_cols = (
        min(block, length) for block, length in zip(header.block, first.shape, strict=True)
    )
    color = _color(label)
    elements = [
        f'<VRTRasterBand dataType="{GDAL_TYPES[header.dtypes[index]]}" band="{number}"',
        f' blockXSize="{block_cols}" blockYSize="{block_rows}">',
        f"<Description>{escape(label)}</Description>" if label else "",
        "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>",
        f"<ColorInterp>{color}</ColorInterp>" if color else "",
        f"<Offset>{offset!r}</Offset><Scale>{scale!r}</Scale>" if (scale, offset) != (1, 0) else "",
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(gdal_name(file.uri))}</SourceFilename>',
        f"<SourceBand>{file.index}</SourceBand>",
        f'<SrcRect xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"/>',
        f"<DstRect xOff={_number(x0)} yOff={_number(y0)} xSize={_number(x1 - x0)} ySize={_number(y1 - y0)}/>",
        "</SimpleSource></VRTRasterBand>",
    ]
    return "".join(elements)


def _number(value: float) -> str:
    # A whole number of pixels, but for the rounding of two geotransforms.
    return quoteattr(repr(round(float(value), 6)))


def _color(label: str | None) -> str | None:
    text = (label or "").lower()
    name = SENTINEL2_NAMES.get(text.upper(), text)
    return name.capitalize() if name in COLORS else None


def shifted_notes(text: str, shown: str) -> tuple[str, ...]:
    """Return a remark if band files of one pixel size are not on the same pixels, by more than a tenth of one.

    Args:
        text: of :func:`stack`.
        shown: name of the scene for messages.
    """
    shifts = []
    for source, target in _placements(text).values():
        sides = zip((target["xSize"], target["ySize"]), (source["xSize"], source["ySize"]), strict=True)
        if all(abs(drawn - own) < SAME_SIZE for drawn, own in sides):
            shifts += [abs(target[side] - round(target[side])) for side in ("xOff", "yOff")]
    if max(shifts, default=0) <= MOST_SHIFT:
        return ()
    return (
        f"{shown}: its band files lie {max(shifts):.2g} px off each other; every pixel is taken from the nearest one: "
        "bring them onto one grid (gdalwarp -tap) if they were written so by mistake",
    )


def finest_bands(info: SceneInfo) -> tuple[int, ...]:
    """Return the numbers of the bands that have the pixels of a scene, without those that are repeated in it.

    Args:
        info: header of the scene; of one that is no stack these are all bands.
    """
    text = info.parts[0].uri if info.parts else ""
    if not text.startswith(VRT_TEXT):
        return tuple(band.index for band in info.bands)
    placed = _placements(text).items()
    return tuple(band for band, (source, target) in placed if source["xSize"] == target["xSize"])


def _placements(text: str) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Return the window of the file and the one of the stack of every band, pixels."""
    found = {}
    root = ElementTree.fromstring(text)  # noqa: S314 - written by :func:`stack`
    for band in root.iter("VRTRasterBand"):
        source, target = (
            {key: float(side) for key, side in window.items()}
            for name in ("SrcRect", "DstRect")
            for window in band.iter(name)
        )
        found[int(band.attrib["band"])] = source, target
    return found
