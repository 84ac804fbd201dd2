"""Change classes and probabilities as cloud-optimised GeoTIFFs, both in one pass over the source.

ISA-L packs blocks of bytes as DEFLATE; GDAL packs all others, in small TIFFs in its memory. GDAL also writes the
directories: of a COG of a few pixels with the same georeference, nodata, colours and tags, whose fields are taken
over. What is done here lies between: the pyramid is pooled from blocks in passing, compressed blocks wait in a
scratch file, and the product is their copy in the order of a COG (``tiff.py`` beside). The COG driver itself
compresses every pixel twice, and GDAL has no overview resampling that keeps a single changed pixel (``mode`` and
``nearest`` lose it, ``average`` means nothing for classes).
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from isal import isal_zlib
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.session import DummySession

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Advanced, Subscriber, ignore
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.encoding import classify
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.types import (
    NODATA_BYTE,
    PROBABILITY_STEPS,
    Box,
    ByteArray,
    ProbabilitySource,
    StoredArray,
    blocks,
)

READ_SIZE = 2048
"""Side in pixels of the squares in which a source is read, about: see :func:`square`."""

LARGEST_SQUARE = 4096
"""The same for sources with larger chunks, or files with larger blocks."""

LARGEST_LAST_LEVEL = 512
"""Most pixels a side of the last overview, however large the blocks: strict validation asks for it."""

LEVEL = {"deflate": 1, "zstd": 1}
"""How hard is packed. GDAL's own levels, 6 and 9, save a fifth of the bytes and take five times as long."""

IN_FLIGHT = 20_000_000
"""Bytes of source pixels in work at the same time. Bounds the threads, and through them the memory: a thread needs
about seven times its square."""

ISAL_LEVEL = 2
"""How hard ISA-L packs bytes as DEFLATE: the sizes of GDAL's level 1."""

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
class ChangeRaster:
    """The change classes: uint8, 0 no change, 1 change, 255 nodata.

    An overview pixel is 1 if any pixel under it is 1, else 0 if any is 0, else 255: change stays visible
    at every zoom.
    """

    path: Path
    """The file; it appears when complete and checked, and replaces an older one."""
    tags: Mapping[str, str]
    """Dataset metadata, text by name."""
    threshold: float
    """In [0, 1]; a probability of at least this is change."""

    def product(self, geobox: GeoBox, dtype: np.dtype[Any]) -> _Product:
        """How it is made of probabilities of a dtype."""
        return _Product(
            geobox,
            np.dtype(np.uint8),
            "change",
            self.tags,
            pixels=partial(classify, threshold=self.threshold),
            halve=pool,
            counted=(0, 1, NODATA_BYTE),
            predictor="NO",
            colors=COLORS,
        )


@dataclass(frozen=True, slots=True)
class ProbabilityRaster:
    """The probabilities as the source stores them, with overviews averaged over valid pixels.

    uint8 gets scale 1/254 and nodata 255; float32 stays as it is, with nodata NaN.
    """

    path: Path
    """The file; it appears when complete and checked, and replaces an older one."""
    tags: Mapping[str, str]
    """Dataset metadata, text by name."""

    def product(self, geobox: GeoBox, dtype: np.dtype[Any]) -> _Product:
        """How it is made of probabilities of a dtype."""
        return _Product(
            geobox,
            np.dtype(dtype),
            "change_probability",
            self.tags,
            pixels=_as_they_are,
            halve=average,
            predictor="YES",
            resampling="AVERAGE",
            scale=1 / PROBABILITY_STEPS if dtype == np.uint8 else None,
        )


def _as_they_are(stored: StoredArray) -> StoredArray:
    return stored


@dataclass(frozen=True, slots=True)
class _Work:
    """One product in the making: ``part`` becomes ``target``, ``folder`` holds its scratch files."""

    target: Path
    part: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class _Product:
    """What a product says, and how its pixels and its pyramid are made."""

    geobox: GeoBox
    dtype: np.dtype[Any]
    description: str
    tags: Mapping[str, str]
    pixels: Callable[[Any], npt.NDArray[Any]]
    """Of stored probabilities."""
    halve: Callable[[Any], npt.NDArray[Any]]
    """The next overview."""
    predictor: str
    """As the COG driver names it: YES is the one of the dtype."""
    resampling: str = ""
    """GDAL's name of how the overviews are made, for it to note; empty where it has none."""
    counted: tuple[int, ...] = ()
    """Numbers whose pixels are counted."""
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None


