"""Common grid of two scenes, and its record: geometry alone, no file is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import CRSError, ProjError

from ussfc.pipeline.errors import GridError
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.types import Box, SceneInfo

DoubleArray = npt.NDArray[np.float64]

OUTLINE_POINTS = 33
"""Points on each side of an outline that is transformed to degrees."""

DISTORTION = 0.01
"""Difference between ground and projection up to which a pixel has the size that the projection states."""

SAME_SIZE = 0.03
"""Difference between the sizes of two pixels up to which images of both look alike to a model."""

ALIGNED_PX = 1e-3
"""Largest offset that counts as rounding of the file's geotransform, not as a shift, pixels."""


def common_grid(
    before: SceneInfo,
    after: SceneInfo,
    reference: Literal["before", "after"] = "before",
    crs: str | None = None,
    resolution: float | None = None,
) -> GeoBox:
    """Return the grid that both scenes are read on, cut to their overlap.

    Args:
        before: the earlier image.
        after: the later image.
        reference: the scene whose pixel grid is used.
        crs: another CRS instead (anything that pyproj reads); needs ``resolution``.
        resolution: pixel size in units of that CRS; alone it keeps the reference's CRS.

    Returns:
        A north-up GeoBox. Without any CRS, the pixel grid itself.

    Raises:
        GridError: only one scene has a CRS, neither has one and their sizes differ, they do not overlap, or ``crs`` is
            unusable.
    """
    scene = before if reference == "before" else after
    if (before.geobox.crs is None) != (after.geobox.crs is None):
        bare, other = (before, after) if before.geobox.crs is None else (after, before)
        raise GridError(
            f"{bare.uri}: has no CRS while {other.uri} has {crs_name(other.geobox)}; "
            "assign one (gdal_edit.py -a_srs) or remove it from both to compare pixel by pixel"
        )
    if before.geobox.crs is None:
        return _pixel_grid(before, after, crs)
    for info in (before, after):
        _refuse_metres_as_degrees(info)
    base = _own_grid(scene, crs, resolution)
    box = Box(0, 0, *base.shape)
    for info in (before, after):
        try:
            box = box.intersect(footprint_box(info.geobox, base))
        except ProjError as error:
            raise GridError(
                f"{info.uri}: PROJ knows no way from its CRS ({crs_name(info.geobox)}) to that of the grid "
                f"({crs_name(base)}); assign the right one (gdal_edit.py -a_srs)"
            ) from error
    if box.pixels == 0:
        raise GridError(
            f"{before.uri} and {after.uri} do not overlap: before covers {extent(before.geobox)}, "
            f"after covers {extent(after.geobox)}"
        )
    return crop(base, box)


def crs_name(covered: GeoBox | Geometry) -> str | None:
    """Return a short name of the CRS of a grid or geometry: its EPSG code, else its own name; None without one."""
    if covered.crs is None:
        return None
    return f"EPSG:{covered.crs.epsg}" if covered.crs.epsg else str(covered.crs.proj.name)


def _pixel_grid(before: SceneInfo, after: SceneInfo, crs: str | None) -> GeoBox:
    if crs is not None:
        raise GridError(f"{before.uri}: has no CRS, so it cannot be reprojected to {crs}")
    _refuse_other_places(before, after)
    if before.geobox.shape != after.geobox.shape:
        raise GridError(
            f"{before.uri} is {_size(before.geobox)} and {after.uri} is {_size(after.geobox)}; without a CRS "
            "both must have the same size"
        )
    return GeoBox(before.geobox.shape, Affine.identity(), None)


def _refuse_other_places(before: SceneInfo, after: SceneInfo) -> None:
    """Refuse files without a CRS that state different places on the ground.

    Raises:
        GridError: names the shift between them.
    """
    if before.placed is None or after.placed is None or before.geobox.shape != after.geobox.shape:
        return
    rows, cols = before.geobox.shape
    near, far = (~before.placed * (after.placed * corner) for corner in ((0, 0), (cols, rows)))
    if max(abs(near[0]), abs(near[1]), abs(far[0] - cols), abs(far[1] - rows)) > 1:
        raise GridError(
            f"{before.uri} and {after.uri}: state places on the ground but no CRS, without which pixels are laid on "
            f"pixels; the later date begins {near[0]:.1f} px right of and {near[1]:.1f} px below the earlier one, and "
            f"ends {far[0] - cols:.1f} and {far[1] - rows:.1f} px beside it; assign the CRS to both (gdal_edit.py "
            "-a_srs)"
        )


