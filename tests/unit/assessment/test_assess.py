"""Assessments of a map by a labelled sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine

from tests.support.stubs import StubRecipe
from ussfc.pipeline.assessment.assess import AssessmentRecord, assess
from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample
from ussfc.pipeline.assessment.sample_files import read_points
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import DamagedRecord, PipelineError, ReadError, SampleError
from ussfc.pipeline.runs import products
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

Points = geopandas.GeoDataFrame


def rewrite(path: Path, edit: Callable[[Points], Points]) -> None:
    """Edit the points of a sample as a GIS does."""
    metadata = pyogrio.read_info(path, layer="sample")["layer_metadata"]
    points = edit(pyogrio.read_dataframe(path, layer="sample"))
    path.unlink()
    pyogrio.write_dataframe(points, path, layer="sample", layer_metadata=metadata)


def with_reference(points: Points, values: object, rows: slice = slice(0, 3)) -> Points:
    points.loc[points.index[rows], "reference"] = values
    return points


def test_assessment_is_written_beside_the_sample(finished: Path, labelled: Path) -> None:
    result = assess(finished, labelled)
    written = json.loads((labelled.parent / "assessment.json").read_text("utf-8"))
    written.pop("checksum")
    assert AssessmentRecord.parse(written, "") == result
    change = result.estimates["classes"]["change"]
    for field in ("users_accuracy", "producers_accuracy", "f1", "share", "area_m2"):
        found = change[field]
        assert found["low"] <= found["value"] <= found["high"], field
    assert change["producers_accuracy"]["value"] == 1
    assert result.poststratified is None
    assert (result.points, result.unclear) == (200, 0)


def test_area_is_near_that_of_the_reference(finished: Path, labelled: Path) -> None:
    """The labels are those of a higher threshold, so that the right area is known."""
    change = assess(finished, labelled).estimates["classes"]["change"]["area_m2"]
    with rasterio.open(finished / "probability.tif") as source:
        pixels = int((source.read(1) >= 0.15 * 254).sum())
    record = read_points(labelled)[1]
    whole = sum(record.map.sizes.values()) / sum(record.map.classes.values())
    assert abs(change["value"] - pixels * whole) < 3 * change["se"]


def test_labels_are_taken_as_people_write_them(finished: Path, labelled: Path) -> None:
    expected = assess(finished, labelled).estimates
    numbers = {"change": 1.0, "no change": 0.0}
    rewrite(labelled, lambda points: points.assign(reference=points["reference"].map(numbers)))
    assert assess(finished, labelled).estimates == expected
    words = {1.0: " Change", 0.0: "stable"}
    rewrite(labelled, lambda points: points.assign(reference=points["reference"].map(words)))
    assert assess(finished, labelled).estimates == expected
    # Whatever order an editor leaves them in.
    rewrite(labelled, lambda points: points.sort_values("x"))
    assert assess(finished, labelled).estimates == expected


def test_labels_may_be_in_other_formats(finished: Path, labelled: Path, tmp_path: Path) -> None:
    expected = assess(finished, labelled).estimates
    points = pyogrio.read_dataframe(labelled, layer="sample")
    pyogrio.write_dataframe(points, labelled.with_name("export.fgb"))
    points.to_parquet(labelled.with_name("export.parquet"))
    assert assess(finished, labelled.with_name("export.fgb")).estimates == expected
    assert assess(finished, labelled.with_name("export.parquet")).estimates == expected
    numbers = {name: points[name].astype(float) for name in ("id", "row", "col")}
    points.assign(**numbers).to_parquet(labelled.with_name("export.parquet"))
    assert assess(finished, labelled.with_name("export.parquet")).estimates == expected


def test_unclear_points_are_left_out_and_named(finished: Path, labelled: Path) -> None:
    rewrite(labelled, lambda points: with_reference(points, "unclear", slice(0, 10)))
    result = assess(finished, labelled)
    assert (result.points, result.unclear) == (190, 10)
    assert any("10 points (5.0%) are unclear" in note for note in result.notes)


def test_stratum_without_change_is_noted(finished: Path, labelled: Path) -> None:
    notes = assess(finished, labelled).notes
    assert any("points of the stratum stable is change; up to" in note and "km2" in note for note in notes)


def test_new_threshold_is_post_stratified(finished: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    base = products.recorded_config(out)
    products.write_products(out, load_config(sets=("threshold=0.15",), base=base))
    products.write_manifest(out)
    result = assess(out, labelled)
    assert (result.threshold, result.sampled_threshold) == (0.15, 0.1)
    # The labels are this very map: of its known area nothing is left to estimate.
    assert result.poststratified is not None
    change = result.poststratified["classes"]["change"]
    assert result.poststratified["overall_accuracy"]["value"] == change["f1"]["value"] == 1
    assert change["area_m2"]["value"] == pytest.approx(result.mapped_area_m2)
    assert change["area_m2"]["se"] == pytest.approx(0, abs=1e-3)
    assert result.estimates["classes"]["change"]["area_m2"]["se"] > 1
    before = assess(finished, labelled)
    assert result.estimates["classes"]["change"]["share"] == before.estimates["classes"]["change"]["share"]


def test_other_compression_is_the_same_map(finished: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    base = products.recorded_config(out)
    products.mosaic(out, load_config(sets=("output.compression=zstd",), base=base))
    products.write_manifest(out)
    assert assess(out, labelled) == assess(finished, labelled)


def test_blocks_are_assessed(finished: Path, tmp_path: Path) -> None:
    draw_sample(finished, SampleRequest(points=120, side=5), tmp_path / "blocks")
    path = tmp_path / "blocks" / "sample.gpkg"
    rewrite(path, lambda points: points.assign(reference=points["map_class"]))
    result = assess(finished, path)
    assert result.unit == "block"
    change = result.estimates["classes"]["change"]
    assert change["f1"]["value"] == 1
    assert change["area_m2"]["value"] == pytest.approx(result.mapped_area_m2, rel=0.05)


def _moved(points: Points) -> Points:
    points.loc[[4], "geometry"] = points.geometry[[4]].translate(points.geometry.x.std(), 0)
    return points


def _first_of_stratum(points: Points) -> Points:
    points.loc[points["stratum"] == "buffer", "reference"] = "unclear"
    return points


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda points: with_reference(points, None),
            r"3 of 200 points have no reference \(id 1, 2, 3\); label them",
        ),
        (lambda points: with_reference(points, ""), "3 of 200 points have no reference"),
        (
            lambda points: with_reference(points, "2"),
            "reference holds '2'; expected 'change', 'no change' or",
        ),
        (_first_of_stratum, r"0 of \d+ points of the stratum buffer have a class"),
        (lambda points: points.iloc[:190], r"holds 190 points \(190 ids\), 200 were drawn"),
        (lambda points: points.iloc[[*range(199), 0]], r"holds 200 points \(199 ids\), 200 were drawn"),
        (
            lambda points: points.to_crs(32636),
            "is in WGS 84 / UTM zone 36N, the run in WGS 84; give the sample without",
        ),
        (_moved, r"1 points do not lie where they were drawn \(id 5 first\)"),
        (
            lambda points: points.assign(stratum="stable"),
            "row, col, stratum, map_class, size are not those that were drawn",
        ),
        (
            lambda points: points.assign(size=points["size"] * 2),
            "map_class, size are not those that were drawn",
        ),
        (lambda points: points.assign(row=points["row"] + 0.5), "column row holds other than whole numbers"),
    ],
)
def test_samples_that_were_edited_are_refused(
    finished: Path, labelled: Path, edit: Callable[[Points], Points], message: str
) -> None:
    rewrite(labelled, edit)
    with pytest.raises(SampleError, match=message):
        assess(finished, labelled)
    assert not (labelled.parent / "assessment.json").exists()


def _sidecar_lost(path: Path) -> Path:
    points = pyogrio.read_dataframe(path, layer="sample")
    pyogrio.write_dataframe(points, path.with_name("export.fgb"))
    (path.parent / "sample.json").unlink()
    return path.with_name("export.fgb")


def _sidecar_damaged(path: Path) -> Path:
    lost = _sidecar_lost(path)
    (path.parent / "sample.json").write_text('{"seed": 1')
    return lost


def _no_reference(path: Path) -> Path:
    rewrite(path, lambda points: points.drop(columns="reference"))
    return path


def _table(path: Path) -> Path:
    points = pyogrio.read_dataframe(path, layer="sample")
    points.drop(columns="geometry").to_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def _written(path: Path, name: str, content: bytes) -> Path:
    path.with_name(name).write_bytes(content)
    return path.with_name(name)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path.with_name("other.gpkg"), ReadError, "other.gpkg: not found; give the sample.gpkg"),
        (lambda path: path.parent, ReadError, "labelled: not found"),
        (lambda path: _written(path, "a.gpkg", b"text"), ReadError, "a.gpkg: cannot be read as points"),
        (lambda path: _written(path, "a.parquet", b"text"), ReadError, "a.parquet: cannot be read as points"),
        (_table, ReadError, "sample.csv: holds no points; join its labels to those of sample.gpkg by id"),
        (_sidecar_lost, ReadError, "export.fgb: is no sample of ussfc"),
        (_sidecar_damaged, DamagedRecord, "sample.json: cannot be read"),
        (_no_reference, ReadError, r"lacks the column\(s\) reference"),
    ],
)
def test_files_that_are_no_sample_are_refused(
    finished: Path, labelled: Path, make: Callable[[Path], Path], error: type[PipelineError], message: str
) -> None:
    with pytest.raises(error, match=message):
        assess(finished, make(labelled))


def test_sample_of_another_run_is_refused(finished: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("work"))
    content = json.loads((out / "run.json").read_text("utf-8"))
    content.pop("checksum")
    (out / "run.json").write_text(json.dumps(content | {"run": "0123456789abcdef"}), "utf-8")
    with pytest.raises(SampleError, match=r"is a sample of run \w+, and .* holds run 0123456789abcdef"):
        assess(out, labelled)


def test_class_without_a_point_has_no_post_stratified_estimate(
    finished: Path, labelled: Path, tmp_path: Path
) -> None:
    """A map that was made again with change where no point lies."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    base = products.recorded_config(out)
    with rasterio.open(out / "probability.tif") as source:
        levels = source.read(1)
    highest = levels[levels != 255].max() / 254
    points = read_points(labelled)[0]
    assert points["probability"].max() < highest
    products.write_products(out, load_config(sets=(f"threshold={highest}",), base=base))
    products.write_manifest(out)
    result = assess(out, labelled)
    assert result.poststratified is None
    assert any("no point lies in the map's present class 'change'" in note for note in result.notes)
    assert result.estimates["classes"]["change"]["users_accuracy"]["value"] is None


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_grid_without_a_place_on_the_earth_has_shares_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for date in ("before", "after"):
        with rasterio.open(
            tmp_path / f"{date}.tif", "w", driver="GTiff", width=64, height=64, count=3, dtype="uint16",
            transform=Affine(1, 0, 0, 0, -1, 64),
        ) as file:  # fmt: skip
            file.write(random.integers(1, 4000, (3, 64, 64), dtype=np.uint16))
    sets = (
        "tiling.tile_size=64",
        "tiling.patch_size=32",
        "threshold=0.3",
        "cluster.kind=serial",
        "registration=off",
    )
    scenes = (str(tmp_path / "before.tif"), str(tmp_path / "after.tif"))
    run(*scenes, tmp_path / "out", load_config(sets=sets), computation=Computation(StubRecipe(32, 4, 1, 3)))
    folder = draw_sample(tmp_path / "out", SampleRequest(points=150)).folder
    rewrite(folder / "sample.gpkg", lambda points: points.assign(reference=points["map_class"]))
    result = assess(tmp_path / "out", folder / "sample.gpkg")
    assert result.mapped_area_m2 is None
    assert result.estimates["classes"]["change"]["area_m2"] is None
    assert result.estimates["classes"]["change"]["share"]["value"] == pytest.approx(result.mapped_share)
