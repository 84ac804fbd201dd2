"""Lists of pairs: each ends as its own run would leave it, whatever happens to the others."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystac
import pystac.validation
import pytest
import rasterio
import yaml
from click.testing import CliRunner, Result

from tests.support.paths import ROOT
from tests.support.scenes import write_scene, write_toy_model
from tests.support.stubs import RecordingRecipe
from ussfc import cli
from ussfc.pipeline.batches.index import COLUMNS, PairResult
from ussfc.pipeline.batches.pair_lists import read_pairs
from ussfc.pipeline.batches.run_batch import run_batch
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

PRODUCTS = ("change.tif", "probability.tif", "changes.parquet")
CORNERS = {"a": (100, 100), "b": (300, 200), "c": (500, 400)}
SETS = ("tiling.tile_size=64", "tiling.patch_size=32", "tiling.overlap=0", "cluster.kind=serial")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def options(place: Path, *sets: str) -> list[str]:
    return [
        "--model",
        str(place / "toy.yaml"),
        *(part for text in (*SETS, *sets) for part in ("--set", text)),
    ]


def scene(place: Path, name: str) -> dict[str, str]:
    return {date: str(place / f"{name}_{date}.tif") for date in ("before", "after")}


def list_of(path: Path, *rows: Mapping[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def table(out: Path | Folder) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(Folder.of(out).read("results.csv").decode()))
    assert tuple(rows.fieldnames or ()) == COLUMNS
    return {row["name"]: row for row in rows}


def products(out: Path | Folder) -> dict[str, bytes]:
    return {name: Folder.of(out).read(name) for name in PRODUCTS}


def assert_same(out: Path | Folder, expected: Mapping[str, Mapping[str, bytes]]) -> None:
    """Compare products; name the files that differ rather than printing them."""
    for name, files in expected.items():
        found = products(Folder.of(out) / name)
        assert [(name, file) for file in PRODUCTS if found[file] != files[file]] == []


def assert_valid_index(out: Path, *names: str) -> None:
    """Follow the collection with STAC's reader to every product of exactly these pairs."""
    found = pystac.Collection.from_file(str(out / "collection.json"))
    # The schemas of extensions lie on the web.
    pystac.validation.validate_dict(json.loads((out / "collection.json").read_text()), extensions=[])
    items = {item.id: item for item in found.get_items()}
    assert sorted(items) == sorted(names)
    for item in items.values():
        pystac.validation.validate_dict(json.loads(Path(item.get_self_href()).read_text()), extensions=[])
        assert {"change", "changes", "changes-gpkg", "probability", "report", "preview"} <= set(item.assets)
        assert all(Path(asset.get_absolute_href()).is_file() for asset in item.assets.values())
        collection = item.get_collection()
        assert collection is not None
        assert collection.id == found.id


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of 96 px squared, in four tiles each, and a toy model."""
    folder = tmp_path_factory.mktemp("place")
    for name, corner in CORNERS.items():
        write_scene(folder, name, corner)
    write_toy_model(folder)
    list_of(folder / "pairs.csv", *({"name": name, **scene(folder, name)} for name in CORNERS))
    return folder


@pytest.fixture(scope="module")
def singles(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Run each pair alone and return the products."""
    folder = tmp_path_factory.mktemp("singles")
    for name in CORNERS:
        result = ussfc("run", *scene(place, name).values(), "--out", folder / name, *options(place), "-q")
        assert result.exit_code == 0, result.output
    return {name: products(folder / name) for name in CORNERS}


def stub_batch(
    place: Path, out: Path, recipe: RecordingRecipe, pairs: str = "pairs.csv", **arguments: Any
) -> list[PairResult]:
    """Run a batch with a stand-in for the network that records the processes that call it."""
    sets = [*SETS, "threshold=0.5", *arguments.pop("sets", ())]

    def configure(own: Mapping[str, Any]) -> RunConfig:
        return load_config(sets=sets, flags={"model": str(place / "toy.yaml"), **own})

    entries = read_pairs(str(place / pairs))
    return run_batch(entries, out, configure, computation=Computation(recipe), **arguments)


