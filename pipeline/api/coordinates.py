"""Coordinates and attributes of a result: those of the array whose grid it has."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import dask.array as da
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from ussfc.pipeline.reading.array import array_geobox
from ussfc.pipeline.tiling.grid import pixel_shift

OF_NUMBERS = (
    "_FillValue", "missing_value", "nodata", "scale_factor", "add_offset", "scales", "offsets", "units", "long_name",
    "standard_name", "valid_min", "valid_max", "valid_range", "flag_values", "flag_meanings", "flag_masks", "dtype",
    "grid_mapping", "coordinates", "ussfc_nodata", "ussfc_scales",
)  # fmt: skip
"""Attributes that describe the numbers of an array, which the result does not have."""


def on_grid_of(
    data: da.Array, grid: GeoBox, reference: xr.DataArray, other: xr.DataArray, southward: bool
) -> xr.DataArray:
    """Return a result with the dimensions, coordinates and attributes of the array whose grid it has.

    Args:
        data: (rows, cols) on the grid.
        grid: the common grid: that of ``reference``, a part of it, or another one.
        reference: (band, y, x), rows running south.
        other: the other date; of coordinates without a dimension those remain that both dates have.
        southward: False where the rows of the caller's array run north; those of the result then do so too.
    """
    rows, columns = reference.dims[1:]
    window = _window(reference, grid)
    crs_name = _crs_name(reference)
    coords: dict[Hashable, Any] = {}
    if window is not None:
        whole = window.shape == reference.shape[1:]
        coords = {
            name: values
            for name, values in window.coords.items()
            # Of a part, the transform in the attributes of its CRS would be wrong.
            if (whole if name == crs_name else values.dims or _is_of_both(name, reference, other))
        }
    if grid.crs is not None:
        made: dict[Hashable, Any] = xr_coords(
            grid, crs_coord_name=str(crs_name or "spatial_ref"), dims=(str(rows), str(columns))
        )
        if not southward:
            # Its transform is that of rows which run south; coordinates show theirs.
            made[crs_name or "spatial_ref"].attrs.pop("GeoTransform", None)
        coords = {**made, **coords} if window is None or rows not in coords else {**_scalars(made), **coords}
    attrs = {name: value for name, value in reference.attrs.items() if str(name) not in OF_NUMBERS}
    attrs = {name: value for name, value in attrs.items() if not str(name).startswith("STATISTICS_")}
    result = xr.DataArray(data, coords=coords, dims=(rows, columns), attrs=attrs)
    if grid.crs is not None:
        result.encoding["grid_mapping"] = str(crs_name or "spatial_ref")
    return result if southward else result.isel({rows: slice(None, None, -1)})


def _window(reference: xr.DataArray, grid: GeoBox) -> xr.DataArray | None:
    """Return the pixels of an array under the grid, (y, x); None where the grid is not of its pixels."""
    shift = pixel_shift(array_geobox(reference), grid)
    if shift is None or min(shift) < 0:
        return None
    (row, column), (height, width) = shift, grid.shape
    flat = reference.isel({reference.dims[0]: 0}, drop=True)
    window = flat[row : row + height, column : column + width]
    return window if window.shape == (height, width) else None


def _crs_name(reference: xr.DataArray) -> Hashable | None:
    """Return the name of the coordinate that holds the CRS."""
    named = reference.encoding.get("grid_mapping", reference.attrs.get("grid_mapping"))
    if named in reference.coords:
        return str(named)
    found = (
        name
        for name, values in reference.coords.items()
        if not values.dims and {"crs_wkt", "spatial_ref"} & set(values.attrs)
    )
    return next(found, None)


def _is_of_both(name: Hashable, reference: xr.DataArray, other: xr.DataArray) -> bool:
    mine, theirs = (array.coords.get(name) for array in (reference, other))
    return mine is not None and theirs is not None and mine.variable.identical(theirs.variable)


def _scalars(coords: dict[Hashable, xr.DataArray]) -> dict[Hashable, xr.DataArray]:
    return {name: values for name, values in coords.items() if not values.dims}
