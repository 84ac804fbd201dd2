"""The binomial filter: a Gaussian's variance, and bits that follow from a pixel's surroundings alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ussfc.pipeline.pixels.binomial_blur import blur, blur_radius
from ussfc.spec import AlterationTerms

law = settings(deadline=None, max_examples=60)
sigmas = st.floats(0.05, 3)


@law
@given(sigma=sigmas)
def test_weights_have_sum_mean_and_variance_of_the_gaussian(sigma: float) -> None:
    radius = blur_radius(sigma)
    point = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    point[2 * radius, 2 * radius] = 1
    weights = blur(point, sigma).astype(np.float64)
    away = np.arange(-2 * radius, 2 * radius + 1)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (weights >= 0).all()
    for axis in (0, 1):
        along = weights.sum(axis=axis)
        np.testing.assert_allclose(along, along[::-1], atol=1e-6)
        assert (along * away**2).sum() == pytest.approx(sigma**2, rel=1e-4, abs=1e-5)
    assert not weights[:radius, :].any()
    assert not weights[:, 3 * radius + 1 :].any()


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
def test_it_is_near_the_gaussian(sigma: float) -> None:
    values = np.random.default_rng(0).random((150, 600), np.float32)
    gaussian = ndimage.gaussian_filter(values, sigma)
    assert (blur(values, sigma) - gaussian).std() < 0.09 * gaussian.std()


@law
@given(
    sigma=sigmas,
    size=st.tuples(st.integers(1, 300), st.integers(1, 700)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_window_gives_the_bits_of_the_whole(
    sigma: float, size: tuple[int, int], corner: tuple[float, float]
) -> None:
    values = np.random.default_rng(size).random(size, np.float32)
    at_once, radius = blur(values, sigma), blur_radius(sigma)
    y, x = (int(share * (length - 1)) for share, length in zip(corner, size, strict=True))
    rows, cols = (slice(max(0, at - radius), at + radius + 1) for at in (y, x))
    window = blur(values[rows, cols], sigma)
    assert window[y - rows.start, x - cols.start].tobytes() == at_once[y, x].tobytes()


@law
@given(sigma=sigmas, values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_images_smaller_than_the_filter_are_mirrored(sigma: float, values: list[float]) -> None:
    image = np.array([values], np.float32)
    result = blur(image, sigma)
    assert result.shape == image.shape
    span = float(np.abs(image).max())
    assert image.min() - 1e-5 * span <= result.min() <= result.max() <= image.max() + 1e-5 * span
    assert result.sum() == pytest.approx(image.sum(), rel=1e-4, abs=1e-4 * span * image.size)


def test_zeros_stay_exact_zeros() -> None:
    values = np.zeros((40, 40), np.float32)
    values[0, 0] = 1
    assert not blur(values, 1.5)[blur_radius(1.5) + 1 :].any()


@law
@given(sigma=st.floats(0.05, 2.5) | st.integers(1, 12).map(lambda count: math.sqrt(count / 2)))
def test_cards_state_the_radius(sigma: float) -> None:
    terms = AlterationTerms(network=1, distance=1, offset=0, blur_px=sigma)
    assert terms.margin_px == blur_radius(sigma) < 16, "smaller than any patch"
