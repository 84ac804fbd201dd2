"""Results of the commands as lines for people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ussfc.pipeline.runs.manifest import Counts, RunStatus, TileCounts
from ussfc.pipeline.terminal import tables
from ussfc.pipeline.terminal.aligned import aligned
from ussfc.pipeline.terminal.tables import MOST_ROWS

SCORES = {"precision": 0.5, "recall": 0.25, "f1": None, "iou": 0.1, "overall_accuracy": 0.9, "kappa": 0.2}
SCORES["area_ratio"] = 12.5
CALIBRATION = {"expected_error": 0.01234, "temperature": None, "tempered_error": None}


def run_record() -> Any:
    """Return a stand-in for the record of a run: its fields for people alone."""
    return SimpleNamespace(
        counts=Counts(
            tiles=1,
            tiles_failed=0,
            patches=1,
            valid_pixels=100,
            changed_pixels=25,
            unchanged_pixels=75,
            polygons=3,
            polygon_pixels=25,
            pixels=2_000_000,
            polygon_area_m2=2_271_234.5,
            largest_polygon_m2=412_345.0,
        ),
        thresholds={"mosaic": 0.15, "vectorise": 0.15},
        registration=None,
        masks=None,
        cloud_like=None,
        stages={"infer": SimpleNamespace(seconds=60), "mosaic": SimpleNamespace(seconds=400)},
        products={"change.tif": None, "probability.tif": None, "changes.parquet": None},
        warnings=("one", "one", "two"),
        complete=True,
    )


def test_product_paths_are_whole(tmp_path: Path) -> None:
    out = str(tmp_path / ("long" * 50))
    for width in (None, 80, 140):
        assert list(tables.run_lines(run_record(), out, 180, has_report=True, width=width)) == [
            "25 of 100 pixels changed (25.00%) at threshold 0.15",
            "     area  2.271 km2, 25.00% of what has data",
            " polygons  3, the largest 0.4123 km2",
            " warnings  2, in run.json",
            "     time  2.00 Mpx in 3.0 min",
            f"    files  {out}/change.tif",
            f"           {out}/probability.tif",
            f"           {out}/changes.parquet",
            f"           {out}/report.html",
            f"     next  ussfc view {out}",
        ]


def test_share_beside_the_area_is_that_of_the_polygons() -> None:
    record = run_record()
    record.counts = record.counts.model_copy(update={"polygon_pixels": 20})
    lines = list(tables.run_lines(record, "/out", 1))
    assert "     area  2.271 km2, 20.00% of what has data, without smaller regions (5.00%)" in lines
    assert lines[0] == "25 of 100 pixels changed (25.00%) at threshold 0.15"


def test_a_page_that_was_not_made_is_not_listed() -> None:
    assert not any("report.html" in line for line in tables.run_lines(run_record(), "/out", 1))


def test_an_incomplete_run_is_to_be_given_again() -> None:
    record = run_record()
    record.complete = False
    assert list(tables.run_lines(record, "/out", 1))[-1] == (
        "     next  the same command again, for the tiles that failed"
    )


def test_long_values_are_broken_between_words() -> None:
    value = "a " * 60 + "/a/path/that/is/longer/than/a/line/of/this/terminal" * 2
    lines = list(aligned([("numbers", value), ("next", "b")], 80))
    assert max(map(len, lines[:2])) <= 80
    assert lines[0].startswith("  numbers  a a")
    assert lines[1].startswith("           a a")
    assert lines[2].strip() == value.split()[-1]
    assert list(aligned([("numbers", value)])) == [f"  numbers  {value}"]


def test_masked_pixels_are_counted_by_date() -> None:
    record = run_record()
    record.masks = SimpleNamespace(before=SimpleNamespace(masked_pixels=500_000), after=None)
    assert "   masked  500000 px (25.0%) of before" in tables.run_lines(record, "out", 1)


def test_other_thresholds_are_both_named() -> None:
    """As earlier versions could leave a folder."""
    record = run_record()
    record.thresholds = {"mosaic": 0.15, "vectorise": 0.7}
    record.counts = record.counts.model_copy(update={"polygon_area_m2": None})
    assert list(tables.run_lines(record, "/out", 1))[:2] == [
        "25 of 100 pixels changed (25.00%) at threshold 0.15 and 0.7",
        " polygons  3, the largest 0.4123 km2",
    ]


def test_areas_are_in_square_kilometres() -> None:
    areas = {0: "0 m2", 812.4: "812 m2", 9_999: "9999 m2", 10_000: "0.01 km2", 22_712_345: "22.71 km2"}
    assert {area: tables.format_area(area) for area in areas} == areas


def test_credentials_are_not_shown() -> None:
    lines = "\n".join(tables.run_lines(run_record(), "s3://key:secret@bucket/city/", 1))
    assert "secret" not in lines
    assert "bucket/city/change.tif" in lines


def test_pairs_are_counted_by_outcome() -> None:
    manifests = [SimpleNamespace(complete=True), SimpleNamespace(complete=False), None, None]
    results: list[Any] = [SimpleNamespace(manifest=manifest) for manifest in manifests]
    first, *places = tables.batch_lines(results, "/out")
    assert first == "1 of 4 pairs complete, 1 incomplete, 2 failed"
    assert places == ["  /out/results.csv", "  /out/collection.json"]


def test_status_names_products_and_uploads() -> None:
    found = RunStatus(
        state="unfinished",
        run="x",
        tiles=TileCounts(total=9, done=5, failed=1, left=3),
        failed_tiles=(),
        products={"change.tif": 1_500_000},
        uploads=("probability.tif",),
    )
    first, product, upload = tables.status_lines(found)
    assert first == "unfinished: 5 of 9 tiles done, 3 left, 1 failed"
    assert product == "  product  change.tif, 1.5 MB"
    assert upload.startswith("  unfinished upload of probability.tif; ")


def test_clean_lists_names_by_kind() -> None:
    found = {"uploads": ["a"], "files": ["b.part"]}
    assert list(tables.clean_lines(found, dry_run=True)) == [
        "would remove upload a",
        "would remove file b.part",
    ]
    assert list(tables.clean_lines({"uploads": [], "files": []}, dry_run=False)) == ["nothing to clean"]


def summary(scenes: int) -> dict[str, Any]:
    return {
        "model": "toy",
        "threshold": 0.3,
        "threshold_from": "given",
        "scenes": [
            {"name": f"scene {number}", **SCORES, "calibration": CALIBRATION} for number in range(scenes)
        ],
        "scores": SCORES,
        "average_precision": None,
        "mean_average_precision": 0.5,
        "calibration": {
            "expected_error": 0.01234,
            "temperature": 1.25,
            "tempered_error": 0.0111,
            "reliability": [{"probability": 0.04, "change": 0.001, "pixels": 90}],
        },
        "sweep": [{"threshold": 0.05, "f1": 0.5}, {"threshold": 0.1, "f1": None}],
    }


def test_scores_have_a_row_a_scene() -> None:
    lines = list(tables.score_lines(summary(2)))
    assert lines[0] == "toy at threshold 0.3 (given)"
    assert lines[2].split() == [
        "scene",
        "0",
        "0.5000",
        "0.2500",
        "-",
        "0.1000",
        "0.9000",
        "0.2000",
        "12.5000",
    ]
    assert lines[4].startswith("all 2 ")
    assert lines[5:] == [
        "average precision -, mean over scenes 0.5000; F1 by threshold:",
        "0.05 0.500  0.10 -",
        "calibration                 error        T     at T",
        "scene 0                    0.0123     -        -",
        "scene 1                    0.0123     -        -",
        "all 2                      0.0123   1.2500   0.0111",
        "share of change by probability:",
        "0.04 0.001",
    ]


def test_many_scenes_are_summed_alone() -> None:
    assert len(list(tables.score_lines(summary(MOST_ROWS + 1)))) == 9


def test_sizes_are_named_up_to_a_number() -> None:
    few: Any = SimpleNamespace(split="train", pairs=2, sizes={"96 x 96": 2}, changed=1, pixels=4)
    many: Any = SimpleNamespace(
        split="val", pairs=9, sizes={f"{side} x 9": 1 for side in range(9)}, changed=0, pixels=0
    )
    assert list(tables.data_lines([few, many])) == [
        "train: 2 pairs (2 of 96 x 96), 25.00% of 0.0 Mpx changed",
        "val: 9 pairs (9 sizes), 0.00% of 0.0 Mpx changed",
    ]
