"""Change classes and probabilities as cloud-optimised GeoTIFFs.

The GDAL COG driver writes the final file, in one pass, from a VRT. The VRT names bare scratch rasters and
carries everything else: georeference, nodata, colours, tags, and for the classes the overviews. GDAL has no
overview resampling that keeps a single changed pixel (``mode`` and ``nearest`` lose it, ``average`` means
nothing for classes), so the class pyramid is pooled here and handed to the driver as existing overviews.
"""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from pipeline.errors import StoreError
from pipeline.events import Advanced, Subscriber, ignore
from pipeline.thresholding import classify
from pipeline.types import (
    NODATA_BYTE,
    PROBABILITY_STEPS,
    Box,
    ByteArray,
    ProbabilitySource,
    StoredArray,
    blocks,
)

STAGE = "mosaic"
"""The stage of the :class:`~pipeline.events.Advanced` events."""

READ_SIZE = 4096
"""Side of the blocks in which a source is read, in pixels."""

POOL_SIZE = 2048
"""Side of the blocks in which an overview is pooled, in pixels; it and READ_SIZE are whole scratch tiles."""

SCRATCH_TILE = 512
"""Side of the internal tiles of the scratch rasters, in pixels."""

LARGEST_LAST_LEVEL = 512
"""Most pixels a side of the last overview, however large the blocks: strict validation asks for it."""

CACHE_MEGABYTES = 128
"""GDAL's block cache. Its default is 5 % of the machine's memory: the peak would depend on the machine."""

COLORS = {0: (32, 32, 32, 0), 1: (230, 0, 38, 255), NODATA_BYTE: (0, 0, 0, 0)}
"""Red, green, blue, alpha of the classes. A TIFF palette holds no alpha: readers see nodata transparent only."""


@dataclass(frozen=True, slots=True)
class CogOptions:
    """How a cloud-optimised GeoTIFF is packed."""

    compression: Literal["deflate", "zstd"] = "deflate"
    """``deflate`` is read everywhere; ``zstd`` is quicker to write and unknown to some older clients."""
    block_size: int = 512
    """Side of an internal tile in pixels, a multiple of 16."""
    threads: int = 1
    """Threads that compress; the bytes do not depend on it."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Pixels of each class at full resolution."""

    unchanged: int
    changed: int
    nodata: int


@dataclass(frozen=True, slots=True)
class _Work:
    """One product in the making."""

    target: Path
    part: Path
    """Beside ``target``, becomes it."""
    folder: Path
    """Scratch files of this product alone."""
    options: CogOptions


@dataclass(frozen=True, slots=True)
class _Header:
    """What a product says beside its pixels."""

    geobox: GeoBox
    dtype: np.dtype[Any]
    description: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Level:
    """A bare scratch raster, and what its pixels have to be in the product."""

    file: Path
    shape: tuple[int, int]
    step: int
    """Side of the blocks in which it was written."""
    checksum: int
    """CRC-32 over the pixels of these blocks, in their order."""


