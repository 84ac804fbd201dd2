"""The files in `deploy/`, and programs that stand for a Kubernetes which runs them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT
from ussfc.pipeline.clusters.base import quiet_environment
from ussfc.pipeline.clusters.kubernetes import KubernetesPods
from ussfc.pipeline.clusters.select import select_cluster
from ussfc.pipeline.config.load import load_config

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES_VERSIONS = ("1.31", "1.37")
"""The oldest with podFailurePolicy as a finished feature, and the newest known."""
SERVER_SECONDS = 60


def documents() -> list[dict[str, Any]]:
    """Return all documents of the manifests."""
    return [document for file in MANIFESTS for document in yaml.safe_load_all(file.read_text("utf-8"))]


def manifest(kind: str) -> dict[str, Any]:
    """Return the one document of a kind."""
    (found,) = (document for document in documents() if document["kind"] == kind)
    return found


def load_pods(file: Path) -> KubernetesPods:
    """Return the worker pods that a configuration of a cluster describes."""
    config = load_config(cluster=str(file)).cluster
    cluster = select_cluster(config, tile_count=1, on_gpu=False, count_gpus=lambda: 0).cluster
    assert isinstance(cluster, KubernetesPods)
    return cluster


def write_kubeconfig(file: Path, address: str) -> Path:
    """Write a file that leads clients of Kubernetes to an address."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ussfc"}}],
    }
    file.write_text(yaml.safe_dump(content), "utf-8")
    return file


@contextlib.contextmanager
def run_scheduler(file: Path) -> Iterator[tuple[str, int]]:
    """Run a scheduler with a worker, as processes; give its address and the port of its dashboard."""
    arguments = ["--scheduler-file", str(file)]
    with contextlib.ExitStack() as stack:
        for program, options in (
            ("dask_scheduler", ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]),
            (
                "dask_worker",
                ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(file.parent)],
            ),
        ):
            command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments, *options]
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    env=os.environ | quiet_environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
        end = time.monotonic() + SERVER_SECONDS
        facts = None
        while facts is None:
            assert time.monotonic() < end, "the scheduler does not start"
            time.sleep(0.05)
            # It is there a moment before it is whole.
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                facts = json.loads(file.read_text("utf-8"))
        yield facts["address"], int(facts["services"]["dashboard"])
