"""Who computes the tiles: this process, Dask workers on this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ClusterError
from pipeline.inference import TileJob, compute_tile
from pipeline.types import TileResult

TASKS_AHEAD = 2
"""Tasks handed out per thread: enough that no worker waits, few enough that the scheduler stays small."""

CONNECT_SECONDS = 15


class Executor(Protocol):
    """Runs :func:`pipeline.inference.compute_tile` over tiles, in any order."""

    def run(
        self, job: TileJob, indices: Iterable[tuple[int, int]], on_result: Callable[[TileResult], None]
    ) -> None:
        """Compute all tiles; the first failure ends it.

        Raises:
            TileError: a tile failed.
            ClusterError: scheduler or workers cannot be used.
        """


class SerialExecutor:
    """One tile after the other in this process."""

    def run(
        self, job: TileJob, indices: Iterable[tuple[int, int]], on_result: Callable[[TileResult], None]
    ) -> None:
        """See :class:`Executor`."""
        for index in indices:
            on_result(compute_tile(job, index))


class DaskExecutor:
    """Dask workers: those of a scheduler, or processes started here."""

    def __init__(self, address: str | None, workers: int, scratch: Path) -> None:
        """Describe the cluster; nothing starts before :meth:`run`.

        Args:
            address: ``tcp://host:port`` of a scheduler, or None for processes of our own.
            workers: own processes; each computes one tile at a time, with the detector's streams.
            scratch: folder for the own processes' files.
        """
        self._address = address
        self._workers = workers
        self._scratch = scratch

    def run(
        self, job: TileJob, indices: Iterable[tuple[int, int]], on_result: Callable[[TileResult], None]
    ) -> None:
        """See :class:`Executor`."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        waiting = iter(indices)
        with self._client() as client:
            threads = sum(client.nthreads().values())
            running = as_completed(loop=client.loop)
            count = 0
            for index in _take(waiting, TASKS_AHEAD * threads):
                running.add(client.submit(compute_tile, job, index, pure=False))
                count += 1
            while count:
                future = next(running)
                try:
                    result = future.result()
                except KilledWorker as error:
                    raise ClusterError(
                        "a tile lost its worker again and again, most likely for lack of memory; lower "
                        "compute.workers or tiling.tile_size"
                    ) from error
                future.release()
                count -= 1
                for index in _take(waiting, 1):
                    running.add(client.submit(compute_tile, job, index, pure=False))
                    count += 1
                on_result(result)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from distributed import Client, LocalCluster

        if self._address is not None:
            try:
                client = Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise ClusterError(
                    f"{self._address}: no Dask scheduler answers there ({error}); start one with `dask scheduler` or "
                    "check compute.scheduler"
                ) from error
            with client:
                if not client.nthreads():
                    raise ClusterError(
                        f"{self._address}: the scheduler has no workers; start some with `dask worker`"
                    )
                yield client
            return
        with (
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
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def _take(indices: Iterator[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    for _ in range(count):
        try:
            yield next(indices)
        except StopIteration:
            return
