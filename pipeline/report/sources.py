"""Links from a run to the images that it was made from."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pystac

from ussfc.addresses import DRIVER, SCHEME
from ussfc.pipeline.dates import iso_date
from ussfc.pipeline.reading.sources.resolve import split_list
from ussfc.pipeline.runs.manifest import InputRecords

MEDIA_TYPES: dict[str, str] = {
    ".tif": pystac.MediaType.GEOTIFF,
    ".tiff": pystac.MediaType.GEOTIFF,
    ".jp2": pystac.MediaType.JPEG2000,
    ".json": pystac.MediaType.JSON,
}
"""Media types by the end of a name; other files may be anything."""


def source_links(inputs: InputRecords, folder: Path | None) -> list[pystac.Link]:
    """Return a link ``derived_from`` to each file or folder that a run was given.

    Args:
        inputs: both dates; their addresses are without credentials.
        folder: local folder of the item, from which local files are named; None: they are named as ``file://``.

    Returns:
        Links in the order of the dates. What GDAL alone opens by its own names (``/vsizip/...``, ``NETCDF:...``) is no
        address, and has none.
    """
    links = []
    for date, scene in (("before", inputs.before), ("after", inputs.after)):
        day = iso_date(scene.acquired)
        for name in split_list(scene.uri):
            href = _href(name, folder)
            if href is not None:
                kind = MEDIA_TYPES.get(PurePosixPath(name).suffix.lower())
                links.append(
                    pystac.Link("derived_from", href, kind, date if day is None else f"{date}, {day}")
                )
    return links


def _href(name: str, folder: Path | None) -> str | None:
    name = name.removeprefix("/vsicurl/")
    if SCHEME.match(name):
        # Addresses are quoted already, but for what users leave as it is.
        return quote(name, safe="%/:=&?~#+!$,;'@()*[]")
    path = Path(name)
    if name.startswith("/vsi") or (DRIVER.match(name) and not path.exists()):
        return None
    # Of a pattern, the folder that its files lie in.
    while any(mark in str(path) for mark in "*?[") and not path.exists():
        path = path.parent
    path = path.absolute()
    return path.as_uri() if folder is None else quote(os.path.relpath(path, folder))
