"""The files for clusters in `deploy/`, as the program reads them, and Kubernetes as the program uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.deploy import (
    DEPLOY,
    KUBERNETES_VERSIONS,
    load_pods,
    manifest,
    run_scheduler,
    write_kubeconfig,
)
from tests.support.kubernetes_api import KubernetesApi, rights
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.scenes import write_scene, write_toy_model
from ussfc.pipeline.config.load import load_config


@pytest.fixture
def kubernetes_file(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(manifest("ConfigMap")["data"]["cluster.yaml"], "utf-8")
    return file


def test_cluster_files_are_configurations(kubernetes_file: Path) -> None:
    assert load_config(cluster=str(DEPLOY / "slurm" / "cluster.yaml")).cluster.kind == "slurm"
    assert load_config(cluster=str(kubernetes_file)).cluster.kind == "kubernetes"
    assert load_config(kubernetes_file).cluster.kind == "kubernetes"


def test_slurm_options_are_those_of_the_library() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    options = dict(load_config(cluster=str(DEPLOY / "slurm" / "cluster.yaml")).cluster.options)
    options.pop("interface")  # asked of this very machine
    cluster = {"cores": 1, "memory": "1GiB", "processes": 1, "walltime": "00:10:00"}
    script = jobqueue.slurm.SLURMJob("tcp://127.0.0.1:1", name="x", **cluster, **options).job_script()
    assert "source $HOME/.config/ussfc/store.env" in script


def test_pods_are_valid_and_run_dask(kubernetes_file: Path) -> None:
    pytest.importorskip("dask_kubernetes")
    spec = load_pods(kubernetes_file).spec("ussfc-test")["spec"]
    for part in ("scheduler", "worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part}, "spec": spec[part]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES_VERSIONS[-1], strict=True)
        (container,) = spec[part]["spec"]["containers"]
        assert {"name": "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "value": "False"} in container["env"]
        assert container["command"][0].startswith("dask")  # else the image's own entry point: ussfc
    # The operator takes down the cluster of a run that was lost.
    assert (
        spec["idleTimeout"] == load_config(cluster=str(kubernetes_file)).cluster.options["idle_timeout"] > 0
    )


PROGRAM = """
import dataclasses, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.deploy import load_pods
pods = load_pods(Path(sys.argv[2]))
pods = dataclasses.replace(pods, jobs=eval(sys.argv[3]))
from distributed import Client
# The stand-in has no names of services: a load balancer with an address.
spec = type(pods).spec
def of_balancer(self, name):
    made = spec(self, name)
    made["spec"]["scheduler"]["service"]["type"] = "LoadBalancer"
    return made
type(pods).spec = of_balancer
with pods.start(Path(sys.argv[1])) as started, Client(started.target) as client:
    assert client.submit(sum, [1, 2]).result(timeout=30) == 3
"""


@pytest.mark.parametrize("jobs", ["(0, 3)", pytest.param("(2, 2)", marks=pytest.mark.soak)])
def test_role_is_enough_for_the_program(tmp_path: Path, kubernetes_file: Path, jobs: str) -> None:
    pytest.importorskip("dask_kubernetes")
    with run_scheduler(tmp_path / "scheduler.json") as (scheduler, dashboard_port):
        api = KubernetesApi("ussfc", rights(manifest("Role")["rules"]), scheduler, dashboard_port)
        with api.serve() as address:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(ROOT), str(kubernetes_file), jobs],
                env={
                    **os.environ,
                    "KUBECONFIG": str(write_kubeconfig(tmp_path / "kubeconfig", address)),
                    "NO_PROXY": "*",
                },
                capture_output=True,
                text=True,
                check=False,
            )
    assert not api.forbidden, done.stderr
    assert done.returncode == 0, done.stderr
    (cluster,) = (document for document in api.created if document["kind"] == "DaskCluster")
    assert json.dumps(cluster["spec"]["worker"]).count("secretKeyRef") == 4


def test_cluster_file_has_no_unread_key(kubernetes_file: Path) -> None:
    assert set(yaml.safe_load(kubernetes_file.read_text("utf-8"))) == {"cluster"}


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_silent_kubernetes_is_one_line(tmp_path: Path, there: bool) -> None:
    pytest.importorskip("dask_kubernetes")
    write_scene(tmp_path, "a", (100, 100))
    write_toy_model(tmp_path)
    context = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }
    if there:
        (tmp_path / "config").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **context}))
    # In a process of its own: what a failed start leaves is taken down at its end.
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "ussfc.cli",
                "run",
                str(tmp_path / "a_before.tif"),
                str(tmp_path / "a_after.tif"),
            ),
            *("--out", str(tmp_path / "out"), "--model", str(tmp_path / "toy.yaml")),
            *("--cluster", "kubernetes", "--set", "cluster.image=here:1", "-q"),
        ],
        cwd=ROOT,
        env=os.environ | {"KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Kubernetes refuses (")
    assert "kubectl config current-context" in line
