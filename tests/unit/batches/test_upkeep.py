"""A batch kept in order from its folder: another threshold, in a pair's folder or in all, and cleaning."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc import cli
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.batches.run_batch import run_batch
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.report.write import conclude
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

SETS = ("tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.1", "cluster.kind=serial")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs that are complete, and one whose image is missing."""
    folder = tmp_path_factory.mktemp("batch")
    for name, corner in (("a", (100, 100)), ("b", (300, 100))):
        write_scene(folder, name, corner, side=96)

    def configure(own: Mapping[str, Any]) -> RunConfig:
        return load_config(sets=SETS, flags=dict(own))

    pairs = [
        PairEntry(name, str(folder / f"{name}_before.tif"), str(folder / f"{name}_after.tif"), {})
        for name in ("a", "b", "gone")
    ]
    run_batch(pairs, folder / "out", configure, computation=Computation(StubRecipe(32, 4, 1, 3)))
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open() as table:
        return {row["name"]: row for row in csv.DictReader(table)}


def assert_index_agrees(out: Path, *names: str) -> None:
    """Compare item and row of pairs with their records."""
    for name in names:
        counts = json.loads((out / name / "run.json").read_text())["counts"]
        share = counts["changed_pixels"] / (counts["changed_pixels"] + counts["unchanged_pixels"])
        item = json.loads((out / name / "item.json").read_text())
        assert item["properties"]["ussfc:changed_share"] == pytest.approx(share)
        assert int(rows(out)[name]["changed_pixels"]) == counts["changed_pixels"]


def test_another_threshold_of_a_pair_reaches_the_index(out: Path) -> None:
    first = rows(out)
    assert ussfc("threshold", out / "a", "0.15").exit_code == 0
    assert_index_agrees(out, "a", "b")
    found = rows(out)
    assert found["a"]["changed_pixels"] != first["a"]["changed_pixels"]
    assert (found["b"], found["gone"]) == (first["b"], first["gone"])
    assert found["gone"]["state"] == "failed"
    links = json.loads((out / "collection.json").read_text())["links"]
    assert [link["title"] for link in links if link["rel"] == "item"] == ["a", "b"]
    # Taken out of its batch, a pair has its item alone.
    moved = out.parent / "elsewhere"
    shutil.copytree(out / "b", moved)
    assert ussfc("vectorise", moved, "--threshold", "0.15").exit_code == 0
    item = json.loads((moved / "item.json").read_text())
    assert item["properties"] != json.loads((out / "b" / "item.json").read_text())["properties"]
    assert item["id"] == "b"
    assert rows(out) == found
    # As if it had never been in one.
    (moved / "item.json").unlink()
    conclude(moved)
    alone = json.loads((moved / "item.json").read_text())
    assert alone["id"] == "elsewhere"
    assert {link["rel"] for link in item["links"]} - {link["rel"] for link in alone["links"]} == {
        "root", "parent", "collection",
    }  # fmt: skip
    assert {"change", "probability", "changes", "report", "preview", "run"} <= set(alone["assets"])
    for asset in alone["assets"].values():
        assert (moved / asset["href"]).exists()
    sources = [(moved / link["href"]).resolve().name for link in alone["links"]]
    assert sources == ["b_before.tif", "b_after.tif"]
    assert all((moved / link["href"]).exists() for link in alone["links"])


def test_another_threshold_of_a_batch_is_one_command(out: Path) -> None:
    first = rows(out)
    result = ussfc("threshold", out, "0.15", "--format", "geojson")
    # As the batch itself: a pair has no products.
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert "2 of 3 pairs complete, 0 incomplete, 1 failed" in result.stdout
    assert "\nfailed: gone: " in f"\n{result.stderr}"
    assert_index_agrees(out, "a", "b")
    found = rows(out)
    assert found["gone"] == first["gone"]
    for name in ("a", "b"):
        assert found[name]["changed_pixels"] != first[name]["changed_pixels"]
        assert json.loads((out / name / "run.json").read_text())["threshold"] == 0.15
        assert (out / name / "changes.geojson").exists()
        assert "changes-geojson" in json.loads((out / name / "item.json").read_text())["assets"]
    assert ussfc("validate", out / "a").exit_code == 0


def test_a_batch_is_cleaned_with_its_pairs(out: Path) -> None:
    left = [out / "a" / "change.tif.part", out / "b" / "work" / "infer.json.part", out / "results.csv.part"]
    for file in left:
        file.touch()
    names = ["a/change.tif.part", "b/work/infer.json.part", "results.csv.part"]
    shown = ussfc("clean", out, "--dry-run")
    assert shown.stdout.splitlines() == [f"would remove file {name}" for name in names]
    assert json.loads(ussfc("clean", out, "--json").stdout) == {"files": names, "uploads": []}
    assert not any(file.exists() for file in left)
    assert ussfc("status", out / "a").exit_code == 0
