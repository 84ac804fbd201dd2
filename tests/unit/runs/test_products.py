"""Products of one folder: of one threshold, whichever is made again, and formats beside each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine

from tests.support.stub_runs import (
    COMPUTATION,
    SETS,
    assert_of_one_threshold,
    failures,
    layers,
    polygons,
    smoothing_of,
    ussfc,
)
from tests.support.stubs import StubTileRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Event, StageStarted, ignore
from ussfc.pipeline.execution.square_job import OpenSquares
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.products import (
    read_inference,
    square_jobs,
    write_polygons,
    write_products,
    write_rasters,
)
from ussfc.pipeline.runs.registration import recorded_plan
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box

LAYERS = ("changes.parquet", "changes.gpkg", "changes.fgb", "changes.geojson")


@pytest.mark.parametrize(
    "command",
    [
        ("threshold", "OUT", "0.15"),
        ("vectorise", "OUT", "--threshold", "0.15"),
        ("mosaic", "OUT", "--threshold", "0.15"),
        ("vectorise", "OUT", "--threshold", "0.15", "--format", "gpkg"),
        ("mosaic", "OUT", "--set", "threshold=0.15", "--set", "output.compression=zstd"),
    ],
)
def test_one_command_brings_all_products_to_a_threshold(out: Path, command: Sequence[str]) -> None:
    work = out / "work"
    stored = {file: file.stat().st_mtime_ns for file in (work / "probability.zarr").rglob("*")}
    result = ussfc(*(out if word == "OUT" else word for word in command))
    assert result.exit_code == 0, result.output
    assert_of_one_threshold(out, 0.15)
    assert " at threshold 0.15\n" in result.stdout
    assert "m2\n" in result.stdout
    assert {file: file.stat().st_mtime_ns for file in stored} == stored
    # What is not named stays as it is there, not as the run had it.
    again = ussfc("vectorise", out, "--format", "fgb")
    assert again.exit_code == 0, again.output
    assert_of_one_threshold(out, 0.15)
    with rasterio.open(out / "change.tif") as change:
        assert (change.compression.name == "zstd") == ("output.compression=zstd" in command)


def test_run_with_another_threshold_computes_nothing(out: Path, pair: tuple[str, str]) -> None:
    assert ussfc("vectorise", out, "--format", "geojson", "--min-area", "500").exit_code == 0
    events: list[Event] = []
    record = run(*pair, out, load_config(sets=[*SETS, "threshold=0.15"]), False, events.append, COMPUTATION)
    started = {event.stage: event.total for event in events if isinstance(event, StageStarted)}
    assert started["infer"] == 0
    assert_of_one_threshold(out, 0.15)
    assert sorted(record.config["vector"]["format"]) == ["geojson", "gpkg", "parquet"]
    assert record.config["vector"]["min_area_m2"] == 0


def test_a_map_that_holds_no_information_is_recorded_as_such(out: Path) -> None:
    for threshold, expected in (("0.001", 1), ("0.1", 0)):
        result = ussfc("threshold", out, threshold)
        record = json.loads((out / "run.json").read_text("utf-8"))
        found = [line for line in record["warnings"] if "of the map is change" in line]
        assert len(found) == expected
        assert result.stderr.count("of the map is change") == expected


def stored(out: Path) -> npt.NDArray[np.uint8]:
    store = ProbabilityStore(out / "work")
    return store.read(Box(0, 0, *store.shape)).astype(np.uint8)


def test_all_products_follow_in_smoothing(out: Path) -> None:
    """The store keeps what the network gave; a folder of earlier versions stays as it is until it is asked."""
    levels = stored(out)
    median = median3(with_rim(levels))
    assert (median != levels).any()
    for command, smoothing in (
        (("mosaic", "--set", "output.smoothing=none"), "none"),
        (("vectorise", "--set", "output.smoothing=median3"), "median3"),
        (("threshold", "0.15"), "median3"),
        (("mosaic", "--set", "output.smoothing=none"), "none"),
        (("vectorise", "--format", "geojson"), "none"),
    ):
        result = ussfc(command[0], out, *command[1:])
        assert result.exit_code == 0, result.output
        assert smoothing_of(out) == smoothing
        assert failures(out) == []
        with rasterio.open(out / "probability.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), median if smoothing == "median3" else levels)
    np.testing.assert_array_equal(stored(out), levels)
    # As an earlier version left it: no record knows of smoothing.
    for name in ("run.json", "work/infer.json"):
        record = json.loads((out / name).read_text("utf-8"))
        del record["checksum"], record["config"]["output"]["smoothing"]
        Folder.of(out).write_record(name, record)
    assert failures(out) == []
    assert ussfc("threshold", out, "0.1").exit_code == 0
    assert smoothing_of(out) == "none"


def test_tiles_leave_no_trace_in_smoothed_products(
    pair: tuple[str, str], finished: Path, tmp_path: Path
) -> None:
    run(*pair, tmp_path, load_config(sets=[*SETS, "tiling.tile_size=96"]), computation=COMPUTATION)
    assert smoothing_of(tmp_path) == smoothing_of(finished) == "median3"
    for name in ("change.tif", "probability.tif", "changes.parquet"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_status_and_validate_name_threshold_and_area(out: Path) -> None:
    status = ussfc("status", out)
    assert " pixels changed (" in status.stdout
    assert " at threshold 0.1\n" in status.stdout
    assert "m2\n" in status.stdout
    assert json.loads(ussfc("status", out, "--json").stdout)["thresholds"]["vectorise"] == 0.1
    checked = ussfc("validate", out)
    assert checked.exit_code == 0
    assert "ok      all products are of one threshold: 0.1\n" in checked.stdout
    assert "m2\n" in checked.stdout


def test_validate_finds_products_of_two_thresholds(out: Path, finished: Path) -> None:
    """As earlier versions left them: the polygons of 0.15 beside the classes of 0.1."""
    assert ussfc("threshold", out, "0.15").exit_code == 0
    shutil.copy(finished / "change.tif", out / "change.tif")
    record = json.loads((out / "run.json").read_text("utf-8"))
    first = json.loads((finished / "run.json").read_text("utf-8"))
    del record["checksum"]
    record["products"]["change.tif"] = first["products"]["change.tif"]
    record["thresholds"]["mosaic"] = 0.1
    record["counts"]["changed_pixels"] = first["counts"]["changed_pixels"]
    (out / "run.json").write_text(json.dumps(record), "utf-8")
    assert failures(out) == [
        "all products are of one threshold",
        "changes.parquet: polygons cover every changed pixel",
        "changes.gpkg: polygons cover every changed pixel",
    ]


class Idle:
    """An executor whose workers have left: what it is asked for must be there already."""

    worker_count = 1

    def run(self, *arguments: object) -> None:
        pytest.fail(f"asked to compute {arguments}")


@pytest.mark.parametrize(
    "sets", [(), ("output.block_size=128", "vector.format=[gpkg,geojson]", "threshold=0.3")]
)
def test_products_are_made_of_squares_made_in_passing(
    out: Path, pair: tuple[str, str], sets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, work = load_config(sets=[*SETS, *sets]), Folder.of(out / "work")
    write_products(out, config)
    expected = {name: (out / name).read_bytes() for name in ("change.tif", "probability.tif")}
    expected |= {
        name: (out / name).read_bytes() for name in layers(out) & {"changes.parquet", "changes.geojson"}
    }
    facts = read_inference(out)
    scenes = recorded_plan(plan(*pair, config), Folder.of(out)).pair
    # As the inference knows it before its end: its own threshold, no counts yet.
    early = facts.model_copy(update={"counts": facts.counts.model_copy(update={"patches": 0}), "stages": {}})
    for job in square_jobs(work, early, config, 64, scenes):
        opened = OpenSquares(job)
        for index in job.plan.indices():
            opened.make(index)
    # Nor is one made here, as one would be that is not as it should be.
    monkeypatch.setattr("ussfc.pipeline.runs.squares.OpenSquares", lambda job: pytest.fail(f"made {job}"))
    write_rasters(Folder.of(out), config, ignore, again=True, workers=Idle)
    write_polygons(Folder.of(out), config, ignore, again=True, workers=Idle)
    assert {name: (out / name).read_bytes() for name in expected} == expected


def test_squares_made_beside_a_device_become_the_products(
    pair: tuple[str, str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No square is made twice: not in one pass, nor because that of the device's run was not found.
    for again in ("polygons.vectorise.find_blocks", "rasters.cog.write", "runs.squares.OpenSquares"):
        monkeypatch.setattr(
            f"ussfc.pipeline.{again}", lambda *_, again=again, **__: pytest.fail(f"{again}: made again")
        )
    config = load_config(sets=(*SETS, "inference.device=cuda"))
    out = tmp_path / "out"
    run(*pair, out, config, computation=Computation(StubTileRecipe(32, 4, 1, 3)))
    for name in ("change.tif", "probability.tif", "changes.parquet"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    assert not (out / "work" / "squares").exists()


def test_formats_stand_side_by_side(out: Path) -> None:
    made = (out / "changes.parquet").stat().st_mtime_ns
    for name, file in (("gpkg", "changes.gpkg"), ("FGB", "changes.fgb"), ("geojson", "changes.geojson")):
        assert ussfc("vectorise", out, "--format", name).exit_code == 0
        assert file in layers(out)
    assert layers(out) == set(LAYERS)
    assert (out / "changes.parquet").stat().st_mtime_ns == made, "it is of the same already"
    assert_of_one_threshold(out, 0.1)
    # All of them follow in filters as well.
    assert ussfc("vectorise", out, "--format", "geoparquet", "--min-area", "500").exit_code == 0
    assert len({len(polygons(out / name)) for name in LAYERS}) == 1
    assert all(polygons(out / name)["area_m2"].min() >= 500 for name in LAYERS)
    assert failures(out) == []
    # One that the user takes away is forgotten.
    (out / "changes.gpkg").unlink()
    assert ussfc("vectorise", out).exit_code == 0
    assert layers(out) == {*LAYERS} - {"changes.gpkg"}
    assert failures(out) == []


def test_several_formats_are_asked_for_at_once(pair: tuple[str, str], tmp_path: Path) -> None:
    wanted = [*SETS, "vector.format=[geoparquet, fgb]", "vector.simplify_m=15"]
    record = run(*pair, tmp_path, load_config(sets=wanted), computation=COMPUTATION)
    assert layers(tmp_path) == {"changes.parquet", "changes.fgb"}
    assert record.counts.polygons == len(polygons(tmp_path / "changes.fgb"))
    assert failures(tmp_path) == []
    # Replaced by another run, whose formats alone stay.
    other = load_config(sets=[*SETS, "tiling.overlap=0.25", "vector.format=gpkg"])
    run(*pair, tmp_path, other, overwrite=True, computation=COMPUTATION)
    assert layers(tmp_path) == {"changes.gpkg"}
    assert failures(tmp_path) == []


def test_layer_of_another_run_is_found(out: Path) -> None:
    (out / "changes.fgb").write_bytes((out / "changes.gpkg").read_bytes())
    assert failures(out) == ["changes.fgb is of this run"]


def test_products_are_made_of_bare_probabilities(pair: tuple[str, str], tmp_path: Path) -> None:
    infer(plan(*pair, load_config(sets=SETS)), tmp_path, computation=COMPUTATION)
    assert ussfc("threshold", tmp_path, "0.2").exit_code == 0
    assert_of_one_threshold(tmp_path, 0.2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("threshold", "OUT", "1.5"), "threshold = 1.5 from the command line"),
        (("vectorise", "OUT", "--format", "shp"), "'shp' is none of geoparquet, gpkg, flatgeobuf, geojson"),
        (("vectorise", "OUT", "--min-area", "-1"), "vector.min_area_m2 = -1.0 from the command line"),
    ],
)
def test_unusable_choices_change_nothing(out: Path, arguments: Sequence[str], text: str) -> None:
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    result = ussfc(*(out if word == "OUT" else word for word in arguments))
    assert result.exit_code == 2
    assert text in result.stderr
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


def test_polygons_over_the_180th_meridian_pass(pair: tuple[str, str], tmp_path: Path) -> None:
    """GeoJSON cuts them there, and its longitudes jump."""
    moved = []
    for path in pair:
        copy = tmp_path / Path(path).name
        shutil.copy(path, copy)
        with rasterio.open(copy, "r+") as target:
            target.transform = Affine(1e-4, 0, 179.9925, 0, -1e-4, -17)
        moved.append(str(copy))
    sets = [*SETS, "vector.format=geojson,parquet"]
    run(*moved, tmp_path / "out", load_config(sets=sets), computation=COMPUTATION)
    assert layers(tmp_path / "out") == {"changes.geojson", "changes.parquet"}
    assert failures(tmp_path / "out") == []


def test_dates_are_in_every_product(pair: tuple[str, str], out: Path) -> None:
    """A folder of an earlier version lacks them, is valid, and gets them by the next command, without the network."""
    for name in ("changes.parquet", "change.tif"):
        file = out / "work" / "products" / f"{name}.json"
        record = json.loads(file.read_text("utf-8"))
        del record["checksum"]
        record["key"].pop("dates", None)
        file.write_text(json.dumps(record), "utf-8")
    assert failures(out) == []
    dates = ["dates.before=2018-06-30", "dates.after=2022-07-01T12:15:00+02:00"]
    events: list[Event] = []
    config = load_config(sets=[*SETS, *dates, "vector.format=[geoparquet, geojson]"])
    run(*pair, out, config, False, events.append, COMPUTATION)
    assert (
        next(event.total for event in events if isinstance(event, StageStarted) and event.stage == "infer")
        == 0
    )
    for name in ("changes.parquet", "changes.geojson"):
        frame = polygons(out / name)
        assert {str(day)[:10] for day in frame["date_before"]} == {"2018-06-30"}
        assert {str(day)[:10] for day in frame["date_after"]} == {"2022-07-01"}
    for name in ("change.tif", "probability.tif"):
        with rasterio.open(out / name) as raster:
            assert raster.tags()["TIFFTAG_DATETIME"] == "2022:07:01 10:15:00"
    assert failures(out) == []


def test_layers_of_earlier_versions_stay(pair: tuple[str, str], out: Path) -> None:
    for file in [out / "run.json", *(out / "work" / "products").glob("changes.*.json")]:
        record = json.loads(file.read_text("utf-8"))
        del record["checksum"]
        for product in record.get("products", {"": record}).values():
            product["key"].pop("values", None)
        Folder.of(file.parent).write_record(file.name, record)
    made = (out / "changes.parquet").stat().st_mtime_ns
    assert failures(out) == []
    run(*pair, out, load_config(sets=SETS), computation=COMPUTATION)
    assert (out / "changes.parquet").stat().st_mtime_ns == made