def write_change(
    source: ProbabilitySource,
    geobox: GeoBox,
    threshold: float,
    path: Path,
    scratch: Path,
    options: CogOptions,
    tags: Mapping[str, str],
    subscriber: Subscriber = ignore,
) -> ClassCounts:
    """Write the change classes: uint8, 0 no change, 1 change, 255 nodata.

    An overview pixel is 1 if any pixel under it is 1, else 0 if any is 0, else 255: change stays visible
    at every zoom.

    Args:
        source: (rows, cols) probabilities on ``geobox``.
        geobox: the grid; with ``crs`` None the file has no reference system.
        threshold: in [0, 1]; a probability of at least this is change.
        path: the file; it appears when complete and checked, and replaces an older one.
        scratch: a folder on a disk with room for the pixels; what is put there is removed again.
        options: how the file is packed.
        tags: dataset metadata, text by name.
        subscriber: hears one ``Advanced`` for every block read.

    Raises:
        pipeline.errors.StoreError: the file or its scratch files cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    _check_shape(source, geobox)
    header = _Header(geobox, np.dtype(np.uint8), "change", tags)
    counts = np.zeros(256, np.int64)

    def classes() -> Iterator[tuple[Box, ByteArray]]:
        for box, stored in _read(source, subscriber):
            block = classify(stored, threshold)
            counts[:] += np.bincount(block.ravel(), minlength=256)
            yield box, block

    with _workspace(path, scratch, options) as work:
        levels = [_write_level(work, classes(), source.shape, READ_SIZE, header.dtype, 0)]
        for number, shape in enumerate(level_shapes(source.shape, options.block_size), start=1):
            # Each from the one before: any number of levels, always whole tiles, a third more to read.
            pooled = _pooled(work, levels[-1], shape)
            levels.append(_write_level(work, pooled, shape, POOL_SIZE, header.dtype, number))
        _write_cog(work, header, levels, PREDICTOR="NO")
    return ClassCounts(unchanged=int(counts[0]), changed=int(counts[1]), nodata=int(counts[NODATA_BYTE]))


def write_probability(
    source: ProbabilitySource,
    geobox: GeoBox,
    path: Path,
    scratch: Path,
    options: CogOptions,
    tags: Mapping[str, str],
    subscriber: Subscriber = ignore,
) -> None:
    """Write the probabilities as ``source`` stores them, with overviews averaged over valid pixels.

    uint8 gets scale 1/254 and nodata 255; float32 stays as it is, with nodata NaN. Arguments and errors are
    those of :func:`write_change`.
    """
    _check_shape(source, geobox)
    header = _Header(geobox, np.dtype(source.dtype), "change_probability", tags)
    with _workspace(path, scratch, options) as work:
        level = _write_level(work, _read(source, subscriber), source.shape, READ_SIZE, header.dtype, 0)
        _write_cog(work, header, [level], PREDICTOR="YES", OVERVIEW_RESAMPLING="AVERAGE")


def pool(classes: ByteArray) -> ByteArray:
    """Halve a class raster so that change survives.

    Args:
        classes: (rows, cols) uint8 of 0, 1 and 255.

    Returns:
        (ceil(rows / 2), ceil(cols / 2)): of every 2 x 2 pixels 1 if any is 1, else 0 if any is 0, else 255.
    """
    # One more, modulo 256, puts nodata (255 -> 0) below no change (1) below change (2): then it is a maximum.
    ranks = np.pad(classes + np.uint8(1), [(0, side % 2) for side in classes.shape])
    rows = np.maximum(ranks[0::2], ranks[1::2])
    pooled: ByteArray = np.maximum(rows[:, 0::2], rows[:, 1::2]) - np.uint8(1)
    return pooled


def level_shapes(shape: tuple[int, int], block_size: int) -> list[tuple[int, int]]:
    """(rows, cols) of the overviews, largest first: halved, rounded up, until one block holds the raster."""
    shapes = []
    while max(shape) > min(block_size, LARGEST_LAST_LEVEL):
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        shapes.append(shape)
    return shapes


def _check_shape(source: ProbabilitySource, geobox: GeoBox) -> None:
    if tuple(source.shape) != tuple(geobox.shape):
        raise ValueError(f"the source has shape {tuple(source.shape)}, its grid {tuple(geobox.shape)}")


def _read(source: ProbabilitySource, subscriber: Subscriber) -> Iterator[tuple[Box, StoredArray]]:
    """Yield the blocks of a source; each is reported once its taker has come back for the next."""
    for box in blocks(source.shape, READ_SIZE):
        yield box, source.read(box)
        subscriber(Advanced(STAGE, 1, box.pixels))


def _pooled(work: _Work, level: _Level, shape: tuple[int, int]) -> Iterator[tuple[Box, ByteArray]]:
    """Yield the blocks of the next level."""
    for box in blocks(shape, POOL_SIZE):
        children = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1)
        yield box, pool(_load(work, level.file, children.intersect(Box(0, 0, *level.shape))))


@contextmanager
def _workspace(target: Path, scratch: Path, options: CogOptions) -> Iterator[_Work]:
    """Hold a file beside ``target`` that becomes it when the body ends well, and an empty scratch folder.

    Both names follow from the target's alone: what a killed run left is overwritten.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    work = _Work(target, part, scratch / f"{target.stem}-levels", options)
    try:
        with _writing(target):
            _discard(work)
            work.folder.mkdir(parents=True)
        yield work
        with _writing(target):
            # GDAL puts into a sidecar what GeoTIFF has no words for, a derived CRS say. It goes first, and
            # one of an older product, with that one's statistics, must not describe this.
            if _sidecar(part).exists():
                os.replace(_sidecar(part), _sidecar(target))
            else:
                _sidecar(target).unlink(missing_ok=True)
            os.replace(part, target)
    finally:
        _discard(work)


def _sidecar(file: Path) -> Path:
    return file.with_name(f"{file.name}.aux.xml")


