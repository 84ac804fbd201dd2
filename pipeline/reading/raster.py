"""Rasters that GDAL reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import sampling
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.reading.handles import RasterHandles
from ussfc.pipeline.reading.mask_rules import kind_of
from ussfc.pipeline.reading.opening import open_raster, opened_raster, retry_gdal
from ussfc.pipeline.reading.shared_blocks import BlockGrid
from ussfc.pipeline.reading.vrt import REMEDY
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.grid import north_up
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import BandInfo, Box, Pixels, SceneInfo, SceneMask

Result = TypeVar("Result")

SENTINEL2_UNIT = 10000
"""Number of a reflectance of 1 in Sentinel-2 products."""

DATE_TAG = "ACQUISITIONDATETIME"
"""GDAL's name of the time of acquisition."""

MASK_TAG = "USSFC_MASK"
"""Tag with the name of the file beside it that holds the mask of a scene."""

PRODUCT_TAG = "USSFC_PRODUCT"
"""Tag with the kind of a scene whose names of bands are certain."""

MOST_SUBDATASETS = 8
"""Datasets of a container that a message lists."""


INDIRECT = ("VRT", "GTI", "STACIT", "STACTA")
"""GDAL's drivers of files that lead to other files."""


def describe_raster(uri: str, shown: str, identity: str, size: int, any_kind: bool = True) -> SceneInfo:
    """Read the header of a raster.

    Args:
        uri: path or URI as GDAL or rasterio takes it.
        shown: the same for messages, without credentials.
        identity: text that changes when the content changes.
        size: bytes of the file; 0 where unknown.
        any_kind: False: a file that leads to others is refused, since it was not seen to be one before.

    Raises:
        ReadError: GDAL cannot open it, or the pixels are complex numbers.
    """

    def describe(_: Mapping[str, str]) -> SceneInfo:
        with opened_raster(uri, shown) as source:
            check_driver(source, shown, any_kind)
            info = _scene_info(source, shown, identity, size)
            return _with_mask(info, uri, source.tags().get(MASK_TAG))

    failure = (
        "cannot be opened as a raster ({}); check the path, that the file is complete and that GDAL knows its "
        "format"
    )
    return retry_gdal(uri, shown, GDAL_CACHE, describe, failure)


def check_driver(source: Any, shown: str, any_kind: bool) -> None:
    """Refuse an open file that leads to others and was not seen to be one before.

    Args:
        source: the file.
        shown: its name for messages.
        any_kind: True: it may be of any kind.

    Raises:
        ReadError: it is a VRT or the like.
    """
    if not any_kind and source.driver in INDIRECT:
        raise ReadError(
            f"{shown}: is a {source.driver}, which its name does not show; name it so, or {REMEDY}"
        )


def _scene_info(source: Any, shown: str, identity: str, size: int) -> SceneInfo:
    tags = source.tags()
    bands = tuple(
        BandInfo(
            index,
            source.descriptions[index - 1],
            _color(source.colorinterp[index - 1]),
            *_scale(source, index, tags),
        )
        for index in source.indexes
        if source.colorinterp[index - 1] != ColorInterp.alpha
    )
    if not source.count:
        raise ReadError(_no_bands(source, shown))
    for index, kind in zip(source.indexes, source.dtypes, strict=True):
        if "complex" in kind:
            raise ReadError(
                f"{shown}: band {index} holds complex numbers ({kind}); give amplitudes or reflectances instead"
            )
    dtype = np.result_type(*source.dtypes).name
    geobox, notes = _geobox(source, shown)
    notes += _baseline_notes(tags, bands, shown)
    raw = np.dtype(dtype).itemsize * source.count
    acquired = tags.get(DATE_TAG) or tags.get("TIFFTAG_DATETIME")
    return SceneInfo(
        uri=shown,
        geobox=geobox,
        bands=bands,
        dtype=dtype,
        placed=_placed(source) if geobox.crs is None else None,
        identity=identity,
        bytes_per_pixel=size / (source.width * source.height) if size else raw,
        acquired=acquired or None,
        block_bytes=_block_bytes(source),
        interleaved=source.driver == "GTiff" and _is_interleaved(source),
        notes=notes,
        product=tags.get(PRODUCT_TAG),
    )


