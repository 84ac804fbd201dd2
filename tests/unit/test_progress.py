"""Progress of a stage in words."""

from __future__ import annotations

import pytest

from ussfc.pipeline.events import Advanced, StageStarted
from ussfc.pipeline.progress import StageMeter, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (89.9, "89.9 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_durations_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_part_of_the_only_tile_moves_the_progress() -> None:
    meter = StageMeter(StageStarted("infer", 1, 4_000_000))
    assert meter.line == "infer: 0%, 0/1"
    meter.add(Advanced("infer", 0, 1_000_000))
    assert meter.line.startswith("infer: 25%, 0/1, ")
    assert " Mpx/s, " in meter.line
    assert meter.line.endswith(" left")
    meter.add(Advanced("infer", 0, -1_000_000))
    meter.add(Advanced("infer", 1, 4_000_000))
    assert meter.done == meter.total == 4_000_000
    assert meter.line.startswith("infer: 100%, 1/1, ")


def test_a_stage_without_pixels_goes_by_units() -> None:
    meter = StageMeter(StageStarted("batch", 4, 0))
    meter.add(Advanced("batch", 1, 0))
    assert meter.line.startswith("batch: 25%, 1/4, ")
    assert "Mpx" not in meter.line