def _discard(work: _Work) -> None:
    work.part.unlink(missing_ok=True)
    _sidecar(work.part).unlink(missing_ok=True)
    if work.folder.exists():
        shutil.rmtree(work.folder)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the disk or GDAL say into an error that names the product."""
    try:
        yield
    # SystemError: how rasterio tells of a failure in one of GDAL's own threads, which leaves no message.
    except (OSError, RasterioError, CPLE_BaseError, SystemError) as error:
        found = " ".join(str(error.__cause__ or error).split())
        raise StoreError(
            f"cannot write {target}: {found}; make sure that its folder and the scratch folder are writable"
            " and have room, then run this stage again"
        ) from error


@contextmanager
def _gdal(work: _Work) -> Iterator[None]:
    """Run GDAL on this product's files, and nothing else: a source's errors and settings are its own."""
    # CPL_TMPDIR: the driver keeps the overviews it makes there rather than beside the product.
    settings = {"GDAL_NUM_THREADS": work.options.threads, "CPL_TMPDIR": str(work.folder)}
    with _writing(work.target), rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES, **settings):
        yield


def _window(box: Box) -> Window:
    return Window(box.x0, box.y0, box.shape[1], box.shape[0])


def _load(work: _Work, file: Path, box: Box, **how: int) -> StoredArray:
    """Read a box of one of this product's files."""
    with _gdal(work), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a grid in pixels is one of ours
        with rasterio.open(file, **how) as raster:
            pixels: StoredArray = raster.read(1, window=_window(box))
    return pixels


def _write_level(
    work: _Work,
    parts: Iterator[tuple[Box, Any]],
    shape: tuple[int, int],
    step: int,
    dtype: np.dtype[Any],
    number: int,
) -> _Level:
    """Write blocks of pixels to a bare scratch raster; an error of ``parts`` passes as it is."""
    file = work.folder / f"level-{number}.tif"
    checksum = 0
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": dtype}
    layout = {"tiled": True, "blockxsize": SCRATCH_TILE, "blockysize": SCRATCH_TILE, "bigtiff": "IF_SAFER"}
    with _gdal(work):
        # The transform is read by nobody; without one rasterio warns of a raster without georeference.
        raster = rasterio.open(
            file, "w", **profile, **layout, compress="zstd", zstd_level=1, transform=Affine.scale(2)
        )
    try:
        for box, pixels in parts:
            checksum = zlib.crc32(np.ascontiguousarray(pixels), checksum)
            with _gdal(work):
                raster.write(pixels, 1, window=_window(box))
    finally:
        with _gdal(work):
            raster.close()
    return _Level(file, shape, step, checksum)


def _write_cog(work: _Work, header: _Header, levels: Sequence[_Level], **driver_options: str) -> None:
    """Copy bare rasters, full resolution first, into one file, and read back what is on the disk."""
    overviews = len(level_shapes(levels[0].shape, work.options.block_size))
    vrt = work.folder / "product.vrt"
    with _gdal(work):
        vrt.write_bytes(ElementTree.tostring(_vrt(header, levels), encoding="utf-8"))
        rasterio.shutil.copy(
            str(vrt),
            str(work.part),
            driver="COG",
            COMPRESS=work.options.compression,
            BLOCKSIZE=work.options.block_size,
            NUM_THREADS=work.options.threads,
            BIGTIFF="IF_SAFER",
            OVERVIEWS="AUTO" if overviews else "NONE",  # AUTO: the VRT's own where it has them
            OVERVIEW_COUNT=overviews,
            **driver_options,
        )
    with work.part.open("r+b") as file, _writing(work.target):
        os.fsync(file.fileno())
    for number, level in enumerate(levels):
        _verify(work, level, {"overview_level": number - 1} if number else {})


def _verify(work: _Work, level: _Level, how: Mapping[str, int]) -> None:
    """Refuse a product with other pixels than were written.

    With a full disk rasterio closes a file without an error, and GDAL reads a tile that is missing as zeros:
    a truncated product would pass for a city without change.
    """
    checksum = 0
    for box in blocks(level.shape, level.step):
        checksum = zlib.crc32(np.ascontiguousarray(_load(work, work.part, box, **how)), checksum)
    with _writing(work.target):
        if checksum != level.checksum:
            raise OSError(f"{level.shape[0]} x {level.shape[1]} pixels read back are not those written")


def _vrt(header: _Header, levels: Sequence[_Level]) -> ElementTree.Element:
    """Describe the product in GDAL's XML: ``levels``, full resolution first, under the header's words."""
    is_byte, is_classes = header.dtype == np.uint8, header.description == "change"
