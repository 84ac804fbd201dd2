"""The workers that are there now, and the tiles that go into a task for them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ussfc.pipeline.clusters.base import Cluster, Started
from ussfc.pipeline.errors import ClusterError
from ussfc.pipeline.events import Notice, Subscriber
from ussfc.pipeline.execution.connection import detect_loss, holds_results, worker_threads
from ussfc.pipeline.execution.errors import WorkerSetupError
from ussfc.pipeline.execution.worker_tasks import TaskReport
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import Index

TASKS_AHEAD = 2
"""Tasks handed out per thread: enough that no worker waits, few enough that the scheduler stays small."""

REFRESH_SECONDS = 2
"""Seconds between two counts of the workers: some may have joined or left."""

NO_WORKERS_SECONDS = 300
"""Seconds that a scheduler to which others give workers may be without before the run ends."""

SILENT_SECONDS, NOTICE_SECONDS = 5, 60
"""Seconds for which workers that are on their way are waited for in silence, and between two notices afterwards."""

TASK_SECONDS, MOST_TILES = 2.0, 32
"""Seconds of a task, and the largest number of its tiles. Tiles that take less are handed out several at a time, to
make up so long a task: a scheduler manages hundreds of tasks a second, and a few GPUs compute more tiles than that."""

MOST_GENERATIONS = 5
"""Number of times that all workers may be replaced by others without a tile in between. A worker that ends in good
order takes no blame for its tile: Dask would hand one that takes longer than any of them lasts out for ever."""

UNFIT_FAILURES = 3
"""Tiles in a row that a worker may fail to begin before it is left out, where others are left."""

OTHERS_SECONDS = 60
"""Seconds after the first worker for which others are waited for that are to be asked as well."""

STOPPED = "stopped; no finished tile is lost, the same command goes on"


class WorkerPool:
    """The threads of the workers that are there now."""

    def __init__(
        self, client: Any, cluster: Cluster, started: Started, subscriber: Subscriber, stop: threading.Event
    ) -> None:
        """Begin without a worker, before the first :meth:`refresh`.

        Args:
            client: of the scheduler.
            cluster: source of the workers.
            started: its scheduler.
            subscriber: receives notices of missing workers and of workers that are left out.
            stop: once it is set, :meth:`refresh` ends the run.
        """
        self.threads = 0
        """Threads that are there, or will be once all workers have come."""
        self._addresses: list[str] = []
        self._client = client
        self._cluster = cluster
        self._started = started
        self._subscriber = subscriber
        self._stop = stop
        self._refreshed = self._noticed = -math.inf
        self._seen = time.monotonic()
        self._failures: dict[str, int] = {}
        # The last worker, whose time is over. Dask refuses to let go of the only one that holds a result, and one that
        # was refused may be sent no task ever again; so it is first relieved of all.
        self._leaving: set[str] = set()
        self._generation: set[str] = set()
        self._generations = 0

    @property
    def task_limit(self) -> int:
        """Number of tasks that may be out; 0 while the last worker is leaving."""
        return 0 if self._leaving else TASKS_AHEAD * self.threads

    @property
    def patience(self) -> float:
        """Seconds to wait for a task before the pool is looked at again."""
        return 0.1 if self._leaving else REFRESH_SECONDS

    def refresh(self) -> bool:
        """Count the workers, if the last time is long enough ago.

        Returns:
            True if they were counted.

        Raises:
            ClusterError: the run was stopped, or workers stay away, or none of them lasts for a tile.
            SchedulerLostError: the scheduler is lost.
        """
        if self._stop.is_set():
            raise ClusterError(STOPPED)
        now = time.monotonic()
        if now < self._refreshed + REFRESH_SECONDS:
            return False
        workers = worker_threads(self._client)
        present = sum(workers.values())
        # A cluster that starts workers by need must see the need.
        self.threads = max(present, self._started.threads)
        self._addresses = sorted(workers)
        self._leaving &= set(workers)
        self._refreshed = now
        if present:
            self._seen = now
            self._count_generations()
        elif self._started.describe_wait is not None:
            self._notify_wait(now, self._started.describe_wait)
        elif now > self._seen + NO_WORKERS_SECONDS:
            raise ClusterError(
                f"{self._cluster.name} has been without workers for {NO_WORKERS_SECONDS} s (their logs show why); no "
                "finished tile is lost: start workers again, and the same command goes on"
            )
        return True

    def _count_generations(self) -> None:
        present = set(self._addresses)
        if present & self._generation:
            return
        self._generation = present
        self._generations += 1
        if self._generations > MOST_GENERATIONS:
            raise ClusterError(
                f"{self._cluster.name}: {MOST_GENERATIONS} times in a row all workers ended before one had finished a "
                "tile; give them more time (cluster.walltime, or --lifetime of dask worker), or lower tiling.tile_size"
            )

    def _notify_wait(self, now: float, describe_wait: Callable[[], str | None]) -> None:
        """Send a notice now and then: a queue may take hours, and is given up only if nothing will come of it."""
        if now < max(self._seen + SILENT_SECONDS, self._noticed + NOTICE_SECONDS):
            return
        reason = describe_wait()
        self._noticed = now
        if reason is not None:
            self._subscriber(Notice(f"waiting for workers: {reason}", warning=False))

    def wait_for_workers(self, count: int = 1) -> None:
        """Wait for the first worker, and then a while until so many are there.

        Raises:
            ClusterError, SchedulerLostError: see :meth:`refresh`.
        """
        needs: list[Any] = []
        first = math.inf
        while True:
            self.refresh()
            if self._addresses:
                first = min(first, time.monotonic())
                if len(self._addresses) >= count or time.monotonic() > first + OTHERS_SECONDS:
                    return
                self._stop.wait(REFRESH_SECONDS)
                continue
            if not needs:
                # An adaptive cluster takes back jobs and pods for which there is no task.
                tasks = TASKS_AHEAD * max(1, self.threads)
                with detect_loss(self._client):
                    needs = [self._client.submit(lambda: None, pure=False) for _ in range(tasks)]
            self._stop.wait(REFRESH_SECONDS)

    def has(self, address: str) -> bool:
        """Return whether this worker was there at the last :meth:`refresh`."""
        return address in self._addresses

    def preferred_worker(self, band: int) -> str | None:
        """Return the worker that computes a band of tiles best; Dask is free to choose another."""
        return self._addresses[band % len(self._addresses)] if self._addresses else None

    def record_progress(self) -> None:
        """Note that a tile has ended, in whatever way: workers last long enough for that."""
        self._generations = 0

    def handle_report(self, report: TaskReport) -> None:
        """Part with a worker whose time is over, or that can compute nothing while others can.

        Raises:
            ClusterError: the only worker has other versions.
        """
        if report.ending:
            self._dismiss(report.worker)
            return
        failed = [isinstance(outcome, WorkerSetupError) for outcome in report.outcomes]
        if not all(failed):
            self._failures.pop(report.worker, None)
        elif failed:
            self._failures[report.worker] = self._failures.get(report.worker, 0) + 1
        unfit = report.unfit
        if unfit is None and self._failures.get(report.worker, 0) >= UNFIT_FAILURES:
            unfit = str(report.outcomes[0])
        if unfit is None:
            return
        others = set(self._addresses) - {report.worker}
        if report.unfit and not others:
            raise ClusterError(f"worker {report.worker} has {unfit}; install the same versions there as here")
        if others and report.worker in self._addresses:
            self._subscriber(Notice(f"worker {report.worker} is left out: {unfit}"))
            self._dismiss(report.worker)

    def _dismiss(self, address: str) -> None:
        if address in self._addresses:
            self._addresses.remove(address)
            self._failures.pop(address, None)
            if self._addresses:
                self._client.retire_workers([address], close_workers=True)
            else:
                self._leaving.add(address)

    def retire(self) -> None:
        """Retire the last worker, once no task is out and it holds no result any more.

        Raises:
            SchedulerLostError: the scheduler is lost.
        """
        for address in list(self._leaving):
            with detect_loss(self._client):
                if not holds_results(self._client, address):
                    self._leaving.discard(address)
                    self._client.retire_workers([address], close_workers=True)


@dataclass(frozen=True)
class PendingTask:
    """A task that is out."""

    indices: tuple[Index, ...]
    """Tiles of the task."""
    address: str | None
    """Worker that it prefers."""


class TaskSizer:
    """Finds the number of tiles of a task: one that is over at once costs the scheduler more than the worker."""

    def __init__(self) -> None:
        """Begin with one tile."""
        self._seconds: float | None = None

    def record(self, seconds: float) -> None:
        """Take the seconds of a tile into the average."""
        self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds

    @property
    def tiles(self) -> int:
        """Number of tiles of the next task."""
        if self._seconds is None:
            return 1
        return max(1, min(MOST_TILES, int(TASK_SECONDS / max(self._seconds, 1e-3))))


class TileBatcher:
    """Draws tiles from the schedule, several at a time of the same band of the plan: neighbours share blocks."""

    def __init__(self, schedule: Schedule, band: Callable[[Index], int]) -> None:
        """Draw nothing yet.

        Args:
            schedule: the tiles.
            band: returns the band of a tile.
        """
        self._schedule = schedule
        self._band = band
        self._kept: dict[int, list[Index]] = {}

    def next(self, count: int) -> tuple[Index, ...]:
        """Return so many tiles of one band, fewer where the schedule has no more for now; none if it has none."""
        while (index := self._schedule.take()) is not None:
            band = self._band(index)
            kept = self._kept.setdefault(band, [])
            kept.append(index)
            if len(kept) >= count:
                return tuple(self._kept.pop(band))
        if not self._kept:
            return ()
        return tuple(self._kept.pop(max(self._kept, key=lambda band: len(self._kept[band]))))
