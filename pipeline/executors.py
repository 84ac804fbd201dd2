"""Who computes the tiles: this process, Dask workers on this machine, or the workers of a Dask scheduler.

A tile that fails is tried again after growing waits. A lost worker is Dask's to replace; a lost scheduler is
connected to anew, and what it had in hand is handed out again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pipeline.errors import ClusterError, StoreError, TileError
from pipeline.events import Notice, Subscriber, ignore
from pipeline.inference import TileJob, compute_tile, tile_name
from pipeline.retrying import Schedule, Waits
from pipeline.types import TileFailure, TileResult

TASKS_AHEAD = 2
"""Tasks handed out per thread: enough that no worker waits, few enough that the scheduler stays small."""

CONNECT_SECONDS = 15

ANSWER_SECONDS = 60
"""A scheduler that is there but does not answer for so long counts as lost. It takes itself 30 s to find out that the
worker which holds a result is gone."""

LOOK_SECONDS = 2
"""How often the workers are counted: some may have joined or left."""

NO_WORKERS_SECONDS = 300
"""A scheduler may be without workers for so long before the run ends."""

RECONNECTS = Waits(attempts=8, first=2, factor=2, longest=60)
"""Attempts to reach a lost scheduler, beginning with a wait; they count anew once it has delivered a tile."""

TILE_WAITS = Waits(attempts=4, first=2, factor=4, longest=60)
"""Attempts of a tile where the caller says nothing."""


class Executor(Protocol):
    """Runs :func:`pipeline.inference.compute_tile` over tiles, in any order."""

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


class SerialExecutor:
    """One tile after the other in this process."""

    def __init__(self, waits: Waits = TILE_WAITS) -> None:
        """Nothing is done before :meth:`run`.

        Args:
            waits: attempts of every tile.
        """
        self._waits = waits

    def run(
        self,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """See :class:`Executor`."""
        schedule = Schedule(indices, self._waits)
        while True:
            index = schedule.take()
            if index is None:
                if schedule.over:
                    return
                time.sleep(schedule.due_in())
                continue
            try:
                result = compute_tile(job, index)
            except (TileError, StoreError) as error:
                _fail(schedule, job, index, error, on_failure)
            else:
                schedule.done(index)
                on_result(result)


class DaskExecutor:
    """Dask workers: those of a scheduler, or processes started here."""

    def __init__(
        self,
        address: str | None,
        workers: int,
        scratch: Path,
        waits: Waits = TILE_WAITS,
        subscriber: Subscriber = ignore,
    ) -> None:
        """Describe the cluster; nothing starts before :meth:`run`.

        Args:
            address: ``tcp://host:port`` of a scheduler, or None for processes of our own.
            workers: own processes; each computes one tile at a time, with the detector's streams.
            scratch: folder for the own processes' files.
            waits: attempts of every tile.
            subscriber: hears of a lost scheduler.
        """
        self._address = address
        self._workers = workers
        self._scratch = scratch
        self._waits = waits
        self._tell = subscriber
        self._scheduler = f"scheduler {address or 'of this process'}"

    def run(
        self,
        job: TileJob,
        indices: Iterable[tuple[int, int]],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """See :class:`Executor`."""
        schedule = Schedule(indices, self._waits)
        losses = 0

        def deliver(result: TileResult) -> None:
            nonlocal losses
            losses = 0
            on_result(result)

        while True:
            try:
                with self._client(again=losses > 0) as client:
                    self._work(client, job, schedule, deliver, on_failure)
                return
            except _SchedulerLostError as error:
                losses += 1
                if losses > RECONNECTS.attempts:
                    raise ClusterError(
                        f"{self._scheduler} lost and not back after {RECONNECTS.attempts} attempts; no finished tile "
                        "is lost: start it and its workers again, and the same command goes on"
                    ) from error
            schedule.recall()
            wait = RECONNECTS.before(losses + 1)
            self._tell(
                Notice(
                    f"{self._scheduler} lost; trying again in {wait:g} s ({losses} of {RECONNECTS.attempts})"
                )
            )
            time.sleep(wait)

    def _work(
        self,
        client: Any,
        job: TileJob,
        schedule: Schedule,
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
    ) -> None:
        """Hand out tiles and hear of them, as long as this client has its scheduler."""
        crew = _Crew(client, self._scheduler)
        running: dict[Any, tuple[int, int]] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        while True:
            crew.look()
            patience = float(LOOK_SECONDS)
            while len(running) < TASKS_AHEAD * crew.threads:
                index = schedule.take()
                if index is None:
                    patience = min(patience, schedule.due_in())
                    break
                with _asking(client):
                    where = crew.place(job.plan.part(index, self._workers)) if self._workers > 1 else {}
                    future = client.submit(compute_tile, job, index, pure=False, **where)
                    future.add_done_callback(ended.put)
                running[future] = index
            if schedule.over:
                return
            try:
                future = ended.get(timeout=patience)
            except Empty:
                continue
            index = running.pop(future)
            with _asking(client):
                outcome = _outcome(client, future, job, index)
                future.release()
            if isinstance(outcome, TileResult):
                schedule.done(index)
                on_result(outcome)
            else:
                _fail(schedule, job, index, outcome, on_failure)

    @contextmanager
    def _client(self, again: bool) -> Iterator[Any]:
        import dask
        from distributed import Client, LocalCluster

        class BoundedClient(Client):
            def start(self, **kwargs: Any) -> None:
                # Dask waits without end for a scheduler that accepts the connection and says nothing.
                try:
                    super().start(callback_timeout=ANSWER_SECONDS, **kwargs)  # type: ignore[no-untyped-call]
                except TimeoutError:
                    self.status = "closed"  # to close it would wait once more
                    raise

        if self._address is not None:
            try:
                client = BoundedClient(  # type: ignore[no-untyped-call]
                    self._address, timeout=CONNECT_SECONDS, set_as_default=False
                )
            except (OSError, ValueError) as error:
                if again:
                    raise _SchedulerLostError from error
                raise ClusterError(
                    f"{self._address}: no Dask scheduler answers there ({error}); start one with `dask scheduler` or "
                    "check compute.scheduler"
                ) from error
            with _closing(client):
                if not again and not _workers(client):
                    raise ClusterError(
                        f"{self._address}: the scheduler has no workers; start some with `dask worker`"
                    )
                yield client
            return
        with (
            # Dask gives up a process that takes longer than this to start again, 15 s by default.
            dask.config.set({"distributed.deploy.lost-worker-timeout": f"{NO_WORKERS_SECONDS} s"}),
            LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # None would open Dask's usual port, on every interface.
                dashboard_address="127.0.0.1:0",
                # The run's own projection bounds the memory; Dask's limit would pause or kill at a guess.
                memory_limit=None,
                local_directory=str(self._scratch),
            ) as cluster,
            _closing(Client(cluster, set_as_default=False)) as client,
        ):
            yield client


class _SchedulerLostError(Exception):
    """The client has no scheduler any more; what it was waiting for will not come."""


class _Crew:
    """The threads of the workers that are there now."""

    def __init__(self, client: Any, scheduler: str) -> None:
        self.threads = 0
        self._addresses: list[str] = []
        self._client = client
        self._scheduler = scheduler
        self._looked = -math.inf
        self._seen = time.monotonic()

    def look(self) -> None:
        """Count them, if the last time is long enough ago."""
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return
        workers = _workers(self._client)
        self.threads = sum(workers.values())
        self._addresses = sorted(workers)
        self._looked = now
        if self.threads:
            self._seen = now
        elif now > self._seen + NO_WORKERS_SECONDS:
            raise ClusterError(
                f"{self._scheduler} has been without workers for {NO_WORKERS_SECONDS} s (their logs say why); no "
                "finished tile is lost: start workers again, and the same command goes on"
            )

    def place(self, part: int) -> dict[str, Any]:
        """Where a tile of a part of the plan had best be computed: Dask is free to choose otherwise."""
        address = self._addresses[part % len(self._addresses)]
        return {"workers": [address], "allow_other_workers": True}


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


def _outcome(client: Any, future: Any, job: TileJob, index: tuple[int, int]) -> TileResult | Exception:
    """The result of a task that ended, or its error. What this raises is the connection's."""
    from distributed.scheduler import KilledWorker

    tile = tile_name(index, job.plan.core(index))
    try:
        result: TileResult = future.result(timeout=ANSWER_SECONDS)
    except Exception as error:
        if isinstance(error, KilledWorker):
            return _WorkersLostError(
                f"{tile}: lost its worker again and again, most likely for lack of memory; lower compute.workers or "
                "tiling.tile_size"
            )
        if future.status == "error":
            return error
        if isinstance(error, TimeoutError):
            _workers(client)  # does not return if it is the scheduler that does not answer
            return TileError(
                f"{tile}: computed, but its worker was lost before it could hand over the result"
            )
        raise
    return result


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
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterError(
            f"Dask cannot run a tile ({said}); have the same versions on the scheduler and its workers as here"
        ) from error
