"""Fields of a GeoTIFF as GDAL writes them, taken over from a COG of a few pixels.

The small file has the georeference, nodata, colours and tags of the product, so that all of these are GDAL's own.
"""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil

from ussfc.local_files import create_file
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.compression import CogOptions, gdal_environment
from ussfc.pipeline.rasters.kinds import Product
from ussfc.pipeline.rasters.workspace import Workspace, sidecar
from ussfc.pipeline.types import NODATA_BYTE


def template_directories(
    work: Workspace, product: Product, options: CogOptions, overviews: bool
) -> list[tiff.Directory]:
    """Write a file of a few pixels with GDAL and return its directories.

    A sidecar that GDAL writes beside that file is copied beside the product's part.

    Args:
        work: its folder holds the file.
        product: the raster to describe.
        options: compression and side of the blocks.
        overviews: also write one overview.

    Returns:
        The directory of full resolution, then that of the overview if there is one.
    """
    vrt, small = work.folder / "product.vrt", work.folder / "product.tif"
    vrt.write_bytes(ElementTree.tostring(_vrt(product), encoding="utf-8"))
    noted = {"OVERVIEW_RESAMPLING": product.style.resampling} if product.style.resampling else {}
    # CPL_TMPDIR: the driver keeps the overviews it makes there.
    with gdal_environment(), rasterio.Env(CPL_TMPDIR=str(work.folder)):
        rasterio.shutil.copy(
            str(vrt),
            str(small),
            driver="COG",
            COMPRESS=options.compression,
            BLOCKSIZE=options.block_size,
            PREDICTOR=product.predictor,
            OVERVIEWS="AUTO" if overviews else "NONE",
            OVERVIEW_COUNT=int(overviews),
            **noted,
        )
    if sidecar(small).exists():
        beside = sidecar(small).read_bytes()
        try:
            # GDAL wrote it just now; what is checked is that all of it is there.
            ElementTree.fromstring(beside)  # noqa: S314
        except ElementTree.ParseError as error:
            # Not ``from error``: the cause's text, which names no file, would be reported in its place.
            raise OSError(f"{sidecar(small)} is cut short: {error}") from None
        with create_file(sidecar(work.part)) as file:
            file.write(beside)
    return tiff.directories(small.read_bytes())


def _vrt(product: Product) -> ElementTree.Element:
    """Describe a product of a few empty pixels in GDAL's XML."""
    geobox, style, is_byte = product.geobox, product.style, product.dtype == np.uint8
    root = ElementTree.Element("VRTDataset", rasterXSize="4", rasterYSize="4")
    if geobox.crs is not None:
        _add(root, "SRS", geobox.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(repr(float(number)) for number in geobox.affine.to_gdal()))
    metadata = _add(root, "Metadata")
    for key in sorted(product.tags):
        _add(metadata, "MDI", product.tags[key], key=key)
    band = _add(root, "VRTRasterBand", dataType="Byte" if is_byte else "Float32", band="1")
    _add(band, "Description", style.description)
    _add(band, "NoDataValue", str(NODATA_BYTE) if is_byte else "nan")
    if style.scale is not None:
        _add(band, "Offset", "0.0")
        _add(band, "Scale", repr(style.scale))
    if style.colors is not None:
        _add(band, "ColorInterp", "Palette")
        table = _add(band, "ColorTable")
        for value in range(256):
            red, green, blue, alpha = (str(part) for part in style.colors.get(value, (0, 0, 0, 255)))
            _add(table, "Entry", c1=red, c2=green, c3=blue, c4=alpha)
    return root


def _add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> ElementTree.Element:
    """Append an element and return it."""
    element = ElementTree.SubElement(parent, name, attributes)
    element.text = text
    return element
