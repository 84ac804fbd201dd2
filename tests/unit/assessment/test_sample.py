"""Samples of a run's map and their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from ussfc.pipeline.assessment.population import UnitDesign, centres, open_map
from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample, sample_folder
from ussfc.pipeline.assessment.sample_files import SampleRecord, read_points
from ussfc.pipeline.errors import ConfigError, PipelineError, ReadError, SampleError, StoreError
from ussfc.pipeline.events import ignore
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage.folder import Folder


def record_of(folder: Path) -> SampleRecord:
    return SampleRecord.read(Folder.of(folder), "sample.json")


def test_sample_lies_beside_the_run(finished: Path, drawn: Path) -> None:
    assert drawn == finished.with_name("out-sample")
    assert sorted(file.name for file in drawn.iterdir()) == [
        "sample.gpkg", "sample.json", "sample.parquet", "sample.qgs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("out", "folder"),
    [("/data/a b/city", "/data/a b/city-sample"), ("/data/city/", "/data/city-sample"), ("/", "/run-sample")],
)
def test_folder_is_beside_that_of_the_run(out: str, folder: str) -> None:
    assert sample_folder(Folder.of(out)) == Path(folder)


def test_points_are_of_the_map(finished: Path, drawn: Path) -> None:
    points = geopandas.read_parquet(drawn / "sample.parquet")
    record = record_of(drawn)
    with (
        rasterio.open(finished / "change.tif") as change,
        rasterio.open(finished / "probability.tif") as source,
    ):
        classes, levels = change.read(1), source.read(1)
        places = np.stack(change.transform * (points["col"] + 0.5, points["row"] + 0.5), axis=1)
    here = (points["row"], points["col"])
    assert (classes[here] == (points["map_class"] == "change")).all()
    assert np.abs(levels[here] / 254 - points["probability"]).max() < 1e-4
    assert np.allclose(np.stack([points.geometry.x, points.geometry.y], axis=1), places)
    assert np.allclose(points[["x", "y"]], places)
    assert points["reference"].isna().all()
    assert points["id"].tolist() == list(range(1, 201))
    assert not points.duplicated(["row", "col"]).any()
    for stratum in record.strata:
        chosen = points[points["stratum"] == stratum.name]
        assert len(chosen) == stratum.points >= 50
        assert np.allclose(chosen["inclusion_probability"], stratum.points / stratum.units)


def test_points_are_in_random_order(drawn: Path) -> None:
    points = geopandas.read_parquet(drawn / "sample.parquet")
    ranks = points.groupby("stratum")["id"].mean()
    assert (np.abs(ranks - 100.5) < 25).all()


def test_record_holds_what_was_sampled(finished: Path, drawn: Path) -> None:
    record, run = record_of(drawn), RunRecord.read(Folder.of(finished), "run.json")
    counts = run.counts
    assert record.map.run == run.run
    assert record.map.sha256 == run.products["change.tif"].sha256
    assert record.map.classes == {"no change": counts.unchanged_pixels, "change": counts.changed_pixels}
    assert sum(stratum.units for stratum in record.strata) == counts.classified_pixels
    assert record.map.sizes["change"] == pytest.approx(counts.polygon_area_m2, rel=1e-6)
    assert (record.seed, record.side, record.map.threshold) == (1, 1, 0.1)
    assert record.buffer_m == pytest.approx(50, rel=0.1)
    for name in ("sample.gpkg", "sample.parquet"):
        points, inside = read_points(drawn / name)
        assert inside == record
        assert len(points) == record.drawn


def test_outlines_are_those_of_the_pixels(drawn: Path) -> None:
    points = pyogrio.read_dataframe(drawn / "sample.gpkg", layer="sample")
    units = pyogrio.read_dataframe(drawn / "sample.gpkg", layer="units")
    assert units["id"].tolist() == points["id"].tolist()
    assert units.geometry.contains(points.geometry).all()


def test_same_seed_draws_the_same_points(finished: Path, drawn: Path, tmp_path: Path) -> None:
    again = draw_sample(finished, SampleRequest(points=200), tmp_path / "again").record
    other = draw_sample(finished, SampleRequest(points=200, seed=2), tmp_path / "other").record
    assert again.points == record_of(drawn).points != other.points
    assert again.strata == other.strata


def test_blocks_are_drawn(finished: Path, tmp_path: Path) -> None:
    sample = draw_sample(finished, SampleRequest(points=150, side=7), tmp_path)
    units = pyogrio.read_dataframe(tmp_path / "sample.gpkg", layer="units")
    points = geopandas.read_parquet(tmp_path / "sample.parquet")
    whole = points["size"] > 0.99 * points["size"].max()
    assert (sample.record.unit, sample.record.side) == ("block", 7)
    assert sum(stratum.units for stratum in sample.record.strata) == 22**2
    sizes = record_of(tmp_path).map.sizes
    with rasterio.open(finished / "change.tif") as change:
        classes = change.read(1)
        assert shapely.area(units.geometry[whole].to_numpy()) == pytest.approx(
            abs(change.transform.determinant) * 49, rel=1e-9
        )
    blocks = [
        classes[r * 7 : r * 7 + 7, c * 7 : c * 7 + 7]
        for r, c in zip(points["row"], points["col"], strict=True)
    ]
    assert [(block == 1).mean() >= 0.5 for block in blocks] == (points["map_class"] == "change").tolist()
    assert sum(sizes.values()) == pytest.approx(
        sum(record_of(finished.with_name("out-sample")).map.sizes.values())
    )


def test_size_follows_from_a_standard_error(finished: Path, tmp_path: Path) -> None:
    few = draw_sample(finished, SampleRequest(target_se=0.02), tmp_path / "few").record
    many = draw_sample(finished, SampleRequest(target_se=0.01), tmp_path / "many").record
    assert many.target_se == 0.01
    assert 2 * few.drawn < many.drawn < 1500


def test_map_is_the_same_in_windows_of_any_size(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = RunRecord.read(Folder.of(finished), "run.json").grid.geobox
    found = []
    for window in (1024, 40):
        monkeypatch.setattr("ussfc.pipeline.assessment.population.WINDOW", window)
        with open_map(finished / "change.tif", grid, UnitDesign(side=3)) as source:
            boxes = list(source.windows(ignore))
            found.append((len(boxes), source.totals(ignore)))
    assert [count for count, _ in found] == [1, 25]
    assert found[0][1].units.tolist() == found[1][1].units.tolist()
    assert found[0][1].class_sizes == pytest.approx(found[1][1].class_sizes)
    last = centres(grid, [49], [0], 3)
    assert np.allclose(last, [grid.affine * (1.5, 148.5)])


def test_project_shows_both_dates_and_the_points(finished: Path, drawn: Path) -> None:
    root = ElementTree.parse(drawn / "sample.qgs").getroot()
    sources = [str(node.text) for node in root.iter("datasource")]
    assert sources[:2] == ["./sample.gpkg|layername=sample", "./sample.gpkg|layername=units"]
    for source, path in zip(
        sources[2:],
        (finished / "change.tif", finished.with_name("a_after.tif"), finished.with_name("a_before.tif")),
        strict=True,
    ):
        assert (drawn / source).resolve() == path
    listed = [node.get("id") for node in root.iter("layer-tree-layer")]
    assert listed == [node.findtext("id") for node in root.iter("maplayer")]
    values = [option.get("value") for option in root.findall(".//editWidget//Option[@value]")]
    assert values == ["change", "no change", "unclear"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SampleRequest(points=4), "4 points cannot be shared by 3 strata"),
        (SampleRequest(points=0), "0 points: expected 1 to 100000"),
        (SampleRequest(points=300, target_se=0.01), "give one of them"),
        (SampleRequest(target_se=0.7), "standard error 0.7: expected more than 0"),
        (SampleRequest(target_se=1e-9, strata=("change", "buffer")), "strata change,buffer: expected"),
        (SampleRequest(strata=("change", "stable", "water")), "strata change,stable,water: expected"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    finished: Path, tmp_path: Path, request_: SampleRequest, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_sample(finished, request_, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_labels_are_never_overwritten(finished: Path, labelled: Path) -> None:
    before = labelled.read_bytes()
    with pytest.raises(StoreError, match="its labels would be lost; choose another folder"):
        draw_sample(finished, SampleRequest(points=200), labelled.parent)
    assert labelled.read_bytes() == before


def _without_pixels(out: Path) -> None:
    """Write a map of nodata in the place of another one."""
    with rasterio.open(out / "change.tif") as source:
        profile, values = source.profile, np.full(source.shape, 255, np.uint8)
    (out / "change.tif").unlink()
    with rasterio.open(out / "change.tif", "w", **profile) as file:
        file.write(values, 1)
    _recorded(out)


def _cut(out: Path) -> None:
    with rasterio.open(out / "change.tif") as source:
        profile = source.profile | {"height": 100}
        values = source.read(1)[:100]
    (out / "change.tif").unlink()
    with rasterio.open(out / "change.tif", "w", **profile) as file:
        file.write(values, 1)
    _recorded(out)


def _holed(out: Path) -> None:
    with rasterio.open(out / "change.tif") as source:
        start = int(source.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    with (out / "change.tif").open("r+b") as file:
        file.seek(start)
        file.write(bytes(100))


def _recorded(out: Path) -> None:
    content = json.loads((out / "run.json").read_text("utf-8"))
    content.pop("checksum")
    content["products"]["change.tif"]["bytes"] = (out / "change.tif").stat().st_size
    (out / "run.json").write_text(json.dumps(content), "utf-8")


def _blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda out: (out / "run.json").unlink(), StoreError, "holds no run"),
        (lambda out: (out / "change.tif").unlink(), StoreError, "change.tif: missing; run `ussfc mosaic`"),
        (lambda out: (out / "change.tif").write_bytes(b"II*"), StoreError, "is not what the run wrote"),
        (lambda out: _blank(out / "change.tif"), ReadError, "change.tif: cannot be opened"),
        (_holed, ReadError, "change.tif: cannot be read"),
        (_cut, ReadError, "change.tif: has 100 x 150 px, run.json 150 x 150; `ussfc mosaic`"),
        (_without_pixels, SampleError, "change.tif: has no valid pixel"),
    ],
)
def test_folders_without_a_whole_map_are_refused(
    finished: Path, tmp_path: Path, damage: Callable[[Path], object], error: type[PipelineError], message: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("work"))
    damage(out)
    with pytest.raises(error, match=message):
        draw_sample(out, SampleRequest())
    assert not (tmp_path / "out-sample").exists()


def test_run_in_a_store_is_sampled_into_a_local_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Folder.of("memory://bucket/city")
    for name in ("change.tif", "probability.tif", "run.json"):
        store.write(name, (finished / name).read_bytes())
    sample = draw_sample(store, SampleRequest(points=200))
    assert sample.folder == tmp_path / "city-sample"
    assert (
        json.loads((sample.folder / "sample.json").read_text())["points"]
        == record_of(finished.with_name("out-sample")).points
    )
