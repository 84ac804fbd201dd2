"""Arrays that xarray reads: Zarr, NetCDF, and DataArrays handed over in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the .odc accessor)
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from pipeline.errors import ReadError
from pipeline.grid import crop, footprint_box, north_up, pixel_shift
from pipeline.reading.raster import SAMPLE_PIXELS, sample_windows
from pipeline.types import BandInfo, Box, Pixels, SceneInfo

KERNEL_MARGIN = 16
"""Source pixels read beyond a warped window, so that no kernel is cut at its border."""


def open_array(uri: str, shown: str) -> xr.DataArray:
    """The image of a Zarr or NetCDF as a lazy (band, y, x) array of raw numbers.

    A data set with one variable of two or three dimensions is that variable; one with several
    two-dimensional variables of the same grid has them as bands.

    Raises:
        ReadError: xarray cannot open it, or it holds no such variable.
    """
    engine = "zarr" if is_zarr(uri) else "h5netcdf"
    try:
        dataset = xr.open_dataset(uri, engine=engine, mask_and_scale=False, decode_coords="all", chunks=None)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReadError(f"{shown}: cannot be opened as {engine} ({reason}); check the path and the format") from error
    images = [variable for variable in dataset.data_vars.values() if variable.ndim in (2, 3)]
    if len(images) == 1:
        return with_bands(images[0], shown)
    flat = [variable for variable in images if variable.ndim == 2]
    if not flat or len({variable.shape for variable in flat}) != 1:
        names = ", ".join(str(name) for name in dataset.data_vars) or "none"
        raise ReadError(f"{shown}: no image found among the variables ({names}); wanted (band, y, x) or several (y, x)")
    stacked = xr.concat(flat, dim="band", coords="minimal", compat="override", join="override")
    stacked.attrs["long_name"] = tuple(str(variable.name) for variable in flat)
    return with_bands(stacked, shown)


def is_zarr(uri: str) -> bool:
    """Whether a path or URI is a Zarr store, by its name or by its metadata file."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return any((Path(uri) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def with_bands(array: xr.DataArray, shown: str) -> xr.DataArray:
    """The array with dimensions (band, y, x), whatever they are called.

    Raises:
        ReadError: it has neither two nor three dimensions.
    """
    if array.ndim == 2:
        array = array.expand_dims("band")
    if array.ndim != 3:
        raise ReadError(f"{shown}: has dimensions {array.dims}; wanted (band, y, x) or (y, x)")
    spatial = array.odc.spatial_dims
    if spatial is None:
        spatial = tuple(str(name) for name in array.dims[-2:])
    (band,) = (name for name in array.dims if name not in spatial)
    return array.transpose(band, *spatial)


def array_geobox(array: xr.DataArray) -> GeoBox:
    """The grid of a (band, y, x) array; the plain pixel grid where it has no CRS."""
    geobox = array.odc.geobox
    if geobox is None or geobox.crs is None:
        return GeoBox(array.shape[1:], Affine.identity(), None)
    return geobox


