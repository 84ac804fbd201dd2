"""Arrays that xarray reads: Zarr, NetCDF, and DataArrays of Python callers."""

from __future__ import annotations

import errno
import lzma
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the .odc accessor)
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.parallel.backoff import ONCE
from ussfc.pipeline.reading import sampling
from ussfc.pipeline.reading.axes import with_even_axes
from ussfc.pipeline.reading.block_warp import BlockWarp
from ussfc.pipeline.reading.masks import SMALL_INTEGERS, fill_invalid
from ussfc.pipeline.reading.stacking import (
    NODATA,
    SCALES,
    image_of,
    nodata_of,
    one_date,
    scale_of,
    spatial_names,
)
from ussfc.pipeline.reading.stated_crs import with_stated_crs
from ussfc.pipeline.reading.warp import source_box, warp_blocks
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.grid import (
    crop,
    near_longitudes,
    north_up,
    pixel_shift,
)
from ussfc.pipeline.types import BandInfo, Box, Pixels, SceneInfo
from ussfc.pipeline.waiting import waiting_for

LABELS = ("common_name", "band_name", "name", "title")
"""Coordinates along the bands that may name them, the best first; others count after these."""

NUMBERS = "biuf"
"""Kinds of NumPy types that an image may have."""

DECODING = (RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError)
"""Errors of the codecs of Zarr and HDF5 about a chunk that is not what was written; OSError is one of the store's."""

NETCDF_BLOCK = 1 << 20
"""Size of one request for a part of a remote NetCDF, bytes; HDF5 reads here and there."""


def open_array(uri: str, shown: str, zarr: bool) -> xr.DataArray:
    """Open the image of a Zarr or NetCDF as a lazy (band, y, x) array of raw numbers.

    A data set with one variable of two or three dimensions is that variable; one with several
    two-dimensional variables of the same grid has them as bands.

    Args:
        uri: path or URI.
        shown: the same for messages, without credentials.
        zarr: True for a Zarr store, False for a NetCDF.

    Raises:
        ReadError: xarray cannot open it, or it holds no such variable.
    """
    engine = "zarr" if zarr else _netcdf_engine(uri)

    def opened() -> xr.Dataset:
        with warnings.catch_warnings():
            # Consolidated metadata is a convenience; a store without it is whole.
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
            return xr.open_dataset(
                _store(uri, zarr), engine=engine, mask_and_scale=False, decode_coords="all", chunks=None
            )

    try:
        dataset = remote.retry_request(opened) if remote.is_remote(uri) else opened()
    except (ValueError, KeyError, ImportError, StoreError) as error:
        raise _not_opened(shown, engine, error) from error
    except remote.store_exceptions() as error:
        raise _not_opened(shown, engine, error) from error
    return with_bands(image_of(dataset, shown, by_name=zarr), shown)


def _netcdf_engine(uri: str) -> str:
    """Return xarray's engine for a NetCDF: the classic format (CDF) is not HDF5."""
    if remote.is_remote(uri):
        system, path = remote.filesystem(uri)
        try:
            start = remote.retry_request(lambda: system.cat_file(path, start=0, end=3))
        except remote.store_exceptions():
            return "h5netcdf"  # which reports it
    else:
        try:
            with Path(uri).open("rb") as file:
                start = file.read(3)
        except OSError:
            return "h5netcdf"
    return "scipy" if start == b"CDF" else "h5netcdf"


def _not_opened(shown: str, engine: str, error: BaseException) -> ReadError:
    reason, _ = remote.describe_error(error)
    return ReadError(f"{shown}: cannot be opened as {engine} ({reason}); check the path and the format")


def _store(uri: str, zarr: bool) -> Any:
    """Return the path for xarray to open, or the open file or store of a remote one."""
    if not remote.is_remote(uri):
        return uri
    system, path = remote.filesystem(uri, asynchronous=zarr)
    if zarr:
        from zarr.storage import FsspecStore

        return FsspecStore(system, read_only=True, path=path)
    return system.open(path, block_size=NETCDF_BLOCK, cache_type="blockcache")


def with_bands(array: xr.DataArray, shown: str) -> xr.DataArray:
    """Transpose an array to (band, y, x), whatever its dimensions are called; rows that run north are flipped.

    Args:
        array: two or three dimensions, and perhaps further ones of length 1, such as the time of one date.
        shown: the array's name in messages.

    Raises:
        ReadError: the array has neither two nor three dimensions of more than one element, holds no real numbers, or
            its coordinates are unevenly spaced.
    """
    if array.dtype.kind not in NUMBERS:
        what = "complex numbers" if array.dtype.kind == "c" else "no numbers"
        raise ReadError(f"{shown}: holds {what} ({array.dtype}); give amplitudes or reflectances instead")
    array = one_date(array)
    if array.ndim == 2:
        array = array.expand_dims("band")
    if array.ndim != 3:
        raise ReadError(
            f"{shown}: has dimensions {dict(array.sizes)}; expected (band, y, x) or (y, x), of one date: choose one, "
            "for example with array.isel(time=0)"
        )
    spatial = spatial_names(array)
    (band,) = (name for name in array.dims if name not in spatial)
    array = with_stated_crs(array.transpose(band, *spatial), array.attrs, shown)
    if array.odc.crs is not None:
        array = with_even_axes(array, shown)
    return array.isel({array.dims[1]: slice(None, None, -1)}) if runs_north(array) else array


