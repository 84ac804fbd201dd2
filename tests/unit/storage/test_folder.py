"""Addresses of folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.local_folder import LocalFolder
from ussfc.pipeline.storage.object_folder import ObjectFolder


def test_a_path_is_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("out", Path("out"), tmp_path / "out", f"{tmp_path}/out/", f"file://{tmp_path}/out"):
        folder = Folder.of(place)
        assert isinstance(folder, LocalFolder)
        assert folder.local == tmp_path / "out"
        assert folder == Folder.of("out")


def test_a_uri_is_an_object_folder() -> None:
    folder = Folder.of("s3://bucket/out/")
    assert isinstance(folder, ObjectFolder)
    assert folder.local is None
    assert folder == Folder.of("s3://bucket/out") != Folder.of("s3://bucket/other")


def test_a_folder_stays_as_it_is() -> None:
    folder = Folder.of("s3://bucket/out")
    assert Folder.of(folder) is folder


def test_a_name_below_is_a_folder(tmp_path: Path) -> None:
    assert str(Folder.of("s3://bucket/out/") / "work") == "s3://bucket/out/work"
    assert (Folder.of(tmp_path) / "work").local == tmp_path / "work"


def test_an_address_is_shown_without_secrets() -> None:
    assert str(Folder.of("https://me:secret@host/out?sig=1")) == "https://host/out"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "names no folder"),
        ("file://", "names no folder"),
        ("s3://", "names no bucket or container; give s3://bucket/prefix"),
        ("s3:///out", "names no bucket or container"),
        ("AZ://", "names no bucket or container"),
        ("/vsis3/bucket/out", "is a name of GDAL's"),
        ("/vsimem/out", "is a name of GDAL's"),
        ("simplecache::s3://bucket/out", "is a chain of file systems"),
        *(
            (f"{scheme}://place/out", "no run can be kept in such a place")
            for scheme in ("zip", "ftp", "data", "dir")
        ),
    ],
)
def test_an_address_that_is_no_place_for_a_run_is_refused(place: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Folder.of(place)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the address, and in the working directory that a relative one starts from."""
    odd = os.fsdecode(b"caf\xe9")
    for place in (f"s3://bucket/{odd}", tmp_path / odd / "out"):
        with pytest.raises(StoreError, match=r"caf\\xe9.*: holds bytes that are no UTF-8"):
            Folder.of(place)
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path / odd)
    with pytest.raises(StoreError, match="no UTF-8"):
        Folder.of("out")
