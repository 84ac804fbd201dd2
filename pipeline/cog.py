"""Change classes and probabilities as cloud-optimised GeoTIFFs.

The GDAL COG driver writes the final file, in one pass, from a VRT. The VRT names bare scratch rasters and
carries everything else: georeference, nodata, colours, tags, and for the classes the overviews. GDAL has no
overview resampling that keeps a single changed pixel (``mode`` and ``nearest`` lose it, ``average`` means
nothing for classes), so the class pyramid is pooled here and handed to the driver as existing overviews.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

# rasterio.shutil.copy lets GDAL's own errors through; rasterio has no public name for their base class.
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

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
"""Side in pixels of the blocks in which a source is read. A multiple of SCRATCH_BLOCK: no tile is written twice."""

SCRATCH_BLOCK = 512
"""Side in pixels of the tiles of the scratch rasters."""

LARGEST_SMALLEST_LEVEL = 512
"""The smallest overview has at most this many pixels a side, however large the blocks: strict validation asks it."""

CACHE_MEGABYTES = 128
"""GDAL's block cache. Its default, 5 % of the machine's memory, would let the peak depend on the machine."""

COLORS: Mapping[int, tuple[int, int, int, int]] = {
    0: (32, 32, 32, 0),
    1: (230, 0, 38, 255),
    NODATA_BYTE: (0, 0, 0, 0),
}
"""Red, green, blue, alpha of each class. A TIFF palette has no alpha: GDAL shows nodata transparent, 0 dark."""


@dataclass(frozen=True, slots=True)
class CogOptions:
    """How a cloud-optimised GeoTIFF is packed."""

    compression: Literal["deflate", "zstd"] = "deflate"
    """``deflate`` is read everywhere; ``zstd`` is faster, and unknown to some older clients."""
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
class _Header:
    """What a product says of itself beside its pixels."""

    geobox: GeoBox
    dtype: np.dtype[Any]
    description: str
    tags: Mapping[str, str]
    scale: float | None = None
    """Stored number to physical value; None where they are the same."""
    colors: Mapping[int, tuple[int, int, int, int]] | None = None


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
        path: the file to write; it appears when complete and replaces an older one.
        scratch: a folder on a disk with room for about a byte a pixel; what is put there is removed again.
        options: how the file is packed.
        tags: dataset metadata, text by name.
        subscriber: hears one ``Advanced`` for every block read.

    Raises:
        pipeline.errors.StoreError: the file or its scratch files cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    _check_shape(source, geobox)
    header = _Header(geobox, np.dtype(np.uint8), "change", tags, colors=COLORS)
    counts = np.zeros(256, np.int64)

    def classes() -> Iterator[tuple[Box, ByteArray]]:
        for box, stored in _read(source, subscriber):
            block = classify(stored, threshold)
            counts[:] += np.bincount(block.ravel(), minlength=256)
            yield box, block

    with _workspace(path, scratch) as (part, folder):
        levels = _write_pyramid(classes(), geobox.shape, folder, options, path)
        _write_cog(header, levels, part, folder, options, path)
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
    """Write the probabilities as ``source`` stores them, overviews averaged over valid pixels.

    uint8 gets scale 1/254 and nodata 255, float32 is written as it is with nodata NaN.

    Args:
        source: (rows, cols) probabilities on ``geobox``.
        geobox: the grid; with ``crs`` None the file has no reference system.
        path: the file to write; it appears when complete and replaces an older one.
        scratch: a folder on a disk with room for the pixels; what is put there is removed again.
        options: how the file is packed.
        tags: dataset metadata, text by name.
        subscriber: hears one ``Advanced`` for every block read.

    Raises:
        pipeline.errors.StoreError: the file or its scratch files cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    _check_shape(source, geobox)
    scale = 1 / PROBABILITY_STEPS if source.dtype == np.uint8 else None
    header = _Header(geobox, np.dtype(source.dtype), "change_probability", tags, scale=scale)
    with _workspace(path, scratch) as (part, folder):
        level = folder / "level-0.tif"
        _write_level(_read(source, subscriber), geobox.shape, header.dtype, level, options, path)
        _write_cog(header, [level], part, folder, options, path)


