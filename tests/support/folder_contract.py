"""The contract of a folder: tests that every kind of `Folder` passes.

A class of tests for a kind derives from `FolderContract` and has a fixture `folder`: an empty one of that kind.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from ussfc.pipeline.errors import DamagedRecord, StoreError
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.object_folder import PART_BYTES


class FolderContract:
    """Files are there whole or not at all, under their names, and nothing else is."""

    def test_files_have_sizes_and_contents(self, folder: Folder) -> None:
        folder.ping()
        folder.prepare()
        assert folder.sizes() == {}
        folder.write("a.json", b"one")
        folder.write("work/deep/b.bin", b"twelve bytes")
        folder.touch("work/done/0.0")
        folder.touch("work/done/0.0")
        assert folder.sizes() == {"a.json": 3, "work/deep/b.bin": 12, "work/done/0.0": 0}
        assert folder.sizes("work") == {"deep/b.bin": 12, "done/0.0": 0}
        assert (folder / "work").sizes("deep") == {"b.bin": 12}
        assert folder.read("work/deep/b.bin") == b"twelve bytes"
        assert (folder / "work").size("deep/b.bin") == 12
        assert [folder.exists(name) for name in ("a.json", "work", "work/deep")] == [True] * 3

    def test_a_listing_and_a_look_agree(self, folder: Folder) -> None:
        folder.write("c/0/0", b"one")
        first = folder.state("c/0/0")
        assert folder.states("c") == {"0/0": first}
        folder.write("c/0/0", b"two")
        second = folder.state("c/0/0")
        assert first is not None
        assert second is not None
        assert folder.states("c") == {"0/0": second}
        assert second.size == 3
        assert (first.mark is None) is (second.mark is None)
        assert first.mark is None or first.mark != second.mark
        assert (first.mark is not None) is folder.address.startswith(("s3:", "az:"))

    def test_a_file_has_its_digest(self, folder: Folder) -> None:
        folder.write("a.bin", b"abc" * 1000)
        assert folder.sha256("a.bin") == hashlib.sha256(b"abc" * 1000).hexdigest()
        with pytest.raises(StoreError, match="absent"):
            folder.sha256("absent")

    def test_a_changed_record_is_noticed(self, folder: Folder) -> None:
        folder.write_record("facts.json", {"b": 1})
        assert folder.find_json("facts.json") == {"b": 1}
        folder.write("facts.json", folder.read("facts.json").replace(b'"b": 1', b'"b": 3'))
        with pytest.raises(DamagedRecord, match=r"facts\.json: cannot be read \(it is not what was written"):
            folder.find_json("facts.json")

    def test_a_write_replaces_a_file(self, folder: Folder) -> None:
        folder.write("a.json", b"one")
        folder.write("a.json", b"two and more")
        assert folder.read("a.json") == b"two and more"
        assert folder.sizes() == {"a.json": 12}

    def test_what_is_appended_comes_last(self, folder: Folder) -> None:
        folder.prepare()
        folder.append("run.log", b"first\n")
        folder.append("run.log", b"second\n")
        assert folder.read("run.log") == b"first\nsecond\n"

    def test_an_absent_file_has_no_size(self, folder: Folder) -> None:
        folder.prepare()
        assert folder.sizes("absent") == {}
        assert folder.size("absent") is None
        assert not folder.exists("absent")
        with pytest.raises(FileNotFoundError):
            folder.read("absent")

    def test_removal_takes_a_name_and_all_below(self, folder: Folder) -> None:
        for name in ("a", "ab", "a.txt", "d/x", "d/e/y", "de/z"):
            folder.write(name, b"1")
        folder.remove("a")
        folder.remove("d")
        folder.remove("absent")
        assert set(folder.sizes()) == {"ab", "a.txt", "de/z"}

    def test_json_is_written_and_read(self, folder: Folder) -> None:
        folder.write_json("facts.json", {"b": 1, "a": [1.5, None]})
        assert folder.read("facts.json") == b'{\n "a": [\n  1.5,\n  null\n ],\n "b": 1\n}\n'
        assert folder.read_json("facts.json") == folder.find_json("facts.json") == {"a": [1.5, None], "b": 1}
        assert folder.find_json("absent.json") is None
        with pytest.raises(StoreError, match=r"absent\.json: not found"):
            folder.read_json("absent.json")

    @pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff"])
    def test_damaged_json_is_an_error(self, folder: Folder, text: bytes) -> None:
        folder.write("facts.json", text)
        for read in (folder.read_json, folder.find_json):
            with pytest.raises(
                StoreError, match=r"facts\.json: cannot be read .* overwrite it to start over"
            ):
                read("facts.json")

    def test_a_large_file_has_its_statistics(self, folder: Folder, tmp_path: Path) -> None:
        folder.prepare()
        content = os.urandom(3 * PART_BYTES + 12345)
        for statistics in (True, False):
            with folder.atomic_output("big.tif", tmp_path) as path:
                path.write_bytes(content)
                if statistics:
                    path.with_name("big.tif.aux.xml").write_bytes(b"<x/>")
                elif folder.local is not None:
                    path.with_name("big.tif.aux.xml").unlink()  # on a disk the writer does that itself
            assert folder.read("big.tif") == content
            assert folder.exists("big.tif.aux.xml") is statistics
        assert folder.uploads() == []
        with folder.local_copies({"big.tif"}) as copies:
            assert (copies / "big.tif").read_bytes() == content
        if folder.local is None:
            assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_a_failed_output_is_not_there(self, folder: Folder, tmp_path: Path) -> None:
        folder.prepare()
        with pytest.raises(ZeroDivisionError), folder.atomic_output("big.tif", tmp_path):
            raise ZeroDivisionError
        assert not folder.exists("big.tif")

    def test_a_folder_travels_to_workers(self, folder: Folder) -> None:
        folder.write("a", b"1")
        copy = pickle.loads(pickle.dumps(folder))
        assert copy == folder
        assert hash(copy) == hash(folder)
        assert copy.read("a") == b"1"

    def test_a_request_of_a_library_is_made(self, folder: Folder) -> None:
        assert folder.retry_request(lambda: 7) == 7
        with pytest.raises(FileNotFoundError):
            folder.retry_request(lambda: (_ for _ in ()).throw(FileNotFoundError()))

    def test_an_error_names_file_and_action(self, folder: Folder) -> None:
        error = folder.store_error("a.tif", "written", PermissionError(13, "Permission denied"))
        assert isinstance(error, StoreError)
        assert str(error).startswith(f"{folder}/a.tif: cannot be written (")
        assert "\n" not in str(error)
        assert str(folder.store_error("", "listed", OSError(5, "x"))).startswith(
            f"{folder}: cannot be listed ("
        )

    def test_a_lock_ends_with_its_body(self, folder: Folder) -> None:
        folder.prepare()
        for _ in range(2):
            with folder.lock():
                folder.write("a", b"1")
        assert folder.sizes() == {"a": 1}
