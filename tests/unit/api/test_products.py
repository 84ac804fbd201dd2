"""Classes and polygons of arrays: the products of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array
import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from geopandas.testing import assert_geodataframe_equal

from tests.support.stubs import StubRecipe
from ussfc import ConfigError, ReadError, polygons
from ussfc.pipeline.api.detect import detect_changes
from ussfc.pipeline.api.products import classify
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.runs.products import vectorise

Pair = tuple[xr.DataArray, xr.DataArray]
SETTINGS = {"tiling.tile_size": 64, "tiling.patch_size": 32, "threshold": 0.1}


def without_scenes(layer: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return a layer without what comes from its scenes, of which an array of probabilities knows nothing."""
    return layer.drop(columns=list(layer.filter(regex="^(before_|after_|date_|ndvi_|brightness_|kind$)")))


@pytest.fixture
def probability(arrays: Pair) -> xr.DataArray:
    return detect_changes(*arrays, config=SETTINGS, detector=StubRecipe(32, 4, 1, 3))


@pytest.fixture(params=["dask", "raster", "masked raster", "scaled raster", "store"])
def any_probability(request: pytest.FixtureRequest, probability: xr.DataArray, finished: Path) -> Any:
    """Return the same probabilities, from memory and from the files of a run."""
    file = finished / "probability.tif"
    if request.param == "raster":
        return rioxarray.open_rasterio(file)
    if request.param == "masked raster":
        return rioxarray.open_rasterio(file, mask_and_scale=True, chunks={"x": 64, "y": 64})
    if request.param == "scaled raster":
        return rioxarray.open_rasterio(file, mask_and_scale=True).squeeze("band", drop=True).astype("float64")
    if request.param == "store":
        # The one of all that is not smoothed yet.
        store = xr.open_zarr(finished / "work" / "probability.zarr", consolidated=False)
        return store.map(lambda array: array.copy(data=median3(with_rim(array.values))))
    return probability


def test_products_are_those_of_the_command_line(any_probability: Any, finished: Path) -> None:
    classes = classify(any_probability, 0.1)
    with rasterio.open(finished / "change.tif") as source:
        np.testing.assert_array_equal(classes.values.squeeze(), source.read(1))
        assert classes.rio.crs == source.crs
    assert classes.dtype == np.uint8
    assert classes.rio.nodata == 255
    expected = without_scenes(geopandas.read_parquet(finished / "changes.parquet"))
    found = polygons(any_probability, 0.1)
    assert list(found.to_wkb()["geometry"]) == list(expected.to_wkb()["geometry"])
    assert_geodataframe_equal(found, expected)
    of_classes = polygons(classes)
    assert list(of_classes.to_wkb()["geometry"]) == list(expected.to_wkb()["geometry"])
    assert of_classes["mean_probability"].isna().all()
    assert (of_classes["area_m2"] == expected["area_m2"]).all()


@pytest.mark.parametrize("level", range(0, 255, 11))
def test_levels_are_compared_as_levels(level: int) -> None:
    """float32 of a level and the threshold may lie on either side of each other."""
    values = (np.arange(255, dtype=np.float32) / np.float32(254))[None]
    array = xr.DataArray(values, dims=("y", "x"), attrs={"probability_dtype": "uint8"})
    raster = xr.DataArray(np.arange(255, dtype=np.uint8)[None], dims=("y", "x"))
    assert (classify(array, level / 254) == classify(raster, level / 254)).all()


def test_classes_are_lazy_and_take_the_noted_threshold(probability: xr.DataArray) -> None:
    classes = classify(probability)
    assert isinstance(classes.data, dask.array.Array)
    assert classes.attrs["threshold"] == 0.1
    assert classes.attrs["flag_meanings"] == "no_change change"
    assert classes.chunks == probability.chunks
    assert (classes["x"] == probability["x"]).all()
    assert len(polygons(probability)) == len(polygons(classes)) > 0
    assert len(polygons(classes == 1)) == len(polygons(classes))


def test_filters_are_those_of_the_command_line(
    probability: xr.DataArray, finished: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "out")
    options = {"min_area_m2": 500.0, "simplify_m": 15.0, "connectivity": 8}
    flags = {"threshold": 0.1, **{f"vector.{name}": value for name, value in options.items()}}
    vectorise(tmp_path / "out", load_config(flags=flags))
    expected = without_scenes(geopandas.read_parquet(tmp_path / "out" / "changes.parquet"))
    found = polygons(probability, **options)
    assert list(found.to_wkb()["geometry"]) == list(expected.to_wkb()["geometry"])
    assert_geodataframe_equal(found, expected)


def test_no_change_has_the_same_columns(probability: xr.DataArray) -> None:
    some, none = polygons(probability), polygons(probability, 1.0)
    assert len(none) == 0
    assert list(none.columns) == list(some.columns)
    assert none.crs == some.crs


def test_rows_that_run_north_have_the_same_polygons(probability: xr.DataArray) -> None:
    turned = probability.compute().isel(y=slice(None, None, -1))
    assert set(polygons(turned)["id"]) == set(polygons(probability)["id"])


@pytest.mark.parametrize(
    ("values", "threshold", "error", "text"),
    [
        (np.zeros((2, 2), np.float32), None, ConfigError, "threshold: not given"),
        (np.zeros((2, 2), np.float32), 1.5, ConfigError, "threshold = 1.5: expected a number in"),
        (np.zeros((2, 2), np.uint8), 0.5, ConfigError, "holds classes already"),
        (np.full((2, 2), 17, np.uint8), None, ReadError, "the array holds 17, classes are 0, 1 and 255"),
        (np.zeros((2, 2), np.int16), None, ReadError, "the array holds int16"),
        (np.zeros((3, 2, 2), np.float32), 0.5, ReadError, r"expected \(y, x\)"),
    ],
)
def test_unusable_arrays_are_one_line(
    values: np.ndarray, threshold: float | None, error: type[Exception], text: str
) -> None:
    array = xr.DataArray(values, dims=("band", "y", "x")[-values.ndim :])
    with pytest.raises(error, match=text):
        polygons(array, threshold)


def test_metres_need_a_reference() -> None:
    array = xr.DataArray(np.eye(3, dtype=np.uint8), dims=("y", "x"))
    with pytest.raises(ConfigError, match="min_area_m2 and simplify_m need the size of a pixel"):
        polygons(array, min_area_m2=5)
    with pytest.raises(ConfigError, match="min_area_m2 -1"):
        polygons(array, min_area_m2=-1)
    assert polygons(array).crs is None
