"""Records of a run: what is written comes back, and a damaged file is one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.runs.manifest import (
    Counts,
    FailureRecord,
    GridRecord,
    MappingRecord,
    ProductKey,
    RunRecord,
    StageRecord,
)
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Box, RadiometricMapping, TileFailure

RECORD: dict[str, Any] = {
    "run": "0123456789abcdef",
    "complete": True,
    "failed_tiles": [],
    "inputs": {
        date: {"uri": f"/{date}.tif", "identity": "file:1-2", "dtype": "uint16", "bands": [1, 2, 3], "acquired": None}
        for date in ("before", "after")
    },
    "grid": {"crs": None, "transform": [0.0, 1.0, 0.0, 0.0, 0.0, 1.0], "shape": [3, 4]},
    "config": {"threshold": None, "tiling": {"tile_size": 64}},
    "model": {"name": "toy", "sha256": "ab", "licence": None},
    "threshold": 0.5,
    "detector": "engine=torch",
    "radiometry": {date: {"low": [0.0], "high": [255.0]} for date in ("before", "after")},
    "executor": {"name": "serial", "processes": 0, "threads": 2},
    "projected_memory_bytes": 10,
    "warnings": ["one"],
    "counts": {"tiles": 1, "tiles_failed": 0, "patches": 1, "valid_pixels": 12, "pixels": 12},
    "tile_seconds": {"read": 0.1, "network": 0.2},
    "stages": {"infer": {"seconds": 1.0, "mpx_per_s": 0.1}},
    "products": {"change.tif": {"sha256": "cd", "bytes": 3, "key": {"content": "ef", "shape": [3, 4]}}},
    "versions": {"ussfc": "0"},
}  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to every field that a reader needs."""
    if not isinstance(value, dict):
        return [path]
    optional = (("config",), ("versions",), ("tile_seconds",), ("products",), ("stages",))
    inner = [] if path in optional else [found for key in value for found in paths(value[key], (*path, key))]
    return [*([path] if path and path != ("products",) else []), *inner]


@given(st.sampled_from(paths(RECORD)))
def test_missing_fields_are_named_in_one_line(path: tuple[str, ...]) -> None:
    damaged = copy.deepcopy(RECORD)
    parent = damaged
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    with pytest.raises(StoreError) as caught:
        RunRecord.parse(damaged, "OUT/run.json")
    message = str(caught.value)
    assert message.startswith(f"OUT/run.json: damaged ({'.'.join(path)}: ")
    assert "\n" not in message


def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    folder.write_record("run.json", RECORD)
    written = (tmp_path / "run.json").read_bytes()
    record = RunRecord.read(folder, "run.json")
    record.write(folder, "run.json")
    assert (tmp_path / "run.json").read_bytes() == written
    assert record == RunRecord.find(folder, "run.json")
    assert RunRecord.find(folder, "absent.json") is None


def test_fields_of_later_versions_are_kept() -> None:
    later = RECORD | {"weather": "fair"}
    assert RunRecord.parse(later, "run.json").dump() == later


def test_unset_fields_are_absent_and_nulls_stay() -> None:
    counts = Counts(tiles=1, tiles_failed=0, patches=1, valid_pixels=1, pixels=1)
    assert "changed_pixels" not in counts.dump()
    assert (counts.classified_pixels, counts.changed_share) == (0, 0.0)
    assert "threshold" not in ProductKey(content="a", shape=(1, 1)).dump()
    assert GridRecord(crs=None, transform=(0, 1, 0, 0, 0, 1), shape=(1, 1)).dump()["crs"] is None


def test_changed_share_counts_classified_pixels() -> None:
    counts = Counts.model_construct(changed_pixels=3, unchanged_pixels=9, nodata_pixels=4)
    assert counts.changed_share == 0.25


def test_mappings_and_failures_become_records() -> None:
    mapping = RadiometricMapping((0.0, 1.0), (2.0, 3.5))
    assert MappingRecord.of(mapping).mapping == mapping
    failure = TileFailure((1, 2), Box(64, 128, 128, 192), "broken", 3)
    assert FailureRecord.of(failure).dump() == {
        "index": [1, 2], "rows": [64, 128], "columns": [128, 192], "error": "broken", "attempts": 3,
    }  # fmt: skip


@given(st.floats(0, 1e6), st.integers(0, 10**12))
def test_stage_speed_is_finite(seconds: float, pixels: int) -> None:
    record = StageRecord.of(seconds, pixels)
    assert record.seconds == pytest.approx(seconds, abs=5e-4)
    assert 0 <= record.mpx_per_s <= pixels * 1e3
