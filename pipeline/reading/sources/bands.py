"""Band files: one band of a scene in a file, what a product states about it, and its name in the file's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from ussfc.pipeline.reading.bands import SPELLINGS
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import SceneMask

RASTERS = (".jp2", ".j2k", ".tif", ".tiff", ".vrt", ".img", ".png", ".jpg", ".jpeg")
"""Ends of the names of rasters that are taken from a folder."""

NOT_RASTERS = re.compile(r"thumb|preview|quicklook|browse|^msk_", re.IGNORECASE)
"""Names of pictures and masks that lie beside the bands of a product."""

NUMBERED = re.compile(r"(?:^|[_.\- ])((?:(?:SR|TOA)_)?B(?:0?[1-9]|1[0-2]|8A))(?=$|[_.\- ])", re.IGNORECASE)
"""Number of a sensor's band in the name of a file: ``T32TQM_20180630T101029_B04_10m``, ``LC08_..._SR_B4``."""

PIXEL_SIZE = re.compile(r"_(10|15|20|30|60)m(?=$|[_.\-])", re.IGNORECASE)
"""Pixel size in the name of a file, metres."""


@dataclass(frozen=True, slots=True)
class BandFile:
    """One band of a scene in a file."""

    uri: str
    """Path, address, or a name of GDAL's for a file in an archive."""
    label: str | None
    """Name of the band; None: not known."""
    scale: float | None = None
    """Factor to physical numbers as the product states it; None: as the file itself declares."""
    offset: float | None = None
    """Offset after it, likewise."""
    nodata: float | None = None
    """Number of missing pixels as the product states it; None: as the file itself declares."""
    index: int = 1
    """Number of the band in the file."""


@dataclass(frozen=True, slots=True)
class BandSet:
    """The band files that make up one scene."""

    shown: str
    """Name of the scene for messages."""
    files: tuple[BandFile, ...]
    acquired: str | None = None
    """Time of acquisition; None: as the files state it."""
    product: str | None = None
    """Kind of scene, ``Sentinel-2 L2A``; None: the names of the bands are not certain."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""
    mask: SceneMask | None = None
    """Mask that the product has beside its bands; None: none was found."""


def file_name(uri: str) -> str:
    """Return the last part of a path or address."""
    path = urlsplit(uri).path if remote.is_remote(uri) else uri
    return PurePosixPath(path).name


def is_raster(name: str) -> bool:
    """Return True if a file in a folder is taken for imagery by its name."""
    return name.lower().endswith(RASTERS) and not NOT_RASTERS.search(file_name(name))


def band_label(uri: str) -> tuple[str | None, str]:
    """Return the band that the name of a file names, and the rest of the name, which other bands of its scene share.

    Args:
        uri: path or address.

    Returns:
        ``B04``, ``SR_B4``, or a common name (``red``); None where the name holds neither. And folder and name without
        the band and the pixel size.
    """
    path = urlsplit(uri).path if remote.is_remote(uri) else uri
    folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).stem
    numbered = list(NUMBERED.finditer(name))
    if numbered:
        start, end = numbered[-1].span(1)
        label = numbered[-1][1].upper()
    else:
        words = [
            found
            for found in re.finditer(r"[A-Za-z]+[0-9]*", name)
            if found[0].lower() in SPELLINGS and found[0].lower() != "aerosol"
        ]
        if not words:
            return None, f"{folder}/{name}"
        start, end = words[-1].span()
        label = words[-1][0].lower()
    # Sentinel-2 has a folder for each pixel size.
    folder = re.sub(r"/R(10|20|60)m$", "", folder)
    return label, f"{folder}/{PIXEL_SIZE.sub('', name[:start] + name[end:])}"
