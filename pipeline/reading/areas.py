"""Polygons of areas of interest and masks: from features of any kind, and into the CRS of the grid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj import Transformer
from pyproj.exceptions import ProjError

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.tiling.grid import crs_name

Points = npt.NDArray[np.float64]

BEND_PX = 0.01
"""Distance from the straight line between its ends, in pixels, from which an edge gets more points before it is brought
into another CRS."""

MOST_HALVINGS = 10
"""Halvings of an edge, which turn one of 1000 km into pieces of a kilometre."""

RIM_POINTS = 33
"""Points on a side of the grid that stand for its outline in another CRS."""


def polygons_of(geometries: Iterable[Any], crs: CRS | None, shown: str) -> Any:
    """Return the union of all polygons: those in collections as well, flat, and valid.

    Points and lines have no area and are left out. In a geographic CRS an edge from 179 to -179 degrees crosses the
    180th meridian.

    Args:
        geometries: shapely's; None for features without one.
        crs: of the coordinates; None: not known.
        shown: name of the file, for messages.

    Raises:
        ReadError: there is no polygon, or none with an area, or one with a coordinate that is no number.
    """
    given = [geometry for geometry in geometries if geometry is not None]
    polygons = [part for geometry in given for part in _parts(geometry)]
    if not polygons:
        raise ReadError(f"{shown}: holds {len(given)} feature(s) but no polygon; expected polygons")
    broken = [index for index, part in enumerate(polygons, 1) if not np.isfinite(_coordinates(part)).all()]
    if broken:
        raise ReadError(
            f"{shown}: polygon {broken[0]} has a coordinate that is no number; correct or remove it"
        )
    polygons = [shapely.force_2d(part) for part in polygons]
    if crs is not None and crs.geographic:
        polygons = [_over_the_meridian(part) for part in polygons]
    if not all(shapely.is_valid(polygons)):
        # Lines are what is left of a spike: they would be drawn as pixels.
        polygons = [piece for part in polygons for piece in _parts(shapely.make_valid(part))]
    union = shapely.union_all(polygons)
    if union.area == 0:
        raise ReadError(
            f"{shown}: its polygons are empty or have no area; expected polygons that cover something"
        )
    return union


def in_crs_of(grid: GeoBox, area: Geometry) -> Geometry:
    """Return an area in the CRS of the grid; edges that bend there get points between their ends.

    Longitudes are those of the grid, which may go past 180 degrees. What is so far away that it has no place in the
    grid's CRS is cut off.

    Args:
        grid: the common grid; without a CRS the area stays as it is.
        area: polygons, in any CRS or none.
    """
    if grid.crs is None or area.crs is None:
        return area
    shape = area.geom
    if area.crs != grid.crs:
        try:
            shape = _projected(shape, area.crs, grid)
        except ProjError as error:
            raise ReadError(
                f"the area: PROJ knows no way from its CRS ({crs_name(area)}) to that of the grid ({crs_name(grid)}); "
                "give it in another one"
            ) from error
    if grid.crs.geographic:
        shape = _near_grid(shape, grid)
    return Geometry(shape, grid.crs)


def holds_polygon(geometry: Any) -> bool:
    """Return whether there is a polygon in a geometry, or in a collection; None holds none."""
    return geometry is not None and bool(_parts(geometry))


def _parts(geometry: Any) -> list[Any]:
    """Return the polygons in a geometry, and in collections in it."""
    if geometry.geom_type == "Polygon":
        return [geometry]
    if geometry.geom_type in ("MultiPolygon", "GeometryCollection"):
        return [part for member in geometry.geoms for part in _parts(member)]
    return []


def _coordinates(geometry: Any) -> Points:
    found: Points = shapely.get_coordinates(geometry)
    return found


def _over_the_meridian(polygon: Any) -> Any:
    """Return a polygon with longitudes from 0 to 360 if one of its edges goes more than half around the Earth."""
    steps = np.abs(np.diff(_coordinates(polygon.exterior)[:, 0]))
    if not np.any((steps > 180) & (steps < 360)):
        return polygon
    moved = shapely.transform(polygon, lambda xy: np.column_stack((xy[:, 0] % 360, xy[:, 1])))
    west, _, east, _ = moved.bounds
    return moved if east - west < 180 else polygon


def _projected(shape: Any, crs: CRS, grid: GeoBox) -> Any:
    assert grid.crs is not None
    transformer = Transformer.from_crs(crs.proj, grid.crs.proj, always_xy=True)

    def project(xy: Points) -> Points:
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

    if not _comes_back(_coordinates(shape), project, transformer, crs):
        shape = shapely.intersection(shape, _surroundings(grid, crs))
    tolerance = BEND_PX * min(abs(grid.affine.a), abs(grid.affine.e))
    found = shapely.transform(_bent(shape, project, tolerance), project)
    if not np.isfinite(_coordinates(found)).all():
        return shapely.Polygon()
    return found if found.is_valid else shapely.union_all(_parts(shapely.make_valid(found)))


def _comes_back(points: Points, project: Any, transformer: Transformer, crs: CRS) -> bool:
    """Return whether points have a place in another CRS: none is infinite, or another point's."""
    found = project(points)
    if not np.isfinite(found).all():
        return False
    back = np.column_stack(transformer.transform(found[:, 0], found[:, 1], direction="INVERSE"))
    off = np.abs(back - points)
    if crs.geographic:
        off[:, 0] = np.minimum(off[:, 0] % 360, -off[:, 0] % 360)
    return bool((off < (1e-4 if crs.geographic else 10)).all())


