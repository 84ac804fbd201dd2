"""IR-MAD beside the network: distances that follow from a pixel's surroundings alone, and the odds of both."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfc.pipeline.pixels.alteration import Alteration, CombinedOdds
from ussfc.pipeline.pixels.normalisation import alteration
from ussfc.pipeline.types import PROBABILITY_STEPS, BoolArray, Box, FloatArray, PixelPair

law = settings(deadline=None, max_examples=60)

ODDS = CombinedOdds(Alteration((), (), 1.0), network=0.3, distance=2.0, offset=-3.0, blur=1.5, margin=5)
SIDE = 60
CHANGED = Box(20, 25, 30, 38)


def land(seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return both dates of land with noise, (3, 60, 60), changed in :data:`CHANGED`."""
    rng = np.random.default_rng(seed)
    common = rng.random((1, SIDE, SIDE)) * [[[0.5]], [[0.4]], [[0.3]]]
    before, after = (common + 0.1 + 0.02 * rng.standard_normal((3, SIDE, SIDE)) for _ in range(2))
    after[(slice(None), *CHANGED.slices)] = 0.2 + 0.3 * rng.random((3, *CHANGED.shape))
    return before.astype(np.float32), after.astype(np.float32)


def found(before: FloatArray, after: FloatArray) -> Alteration:
    result = Alteration.of(before.reshape(3, -1), after.reshape(3, -1))
    assert result is not None
    return result


def odds_of(before: FloatArray, after: FloatArray) -> CombinedOdds:
    return CombinedOdds(found(before, after), 0.3, 2.0, -3.0, 1.5, 5)


def whole(
    odds: CombinedOdds, before: FloatArray, after: FloatArray, seen: BoolArray | None = None
) -> FloatArray:
    seen = np.ones(before.shape[1:], np.bool_) if seen is None else seen
    return odds.log_distance(PixelPair(before, after, seen).dates, seen, Box(0, 0, SIDE, SIDE))


def test_distances_are_those_of_irmad() -> None:
    before, after = land()
    expected = alteration(before.reshape(3, -1).astype(float), after.reshape(3, -1).astype(float))
    assert expected is not None
    distance = found(before, after).distance(before, after)
    np.testing.assert_allclose(distance.ravel(), np.sqrt(expected[0]), rtol=2e-3, atol=2e-3)
    assert found(before, after).typical == pytest.approx(float(np.median(distance)), rel=1e-5)


def test_changed_ground_is_farther_away_than_the_rest() -> None:
    before, after = land()
    distance = whole(odds_of(before, after), before, after)
    inside = distance[25, 31]
    distance[CHANGED.grown(6).slices] = 0
    assert inside > 0.8 > distance.max()


def test_gains_and_offsets_of_a_date_change_nothing() -> None:
    before, after = land()
    other = 0.6 * after + np.array([0.1, 0.05, 0.2], np.float32)[:, None, None]
    np.testing.assert_allclose(
        whole(odds_of(before, after), before, after), whole(odds_of(before, other), before, other), atol=2e-3
    )


def test_swapped_dates_give_the_same_distances() -> None:
    before, after = land()
    np.testing.assert_allclose(
        whole(odds_of(before, after), before, after), whole(odds_of(after, before), after, before), atol=2e-3
    )


def test_the_same_date_twice_is_nowhere_far_away() -> None:
    before, _ = land()
    assert np.abs(whole(odds_of(before, before), before, before)).max() < 0.2


@law
@given(
    seed=st.integers(0, 1000),
    hidden=st.sampled_from([0.0, 0.001, 0.3, 1.0]),
    corner=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    extra=st.tuples(*[st.integers(0, 9)] * 4),
)
def test_a_window_gives_the_bits_of_the_whole(
    seed: int, hidden: float, corner: tuple[int, int], size: tuple[int, int], extra: tuple[int, int, int, int]
) -> None:
    before, after = land(seed)
    seen = np.random.default_rng(seed).random((SIDE, SIDE)) >= hidden
    odds, grid = odds_of(*land()), Box(0, 0, SIDE, SIDE)
    core = Box(*corner, corner[0] + size[0], corner[1] + size[1]).intersect(grid)
    around = core.grown(odds.margin)
    window = Box(
        around.y0 - extra[0], around.x0 - extra[1], around.y1 + extra[2], around.x1 + extra[3]
    ).intersect(grid)
    part, visible = (slice(None), *window.slices), seen[window.slices]
    dates = PixelPair(before[part], after[part], visible).dates
    cut = odds.log_distance(dates, visible, core.within(window))
    assert cut.tobytes() == whole(odds, before, after, seen)[core.slices].tobytes()


def test_hidden_pixels_count_for_nothing() -> None:
    before, after = land()
    odds, seen = odds_of(before, after), np.ones((SIDE, SIDE), np.bool_)
    seen[40:48, 10:20] = False
    disturbed = after.copy()
    disturbed[:, ~seen] = 9.0
    plain, other = (whole(odds, before, date, seen)[seen] for date in (after, disturbed))
    assert plain.tobytes() == other.tobytes()


