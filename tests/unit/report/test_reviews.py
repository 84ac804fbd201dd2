"""Verdicts and their file."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.report.reviews import ReviewTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "review.parquet"


def test_verdicts_are_in_the_file_at_once(path: Path) -> None:
    table = ReviewTable.open(path, "run")
    table.set(7, "accepted", 'a, "b"\nü')
    table.set(3, "unsure")
    table.set(3, None)
    found = ReviewTable.open(path, "run")
    assert found.verdicts == table.verdicts
    assert {number: given[:2] for number, given in found.verdicts.items()} == {7: ("accepted", 'a, "b"\nü')}
    assert pq.read_table(path).column_names == ["id", "verdict", "note", "time"]
    assert found.counts() == {"accepted": 1, "rejected": 0, "unsure": 0}
    rows = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert [(row["id"], row["note"]) for row in rows] == [("7", 'a, "b"\nü')]
    exported = json.loads(found.as_geojson({7: {"geometry": None, "properties": {"pixels": 2}}}))
    assert exported["features"][0]["properties"]["verdict"] == "accepted"


def test_views_at_the_same_time_keep_all(path: Path) -> None:
    tables = [ReviewTable.open(path, "run") for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: tables[number % 3].set(number, "accepted"), range(30)))
    tables[0].refresh()
    assert sorted(tables[0].verdicts) == sorted(ReviewTable.open(path, "run").verdicts) == list(range(30))


def test_verdicts_hold_in_a_layer_with_other_columns(path: Path) -> None:
    ReviewTable.open(path, "layer", "regions").set(1, "accepted")
    table = ReviewTable.open(path, "with bands", "regions")
    table.set(2, "rejected")
    assert list(ReviewTable.open(path, "with bands").verdicts) == [1, 2]
    for regions in ("", "others"):
        with pytest.raises(StoreError, match="another run or threshold"):
            ReviewTable.open(path, "layer", regions)


def test_verdicts_on_other_polygons_are_refused(path: Path) -> None:
    table = ReviewTable.open(path, "run")
    ReviewTable.open(path, "another").set(1, "accepted")
    kept = path.read_bytes()
    for act in (table.refresh, lambda: table.set(1, "rejected"), lambda: ReviewTable.open(path, "run")):
        with pytest.raises(
            StoreError, match="another run or threshold, whose ids mean other places; move it away"
        ):
            act()
    assert path.read_bytes() == kept


def text(path: Path) -> None:
    path.write_text("no table")


def folder(path: Path) -> None:
    path.mkdir()


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), path)


def no_numbers(path: Path) -> None:
    pq.write_table(pa.table({name: ["x"] for name in ("id", "verdict", "note", "time")}), path)


def nulls(path: Path) -> None:
    pq.write_table(pa.table({name: [None] for name in ("id", "verdict", "note", "time")}), path)


def foreign_metadata(path: Path) -> None:
    columns = {"id": [1], "verdict": ["unsure"], "note": [""], "time": [""]}
    pq.write_table(pa.table(columns).replace_schema_metadata({b"ussfc:run": b"\xff"}), path)


@pytest.mark.parametrize("act", [text, folder, other_columns, no_numbers, nulls, foreign_metadata])
def test_damaged_file_is_one_line(path: Path, act: object) -> None:
    act(path)  # type: ignore[operator]
    with pytest.raises(StoreError, match="move it away, or name another file of verdicts") as error:
        ReviewTable.open(path, "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("verdict", "note"), [("good", ""), ("", ""), ("accepted", "\ud800")])
def test_verdicts_that_cannot_be_kept(path: Path, verdict: str, note: str) -> None:
    table = ReviewTable.open(path, "run")
    with pytest.raises(ValueError, match=r"verdict is one of|surrogates"):
        table.set(1, verdict, note)
    table.set(2, "accepted")
    assert list(table.verdicts) == list(ReviewTable.open(path, "run").verdicts) == [2]


def test_verdict_that_is_not_written_is_not_kept(tmp_path: Path) -> None:
    table = ReviewTable.open(tmp_path / "gone" / "review.parquet", "run")
    with pytest.raises(StoreError, match=r"cannot be written .* another file of verdicts"):
        table.set(1, "accepted")
    assert table.verdicts == {}