@pytest.mark.parametrize("at_once", [(), ("--at-once", "3")], ids=["one by one", "side by side"])
def test_pairs_have_the_bytes_of_single_runs(
    place: Path, singles: dict[str, dict[str, bytes]], tmp_path: Path, at_once: tuple[str, ...]
) -> None:
    result = ussfc("batch", place / "pairs.csv", "--out", tmp_path, *options(place), *at_once)
    assert result.exit_code == 0, result.output
    assert "3 of 3 pairs complete, 0 incomplete, 0 failed" in result.stdout
    assert_same(tmp_path, singles)
    assert len({files["probability.tif"] for files in singles.values()}) == 3
    rows = table(tmp_path)
    assert list(rows) == list(CORNERS)
    for name, row in rows.items():
        manifest = json.loads((tmp_path / name / "run.json").read_text())
        assert (row["state"], row["error"]) == ("complete", "")
        assert (row["before"], row["after"]) == tuple(scene(place, name).values())
        assert (tmp_path / name / "report.html").stat().st_size < 3_000_000
        assert (row["pixels"], row["tiles"], row["tiles_failed"]) == ("9216", "4", "0")
        assert int(row["changed_pixels"]) == manifest["counts"]["changed_pixels"]
        assert int(row["polygons"]) == manifest["counts"]["polygons"]
        assert float(row["changed_share"]) == pytest.approx(int(row["changed_pixels"]) / 9216, abs=1e-6)
        assert float(row["changed_km2"]) == pytest.approx(
            manifest["counts"]["polygon_area_m2"] / 1e6, abs=1e-6
        )
    checked = ussfc("validate", tmp_path)
    assert checked.exit_code == 0, checked.output
    assert [line.split(":")[0] for line in checked.stdout.splitlines()] == [
        f"ok      {name}" for name in CORNERS
    ]
    found = ussfc("status", tmp_path, "--follow")
    assert found.exit_code == 0
    assert found.stdout.startswith("3 pairs: 3 complete\n  complete   a, ")
    assert_valid_index(tmp_path, *CORNERS)


def damage(place: Path, target: Path) -> None:
    """Copy the pair ``a`` with one broken block in its after image, away from the other tiles' halos."""
    for date, path in scene(place, "a").items():
        with rasterio.open(path) as source:
            profile = source.profile | {
                "tiled": True,
                "blockxsize": 16,
                "blockysize": 16,
                "compress": "deflate",
            }
            values = source.read()
        name = str(target / f"damaged_{date}.tif")
        with rasterio.open(name, "w", **profile) as copy:
            copy.write(values)
    with rasterio.open(name) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_5_5", "TIFF", bidx=1))
        size = int(source.get_tag_item("BLOCK_SIZE_5_5", "TIFF", bidx=1))
    with Path(name).open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)


