"""The interface of an executor, and the fate of a tile that failed, which all executors share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from ussfc.pipeline.errors import PipelineError, StoreError, TileError
from ussfc.pipeline.execution.errors import WorkersLostError, unrunnable_error
from ussfc.pipeline.execution.follow_ups import FollowUps
from ussfc.pipeline.execution.square_job import Job
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import Index, TileFailure, TileResult

Answer = TypeVar("Answer")

TILE_BACKOFF = Backoff(attempts=4, first=2, factor=4, longest=60)
"""Attempts of a tile where the caller does not choose."""


class Executor(Protocol):
    """Runs :func:`ussfc.pipeline.execution.tile.compute_item` over tiles, in any order."""

    @property
    def worker_count(self) -> int:
        """Number of workers that are expected, each of which best walks tiles that lie side by side."""

    def run(
        self,
        job: Job,
        indices: Iterable[Index],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
        on_pixels: Callable[[int], None] | None = None,
        follow_ups: FollowUps | None = None,
    ) -> None:
        """Compute all tiles; every one ends in one call of one of the two functions.

        Args:
            job: the run.
            indices: the tiles, taken only a few ahead.
            on_result: receives every computed tile.
            on_failure: receives every tile that kept failing. An error that either function raises ends the run and
                passes as it is.
            on_pixels: receives the pixels of unfinished tiles that were computed since its last call; they are taken
                back, as a negative number, when their tile ends.
            follow_ups: squares that are made in passing; one that fails is left to the products.

        Raises:
            StoreError: the store could not be used, again and again.
            ClusterError: scheduler or workers cannot be used, or stayed away for too long.
        """

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """Return the answer of a function on each worker that is there.

        The first worker is waited for, others for a minute.

        Raises:
            ClusterError: scheduler or workers cannot be used.
        """


def handle_failure(
    schedule: Schedule,
    job: Job,
    index: Index,
    error: Exception,
    on_failure: Callable[[TileFailure], None],
) -> None:
    """Have a tile tried again; after its last attempt report it, or end the run if the fault is not its own.

    Raises:
        StoreError: that was the last attempt, or none could help, and the store could not be used.
        TileError: no attempt could help any tile.
        ClusterError: that was the last attempt, and the tile could not be run at all.
    """
    if isinstance(error, PipelineError) and error.permanent:
        raise error
    record = schedule.crashed if isinstance(error, WorkersLostError) else schedule.failed
    attempts = record(index)
    if attempts is None:
        return
    if isinstance(error, TileError):
        on_failure(TileFailure(index, job.plan.core(index), str(error), attempts))
    elif isinstance(error, StoreError):
        raise error
    else:
        # It never came to compute_tile, which raises nothing else.
        raise unrunnable_error(error) from error
