"""Sizes of a stratified sample: how many points there are, and how many of them each stratum gets."""

from __future__ import annotations

import math

import numpy as np

from ussfc.pipeline.assessment.estimators import IntArray, RealArray
from ussfc.pipeline.errors import ConfigError

RARE = 50
"""Points that a rare stratum gets where there are enough (Olofsson et al. 2014: 50 to 100)."""

LEAST = 2
"""Points without which a stratum has no variance."""

EXPECTED = {"change": 0.70, "buffer": 0.80, "stable": 0.98}
"""Share of a stratum in which the map is expected to be right, before any point is labelled."""


def allocate(points: int, wanted: RealArray, units: IntArray) -> IntArray:
    """Return the number of points of each stratum, (strata,): in proportion, but enough for each rare one.

    A stratum whose part is below :data:`RARE` gets that many, or an equal part where there are too few points; the
    rest is shared in proportion. No stratum gets more points than it has units.

    Args:
        points: of the sample.
        wanted: (strata,) proportions.
        units: (strata,) units of the population; a stratum without any gets no point.

    Raises:
        ConfigError: there are fewer points than any stratum needs.
    """
    there = units > 0
    strata = int(there.sum())
    if points < LEAST * strata:
        raise ConfigError(
            f"{points} points cannot be shared by {strata} strata; each needs {LEAST} or more, and about {RARE} for "
            f"an interval of use: give {RARE * strata} points or more"
        )
    points = min(points, int(units.sum()))
    least = np.where(there, np.minimum(units, min(RARE, points // strata)), 0)
    parts = np.where(there, wanted, 0.0)
    fixed = np.zeros(len(units), bool)
    while True:
        left = points - least[fixed].sum()
        free = parts * ~fixed
        shared = free / free.sum() * left if free.sum() > 0 else np.zeros(len(units))
        low = ~fixed & there & (shared < least)
        if not low.any():
            break
        fixed |= low
    return _whole(np.where(fixed, least, shared), units, points)


def _whole(shared: RealArray, units: IntArray, points: int) -> IntArray:
    """Return whole numbers of points that sum to ``points``, none above its stratum's units."""
    found = np.minimum(np.floor(shared), units).astype(np.int64)
    order = np.argsort(-(shared - np.floor(shared)), kind="stable")
    while (missing := points - int(found.sum())) > 0:
        open_ = [stratum for stratum in order if found[stratum] < units[stratum]]
        for stratum in open_[:missing]:
            found[stratum] += 1
    return found


def optimal_size(units: IntArray, expected: RealArray, target: float) -> tuple[int, RealArray]:
    """Return the number of points for a standard error of the overall accuracy, and Neyman's proportions (strata,).

    Olofsson et al. (2014), equation 13, with the finite population correction.

    Args:
        units: (strata,) units of the population.
        expected: (strata,) share of each in which the map is expected to be right.
        target: standard error of the overall accuracy.
    """
    weights = units / units.sum()
    spread = np.sqrt(expected * (1 - expected))
    needed = (weights * spread).sum() ** 2 / (target**2 + (weights * spread**2).sum() / units.sum())
    return math.ceil(needed), weights * spread
