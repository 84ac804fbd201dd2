"""The baseline without learning: Otsu's threshold of change vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ussfc.baseline import change_vector_magnitude, changed, otsu_threshold


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


def test_baseline_uses_valid_pixels_alone() -> None:
    before, after = np.zeros((2, 3, 8, 8), np.float32)
    after[:, :2] = 0.3
    after[:, 7] = 1.0
    valid = np.ones((8, 8), bool)
    valid[7] = False
    assert change_vector_magnitude(before, after)[0, 0] == pytest.approx(math.sqrt(3) * 0.3)
    found = changed(before, after, valid)
    assert found[:2].all()
    assert not found[2:].any()
