"""Rasters that GDAL reads."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.cloud import (
    GDAL_ERRORS,
    gdal_environment,
    gdal_reason,
    over_network,
    stat,
    store_options,
)
from ussfc.pipeline.tiling.grid import north_up, pixel_shift, warp_scale
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import BandInfo, BoolArray, Box, Pixels, SceneInfo, SourceArray

SAMPLE_PIXELS = 4_000_000
"""Size of the sample that the percentiles are taken from; smaller scenes are read whole."""

WARP_BLOCK = 512
"""Side of the fixed blocks, anchored at the grid's origin, that a warp goes by, pixels."""

WARP_TOLERANCE = 0.01
"""Largest error of GDAL's interpolated coordinates within a block, source pixels."""

SAMPLE_WINDOW = 256
"""Side of one window of the sample where the file has no overviews, pixels."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each new try at a scene that failed while its store answers."""

MOST_OPENS = 5
"""Requests for one header, of which two in a row must agree."""

SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")
"""Types that are read as they are: float32 holds each of their numbers, and they take less memory and time."""

Result = TypeVar("Result")


def _tried(
    uri: str, shown: str, block_cache: int, request: Callable[[Mapping[str, str]], Result], failure: str
) -> Result:
    """The result of GDAL calls, made again where a network may be to blame.

    Args:
        uri: path or URI.
        shown: the same for messages.
        block_cache: GDAL's cache of decoded blocks, bytes.
        request: the calls; takes the store's options. It closes what it opened when it fails: GDAL then forgets
            what it kept of the file.
        failure: what to say when it fails, with a place ``{}`` for the reason.

    Raises:
        ReadError: it failed for good.
    """
    for pause in (*(PAUSES if over_network(uri) else ()), None):
        found = store_options(uri, shown)
        try:
            with gdal_environment(uri, block_cache, found):
                return request(found)
        except GDAL_ERRORS as error:
            if pause is None:
                raise ReadError(f"{shown}: {failure.format(gdal_reason(error, uri, shown))}") from error
        # Returns once the store answers; what it refuses, no other try will get.
        stat(uri, shown)
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _open(uri: str, shown: str, header: str | None = None, **options: Any) -> tuple[Any, str]:
    """Open a raster; one on a network again and again until two answers agree on its header.

    GDAL takes an answer that was cut short for a whole one, and leaves out the tags that it does not find in it:
    a scene would lose its place on Earth, or its nodata.

    Args:
        uri: path or URI.
        shown: the same for messages.
        header: what an earlier call returned for the same file and options.
        options: of ``rasterio.open``.

    Returns:
        The dataset and its header.

    Raises:
        ReadError: the header is another than ``header`` now.
    """
    last = header
    for _ in range(MOST_OPENS):
        with warnings.catch_warnings():
            # A file without georeference is a case of its own that common_grid decides on.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = rasterio.open(uri, **options)
            if not over_network(uri):
                return source, ""
            try:
                found = _header(source)
            except GDAL_ERRORS:
                source.close()
                raise
        if found == last and header in (None, found):
            return source, found
        source.close()
        if found == last:
            raise ReadError(f"{shown}: has changed since it was first opened; run again")
        last = found
    raise RasterioIOError("its header is another with every request")


def _header(source: Any) -> str:
    """All that the reading depends on and that a header may lack."""
    points = [(point.row, point.col, point.x, point.y, point.z) for point in source.gcps[0]]
    return repr((
        source.profile, source.descriptions, source.colorinterp, source.mask_flag_enums, source.overviews(1),
        points, source.gcps[1], source.rpcs, source.tags(),
    ))  # fmt: skip


@contextmanager
def _opened(uri: str, shown: str, **options: Any) -> Iterator[Any]:
    source, _ = _open(uri, shown, **options)
    with source:
        yield source


def describe_raster(uri: str, shown: str, identity: str, size: int) -> SceneInfo:
    """The header of a raster.

    Args:
        uri: path or URI as GDAL or rasterio takes it.
        shown: the same for messages, without credentials.
        identity: changes when the content changes.
        size: bytes of the file; 0 where nobody knows.

    Raises:
        ReadError: GDAL cannot open it, or the pixels are complex numbers.
    """

    def describe(_: Mapping[str, str]) -> SceneInfo:
        with _opened(uri, shown) as source:
            return _scene_info(source, shown, identity, size)

    failure = (
        "cannot be opened as a raster ({}); check the path, that the file is complete and that GDAL knows its "
        "format"
    )
    return _tried(uri, shown, GDAL_CACHE, describe, failure)


