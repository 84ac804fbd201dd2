"""Addresses of folders."""

from __future__ import annotations

from pathlib import Path

import pytest

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
