"""Shift between two images that should lie on one pixel grid, from the shifts of many windows.

A shift is in pixels and in the order (y, x): the content of ``before`` at ``(y, x)`` lies in ``after`` at
``(y + dy, x + dx)``, see :mod:`ussfc.pipeline.pixels.phase_correlation`. Most windows agree on a translation or, where
they show that they need it, on an affine or quadratic field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.pixels.phase_correlation import NOISE_PEAK, WindowShift

DoubleArray = npt.NDArray[np.float64]

Kind = Literal["translation", "affine", "quadratic"]

MIN_WINDOWS = {"translation": 5, "affine": 12, "quadratic": 30}
"""Least number of windows that a model of each kind is fitted to."""

AGREEMENT = (0.25, 1.0)
"""Smallest and largest distance from the model, pixels, within which a window can count as agreeing."""

MIN_GAIN = 0.15
"""Share by which a higher model must lower the cross-validated residual of the typical window."""

MIN_DIFFERENCE = 0.1
"""Typical displacement against the lower model, pixels, below which a higher one is not worth having."""

MIN_CONTRAST = 1.5
"""Least ratio of that displacement to the cross-validated residual of the typical window.

Trees and shores bend the near infrared of one Sentinel-2 pair by 0.12 px, once its residual, where red shows no field.
"""

SEARCH_RADIUS = 1.0
"""Distance, pixels, beyond which a window is of no weight while a first model is sought."""

DRAWS = 300
"""Triples of windows from which an affine model is sought; enough where half of the windows are wrong."""

BLOCKS = 4
"""Rows and columns of blocks that the cross-validation cuts the image into."""

FOLDS = 5
"""Parts of the cross-validation, each of some blocks."""

TERMS: dict[Kind, int] = {"translation": 1, "affine": 3, "quadratic": 6}
"""Coefficients an axis of each kind of model."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift as a smooth function of the place.

    With ``v = (y - centre[0]) / scale`` and ``u = (x - centre[1]) / scale`` each axis is a polynomial in the terms
    1 (translation), v, u (affine), v * v, v * u, u * u (quadratic), in this order.
    """

    kind: Kind
    """Terms that there are."""
    dy: tuple[float, ...]
    """Coefficients of the rows, pixels; 1, 3 or 6 of them."""
    dx: tuple[float, ...]
    """Coefficients of the columns, pixels; as many."""
    centre: tuple[float, float]
    """Origin of v and u as (y, x), pixels."""
    scale: float
    """Pixels to a unit of v and u."""

    def shift_at(self, y: npt.ArrayLike, x: npt.ArrayLike) -> tuple[DoubleArray, DoubleArray]:
        """Return the shift of each place: ``after`` shows there what ``before`` shows at ``(y, x)``.

        Args:
            y: rows of ``before``, pixels, any shape; whole numbers are centres of pixels.
            x: columns likewise, of a shape that broadcasts with that of ``y``.

        Returns:
            dy and dx, pixels, float64, of the broadcast shape.
        """
        rows, cols = np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64))
        terms = _terms((rows - self.centre[0]) / self.scale, (cols - self.centre[1]) / self.scale, self.kind)
        return terms @ np.array(self.dy), terms @ np.array(self.dx)

    def length_over(self, shape: tuple[int, int]) -> tuple[float, float]:
        """Return the median and the largest length of the shift over an image of (rows, cols) pixels, in pixels."""
        places = np.meshgrid(*(np.linspace(0, length - 1, 33) for length in shape), indexing="ij")
        lengths = np.hypot(*self.shift_at(places[0], places[1]))
        return float(np.median(lengths)), float(lengths.max())

    def matrix(self) -> DoubleArray:
        """Return the (2, 3) float64 matrix that takes (y, x, 1) in ``before`` to (y, x) in ``after``.

        Raises:
            ValueError: the model is quadratic, which is no matrix.
        """
        if self.kind == "quadratic":
            raise ValueError("a quadratic shift is not a matrix; use shift_at")
        result = np.zeros((2, 3))
        for row, coefficients in zip(result, (self.dy, self.dx), strict=True):
            linear = np.array(coefficients[1:] or (0.0, 0.0)) / self.scale
            row[:2] = linear
            row[2] = coefficients[0] - linear @ np.array(self.centre)
        return result + np.eye(2, 3)


@dataclass(frozen=True, slots=True)
class RegistrationEstimate:
    """Shift that the windows agree on, and how well."""

    shift: Shift
    """The consensus; zero everywhere where no window could be used."""
    sure: bool
    """True: enough windows were usable, and at least half of them agree. Else ``shift`` must not be applied."""
    windows: tuple[WindowShift, ...]
    """All windows that were measured, in the order given."""
    used: tuple[bool, ...]
    """For each of them: its quality allowed it to take part."""
    inliers: tuple[bool, ...]
    """For each of them: it took part and agrees with the consensus."""
    tolerance: float
    """Distance from the consensus within which a window agrees, pixels."""
    spread_before: float
    """Median length of the agreeing windows' shifts, pixels: the misregistration found. NaN without any."""
    spread_after: float
    """Median distance of the agreeing windows from the consensus, pixels: what it leaves. NaN without any."""
    error: float
    """Standard error of the consensus in the centre of the windows, pixels; infinite without two agreeing windows."""

    @property
    def agreement(self) -> float:
        """Return the share of the used windows that agree, 0 to 1."""
        return sum(self.inliers) / max(1, sum(self.used))


