"""The image in a data set of xarray: one variable, or several that are its bands."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import odc.geo.xr  # noqa: F401  (registers the .odc accessor)
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.stated_crs import with_stated_crs

NODATA, SCALES = "ussfc_nodata", "ussfc_scales"
"""Attributes of a stack of variables: the nodata number and the (scale, offset) of each band."""

BAND_NAMES = ("band", "bands", "channel")
"""Names of the dimension of the bands, which is kept where others of length 1 are not."""


def image_of(dataset: xr.Dataset, shown: str, by_name: bool) -> xr.DataArray:
    """Return the image of a data set, with the attributes of its variable or those of this module.

    A data set with one variable of two or three dimensions is that variable; one with several two-dimensional
    variables of the same grid has them as bands, whose labels are the variables' names. Dimensions of length 1 do not
    count.

    Args:
        dataset: the data set.
        shown: its name in messages.
        by_name: order variables by name, where the order in which they are listed means nothing.

    Raises:
        ReadError: it holds no such variable.
    """
    # Texts and times describe pixels; complex numbers would be an image, and are refused where it is read.
    variables = [variable for variable in dataset.data_vars.values() if variable.dtype.kind in "biufc"]
    images = [one_date(variable) for variable in variables if variable.ndim >= 2]
    images = [image for image in images if image.ndim in (2, 3)]
    if len(images) == 1:
        return with_stated_crs(images[0], {**dataset.attrs, **images[0].attrs}, shown)
    flat = [image for image in images if image.ndim == 2]
    if by_name:
        flat.sort(key=lambda variable: str(variable.name))
    if not flat or len({variable.shape for variable in flat}) != 1:
        names = ", ".join(str(name) for name in dataset.data_vars) or "none"
        sizes = next((dict(variable.sizes) for variable in variables if variable.ndim > 2), None)
        dates = f"; {sizes} may be several dates, of which one has to be chosen" if sizes and not flat else ""
        raise ReadError(
            f"{shown}: no image found among the variables ({names}); expected (band, y, x) or several (y, x){dates}"
        )
    attributes = {**flat[0].attrs, **dataset.attrs}
    stacked = stack(flat)
    stacked.attrs = {
        "long_name": tuple(str(variable.name) for variable in flat),
        # Each variable has marks and numbers of its own, which a stack of them would lose.
        NODATA: tuple(nodata_of(variable) for variable in flat),
        SCALES: tuple(scale_of(variable) for variable in flat),
    }
    return with_stated_crs(stacked, attributes, shown)


def stack(bands: Sequence[xr.DataArray]) -> xr.DataArray:
    """Return two-dimensional arrays as the bands of one, which reads nothing before its pixels are asked for.

    Args:
        bands: of one shape; the coordinates are those of the first.
    """
    first = bands[0]
    if any(band.chunks is not None for band in bands):
        return xr.concat(bands, dim="band", coords="minimal", compat="override", join="override")
    # xarray.concat would read all arrays of a file that is not opened with Dask.
    names = spatial_names(first)
    variables = tuple(
        (
            band
            if set(band.dims) == set(names)
            else band.drop_vars(band.coords).rename(dict(zip(band.dims, first.dims, strict=True)))
        ).variable
        for band in bands
    )
    variable = xr.Variable(("band", *names), LazilyIndexedArray(_Stack(variables, names)))
    stacked = xr.DataArray(variable, coords=first.coords)
    chunks = first.encoding.get("preferred_chunks")
    stacked.encoding = {} if chunks is None else {"preferred_chunks": chunks}
    return stacked


class _Stack(BackendArray):
    """Variables of xarray along a new first axis."""

    def __init__(self, variables: tuple[xr.Variable, ...], names: tuple[Hashable, Hashable]) -> None:
        self._variables, self._names = variables, names
        self.shape = (len(variables), *(variables[0].sizes[name] for name in names))
        self.dtype = np.result_type(*(variable.dtype for variable in variables))

    def __getitem__(self, key: ExplicitIndexer) -> npt.NDArray[np.generic]:
        found: npt.NDArray[np.generic] = explicit_indexing_adapter(
            key, self.shape, IndexingSupport.OUTER, self._read
        )
        return found

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.generic]:
        places = np.arange(len(self._variables))[key[0]]
        window = dict(zip(self._names, key[1:], strict=True))
        parts = [self._part(self._variables[place].isel(window)) for place in np.atleast_1d(places)]
        found = np.stack(parts).astype(self.dtype, copy=False)
        return found if np.ndim(places) else found[0]

    def _part(self, chosen: xr.Variable) -> npt.NDArray[np.generic]:
        """Read a part of a variable, and bring it into the order of rows and columns."""
        # Of the array itself: turned before it is read, every pixel would be looked up by itself.
        axes = [chosen.dims.index(name) for name in self._names if name in chosen.dims]
        return chosen.values.transpose(axes)


def one_date(array: xr.DataArray) -> xr.DataArray:
    """Return an array without dimensions of length 1, but for those of rows, columns and bands."""
    spatial = spatial_names(array)
    others = [name for name in array.dims if name not in spatial]
    single = [name for name in others if array.sizes[name] == 1]
    bands = [name for name in single if _is_of_bands(array, name)]
    if len(single) == len(others) and bands:
        single.remove(bands[0])
    return array.squeeze(single) if single else array


def spatial_names(array: xr.DataArray) -> tuple[Hashable, Hashable]:
    """Return the names of the dimensions of rows and columns: the last two where names do not show it."""
    found = array.odc.spatial_dims
    return tuple(found) if found is not None else tuple(array.dims[-2:])  # type: ignore[return-value]


def nodata_of(array: xr.DataArray) -> float | None:
    """Return the number that marks nodata in an array, from attributes or encoding."""
    for metadata in (array.attrs, array.encoding):
        for name in ("_FillValue", "missing_value", "nodata"):
            if metadata.get(name) is not None:
                return float(np.asarray(metadata[name]).ravel()[0])
    return None


def scale_of(array: xr.DataArray) -> tuple[float, float]:
    """Return the declared (scale, offset) of an array; (1, 0) without one."""
    # What xarray has applied already stands in the encoding alone.
    scale, offset = (
        array.attrs.get(name, default) for name, default in (("scale_factor", 1), ("add_offset", 0))
    )
    return float(np.asarray(scale).ravel()[0]), float(np.asarray(offset).ravel()[0])


def _is_of_bands(array: xr.DataArray, name: Hashable) -> bool:
    """Return True if a dimension is that of bands, by its name or since its labels are texts."""
    labels = array.coords[name].values.tolist() if name in array.coords else []
    return str(name).lower() in BAND_NAMES or any(isinstance(label, str) for label in labels)
