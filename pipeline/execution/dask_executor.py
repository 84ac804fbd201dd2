"""Tiles on Dask workers, wherever they come from.

A tile that fails is tried again after growing waits. Dask replaces a lost worker; after the loss of a scheduler another
connection is made, and what it had in hand is handed out again.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ussfc.pipeline.clusters.base import Cluster, Started
from ussfc.pipeline.errors import ClusterError, TileError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.execution.connection import (
    check_versions,
    check_workers,
    connect,
    describe_freezing,
    detect_loss,
    fetch_result,
    orphaned_tasks,
    run_on_all_workers,
    worker_threads,
)
from ussfc.pipeline.execution.errors import SchedulerLostError, WorkersLostError
from ussfc.pipeline.execution.executor import TILE_BACKOFF, handle_failure
from ussfc.pipeline.execution.follow_ups import FollowUps, ReadySquare
from ussfc.pipeline.execution.square_job import Job
from ussfc.pipeline.execution.tile_parts import TileParts
from ussfc.pipeline.execution.worker_pool import STOPPED, PendingTask, TaskSizer, TileBatcher, WorkerPool
from ussfc.pipeline.execution.worker_tasks import (
    PROGRESS_TOPIC,
    NotTried,
    TaskReport,
    compute_tiles,
    make_square,
    versions,
)
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import Index, TileFailure, TileResult

Answer = TypeVar("Answer")

RECONNECT_BACKOFF = Backoff(attempts=8, first=2, factor=2, longest=60)
"""Attempts to reach a lost scheduler, beginning with a wait; they count from the start once it has delivered a tile."""

PROGRESS_SECONDS, MOST_EVENTS = 1.0, 50
"""Least distance of the events with which a worker shows how much of its tile is computed, and the largest number of
such events a second from all workers together: a scheduler manages hundreds of messages."""


class DaskExecutor:
    """Computes tiles on Dask workers. As a context it keeps them between runs, which may go side by side."""

    def __init__(
        self,
        cluster: Cluster,
        scratch: Path,
        backoff: Backoff = TILE_BACKOFF,
        subscriber: Subscriber = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        """Start nothing before :meth:`run`, or before the context is entered.

        Args:
            cluster: source of the workers.
            scratch: local folder for files of processes that are started here.
            backoff: attempts of every tile.
            subscriber: receives notices of a lost scheduler, of missing workers, and of workers that are left out.
            stop: once it is set, from another thread, all runs end with a ClusterError within seconds.
        """
        self._stop = threading.Event() if stop is None else stop
        self._cluster = cluster
        self._scratch = scratch
        self._backoff = backoff
        self._subscriber = subscriber
        self._kept = ExitStack()
        self._started: Started | None = None

    def __enter__(self) -> DaskExecutor:
        """Start the cluster, for all runs until the end of the context."""
        self._started = self._kept.enter_context(self._cluster.start(self._scratch))
        return self

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self._started = None
        self._kept.close()

    @property
    def worker_count(self) -> int:
        """Number of workers that are expected."""
        return max(1, self._cluster.worker_count)

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """Return the answers of all workers, see :class:`ussfc.pipeline.execution.executor.Executor`.

        It works within the context only.
        """
        assert self._started is not None
        started, name = self._started, self._cluster.name

        def collect(client: Any, note_progress: Callable[[], None]) -> list[Answer]:
            self._pool(client, started).wait_for_workers(self._cluster.worker_count)
            addresses = check_versions(client, name)
            with detect_loss(client):
                found: Mapping[str, Answer] = run_on_all_workers(client, addresses, function, *args)
            return list(found.values())

        return self._with_client(started, collect)

    def run(
        self,
        job: Job,
        indices: Iterable[Index],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
        on_pixels: Callable[[int], None] | None = None,
        follow_ups: FollowUps | None = None,
    ) -> None:
        """Compute all tiles; see :class:`ussfc.pipeline.execution.executor.Executor`."""
        if self._started is not None:
            self._run(self._started, job, indices, on_result, on_failure, on_pixels, follow_ups)
            return
        with self._cluster.start(self._scratch) as started:
            self._run(started, job, indices, on_result, on_failure, on_pixels, follow_ups)

    def _run(
        self,
        started: Started,
        job: Job,
        indices: Iterable[Index],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
        on_pixels: Callable[[int], None] | None,
        follow_ups: FollowUps | None,
    ) -> None:
        parts = TileParts(job, on_pixels)
        schedule = Schedule(indices, self._backoff)
        told: set[str] = set()

        def compute(client: Any, note_progress: Callable[[], None]) -> None:
            def deliver(result: TileResult) -> None:
                note_progress()
                on_result(result)

            pool = self._pool(client, started)
            if not self._cluster.is_local:
                pool.wait_for_workers()
                check_workers(client, self._cluster.name, job)
                warning = describe_freezing(client)
                if warning is not None and warning not in told:
                    told.add(warning)
                    self._subscriber(Notice(warning))
            squares = SquareTasks(client, follow_ups)
            loop = _TaskLoop(client, pool, job, schedule, parts, (deliver, on_failure), squares)
            loop.run(self._cluster.worker_count)

        def recall() -> None:
            schedule.recall()
            parts.forget_all()

        self._with_client(started, compute, recall)

    def _pool(self, client: Any, started: Started) -> WorkerPool:
        return WorkerPool(client, self._cluster, started, self._subscriber, self._stop)

    def _with_client(
        self,
        started: Started,
        use: Callable[[Any, Callable[[], None]], Answer],
        on_loss: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Return the answer of ``use``, which is called with another client whenever the scheduler is lost.

        Args:
            started: the scheduler.
            use: takes the client, and a function to call when something came of it: attempts count from the start then.
            on_loss: called before a next attempt.

        Raises:
            ClusterError: the scheduler does not come back, or the run was stopped.
        """
        losses = 0

        def note_progress() -> None:
            nonlocal losses
            losses = 0

        while True:
            again = losses > 0
            # Workers of this machine come by themselves, and those of a queue are waited for.
            needs_workers = started.describe_wait is None and not self._cluster.is_local and not again
            try:
                with connect(started, again, needs_workers) as client:
                    return use(client, note_progress)
            except SchedulerLostError as error:
                losses += 1
                if losses > RECONNECT_BACKOFF.attempts:
                    raise ClusterError(
                        f"{self._cluster.name} lost and not back after {RECONNECT_BACKOFF.attempts} attempts; no "
                        "finished tile is lost: start it and its workers again, and the same command goes on"
                    ) from error
            on_loss()
            wait = RECONNECT_BACKOFF.before(losses + 1)
            self._subscriber(
                Notice(
                    f"{self._cluster.name} lost; trying again in {wait:g} s "
                    f"({losses} of {RECONNECT_BACKOFF.attempts})"
                )
            )
            if self._stop.wait(wait):
                raise ClusterError(STOPPED)


