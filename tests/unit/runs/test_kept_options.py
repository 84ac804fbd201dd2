"""Options of products that a run given again keeps."""

from __future__ import annotations

from pathlib import Path

from tests.support.stub_runs import (
    COMPUTATION,
    SETS,
    assert_of_one_threshold,
    failures,
    smoothing_of,
    ussfc,
)
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.runs.run import run


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
