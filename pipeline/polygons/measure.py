"""From regions to features: geodesic areas and perimeters, filters, simplification, grid coordinates."""

from __future__ import annotations

import functools
import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.polygons.arrays import Geometries, IntArray, RealArray, geometry_array, reduce_groups
from ussfc.pipeline.polygons.pieces import Pieces

if TYPE_CHECKING:
    import pyproj
    from odc.geo.crs import CRS

LONGEST_EDGE = 64.0
"""Longest edge that is measured as it is, pixels. Longer ones are divided first: a line straight on the grid is no
geodesic."""


@functools.lru_cache(maxsize=16)
def _geodesics(system: CRS) -> tuple[pyproj.Geod, pyproj.Transformer] | None:
    """Return the geodesics of a reference system, and what transforms to its longitudes and latitudes.

    Kept: a run needs them several times, and PROJ takes up to a tenth of a second to find a transformation. Threads may
    share it, since pyproj gives each its own.
    """
    import pyproj
    from pyproj.crs import GeographicCRS

    crs = system.proj
    if crs.geodetic_crs is None:
        return None
    # The system's own datum, so that nothing is shifted, but always in degrees: some are in grads.
    degrees = GeographicCRS(datum=crs.geodetic_crs.datum)
    geod = degrees.get_geod()
    if geod is None:
        return None
    return geod, pyproj.Transformer.from_crs(crs, degrees, always_xy=True)


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Measures pixel coordinates on the ellipsoid of the grid's own reference system."""

    affine: Affine
    """Transformation from pixel coordinates to the grid's."""
    geod: pyproj.Geod
    """Geodesics on the ellipsoid."""
    to_degrees: pyproj.Transformer
    """Transformation from the grid's coordinates to longitude and latitude."""

    @staticmethod
    def of_grid(geobox: GeoBox) -> Ellipsoid | None:
        """Return the grid's ellipsoid, None where its reference system is missing or local, without one."""
        found = None if geobox.crs is None else _geodesics(geobox.crs)
        return None if found is None else Ellipsoid(geobox.affine, *found)

    def degrees(self, pixels: RealArray) -> tuple[RealArray, RealArray]:
        """Return the longitudes and latitudes of pixel coordinates.

        Args:
            pixels: (n, 2), x and y.

        Returns:
            (n,) and (n,) degrees, infinite where the transformation has none.
        """
        x, y = to_grid(self.affine, pixels).T
        longitude, latitude = self.to_degrees.transform(x, y)
        return longitude, latitude

    def pixel_size(self, rows: int, cols: int) -> RealArray:
        """Return the (2,) metres that a pixel at the centre of a grid of (rows, cols) is wide and high."""
        y, x = rows / 2, cols / 2
        ends = np.array([(x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5)])
        longitude, latitude = self.degrees(ends)
        return np.array(self.geod.inv(longitude[::2], latitude[::2], longitude[1::2], latitude[1::2])[2])

    def measure(self, outlines: Geometries) -> tuple[RealArray, RealArray]:
        """Return areas in square metres and perimeters in metres, NaN where a vertex has no longitude.

        Args:
            outlines: (n,) normalised polygons and multipolygons in pixel coordinates.
        """
        west, south, east, north = shapely.bounds(outlines).T
        long = np.maximum(east - west, north - south) > LONGEST_EDGE
        outlines = outlines.copy()
        outlines[long] = shapely.segmentize(outlines[long], LONGEST_EDGE)
        parts, outline = shapely.get_parts(outlines, return_index=True)
        rings, part = shapely.get_rings(parts, return_index=True)
        corners, ring = shapely.get_coordinates(rings, return_index=True)
        longitude, latitude = self.degrees(corners)
        bounds = np.searchsorted(ring, np.arange(len(rings) + 1)).tolist()
        # Rings have few corners: NumPy's slices would cost pyproj as much as the measuring.
        x, y = array("d", longitude.tobytes()), array("d", latitude.tobytes())
        measured = np.empty((len(rings), 2))
        for position, (start, end) in enumerate(itertools.pairwise(bounds)):
            measured[position] = self.geod.polygon_area_perimeter(x[start:end], y[start:end])
        owner = outline[part]
        # Normalised holes run against their shells: with its sign, a hole's area takes itself away.
        area, perimeter = (reduce_groups(np.add, 0, column, owner, len(outlines)) for column in measured.T)
        return np.abs(area), perimeter


