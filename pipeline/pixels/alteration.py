"""IR-MAD beside the network: the distance of a pixel from ground that did not change, and the odds of change of both.

Iteratively reweighted multivariate alteration detection (IR-MAD; Nielsen 2007, doi:10.1109/TIP.2006.888195) needs no
training, and errs on other ground than a network does. What it knows of a pair is found from a sample; the distance of
a pixel then follows from its own numbers, and its blurred distance from its neighbours', whatever tile they are in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.pixels.binomial_blur import blur
from ussfc.pipeline.pixels.normalisation import LEAST_PIXELS, find_variates
from ussfc.pipeline.types import DISTANCE_ROWS, PROBABILITY_STEPS, BoolArray, Box, FloatArray

MOST_PIXELS = 100_000
"""Size of the sample that IR-MAD is found from, pixels: with six times as many typical distances differ by 1 %."""

LEAST_PROBABILITY = 0.5 / PROBABILITY_STEPS
"""Least probability whose odds count, half a level of the store; 1 less it is the largest."""

FARTHEST = 1.0
"""Largest logarithm of a blurred distance over the typical one, and least one below 0: one pixel in a hundred has more.
Without an end, ground that the sample does not show would be change whatever the network says."""

LEAST_NOISE = 1e-4
"""Standard deviation that every number has at least, share of the model's range: a third of a step of Sentinel-2's
numbers. Where nearly all pixels have one number, the least difference would else be an endless distance."""

IN_CACHE = 1 << 17
"""Pixels that go through all sums together: they stay in the cache. With a quarter of it two threads wait for each
other between sums, which costs them a quarter more."""

DatesOf = Callable[[Box], tuple[FloatArray, FloatArray]]
"""Gives both dates of a part of a window, (bands, rows, cols) float32 in the model's range."""