def runs_north(array: xr.DataArray) -> bool:
    """Return True if the rows of a (band, y, x) array run from south to north."""
    geobox = array.odc.geobox
    return bool(geobox is not None and geobox.crs is not None and geobox.affine.e > 0)


def array_geobox(array: xr.DataArray) -> GeoBox:
    """Return the grid of a (band, y, x) array; the plain pixel grid where it has no CRS."""
    geobox = array.odc.geobox
    if geobox is None or geobox.crs is None:
        return GeoBox((array.shape[1], array.shape[2]), Affine.identity(), None)
    return GeoBox(geobox.shape, geobox.affine, geobox.crs)


def describe_array(array: xr.DataArray, shown: str, identity: str) -> SceneInfo:
    """Return the header of a (band, y, x) array; see :func:`ussfc.pipeline.reading.describe_scene`.

    Args:
        array: the array.
        shown: its name in messages.
        identity: text that changes when the content changes.

    Raises:
        ReadError: its rows run north, or it is rotated.
    """
    geobox = array_geobox(array)
    if geobox.crs is not None and not north_up(geobox.affine):
        raise ReadError(f"{shown}: is not north-up; sort y downwards (array.sortby('y', ascending=False))")
    names = array_labels(array)
    return SceneInfo(
        uri=shown,
        geobox=geobox,
        bands=tuple(
            BandInfo(number, name or None, None, *scale)
            for number, (name, scale) in enumerate(zip(names, array_scales(array), strict=True), 1)
        ),
        dtype=str(array.dtype),
        identity=identity,
        bytes_per_pixel=float(array.dtype.itemsize * array.shape[0]),
        block_bytes=_chunk_bytes(array),
    )


def _chunk_bytes(array: xr.DataArray) -> int:
    """Return the decoded size of a chunk of a Zarr or NetCDF; 0 where it has none."""
    chunks = array.encoding.get("preferred_chunks") or {}
    sides = [int(size) for size in chunks.values() if isinstance(size, int)]
    return int(np.prod(sides)) * array.dtype.itemsize if sides else 0


def array_labels(array: xr.DataArray) -> tuple[str, ...]:
    """Return the names of the bands of a (band, y, x) array; empty text where there is none.

    They are texts on the coordinate of the bands, or on another one along it (``common_name``, ``band_name``, ...),
    else the attribute ``long_name``.
    """
    count, band = array.shape[0], array.dims[0]
    along = {str(name): values for name, values in array.coords.items() if values.dims == (band,)}
    first = [name for name in (str(band), *LABELS) if name in along]
    for name in dict.fromkeys([*first, *along]):
        labels = along[name].values.tolist()
        if len(labels) == count and all(isinstance(label, str) for label in labels):
            return tuple(labels)
    names = array.attrs.get("long_name", ())
    names = (names,) if isinstance(names, str) else tuple(str(name) for name in names)
    return names if len(names) == count else ("",) * count


def array_nodata(array: xr.DataArray) -> tuple[float | None, ...]:
    """Return the number that marks nodata in each band, from attributes or encoding; NaN needs no mark.

    Args:
        array: (band, y, x).
    """
    stated = array.attrs.get(NODATA)
    return tuple(stated) if stated is not None else (nodata_of(array),) * array.shape[0]


def array_scales(array: xr.DataArray) -> tuple[tuple[float, float], ...]:
    """Return the declared (scale, offset) of each band of a (band, y, x) array; (1, 0) without one."""
    stated = array.attrs.get(SCALES)
    return tuple(stated) if stated is not None else (scale_of(array),) * array.shape[0]


