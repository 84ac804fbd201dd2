"""Change of arrays: the numbers of the command line, on the caller's own dimensions and coordinates."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr

import ussfc
from tests.support.stubs import StubRecipe
from ussfc import ConfigError, PipelineWarning, ReadError, load_config
from ussfc.pipeline.api.detect import detect_changes

Pair = tuple[xr.DataArray, xr.DataArray]
DETECTOR = StubRecipe(32, 4, 1, 3)
SETTINGS: dict[str, Any] = {"tiling.tile_size": 64, "tiling": {"patch_size": 32}}


def changes(before: Any, after: Any, **settings: Any) -> xr.DataArray:
    keys = {name.replace("__", "."): value for name, value in settings.items()}
    return detect_changes(before, after, config=SETTINGS | keys, detector=DETECTOR)


@pytest.fixture(scope="module")
def expected(finished: Path) -> np.ndarray:
    """Return the probabilities that the command line stored."""
    with rasterio.open(finished / "probability.tif") as source:
        levels = source.read(1)
    return np.where(levels == 255, np.nan, levels / np.float32(254)).astype(np.float32)


def unnamed(array: xr.DataArray) -> xr.DataArray:
    return array.assign_attrs(long_name=())


def test_dimensions_coordinates_and_attributes_are_the_callers(arrays: Pair, expected: np.ndarray) -> None:
    before, after = arrays
    before = before.assign_attrs(platform="Sentinel-2A")
    found = changes(before, after)
    assert found.dims == ("y", "x")
    np.testing.assert_array_equal(found.values, expected)
    part = before.isel(x=slice(4, None))
    assert found["x"].identical(
        part["x"].drop_vars("spatial_ref").assign_coords(spatial_ref=found["spatial_ref"])
    )
    np.testing.assert_array_equal(found["y"], before["y"])
    assert found.rio.crs == before.rio.crs
    assert found.rio.transform() == part.rio.transform()
    assert found.attrs["platform"] == "Sentinel-2A"
    assert {"scale_factor", "add_offset"}.isdisjoint(found.attrs)
    assert (found.attrs["threshold"], found.attrs["model"]) == (0.15, "ussfc-s2-rgb")
    # What anybody writes first: it was an array of five dimensions.
    assert before.where(found >= 0.1).shape == (3, *found.shape)


def test_a_whole_grid_keeps_every_coordinate(arrays: Pair) -> None:
    before, _ = arrays
    found = changes(before, before + 1)
    for name in ("y", "x", "spatial_ref"):
        assert found[name].identical(before[name])
    # Of both dates or of one: as in any arithmetic of xarray.
    later = (before + 1).assign_coords(time=2, sensor="A")
    found = changes(before.assign_coords(time=1, sensor="A"), later)
    assert set(found.coords) == {"y", "x", "spatial_ref", "sensor"}


@pytest.mark.parametrize("names", [{"y": "latitude", "x": "longitude"}, {"y": "lat", "x": "lon"}])
def test_other_names_of_dimensions_are_kept(
    arrays: Pair, expected: np.ndarray, names: dict[str, str]
) -> None:
    before, after = (array.rename(names) for array in arrays)
    found = changes(before.transpose(*names.values(), "band"), after)
    assert found.dims == tuple(names.values())
    np.testing.assert_array_equal(found.values, expected)
    assert before.where(found >= 0.1).shape == (3, *found.shape)


def test_rows_that_run_north_stay_so(arrays: Pair, expected: np.ndarray) -> None:
    before, after = (array.isel(y=slice(None, None, -1)) for array in arrays)
    found = changes(before, after)
    np.testing.assert_array_equal(found["y"], before["y"])
    np.testing.assert_array_equal(found.values[::-1], expected)
    part = before.isel(x=slice(4, None))
    assert found.rio.transform(recalc=True).almost_equals(part.rio.transform(recalc=True))
    assert found.odc.geobox.affine.almost_equals(part.odc.geobox.affine)
    assert found.rio.crs == before.rio.crs


def test_another_grid_has_coordinates_of_its_own(arrays: Pair) -> None:
    found = changes(*arrays, grid__crs="EPSG:32636", grid__resolution=10)
    assert found.dims == ("y", "x")
    assert found.rio.crs == "EPSG:32636"
    assert abs(found.rio.resolution()[0]) == 10
    after = changes(*arrays, grid__reference="after")
    np.testing.assert_array_equal(after["x"], arrays[1]["x"].values[: after.shape[1]])


def test_without_a_crs_coordinates_are_kept(arrays: Pair) -> None:
    before, after = (array.drop_vars("spatial_ref") for array in arrays)
    for array in (before, after):
        array.encoding.clear()
    with pytest.warns(PipelineWarning, match="neither array has a CRS: .*, though their coordinates differ"):
        found = changes(before, after)
    assert found["x"].identical(before["x"])
    assert found["y"].identical(before["y"])
    assert found.shape == before.shape[1:]


def test_dates_and_data_sets(arrays: Pair, expected: np.ndarray) -> None:
    before, after = arrays
    dated = before.expand_dims(time=1)
    np.testing.assert_array_equal(changes(dated, after).values, expected)
    # As odc.stac.load gives them: variables of one date, in any order, among others.
    named = after.assign_coords(band=["B04", "B03", "B02"])
    variables = named.to_dataset("band").expand_dims(time=1)
    shuffled = variables[["B02", "B04", "B03"]].assign(SCL=variables["B04"].astype("uint8"))
    shuffled.attrs["title"] = "a scene"
    found = changes(before, shuffled)
    np.testing.assert_array_equal(found.values, expected)
    assert changes(shuffled, before).attrs["title"] == "a scene"
    # Opened without decode_coords="all", the CRS is a variable.
    np.testing.assert_array_equal(changes(before, shuffled.reset_coords("spatial_ref")).values, expected)


@pytest.mark.parametrize("labels", [["B02", "B03", "B04"], ["blue", "green", "red"]])
@pytest.mark.parametrize("coordinate", ["band", "common_name"])
def test_bands_are_found_by_their_coordinate(
    arrays: Pair, expected: np.ndarray, labels: list[str], coordinate: str
) -> None:
    swapped = [unnamed(array[::-1]).assign_coords({coordinate: ("band", labels)}) for array in arrays]
    np.testing.assert_array_equal(changes(*swapped).values, expected)


def notices(before: xr.DataArray, after: xr.DataArray, **settings: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        changes(before, after, **settings)
    assert {found.filename for found in caught if found.category is PipelineWarning} <= {__file__}
    return [str(found.message) for found in caught if found.category is PipelineWarning]


def test_every_notice_is_a_warning(arrays: Pair) -> None:
    before, after = arrays
    assert notices(before, after) == []
    for found, start in (
        (notices(unnamed(before), after), "before: bands [1, 2, 3] assigned by position"),
        (
            notices(before, after + 1000),
            "the later date's numbers lie about 790 above the earlier one's; they are",
        ),
        (
            notices(before, after + 1000, radiometry="model"),
            "after: all bands are brighter than on the other",
        ),
        (notices(before / np.float32(10_000), after, force=True), "before: holds numbers up to "),
        (notices(before, after, grid__resolution=0.0003), "the grid has pixels of "),
        (notices((before // 16).astype("uint8"), after, force=True), "before: holds uint8, "),
        (notices(before * 0, after), "before: 100% of its pixels are exactly zero"),
    ):
        assert any(notice.startswith(start) for notice in found), (found, start)


def test_numbers_that_no_model_takes_end_it(arrays: Pair) -> None:
    """As they end a run, unless it is forced; a stated scale mends them."""
    before, after = arrays
    with pytest.raises(ReadError, match=r"^before: holds numbers up to .*; or set force"):
        changes(before / np.float32(10_000), after)
    assert notices(before / np.float32(10_000), after, before__scale=10_000) == []
    with pytest.raises(ReadError, match=r"^the later date's numbers lie about .* \(strict: a warning ends"):
        changes(before, after + 1000, strict=True)
    assert notices(before, after + 1000, after__offset=-1000) == []


def test_area_of_interest_cuts_and_masks(arrays: Pair, tmp_path: Path) -> None:
    x, y = arrays[0]["x"].values, arrays[0]["y"].values
    triangle = shapely.Polygon([(x[20], y[100]), (x[100], y[100]), (x[100], y[20])])
    geopandas.GeoDataFrame(geometry=[triangle], crs=arrays[0].rio.crs).to_file(tmp_path / "aoi.geojson")
    found = changes(*arrays, grid__aoi=str(tmp_path / "aoi.geojson"))
    assert found.shape[0] < 90
    assert 0.4 < float(found.notnull().mean()) < 0.6


@pytest.mark.parametrize(
    "config",
    [
        {"tiling.tile_size": 64, "tiling.patch_size": 32},
        {"tiling": {"tile_size": 64, "patch_size": 32}},
        load_config(sets=["tiling.tile_size=64", "tiling.patch_size=32"]),
    ],
)
def test_configuration_may_be_a_dict(arrays: Pair, config: Any) -> None:
    assert detect_changes(*arrays, config=config, detector=DETECTOR).chunks == ((64, 64, 22), (64, 64, 18))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"tiling.tilesize": 64}, "config: unknown key tiling.tilesize; did you mean tiling.tile_size"),
        ({"tiling": {"overlap": 2}}, "tiling.overlap = 2 from config: "),
        ("settings.yaml", "config: is a str; expected a dict"),
    ],
)
def test_unusable_configuration_is_one_line(arrays: Pair, config: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ussfc.detect_changes(*arrays, config=config, detector=DETECTOR)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [str, Path])
def test_paths_are_refused_with_the_way_out(arrays: Pair, wrap: Any) -> None:
    with pytest.raises(
        ReadError, match=r"^after: is the path b\.tif, .* rioxarray\.open_rasterio\(path.*ussfc\.run"
    ):
        changes(arrays[0], wrap("b.tif"))
    with pytest.raises(ReadError, match=r"^before: is a numpy\.ndarray, expected an xarray\.DataArray"):
        changes(arrays[0].values, arrays[1])
    with pytest.raises(ReadError, match=r"^before: has dimensions .*'time': 2.*isel\(time=0\)"):
        changes(arrays[0].expand_dims(time=2), arrays[1])


def test_masks_are_for_files(arrays: Pair) -> None:
    with pytest.raises(ConfigError, match=r"masks\.after: is for files; make masked pixels of the array NaN"):
        changes(*arrays, masks__after="clouds.geojson")
