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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window

from pipeline.errors import StoreError
from pipeline.events import Advanced, Subscriber, ignore
from pipeline.thresholding import classify
from pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box, ByteArray, ProbabilitySource, blocks

READ_SIZE, POOL_SIZE, SCRATCH_TILE = 4096, 2048, 512
"""Sides in pixels: of the blocks in which a source is read and an overview is pooled, and of the tiles of
the scratch rasters, which divides both so that no tile is written twice."""

LARGEST_LAST_LEVEL = 512
"""Most pixels a side of the last overview, however large the blocks: strict validation asks for it."""

CACHE_BYTES = 128_000_000
"""GDAL's block cache; rasterio hands the number on as bytes. GDAL's own default is 5 % of the machine's memory:
the peak would depend on the machine."""

COLORS = {0: (32, 32, 32, 0), 1: (230, 0, 38, 255), NODATA_BYTE: (0, 0, 0, 0)}
"""Red, green, blue, alpha of the classes. A TIFF palette holds no alpha: only nodata is seen transparent."""


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
    """One product in the making: ``part`` becomes ``target``, ``folder`` holds its scratch files."""

    target: Path
    part: Path
    folder: Path
    options: CogOptions


@dataclass(frozen=True, slots=True)
class _Header:
    """What a product says beside its pixels."""

    geobox: GeoBox
    dtype: np.dtype[Any]
    description: str
    tags: Mapping[str, str]
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class _Level:
    """A bare scratch raster; ``checksum`` is the CRC-32 over its blocks of ``step`` pixels a side."""

    file: Path
    shape: tuple[int, int]
    step: int
    checksum: int


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
    header = _Header(geobox, np.dtype(np.uint8), "change", tags, colors=COLORS)
    counts = np.zeros(3, np.int64)

    def classes(box: Box) -> ByteArray:
        block = classify(source.read(box), threshold)
        counts[:] += [np.count_nonzero(block == value) for value in (0, 1, NODATA_BYTE)]
        subscriber(Advanced("mosaic", 1, box.pixels))
        return block

    _check_shape(source, geobox)
    with _workspace(path, scratch, options) as work:
        levels = [_write_level(work, 0, source.shape, READ_SIZE, header.dtype, classes)]
        for number, shape in enumerate(level_shapes(source.shape, options.block_size), start=1):
            # Each from the one before: any number of levels, always whole tiles, a third more to read.
            pooled = partial(_pooled, work, levels[-1])
            levels.append(_write_level(work, number, shape, POOL_SIZE, header.dtype, pooled))
        _write_cog(work, header, levels, PREDICTOR="NO")
    return ClassCounts(*(int(count) for count in counts))


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
    scale = 1 / PROBABILITY_STEPS if source.dtype == np.uint8 else None
    header = _Header(geobox, np.dtype(source.dtype), "change_probability", tags, scale=scale)

    def probabilities(box: Box) -> npt.NDArray[Any]:
        block = source.read(box)
        subscriber(Advanced("mosaic", 1, box.pixels))
        return block

    _check_shape(source, geobox)
    with _workspace(path, scratch, options) as work:
        level = _write_level(work, 0, source.shape, READ_SIZE, header.dtype, probabilities)
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


@contextmanager
def _workspace(target: Path, scratch: Path, options: CogOptions) -> Iterator[_Work]:
    """Hold a file beside ``target`` that becomes it when the body ends well, and an empty scratch folder.

    Both names follow from the target's alone: what a killed run left is overwritten.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    work = _Work(target, part, scratch / f"{target.stem}-levels", options)
    try:
        with _writing(work):
            _discard(work)
            work.folder.mkdir(parents=True)
        yield work
        with _writing(work):
            # GDAL puts into a sidecar what GeoTIFF has no words for, a derived CRS say. It goes first, and
            # one of an older product, with that one's statistics, must not describe this.
            if _sidecar(part).exists():
                _sidecar(part).replace(_sidecar(target))
            else:
                _sidecar(target).unlink(missing_ok=True)
            part.replace(target)
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
def _writing(work: _Work) -> Iterator[None]:
    """Work on this product's files and nothing else: a source's errors and GDAL settings are its own."""
    # CPL_TMPDIR: the driver keeps the overviews it makes there rather than beside the product.
    settings = {"GDAL_NUM_THREADS": work.options.threads, "CPL_TMPDIR": str(work.folder)}
    try:
        # A session of its own: with keys in the environment rasterio would make one of boto3's at every step.
        with rasterio.Env(DummySession(), GDAL_CACHEMAX=CACHE_BYTES, **settings):
            yield
    # SystemError: how rasterio tells of a failure in one of GDAL's own threads, which leaves no message.
    except (OSError, RasterioError, CPLE_BaseError, SystemError) as error:
        found = " ".join(str(error.__cause__ or error).split())
        raise StoreError(
            f"cannot write {work.target}: {found}; make sure that its folder and {work.folder.parent} are"
            " writable and have room, then run this stage again"
        ) from error


def _window(box: Box) -> Window:
    return Window(box.x0, box.y0, box.shape[1], box.shape[0])


def _load(work: _Work, file: Path, box: Box, **how: int) -> npt.NDArray[Any]:
    """Read a box of one of this product's files, (rows, cols)."""
    with _writing(work), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a grid in pixels is one of ours
        with rasterio.open(file, **how) as raster:
            pixels: npt.NDArray[Any] = raster.read(1, window=_window(box))
    return pixels


