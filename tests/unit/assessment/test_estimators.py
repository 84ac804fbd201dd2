"""Estimators: worked examples of the papers, coverage of the intervals in simulations."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.assessment.estimators import (
    QUANTILE,
    Estimate,
    Estimates,
    IntArray,
    Labels,
    RealArray,
    as_json,
    estimate,
)

DRAWS = 500


def labels_of(stratum: IntArray, mapped: IntArray, reference: IntArray) -> Labels:
    return Labels(stratum, mapped, reference, np.ones(len(stratum)))


def of_counts(counts: list[list[int]]) -> Labels:
    """Return points whose strata are the map classes, by their numbers: map classes in rows."""
    table = np.array(counts)
    mapped, reference = (np.repeat(number.ravel(), table.ravel()) for number in np.indices(table.shape))
    return labels_of(mapped, mapped, reference)


# Olofsson et al. (2014), Remote Sensing of Environment 148, tables 8 and 9 and pages 54 to 55: pixels of 30 m.
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]


def halves(estimates: list[Estimate]) -> list[float]:
    return [QUANTILE * (found.se or 0) for found in estimates]


def test_example_of_olofsson_2014() -> None:
    found = estimate(PIXELS, of_counts(COUNTS), 4)
    users = [classes.users_accuracy for classes in found.classes]
    producers = [classes.producers_accuracy for classes in found.classes]
    assert [entry.value for entry in users] == pytest.approx([0.88, 0.73, 0.93, 0.96], abs=0.005)
    assert halves(users) == pytest.approx([0.07, 0.10, 0.04, 0.02], abs=0.005)
    assert [entry.value for entry in producers] == pytest.approx([0.75, 0.85, 0.93, 0.96], abs=0.005)
    # Printed are 0.21, 0.23, 0.03 and 0.01; the second and the last contradict the paper's own equation 7.
    assert halves(producers) == pytest.approx([0.21, 0.254, 0.03, 0.018], abs=0.005)
    assert found.overall_accuracy.value == pytest.approx(0.95, abs=0.005)
    assert halves([found.overall_accuracy]) == pytest.approx([0.02], abs=0.005)
    hectares = [classes.share.times(PIXELS.sum() * 0.09) for classes in found.classes]
    assert [entry.value for entry in hectares] == pytest.approx([21_158, 11_686, 285_770, 581_386], abs=0.6)
    # The paper takes 1.96 and no finite population correction.
    assert halves(hectares) == pytest.approx([6_158, 3_756, 15_510, 16_282], abs=1.5)
    assert found.matrix[0] == pytest.approx([0.0176, 0, 0.0013, 0.0011], abs=5e-5)


def test_example_of_stehman_2014() -> None:
    """International Journal of Remote Sensing 35; digits as the manual of R's mapaccuracy 0.1.2 computes them."""

    def numbers(text: str) -> IntArray:
        return np.array(["ABCD".index(letter) for letter in text])

    labels = labels_of(
        np.repeat(np.arange(4), 10),
        numbers("A" * 7 + "B" * 3 + "A" + "B" * 11 + "C" * 6 + "BB" + "D" * 10),
        numbers("AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"),
    )
    found = estimate(np.array([40_000, 30_000, 20_000, 10_000]), labels, 4)
    second = found.classes[1]
    for entry, value, error in (
        (found.classes[0].share, 0.35, 0.0822478),
        (found.classes[2].share, 0.20, 0.06427977),
        (found.overall_accuracy, 0.63, 0.08464219),
        (second.users_accuracy, 0.5744681, 0.1247822),
        (second.producers_accuracy, 0.7941176, 0.1165479),
    ):
        assert entry.value == pytest.approx(value, abs=5e-7)
        assert entry.se == pytest.approx(error, abs=5e-7)
    assert found.matrix[1, 2] == pytest.approx(0.08)


def test_f1_is_the_harmonic_mean() -> None:
    found = estimate(PIXELS, of_counts(COUNTS), 4).classes[0]
    users, producers = found.users_accuracy.value, found.producers_accuracy.value
    assert users is not None
    assert producers is not None
    assert found.f1.value == pytest.approx(2 / (1 / users + 1 / producers))


def test_census_has_no_error() -> None:
    labels = of_counts([[3, 1], [2, 4]])
    found = estimate(np.array([4, 6]), labels, 2)
    assert found.classes[1].share == Estimate(0.5, 0.0, 0.5, 0.5)


