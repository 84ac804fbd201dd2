"""Scenes on S3 by every way to name its endpoint and keys; nothing secret is shown."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rasterio
import rasterio.session
from fsspec.registry import _registry

from tests.support.cogs import BOX, assert_same, opened
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import cloud_access, describe_scene
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import Box


def _keys(server: SeaweedFS) -> str:
    return f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"


def write_process(folder: Path, access_key: str, secret_key: str) -> str:
    """Write a program that gives credentials which must be renewed with every request."""
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
    """S3 by each way that names its endpoint and its keys."""
    if request.param == "environment":
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    credentials = _keys(seaweed)
    if request.param == "process":
        credentials = write_process(tmp_path, seaweed.access_key, seaweed.secret_key)
    endpoint = f"endpoint_url = {seaweed.endpoint}\n"
    if request.param == "service":
        endpoint = f"services = here\n[services here]\ns3 =\n  endpoint_url = {seaweed.endpoint}\n"
    (tmp_path / "config").write_text(f"[profile city]\nregion = us-east-1\n{credentials}{endpoint}")
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
def test_a_refused_read_names_the_reason(
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
    place = {"Bucket": bucket, "Key": "city/scene.tif"}
    signed = client.generate_presigned_url("get_object", Params=place, ExpiresIn=600)
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