def to_grid(affine: Affine, pixels: RealArray) -> RealArray:
    """Return the (n, 2) coordinates of the grid's reference system for (n, 2) pixel coordinates (x, y)."""
    x, y = pixels.T
    return np.stack([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f], axis=1)


@dataclass(frozen=True, slots=True)
class Features:
    """Rows of the file; every column holds one element a feature."""

    regions: Pieces
    """Numbers of the regions that the features show; their outlines are left out."""
    area: RealArray
    """Square metres, NaN where unknown."""
    perimeter: RealArray
    """Metres, NaN where unknown."""
    geometry: Geometries
    """Valid polygons and multipolygons in the grid's reference system, shells counterclockwise."""

    @staticmethod
    def concatenate(several: Sequence[Features]) -> Features:
        """Return all features, in their order."""
        none = np.zeros(0)
        return Features(
            Pieces.concatenate([features.regions for features in several]),
            np.concatenate([none, *(features.area for features in several)]),
            np.concatenate([none, *(features.perimeter for features in several)]),
            np.concatenate([geometry_array([]), *(features.geometry for features in several)]),
        )

    def take(self, places: IntArray) -> Features:
        """Return the features at places."""
        return Features(
            self.regions.take(places), self.area[places], self.perimeter[places], self.geometry[places]
        )


def make_features(
    regions: Pieces, geobox: GeoBox, ellipsoid: Ellipsoid | None, min_area_m2: float, simplify_m: float
) -> Features:
    """Make regions canonical, measure, filter, simplify, and bring them to the grid's reference system.

    Args:
        regions: whole regions, one outline each.
        geobox: the grid.
        ellipsoid: the grid's; None leaves areas and perimeters unknown and the regions as they are.
        min_area_m2: smaller regions are left out, square metres.
        simplify_m: distance that an outline may move, metres.
    """
    outlines = shapely.normalize(geometry_array([outline for (outline,) in regions.outlines]))
    area = perimeter = np.full(len(outlines), np.nan)
    if ellipsoid is not None:
        area, perimeter = ellipsoid.measure(outlines)
        # A region of unknown area is not known to be too small: it stays.
        kept = ~(area < min_area_m2)
        regions, outlines, area, perimeter = regions.take(kept), outlines[kept], area[kept], perimeter[kept]
        if simplify_m > 0:
            outlines = simplify(outlines, ellipsoid.pixel_size(*geobox.shape), simplify_m)
    geometry = shapely.transform(outlines, functools.partial(to_grid, geobox.affine))
    broken = ~shapely.is_valid(geometry)
    # "structure" without what collapsed leaves polygons only.
    geometry[broken] = shapely.make_valid(geometry[broken], method="structure", keep_collapsed=False)
    return Features(replace(regions, outlines=[]), area, perimeter, shapely.orient_polygons(geometry))


def simplify(outlines: Geometries, pixel_size: RealArray, tolerance: float) -> Geometries:
    """Return outlines in pixel coordinates with fewer corners.

    Args:
        outlines: (n,) polygons and multipolygons.
        pixel_size: (2,) metres that a pixel is wide and high.
        tolerance: distance that an outline may move, metres.
    """
    metres = shapely.transform(outlines, lambda pixels: pixels * pixel_size)
    # Simplifying only leaves corners out: those that stay go back to the whole pixel that they were.
    simple: Geometries = shapely.transform(
        shapely.simplify(metres, tolerance), lambda kept: np.rint(kept / pixel_size)
    )
    return simple