@dataclass(frozen=True, slots=True)
class Alteration:
    """IR-MAD of a pair: its canonical variates as sums over the bands of both dates."""

    factors: tuple[tuple[float, ...], ...]
    """Factors of each variate for the bands of the earlier date, then of the later one; a variate's variance where
    nothing changed is 1."""
    offsets: tuple[float, ...]
    """Term of each variate."""
    typical: float
    """Median of the distance over the sample, not blurred."""

    @classmethod
    def of(cls, before: FloatArray, after: FloatArray) -> Alteration | None:
        """Find the variates of a sample.

        Args:
            before: (bands, pixels) valid numbers in the model's range, [0, 1].
            after: the same pixels of the later date.

        Returns:
            None where there are too few pixels, or no band that varies in both dates.
        """
        step = max(1, -(-before.shape[1] // MOST_PIXELS))
        x, y = before[:, ::step], after[:, ::step]
        if x.shape[1] < LEAST_PIXELS:
            return None
        found = find_variates(x.astype(np.float64), y.astype(np.float64))
        if found is None:
            return None
        spread = np.sqrt(1 + ((LEAST_NOISE * found[0]) ** 2).sum(axis=1))
        factors, offsets = _rounded(found[0] / spread[:, np.newaxis]), _rounded(found[1] / spread)
        whole = cls(tuple(map(tuple, factors.tolist())), tuple(offsets.tolist()), 0.0)
        distances = whole.distance(x[:, np.newaxis], y[:, np.newaxis])
        return replace(whole, typical=float(_rounded(np.median(distances))))

    def distance(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Return the distance of each pixel from no change: about the root of the number of bands where nothing did.

        Args:
            before: (bands, rows, cols) float32 in the model's range.
            after: the same of the later date.

        Returns:
            (rows, cols) float32, 0 and above; each pixel's follows from its own numbers, bit for bit.
        """
        _, rows, cols = before.shape
        result = np.empty((rows, cols), np.float32)
        # As much memory as with three bands.
        step = max(1, 8 * IN_CACHE // (2 * len(before) + 2) // max(1, cols))
        spare = np.empty((2 * len(before) + 2, min(step, rows) * cols), np.float32)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            self._distances(before[:, part], after[:, part], spare, result[part].reshape(-1))
        return result

    def _distances(
        self, before: FloatArray, after: FloatArray, spare: FloatArray, result: FloatArray
    ) -> None:
        """Fill ``result``, (pixels,)."""
        *values, variate, term = (line[: result.size] for line in spare)
        # One date after the other band by band: the large sums of dates that hardly differ cancel at once.
        order = [number for band in range(len(before)) for number in (band, len(before) + band)]
        for number, line in zip(order, values, strict=True):
            date = before if number < len(before) else after
            np.copyto(line.reshape(date.shape[1:]), date[number % len(before)])
        result.fill(0)
        # No product of matrices, whose rounding depends on where in the array a pixel stands.
        for factors, offset in zip(self.factors, self.offsets, strict=True):
            variate.fill(offset)
            for number, line in zip(order, values, strict=True):
                variate += np.multiply(line, np.float32(factors[number]), out=term)
            result += np.multiply(variate, variate, out=term)
        np.sqrt(result, out=result)


@dataclass(frozen=True, slots=True)
class CombinedOdds:
    """Logistic regression of change on the network's log odds and on the blurred distance of IR-MAD."""

    alteration: Alteration
    """IR-MAD of the pair."""
    network: float
    """Factor of the network's log odds."""
    distance: float
    """Factor of the logarithm of (1 + blurred distance) / (1 + typical distance)."""
    offset: float
    """Log odds that are added."""
    blur: float
    """Standard deviation of the binomial filter over the distances, pixels."""
    margin: int
    """Pixels around a place that its blurred distance depends on."""

    def log_distance(self, dates: DatesOf, seen: BoolArray, core: Box) -> FloatArray:
        """Return the logarithm of (1 + blurred distance) / (1 + typical distance), in [-1, 1].

        Args:
            dates: gives both dates of a part of the window.
            seen: (rows, cols) of the window, where both dates have data; other pixels do not count.
            core: part of the window to return; :attr:`margin` pixels around it are there, but beyond the grid.

        Returns:
            (rows, cols) float32 of ``core``.
        """
        result = np.zeros(core.shape, np.float32)
        typical = np.float32(math.log1p(self.alteration.typical))
        grid = Box(0, 0, *seen.shape)
        for top in range(core.y0, core.y1, DISTANCE_ROWS):
            rows = Box(top, core.x0, min(top + DISTANCE_ROWS, core.y1), core.x1)
            around = rows.grown(self.margin).intersect(grid)
            distance = self.alteration.distance(*dates(around))
            part = result[rows.within(core).slices]
            np.add(self._blurred(distance, seen[around.slices])[rows.within(around).slices], 1, out=part)
            # Three times as fast as log1p, and no number here is so small that it would be lost.
            np.log(part, out=part)
            part -= typical
            np.clip(part, -FARTHEST, FARTHEST, out=part)
        return result

    def _blurred(self, distance: FloatArray, seen: BoolArray) -> FloatArray:
        """Return the mean distance of the seen pixels around each."""
        if seen.all():
            return blur(distance, self.blur)
        result = blur(np.where(seen, distance, np.float32(0)), self.blur)
        # Exactly 0 where all around is seen: such a pixel has the same bits as in a window without any unseen one.
        result /= np.maximum(1 - blur((~seen).astype(np.float32), self.blur), np.float32(1e-6))
        return result

    def combine(self, probability: FloatArray, log_distance: FloatArray) -> FloatArray:
        """Return the probability of change by both.

        Args:
            probability: of the network, (rows, cols) float32 in [0, 1].
            log_distance: of :meth:`log_distance`.

        Returns:
            (rows, cols) float32 in [0, 1].
        """
        result = np.empty_like(probability)
        step = max(1, IN_CACHE // max(1, probability.shape[1]))
        for start in range(0, len(probability), step):
            part = slice(start, start + step)
            self._combine(probability[part], log_distance[part], result[part])
        return result

    def _combine(self, probability: FloatArray, log_distance: FloatArray, odds: FloatArray) -> None:
        np.clip(probability, np.float32(LEAST_PROBABILITY), np.float32(1 - LEAST_PROBABILITY), out=odds)
        odds /= 1 - odds
        np.log(odds, out=odds)
        odds *= np.float32(self.network)
        odds += log_distance * np.float32(self.distance)
        odds += np.float32(self.offset)
        # 1 / (1 + exp(-odds)).
        np.negative(odds, out=odds)
        np.exp(odds, out=odds)
        odds += 1
        np.reciprocal(odds, out=odds)


def _rounded(numbers: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return numbers of six digits: the rest depends on the machine."""
    array = np.asarray(numbers, np.float64)
    return np.array([float(f"{number:.6g}") for number in array.flat]).reshape(array.shape)
