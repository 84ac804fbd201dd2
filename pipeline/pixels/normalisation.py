"""Normalisation of the later date to the earlier one, by ground that did not change between them.

Pixels are weighed by iteratively reweighted multivariate alteration detection (IR-MAD; Canty and Nielsen 2008,
doi:10.1016/j.rse.2007.07.013), which does not depend on the gains and offsets that are sought. A band's line is the
reduced major axis of the weighed pixels: unlike a regression of one date on the other it does not flatten with noise,
and swapped dates give the inverse line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy import linalg

# Not scipy.stats, whose import takes half a second of every run.
from scipy import special

from ussfc.pipeline.types import BoolArray, FloatArray

DoubleArray = npt.NDArray[np.float64]

ITERATIONS = 30
"""Most often that the weights are found again from the pixels that they favour."""

CONVERGED = 1e-3
"""Largest change of a canonical correlation at which the weights stand."""

LEAST_PIXELS = 1000
"""Least sum of weights, pixels, that a line is fitted to."""

LEAST_CORRELATION = 0.6
"""Least correlation of a band over the weighed pixels: below it both dates have no line in common."""


@dataclass(frozen=True, slots=True)
class BandLine:
    """Line that brings a band of the later date to the numbers of the earlier one: gain times number plus offset."""

    gain: float
    """Above 0."""
    offset: float
    """In numbers of the earlier date."""
    correlation: float
    """Correlation of both dates over the weighed pixels, -1 to 1; 0 where a band is constant."""
    sure: bool
    """False: the pixels show no line, and gain and offset are 1 and 0."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Lines of all bands."""

    lines: tuple[BandLine, ...]
    weight: float
    """Sum of the weights, pixels: ground that looks unchanged."""
    pixels: int
    """Valid pixels of the sample."""

    @property
    def sure(self) -> bool:
        """True if every band has a line."""
        return all(line.sure for line in self.lines)


def normalise(before: FloatArray, after: FloatArray, valid: BoolArray) -> Normalisation:
    """Return the lines that bring the later date to the numbers of the earlier one.

    Args:
        before: (bands, pixels) numbers of any unit.
        after: (bands, pixels) numbers of the same ground, of any unit.
        valid: (pixels,), True where both dates show the ground.

    Returns:
        A line for each band. Gains and offsets of either date lead to the same normalised numbers.

    Raises:
        ValueError: the shapes differ.
    """
    if before.shape != after.shape or before.shape[1:] != valid.shape:
        raise ValueError(
            f"arrays of {before.shape}, {after.shape} and {valid.shape} pixels do not belong together"
        )
    known = valid & np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    x, y = before[:, known].astype(np.float64), after[:, known].astype(np.float64)
    weights = no_change_weights(x, y)
    total = float(weights.sum())
    lines = tuple(
        _line(one, other, weights) if total >= LEAST_PIXELS else BandLine(1.0, 0.0, 0.0, False)
        for one, other in zip(x, y, strict=True)
    )
    return Normalisation(lines, total, x.shape[1])


def no_change_weights(before: DoubleArray, after: DoubleArray) -> DoubleArray:
    """Return the probability of no change of each pixel, by IR-MAD.

    Args:
        before: (bands, pixels).
        after: (bands, pixels).

    Returns:
        (pixels,) in [0, 1]; ones where both dates are equal, zeros without a band that varies in both.
    """
    found = alteration(before, after)
    return np.zeros(before.shape[1]) if found is None else _no_change(*found)


def alteration(before: DoubleArray, after: DoubleArray) -> tuple[DoubleArray, int] | None:
    """Return the squared distance of each pixel from no change, by IR-MAD, and its degrees of freedom.

    The p-value of a pixel as its weight would let the variance of unchanged ground shrink at every turn, until a
    thousandth of the pixels is left. The variance is scaled so that Gaussian differences keep theirs.

    Args:
        before: (bands, pixels).
        after: (bands, pixels).

    Returns:
        (pixels,) of 0 and above, which follow a chi-squared distribution where nothing changed, and the number of
        bands that vary in both dates; None: there is none.
    """
    found = _reweighted(before, after)
    return None if found is None else (found[0], len(found[1]))


def find_variates(before: DoubleArray, after: DoubleArray) -> tuple[DoubleArray, DoubleArray] | None:
    """Return the canonical variates of IR-MAD as sums over the bands of both dates.

    Args:
        before: (bands, pixels).
        after: (bands, pixels).

    Returns:
        Factors, (variates, 2 bands), those of the earlier date first and 0 for bands that do not vary in both dates,
        and the terms to add, (variates,): the squares of the sums add up to the squared distance of
        :func:`alteration`. None: no band varies.
    """
    found = _reweighted(before, after)
    if found is None:
        return None
    _, varied, variates = found
    factors = np.zeros((len(varied), 2 * len(before)))
    factors[:, [*varied, *(len(before) + band for band in varied)]] = variates.factors / variates.spread
    return factors, -(variates.factors * variates.centre).sum(axis=1) / variates.spread[:, 0]