def test_failed_pair_does_not_stop_the_others(
    place: Path, singles: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    damage(place, tmp_path)
    (out / "occupied").mkdir(parents=True)
    (out / "occupied" / "change.tif").write_bytes(b"another program's")
    (tmp_path / "gone.yaml").write_text(
        yaml.safe_dump(
            yaml.safe_load((place / "toy.yaml").read_text())
            | {"weights": {"uri": "gone.safetensors", "sha256": "0" * 64}}
        )
    )
    good = scene(place, "a")
    bad = {
        "missing": {"before": str(place / "absent.tif"), "after": good["after"]},
        "apart": {"before": good["before"], "after": scene(place, "c")["after"]},
        "occupied": good,
        "model": {**good, "model": "nothing.yaml"},
        "weights": {**good, "model": str(tmp_path / "gone.yaml")},
    }
    broken = {date: str(tmp_path / f"damaged_{date}.tif") for date in ("before", "after")}
    rows_in = [{"name": name, **pair} for name, pair in bad.items()]
    pairs = list_of(
        tmp_path / "pairs.csv",
        {"name": "a", **good},
        *rows_in,
        {"name": "damaged", **broken},
        {"name": "c", **scene(place, "c")},
    )
    result = ussfc("batch", pairs, "--out", out, *options(place, "compute.retries=0"))
    assert result.exit_code == ExitStatus.INCOMPLETE, result.output
    assert "2 of 8 pairs complete, 1 incomplete, 5 failed" in result.stdout
    assert_same(out, {name: singles[name] for name in ("a", "c")})
    rows = table(out)
    assert [rows[name]["state"] for name in rows] == ["complete", *["failed"] * 5, "incomplete", "complete"]
    reported = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert reported == [f"failed: {name}: {rows[name]['error']}" for name in bad]
    for name, message in (
        ("missing", "absent.tif: no such file"),
        ("apart", "overlap"),
        ("occupied", "no run of ussfc is in this folder"),
        ("model", "nothing.yaml"),
        ("weights", "gone.safetensors"),
    ):
        assert message in rows[name]["error"], name
    assert "Traceback" not in result.output
    # Folders that nothing was put into are gone.
    assert not any((out / name).exists() for name in ("missing", "apart", "model"))
    found = ussfc("status", out, "--json")
    assert found.exit_code == ExitStatus.INCOMPLETE
    listed = json.loads(found.stdout)
    assert listed["state"] == "failed"
    assert [pair["state"] for pair in listed["pairs"]] == [row["state"] for row in rows.values()]
    assert "absent.tif: no such file" in ussfc("status", out).stdout
    checked = ussfc("validate", out)
    assert checked.exit_code == ExitStatus.INCOMPLETE, checked.output
    assert "none    missing: " in checked.stdout
    assert "ok      damaged: " in checked.stdout
    assert (out / "occupied" / "change.tif").read_bytes() == b"another program's"
    assert (rows["damaged"]["tiles"], rows["damaged"]["tiles_failed"]) == ("4", "1")
    assert int(rows["damaged"]["pixels"]) == 96 * 96 - 32 * 32
    assert_valid_index(out, "a", "damaged", "c")
    item = json.loads((out / "damaged" / "item.json").read_text())
    assert item["properties"]["ussfc:complete"] is False
    for date, path in broken.items():
        shutil.copy(good[date], path)
    assert_mended_batch_is_finished(place, pairs, out, singles["a"])


def assert_mended_batch_is_finished(place: Path, pairs: Path, out: Path, expected: dict[str, bytes]) -> None:
    """Give the batch again with whole inputs: the same command does what is missing."""
    shutil.rmtree(out / "occupied")
    shutil.rmtree(out / "damaged")
    again = ussfc("batch", pairs, "--out", out, *options(place, "compute.retries=0"), "--json")
    assert again.exit_code == ExitStatus.INCOMPLETE
    results = {result["name"]: result for result in json.loads(again.stdout)}
    assert [name for name in results if results[name]["manifest"] is None] == [
        "missing", "apart", "model", "weights",
    ]  # fmt: skip
    assert_same(out / "occupied" / "..", {"occupied": expected})
    assert table(out)["damaged"]["state"] == "complete"


def test_repeated_batch_computes_nothing(place: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", RecordingRecipe(32, 4, 1, 3, log=tmp_path / "log")
    first = stub_batch(place, out, recipe)
    assert [result.error for result in first] == [None] * 3
    calls = len(recipe.processes)
    assert calls >= 3 * 4
    # As if it had been made long ago.
    item = out / "b" / "item.json"
    content = json.loads(item.read_text())
    content["properties"]["datetime"] = "2020-01-02T03:04:05Z"
    item.write_text(json.dumps(content))
    assert [result.manifest for result in stub_batch(place, out, recipe)] == [
        result.manifest for result in first
    ]
    assert len(recipe.processes) == calls
    assert json.loads(item.read_text())["properties"]["datetime"] == "2020-01-02T03:04:05Z"
    interval = json.loads((out / "collection.json").read_text())["extent"]["temporal"]["interval"]
    assert interval[0][0] == "2020-01-02T03:04:05Z"
    before = {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "work" not in path.parts
    }
    stub_batch(place, out, recipe, at_once=2)
    assert {path: path.read_bytes() for path in before} == before
    assert len(recipe.processes) == calls

    # What is gone of one pair is made again, of that pair alone.
    shutil.rmtree(out / "b")
    stub_batch(place, out, recipe)
    assert len(recipe.processes) == calls + calls // 3
    assert "2020-01-02" not in (out / "collection.json").read_text()
    stub_batch(place, out, recipe, overwrite=True)
    assert len(recipe.processes) == 2 * calls + calls // 3


def test_settings_of_a_pair_have_their_effect(place: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", RecordingRecipe(32, 4, 1, 3, log=tmp_path / "log")
    pair = scene(place, "a")
    list_of(
        place / "own.csv",
        {"name": "common", **pair},
        {"name": "all", **pair, "threshold": "0"},
        {"name": "gpkg", **pair, "threshold": "1", "vector.format": "gpkg"},
    )
    stub_batch(place, out, recipe, "own.csv")
    rows = table(out)
    assert 0 < int(rows["common"]["changed_pixels"]) < int(rows["all"]["changed_pixels"]) == 9216
    assert int(rows["gpkg"]["changed_pixels"]) < int(rows["common"]["changed_pixels"])
    assert (out / "gpkg" / "changes.gpkg").exists()
    assert (
        json.loads((out / "gpkg" / "item.json").read_text())["assets"]["changes"]["href"] == "./changes.gpkg"
    )
    assert json.loads((out / "all" / "run.json").read_text())["threshold"] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("cluster.workers", "2"), ("cluster.kind", "local"), ("compute.retries", "1"),
     ("compute.memory_gb", "99"), ("output.scratch", "/tmp")],
)  # fmt: skip
def test_common_settings_are_refused_in_a_list(place: Path, tmp_path: Path, key: str, value: str) -> None:
    pairs = list_of(
        tmp_path / "pairs.csv",
        {"name": "one", **scene(place, "a")},
        {"name": "two", **scene(place, "b"), key: value},
    )
    result = ussfc("batch", pairs, "--out", tmp_path / "out", *options(place))
    assert result.exit_code == ExitStatus.USAGE, result.output
    assert result.stderr.startswith(f"error: pair two: sets {key}, which is for all pairs; ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_dates_and_warnings_reach_every_record(place: Path, tmp_path: Path) -> None:
    recipe = RecordingRecipe(32, 4, 1, 3, log=tmp_path / "calls")

    def made(before: str, after: str) -> dict[str, str]:
        pair = {"name": "a", **scene(place, "a"), "date_before": before, "date_after": after}
        list_of(place / "dated.csv", pair)
        stub_batch(place, tmp_path / "out", recipe, "dated.csv")
        return table(tmp_path / "out")["a"]

    row = made("2018-06-30", "2017-01-01T10:15:00Z")
    assert (row["date_before"], row["date_after"]) == ("2018-06-30", "2017-01-01T10:15:00Z")
    assert "later than after (2017-01-01T10:15:00Z)" in row["warnings"]
    computed = len(recipe.processes)
    # Another date is another record, and no other pixel.
    row = made("2016-06-30", "2017-01-01T10:15:00Z")
    assert row["date_before"] == "2016-06-30"
    assert "later than" not in row["warnings"]
    # The stand-in for the network finds change all over, which the table says too.
    assert "of the map is change" in row["warnings"]
    assert len(recipe.processes) == computed > 0
    item = json.loads((tmp_path / "out" / "a" / "item.json").read_text())
    assert item["properties"]["start_datetime"] == "2016-06-30T00:00:00Z"
    assert item["properties"]["end_datetime"] == "2017-01-01T10:15:00Z"
    manifest = json.loads((tmp_path / "out" / "a" / "run.json").read_text())
    assert manifest["inputs"]["before"]["acquired"] == "2016-06-30"
    with rasterio.open(tmp_path / "out" / "a" / "change.tif") as source:
        assert source.tags()["USSFC_BEFORE_ACQUIRED"] == "2016-06-30"
    shown = ussfc("validate", tmp_path / "out", "--json")
    assert shown.exit_code == 0
    with (tmp_path / "out" / "a" / "change.tif").open("ab") as file:
        file.write(b"0")
    assert ussfc("validate", tmp_path / "out").exit_code == ExitStatus.INVALID


def test_unusable_setting_ends_at_the_start(place: Path, tmp_path: Path) -> None:
    pairs = list_of(tmp_path / "pairs.csv", {"name": "one", **scene(place, "a"), "threshold": "7"})
    result = ussfc("batch", pairs, "--out", tmp_path / "out", *options(place))
    assert result.exit_code == ExitStatus.USAGE
    assert "threshold" in result.stderr
    assert not (tmp_path / "out" / "one").exists()
    with pytest.raises(ConfigError):
        stub_batch(tmp_path, tmp_path / "out", RecordingRecipe(), "pairs.csv")


def test_one_pool_of_workers_for_all_pairs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    alone = RecordingRecipe(32, 4, 1, 3, log=tmp_path / "alone.log")
    stub_batch(place, tmp_path / "alone", alone)
    pooled = RecordingRecipe(32, 4, 1, 3, log=tmp_path / "pooled.log")
    sets = ["cluster.kind=local", "cluster.workers=2"]
    results = stub_batch(place, tmp_path / "pooled", pooled, at_once=2, sets=sets)
    assert [result.error for result in results] == [None] * 3
    assert len(set(pooled.processes)) == 2
    assert os.getpid() not in pooled.processes
    assert len(pooled.processes) == len(alone.processes)
    assert set(alone.processes) == {os.getpid()}
    assert_same(tmp_path / "pooled", {name: products(tmp_path / "alone" / name) for name in CORNERS})
    assert {result.manifest.executor.name for result in results if result.manifest} == {"local"}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs that take long enough to be stopped in the middle."""
    folder = tmp_path_factory.mktemp("big")
    for name, corner in CORNERS.items():
        write_scene(folder, name, corner, side=128)
    write_toy_model(folder)
    list_of(folder / "pairs.csv", *({"name": name, **scene(folder, name)} for name in CORNERS))
    return folder


@pytest.fixture(scope="module")
def undisturbed(big: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert ussfc("batch", big / "pairs.csv", "--out", out, *options(big), "-q").exit_code == 0
    return {name: products(out / name) for name in CORNERS}


@pytest.mark.parametrize(
    ("how", "at_once", "status"),
    [pytest.param(signal.SIGKILL, 1, -9, marks=pytest.mark.soak), (signal.SIGINT, 2, ExitStatus.INTERRUPTED)],
)
def test_stopped_batch_is_resumed(
    big: Path,
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    how: signal.Signals,
    at_once: int,
    status: int,
) -> None:
    out = tmp_path / "out"
    command = ["batch", str(big / "pairs.csv"), "--out", str(out), *options(big), "--at-once", str(at_once)]
    records = out / "b" / "work" / "done"
    with subprocess.Popen(
        [sys.executable, "-m", "ussfc.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + 60
        while not (records.exists() and any(path.is_file() for path in records.rglob("*"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(how)
        _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    if how == signal.SIGINT:
        assert error.splitlines()[-1] == "interrupted; the same command continues where it stopped"
        assert "Traceback" not in error
    states = [row["state"] for row in table(out).values()]
    assert "waiting" in states
    assert not (out / "c" / "run.json").exists()
    result = ussfc(*command, "-v")
    assert result.exit_code == 0, result.output
    # All of it is done already where this process had to wait for a core before it sent the signal.
    assert re.search("note: b: (resuming: |everything is done already)", result.stderr)
    assert_same(out, undisturbed)
    assert_valid_index(out, *CORNERS)
    assert [row["state"] for row in table(out).values()] == ["complete"] * 3
    assert [path for path in out.rglob("*") if "part" in path.name.split(".")] == []


@pytest.mark.parametrize("at_once", [1, 2])
def test_unreachable_scheduler_ends_all_pairs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("ussfc.pipeline.execution.connection.CONNECT_SECONDS", 1)
    sets = [text for text in SETS if not text.startswith("cluster.")]
    result = ussfc(
        "batch", place / "pairs.csv", "--out", tmp_path, "--model", place / "toy.yaml", "--at-once", at_once,
        *(part for text in sets for part in ("--set", text)), "--scheduler", "tcp://127.0.0.1:1",
    )  # fmt: skip
    assert result.exit_code == ExitStatus.CLUSTER, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no Dask scheduler answers" in errors[0]
    assert {row["state"] for row in table(tmp_path).values()} == {"waiting"}


def test_fail_fast_fails_the_pair_alone(
    place: Path, singles: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    damage(place, tmp_path)
    broken = {date: str(tmp_path / f"damaged_{date}.tif") for date in ("before", "after")}
    pairs = list_of(tmp_path / "pairs.csv", {"name": "x", **broken}, {"name": "c", **scene(place, "c")})
    result = ussfc("batch", pairs, "--out", tmp_path / "out", *options(place), "--fail-fast")
    assert result.exit_code == ExitStatus.INCOMPLETE, result.output
    assert [row["state"] for row in table(tmp_path / "out").values()] == ["failed", "complete"]
    assert table(tmp_path / "out")["x"]["error"].startswith("tile ")
    assert_same(tmp_path / "out", {"c": singles["c"]})


def test_progress_counts_pairs(place: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    stub_batch(
        place, tmp_path / "out", RecordingRecipe(32, 4, 1, 3, log=tmp_path / "log"), subscriber=events.append
    )
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert {message.partition(": ")[0] for message in notices} <= set(CORNERS)
    others = [(type(event).__name__, event.stage) for event in events if not isinstance(event, Notice)]  # type: ignore[union-attr]
    assert others == [("StageStarted", "batch"), *[("Advanced", "batch")] * 3, ("StageFinished", "batch")]


def test_batch_in_a_bucket(
    place: Path,
    singles: dict[str, dict[str, bytes]],
    bucket: str,
    s3_environment: dict[str, str],
) -> None:
    out = f"s3://{bucket}/a/batch"
    result = ussfc("batch", place / "pairs.csv", "--out", out, *options(place))
    assert result.exit_code == 0, result.output
    folder = Folder.of(out)
    assert_same(folder, singles)
    assert [row["state"] for row in table(folder).values()] == ["complete"] * 3
    collection = folder.read_json("collection.json")
    pystac.validation.validate_dict(collection, extensions=[])
    items = [link["href"] for link in collection["links"] if link["rel"] == "item"]
    assert items == [f"./{name}/item.json" for name in CORNERS]
    for href in items:
        item = folder.read_json(href.removeprefix("./"))
        pystac.validation.validate_dict(item, extensions=[])
        for asset in item["assets"].values():
            assert folder.exists(f"{item['id']}/{asset['href'].removeprefix('./')}")
    kept = folder.read("collection.json"), folder.read("a/item.json")
    assert ussfc("batch", place / "pairs.csv", "--out", out, *options(place), "-q").exit_code == 0
    assert (folder.read("collection.json"), folder.read("a/item.json")) == kept


def test_addresses_are_shown_without_credentials(place: Path, tmp_path: Path) -> None:
    secret = "nowhere://user:secret@host/before.tif?sig=secret"
    pairs = list_of(
        tmp_path / "pairs.csv", {"name": "x", "before": secret, "after": scene(place, "a")["after"]}
    )
    result = ussfc("batch", pairs, "--out", tmp_path / "out", *options(place))
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert "secret" not in result.output
    assert "secret" not in (tmp_path / "out" / "results.csv").read_text()
    assert table(tmp_path / "out")["x"]["before"] == "nowhere://host/before.tif"