def pool(classes: ByteArray) -> ByteArray:
    """Halve a class raster so that change survives.

    Args:
        classes: (rows, cols) of 0, 1 and 255.

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
    limit = min(block_size, LARGEST_SMALLEST_LEVEL)
    shapes = []
    while max(shape) > limit:
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        shapes.append(shape)
    return shapes


def _check_shape(source: ProbabilitySource, geobox: GeoBox) -> None:
    if tuple(source.shape) != tuple(geobox.shape):
        raise ValueError(f"the source has shape {tuple(source.shape)}, its grid {tuple(geobox.shape)}")


def _read(source: ProbabilitySource, subscriber: Subscriber) -> Iterator[tuple[Box, StoredArray]]:
    """The blocks of a source; each is reported once its taker has come back for the next."""
    for box in blocks(source.shape, READ_SIZE):
        yield box, source.read(box)
        subscriber(Advanced(STAGE, 1, box.pixels))


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turns what the disk or GDAL say into an error that names the product."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        found = " ".join(str(error.__cause__ or error).split())
        raise StoreError(
            f"cannot write {target}: {found}; make sure that its folder and the scratch folder are writable"
            " and have room, then run this stage again"
        ) from error


@contextmanager
def _workspace(target: Path, scratch: Path) -> Iterator[tuple[Path, Path]]:
    """A file beside ``target`` that becomes it when the body ends well, and an empty scratch folder.

    Both names depend on the target alone, so what a killed run left is overwritten, not added to.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    folder = scratch / f"{target.stem}-levels"
    with _writing(target):
        _discard(part, folder)
        folder.mkdir(parents=True)
    try:
        yield part, folder
        with _writing(target):
            _sync(part)
            os.replace(part, target)
    finally:
        _discard(part, folder)


def _discard(part: Path, folder: Path) -> None:
    part.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _sync(file: Path) -> None:
    """Put a file on the disk before its name says that it is complete."""
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _gdal(options: CogOptions, folder: Path) -> Iterator[None]:
    # CPL_TMPDIR: the driver keeps its own overviews there rather than beside the product.
    with rasterio.Env(
        GDAL_CACHEMAX=CACHE_MEGABYTES, GDAL_NUM_THREADS=options.threads, CPL_TMPDIR=str(folder)
    ):
        yield


def _write_pyramid(
    classes: Iterator[tuple[Box, ByteArray]],
    shape: tuple[int, int],
    folder: Path,
    options: CogOptions,
    target: Path,
) -> list[Path]:
    """Write the classes and every overview as bare rasters; returns them, full resolution first."""
    dtype = np.dtype(np.uint8)
    levels = [folder / "level-0.tif"]
    _write_level(classes, shape, dtype, levels[0], options, target)
    for number, smaller in enumerate(level_shapes(shape, options.block_size), start=1):
        # Each level is pooled from the one before: any number of levels, whole blocks, a third more to read.
        with _writing(target), _gdal(options, folder), rasterio.open(levels[-1]) as larger:
            levels.append(folder / f"level-{number}.tif")
            _write_level(_pooled(larger, smaller), smaller, dtype, levels[-1], options, target)
    return levels


