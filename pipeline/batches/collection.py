"""The index of a batch: a STAC Collection with one Item for each pair, as plain dictionaries ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import shapely
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from pystac.extensions.projection import ProjectionExtension
from pystac.utils import str_to_datetime

from ussfc.pipeline.dates import moment as date_of
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout

COLLECTION = "ussfc-batch"
"""Id of the collection."""

WORLD = [-180.0, -90.0, 180.0, 90.0]

SIDE_POINTS = 16
"""Points on each side of a footprint: a side of 100 km is bent by projections, by centimetres between two points."""

DIGITS = 7
"""Decimals of a degree, a centimetre: beyond lies the noise of PROJ's versions."""

MEDIA_TYPES = {
    ".tif": pystac.MediaType.COG,
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".fgb": pystac.MediaType.FLATGEOBUF,
    ".geojson": pystac.MediaType.GEOJSON,
}

TITLES = {
    "change": "Change: 1 changed, 0 unchanged",
    "probability": "Probability of change",
    "changes": "Polygons of change",
}
"""Titles of the assets, by the stem of their file."""


def pair_item(name: str, manifest: RunRecord, made: datetime) -> dict[str, Any]:
    """Return the Item of a pair, for the file ``NAME/item.json`` beside its products.

    Its time is the span from one image to the other where both have a time of acquisition, else ``made``. Its
    geometry is the outline of the grid; null where the grid has no CRS, or an outline that longitudes and latitudes
    cannot draw (around a pole, or beyond what its projection is made for).

    Args:
        name: of the pair.
        manifest: its ``run.json``.
        made: when the products were made, with its time zone.

    Returns:
        JSON of a STAC Item with relative links.
    """
    grid = manifest.grid.geobox
    geometry, bbox = _footprint(grid)
    scenes = manifest.inputs.before, manifest.inputs.after
    taken = [date_of(scene.acquired) for scene in scenes]
    times = sorted(moment for moment in taken if moment is not None)
    start, end = times if len(times) == 2 else (None, None)
    item = pystac.Item(
        name,
        geometry,
        bbox,
        made if start is None else None,
        _properties(manifest),
        start,
        end,
        collection=COLLECTION,
    )
    code = f"EPSG:{grid.crs.epsg}" if grid.crs is not None and grid.crs.epsg else None
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=code,
        wkt2=grid.crs.to_wkt() if grid.crs is not None and code is None else None,
        shape=list(grid.shape),
        transform=list(grid.affine)[:6],
    )
    # In one order, whichever way the manifest came: the first layer has the plain name.
    for file in (name for name in layout.PRODUCTS if name in manifest.products):
        path = PurePosixPath(file)
        if path.stem in TITLES:
            # Layers of further formats beside the first.
            name = f"{path.stem}-{path.suffix[1:]}" if path.stem in item.assets else path.stem
            item.add_asset(
                name,
                pystac.Asset(f"./{file}", TITLES[path.stem], None, MEDIA_TYPES[path.suffix], ["data"]),
            )
    for relation in ("root", "parent", "collection"):
        item.add_link(pystac.Link(relation, f"../{layout.COLLECTION}", pystac.MediaType.JSON))
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def collection(title: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the Collection of a batch, for the file ``collection.json`` beside the folders of its pairs.

    Args:
        title: of the batch.
        items: of :func:`pair_item`.

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


def _properties(manifest: RunRecord) -> dict[str, Any]:
    properties: dict[str, Any] = {"ussfc:model": manifest.model.name, "ussfc:complete": manifest.complete}
    if manifest.counts.classified_pixels:
        properties["ussfc:changed_share"] = manifest.counts.changed_share
    return properties


def _footprint(grid: GeoBox) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the outline of a grid and its bounds (west, south, east, north), degrees.

    Over the antimeridian the outline is cut in two and west is greater than east, as GeoJSON wants it.
    """
    ring = _ring(grid)
    if ring is None:
        return None, None
    whole = shapely.Polygon(ring)
    if not whole.is_valid:
        return None, None
    turned = [shapely.transform(whole, partial(np.add, (turn, 0))) for turn in (0, -360, 360)]
    cut = [shapely.intersection(outline, shapely.box(*WORLD)) for outline in turned]
    parts = [part for part in cut if part.area > 0]
    geometry = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    geometry = shapely.simplify(shapely.orient_polygons(geometry), 10**-DIGITS)
    geometry = shapely.transform(geometry, partial(np.round, decimals=DIGITS))
    west, south, east, north = geometry.bounds
    if len(parts) > 1 and np.ptp(ring[:, 0]) < 360:
        sides = [part.bounds for part in geometry.geoms]
        west, east = max(side[0] for side in sides), min(side[2] for side in sides)
    return shapely.geometry.mapping(geometry), [west, south, east, north]


def _ring(grid: GeoBox) -> npt.NDArray[np.float64] | None:
    """Return the corners of a grid and points between them, (points, 2) longitudes and latitudes without leaps.

    Returns:
        None where there is no CRS of this planet, a point lies outside what the projection is made for, or a pole
        is inside.
    """
    if grid.crs is None:
        return None
    rows, cols = grid.shape
    ahead = np.arange(SIDE_POINTS) / SIDE_POINTS
    start, end = np.zeros(SIDE_POINTS), np.ones(SIDE_POINTS)
    x = cols * np.concatenate([ahead, end, 1 - ahead, start])
    y = rows * np.concatenate([start, ahead, end, 1 - ahead])
    to_grid = grid.affine
    try:
        lon, lat = grid.crs.transformer_to_crs("EPSG:4326", always_xy=True)(
            to_grid.a * x + to_grid.b * y + to_grid.c, to_grid.d * x + to_grid.e * y + to_grid.f
        )
    except ProjError:
        # A site's own coordinates, or another planet's.
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    lon = np.unwrap(np.append(lon, lon[0]), period=360)
    if abs(lon[-1] - lon[0]) > 180:
        return None
    return np.stack([lon[:-1], lat], axis=1)


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
