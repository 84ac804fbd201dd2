"""Presentation of a raster to its readers: description, colours, scale and the name of its resampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS

Color = tuple[int, int, int, int]
"""Red, green, blue, alpha, each in [0, 255]."""

COLORS: Mapping[int, Color] = {0: (255, 255, 255, 0), 1: (255, 45, 149, 255), NODATA_BYTE: (0, 0, 0, 0)}
"""Colour of each class. A TIFF palette holds no alpha: where it alone is looked at, no change is white."""

CHANGE_COLOR: Color = COLORS[1]
"""Colour of change: unlike vegetation, soil, water and roofs, for colour-blind people as well."""

CLASS_NAMES: Mapping[int, str] = {0: "no change", 1: "change"}
"""Names of the classes."""

RAMP: Sequence[tuple[float, Color]] = (
    (0.0, (255, 243, 176, 0)),
    (0.1, (255, 243, 176, 90)),
    (0.4, (253, 160, 82, 190)),
    (0.7, (255, 45, 149, 230)),
    (1.0, (110, 0, 78, 255)),
)
"""Colours of probabilities: transparent where change is unlikely."""

OUTLINES: Sequence[tuple[float, Color]] = (
    (0.0, (255, 225, 77, 255)),
    (0.4, (255, 140, 66, 255)),
    (0.7, (255, 45, 149, 255)),
)
"""Colours of outlines, each from a mean probability on."""


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