def _scene_info(source: Any, shown: str, identity: str, size: int) -> SceneInfo:
    bands = tuple(
        BandInfo(index, source.descriptions[index - 1], _color(source.colorinterp[index - 1]))
        for index in source.indexes
        if source.colorinterp[index - 1] != ColorInterp.alpha
    )
    dtype = str(source.dtypes[0])
    if np.issubdtype(np.dtype(dtype), np.complexfloating):
        raise ReadError(f"{shown}: holds complex numbers ({dtype}); give amplitudes or reflectances instead")
    geobox, notes = _geobox(source, shown)
    raw = np.dtype(dtype).itemsize * source.count
    tags = source.tags()
    acquired = tags.get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME")
    return SceneInfo(
        uri=shown,
        geobox=geobox,
        bands=bands,
        dtype=dtype,
        identity=identity,
        bytes_per_pixel=size / (source.width * source.height) if size else raw,
        acquired=acquired or None,
        notes=notes,
    )


def wkt(grid: GeoBox) -> str | None:
    """The CRS of a grid as WKT."""
    return None if grid.crs is None else str(grid.crs.to_wkt())


def _color(interpretation: ColorInterp) -> str | None:
    return None if interpretation in (ColorInterp.undefined, ColorInterp.gray) else str(interpretation.name)


def _geobox(source: Any, shown: str) -> tuple[GeoBox, tuple[str, ...]]:
    """The north-up grid that stands for the file, and what was done to get it."""
    points, points_crs = source.gcps
    crs = source.crs or points_crs
    if crs is None:
        if source.rpcs is not None:
            return GeoBox(source.shape, Affine.identity(), None), (
                f"{shown}: has rational polynomials (RPC) only and is taken as a plain pixel grid; orthorectify it",
            )
        return GeoBox(source.shape, Affine.identity(), None), ()
    affine = source.transform
    if points and source.crs is None:
        with WarpedVRT(source, crs=crs) as vrt:
            return GeoBox(vrt.shape, vrt.transform, str(crs.to_wkt())), (
                f"{shown}: is placed by {len(points)} ground control points and warped",
            )
    if affine == Affine.identity():
        raise ReadError(f"{shown}: has a CRS but no geotransform; assign its position (gdal_edit.py -a_ullr)")
    if north_up(affine):
        return GeoBox(source.shape, affine, str(crs.to_wkt())), ()
    if affine.b == 0 and affine.d == 0 and affine.a > 0:
        rows = source.shape[0]
        flipped = Affine(affine.a, 0, affine.c, 0, -affine.e, affine.f + affine.e * rows)
        return GeoBox(source.shape, flipped, str(crs.to_wkt())), (f"{shown}: is stored south-up and flipped",)
    with WarpedVRT(source, crs=crs) as vrt:
        return GeoBox(vrt.shape, vrt.transform, str(crs.to_wkt())), (
            f"{shown}: is rotated and warped north-up",
        )


class RasterReader:
    """A raster seen on the grid, through a plain windowed read where the pixels agree, else a warp.

    A warp goes by fixed blocks of the grid: GDAL interpolates coordinates within the window it is asked
    for, so that windows of another cut would not agree to the last bit. Handles are one a thread.
    """

    def __init__(
        self,
        uri: str,
        shown: str,
        grid: GeoBox,
        bands: tuple[int, ...],
        resampling: str,
        block_cache: int = GDAL_CACHE,
    ) -> None:
        self._uri = uri
        self._shown = shown
        self._grid = grid
        self._bands = bands
        self._resampling = Resampling[resampling]
        self._block_cache = block_cache
        self._local = threading.local()
        self._opening = threading.Lock()
        self._header: str | None = None

    def read(self, box: Box) -> Pixels:
        """See :class:`ussfc.pipeline.types.SceneReader`."""

        def read(handles: _Handles) -> Pixels:
            return handles.read(box)

        return self._with_handles(read, f"rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1} of the grid")

    def sample(self) -> Pixels:
        """See :class:`ussfc.pipeline.types.SceneReader`; from overviews where the file has them."""
        rows, cols = self._grid.shape
        if rows * cols <= SAMPLE_PIXELS:
            return self.read(Box(0, 0, rows, cols))
        shrink = int(np.ceil(np.sqrt(rows * cols / SAMPLE_PIXELS)))

        def sample(handles: _Handles) -> Pixels | None:
            factors = handles.source.overviews(self._bands[0])
            levels = [level for level, factor in enumerate(factors) if factor <= shrink]
            if not levels:
                return None
            coarse = self._grid.zoom_out(shrink)
            with _opened(self._uri, self._shown, OVERVIEW_LEVEL=levels[-1]) as source:
                return _Handles(source, coarse, self._bands, self._resampling).read(Box(0, 0, *coarse.shape))

        return self._with_handles(sample, "its overviews") or sample_windows(self, (rows, cols))

    def _with_handles(self, request: Callable[[_Handles], Result], what: str) -> Result:
        def tried(found: Mapping[str, str]) -> Result:
            try:
                return request(self._handles(found))
            except GDAL_ERRORS:
                self._close()
                raise

        failure = f"{what} cannot be read ({{}}); the file is damaged, cut short or out of reach"
        return _tried(self._uri, self._shown, self._block_cache, tried, failure)

    def _handles(self, found: Mapping[str, str]) -> _Handles:
        """This thread's handles, opened with the store's present options."""
        if getattr(self._local, "found", None) != found:
            self._close()
        handles: _Handles | None = getattr(self._local, "handles", None)
        if handles is None:
            with self._opening:
                source, self._header = _open(self._uri, self._shown, self._header)
            try:
                handles = _Handles(source, self._grid, self._bands, self._resampling)
            except GDAL_ERRORS:
                source.close()
                raise
            self._local.handles, self._local.found = handles, found
        return handles

    def _close(self) -> None:
        handles: _Handles | None = getattr(self._local, "handles", None)
        self._local.handles = None
        if handles is not None:
            handles.close()


