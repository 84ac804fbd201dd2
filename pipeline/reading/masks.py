"""Validity of pixels: nodata numbers, mask and alpha bands, NaN."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from ussfc.pipeline.types import BoolArray, Pixels, SourceArray

SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")
"""Types that are read as they are: float32 holds each of their numbers, and they take less memory and time."""


def fill_invalid(values: SourceArray, valid: BoolArray) -> Pixels:
    """Mark numbers that are not finite as invalid, and set invalid pixels to 0.

    Args:
        values: (bands, rows, cols) integers or float32; changed in place.
        valid: (rows, cols); changed in place.
    """
    if values.dtype == np.float32:
        for band in values:
            valid &= np.isfinite(band)
    if not valid.all():
        np.copyto(values, 0, where=~valid)
    return Pixels(values, valid)


def read_validity(source: Any, window: Window) -> BoolArray:
    """Read the alpha band of a window where there is one, else GDAL's mask of the dataset; (rows, cols)."""
    # GDAL takes an alpha band for a mask in integer rasters only; a float32 warp has one too.
    if ColorInterp.alpha in source.colorinterp:
        alpha: BoolArray = source.read(source.colorinterp.index(ColorInterp.alpha) + 1, window=window) > 0
        return alpha
    mask: BoolArray = source.dataset_mask(window=window) > 0
    return mask


@dataclass(frozen=True, slots=True)
class NodataMarks:
    """Marks of missing pixels in a file of small integers whose values alone decide which pixels are valid."""

    nodata: int | None
    """Nodata number of all bands; None: every pixel is valid."""
    others: tuple[int, ...]
    """Numbers of the bands that are not read; a pixel is missing when it is so in all bands of the file."""

    @classmethod
    def of(cls, source: Any, bands: tuple[int, ...]) -> NodataMarks | None:
        """Return the marks of an open file.

        Args:
            source: the file.
            bands: numbers of the bands that are read, from 1.

        Returns:
            None where GDAL's mask is needed: masks, alpha, other types, and fractions as nodata.
        """
        if set(source.dtypes) - set(SMALL_INTEGERS) or ColorInterp.alpha in source.colorinterp:
            return None
        kinds = {frozenset(flags) for flags in source.mask_flag_enums}
        others = tuple(index for index in source.indexes if index not in bands)
        if kinds == {frozenset({MaskFlags.all_valid})}:
            return cls(None, others)
        numbers = set(source.nodatavals)
        if kinds != {frozenset({MaskFlags.nodata})} or len(numbers) != 1:
            return None
        (number,) = numbers
        return cls(int(number), others) if float(number).is_integer() else None

    def valid(self, source: Any, window: Window, values: SourceArray) -> BoolArray:
        """Return the same validity as GDAL's mask of the dataset, (rows, cols).

        Args:
            source: the file.
            window: part of the file.
            values: ``(bands, rows, cols)``, the bands that are read, over ``window``.
        """
        if self.nodata is None:
            return np.ones(values.shape[1:], bool)
        valid = np.zeros(values.shape[1:], bool)
        others = (source.read(index, window=window) for index in self.others)
        for band in itertools.chain(values, others):
            valid |= band != self.nodata
            if valid.all():
                break
        return valid