class SquareTasks:
    """Tasks of squares that are made in passing; of a lost one nothing is kept."""

    def __init__(self, client: Any, follow_ups: FollowUps | None) -> None:
        """Begin with none.

        Args:
            client: of the scheduler.
            follow_ups: the squares of the run; None: it has none.
        """
        self._client = client
        self._follow_ups = follow_ups
        self._ready: deque[ReadySquare] = deque()
        self._running: set[Any] = set()

    def __len__(self) -> int:
        """Return the number of tasks that are out."""
        return len(self._running)

    @property
    def over(self) -> bool:
        """True if no square waits for a worker, and none is made."""
        return not (self._ready or self._running)

    def add(self, result: TileResult) -> None:
        """Note a tile that is in the store."""
        if self._follow_ups is not None:
            self._ready.extend(self._follow_ups.add(result))

    def submit(self, on_end: Callable[[Any], None]) -> bool:
        """Hand out a square that waits; return False if none does."""
        if not self._ready:
            return False
        with detect_loss(self._client):
            future = self._client.submit(make_square, self._ready.popleft(), versions(), pure=False)
            future.add_done_callback(on_end)
        self._running.add(future)
        return True

    def collect(self, future: Any) -> bool:
        """Part with a task that ended; return False if it is none of these."""
        if future not in self._running:
            return False
        self._running.discard(future)
        with detect_loss(self._client):
            # With its worker the answer may be lost as well; the file of the square is there all the same.
            with suppress(TimeoutError):
                made = fetch_result(future) if future.status == "finished" else None
                if made is not None and self._follow_ups is not None:
                    self._follow_ups.on_made(made)
            future.release()
        return True