def sample_windows(reader: Any, shape: tuple[int, int]) -> Pixels:
    """Windows spread evenly over the scene, side by side: a sample without overviews."""
    per_axis = int(np.sqrt(SAMPLE_PIXELS)) // SAMPLE_WINDOW
    starts = [np.linspace(0, max(0, length - SAMPLE_WINDOW), per_axis).astype(int) for length in shape]
    parts = [
        reader.read(Box(y, x, min(y + SAMPLE_WINDOW, shape[0]), min(x + SAMPLE_WINDOW, shape[1])))
        for y in np.unique(starts[0]).tolist()
        for x in np.unique(starts[1]).tolist()
    ]
    bands = parts[0].values.shape[0]
    return Pixels(
        np.concatenate([part.values.reshape(bands, 1, -1) for part in parts], axis=2),
        np.concatenate([part.valid.reshape(1, -1) for part in parts], axis=1),
    )


def warp_blocks(box: Box, shape: tuple[int, int]) -> Iterator[Box]:
    """The fixed blocks of the grid that touch ``box``, row by row, cut to the grid's (rows, cols)."""
    for y in range(box.y0 // WARP_BLOCK * WARP_BLOCK, box.y1, WARP_BLOCK):
        for x in range(box.x0 // WARP_BLOCK * WARP_BLOCK, box.x1, WARP_BLOCK):
            yield Box(y, x, min(y + WARP_BLOCK, shape[0]), min(x + WARP_BLOCK, shape[1]))


def settled(values: SourceArray, valid: BoolArray) -> Pixels:
    """Pixels whose numbers are finite where valid, and 0 elsewhere.

    Args:
        values: (bands, rows, cols) integers or float32; changed in place.
        valid: (rows, cols); changed in place.
    """
    if values.dtype == np.float32:
        for band in values:
            valid &= np.isfinite(band)
    if not valid.all():
        np.copyto(values, 0, where=~valid)
    return Pixels(values, valid)


def _validity(source: Any, window: Window) -> BoolArray:
    # GDAL takes an alpha band for a mask in integer rasters only; a float32 warp has one too.
    if ColorInterp.alpha in source.colorinterp:
        alpha: BoolArray = source.read(source.colorinterp.index(ColorInterp.alpha) + 1, window=window) > 0
        return alpha
    mask: BoolArray = source.dataset_mask(window=window) > 0
    return mask


@dataclass(frozen=True, slots=True)
class _Marks:
    """What marks missing pixels in a file of small integers, where its values alone tell them."""

    nodata: int | None
    """The number of all bands; None: every pixel is valid."""
    others: tuple[int, ...]
    """The bands beside those read; a pixel is missing when all bands of the file are."""

    @classmethod
    def of(cls, source: Any, bands: tuple[int, ...]) -> _Marks | None:
        """None where GDAL must be asked: masks, alpha, other types, and fractions."""
        if set(source.dtypes) - set(SMALL_INTEGERS) or ColorInterp.alpha in source.colorinterp:
            return None
        kinds = {frozenset(flags) for flags in source.mask_flag_enums}
        others = tuple(index for index in source.indexes if index not in bands)
        if kinds == {frozenset({MaskFlags.all_valid})}:
            return cls(None, others)
        numbers = set(source.nodatavals)
        if kinds != {frozenset({MaskFlags.nodata})} or len(numbers) != 1:
            return None
        (number,) = numbers
        return cls(int(number), others) if float(number).is_integer() else None

    def valid(self, source: Any, window: Window, values: SourceArray) -> BoolArray:
        """What GDAL's mask of the dataset says of a window.

        Args:
            source: the file.
            window: part of it.
            values: ``(bands, rows, cols)``, the bands that are read.
        """
        if self.nodata is None:
            return np.ones(values.shape[1:], bool)
        valid = np.zeros(values.shape[1:], bool)
        others = (source.read(index, window=window) for index in self.others)
        for band in itertools.chain(values, others):
            valid |= band != self.nodata
            if valid.all():
                break
        return valid


def _warped(source: Any, resampling: Resampling, **target: Any) -> Any:
    flags = {flag for band in source.mask_flag_enums for flag in band}
    return WarpedVRT(
        source,
        resampling=resampling,
        src_nodata=source.nodata,
        nodata=source.nodata,
        # A mask band (and the outside of a file without any nodata) only survives a warp as alpha.
        add_alpha=not flags & {MaskFlags.nodata, MaskFlags.alpha}
        and ColorInterp.alpha not in source.colorinterp,
        tolerance=WARP_TOLERANCE,
        dtype="float64" if source.dtypes[0] == "float64" else "float32",
        # A pixel is nodata when all its bands are: 0 in one band of a colour image is a number.
        UNIFIED_SRC_NODATA="YES",
        **target,
    )


class _Handles:
    """Open GDAL datasets of one thread: the file, and its warped views if the grid wants them."""

    def __init__(self, source: Any, grid: GeoBox, bands: tuple[int, ...], resampling: Resampling) -> None:
        self._file = source
        by_points = source.crs is None and bool(source.gcps[0]) and grid.crs is not None
        if by_points:
            # rasterio drops the control points when a target transform is given, so they go first and alone.
            source = _warped(source, resampling, crs=source.gcps[1])
        self.source = source
        self._bands = bands
        self._marks = _Marks.of(source, bands)
        own = source.dtypes[bands[0] - 1]  # that of all: rasterio reads no two types at once
        self._dtype = own if own in SMALL_INTEGERS else "float32"
        self._shift = None
        if grid.crs is None:
            self._shift = (0, 0)
        elif source.crs is not None and north_up(source.transform) and not by_points:
            self._shift = pixel_shift(GeoBox(source.shape, source.transform, str(source.crs.to_wkt())), grid)
        if self._shift is None:
            target = {"transform": grid.affine, "height": grid.shape[0], "width": grid.shape[1]}
            target["crs"] = wkt(grid)
            if source.crs is not None:
                placed = GeoBox(source.shape, source.transform, str(source.crs.to_wkt()))
                target |= warp_scale(placed, grid)
            self._image = _warped(source, resampling, **target)
            self._mask = _warped(source, Resampling.nearest, **target)

    def close(self) -> None:
        if self._shift is None:
            self._image.close()
            self._mask.close()
        self.source.close()
        self._file.close()

    def read(self, box: Box) -> Pixels:
        values, valid = self._read_plain(box) if self._shift is not None else self._read_warped(box)
        return settled(values, valid)

    def _read_warped(self, box: Box) -> tuple[Any, Any]:
        values = np.zeros((len(self._bands), *box.shape), np.float32)
        valid = np.zeros(box.shape, bool)
        for block in warp_blocks(box, self._image.shape):
            window = Window(block.x0, block.y0, block.shape[1], block.shape[0])
            common = block.intersect(box)
            target, part = common.within(box).slices, common.within(block).slices
            image = self._image.read(self._bands, window=window, out_dtype="float32")
            values[(slice(None), *target)] = image[(slice(None), *part)]
            valid[target] = _validity(self._mask, window)[part]
        return values, valid

    def _read_plain(self, box: Box) -> tuple[Any, Any]:
        assert self._shift is not None
        rows, cols = self._shift
        wanted = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        common = wanted.intersect(Box(0, 0, *self.source.shape))
        if common == wanted and common.pixels:
            return self._read_source(common)
        values = np.zeros((len(self._bands), *box.shape), self._dtype)
        valid = np.zeros(box.shape, bool)
        if common.pixels:
            target = common.within(wanted).slices
            values[(slice(None), *target)], valid[target] = self._read_source(common)
        return values, valid

    def _read_source(self, part: Box) -> tuple[Any, Any]:
        """A part of the file, in its own pixels."""
        window = Window(part.x0, part.y0, part.shape[1], part.shape[0])
        values = self.source.read(self._bands, window=window, out_dtype=self._dtype)
        if self._marks is None:
            return values, _validity(self.source, window)
        return values, self._marks.valid(self.source, window, values)
