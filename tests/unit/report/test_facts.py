"""The record of a run in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ussfc
from ussfc.pipeline.report import facts
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage.folder import Folder


@pytest.fixture(scope="module")
def content(finished: Path) -> dict[str, Any]:
    return RunRecord.read(Folder.of(finished), "run.json").dump()


def record(content: dict[str, Any], **changes: Any) -> RunRecord:
    """Return the record with fields changed; ``a__b`` is b in a."""
    changed = {**content}
    for name, value in changes.items():
        outer, _, inner = name.partition("__")
        changed[outer] = {**changed[outer], inner: value} if inner else value
    return RunRecord.parse(changed, "run.json")


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (0, "0 m²"), (99.6, "100 m²"), (9_999, "9,999 m²"), (10_000, "1 ha"), (818_060, "81.8 ha"),
        (1e6, "1 km²"), (1.2345e8, "123 km²"), (5.1e14, "510,000,000 km²"),
    ],
)  # fmt: skip
def test_areas(area: float, text: str) -> None:
    assert facts.format_ground(area) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (2_345_678, "2.35 MB"), (10**12, "1e+03 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert facts.format_bytes(count) == text


def test_titles(content: dict[str, Any]) -> None:
    inputs = content["inputs"]
    dated = {date: {**inputs[date], "acquired": f"201{n}-06-30T10:00:00Z"} for n, date in enumerate(inputs)}
    assert facts.title_of(record(content, inputs=dated)) == "Change from 2010-06-30 to 2011-06-30"
    bare = {date: {**inputs[date], "acquired": None, "uri": f"s3://b/{date}.SAFE/"} for date in inputs}
    assert facts.title_of(record(content, inputs=bare)) == "Change from before.SAFE to after.SAFE"


def test_place(content: dict[str, Any]) -> None:
    assert facts.place_of(record(content)) == "560 x 400 px, pixels of 10 m, EPSG:4326"
    bare = record(content, grid__crs=None)
    assert facts.place_of(bare) == "560 x 400 px, no CRS"
    assert facts.pixel_area(bare) is None
    assert facts.pixel_area(record(content)) == pytest.approx(100, rel=0.01)


def test_figures(content: dict[str, Any]) -> None:
    found = {figure.label: figure for figure in facts.figures(record(content), 20_000)}
    assert found["changed"].value == "81.8 ha"
    assert found["changed"].note.endswith("% of what was classified")
    assert (found["polygons"].value, found["polygons"].note) == ("4", "the largest 2 ha")
    assert found["threshold"].value == "0.15"
    assert found["threshold"].note == "probability from which a pixel is change"
    assert found["without data"].value == "1.1%"


def test_share_beside_the_area_is_that_of_the_polygons(content: dict[str, Any]) -> None:
    counts = content["counts"]
    less = record(content, counts__polygon_pixels=0, counts__polygon_area_m2=0.0, counts__polygons=0)
    found = {figure.label: figure for figure in facts.figures(less, None)}
    assert found["changed"].value == "0 m²"
    left_out = counts["changed_pixels"] / (counts["changed_pixels"] + counts["unchanged_pixels"])
    assert (
        found["changed"].note
        == f"0.00% of what was classified; smaller regions, {left_out:.2%}, are left out"
    )


def test_score_of_the_model_stands_beside_the_area(content: dict[str, Any]) -> None:
    model = ussfc.find_model("ussfc-s2-rgb").model_copy(update={"alteration": None})
    run = record(content, model__sha256=model.weights.sha256)
    figure = facts.figures(run, None, model)[-1]
    assert (figure.label, figure.value) == ("F1 of the model", f"{model.scores[-1].f1:.2f}")
    assert figure.note.startswith(f"on {model.scores[-1].scene};")
    # Not of other weights, a network without what it was scored with, or one without scores.
    others = (
        (record(content, model__sha256="0" * 64), model),
        (run, ussfc.find_model("ussfc-s2-rgb")),
        (run, model.model_copy(update={"scores": ()})),
    )
    for one, card in others:
        assert "F1 of the model" not in {each.label for each in facts.figures(one, None, card)}


def test_smoothing_stands_beside_the_threshold(content: dict[str, Any]) -> None:
    smoothed = record(content, config={"output": {"smoothing": "median3"}})
    note = next(figure.note for figure in facts.figures(smoothed, None) if figure.label == "threshold")
    assert note == "probability from which a pixel is change, after a median of 3 x 3 pixels"


def test_figures_of_an_empty_run(content: dict[str, Any]) -> None:
    counts = dict.fromkeys(("tiles", "tiles_failed", "patches", "valid_pixels"), 0) | {"pixels": 10}
    found = facts.figures(record(content, counts=counts, grid__crs=None), None)
    assert [(figure.label, figure.value) for figure in found] == [
        ("changed", "0 px"), ("threshold", "0.15"), ("without data", "0.0%"),
    ]  # fmt: skip


def test_warnings_begin_with_failed_tiles(content: dict[str, Any]) -> None:
    failed = {"index": [0, 0], "rows": [0, 9], "columns": [0, 9], "error": "x", "attempts": 3}
    found = facts.warnings_of(
        record(content, complete=False, failed_tiles=[failed], warnings=["b", "a", "b"])
    )
    assert found[0].startswith("1 tile(s) failed")
    assert found[1:] == ["b", "a"]


@pytest.mark.parametrize("state", facts.STATES)
def test_registration(content: dict[str, Any], state: str) -> None:
    given = {"mode": "check", "state": state, "inputs": "", "dx": 0.5, "dy": -1, "windows": 9, "agreeing": 7,
             "scatter_px": 0.1, "kind": "affine", "left_px": 0.02}  # fmt: skip
    found = dict(facts.registration_rows(record(content, registration=given)))
    assert found["outcome"] == facts.STATES[state]
    assert found["shift"] == "+0.50 px in x, -1.00 px in y"
    assert found["windows"] == "7 of 9 agree"
    assert len(found) == 6
    assert facts.registration_rows(record({**content, "registration": None})) == []


def test_radiometry(content: dict[str, Any]) -> None:
    rows = facts.radiometry_table(record(content), ["B04", "B03", "B02"])
    assert [row[0] for row in rows] == ["B04", "B03", "B02"]
    # Of a model whose card is not at hand.
    assert [row[0] for row in facts.radiometry_table(record(content), [])] == ["1", "2", "3"]


def test_masks(content: dict[str, Any]) -> None:
    mask = {"uri": "scl.tif", "identity": "", "kind": "classes", "dilation_m": 0, "masked_pixels": 56_000}
    clouds = {"sampled_change": 10, "before": 1, "after": 2}
    found = facts.mask_rows(record(content, masks={"after": mask}, cloud_like=clouds))
    assert found == [
        ("mask of the later date", "scl.tif: 25.0% hidden (classes)"),
        ("change that is bright in one date alone", "30%"),
    ]


def test_model_card(content: dict[str, Any]) -> None:
    found = record(content)
    model = ussfc.find_model(found.model.name)
    rows = dict(facts.model_rows(found, model))
    assert rows["for"] == model.title
    assert rows["bands"] == ", ".join(band.name for band in model.bands)
    assert facts.score_table(model)
    assert [name for name, _ in facts.model_rows(found, None)] == [
        "name", "licence of the weights", "SHA-256 of the weights",
    ]  # fmt: skip
    assert facts.score_table(None) == []


def test_making(content: dict[str, Any]) -> None:
    found = record(content)
    assert [row[0] for row in facts.stage_table(found)] == ["network", "rasters", "polygons"]
    assert dict(facts.machine_rows(found))["executor"].startswith("serial, 1 process(es) of ")
    assert [row[0] for row in facts.input_table(found)] == ["before", "after"]
    assert [row[0] for row in facts.product_table(found)] == sorted(found.products)
    assert "tile_size: 256" in facts.configuration_text(found)


def test_falling_shares() -> None:
    histogram = np.zeros(255, np.int64)
    histogram[[0, 100, 254]] = 1, 2, 1
    shares = facts.falling_shares(histogram)
    assert shares[[0, 1, 100, 101, 254]].tolist() == [1, 0.75, 0.75, 0.25, 0.25]
    assert not facts.falling_shares(np.zeros(255, np.int64)).any()
