"""Laws of the consensus of windows: on their shifts alone, and on images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.support.textures import moved, texture
from ussfc.pipeline.pixels.phase_correlation import WindowShift, choose_windows, measure_shift
from ussfc.pipeline.pixels.registration import (
    AGREEMENT,
    RegistrationEstimate,
    Shift,
    estimate_registration,
)
from ussfc.pipeline.types import BoolArray, FloatArray

few = settings(max_examples=10, deadline=None)
many = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)


def field_of(
    field: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]],
    count: int = 80,
    scatter: float = 0.05,
    shape: tuple[int, int] = (2400, 3000),
    seed: int = 0,
) -> list[WindowShift]:
    """Return windows whose shifts follow a field, with Gaussian scatter in pixels."""
    rng = np.random.default_rng(seed)
    windows = choose_windows(shape, seed, count, 128)
    centres = np.array([window.centre for window in windows])
    dy, dx = field(centres[:, 0], centres[:, 1])
    noise = scatter * rng.standard_normal((2, len(windows)))
    return [
        WindowShift(window, float(y), float(x), 0.6)
        for window, y, x in zip(windows, dy + noise[0], dx + noise[1], strict=True)
    ]


def constant(dy: float, dx: float) -> Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    return lambda y, x: (np.full(y.shape, dy), np.full(y.shape, dx))


def estimate_images(
    before: FloatArray, after: FloatArray, valid: BoolArray | None = None, count: int = 40, size: int = 128
) -> RegistrationEstimate:
    found = []
    for window in choose_windows(before.shape, 0, count, size):
        part = np.s_[window.y : window.y + size, window.x : window.x + size]
        known = None if valid is None else valid[part]
        one = measure_shift(window, before[part], after[part], known)
        if one is not None:
            found.append(one)
    return estimate_registration(found, before.shape)


class TestEstimate:
    @many
    @given(st.floats(-20, 20), st.floats(-20, 20), seeds)
    def test_translation_is_found_among_wrong_windows(self, dy: float, dx: float, seed: int) -> None:
        windows = field_of(constant(dy, dx), seed=seed)
        rng = np.random.default_rng(seed)
        for index in rng.choice(len(windows), int(0.4 * len(windows)), replace=False):
            wrong = rng.uniform(-40, 40, 2)
            windows[index] = WindowShift(windows[index].window, float(wrong[0]), float(wrong[1]), 0.3)
        found = estimate_registration(windows, (2400, 3000))
        assert found.sure
        assert found.shift.kind == "translation"
        assert np.hypot(found.shift.dy[0] - dy, found.shift.dx[0] - dx) <= 0.05

    @many
    @given(st.integers(-30, 30), st.integers(-30, 30), seeds, st.sampled_from(["still", "turned"]))
    def test_adding_a_shift_to_all_windows_adds_it_to_the_estimate(
        self, dy: float, dx: float, seed: int, kind: str
    ) -> None:
        turned = (lambda y, x: (4e-4 * x, -4e-4 * y)) if kind == "turned" else constant(0.2, -0.3)
        windows = field_of(turned, seed=seed)
        added = [WindowShift(w.window, w.dy + dy, w.dx + dx, w.quality) for w in windows]
        one, two = (estimate_registration(each, (2400, 3000)) for each in (windows, added))
        assert one.shift.kind == two.shift.kind
        assert one.inliers == two.inliers
        for place in ((0, 0), (1200, 1500), (2399, 10)):
            before, after = np.array(one.shift.shift_at(*place)), np.array(two.shift.shift_at(*place))
            np.testing.assert_allclose(after - before, (dy, dx), atol=1e-4)

    @many
    @given(seeds)
    def test_negative_windows_give_the_negative_estimate(self, seed: int) -> None:
        windows = field_of(lambda y, x: (3e-4 * x - 0.5, -3e-4 * y), seed=seed)
        turned = [WindowShift(w.window, -w.dy, -w.dx, w.quality) for w in windows]
        one, two = (estimate_registration(each, (2400, 3000)) for each in (windows, turned))
        np.testing.assert_allclose(one.shift.dy, np.negative(two.shift.dy), atol=1e-4)
        np.testing.assert_allclose(one.shift.dx, np.negative(two.shift.dx), atol=1e-4)

    def test_a_rotation_needs_and_gets_an_affine_field(self) -> None:
        angle = np.deg2rad(0.1)
        found = estimate_registration(
            field_of(lambda y, x: (angle * (x - 1500) + 3, -angle * (y - 1200))), (2400, 3000)
        )
        assert found.sure
        assert found.shift.kind == "affine"
        dy, dx = found.shift.shift_at([0, 1200, 2400], [0, 1500, 3000])
        np.testing.assert_allclose(dy, [3 - angle * 1500, 3, 3 + angle * 1500], atol=0.05)
        np.testing.assert_allclose(dx, [angle * 1200, 0, -angle * 1200], atol=0.05)

    def test_a_bowl_needs_and_gets_a_quadratic_field(self) -> None:
        found = estimate_registration(
            field_of(lambda y, x: (1.5 * (x / 1500 - 1) ** 2, 0.8 * (y / 1200 - 1) * (x / 1500 - 1))),
            (2400, 3000),
        )
        assert found.shift.kind == "quadratic"
        assert found.spread_after < 0.1 < found.spread_before
        with pytest.raises(ValueError, match="quadratic"):
            found.shift.matrix()

    @many
    @given(seeds, st.floats(0.05, 0.3))
    def test_scatter_alone_stays_a_translation(self, seed: int, scatter: float) -> None:
        found = estimate_registration(field_of(constant(0.4, 0.1), scatter=scatter, seed=seed), (2400, 3000))
        assert found.shift.kind == "translation"

    @many
    @given(seeds)
    def test_leaning_towers_do_not_bend_the_field(self, seed: int) -> None:
        # Every third window sees roofs, which lean one way by up to 4 px, most of them in the middle of the city.
        windows = field_of(constant(0.3, -0.2), seed=seed)
        rng = np.random.default_rng(seed)
        centres = np.array([each.window.centre for each in windows])
        order = np.argsort(np.hypot(*(centres - (1200, 1500)).T) + rng.uniform(0, 300, len(windows)))
        for index in order[: len(windows) // 3]:
            lean = float(rng.gamma(2, 0.7))
            windows[index] = WindowShift(windows[index].window, 0.3 + lean, -0.2 - 0.4 * lean, 0.5)
        found = estimate_registration(windows, (2400, 3000))
        assert found.shift.kind == "translation"
        assert np.hypot(found.shift.dy[0] - 0.3, found.shift.dx[0] + 0.2) <= 0.1

    @many
    @given(seeds)
    def test_windows_that_disagree_are_not_sure(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        windows = [
            WindowShift(window, float(rng.uniform(-40, 40)), float(rng.uniform(-40, 40)), 0.3)
            for window in choose_windows((2400, 3000), seed, 60, 128)
        ]
        assert not estimate_registration(windows, (2400, 3000)).sure

    def test_under_half_of_the_windows_is_not_sure(self) -> None:
        windows = field_of(constant(1, 1))
        rng = np.random.default_rng(0)
        for index in range(int(0.55 * len(windows))):
            away = rng.uniform(5, 40, 2)
            windows[index] = WindowShift(windows[index].window, float(away[0]), float(away[1]), 0.3)
        assert not estimate_registration(windows, (2400, 3000)).sure

    @pytest.mark.parametrize("quality", [0.0, 0.05])
    def test_windows_without_quality_take_no_part(self, quality: float) -> None:
        windows = [WindowShift(w.window, 1.0, 2.0, quality) for w in field_of(constant(0, 0))]
        found = estimate_registration(windows, (2400, 3000))
        assert not found.sure
        assert found.shift.length_over((2400, 3000)) == (0, 0)
        assert found.agreement == 0
        assert len(found.windows) == len(found.used) == len(found.inliers) == len(windows)

    @pytest.mark.parametrize("count", [0, 1, 4])
    def test_few_windows_are_not_sure(self, count: int) -> None:
        found = estimate_registration(field_of(constant(1, 2))[:count], (2400, 3000))
        assert not found.sure
        assert found.tolerance >= AGREEMENT[0]

    def test_same_windows_give_the_same_estimate(self) -> None:
        windows = field_of(lambda y, x: (4e-4 * x, -4e-4 * y))
        assert estimate_registration(windows, (2400, 3000)) == estimate_registration(windows, (2400, 3000))


class TestShift:
    @many
    @given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(0, 3000), st.floats(0, 3000))
    def test_the_matrix_equals_shift_at(self, numbers: list[float], y: float, x: float) -> None:
        shift = Shift("affine", tuple(numbers[:3]), tuple(numbers[3:]), (1000, 1500), 1500)
        dy, dx = shift.shift_at(y, x)
        np.testing.assert_allclose(shift.matrix() @ (y, x, 1), (y + dy, x + dx), atol=1e-6)

    def test_places_broadcast(self) -> None:
        shift = Shift("quadratic", (1, 2, 3, 4, 5, 6), (0, 0, 0, 0, 0, 1), (0, 0), 10)
        dy, dx = shift.shift_at(np.arange(3)[:, None], np.arange(4)[None])
        assert dy.shape == dx.shape == (3, 4)
        assert dy[1, 2] == pytest.approx(1 + 0.2 + 0.6 + 0.04 + 0.1 + 0.24)
        assert dx[1, 2] == pytest.approx(0.04)

    def test_length_of_a_translation(self) -> None:
        typical, most = Shift("translation", (3.0,), (4.0,), (0, 0), 1).length_over((50, 60))
        assert typical == most == 5


def seen_later(
    before: FloatArray, length: float, direction: float, degrees: float, seed: int
) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Return a scene on a later date: moved, turned about its middle, noisy, of another season, a fifth under clouds.

    Args:
        before: (side, side).
        length: of the shift, pixels.
        direction: of the shift from the columns' axis, radians.
        degrees: of the rotation.
        seed: of noise, season and clouds.

    Returns:
        The later date, and the (2, 3) matrix that takes (y, x, 1) in ``before`` to (y, x) in it.
    """
    side, angle = before.shape[0], np.deg2rad(degrees)
    middle = (side - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = length * np.array([np.sin(direction), np.cos(direction)])
    matrix = np.column_stack([turn, middle - turn @ (middle, middle) + shift])
    back = np.linalg.inv(turn)
    after = ndimage.affine_transform(before, back, -back @ matrix[:, 2], order=3, mode="reflect")
    rng = np.random.default_rng(seed)
    fields = ndimage.zoom(rng.uniform(0.5, 1.5, (9, 9)), -(-side // 9) + 1, order=1)[:side, :side]
    after = 300 + 0.7 * after * fields + 60 * rng.standard_normal(after.shape)
    cloud = ndimage.gaussian_filter(rng.standard_normal(after.shape), 40)
    after = np.where(cloud > np.quantile(cloud, 0.8), 6000 + 500 * cloud, after).astype(np.float32)
    return after, matrix


def displacement_error(found: Shift, matrix: npt.NDArray[np.float64], side: int) -> float:
    """Return the median distance of an estimate from a matrix over an image, pixels."""
    places = np.mgrid[0 : side : side // 8, 0 : side : side // 8].astype(float).reshape(2, -1)
    there = matrix @ np.concatenate([places, np.ones((1, places.shape[1]))])
    return float(np.median(np.hypot(*(places + found.shift_at(*places) - there))))


class TestImages:
    @settings(max_examples=4, deadline=None)
    @given(st.floats(0.25, 20), st.floats(0, 2 * np.pi), st.floats(-0.1, 0.1), seeds)
    def test_shift_and_rotation_with_noise_season_and_cloud(
        self, length: float, direction: float, degrees: float, seed: int
    ) -> None:
        side = 512
        before = texture(seed, (side, side))
        after, matrix = seen_later(before, length, direction, degrees, seed)
        found = estimate_images(before, after)
        assert found.sure
        assert displacement_error(found.shift, matrix, side) <= 0.1
        # A correction of the wrong sign would double the shift instead.
        assert displacement_error(found.shift, np.eye(2, 3), side) == pytest.approx(length, abs=0.5)

    @settings(max_examples=4, deadline=None)
    @given(seeds, st.floats(0, 2 * np.pi))
    def test_towers_that_lean_one_way_do_not_bend_the_field(self, seed: int, direction: float) -> None:
        side = 512
        rng = np.random.default_rng(seed)
        before = texture(seed, (side, side))
        after = moved(before, 0.6, -0.4)
        lean = np.array([np.sin(direction), np.cos(direction)])
        for _ in range(80):
            # Most stand in the middle of the city; roofs are drawn as they are seen, by height beside their feet.
            y, x = np.clip(rng.normal(side / 2, side / 10, 2), 20, side - 40).astype(int)
            rows, cols = rng.integers(6, 16, 2)
            there = np.rint((y + 0.6, x - 0.4) + rng.gamma(2, 1.5) * lean).astype(int)
            roof = rng.normal(2200, 300, (rows, cols))
            before[y : y + rows, x : x + cols] = roof
            after[there[0] : there[0] + rows, there[1] : there[1] + cols] = roof
        found = estimate_images(before, after)
        assert found.sure
        assert found.shift.kind == "translation"
        assert np.hypot(found.shift.dy[0] - 0.6, found.shift.dx[0] + 0.4) <= 0.1

    def test_a_small_rotation_is_found(self) -> None:
        before = texture(21, (640, 640))
        angle = np.deg2rad(0.1)
        rows, cols = np.mgrid[0:640, 0:640].astype(float)
        there = [rows - angle * (cols - 320) - 1, cols + angle * (rows - 320)]
        after = ndimage.map_coordinates(before, there, order=3, mode="reflect").astype(np.float32)
        found = estimate_images(before, after, size=96, count=60)
        assert found.sure
        assert found.shift.kind == "affine"
        for y, x in ((100, 100), (320, 320), (540, 100)):
            dy, dx = found.shift.shift_at(y, x)
            assert np.hypot(dy - angle * (x - 320) - 1, dx + angle * (y - 320)) <= 0.1

    def test_different_places_are_not_sure(self) -> None:
        assert not estimate_images(texture(1, (512, 512)), texture(2, (512, 512))).sure