def test_quantities_without_points_are_unknown() -> None:
    found = estimate(np.array([900, 100]), of_counts([[20, 0], [20, 0]]), 2)
    change = found.classes[1]
    assert change.producers_accuracy.value is None
    assert change.users_accuracy.value == change.share.value == change.f1.value == 0
    written = as_json(found, ("no change", "change"), float)
    assert written["classes"]["change"]["producers_accuracy"] == dict.fromkeys(("value", "se", "low", "high"))


def test_known_map_totals_change_nothing_where_strata_are_the_classes() -> None:
    labels = of_counts(COUNTS)
    plain, adjusted = estimate(PIXELS, labels, 4), estimate(PIXELS, labels, 4, PIXELS.astype(float))
    assert as_json(adjusted, tuple("abcd"), lambda number: round(number, 12)) == as_json(
        plain, tuple("abcd"), lambda number: round(number, 12)
    )


def test_units_count_by_their_size() -> None:
    labels = of_counts([[30, 10], [10, 30]])
    wide = Labels(labels.stratum, labels.mapped, labels.reference, np.where(labels.reference == 1, 3.0, 1.0))
    found = estimate(np.array([500, 500]), wide, 2)
    assert found.classes[1].share.value == pytest.approx(0.75)
    assert found.classes[0].users_accuracy.value == pytest.approx(30 / 60)


class City:
    """A population of pixels with rare change, most of which the map finds, or misses beside what it finds."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.units = np.array([4_000, 9_000, 87_000])
        self.stratum = np.repeat(np.arange(3), self.units)
        chance = np.array([0.62, 0.10, 0.012])[self.stratum]
        self.reference = (random.random(len(chance)) < chance).astype(np.int64)
        self.mapped = (self.stratum == 0).astype(np.int64)
        # At a lower threshold the map has most of the buffer's change as well.
        low = (self.reference == 1) & (random.random(len(chance)) < 0.7) | (random.random(len(chance)) < 0.02)
        self.lowered = np.where(self.mapped == 1, 1, low).astype(np.int64)
        self.size = np.linspace(0.8, 1.2, len(chance))
        random.shuffle(self.size)

    def truth(self, mapped: IntArray) -> RealArray:
        """Return user's and producer's accuracy, F1, share of change and overall accuracy."""
        both = self.size @ ((mapped == 1) & (self.reference == 1))
        found, real = self.size @ mapped, self.size @ self.reference
        right = self.size @ (mapped == self.reference)
        whole = self.size.sum()
        return np.array([both / found, both / real, 2 * both / (found + real), real / whole, right / whole])

    def draw(self, random: np.random.Generator, points: tuple[int, ...], mapped: IntArray) -> Labels:
        starts = np.cumsum([0, *self.units[:-1]])
        drawn = np.concatenate(
            [
                start + random.choice(size, count, replace=False)
                for start, size, count in zip(starts, self.units, points, strict=True)
            ]
        )
        return Labels(self.stratum[drawn], mapped[drawn], self.reference[drawn], self.size[drawn])


def ends(found: Estimates) -> RealArray:
    change = found.classes[1]
    entries = (
        change.users_accuracy,
        change.producers_accuracy,
        change.f1,
        change.share,
        found.overall_accuracy,
    )
    return np.array([(entry.low, entry.high, entry.se) for entry in entries], float)


@pytest.fixture(scope="module")
def city() -> City:
    return City()


@pytest.mark.parametrize("lowered", [False, True], ids=["map as it was", "lower threshold"])
def test_intervals_cover(city: City, lowered: bool) -> None:
    """Accuracies, F1 and area lie in theirs in 90 to 98 % of the draws; known totals of a changed map narrow them."""
    random = np.random.default_rng(3)
    mapped = city.lowered if lowered else city.mapped
    sizes = np.bincount(mapped, city.size)
    truth = city.truth(mapped)
    totals = (None, sizes) if lowered else (None,)
    covered, errors = np.zeros((len(totals), 5)), np.zeros((len(totals), 5))
    for _ in range(DRAWS):
        labels = city.draw(random, (75, 125, 800), mapped)
        for number, known in enumerate(totals):
            found = ends(estimate(city.units, labels, 2, known))
            covered[number] += (found[:, 0] <= truth) & (truth <= found[:, 1])
            errors[number] += found[:, 2]
    assert (covered / DRAWS >= 0.90).all()
    assert (covered / DRAWS <= 0.98).all()
    if lowered:
        assert errors[1, 3] < 0.95 * errors[0, 3]
