"""The servers and the proxy that the tests of object storage stand on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.support.paths import ROOT
from tests.support.servers import Azurite, FaultProxy, SeaweedFS

s3fs = pytest.importorskip("s3fs")
exceptions = pytest.importorskip("botocore.exceptions")

TRANSFORM = from_origin(500_000, 5_000_000, 10, 10)
PROFILE = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32631", "transform": TRANSFORM}


class Echo(BaseHTTPRequestHandler):
    """Answers a body with its digest, and `GET /N` with N bytes in chunks."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = b""
        if "Transfer-Encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.headers['Host']} {hashlib.sha256(content).hexdigest()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(int(self.path[1:])):
            self.wfile.write(b"1\r\nx\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay silent."""


class EchoServer(ThreadingHTTPServer):
    daemon_threads = False  # so that its end waits for them

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about requests that were cut."""


@pytest.fixture
def echo() -> Iterator[FaultProxy]:
    """A proxy before a server that needs nothing installed."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def line(echo: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    """One connection to that proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=30)
    yield connection
    connection.close()


def ask(line: http.client.HTTPConnection, method: str, path: str, **options: object) -> tuple[int, bytes]:
    line.request(method, path, **options)  # type: ignore[arg-type]
    with line.getresponse() as answer:
        return answer.status, answer.read()


def test_bodies_of_every_framing_pass_over_one_connection(
    echo: FaultProxy, line: http.client.HTTPConnection
) -> None:
    content = os.urandom(300_000)
    wanted = f"127.0.0.1:{echo.port} {hashlib.sha256(content).hexdigest()}".encode()
    assert ask(line, "PUT", "/a", body=content) == (200, wanted)
    first = line.sock
    pieces = iter([content[:7], content[7:]])
    assert ask(line, "PUT", "/b", body=pieces, encode_chunked=True) == (200, wanted)
    assert ask(line, "HEAD", "/c") == (200, b"")
    assert ask(line, "GET", "/500") == (200, b"x" * 500)
    assert ask(line, "GET", "/0") == (200, b"")
    assert line.sock is first
    assert echo.requests == {"PUT": 2, "HEAD": 1, "GET": 2}
    assert (echo.request_bytes, echo.response_bytes) == (600_000, 2 * len(wanted) + 500)


