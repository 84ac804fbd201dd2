"""Files of squares: what was written, or nothing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.square_files import SquareFiles

ORIGIN = np.array([[0, 1, 77]])
ARRAYS = {"sizes": np.arange(3), "blocks": np.frombuffer(b"packed", np.uint8), "none": np.zeros((0, 4)),
          "real": np.array([[np.nan, 1.5]], np.float32), "text": np.array([10, 13], np.uint8)}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> SquareFiles:
    made = SquareFiles(Folder.of(tmp_path), "kind")
    made.write((3, 4), ORIGIN, ARRAYS)
    return made


def test_a_square_is_found_as_it_was_written(files: SquareFiles) -> None:
    found = files.read((3, 4), ORIGIN)
    assert found is not None
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert files.read((4, 3), ORIGIN) is None
    assert files.present() == {(3, 4)}
    assert SquareFiles(files.work, "other").read((3, 4), ORIGIN) is None


@pytest.mark.parametrize("origin", [[[0, 1, 78]], [[0, 1, 77], [0, 2, 1]], np.zeros((0, 3))])
def test_a_square_of_other_tiles_is_none(files: SquareFiles, origin: object) -> None:
    assert files.read((3, 4), np.array(origin, np.int64)) is None


@pytest.mark.parametrize("change", ["cut", "flip", "empty", "other", "sealed"])
def test_a_damaged_square_is_none(files: SquareFiles, tmp_path: Path, change: str) -> None:
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[content.index(b"packed") + 2] ^= 4
    whole = path.read_bytes()
    sealed = struct.pack("<I", zlib.crc32(b"text")) + b"text"
    made = {"cut": whole[:-9], "flip": bytes(content), "empty": b"", "other": b"text", "sealed": sealed}
    path.write_bytes(made[change])
    assert files.read((3, 4), ORIGIN) is None


def test_a_square_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    folder = Folder.of(tmp_path)
    folder.write("record", b"cannot be made again")
    assert len(synced) == 1
    SquareFiles(folder, "kind").write((3, 4), ORIGIN, ARRAYS)
    assert len(synced) == 1


def test_all_squares_of_a_kind_are_removed(files: SquareFiles, tmp_path: Path) -> None:
    other = SquareFiles(files.work, "other")
    other.write((0, 0), ORIGIN, ARRAYS)
    files.remove()
    assert files.present() == set()
    assert files.read((3, 4), ORIGIN) is None
    assert other.read((0, 0), ORIGIN) is not None
