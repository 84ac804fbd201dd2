"""Band values of polygons: means of both dates, read once, and absent where an image is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from tests.support.stub_runs import (
    COMPUTATION,
    SETS,
    failures,
    polygons,
    ussfc,
)
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Event, StageStarted
from ussfc.pipeline.execution.square_job import band_reads
from ussfc.pipeline.polygons.band_values import Reads
from ussfc.pipeline.runs.band_values import open_values
from ussfc.pipeline.runs.infer import infer
from ussfc.pipeline.runs.manifest import InferenceRecord, RunRecord
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.products import (
    read_inference,
)
from ussfc.pipeline.runs.recorded_pair import recorded_pair
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.types import Box, Pixels


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