def estimate_registration(
    windows: Sequence[WindowShift], shape: tuple[int, int], seed: int = 0, highest: Kind = "quadratic"
) -> RegistrationEstimate:
    """Return the shift that most of the windows agree on.

    A translation is what most windows lie around. An affine or a quadratic field takes its place only where windows
    that it was not fitted to come closer to it, and not just some of them but the typical one: windows that a tower's
    lean or a cloud moved are left out, not followed.

    Args:
        windows: as measured; those no better than noise are kept for the record and take no part.
        shape: (rows, cols) of the common grid, pixels; its middle becomes the model's origin.
        seed: of the random subsets, at least 0. The same arguments give the same estimate.
        highest: kind of the most flexible model to be tried.
    """
    centre = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    scale = max(1.0, max(shape) / 2)
    used = np.array([each.quality * each.window.size >= NOISE_PEAK for each in windows], np.bool_)
    places = np.array([each.window.centre for each in windows]).reshape(-1, 2)[used]
    shifts = np.array([(each.dy, each.dx) for each in windows]).reshape(-1, 2)[used]
    scaled = (places - centre) / scale
    if len(shifts) == 0:
        nothing = Shift("translation", (0.0,), (0.0,), centre, scale)
        no = (False,) * len(windows)
        nan = float("nan")
        return RegistrationEstimate(
            nothing, False, tuple(windows), no, no, AGREEMENT[0], nan, nan, float("inf")
        )
    kind = _choose_kind(scaled, shifts, seed, highest)
    coefficients = _fitted(scaled, shifts, kind, seed)
    shift = Shift(kind, tuple(coefficients[:, 0].tolist()), tuple(coefficients[:, 1].tolist()), centre, scale)
    distances = _distances(scaled, shifts, coefficients, kind)
    tolerance = float(np.clip(3 * _sigma(distances), *AGREEMENT))
    agrees = distances <= tolerance
    inliers = np.zeros(len(windows), np.bool_)
    inliers[used] = agrees
    number = int(agrees.sum())
    return RegistrationEstimate(
        shift=shift,
        sure=number >= MIN_WINDOWS[kind] and 2 * number >= len(shifts),
        windows=tuple(windows),
        used=tuple(used.tolist()),
        inliers=tuple(inliers.tolist()),
        tolerance=tolerance,
        spread_before=float(np.median(np.linalg.norm(shifts[agrees], axis=1))) if number else float("nan"),
        spread_after=float(np.median(distances[agrees])) if number else float("nan"),
        error=_standard_error(distances[agrees], TERMS[kind]),
    )


def _terms(v: DoubleArray, u: DoubleArray, kind: Kind) -> DoubleArray:
    """Return the model's terms, stacked along a new last axis."""
    terms = [np.ones_like(v), v, u, v * v, v * u, u * u]
    return np.stack(terms[: TERMS[kind]], axis=-1)


def _distances(
    places: DoubleArray, shifts: DoubleArray, coefficients: DoubleArray, kind: Kind
) -> DoubleArray:
    """Return the distance of every window's shift from the model, pixels."""
    model = _terms(places[:, 0], places[:, 1], kind) @ coefficients
    result: DoubleArray = np.linalg.norm(shifts - model, axis=-1)
    return result


def _sigma(distances: DoubleArray) -> float:
    """Return the standard deviation of the windows in one axis, pixels, from the median distance in both."""
    # The median length of pairs of Gaussian numbers is 1.1774 standard deviations.
    return float(np.median(distances)) / 1.1774