def _with_mask(info: SceneInfo, uri: str, name: str | None) -> SceneInfo:
    """Return a header with the mask beside a file that names one."""
    kind = kind_of([name]) if name and "/" not in name else None
    if kind is None or name is None:
        return info
    if remote.is_remote(uri):
        parts = urlsplit(uri)
        place = urlunsplit(parts._replace(path=str(PurePosixPath(parts.path).with_name(name))))
    else:
        place = str(Path(uri).with_name(name))
        if not uri.startswith("/vsi") and not os.path.exists(place):
            note = f"{info.uri}: its mask of clouds, {name}, is not beside it; none is used"
            return replace(info, notes=(*info.notes, note))
    return replace(info, mask=SceneMask(place, kind))


def _scale(source: Any, index: int, tags: Mapping[str, str]) -> tuple[float, float]:
    """Return the (scale, offset) that a band declares, or Sentinel-2's tags about all of them; (1, 0) without any."""
    declared = float(source.scales[index - 1]), float(source.offsets[index - 1])
    if declared != (1.0, 0.0) or "BOA_ADD_OFFSET" not in tags:
        return declared
    try:
        unit = float(tags.get("BOA_QUANTIFICATION_VALUE", SENTINEL2_UNIT))
        return 1 / unit, float(tags["BOA_ADD_OFFSET"]) / unit
    except (ValueError, ZeroDivisionError):
        return declared


def _baseline_notes(tags: Mapping[str, str], bands: Sequence[BandInfo], shown: str) -> tuple[str, ...]:
    """Return a note on a Sentinel-2 file whose baseline has an offset that it does not state."""
    baseline = tags.get("PROCESSING_BASELINE", "")
    if not baseline.startswith(("04", "05", "06")) or any(band.offset for band in bands):
        return ()
    return (
        f"{shown}: is of Sentinel-2 processing baseline {baseline}, whose numbers have an offset of 1000, and declares "
        "none; if it was not taken out, set before.offset or after.offset to -1000",
    )


def _block_bytes(source: Any) -> int:
    """Return the decoded size of the file's largest block; with all bands where pixels are interleaved."""
    together = source.count if _is_interleaved(source) else 1
    return max(
        int(rows * cols * np.dtype(dtype).itemsize * together)
        for (rows, cols), dtype in zip(source.block_shapes, source.dtypes, strict=True)
    )


def _is_interleaved(source: Any) -> bool:
    return bool(source.profile.get("interleave") == "pixel")


def _no_bands(source: Any, shown: str) -> str:
    """Return the message for a container, which GDAL opens without a band."""
    inner = [shown_address(name) for name in source.subdatasets]
    if not inner:
        return f"{shown}: holds no raster band; give an image"
    more = f" and {len(inner) - MOST_SUBDATASETS} more" if len(inner) > MOST_SUBDATASETS else ""
    return (
        f"{shown}: is a container of {len(inner)} datasets ({', '.join(inner[:MOST_SUBDATASETS])}{more}); give one of "
        "these names instead"
    )


def _color(interpretation: ColorInterp) -> str | None:
    return None if interpretation in (ColorInterp.undefined, ColorInterp.gray) else str(interpretation.name)


def _placed(source: Any) -> Affine | None:
    """Return the geotransform of a file, None where it has none, or one that counts pixels as pictures do."""
    found: Affine = source.transform
    return found if found.e < 0 and not found.is_degenerate else None


def _geobox(source: Any, shown: str) -> tuple[GeoBox, tuple[str, ...]]:
    """Return the north-up grid that stands for the file, and notes on how it was derived."""
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
    if affine.b == 0 and affine.d == 0:
        rows, cols = source.shape
        left, top = min(affine.c, affine.c + affine.a * cols), max(affine.f, affine.f + affine.e * rows)
        upright = Affine(abs(affine.a), 0, left, 0, -abs(affine.e), top)
        how = "south-up" if affine.a > 0 else "mirrored" if affine.e < 0 else "upside down"
        return GeoBox(source.shape, upright, str(crs.to_wkt())), (f"{shown}: is stored {how} and flipped",)
    with WarpedVRT(source, crs=crs) as vrt:
        return GeoBox(vrt.shape, vrt.transform, str(crs.to_wkt())), (
            f"{shown}: is rotated and warped north-up",
        )


