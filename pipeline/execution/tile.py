"""From a tile to its chunk: compute it, encode it, write it."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.execution.errors import errors_of
from ussfc.pipeline.execution.square_job import Job, SquareJob, compute_square
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE, OpenRun, WorkerCache
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.storage.pixel_files import PixelFiles
from ussfc.pipeline.timeline import TileTimeline
from ussfc.pipeline.types import Index, Tile, TileResult


def compute_tile(
    job: TileJob,
    index: tuple[int, int],
    stop: threading.Event | None = None,
    cache: WorkerCache = PROCESS_CACHE,
    report: Callable[[float], None] | None = None,
) -> TileResult:
    """Compute one tile and write it to the store; every executor runs this.

    Args:
        job: the run.
        index: (row, column) of the tile.
        stop: when set, the tile is given up before its next batch.
        cache: of the process.
        report: receives the share of the tile that is computed, in [0, 1], now and then.

    Raises:
        TileCancelled: ``stop`` was set.
        TileError: it failed, for whatever reason; names the tile, its bounds and the cause.
        StoreError: the store cannot be used, which is no matter of this tile.
    """
    with errors_of(job.tile_name(index)):
        return _run_tile(job, job.plan.tile(index), cache.open_run(job), stop, report)


def compute_item(
    job: Job,
    index: Index,
    stop: threading.Event | None = None,
    cache: WorkerCache = PROCESS_CACHE,
    report: Callable[[float], None] | None = None,
) -> TileResult:
    """Compute a tile of the network's, or a square of the products', by the kind of the job.

    Args and errors are those of :func:`compute_tile` and of :func:`ussfc.pipeline.execution.square_job.compute_square`.
    """
    if isinstance(job, SquareJob):
        try:
            return compute_square(job, index, cache.open_squares)
        except StoreError:
            # A damaged tile is computed again, and this process must then see what is stored instead.
            cache.close_squares(job)
            raise
    return compute_tile(job, index, stop, cache, report)


def _run_tile(
    job: TileJob,
    tile: Tile,
    run: OpenRun,
    stop: threading.Event | None,
    report: Callable[[float], None] | None,
) -> TileResult:
    """Compute a tile of an open run, encode it and write it with its record, and what is kept of its pixels."""
    computed = run.computer.compute(tile, run.pair, stop, report)
    valid = int(computed.valid.sum())
    result = TileResult(tile.index, computed.patches, valid, computed.seconds, computed.masked)
    stored = encode(computed.probability, computed.valid, run.store.dtype)
    begun, start = time.time(), time.perf_counter()
    checksum = run.store.write(tile.core, stored, result)
    if job.keeping is not None and computed.pixels is not None:
        kept = job.keeping.choose(stored, *computed.pixels)
        if kept is not None:
            # The tile is done without them, and a store that cannot be written is reported by the next one.
            with suppress(StoreError):
                PixelFiles(run.store.root, run.store.run).write(tile.index, checksum, kept)
    steps = (*computed.steps, ("write", begun, time.perf_counter() - start))
    process = f"{platform.node()} {os.getpid()}"
    timeline = TileTimeline(process, threading.get_native_id(), steps)
    return replace(result, timeline=timeline, checksum=checksum)
