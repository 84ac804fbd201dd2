"""Baselines without learning: Otsu's threshold of change vectors and of IR-MAD."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ussfc.pipeline.evaluation.baselines import (
    MEASURES,
    change_vector_magnitude,
    changed,
    matched,
    otsu_threshold,
)
from ussfc.pipeline.types import BoolArray, FloatArray


def test_otsu_finds_the_valley() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.2, 5000), rng.normal(4, 0.3, 800)]).astype(np.float32)
    # There is no value between the two classes; any threshold there splits them.
    assert 1.6 < otsu_threshold(values) < 3.2
    assert otsu_threshold(np.full(9, 2.5, np.float32)) == 2.5


def test_otsu_maximises_variance_between_classes() -> None:
    values = np.random.default_rng(2).gamma(1.2, size=4000).astype(np.float32)
    edges = np.linspace(values.min(), values.max(), 257)

    def between(threshold: float) -> float:
        above = values > threshold
        share = above.mean()
        return float(share * (1 - share) * (values[above].mean() - values[~above].mean()) ** 2)

    found = between(otsu_threshold(values))
    # Bins stand for their centres, hence a tolerance of a per mille.
    assert found >= 0.999 * max(between(edge) for edge in edges[1:-1])


def test_change_vectors_are_thresholded_on_valid_pixels_alone() -> None:
    before, after = np.zeros((2, 3, 8, 8), np.float32)
    after[:, :2] = 0.3
    after[:, 7] = 1.0
    valid = np.ones((8, 8), bool)
    valid[7] = False
    assert change_vector_magnitude(before, after)[0, 0] == pytest.approx(math.sqrt(3) * 0.3)
    found = changed("change vectors", before, after, valid)
    assert found[:2].all()
    assert not found[2:].any()


@pytest.fixture(scope="module")
def scene() -> tuple[FloatArray, FloatArray, BoolArray]:
    """Two noisy dates of one ground, with a square that changed."""
    rng = np.random.default_rng(5)
    ground = rng.random((3, 64, 64)).astype(np.float32) * 0.4 + 0.2
    before, after = (ground + rng.normal(0, 0.01, ground.shape).astype(np.float32) for _ in range(2))
    after[:, 20:36, 20:36] = rng.random((3, 16, 16)) * 0.2 + np.array([0.7, 0.1, 0.6])[:, None, None]
    truth = np.zeros((64, 64), bool)
    truth[20:36, 20:36] = True
    return before, after, truth


@pytest.mark.parametrize("measure", MEASURES)
def test_each_baseline_finds_a_plain_change(
    scene: tuple[FloatArray, FloatArray, BoolArray], measure: str
) -> None:
    before, after, truth = scene
    found = changed(measure, before, after, np.ones_like(truth))
    assert (found & truth).sum() / (found | truth).sum() > 0.6


@pytest.mark.parametrize("measure", ["change vectors, matched, median", "IR-MAD, blurred"])
def test_gain_and_offset_of_a_date_move_only_plain_change_vectors(
    scene: tuple[FloatArray, FloatArray, BoolArray], measure: str
) -> None:
    before, after, truth = scene
    valid = np.ones_like(truth)
    moved = (after * 0.5 + 0.3).astype(np.float32)
    assert (changed(measure, before, after, valid) != changed(measure, before, moved, valid)).mean() < 0.002
    assert (
        changed("change vectors", before, after, valid) != changed("change vectors", before, moved, valid)
    ).mean() > 0.01


@pytest.mark.parametrize("measure", MEASURES)
def test_pixels_that_are_not_valid_move_nothing(
    scene: tuple[FloatArray, FloatArray, BoolArray], measure: str
) -> None:
    before, after, truth = scene
    valid = np.ones_like(truth)
    valid[50:] = False
    other = after.copy()
    other[:, 50:] = 9
    found = changed(measure, before, after, valid)
    assert not found[50:].any()
    np.testing.assert_array_equal(found, changed(measure, before, other, valid))


def test_matched_bands_have_the_statistics_of_the_earlier_date() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random((2, 2, 9, 9)).astype(np.float32)
    after[1] = 0.5
    valid = rng.random((9, 9)) < 0.7
    found = matched(before, after, valid)
    assert found[0][valid].std() == pytest.approx(before[0][valid].std(), rel=1e-5)
    assert found[:, valid].mean(axis=1) == pytest.approx(before[:, valid].mean(axis=1), rel=1e-5)