def _bent(shape: Any, project: Any, tolerance: float) -> Any:
    """Return a shape with points added where an edge bends by more than the tolerance when it is projected."""
    rings = [ring for part in _parts(shape) for ring in (part.exterior, *part.interiors)]
    halved = [_halved(_coordinates(ring), project, tolerance) for ring in rings]
    if all(len(points) == len(ring.coords) for points, ring in zip(halved, rings, strict=True)):
        return shape
    made, left = [], iter(halved)
    for part in _parts(shape):
        exterior = next(left)
        made.append(shapely.Polygon(exterior, [next(left) for _ in part.interiors]))
    return shapely.MultiPolygon(made)


def _halved(points: Points, project: Any, tolerance: float) -> Points:
    for _ in range(MOST_HALVINGS):
        middles = (points[:-1] + points[1:]) / 2
        ends = project(points)
        off = np.hypot(*(project(middles) - (ends[:-1] + ends[1:]) / 2).T)
        bent = np.flatnonzero(off > tolerance)
        if not len(bent):
            break
        points = np.insert(points, bent + 1, middles[bent], axis=0)
    return points


def _surroundings(grid: GeoBox, crs: CRS) -> Any:
    """Return a rectangle around the grid in another CRS, half as large again; of longitudes, every turn of it."""
    assert grid.crs is not None
    rows, cols = grid.shape
    steps = np.linspace(0, 1, RIM_POINTS)
    xs, ys = (side.ravel() for side in np.meshgrid(steps * cols, steps * rows))
    affine = grid.affine
    east, north = affine.a * xs + affine.b * ys + affine.c, affine.d * xs + affine.e * ys + affine.f
    transformer = Transformer.from_crs(grid.crs.proj, crs.proj, always_xy=True)
    found = np.column_stack(transformer.transform(east, north))
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return shapely.Polygon()
    if crs.geographic and np.ptp(found[:, 0]) > 180:
        found[:, 0] %= 360
    low, high = found.min(axis=0), found.max(axis=0)
    margin = (high - low) / 4
    window = shapely.box(*(low - margin), *(high + margin))
    if not crs.geographic:
        return window
    return shapely.union_all([shapely.affinity.translate(window, turn) for turn in (-360, 0, 360)])


def _near_grid(shape: Any, grid: GeoBox) -> Any:
    """Return the shape and its copies a turn around the Earth away, as far as they meet the grid."""
    bounds = grid.boundingbox
    window = shapely.box(bounds.left, bounds.bottom, bounds.right, bounds.top)
    copies = (shapely.affinity.translate(shape, turn) if turn else shape for turn in (0, 360, -360))
    turns = [copy for copy in copies if shapely.box(*copy.bounds).intersects(window)]
    return turns[0] if len(turns) == 1 else shapely.union_all(turns or [shape])
