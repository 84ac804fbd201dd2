"""A warp that does not mind nodata gives what one gives that does, where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import odc.geo.xr
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from tests.support.images import AFFINE, UTM, write_tif
from ussfc.pipeline.reading.array import ArrayReader
from ussfc.pipeline.reading.handles import RasterHandles
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.reading.valid_warp import ValidWarp
from ussfc.pipeline.types import Box, Pixels

KERNELS = (
    Resampling.bilinear,
    Resampling.cubic,
    Resampling.cubic_spline,
    Resampling.lanczos,
    Resampling.average,
)


@contextmanager
def handles(path: str, grid: GeoBox, bands: tuple[int, ...], kernel: Resampling) -> Iterator[RasterHandles]:
    found = RasterHandles(rasterio.open(path), grid, bands, kernel)
    try:
        yield found
    finally:
        found.close()


def read_both(
    path: str, grid: GeoBox, bands: tuple[int, ...], kernel: Resampling, monkeypatch: pytest.MonkeyPatch
) -> tuple[Pixels, Pixels]:
    """Read the grid as it is, and by GDAL's warp alone."""
    whole = Box(0, 0, *grid.shape)
    with handles(path, grid, bands, kernel) as opened:
        found = opened.read(whole)
    with monkeypatch.context() as patch, handles(path, grid, bands, kernel) as opened:
        patch.setattr(ValidWarp, "read", lambda self, block: None)
        return found, opened.read(whole)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[npt.NDArray[Any], float | None, Affine]:
    """Numbers, nodata and place of a file; a part of the pixels may be missing."""
    shape = draw(st.tuples(st.just(3), st.integers(1, 700), st.integers(1, 700)))
    dtype = draw(st.sampled_from(["uint8", "int8", "uint16", "int16", "float32"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(1, 200, shape).astype(dtype)
    marks = [0.0, None, *([-9999.0] if dtype == "int16" else [np.nan] if "float" in dtype else [])]
    nodata = draw(st.sampled_from(marks))
    y, x = draw(st.integers(0, shape[1] - 1)), draw(st.integers(0, shape[2] - 1))
    hole = draw(st.sampled_from(["none", "one band", "all bands"]))
    if hole != "none" and nodata is not None:
        values[: 1 if hole == "one band" else 3, y : y + 20, x : x + 9] = nodata
    if values.dtype.kind == "f" and draw(st.booleans()):
        values[1, y : y + 2, x : x + 2] = draw(st.sampled_from([np.nan, np.inf]))
    scale = draw(st.sampled_from([0.1, 0.5, 1.0, 1.25, 2.0, 5.0]))
    shift = draw(st.tuples(st.floats(-30, 30), st.floats(-30, 30)))
    return values, nodata, AFFINE * Affine.translation(*shift) * Affine.scale(scale)


@settings(max_examples=40, deadline=None)
@given(
    scene=scenes(),
    kernel=st.sampled_from(KERNELS),
    bands=st.sampled_from([(1, 2, 3), (2, 1), (3,)]),
    crs=st.sampled_from([UTM, "EPSG:32632", "EPSG:4326"]),
)
def test_the_numbers_are_those_of_gdal_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    scene: tuple[npt.NDArray[Any], float | None, Affine],
    kernel: Resampling,
    bands: tuple[int, ...],
    crs: str,
) -> None:
    values, nodata, affine = scene
    path = write_tif(tmp_path_factory.mktemp("warp") / "a.tif", values, transform=affine, nodata=nodata)
    grid = GeoBox((600, 600), AFFINE, UTM)
    if crs != UTM:
        grid = grid.to_crs(crs)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, expected = read_both(path, grid, bands, kernel, monkeypatch)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


def test_nan_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).integers(50, 200, (2, 300, 300)).astype(np.float32)
    values[:, 100:110, 100:110] = np.nan
    path = write_tif(tmp_path / "a.tif", values, nodata=np.nan)
    grid = GeoBox((256, 256), AFFINE * Affine.translation(0.3, 0.3), UTM)
    found, expected = read_both(path, grid, (1, 2), Resampling.cubic, monkeypatch)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("hole", [0, 1])
def test_marks_that_differ_between_bands_count_in_each(
    tmp_path: Path, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).integers(50, 200, (2, 300, 300)).astype(np.uint16)
    values[hole, 100:110, 100:110] = hole + 1
    path = marked_apart(write_tif(tmp_path / "a.tif", values), 300)
    grid = GeoBox((256, 256), AFFINE * Affine.translation(0.3, 0.3), UTM)
    found, expected = read_both(path, grid, (1, 2), Resampling.cubic, monkeypatch)
    assert not expected.valid.all()
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


def marked_apart(path: str, side: int) -> str:
    """Return a VRT of two bands of a file in which 1 marks nodata in the first, and 2 in the second."""
    marked = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><NoDataValue>{band}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2)
    )
    transform = ", ".join(map(repr, AFFINE.to_gdal()))
    virtual = Path(path).with_suffix(".vrt")
    virtual.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{UTM}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{marked}"
        '<OverviewList resampling="average">2 4</OverviewList></VRTDataset>'
    )
    return str(virtual)