def _place(box: Box) -> str:
    return f"rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1} of the grid"


class RasterReader:
    """A raster seen on the grid, through a plain windowed read where the pixels agree, else a warp.

    A warp goes by fixed blocks of the grid: GDAL interpolates coordinates within the window it is asked
    for, so that windows of another cut would not agree to the last bit. Each thread has its own handles.
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
        """Open nothing yet; the first read does.

        Args:
            uri: path or URI.
            shown: the same for messages, without credentials.
            grid: the common grid.
            bands: numbers of the bands to be read, from 1.
            resampling: rasterio's name of the kernel for imagery.
            block_cache: GDAL's cache of decoded blocks in this process, bytes.
        """
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
        """Read the pixels of ``box``; see :class:`ussfc.pipeline.types.SceneReader`."""

        def read(handles: RasterHandles) -> Pixels:
            return handles.read(box)

        return self._with_handles(read, _place(box))

    def read_into(self, box: Box, target: Pixels) -> None:
        """Read the pixels of ``box``; see :class:`ussfc.pipeline.reading.shared_blocks.BlockReader`."""

        def read(handles: RasterHandles) -> None:
            handles.read_into(box, target)

        self._with_handles(read, _place(box))

    def blocks(self) -> BlockGrid | None:
        """Return the parts of the grid that are decoded as a whole; None where there are none."""
        return self._with_handles(lambda handles: handles.blocks, "its header")

    def empty(self, shape: tuple[int, int]) -> Pixels:
        """Return arrays for a window of (rows, cols), with any content."""
        return self._with_handles(lambda handles: handles.empty(shape), "its header")

    def sample(self, most: int | None = None) -> Pixels:
        """Read a sample of the scene, from overviews where the file has them."""
        rows, cols = self._grid.shape
        most = most or sampling.SAMPLE_PIXELS
        if rows * cols <= most:
            return self.read(Box(0, 0, rows, cols))
        shrink = int(np.ceil(np.sqrt(rows * cols / most)))
        return self.overview(self._grid.zoom_out(shrink), shrink) or sampling.sample_windows(
            self, (rows, cols), most
        )

    def overview(self, coarse: GeoBox, shrink: float) -> Pixels | None:
        """Read the scene on a coarser grid, from overviews; None where the file has none that is fine enough.

        Args:
            coarse: the grid to read on.
            shrink: side of its pixels, pixels of the common grid.

        Raises:
            ReadError: the file cannot be read.
        """

        def read(handles: RasterHandles) -> Pixels | None:
            factors = handles.source.overviews(self._bands[0])
            levels = [level for level, factor in enumerate(factors) if factor <= shrink]
            if not levels:
                return None
            with opened_raster(self._uri, self._shown, OVERVIEW_LEVEL=levels[-1]) as source:
                overview = RasterHandles(source, coarse, self._bands, self._resampling, levels[-1])
                with closing(overview):
                    return overview.read(Box(0, 0, *coarse.shape))

        return self._with_handles(read, "its overviews")

    def _with_handles(self, request: Callable[[RasterHandles], Result], what: str) -> Result:
        def attempt(options: Mapping[str, str]) -> Result:
            try:
                return request(self._handles(options))
            except GDAL_ERRORS:
                self._close()
                raise

        failure = f"{what} cannot be read ({{}}); the file is damaged, cut short or out of reach"
        return retry_gdal(self._uri, self._shown, self._block_cache, attempt, failure)

    def _handles(self, options: Mapping[str, str]) -> RasterHandles:
        """Return this thread's handles, opened with the store's current options."""
        if getattr(self._local, "options", None) != options:
            self._close()
        handles: RasterHandles | None = getattr(self._local, "handles", None)
        if handles is None:
            with self._opening:
                source, self._header = open_raster(self._uri, self._shown, self._header)
            try:
                handles = RasterHandles(source, self._grid, self._bands, self._resampling)
            except GDAL_ERRORS:
                source.close()
                raise
            self._local.handles, self._local.options = handles, options
        return handles

    def _close(self) -> None:
        handles: RasterHandles | None = getattr(self._local, "handles", None)
        self._local.handles = None
        if handles is not None:
            handles.close()
