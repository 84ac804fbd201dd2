"""Folders in object stores, on one in memory: the contract, and stores that fail."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.folder_contract import FolderContract
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage import remote
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.object_folder import ObjectFolder

MEMORY = fsspec.get_filesystem_class("memory")


@pytest.fixture
def folder() -> Folder:
    return ObjectFolder(f"memory://{secrets.token_hex(6)}/out")


class TestContract(FolderContract):
    @pytest.fixture
    def folder(self) -> Folder:
        return ObjectFolder(f"memory://{secrets.token_hex(6)}/out")


class Failing:
    """A method of the file system that fails a number of times."""

    def __init__(self, name: str, times: int, error: Exception) -> None:
        self.method = getattr(MEMORY, name)
        self.left = times
        self.error = error

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self.error
        return self.method(remote.filesystem("memory://")[0], *arguments, **options)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=3, first=0.01))
    monkeypatch.setattr(remote, "PROBE_BACKOFF", Backoff(attempts=2, first=0.01))


def test_an_outage_is_waited_for(folder: Folder, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "pipe_file", Failing("pipe_file", 2, OSError("out")))
    folder.write("a", b"1")
    assert folder.read("a") == b"1"


def test_a_lasting_outage_is_an_error(folder: Folder, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing("pipe_file", 9, OSError("out"))
    monkeypatch.setattr(MEMORY, "pipe_file", failing)
    with pytest.raises(StoreError, match=r"out/a: cannot be written \(out\); .*the same command continues"):
        folder.write("a", b"1")
    assert failing.left == 9 - 3
    with pytest.raises(StoreError, match=r"cannot be written \(out\)"):
        folder.prepare()
    assert failing.left == 9 - 3 - 2


def test_a_refusal_is_not_repeated(folder: Folder, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing("info", 9, PermissionError("no"))
    monkeypatch.setattr(MEMORY, "info", failing)
    with pytest.raises(StoreError, match=r"cannot be looked at \(no permission: no\); check the credentials"):
        folder.size("a")
    assert failing.left == 8


def test_a_store_that_changes_bytes_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "cat_file", lambda *arguments: b"other")
    with pytest.raises(StoreError, match="gives back other bytes than were written"):
        folder.prepare()


def test_only_s3_has_unfinished_uploads(folder: Folder) -> None:
    assert folder.uploads() == folder.abort() == []


def test_an_object_store_has_no_end(folder: Folder) -> None:
    assert folder.free_bytes() is None


def test_copies_are_temporary(folder: Folder) -> None:
    folder.write("a.tif", b"1")
    with folder.local_copies(["a.tif"]) as copies:
        assert [path.name for path in Path(copies).iterdir()] == ["a.tif"]
    assert not copies.exists()