def _pooled(larger: Any, shape: tuple[int, int]) -> Iterator[tuple[Box, ByteArray]]:
    """Blocks of the next level, pooled from the open raster of the level before."""
    for box in blocks(shape, READ_SIZE // 2):
        # The window is cut at the raster's edge; pooling pads what an odd side lacks.
        window = Window(
            2 * box.x0,
            2 * box.y0,
            min(2 * box.x1, larger.width) - 2 * box.x0,
            min(2 * box.y1, larger.height) - 2 * box.y0,
        )
        yield box, pool(larger.read(1, window=window))


def _write_level(
    parts: Iterator[tuple[Box, Any]],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    file: Path,
    options: CogOptions,
    target: Path,
) -> None:
    """Write blocks of pixels to a bare scratch raster.

    Only what is done to the disk is put down to the disk: an error of ``parts`` passes as it is.
    """
    with _gdal(options, file.parent), ExitStack() as stack:
        with _writing(target):
            raster = rasterio.open(
                file,
                "w",
                driver="GTiff",
                width=shape[1],
                height=shape[0],
                count=1,
                dtype=dtype,
                # Read by nobody; without one rasterio warns of a raster that is not georeferenced.
                transform=Affine.scale(2.0),
                tiled=True,
                blockxsize=SCRATCH_BLOCK,
                blockysize=SCRATCH_BLOCK,
                compress="zstd",
                zstd_level=1,
                bigtiff="IF_SAFER",
            )
        stack.callback(raster.close)
        for box, pixels in parts:
            with _writing(target):
                raster.write(pixels, 1, window=Window(box.x0, box.y0, box.shape[1], box.shape[0]))
        with _writing(target):
            # GDAL writes its last blocks here; the callback above is for the ways out by an error.
            raster.close()


def _write_cog(
    header: _Header, levels: Sequence[Path], part: Path, folder: Path, options: CogOptions, target: Path
) -> None:
    """Copy bare rasters, full resolution first, into one finished file."""
    overviews = len(level_shapes(header.geobox.shape, options.block_size))
    with _writing(target), _gdal(options, folder):
        vrt = folder / "product.vrt"
        vrt.write_bytes(ElementTree.tostring(_vrt(header, levels), encoding="utf-8"))
        rasterio.shutil.copy(
            str(vrt),
            str(part),
            driver="COG",
            COMPRESS=options.compression,
            PREDICTOR="NO" if header.colors else "YES",
            BLOCKSIZE=options.block_size,
            NUM_THREADS=options.threads,
            BIGTIFF="IF_SAFER",
            # AUTO takes the overviews of the VRT where it has some and makes its own where not.
            OVERVIEWS="AUTO" if overviews else "NONE",
            OVERVIEW_COUNT=overviews,
            OVERVIEW_RESAMPLING="AVERAGE",
        )


def _vrt(header: _Header, levels: Sequence[Path]) -> ElementTree.Element:
    """The product as GDAL's XML: ``levels``, full resolution first, under the header's words."""
    geobox = header.geobox
    root = ElementTree.Element(
        "VRTDataset", rasterXSize=str(geobox.shape[1]), rasterYSize=str(geobox.shape[0])
    )
    if geobox.crs is not None:
        _element(root, "SRS", geobox.crs.to_wkt())
    _element(root, "GeoTransform", ", ".join(repr(float(value)) for value in geobox.affine.to_gdal()))
    metadata = _element(root, "Metadata")
    for key in sorted(header.tags):
        _element(metadata, "MDI", header.tags[key], key=key)
    is_byte = header.dtype == np.uint8
    band = _element(root, "VRTRasterBand", dataType="Byte" if is_byte else "Float32", band="1")
    _element(band, "Description", header.description)
    _element(band, "NoDataValue", str(NODATA_BYTE) if is_byte else "nan")
    if header.colors is not None:
        _element(band, "ColorInterp", "Palette")
        _color_table(band, header.colors)
    if header.scale is not None:
        _element(band, "Offset", "0.0")
        _element(band, "Scale", repr(header.scale))
    _source(_element(band, "SimpleSource"), levels[0])
    for level in levels[1:]:
        _source(_element(band, "Overview"), level)
    return root


def _color_table(band: ElementTree.Element, colors: Mapping[int, tuple[int, int, int, int]]) -> None:
    table = _element(band, "ColorTable")
    for value in range(256):
        channels = zip(("c1", "c2", "c3", "c4"), colors.get(value, (0, 0, 0, 255)), strict=True)
        _element(table, "Entry", **{name: str(channel) for name, channel in channels})


def _source(parent: ElementTree.Element, file: Path) -> None:
    _element(parent, "SourceFilename", file.name, relativeToVRT="1")
    _element(parent, "SourceBand", "1")


def _element(
    parent: ElementTree.Element, name: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name, attributes)
    element.text = text
    return element
