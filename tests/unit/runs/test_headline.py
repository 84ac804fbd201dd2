"""A run in one line."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.scenes import write_scene, write_toy_model
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.headline import headline
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.terminal.tables import plan_lines
from ussfc.spec import find_model

DEMO = [str(ROOT / "configs" / "demo" / f"beirut_{date}.tif") for date in ("before", "after")]


def test_line_names_version_model_terms_threshold_bands_and_grid() -> None:
    config = load_config(sets=("threshold=0.7", "bands.after=[3,2,1]", "cluster.kind=serial"))
    planned = plan(DEMO[0], DEMO[1], config)
    score = find_model("ussfc-s2-rgb").scores[-1]
    scored = f"F1 {score.f1:.2f} on {score.scene}"
    assert headline(planned) == (
        f"ussfc {metadata.version('ussfc')}: model ussfc-s2-rgb (weights: CC BY-NC-SA 4.0, not for commercial "
        f"use; {scored}), threshold 0.7, bands B04, B03, B02 = 1, 2, 3 of before and 3, 2, 1 of after, "
        "grid 768 x 768 px EPSG:4326, 1 tile(s), serial"
    )
    summary = planned.summary()
    assert summary["model"] == "ussfc-s2-rgb"
    assert summary["terms"] == "CC BY-NC-SA 4.0, not for commercial use"
    assert summary["scored"] == scored
    assert summary["threshold"] == 0.7
    assert summary["bands"] == {"before": [1, 2, 3], "after": [3, 2, 1]}
    assert summary["bytes_to_write_at_most"] == int(768 * 768 * (3.7 + (2 * 3 * 4 + 5) / 8))
    lines = [line.strip() for line in plan_lines(summary)]
    assert lines[:4] == [
        "model  ussfc-s2-rgb and IR-MAD, threshold 0.7",
        f"scored  {scored}",
        "weights  CC BY-NC-SA 4.0, not for commercial use",
        "bands  1, 2, 3 of before, 3, 2, 1 of after",
    ]
    assert "to write  4.3 MB at most, seldom more than a third of that" in lines


def test_terms_and_score_are_left_out_where_none_are_known(tmp_path: Path) -> None:
    write_scene(tmp_path, "a", (100, 100), side=64)
    config = load_config(flags={"model": str(write_toy_model(tmp_path))})
    planned = plan(str(tmp_path / "a_before.tif"), str(tmp_path / "a_after.tif"), config)
    assert "weights" not in headline(planned)
    assert "F1" not in headline(planned)
    assert "scored  no" in [line.strip() for line in plan_lines(planned.summary())]
    assert " without CRS" not in headline(planned)


def test_plan_tells_that_a_run_would_be_refused() -> None:
    for limit, expected in ((0.001, 1), (8, 0)):
        planned = plan(
            DEMO[0], DEMO[1], load_config(sets=(f"compute.memory_gb={limit}", "cluster.kind=serial"))
        )
        found = [
            line
            for line in planned.summary()["warnings"]
            if line.startswith("a run is refused: the run would")
        ]
        assert len(found) == expected
