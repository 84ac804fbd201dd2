"""The outline of a grid on the globe."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

WORLD = [-180.0, -90.0, 180.0, 90.0]
"""Bounds of the globe."""

SIDE_POINTS = 16
"""Points on each side of a footprint: a side of 100 km is bent by projections, by centimetres between two points."""

DIGITS = 7
"""Decimals of a degree, a centimetre: beyond lies the noise of PROJ's versions."""


def footprint(grid: GeoBox) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the outline of a grid as GeoJSON, and its bounds (west, south, east, north), degrees.

    Over the antimeridian the outline is cut in two and west is greater than east, as GeoJSON wants it.

    Args:
        grid: its ``crs`` may be None.

    Returns:
        None twice where longitudes and latitudes cannot draw the outline: without a CRS, around a pole, or beyond
        what the projection is made for.
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
