"""Generated pairs: meaning of a label, and what a batch depends on.

With every disturbance switched off, an image alone shows where instances stand, and the label can be checked against
both dates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ussfc.training.recipe import SamplingSection
from ussfc.training.synthesis.batches import GeneratedPairs, MaskBatches
from ussfc.training.synthesis.settings import SynthesisSection
from ussfc.training.synthesis.tiles import MaskTiles

CROP = 48
BRIGHT = 0.35
"""Between the brightest ground and the darkest instance, after any colour that a pasted instance may get."""

KINDS = ("paste", "remove", "unrelated_tiles", "unrelated_backgrounds")
DISTURBANCES = (
    "reverse", "ground_changes", "leaning", "cast_shadows", "season", "shift", "gain", "band_gain", "bias", "gamma",
    "blur", "noise", "compressed",
)  # fmt: skip
UNDISTURBED = dict.fromkeys(DISTURBANCES, 0.0)


def batches(tiles: MaskTiles, size: int = 4, seed: int = 0, crop: int = CROP, **how: Any) -> MaskBatches:
    sampling = SamplingSection(crop_size=crop, batch_size=size)
    return MaskBatches(tiles, sampling, SynthesisSection(**how), seed)


def only(kind: str | None) -> dict[str, float]:
    """Return settings of one kind of pairs, undisturbed; of unchanged ones for None."""
    return {**UNDISTURBED, **{name: float(name == kind) for name in KINDS}}


def stands(image: np.ndarray) -> np.ndarray:
    """Find where instances stand in (N, 3, rows, cols) images."""
    return image.mean(axis=1) > BRIGHT


def grown(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, np.ones((1, 3, 3)))


def shrunk(mask: np.ndarray) -> np.ndarray:
    return ~grown(~mask)


@settings(max_examples=3, deadline=None)
@given(step=st.integers(0, 10**6), seed=st.integers(0, 2**40))
def test_a_batch_depends_on_seed_and_step_alone(tiles: MaskTiles, step: int, seed: int) -> None:
    first, second = batches(tiles, 2, seed), batches(replace(tiles, memory=0), 2, seed)
    second.batch(step + 1)
    ours, theirs = first.batch(step), second.batch(step)
    for name in ("before", "after", "label", "valid"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_steps_and_seeds_differ(tiles: MaskTiles) -> None:
    images = [batches(tiles, 2, seed).batch(step).before.tobytes() for seed in (0, 1) for step in (0, 1)]
    assert len(set(images)) == 4


def test_shapes_and_ranges(tiles: MaskTiles) -> None:
    batch = batches(tiles).batch(0)
    for image in (batch.before, batch.after):
        assert image.shape == (4, 3, CROP, CROP)
        assert image.dtype == np.float32
        np.testing.assert_allclose(image * 255, np.rint(image * 255), atol=1e-4)
        assert 0 <= image.min() <= image.max() <= 1
    assert batch.label.shape == batch.valid.shape == (4, CROP, CROP)
    assert batch.label.dtype == batch.valid.dtype == bool
    assert batch.valid.all()
    assert batches(tiles).steps_per_epoch is None


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("backgrounds", [True, False])
def test_change_is_where_instances_differ(tiles: MaskTiles, kind: str, backgrounds: bool) -> None:
    source = tiles if backgrounds else tiles.without(["field", "forest"])
    batch = batches(source, 16, **only(kind)).batch(0)
    differs = stands(batch.before) ^ stands(batch.after)
    assert batch.label.any(axis=(1, 2)).sum() > 5
    # Soft edges of instances differ in a pixel or two where they are mixed with ground.
    assert not (shrunk(differs) & ~grown(batch.label)).any()
    assert not (shrunk(batch.label) & ~grown(differs)).any()


@pytest.mark.parametrize("kind", ["paste", "remove"])
@pytest.mark.parametrize("reverse", [0.0, 1.0])
def test_instances_appear_or_disappear(tiles: MaskTiles, kind: str, reverse: float) -> None:
    batch = batches(tiles, 12, **{**only(kind), "reverse": reverse}).batch(1)
    there, gone = (batch.before, batch.after) if reverse else (batch.after, batch.before)
    inside = shrunk(batch.label)
    assert inside.any()
    assert (stands(there) | ~inside).all()
    assert not (stands(gone) & inside & ~grown(stands(gone) & ~inside)).any()


def test_a_quarter_is_reversed(tiles: MaskTiles) -> None:
    batch = batches(tiles, 120, **{**only("remove"), "reverse": 0.25}, crop=16).batch(0)
    before, after = (stands(image).sum(axis=(1, 2)) for image in (batch.before, batch.after))
    assert 0.15 < np.mean(before[before != after] > after[before != after]) < 0.35


def test_labels_fit_changed_instances_of_shifted_dates(tiles: MaskTiles) -> None:
    batch = batches(tiles, 12, **{**only("remove"), "shift": 2.0}).batch(0)
    assert (stands(batch.after) | ~shrunk(batch.label)).all()


def test_unchanged_pairs_have_no_change(tiles: MaskTiles) -> None:
    batch = batches(tiles, 12, **only(None)).batch(0)
    assert not batch.label.any()
    np.testing.assert_array_equal(batch.before, batch.after)


def test_drawn_roofs_stand_on_both_dates_of_unchanged_pairs(tiles: MaskTiles) -> None:
    plain, drawn = (batches(tiles, 24, **only(None), drawn=share).batch(0) for share in (0.0, 1.0))
    assert not drawn.label.any()
    # Each date has a saturation of its own, which leaves the mean of the bands.
    difference = np.abs(drawn.before.mean(axis=1) - drawn.after.mean(axis=1))
    assert np.quantile(difference, 0.95) < 0.02
    assert drawn.before.tobytes() != plain.before.tobytes()


def test_a_new_drawn_roof_is_change_where_it_is_seen(tiles: MaskTiles) -> None:
    batch = batches(tiles, 16, **{**only("paste"), "drawn": 1.0}).batch(0)
    assert batch.label.any(axis=(1, 2)).sum() > 5
    # Each date has a saturation of its own, which leaves the mean of the bands.
    difference = np.abs(batch.before.mean(axis=1) - batch.after.mean(axis=1))
    around = np.ones((1, 3, 3))
    # Its shadow and the ground around it differ as well, but hardly anything far from it.
    far = ~ndimage.binary_dilation(batch.label, around, iterations=16)
    assert far.any()
    assert (difference[far] > 0.02).mean() < 0.01
    assert (difference[ndimage.binary_erosion(batch.label, around)] > 0.02).mean() > 0.9


def test_drawn_roofs_of_unrelated_tiles_are_change(tiles: MaskTiles) -> None:
    plain, drawn = (
        batches(tiles, 24, **only("unrelated_tiles"), drawn=share).batch(0).label.mean() for share in (0, 1)
    )
    assert drawn > plain + 0.01


def test_drawn_paving_is_no_change(tiles: MaskTiles) -> None:
    changing = {**only(None), "ground_changes": 1.0}
    plain, drawn = (batches(tiles, 24, **changing, drawn=share).batch(0) for share in (0.0, 1.0))
    assert not drawn.label.any()
    assert drawn.before.tobytes() != plain.before.tobytes()


def test_ground_changes_on_either_date(tiles: MaskTiles) -> None:
    """Or what is new on the later date would always be an instance."""
    plain, changing = (batches(tiles, 1, **{**only(None), "ground_changes": share}) for share in (0.0, 1.0))
    differs = {"before": 0, "after": 0}
    for step in range(24):
        same, other = plain.batch(step), changing.batch(step)
        for date in differs:
            differs[date] += np.abs(getattr(same, date) - getattr(other, date)).max() > 0.02
    assert min(differs.values()) > 6


def test_disturbances_are_never_labelled(tiles: MaskTiles) -> None:
    kinds = dict.fromkeys(KINDS, 0.0)
    always = dict.fromkeys(("ground_changes", "leaning", "cast_shadows", "season"), 1.0)
    batch = batches(tiles, 12, **kinds, **always).batch(0)
    assert not batch.label.any()
    assert (np.abs(batch.before - batch.after).max(axis=(1, 2, 3)) > 0.1).all()


def test_other_ground_never_covers_an_instance(tiles: MaskTiles) -> None:
    batch = batches(tiles, 16, **{**only(None), "ground_changes": 1.0}).batch(0)
    instances = np.broadcast_to(stands(batch.after)[:, None] & (batch.after > 0.8), batch.after.shape)
    assert instances.any()
    np.testing.assert_array_equal(batch.before[instances], batch.after[instances])
    assert (np.abs(batch.before - batch.after).max(axis=(1, 2, 3)) > 0.02).mean() > 0.5


def test_two_backgrounds_differ_without_change(tiles: MaskTiles) -> None:
    batch = batches(tiles, 8, **only("unrelated_backgrounds")).batch(0)
    assert not batch.label.any()
    assert (np.abs(batch.before - batch.after).mean(axis=(1, 2, 3)) > 0.005).all()


def test_two_to_five_percent_change_on_average(tiles: MaskTiles) -> None:
    label = batches(tiles, 160, **UNDISTURBED).batch(0).label
    assert 0.02 <= label.mean() <= 0.05


def test_generated_pairs_are_a_validation_set(tiles: MaskTiles) -> None:
    pairs = GeneratedPairs(tiles, CROP, SynthesisSection(), 5, 3)
    assert list(pairs.names) == ["generated 0", "generated 1", "generated 2"]
    batch, pair = batches(tiles, 1, 5).batch(2), pairs.pair(2)
    np.testing.assert_array_equal(pair.before, batch.before[0])
    np.testing.assert_array_equal(pair.label, batch.label[0])
    assert pair.name == "generated 2"
