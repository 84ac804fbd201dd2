"""Functions that Dask calls on workers, and the reports that come back."""

from __future__ import annotations

import functools
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import psutil

from ussfc.pipeline.clusters.base import JOB_END
from ussfc.pipeline.errors import PipelineError, StoreError, TileError
from ussfc.pipeline.execution.follow_ups import ReadySquare, make_ready
from ussfc.pipeline.execution.square_job import Job, SquareJob
from ussfc.pipeline.execution.tile import compute_item
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE, WorkerCache
from ussfc.pipeline.types import Index, TileResult

ENDING_FACTOR, ENDING_SECONDS = 1.5, 2.0
"""Margin of a worker whose time is limited, as a factor of its longest tile so far and as seconds: it begins no tile
unless its time lasts for that."""

PROGRESS_TOPIC = "ussfc-progress"
"""Dask's topic of the events that workers send while they compute a tile: key of the run, row and column of the tile,
and its share that is computed."""

VERSIONS = ("ussfc", "torch", "zarr")
"""Distributions of which everything that takes part must have the same version: they move bytes, or write them."""


@dataclass(frozen=True)
class NotTried:
    """Outcome of a tile that a worker gave back: its time is nearly over, or it is unfit."""


@dataclass(frozen=True)
class TaskReport:
    """The answer of a task."""

    worker: str
    """Address of the worker."""
    outcomes: tuple[TileResult | TileError | StoreError | NotTried, ...]
    """One for each tile."""
    unfit: str | None = None
    """Reason why this worker can compute no tile at all."""
    ending: bool = False
    """True if the worker has too little time left for another tile."""
    seconds: float = 0.0
    """Seconds of a tile, on average; 0: none was computed."""


class Pace:
    """The moments at which a process sends progress, whatever the number of its threads and tasks."""

    def __init__(self) -> None:
        """Be due at once."""
        self._next = -math.inf

    def due(self, seconds: float) -> bool:
        """Return whether so many seconds have passed since this was last true."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + seconds
        return True


PROCESS_PACE = Pace()
"""The pace of this process."""


def compute_tiles(
    job: Job, expected: dict[str, str], indices: Sequence[Index], progress_seconds: float | None = None
) -> TaskReport:
    """Compute tiles on a worker, one after the other.

    Args:
        job: the run.
        expected: versions that this worker must have, see :func:`versions`.
        indices: the tiles.
        progress_seconds: distance of the events that show the client how much of a tile is computed; None: none.
    """
    from distributed import get_worker

    worker, cache = get_worker(), PROCESS_CACHE
    given_back = (NotTried(),) * len(indices)
    if versions() != expected:
        return TaskReport(worker.address, given_back, unfit=describe_difference(expected, versions()))
    start = time.monotonic()
    outcomes: list[TileResult | TileError | StoreError | NotTried] = []
    for index in indices:
        left = _seconds_left(worker)
        if left is not None and left < ENDING_FACTOR * cache.longest_tile + ENDING_SECONDS:
            # The worker that reports its end is dismissed.
            cache.wait_until_idle()
            rest = given_back[len(outcomes) :]
            return TaskReport(worker.address, (*outcomes, *rest), ending=True)
        try:
            with cache.tile_in_hand():
                send = _progress_sender(worker, job.key, index, progress_seconds)
                outcomes.append(compute_item(job, index, cache=cache, report=send))
        except (TileError, StoreError) as error:
            outcomes.append(error)
    return TaskReport(worker.address, tuple(outcomes), seconds=(time.monotonic() - start) / len(outcomes))


def _progress_sender(
    worker: Any, key: str, index: Index, seconds: float | None, pace: Pace = PROCESS_PACE
) -> Callable[[float], None] | None:
    """Return a function that sends the share of a tile to the client, but not too often; None: none is wanted."""
    if seconds is None:
        return None

    def send(share: float) -> None:
        if pace.due(seconds):
            # A worker that is closing has no loop any more: its tile may still end well.
            with suppress(RuntimeError):
                worker.log_event(PROGRESS_TOPIC, [key, *index, share])

    return send


def make_square(square: ReadySquare, expected: dict[str, str]) -> TileResult | None:
    """Make a square on a worker; None where that fails: the products make it then, and report what is wrong.

    Args:
        square: what is made.
        expected: versions that this worker must have, see :func:`versions`.
    """
    if versions() != expected:
        return None
    try:
        return make_ready(square)
    except PipelineError:
        return None


def check_worker(job: Job, probe: str, token: str) -> str | None:
    """Return the reason why a worker cannot compute a job, on that worker; None if it can.

    Args:
        job: the run.
        probe: name of a file that was just written to the store.
        token: its content.
    """
    host = socket.gethostname()
    try:
        seen = job.store.read(probe) if job.store.exists(probe) else None
    except StoreError as error:
        return f"{error} (on {host})"
    if seen != token.encode():
        return (
            f"{job.store}: a file that was just written there is not seen on {host}; choose an output folder on a file "
            "system that all nodes share, or in an object store"
        )
    return find_setup_fault(job)


def find_setup_fault(job: Job, cache: WorkerCache = PROCESS_CACHE) -> str | None:
    """Return the reason why a process cannot open what every tile of a run needs; None if it can, and then it is open.

    Args:
        job: the run.
        cache: of the process.
    """
    try:
        if isinstance(job, SquareJob):
            cache.open_squares(job)
        else:
            cache.open_run(job)
    except PipelineError as error:
        return str(error)
    return None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that must be the same wherever tiles are computed, by distribution."""
    return {name: _version(name) for name in VERSIONS}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def describe_difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Return the versions that differ, those of the worker and those of the client."""
    return ", ".join(
        f"{name} {found.get(name, 'none')}, here {version}"
        for name, version in expected.items()
        if found.get(name) != version
    )


def _seconds_left(worker: Any) -> float | None:
    """Return the seconds until this worker ends, by its lifetime or with its job; None: not known."""
    ends = []
    if worker.lifetime:
        ends.append(psutil.Process().create_time() + worker.lifetime)
    job_end = os.environ.get(JOB_END, "")
    if job_end.isdigit():
        ends.append(float(job_end))
    return min(ends) - time.time() if ends else None
