"""The servers of the tests: S3 and Azure as clients see them, directly and through the proxy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.support.fault_proxy import FaultProxy
from tests.support.paths import ROOT
from tests.support.servers import Azurite, SeaweedFS

s3fs = pytest.importorskip("s3fs")
exceptions = pytest.importorskip("botocore.exceptions")

TRANSFORM = from_origin(500_000, 5_000_000, 10, 10)
PROFILE = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32631", "transform": TRANSFORM}


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


def test_s3fs_survives_passing_faults(seaweed: SeaweedFS, bucket: str, proxied: FaultProxy) -> None:
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


def test_readers_and_strangers_are_refused(seaweed: SeaweedFS, bucket: str) -> None:
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


def test_the_developers_environment_stays_out(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    expected = request.getfixturevalue("s3_environment")
    assert {k: v for k, v in os.environ.items() if k.startswith("AWS_")}.items() <= expected.items()


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


def test_a_server_ends_with_its_starter(tmp_path: Path) -> None:
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
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid := int(ended.stdout)):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # it may have no parent left to reap it
                break
        assert time.monotonic() < deadline
        time.sleep(0.02)
