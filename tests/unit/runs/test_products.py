"""Products of one folder: of one threshold, whichever is made again, and formats beside each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner, Result
from scipy import ndimage

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe, StubTileRecipe
from ussfc import cli
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Event, Notice, StageStarted, ignore
from ussfc.pipeline.execution.square_job import OpenSquares, band_reads
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.polygons.band_values import Reads
from ussfc.pipeline.runs.band_values import open_values
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.manifest import InferenceRecord, RunRecord
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.products import (
    read_inference,
    square_jobs,
    write_polygons,
    write_products,
    write_rasters,
)
from ussfc.pipeline.runs.recorded_pair import recorded_pair
from ussfc.pipeline.runs.registration import recorded_plan
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.validate import validate
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, Pixels

COMPUTATION = Computation(StubRecipe(32, 4, 1, 3))
SETS = (
    "output.smoothing=median3",
    "tiling.tile_size=64",
    "tiling.patch_size=32",
    "threshold=0.1",
    "cluster.kind=serial",
)
LAYERS = ("changes.parquet", "changes.gpkg", "changes.fgb", "changes.geojson")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    write_scene(folder, "a", (100, 100), side=150)
    return str(folder / "a_before.tif"), str(folder / "a_after.tif")


@pytest.fixture(scope="module")
def finished(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(*pair, out, load_config(sets=SETS), computation=COMPUTATION)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def layers(out: Path) -> set[str]:
    return {file.name for file in out.glob("changes.*") if file.suffix != ".qml"}


def polygons(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else pyogrio.read_dataframe(path)


def failures(out: Path) -> list[str]:
    return [check.name for check in validate(out) if not check.ok]


def assert_of_one_threshold(out: Path, threshold: float) -> None:
    """Compare every product and the record with the threshold, and with each other."""
    record = RunRecord.parse(json.loads((out / "run.json").read_text("utf-8")), "run.json")
    assert record.threshold == threshold
    assert record.thresholds == {"mosaic": threshold, "vectorise": threshold}
    with rasterio.open(out / "change.tif") as change, rasterio.open(out / "probability.tif") as source:
        changed = int((change.read(1) == 1).sum())
        levels = source.read(1)
        assert float(change.tags()["USSFC_THRESHOLD"]) == threshold
    assert (
        changed == ((levels >= threshold * 254) & (levels != 255)).sum() == record.counts.changed_pixels > 0
    )
    found = layers(out)
    assert found == set(record.products) - {"change.tif", "probability.tif"}
    for name in found:
        frame = polygons(out / name)
        assert frame["pixels"].sum() == changed
        assert frame["area_m2"].sum() == pytest.approx(record.counts.polygon_area_m2)
    assert failures(out) == []


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


def smoothing_of(out: Path) -> str:
    """Return the smoothing of all products, once they and the record agree in it."""
    record = RunRecord.parse(json.loads((out / "run.json").read_text("utf-8")), "run.json")
    (found,) = {product.key.smoothing or "none" for product in record.products.values()}
    for name in ("change.tif", "probability.tif"):
        with rasterio.open(out / name) as raster:
            assert raster.tags().get("USSFC_SMOOTHING", "none") == found
    assert record.config["output"]["smoothing"] == found
    return found


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


def test_band_values_are_means_over_the_pixels_of_a_polygon(pair: tuple[str, str], out: Path) -> None:
    """Of the later date where the run read it, which is beside its own place here."""
    frame = polygons(out / "changes.parquet").set_index("id")
    with rasterio.open(out / "change.tif") as change, rasterio.open(pair[0]) as scene:
        labels, _ = ndimage.label(change.read(1) == 1)
        before = scene.read()
    record = RunRecord.parse(json.loads((out / "run.json").read_text("utf-8")), "run.json")
    assert record.registration is not None
    assert record.registration.state == "corrected"
    after = recorded_pair(record).recipes[1].open().read(Box(0, 0, *labels.shape)).values
    for date, images in (("before", before), ("after", after)):
        for name, image in zip(("red", "green", "blue"), images, strict=True):
            means = {
                int(np.flatnonzero(labels == number)[0]): image[labels == number].mean(dtype=np.float64)
                for number in range(1, 6)
            }
            found = frame[f"{date}_{name}"]
            assert {number: found[number] for number in means} == pytest.approx(means, rel=1e-6)
    assert frame["kind"].notna().all()


def test_without_the_images_columns_are_null_until_they_are_back(
    pair: tuple[str, str], out: Path, tmp_path: Path
) -> None:
    copies = [shutil.copy2(path, tmp_path) for path in pair]
    config = load_config(sets=SETS)
    own = tmp_path / "own"
    run(*copies, own, config, computation=COMPUTATION)
    content = (own / "changes.parquet").read_bytes()
    assert ussfc("vectorise", own).exit_code == 0
    assert (own / "changes.parquet").read_bytes() == content
    Path(copies[1]).rename(tmp_path / "away.tif")
    # What is there already and lacks nothing stays as it is.
    assert ussfc("mosaic", own).exit_code == 0
    assert (own / "changes.parquet").read_bytes() == content
    Path(copies[1]).write_bytes((tmp_path / "away.tif").read_bytes())
    result = ussfc("vectorise", own)
    assert "has changed since the run" in result.stderr
    Path(copies[1]).unlink()
    result = ussfc("vectorise", own)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "no band values" in line]
    assert len(lines) == 1
    assert copies[1] in lines[0]
    frame = polygons(own / "changes.parquet")
    assert frame[["kind", "ndvi_change", "before_red", "after_blue"]].isna().all(axis=None)
    assert len(frame) == len(polygons(out / "changes.parquet"))
    assert failures(own) == []
    (tmp_path / "away.tif").rename(copies[1])
    events: list[Event] = []
    run(*copies, own, config, False, events.append, COMPUTATION)
    assert [
        event.total for event in events if isinstance(event, StageStarted) and event.stage == "infer"
    ] == [0]
    assert (own / "changes.parquet").read_bytes() == content


@pytest.fixture
def infrared(pair: tuple[str, str], tmp_path: Path) -> tuple[str, str]:
    """The pair with a near infrared; in corners of the later date it lacks data, or the other bands do."""
    paths = []
    for number, path in enumerate(pair):
        with rasterio.open(path) as source:
            bands, profile, names = source.read(), source.profile, source.descriptions
        nir = bands[0] // 2 + 100
        nir[:40, :40] *= 1 - number
        bands[:, -40:, -40:] *= 1 - number
        paths.append(str(tmp_path / Path(path).name))
        with rasterio.open(
            paths[-1], "w", **profile | {"count": 4, "nodata": 0, "interleave": "pixel"}
        ) as target:
            target.write(np.concatenate([bands, nir[None]]))
            target.descriptions = (*names, "B08")
    return paths[0], paths[1]


@pytest.mark.parametrize(
    ("scenes", "workers"),
    [
        ("pair", "serial"),
        ("infrared", "serial"),
        pytest.param("infrared", "local", marks=pytest.mark.soak),
    ],
)
def test_polygons_read_no_scene_again(
    scenes: str, workers: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = request.getfixturevalue(scenes)
    sets = [*SETS[:-1], "threshold=0.2", f"cluster.kind={workers}"]
    sets += ["cluster.workers=1"] if workers == "local" else []
    asked: list[int] = []

    def counted(dates: Any, network: bool) -> Reads:
        reads = band_reads(dates, network)
        return lambda boxes: (asked.append(len(boxes)), reads(boxes))[1]

    monkeypatch.setattr("ussfc.pipeline.pixels.kept.LARGEST_SHARE", 1)
    monkeypatch.setattr("ussfc.pipeline.execution.square_job.band_reads", counted)
    run(*images, tmp_path / "kept", load_config(sets=sets), computation=COMPUTATION)
    if workers == "serial":
        # Worker processes are not counted here: of them the bytes are compared alone.
        assert not asked
    assert not (tmp_path / "kept" / "work" / "pixels").exists()
    computation = replace(COMPUTATION, makes_polygons=False)
    infer(plan(*images, load_config(sets=sets)), tmp_path / "read", computation=computation)
    run(*images, tmp_path / "read", load_config(sets=(*SETS, "threshold=0.2")), computation=COMPUTATION)
    assert asked
    for name in ("changes.parquet", "change.tif", "probability.tif"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "read" / name).read_bytes()
    frame = polygons(tmp_path / "kept" / "changes.parquet")
    assert len(frame) > 10
    assert ("after_nir" in frame.columns) == (scenes == "infrared")


@pytest.fixture(scope="module")
def inferred(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inference whose tiles have kept their pixels at a threshold of 0.2."""
    out = tmp_path_factory.mktemp("inferred") / "out"
    infer(plan(*pair, load_config(sets=(*SETS, "threshold=0.2"))), out, computation=COMPUTATION)
    assert list((out / "work" / "pixels").rglob("*"))
    return out


