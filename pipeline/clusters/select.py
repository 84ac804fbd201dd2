"""The choice of a cluster for a run, from the configuration and the number of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ussfc.cores import cores
from ussfc.pipeline.clusters.base import READ_AHEAD, Cluster, tiles_per_worker
from ussfc.pipeline.clusters.kubernetes import KubernetesPods
from ussfc.pipeline.clusters.local import LocalGpus, LocalProcesses, visible_gpus
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.clusters.slurm import SlurmAllocation, SlurmJobs
from ussfc.pipeline.config.schema import (
    AllocationCluster,
    AutoCluster,
    ClusterConfig,
    KubernetesCluster,
    LocalCluster,
    LocalCudaCluster,
    SchedulerCluster,
    SerialCluster,
    SlurmCluster,
)
from ussfc.pipeline.errors import ClusterError

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
    if isinstance(config, AutoCluster):
        config = _decide(config, tile_count, on_gpu, count_gpus)
    kind, threads = config.kind, config.network_threads
    if isinstance(config, SerialCluster):
        # Beside a CPU's network another tile is read.
        concurrent = min(tile_count, tiles_per_worker(cores(), True) if on_gpu else 2)
        return SelectedCluster(kind, None, 1 if on_gpu else threads or cores(), concurrent)
    cluster = _cluster(config, count_gpus)
    cores_of_worker = cluster.cores if isinstance(cluster, SlurmAllocation) else 1
    # The cores beside a GPU read.
    threads = 1 if on_gpu else threads or cores_of_worker
    return SelectedCluster(kind, cluster, threads, max(cluster.concurrent_tiles, READ_AHEAD if on_gpu else 1))


def _decide(
    config: AutoCluster, tile_count: int, on_gpu: bool, count_gpus: Callable[[], int]
) -> SerialCluster | LocalCluster | LocalCudaCluster:
    if on_gpu:
        return LocalCudaCluster(workers=config.workers) if count_gpus() > 1 else SerialCluster()
    # Few tiles cannot occupy many workers, and every process has libraries and a cache of its own in memory.
    if tile_count < 4 * cores() or cores() <= ONE_PROCESS_CORES:
        return SerialCluster(threads=config.threads)
    return LocalCluster(workers=config.workers, threads=config.threads)


def _devices(workers: int | None, count: int) -> tuple[str, ...]:
    if not count or (workers or 0) > count:
        raise ClusterError(
            f"cluster.kind local-cuda: {count or 'no'} GPU(s) found here, expected {workers or 'at least one'}; "
            "check that nvidia-smi lists them and that PyTorch is a CUDA build, or choose cluster.kind local"
        )
    return visible_gpus(count)[:workers]


def _cluster(config: ClusterConfig, count_gpus: Callable[[], int]) -> Cluster:
    match config:
        case LocalCluster():
            return LocalProcesses(config.workers or cores(), config.options)
        case LocalCudaCluster():
            return LocalGpus(_devices(config.workers, count_gpus()), config.options)
        case SlurmCluster():
            return SlurmJobs(
                jobs=config.job_range,
                workers=config.workers_per_job,
                threads=config.threads or 1,
                memory=config.memory,
                walltime=config.walltime,
                gpu=config.gpu,
                queue=config.queue,
                account=config.account,
                options=config.options,
            )
        case AllocationCluster():
            return SlurmAllocation(config.gpu)
        case KubernetesCluster():
            return KubernetesPods(
                jobs=config.job_range,
                threads=config.threads or 1,
                memory=config.memory,
                image=config.image,
                namespace=config.namespace,
                gpu=config.gpu,
                options=config.options,
            )
        case SchedulerCluster():
            return SchedulerAt(config.address, config.tls)
    raise ValueError(f"cluster.kind {config.kind}: has no workers beside this process")
