"""Metrics of the change class, from one confusion matrix summed over a whole set.

Probabilities are counted on the 255 levels that the pipeline stores, ``round(254 p)``, so that a threshold here
means what it means in a product: change where the stored probability is at least the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVELS = 255
"""Levels of a probability: 0/254 .. 254/254."""

MOST_TEMPERATURE = 20.0
"""Largest temperature that is looked for, and the inverse of the smallest."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels by truth and answer; ``+`` sums them."""

    tp: int = 0
    """Change found."""
    fp: int = 0
    """Change claimed where there is none."""
    fn: int = 0
    """Change missed."""
    tn: int = 0
    """No change, and none claimed."""

    @classmethod
    def of(cls, answer: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Confusion:
        """Count two masks of one shape.

        Args:
            answer: True where change is claimed, any shape, bool.
            truth: True where there is change, the same shape, bool.

        Raises:
            ValueError: shapes differ.
        """
        if answer.shape != truth.shape:
            raise ValueError(f"answer {answer.shape} and truth {truth.shape} differ in shape")
        tp = int(np.count_nonzero(answer & truth))
        fp, fn = int(np.count_nonzero(answer)) - tp, int(np.count_nonzero(truth)) - tp
        return cls(tp, fp, fn, answer.size - tp - fp - fn)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def total(self) -> int:
        """Pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float:
        """Share of the claimed change that is change; NaN where nothing was claimed."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the change that was found; NaN where there is none."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, ``2 tp / (2 tp + fp + fn)``; NaN where all three are 0."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Intersection over union of the change class; NaN where the union is empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def area_ratio(self) -> float:
        """Area claimed over area of change, 1 where errors of both kinds cancel; NaN where there is no change."""
        return _ratio(self.tp + self.fp, self.tp + self.fn)

    @property
    def overall_accuracy(self) -> float:
        """Share of pixels that are right; NaN without pixels."""
        return _ratio(self.tp + self.tn, self.total)

    @property
    def kappa(self) -> float:
        """Cohen's kappa (Cohen 1960), agreement beyond chance; NaN where chance alone agrees everywhere."""
        n = self.total
        if n == 0:
            return math.nan
        chance = (self.tp + self.fp) * (self.tp + self.fn) + (self.fn + self.tn) * (self.fp + self.tn)
        # In integers up to the last division: large sets would lose digits in (p_o - p_e).
        return _ratio(n * (self.tp + self.tn) - chance, n * n - chance)

    def scores(self) -> dict[str, float | None]:
        """Return every metric by name; None where it is not defined."""
        names = ("precision", "recall", "f1", "iou", "overall_accuracy", "kappa", "area_ratio")
        values = {name: getattr(self, name) for name in names}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class Tally:
    """Pixels by truth and level of probability: the confusion matrices of all thresholds; ``+`` sums them."""

    change: npt.NDArray[np.int64]
    """Pixels with change by level, (255,)."""
    no_change: npt.NDArray[np.int64]
    """Pixels without change by level, (255,)."""

    @classmethod
    def empty(cls) -> Tally:
        """Return a tally of no pixels."""
        return cls(np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))

    @classmethod
    def of(
        cls,
        probability: npt.NDArray[np.float32],
        truth: npt.NDArray[np.bool_],
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> Tally:
        """Count a map.

        Args:
            probability: change probability in [0, 1], any shape, float.
            truth: True where there is change, the same shape, bool.
            valid: True where the pixel counts; None: everywhere.

        Raises:
            ValueError: shapes differ.
        """
        if probability.shape != truth.shape:
            raise ValueError(f"probability {probability.shape} and truth {truth.shape} differ in shape")
        return cls.of_levels(np.rint(probability * (LEVELS - 1)).astype(np.uint8), truth, valid)

    @classmethod
    def of_levels(
        cls,
        levels: npt.NDArray[np.uint8],
        truth: npt.NDArray[np.bool_],
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> Tally:
        """Count a map of stored levels, ``round(254 p)``; level 255 (nodata) does not count."""
        counted = levels < LEVELS
        if valid is not None:
            counted &= valid
        return cls(
            np.bincount(levels[counted & truth], minlength=LEVELS).astype(np.int64),
            np.bincount(levels[counted & ~truth], minlength=LEVELS).astype(np.int64),
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.change + other.change, self.no_change + other.no_change)

    def at(self, threshold: float) -> Confusion:
        """Return the confusion matrix of one threshold in [0, 1]."""
        # The smallest level that counts as change, as the pipeline classifies: level >= 254 threshold.
        return self._from(math.ceil(threshold * (LEVELS - 1)))

    def _from(self, level: int) -> Confusion:
        tp, fp = int(self.change[level:].sum()), int(self.no_change[level:].sum())
        return Confusion(tp, fp, int(self.change.sum()) - tp, int(self.no_change.sum()) - fp)

    def best_threshold(self) -> float:
        """Find the threshold with the largest F1, in hundredths from 0.01 to 0.99; of equals the one nearest 0.5."""
        candidates = [round(0.01 * step, 2) for step in range(1, 100)]
        scores = {threshold: self.at(threshold).f1 for threshold in candidates}
        return max(
            candidates,
            key=lambda t: (-1.0 if math.isnan(scores[t]) else scores[t], -abs(t - 0.5), -t),
        )

    def curve(self) -> list[tuple[float, float, float]]:
        """Return (threshold, precision, recall) of every level, ascending, without levels that claim no change."""
        points = []
        for level in range(LEVELS):
            found = self._from(level)
            if found.tp + found.fp:
                points.append((level / (LEVELS - 1), found.precision, found.recall))
        return points

    def reliability(self, bins: int = 10, temperature: float = 1.0) -> list[tuple[float, float, int]]:
        """Compare probabilities with how often there is change.

        Args:
            bins: intervals of equal width between 0 and 1.
            temperature: divisor of the logits of the probabilities, above 0; see :meth:`temperature`.

        Returns:
            (mean probability, share of change, pixels) of each interval that has pixels, ascending.
        """
        probability = _probabilities(temperature)
        interval = np.minimum((probability * bins).astype(int), bins - 1)
        pixels = self.change + self.no_change
        found = []
        for each in range(bins):
            inside = interval == each
            count = int(pixels[inside].sum())
            if count:
                mean = float((probability * pixels)[inside].sum()) / count
                found.append((mean, int(self.change[inside].sum()) / count, count))
        return found

    def calibration_error(self, bins: int = 10, temperature: float = 1.0) -> float:
        """Compute the expected calibration error (Naeini et al., AAAI 2015); NaN without pixels.

        It is the mean over pixels of the difference between probability and share of change in their interval; see
        :meth:`reliability` for the arguments.
        """
        points = self.reliability(bins, temperature)
        total = sum(pixels for _, _, pixels in points)
        return (
            sum(abs(mean - share) * pixels for mean, share, pixels in points) / total if total else math.nan
        )

    def temperature(self) -> float:
        """Find the divisor of the logits with the largest likelihood of the labels (Guo et al., ICML 2017).

        Above 1 the probabilities are too sure, below 1 not sure enough. Pixels of the lowest and the highest level
        do not count: they stand for 0 and 1 at every temperature.

        Returns:
            The temperature, between 1 / 20 and 20; NaN where no such number is best, as without change, or where
            probabilities say nothing or everything about it.
        """
        from scipy.optimize import brentq

        pixels, logits = (self.change + self.no_change)[1:-1], _logits()

        def slope(log_temperature: float) -> float:
            # Of the negative log-likelihood along the inverse temperature, in which it is convex.
            share = 1 / (1 + np.exp(-logits / math.exp(log_temperature)))
            return float((logits * (pixels * share - self.change[1:-1])).sum())

        end = math.log(MOST_TEMPERATURE)
        if not slope(end) < 0 < slope(-end):
            return math.nan
        return math.exp(brentq(slope, -end, end))

    def average_precision(self) -> float:
        """Compute the area under the precision-recall curve as a step function; NaN without change."""
        if not self.change.any():
            return math.nan
        area, last = 0.0, 0.0
        for _, precision, recall in reversed(self.curve()):
            area += precision * (recall - last)
            last = recall
        return area


def _logits() -> npt.NDArray[np.float64]:
    """Return the logits of all levels but the lowest and the highest, whose logits are not finite."""
    inner = np.arange(1, LEVELS - 1)
    logits: npt.NDArray[np.float64] = np.log(inner / (LEVELS - 1 - inner))
    return logits


def _probabilities(temperature: float) -> npt.NDArray[np.float64]:
    """Return the probability of every level, its logit divided by the temperature."""
    inner = 1 / (1 + np.exp(-_logits() / temperature))
    return np.concatenate(([0.0], inner, [1.0]))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
