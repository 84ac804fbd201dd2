"""Presentation of a raster to its readers: description, colours, scale and the name of its resampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS

Color = tuple[int, int, int, int]
"""Red, green, blue, alpha, each in [0, 255]."""

COLORS: Mapping[int, Color] = {0: (32, 32, 32, 0), 1: (230, 0, 38, 255), NODATA_BYTE: (0, 0, 0, 0)}
"""Colour of each class. A TIFF palette holds no alpha: only nodata is seen transparent."""


@dataclass(frozen=True, slots=True)
class Style:
    """Description of a band as GDAL's metadata hold it."""

    description: str
    """Name of the band."""
    colors: Mapping[int, Color] | None = None
    """Palette by pixel value; None for a raster without one."""
    scale: float | None = None
    """Factor from stored numbers to probabilities; None where they are equal."""
    resampling: str = ""
    """GDAL's name for the rule of the overviews, recorded in the file; empty where GDAL has no name for it."""


CHANGE = Style("change", colors=COLORS)
"""Style of the change classes."""

BYTE_PROBABILITY = Style("change_probability", scale=1 / PROBABILITY_STEPS, resampling="AVERAGE")
"""Style of probabilities stored as bytes."""

REAL_PROBABILITY = Style("change_probability", resampling="AVERAGE")
"""Style of probabilities stored as float32."""
