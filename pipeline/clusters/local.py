"""Workers that are processes of this machine: some for its cores, or one for each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask

from ussfc.cores import cores
from ussfc.pipeline.clusters.base import QUIET, Started, create_cluster, tiles_per_worker

LOCAL_RESTART_SECONDS = 300
"""Seconds that a process which died may take to start again before Dask gives it up; Dask's own 15 s are short for
torch."""


@dataclass(frozen=True)
class LocalProcesses:
    """Processes of this machine; each computes one tile at a time."""

    workers: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for LocalCluster."""
    concurrent_tiles: int = 1
    is_local: bool = True
    name: str = "scheduler of this process"

    @property
    def worker_count(self) -> int:
        """Number of processes; each walks a band of the tiles."""
        return self.workers

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Start the processes; see :meth:`Cluster.start`."""
        from distributed import LocalCluster

        settings = _local_settings(scratch) | {
            "n_workers": self.workers,
            "threads_per_worker": 1,
            "processes": True,
        }
        with _dask_settings(), create_cluster(LocalCluster, settings, self.options) as cluster:
            yield Started(cluster, self.workers)


@dataclass(frozen=True)
class LocalGpus:
    """One process for each GPU of this machine."""

    devices: tuple[str, ...]
    """Entries of CUDA_VISIBLE_DEVICES: numbers or identifiers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for LocalCUDACluster where dask-cuda is installed, else for LocalCluster."""
    is_local: bool = True
    name: str = "scheduler of this process"

    @property
    def worker_count(self) -> int:
        """Number of GPUs; the process of each walks a band of the tiles."""
        return len(self.devices)

    @property
    def concurrent_tiles(self) -> int:
        """Number of tiles in hand of a process: the machine's cores are shared among its GPUs."""
        return tiles_per_worker(cores() // len(self.devices), True)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Start the processes; see :meth:`Cluster.start`."""
        count = len(self.devices)
        settings = _local_settings(scratch) | {
            "n_workers": count,
            "threads_per_worker": self.concurrent_tiles,
        }
        try:
            from dask_cuda import LocalCUDACluster

            cluster_type: Any = LocalCUDACluster
            settings |= {"CUDA_VISIBLE_DEVICES": ",".join(self.devices), "device_memory_limit": None}
        except ImportError:
            cluster_type = _pinned_cluster_type(self.devices)
            settings |= {"processes": True}
        with _dask_settings(), create_cluster(cluster_type, settings, self.options) as cluster:
            yield Started(cluster, self.concurrent_tiles * count)


def visible_gpus(count: int) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Args:
        count: number of GPUs that the process sees.
    """
    named = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    named = [entry for entry in named if entry]
    return tuple(named[:count]) if len(named) >= count else tuple(str(number) for number in range(count))


def _pinned_cluster_type(devices: tuple[str, ...]) -> Any:
    """Return a LocalCluster whose processes see one device each."""
    from distributed import LocalCluster

    class PinnedCluster(LocalCluster):
        async def _start(self) -> None:
            # The first ones are not asked of new_worker_spec.
            self.worker_spec = self._pinned(self.worker_spec)
            await super()._start()  # type: ignore[no-untyped-call]

        def new_worker_spec(self) -> dict[Any, Any]:
            return self._pinned(super().new_worker_spec())  # type: ignore[no-untyped-call]

        @staticmethod
        def _pinned(specs: dict[Any, Any]) -> dict[Any, Any]:
            pinned = {}
            for name, spec in specs.items():
                device = devices[int(name) % len(devices)]
                options = {**spec["options"], "env": {"CUDA_VISIBLE_DEVICES": device}}
                pinned[name] = {**spec, "options": options}
            return pinned

    return PinnedCluster


def _local_settings(scratch: Path) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        # None would open Dask's usual port, on every interface.
        "dashboard_address": "127.0.0.1:0",
        # The run's own projection bounds the memory; Dask's limit would pause or kill at a guess.
        "memory_limit": None,
        "local_directory": str(scratch),
    }


def _dask_settings() -> AbstractContextManager[Any]:
    """Set Dask up around a cluster of this machine, whose processes take the settings over."""
    limit = {"distributed.deploy.lost-worker-timeout": f"{LOCAL_RESTART_SECONDS} s"}
    return dask.config.set({**limit, **QUIET})
