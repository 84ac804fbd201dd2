"""Sections of the configuration, as they are without a file: kinds of cluster, sizes, bounds."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ussfc.pipeline.config.schema import (
    CLUSTERS,
    JobsCluster,
    KubernetesCluster,
    RunConfig,
    SchedulerCluster,
    SlurmCluster,
    size_in_bytes,
)

SLURM = {"kind": "slurm", "memory": "8GiB", "walltime": "1:00:00"}
NEEDED = {
    "slurm": {**SLURM, "jobs": 2},
    "kubernetes": {"memory": "8GiB", "image": "here:1", "jobs": 2},
    "scheduler": {"address": "tcp://10.0.0.5:8786"},
}


@pytest.mark.parametrize("kind", CLUSTERS)
def test_the_kind_chooses_the_section(kind: str) -> None:
    config = RunConfig.model_validate({"cluster": {**NEEDED.get(kind, {}), "kind": kind}})
    assert type(config.cluster) is CLUSTERS[kind]
    assert config.cluster.kind == kind
    assert pickle.loads(pickle.dumps(config)) == config
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("auto", {"workers", "threads"}),
        ("serial", {"threads"}),
        ("local", {"workers", "threads", "options"}),
        ("local-cuda", {"workers", "options"}),
        ("slurm", {"workers", "threads", "gpu", "jobs", "minimum_jobs", "maximum_jobs", "memory", "walltime", "queue",
                   "account", "options"}),
        ("allocation", {"threads", "gpu"}),
        ("kubernetes", {"threads", "gpu", "jobs", "minimum_jobs", "maximum_jobs", "memory", "image", "namespace",
                        "options"}),
        ("scheduler", {"threads", "gpu", "address", "tls_ca", "tls_certificate", "tls_key"}),
    ],
)  # fmt: skip
def test_a_kind_has_the_keys_that_it_uses(kind: str, keys: set[str]) -> None:
    assert set(CLUSTERS[kind].model_fields) == keys | {"kind"}


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RunConfig.model_validate({"cluster": {"kind": "serial", "workers": 2}})


def test_every_key_has_a_description() -> None:
    for model in CLUSTERS.values():
        assert all(field.description for name, field in model.model_fields.items() if name != "kind")


@pytest.mark.parametrize(
    ("jobs", "numbers"),
    [
        ({"jobs": 3}, (3, 3)),
        ({"maximum_jobs": 8}, (0, 8)),
        ({"minimum_jobs": 2, "maximum_jobs": 8}, (2, 8)),
    ],
)
def test_jobs_have_a_range(jobs: dict[str, int], numbers: tuple[int, int]) -> None:
    cluster = SlurmCluster.model_validate({**SLURM, **jobs})
    assert (cluster.job_range, cluster.most_jobs) == (numbers, numbers[1])


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ({}, r"cluster\.kind slurm: cluster\.jobs or cluster\.maximum_jobs is not set"),
        ({"minimum_jobs": 1}, r"cluster\.kind slurm: cluster\.jobs or cluster\.maximum_jobs is not set"),
        ({"jobs": 1, "maximum_jobs": 2}, "set the one or the others"),
        ({"minimum_jobs": 3, "maximum_jobs": 2}, "3 is more than maximum_jobs, 2"),
        ({"jobs": 1, "gpu": True, "workers": 2}, "one worker to a job, and cluster.workers is 2"),
    ],
)
def test_jobs_that_contradict_are_refused(jobs: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SlurmCluster.model_validate({**SLURM, **jobs})


def test_a_pod_has_one_worker() -> None:
    cluster = KubernetesCluster(memory="8GiB", image="here:1", jobs=2)
    assert isinstance(cluster, JobsCluster)
    assert cluster.workers_per_job == 1
    assert SlurmCluster.model_validate({**SLURM, "jobs": 1, "workers": 4}).workers_per_job == 4


def test_gpus_and_threads_are_read_of_any_kind() -> None:
    found = {
        kind: RunConfig.model_validate({"cluster": {**NEEDED.get(kind, {}), "kind": kind}}).cluster
        for kind in CLUSTERS
    }
    assert {kind for kind, cluster in found.items() if cluster.wants_gpu} == {"local-cuda"}
    assert {cluster.network_threads for cluster in found.values()} == {None}
    assert CLUSTERS["allocation"].model_validate({"gpu": True}).wants_gpu
    assert CLUSTERS["serial"].model_validate({"threads": 3}).network_threads == 3


def test_tls_is_whole_or_absent() -> None:
    files = {"tls_ca": "ca.pem", "tls_certificate": "certificate.pem", "tls_key": "key.pem"}
    assert SchedulerCluster(address="tcp://a:1").tls is None
    assert SchedulerCluster(address="tls://a:1", **files).tls == tuple(files.values())
    for name in files:
        with pytest.raises(ValidationError, match="set all three"):
            SchedulerCluster(address="tcp://a:1", **{name: "x.pem"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), ("1.5 TB", 1_500_000_000_000), ("500MB", 500_000_000), ("1KiB", 1024)],
)
def test_a_size_is_in_bytes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@given(number=st.integers(1, 10**6), power=st.sampled_from("KMGT"))
def test_binary_sizes_are_the_larger(number: int, power: str) -> None:
    assert size_in_bytes(f"{number}{power}iB") > size_in_bytes(f"{number}{power}B") >= number
