"""Polygons as a report needs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.layers import write_layer
from tests.support.shown_runs import CHANGES
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.report import changes
from ussfc.pipeline.report.changes import SIZES, summarise
from ussfc.pipeline.storage.layout import LAYERS

AREAS = sorted((rows * cols for _, _, rows, cols in CHANGES), reverse=True)


@pytest.mark.parametrize("layer", LAYERS.values())
def test_layers_give_the_same(finished: Path, layer: str) -> None:
    expected = summarise(finished, LAYERS["parquet"])
    found = summarise(finished, layer)
    assert found.in_metres
    assert [change.pixels for change in found.largest] == AREAS
    assert found.sizes.tolist() == expected.sizes.tolist()
    assert found.probabilities.tolist() == expected.probabilities.tolist()
    for one, other in zip(found.largest, expected.largest, strict=True):
        assert one.id == other.id
        assert one.area_m2 == pytest.approx(other.area_m2, rel=1e-4)
        if layer != LAYERS["geojson"]:
            assert one.bounds == pytest.approx(other.bounds)
        else:
            assert -180 <= one.bounds[0] < one.bounds[2] <= 180


@pytest.mark.parametrize("layer", [LAYERS["parquet"], LAYERS["gpkg"]])
def test_kinds_share_the_whole_area(finished: Path, layer: str) -> None:
    found = summarise(finished, layer)
    areas = pq.read_table(finished / LAYERS["parquet"])["area_m2"].to_numpy()
    assert found.kinds is not None
    assert found.kinds.sum() == pytest.approx(areas.sum())


def test_layers_of_earlier_versions_have_no_kinds(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / LAYERS["parquet"]
    pq.write_table(pq.read_table(finished / path.name).drop_columns(["kind"]), path)
    assert summarise(tmp_path, path.name).kinds is None


def test_sizes_without_crs_are_pixels(bare: Path) -> None:
    found = summarise(bare, LAYERS["parquet"])
    assert not found.in_metres
    assert [change.pixels for change in found.largest] == AREAS
    assert {change.area_m2 for change in found.largest} == {None}
    assert found.sizes.tolist() == np.histogram(AREAS, SIZES)[0].tolist()


def test_no_polygons(tmp_path: Path) -> None:
    write_layer(np.zeros((8, 8), np.uint8), tmp_path / LAYERS["parquet"])
    found = summarise(tmp_path, LAYERS["parquet"])
    assert found.largest == ()
    assert not found.sizes.any()
    assert not found.probabilities.any()


def test_largest_of_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    stored = np.where(rng.random((60, 60)) < 0.3, 200, 10).astype(np.uint8)
    _, frame = write_layer(stored, tmp_path / LAYERS["parquet"])
    monkeypatch.setattr(changes, "ROWS", 7)
    found = summarise(tmp_path, LAYERS["parquet"])
    ordered = sorted(zip(-frame["area_m2"], frame["id"], strict=True))[: changes.LARGEST]
    assert [(-change.area_m2, change.id) for change in found.largest] == ordered
    assert found.sizes.sum() == found.probabilities.sum() == len(frame)


def damage_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def cut(path: Path) -> None:
    path.write_bytes(b"")


def drop_bounds(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["bbox"]), path)


def drop_area(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["area_m2"]), path)


def retype(path: Path) -> None:
    table = pq.read_table(path).drop_columns(["mean_probability"])
    pq.write_table(table.append_column("mean_probability", pa.array(["x"] * len(table))), path)


@pytest.mark.parametrize("act", [damage_bytes, cut, drop_bounds, drop_area, retype])
def test_damaged_layer_is_one_line(finished: Path, tmp_path: Path, act: object) -> None:
    path = tmp_path / LAYERS["parquet"]
    shutil.copyfile(finished / path.name, path)
    act(path)  # type: ignore[operator]
    with pytest.raises(
        ReadError, match=r"changes.parquet: cannot be read \(.*\); run `ussfc validate`"
    ) as error:
        summarise(tmp_path, path.name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", ["changes.gpkg", "changes.fgb", "changes.geojson"])
def test_damaged_layer_of_gdal_is_one_line(finished: Path, tmp_path: Path, layer: str) -> None:
    (tmp_path / layer).write_bytes((finished / layer).read_bytes()[:99])
    with pytest.raises(ReadError, match=r"cannot be read \(.*\); run `ussfc validate`"):
        summarise(tmp_path, layer)
