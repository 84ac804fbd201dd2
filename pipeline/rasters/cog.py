"""Change classes and probabilities as cloud-optimised GeoTIFFs, both in one pass over the source.

The pyramid is pooled from blocks in passing (``assembly``), blocks are compressed once (``compression``) and wait in a
scratch file, and the product is their copy in the order of a COG (``spool``, ``tiff``), under directories that GDAL
wrote for a few pixels (``template``). The COG driver itself compresses every pixel twice, and GDAL has no overview
resampling that keeps a single changed pixel (``mode`` and ``nearest`` lose it, ``average`` means nothing for classes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from ussfc.pipeline.events import Advanced, Subscriber, ignore
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.pyramid import square
from ussfc.pipeline.rasters.assembly import Assembler, CompressedSquare
from ussfc.pipeline.rasters.compression import CogOptions
from ussfc.pipeline.rasters.kinds import ChangeRaster, ProbabilityRaster
from ussfc.pipeline.rasters.workspace import workspace
from ussfc.pipeline.types import Box, ProbabilitySource, blocks

__all__ = [
    "ChangeRaster",
    "ClassCounts",
    "CogOptions",
    "ProbabilityRaster",
    "write",
    "write_squares",
]

IN_FLIGHT = 20_000_000
"""Bytes of source pixels in work at the same time. Bounds the threads, and through them the memory: a thread needs
about seven times its square."""

Squares = Iterable[tuple[Box, Sequence[CompressedSquare]]]
"""Squares of the grid, each with one for every raster."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Pixels of each class at full resolution."""

    unchanged: int
    changed: int
    nodata: int


def write(
    source: ProbabilitySource,
    geobox: GeoBox,
    rasters: Sequence[ChangeRaster | ProbabilityRaster],
    scratch: Path,
    options: CogOptions,
    subscriber: Subscriber = ignore,
    chunk: int = 1,
) -> ClassCounts | None:
    """Make all squares of rasters in one pass, and write these.

    Args:
        source: (rows, cols) probabilities on ``geobox``; read from ``options.threads`` threads.
        geobox: the grid; with ``crs`` None the files have no reference system.
        rasters: what to write, at most one of each kind.
        scratch: a folder on a disk with room for the files; what is put there is removed again.
        options: how the files are compressed.
        subscriber: receives one ``Advanced`` for every square read,
            :func:`ussfc.pipeline.pixels.pyramid.square` pixels a side.
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
    # One more than there are cores to compress on: while one waits for its square, the others are busy.
    threads = options.threads + (options.threads > 1)
    threads = max(1, min(threads, IN_FLIGHT // (side**2 * source.dtype.itemsize)))

    def squares(files: Sequence[Assembler]) -> Squares:
        def compress(box: Box) -> list[CompressedSquare]:
            stored = source.read(box)
            return [file.compress(stored) for file in files]

        return in_order(compress, blocks(shape, side), threads, "ussfc-mosaic")

    return write_squares(squares, geobox, source.dtype, rasters, scratch, options, side, subscriber)


def write_squares(
    squares: Callable[[Sequence[Assembler]], Squares],
    geobox: GeoBox,
    dtype: np.dtype[Any],
    rasters: Sequence[ChangeRaster | ProbabilityRaster],
    scratch: Path,
    options: CogOptions,
    side: int,
    subscriber: Subscriber = ignore,
) -> ClassCounts | None:
    """Write rasters from their squares; see :func:`write`.

    Args:
        squares: returns the squares of the grid, row by row, each with one for every raster; called with what
            puts these together.
        geobox: the grid.
        dtype: of the probabilities.
        rasters: what to write.
        scratch: a folder on a disk with room for the files.
        options: how the files are compressed.
        side: side of the squares, pixels.
        subscriber: receives one ``Advanced`` for every square.
    """
    with ExitStack() as stack:
        files = []
        for raster in rasters:
            work = stack.enter_context(workspace(raster.path, scratch))
            file = Assembler(work, raster.product(geobox, dtype), options, side)
            files.append(stack.enter_context(closing(file)))
        for box, made in squares(files):
            for file, compressed in zip(files, made, strict=True):
                file.take(box, compressed)
            subscriber(Advanced("mosaic", 1, box.pixels))
        for file in files:
            file.finish()
    counts = [file.counts for file in files if file.counts]
    return ClassCounts(*counts[0]) if counts else None
