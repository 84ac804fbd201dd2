"""Coordinates of rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401
import pytest
import xarray as xr

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.array import array_geobox, with_bands
from ussfc.pipeline.reading.stacking import image_of

COLUMNS = 35.5 + 1e-4 * np.arange(2001)


def scene(columns: Any, dtype: str = "uint16") -> xr.DataArray:
    pixels = np.zeros((2, len(columns)), dtype)
    placed: xr.DataArray = xr.DataArray(
        pixels, {"latitude": [34.0, 33.9999], "longitude": columns}, ("latitude", "longitude")
    ).odc.assign_crs("EPSG:4326")
    return placed


def test_the_pixel_size_is_that_of_the_whole_axis() -> None:
    found = array_geobox(with_bands(scene(COLUMNS.astype(np.float32)), "scene"))
    assert found.affine.a == pytest.approx(1e-4, abs=1e-8)
    right = found.affine.c + 2001 * found.affine.a
    assert right == pytest.approx(COLUMNS[-1] + 5e-5, abs=1e-5)


def test_even_axes_stay_as_they_are() -> None:
    """Keys of runs hang on the last bit."""
    image = scene(COLUMNS)
    assert array_geobox(with_bands(image, "scene")).affine == image.odc.geobox.affine


@pytest.mark.parametrize(
    "columns",
    [
        np.where(np.arange(2001) == 900, COLUMNS + 3e-5, COLUMNS),
        np.where(np.arange(2001) == 900, np.nan, COLUMNS),
        np.where(np.arange(2001) > 900, COLUMNS + 1e-4, COLUMNS),
        COLUMNS**2,
        np.full(2001, 35.5),
    ],
    ids=["one moved", "no number", "gap", "curved", "all alike"],
)
def test_uneven_axes_are_refused(columns: Any) -> None:
    with pytest.raises(
        ReadError, match=r"scene: longitude is unevenly spaced: coordinate [0-9]+ is .*expected"
    ):
        with_bands(scene(columns), "scene")


@pytest.mark.parametrize(("dtype", "what"), [("complex64", "complex numbers"), ("<U1", "no numbers")])
def test_images_of_other_than_numbers_are_refused(dtype: str, what: str) -> None:
    with pytest.raises(ReadError, match=f"scene: holds {what}"):
        with_bands(scene(COLUMNS, dtype), "scene")


def test_texts_beside_bands_are_no_bands() -> None:
    dataset = xr.Dataset({"B04": scene(COLUMNS), "B03": scene(COLUMNS), "class": scene(COLUMNS, "<U1")})
    assert image_of(dataset, "scene", True).shape == (2, 2, 2001)
