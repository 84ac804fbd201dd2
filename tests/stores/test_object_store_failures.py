"""Folders on S3 that cannot be reached or written: one line, and nothing half done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage import object_folder, remote
from ussfc.pipeline.storage.folder import Folder

WRONG: dict[str, tuple[Callable[[pytest.MonkeyPatch, SeaweedFS], None], str, str]] = {
    "no such bucket": (lambda patch, server: None, "s3://no-such-bucket-here/out", r"cannot be written \(not found"),
    "no permission": (
        lambda patch, server: (
            patch.setenv("AWS_ACCESS_KEY_ID", server.read_only_access_key),
            patch.setenv("AWS_SECRET_ACCESS_KEY", server.read_only_secret_key),
        ),
        "s3://{bucket}/out",
        r"cannot be written \(no permission",
    ),
    "wrong secret": (
        lambda patch, server: patch.setenv("AWS_SECRET_ACCESS_KEY", "nonsense" * 5),
        "s3://{bucket}/out",
        r"cannot be written \(no permission",
    ),
    "no credentials": (
        lambda patch, server: (patch.delenv("AWS_ACCESS_KEY_ID"), patch.delenv("AWS_SECRET_ACCESS_KEY")),
        "s3://{bucket}/out",
        r"cannot be written \(no credentials found\); .*AWS_PROFILE",
    ),
    "wrong endpoint": (
        lambda patch, server: patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        "s3://{bucket}/out",
        r"cannot be written .*127\.0\.0\.1:9.*AWS_ENDPOINT_URL",
    ),
    "no such profile": (
        lambda patch, server: patch.setenv("AWS_PROFILE", "absent"),
        "s3://{bucket}/out",
        r"absent.*AWS_PROFILE",
    ),
    "no such scheme": (lambda patch, server: None, "gopher://host/out", r"no run can be kept in such a place"),
}  # fmt: skip
"""For each mistake: a change of the environment, the address, and a pattern of the message."""


@pytest.mark.parametrize("case", WRONG)
def test_an_unwritable_store_is_one_line(
    case: str,
    seaweed: SeaweedFS,
    bucket: str,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, address, message_pattern = WRONG[case]
    monkeypatch.setattr(remote, "TRIES", 1)
    change(monkeypatch, seaweed)
    remote.forget_connections()
    with pytest.raises(StoreError, match=message_pattern) as caught:
        Folder.of(address.format(bucket=bucket)).prepare()
    message = str(caught.value)
    assert "\n" not in message
    secrets_ = (
        seaweed.secret_key,
        seaweed.read_only_secret_key,
        seaweed.access_key,
        seaweed.read_only_access_key,
    )
    assert [secret for secret in secrets_ if secret in message] == []


def test_requests_are_repeated_in_an_outage(
    proxied: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=51, first=0.2, factor=1))
    monkeypatch.setattr(remote, "TRIES", 1)
    remote.forget_connections()
    folder = Folder.of(f"s3://{bucket}/out")
    folder.write("a", b"before")
    proxied.pause()
    back = threading.Timer(2, proxied.resume)
    back.start()
    folder.write("a", b"after")
    assert folder.read("a") == b"after"
    back.join()


@pytest.mark.parametrize("status", [500, 503])
def test_a_lasting_refusal_is_an_error(
    status: int, proxied: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=3, first=0.05, factor=1))
    monkeypatch.setattr(remote, "TRIES", 1)
    folder = Folder.of(f"s3://{bucket}/out")
    folder.write("a", b"before")
    proxied.inject("status", status=status, method="PUT", times=1000)
    with pytest.raises(StoreError, match=r"out/a: cannot be written .*the same command continues"):
        folder.write("a", b"after")
    proxied.heal()
    assert folder.read("a") == b"before"


def test_an_unfinished_upload_leaves_nothing(
    proxied: FaultProxy, bucket: str, seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part fails for good: no object, no upload; and older ones of that name go with it."""
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=2, first=0.05))
    monkeypatch.setattr(remote, "TRIES", 1)
    folder = Folder.of(f"s3://{bucket}/city/out")
    assert isinstance(folder, object_folder.ObjectFolder)
    for key in ("city/out/big.tif", "city/out/work/probability.zarr/probability/c/0/0", "city/other/big.tif"):
        seaweed.client.create_multipart_upload(Bucket=bucket, Key=key)
    assert len(folder.uploads()) == 2
    (tmp_path / "big").write_bytes(os.urandom(3 * object_folder.PART_BYTES))
    proxied.inject("status", status=500, method="PUT", path=r"partNumber=2", times=1000)
    with pytest.raises(StoreError, match=r"big\.tif: cannot be written"):
        folder.upload(tmp_path / "big", "big.tif")
    proxied.heal()
    assert not folder.exists("big.tif")
    assert [upload.name for upload in folder.uploads()] == ["work/probability.zarr/probability/c/0/0"]
    assert [upload.name for upload in folder.abort()] == ["work/probability.zarr/probability/c/0/0"]
    assert seaweed.uploads(bucket) == ["city/other/big.tif"]