def _own_grid(scene: SceneInfo, crs: str | None, resolution: float | None) -> GeoBox:
    if crs is None and resolution is None:
        return scene.geobox
    if crs is not None and resolution is None:
        raise GridError(f"grid.crs is {crs} but grid.resolution is missing; give the pixel size in its units")
    try:
        target = scene.geobox.crs if crs is None else _horizontal(crs)
    except CRSError as error:
        raise GridError(f"grid.crs: {crs!r} is no CRS that PROJ knows; give an EPSG code or WKT") from error
    assert target is not None  # common_grid handles scenes without one
    try:
        if target.geographic:
            xs, ys = _outline(scene.geobox, target, None)
            bounds = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
        else:
            bounds = scene.geobox.footprint(target).boundingbox.bbox
    except ProjError as error:
        raise GridError(
            f"grid.crs: PROJ knows no way to {crs!r} from the CRS of {scene.uri} ({crs_name(scene.geobox)}); give "
            "another one"
        ) from error
    return GeoBox.from_bbox(bounds, target, resolution=resolution)


def _horizontal(crs: str) -> CRS:
    """Return a CRS, of a compound one (``EPSG:2056+5728``) the part without heights.

    Raises:
        CRSError: PROJ does not know it.
    """
    found = pyproj.CRS.from_user_input(crs)
    return CRS(found.sub_crs_list[0]) if found.is_compound else CRS(crs)


def _refuse_metres_as_degrees(info: SceneInfo) -> None:
    """Refuse latitudes beyond the poles: longitudes repeat, so that such a grid would lie somewhere.

    Raises:
        GridError: names the CRS and the coordinates.
    """
    crs, bounds = info.geobox.crs, info.geobox.boundingbox
    if crs is None or not crs.geographic or not crs.proj.axis_info:
        return
    pole = math.pi / 2 / crs.proj.axis_info[0].unit_conversion_factor
    # Grids of the whole earth may reach over it by half a pixel.
    if max(abs(bounds.bottom), abs(bounds.top)) > pole + abs(info.geobox.resolution.y):
        raise GridError(
            f"{info.uri}: its CRS ({crs_name(info.geobox)}) counts in degrees, and its coordinates (x {bounds.left:g}, "
            f"y {bounds.top:g}) are none; assign the right CRS (gdal_edit.py -a_srs)"
        )


def footprint_box(geobox: GeoBox, grid: GeoBox) -> Box:
    """Return the pixels of ``grid`` that ``geobox`` may cover: the hull of its outline, cut to the grid."""
    if grid.crs is not None and grid.crs.geographic and geobox.crs is not None:
        xs, ys = _outline(geobox, grid.crs, _centre(grid)[0])
        return _hull_box(xs, ys, grid)
    outline = geobox.extent if grid.crs is None or grid.crs == geobox.crs else geobox.footprint(grid.crs)
    return geometry_box(outline, grid)


def _outline(geobox: GeoBox, crs: CRS, around: float | None) -> tuple[DoubleArray, DoubleArray]:
    """Return x and y of points on the outline of a grid in geographic coordinates, as far as they exist.

    Args:
        geobox: the grid.
        crs: geographic CRS of the points.
        around: longitude that the points are brought within 180 degrees of, since 179 and -181 are one place; None:
            that of the first point.
    """
    rows, cols = geobox.shape
    steps = np.linspace(0, 1, OUTLINE_POINTS)
    x = cols * np.concatenate([steps, np.ones_like(steps), steps, np.zeros_like(steps)])
    y = rows * np.concatenate([np.zeros_like(steps), steps, np.ones_like(steps), steps])
    xs, ys = _moved(geobox.affine, x, y)
    if crs != geobox.crs:
        assert geobox.crs is not None
        xs, ys = _transform(geobox.crs, crs, xs, ys)
    finite = np.isfinite(xs) & np.isfinite(ys)
    if not finite.any():
        return np.zeros(1), np.zeros(1)
    xs, ys = xs[finite], ys[finite]
    return xs - 360 * np.rint((xs - (xs[0] if around is None else around)) / 360), ys