def _fitted(places: DoubleArray, shifts: DoubleArray, kind: Kind, seed: int) -> DoubleArray:
    """Return the coefficients, (terms, 2), of a model of one kind that outlying windows do not move."""
    if kind == "quadratic":
        start = np.zeros((6, 2))
        start[:3] = _fitted(places, shifts, "affine", seed)
    else:
        start = _sought(places, shifts, kind, seed)
    design = _terms(places[:, 0], places[:, 1], kind)
    coefficients: DoubleArray = start
    for _ in range(20):
        distances = np.linalg.norm(shifts - design @ coefficients, axis=1)
        reach = 4.685 * max(_sigma(distances), 0.02)
        # The square root of Tukey's weights, since both sides are multiplied by it.
        weight = np.maximum(0, 1 - (distances / reach) ** 2)[:, None]
        if np.count_nonzero(weight) < 2 * TERMS[kind]:
            break
        refined = np.linalg.lstsq(design * weight, shifts * weight, rcond=None)[0]
        done = np.abs(refined - coefficients).max() < 1e-6
        coefficients = refined
        if done:
            break
    return coefficients


def _sought(places: DoubleArray, shifts: DoubleArray, kind: Kind, seed: int) -> DoubleArray:
    """Return the model through one window, or through three, that the largest number of windows lies close to."""
    number = len(shifts)
    if kind == "translation":
        candidates = shifts[:, None, :]
    else:
        rng = np.random.default_rng(seed)
        triples = np.argsort(rng.random((DRAWS, number)), axis=1)[:, :3]
        designs = _terms(places[triples, 0], places[triples, 1], kind)
        # Three windows in a row hold nothing about the direction across.
        apart = np.abs(np.linalg.det(designs)) > 0.02
        if not apart.any():
            result = np.zeros((3, 2))
            result[:1] = _sought(places, shifts, "translation", seed)
            return result
        candidates = np.linalg.solve(designs[apart], shifts[triples[apart]])
    design = _terms(places[:, 0], places[:, 1], kind)
    distances = np.linalg.norm(shifts[None] - design @ candidates, axis=-1)
    near = np.maximum(0, 1 - (distances / SEARCH_RADIUS) ** 2).sum(axis=1)
    best: DoubleArray = candidates[int(near.argmax())]
    return best


def _choose_kind(places: DoubleArray, shifts: DoubleArray, seed: int, highest: Kind) -> Kind:
    """Return the lowest kind of model that a higher one does not clearly beat on windows it was not fitted to."""
    kinds: tuple[Kind, ...] = ("translation", "affine", "quadratic")
    usable = [kind for kind in kinds if len(shifts) >= MIN_WINDOWS[kind] and TERMS[kind] <= TERMS[highest]]
    chosen: Kind = "translation"
    if len(usable) < 2:
        return chosen
    lowest = _validated(places, shifts, chosen, seed)
    for kind in usable[1:]:
        held_out = _validated(places, shifts, kind, seed)
        wins = np.median(held_out) < (1 - MIN_GAIN) * np.median(lowest)
        # The typical window alone could gain while others are given up; the number that agree must not fall.
        keeps = (held_out <= AGREEMENT[0]).sum() >= (lowest <= AGREEMENT[0]).sum()
        # A field that hardly exceeds the scatter of the windows is not seen clearly enough to be followed.
        least = max(MIN_DIFFERENCE, MIN_CONTRAST * float(np.median(held_out)))
        if wins and keeps and _difference(places, shifts, (chosen, kind), seed) >= least:
            chosen, lowest = kind, held_out
    return chosen


def _validated(places: DoubleArray, shifts: DoubleArray, kind: Kind, seed: int) -> DoubleArray:
    """Return each window's distance from a model fitted without it and its neighbours, pixels.

    Neighbours overlap and err alike. Held out one by one they would speak for a field that follows their errors.
    """
    ranks = places.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    block = BLOCKS * ranks // len(ranks) @ (BLOCKS, 1)
    fold = (np.random.default_rng((seed, 1)).permutation(BLOCKS * BLOCKS) % FOLDS)[block]
    result = np.empty(len(shifts))
    for part in range(FOLDS):
        out = fold == part
        coefficients = _fitted(places[~out], shifts[~out], kind, seed)
        result[out] = _distances(places[out], shifts[out], coefficients, kind)
    return result


def _difference(places: DoubleArray, shifts: DoubleArray, kinds: tuple[Kind, Kind], seed: int) -> float:
    """Return how far models of two kinds lie apart over the windows, root mean square, pixels."""
    fields = [
        _terms(places[:, 0], places[:, 1], kind) @ _fitted(places, shifts, kind, seed) for kind in kinds
    ]
    return float(np.sqrt(((fields[0] - fields[1]) ** 2).sum(axis=1).mean()))


def _standard_error(distances: DoubleArray, terms: int) -> float:
    if len(distances) < max(2, terms + 1):
        return float("inf")
    return float(np.sqrt((distances**2).sum() / 2 / (len(distances) - terms) / len(distances)))