def test_rows_that_are_blurred_apart_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = land()
    odds = odds_of(before, after)
    at_once = whole(odds, before, after)
    monkeypatch.setattr("ussfc.pipeline.pixels.alteration.DISTANCE_ROWS", 7)
    monkeypatch.setattr("ussfc.pipeline.pixels.alteration.IN_CACHE", 100)
    monkeypatch.setattr("ussfc.pipeline.pixels.binomial_blur.BLOCK", (5, 11))
    assert whole(odds, before, after).tobytes() == at_once.tobytes()


@law
@given(probability=st.floats(0, 1, width=32), distance=st.floats(-3, 6, width=32))
def test_the_odds_are_a_sum(probability: float, distance: float) -> None:
    least = 0.5 / PROBABILITY_STEPS
    bounded = min(max(probability, least), 1 - least)
    odds = 0.3 * math.log(bounded / (1 - bounded)) + 2.0 * distance - 3.0
    combined = ODDS.combine(np.full((1, 1), probability, np.float32), np.full((1, 1), distance, np.float32))
    assert combined.dtype == np.float32
    assert combined[0, 0] == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-4, abs=1e-6)


def test_more_of_either_is_more_of_both() -> None:
    steps = np.linspace(0, 1, 300, dtype=np.float32)[None]
    for combined in (
        ODDS.combine(steps, np.zeros_like(steps)),
        ODDS.combine(np.full_like(steps, 0.3), 4 * steps - 1),
    ):
        assert (np.diff(combined[0]) >= 0).all()
        assert combined[0, -1] > combined[0, 0] + 0.01


@pytest.mark.parametrize("case", ["few", "constant", "none"])
def test_too_little_is_no_irmad(case: str) -> None:
    before, after = (date.reshape(3, -1) for date in land())
    if case == "few":
        before, after = before[:, :900], after[:, :900]
    elif case == "constant":
        after = np.full_like(after, 0.5)
    else:
        before, after = before[:, :0], after[:, :0]
    assert Alteration.of(before, after) is None


def test_far_ground_leaves_the_network_a_say() -> None:
    """Ground that the sample does not show, as land where nine windows of ten saw the sea, has endless distances."""
    before, after = land()
    odds = odds_of(before, after)
    other = np.ascontiguousarray(np.clip(before * 3 + 0.3, 0, 1)), np.ascontiguousarray(1 - after)
    far = whole(odds, *other)
    assert far.max() == 1.0
    assert odds.combine(np.zeros_like(far), far).max() < 0.2 < odds.combine(np.ones_like(far), far).max()


def test_one_odd_number_on_flat_ground_is_no_endless_distance() -> None:
    step = np.float32(1 / 3500)
    before, after = (np.full((3, SIDE, SIDE), 0.3, np.float32) for _ in range(2))
    before[:, 5, 5] += step
    after[:, 40, 40] += step
    result = found(before, after)
    assert result.typical < 1
    assert result.distance(before, after).max() < 20


def test_a_constant_band_is_left_out() -> None:
    before, after = land()
    after[1] = 0.4
    rest = [0, 2]
    with_it = found(before, after).distance(before, after)
    without = Alteration.of(before[rest].reshape(2, -1), after[rest].reshape(2, -1))
    assert without is not None
    np.testing.assert_allclose(with_it, without.distance(before[rest], after[rest]), rtol=1e-3, atol=1e-3)


@law
@given(
    seed=st.integers(0, 1000),
    kinds=st.tuples(*[st.sampled_from(["land", "flat", "two values", "first band", "one pixel"])] * 6),
    copied=st.booleans(),
)
def test_odd_images_have_distances_or_none(seed: int, kinds: tuple[str, ...], copied: bool) -> None:
    """Flat seas, copies of a band, a single bright pixel: none ends a run."""
    rng = np.random.default_rng(seed)
    dates = land(seed)
    for number, kind in enumerate(kinds):
        date, band = dates[number // 3], number % 3
        if kind == "flat":
            date[band] = rng.random()
        elif kind == "two values":
            date[band] = np.where(rng.random((SIDE, SIDE)) < 0.01, 0.2, 0.7)
        elif kind == "first band":
            date[band] = date[0]
        elif kind == "one pixel":
            date[band] = 0.3
            date[band, 5, 5] = 1.0
    before, after = dates[0], dates[0] if copied else dates[1]
    result = Alteration.of(before.reshape(3, -1), after.reshape(3, -1))
    if result is not None:
        distance = whole(CombinedOdds(result, 0.3, 2.0, -3.0, 1.5, 5), before, after)
        assert np.isfinite(distance).all()
        if copied:
            # Rounding of bands that are copies of each other, far below what any change has.
            assert np.abs(distance).max() < 1
