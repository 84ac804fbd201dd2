"""Arithmetic of overviews: levels, and the rules by which a raster is halved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.types import NODATA_BYTE, ByteArray, StoredArray

READ_SIZE = 2048
"""Usual side of the squares in which a source is read, pixels: see :func:`square`."""

LARGEST_SQUARE = 4096
"""The same for sources with larger chunks, or files with larger blocks."""

LARGEST_LAST_LEVEL = 512
"""Largest side of the last overview, pixels, however large the blocks: strict validation asks for it."""


def square(block_size: int, chunk: int = 1) -> int:
    """Return the side of the squares in which a source is read, each once.

    A power of two times the block: every square then holds whole blocks of the file at full resolution and in as
    many overviews as possible. About :data:`READ_SIZE`, more where that avoids decoding chunks of the source twice.

    Args:
        block_size: side of a block of the file, pixels.
        chunk: side of a chunk of the source, pixels.

    Returns:
        Pixels.
    """
    usual, most = max(READ_SIZE, min(4 * block_size, LARGEST_SQUARE)), max(block_size, LARGEST_SQUARE)
    sides = [block_size << (limit // block_size).bit_length() - 1 for limit in (usual, most)]
    return next((side for side in sides if side % chunk == 0), sides[-1])


def level_shapes(shape: tuple[int, int], block_size: int) -> list[tuple[int, int]]:
    """Return the (rows, cols) of the overviews, largest first: halved, rounded up, until one block holds the raster."""
    shapes = []
    while max(shape) > min(block_size, LARGEST_LAST_LEVEL):
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        shapes.append(shape)
    return shapes


def pool(classes: ByteArray) -> ByteArray:
    """Halve a class raster so that change survives.

    Args:
        classes: (rows, cols) uint8 of 0, 1 and 255.

    Returns:
        (ceil(rows / 2), ceil(cols / 2)): of every 2 x 2 pixels 1 if any is 1, else 0 if any is 0, else 255.
    """
    # With a sign nodata is -1, below no change and change: then it is a maximum.
    ranks = _pad_to_even(classes, NODATA_BYTE).view(np.int8)
    rows = np.maximum(ranks[0::2], ranks[1::2])
    pooled: ByteArray = np.maximum(rows[:, 0::2], rows[:, 1::2]).view(np.uint8)
    return pooled


def average(stored: StoredArray) -> StoredArray:
    """Halve a probability raster, rounding bytes to the nearest level, halves up: GDAL's AVERAGE.

    Args:
        stored: (rows, cols) as :func:`ussfc.pipeline.pixels.encoding.encode` writes them, each row contiguous.

    Returns:
        (ceil(rows / 2), ceil(cols / 2)): the mean of the valid ones among every 2 x 2 pixels, else nodata.
    """
    if stored.dtype != np.uint8:
        real = _pad_to_even(stored, np.nan)
        valid = ~np.isnan(real)
        total, count = _sums(np.where(valid, real, 0).astype(np.float64)), _sums(valid.astype(np.float64))
        mean = np.full(total.shape, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean.astype(np.float32)
    levels = _pad_to_even(stored, NODATA_BYTE)
    if levels.max(initial=0) < NODATA_BYTE:
        means = _byte_sums(levels)
        means += np.uint16(2)
        means >>= np.uint16(2)
        return means.astype(np.uint8)
    valid = levels != NODATA_BYTE
    # The number of valid pixels stands above the sum, at most 4 * 254, in one number.
    return MEANS[_byte_sums(levels * valid) | (_byte_sums(valid.view(np.uint8)) << np.uint16(10))]


def _pad_to_even(pixels: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
    """Append a row and a column of ``fill`` where their number is odd."""
    odd = [(0, side % 2) for side in pixels.shape]
    return np.pad(pixels, odd, constant_values=fill) if odd != [(0, 0), (0, 0)] else pixels


def _byte_sums(levels: ByteArray) -> npt.NDArray[np.uint16]:
    """Return the sums of every 2 x 2 pixels of a byte raster with even sides."""
    # Neighbours as one number of twice the width: columns two apart are slow to gather.
    pairs = levels.view(np.uint16)
    low, half = np.uint16(0xFF), np.uint16(8)
    sums, others = pairs[0::2] & low, pairs[0::2] >> half
    sums += others
    sums += np.bitwise_and(pairs[1::2], low, out=others)
    sums += np.right_shift(pairs[1::2], half, out=others)
    return sums


def _sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums of every 2 x 2 pixels of a float raster with even sides."""
    rows = values[0::2] + values[1::2]
    sums: npt.NDArray[np.float64] = rows[:, 0::2] + rows[:, 1::2]
    return sums


def _mean_table() -> ByteArray:
    count, total = np.divmod(np.arange(5 << 10), 1 << 10)
    means = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, means, NODATA_BYTE).astype(np.uint8)


MEANS = _mean_table()
"""(5 * 1024,) mean level at index ``1024 * count + sum``; nodata where the count is 0."""
