"""Mapping of source numbers to the model's input range, with constants fixed for the whole scene, never per tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.types import FloatArray, PixelPair, Pixels, RadiometricMapping, SourceArray

MIDDLE = np.float32(0.5)
"""Input of the network for a pixel without data: the middle of the range, on both dates alike."""

REFLECTANCE_SCALE = 0.1
"""Declared scale below which physical numbers are reflectances: 0.0001 and 0.0000275 are in use."""

PART = 1 << 16
"""Numbers that go through all steps of a mapping together: as float32 they stay in a core's cache."""


def range_mapping(
    low: float | tuple[float, ...], high: float | tuple[float, ...], bands: int
) -> RadiometricMapping:
    """Return the mapping with given ends.

    Args:
        low: source number that becomes 0, one for all bands or one a band.
        high: source number that becomes 1, likewise.
        bands: number of bands.

    Raises:
        ValueError: a sequence has another length, or a low end is not below its high end.
    """
    lows = tuple(low) if isinstance(low, tuple) else (low,) * bands
    highs = tuple(high) if isinstance(high, tuple) else (high,) * bands
    if len(lows) != bands or len(highs) != bands:
        raise ValueError(f"a range of {len(lows)} and {len(highs)} numbers for {bands} bands")
    if any(a >= b for a, b in zip(lows, highs, strict=True)):
        raise ValueError(f"the range's low {lows} must lie below its high {highs}")
    return RadiometricMapping(lows, highs)


def declared_mapping(
    mapping: RadiometricMapping, scales: Sequence[tuple[float, float]], reflectance: float
) -> RadiometricMapping:
    """Return a mapping of stored numbers, from one of reflectances times ``reflectance``.

    Args:
        mapping: ends in units of 1 / ``reflectance``.
        scales: declared (scale, offset) of each band: a physical number is stored number times scale plus offset.
        reflectance: number of a reflectance of 1 in the model's range.

    Returns:
        The ends as stored numbers of each band. A scale below 0.1 leads to reflectances; a larger one, as of a plain
        offset, to numbers of the model's own kind.
    """

    def stored(ends: tuple[float, ...]) -> tuple[float, ...]:
        found = []
        for end, (scale, offset) in zip(ends, scales, strict=True):
            physical = end / reflectance if scale < REFLECTANCE_SCALE else end
            # Nine digits: 3500 declared as 0.35 / 0.0001 is 3500 again.
            found.append(float(f"{(physical - offset) / scale:.9g}"))
        return tuple(found)

    return RadiometricMapping(stored(mapping.low), stored(mapping.high))


def percentile_mapping(sample: Pixels, low: float, high: float, scene: str) -> RadiometricMapping:
    """Return the mapping between two percentiles of each band over the valid pixels of a sample.

    Args:
        sample: pixels that represent the scene.
        low: percentile that becomes 0, in [0, 100).
        high: percentile that becomes 1, in (0, 100], above ``low``.
        scene: name of the scene, for the error.

    Raises:
        ReadError: the sample holds no valid pixel.
    """
    values = sample.values[:, sample.valid]
    if values.shape[1] == 0:
        raise ReadError(
            f"{scene}: no valid pixel found on the common grid; check the overlap and the nodata value"
        )
    lows, highs = np.percentile(values.astype(np.float64), (low, high), axis=1)
    # A constant band carries no information; any width keeps the division defined.
    apart = highs.astype(np.float32) > lows.astype(np.float32)
    highs = np.where(apart, highs, lows + np.maximum(1, np.abs(lows) * 1e-6))
    return RadiometricMapping(tuple(float(v) for v in lows), tuple(float(v) for v in highs))


def apply_mapping(pixels: Pixels, mapping: RadiometricMapping) -> FloatArray:
    """Map a window to the model's input range, (bands, rows, cols) float32 in [0, 1], invalid pixels included."""
    scaled = np.empty(pixels.values.shape, np.float32)
    for source, target, low, high in zip(pixels.values, scaled, mapping.low, mapping.high, strict=True):
        _map_band(source, np.float32(low), np.float32(high), target)
    return scaled


def _map_band(source: SourceArray, low: np.float32, high: np.float32, target: FloatArray) -> None:
    width = high - low
    step = max(1, PART // max(1, source.shape[1]))
    for start in range(0, source.shape[0], step):
        part = target[start : start + step]
        # In float32 from the first step on, whatever the source: its 16 bits and fewer lose nothing.
        np.subtract(source[start : start + step], low, out=part, dtype=np.float32)
        np.divide(part, width, out=part)
        np.clip(part, 0, 1, out=part)


def pair(before: Pixels, after: Pixels, mappings: tuple[RadiometricMapping, RadiometricMapping]) -> PixelPair:
    """Map both dates to the model's range; pixels that are not valid on one date are set to the middle on both."""
    valid = before.valid & after.valid
    images = [
        apply_mapping(pixels, mapping) for pixels, mapping in zip((before, after), mappings, strict=True)
    ]
    if not valid.all():
        missing = ~valid
        for image in images:
            np.copyto(image, MIDDLE, where=missing)
    return PixelPair(images[0], images[1], valid)