@dataclass(frozen=True)
class _Variates:
    factors: DoubleArray
    """(variates, 2 bands), of numbers as they are."""
    centre: DoubleArray
    """(2 bands,), mean of the unchanged ground."""
    spread: DoubleArray
    """(variates, 1), standard deviation of each variate where nothing changed."""


def _reweighted(before: DoubleArray, after: DoubleArray) -> tuple[DoubleArray, list[int], _Variates] | None:
    """Return the squared distances, the bands that vary, and the variates of the last turn."""
    varied = (
        [band for band in range(len(before)) if np.ptp(before[band]) > 0 and np.ptp(after[band]) > 0]
        if before.shape[1]
        else []
    )
    if not varied:
        return None
    middle, scale = (
        np.concatenate([of(before[varied]), of(after[varied])])
        for of in (lambda date: np.median(date, axis=1), lambda date: date.std(axis=1))
    )
    both = (np.concatenate([before[varied], after[varied]]) - middle[:, None]) / scale[:, None]
    weights, last = np.ones(both.shape[1]), np.zeros(len(varied))
    kept = kept_variance(len(varied))
    for turn in range(ITERATIONS):
        factors, means, correlations = _canonical(both, weights)
        variates = factors @ (both - means[:, None])
        variance = np.average(variates**2, axis=1, weights=weights)
        if turn:
            variance /= kept
        # Copies differ by rounding alone, which is no change.
        variance = np.maximum(variance, 1e-12)
        distance: DoubleArray = (variates**2 / variance[:, None]).sum(axis=0)
        weights = _no_change(distance, len(varied))
        if weights.sum() < LEAST_PIXELS or np.abs(correlations - last).max() < CONVERGED:
            break
        last = correlations
    return distance, varied, _Variates(factors / scale, middle + means * scale, np.sqrt(variance)[:, None])


def _no_change(distance: DoubleArray, bands: int) -> DoubleArray:
    """Return the probability that a chi-squared number of ``bands`` degrees of freedom is larger.

    For a whole number of degrees it is a short sum (Abramowitz and Stegun 26.4.4 and 26.4.5), which takes a fifth of
    the time of the incomplete gamma function of ``scipy.special.chdtrc``.
    """
    half = distance / 2
    odd = bands % 2
    term = np.exp(-half)
    if odd:
        term *= np.sqrt(half) * (2 / math.sqrt(math.pi))
    result: DoubleArray = special.erfc(np.sqrt(half)) if odd else np.zeros_like(half)
    for step in range(bands // 2):
        result += term
        term *= half / (step + 1 + odd / 2)
    return result


def kept_variance(bands: int) -> float:
    """Return the share of the variance that Gaussian differences keep when each is weighed by its p-value.

    That is the mean of the smaller one of two independent chi-squared numbers over the mean of one. By the Gini
    coefficient of the gamma distribution their mean difference is four times the ratio of gamma functions below.
    """
    ratio = math.exp(math.lgamma((bands + 1) / 2) - math.lgamma(bands / 2)) / math.sqrt(math.pi)
    return (bands - 2 * ratio) / bands


def _canonical(both: DoubleArray, weights: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Return the factors of the differences of canonical variates, the means of the bands, and the correlations."""
    bands = len(both) // 2
    means = np.average(both, axis=1, weights=weights)
    centred = both - means[:, None]
    covariance = (centred * weights) @ centred.T / weights.sum()
    # Bands that are copies of each other would leave it without an inverse, as would one that varies in pixels without
    # weight alone.
    covariance += np.diag(1e-9 * np.diag(covariance) + 1e-15)
    roots = [linalg.cholesky(covariance[part, part]) for part in (slice(bands), slice(bands, None))]
    cross = linalg.solve(roots[0], covariance[:bands, bands:])
    cross = linalg.solve(roots[1], cross.T).T
    left, correlations, right = linalg.svd(cross)
    factors = np.concatenate([left.T @ linalg.inv(roots[0]), -right @ linalg.inv(roots[1])], axis=1)
    return factors, means, correlations


def _line(before: DoubleArray, after: DoubleArray, weights: DoubleArray) -> BandLine:
    means = [float(np.average(values, weights=weights)) for values in (before, after)]
    rest = before - means[0], after - means[1]
    spreads = [float(np.sqrt(np.average(values**2, weights=weights))) for values in rest]
    if min(spreads) <= 1e-9 * max(1e-30, *(abs(mean) for mean in means)):
        return BandLine(1.0, 0.0, 0.0, False)
    correlation = float(np.average(rest[0] * rest[1], weights=weights)) / (spreads[0] * spreads[1])
    if correlation < LEAST_CORRELATION:
        return BandLine(1.0, 0.0, correlation, False)
    gain = spreads[0] / spreads[1]
    return BandLine(gain, means[0] - gain * means[1], correlation, True)
