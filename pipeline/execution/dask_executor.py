"""Who computes the tiles: this process, Dask workers on this machine, or the workers of a Dask scheduler.

A tile that fails is tried again after growing waits. A lost worker is Dask's to replace; a lost scheduler is
connected to anew, and what it had in hand is handed out again.
"""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import psutil

from ussfc.pipeline.clusters.base import JOB_END, Cluster, Started
from ussfc.pipeline.errors import ClusterError, StoreError, TileError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.execution.tile import TileJob, WorkerSetupError, compute_tile, prepare, tile_name
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import Index, TileFailure, TileResult

Answer = TypeVar("Answer")

TASKS_AHEAD = 2
"""Tasks handed out per thread: enough that no worker waits, few enough that the scheduler stays small."""

CONNECT_SECONDS = 15

ANSWER_SECONDS = 60
"""A scheduler that is there but does not answer for so long counts as lost. It takes itself 30 s to find out that the
worker which holds a result is gone."""

LOOK_SECONDS = 2
"""How often the workers are counted: some may have joined or left."""

NO_WORKERS_SECONDS = 300
"""A scheduler that others give workers to may be without for so long before the run ends."""

PATIENT_SECONDS, TELL_SECONDS = 5, 60
"""Workers that are on their way are waited for in silence so long, and then with a line so often."""

TASK_SECONDS, MOST_TILES = 2.0, 32
"""Tiles that take less are handed out several at a time, to make up so long a task: a scheduler manages hundreds of
tasks a second, and a few GPUs compute more tiles than that."""

ENDING_FACTOR, ENDING_SECONDS = 1.5, 2.0
"""A worker begins no tile unless its time lasts for its longest tile so far, with this margin."""

MOST_GENERATIONS = 5
"""So often all workers may be replaced by others without a tile in between. A worker that ends in good order takes
no blame for its tile: Dask would hand one that takes longer than any of them lasts out for ever."""

STOPPED = "stopped; no finished tile is lost, the same command goes on"

UNFIT_FAILURES = 3
"""Tiles in a row that a worker may fail to begin before it is left out, where others are left."""

OTHERS_SECONDS = 60
"""So long after the first worker the others are waited for that are to say what they compute fastest."""

VERSIONS = ("ussfc", "torch", "zarr")
"""Distributions of which everybody who takes part must have the same version: they move bytes, or write them."""

RECONNECTS = Backoff(attempts=8, first=2, factor=2, longest=60)
"""Attempts to reach a lost scheduler, beginning with a wait; they count anew once it has delivered a tile."""

TILE_BACKOFF = Backoff(attempts=4, first=2, factor=4, longest=60)
"""Attempts of a tile where the caller says nothing."""


