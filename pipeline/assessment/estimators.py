"""Estimators of accuracy and area from a stratified random sample.

After Stehman (2014), where map classes may differ from strata; where they are the strata, these are the estimators of
Olofsson et al. (2014). Every quantity is a ratio of two totals, its variance that of the linearised ratio within
strata, with the finite population correction. Units may differ in size, as pixels of a geographic grid do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
RealArray = npt.NDArray[np.float64]

QUANTILE = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95 %."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its error; a field is None where the sample holds nothing to estimate it from."""

    value: float | None
    se: float | None
    """Standard error."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end."""

    @staticmethod
    def of(value: float, se: float, highest: float = math.inf) -> Estimate:
        """Return an estimate that lies between 0 and ``highest``, with its interval."""
        half = QUANTILE * se
        return Estimate(value, se, max(0.0, value - half), min(highest, value + half))

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        if self.value is None or self.se is None:
            return self
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, self.se * factor, low, high)


UNKNOWN = Estimate(None, None, None, None)
"""Estimate of a quantity that the sample holds nothing of."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A labelled sample; arrays are (points,)."""

    stratum: IntArray
    """Number of the stratum, from 0."""
    mapped: IntArray
    """Number of the map class, from 0."""
    reference: IntArray
    """Number of the reference class, from 0."""
    size: RealArray
    """Area of the unit, in any one unit of area."""


@dataclass(frozen=True, slots=True)
class ClassEstimates:
    """Estimates of one class."""

    users_accuracy: Estimate
    """Share of the mapped area that the reference has as well; 1 less the commission error."""
    producers_accuracy: Estimate
    """Share of the reference area that the map has as well; 1 less the omission error."""
    f1: Estimate
    """Harmonic mean of both."""
    share: Estimate
    """Share of all area in the reference, adjusted for the errors of the map."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimates of a map's accuracy."""

    overall_accuracy: Estimate
    """Share of the area whose map class is right."""
    classes: tuple[ClassEstimates, ...]
    matrix: RealArray
    """(classes, classes) error matrix, shares of the area: rows are map classes, columns reference classes."""


class StratifiedSample:
    """A stratified random sample of labelled units, from which ratios are estimated."""

    def __init__(self, units: IntArray, labels: Labels, mapped_sizes: RealArray | None = None) -> None:
        """Weight the points.

        Args:
            units: (strata,) number of units of the population.
            labels: the points; every stratum with units has two or more of them, or all.
            mapped_sizes: (classes,) known size of each map class, for post-stratification; every class that has one
                has a point. None: the strata alone give the weights.
        """
        self._units = units.astype(float)
        self._labels = labels
        self._points = np.bincount(labels.stratum, minlength=len(units))
        self._weights = self._units[labels.stratum] / self._points[labels.stratum]
        self._factors = np.ones(len(labels.stratum))
        self._calibrated = mapped_sizes is not None
        if mapped_sizes is not None:
            found = np.bincount(labels.mapped, self._weights * labels.size, len(mapped_sizes))
            with np.errstate(divide="ignore", invalid="ignore"):
                self._factors = (mapped_sizes / found)[labels.mapped]
            self._weights = self._weights * self._factors

    def total(self, values: RealArray) -> float:
        """Return the estimated total over the population of (points,) values."""
        return float(np.sum(self._weights * values))

    def ratio(self, top: RealArray, bottom: RealArray) -> Estimate:
        """Return the estimated ratio of two totals, at most 1.

        Args:
            top: (points,) value of each unit.
            bottom: (points,) likewise; unknown where its total is 0.
        """
        whole = self.total(bottom)
        if whole <= 0:
            return UNKNOWN
        value = self.total(top) / whole
        residual = (top - value * bottom) / whole
        if self._calibrated:
            residual = self._factors * self._without_class_means(residual)
        return Estimate.of(min(value, 1.0), math.sqrt(self._variance(residual)), highest=1.0)

    def _without_class_means(self, residual: RealArray) -> RealArray:
        """Return what a known size of the map classes does not explain of residuals, (points,)."""
        labels = self._labels
        sums = np.bincount(labels.mapped, self._weights * residual)
        sizes = np.bincount(labels.mapped, self._weights * labels.size)
        means = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
        return residual - labels.size * means[labels.mapped]

    def _variance(self, values: RealArray) -> float:
        """Return the variance of the estimated total of (points,) values."""
        stratum, points = self._labels.stratum, self._points
        count = np.maximum(points, 1)
        means = np.bincount(stratum, values, len(points)) / count
        squares = np.bincount(stratum, (values - means[stratum]) ** 2, len(points))
        spread = squares / np.maximum(points - 1, 1)
        unseen = np.clip(1 - points / np.maximum(self._units, 1), 0, 1)
        return float(np.sum(self._units**2 * unseen * spread / count))


def estimate(
    units: IntArray, labels: Labels, classes: int, mapped_sizes: RealArray | None = None
) -> Estimates:
    """Return the accuracies of a map, and the share of each class in the area.

    Args:
        units: (strata,) number of units of the population.
        labels: the points.
        classes: number of classes, of map and reference alike.
        mapped_sizes: (classes,) known size of each map class: the estimates are post-stratified by it. It is needed
            where the strata are not those of this map; where they are, it changes nothing.
    """
    sample = StratifiedSample(units, labels, mapped_sizes)
    size = labels.size
    right = size * (labels.mapped == labels.reference)

    def of_class(number: int) -> ClassEstimates:
        mapped, reference = size * (labels.mapped == number), size * (labels.reference == number)
        both = right * (labels.mapped == number)
        return ClassEstimates(
            sample.ratio(both, mapped),
            sample.ratio(both, reference),
            sample.ratio(2 * both, mapped + reference),
            sample.ratio(reference, size),
        )

    whole = sample.total(size)
    matrix = np.array([
        [sample.total(size * (labels.mapped == row) * (labels.reference == column)) / whole
         for column in range(classes)]
        for row in range(classes)
    ])  # fmt: skip
    return Estimates(sample.ratio(right, size), tuple(map(of_class, range(classes))), matrix)


def as_json(
    estimates: Estimates, names: tuple[str, ...], rounded: Callable[[float], float]
) -> dict[str, Any]:
    """Return estimates as JSON values.

    Args:
        estimates: of a map.
        names: of its classes.
        rounded: rounds a number.
    """

    def numbers(found: Estimate) -> dict[str, float | None]:
        fields = ("value", "se", "low", "high")
        return {
            name: None if (number := getattr(found, name)) is None else rounded(number) for name in fields
        }

    listed = {
        name: {field: numbers(getattr(found, field)) for field in ClassEstimates.__slots__}
        for name, found in zip(names, estimates.classes, strict=True)
    }
    matrix = [[rounded(float(cell)) for cell in row] for row in estimates.matrix]
    return {
        "overall_accuracy": numbers(estimates.overall_accuracy),
        "classes": listed,
        "error_matrix": matrix,
    }
