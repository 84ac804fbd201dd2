"""Laws of the lines between two dates: recovered among change and noise, and none where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from ussfc.pipeline.pixels.normalisation import alteration, kept_variance, no_change_weights, normalise

DoubleArray = npt.NDArray[np.float64]

few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10_000)
gains = st.floats(0.5, 2.0)
offsets = st.floats(-1000, 1000)

PIXELS = 20_000


def ground(seed: int, bands: int = 3) -> DoubleArray:
    """Return reflectances times 10000 whose bands go along, as those of real ground do."""
    rng = np.random.default_rng(seed)
    albedo = rng.gamma(4, 300, PIXELS)
    tint = 1 + 0.15 * rng.standard_normal((bands, PIXELS))
    return 200 + albedo * tint


def later(before: DoubleArray, seed: int, noise: float = 30, changed: float = 0.2) -> DoubleArray:
    """Return the same ground with noise, and other ground in a share of the pixels."""
    rng = np.random.default_rng((seed, 1))
    after = before + noise * rng.standard_normal(before.shape)
    count = int(changed * PIXELS)
    after[:, :count] = 1500 + 1.5 * ground(seed + 1, len(before))[:, :count]
    return after


def everywhere(image: DoubleArray) -> npt.NDArray[np.bool_]:
    return np.ones(image.shape[1], np.bool_)


@pytest.mark.parametrize("bands", range(1, 8))
def test_weights_are_p_values_of_chi_squared_distances(bands: int) -> None:
    before = ground(0, bands)
    after = later(before, 0)
    found = alteration(before, after)
    assert found is not None
    distances, degrees = found
    assert degrees == bands
    wanted = special.chdtrc(degrees, distances)
    assert wanted.min() < 1e-12 < 0.9 < wanted.max()
    np.testing.assert_allclose(no_change_weights(before, after), wanted, rtol=1e-9, atol=1e-300)


@few
@given(seeds, st.lists(gains, min_size=3, max_size=3), st.lists(offsets, min_size=3, max_size=3))
def test_gains_and_offsets_are_recovered_among_change_and_noise(
    seed: int, gain: list[float], offset: list[float]
) -> None:
    before = ground(seed)
    scale, shift = np.array(gain)[:, None], np.array(offset)[:, None]
    after = (later(before, seed) - shift) / scale
    found = normalise(before, after, everywhere(before))
    assert found.sure
    for line, one, other in zip(found.lines, gain, offset, strict=True):
        assert line.gain == pytest.approx(one, rel=0.02)
        # Over the ground that there is: gain and offset err against each other.
        middle = (1400 - other) / one
        assert line.gain * middle + line.offset == pytest.approx(1400, abs=15)


@few
@given(seeds, gains, offsets)
def test_gain_and_offset_of_a_date_do_not_change_what_is_normalised(
    seed: int, gain: float, offset: float
) -> None:
    before = ground(seed)
    after = later(before, seed)
    results = []
    for image in (after, gain * after + offset):
        lines = normalise(before, image, everywhere(image)).lines
        results.append(
            np.stack([line.gain * band + line.offset for line, band in zip(lines, image, strict=True)])
        )
    np.testing.assert_allclose(results[0], results[1], atol=0.5)


@few
@given(seeds)
def test_swapped_dates_give_the_inverse_line(seed: int) -> None:
    before = ground(seed)
    after = 0.8 * later(before, seed) + 300
    forth, back = (normalise(*dates, everywhere(before)) for dates in ((before, after), (after, before)))
    for one, other in zip(forth.lines, back.lines, strict=True):
        assert one.gain * other.gain == pytest.approx(1, abs=1e-6)
        assert one.gain * other.offset + one.offset == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_equal_dates_are_left_alone(bands: int) -> None:
    image = ground(1, bands)
    found = normalise(image, image, everywhere(image))
    assert found.sure
    for line in found.lines:
        assert line.gain == pytest.approx(1, abs=1e-9)
        assert line.offset == pytest.approx(0, abs=1e-6)


def test_most_unchanged_ground_keeps_its_weight() -> None:
    before = ground(2)
    weights = no_change_weights(before, later(before, 2))
    # Half on average: probabilities of no change are spread evenly over ground that has not changed.
    assert 0.4 < weights[PIXELS // 5 :].mean() < 0.6
    assert weights[: PIXELS // 5].mean() < 0.05


@pytest.mark.parametrize(("bands", "share"), [(1, 0.3634), (2, 0.5), (3, 0.5756)])
def test_kept_variance_of_gaussian_differences(bands: int, share: float) -> None:
    assert kept_variance(bands) == pytest.approx(share, abs=1e-3)


def test_invalid_pixels_take_no_part() -> None:
    before = ground(3)
    after = 0.5 * later(before, 3, changed=0)
    spoiled, valid = after.copy(), everywhere(after)
    spoiled[:, ::3], valid[::3] = 60_000, False
    spoiled[1, 1::3] = np.nan
    known = normalise(before[:, 2::3], after[:, 2::3], everywhere(after)[2::3])
    assert normalise(before, spoiled, valid) == known


class TestWithoutALine:
    def test_a_constant_band(self) -> None:
        before = ground(4)
        after = later(before, 4)
        after[1] = 777
        found = normalise(before, after, everywhere(before))
        assert [line.sure for line in found.lines] == [True, False, True]
        assert (found.lines[1].gain, found.lines[1].offset) == (1, 0)
        assert not found.sure

    @pytest.mark.parametrize("kept", [0, 1, 500])
    def test_hardly_a_valid_pixel(self, kept: int) -> None:
        before = ground(5)
        valid = np.arange(PIXELS) < kept
        found = normalise(before, later(before, 5), valid)
        assert not any(line.sure for line in found.lines)
        assert found.pixels == kept

    def test_unrelated_ground(self) -> None:
        before = ground(6)
        assert not normalise(before, ground(7), everywhere(before)).sure

    def test_a_negative(self) -> None:
        before = ground(8)
        assert not normalise(before, 5000 - later(before, 8), everywhere(before)).sure

    def test_all_bands_constant(self) -> None:
        image = np.full((3, PIXELS), 100.0)
        found = normalise(image, image, everywhere(image))
        assert (found.sure, found.weight) == (False, 0)


def test_bands_that_are_copies_of_each_other_have_a_line() -> None:
    before = np.repeat(ground(9, 1), 3, axis=0)
    found = normalise(before, 0.7 * before + 100, everywhere(before))
    assert found.sure
    assert all(line.gain == pytest.approx(1 / 0.7, rel=1e-6) for line in found.lines)


def test_refuses_arrays_of_other_shapes() -> None:
    image = ground(1)
    with pytest.raises(ValueError, match="do not belong together"):
        normalise(image, image[:2], everywhere(image))