def test_a_client_that_waits_to_be_told_is_told(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    line.connect()
    line.sock.sendall(b"PUT /a HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert line.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.sock.sendall(b"abc")
    answer = b""
    while not answer.endswith(hashlib.sha256(b"abc").hexdigest().encode()):
        answer += line.sock.recv(1000)
        assert answer
    assert b"here " in answer


def test_dropped_requests_get_no_answer(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    rule = echo.inject("drop", "GET", "^/3$", times=2, skip=1)
    assert ask(line, "GET", "/3") == (200, b"xxx")
    for _ in range(2):
        with pytest.raises(http.client.RemoteDisconnected):
            ask(line, "GET", "/3")
        line.close()
    assert ask(line, "GET", "/3") == (200, b"xxx")
    assert (echo.fired(rule), echo.injected) == (2, {"drop": 2})
    assert [exchange.status for exchange in echo.log] == [200, None, None, 200]


def test_an_error_is_answered_without_asking_the_server(
    echo: FaultProxy, line: http.client.HTTPConnection
) -> None:
    for status, code in ((503, b"SlowDown"), (500, b"InternalError"), (403, b"AccessDenied")):
        echo.inject("status", "PUT", status=status)
        found, body = ask(line, "PUT", "/a", body=b"x" * 100_000)
        assert found == status
        assert b"<Code>" + code + b"</Code>" in body
    echo.inject("status", status=503)
    assert ask(line, "HEAD", "/a") == (503, b"")
    assert ask(line, "GET", "/1") == (200, b"x")
    assert echo.injected == {"status": 4}


def test_a_delay_is_waited_and_the_answer_is_whole(
    echo: FaultProxy, line: http.client.HTTPConnection
) -> None:
    echo.inject("delay", headers={"x-slow": "^yes$"}, seconds=0.3)
    began = time.monotonic()
    assert ask(line, "GET", "/2", headers={"X-Slow": "yes"}) == (200, b"xx")
    assert time.monotonic() - began >= 0.3


def test_a_truncated_body_ends_early(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    echo.inject("truncate", after=5, times=2)
    with pytest.raises(http.client.IncompleteRead):
        ask(line, "GET", "/9")
    line.close()
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(line, "PUT", "/a", body=b"abc")
    assert len(caught.value.partial) == 5
    assert echo.response_bytes == 10


def test_a_request_is_cut_in_its_body(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    echo.inject("cut_request", "PUT", after=100_000)
    with pytest.raises(OSError):  # noqa: PT011 - reset, broken pipe or no answer, as the timing falls
        ask(line, "PUT", "/a", body=b"x" * 20_000_000)
    line.close()
    assert 100_000 <= echo.request_bytes < 1_000_000
    assert ask(line, "GET", "/1") == (200, b"x")


def test_a_client_that_leaves_is_no_defect(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    for framing in (b"Content-Length: 3", b"Transfer-Encoding: chunked"):
        line.connect()
        line.sock.sendall(b"PUT /a HTTP/1.1\r\nHost: here\r\n" + framing + b"\r\n\r\n")
        line.close()
    assert ask(line, "GET", "/1") == (200, b"x")
    # The fixture's end raises what went wrong in the proxy.


def test_chances_repeat_with_their_seed(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    found = []
    for _ in range(2):
        echo.heal()
        echo.inject("status", probability=0.5, seed=1, times=None)
        found.append([ask(line, "GET", "/1")[0] for _ in range(20)])
    assert found[0] == found[1]
    assert set(found[0]) == {200, 503}


def test_an_outage_refuses_cuts_and_ends(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    assert ask(line, "GET", "/1") == (200, b"x")
    echo.inject("delay", path="^/7$", seconds=60)
    with ThreadPoolExecutor(1) as pool:
        slow = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=30)
        pending = pool.submit(ask, slow, "GET", "/7")
        while not echo.injected:
            time.sleep(0.01)
        echo.pause()
        with pytest.raises(OSError):  # noqa: PT011
            pending.result()
        slow.close()
    with pytest.raises(OSError):  # noqa: PT011
        ask(line, "GET", "/1")
    line.close()
    with pytest.raises(ConnectionRefusedError):
        line.connect()
    echo.resume()
    assert ask(line, "GET", "/1") == (200, b"x")


def test_objects_through_s3fs(seaweed: SeaweedFS, bucket: str, s3_environment: dict[str, str]) -> None:
    files = s3fs.S3FileSystem()
    files.pipe(f"{bucket}/folder/a", b"abc")
    assert files.cat_file(f"{bucket}/folder/a", start=1, end=3) == b"bc"
    seaweed.put(bucket, "b", b"12345")
    assert files.cat_file(f"{bucket}/b") == b"12345"
    assert seaweed.objects(bucket) == {"folder/a": 3, "b": 5}
    assert seaweed.objects(bucket, "folder/") == {"folder/a": 3}
    assert seaweed.get(bucket, "folder/a") == b"abc"
    seaweed.delete(bucket, "b")
    assert "b" not in seaweed.objects(bucket)
    seaweed.client.create_multipart_upload(Bucket=bucket, Key="folder/big")
    assert seaweed.uploads(bucket) == seaweed.uploads(bucket, "folder/") == ["folder/big"]
    with pytest.raises(FileNotFoundError):
        files.pipe("no-such-bucket/a", b"abc")


def test_objects_through_s3fs_and_the_proxy(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy) -> None:
    content = os.urandom(12_000_000)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    with files.open(f"{bucket}/big", "wb", block_size=5 << 20) as stream:
        stream.write(content)
    assert seaweed.objects(bucket) == {"big": len(content)}
    assert proxied.request_bytes >= len(content)
    proxied.reset()
    assert files.cat_file(f"{bucket}/big", start=10, end=1010) == content[10:1010]
    (read,) = (exchange for exchange in proxied.log if exchange.method == "GET")
    assert (read.range, read.status, read.sent) == ("bytes=10-1009", 206, 1000)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == content for found in pool.map(files.cat_file, [f"{bucket}/big"] * 8))


def test_s3fs_survives_what_passes(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy) -> None:
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    proxied.inject("status", "PUT", status=503)
    files.pipe(f"{bucket}/a", b"abc" * 1000)
    proxied.inject("status", "GET", status=500)
    assert files.cat_file(f"{bucket}/a") == b"abc" * 1000
    assert proxied.injected == {"status": 2}
    proxied.inject("lost", "PUT")
    files.pipe(f"{bucket}/b", b"b")
    assert proxied.injected["lost"] == 1
    assert seaweed.get(bucket, "b") == b"b"


def test_botocore_through_the_proxy(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy) -> None:
    client = seaweed.connect(seaweed.access_key, seaweed.secret_key, proxied.endpoint)
    wrong = seaweed.connect(seaweed.access_key, "wrong", proxied.endpoint)
    try:
        client.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"x" * 3_000_000)
        with client.get_object(Bucket=bucket, Key="a b/ü+%")["Body"] as body:
            assert body.read() == b"x" * 3_000_000
        with pytest.raises(exceptions.ClientError, match="SignatureDoesNotMatch"):
            wrong.put_object(Bucket=bucket, Key="b", Body=b"x" * 3_000_000)
    finally:
        client.close()
        wrong.close()


def test_rasters_through_gdal(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 1024, 1024), np.uint8)
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(tmp_path / "a.tif", "w", height=1024, width=1024, **PROFILE, **blocks) as raster:
        raster.write(pixels)
    seaweed.put(bucket, "a.tif", (tmp_path / "a.tif").read_bytes())
    window = rasterio.windows.Window(256, 256, 256, 256)
    for endpoint in (seaweed.endpoint, proxied.endpoint):
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", **seaweed.gdal_options(endpoint)),
            rasterio.open(f"/vsis3/{bucket}/a.tif") as raster,
        ):
            np.testing.assert_array_equal(raster.read(window=window), pixels[:, 256:512, 256:512])
    assert 256 * 256 <= proxied.response_bytes < 0.4 * pixels.size
    assert all(exchange.range for exchange in proxied.log if exchange.method == "GET")


def test_gdal_writes_through_the_proxy(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy) -> None:
    options = {"CPL_VSIL_USE_TEMP_FILE_FOR_RANDOM_WRITE": "YES", **seaweed.gdal_options(proxied.endpoint)}
    with (
        rasterio.Env(**options),
        rasterio.open(f"/vsis3/{bucket}/b.tif", "w", height=64, width=64, **PROFILE) as raster,
    ):
        raster.write(np.full((1, 64, 64), 7, np.uint8))
    with rasterio.MemoryFile(seaweed.get(bucket, "b.tif")) as memory, memory.open() as raster:
        assert (raster.read() == 7).all()


def test_readers_are_refused_a_write_and_strangers_everything(seaweed: SeaweedFS, bucket: str) -> None:
    seaweed.put(seaweed.read_only_bucket, "a", b"abc")
    reader = seaweed.connect(seaweed.read_only_access_key, seaweed.read_only_secret_key)
    stranger = seaweed.connect("stranger", "secret")
    try:
        with reader.get_object(Bucket=seaweed.read_only_bucket, Key="a")["Body"] as body:
            assert body.read() == b"abc"
        with pytest.raises(exceptions.ClientError, match="AccessDenied"):
            reader.put_object(Bucket=seaweed.read_only_bucket, Key="b", Body=b"abc")
        with pytest.raises(exceptions.ClientError, match="AccessDenied"):
            reader.list_objects_v2(Bucket=bucket)
        with pytest.raises(exceptions.ClientError, match="InvalidAccessKeyId"):
            stranger.get_object(Bucket=seaweed.read_only_bucket, Key="a")
    finally:
        reader.close()
        stranger.close()


def test_objects_outlive_a_kill(seaweed: SeaweedFS, bucket: str, s3_environment: dict[str, str]) -> None:
    content = {f"{number}": os.urandom(1000 * number) for number in range(1, 20)}
    for key, value in content.items():
        seaweed.put(bucket, key, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    assert files.cat_file(f"{bucket}/1") == content["1"]
    seaweed.kill()
    assert not seaweed.running
    assert not [*Path("/tmp").glob(f"seaweedfs-*-{seaweed.port}.sock")]
    seaweed.start()
    assert seaweed.objects(bucket) == {key: len(value) for key, value in content.items()}
    assert {key: seaweed.get(bucket, key) for key in content} == content
    assert files.cat_file(f"{bucket}/2") == content["2"]


def test_the_environment_holds_nothing_of_the_developer(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    wanted = request.getfixturevalue("s3_environment")
    assert {k: v for k, v in os.environ.items() if k.startswith("AWS_")}.items() <= wanted.items()


def test_blobs_through_adlfs(azurite: Azurite, container: str, azure_environment: dict[str, str]) -> None:
    adlfs = pytest.importorskip("adlfs")
    files = adlfs.AzureBlobFileSystem()
    files.pipe(f"{container}/folder/a", b"abc" * 1_000_000)
    assert files.cat_file(f"{container}/folder/a", start=1, end=3) == b"bc"
    azurite.put(container, "b", b"12345")
    assert files.cat_file(f"{container}/b") == b"12345"
    assert azurite.objects(container) == {"folder/a": 3_000_000, "b": 5}
    assert azurite.get(container, "b") == b"12345"
    azurite.delete(container, "b")
    assert azurite.objects(container, "b") == {}
    azurite.client.get_blob_client(container, "big").stage_block("AAAA", b"1")
    assert azurite.uploads(container) == ["big"]


def test_blobs_outlive_a_restart(azurite: Azurite, container: str) -> None:
    azurite.put(container, "a", b"abc")
    azurite.stop()
    assert not azurite.running
    azurite.start()
    assert azurite.get(container, "a") == b"abc"


def test_blobs_pass_the_proxy(azurite: Azurite, container: str, azure_environment: dict[str, str]) -> None:
    adlfs = pytest.importorskip("adlfs")
    with FaultProxy(azurite.endpoint) as proxy:
        at_proxy = azurite.connection_string_at(proxy.endpoint)
        files = adlfs.AzureBlobFileSystem(connection_string=at_proxy, skip_instance_cache=True)
        proxy.inject("delay", "PUT", seconds=0.1)  # after an error Azure's client waits for many seconds
        files.pipe(f"{container}/a", b"abc")
        assert files.ls(container) == [f"{container}/a"]
        assert proxy.injected == {"delay": 1}
    assert azurite.get(container, "a") == b"abc"


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from tests.support.servers import Server

class Sleeper(Server):
    command = lambda self: ["sleep", "600"]
    process_environment = lambda self: dict(os.environ)
    _ready = lambda self: True

server = Sleeper(Path(sys.argv[1]))
server.start()
print(server._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid := int(ended.stdout)):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody may be there to reap it
                break
        assert time.monotonic() < deadline
        time.sleep(0.02)