def _pooled(work: _Work, level: _Level, box: Box) -> ByteArray:
    """Pool a box of the next level from ``level``."""
    children = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).intersect(Box(0, 0, *level.shape))
    return pool(_load(work, level.file, children))


def _write_level(
    work: _Work,
    number: int,
    shape: tuple[int, int],
    step: int,
    dtype: np.dtype[Any],
    read: Callable[[Box], npt.NDArray[Any]],
) -> _Level:
    """Write a bare scratch raster, block by block; an error of ``read`` passes as it is."""
    file = work.folder / f"level-{number}.tif"
    checksum = 0
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": dtype}
    layout = {"tiled": True, "blockxsize": SCRATCH_TILE, "blockysize": SCRATCH_TILE, "bigtiff": "IF_SAFER"}
    with _writing(work):
        # The transform is read by nobody; without one rasterio warns of a raster without georeference.
        place = Affine.scale(2.0)
        raster = rasterio.open(file, "w", **profile, **layout, compress="zstd", zstd_level=1, transform=place)
    try:
        for box in blocks(shape, step):
            pixels = read(box)
            checksum = zlib.crc32(np.ascontiguousarray(pixels).data, checksum)
            with _writing(work):
                raster.write(pixels, 1, window=_window(box))
    finally:
        with _writing(work):
            raster.close()
    return _Level(file, shape, step, checksum)


def _write_cog(work: _Work, header: _Header, levels: Sequence[_Level], **packing: str) -> None:
    """Copy bare rasters, full resolution first, into one file, and read back what is on the disk."""
    overviews = len(level_shapes(levels[0].shape, work.options.block_size))
    vrt = work.folder / "product.vrt"
    with _writing(work):
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
            **packing,
        )
        with work.part.open("r+b") as file:
            os.fsync(file.fileno())
    for number, level in enumerate(levels):
        _verify(work, level, {"overview_level": number - 1} if number else {})


def _verify(work: _Work, level: _Level, how: Mapping[str, int]) -> None:
    """Refuse a product with other pixels than were written.

    On a full disk rasterio may close a file without an error, and GDAL reads a missing tile as zeros: a
    product cut short would pass for a city without change.
    """
    checksum = 0
    for box in blocks(level.shape, level.step):
        checksum = zlib.crc32(_load(work, work.part, box, **how).data, checksum)
    with _writing(work):
        if checksum != level.checksum:
            raise OSError(f"{level.shape[0]} x {level.shape[1]} pixels read back are not those written")


def _vrt(header: _Header, levels: Sequence[_Level]) -> ElementTree.Element:
    """Describe the product in GDAL's XML: ``levels``, full resolution first, under the header's words."""
    geobox, is_byte = header.geobox, header.dtype == np.uint8
    root = ElementTree.Element("VRTDataset", rasterXSize=str(geobox.width), rasterYSize=str(geobox.height))
    if geobox.crs is not None:
        _add(root, "SRS", geobox.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(repr(float(number)) for number in geobox.affine.to_gdal()))
    metadata = _add(root, "Metadata")
    for key in sorted(header.tags):
        _add(metadata, "MDI", header.tags[key], key=key)
    band = _add(root, "VRTRasterBand", dataType="Byte" if is_byte else "Float32", band="1")
    _add(band, "Description", header.description)
    _add(band, "NoDataValue", str(NODATA_BYTE) if is_byte else "nan")
    if header.scale is not None:
        _add(band, "Offset", "0.0")
        _add(band, "Scale", repr(header.scale))
    if header.colors is not None:
        _add(band, "ColorInterp", "Palette")
        table = _add(band, "ColorTable")
        for value in range(256):
            red, green, blue, alpha = (str(part) for part in header.colors.get(value, (0, 0, 0, 255)))
            _add(table, "Entry", c1=red, c2=green, c3=blue, c4=alpha)
    for number, level in enumerate(levels):
        source = _add(band, "Overview" if number else "SimpleSource")
        _add(source, "SourceFilename", level.file.name, relativeToVRT="1")
        _add(source, "SourceBand", "1")
    return root


def _add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name, attributes)
    element.text = text
    return element
