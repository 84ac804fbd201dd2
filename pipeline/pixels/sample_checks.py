"""Checks of a sample of both dates against a model's range: numbers of another kind, and missing data in disguise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ussfc.pipeline.types import BoolArray, Pixels, RadiometricMapping

MOST_OUTSIDE = 0.5
"""Share of a date's numbers outside of the model's range beyond which a warning is due."""

MOST_ZEROS = 0.05
"""Share of pixels that are exactly zero in all bands, and valid, beyond which a warning is due."""

COMMON_SHIFT = 500 / 3500
"""Shift of all bands' medians between the dates beyond which a warning is due, share of the model's range. Of 24 real
Sentinel-2 pairs the smallest shift of three bands is at most 226 numbers; an offset of 1000 in one date gives at least
774 (measured, range 0 to 3500)."""

FRACTION = 2.0
"""Largest number of a date that looks like reflectances between 0 and 1."""


MOST_CLIPPED = 0.2
"""Share of a date's numbers above the model's range beyond which a warning is due; deserts reach 0.3 at 3500."""

LEAST_BRIGHT = 0.1
"""Place in the model's range below which 99 % of a date's numbers may not lie in all bands; of 28 Sentinel-2 images of
cities the lowest is at 0.48 (range 0 to 3500)."""

BYTES = 255
"""Largest number of a byte."""

MOST_CHANGED = 0.15
"""Share of a map that is change beyond which a warning is due; labelled cities have 1 to 6 %."""


@dataclass(frozen=True)
class Finding:
    """Something in a sample that makes a map mean little."""

    text: str
    fatal: bool = False
    """True: the map would be worthless, and the run does not begin unless it is forced."""
    shift: float = 0.0
    """Numbers by which the later date lies above the earlier one in all bands, below 0 where it lies under it; 0 for
    findings about something else."""
    dark: bool = False
    """True: the numbers fill a small part of the range alone, as those of water do as well."""


@dataclass(frozen=True)
class DateSample:
    """A sample of one date."""

    name: str
    """Address of the scene, for messages."""
    pixels: Pixels
    mapping: RadiometricMapping
    """Ends of the model's range as stored numbers of this date."""
    key: str
    """Section of the configuration that is about this date: before or after."""


def check_samples(before: DateSample, after: DateSample) -> list[Finding]:
    """Return what is wrong with the numbers of both dates.

    Args:
        before: sample of the earlier date.
        after: sample of the later date, over other pixels or the same.
    """
    findings = [*_check_date(before), *_check_date(after)]
    if not findings:
        findings = [*_check_brightness(before), *_check_brightness(after), *_check_shift(before, after)]
    if _are_equal(before.pixels, after.pixels):
        findings.append(
            Finding(f"{before.name} and {after.name}: hold the same numbers; there is no change in one image")
        )
    return findings


def _are_equal(before: Pixels, after: Pixels) -> bool:
    return bool(before.valid.any()) and all(
        np.array_equal(first, second)
        for first, second in ((before.valid, after.valid), (before.values, after.values))
    )


def _check_date(date: DateSample) -> list[Finding]:
    values = date.pixels.values[:, date.pixels.valid]
    if not values.shape[1]:
        text = "no valid pixel in a sample of the common grid; check the nodata value and the masks"
        return [Finding(f"{date.name}: {text}", fatal=True)]
    low, high = (_column(ends) for ends in (date.mapping.low, date.mapping.high))
    maxima = values.max(axis=1)
    largest, lowest_end = float(maxima.max()), float(high.min())
    fractions = (maxima > 0) & (maxima <= FRACTION)
    if fractions.any() and lowest_end > 10 * FRACTION and largest > 10 * FRACTION:
        text = (
            f"band {int(fractions.argmax()) + 1} of those taken holds numbers up to {maxima[fractions].max():.3g}, "
            f"others up to {largest:.3g}: they are not of one kind; bring all bands to the same numbers"
        )
        return [Finding(f"{date.name}: {text}", fatal=True)]
    if 0 < largest <= FRACTION and lowest_end > 10 * FRACTION:
        return [
            Finding(
                f"{date.name}: holds numbers up to {largest:.3g}, which look like reflectances, and the model's range "
                f"ends at {float(high.min()):g}; the map would be empty: scale them ({date.key}.scale=10000 for "
                "reflectances of Sentinel-2), or declare the scale in the file",
                fatal=True,
            )
        ]
    above = float((values > high).mean())
    outside = above + float((values < low).mean())
    ends = f"{float(low.min()):g} to {float(high.max()):g}"
    findings = []
    if outside > MOST_OUTSIDE:
        text = (
            f"{outside:.0%} of its numbers lie outside of the model's range ({ends}); the map would mean little: "
            f"check the scale and offset ({date.key}.scale, {date.key}.offset)"
        )
        return [Finding(f"{date.name}: {text}", fatal=True)]
    if above > MOST_CLIPPED:
        text = f"{above:.0%} of its numbers lie above the model's range ({ends}) and look alike to it"
        findings.append(Finding(f"{date.name}: {text}; change on bright ground is missed"))
    zeros = float((values == 0).all(axis=0).mean())
    if zeros > MOST_ZEROS:
        text = (
            f"{zeros:.0%} of its pixels are exactly zero in all bands; if that stands for missing data, declare it as "
            "nodata (gdal_edit.py -a_nodata 0), or it will count as change"
        )
        findings.append(Finding(f"{date.name}: {text}"))
    return findings


