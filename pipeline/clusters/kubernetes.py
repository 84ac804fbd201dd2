"""Workers in pods of Kubernetes, by the Dask operator."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ussfc.pipeline.clusters.base import (
    Started,
    create_cluster,
    quiet_environment,
    require_extra,
    tiles_per_worker,
)
from ussfc.pipeline.config.schema import size_in_bytes
from ussfc.pipeline.errors import ClusterError


@dataclass(frozen=True)
class KubernetesPods:
    """Worker pods of the Dask operator; the scheduler is a pod as well."""

    jobs: tuple[int, int]
    """Least and largest number of worker pods. A pod is one process: the operator knows workers by their pods."""
    threads: int
    """Cores of a pod."""
    memory: str
    """Memory of a pod, with a unit."""
    image: str
    namespace: str | None = None
    gpu: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for KubeCluster."""
    is_local: bool = False
    name: str = "scheduler of the Kubernetes cluster"

    @property
    def worker_count(self) -> int:
        """Number of workers if it does not change, else 0."""
        return self.jobs[0] if self.jobs[0] == self.jobs[1] else 0

    @property
    def concurrent_tiles(self) -> int:
        """Number of tiles in hand of a worker: the cores of its pod read for its GPU."""
        return tiles_per_worker(self.threads, self.gpu)

    def spec(self, name: str) -> dict[str, Any]:
        """Return the DaskCluster resource of that name.

        Raises:
            ClusterError: dask-kubernetes is not installed.
        """
        with require_extra("kubernetes", "dask-kubernetes"):
            from dask_kubernetes.operator import make_cluster_spec
        resources = {"cpu": str(self.threads), "memory": str(size_in_bytes(self.memory))}
        if self.gpu:
            resources["nvidia.com/gpu"] = "1"
        spec: dict[str, Any] = make_cluster_spec(
            name=name,
            image=self.image,
            n_workers=max(1, self.jobs[0]),
            resources={"requests": resources, "limits": resources},
            # The last one of a name counts.
            env=[*_variables(quiet_environment()), *_variables(self.options.get("env", {}))],
            worker_command=[
                *("dask", "worker"),
                *("--nthreads", str(self.concurrent_tiles), "--memory-limit", "0"),
            ],
            # KubeCluster itself makes nothing of it where it is given a whole specification.
            idle_timeout=self.options.get("idle_timeout", 0),
        )
        for part in ("scheduler", "worker"):
            pod = spec["spec"][part]["spec"]
            (container,) = pod["containers"]
            # Else the image's own entry point would be given these words.
            container["command"], container["args"] = container["args"][:1], container["args"][1:]
            # The strictest namespaces ask this of a pod.
            container["securityContext"] = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            pod["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        # The scheduler computes nothing, and sees no GPU.
        (container,) = spec["spec"]["scheduler"]["spec"]["containers"]
        container["resources"] = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
        return spec

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Create the resource, and remove it at the end; see :meth:`Cluster.start`."""
        with require_extra("kubernetes", "dask-kubernetes"):
            from dask_kubernetes.operator import KubeCluster
        # Kubernetes makes environment variables of the name; one that begins with ussfc would be taken for a setting.
        name = f"change-{secrets.token_hex(4)}"
        settings = {"custom_cluster_spec": self.spec(name), "namespace": self.namespace, "quiet": True}
        options = {key: value for key, value in self.options.items() if key not in ("env", "idle_timeout")}
        least, most = self.jobs
        since = time.monotonic()
        with _kubernetes_errors():
            # kr8s raises a ValueError where it finds no context or no credential.
            created = create_cluster(KubeCluster, settings, options, (TypeError,))
        with created as cluster:
            if least != most:
                with _kubernetes_errors():
                    cluster.adapt(minimum=least, maximum=most)

            def describe_wait() -> str:
                return f"no worker pod after {time.monotonic() - since:.0f} s (`kubectl get pods` shows why)"

            yield Started(cluster, most * self.concurrent_tiles, describe_wait=describe_wait)


def _variables(env: Mapping[str, str] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return environment variables as a pod lists them; the library takes both forms."""
    return (
        [{"name": name, "value": value} for name, value in env.items()]
        if isinstance(env, Mapping)
        else [*env]
    )


@contextmanager
def _kubernetes_errors() -> Iterator[None]:
    """Turn what a start may fail with into a ClusterError: no configuration, operator, permission or answer."""
    import httpx
    import kr8s
    from dask_kubernetes.exceptions import CrashLoopBackOffError, SchedulerStartupError

    refusals = (
        CrashLoopBackOffError,
        OSError,
        SchedulerStartupError,
        httpx.HTTPError,
        kr8s.APITimeoutError,
        kr8s.ConnectionClosedError,
        kr8s.NotFoundError,
        kr8s.ServerError,
        ValueError,
    )
    try:
        yield
    except refusals as error:
        _close_failed_clusters()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterError(
            f"Kubernetes refuses ({reason}); check the context (`kubectl config current-context`), the Dask operator "
            "(`kubectl get crd daskclusters.kubernetes.dask.org`) and the role of deploy/kubernetes"
        ) from error


def _close_failed_clusters() -> None:
    """Take down what a start that failed has left: Dask does it at the process's end, and shows the traceback."""
    from dask_kubernetes.operator import KubeCluster
    from distributed import Status

    for cluster in list(KubeCluster._instances):
        if cluster.status != Status.running:
            # The server that refused may refuse this as well, in whatever way its library raises.
            with suppress(Exception):
                cluster.close(timeout=10)
            KubeCluster._instances.discard(cluster)
