"""The part of a Kubernetes API that clients of the Dask operator use: served on loopback, by the rules of a Role.

It keeps what is created in it and does the operator's work on it: a DaskCluster gets its pod, its service and its
group of workers at once. What computes behind the service is a Dask scheduler that the test has started.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

DASK = "kubernetes.dask.org"
KINDS = {
    ("", "pods"): "Pod",
    ("", "services"): "Service",
    (DASK, "daskclusters"): "DaskCluster",
    (DASK, "daskworkergroups"): "DaskWorkerGroup",
    (DASK, "daskautoscalers"): "DaskAutoscaler",
}
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Right(NamedTuple):
    """A right that a rule of a Role grants and a request needs; a subresource as pods/log."""

    group: str
    resource: str
    verb: str


def rights(rules: Iterable[Mapping[str, Any]]) -> set[Right]:
    """Return all rights that the rules of a Role grant."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class KubernetesApi:
    """State of the served namespace."""

    def __init__(self, namespace: str, granted: set[Right], scheduler: str, dashboard_port: int) -> None:
        """Serve nothing before :meth:`serve`.

        Args:
            namespace: the only one there is.
            granted: everything else is forbidden.
            scheduler: tcp://host:port of the scheduler behind the service of every cluster.
            dashboard_port: of that scheduler.
        """
        self.namespace = namespace
        self.granted = granted
        self.used: set[Right] = set()
        self.forbidden: set[Right] = set()
        self.created: list[dict[str, Any]] = []
        self._host, port = scheduler.removeprefix("tcp://").split(":")
        self._ports = {"tcp-comm": int(port), "http-dashboard": dashboard_port}
        self._objects: dict[tuple[str, str], dict[str, dict[str, Any]]] = {key: {} for key in KINDS}

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve from a thread of its own; give the address."""
        api = self

        class Handler(_Handler):
            kubernetes = api

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        """Return status and document (a text for a log) of a request."""
        if "namespaces" not in path:
            return self._discovery(path)
        head, _, rest = path.partition("/namespaces/")
        namespace, resource, *names = rest.split("/")
        assert namespace == self.namespace, path
        group = "" if head == "/api/v1" else head.split("/")[2]
        name, subresource = (*names, None, None)[:2]
        verb = VERBS.get(method) or ("get" if name else "list")
        right = Right(group, f"{resource}/{subresource}" if subresource else resource, verb)
        if right not in self.granted:
            self.forbidden.add(right)
            return 403, {"kind": "Status", "message": f"forbidden: {right}"}
        self.used.add(right)
        if subresource == "log":
            return 200, "a line of the log\n"
        held = self._objects[group, resource]
        if method == "POST":
            self._create(group, resource, body)
            return 201, body
        if name is None:
            return 200, {"kind": "List", "metadata": {}, "items": _selected(held.values(), query)}
        if name not in held:
            return 404, {"kind": "Status", "message": f"{name} not found"}
        if method == "DELETE":
            return 200, held.pop(name)
        if method == "PATCH":
            _merge(held[name], body)
        return 200, held[name]

    def _discovery(self, path: str) -> tuple[int, Any]:
        """Return the versions and resources of the API, which need no right."""
        if path == "/version":
            return 200, {"gitVersion": "v1.33.0"}
        if path == "/api":
            return 200, {"versions": ["v1"]}
        if path == "/apis":
            version = {"groupVersion": f"{DASK}/v1", "version": "v1"}
            return 200, {"groups": [{"name": DASK, "versions": [version]}]}
        requested = "" if path == "/api/v1" else DASK
        return 200, {
            "resources": [
                {"name": name, "singularName": name[:-1], "kind": kind, "namespaced": True}
                for (group, name), kind in KINDS.items()
                if group == requested
            ]
        }

    def _create(self, group: str, resource: str, document: dict[str, Any]) -> None:
        document["metadata"].setdefault("namespace", self.namespace)
        self.created.append(document)
        name = document["metadata"]["name"]
        self._objects[group, resource][name] = document
        if resource != "daskclusters":
            return
        document["status"] = {"phase": "Running"}
        labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
        served = f"{name}-scheduler"
        metadata = {"name": served, "namespace": self.namespace, "labels": labels}
        ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
        self._objects["", "pods"][served] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": document["spec"]["scheduler"]["spec"],
            "status": {"phase": "Running", "conditions": ready},
        }
        ports = [{"name": key, "port": port, "protocol": "TCP"} for key, port in self._ports.items()]
        self._objects["", "services"][served] = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {**document["spec"]["scheduler"]["service"], "ports": ports},
            "status": {"loadBalancer": {"ingress": [{"ip": self._host}]}},
        }
        self._objects[DASK, "daskworkergroups"][f"{name}-default"] = {
            "apiVersion": f"{DASK}/v1",
            "kind": "DaskWorkerGroup",
            "metadata": {"name": f"{name}-default", "namespace": self.namespace},
            "spec": {"cluster": name, "worker": document["spec"]["worker"]},
        }


def _selected(objects: Iterable[dict[str, Any]], query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the objects that the selectors of labels and fields select."""

    def field(document: dict[str, Any], dotted: str) -> Any:
        value: Any = document
        for part in dotted.split("."):
            value = value.get(part, {})
        return value

    def pairs(key: str) -> list[list[str]]:
        return [pair.split("=", 1) for pair in ",".join(query.get(key, [])).split(",") if pair]

    return [
        document
        for document in objects
        if all(document["metadata"].get("labels", {}).get(k) == v for k, v in pairs("labelSelector"))
        and all(field(document, k) == v for k, v in pairs("fieldSelector"))
    ]


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


class _Handler(BaseHTTPRequestHandler):
    kubernetes: KubernetesApi
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        asked = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, document = self.kubernetes.answer(
            self.command,
            "/" + "/".join(filter(None, asked.path.split("/"))),
            parse_qs(asked.query),
            json.loads(content) if content else None,
        )
        payload = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(document, str) else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Log nothing."""
