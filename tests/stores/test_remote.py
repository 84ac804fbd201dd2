"""Scenes over a network: S3, Azure and web addresses, servers that fail, and how much is asked of them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.session
import rasterio.shutil
from fsspec.registry import _registry
from odc.geo.geobox import GeoBox

from tests.support.paths import DEMO
from tests.support.servers import Azurite, FaultProxy, SeaweedFS
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.reading import SceneRecipe, cloud_access, describe_scene, opening, read_aoi, sampling
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.grid import crop
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import block_cache
from ussfc.pipeline.types import Box, Pixels, SceneReader

NODATA = 0
BOX = Box(300, 400, 1100, 1250)


def city(side: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The demo image repeated with noise, so that it compresses as imagery does, and the profile to write it."""
    with rasterio.open(DEMO / "beirut_before.tif") as source:
        image, profile = source.read(), source.profile
    unit = np.tile(image, (1, 2, 2)).astype(np.int32)
    noise = np.random.default_rng(1).normal(0, 8, unit.shape).round().astype(np.int32)
    unit = np.clip(unit + noise, 1, 10_000).astype(np.uint16)
    times = -(-side // unit.shape[1])
    values = np.tile(unit, (1, times, times))[:, :side, :side]
    values[:, :200, :300] = NODATA
    return values, profile | {"width": side, "height": side, "nodata": NODATA}


def write_cog(path: Path, side: int, **options: Any) -> Path:
    values, profile = city(side)
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", **profile | {"compress": None, "tiled": True, "interleave": "pixel"}) as t:
        t.write(values)
    settings = {"blocksize": 512, "compress": "DEFLATE", "predictor": "YES", "num_threads": "2"}
    rasterio.shutil.copy(plain, path, driver="COG", **settings | options)
    plain.unlink()
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cloud optimised image with nodata, blocks of 256 px and overviews."""
    return write_cog(tmp_path_factory.mktemp("local") / "scene.tif", 1500, blocksize=256)


@pytest.fixture
def scene(local: Path, seaweed: SeaweedFS, bucket: str) -> str:
    """The same on S3."""
    seaweed.put(bucket, "city/scene.tif", local.read_bytes())
    return f"s3://{bucket}/city/scene.tif"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are short here."""
    options = remote.options

    def with_one_attempt(scheme: str) -> dict[str, Any]:
        return options(scheme) | (
            {"config_kwargs": {"retries": {"max_attempts": 1}}} if scheme == "s3" else {}
        )

    monkeypatch.setattr(remote, "options", with_one_attempt)
    remote.forget_connections()
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=3, first=0.05, factor=2))
    monkeypatch.setattr(opening, "READ_BACKOFF", Backoff(attempts=4, first=0.02, factor=2.5, longest=0.1))
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.02")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")


def opened(uri: str | Path, grid: GeoBox, bands: tuple[int, ...] = (1, 2, 3)) -> SceneReader:
    return SceneRecipe(str(uri), grid, bands, "bilinear").open()


def assert_same(found: Pixels, expected: Pixels) -> None:
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


def header_requests(proxy: FaultProxy, path: str = "") -> int:
    return sum(
        re.match(r"bytes=0-", exchange.range or "") is not None
        for exchange in proxy.log
        if path in exchange.path
    )


# Where the store is and who asks there


def _keys(server: SeaweedFS) -> str:
    return f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"


def write_process(folder: Path, access_key: str, secret_key: str) -> str:
    """A program that gives credentials which must be renewed with every request."""
    answer = {
        "Version": 1,
        "AccessKeyId": access_key,
        "SecretAccessKey": secret_key,
        "Expiration": (datetime.now(UTC) + timedelta(minutes=5)).isoformat(),
    }
    (folder / "answer.json").write_text(json.dumps(answer))
    (folder / "give.py").write_text(f"print(open({str(folder / 'answer.json')!r}).read())")
    return f"credential_process = {sys.executable} {folder / 'give.py'}\n"


