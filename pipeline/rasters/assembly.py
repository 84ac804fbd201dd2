"""One raster made from squares of probabilities: pixels, pyramid and compressed blocks, in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.pixels.pyramid import level_shapes
from ussfc.pipeline.rasters.compression import BlockCompressor, CogOptions
from ussfc.pipeline.rasters.kinds import Product
from ussfc.pipeline.rasters.spool import BlockSpool
from ussfc.pipeline.rasters.template import template_directories
from ussfc.pipeline.rasters.workspace import Workspace
from ussfc.pipeline.types import Box, StoredArray, blocks


@dataclass(frozen=True, slots=True)
class CompressedSquare:
    """One square of a raster."""

    levels: Sequence[Sequence[bytes | memoryview]]
    """Blocks, row by row, at full resolution and in the overviews of which the square holds whole blocks."""
    rest: npt.NDArray[Any] | None
    """Its pixels in the next overview, if there is one."""
    counts: list[int]
    """Pixels of each value that is counted."""


@dataclass(slots=True)
class Strip:
    """The rows of a level that wait until its blocks are complete.

    With blocks of 512 px all strips together hold 128 pixels for every column of the scene: they are the only thing
    here, beside a few numbers a block, that grows with it.
    """

    pixels: npt.NDArray[Any]
    """(block, cols)."""
    filled: int = 0
    """Number of rows that are there."""
    first: int = 0
    """Row of blocks that they belong to."""


class SquareCompressor:
    """Makes the blocks of one raster from its squares; safe to use from several threads."""

    def __init__(self, product: Product, options: CogOptions, side: int) -> None:
        """Prepare for squares of one side.

        Args:
            product: the raster.
            options: compression and side of the blocks.
            side: side of the squares, pixels: a power of two times the block.
        """
        self._product, self._block = product, options.block_size
        self.shapes = pyramid_shapes(product, options)
        """(rows, cols) of the levels, full resolution first."""
        self.whole = min((side // self._block).bit_length(), len(self.shapes))
        """Levels of which a square holds whole blocks."""
        self._depth = len(self.shapes)
        self._compressor = BlockCompressor(product.dtype, product.predictor, options)

    def pack(self, blocks: npt.NDArray[Any]) -> list[bytes]:
        """Compress (number, block, block) pixels.

        Raises:
            rasterio.errors.RasterioError, SystemError, ValueError: GDAL failed.
        """
        return self._compressor.compress(blocks)

    def compress(self, stored: StoredArray) -> CompressedSquare:
        """Pool and compress a square.

        Args:
            stored: (rows, cols) probabilities, whole squares but at the right and the lower edge of the grid.

        Raises:
            rasterio.errors.RasterioError, SystemError, ValueError: GDAL failed.
        """
        block, product = self._block, self._product
        shape = stored.shape[0], stored.shape[1]
        numbers = [math.prod(-(-side // (block << level)) for side in shape) for level in range(self.whole)]
        # All in one: a TIFF in memory takes a millisecond, however few blocks it holds.
        cut = np.empty((sum(numbers), block, block), product.dtype)
        starts = [0, *itertools.accumulate(numbers)]
        counts, half = self._cut_full_resolution(stored, cut)
        for level in range(1, self.whole):
            _fill(cut[starts[level] : starts[level + 1]], half)
            if level + 1 < self._depth:
                half = product.halve(half)
        packed = self.pack(cut)
        levels = [packed[start:end] for start, end in itertools.pairwise(starts)]
        return CompressedSquare(levels, half if self.whole < self._depth else None, counts)

    def _cut_full_resolution(
        self, stored: StoredArray, cut: npt.NDArray[Any]
    ) -> tuple[list[int], npt.NDArray[Any]]:
        """Put the blocks of a square at the beginning of ``cut``; return counts and the next overview's pixels."""
        product = self._product
        shape = stored.shape[0], stored.shape[1]
        counts = [0] * len(product.counted)
        half: npt.NDArray[Any] = np.empty([(side + 1) // 2 for side in shape], product.dtype)
        # Block by block, so that what comes and goes stays in the processor's cache.
        for block, box in zip(cut, blocks(shape, self._block), strict=False):
            pixels = product.pixels(stored[box.slices])
            _fill(block[None], pixels)
            for position, value in enumerate(product.counted):
                counts[position] += int(np.count_nonzero(pixels == value))
            if self._depth > 1:
                half[box.y0 // 2 : (box.y1 + 1) // 2, box.x0 // 2 : (box.x1 + 1) // 2] = product.halve(pixels)
        return counts, half


class Assembler:
    """Puts one raster together from its squares, on one thread."""

    def __init__(self, work: Workspace, product: Product, options: CogOptions, side: int) -> None:
        """Prepare the scratch files.

        Args:
            work: where the raster is made.
            product: the raster.
            options: compression and side of the blocks.
            side: side of the squares, pixels: a power of two times the block.

        Raises:
            ussfc.pipeline.errors.StoreError: the scratch files cannot be written.
        """
        self.squares = SquareCompressor(product, options, side)
        """Makes the squares."""
        self.counts = [0] * len(product.counted)
        """Pixels of each value that is counted, so far."""
        self._work, self._product, self._block = work, product, options.block_size
        shapes = self.squares.shapes
        self._strips = {
            number: Strip(np.zeros((self._block, cols), product.dtype))
            for number, (_, cols) in enumerate(shapes)
            if number >= self.squares.whole
        }
        with work.writing():
            full, *overview = template_directories(work, product, options, overviews=len(shapes) > 1)
            self._directories = [full] + [directory for directory in overview for _ in shapes[1:]]
            self._spool = BlockSpool(work, shapes, self._block)

    def close(self) -> None:
        """Close the scratch file."""
        self._spool.close()

    def compress(self, stored: StoredArray) -> CompressedSquare:
        """Make a square of this raster, see :meth:`SquareCompressor.compress`; this may run on many threads.

        Raises:
            ussfc.pipeline.errors.StoreError: GDAL failed.
        """
        with self._work.writing():
            return self.squares.compress(stored)

    def take(self, box: Box, square: CompressedSquare) -> None:
        """Store the next square; they come row by row.

        Raises:
            ussfc.pipeline.errors.StoreError: the scratch file cannot be written, or GDAL failed.
        """
        self.counts = [sum(pair) for pair in zip(self.counts, square.counts, strict=True)]
        block = self._block
        for number, packed in enumerate(square.levels):
            cols = -(-(box.x1 - box.x0) // (block << number))
            self._spool.put(number, (box.y0 >> number) // block, (box.x0 >> number) // block, cols, packed)
        if square.rest is not None:
            whole = self.squares.whole
            strip, x = self._strips[whole], box.x0 >> whole
            rows, cols = square.rest.shape
            strip.pixels[strip.filled : strip.filled + rows, x : x + cols] = square.rest
            if box.x1 == self._product.geobox.shape[1]:
                self._grow(whole, rows)

    def finish(self) -> None:
        """Write the file and check it.

        Raises:
            ussfc.pipeline.errors.StoreError: it cannot be written, or the disk holds other bytes.
        """
        self._spool.assemble(self._directories)

    def _grow(self, number: int, rows: int) -> None:
        """Count ``rows`` more in a strip, and pass it on once it is full or its level ends."""
        strip, level = self._strips[number], self._spool.levels[number]
        strip.filled += rows
        ends = strip.first * len(strip.pixels) + strip.filled >= level.shape[0]
        if not ends and strip.filled < len(strip.pixels):
            return
        pixels = strip.pixels[: strip.filled]
        cols = level.sizes.shape[1]
        cut = np.empty((cols, self._block, self._block), self._product.dtype)
        _fill(cut, pixels)
        with self._work.writing():
            packed = self.squares.pack(cut)
        self._spool.put(number, strip.first, 0, cols, packed)
        strip.first += 1
        strip.filled = 0
        if number + 1 < len(self._spool.levels):
            halved = self._product.halve(pixels)
            following = self._strips[number + 1]
            following.pixels[following.filled : following.filled + len(halved)] = halved
            self._grow(number + 1, len(halved))


def pyramid_shapes(product: Product, options: CogOptions) -> list[tuple[int, int]]:
    """Return the (rows, cols) of all levels of a raster, full resolution first."""
    shape = int(product.geobox.shape[0]), int(product.geobox.shape[1])
    return [shape, *level_shapes(shape, options.block_size)]


def to_arrays(square: CompressedSquare) -> dict[str, npt.NDArray[Any]]:
    """Return a square as named arrays of numbers."""
    packed = list(itertools.chain.from_iterable(square.levels))
    return {
        "levels": np.array([len(level) for level in square.levels], np.int64),
        "sizes": np.array([len(block) for block in packed], np.int64),
        "blocks": np.frombuffer(b"".join(packed), np.uint8),
        "counts": np.array(square.counts, np.int64),
        **({} if square.rest is None else {"rest": square.rest}),
    }


def of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> CompressedSquare:
    """Return the square that :func:`to_arrays` took apart."""
    content = arrays["blocks"].data
    ends = [0, *np.cumsum(arrays["sizes"]).tolist()]
    packed = iter([content[start:end] for start, end in itertools.pairwise(ends)])
    levels = [list(itertools.islice(packed, count)) for count in arrays["levels"].tolist()]
    return CompressedSquare(levels, arrays.get("rest"), arrays["counts"].tolist())


def _fill(cut: npt.NDArray[Any], pixels: npt.NDArray[Any]) -> None:
    """Cut (rows, cols) pixels into (number, block, block) blocks, row by row; pixels beyond repeat the edge."""
    block = cut.shape[1]
    missing = [(0, -side % block) for side in pixels.shape]
    if missing != [(0, 0), (0, 0)]:
        pixels = np.pad(pixels, missing, mode="edge")
    rows, cols = (side // block for side in pixels.shape)
    cut.reshape(rows, cols, block, block)[:] = pixels.reshape(rows, block, cols, block).swapaxes(1, 2)