class Executor(Protocol):
    """Runs :func:`ussfc.pipeline.execution.tile.compute_tile` over tiles, in any order."""

    def run(
        self,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """Compute all tiles; every one ends in one call of one of the two functions.

        Args:
            job: the run.
            indices: the tiles, taken only a few ahead.
            on_result: hears of every computed tile.
            on_failure: hears of every tile that kept failing. What either function raises ends the run and
                passes as it is.

        Raises:
            StoreError: the store could not be used, again and again.
            ClusterError: scheduler or workers cannot be used, or stayed away for too long.
        """

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """What a function returns on each worker that is there; the first is waited for, others for a minute.

        Raises:
            ClusterError: scheduler or workers cannot be used.
        """


class SerialExecutor:
    """This process: one tile after the other in the network, others read and written beside it."""

    def __init__(self, waits: Backoff = TILE_BACKOFF, concurrent_tiles: int = 1) -> None:
        """Nothing is done before :meth:`run`.

        Args:
            waits: attempts of every tile.
            concurrent_tiles: tiles under way, the one in the network included.
        """
        self._waits = waits
        self._at_once = concurrent_tiles

    def run(
        self,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """See :class:`Executor`."""
        schedule = Schedule(indices, self._waits)
        stop = threading.Event()
        under_way: dict[Future[TileResult], Index] = {}
        with ThreadPoolExecutor(self._at_once, "ussfc-tile") as pool:
            try:
                while True:
                    while len(under_way) < self._at_once and (index := schedule.take()) is not None:
                        under_way[pool.submit(compute_tile, job, index, stop)] = index
                    if not under_way:
                        if schedule.over:
                            return
                        time.sleep(schedule.due_in())
                        continue
                    patience = schedule.due_in() if len(under_way) < self._at_once else math.inf
                    for future in _first(under_way, patience):
                        index = under_way.pop(future)
                        try:
                            result = future.result()
                        except (TileError, StoreError) as error:
                            _fail(schedule, job, index, error, on_failure)
                        else:
                            schedule.done(index)
                            on_result(result)
            finally:
                # Whatever ended the run, its threads must not go on for minutes.
                stop.set()

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """See :class:`Executor`: the one worker is this process."""
        return [function(*args)]


def _first(futures: Iterable[Future[TileResult]], patience: float) -> Iterable[Future[TileResult]]:
    """Those that are done, waiting for the first, or for so many seconds."""
    timeout = None if patience == math.inf else patience
    return concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_COMPLETED).done


class DaskExecutor:
    """Dask workers, wherever they come from. As a context it keeps them between runs, which may go side by side."""

    def __init__(
        self,
        cluster: Cluster,
        scratch: Path,
        waits: Backoff = TILE_BACKOFF,
        subscriber: Subscriber = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        """Nothing starts before :meth:`run`, or before the context is entered.

        Args:
            cluster: where the workers come from.
            scratch: local folder for files of processes that are started here.
            waits: attempts of every tile.
            subscriber: hears of a lost scheduler, of missing workers, and of workers that are left out.
            stop: once it is set, from another thread, all runs end with a ClusterError within seconds.
        """
        self._stop = threading.Event() if stop is None else stop
        self._cluster = cluster
        self._scratch = scratch
        self._waits = waits
        self._tell = subscriber
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

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """See :class:`Executor`; within the context only."""
        assert self._started is not None
        started, name = self._started, self._cluster.name

        def answers(client: Any, heard: Callable[[], None]) -> list[Answer]:
            _WorkerPool(client, name, started, self._tell, self._stop).gather(self._cluster.worker_count)
            addresses = _check_versions(client, name)
            with _asking(client):
                found: Mapping[str, Answer] = _run_on_all_workers(client, addresses, function, *args)
            return list(found.values())

        return self._connected(started, answers)

    def run(
        self,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """See :class:`Executor`."""
        if self._started is not None:
            self._run(self._started, job, indices, on_result, on_failure)
            return
        with self._cluster.start(self._scratch) as started:
            self._run(started, job, indices, on_result, on_failure)

    def _run(
        self,
        started: Started,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        schedule = Schedule(indices, self._waits)

        def work(client: Any, heard: Callable[[], None]) -> None:
            def deliver(result: TileResult) -> None:
                heard()
                on_result(result)

            crew = _WorkerPool(client, self._cluster.name, started, self._tell, self._stop)
            if not self._cluster.is_local:
                crew.gather()
                _inspect(client, self._cluster.name, job)
            self._work(client, crew, job, schedule, deliver, on_failure)

        self._connected(started, work, schedule.recall)

    def _connected(
        self,
        started: Started,
        use: Callable[[Any, Callable[[], None]], Answer],
        lost: Callable[[], None] = lambda: None,
    ) -> Answer:
        """What ``use`` makes of a client, anew with another one whenever the scheduler is lost.

        Args:
            started: the scheduler.
            use: takes the client, and a function to call when something came of it: attempts count anew then.
            lost: called before a next attempt.
        """
        losses = 0

        def heard() -> None:
            nonlocal losses
            losses = 0

        while True:
            try:
                with self._client(started, again=losses > 0) as client:
                    return use(client, heard)
            except _SchedulerLostError as error:
                losses += 1
                if losses > RECONNECTS.attempts:
                    raise ClusterError(
                        f"{self._cluster.name} lost and not back after {RECONNECTS.attempts} attempts; no finished "
                        "tile is lost: start it and its workers again, and the same command goes on"
                    ) from error
            lost()
            wait = RECONNECTS.before(losses + 1)
            self._tell(
                Notice(
                    f"{self._cluster.name} lost; trying again in {wait:g} s ({losses} of {RECONNECTS.attempts})"
                )
            )
            if self._stop.wait(wait):
                raise ClusterError(STOPPED)

    def _work(
        self,
        client: Any,
        crew: _WorkerPool,
        job: TileJob,
        schedule: Schedule,
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """Hand out tiles and hear of them, as long as this client has its scheduler."""
        running: dict[Any, _PendingTask] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        pace = _TaskSizer()
        worker_count = self._cluster.worker_count
        drawn = _TileBatcher(
            schedule, lambda index: job.plan.tile_band(index, worker_count) if worker_count > 1 else 0
        )
        while True:
            if crew.look():
                for future in _orphaned_tasks(client, running, crew):
                    handed = running.pop(future)
                    future.cancel()
                    for index in handed.indices:
                        schedule.back(index)
            if not running:
                crew.part()
            patience = LOOK_SECONDS if not crew.leaving else 0.1
            while not crew.leaving and len(running) < TASKS_AHEAD * crew.threads:
                indices = drawn.next(pace.tiles)
                if not indices:
                    patience = min(patience, schedule.due_in())
                    break
                address = (
                    crew.place(job.plan.tile_band(indices[0], worker_count)) if worker_count > 1 else None
                )
                where = {"workers": [address], "allow_other_workers": True} if address else {}
                with _asking(client):
                    future = client.submit(_compute, job, versions(), indices, pure=False, **where)
                    future.add_done_callback(ended.put)
                running[future] = _PendingTask(indices, address)
            if schedule.over:
                return
            try:
                future = ended.get(timeout=patience)
            except Empty:
                continue
            if future not in running:
                continue  # it was taken back
            indices = running.pop(future).indices
            with _asking(client):
                outcomes = _outcomes(client, future, job, indices, crew, pace)
                future.release()
            for index, outcome in zip(indices, outcomes, strict=True):
                if isinstance(outcome, TileResult):
                    schedule.done(index)
                    on_result(outcome)
                elif isinstance(outcome, _NotTried):
                    schedule.back(index)
                else:
                    _fail(schedule, job, index, outcome, on_failure)

    @contextmanager
    def _client(self, started: Started, again: bool) -> Iterator[Any]:
        from distributed import Client

        class BoundedClient(Client):
            def start(self, **kwargs: Any) -> None:
                # Dask waits without end for a scheduler that accepts the connection and says nothing.
                try:
                    super().start(callback_timeout=ANSWER_SECONDS, **kwargs)  # type: ignore[no-untyped-call]
                except TimeoutError:
                    self.status = "closed"  # to close it would wait once more
                    raise

        try:
            client = BoundedClient(  # type: ignore[no-untyped-call]
                started.target, timeout=CONNECT_SECONDS, set_as_default=False, security=started.security
            )
        except (OSError, ValueError) as error:
            if again:
                raise _SchedulerLostError from error
            raise ClusterError(
                f"{started.target}: no Dask scheduler answers there ({' '.join(str(error).split())}); start one with "
                "`dask scheduler` or check cluster.address"
            ) from error
        with _closing(client):
            if (
                started.describe_wait is None
                and not self._cluster.is_local
                and not again
                and not _workers(client)
            ):
                raise ClusterError(
                    f"{started.target}: the scheduler has no workers; start some with `dask worker`"
                )
            yield client


@functools.cache
def versions() -> dict[str, str]:
    """Versions that must be the same wherever tiles are computed, by distribution."""
    return {name: _version(name) for name in VERSIONS}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


@dataclass(frozen=True)
class _PendingTask:
    """A task that is out."""

    indices: tuple[Index, ...]
    address: str | None
    """The worker that it had best go to."""


def _orphaned_tasks(client: Any, running: Mapping[Any, _PendingTask], crew: _WorkerPool) -> list[Any]:
    """Tasks that Dask will never run.

    Those for a worker that left in a moment without any other wait for it alone, though they may go elsewhere.
    """
    lost = {
        future.key: future
        for future, handed in running.items()
        if handed.address and not crew.here(handed.address)
    }
    if not lost:
        return []
    keys = list(lost)

    # A function of no module travels by value.
    def waiting(dask_scheduler: Any) -> list[str]:
        tasks = dask_scheduler.tasks
        return [key for key in keys if key in tasks and tasks[key].state == "no-worker"]

    with _asking(client):
        return [lost[key] for key in client.run_on_scheduler(waiting)]


@dataclass(frozen=True)
class _NotTried:
    """Of a tile that a worker gave back: its time is nearly over, or it is unfit."""


@dataclass(frozen=True)
class _Report:
    """What comes back of a task."""

    worker: str
    """Address of the worker."""
    outcomes: tuple[TileResult | TileError | StoreError | _NotTried, ...]
    """One for each tile."""
    unfit: str | None = None
    """Why this worker can compute no tile at all."""
    ending: bool = False
    """It has too little time left for another tile."""
    seconds: float = 0.0
    """What a tile took, on average; 0: none was computed."""


_busy = threading.Condition()
_in_hand = 0
_longest = 0.0


def _compute(job: TileJob, wanted: dict[str, str], indices: Sequence[Index]) -> _Report:
    """Tiles, one after the other, on a worker."""
    from distributed import get_worker

    worker = get_worker()
    given_back = (_NotTried(),) * len(indices)
    if versions() != wanted:
        return _Report(worker.address, given_back, unfit=_difference(wanted, versions()))
    start = time.monotonic()
    outcomes: list[TileResult | TileError | StoreError | _NotTried] = []
    for index in indices:
        left = _seconds_left(worker)
        if left is not None and left < ENDING_FACTOR * _longest + ENDING_SECONDS:
            _wait_for_others()
            rest = given_back[len(outcomes) :]
            return _Report(worker.address, (*outcomes, *rest), ending=True)
        with _counted():
            outcomes.append(_one_tile(job, index))
    return _Report(worker.address, tuple(outcomes), seconds=(time.monotonic() - start) / len(outcomes))


def _one_tile(job: TileJob, index: Index) -> TileResult | TileError | StoreError:
    global _longest
    start = time.monotonic()
    try:
        result = compute_tile(job, index)
    except (TileError, StoreError) as error:
        return error
    _longest = max(_longest, time.monotonic() - start)
    return result


@contextmanager
def _counted() -> Iterator[None]:
    """Around a tile: this process knows how many it has in hand."""
    global _in_hand
    with _busy:
        _in_hand += 1
    try:
        yield
    finally:
        with _busy:
            _in_hand -= 1
            _busy.notify_all()


def _wait_for_others() -> None:
    """Until no other thread of this process has a tile in hand: the worker that reports its end is dismissed."""
    with _busy:
        _busy.wait_for(lambda: _in_hand == 0)


def _seconds_left(worker: Any) -> float | None:
    """Until this worker ends, by its lifetime or with its job; None: nobody knows."""
    ends = []
    if worker.lifetime:
        ends.append(psutil.Process().create_time() + worker.lifetime)
    job_end = os.environ.get(JOB_END, "")
    if job_end.isdigit():
        ends.append(float(job_end))
    return min(ends) - time.time() if ends else None


def _difference(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {found.get(name, 'none')}, here {version}"
        for name, version in wanted.items()
        if found.get(name) != version
    )


class _TaskSizer:
    """How many tiles go into a task: a task that is over at once costs the scheduler more than the worker."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def took(self, seconds: float) -> None:
        """A tile took so long."""
        self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds

    @property
    def tiles(self) -> int:
        """Tiles of the next task."""
        if self._seconds is None:
            return 1
        return max(1, min(MOST_TILES, int(TASK_SECONDS / max(self._seconds, 1e-3))))


class _TileBatcher:
    """Tiles drawn from the schedule, several at a time of the same stretch of the plan: neighbours share blocks."""

    def __init__(self, schedule: Schedule, stretch: Callable[[Index], int]) -> None:
        self._schedule = schedule
        self._stretch = stretch
        self._kept: dict[int, list[Index]] = {}

    def next(self, count: int) -> tuple[Index, ...]:
        """So many tiles of one stretch, fewer where the schedule has no more for now; none if it has none at all."""
        while (index := self._schedule.take()) is not None:
            stretch = self._stretch(index)
            kept = self._kept.setdefault(stretch, [])
            kept.append(index)
            if len(kept) >= count:
                return tuple(self._kept.pop(stretch))
        if not self._kept:
            return ()
        return tuple(self._kept.pop(max(self._kept, key=lambda stretch: len(self._kept[stretch]))))


def _check_versions(client: Any, scheduler: str) -> list[str]:
    """The workers that are there, by address, all of which have the versions of here, as the scheduler has.

    Raises:
        ClusterError: one has others.
    """
    wanted = versions()
    names = tuple(wanted)

    # A function of no module travels by value, so that it arrives where this package is missing.
    def found_versions() -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        return found

    def said(found: dict[str, str], who: str) -> None:
        if found != wanted:
            raise ClusterError(
                f"{who} has {_difference(wanted, found)}; install the same versions there as here"
            )

    with _asking(client):
        said(client.run_on_scheduler(found_versions), scheduler)
        addresses = list(client.nthreads(callback_timeout=ANSWER_SECONDS))
        for address, found in _run_on_all_workers(client, addresses, found_versions).items():
            said(found, f"worker {address}")
    return addresses


def _inspect(client: Any, scheduler: str, job: TileJob) -> None:
    """Have the scheduler and every worker that is there show that they can compute this job.

    They need the versions of here, the store's folder under the same name, both scenes and the model. That also
    loads the model, on a thread of the worker's own.

    Raises:
        ClusterError: what they lack, the first by name.
    """
    addresses = _check_versions(client, scheduler)
    token = secrets.token_hex(8)
    probe = f"probe-{token}"
    job.store.write(probe, token.encode())
    try:
        with _asking(client):
            faults = _run_on_all_workers(client, addresses, _show, job, probe, token)
    finally:
        job.store.remove(probe)
    broken = {address: fault for address, fault in faults.items() if fault}
    if broken:
        address, fault = min(broken.items())
        raise ClusterError(f"worker {address} ({len(broken)} of {len(faults)} workers): {fault}")


def _run_on_all_workers(
    client: Any, addresses: Iterable[str], function: Callable[..., Any], *args: Any
) -> Any:
    """What a function returns on a thread of each worker, by address; workers that left meanwhile are left out."""
    futures = {
        # Before the tiles of other runs that wait there: these may take longer than is waited here.
        address: client.submit(
            function, *args, workers=[address], allow_other_workers=False, pure=False, priority=1
        )
        for address in addresses
    }
    end = time.monotonic() + ANSWER_SECONDS * 5
    answers: dict[str, Any] = {}
    while len(answers) < len(futures):
        here = _workers(client)
        waiting = [address for address in futures if address not in answers and address in here]
        if not waiting:
            break
        for address in waiting:
            future = futures[address]
            if future.status == "error":
                error = future.exception(timeout=ANSWER_SECONDS)
                raise _unrunnable(error) from error
            if future.status == "finished":
                answers[address] = future.result(timeout=ANSWER_SECONDS)
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {waiting[0]}: does not answer within {ANSWER_SECONDS * 5} s; its log says why"
            )
        time.sleep(0.05)
    return answers


def _show(job: TileJob, probe: str, token: str) -> str | None:
    """On a worker: what keeps it from computing this job; None: nothing."""
    host = socket.gethostname()
    try:
        seen = job.store.read(probe) if job.store.exists(probe) else None
    except StoreError as error:
        return f"{error} (on {host})"
    if seen != token.encode():
        return (
            f"{job.store}: a file that was just written there is not seen on {host}; choose an --out on a file system "
            "that all nodes share, or in an object store"
        )
    return prepare(job)


class _SchedulerLostError(Exception):
    """The client has no scheduler any more; what it was waiting for will not come."""


class _WorkerPool:
    """The threads of the workers that are there now."""

    def __init__(
        self, client: Any, scheduler: str, started: Started, tell: Subscriber, stop: threading.Event
    ) -> None:
        self.threads = 0
        self._present = 0
        self._addresses: list[str] = []
        self._client = client
        self._scheduler = scheduler
        self._started = started
        self._tell = tell
        self._stop = stop
        self._looked = self._told = -math.inf
        self._seen = time.monotonic()
        self._failures: dict[str, int] = {}
        self.leaving: set[str] = set()
        """The last worker, whose time is over. Dask refuses to let go of the only one that holds a result, and one that
        was refused may be sent no task ever again; so it is first relieved of all."""
        self._generation: set[str] = set()
        self._generations = 0

    def look(self) -> bool:
        """Count them, if the last time is long enough ago; whether that was so."""
        if self._stop.is_set():
            raise ClusterError(STOPPED)
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return False
        workers = _workers(self._client)
        self._present = sum(workers.values())
        # Whoever starts workers by need must see the need.
        self.threads = max(self._present, self._started.threads)
        self._addresses = sorted(workers)
        self.leaving &= set(workers)
        self._looked = now
        if self._present:
            self._seen = now
            self._count_generations()
        elif self._started.describe_wait is not None:
            self._wait(now, self._started.describe_wait)
        elif now > self._seen + NO_WORKERS_SECONDS:
            raise ClusterError(
                f"{self._scheduler} has been without workers for {NO_WORKERS_SECONDS} s (their logs say why); no "
                "finished tile is lost: start workers again, and the same command goes on"
            )
        return True

    def _count_generations(self) -> None:
        here = set(self._addresses)
        if here & self._generation:
            return
        self._generation = here
        self._generations += 1
        if self._generations > MOST_GENERATIONS:
            raise ClusterError(
                f"{self._scheduler}: {MOST_GENERATIONS} times in a row all workers ended before one had finished a "
                "tile; give them more time (cluster.walltime, or --lifetime of dask worker), or lower tiling.tile_size"
            )

    def ended(self) -> None:
        """A tile has ended, however it did: workers last long enough for that."""
        self._generations = 0

    def _wait(self, now: float, waiting: Callable[[], str | None]) -> None:
        """A queue may take hours: say so now and then, and give up only if nothing will come of it."""
        if now < max(self._seen + PATIENT_SECONDS, self._told + TELL_SECONDS):
            return
        reason = waiting()
        self._told = now
        if reason is not None:
            self._tell(Notice(f"waiting for workers: {reason}", warning=False))

    def gather(self, workers: int = 1) -> None:
        """Wait for the first worker, and then a while until so many are there."""
        needs: list[Any] = []
        first = math.inf
        while True:
            self.look()
            if self._addresses:
                first = min(first, time.monotonic())
                if len(self._addresses) >= workers or time.monotonic() > first + OTHERS_SECONDS:
                    return
                self._stop.wait(LOOK_SECONDS)
                continue
            if not needs:
                # An adaptive cluster takes back jobs and pods that nobody has a task for.
                count = TASKS_AHEAD * max(1, self.threads)
                with _asking(self._client):
                    needs = [self._client.submit(lambda: None, pure=False) for _ in range(count)]
            self._stop.wait(LOOK_SECONDS)

    def here(self, address: str) -> bool:
        """Whether this worker was there at the last look."""
        return address in self._addresses

    def place(self, part: int) -> str | None:
        """Where a tile of a part of the plan had best be computed: Dask is free to choose otherwise."""
        return self._addresses[part % len(self._addresses)] if self._addresses else None

    def heard(self, report: _Report) -> None:
        """Part with a worker whose time is over, or that can compute nothing while others can."""
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
            self._tell(Notice(f"worker {report.worker} is left out: {unfit}"))
            self._dismiss(report.worker)

    def _dismiss(self, address: str) -> None:
        if address in self._addresses:
            self._addresses.remove(address)
            self._failures.pop(address, None)
            if self._addresses:
                self._client.retire_workers([address], close_workers=True)
            else:
                self.leaving.add(address)

    def part(self) -> None:
        """Dismiss the last worker: no task is out, so all that is left of it is on its way out."""
        for address in list(self.leaving):
            # A function of no module travels by value.
            def holds(dask_scheduler: Any, address: str = address) -> bool:
                worker = dask_scheduler.workers.get(address)
                return worker is not None and bool(worker.has_what)

            with _asking(self._client):
                if not self._client.run_on_scheduler(holds):
                    self.leaving.discard(address)
                    self._client.retire_workers([address], close_workers=True)


class _WorkersLostError(TileError):
    """A tile that lost worker after worker, until Dask gave it up."""


@contextmanager
def _asking(client: Any) -> Iterator[None]:
    """Around every use of a client, which tells in many ways that its scheduler is lost.

    Raises:
        _SchedulerLostError: it is.
    """
    try:
        yield
    except Exception as error:
        # A client that gave up reconnecting has taken itself apart, and raises whatever comes of that.
        if isinstance(error, CancelledError | OSError) or client.status != "running":
            raise _SchedulerLostError from error
        raise


def _workers(client: Any) -> dict[str, int]:
    """Threads of each worker, by its address."""
    with _asking(client):
        if client.status != "running":
            # It may find a scheduler again by itself, but what it was waiting for is gone.
            raise _SchedulerLostError
        found: dict[str, int] = client.nthreads(callback_timeout=ANSWER_SECONDS)
    return found


@contextmanager
def _closing(client: Any) -> Iterator[Any]:
    """Close it at the end, which drops the tasks that are still out."""
    try:
        yield client
    finally:
        # One that is cut off in the midst of reconnecting logs that with its traceback.
        log = logging.getLogger("distributed.client")
        log.disabled = True
        # A lost scheduler hears no goodbye, and what ended the run is what is to be raised.
        with suppress(OSError):
            client.close()
        log.disabled = False


def _outcomes(
    client: Any, future: Any, job: TileJob, indices: Sequence[Index], crew: _WorkerPool, pace: _TaskSizer
) -> Sequence[TileResult | _NotTried | Exception]:
    """What became of each tile of a task that ended. What this raises is the connection's."""
    from distributed.scheduler import KilledWorker

    try:
        report: _Report = future.result(timeout=ANSWER_SECONDS)
    except Exception as error:
        names = [tile_name(index, job.plan.core(index)) for index in indices]
        if isinstance(error, KilledWorker):
            crew.ended()
            return [
                _WorkersLostError(
                    f"{name}: lost its worker again and again, most likely for lack of memory; lower cluster.workers "
                    "or tiling.tile_size"
                )
                for name in names
            ]
        if future.status == "error":
            return [error] * len(indices)
        if isinstance(error, TimeoutError):
            _workers(client)  # does not return if it is the scheduler that does not answer
            return [
                TileError(f"{name}: computed, but its worker was lost before it could hand over the result")
                for name in names
            ]
        raise
    crew.heard(report)
    if report.seconds:
        crew.ended()
        pace.took(report.seconds)
    return report.outcomes


def _fail(
    schedule: Schedule,
    job: TileJob,
    index: tuple[int, int],
    error: Exception,
    on_failure: Callable[[TileFailure], None],
) -> None:
    """Have a tile tried again; after its last attempt report it, or end the run if the fault is not its own."""
    again = schedule.crashed if isinstance(error, _WorkersLostError) else schedule.failed
    attempts = again(index)
    if attempts is None:
        return
    if isinstance(error, TileError):
        on_failure(TileFailure(index, job.plan.core(index), str(error), attempts))
    elif isinstance(error, StoreError):
        raise error
    else:
        # It never came to compute_tile, which raises nothing else.
        raise _unrunnable(error) from error


def _unrunnable(error: Exception) -> ClusterError:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return ClusterError(
        f"Dask cannot run a tile ({said}); have the same versions on the scheduler and its workers as here"
    )
