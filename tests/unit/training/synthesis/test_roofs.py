"""Drawn roofs and paving: size on the ground, ranges, edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ussfc.training.synthesis.roofs import Roof, draw_paving


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.2, 0.35, 0.5, 1.0]))
def test_a_roof_has_its_size_on_the_ground(seed: int, resolution_m: float) -> None:
    rng = np.random.default_rng(seed)
    roof = Roof.choose(rng)
    assert 6 <= roof.length_m <= 80
    assert 0 < roof.width_m <= roof.length_m
    view = roof.draw(resolution_m, 2000, rng)
    side = view.chosen.shape[0]
    assert view.image.shape == (side, side, 3)
    assert view.image.dtype == view.chosen.dtype == np.float32
    assert 0 <= view.image.min() <= view.image.max() <= 1
    assert 0 <= view.chosen.min() <= view.chosen.max() == 1
    np.testing.assert_array_equal(view.chosen, view.stands)
    # A wing adds less than half; the roof is one piece, and ground is all around it.
    area = view.chosen.sum() * resolution_m**2 / (roof.length_m * roof.width_m)
    assert 0.93 < area < 1.5
    assert ndimage.label(view.chosen > 0.5)[1] == 1
    assert not np.concatenate([view.chosen[[0, -1]], view.chosen[:, [0, -1]].T]).any()


def test_a_long_roof_is_cut() -> None:
    view = Roof(True, 80.0, 40.0).draw(0.2, 100, np.random.default_rng(0))
    assert view.chosen.shape == (100, 100)
    assert view.chosen.mean() > 0.9


def test_edges_are_smooth() -> None:
    """A pixel that the edge crosses is covered in part."""
    view = Roof(False, 15.0, 9.0).draw(0.5, 200, np.random.default_rng(3))
    assert ((view.chosen > 0) & (view.chosen < 1)).sum() > 20


@pytest.mark.parametrize("hall", [True, False])
def test_roofs_of_a_kind_differ(hall: bool) -> None:
    means = [
        Roof(hall, 20.0, 10.0).draw(0.5, 200, np.random.default_rng(seed)).image.mean() for seed in range(8)
    ]
    assert np.ptp(means) > 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.2, 0.5, 1.0]))
def test_paving_covers_a_part(seed: int, resolution_m: float) -> None:
    image, share = draw_paving(140, resolution_m, np.random.default_rng(seed))
    assert image.shape == (140, 140, 3)
    assert share.shape == (140, 140)
    assert image.dtype == share.dtype == np.float32
    for values in (image, share):
        assert 0 <= values.min() <= values.max() <= 1


def test_roads_are_as_wide_as_roads() -> None:
    """Across a straight road lie 2.4 to 12 m; bends and yards are left out by the median."""
    widths = []
    for seed in range(60):
        _, share = draw_paving(140, 0.5, np.random.default_rng(seed))
        inner = ndimage.distance_transform_edt(share > 0.5)
        widths.append(2 * inner.max() * 0.5)
    assert 2.4 <= np.median(widths) <= 15
    assert (
        0.02 < np.mean([draw_paving(140, 0.5, np.random.default_rng(s))[1].mean() for s in range(30)]) < 0.5
    )
