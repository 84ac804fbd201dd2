"""Settings that the configuration leaves to the model."""

from __future__ import annotations

import pytest

import ussfc
from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.resolve import PatchLayout, resolve_config, resolve_layout, resolve_smoothing

MODEL = ussfc.find_model("ussfc-s2-rgb")


def test_card_fills_the_gaps() -> None:
    layout = resolve_layout(load_config(), MODEL)
    card = MODEL.tiling
    assert layout == PatchLayout(
        load_config().tiling.tile_size,
        card.patch_size or MODEL.patch_size,
        card.overlap,
        card.taper,
        card.ssfc,
    )


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("tiling.patch_size=64", "patch_size", 64),
        ("tiling.overlap=0", "overlap", 0.0),
        ("tiling.taper=box", "taper", "box"),
        ("tiling.tile_size=512", "tile_size", 512),
        ("inference.ssfc=local", "ssfc", "local"),
    ],
)
def test_configuration_wins_over_the_card(setting: str, field: str, value: object) -> None:
    assert getattr(resolve_layout(load_config(sets=[setting]), MODEL), field) == value


def test_resolved_configuration_has_no_gaps_left() -> None:
    resolved = resolve_config(load_config(), MODEL)
    assert resolve_config(resolved, MODEL) == resolved
    filled = (
        resolved.tiling.patch_size,
        resolved.tiling.overlap,
        resolved.tiling.taper,
        resolved.inference.ssfc,
    )
    assert None not in filled
    assert resolved.output.smoothing == MODEL.smoothing


@pytest.mark.parametrize("smoothing", ["none", "median3"])
def test_smoothing_is_that_of_the_card_unless_it_is_set(smoothing: Smoothing) -> None:
    card = MODEL.model_copy(update={"smoothing": smoothing})
    assert resolve_smoothing(load_config(), card) == smoothing
    assert resolve_smoothing(load_config(sets=["output.smoothing=none"]), card) == "none"
