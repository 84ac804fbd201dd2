"""Hints at the kind of a change, by a rule on the mean values of its bands; docs/polygons.md has its agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.polygons.arrays import FlagArray, RealArray

KINDS = ("other", "built up", "cleared", "vegetated", "water")
"""Kinds by number."""

VISIBLE = ("red", "green", "blue")
"""Bands whose mean is the brightness."""


WATER = 0.05
"""Least NDWI (green and near infrared) of water; that of some roofs is just above 0."""

GREENER = 0.1
"""Least rise of NDVI where plants have grown."""

GREEN = 0.2
"""Least NDVI of plants that have grown."""

LOST = 0.08
"""Least fall of NDVI where plants are gone; what replaces them is often a mixture."""

PLANTS = 0.15
"""Least NDVI of plants that can be lost."""

BRIGHT = 0.42
"""Least brightness of roofs and concrete in place of plants, share of the model's range."""

WHITE = 0.75
"""Least brightness of white roofs, which no ground has."""

BRIGHTER = 0.05
"""Least rise of brightness that is one of new roofs, roads or bare ground, share of the model's range."""

GREY = 0.02
"""Most redness of bright roofs and concrete in place of plants."""

BARE = 0.15
"""Least redness of bare ground."""

GREYER = 0.05
"""Least fall of redness where ground is built on."""


@dataclass(frozen=True)
class Hints:
    """Differences and kinds of polygons; every array holds one element a polygon."""

    kind: npt.NDArray[np.int64]
    """Number of the kind, of :data:`KINDS`; -1 where no pixel counts."""
    ndvi_change: RealArray
    """NDVI after minus before, NaN where not known."""
    brightness_change: RealArray
    """Brightness after minus before, NaN where not known."""


def hints(names: tuple[str, ...], before: RealArray, after: RealArray, span: tuple[float, float]) -> Hints:
    """Return the hints.

    Args:
        names: common names of the bands.
        before: (bands, n) mean values, NaN where not known.
        after: likewise.
        span: values of the visible bands that are 0 and 1 in the model's range.
    """
    dates = [dict(zip(names, values, strict=True)) for values in (before, after)]
    count = before.shape[1]
    ndvi, ndwi, redness = (
        [_ratio(bands, one, other, count) for bands in dates]
        for one, other in (("nir", "red"), ("green", "nir"), ("red", "blue"))
    )
    bright = [_brightness(bands, count) for bands in dates]
    gain, greener = bright[1] - bright[0], ndvi[1] - ndvi[0]
    width = span[1] - span[0]
    # Comparisons with NaN do not hold: without the near infrared no plants are lost, and there is no water.
    lost = (greener <= -LOST) & (ndvi[0] >= PLANTS)
    brighter = gain >= BRIGHTER * width
    level = (bright[1] - span[0]) / width
    paved = lost & (((level >= BRIGHT) & (redness[1] < GREY)) | (level >= WHITE))
    built = (brighter & (redness[1] < BARE)) | (redness[1] - redness[0] <= -GREYER)
    # The first that holds is taken.
    rules: list[tuple[str, FlagArray]] = [
        ("water", (ndwi[1] >= WATER) & (ndwi[0] < WATER)),
        ("vegetated", (greener >= GREENER) & (ndvi[1] >= GREEN)),
        ("built up", paved | (built & ~lost)),
        ("cleared", lost | brighter),
    ]
    kind = np.zeros(count, np.int64)
    for name, holds in reversed(rules):
        kind[holds] = KINDS.index(name)
    known = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    kind[~known | (len(names) == 0)] = -1
    return Hints(kind, greener, gain)


def _ratio(bands: Mapping[str, RealArray], one: str, other: str, count: int) -> RealArray:
    """Return the normalised difference of two bands, NaN where there is none: a band is missing or negative."""
    if one not in bands or other not in bands:
        return np.full(count, np.nan)
    total = bands[one] + bands[other]
    sound = (bands[one] >= 0) & (bands[other] >= 0) & (total > 0)
    return np.where(sound, (bands[one] - bands[other]) / np.where(sound, total, 1), np.nan)


def _brightness(bands: Mapping[str, RealArray], count: int) -> RealArray:
    if any(name not in bands for name in VISIBLE):
        return np.full(count, np.nan)
    found: RealArray = np.mean([bands[name] for name in VISIBLE], axis=0)
    return found