def _check_brightness(date: DateSample) -> list[Finding]:
    """Find numbers that fill a small part of the range alone."""
    values = date.pixels.values[:, date.pixels.valid]
    low, high = np.array(date.mapping.low), np.array(date.mapping.high)
    bright = float(((np.percentile(values, 99, axis=1) - low) / (high - low)).max())
    if bright >= LEAST_BRIGHT:
        return []
    ends = f"{low.min():g} to {high.max():g}"
    # Of bytes nothing but their stretch can be mended.
    remedy = (
        f"they may be bytes or per cent; the map would show little: bring them to that range, or state their scale "
        f"({date.key}.scale)"
        if high.max() > BYTES
        else "the map would show little: stretch both dates alike"
    )
    text = f"99 of 100 of its numbers lie in the lowest {bright:.1%} of the model's range ({ends}): {remedy}"
    return [Finding(f"{date.name}: {text}", dark=True)]


def _check_shift(before: DateSample, after: DateSample) -> list[Finding]:
    """Find an offset that one date alone has: all bands moved the same way."""
    shifts = _medians(after) - _medians(before)
    if not (np.all(shifts > COMMON_SHIFT) or np.all(shifts < -COMMON_SHIFT)):
        return []
    span = after.mapping.high[0] - after.mapping.low[0]
    numbers = abs(float(shifts[np.argmin(np.abs(shifts))])) * span
    brighter = after if shifts[0] > 0 else before
    text = (
        f"all bands are brighter than on the other date by {numbers:.0f} numbers or more; if one date has an offset "
        f"(Sentinel-2 from baseline 04.00 on: {brighter.key}.offset=-1000), state it, or set "
        "radiometry=match; unchanged ground will count as change"
    )
    return [Finding(f"{brighter.name}: {text}", shift=float(np.median(shifts)) * span)]


def describe_match(shift: float) -> str:
    """Return what was done about a shift of all bands, for people.

    Args:
        shift: of the finding, numbers.
    """
    side, brighter = ("above", "after") if shift > 0 else ("below", "before")
    # More digits would promise more than medians of changed ground know.
    return (
        f"the later date's numbers lie about {float(f'{abs(shift):.2g}'):g} {side} the earlier one's; they are brought "
        "to them by unchanged ground; radiometry=model leaves them as they are; "
        f"if one date has an offset (Sentinel-2 from baseline 04.00 on: {brighter}.offset=-1000), state it"
    )


def _medians(date: DateSample) -> np.ndarray:
    """Return the median of each band as a share of the model's range."""
    values = date.pixels.values[:, date.pixels.valid]
    low, high = np.array(date.mapping.low), np.array(date.mapping.high)
    medians: np.ndarray = (np.median(values, axis=1) - low) / (high - low)
    return medians


def check_map(changed_share: float, classified: int, warned: bool) -> list[str]:
    """Return a warning about a finished map that holds no information.

    Args:
        changed_share: share of the classified pixels that changed.
        classified: pixels that are not nodata.
        warned: True if the numbers of the scenes were warned of before.
    """
    if not classified:
        return ["no pixel is valid on both dates: the products hold nothing but nodata"]
    if warned and changed_share in (0.0, 1.0):
        what = "no pixel" if changed_share == 0 else "every pixel"
        return [f"{what} counts as changed, after the warnings about the scenes: do not trust this map"]
    if changed_share > MOST_CHANGED:
        return [
            f"{changed_share:.0%} of the map is change, and cities seldom change by more than {MOST_CHANGED:.0%} "
            "between two dates: look at it beside both images (clouds, seasons, an offset) before you use it"
        ]
    return []


def thin(pixels: Pixels, most: int) -> Pixels:
    """Return every n-th pixel of a sample, at most about ``most``."""
    step = max(1, pixels.valid.size // most)
    bands = pixels.values.shape[0]
    valid: BoolArray = pixels.valid.reshape(1, -1)[:, ::step]
    return Pixels(pixels.values.reshape(bands, 1, -1)[:, :, ::step], valid)


def _column(ends: Sequence[float]) -> np.ndarray:
    return np.array(ends, np.float64)[:, None]
