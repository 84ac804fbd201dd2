"""The client's side of a Dask scheduler: connect to it, notice its loss, and check that its workers are fit."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any

from ussfc.pipeline.clusters.base import Started
from ussfc.pipeline.errors import ClusterError
from ussfc.pipeline.execution.errors import SchedulerLostError, unrunnable_error
from ussfc.pipeline.execution.square_job import Job
from ussfc.pipeline.execution.worker_tasks import check_worker, describe_difference, versions
from ussfc.pipeline.waiting import waiting_for

CONNECT_SECONDS = 15
"""Seconds in which a scheduler must accept a connection."""

ANSWER_SECONDS = 60
"""Seconds after which a scheduler that is there but does not answer counts as lost. It takes itself 30 s to find out
that the worker which holds a result is gone."""

CHECK_SECONDS = 300
"""Seconds in which a worker must answer a question, which may include to load the model."""


@contextmanager
def connect(started: Started, again: bool = False, needs_workers: bool = False) -> Iterator[Any]:
    """Give a client of a scheduler, which is closed at the end of the context.

    Args:
        started: the scheduler.
        again: whether another client had this scheduler before, so that it is lost rather than wrong.
        needs_workers: whether workers must be there already.

    Raises:
        SchedulerLostError: nothing answers ``again``.
        ClusterError: nothing answers, or there are no workers.
    """
    from distributed import Client

    class BoundedClient(Client):
        def start(self, **kwargs: Any) -> None:
            # Dask waits without end for a scheduler that accepts the connection and does not answer.
            try:
                super().start(callback_timeout=ANSWER_SECONDS, **kwargs)  # type: ignore[no-untyped-call]
            except BaseException:
                # To close it would ask the scheduler once more, and wait: the garbage collector would do so, on any
                # thread, that of the next client's loop among them, which must start within 10 s.
                self.status = "closed"
                with suppress(TimeoutError):
                    self._loop_runner.stop()
                raise

    try:
        with waiting_for(started.target if isinstance(started.target, str) else ""):
            client = BoundedClient(  # type: ignore[no-untyped-call]
                started.target, timeout=CONNECT_SECONDS, set_as_default=False, security=started.security
            )
    except MemoryError as error:
        # The first bytes of HTTP, taken for a length.
        raise ClusterError(
            f"{started.target}: answers, but is no Dask scheduler (a dashboard or another web server, perhaps); check "
            "cluster.address: a scheduler's own port is 8786 unless it was started with another"
        ) from error
    except (OSError, ValueError) as error:
        if again:
            raise SchedulerLostError from error
        raise ClusterError(
            f"{started.target}: no Dask scheduler answers there ({' '.join(str(error).split())}); start one with "
            "`dask scheduler` or check cluster.address"
        ) from error
    with _closing(client):
        if needs_workers and not worker_threads(client):
            raise ClusterError(
                f"{started.target}: the scheduler has no workers; start some with `dask worker`"
            )
        yield client


@contextmanager
def _closing(client: Any) -> Iterator[Any]:
    """Close a client at the end, which drops the tasks that are still out."""
    try:
        yield client
    finally:
        # One that is cut off in the midst of reconnecting logs that with its traceback.
        log = logging.getLogger("distributed.client")
        log.disabled = True
        # A lost scheduler receives no goodbye, and what ended the run is what is to be raised.
        with suppress(OSError):
            client.close()
        log.disabled = False


@contextmanager
def detect_loss(client: Any) -> Iterator[None]:
    """Turn the many errors with which a client shows that its scheduler is lost into one.

    It belongs around every use of a client.

    Raises:
        SchedulerLostError: the scheduler is lost.
    """
    try:
        yield
    except Exception as error:
        # A client that gave up reconnecting has taken itself apart, and raises whatever comes of that.
        if isinstance(error, CancelledError | OSError) or client.status != "running":
            raise SchedulerLostError from error
        raise


def worker_threads(client: Any) -> dict[str, int]:
    """Return the number of threads of each worker that is there, by its address.

    Raises:
        SchedulerLostError: the scheduler is lost.
    """
    with detect_loss(client):
        if client.status != "running":
            # It may find a scheduler again by itself, but what it was waiting for is gone.
            raise SchedulerLostError
        found: dict[str, int] = client.nthreads(callback_timeout=ANSWER_SECONDS)
    return found


def fetch_result(future: Any) -> Any:
    """Return the result of a task that has ended, or raise its error.

    Raises:
        TimeoutError: the scheduler does not answer.
    """
    return future.result(timeout=ANSWER_SECONDS)


def orphaned_tasks(client: Any, keys: list[str]) -> list[str]:
    """Return the tasks among ``keys`` that wait for a worker of which the scheduler has none.

    Raises:
        SchedulerLostError: the scheduler is lost.
    """

    # A function of no module travels by value.
    def find(dask_scheduler: Any) -> list[str]:
        tasks = dask_scheduler.tasks
        return [key for key in keys if key in tasks and tasks[key].state == "no-worker"]

    with detect_loss(client):
        found: list[str] = client.run_on_scheduler(find)
    return found


def holds_results(client: Any, address: str) -> bool:
    """Return whether a worker holds the result of any task.

    Raises:
        SchedulerLostError: the scheduler is lost.
    """

    # A function of no module travels by value.
    def find(dask_scheduler: Any) -> bool:
        worker = dask_scheduler.workers.get(address)
        return worker is not None and bool(worker.has_what)

    with detect_loss(client):
        found: bool = client.run_on_scheduler(find)
    return found


def check_versions(client: Any, scheduler: str) -> list[str]:
    """Check that the scheduler and all workers that are there have the versions of this process.

    Args:
        client: of the scheduler.
        scheduler: its name in messages.

    Returns:
        The addresses of the workers.

    Raises:
        ClusterError: one has others.
        SchedulerLostError: the scheduler is lost.
    """
    expected = versions()
    names = tuple(expected)

    # A function of no module travels by value, so that it arrives where this package is missing.
    def find_versions() -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        return found

    def compare(found: dict[str, str], name: str) -> None:
        if found != expected:
            raise ClusterError(
                f"{name} has {describe_difference(expected, found)}; install the same versions there as here"
            )

    with detect_loss(client):
        compare(client.run_on_scheduler(find_versions), scheduler)
        addresses = list(client.nthreads(callback_timeout=ANSWER_SECONDS))
        for address, found in run_on_all_workers(client, addresses, find_versions).items():
            compare(found, f"worker {address}")
    return addresses


def check_workers(client: Any, scheduler: str, job: Job) -> None:
    """Check that the scheduler and every worker that is there can compute a job.

    They need the versions of this process, the store's folder under the same name, both scenes and the model. That also
    loads the model, on a thread of the worker's own.

    Args:
        client: of the scheduler.
        scheduler: its name in messages.
        job: the run.

    Raises:
        ClusterError: they lack something; names the first worker.
        SchedulerLostError: the scheduler is lost.
    """
    addresses = check_versions(client, scheduler)
    token = secrets.token_hex(8)
    probe = f"probe-{token}"
    job.store.write(probe, token.encode())
    try:
        with detect_loss(client):
            faults = run_on_all_workers(client, addresses, check_worker, job, probe, token)
    finally:
        job.store.remove(probe)
    broken = {address: fault for address, fault in faults.items() if fault}
    if broken:
        address, fault = min(broken.items())
        raise ClusterError(f"worker {address} ({len(broken)} of {len(faults)} workers): {fault}")


def may_freeze(python: tuple[int, int, int], profiled: bool) -> bool:
    """Return True if a worker may stand still.

    From Python 3.11.0 to 3.11.8 ``sys._current_frames``, which Dask's profiler calls a hundred times a second, may wait
    for ever while other threads begin and end (python/cpython#106883).

    Args:
        python: its version.
        profiled: Dask's profiler is on.
    """
    return profiled and (3, 11, 0) <= python < (3, 11, 9)


def describe_freezing(client: Any) -> str | None:
    """Return a warning of workers that :func:`may_freeze`, one line; None: none of those that are there may.

    The scheduler gives such a worker up after its ``worker-ttl``, 5 to 10 minutes.

    Raises:
        ClusterError: a worker does not answer.
        SchedulerLostError: the scheduler is lost.
    """

    # A function of no module travels by value.
    def find() -> tuple[tuple[int, int, int], bool]:
        import sys

        import dask

        return sys.version_info[:3], bool(dask.config.get("distributed.worker.profile.enabled", True))

    with detect_loss(client):
        addresses = list(client.nthreads(callback_timeout=ANSWER_SECONDS))
        found = run_on_all_workers(client, addresses, find)
    freezing = sorted(python for python, profiled in found.values() if may_freeze(tuple(python), profiled))
    if not freezing:
        return None
    return (
        f"{len(freezing)} of {len(found)} workers may freeze for minutes: Dask's profiler is on, which Python "
        f"{'.'.join(map(str, freezing[0]))} does not bear (python/cpython#106883, mended in 3.11.9); start them with "
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"
    )


def run_on_all_workers(
    client: Any, addresses: Iterable[str], function: Callable[..., Any], *args: Any
) -> Any:
    """Run a function on a thread of each worker.

    Args:
        client: of the scheduler.
        addresses: of the workers.
        function: module-level, or of no module.
        args: its arguments.

    Returns:
        The answers by address; workers that left meanwhile are left out.

    Raises:
        ClusterError: a worker does not answer, or cannot run the function.
    """
    futures = {
        # Before the tiles of other runs that wait there: these may take longer than is waited here.
        address: client.submit(
            function, *args, workers=[address], allow_other_workers=False, pure=False, priority=1
        )
        for address in addresses
    }
    end = time.monotonic() + CHECK_SECONDS
    answers: dict[str, Any] = {}
    while len(answers) < len(futures):
        here = worker_threads(client)
        waiting = [address for address in futures if address not in answers and address in here]
        if not waiting:
            break
        for address in waiting:
            future = futures[address]
            if future.status == "error":
                error = future.exception(timeout=ANSWER_SECONDS)
                raise unrunnable_error(error) from error
            if future.status == "finished":
                answers[address] = fetch_result(future)
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {waiting[0]}: does not answer within {CHECK_SECONDS} s; its log shows why"
            )
        time.sleep(0.05)
    return answers