class _TaskLoop:
    """Hands out the tiles of a run and takes their results, as long as one client has its scheduler."""

    def __init__(
        self,
        client: Any,
        pool: WorkerPool,
        job: Job,
        schedule: Schedule,
        parts: TileParts,
        ends: tuple[Callable[[TileResult], None], Callable[[TileFailure], None]],
        squares: SquareTasks,
    ) -> None:
        self._client = client
        self._pool = pool
        self._job = job
        self._schedule = schedule
        self._parts = parts
        self._on_result, self._on_failure = ends
        self._squares = squares
        self._running: dict[Any, PendingTask] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._sizer = TaskSizer()

    def run(self, bands: int) -> None:
        """Compute all tiles.

        Args:
            bands: number of bands that the tiles are walked in, one a worker; 0 or 1: one after the other.
        """
        plan = self._job.plan
        if self._parts.wanted:
            with detect_loss(self._client):
                self._client.subscribe_topic(PROGRESS_TOPIC, self._take_progress)
        batcher = TileBatcher(self._schedule, lambda index: plan.tile_band(index, bands) if bands > 1 else 0)
        while True:
            if self._pool.refresh():
                self._take_back_orphans()
                self._parts.report(index for task in self._running.values() for index in task.indices)
            if not self._running and not len(self._squares):
                self._pool.retire()
            patience = min(self._pool.patience, self._hand_out(batcher, bands))
            if self._schedule.over and (self._squares.over or not self._pool.threads):
                return
            try:
                future = self._ended.get(timeout=patience)
            except Empty:
                continue
            if not self._squares.collect(future) and future in self._running:  # else it was taken back
                self._collect(future)

    def _take_progress(self, event: tuple[float, Any]) -> None:
        """Keep the share of a tile that a worker sent; this is called in the client's own thread."""
        _, (key, row, column, share) = event
        if key == self._job.key:
            self._parts.reporter((row, column))(share)

    def _take_back_orphans(self) -> None:
        """Take back the tasks that Dask will never run.

        Those for a worker that left in a moment without any other wait for it alone, though they may go elsewhere.
        """
        lost = {
            future.key: future
            for future, task in self._running.items()
            if task.address and not self._pool.has(task.address)
        }
        if not lost:
            return
        for key in orphaned_tasks(self._client, list(lost)):
            task = self._running.pop(lost[key])
            lost[key].cancel()
            for index in task.indices:
                self._parts.forget(index)
                self._schedule.back(index)

    def _hand_out(self, batcher: TileBatcher, bands: int) -> float:
        """Submit as many tasks as may be out; return the seconds after which a tile that failed is due again."""
        while len(self._running) + len(self._squares) < self._pool.task_limit:
            if self._squares.submit(self._ended.put):
                continue
            indices = batcher.next(self._sizer.tiles)
            if not indices:
                return self._schedule.due_in()
            address = (
                self._pool.preferred_worker(self._job.plan.tile_band(indices[0], bands))
                if bands > 1
                else None
            )
            where = {"workers": [address], "allow_other_workers": True} if address else {}
            with detect_loss(self._client):
                future = self._client.submit(
                    compute_tiles,
                    self._job,
                    versions(),
                    indices,
                    self._progress_seconds(),
                    pure=False,
                    **where,
                )
                future.add_done_callback(self._ended.put)
            self._running[future] = PendingTask(indices, address)
        return math.inf

    def _progress_seconds(self) -> float | None:
        if not self._parts.wanted:
            return None
        return max(PROGRESS_SECONDS, self._pool.threads / MOST_EVENTS)

    def _collect(self, future: Any) -> None:
        """Take the outcome of each tile of a task that ended."""
        indices = self._running.pop(future).indices
        with detect_loss(self._client):
            outcomes = self._outcomes(future, indices)
            future.release()
        for index, outcome in zip(indices, outcomes, strict=True):
            self._parts.forget(index)
            if isinstance(outcome, TileResult):
                self._schedule.done(index)
                self._on_result(outcome)
                self._squares.add(outcome)
            elif isinstance(outcome, NotTried):
                self._schedule.back(index)
            else:
                handle_failure(self._schedule, self._job, index, outcome, self._on_failure)

    def _outcomes(self, future: Any, indices: Sequence[Index]) -> Sequence[TileResult | NotTried | Exception]:
        """Return the outcome of each tile of a task that ended. An error that this raises is the connection's."""
        from distributed.scheduler import KilledWorker

        try:
            report: TaskReport = fetch_result(future)
        except Exception as error:
            names = [self._job.tile_name(index) for index in indices]
            if isinstance(error, KilledWorker):
                self._pool.record_progress()
                return [
                    WorkersLostError(
                        f"{name}: lost its worker again and again, most likely for lack of memory; lower "
                        "cluster.workers or tiling.tile_size"
                    )
                    for name in names
                ]
            if future.status == "error":
                return [error] * len(indices)
            if isinstance(error, TimeoutError):
                worker_threads(self._client)  # does not return if it is the scheduler that does not answer
                return [
                    TileError(
                        f"{name}: computed, but its worker was lost before it could hand over the result"
                    )
                    for name in names
                ]
            raise
        self._pool.handle_report(report)
        if report.seconds:
            self._pool.record_progress()
            self._sizer.record(report.seconds)
        return report.outcomes
