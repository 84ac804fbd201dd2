"""Change classes and probabilities as cloud-optimised GeoTIFFs, both in one pass over the source.

The pyramid is pooled from blocks in passing (``assembly``), blocks are compressed once (``compression``) and wait in a
scratch file, and the product is their copy in the order of a COG (``spool``, ``tiff``), under directories that GDAL
wrote for a few pixels (``template``). The COG driver itself compresses every pixel twice, and GDAL has no overview
resampling that keeps a single changed pixel (``mode`` and ``nearest`` lose it, ``average`` means nothing for classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

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
]

IN_FLIGHT = 20_000_000
"""Bytes of source pixels in work at the same time. Bounds the threads, and through them the memory: a thread needs
about seven times its square."""


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
    """Write rasters in one pass.

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
    with ExitStack() as stack:
        files = []
        for raster in rasters:
            work = stack.enter_context(workspace(raster.path, scratch))
            file = Assembler(work, raster.product(geobox, source.dtype), options, side)
            files.append(stack.enter_context(closing(file)))

        def compress(box: Box) -> list[CompressedSquare]:
            stored = source.read(box)
            return [file.compress(stored) for file in files]

        for box, squares in in_order(compress, blocks(shape, side), threads, "ussfc-mosaic"):
            for file, compressed in zip(files, squares, strict=True):
                file.take(box, compressed)
            subscriber(Advanced("mosaic", 1, box.pixels))
        for file in files:
            file.finish()
    counts = [file.counts for file in files if file.counts]
    return ClassCounts(*counts[0]) if counts else None
