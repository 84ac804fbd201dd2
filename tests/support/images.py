"""One small image in every container that the readers open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox

from ussfc.pipeline.types import Box, Pixels

UTM = "EPSG:32633"
AFFINE = Affine(10, 0, 330_000, 0, -10, 5_862_000)
SHAPE = (180, 230)
NODATA = 0

SMALL = ["uint8", "int8", "uint16", "int16"]
"""Types that are read as they are; all others are read as float32."""

NUMBERS = {
    "uint8": (0, 7, 255), "int8": (0, -5, -128), "uint16": (0, 9, 65535), "int16": (0, -9999, 32767),
    "int32": (0, -9999, 2**31 - 1), "float32": (0, -9999.0, np.nan, np.inf), "float64": (0, 1e300, np.nan),
}  # fmt: skip
"""Numbers of each type that images are drawn from."""


def image(bands: int = 3) -> np.ndarray:
    """Return smooth numbers, a nodata wedge, and one pixel that is 0 in one band only."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values = np.stack([1000 + 40 * np.sin(rows / (7 + b)) * np.cos(cols / 11) * 10 for b in range(bands)])
    values = values.round().astype(np.uint16)
    values[:, rows + cols < 60] = NODATA
    values[0, 100, 100] = NODATA
    return values


def write_tif(path: Path, values: np.ndarray, **extra: object) -> str:
    """Write a GeoTIFF on the common grid; ``extra`` overrides its profile."""
    profile = {
        "driver": "GTiff", "count": len(values), "dtype": values.dtype, "height": values.shape[1],
        "width": values.shape[2], "crs": UTM, "transform": AFFINE, "nodata": NODATA, **extra,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
    return str(path)


def write_array(path: Path, values: np.ndarray) -> str:
    """Write a Zarr or a NetCDF, by the suffix."""
    import odc.geo.xr

    geobox = GeoBox(values.shape[1:], AFFINE, UTM)
    array = odc.geo.xr.wrap_xr(values, geobox, nodata=NODATA, axis=1).rename("reflectance")
    dataset = xr.Dataset({"reflectance": array})
    if path.suffix == ".zarr":
        dataset.to_zarr(path, zarr_format=3, consolidated=False)
    else:
        dataset.to_netcdf(path, engine="h5netcdf")
    return str(path)


WRITERS: dict[str, Callable[[Path, np.ndarray], str]] = {
    "tif": write_tif,
    "zarr": write_array,
    "nc": write_array,
}
"""Writer of each container, by its suffix."""


@st.composite
def odd_images(draw: st.DrawFn) -> tuple[np.ndarray, float | None, tuple[int, ...], Box]:
    """Draw an image, its nodata, the bands to be read and a window, which may reach beyond the image."""
    dtype = draw(st.sampled_from(SMALL) | st.sampled_from(sorted(NUMBERS)))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    # Two or three different numbers, so that pixels with nodata in some, all and no bands are frequent.
    values = draw(hnp.arrays(dtype, shape, elements=st.sampled_from(NUMBERS[dtype]), fill=st.nothing()))
    if draw(st.booleans()):
        values[:] = np.where(np.nan_to_num(values) == 0, np.array(7, dtype), values)
    numbers = [None, *NUMBERS[dtype], 0.5]
    bands = draw(st.lists(st.integers(1, shape[0]), min_size=1, max_size=3))
    y, x = (sorted(draw(st.tuples(*(st.integers(-2, size + 2),) * 2))) for size in shape[1:])
    return values, draw(st.sampled_from(numbers)), tuple(bands), Box(y[0], x[0], y[1] + 1, x[1] + 1)


def expected_window(values: np.ndarray, valid: np.ndarray, box: Box) -> Pixels:
    """Return a window as a reader should: float32, 0 where a number is missing or outside."""
    values = values.astype(np.float32)
    valid = valid & np.isfinite(values).all(axis=0)
    margin = 10
    values = np.pad(np.where(valid, values, 0), ((0, 0), (margin, margin), (margin, margin)))
    rows, cols = (slice(part.start + margin, part.stop + margin) for part in box.slices)
    return Pixels(values[:, rows, cols], np.pad(valid, margin)[rows, cols])


def assert_same_pixels(pixels: Pixels, expected: Pixels, dtype: str) -> None:
    """Compare validity, numbers and their type; ``dtype`` is the type of the source."""
    assert pixels.values.dtype == (dtype if dtype in SMALL else "float32")
    np.testing.assert_array_equal(pixels.valid, expected.valid)
    np.testing.assert_array_equal(pixels.values, expected.values)
