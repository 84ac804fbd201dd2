"""Batches of crops: the batch of a step, positions of crops, and augmentation.

The images say where each pixel comes from: their bands are pair, row, column and date, over 256. A crop that
holds a wrong pixel, or a label that moved by itself, is seen by comparing with the pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.errors import DataError
from ussfc.training.batches import make_batches
from ussfc.training.crops import Batch, Batches, as_unit_range
from ussfc.training.data import LabelledPair
from ussfc.training.recipe import AugmentationSection, SamplingSection, TrainingRecipe

SIZE = 16
EVERYTHING = AugmentationSection(
    flip=True, turn=True, swap=0.5, gain=0.2, band_gain=0.1, bias=0.1, band_bias=0.1, noise=0.1, unchanged=0.2
)

seeds = st.integers(0, 2**40)
steps = st.integers(0, 10**6)


@dataclass(frozen=True)
class Listed:
    """Pairs in memory."""

    pairs: Sequence[LabelledPair]

    @property
    def names(self) -> Sequence[str]:
        return [pair.name for pair in self.pairs]

    def pair(self, index: int) -> LabelledPair:
        return self.pairs[index]


def located(number: int, rows: int = SIZE, cols: int = SIZE) -> LabelledPair:
    """Return a pair whose pixels are numbered; a tenth changed, a tenth not valid."""
    row, col = np.mgrid[:rows, :cols]
    before = np.stack([np.full((rows, cols), number), row, col, np.zeros((rows, cols))]).astype(np.float32)
    after = before.copy()
    after[3] = 1
    rng = np.random.default_rng(number)
    label, valid = rng.random((2, rows, cols))
    return LabelledPair(f"pair{number}", before / 256, after / 256, label < 0.1, valid > 0.1)


def batches(
    pairs: Sequence[LabelledPair], augmentation: AugmentationSection | None = None, seed: int = 0, **how: Any
) -> Batches:
    """Make batches of crops of 16 pixels."""
    sampling = SamplingSection(crop_size=SIZE, **how)
    fixed = sampling.kind == "fixed"
    recipe = TrainingRecipe(
        sampling=sampling,
        augmentation=augmentation or AugmentationSection(),
        steps=None if fixed else 1,
        epochs=1 if fixed else None,
        validate_every=1,
        seed=seed,
    )
    return make_batches(recipe, Listed(pairs))


def places(batch: Batch, pairs: Sequence[LabelledPair]) -> list[tuple[int, int, int]]:
    """Return (pair, row, column) of every crop, compared with that window of its pair, pixel by pixel."""
    found = []
    for before, after, label, valid in zip(batch.before, batch.after, batch.label, batch.valid, strict=True):
        number, row, col = (int(value) for value in np.rint(before[:3, 0, 0] * 256))
        pair = pairs[number]
        window = (..., slice(row, row + SIZE), slice(col, col + SIZE))
        assert before.shape[1:] == (SIZE, SIZE)
        assert np.array_equal(before, pair.before[window])
        assert np.array_equal(after, pair.after[window])
        assert np.array_equal(label, pair.label[window])
        assert np.array_equal(valid, np.ones_like(label) if pair.valid is None else pair.valid[window])
        found.append((number, row, col))
    return found


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(mine, yours)
        for mine, yours in zip(vars(one).values(), vars(other).values(), strict=True)
    )


# --- the batch of a step


@given(kind=st.sampled_from(["fixed", "random"]), seed=seeds, step=steps, before=st.lists(steps, max_size=4))
def test_batches_depend_on_seed_and_step_alone(kind: str, seed: int, step: int, before: list[int]) -> None:
    pairs = [located(0), located(1, 20, 30)]
    how = {"kind": kind, "batch_size": 2, "crops": 3, "seed": seed}
    others = {"paste": 0.5, "scale": 0.5} if kind == "random" else {}
    augmentation = EVERYTHING.model_copy(update=others)
    used = batches(pairs, augmentation, **how)
    for other in before:
        used.batch(other)
    # Nor on numpy's own generator.
    np.random.seed(len(before))
    assert same(used.batch(step), batches(pairs, augmentation, **how).batch(step))


@given(kind=st.sampled_from(["fixed", "random"]), seed=seeds, step=steps)
def test_other_steps_and_seeds_get_other_batches(kind: str, seed: int, step: int) -> None:
    """Augmentation differs even if the crops are the same."""
    pairs = [located(0)]
    noise = AugmentationSection(noise=0.1)
    here = batches(pairs, noise, seed, kind=kind, batch_size=1)
    there = batches(pairs, noise, seed + 1, kind=kind, batch_size=1)
    assert not same(here.batch(step), here.batch(step + 1))
    assert not same(here.batch(step), there.batch(step))


def test_crops_of_a_batch_differ() -> None:
    batch = batches([located(0)] * 2, AugmentationSection(noise=0.1), kind="fixed", batch_size=2).batch(0)
    assert not np.array_equal(batch.before[0], batch.before[1])


# --- fixed crops

shapes = st.lists(
    st.tuples(st.integers(SIZE, 24), st.integers(SIZE, 24)) | st.just((SIZE, SIZE)), min_size=1, max_size=5
)


@given(shapes=shapes, crops=st.integers(1, 12), batch_size=st.integers(1, 7), seed=seeds)
def test_an_epoch_takes_every_fixed_crop_once(
    shapes: list[tuple[int, int]], crops: int, batch_size: int, seed: int
) -> None:
    pairs = [located(number, *shape) for number, shape in enumerate(shapes)]
    made = batches(pairs, seed=seed, kind="fixed", crops=crops, batch_size=batch_size)
    whole = [number for number, shape in enumerate(shapes) if shape == (SIZE, SIZE)]
    expected = len(whole) + (crops if len(whole) < len(pairs) else 0)
    assert made.steps_per_epoch == -(-expected // batch_size)

    epochs = []
    for epoch in range(2):
        each = [
            places(made.batch(epoch * made.steps_per_epoch + step), pairs)
            for step in range(made.steps_per_epoch)
        ]
        assert [len(batch) for batch in each[:-1]] == [batch_size] * (len(each) - 1)
        epochs.append([place for batch in each for place in batch])
    first, second = epochs
    assert len(first) == expected
    assert Counter(first) == Counter(second)
    # Pairs of the crop's size: whole, once each.
    assert sorted(number for number, _, _ in first if number in whole) == whole


def test_each_epoch_has_its_own_order() -> None:
    pairs = [located(number) for number in range(8)]
    made = batches(pairs, kind="fixed", batch_size=8)
    orders = [tuple(places(made.batch(epoch), pairs)) for epoch in range(5)]
    assert len(set(orders)) == 5


def test_fixed_crops_are_spread_evenly() -> None:
    """Every corner is equally likely, so a pair is drawn by its room."""
    sides = [(18, 18), (SIZE, SIZE), (17, 21)]
    pairs = [located(number, *shape) for number, shape in enumerate(sides)]
    made = batches(pairs, kind="fixed", crops=2100, batch_size=2101)
    drawn = Counter(places(made.batch(0), pairs))
    assert drawn.pop((1, 0, 0)) == 1
    # 3 x 3 corners in the first pair, 2 x 6 in the third, each expected 100 times.
    assert set(drawn) == {(0, r, c) for r in range(3) for c in range(3)} | {
        (2, r, c) for r in range(2) for c in range(6)
    }
    assert 60 < min(drawn.values()) <= max(drawn.values()) < 140
    assert abs(sum(n for (number, _, _), n in drawn.items() if number == 0) - 900) < 100


def test_other_seeds_draw_other_crops() -> None:
    pairs = [located(0, 40, 40)]
    drawn = [
        set(places(batches(pairs, seed=s, kind="fixed", crops=20, batch_size=20).batch(0), pairs))
        for s in range(2)
    ]
    assert drawn[0] != drawn[1]


# --- random crops


def marked(pair: LabelledPair, *changed: tuple[int, int]) -> LabelledPair:
    """Return the pair with these pixels changed and no others."""
    label = np.zeros_like(pair.label)
    for place in changed:
        label[place] = True
    return replace(pair, label=label, valid=None)


@given(shapes=shapes, share=st.sampled_from([0.0, 0.5, 1.0]), seed=seeds, step=steps)
def test_random_crops_lie_inside(shapes: list[tuple[int, int]], share: float, seed: int, step: int) -> None:
    pairs = [located(number, *shape) for number, shape in enumerate(shapes)]
    made = batches(pairs, seed=seed, batch_size=6, change_share=share)
    assert made.steps_per_epoch is None
    assert len(places(made.batch(step), pairs)) == 6


@given(row=st.integers(0, 39), col=st.integers(0, 29), seed=seeds)
def test_crops_around_change_hold_a_changed_pixel(row: int, col: int, seed: int) -> None:
    """A changed pixel at the border too, and never one that does not count."""
    elsewhere = located(1, 40, 30)
    unseen = replace(elsewhere, label=~elsewhere.valid)
    pairs = [marked(located(0, 40, 30), (row, col)), unseen]
    batch = batches(pairs, seed=seed, batch_size=8, change_share=1).batch(0)
    assert {number for number, _, _ in places(batch, pairs)} == {0}
    assert batch.label.any(axis=(1, 2)).all()


def test_changed_pixels_lie_anywhere_in_crops() -> None:
    """A network must not learn that change is in the middle."""
    pairs = [marked(located(0, 60, 60), (30, 30))]
    batch = batches(pairs, batch_size=2000, change_share=1).batch(0)
    _, row, col = np.nonzero(batch.label)
    assert set(row) == set(col) == set(range(SIZE))
    assert abs(np.corrcoef(row, col)[0, 1]) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_crops_around_change(share: float) -> None:
    # By chance a crop holds the corner pixel once in 185 * 185 times.
    pairs = [marked(located(0, 200, 200), (0, 0))]
    batch = batches(pairs, batch_size=500, change_share=share).batch(0)
    assert abs(batch.label.any(axis=(1, 2)).mean() - share) < 0.06


def test_pairs_are_drawn_by_pixels_and_change() -> None:
    pairs = [marked(located(0, 20, 20), (3, 3), (4, 4), (5, 5)), marked(located(1, 40, 40), (9, 9))]
    for share, small in ((0.0, 400 / 2000), (1.0, 3 / 4)):
        batch = batches(pairs, batch_size=1000, change_share=share).batch(0)
        numbers = [number for number, _, _ in places(batch, pairs)]
        assert abs(numbers.count(0) / 1000 - small) < 0.05


def test_by_the_root_of_their_change_pairs_with_little_are_drawn_more_often() -> None:
    large = [(row, col) for row in range(20) for col in range(20)]
    pairs = [marked(located(0, 20, 20), *large), marked(located(1, 40, 40), (9, 9))]
    batch = batches(pairs, batch_size=1000, change_share=1, balance="root").batch(0)
    numbers = [number for number, _, _ in places(batch, pairs)]
    assert abs(numbers.count(1) / 1000 - 1 / 21) < 0.02


def test_change_is_pasted_from_other_pairs_into_the_stated_share() -> None:
    """The images say which pair they are of: a crop of the unchanged one has change where it was pasted."""
    pairs = [marked(located(0, 20, 20)), marked(located(1, 20, 20), (10, 10))]
    made = batches(pairs, AugmentationSection(paste=0.3), batch_size=400, change_share=0.0)
    batch = made.batch(0)
    mine = np.rint(batch.before[:, 0, 0, 0] * 256) == 0
    assert abs(batch.label[mine].any(axis=(1, 2)).mean() - 0.3) < 0.08
    # Nothing else has change: a pair is no donor to itself.
    alone = batches(pairs[1:], AugmentationSection(paste=1), batch_size=50, change_share=0.0).batch(0)
    assert places(alone, [pairs[0], pairs[1]])


def test_crops_of_another_size_show_more_or_less_ground() -> None:
    pairs = [located(0, 60, 60)]
    batch = batches(pairs, AugmentationSection(scale=1), batch_size=300, change_share=0.0).batch(0)
    # Rows between the first and the last pixel of a crop, in rows of the pair.
    inner = batch.before[:, 1, 2:-2, 8] * 256
    factors = (inner[:, -1] - inner[:, 0]) / (SIZE - 5)
    # Sides are whole pixels: of 16, from 11 to 22.
    assert 11 / 16 - 0.01 < factors.min() < 0.75
    assert 1.3 < factors.max() < 22 / 16 + 0.01
    unscaled = batches(pairs, AugmentationSection(scale=0.3), batch_size=300, change_share=0.0).batch(0)
    inner = unscaled.before[:, 1, 2:-2, 8] * 256
    same_size = np.isclose(inner[:, -1] - inner[:, 0], SIZE - 5, atol=1e-3)
    assert abs(same_size.mean() - 0.7 - 0.3 / 12) < 0.08


def test_pairs_without_change_need_share_zero() -> None:
    pairs = [marked(located(0, 20, 20))]
    assert not batches(pairs, change_share=0).batch(0).label.any()
    with pytest.raises(DataError, match=r"no changed pixel.*sampling\.change_share=0"):
        batches(pairs, change_share=0.5)
    # Changed pixels that do not count are none.
    nowhere = replace(pairs[0], label=np.ones((20, 20), bool), valid=np.zeros((20, 20), bool))
    with pytest.raises(DataError, match="no changed pixel"):
        batches([nowhere], change_share=0.5)


# --- augmentation


def augmented(pair: LabelledPair, count: int, **how: Any) -> Batch:
    """Return many augmented crops, each the whole of one pair."""
    return batches([pair], AugmentationSection(**how), batch_size=count, change_share=0).batch(0)


def orientations(batch: Batch, pair: LabelledPair) -> set[int]:
    """Return the orientations that occur, of 8; both dates, label and valid have the same one."""
    found = set()
    for crop in zip(batch.before, batch.after, batch.label, batch.valid, strict=True):
        fits = [
            number
            for number in range(8)
            if all(
                np.array_equal(part, _oriented(whole, number))
                for part, whole in zip(crop, (pair.before, pair.after, pair.label, pair.valid), strict=True)
            )
        ]
        assert len(fits) == 1
        found.add(fits[0])
    return found


def _oriented(image: Any, number: int) -> Any:
    turned = np.rot90(image, number % 4, (-2, -1))
    return np.flip(turned, -1) if number >= 4 else turned


@pytest.mark.parametrize(
    ("flip", "turn", "expected"), [(0, 0, {0}), (1, 0, {0, 4}), (0, 1, {0, 1, 2, 3}), (1, 1, set(range(8)))]
)
def test_geometry_moves_all_parts_alike(flip: int, turn: int, expected: set[int]) -> None:
    pair = located(0)
    assert orientations(augmented(pair, 100, flip=bool(flip), turn=bool(turn)), pair) == expected


def flat() -> LabelledPair:
    """Return rows of 0.4 and 0.6 in both dates, three bands: near the middle, so that no value is clipped."""
    image = np.broadcast_to(np.where(np.arange(SIZE) % 2, 0.6, 0.4)[:, None], (3, SIZE, SIZE))
    image = image.astype(np.float32)
    return LabelledPair("flat", image, image.copy(), np.zeros((SIZE, SIZE), bool))


@pytest.mark.parametrize("key", ["gain", "band_gain", "bias", "band_bias"])
def test_gain_and_bias_about_the_middle(key: str) -> None:
    amplitude = 0.3
    batch = augmented(flat(), 300, **{key: amplitude})
    images = np.stack([batch.before, batch.after])  # (2, N, 3, rows, cols)
    low, high = images[..., 0, :], images[..., 1, :]
    assert np.ptp(low, axis=-1).max() == np.ptp(high, axis=-1).max() == 0
    gain = (high - low)[..., 0] / 0.2  # (2, N, 3)
    offset = (high + low)[..., 0] / 2 - 0.5
    moved, still = (gain - 1, offset) if "gain" in key else (offset, gain - 1)
    assert np.abs(still).max() < 1e-5
    # Within the amplitude, up to it, and in both directions equally often.
    assert 0.95 * amplitude < -moved.min() < amplitude + 1e-5
    assert 0.95 * amplitude < moved.max() < amplitude + 1e-5
    assert abs(moved.mean()) < 0.05
    # Dates separately; bands alike or separately.
    assert abs(np.corrcoef(moved[0].ravel(), moved[1].ravel())[0, 1]) < 0.15
    alike = np.ptp(moved, axis=-1).max() < 1e-5
    assert alike is not key.startswith("band")


def test_gains_multiply_and_biases_add() -> None:
    batch = augmented(flat(), 500, gain=0.2, band_gain=0.1, bias=0.1, band_bias=0.05)
    gain = (batch.before[..., 1, 0] - batch.before[..., 0, 0]) / 0.2
    offset = (batch.before[..., 1, 0] + batch.before[..., 0, 0]) / 2 - 0.5
    assert 0.8 * 0.9 - 1e-5 < gain.min() < 0.8
    assert 1.2 < gain.max() < 1.2 * 1.1 + 1e-5
    assert 0.1 < np.abs(offset).max() < 0.15 + 1e-5


def test_jittered_images_stay_in_the_unit_range() -> None:
    pair = flat()
    pair = replace(pair, before=(pair.before > 0.5).astype(np.float32))
    batch = augmented(pair, 50, gain=0.5, bias=0.2, noise=0.1)
    assert (batch.before.min(), batch.before.max()) == (0, 1)


def test_noise() -> None:
    batch = augmented(flat(), 200, noise=0.05)
    noise = np.stack([batch.before, batch.after]) - flat().before
    spread = noise.std(axis=(2, 3, 4))
    # A standard deviation of its own for each date, uniform up to the largest.
    assert spread.min() < 0.005
    assert 0.04 < spread.max() < 0.055
    assert abs(spread.mean() - 0.025) < 0.004
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02
    assert not np.array_equal(noise[0, 0, 0], noise[0, 0, 1])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_swapped_dates_keep_the_label(share: float) -> None:
    pair = located(0)
    batch = augmented(pair, 300, swap=share)
    swapped = batch.before[:, 3, 0, 0] > 0
    assert abs(swapped.mean() - share) < 0.08
    first = np.where(swapped[:, None, None, None], pair.after, pair.before)
    second = np.where(swapped[:, None, None, None], pair.before, pair.after)
    assert np.array_equal(batch.before, first)
    assert np.array_equal(batch.after, second)
    assert (batch.label == pair.label).all()


def test_unchanged_crops_show_one_date_twice() -> None:
    pair = located(0)
    batch = augmented(pair, 400, unchanged=0.3, swap=0.5, flip=True, turn=True)
    date = np.stack([batch.before, batch.after])[:, :, 3, 0, 0] > 0
    alike = date[0] == date[1]
    assert abs(alike.mean() - 0.3) < 0.06
    # Either date may be the one that is shown.
    assert set(date[0][alike]) == {False, True}
    assert not batch.label[alike].any()
    assert batch.label[~alike].any(axis=(1, 2)).all()
    # The same places, and the same pixels count.
    assert np.array_equal(batch.before[alike], batch.after[alike])
    assert (batch.valid.sum(axis=(1, 2)) == pair.valid.sum()).all()


def test_unchanged_crops_are_jittered_differently() -> None:
    pair = replace(flat(), label=np.ones((SIZE, SIZE), bool))
    batch = augmented(pair, 50, unchanged=0.5, bias=0.2)
    offset = (batch.after - batch.before)[~batch.label.any(axis=(1, 2))]
    assert len(offset) > 10
    assert np.ptp(offset, axis=(1, 2, 3)).max() < 1e-5
    assert (np.abs(offset[:, 0, 0, 0]) > 1e-3).mean() > 0.8


@given(seed=seeds, eight_bits=st.booleans())
def test_no_augmentation_keeps_the_pixels(seed: int, eight_bits: bool) -> None:
    """Pictures of 8 bits become [0, 1]; floats are not touched."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, SIZE, SIZE)).astype(np.uint8)
    expected = (images / 255).astype(np.float32) if eight_bits else rng.random(images.shape, np.float32)
    given_, label = (images if eight_bits else expected), rng.random((SIZE, SIZE)) < 0.5
    pair = LabelledPair("p", given_[0].copy(), given_[1].copy(), label)
    batch = augmented(pair, 1)
    assert batch.before.dtype == batch.after.dtype == np.float32
    assert batch.label.dtype == batch.valid.dtype == bool
    np.testing.assert_allclose(batch.before[0], expected[0], rtol=0, atol=6e-8 if eight_bits else 0)
    np.testing.assert_allclose(batch.after[0], expected[1], rtol=0, atol=6e-8 if eight_bits else 0)
    assert np.array_equal(batch.label[0], label)
    assert batch.valid.all()
    # The data are the caller's: no change of a crop may write into them.
    augmented(pair, 1, **EVERYTHING.model_dump())
    assert np.array_equal(pair.before, given_[0])
    assert np.array_equal(pair.label, label)


def test_the_ends_of_8_bits_are_0_and_1() -> None:
    assert as_unit_range(np.array([0, 255], np.uint8)).tolist() == [0, 1]


# --- data that cannot be used


@pytest.mark.parametrize("kind", ["fixed", "random"])
@pytest.mark.parametrize("shape", [(15, 40), (40, 15)])
def test_pairs_smaller_than_a_crop_are_named(kind: str, shape: tuple[int, int]) -> None:
    with pytest.raises(DataError) as caught:
        batches([located(0, 40, 40), located(1, *shape)], kind=kind)
    message = str(caught.value)
    assert "\n" not in message
    assert all(
        part in message for part in ("pair1", f"{shape[0]} x {shape[1]}", "16", "sampling.crop_size")
    ), message


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_data_without_pairs_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match="no pairs"):
        batches([], kind=kind)
