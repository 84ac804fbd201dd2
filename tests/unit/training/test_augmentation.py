"""Change pasted from other pairs, and crops of other sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ussfc.training.augmentation import CONTRASTS, EDGE, Crop, paste_change, resized

SIZE = 32
seeds = st.integers(0, 2**32)


def noisy(seed: int, level: float, spread: float, changed: tuple[slice, slice] | None = None) -> Crop:
    """Return a crop of noise about a level, whose later date is brighter where it has changed."""
    rng = np.random.default_rng(seed)
    before, after = (level + spread * rng.standard_normal((2, 3, SIZE, SIZE))).astype(np.float32)
    label = np.zeros((SIZE, SIZE), bool)
    if changed is not None:
        label[changed] = True
        after[:, label] += 0.3
    return Crop(before, after, label, np.ones_like(label))


def orientations(label: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(label, turns) for turns in range(4)]
    return [*turned, *(one[:, ::-1] for one in turned)]


@given(
    seed=seeds,
    corner=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_pasted_change_is_labelled_and_the_rest_stays(
    seed: int, corner: tuple[int, int], sides: tuple[int, int]
) -> None:
    rows, cols = (slice(start, start + side) for start, side in zip(corner, sides, strict=True))
    crop = noisy(seed, 0.3, 0.02, (slice(2, 5), slice(2, 9)))
    donor = noisy(seed + 1, 0.6, 0.02, (rows, cols))
    kept = crop.after.copy()
    pasted = paste_change(crop, donor, np.random.default_rng(seed))
    assert any(np.array_equal(pasted.label, crop.label | one) for one in orientations(donor.label))
    assert np.array_equal(crop.after, kept)
    assert np.array_equal(pasted.before, crop.before)
    assert np.array_equal(pasted.valid, crop.valid)
    # A pixel more than is pasted, and what the edge reaches beyond it.
    far = ~ndimage.binary_dilation(pasted.label, np.ones((3, 3)), 1 + round(4 * EDGE))
    assert np.array_equal(pasted.after[:, far], crop.after[:, far])
    assert pasted.after.dtype == np.float32
    new = pasted.label & ~crop.label
    assert (pasted.after[:, new] != crop.after[:, new]).all()


@pytest.mark.parametrize(("spread", "factor"), [(0.02, 1.0), (0.002, CONTRASTS[0]), (0.2, CONTRASTS[1])])
def test_pasted_ground_gets_the_level_and_within_limits_the_contrast_of_where_it_goes(
    spread: float, factor: float
) -> None:
    """In one of two cases what is pasted is the donor's earlier date, which lacks the change."""
    crop = noisy(0, 0.3, spread)
    donor = noisy(1, 0.6, 0.02, (slice(6, 26), slice(6, 22)))
    steps = []
    for seed in range(12):
        pasted = paste_change(crop, donor, np.random.default_rng(seed))
        inside = ndimage.binary_erosion(pasted.label, iterations=2)
        steps.append(float(pasted.after[:, inside].mean()) - 0.3)
    new = [step for step in steps if step > 0.1]
    assert 0 < len(new) < 12
    assert new == pytest.approx([0.3 * factor] * len(new), abs=0.03)
    assert [step for step in steps if step <= 0.1] == pytest.approx([0] * (12 - len(new)), abs=0.03)


@pytest.mark.parametrize(
    "changed", [None, (slice(0, SIZE), slice(0, 17))], ids=["no change", "more than half of it"]
)
def test_donors_without_change_or_without_other_ground_give_nothing(
    changed: tuple[slice, slice] | None,
) -> None:
    crop = noisy(0, 0.3, 0.02)
    assert paste_change(crop, noisy(1, 0.6, 0.02, changed), np.random.default_rng(0)) is crop


def test_change_that_does_not_count_is_not_pasted() -> None:
    crop, donor = noisy(0, 0.3, 0.02), noisy(1, 0.6, 0.02, (slice(4, 9), slice(4, 9)))
    assert paste_change(crop, replace(donor, valid=~donor.label), np.random.default_rng(0)) is crop


def test_everything_changed_leaves_no_level_to_paste_at() -> None:
    crop = noisy(0, 0.3, 0.02, (slice(0, SIZE), slice(0, SIZE)))
    donor = noisy(1, 0.6, 0.02, (slice(4, 9), slice(4, 9)))
    assert paste_change(crop, donor, np.random.default_rng(0)) is crop


@pytest.mark.parametrize("size", [24, 32, 46])
def test_resized_crops_show_the_same_ground(size: int) -> None:
    rows, cols = np.mgrid[:SIZE, :SIZE]
    ramp = np.stack([rows, cols]).astype(np.float32) / SIZE
    label = np.zeros((SIZE, SIZE), bool)
    label[8:24, 4:12] = True
    crop = resized(Crop(ramp, ramp[::-1], label, cols < 16), size)
    assert crop.before.shape == crop.after.shape == (2, size, size)
    assert crop.before.dtype == np.float32
    assert crop.label.dtype == crop.valid.dtype == bool
    # Centres of pixels: a ramp stays one, but at the borders.
    want = ((np.arange(size) + 0.5) * SIZE / size - 0.5) / SIZE
    inner = slice(3, -3)
    np.testing.assert_allclose(crop.before[0, inner, size // 2], want[inner], atol=1e-3)
    np.testing.assert_allclose(crop.after[0, size // 2, inner], want[inner], atol=1e-3)
    assert crop.label.mean() == pytest.approx(label.mean(), abs=0.03)
    # A pixel that is valid in part does not count.
    last = np.flatnonzero(crop.valid.all(axis=0)).max()
    assert (last + 1) * SIZE / size <= 16 + 0.1
