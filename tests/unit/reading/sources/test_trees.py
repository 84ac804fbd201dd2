"""Files below a folder or in an archive."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources import trees
from ussfc.pipeline.reading.sources.trees import files_above, open_tree


def test_only_products_are_looked_through_below_their_own_files(tmp_path: Path) -> None:
    for place in ("a.tif", "other/b.tif", "X.SAFE/GRANULE/L/IMG_DATA/R10m/c.jp2"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("x")
    tree = open_tree(str(tmp_path))
    assert tree is not None
    assert tree.names == ("X.SAFE/GRANULE/L/IMG_DATA/R10m/c.jp2", "a.tif")


def test_archives_are_read_without_unpacking(tmp_path: Path) -> None:
    (tmp_path / "meta.xml").write_text("hello")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(tmp_path / "meta.xml", "X.SAFE/meta.xml")
    with tarfile.open(tmp_path / "p.tar", "w") as bundle:
        bundle.add(tmp_path / "meta.xml", "X.SAFE/meta.xml")
    for name in ("p.zip", "p.tar"):
        tree = open_tree(str(tmp_path / name))
        assert tree is not None
        assert tree.names == ("X.SAFE/meta.xml",)
        assert tree.text("X.SAFE/meta.xml") == "hello"


def test_other_files_are_no_trees(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("x")
    assert open_tree(str(tmp_path / "a.tif")) is None
    assert open_tree("x" * 5000) is None


@pytest.mark.parametrize("name", ["p.zip", "p.tar"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no archive")
    with pytest.raises(ReadError, match=rf"{name}: cannot be read as an archive .* complete"):
        open_tree(str(tmp_path / name))


def test_an_archive_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.zip")
    assert open_tree(str(tmp_path / "p.zip")) is None


def test_metadata_are_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MTD_MSIL2A.xml", b" " * (trees.MOST_BYTES + 1))
    tree = open_tree(str(tmp_path / "p.zip"))
    assert tree is not None
    with pytest.raises(ReadError, match="larger than 32 MiB"):
        tree.text("MTD_MSIL2A.xml")


def test_the_nearest_file_above_is_found(tmp_path: Path) -> None:
    import re

    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "MTD.xml").touch()
    band = str(tmp_path / "a/b/c/band.jp2")
    assert files_above(band, re.compile("MTD"), 3) == [tmp_path / "MTD.xml"]
    assert files_above(band, re.compile("MTD"), 1) == []
    (tmp_path / "a/MTD.xml").touch()
    assert files_above(band, re.compile("MTD"), 3) == [tmp_path / "a/MTD.xml"]
    assert files_above("https://store.example/a/band.jp2", re.compile(".*"), 3) == []


@pytest.mark.parametrize("name", ["p.tar.gz", "p.tgz", "P.7Z"])
def test_archive_compressed_as_a_whole_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        ReadError, match="is compressed as a whole, and no part of it can be read alone; unpack it"
    ):
        open_tree(str(tmp_path / name))
