"""The index of a batch: a STAC Collection of the Items of its pairs, as plain dictionaries ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pystac
from pystac.utils import str_to_datetime

from ussfc.pipeline.report.footprint import WORLD
from ussfc.pipeline.report.item import COLLECTION
from ussfc.pipeline.storage import layout


def collection(title: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the Collection of a batch, for the file ``collection.json`` beside the folders of its pairs.

    Args:
        title: of the batch.
        items: of the pairs.

    Returns:
        JSON of a STAC Collection, self-contained: its links are relative. Its extents are those of the items; the
        world and no end where no item has a place or a time.
    """
    described = pystac.Collection(
        COLLECTION,
        "Changes between two images of each place, found by ussfc; one item for each pair of images.",
        pystac.Extent(
            pystac.SpatialExtent([_hull([item["bbox"] for item in items if "bbox" in item])]),
            pystac.TemporalExtent([_span(items)]),
        ),
        title,
        license="other",
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    described.clear_links()
    described.add_link(pystac.Link("root", f"./{layout.COLLECTION}", pystac.MediaType.JSON))
    for item in items:
        href = f"./{item['id']}/{layout.ITEM}"
        described.add_link(pystac.Link("item", href, pystac.MediaType.GEOJSON, item["id"]))
    return described.to_dict(include_self_link=False, transform_hrefs=False)


def _hull(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return bounds around bounds: all longitudes as soon as one goes over the antimeridian."""
    if not boxes:
        return WORLD
    west, south, east, north = zip(*boxes, strict=True)
    if any(w > e for w, e in zip(west, east, strict=True)):
        west, east = (WORLD[0],), (WORLD[2],)
    return [min(west), min(south), max(east), max(north)]


def _span(items: Sequence[Mapping[str, Any]]) -> list[datetime | None]:
    """Return the first and the last time of any item; None where there is no item."""
    stated = [
        item["properties"].get(name)
        for item in items
        for name in ("start_datetime", "datetime", "end_datetime")
    ]
    times = [str_to_datetime(text) for text in stated if text is not None]
    return [min(times, default=None), max(times, default=None)]
