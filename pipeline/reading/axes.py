"""Coordinates of the rows and columns of an array, of which the reading library looks at the first two alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.stacking import spatial_names

IRREGULAR = 0.05
"""Distance of a coordinate from its even place, beyond the rounding of its type, from which an axis is irregular;
pixels."""

DRIFT = 0.01
"""Distance by which the first two coordinates may misplace the last one, pixels."""


def with_even_axes(array: xr.DataArray, shown: str) -> xr.DataArray:
    """Return an array whose first two coordinates show the pixel size of the whole axis.

    Those of float32 differ by rounding: in degrees by a percent of a pixel of 10 m, which adds up over an image.

    Args:
        array: with dimensions of rows and columns.
        shown: its name in messages.

    Raises:
        ReadError: coordinates are unevenly spaced, or no numbers.
    """
    even = {}
    for name in spatial_names(array):
        axis = array.coords.get(name)
        if axis is not None and axis.ndim == 1 and axis.size > 1 and axis.dtype.kind in "iuf":
            places = _even_places(axis.values, f"{shown}: {name}")
            if places is not None:
                even[name] = axis.copy(data=places)
    return array.assign_coords(even) if even else array


def _even_places(axis: Any, shown: str) -> Any:
    """Return the even places of coordinates; None where their first two show these."""
    values = np.asarray(axis, np.float64)
    step = (values[-1] - values[0]) / (len(values) - 1)
    places = values[0] + step * np.arange(len(values))
    off = np.abs(values - places)
    rounding = np.spacing(np.abs(axis).max()) if axis.dtype.kind == "f" else 1.0
    # Also where a coordinate is no number.
    if not (step != 0 and off.max() <= IRREGULAR * abs(step) + rounding):
        worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise ReadError(
            f"{shown} is unevenly spaced: coordinate {worst} is {values[worst]:.10g}, expected {places[worst]:.10g} "
            "between the first and the last; bring the image onto an even grid first"
        )
    drift = abs(values[1] - values[0] - step) * (len(values) - 1)
    return places if drift > DRIFT * abs(step) else None
