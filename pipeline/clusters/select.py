"""The choice of a cluster for a run, from the configuration and the number of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ussfc.pipeline.clusters.base import (
    READ_AHEAD,
    Cluster,
    KubernetesPods,
    LocalGpus,
    LocalProcesses,
    SchedulerAt,
    SlurmAllocation,
    SlurmJobs,
    tiles_per_worker,
    visible_gpus,
)
from ussfc.pipeline.config.schema import ClusterConfig
from ussfc.pipeline.errors import ClusterError
from ussfc.pipeline.parallel.ordered_map import cores

LOCAL_KINDS = ("local", "local-cuda")
"""Kinds of cluster whose processes are on this machine."""

REMOTE_KINDS = ("slurm", "kubernetes", "scheduler")
"""Kinds of cluster whose workers run on machines that this one may be unlike."""

ONE_PROCESS_CORES = 8
"""Cores that one process keeps at work by itself; beyond, processes side by side do better."""


@dataclass(frozen=True)
class SelectedCluster:
    """The processes that compute a run, and what each of them has in hand."""

    kind: str
    """A kind of cluster, or serial."""
    cluster: Cluster | None
    """Source of the workers; None: this process computes."""
    threads: int
    """Threads of one process that run the network."""
    concurrent_tiles: int
    """Tiles that one process has under way: one in the network, others read or written beside it."""

    @property
    def processes(self) -> int:
        """Worker processes on this machine; 0 where there are none."""
        return self.cluster.worker_count if self.cluster is not None and self.kind in LOCAL_KINDS else 0


def select_cluster(
    config: ClusterConfig, tile_count: int, on_gpu: bool, count_gpus: Callable[[], int]
) -> SelectedCluster:
    """Return the cluster that a run uses; nothing is started.

    Args:
        config: the configured cluster; its kind may be ``auto``.
        tile_count: tiles of the run.
        on_gpu: whether every worker computes on a GPU.
        count_gpus: returns the number of GPUs of this machine; called only where it matters, for it may load a
            library first.

    Raises:
        ClusterError: this machine has fewer GPUs than configured.
    """
    kind = config.kind
    if kind == "auto" and on_gpu:
        kind = "local-cuda" if count_gpus() > 1 else "serial"
    elif kind == "auto":
        # Few tiles cannot occupy many workers, and every process has libraries and a cache of its own in memory.
        kind = "serial" if tile_count < 4 * cores() or cores() <= ONE_PROCESS_CORES else "local"
    if kind == "serial":
        # Beside a CPU's network another tile is read.
        concurrent = min(tile_count, tiles_per_worker(cores(), True) if on_gpu else 2)
        return SelectedCluster(kind, None, 1 if on_gpu else config.threads or cores(), concurrent)
    if kind == "local-cuda":
        cluster: Cluster = LocalGpus(_devices(config.workers, count_gpus()), config.options)
    else:
        cluster = _CLUSTERS[kind](config)
    cores_of_worker = cluster.cores if isinstance(cluster, SlurmAllocation) else 1
    # The cores beside a GPU read.
    threads = 1 if on_gpu else config.threads or cores_of_worker
    return SelectedCluster(kind, cluster, threads, max(cluster.concurrent_tiles, READ_AHEAD if on_gpu else 1))


def _devices(workers: int | None, count: int) -> tuple[str, ...]:
    if not count or (workers or 0) > count:
        raise ClusterError(
            f"cluster.kind local-cuda: {count or 'no'} GPU(s) found here, expected {workers or 'at least one'}; "
            "check that nvidia-smi lists them and that PyTorch is a CUDA build, or choose --cluster local"
        )
    return visible_gpus(count)[:workers]


def _jobs(config: ClusterConfig) -> tuple[int, int]:
    """Return the least and largest number of jobs."""
    return (config.jobs, config.jobs) if config.jobs else (config.minimum_jobs or 0, config.most_jobs)


def _scheduler(config: ClusterConfig) -> Cluster:
    assert config.address is not None
    files = (config.tls_ca, config.tls_certificate, config.tls_key)
    tls = tuple(file for file in files if file is not None)
    return SchedulerAt(config.address, (tls[0], tls[1], tls[2]) if len(tls) == len(files) else None)


def _slurm(config: ClusterConfig) -> Cluster:
    assert config.memory is not None
    assert config.walltime is not None
    return SlurmJobs(
        jobs=_jobs(config),
        workers=config.workers or 1,
        threads=config.threads or 1,
        memory=config.memory,
        walltime=config.walltime,
        gpu=config.gpu,
        queue=config.queue,
        account=config.account,
        options=config.options,
    )


def _kubernetes(config: ClusterConfig) -> Cluster:
    assert config.memory is not None
    assert config.image is not None
    return KubernetesPods(
        jobs=_jobs(config),
        threads=config.threads or 1,
        memory=config.memory,
        image=config.image,
        namespace=config.namespace,
        gpu=config.gpu,
        options=config.options,
    )


_CLUSTERS: dict[str, Callable[[ClusterConfig], Cluster]] = {
    "local": lambda config: LocalProcesses(config.workers or cores(), config.options),
    "slurm": _slurm,
    "allocation": lambda config: SlurmAllocation(config.gpu),
    "kubernetes": _kubernetes,
    "scheduler": _scheduler,
}
