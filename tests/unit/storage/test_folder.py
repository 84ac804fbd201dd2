"""One suite for every kind of folder: what is written is there, whole or not at all."""

from __future__ import annotations

import os
import pickle
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.servers import FaultProxy, SeaweedFS
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage import object_folder, remote
from ussfc.pipeline.storage.folder import Folder

KINDS = ["local", "memory", "s3", "azure"]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder.of(tmp_path / "out")
    if request.param == "memory":
        return Folder.of(f"memory://{secrets.token_hex(6)}/out")
    if request.param == "s3":
        request.getfixturevalue("s3_environment")
        return Folder.of(f"s3://{request.getfixturevalue('bucket')}/city/out")
    request.getfixturevalue("azure_environment")
    return Folder.of(f"az://{request.getfixturevalue('container')}/city/out")


def test_a_folder_keeps_files(folder: Folder) -> None:
    folder.prepare()
    assert folder.sizes() == {}
    folder.write("a.json", b"one")
    folder.write("work/deep/b.bin", b"twelve bytes")
    folder.touch("work/done/0.0")
    folder.touch("work/done/0.0")
    assert folder.sizes() == {"a.json": 3, "work/deep/b.bin": 12, "work/done/0.0": 0}
    assert folder.sizes("work") == {"deep/b.bin": 12, "done/0.0": 0}
    assert (folder / "work").sizes("deep") == {"b.bin": 12}
    assert folder.sizes("absent") == {}
    assert folder.read("work/deep/b.bin") == b"twelve bytes"
    assert (folder / "work").size("deep/b.bin") == 12
    assert folder.size("absent") is None
    assert [folder.exists(name) for name in ("a.json", "work", "work/deep", "absent")] == [True] * 3 + [False]
    folder.write("a.json", b"two and more")
    assert folder.read("a.json") == b"two and more"
    with pytest.raises(FileNotFoundError):
        folder.read("absent")


def test_removal_takes_all_of_a_name_and_nothing_else(folder: Folder) -> None:
    for name in ("a", "ab", "a.txt", "d/x", "d/e/y", "de/z"):
        folder.write(name, b"1")
    folder.remove("a")
    folder.remove("d")
    folder.remove("absent")
    assert set(folder.sizes()) == {"ab", "a.txt", "de/z"}


def test_json(folder: Folder) -> None:
    folder.write_json("facts.json", {"b": 1, "a": [1.5, None]})
    assert folder.read_json("facts.json") == folder.find_json("facts.json") == {"a": [1.5, None], "b": 1}
    assert folder.find_json("absent.json") is None
    with pytest.raises(StoreError, match=r"absent\.json: not found"):
        folder.read_json("absent.json")
    for text in (b"", b"{", b"[1]", b"null"):
        folder.write("facts.json", text)
        with pytest.raises(StoreError, match=r"facts\.json: cannot be read .* --overwrite"):
            folder.read_json("facts.json")


def test_a_large_file_and_its_sidecar(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.prepare()
    content = os.urandom(3 * object_folder.PART_BYTES + 12345)
    for sidecar in (True, False):
        with folder.atomic_output("big.tif", tmp_path) as path:
            path.write_bytes(content)
            if sidecar:
                path.with_name("big.tif.aux.xml").write_bytes(b"<x/>")
            elif folder.local is not None:
                path.with_name("big.tif.aux.xml").unlink()  # on a disk the writer does that itself
        assert folder.read("big.tif") == content
        assert folder.exists("big.tif.aux.xml") is sidecar
    assert folder.uploads() == []
    with folder.local_copies({"big.tif"}) as copies:
        assert (copies / "big.tif").read_bytes() == content
    if folder.local is None:
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_was_not_made_is_not_there(folder: Folder, tmp_path: Path) -> None:
    folder.prepare()
    with pytest.raises(ZeroDivisionError), folder.atomic_output("big.tif", tmp_path):
        raise ZeroDivisionError
    assert not folder.exists("big.tif")


def test_a_folder_travels(folder: Folder) -> None:
    folder.write("a", b"1")
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"1"


def test_an_address_is_a_path_or_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.of("out").local == tmp_path / "out"
    assert Folder.of(f"file://{tmp_path}/out").local == tmp_path / "out"
    assert Folder.of("s3://bucket/out/").local is None
    assert str(Folder.of("s3://bucket/out/") / "work") == "s3://bucket/out/work"
    assert str(Folder.of("https://me:secret@host/out?sig=1")) == "https://host/out"


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from ussfc.pipeline.storage.folder import Folder\n"
        "with Folder.of(sys.argv[1]).lock(): print('mine', flush=True); sys.stdin.read()"
    )
    root = ROOT
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(StoreError, match="another ussfc is at work there"), Folder.of(tmp_path).lock():
            pass
        other.kill()
    with Folder.of(tmp_path).lock():
        pass
    with Folder.of(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []


# --- what goes wrong

# What is wrong with the place, what the message says.
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
        lambda patch, server: patch.setenv("AWS_PROFILE", "nobody"),
        "s3://{bucket}/out",
        r"nobody.*AWS_PROFILE",
    ),
    "no such scheme": (lambda patch, server: None, "gopher://host/out", r"no file system for it is installed"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_place_that_cannot_be_written_is_one_line(
    case: str,
    seaweed: SeaweedFS,
    bucket: str,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, address, said = WRONG[case]
    monkeypatch.setattr(remote, "TRIES", 1)
    change(monkeypatch, seaweed)
    remote.forget_connections()
    with pytest.raises(StoreError, match=said) as caught:
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


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/out: cannot be written \(Not a directory\)"):
        Folder.of(tmp_path / "file" / "out").prepare()


def test_requests_are_repeated_while_the_store_is_out(
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
def test_a_store_that_keeps_refusing_is_told_after_the_last_wait(
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


def test_a_part_done_upload_leaves_nothing(
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
