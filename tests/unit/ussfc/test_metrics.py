"""Metrics against arithmetic by hand, and thresholds against the pipeline's own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ussfc.metrics import LEVELS, Confusion, Tally
from ussfc.pipeline.pixels.encoding import classify, encode
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, BoolArray, ByteArray, FloatArray

NAMES = ["precision", "recall", "f1", "iou", "overall_accuracy", "kappa", "area_ratio"]

# 60 pixels claimed, 70 changed, 200 in all.
BY_HAND = Confusion(tp=50, fp=10, fn=20, tn=120)


def test_every_metric_by_hand() -> None:
    assert BY_HAND.total == 200
    assert BY_HAND.precision == pytest.approx(50 / 60)  # tp / (tp + fp)
    assert BY_HAND.recall == pytest.approx(50 / 70)  # tp / (tp + fn)
    assert BY_HAND.f1 == pytest.approx(100 / 130)  # 2 tp / (2 tp + fp + fn)
    assert BY_HAND.iou == pytest.approx(50 / 80)  # tp / (tp + fp + fn)
    assert BY_HAND.overall_accuracy == pytest.approx(170 / 200)  # (tp + tn) / n
    # p_o = 170 / 200 = 0.85; p_e = 60/200 * 70/200 + 140/200 * 130/200 = 0.105 + 0.455 = 0.56
    # kappa = (0.85 - 0.56) / (1 - 0.56) = 0.29 / 0.44
    assert BY_HAND.kappa == pytest.approx(0.29 / 0.44)
    assert BY_HAND.area_ratio == pytest.approx(60 / 70)  # (tp + fp) / (tp + fn)
    assert list(BY_HAND.scores()) == NAMES
    assert BY_HAND.scores() == {name: getattr(BY_HAND, name) for name in NAMES}


def test_sets_sum_their_matrices() -> None:
    # A second scene without change, 30 of its 200 pixels claimed: F1 0 of its own.
    whole = sum([BY_HAND, Confusion(fp=30, tn=170)], Confusion())
    assert whole == Confusion(tp=50, fp=40, fn=20, tn=290)
    assert whole.f1 == pytest.approx(100 / 160)  # the scenes' mean is (100 / 130 + 0) / 2 = 0.385
    assert whole.iou == pytest.approx(50 / 110)
    # n (tp + tn) = 400 * 340 = 136000; chance = 90 * 70 + 310 * 330 = 108600; n^2 = 160000
    assert whole.kappa == pytest.approx(27400 / 51400)


# None where a metric is not defined. Kappa in the fourth case: (4 * 1 - 1 * 4) / (16 - 4) = 0; in the sixth:
# chance = 1 * 1 + 1 * 1 = 2, (2 * 0 - 2) / (4 - 2) = -1.
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Confusion(), [None, None, None, None, None, None, None]),
        (Confusion(tn=5), [None, None, None, None, 1, None, None]),
        (Confusion(tp=5), [1, 1, 1, 1, 1, None, 1]),
        (Confusion(fp=3, tn=1), [0, None, 0, 0, 0.25, 0, None]),
        (Confusion(fn=3, tn=1), [None, 0, 0, 0, 0.25, 0, 0]),
        (Confusion(fp=1, fn=1), [0, 0, 0, 0, 0, -1, 1]),
        (Confusion(tp=1, tn=1), [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_undefined_scores_are_nan_and_none(found: Confusion, expected: list[float | None]) -> None:
    assert list(found.scores().values()) == expected
    for name, value in zip(NAMES, expected, strict=True):
        assert math.isnan(getattr(found, name)) == (value is None)


def test_kappa_is_exact_for_huge_sets() -> None:
    # tp = tn = a + 1, fp = fn = a: n = 4a + 2, chance = 2 (2a + 1)^2, so that
    # kappa = (n (2a + 2) - chance) / (n^2 - chance) = 2 (2a + 1) / (2 (2a + 1)^2) = 1 / (2a + 1).
    # p_o - p_e in floats keeps four digits of it, and n^2 = 1e22 does not fit 64 bits.
    a = 25_000_000_000
    expected = 1 / (2 * a + 1)
    assert Confusion(a + 1, a, a, a + 1).kappa == expected
    tally = Tally.empty()
    tally.change[[254, 0]] = a + 1, a
    tally.no_change[[254, 0]] = a, a + 1
    assert tally.at(0.5).kappa == expected


masks = hnp.arrays(np.bool_, st.just((4, 5)))


@given(masks, masks)
def test_masks_are_counted_pixel_by_pixel(answer: BoolArray, truth: BoolArray) -> None:
    pairs = list(zip(answer.ravel().tolist(), truth.ravel().tolist(), strict=True))
    expected = [pairs.count(pair) for pair in [(True, True), (True, False), (False, True), (False, False)]]
    found = Confusion.of(answer, truth)
    assert [found.tp, found.fp, found.fn, found.tn] == expected


def test_masks_of_two_shapes_are_refused() -> None:
    # (4, 1) and (1, 4) would broadcast to 16 pixels.
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(1, 4\)"):
        Confusion.of(np.ones((4, 1), bool), np.ones((1, 4), bool))


thresholds = st.one_of(
    st.floats(0, 1),
    st.integers(0, PROBABILITY_STEPS).map(lambda level: level / PROBABILITY_STEPS),
    st.integers(0, 100).map(lambda step: step / 100),
)


@st.composite
def maps(draw: st.DrawFn) -> tuple[FloatArray, BoolArray, BoolArray]:
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    probability = draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    return probability, draw(hnp.arrays(np.bool_, shape)), draw(hnp.arrays(np.bool_, shape))


def as_classified(raster: tuple[FloatArray, BoolArray, BoolArray], threshold: float) -> Confusion:
    """Classify a level as the pipeline does for a product with a byte of probability."""
    probability, truth, valid = raster
    classes = classify(encode(probability, valid, np.dtype(np.uint8)), threshold)
    return Confusion.of(classes[valid] == 1, truth[valid])


@given(maps(), thresholds)
@example((np.full((1, 1), 0.5, np.float32), np.ones((1, 1), bool), np.ones((1, 1), bool)), 0.5)
@example((np.ones((1, 1), np.float32), np.ones((1, 1), bool), np.ones((1, 1), bool)), 1.0)
@example((np.zeros((1, 1), np.float32), np.ones((1, 1), bool), np.ones((1, 1), bool)), 0.0)
def test_thresholds_agree_with_the_products(
    raster: tuple[FloatArray, BoolArray, BoolArray], threshold: float
) -> None:
    probability, truth, valid = raster
    before = valid.copy()
    assert Tally.of(probability, truth, valid).at(threshold) == as_classified(raster, threshold)
    stored = encode(probability, valid, np.dtype(np.uint8))
    assert Tally.of_levels(stored, truth).at(threshold) == as_classified(raster, threshold)
    np.testing.assert_array_equal(valid, before)
    everywhere = (probability, truth, np.ones_like(valid))
    assert Tally.of(probability, truth).at(threshold) == as_classified(everywhere, threshold)


@pytest.mark.parametrize("level", range(LEVELS))
def test_thresholds_on_and_beside_a_level(level: int) -> None:
    stored = np.arange(LEVELS, dtype=np.uint8)
    tally = Tally.of_levels(stored, np.ones(LEVELS, bool))
    on = level / PROBABILITY_STEPS
    assert tally.at(on).tp == LEVELS - level
    for threshold in (np.nextafter(on, 0), np.nextafter(on, 1)):
        assert tally.at(float(threshold)).tp == np.count_nonzero(classify(stored, float(threshold)) == 1)


def test_nodata_does_not_count() -> None:
    stored = np.array([NODATA_BYTE, 254, NODATA_BYTE, 0], np.uint8)
    tally = Tally.of_levels(stored, np.array([True, True, False, False]))
    assert tally.change.shape == tally.no_change.shape == (255,)
    assert tally.at(0) == Confusion(tp=1, fp=1)
    assert tally.at(1) == Confusion(tp=1, tn=1)
    assert Tally.of_levels(stored, np.ones(4, bool), np.array([True, False, True, True])).at(0).total == 1


@given(maps(), maps(), thresholds)
def test_tallies_sum(
    first: tuple[FloatArray, BoolArray, BoolArray],
    second: tuple[FloatArray, BoolArray, BoolArray],
    threshold: float,
) -> None:
    whole = sum([Tally.of(*first), Tally.of(*second)], Tally.empty())
    assert whole.at(threshold) == as_classified(first, threshold) + as_classified(second, threshold)
    assert whole.at(threshold).total == np.count_nonzero(first[2]) + np.count_nonzero(second[2])


levels = hnp.arrays(np.uint8, st.integers(1, 30), elements=st.integers(0, 254))


def tally_of(change: ByteArray | list[int], no_change: ByteArray | list[int]) -> Tally:
    both = np.concatenate([np.asarray(change, np.uint8), np.asarray(no_change, np.uint8)])
    return Tally.of_levels(both, np.arange(both.size) < len(change))


@given(levels, levels)
def test_best_threshold_beats_all_hundredths(change: ByteArray, no_change: ByteArray) -> None:
    def f1(hundredth: int) -> Fraction:
        # level / 254 >= hundredth / 100, in integers
        tp = sum(100 * level >= 254 * hundredth for level in change.tolist())
        fp = sum(100 * level >= 254 * hundredth for level in no_change.tolist())
        return Fraction(2 * tp, tp + fp + change.size)

    scores = {hundredth: f1(hundredth) for hundredth in range(1, 100)}
    best = tally_of(change, no_change).best_threshold()
    found = round(best * 100)
    assert best == found / 100
    ties = [hundredth for hundredth, score in scores.items() if score == max(scores.values())]
    assert found in ties
    assert abs(found - 50) == min(abs(hundredth - 50) for hundredth in ties)


@pytest.mark.parametrize(
    ("change", "no_change", "expected"),
    [
        # Perfect from level 91 to level 100: above 0.354, up to 0.394; 0.39 is nearest 0.5.
        ([100], [90], 0.39),
        # Perfect from level 201 (above 0.787) to level 240 (up to 0.944).
        ([240], [200], 0.79),
        # All the same: everything found, nothing to find, no pixel at all.
        ([254], [0], 0.5),
        ([], [200], 0.5),
        ([], [], 0.5),
        # Level 2 is 0.0079: no hundredth finds it, each has F1 0.
        ([2], [], 0.5),
        # The ends are candidates: level 3 is 0.0118, level 252 is 0.992 and level 251 is 0.988.
        ([3], [], 0.01),
        ([252], [251], 0.99),
    ],
)
def test_best_thresholds_by_hand(change: list[int], no_change: list[int], expected: float) -> None:
    assert tally_of(change, no_change).best_threshold() == expected


def test_average_precision_by_hand() -> None:
    # From the top: change, none, change, none. Recall 1/2 at precision 1/1, then 2/2 at precision 2/3.
    assert tally_of([254, 127], [200, 10]).average_precision() == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    # One level for all is one step: precision 2/3 for the whole recall.
    assert tally_of([60, 60], [60]).average_precision() == pytest.approx(2 / 3)
    assert tally_of([254, 0], []).average_precision() == 1


@given(levels, levels)
def test_average_precision_by_definition(change: ByteArray, no_change: ByteArray) -> None:
    precisions = []
    for level in change:
        tp, fp = np.count_nonzero(change >= level), np.count_nonzero(no_change >= level)
        precisions.append(tp / (tp + fp))
    assert tally_of(change, no_change).average_precision() == pytest.approx(np.mean(precisions))


def test_average_precision_needs_change() -> None:
    assert math.isnan(tally_of([], [200]).average_precision())


def test_average_precision_needs_pixels() -> None:
    assert math.isnan(Tally.empty().average_precision())


def test_the_ends_of_the_curve() -> None:
    curve = tally_of([240, 100, 100], [200, 0]).curve()
    # Threshold 0 claims all 5; the last claims the top pixel alone, levels above it claim nothing.
    assert curve[0] == (0, 3 / 5, 1)
    assert curve[-1] == (240 / 254, 1, 1 / 3)
    assert len(curve) == 241
    assert curve[101] == (101 / 254, 1 / 2, 1 / 3)
    assert [threshold for threshold, _, _ in curve] == sorted(threshold for threshold, _, _ in curve)
    assert Tally.empty().curve() == []


@given(levels, levels)
def test_curve_agrees_with_its_thresholds(change: ByteArray, no_change: ByteArray) -> None:
    tally = tally_of(change, no_change)
    for threshold, precision, recall in tally.curve():
        found = tally.at(threshold)
        assert (found.precision, found.recall) == (precision, recall)


@given(levels, levels)
def test_calibration_error_by_definition(change: ByteArray, no_change: ByteArray) -> None:
    found = tally_of(change, no_change)
    every = np.concatenate([change, no_change]).astype(float) / 254
    truth = np.arange(every.size) < change.size
    interval = np.minimum(every * 5, 4).astype(int)
    parts = [abs(every[interval == each].sum() - truth[interval == each].sum()) for each in range(5)]
    assert found.calibration_error(5) == pytest.approx(sum(parts) / every.size)
    assert sum(pixels for _, _, pixels in found.reliability(5)) == every.size


def test_calibration_error_needs_pixels() -> None:
    assert math.isnan(Tally.empty().calibration_error())
    assert Tally.empty().reliability() == []


def test_probabilities_drawn_from_themselves_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(200_000).astype(np.float32)
    truth = rng.random(probability.size) < probability
    right, timid = Tally.of(probability, truth), Tally.of(probability / 2, truth)
    assert right.calibration_error() < 0.005
    assert timid.calibration_error() == pytest.approx(0.25, abs=0.01)
    for mean, share, _ in timid.reliability():
        assert share == pytest.approx(2 * mean, abs=0.05)


@pytest.mark.parametrize("wanted", [0.5, 1.0, 2.0])
def test_temperature_undoes_a_factor_of_the_logits(wanted: float) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, 400_000)
    truth = rng.random(logits.size) < 1 / (1 + np.exp(-logits))
    found = Tally.of((1 / (1 + np.exp(-wanted * logits))).astype(np.float32), truth)
    assert found.temperature() == pytest.approx(wanted, rel=0.03)
    assert found.calibration_error(temperature=found.temperature()) < 0.005
    assert wanted == 1 or found.calibration_error() > 0.02
    pixels = [sum(count for _, _, count in found.reliability(temperature=at)) for at in (1, wanted)]
    assert pixels == [logits.size, logits.size]


@given(levels, levels)
def test_temperature_has_the_largest_likelihood(change: ByteArray, no_change: ByteArray) -> None:
    tally = tally_of(change, no_change)
    best = tally.temperature()
    assume(not math.isnan(best))
    inner = np.arange(1, 254)
    logits = np.log(inner / (254 - inner))

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        wrong = tally.change[1:-1] * np.logaddexp(0, -scaled), tally.no_change[1:-1] * np.logaddexp(0, scaled)
        return float(sum(each.sum() for each in wrong))

    assert loss(best) <= min(loss(best * factor) for factor in (0.9, 0.99, 1.01, 1.1)) + 1e-9


@pytest.mark.parametrize(
    ("change", "no_change"),
    [
        ([], []),
        ([], [3, 90]),  # all right: the smaller the better
        ([200], [20]),  # the same
        ([20], [200]),  # all wrong: the larger the better
        ([254, 0, 127], [0, 254, 127]),  # no level that a temperature moves
    ],
)
def test_temperature_is_not_defined(change: list[int], no_change: list[int]) -> None:
    tally = tally_of(np.array(change, np.uint8), np.array(no_change, np.uint8))
    assert math.isnan(tally.temperature())


def test_ends_stay_where_they_are_at_every_temperature() -> None:
    tally = tally_of(np.array([254], np.uint8), np.array([0], np.uint8))
    assert tally.reliability(temperature=3) == [(0, 0, 1), (1, 1, 1)]
