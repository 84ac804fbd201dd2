"""Squares of the products on the executor of a run: made by its workers, put in order here."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ussfc.pipeline.clusters.select import select_cluster
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import PipelineError, StoreError
from ussfc.pipeline.events import Advanced, Subscriber
from ussfc.pipeline.execution.square_job import OpenSquares, SquareJob, of_kind
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.pyramid import READ_SIZE
from ussfc.pipeline.runs.manifest import ProductKey
from ussfc.pipeline.runs.stages import scratch_folder, stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.storage.square_files import Arrays
from ussfc.pipeline.types import Box, Index, TileFailure, TileResult

if TYPE_CHECKING:
    from ussfc.pipeline.execution.executor import Executor
    from ussfc.pipeline.polygons.blocks import BlockRegions
    from ussfc.pipeline.rasters.assembly import CompressedSquare

STAGE = "squares"
"""Name of the stage in events."""

READERS = 4
"""Files of squares that are read at the same time."""

Workers = Callable[[], "Executor | None"]
"""Returns the executor whose workers make squares, starting it; None where this process makes them."""


def no_workers() -> None:
    """Return no executor."""


def start_workers(
    out: Folder, config: RunConfig, shape: tuple[int, int], subscriber: Subscriber, stack: ExitStack
) -> Workers:
    """Return the function that starts the workers of a configuration once, where a grid is worth any.

    Args:
        out: output folder.
        config: names the cluster; ``auto`` is processes of this machine where it has many cores.
        shape: (rows, cols) of the grid.
        subscriber: receives the notices about workers.
        stack: ends them.
    """

    @functools.cache
    def start() -> Executor | None:
        import ussfc
        from ussfc.pipeline.execution.dask_executor import DaskExecutor

        rows, cols = (-(-side // READ_SIZE) for side in shape)
        cluster = select_cluster(config.cluster, rows * cols, False, ussfc.gpus).cluster
        if cluster is None:
            return None
        scratch = stack.enter_context(scratch_folder(out, config, layout.DASK_SCRATCH))
        backoff = Backoff(attempts=config.compute.retries + 1)
        return stack.enter_context(DaskExecutor(cluster, scratch, backoff, subscriber))

    return start


def bytes_key(key: ProductKey) -> dict[str, Any]:
    """Return the part of a product's key that decides the bytes of a square beside its probabilities."""
    return {name: value for name, value in key.dump().items() if name not in ("content", "tags")}


def make_squares(
    executor: Executor,
    job: SquareJob,
    subscriber: Subscriber,
    error: type[PipelineError] = StoreError,
) -> None:
    """Have those squares made that are not there yet.

    Args:
        executor: of the run.
        job: the squares.
        subscriber: receives the events of the stage, and the moments of its steps.
        error: raised where a square keeps failing.

    Raises:
        StoreError: the store cannot be used; DamagedTiles where it holds other pixels than were written.
    """

    def on_result(result: TileResult) -> None:
        subscriber(Advanced(STAGE, 1, job.plan.core(result.index).pixels, result.timeline))

    def on_failure(failure: TileFailure) -> None:
        raise error(f"{failure.error} (tried {failure.attempts} times); run the same command again")

    present = job.files.present()
    missing = [index for index in job.plan.indices(executor.worker_count) if index not in present]
    if not missing:
        # Workers whose time is over are not waited for.
        return
    pixels = sum(job.plan.core(index).pixels for index in missing)
    with stage_clock(STAGE, len(missing), pixels, subscriber):
        executor.run(job, missing, on_result, on_failure)


def squares_of(job: SquareJob, store: ProbabilityStore) -> Iterator[tuple[Box, list[CompressedSquare]]]:
    """Yield the squares of the rasters, row by row, those of the classes first; see :func:`read_squares`."""
    from ussfc.pipeline.rasters.assembly import of_arrays

    for box, arrays in read_squares(job, store):
        kinds = [kind for kind in ("change", "probability") if f"{kind}.sizes" in arrays]
        yield box, [of_arrays(of_kind(arrays, kind)) for kind in kinds]


def regions_of(job: SquareJob, store: ProbabilityStore) -> Iterator[tuple[Box, BlockRegions]]:
    """Yield the regions of the squares, row by row; see :func:`read_squares`."""
    from ussfc.pipeline.polygons.blocks import of_arrays

    for box, arrays in read_squares(job, store):
        yield box, of_arrays(of_kind(arrays, "regions"))


def read_squares(job: SquareJob, store: ProbabilityStore) -> Iterator[tuple[Box, Arrays]]:
    """Yield the squares row by row; one that is not there, damaged, or made of other tiles is made here.

    Raises:
        StoreError: the folder cannot be read.
    """
    present, opening = job.files.present(), threading.Lock()
    opened = functools.cache(lambda: OpenSquares(job))

    def read(index: Index) -> Arrays:
        origin = job.origin(store, job.plan.core(index))
        found = job.files.read(index, origin) if index in present else None
        if found is None:
            with opening:
                squares = opened()
            return squares.arrays(index)
        return found

    rows, cols = job.plan.tiles_shape
    indices = ((row, col) for row in range(rows) for col in range(cols))
    for index, arrays in in_order(read, indices, READERS, "ussfc-squares"):
        yield job.plan.core(index), arrays
