"""Arrays that xarray reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import dask.array
import numcodecs
import numpy as np
import odc.geo.xr
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, UTM, assert_same_pixels, expected_window, odd_images
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import describe_scene
from ussfc.pipeline.reading.array import (
    ArrayReader,
    array_geobox,
    array_labels,
    array_nodata,
    describe_array,
    open_array,
    with_bands,
)
from ussfc.pipeline.reading.stacking import image_of, stack
from ussfc.pipeline.types import Box, FloatArray

GRID = GeoBox((4, 5), AFFINE, UTM)


def array(bands: int = 2, **attributes: object) -> xr.DataArray:
    values = np.arange(bands * 20, dtype=np.uint16).reshape(bands, 4, 5)
    return odc.geo.xr.wrap_xr(values, GRID, axis=1).assign_attrs(attributes)


@settings(max_examples=200)
@given(image=odd_images(), swapped=st.booleans())
def test_an_array_reads_as_its_numbers(
    image: tuple[np.ndarray, float | None, tuple[int, ...], Box], swapped: bool
) -> None:
    values, nodata, bands, box = image
    chosen = values[[band - 1 for band in bands]]
    marked = (chosen == nodata).all(axis=0) if nodata is not None else np.zeros(values.shape[1:], bool)
    with np.errstate(over="ignore"):
        expected = expected_window(chosen, ~marked, box)
        grid = GeoBox(values.shape[1:], AFFINE, UTM)
        stored = values.astype(values.dtype.newbyteorder(">")) if swapped else values
        source = odc.geo.xr.wrap_xr(stored, grid, nodata=nodata, axis=1)
        pixels = ArrayReader(source, grid, bands, "bilinear").read(box)
    assert_same_pixels(pixels, expected, str(values.dtype))
    assert pixels.values.dtype.isnative


def test_a_flat_array_has_one_band() -> None:
    assert with_bands(array(1)[0], "scene").shape == (1, 4, 5)


def test_bands_come_first_whatever_their_place() -> None:
    moved = with_bands(array(2).transpose("y", "x", ...), "scene")
    assert moved.shape == (2, 4, 5)
    np.testing.assert_array_equal(moved, array(2))


def test_four_dimensions_are_refused() -> None:
    with pytest.raises(ReadError, match=r"^scene: has dimensions .*'epoch': 2.*expected \(band, y, x\) or"):
        with_bands(array().expand_dims(epoch=2), "scene")


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [({"time": 1}, (2, 4, 5)), ({"time": 1, "member": 1}, (2, 4, 5))],
)
def test_dimensions_of_length_one_do_not_count(sizes: dict[str, int], shape: tuple[int, ...]) -> None:
    plain = array().rename(time="band")
    assert with_bands(plain.expand_dims(sizes), "scene").shape == shape
    flat = plain.isel(band=0, drop=True)
    assert with_bands(flat.expand_dims(sizes), "scene").shape == (1, 4, 5)
    named = flat.expand_dims(variable=["B04"]).expand_dims(sizes)
    assert array_labels(with_bands(named, "scene")) == ("B04",)


def test_a_coordinate_along_the_bands_names_them() -> None:
    plain = array(2, long_name=("B08", "B02"))
    band = plain.dims[0]
    assert array_labels(plain.assign_coords({"common_name": (band, ["red", "nir"])})) == ("red", "nir")
    assert array_labels(plain.assign_coords({"other": (band, [0.6, 0.8])})) == ("B08", "B02")
    assert array_labels(plain.assign_coords({band: ["B04", "B03"]})) == ("B04", "B03")


def test_variables_of_one_date_are_bands() -> None:
    red = array(1)[0].drop_vars("time", errors="ignore").astype("uint8")
    dataset = xr.Dataset({"B04": red, "B03": red.astype("uint16")}).expand_dims(time=1)
    found = with_bands(image_of(dataset, "scene", by_name=False), "scene")
    assert array_labels(found) == ("B04", "B03")
    assert found.odc.geobox == GRID


def test_rows_that_run_north_are_refused() -> None:
    with pytest.raises(ReadError, match="is not north-up; sort y downwards"):
        describe_array(array().isel(y=slice(None, None, -1)), "scene", "")


def test_long_names_describe_the_bands() -> None:
    info = describe_array(array(2, long_name=("B04", "B08")), "scene", "identity")
    assert [band.description for band in info.bands] == ["B04", "B08"]
    assert info.geobox == GRID
    assert (info.dtype, info.identity, info.bytes_per_pixel) == ("uint16", "identity", 4)


def test_nodata_is_an_attribute_or_an_encoding() -> None:
    encoded = array()
    encoded.encoding["_FillValue"] = np.uint16(7)
    assert array_nodata(encoded) == (7, 7)
    assert array_nodata(array(nodata=9)) == (9, 9)
    assert array_nodata(array()) == (None, None)


def test_variables_of_one_grid_are_bands(tmp_path: Path) -> None:
    red, green = (array(1)[0].drop_vars("time", errors="ignore") for _ in range(2))
    path = tmp_path / "bands.nc"
    xr.Dataset({"red": red, "green": green}).to_netcdf(path, engine="h5netcdf")
    assert open_array(str(path), "bands.nc", zarr=False).shape == (2, 4, 5)
    assert [band.description for band in describe_scene(str(path)).bands] == ["red", "green"]


def test_a_file_without_an_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.nc"
    xr.Dataset({"line": ("x", np.arange(3))}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ReadError, match=r"no image found among the variables \(line\); expected"):
        open_array(str(path), "line.nc", zarr=False)


def test_variables_of_dask_stay_lazy() -> None:
    bands = {name: (("y", "x"), dask.array.zeros((40, 50), chunks=10)) for name in ("B04", "B03")}
    dataset = xr.Dataset(bands, {"y": 4e6 - 10 * np.arange(40), "x": 5e5 + 10 * np.arange(50)}, {"crs": UTM})
    found = with_bands(image_of(dataset, "the array", by_name=False), "the array")
    block = ArrayReader(found, array_geobox(found), (1, 2), "bilinear").block(Box(0, 0, 9, 9))
    assert isinstance(block.data, dask.array.Array)


@pytest.mark.parametrize("dims", [("y", "x"), ("x", "y")])
def test_variables_in_any_order_have_rows_first(tmp_path: Path, dims: tuple[str, str]) -> None:
    values = np.random.default_rng(5).random((3, 40, 50)).astype(np.float32)
    place = {"y": 4e6 - 10 * np.arange(40), "x": 5e5 + 10 * np.arange(50)}
    stored = {f"B0{n}": (dims, band if dims[0] == "y" else band.T) for n, band in enumerate(values, 2)}
    path = tmp_path / "turned.nc"
    xr.Dataset(stored, place, {"crs": "EPSG:32633"}).to_netcdf(path, engine="h5netcdf")
    array = open_array(str(path), "turned.nc", zarr=False)
    assert array.shape == values.shape
    found = ArrayReader(array, array_geobox(array), (3, 1), "bilinear").read(Box(3, 5, 14, 30))
    np.testing.assert_array_equal(found.values, values[[2, 0], 3:14, 5:30])


def test_variables_with_other_names_of_rows_are_not_read_to_be_stacked(tmp_path: Path) -> None:
    path, values = bands_of_a_store(tmp_path, 3, 40)
    dataset = xr.open_zarr(path, chunks=None)
    renamed = dataset[["B03"]].rename(y="lat", x="lon").drop_vars(("lat", "lon"))["B03"]
    (path / "B03/c/1/1").write_bytes(b"torn")
    stacked = stack([dataset["B02"], renamed])
    np.testing.assert_array_equal(stacked[1, :9, :9].values, values[1, :9, :9])


def test_several_dates_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "dates.nc"
    bands = {name: (("time", "y", "x"), np.zeros((2, 4, 5), np.uint16)) for name in ("red", "green")}
    xr.Dataset(bands).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ReadError, match=r"\{'time': 2, 'y': 4, 'x': 5\} may be several dates, of which one"):
        open_array(str(path), "dates.nc", zarr=False)


def bands_of_a_store(
    folder: Path, format_: Literal[2, 3], side: int, **encoding: object
) -> tuple[Path, FloatArray]:
    """Write a Zarr of a variable a band, in four by four chunks."""
    values = np.random.default_rng(5).random((3, side, side)).astype(np.float32)
    coordinates = {"y": 4e6 - 10 * np.arange(side), "x": 5e5 + 10 * np.arange(side)}
    bands = {f"B0{place}": (("y", "x"), band) for place, band in enumerate(values, 2)}
    dataset = xr.Dataset(bands, coordinates, {"crs": "EPSG:32633"}).chunk(y=side // 4, x=side // 4)
    path = folder / "bands.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(path, zarr_format=format_, encoding=dict.fromkeys(bands, encoding))
    return path, values


@pytest.mark.parametrize("format_", [2, 3])
def test_variables_are_read_by_the_window(tmp_path: Path, format_: Literal[2, 3]) -> None:
    path, values = bands_of_a_store(tmp_path, format_, 1200)
    array = open_array(str(path), "bands.zarr", zarr=True)
    assert array.shape == values.shape
    assert array_labels(array) == ("B02", "B03", "B04")
    grid = array_geobox(array)
    # Damaged where the window does not look: a reading of more would notice it.
    (path / ("B03/3.3" if format_ == 2 else "B03/c/3/3")).write_bytes(b"torn")
    for bands in ((3, 1), (2,), (1, 2, 3)):
        reader = ArrayReader(array, grid, bands, "bilinear", "bands.zarr")
        found = reader.read(Box(3, 5, 14, 30))
        np.testing.assert_array_equal(found.values, values[[band - 1 for band in bands], 3:14, 5:30])
    with pytest.raises(ReadError, match=r"rows 1100..1200, columns 1150..1200 .* are damaged or cut short"):
        ArrayReader(array, grid, (1, 2), "bilinear", "bands.zarr").read(Box(1100, 1150, 1200, 1200))


@pytest.mark.parametrize("cut", [0.5, 0.0])
@pytest.mark.parametrize(
    "codec",
    [numcodecs.GZip(), numcodecs.Zlib(), numcodecs.LZ4(), numcodecs.Zstd(), numcodecs.LZMA(), None],
    ids=str,
)
def test_a_torn_chunk_of_any_codec_is_a_damaged_file(tmp_path: Path, codec: Any, cut: float) -> None:
    path, _ = bands_of_a_store(tmp_path, 2, 40, compressors=[codec] if codec else None)
    chunk = path / "B03/1.1"
    chunk.write_bytes(chunk.read_bytes()[: int(cut * chunk.stat().st_size)])
    opened = open_array(str(path), "bands.zarr", zarr=True)
    reader = ArrayReader(opened, array_geobox(opened), (1, 2, 3), "bilinear", "bands.zarr")
    with pytest.raises(ReadError, match="are damaged or cut short"):
        reader.read(Box(0, 0, 40, 40))