@pytest.fixture(params=["environment", "profile", "service", "process"])
def access(
    request: pytest.FixtureRequest, s3_environment: None, seaweed: SeaweedFS, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One way after the other to say what S3 is to be."""
    if request.param == "environment":
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    who = _keys(seaweed)
    if request.param == "process":
        who = write_process(tmp_path, seaweed.access_key, seaweed.secret_key)
    where = f"endpoint_url = {seaweed.endpoint}\n"
    if request.param == "service":
        where = f"services = here\n[services here]\ns3 =\n  endpoint_url = {seaweed.endpoint}\n"
    (tmp_path / "config").write_text(f"[profile city]\nregion = us-east-1\n{who}{where}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "city")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    remote.forget_connections()


@pytest.mark.usefixtures("access")
def test_a_scene_on_s3_is_the_local_one(scene: str, local: Path) -> None:
    here, there = describe_scene(str(local)), describe_scene(scene)
    assert (there.geobox, there.bands, there.dtype) == (here.geobox, here.bands, here.dtype)
    assert there.bytes_per_pixel == pytest.approx(here.bytes_per_pixel)
    assert_same(opened(scene, here.geobox).read(BOX), opened(local, here.geobox).read(BOX))
    coarse = here.geobox.zoom_out(3.3)
    whole = Box(0, 0, *coarse.shape)
    assert_same(opened(scene, coarse).read(whole), opened(local, coarse).read(whole))


def test_renewed_credentials_are_used_at_once(
    s3_environment: None, seaweed: SeaweedFS, scene: str, local: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, quick: None,
) -> None:  # fmt: skip
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    line = write_process(tmp_path, seaweed.access_key, seaweed.secret_key)
    (tmp_path / "config").write_text(f"[default]\n{line}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    remote.forget_connections()
    grid = describe_scene(scene).geobox
    reader = opened(scene, grid)
    reader.read(Box(0, 0, 10, 10))
    write_process(tmp_path, seaweed.access_key, "wrong" + seaweed.secret_key)
    with pytest.raises(ReadError) as caught:
        reader.read(BOX)
    assert seaweed.secret_key not in str(caught.value)
    write_process(tmp_path, seaweed.access_key, seaweed.secret_key)
    assert_same(reader.read(BOX), opened(local, grid).read(BOX))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials found.*AWS_PROFILE"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "no permission.*check the credentials"),
        ({"AWS_NO_SIGN_REQUEST": "YES"}, "no permission.*check the credentials"),
        ({"AWS_PROFILE": "absent"}, r"profile \(absent\) could not be found\); check AWS_PROFILE"),
    ],
)
def test_who_may_not_read_is_told_why(
    s3_environment: dict[str, str], scene: str, monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str | None], message: str,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    remote.forget_connections()
    started = time.monotonic()
    with pytest.raises(ReadError, match=message) as caught:
        describe_scene(scene)
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert s3_environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_public_buckets_are_asked_without_keys(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    remote.forget_connections()
    options = cloud_access.store_options("s3://public/scene.tif", "")
    assert options["AWS_NO_SIGN_REQUEST"] == "YES"
    assert "AWS_SECRET_ACCESS_KEY" not in options
    assert cloud_access.store_options("/data/scene.tif", "") == {}


def test_without_botocore_gdal_looks_for_itself(
    s3_environment: None, seaweed: SeaweedFS, scene: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("botocore", "botocore.session", "botocore.configprovider", "botocore.exceptions", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    remote.forget_connections()
    for name, value in seaweed.gdal_options().items():
        monkeypatch.setenv(name, value)
    info = describe_scene(scene)
    assert info.identity.startswith("uri:")
    assert_same(opened(scene, info.geobox).read(BOX), opened(local, info.geobox).read(BOX))


def test_no_read_makes_a_session_of_boto3(
    s3_environment: None, scene: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a session of boto3 costs tens of milliseconds a read")

    monkeypatch.setattr(rasterio.session, "boto3", object())
    monkeypatch.setattr(rasterio.session.AWSSession, "__init__", refuse)
    with pytest.raises(AssertionError, match="milliseconds"), rasterio.Env():
        pass
    for uri in (scene, str(local)):
        info = describe_scene(uri)
        opened(uri, info.geobox).read(BOX)
        opened(uri, info.geobox.zoom_out(2)).read(Box(0, 0, 10, 10))


def test_secrets_are_in_no_log_and_no_message(
    proxied: FaultProxy, seaweed: SeaweedFS, scene: str, bucket: str, caplog: pytest.LogCaptureFixture,
    quick: None,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, logger="rasterio")
    client = seaweed.connect(seaweed.access_key, seaweed.secret_key, proxied.endpoint)
    wanted = {"Bucket": bucket, "Key": "city/scene.tif"}
    signed = client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=600)
    client.close()
    signature = signed.partition("Signature=")[2]
    messages = []
    for uri in (scene, signed):
        grid = describe_scene(uri).geobox
        assert describe_scene(uri).uri in (scene, f"{proxied.endpoint}/{bucket}/city/scene.tif")
        proxied.inject("status", "GET", times=2)
        reader = opened(uri, grid)
        reader.read(BOX)
        proxied.inject("status", "GET", times=None, status=500)
        with pytest.raises(ReadError) as caught:
            reader.read(Box(1200, 1200, 1500, 1500))
        messages.append(str(caught.value))
        proxied.heal()
        with pytest.raises(ReadError, match=r"not found|no permission") as caught:
            describe_scene(uri.replace("scene.tif", "absent.tif"))
        messages.append(str(caught.value))
    assert "503" in caplog.text
    for text in (caplog.text, *messages):
        assert signature not in text
        assert seaweed.access_key not in text
        assert seaweed.secret_key not in text
    assert not any("\n" in message for message in messages)


# What stands for the content


def test_identity_is_of_the_content(
    proxied: FaultProxy, seaweed: SeaweedFS, scene: str, bucket: str, local: Path
) -> None:
    client = seaweed.connect(seaweed.access_key, seaweed.secret_key, proxied.endpoint)
    wanted = {"Bucket": bucket, "Key": "city/scene.tif"}
    signed = [client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=n) for n in (600, 700)]
    client.close()
    first = [describe_scene(uri).identity for uri in (scene, *signed)]
    assert first == [describe_scene(uri).identity for uri in (scene, *signed)]
    assert first[1] == first[2]
    grid = describe_scene(scene).geobox
    recipe = SceneRecipe(scene, grid, (1,), "bilinear", identity=first[0])
    recipe.open().read(BOX)
    content = bytearray(local.read_bytes())
    content[-1] ^= 1
    seaweed.put(bucket, "city/scene.tif", bytes(content))
    again = [describe_scene(uri).identity for uri in (scene, *signed)]
    assert not set(first) & set(again)
    with pytest.raises(ReadError, match=r"scene\.tif: has changed since the run began; run again"):
        recipe.open()


def test_a_long_lived_process_reads_the_new_file_under_an_old_name(
    s3_environment: None, seaweed: SeaweedFS, scene: str, bucket: str, local: Path, tmp_path: Path
) -> None:
    grid = describe_scene(scene).geobox
    old = opened(scene, grid)
    old.read(BOX)
    other = write_cog(tmp_path / "other.tif", 1500, blocksize=512, compress="LZW")
    seaweed.put(bucket, "city/scene.tif", other.read_bytes())
    assert_same(opened(scene, grid).read(BOX), opened(other, grid).read(BOX))
    with pytest.raises(ReadError, match="has changed since it was first opened"):
        old.read(Box(0, 0, 1500, 1500))


@pytest.mark.parametrize("kind", ["drop", "status"])
def test_an_outage_is_no_other_identity(proxied: FaultProxy, scene: str, quick: None, kind: str) -> None:
    expected = describe_scene(scene).identity
    proxied.inject(kind, "HEAD", times=2)
    assert describe_scene(scene).identity == expected
    proxied.inject(kind, "HEAD", times=None)
    with pytest.raises(ReadError, match=r"scene\.tif: cannot be read"):
        describe_scene(scene)


# Servers that fail


@pytest.mark.parametrize("what", ["header", "blocks", "warped blocks"])
@pytest.mark.parametrize("kind", ["status", "drop", "truncate", "delay"])
def test_failures_are_repeated_and_never_become_pixels(
    proxied: FaultProxy, scene: str, local: Path, quick: None, kind: str, what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    grid = describe_scene(str(local)).geobox
    if kind == "delay":  # each try waits for a second
        monkeypatch.setattr(opening, "READ_BACKOFF", Backoff(attempts=2, first=0.02))
    if what == "warped blocks":
        grid = grid.translate_pix(0.5, 0.25)
    expected = opened(local, grid).read(BOX)
    # The first cut leaves the tags of the header's end out, the other the end of a row of blocks.
    options = {"after": 1500 if what == "header" else 150_000, "seconds": 3}

    def fresh() -> SceneReader:
        reader = opened(scene, grid)
        if what != "header":
            reader.read(Box(1400, 1400, 1410, 1410))
        return reader

    for times in (1,) if kind == "delay" else (1, 3):
        reader = fresh()
        rule = proxied.inject(kind, "GET", times=times, **options)
        assert_same(reader.read(BOX), expected)
        assert proxied.fired(rule) == times
    reader = fresh()
    proxied.inject(kind, "GET", times=None, **options)
    if (kind, what) != ("truncate", "header"):  # the same cut in every answer is no outage
        with pytest.raises(ReadError, match=r"scene\.tif: rows 300\.\.1100, columns 400\.\.1250"):
            reader.read(BOX)
    proxied.heal()
    assert_same(reader.read(BOX), expected)


def test_a_header_that_was_cut_short_is_asked_for_again(
    proxied: FaultProxy, scene: str, local: Path, quick: None
) -> None:
    expected = describe_scene(str(local))
    for after in range(0, 2400, 150):
        rule = proxied.inject("truncate", "GET", after=after)
        found = describe_scene(scene)
        assert proxied.fired(rule) == 1
        assert (found.geobox, found.bands) == (expected.geobox, expected.bands), after
        rule = proxied.inject("truncate", "GET", after=after)
        pixels = opened(scene, found.geobox).read(Box(0, 0, 250, 350))
        assert proxied.fired(rule) == 1
        assert not pixels.valid[:200, :300].any(), after
        assert pixels.valid[200:].all()


def test_an_outage_is_waited_for_and_forgotten(
    proxied: FaultProxy, scene: str, local: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = describe_scene(scene).geobox
    reader = opened(scene, grid)
    proxied.pause()
    for request in (lambda: reader.read(BOX), lambda: describe_scene(scene)):
        with pytest.raises(ReadError, match=r"scene\.tif: cannot be read.*check the address"):
            request()
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=21, first=0.5, factor=1))
    timer = threading.Timer(1, proxied.resume)
    timer.start()
    assert_same(reader.read(BOX), opened(local, grid).read(BOX))
    timer.join()


def test_a_file_that_is_cut_short_is_an_error(
    s3_environment: None, seaweed: SeaweedFS, bucket: str, local: Path, quick: None
) -> None:
    seaweed.put(bucket, "cut.tif", local.read_bytes()[:-300_000])
    uri = f"s3://{bucket}/cut.tif"
    grid = describe_scene(uri).geobox
    with pytest.raises(
        ReadError, match=r"cut\.tif: rows .* cannot be read \(.*\); the file is damaged, cut short"
    ):
        opened(uri, grid).read(Box(0, 0, *grid.shape))


# Other containers and stores


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_arrays_on_s3(
    proxied: FaultProxy, seaweed: SeaweedFS, bucket: str, tmp_path: Path, quick: None, suffix: str
) -> None:
    import odc.geo.xr
    import xarray as xr

    values, profile = city(300)
    geobox = GeoBox(values.shape[1:], profile["transform"], profile["crs"].to_wkt())
    array = odc.geo.xr.wrap_xr(values, geobox, nodata=NODATA, axis=1).rename("reflectance")
    dataset, path = xr.Dataset({"reflectance": array}), tmp_path / f"scene.{suffix}"
    chunks = (3, 100, 100)
    if suffix == "zarr":
        encoding = {"reflectance": {"chunks": chunks}}
        dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    else:
        encoding = {"reflectance": {"chunksizes": chunks, "zlib": True}}
        dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    for part in [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]:
        seaweed.put(bucket, str(part.relative_to(tmp_path)), part.read_bytes())
    uri, whole = f"s3://{bucket}/scene.{suffix}", Box(0, 0, 300, 300)
    info = describe_scene(uri)
    assert info.geobox == describe_scene(str(path)).geobox
    assert info.identity == describe_scene(uri).identity
    assert info.identity.startswith("remote:")
    expected = opened(path, info.geobox).read(whole)
    assert_same(opened(uri, info.geobox).read(whole), expected)
    for kind in ("status", "drop", "truncate"):
        rule = proxied.inject(kind, "GET", times=2, after=1000)
        assert_same(opened(uri, info.geobox).read(whole), expected)
        assert proxied.fired(rule) == 2
    reader = opened(uri, info.geobox)
    proxied.inject("status", "GET", times=None)
    with pytest.raises(ReadError, match=rf"scene\.{suffix}: cannot be opened"):
        opened(uri, info.geobox)
    if suffix == "zarr":  # a NetCDF of this size came with the first request
        with pytest.raises(
            ReadError, match=r"scene\.zarr: rows 0\.\.300, columns 0\.\.300 .* cannot be read"
        ):
            reader.read(whole)
    proxied.heal()
    with pytest.raises(ReadError, match=r"absent\.zarr: cannot be read \(not found"):
        describe_scene(f"s3://{bucket}/absent.zarr")


def test_area_of_interest_on_s3(s3_environment: None, seaweed: SeaweedFS, bucket: str) -> None:
    square = {"type": "Polygon", "coordinates": [[[35, 33], [36, 33], [36, 34], [35, 34], [35, 33]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": square}
    content = json.dumps({"type": "FeatureCollection", "features": [feature]}).encode()
    seaweed.put(bucket, "area.geojson", content)
    assert read_aoi(f"s3://{bucket}/area.geojson").area == pytest.approx(1)
    with pytest.raises(ReadError, match=r"absent\.geojson: cannot be read \(not found"):
        read_aoi(f"s3://{bucket}/absent.geojson")


def test_a_scene_on_azure_is_the_local_one(
    azure_environment: None, azurite: Azurite, container: str, local: Path
) -> None:
    azurite.put(container, "scene.tif", local.read_bytes())
    uri = f"az://{container}/scene.tif"
    info = describe_scene(uri)
    assert info.identity.startswith("remote:")
    assert info.identity == describe_scene(uri).identity
    assert_same(opened(uri, info.geobox).read(BOX), opened(local, info.geobox).read(BOX))
    azurite.put(container, "scene.tif", local.read_bytes() + b"0")
    assert describe_scene(uri).identity != info.identity
    with pytest.raises(ReadError, match=r"absent\.tif: cannot be read \(not found"):
        describe_scene(f"az://{container}/absent.tif")


class RangeHandler(SimpleHTTPRequestHandler):
    """Files of a folder, whole or by range; counts the bytes it sends."""

    sent = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            stop = min(int(wanted[2]) + 1 if wanted[2] else len(content), len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        type(self).sent += len(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    RangeHandler.sent = 0
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: RangeHandler(*args, directory=str(DEMO))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_window_over_http_is_the_local_one_and_reads_only_its_blocks(server: str) -> None:
    there, here = f"{server}/beirut_before.tif", str(DEMO / "beirut_before.tif")
    info = describe_scene(there)
    assert info.geobox == describe_scene(here).geobox
    assert info.identity == describe_scene(there.replace("http://", "http://me:secret@")).identity
    box = Box(10, 20, 200, 220)
    assert_same(opened(there, info.geobox).read(box), opened(here, info.geobox).read(box))
    # Two headers of 64 kB for each of the three that opened it, and a ninth of the blocks.
    assert RangeHandler.sent < 6 * 65_536 + 0.15 * (DEMO / "beirut_before.tif").stat().st_size


def test_what_is_not_there_is_named(server: str) -> None:
    with pytest.raises(
        ReadError, match=r"absent\.tif: cannot be read \(not found.*check the address"
    ) as caught:
        describe_scene(f"{server}/absent.tif?token=secret")
    assert "secret" not in str(caught.value)


# How much is asked for


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4500 x 4500 px, 512 px blocks, 3 bands of uint16: 90 MB compressed, without its overviews."""
    return write_cog(tmp_path_factory.mktemp("large") / "large.tif", 4500)


def compressed_bytes(path: Path, roi: Box) -> int:
    """Bytes of all full-resolution blocks of a file that a box touches, each counted once."""
    with rasterio.open(path) as source:
        return sum(
            int(source.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1))
            for y in range(roi.y0 // 512, -(-roi.y1 // 512))
            for x in range(roi.x0 // 512, -(-roi.x1 // 512))
        )


def read_by_tiles(recipes: list[SceneRecipe], plan: TilePlan) -> None:
    """As a worker reads a pair, in the plan's order."""
    readers = [recipe.open() for recipe in recipes]
    for index in plan.indices():
        for reader in readers:
            reader.read(plan.tile(index).halo)


def test_requests_and_bytes_of_a_pair(
    proxied: FaultProxy, seaweed: SeaweedFS, bucket: str, large: Path
) -> None:
    names = ("before.tif", "after.tif")
    with large.open("rb") as content:
        seaweed.client.put_object(Bucket=bucket, Key=names[0], Body=content)
    seaweed.client.copy_object(Bucket=bucket, Key=names[1], CopySource=f"{bucket}/{names[0]}")
    whole = describe_scene(str(large)).geobox
    for roi in (Box(0, 0, 4500, 4500), Box(700, 1300, 4200, 4400)):
        grid = crop(whole, roi)
        plan = TilePlan.of((grid.shape[0], grid.shape[1]), 2048, 256, 0.125)
        cache = block_cache(plan, 2 * 3 * 2)
        recipes = [SceneRecipe(f"s3://{bucket}/{name}", grid, (1, 2, 3), "bilinear", cache) for name in names]
        proxied.reset()
        # In a process of its own, as a worker is: GDAL's cache belongs to the process, and other tests have used it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(read_by_tiles, recipes, plan).result()
        for name in names:
            # Two, which must agree; the mask and the blocks' positions ask for nothing more.
            assert header_requests(proxied, name) == 2
        # One for each row of blocks in a tile's halo.
        assert proxied.requests["GET"] <= 2 * (2 + 6 * plan.tile_count)
        assert set(proxied.requests) == {"GET"}
        assert {exchange.path.split("?")[0] for exchange in proxied.log} == {
            f"/{bucket}/{name}" for name in names
        }
        assert proxied.response_bytes <= 1.3 * 2 * compressed_bytes(large, roi)


def test_threads_of_a_process_share_the_header(proxied: FaultProxy, scene: str, local: Path) -> None:
    grid = describe_scene(scene).geobox
    reader, found = opened(scene, grid), {}
    proxied.reset()
    # A thread's handles end with it, and with a handle what GDAL kept of the file.
    together = threading.Barrier(4)

    def read(number: int) -> None:
        found[number] = reader.read(Box(200 * number, 0, 200 * (number + 1), 700))
        together.wait(60)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = opened(local, grid)
    for number, pixels in found.items():
        assert_same(pixels, expected.read(Box(200 * number, 0, 200 * (number + 1), 700)))
    assert len(found) == 4
    assert header_requests(proxied) == 2


def test_the_sample_reads_overviews_alone(
    proxied: FaultProxy, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_PIXELS", 200_000)
    info = describe_scene(scene)
    reader = opened(scene, info.geobox)
    proxied.reset()
    assert 0.9 < reader.sample().valid.mean() < 1
    size = info.bytes_per_pixel * 1500**2
    assert proxied.response_bytes < 0.3 * size