def asked(reader: RasterHandles, box: Box, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Read a box, and say of each block of the warp if all its pixels were valid."""
    found: list[bool] = []
    original = ValidWarp.read

    def read(self: ValidWarp, block: Box) -> Any:
        answer = original(self, block)
        found.append(answer is not None)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(ValidWarp, "read", read)
        reader.read(box)
    return found


def test_blocks_that_reach_a_hole_are_left_to_gdal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.full((3, 1100, 1100), 7, np.uint16)
    values[:, 600:620, 600:620] = 0
    values[0, 5, 5] = 0
    path = write_tif(tmp_path / "a.tif", values)
    grid = GeoBox((1024, 1024), AFFINE * Affine.translation(0.3, 0.3), UTM)
    with handles(path, grid, (1, 2), Resampling.cubic) as opened:
        assert asked(opened, Box(0, 0, 1024, 1024), monkeypatch) == [True, True, True, False]


def served(path: str, grid: GeoBox) -> bool:
    with handles(path, grid, (1,), Resampling.cubic) as opened:
        return opened._valid_warp is not None


def test_other_files_and_warps_are_left_to_gdal(tmp_path: Path) -> None:
    """Masks that are no numbers, marks that GDAL compares loosely, curved outlines, kernels that reach far."""
    values = np.full((2, 60, 60), 7, np.uint8)
    grid = GeoBox((50, 50), AFFINE * Affine.translation(0.3, 0.3), UTM)
    plain = write_tif(tmp_path / "plain.tif", values)
    assert served(plain, grid)
    assert not served(plain, grid.to_crs("EPSG:32632"))
    assert not served(plain, GeoBox((50, 50), AFFINE * Affine.scale(2.1, 1), UTM))
    assert not served(plain, GeoBox((50, 50), AFFINE * Affine.scale(1, 0.4), UTM))
    assert not served(write_tif(tmp_path / "none.tif", values, nodata=None), grid)
    assert not served(write_tif(tmp_path / "alpha.tif", values, nodata=None, alpha="yes"), grid)
    assert not served(write_tif(tmp_path / "float.tif", values.astype(np.float32)), grid)
    assert not served(write_tif(tmp_path / "int32.tif", values.astype(np.int32)), grid)
    assert not served(write_tif(tmp_path / "small.tif", values[:, :31]), grid)
    for angle in (10, 90):
        turned = Affine(0, 10, AFFINE.c, 10, 0, AFFINE.f) if angle == 90 else AFFINE * Affine.rotation(angle)
        assert not served(write_tif(tmp_path / f"turned{angle}.tif", values, transform=turned), grid)


def test_a_file_that_is_replaced_after_it_was_opened_does_not_mix(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.full((1, 100, 100), 7, np.uint8))
    other = write_tif(tmp_path / "b.tif", np.full((1, 100, 100), 9, np.uint8))
    grid = GeoBox((90, 90), AFFINE * Affine.translation(0.3, 0.3), UTM)
    with handles(path, grid, (1,), Resampling.cubic) as opened:
        Path(other).replace(path)
        assert np.unique(opened.read(Box(0, 0, 90, 90)).values).tolist() == [7]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 200), st.integers(1, 200)),
    scale=st.sampled_from([0.05, 0.3, 0.5, 1.0, 2.0, 5.0]),
    hole=st.booleans(),
    kernel=st.sampled_from([kernel.name for kernel in KERNELS]),
)
def test_arrays_have_the_numbers_of_gdal_too(
    shape: tuple[int, int, int], scale: float, hole: bool, kernel: str
) -> None:
    values = np.random.default_rng(1).integers(1, 4000, shape).astype(np.uint16)
    if hole:
        values[:, shape[1] // 2, shape[2] // 2] = 0
    place = GeoBox(shape[1:], AFFINE * Affine.translation(3.3, 2.6) * Affine.scale(scale), UTM)
    array = odc.geo.xr.wrap_xr(values, place, nodata=0, axis=1)
    grid = GeoBox((150, 150), AFFINE, UTM)
    whole = Box(0, 0, 150, 150)
    found = ArrayReader(array, grid, (1,), kernel).read(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ussfc.pipeline.reading.array.keeps_scale", lambda source, grid: False)
        expected = ArrayReader(array, grid, (1,), kernel).read(whole)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("apart", [False, True])
def test_overviews_are_warped_where_they_lie(tmp_path: Path, apart: bool) -> None:
    """A virtual copy of a file is one of the overview that is read, not of as many pixels of the file itself."""
    rows, cols = np.mgrid[:1024, :1024]
    values = np.stack([rows, cols]).astype(np.uint16) // 8 + 100
    path = write_tif(tmp_path / "a.tif", values, tiled=True)
    if apart:
        path = marked_apart(path, 1024)
    else:
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], Resampling.average)
    grid = GeoBox((1024, 1024), AFFINE * Affine.translation(0.3, 0.3), UTM)
    found = RasterReader(path, path, grid, (1, 2), "cubic").overview(grid.zoom_out(4), 4)
    assert found is not None
    steps = np.arange(8, 248)
    np.testing.assert_allclose(found.values[0, steps, 128], (steps * 4 + 2) / 8 + 100, atol=1.5)
    np.testing.assert_allclose(found.values[1, 128, steps], (steps * 4 + 2) / 8 + 100, atol=1.5)
