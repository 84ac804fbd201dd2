"""Windows spread over an image, and the shift measured in one by phase correlation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage
from skimage.registration import phase_cross_correlation

from tests.support.textures import SIZE, dates, moved, texture
from ussfc.pipeline.pixels.phase_correlation import (
    MIN_VALID,
    Feature,
    Window,
    WindowShift,
    choose_windows,
    fine_peak,
    measure_shift,
    whole_peak,
)
from ussfc.pipeline.types import BoolArray, FloatArray

WHOLE = Window(0, 0, SIZE)

few = settings(max_examples=10, deadline=None)
many = settings(max_examples=20, deadline=None)
shifts = st.floats(-6, 6)
seeds = st.integers(0, 10_000)


def measured(
    before: FloatArray,
    after: FloatArray,
    valid: BoolArray | None = None,
    feature: Feature | Literal["auto"] = "auto",
) -> WindowShift:
    found = measure_shift(WHOLE, before, after, valid, feature)
    assert found is not None
    return found


class TestWindows:
    @many
    @given(st.integers(16, 700), st.integers(16, 700), seeds, st.integers(1, 60), st.integers(16, 200))
    def test_lie_inside_and_are_not_too_many(
        self, rows: int, cols: int, seed: int, count: int, size: int
    ) -> None:
        windows = choose_windows((rows, cols), seed, count, size)
        assert len(windows) <= count
        assert bool(windows) == (min(rows, cols) >= size)
        assert all(0 <= w.y <= rows - size and 0 <= w.x <= cols - size and w.size == size for w in windows)
        assert windows == choose_windows((rows, cols), seed, count, size)

    def test_reach_every_part_of_the_image(self) -> None:
        windows = choose_windows((2000, 4000), 3, 50, 128)
        assert len(windows) >= 45
        quarters = {(w.y // 1000, w.x // 1000) for w in windows}
        assert len(quarters) == 8

    @many
    @given(
        st.integers(1024, 40_000),
        st.integers(1024, 40_000),
        st.integers(9, 100),
        st.sampled_from([256, 512, 1024]),
    )
    def test_aligned_ones_lie_in_one_block_each(self, rows: int, cols: int, count: int, block: int) -> None:
        windows = choose_windows((rows, cols), 0, count, 256, aligned=True)
        assert len(set(windows)) == len(windows) <= count
        assert all(
            w.y // block == (w.y + 255) // block and w.x // block == (w.x + 255) // block for w in windows
        )
        assert all(w.y + 256 <= rows and w.x + 256 <= cols for w in windows)
        # Few fall together, and where there are many, every quarter has some.
        assert len(windows) >= 0.6 * min(count, (rows // 256) * (cols // 256))
        assert count < 36 or len({(2 * w.y + 256 > rows, 2 * w.x + 256 > cols) for w in windows}) == 4

    def test_differ_between_seeds(self) -> None:
        assert choose_windows((999, 999), 1, 9, 64) != choose_windows((999, 999), 2, 9, 64)

    @pytest.mark.parametrize(("count", "size"), [(0, 64), (4, 15)])
    def test_refuse_too_few(self, count: int, size: int) -> None:
        with pytest.raises(ValueError, match="at least"):
            choose_windows((500, 500), 0, count, size)


class TestMeasure:
    @few
    @given(seeds, shifts, shifts)
    def test_sign_and_size_of_the_shift(self, seed: int, dy: float, dx: float) -> None:
        before, after = dates(seed, dy, dx)
        found = measured(before, after)
        assert np.hypot(found.dy - dy, found.dx - dx) <= 0.1
        assert found.quality > 0.5

    def test_sampling_after_by_the_shift_gives_before(self) -> None:
        before, after = dates(4, 2.3, -1.6)
        found = measured(before, after)
        rows, cols = np.mgrid[20 : SIZE - 20, 20 : SIZE - 20].astype(float)
        sampled = ndimage.map_coordinates(after, [rows + found.dy, cols + found.dx], order=3)
        inner = before[20:-20, 20:-20]
        assert np.corrcoef(sampled.ravel(), inner.ravel())[0, 1] > 0.99
        assert np.corrcoef(after[20:-20, 20:-20].ravel(), inner.ravel())[0, 1] < 0.9

    @few
    @given(seeds, shifts, shifts)
    def test_swapped_dates_turn_the_sign(self, seed: int, dy: float, dx: float) -> None:
        before, after = dates(seed, dy, dx)
        there, back = measured(before, after), measured(after, before)
        assert abs(there.dy + back.dy) <= 0.06
        assert abs(there.dx + back.dx) <= 0.06

    @few
    @given(seeds, shifts, shifts, st.floats(0.01, 50), st.floats(-5000, 5000), st.booleans())
    def test_gain_offset_and_sign_do_not_matter(
        self, seed: int, dy: float, dx: float, gain: float, offset: float, negative: bool
    ) -> None:
        before, after = dates(seed, dy, dx)
        other = (after * np.float32(-gain if negative else gain) + np.float32(offset)).astype(np.float32)
        one, two = measured(before, after), measured(before, other)
        assert abs(one.dy - two.dy) <= 0.02
        assert abs(one.dx - two.dx) <= 0.02

    @few
    @given(seeds, st.floats(-2, 2), st.floats(-2, 2), st.integers(-5, 5), st.integers(-5, 5))
    def test_whole_pixels_add_up(self, seed: int, dy: float, dx: float, rows: int, cols: int) -> None:
        before, after = dates(seed, dy, dx)
        _, farther = dates(seed, dy + rows, dx + cols)
        one, two = measured(before, after), measured(before, farther)
        assert abs(two.dy - one.dy - rows) <= 0.06
        assert abs(two.dx - one.dx - cols) <= 0.06

    def test_same_arguments_give_the_same_answer(self) -> None:
        before, after = dates(7, 0.4, 1.7)
        assert measured(before, after) == measured(before, after)

    def test_copies_lie_at_zero_with_full_quality(self) -> None:
        before, _ = dates(8, 0, 0)
        found = measured(before, before)
        assert (found.dy, found.dx) == (0, 0)
        assert found.quality == pytest.approx(1, abs=1e-3)

    def test_aliases_do_not_draw_towards_whole_pixels(self) -> None:
        # Blocks of four pixels, averaged, are what a sensor sees; phase correlation of all frequencies gives 0.17.
        scene = texture(9, (4 * SIZE + 4, 4 * SIZE + 4), blur=2.0)

        def averaged(x: int) -> FloatArray:
            blocks = scene[: 4 * SIZE, x : x + 4 * SIZE].reshape(SIZE, 4, SIZE, 4)
            return blocks.mean((1, 3)).astype(np.float32)

        found = measured(averaged(0), averaged(1))
        assert abs(found.dx + 0.25) <= 0.03
        assert abs(found.dy) <= 0.03

    def test_a_mask_in_both_dates_does_not_hold_the_shift_at_zero(self) -> None:
        before, after = dates(10, 1.4, -2.2)
        valid = np.ones((SIZE, SIZE), bool)
        valid[:30, :50] = valid[60:75, 20:] = False
        before[~valid] = 0
        after[~valid] = np.nan
        found = measured(before, after, valid)
        assert np.hypot(found.dy - 1.4, found.dx + 2.2) <= 0.1

    def test_gradients_match_where_half_of_the_ground_turned_dark(self) -> None:
        scene = texture(11, (SIZE + 32, SIZE + 32), blur=1.5)
        turned = moved(scene, 1.5, 0.7)
        stripes = (np.arange(SIZE + 32) // 8 % 2 == 0)[:, None]
        turned = np.where(stripes, 2000 - turned, turned).astype(np.float32)
        inner = np.s_[16 : 16 + SIZE, 16 : 16 + SIZE]
        found = measured(scene[inner], turned[inner], feature="gradients")
        assert found.feature == "gradients"
        assert np.hypot(found.dy - 1.5, found.dx - 0.7) <= 0.25

    @pytest.mark.parametrize("flat", [0, 1])
    def test_a_flat_window_has_no_shift(self, flat: int) -> None:
        pair = list(dates(12, 0, 0))
        pair[flat] = np.full((SIZE, SIZE), 7, np.float32)
        assert measure_shift(WHOLE, pair[0], pair[1]) is None

    def test_too_little_data_has_no_shift(self) -> None:
        before, after = dates(13, 0, 0)
        valid = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) < (MIN_VALID - 0.02) * SIZE * SIZE
        assert measure_shift(WHOLE, before, after, valid) is None

    def test_different_places_have_no_quality(self) -> None:
        found = measured(texture(1, (SIZE, SIZE)), texture(2, (SIZE, SIZE)))
        assert found.quality * SIZE < 48

    def test_refuses_other_sizes_and_numbers_that_are_none(self) -> None:
        before, after = dates(14, 0, 0)
        with pytest.raises(ValueError, match="expected"):
            measure_shift(WHOLE, before[1:], after)
        before[3, 3] = np.inf
        with pytest.raises(ValueError, match="finite"):
            measure_shift(WHOLE, before, after)


class TestPeak:
    """The peak of a correlation, beside scikit-image's, which evaluates every hundredth of a pixel at once."""

    @many
    @given(st.integers(24, 90), st.integers(24, 90), seeds, shifts, shifts)
    def test_is_where_scikit_image_finds_it(
        self, rows: int, cols: int, seed: int, dy: float, dx: float
    ) -> None:
        frequencies = fft.fftfreq(rows)[:, None], fft.fftfreq(cols)
        # Noise that is as smooth as the weight of the measurement makes any image, on a torus.
        smooth = np.exp(-sum(f**2 for f in frequencies) / (2 * 0.15**2))
        spectrum = smooth * fft.fft2(np.random.default_rng(seed).standard_normal((rows, cols)))
        turned = spectrum * np.exp(-2j * np.pi * (dy * frequencies[0] + dx * frequencies[1]))
        images = [fft.ifft2(either).real for either in (spectrum, turned)]
        halves = [fft.rfft2(image.astype(np.float32)) for image in images]
        product = halves[0].conj() * halves[1]

        whole = phase_cross_correlation(images[1], images[0], normalization=None)[0]
        assert np.array_equal(whole_peak(product, cols), whole)
        expected = phase_cross_correlation(images[1], images[0], normalization=None, upsample_factor=100)[0]
        found = fine_peak(product, cols)
        np.testing.assert_allclose(found[:2], expected, atol=0.0101)
        np.testing.assert_allclose(found[:2], (dy, dx), atol=0.02)