@dataclass(frozen=True, slots=True)
class Placement:
    """A function that brings a block of a source onto a window of the grid; picklable."""

    source: GeoBox
    """Grid of the whole source."""
    held: Box
    """Pixels of the source that the block holds."""
    grid: GeoBox
    """Common grid."""
    box: Box
    """Pixels of the grid to be returned."""
    nodata: tuple[float | None, ...]
    """Number that marks nodata in each band; a pixel is missing when it is so in all of them."""
    resampling: str
    """rasterio's name of the kernel; the validity is always taken from the nearest pixel."""

    def __call__(self, values: Any) -> Pixels:
        """Return the pixels of :attr:`box`.

        Args:
            values: ``(bands, *held.shape)`` source numbers.
        """
        numbers = np.asarray(values)
        small = numbers.dtype.name in SMALL_INTEGERS
        shift = pixel_shift(self.source, self.grid)
        image = numbers.astype(numbers.dtype.name if small and shift is not None else np.float32, copy=False)
        valid = np.ones(image.shape[1:], bool)
        if not small:
            for band in image:
                valid &= np.isfinite(band)
        if None not in self.nodata:
            seen = np.zeros(image.shape[1:], bool)
            for band, nodata in zip(numbers, self.nodata, strict=True):
                assert nodata is not None
                # NumPy compares integers with an integer as they are, with a float as float64.
                seen |= band != (int(nodata) if small and nodata.is_integer() else nodata)
            valid &= seen
        result = np.zeros((image.shape[0], *self.box.shape), image.dtype)
        inside = np.zeros(self.box.shape, bool)
        if shift is not None:
            self._copy(image, valid, shift, result, inside)
        else:
            self._warp(image, valid, result, inside)
        return fill_invalid(result, inside)

    def _copy(self, image: Any, valid: Any, shift: tuple[int, int], result: Any, inside: Any) -> None:
        box, (rows, cols) = self.box, shift
        asked = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        common = asked.intersect(self.held)
        if common.pixels:
            target, part = common.within(asked).slices, common.within(self.held).slices
            result[(slice(None), *target)] = image[(slice(None), *part)]
            inside[target] = valid[part]

    def _warp(self, image: Any, valid: Any, result: Any, inside: Any) -> None:
        warp = BlockWarp(self.source, self.grid, Resampling[self.resampling])
        for block in warp_blocks(self.box, (self.grid.shape[0], self.grid.shape[1])):
            needed = warp.needed(block).intersect(self.held)
            if needed.pixels == 0:
                continue
            part = needed.within(self.held).slices
            warped, near = warp.warp(image[(slice(None), *part)], valid[part], needed, block)
            common = block.intersect(self.box)
            target, cut = common.within(self.box).slices, common.within(block).slices
            result[(slice(None), *target)] = warped[(slice(None), *cut)]
            inside[target] = near[cut]


class ArrayReader:
    """A (band, y, x) array seen on the grid."""

    def __init__(
        self,
        array: xr.DataArray,
        grid: GeoBox,
        bands: tuple[int, ...],
        resampling: str,
        shown: str = "the array",
    ) -> None:
        """Read nothing yet.

        Args:
            array: (band, y, x), see :func:`with_bands`.
            grid: the common grid.
            bands: numbers of the bands to be read, from 1.
            resampling: rasterio's name of the kernel for imagery.
            shown: the array's name in messages.
        """
        self._array = array.isel({array.dims[0]: [index - 1 for index in bands]})
        self._geobox = near_longitudes(array_geobox(array), grid)
        self._grid = grid
        nodata = array_nodata(array)
        self._nodata = tuple(nodata[index - 1] for index in bands)
        self._resampling = resampling
        self._shown = shown

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box``; see :class:`ussfc.pipeline.types.SceneReader`."""
        block = self.block(box)
        faults: tuple[type[BaseException], ...] = (*remote.store_exceptions(), *DECODING)
        try:
            with waiting_for(remote.host_of(self._shown)):
                values = remote.retry_request(
                    lambda: block.values, None if remote.is_remote(self._shown) else ONCE
                )
        except faults as error:
            what, remedy = remote.describe_error(error)
            local = isinstance(error, OSError) and error.errno in (None, errno.EIO)
            if isinstance(error, DECODING) or (local and not remote.is_remote(self._shown)):
                remedy = "its data are damaged or cut short: get or write them again"
            raise ReadError(
                f"{self._shown}: rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1} of the grid cannot be read "
                f"({what}); {remedy}"
            ) from error
        return self.placement(box)(values)

    def block(self, box: Box) -> xr.DataArray:
        """Return the part of the source that ``box`` needs, still lazy."""
        rows, cols = self._held(box).slices
        return self._array[:, rows, cols]

    def placement(self, box: Box) -> Placement:
        """Return the function that brings :meth:`block` onto ``box``."""
        return Placement(self._geobox, self._held(box), self._grid, box, self._nodata, self._resampling)

    def sample(self, most: int | None = None) -> Pixels:
        """Read a sample of the scene, windows of the full resolution."""
        rows, cols = self._grid.shape
        most = most or sampling.SAMPLE_PIXELS
        if rows * cols <= most:
            return self.read(Box(0, 0, rows, cols))
        return sampling.sample_windows(self, (rows, cols), most)

    def _held(self, box: Box) -> Box:
        rows, cols = self._geobox.shape
        if self._grid.crs is None:
            down, right = pixel_shift(self._geobox, self._grid) or (0, 0)
            asked = Box(box.y0 + down, box.x0 + right, box.y1 + down, box.x1 + right)
            held = asked.intersect(Box(0, 0, rows, cols))
            return held if held.pixels else Box(0, 0, 1, 1)
        hull = Box(rows, cols, 0, 0)
        for block in warp_blocks(box, (self._grid.shape[0], self._grid.shape[1])):
            found = source_box(self._geobox, crop(self._grid, block))
            if found.pixels:
                hull = Box(
                    min(hull.y0, found.y0),
                    min(hull.x0, found.x0),
                    max(hull.y1, found.y1),
                    max(hull.x1, found.x1),
                )
        # Nothing of the source under the window: one pixel keeps the shapes, and lands nowhere.
        return hull if hull.pixels else Box(0, 0, 1, 1)
