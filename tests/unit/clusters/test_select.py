"""The choice of a cluster from its section of the configuration."""

from __future__ import annotations

import pytest

from ussfc.pipeline.clusters import select
from ussfc.pipeline.clusters.base import MOST_READERS, READ_AHEAD
from ussfc.pipeline.clusters.kubernetes import KubernetesPods
from ussfc.pipeline.clusters.local import LocalGpus, LocalProcesses
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.clusters.select import ONE_PROCESS_CORES, SelectedCluster, select_cluster
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

MANY = 10_000
JOB = {"memory": "8GiB", "jobs": 2}
SLURM = {**JOB, "walltime": "1:00:00"}
PODS = {**JOB, "image": "here:1"}
ADDRESS = "tcp://10.0.0.5:8786"


def selected(config: ClusterConfig, tiles: int = MANY, gpu: bool = False, gpus: int = 0) -> SelectedCluster:
    return select_cluster(config, tiles, gpu, lambda: gpus)


@pytest.fixture
def allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables of an allocation of six tasks with five cores each."""
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "6"), ("SLURM_CPUS_PER_TASK", "5")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("machine", "tiles", "kind"),
    [
        (ONE_PROCESS_CORES, MANY, "serial"),
        (ONE_PROCESS_CORES + 1, MANY, "local"),
        (ONE_PROCESS_CORES + 1, 4 * (ONE_PROCESS_CORES + 1), "local"),
        (ONE_PROCESS_CORES + 1, 4 * (ONE_PROCESS_CORES + 1) - 1, "serial"),
    ],
)
def test_auto_follows_cores_and_tiles(
    monkeypatch: pytest.MonkeyPatch, machine: int, tiles: int, kind: str
) -> None:
    monkeypatch.setattr(select, "cores", lambda: machine)
    found = selected(AutoCluster(), tiles)
    assert found.kind == kind
    if kind == "local":
        assert (found.processes, found.threads, found.concurrent_tiles) == (machine, 1, 1)
    else:
        assert (found.processes, found.threads, found.concurrent_tiles) == (0, machine, 2)


@pytest.mark.parametrize(("gpus", "kind"), [(1, "serial"), (2, "local-cuda"), (8, "local-cuda")])
def test_auto_follows_the_gpus(gpus: int, kind: str) -> None:
    found = selected(AutoCluster(), gpu=True, gpus=gpus)
    assert (found.kind, found.threads) == (kind, 1)
    assert found.processes == (gpus if kind == "local-cuda" else 0)


def test_gpus_are_counted_only_where_it_matters() -> None:
    def count() -> int:
        pytest.fail("loads a library")

    for config in (AutoCluster(), SerialCluster(), LocalCluster(), SlurmCluster(**SLURM)):
        select_cluster(config, MANY, False, count)


def test_serial_has_no_more_tiles_than_there_are() -> None:
    for gpu in (False, True):
        assert selected(SerialCluster(), 1, gpu).concurrent_tiles == 1
    assert selected(SerialCluster()).concurrent_tiles == 2
    assert selected(SerialCluster(threads=3)).threads == 3


def test_gpus_of_this_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    for workers, devices in ((None, ("3", "5")), (1, ("3",))):
        found = selected(LocalCudaCluster(workers=workers), gpu=True, gpus=2)
        assert isinstance(found.cluster, LocalGpus)
        assert found.cluster.devices == devices
        assert (found.processes, found.threads) == (len(devices), 1)


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [
        (3, 2, r"2 GPU\(s\) found here, expected 3; "),
        (None, 0, r"no GPU\(s\) found here, expected at least one; "),
    ],
)
def test_missing_gpus_are_a_cluster_error(workers: int | None, gpus: int, message: str) -> None:
    with pytest.raises(
        ClusterError, match=rf"^cluster\.kind local-cuda: {message}.*choose cluster\.kind local$"
    ):
        selected(LocalCudaCluster(workers=workers), gpu=True, gpus=gpus)


@pytest.mark.usefixtures("allocation")
@pytest.mark.parametrize(
    ("config", "kind", "processes", "worker_count"),
    [
        (LocalCluster(workers=3), LocalProcesses, 3, 3),
        (SlurmCluster(**SLURM, workers=4), SlurmJobs, 0, 8),
        (SlurmCluster(memory="1GiB", walltime="1:00:00", maximum_jobs=3), SlurmJobs, 0, 0),
        (AllocationCluster(), SlurmAllocation, 0, 6),
        (KubernetesCluster(**PODS), KubernetesPods, 0, 2),
        (KubernetesCluster(memory="1GiB", image="i", minimum_jobs=1, maximum_jobs=3), KubernetesPods, 0, 0),
        (SchedulerCluster(address=ADDRESS), SchedulerAt, 0, 0),
    ],
)
def test_kind_decides_the_cluster(
    config: ClusterConfig, kind: type, processes: int, worker_count: int
) -> None:
    found = selected(config)
    assert isinstance(found.cluster, kind)
    assert found.kind == config.kind
    assert (found.processes, found.cluster.worker_count) == (processes, worker_count)
    assert found.cluster.is_local == (config.kind in select.LOCAL_KINDS)
    assert found.concurrent_tiles == 1


def test_scheduler_gets_its_certificates() -> None:
    files = {"tls_ca": "ca.pem", "tls_certificate": "crt.pem", "tls_key": "key.pem"}
    found = selected(SchedulerCluster(address="tls://10.0.0.5:8786", **files)).cluster
    assert isinstance(found, SchedulerAt)
    assert found.tls == ("ca.pem", "crt.pem", "key.pem")


@pytest.mark.usefixtures("allocation")
def test_task_of_an_allocation_uses_all_cores() -> None:
    assert selected(AllocationCluster()).threads == 5
    assert selected(AllocationCluster(threads=2)).threads == 2


@pytest.mark.parametrize(("threads", "tiles"), [(1, READ_AHEAD), (5, 5), (64, MOST_READERS)])
@pytest.mark.parametrize("kind", ["slurm", "kubernetes", "allocation"])
def test_cores_beside_a_gpu_read_tiles(
    monkeypatch: pytest.MonkeyPatch, kind: str, threads: int, tiles: int
) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_CPUS_PER_TASK", str(threads))):
        monkeypatch.setenv(name, value)
    config: ClusterConfig = {
        "slurm": SlurmCluster(**SLURM, gpu=True, threads=threads),
        "kubernetes": KubernetesCluster(**PODS, gpu=True, threads=threads),
        "allocation": AllocationCluster(gpu=True, threads=threads),
    }[kind]
    found = selected(config, gpu=True)
    assert found.cluster is not None
    assert found.concurrent_tiles == found.cluster.concurrent_tiles == tiles
    # They are not the network's.
    assert found.threads == 1
