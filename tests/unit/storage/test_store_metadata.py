"""The group of a store beside its chunks: compared with what follows from the run's key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.store_metadata import create_group, damaged_metadata, zarr_store

GRID = GeoBox((70, 100), Affine(10, 0, 730000, 0, -10, 3755000), "EPSG:32636")
GROUP = GRID, "uint8", 64, "run"


@pytest.fixture
def work(tmp_path: Path) -> Folder:
    folder = Folder.of(tmp_path)
    create_group(zarr_store(folder / "probability.zarr"), *GROUP)
    return folder


def test_every_file_is_compared_and_written_again(work: Folder) -> None:
    assert damaged_metadata(work, *GROUP) == []
    files = {name: work.read(f"probability.zarr/{name}") for name in work.sizes("probability.zarr")}
    assert {"zarr.json", "probability/zarr.json", "x/zarr.json", "x/c/0", "spatial_ref/zarr.json"} <= set(
        files
    )
    for name, content in files.items():
        for damage in (content[:-1], b"", bytes([content[0] ^ 4]) + content[1:]):
            work.write(f"probability.zarr/{name}", damage)
            assert damaged_metadata(work, *GROUP, repair=True) == [name]
            assert work.read(f"probability.zarr/{name}") == content
        work.remove(f"probability.zarr/{name}")
        assert damaged_metadata(work, *GROUP, repair=True) == [name]
    assert damaged_metadata(work, *GROUP) == []


def test_the_same_in_other_bytes_agrees(work: Folder) -> None:
    name = "probability.zarr/probability/zarr.json"
    work.write(name, json.dumps(json.loads(work.read(name))).encode())
    assert damaged_metadata(work, *GROUP) == []


def test_groups_of_earlier_versions_agree(work: Folder) -> None:
    name = "probability.zarr/probability/zarr.json"
    content = json.loads(work.read(name))
    for attribute in ("coordinates", "_CRS"):
        del content["attributes"][attribute]
    work.write(name, json.dumps(content).encode())
    assert damaged_metadata(work, *GROUP) == []
    content["attributes"]["_CRS"] = {"wkt": "another"}
    work.write(name, json.dumps(content).encode())
    assert damaged_metadata(work, *GROUP) == ["probability/zarr.json"]


def test_another_run_or_grid_does_not_agree(work: Folder) -> None:
    assert damaged_metadata(work, GRID, "uint8", 64, "other") == ["probability/zarr.json"]
    assert "x/c/0" in damaged_metadata(work, GRID.pad(1), "uint8", 64, "run")