def _moved(affine: Affine, x: DoubleArray, y: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _centre(geobox: GeoBox) -> tuple[float, float]:
    x, y = geobox.affine * (geobox.shape[1] / 2, geobox.shape[0] / 2)
    return float(x), float(y)


def near_longitudes(source: GeoBox, grid: GeoBox) -> GeoBox:
    """Return a source whose longitudes are counted as the grid's are: 181 for -179 where the grid lies there.

    Args:
        source: grid of a scene; another one than in degrees is returned as it is.
        grid: the common grid.
    """
    if source.crs is None or grid.crs is None or not source.crs.geographic:
        return source
    centre = (
        _centre(grid)[0]
        if grid.crs == source.crs
        else float(_transform(grid.crs, source.crs, *np.atleast_2d(_centre(grid)).T)[0][0])
    )
    turns = round((centre - _centre(source)[0]) / 360) if math.isfinite(centre) else 0
    if not turns:
        return source
    return GeoBox(source.shape, Affine.translation(360 * turns, 0) * source.affine, source.crs)


def warp_crs(geobox: GeoBox) -> str | None:
    """Return the CRS of a grid for GDAL's warp, None without one.

    Longitudes that run on past 180 need a CRS whose inverse does so too, or GDAL looks for 180.1 at -179.9.
    """
    if geobox.crs is None:
        return None
    bounds = geobox.boundingbox
    if geobox.crs.geographic and (bounds.right > 180 or bounds.left < -180):
        # The text is for this warp alone, and no product has it.
        with ignored_warnings(UserWarning):
            return f"{geobox.crs.proj.to_proj4()} +lon_wrap={_centre(geobox)[0]:.9g}"
    return str(geobox.crs.to_wkt())


def geometry_box(geometry: Geometry, grid: GeoBox) -> Box:
    """Return the pixels of ``grid`` under the bounds of ``geometry`` (in the grid's CRS), cut to the grid."""
    bounds = geometry.boundingbox
    x = np.array([bounds.left, bounds.left, bounds.right, bounds.right])
    y = np.array([bounds.bottom, bounds.top, bounds.bottom, bounds.top])
    return _hull_box(x, y, grid)


def _hull_box(x: DoubleArray, y: DoubleArray, grid: GeoBox) -> Box:
    """Return the pixels of ``grid`` under the bounds of points in its CRS, cut to the grid."""
    xs, ys = _moved(~grid.affine, x, y)
    hull = Box(
        math.floor(ys.min() + ALIGNED_PX),
        math.floor(xs.min() + ALIGNED_PX),
        math.ceil(ys.max() - ALIGNED_PX),
        math.ceil(xs.max() - ALIGNED_PX),
    )
    return hull.intersect(Box(0, 0, *grid.shape))


def crop(grid: GeoBox, box: Box) -> GeoBox:
    """Return the part of ``grid`` under ``box``."""
    return GeoBox(box.shape, grid.affine * Affine.translation(box.x0, box.y0), grid.crs)


def moved_grid(grid: GeoBox, matrix: DoubleArray) -> GeoBox:
    """Return the grid whose pixels lie where a matrix takes those of another one.

    An image read on the moved grid is sampled where its content lies: registration costs no second resampling.

    Args:
        grid: the grid.
        matrix: (2, 3), takes (row, column, 1) to (row, column), pixels; whole numbers are centres of pixels.
    """
    (rows_by_row, rows_by_col, rows), (cols_by_row, cols_by_col, cols) = matrix.tolist()
    # An affine transform counts from the corner of a pixel, half a pixel before its centre.
    half_cols = 0.5 * (1 - cols_by_col - cols_by_row)
    half_rows = 0.5 * (1 - rows_by_col - rows_by_row)
    moved = Affine(cols_by_col, cols_by_row, cols + half_cols, rows_by_col, rows_by_row, rows + half_rows)
    return GeoBox(grid.shape, grid.affine * moved, grid.crs)


def grid_record(grid: GeoBox) -> dict[str, Any]:
    """Return a grid as JSON: WKT of the CRS (null without one), affine in GDAL's order, shape (rows, cols)."""
    return {
        "crs": grid.crs.to_wkt() if grid.crs is not None else None,
        "transform": [float(v) for v in grid.affine.to_gdal()],
        "shape": list(grid.shape),
    }


def grid_from_record(record: Mapping[str, Any]) -> GeoBox:
    """Return the grid of a record that :func:`grid_record` made."""
    return GeoBox(tuple(record["shape"]), Affine.from_gdal(*record["transform"]), record["crs"])


def pixel_shift(source: GeoBox, grid: GeoBox) -> tuple[int, int] | None:
    """Locate the grid's origin in the source if the two differ by whole pixels alone.

    Returns:
        (row, column) of the origin in the source. None where the source must be warped: another CRS, another pixel
        size, or a fractional shift. Without CRS nothing is warped, and fractions are rounded.
    """
    if source.crs != grid.crs:
        return None
    if grid.crs is None:
        # Pixels are compared one by one: a grid without CRS is moved by whole ones alone.
        return round(grid.affine.f), round(grid.affine.c)
    relative = ~near_longitudes(source, grid).affine * grid.affine
    drift = ALIGNED_PX / max(*grid.shape, 1)
    same_pixels = np.allclose(
        (relative.a, relative.b, relative.d, relative.e), (1, 0, 0, 1), rtol=0, atol=drift
    )
    row, col = round(relative.f), round(relative.c)
    if not same_pixels or abs(relative.f - row) > ALIGNED_PX or abs(relative.c - col) > ALIGNED_PX:
        return None
    return row, col


def warp_scale(source: GeoBox, grid: GeoBox) -> dict[str, str]:
    """Return GDAL's warp options ``XSCALE`` and ``YSCALE``: grid pixels per source pixel, at the grid's centre.

    By default GDAL takes them from each window it warps, so that the width of the kernel, and with it the answer,
    would depend on how the grid is cut.

    Returns:
        The two options; none where the scale is not finite.
    """
    rows, cols = grid.shape
    centre = cols / 2, rows / 2
    points = [grid.affine * (centre[0] + dx, centre[1] + dy) for dx, dy in ((0, 0), (1, 0), (0, 1))]
    if grid.crs is not None and source.crs is not None and source.crs != grid.crs:
        xs, ys = _transform(grid.crs, source.crs, *np.array(points).T)
        points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    pixels = [~source.affine * point for point in points]
    steps = [math.dist(pixels[0], pixel) for pixel in pixels[1:]]
    if not all(math.isfinite(step) and step > 0 for step in steps):
        return {}
    return {name: repr(min(1.0, 1 / step)) for name, step in zip(("XSCALE", "YSCALE"), steps, strict=True)}


def north_up(affine: Affine) -> bool:
    """Return True if rows run south and columns east without rotation."""
    return bool(affine.a > 0 and affine.e < 0 and affine.b == 0 and affine.d == 0)


def metres_per_pixel(grid: GeoBox) -> float | None:
    """Return the ground distance of two neighbouring pixels at the grid's centre, metres; None without a CRS."""
    steps = ground_steps(grid)
    return None if steps is None else steps[1]


def ground_steps(grid: GeoBox) -> tuple[float, float] | None:
    """Return the ground distance of neighbouring rows and columns at the grid's centre, metres; None without a CRS."""
    if grid.crs is None:
        return None
    rows, cols = grid.shape
    geodetic, geod = grid.crs.proj.geodetic_crs, grid.crs.proj.get_geod()
    if geodetic is None or geod is None:
        return None
    metres = []
    for dy, dx in ((0.5, 0.0), (0.0, 0.5)):
        ends = [grid.affine * (cols / 2 + sign * dx, rows / 2 + sign * dy) for sign in (-1, 1)]
        lon, lat = _transform(grid.crs, CRS(geodetic), *np.array(ends).T)
        metres.append(float(geod.inv(lon[0], lat[0], lon[1], lat[1])[2]))
    return (metres[0], metres[1]) if all(math.isfinite(step) for step in metres) else None


def pixel_steps(grid: GeoBox) -> tuple[float, float] | None:
    """Return height and width of a pixel, metres, as a projection states them where it is true to the ground.

    10 m of a projection may be 10.003 m on the ground, and are 10 m to people. None without a CRS.
    """
    steps = ground_steps(grid)
    if steps is None or grid.crs is None or not grid.crs.projected:
        return steps
    unit, affine = grid.crs.proj.axis_info[0].unit_conversion_factor, grid.affine
    nominal = math.hypot(affine.b, affine.e) * unit, math.hypot(affine.a, affine.d) * unit
    true = all(abs(a / b - 1) < DISTORTION for a, b in zip(steps, nominal, strict=True))
    return nominal if true else steps


def resampled(grid: GeoBox, metres: float) -> GeoBox:
    """Return a grid of the same ground with pixels of another size, from the same corner on.

    Args:
        grid: with a CRS.
        metres: side of a pixel on the ground, metres.

    Returns:
        The grid itself where its pixels have that size but for :data:`SAME_SIZE`, or where it lies nowhere.
    """
    steps = pixel_steps(grid)
    if steps is None or all(abs(step / metres - 1) <= SAME_SIZE for step in steps):
        return grid
    down, right = (metres / step for step in steps)
    rows, cols = (
        max(1, math.ceil(length / factor - ALIGNED_PX))
        for length, factor in zip(grid.shape, (down, right), strict=True)
    )
    return GeoBox((rows, cols), grid.affine * Affine.scale(right, down), grid.crs)


def _transform(source: CRS, target: CRS, x: DoubleArray, y: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    xs, ys = source.transformer_to_crs(target, always_xy=True)(x, y)
    return xs, ys


def _size(geobox: GeoBox) -> str:
    return f"{geobox.shape[1]} x {geobox.shape[0]} px"


def extent(covered: GeoBox | Geometry) -> str:
    """Return the bounds of a grid or a geometry with their CRS, for messages."""
    bounds = covered.boundingbox
    return f"x {bounds.left:.8g}..{bounds.right:.8g}, y {bounds.bottom:.8g}..{bounds.top:.8g} in {crs_name(covered)}"
