"""The two kinds of raster, change classes and probabilities: how their pixels and their pyramids are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from ussfc.pipeline.pixels.encoding import classify
from ussfc.pipeline.pixels.pyramid import average, pool
from ussfc.pipeline.rasters.styles import BYTE_PROBABILITY, CHANGE, REAL_PROBABILITY, Style
from ussfc.pipeline.types import NODATA_BYTE, StoredArray


@dataclass(frozen=True, slots=True)
class Product:
    """One raster on one grid."""

    geobox: GeoBox
    """The grid; its ``crs`` may be None."""
    dtype: np.dtype[Any]
    """Type of its pixels, uint8 or float32."""
    tags: Mapping[str, str]
    """Dataset metadata, text by name."""
    style: Style
    """Description, colours and scale."""
    pixels: Callable[[Any], npt.NDArray[Any]]
    """Function from stored probabilities to pixels."""
    halve: Callable[[Any], npt.NDArray[Any]]
    """Function from the pixels of a level to those of the next overview."""
    predictor: Literal["NO", "YES"]
    """Predictor as the COG driver names it: YES is the one of the dtype."""
    counted: tuple[int, ...] = ()
    """Values whose pixels are counted."""


@dataclass(frozen=True, slots=True)
class ChangeRaster:
    """The change classes: uint8, 0 no change, 1 change, 255 nodata.

    An overview pixel is 1 if any pixel under it is 1, else 0 if any is 0, else 255: change stays visible
    at every zoom.
    """

    path: Path
    """The file; it appears when complete and checked, and replaces an older one."""
    tags: Mapping[str, str]
    """Dataset metadata, text by name."""
    threshold: float
    """Least probability of change, in [0, 1]."""

    def product(self, geobox: GeoBox, dtype: np.dtype[Any]) -> Product:
        """Return the raster as made of probabilities of a dtype, which does not matter here."""
        return Product(
            geobox,
            np.dtype(np.uint8),
            self.tags,
            CHANGE,
            pixels=partial(classify, threshold=self.threshold),
            halve=pool,
            predictor="NO",
            counted=(0, 1, NODATA_BYTE),
        )


@dataclass(frozen=True, slots=True)
class ProbabilityRaster:
    """The probabilities as the source stores them, with overviews averaged over valid pixels.

    uint8 gets scale 1/254 and nodata 255; float32 stays as it is, with nodata NaN.
    """

    path: Path
    """The file; it appears when complete and checked, and replaces an older one."""
    tags: Mapping[str, str]
    """Dataset metadata, text by name."""

    def product(self, geobox: GeoBox, dtype: np.dtype[Any]) -> Product:
        """Return the raster as made of probabilities of a dtype."""
        return Product(
            geobox,
            np.dtype(dtype),
            self.tags,
            BYTE_PROBABILITY if dtype == np.uint8 else REAL_PROBABILITY,
            pixels=_unchanged,
            halve=average,
            predictor="YES",
        )


def _unchanged(stored: StoredArray) -> StoredArray:
    return stored