def write(
    source: ProbabilitySource,
    geobox: GeoBox,
    rasters: Sequence[ChangeRaster | ProbabilityRaster],
    scratch: Path,
    options: CogOptions,
    subscriber: Subscriber = ignore,
    chunk: int = 1,
) -> ClassCounts | None:
    """Write rasters in one pass.

    Args:
        source: (rows, cols) probabilities on ``geobox``; read from ``options.threads`` threads.
        geobox: the grid; with ``crs`` None the files have no reference system.
        rasters: what to write, at most one of each kind.
        scratch: a folder on a disk with room for the files; what is put there is removed again.
        options: how the files are packed.
        subscriber: hears one ``Advanced`` for every square read, :func:`square` pixels a side.
        chunk: side in pixels of the squares that the source decodes whole.

    Returns:
        The pixels of each class, if a :class:`ChangeRaster` was among ``rasters``.

    Raises:
        ussfc.pipeline.errors.StoreError: a file or its scratch files cannot be written.
        ValueError: ``source`` is not of the shape of ``geobox``.
    """
    shape = source.shape
    if tuple(shape) != tuple(geobox.shape):
        raise ValueError(f"the source has shape {tuple(shape)}, its grid {tuple(geobox.shape)}")
    side = square(options.block_size, chunk)
    # One more than there are cores to pack on: while one waits for its square, the others are busy.
    wanted = options.threads + (options.threads > 1)
    threads = max(1, min(wanted, IN_FLIGHT // (side**2 * source.dtype.itemsize)))
    with ExitStack() as stack:
        files = []
        for raster in rasters:
            work = stack.enter_context(_workspace(raster.path, scratch))
            file = _Assembler(work, raster.product(geobox, source.dtype), options, side)
            files.append(stack.enter_context(closing(file)))

        def make(box: Box) -> list[_Cut]:
            stored = source.read(box)
            return [file.cut(stored) for file in files]

        for box, cuts in in_order(make, blocks(shape, side), threads, "ussfc-mosaic"):
            for file, cut in zip(files, cuts, strict=True):
                file.take(box, cut)
            subscriber(Advanced("mosaic", 1, box.pixels))
        for file in files:
            file.finish()
    counts = [file.counts for file in files if file.counts]
    return ClassCounts(*counts[0]) if counts else None


def square(block_size: int, chunk: int = 1) -> int:
    """Side in pixels of the squares that are read, each once, from a source with such chunks.

    A power of two times the block: every square then holds whole blocks of the file at full resolution and in as
    many overviews as possible. About :data:`READ_SIZE`, more where that saves decoding chunks of the source again.
    """
    usual, most = max(READ_SIZE, min(4 * block_size, LARGEST_SQUARE)), max(block_size, LARGEST_SQUARE)
    sides = [block_size << (limit // block_size).bit_length() - 1 for limit in (usual, most)]
    return next((side for side in sides if side % chunk == 0), sides[-1])


def pool(classes: ByteArray) -> ByteArray:
    """Halve a class raster so that change survives.

    Args:
        classes: (rows, cols) uint8 of 0, 1 and 255.

    Returns:
        (ceil(rows / 2), ceil(cols / 2)): of every 2 x 2 pixels 1 if any is 1, else 0 if any is 0, else 255.
    """
    # With a sign nodata is -1, below no change and change: then it is a maximum.
    ranks = _even(classes, NODATA_BYTE).view(np.int8)
    rows = np.maximum(ranks[0::2], ranks[1::2])
    pooled: ByteArray = np.maximum(rows[:, 0::2], rows[:, 1::2]).view(np.uint8)
    return pooled


def average(stored: StoredArray) -> StoredArray:
    """Halve a probability raster, rounding bytes to the nearest level, halves up: GDAL's AVERAGE.

    Args:
        stored: (rows, cols) as :func:`ussfc.pipeline.pixels.encoding.encode` writes them, each row in one piece.

    Returns:
        (ceil(rows / 2), ceil(cols / 2)): the mean of the valid ones among every 2 x 2 pixels, else nodata.
    """
    if stored.dtype != np.uint8:
        real = _even(stored, np.nan)
        valid = ~np.isnan(real)
        total, count = _sums(np.where(valid, real, 0).astype(np.float64)), _sums(valid.astype(np.float64))
        mean = np.full(total.shape, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean.astype(np.float32)
    levels = _even(stored, NODATA_BYTE)
    if levels.max(initial=0) < NODATA_BYTE:
        means = _sums16(levels)
        means += np.uint16(2)
        means >>= np.uint16(2)
        return means.astype(np.uint8)
    valid = levels != NODATA_BYTE
    # The number of valid pixels stands above the sum, at most 4 * 254, in one number.
    return MEANS[_sums16(levels * valid) | (_sums16(valid.view(np.uint8)) << np.uint16(10))]


def _even(pixels: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
    """With a row and a column more where their number is odd."""
    odd = [(0, side % 2) for side in pixels.shape]
    return np.pad(pixels, odd, constant_values=fill) if odd != [(0, 0), (0, 0)] else pixels


def _sums16(levels: ByteArray) -> npt.NDArray[np.uint16]:
    """Sums of every 2 x 2 pixels, of a raster with even sides."""
    # Neighbours as one number of twice the width: columns two apart are slow to gather.
    pairs = levels.view(np.uint16)
    low, half = np.uint16(0xFF), np.uint16(8)
    sums, others = pairs[0::2] & low, pairs[0::2] >> half
    sums += others
    sums += np.bitwise_and(pairs[1::2], low, out=others)
    sums += np.right_shift(pairs[1::2], half, out=others)
    return sums


def _sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rows = values[0::2] + values[1::2]
    sums: npt.NDArray[np.float64] = rows[:, 0::2] + rows[:, 1::2]
    return sums


def _means() -> ByteArray:
    count, total = np.divmod(np.arange(5 << 10), 1 << 10)
    means = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, means, NODATA_BYTE).astype(np.uint8)


MEANS = _means()
"""(5 * 1024,) the mean level at 1024 * number + sum."""


def level_shapes(shape: tuple[int, int], block_size: int) -> list[tuple[int, int]]:
    """(rows, cols) of the overviews, largest first: halved, rounded up, until one block holds the raster."""
    shapes = []
    while max(shape) > min(block_size, LARGEST_LAST_LEVEL):
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        shapes.append(shape)
    return shapes


@contextmanager
def _workspace(target: Path, scratch: Path) -> Iterator[_Work]:
    """Hold a file beside ``target`` that becomes it when the body ends well, and an empty scratch folder.

    Both names follow from the target's alone: what a killed run left is overwritten.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    work = _Work(target, part, scratch / f"{target.stem}-levels")
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
    """Work on this product's files and nothing else: a source's errors are its own."""
    try:
        yield
    # SystemError: how rasterio tells of a failure in one of GDAL's own threads, which leaves no message.
    # ValueError: a TIFF made in memory is not whole.
    except (OSError, RasterioError, CPLE_BaseError, SystemError, ValueError) as error:
        found = " ".join(str(error.__cause__ or error).split())
        raise StoreError(
            f"cannot write {work.target}: {found}; make sure that its folder and {work.folder.parent} are"
            " writable and have room, then run this stage again"
        ) from error


@dataclass(frozen=True, slots=True)
class _Cut:
    """One square of a product, compressed."""

    levels: list[list[bytes]]
    """Blocks, row by row, at full resolution and in the overviews of which the square holds whole blocks."""
    rest: npt.NDArray[Any] | None
    """Its pixels in the next overview, if there is one."""
    counts: list[int]
    """Pixels of each number that is counted."""


@dataclass(frozen=True, slots=True)
class _Level:
    """Where the compressed blocks of a level are in the scratch file; (rows, cols) of blocks."""

    shape: tuple[int, int]
    """(rows, cols) in pixels."""
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.uint32]
    checksums: npt.NDArray[np.uint32]
    """CRC-32."""

    @classmethod
    def of(cls, shape: tuple[int, int], block: int) -> _Level:
        rows, cols = (-(-side // block) for side in shape)
        empty = np.zeros((rows, cols), np.uint32)
        return cls(shape, np.zeros((rows, cols), np.int64), empty, empty.copy())


@dataclass(slots=True)
class _Strip:
    """The rows of a level that wait until its blocks are complete.

    With blocks of 512 px all strips together hold 128 pixels for every column of the scene: they are the only thing
    here, beside a few numbers a block, that grows with it.
    """

    pixels: npt.NDArray[Any]
    """(block, cols)."""
    filled: int = 0
    """Rows that are there."""
    first: int = 0
    """Row of blocks that they belong to."""


class _Assembler:
    """Makes one product from its squares. :meth:`cut` may run on many threads, the rest on one."""

    def __init__(self, work: _Work, product: _Product, options: CogOptions, side: int) -> None:
        block = options.block_size
        rows, cols = product.geobox.shape
        shapes = [(rows, cols), *level_shapes((rows, cols), block)]
        self.counts = [0] * len(product.counted)
        self._work, self._product, self._options = work, product, options
        self._levels = [_Level.of(shape, block) for shape in shapes]
        self._whole = min((side // block).bit_length(), len(shapes))
        """Levels of which a square holds whole blocks."""
        self._strips = {
            number: _Strip(np.zeros((block, cols), product.dtype))
            for number, (_, cols) in enumerate(shapes)
            if number >= self._whole
        }
        self._constant: dict[bytes, bytes] = {}
        self._end = 0
        with _writing(work):
            full, *overview = _directories(work, product, options, overviews=len(shapes) > 1)
            self._directories = [full] + [directory for directory in overview for _ in shapes[1:]]
            self._scratch: BinaryIO = (work.folder / "blocks").open("w+b")

    def close(self) -> None:
        """Let go of the scratch file, whose end nobody needs any more: errors were told when it was read."""
        with suppress(OSError):
            self._scratch.close()

    def cut(self, stored: StoredArray) -> _Cut:
        """Pool and compress a square of probabilities, as it is on the grid."""
        block, product, depth = self._options.block_size, self._product, len(self._levels)
        shape = stored.shape[0], stored.shape[1]
        numbers = [math.prod(-(-side // (block << level)) for side in shape) for level in range(self._whole)]
        # All in one: a TIFF in memory takes a millisecond, however few blocks it holds.
        tiles = np.empty((sum(numbers), block, block), product.dtype)
        starts = [0, *itertools.accumulate(numbers)]
        counts = [0] * len(product.counted)
        half: npt.NDArray[Any] = np.empty([(side + 1) // 2 for side in shape], product.dtype)
        # Block by block, so that what comes and goes stays in the processor's cache.
        for tile, box in zip(tiles, blocks(shape, block), strict=False):
            pixels = product.pixels(stored[box.slices])
            _fill(tile[None], pixels)
            for position, value in enumerate(product.counted):
                counts[position] += int(np.count_nonzero(pixels == value))
            if depth > 1:
                half[box.y0 // 2 : (box.y1 + 1) // 2, box.x0 // 2 : (box.x1 + 1) // 2] = product.halve(pixels)
        for level in range(1, self._whole):
            _fill(tiles[starts[level] : starts[level + 1]], half)
            if level + 1 < depth:
                half = product.halve(half)
        packed = self._packed(tiles)
        levels = [packed[start:end] for start, end in itertools.pairwise(starts)]
        return _Cut(levels, half if self._whole < depth else None, counts)

    def take(self, box: Box, cut: _Cut) -> None:
        """Store the next square; they come row by row."""
        self.counts = [sum(pair) for pair in zip(self.counts, cut.counts, strict=True)]
        block = self._options.block_size
        for number, tiles in enumerate(cut.levels):
            cols = -(-(box.x1 - box.x0) // (block << number))
            self._put(number, (box.y0 >> number) // block, (box.x0 >> number) // block, cols, tiles)
        if cut.rest is not None:
            strip = self._strips[self._whole]
            x = box.x0 >> self._whole
            rows, cols = cut.rest.shape
            strip.pixels[strip.filled : strip.filled + rows, x : x + cols] = cut.rest
            if box.x1 == self._product.geobox.shape[1]:
                self._grow(self._whole, rows)

    def finish(self) -> None:
        """Copy the blocks into the product in their order, and read back what is on the disk."""
        levels = [
            (directory, level.shape, level.sizes.ravel())
            for directory, level in zip(self._directories, self._levels, strict=True)
        ]
        with _writing(self._work):
            head = tiff.lay_out(levels, self._options.block_size)
            self._scratch.flush()
            with self._work.part.open("xb") as file:
                file.write(head)
                for level in reversed(self._levels):
                    for row in zip(level.offsets, level.sizes, strict=True):
                        file.write(
                            b"".join(map(tiff.framed, itertools.starmap(self._tile, zip(*row, strict=True))))
                        )
                file.flush()
                os.fsync(file.fileno())
            self._verify(head)

    def _tile(self, offset: np.int64, size: np.uint32) -> bytes:
        return os.pread(self._scratch.fileno(), int(size), int(offset))

    def _verify(self, head: bytes) -> None:
        """Refuse a product with other bytes than were handed over: a disk may be full, or lie."""
        with self._work.part.open("rb") as file:
            same = file.read(len(head)) == head
            for level in reversed(self._levels):
                for size, checksum in zip(level.sizes.flat, level.checksums.flat, strict=True):
                    block = file.read(tiff.LEADER + int(size) + tiff.TRAILER)
                    tile = block[tiff.LEADER : -tiff.TRAILER]
                    same = same and zlib.crc32(tile) == checksum and block == tiff.framed(tile)
            if not same or file.read(1):
                raise OSError("the blocks read back are not those written")

    def _packed(self, blocks: npt.NDArray[Any]) -> list[bytes]:
        """Compressed (number, block, block) blocks."""
        tiles = blocks.reshape(len(blocks), -1)
        # Bit by bit: NaN equals itself.
        bits = tiles.view(f"u{tiles.itemsize}")
        low, high = bits.min(axis=1), bits.max(axis=1)
        packed = [self._constant.get(tile[:1].tobytes()) if one == other else None
                  for tile, one, other in zip(tiles, low, high, strict=True)]  # fmt: skip
        wanted = [number for number, tile in enumerate(packed) if tile is None]
        if wanted:
            several = tiles if len(wanted) == len(tiles) else tiles[wanted]
            with _writing(self._work):
                made = _compressed(several, self._product, self._options)
            for number, tile in zip(wanted, made, strict=True):
                packed[number] = tile
                if low[number] == high[number]:
                    self._constant[tiles[number, :1].tobytes()] = tile
        return [tile for tile in packed if tile is not None]

    def _put(self, number: int, row: int, col: int, cols: int, tiles: Sequence[bytes]) -> None:
        """Put blocks aside: ``cols`` side by side, from block (row, col) of a level."""
        level = self._levels[number]
        for place, tile in enumerate(tiles):
            index = row + place // cols, col + place % cols
            level.offsets[index], level.sizes[index] = self._end, len(tile)
            level.checksums[index] = zlib.crc32(tile)
            self._end += len(tile)
        with _writing(self._work):
            self._scratch.write(b"".join(tiles))

    def _grow(self, number: int, rows: int) -> None:
        """So many rows more are there in a strip: pass it on once it is full, or its level ends."""
        strip, level = self._strips[number], self._levels[number]
        strip.filled += rows
        if strip.first * len(strip.pixels) + strip.filled < level.shape[0] and strip.filled < len(
            strip.pixels
        ):
            return
        pixels = strip.pixels[: strip.filled]
        cols, block = level.sizes.shape[1], self._options.block_size
        tiles = np.empty((cols, block, block), self._product.dtype)
        _fill(tiles, pixels)
        self._put(number, strip.first, 0, cols, self._packed(tiles))
        strip.first += 1
        strip.filled = 0
        if number + 1 < len(self._levels):
            halved = self._product.halve(pixels)
            following = self._strips[number + 1]
            following.pixels[following.filled : following.filled + len(halved)] = halved
            self._grow(number + 1, len(halved))


def _fill(tiles: npt.NDArray[Any], pixels: npt.NDArray[Any]) -> None:
    """Cut (rows, cols) pixels into (number, block, block) blocks, row by row. What is beyond repeats the edge."""
    block = tiles.shape[1]
    missing = [(0, -side % block) for side in pixels.shape]
    if missing != [(0, 0), (0, 0)]:
        pixels = np.pad(pixels, missing, mode="edge")
    rows, cols = (side // block for side in pixels.shape)
    tiles.reshape(rows, cols, block, block)[:] = pixels.reshape(rows, block, cols, block).swapaxes(1, 2)


def _compressed(tiles: npt.NDArray[Any], product: _Product, options: CogOptions) -> list[bytes]:
    """(number, block * block) blocks as they stand in the file."""
    block = options.block_size
    if options.compression == "deflate" and product.dtype == np.uint8:
        return _deflated(tiles.reshape(-1, block, block), product.predictor == "YES")
    predictor = {"NO": 1, "YES": 2 if product.dtype == np.uint8 else 3}[product.predictor]
    level = {"deflate": "zlevel", "zstd": "zstd_level"}[options.compression]
    # Nobody reads the transform; without one rasterio warns of a raster without georeference.
    place = Affine.scale(2.0)
    with _gdal(), MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=len(tiles) * block, width=block, count=1, dtype=product.dtype, tiled=True,
            blockxsize=block, blockysize=block, compress=options.compression, predictor=predictor,
            transform=place, bigtiff="IF_SAFER", **{level: LEVEL[options.compression]},
        ) as raster:  # fmt: skip
            raster.write(tiles.reshape(-1, block), 1)
        return tiff.tile_bytes(memoryview(memory.getbuffer()))


def _deflated(tiles: npt.NDArray[np.uint8], differences: bool) -> list[bytes]:
    """(number, block, block) bytes, as GDAL would pack them, in less than half of its time.

    Args:
        tiles: the blocks.
        differences: each number as its difference from the one to the left of it: TIFF 6.0, section 14.
    """
    packed: list[bytes] = []
    room = np.empty_like(tiles[0])
    for tile in tiles:
        if differences:
            room[:, 0] = tile[:, 0]
            np.subtract(tile[:, 1:], tile[:, :-1], out=room[:, 1:])
        packed.append(isal_zlib.compress((room if differences else tile).data, ISAL_LEVEL))
    return packed


def _gdal() -> rasterio.Env:
    # A session of its own: with keys in the environment rasterio would make one of boto3's at every step.
    return rasterio.Env(DummySession(), GDAL_CACHEMAX=CACHE_BYTES)


def _directories(
    work: _Work, product: _Product, options: CogOptions, overviews: bool
) -> list[tiff.Directory]:
    """What GDAL writes of full resolution and, if wanted, of an overview, in a file of a few pixels.

    What it puts beside that file goes beside the product.
    """
    vrt, small = work.folder / "product.vrt", work.folder / "product.tif"
    vrt.write_bytes(ElementTree.tostring(_vrt(product), encoding="utf-8"))
    noted = {"OVERVIEW_RESAMPLING": product.resampling} if product.resampling else {}
    # CPL_TMPDIR: the driver keeps the overviews it makes there.
    with _gdal(), rasterio.Env(CPL_TMPDIR=str(work.folder)):
        rasterio.shutil.copy(
            str(vrt),
            str(small),
            driver="COG",
            COMPRESS=options.compression,
            BLOCKSIZE=options.block_size,
            PREDICTOR=product.predictor,
            OVERVIEWS="AUTO" if overviews else "NONE",
            OVERVIEW_COUNT=int(overviews),
            **noted,
        )
    if _sidecar(small).exists():
        beside = _sidecar(small).read_bytes()
        try:
            # GDAL wrote it just now; what is asked is whether all of it.
            ElementTree.fromstring(beside)  # noqa: S314
        except ElementTree.ParseError as error:
            raise OSError(f"{_sidecar(small)} is cut short") from error
        _sidecar(work.part).write_bytes(beside)
    return tiff.directories(small.read_bytes())


def _vrt(product: _Product) -> ElementTree.Element:
    """Describe a product of a few empty pixels in GDAL's XML."""
    geobox, is_byte = product.geobox, product.dtype == np.uint8
    root = ElementTree.Element("VRTDataset", rasterXSize="4", rasterYSize="4")
    if geobox.crs is not None:
        _add(root, "SRS", geobox.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(repr(float(number)) for number in geobox.affine.to_gdal()))
    metadata = _add(root, "Metadata")
    for key in sorted(product.tags):
        _add(metadata, "MDI", product.tags[key], key=key)
    band = _add(root, "VRTRasterBand", dataType="Byte" if is_byte else "Float32", band="1")
    _add(band, "Description", product.description)
    _add(band, "NoDataValue", str(NODATA_BYTE) if is_byte else "nan")
    if product.scale is not None:
        _add(band, "Offset", "0.0")
        _add(band, "Scale", repr(product.scale))
    if product.colors is not None:
        _add(band, "ColorInterp", "Palette")
        table = _add(band, "ColorTable")
        for value in range(256):
            red, green, blue, alpha = (str(part) for part in product.colors.get(value, (0, 0, 0, 255)))
            _add(table, "Entry", c1=red, c2=green, c3=blue, c4=alpha)
    return root


def _add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name, attributes)
    element.text = text
    return element