def describe_array(array: xr.DataArray, shown: str, identity: str) -> SceneInfo:
    """The header of a (band, y, x) array; see :func:`pipeline.reading.describe_scene`.

    Raises:
        ReadError: its rows run north, or it is rotated.
    """
    geobox = array_geobox(array)
    if geobox.crs is not None and not north_up(geobox.affine):
        raise ReadError(f"{shown}: is not north-up; sort y downwards (array.sortby('y', ascending=False))")
    names = array.attrs.get("long_name", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    labels = array.coords[array.dims[0]].values.tolist() if array.dims[0] in array.coords else []
    if len(names) != array.shape[0]:
        names = tuple(label if isinstance(label, str) else "" for label in labels)
    names = names if len(names) == array.shape[0] else ("",) * array.shape[0]
    return SceneInfo(
        uri=shown,
        geobox=geobox,
        bands=tuple(BandInfo(i + 1, name or None, None) for i, name in enumerate(names)),
        dtype=str(array.dtype),
        identity=identity,
        bytes_per_pixel=float(array.dtype.itemsize * array.shape[0]),
    )


def array_nodata(array: xr.DataArray) -> float | None:
    """The number that marks nodata, from the attributes or the encoding; NaN needs no mark."""
    for places in (array.attrs, array.encoding):
        for name in ("_FillValue", "missing_value", "nodata"):
            if places.get(name) is not None:
                return float(np.asarray(places[name]).ravel()[0])
    return None


def source_box(geobox: GeoBox, window: GeoBox) -> Box:
    """The pixels of a source that a window of the grid needs, kernel margin included; may be empty."""
    hull = footprint_box(window, geobox)
    if hull.pixels == 0:
        return hull
    margin = KERNEL_MARGIN
    grown = Box(hull.y0 - margin, hull.x0 - margin, hull.y1 + margin, hull.x1 + margin)
    return grown.intersect(Box(0, 0, *geobox.shape))


def place(
    values: Any, geobox: GeoBox, window: GeoBox, nodata: float | None, resampling: str
) -> Pixels:
    """A block of a source brought onto a window of the grid.

    Args:
        values: (bands, rows, cols) source numbers.
        geobox: grid of the block.
        window: grid wanted.
        nodata: number that marks nodata in all bands at once, or None.
        resampling: rasterio's name; the validity is always taken from the nearest pixel.
    """
    image = np.asarray(values, np.float32)
    valid = np.isfinite(image).all(axis=0)
    if nodata is not None and not np.isnan(nodata):
        valid &= (np.asarray(values) != nodata).any(axis=0)
    shape = window.shape
    result = np.zeros((image.shape[0], *shape), np.float32)
    inside = np.zeros(shape, np.uint8)
    shift = (0, 0) if window.crs is None else pixel_shift(geobox, window)
    if image.size == 0:
        return Pixels(result, inside > 0)
    if shift is not None:
        wanted = Box(shift[0], shift[1], shift[0] + shape[0], shift[1] + shape[1])
        common = wanted.intersect(Box(0, 0, *geobox.shape))
        if common.pixels:
            target = common.within(wanted).slices
            result[(slice(None), *target)] = image[(slice(None), *common.slices)]
            inside[target] = valid[common.slices]
    else:
        # Pixels without data must not enter the kernel of their neighbours.
        masked = np.where(valid, image, np.float32(np.nan))
        grids = {
            "src_transform": geobox.affine,
            "src_crs": str(geobox.crs.to_wkt()) if geobox.crs else None,
            "dst_transform": window.affine,
            "dst_crs": str(window.crs.to_wkt()) if window.crs else None,
            "tolerance": 0,
        }
        warped = np.full_like(result, np.nan)
        rasterio.warp.reproject(
            masked, warped, src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling[resampling], **grids
        )
        rasterio.warp.reproject(valid.astype(np.uint8), inside, resampling=Resampling.nearest, **grids)
        result = warped
    whole = (inside > 0) & np.isfinite(result).all(axis=0)
    result[:, ~whole] = 0
    return Pixels(result, whole)


class ArrayReader:
    """A (band, y, x) array seen on the grid."""

    def __init__(self, array: xr.DataArray, grid: GeoBox, bands: tuple[int, ...], resampling: str) -> None:
        self._array = array.isel({array.dims[0]: [index - 1 for index in bands]})
        self._geobox = array_geobox(array)
        self._grid = grid
        self._nodata = array_nodata(array)
        self._resampling = resampling

    def read(self, box: Box) -> Pixels:
        """See :class:`pipeline.types.SceneReader`."""
        block = self.block(box)
        return place(block.values, *self.placing(box), self._nodata, self._resampling)

    def block(self, box: Box) -> xr.DataArray:
        """The part of the source that ``box`` needs, still lazy."""
        rows, cols = self._source_box(box).slices
        return self._array[:, rows, cols]

    def placing(self, box: Box) -> tuple[GeoBox, GeoBox]:
        """The grids of :meth:`block` and of ``box``."""
        return crop(self._geobox, self._source_box(box)), crop(self._grid, box)

    @property
    def nodata(self) -> float | None:
        """The number that marks nodata."""
        return self._nodata

    def sample(self) -> Pixels:
        """See :class:`pipeline.types.SceneReader`; windows of the full resolution."""
        rows, cols = self._grid.shape
        if rows * cols <= SAMPLE_PIXELS:
            return self.read(Box(0, 0, rows, cols))
        return sample_windows(self, (rows, cols))

    def _source_box(self, box: Box) -> Box:
        if self._grid.crs is None:
            return box
        found = source_box(self._geobox, crop(self._grid, box))
        # An empty block keeps the answer's shape: nothing of the source lies under the window.
        return found if found.pixels else Box(0, 0, 1, 1)