@pytest.mark.parametrize(
    ("damage", "sets"),
    [
        ("none", ("threshold=0.2",)),
        ("changed", ("threshold=0.2",)),
        ("none", ("threshold=0.1",)),
        ("none", ("threshold=0.3", "output.smoothing=none")),
    ],
)
def test_kept_pixels_leave_no_trace(
    inferred: Path, damage: str, sets: tuple[str, ...], tmp_path: Path
) -> None:
    """Of another threshold or smoothing, damaged or not there: the polygons are the same, and the files go."""
    kept, bare = (shutil.copytree(inferred, tmp_path / name) for name in ("kept", "bare"))
    shutil.rmtree(bare / "work" / "pixels")
    if damage == "changed":
        for path in (path for path in (kept / "work" / "pixels").rglob("*") if path.is_file()):
            path.write_bytes(path.read_bytes()[:-7] + b"changed")
    for folder in (kept, bare):
        assert ussfc("vectorise", folder, *(part for text in sets for part in ("--set", text))).exit_code == 0
        assert not (folder / "work" / "pixels").exists()
    assert (kept / "changes.parquet").read_bytes() == (bare / "changes.parquet").read_bytes()


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


def test_squares_over_a_network_come_in_their_order(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_inference(finished)
    boxes = [Box(y, x, y + 20, x + 30) for y in range(0, 120, 20) for x in range(0, 120, 30)]
    expected = [after.values for _, after in values_of(facts, boxes)]
    monkeypatch.setattr("ussfc.pipeline.runs.band_values.over_network", lambda uri: True)
    found = values_of(facts, boxes)
    for (_, after), values in zip(found, expected, strict=True):
        np.testing.assert_array_equal(after.values, values)


def values_of(facts: InferenceRecord, boxes: Sequence[Box]) -> Iterator[tuple[Pixels, Pixels]]:
    read = open_values(facts, None).read
    assert read is not None
    return iter(read(boxes))


def test_the_same_run_again_keeps_what_later_commands_set(out: Path, pair: tuple[str, str]) -> None:
    sets = [each for each in SETS if not each.startswith(("threshold", "output.smoothing"))]
    assert not run(*pair, out, load_config(sets=sets), computation=COMPUTATION).failed_tiles
    for command in (
        ("threshold", out, "0.2"),
        ("mosaic", out, "--set", "output.compression=zstd", "--set", "output.smoothing=none"),
        ("vectorise", out, "--min-area", "500"),
    ):
        assert ussfc(*command).exit_code == 0
    made = {name: (out / name).read_bytes() for name in ("change.tif", "probability.tif", "changes.parquet")}
    for missing in ((), ("change.tif",), ("changes.parquet",), ("changes.gpkg", "probability.tif")):
        for name in missing:
            (out / name).unlink()
        events: list[Event] = []
        record = run(*pair, out, load_config(sets=sets), False, events.append, COMPUTATION)
        lines = [
            event.message
            for event in events
            if isinstance(event, Notice) and event.message.startswith("products")
        ]
        assert lines == [
            "products keep what a later command set: threshold 0.2, smoothing none, compression zstd, min_area_m2 500; "
            "`ussfc threshold`, `vectorise` and `mosaic` change it"
        ]
        assert record.threshold == 0.2
        assert record.config["vector"]["min_area_m2"] == 500
        assert {name: (out / name).read_bytes() for name in made} == made
        assert failures(out) == []
    # The record of the run has them where that of the inference is lost.
    (out / "work" / "infer.json").write_bytes(b"{}")
    assert run(*pair, out, load_config(sets=sets), computation=COMPUTATION).threshold == 0.2
    # What a run names, or does not name as before, counts.
    named = run(*pair, out, load_config(sets=[*sets, "vector.min_area_m2=700"]), computation=COMPUTATION)
    assert named.config["vector"]["min_area_m2"] == 700
    assert ussfc("vectorise", out, "--min-area", "500").exit_code == 0
    again = run(*pair, out, load_config(sets=[*sets, "vector.min_area_m2=700"]), computation=COMPUTATION)
    assert again.config["vector"]["min_area_m2"] == 700
    run(*pair, out, load_config(sets=[*sets, "threshold=0.1"]), computation=COMPUTATION)
    assert smoothing_of(out) == "median3"
    assert_of_one_threshold(out, 0.1)
